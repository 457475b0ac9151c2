"""Marks: the names and time steps by which the inspector finds states.

Recurrent layers mark their states; :func:`mark` is for loops that users write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._numbers import check_whole
from ..arrays.namespaces import Array
from ..errors import DTypeError
from .modes import MODES, Scope
from .recording import Leaf, is_tensor, node_of, now, wrap

if TYPE_CHECKING:
    from ..tensors.tensor import Tensor


@dataclass(slots=True, eq=False)
class Mark:
    """The name of a state, with the module path and time step that it was given for.

    ``order`` is a sequence number. It sorts the parts of a state by when they were marked.
    """

    name: str
    scope: Scope
    order: int = field(default_factory=now)


def mark(x: Tensor, name: str, time: int | None = None) -> Tensor:
    """Name a state, so that the inspector finds it; returns ``x`` itself.

    Parameters
    ----------
    x : Tensor
        For example a hidden state ``(B, H)`` in your own loop.
    name : str
        Such as ``"h"`` or ``"c"``.
    time : int, optional
        The time step, counted from 0. ``-1`` is the initial state. By default it is the step that is
        being recorded; outside any step the name only serves to select the node.

    Raises
    ------
    DTypeError
        ``x`` is not a Tensor.
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
    if not is_tensor(x):
        raise DTypeError(
            f"mark: {type(x).__name__} {name!r} is not a Tensor; wrap it with tg.tensor(...)"
        )
    modes = MODES.get()
    if not modes.grad:
        return x
    place = modes.scope
    if time is not None:
        place = place.at(check_whole(f"mark {name!r}", "time", time, -1))
    node = node_of(x)
    key = (name, place.module, place.time)  # a leaf that every training step marks has one mark
    others = [m for m in node.marks if (m.name, m.scope.module, m.scope.time) != key]
    node.marks = (*others, Mark(name, place))
    return x


def marked(value: Array, name: str, time: int) -> Tensor:
    """Wrap an array that nothing else uses as a constant with a name and a time step."""
    modes = MODES.get()
    if not modes.grad:
        return wrap(value)
    leaf = Leaf(value)
    leaf.marks = (Mark(name, modes.scope.at(time)),)
    return wrap(value, leaf)
