"""``intervene``: what a recurrence would do, and its gradient be, if a gate had another value."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any

import numpy as np

from ..._suggestions.calls import explains_calls
from ...engine.host import is_host_data
from ...engine.modes import MODES, ModeContext, Modes
from ...errors import ArgumentError, DTypeError, IndexOutOfRangeError, UnknownPathError, brief
from ...recurrence.intervening import Intervention
from ...tensors.creation import tensor
from ...tensors.functions import broadcast_to
from ...tensors.tensor import Tensor

Change = Callable[[Tensor], Tensor]


class intervene(ModeContext):  # noqa: N801 - used like a keyword
    """Context in which a gate of a recurrent layer or cell is set; also a decorator.

    The forward pass inside runs with another value in the gate's place, and what it gives is differentiated
    as it was computed, so that every view shows the gradient there would be. Nothing else differs: the same
    view of a forward pass outside is what to compare with. The layer runs step by step, as with
    ``fused=False``; other layers do not.

    A gate is the value of the nonlinearity that its block of the sums goes through: of an LSTM's f that is
    σ(x_f + h_f), of a GRU's n it is tanh(x_n + r ∘ h_n), and of a vanilla RNN's only gate it is the next
    state. In a cell of one's own it is found in the step: where that uses 1 − σ(x_a + h_a), the gate is
    σ(x_a + h_a). A cell in which no value is the gate's alone is refused.

    Parameters
    ----------
    path : str
        The layer or cell, by its path from the outermost module that is called, as in
        :func:`gradient_flow`: ``"lstm.l0"``, ``"lstm.l0_reverse"``, ``"encoder.l1"``, ``"lstmcell"``. Every
        call of it inside is meant; ``"lstm.l0#2"`` is the second one alone.
    gate : str, optional
        One of the names that the cell declares as ``gates``. It may be left out where there is one gate.
    value : number, array or Tensor, optional
        What the gate is, broadcast to ``(B, H)``. No gradient goes through the gate then; a Tensor that
        requires grad gets its own.
    scale : number, array or Tensor, optional
        What the gate is multiplied by. Gradients go through it.
    function : callable, optional
        ``function(gate)`` makes of the gate, a Tensor ``(B, H)``, another one. Gradients go through it as
        through any function of Tensors.
    time : int, range, slice or sequence of int, optional
        The steps that are meant, counted from 0 as in :func:`gradient_flow`; by default all. A range or
        slice may end beyond the last step.

    Raises
    ------
    ArgumentError
        Not exactly one of ``value``, ``scale`` and ``function``, a time that is not one, or, when the
        layer runs, a step in which no value is the gate's.
    UnknownPathError
        When the layer runs: it has no such gate. When the context is left: no such layer ran.
    IndexOutOfRangeError
        When the context is left: the layer ran, but not at a step that ``time`` names, or at none of a
        range's.
    ShapeError, DTypeError
        When the layer runs: what takes the gate's place has not its shape or dtype.

    Examples
    --------
    How much of the gradient is left at the first step, and how much if every forget gate were 1?

    >>> import tinygrad182 as tg
    >>> lstm, x = tg.nn.LSTM(1, 8, rng=0), tg.ones((30, 2, 1))
    >>> def left():
    ...     output, _ = lstm(x)
    ...     norm = tg.inspect.gradient_flow(output[-1].sum())["lstm.l0"].c.grad_norm
    ...     return float(norm[0] / norm[-1])
    >>> as_it_is = left()
    >>> with tg.inspect.intervene("lstm.l0", gate="f", value=1.0):
    ...     with_open_gates = left()
    >>> f"{as_it_is:.0e}, {with_open_gates:.0e}"
    '5e-05, 3e-01'

    Contexts nest, and a function may look at a gate as it is:

    >>> seen = []
    >>> def look(o):
    ...     seen.append(o)
    ...     return o
    >>> with tg.inspect.intervene("lstm.l0", gate="i", value=0.0, time=range(10, 30)):
    ...     with tg.inspect.intervene("lstm.l0", gate="o", function=look):
    ...         output, _ = lstm(x)
    >>> len(seen), seen[0].shape
    (30, (2, 8))
    """

    __slots__ = ("_change", "_gate", "_path", "_times")

    @explains_calls
    def __init__(
        self,
        path: str,
        gate: str | None = None,
        value: Any = None,
        *,
        scale: Any = None,
        function: Change | None = None,
        time: Any = None,
    ) -> None:
        if any(not isinstance(name, str) for name in (path, gate or "")):
            raise ArgumentError(
                f"intervene: path {brief(path)} and gate {brief(gate)} must be names, such as "
                "'lstm.l0' and 'f'"
            )
        self._path, self._gate = path, gate
        self._change = _change(value, scale, function)
        self._times = None if time is None else _times(time)

    def __repr__(self) -> str:
        gate = "" if self._gate is None else f", gate={self._gate!r}"
        time = "" if self._times is None else f", time={brief(self._times)}"
        return f"<intervene({self._path!r}{gate}{time})>"

    @property
    def name(self) -> str:
        return "inspect.intervene"

    def change(self, modes: Modes) -> None:
        new = Intervention(self._path, self._gate, self._change, self._times)
        modes.interventions = (*modes.interventions, new)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        inside = MODES.get().interventions
        super().__exit__(kind, error, trace)
        if kind is None:
            _check(inside[len(MODES.get().interventions)])


def _change(value: Any, scale: Any, function: Any) -> Change:
    """What takes the place of a gate."""
    given = {"value": value, "scale": scale, "function": function}
    given = {name: x for name, x in given.items() if x is not None}
    if len(given) != 1:
        found = " and ".join(f"{name}=" for name in given) or "none"
        raise ArgumentError(f"intervene: pass one of value=, scale= and function=, not {found}")
    if callable(function):
        return function
    if function is not None:
        raise ArgumentError(f"intervene: function {brief(function)} cannot be called")
    ((name, x),) = given.items()
    operand = _operand(name, x)

    def set_or_scaled(gate: Tensor) -> Tensor:
        here = operand if operand is x else operand.to(gate.device, gate.dtype)
        return gate * here if name == "scale" else broadcast_to(here, gate.shape)

    return set_or_scaled


def _operand(name: str, x: Any) -> Tensor:
    """A number or an array as a Tensor of its own, which goes to where the gate is; a Tensor as it is."""
    if isinstance(x, Tensor):
        return x
    try:
        return tensor(x, "float64", "cpu") if is_host_data(x) else tensor(x)
    except (TypeError, ValueError) as error:
        found = f"intervene: {name} {brief(x)} is not a number or an array"
        why = "write function=" if callable(x) else str(error)
        raise DTypeError(f"{found}: {why}") from error


def _times(time: Any) -> Collection[int]:
    """The steps that are meant: a set, or a range whose end may lie beyond the last one."""
    try:
        if isinstance(time, slice):
            ends = [
                time.start or 0,
                sys.maxsize if time.stop is None else time.stop,
                time.step or 1,
            ]
            times: Collection[int] = range(*map(operator.index, ends))
            first = min(ends)
        elif isinstance(time, range):
            times, first = time, min(time, default=0)
        else:
            several = [time] if isinstance(time, (int, np.integer)) else time
            times = frozenset(map(operator.index, several))
            first = min(times, default=0)
    except TypeError:
        times, first = (), 0
    if first < 0 or not times:
        raise ArgumentError(
            f"intervene: time {brief(time)} must be steps, counted from 0: an int, a range, a slice or "
            "a sequence of int"
        )
    return times


def _check(done: Intervention) -> None:
    """Raise if a context that is left has not done all that it was opened for."""
    path, _, ordinal = done.path.partition("#")
    if path not in done.calls:
        ran = ", ".join(map(repr, done.calls))
        where = f"there ran {ran}" if ran else "open the context around the call of a layer or cell"
        raise UnknownPathError(f"intervene: no recurrence ran at {path!r} inside; {where}")
    count = len(done.calls[path])
    if ordinal and ordinal not in map(str, range(1, count + 1)):
        raise UnknownPathError(
            f"intervene: {path!r} was called {count} time{'s' * (count > 1)} inside, so there is no "
            f"{done.path!r}"
        )
    missed = done.times - done.reached if isinstance(done.times, frozenset) else ()
    if missed or not done.reached:
        steps = ", ".join(map(str, sorted(missed))) or brief(done.times)
        raise IndexOutOfRangeError(f"intervene: {done.path!r} ran inside, but not at t = {steps}")
