"""Marks: the names and time steps by which the inspector finds states."""

from __future__ import annotations

import numpy as np

from ..arrays.backend import Array
from ..errors import ArgumentError, DTypeError
from ..tensors.tensor import Tensor
from .modes import MODES, Scope
from .recording import Leaf, node_of, now, wrap


class Mark:
    """A name a node was given with :func:`mark`, the place and time it was given for, and when.

    ``order`` is a sequence number, which puts the parts of a state in the order they were marked in.
    """

    __slots__ = ("name", "order", "scope")

    def __init__(self, name: str, scope: Scope, order: int | None = None) -> None:
        self.name = name
        self.scope = scope
        self.order = now() if order is None else order


def mark(x: Tensor, name: str, time: int | None = None) -> Tensor:
    """Name a state, so that the inspector finds it; returns ``x`` itself.

    Parameters
    ----------
    x : Tensor
        For example a hidden state ``(B, H)`` in a loop of one's own.
    name : str
        Such as ``"h"`` or ``"c"``.
    time : int, optional
        The time step, counted from 0; by default the one being recorded. ``-1`` is the initial state.
        Without any, the name only serves to select the node.

    Raises
    ------
    DTypeError
        ``x`` is not a Tensor, so nothing could be remembered about it.
    ArgumentError
        A time step that is not a whole number from −1.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([[0.5]], requires_grad=True)
    >>> h = tg.ones((1, 1))
    >>> for t in range(3):
    ...     h = tg.inspect.mark(tg.tanh(h @ w), "h", time=t)
    >>> tg.inspect.gradient_flow(h.sum())[""].h.grad_norm.shape
    (3,)
    """
    if not isinstance(x, Tensor):
        raise DTypeError(
            f"mark: {type(x).__name__} {name!r} is not a Tensor; wrap it with tg.tensor(...)"
        )
    modes = MODES.get()
    if not modes.grad:
        return x
    place = modes.scope
    if time is not None:
        if not isinstance(time, (int, np.integer)) or time < -1:  # type: ignore[redundant-expr]
            raise ArgumentError(f"mark: time {time!r} of {name!r} must be a whole number from -1")
        place = place.at(int(time))
    node = node_of(x)
    kept = node.marks
    if kept:  # a leaf marked in every training step keeps one mark
        same = (name, place.module, place.time)
        kept = tuple(m for m in kept if (m.name, m.scope.module, m.scope.time) != same)
    node.marks = (*kept, Mark(name, place))
    return x


def marked(value: Array, name: str, time: int) -> Tensor:
    """A new constant around an array that nothing else has, with a name and a time step."""
    modes = MODES.get()
    if not modes.grad:
        return wrap(value)
    leaf = Leaf(value)
    leaf.marks = (Mark(name, modes.scope.at(time)),)
    return wrap(value, leaf)
