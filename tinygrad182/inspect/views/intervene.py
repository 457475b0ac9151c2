"""``intervene``: run a recurrence with another value in the place of a gate."""

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
    """Context that sets a gate of a recurrent layer or cell; also a decorator.

    The forward pass inside runs with another value in the gate's place, and is differentiated as it was
    computed, so every view shows the gradient with the changed gate. Compare it with the view of a forward
    pass outside the context. The layer runs step by step, as with ``fused=False``; other layers do not.

    A gate is the value of the nonlinearity that is applied to its block of the sums: σ(x_f + h_f) for f of
    an LSTM, tanh(x_n + r ∘ h_n) for n of a GRU, and the next state for the only gate of a vanilla RNN. In
    your own cell it is found in the step: if that uses 1 − σ(x_a + h_a), the gate is σ(x_a + h_a). A cell
    in which no value belongs to the gate alone raises.

    Parameters
    ----------
    path : str
        The layer or cell, by its path from the outermost module that is called, as in
        :func:`gradient_flow`: ``"lstm.l0"``, ``"lstm.l0_reverse"``, ``"encoder.l1"``, ``"lstmcell"``. It
        means every call inside the context; ``"lstm.l0#2"`` means the second call alone.
    gate : str, optional
        One of the names that the cell declares as ``gates``; needed if there are several.
    value : number, array or Tensor, optional
        The new value of the gate, broadcast to ``(B, H)``. No gradient goes through the gate then; a Tensor
        that requires grad gets its own.
    scale : number, array or Tensor, optional
        A factor of the gate. Gradients go through it.
    function : callable, optional
        ``function(gate)`` returns the new value for the gate, a Tensor ``(B, H)``. Gradients go through it
        as through any function of Tensors.
    time : int, range, slice or sequence of int, optional
        The steps to change, counted from 0 as in :func:`gradient_flow`; by default all. A range or slice
        may end beyond the last step.

    Raises
    ------
    ArgumentError
        Not exactly one of ``value``, ``scale`` and ``function`` was given, or ``time`` has no steps.
        When the layer runs: no value of the step belongs to the gate alone.
    UnknownPathError
        When the layer runs: it has no such gate. When the context is left: no such layer ran.
    IndexOutOfRangeError
        When the context is left: the layer ran, but not at a step in ``time``, or at no step of a range.
    ShapeError, DTypeError
        When the layer runs: the new value has another shape or dtype than the gate.

    Examples
    --------
    How much of the gradient is left at the first step, and how much would be if every forget gate were 1?

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

    Contexts nest, and a function may return the gate unchanged:

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
    """The function that returns the new value of a gate."""
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
    """A number or an array as a new Tensor, which later goes to the gate's device."""
    if isinstance(x, Tensor):
        return x
    try:
        return tensor(x, "float64", "cpu") if is_host_data(x) else tensor(x)
    except (TypeError, ValueError) as error:
        found = f"intervene: {name} {brief(x)} is not a number or an array"
        why = "write function=" if callable(x) else str(error)
        raise DTypeError(f"{found}: {why}") from error


def _times(time: Any) -> Collection[int]:
    """The steps to change: a set, or a range that may end beyond the last step."""
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
    """Raise if the context is left and the layer did not run, or not at the given steps."""
    path, _, ordinal = done.path.partition("#")
    if path not in done.calls:
        ran = ", ".join(map(repr, done.calls))
        where = (
            f"recurrences ran at {ran}"
            if ran
            else "open the context around the call of a layer or cell"
        )
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
