"""The history of writes to recorded arrays, so that backward notices changes; the locks of a pass."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextvars import copy_context
from itertools import count
from typing import Any, NamedTuple, TypeVar

from ..arrays import backend
from ..arrays.namespaces import Array
from .modes import MODES

Result = TypeVar("Result")
F = TypeVar("F", bound=Callable[..., Any])

ORDER = count(1)
"""Sequence numbers of nodes and of writes: a larger one is later."""


def in_pass(
    run: Callable[..., Result], *args: Any, grad: bool | None = None, **options: Any
) -> Result:
    """Run a backward pass, during which no caller may write to arrays; a pass inside another is part of it.

    It runs in a copy of the context, which Python itself leaves, so that its modes are dropped even at an
    interrupt. ``grad`` says whether the pass is recorded; by default the modes decide.
    """
    outer = MODES.get()
    if outer.running and grad is None and not outer.anomaly:
        return run(*args, **options)
    inner = outer.twin()
    inner.running = outer.running or next(ORDER)
    inner.grad = outer.grad if grad is None else grad
    context = copy_context()
    context.run(MODES.set, inner)
    return context.run(run, *args, **options)


def in_a_pass(run: F) -> F:
    """Decorate a function that runs a backward pass, see :func:`in_pass`."""
    return functools.wraps(run)(functools.partial(in_pass, run))  # type: ignore[return-value]


LOCK = threading.RLock()
"""Held while a thread adds to ``.grad`` or makes the node of a constant."""


def locked(run: F) -> F:
    """Decorate a function so that only one thread at a time runs any of the decorated functions.

    After an interrupt the lock is free too.
    """

    @functools.wraps(run)
    def alone(*args: Any) -> Any:
        if LOCK._is_owned():  # type: ignore[attr-defined]
            return run(*args)  # inside another decorated function, which frees the lock
        try:
            with LOCK:
                return run(*args)
        except BaseException:  # also an interrupt between the block and the release
            if LOCK._is_owned():  # type: ignore[attr-defined]
                LOCK.release()
            raise

    return alone  # type: ignore[return-value]


class _Snapshot(NamedTuple):
    """A copy of an array, and the sequence number of when it was made."""

    order: int
    copy: Array


class Memory:
    """The last write to one array; shared by all leaves around the array and its views."""

    __slots__ = ("_array", "_compared", "_snapshot", "_stamp", "used")

    def __init__(self, array: Array) -> None:
        self._array = array
        self._stamp = next(ORDER)  # the last time it is known to have changed
        self._snapshot: _Snapshot | None = None  # from when a caller last took the array
        self._compared = 0  # the pass in which it was last compared
        self.used = 0  # the last operation that recorded it

    def changed(self) -> None:
        """Note that the framework has written to the array."""
        self._stamp = next(ORDER)
        self._snapshot = None

    def exposed(self) -> None:
        """Note that a caller takes the writeable array; backward then compares it with a copy."""
        if self._snapshot is not None and self.used < self._snapshot.order:
            return  # nothing was recorded since: the copy is still right
        self.settle()
        if self.used > self._stamp:
            self._snapshot = _Snapshot(next(ORDER), backend.copy(self._array))

    def settle(self) -> None:
        """Find out whether the array was written to since a caller took it, at most once in a pass.

        On a device the host waits for the answer.
        """
        snapshot = self._snapshot
        if snapshot is None:
            return
        running = MODES.get().running
        if running and self._compared == running:
            return
        self._compared = running
        if not _identical(snapshot.copy, self._array):
            self._stamp = snapshot.order
            self._snapshot = None

    def changed_after(self, order: int) -> bool:
        """Whether the array may have changed since the node with that sequence number was made."""
        if self._snapshot is not None:
            self.settle()
        return self._stamp > order


def _identical(a: Array, b: Array) -> bool:
    xp = backend.namespace(a, b)
    with xp.on(a):
        return bool(xp.all((a == b) | ((a != a) & (b != b))))
