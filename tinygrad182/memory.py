"""When arrays were written to: what backward needs to know of memory that was recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from itertools import count
from typing import Any, TypeVar

from . import backend
from .backend import Array

Result = TypeVar("Result")

ORDER = count(1)
"""Sequence numbers, of nodes and of writes: a larger one is later."""


PASS: ContextVar[int] = ContextVar("tinygrad182.pass", default=0)
"""The number of the backward pass that is running; 0 if there is none."""


def in_pass(run: Callable[..., Result], *args: Any) -> Result:
    """Run a backward pass, in which no caller writes to arrays; one inside another belongs to it.

    It runs in a copy of the context, which Python itself leaves: not even an interrupt keeps what the pass
    has set, the modes included.
    """
    context = copy_context()
    if not PASS.get():
        context.run(PASS.set, next(ORDER))
    return context.run(run, *args)


class Memory:
    """When one array was written to; shared by all leaves around it and its views."""

    __slots__ = ("_array", "_compared", "_snapshot", "_stamp", "used")

    def __init__(self, array: Array) -> None:
        self._array = array
        self._stamp = next(ORDER)  # the last time it is known to have changed
        self._snapshot: tuple[int, Array] | None = None  # what a caller first took, and when
        self._compared = 0  # the pass in which it was last compared
        self.used = 0  # the last operation that recorded it

    def changed(self) -> None:
        """Note that the framework has written to the array."""
        self._stamp = next(ORDER)
        self._snapshot = None

    def exposed(self) -> None:
        """Note that a caller takes the writeable array: what was recorded is compared in backward."""
        if self._snapshot is not None and self.used < self._snapshot[0]:
            return  # nothing was recorded since: the copy there is will do
        self.settle()
        if self.used > self._stamp:
            self._snapshot = (next(ORDER), backend.copy(self._array))

    def settle(self) -> None:
        """Find out whether the array was written to since a caller took it; once in a backward pass.

        On a device the host waits for the answer.
        """
        snapshot = self._snapshot
        if snapshot is None:
            return
        running = PASS.get()
        if running and self._compared == running:
            return
        self._compared = running
        when, copy = snapshot
        if not _identical(copy, self._array):
            self._stamp = when
            self._snapshot = None

    def changed_after(self, order: int) -> bool:
        """Whether the array may have changed since the node with that sequence number was made."""
        self.settle()
        return self._stamp > order


def _identical(a: Array, b: Array) -> bool:
    xp = backend.namespace(a, b)
    with xp.on(a):
        return bool(xp.all((a == b) | ((a != a) & (b != b))))
