"""The first NaN, infinity or underflow in a saved trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ...errors import ArgumentError
from ..loops.step_rows import Rows
from ..passes.scaling import HostArray
from .anomaly import POSITIVE
from .traces import Alike, Trace, TracedOperation, runs_at

WORDS = {"nan": "NaN", "inf": "an infinity", "underflow": "underflow"}


@dataclass(frozen=True, slots=True)
class TracedAnomaly:
    """The first anomaly in a trace; see :class:`.anomaly.Anomaly` for a graph.

    Attributes
    ----------
    phase : {"forward", "backward"}
    kind : {"nan", "inf", "underflow"}
        ``"underflow"``: all elements of a gradient are too small for its type, and were not 0.
    path, label, op : str
        The recurrence or module and the operation whose value or gradient it is; a parameter has its name
        as label.
    time : int or None
        The step; None outside recurrences.
    produced : bool
        Whether it arose here, and did not come in from outside.
    """

    phase: Literal["forward", "backward"]
    kind: str
    path: str
    label: str
    op: str
    time: int | None
    produced: bool

    def __str__(self) -> str:
        verb = "arises in" if self.produced else "comes in through"
        what = self.label if self.phase == "forward" else f"the gradient by {self.label}"
        place = f" in {self.path}" if self.path else ""
        step = "" if self.time is None else f" at t = {self.time}"
        return f"{self.phase}: {WORDS[self.kind]} {verb} {what} ({self.op}){place}{step}"


class Ranked(NamedTuple):
    """An anomaly behind its rank in the order of computation."""

    rank: tuple[int, ...]
    anomaly: TracedAnomaly


@np.errstate(all="ignore")
def anomaly_in(trace: Trace) -> TracedAnomaly | None:
    """Find the first NaN, infinity or underflow of a trace; None if there is none.

    Values are searched from the first step on, then gradients from the loss back, as in
    :func:`first_anomaly`. An infinity that comes in from outside is returned only if nothing else is found.

    Raises
    ------
    ArgumentError
        The trace has nothing to look at.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 4, nonlinearity="relu", rng=0)
    >>> rnn.weight_ih_l0.data[...], rnn.weight_hh_l0.data[...] = 1.0, 1e20
    >>> graph = tg.inspect.trace(rnn(tg.ones((9, 1, 1)))[0][-1].sum())
    >>> print(anomaly_in(graph.numbers()))
    forward: an infinity arises in W_hh h₋ (matmul) in rnn.l0 at t = 2
    """
    if not trace.boxes:
        raise ArgumentError("first-anomaly: the trace holds no operations")
    given = [*_parameters(trace)]
    found = sorted(_operations(trace, _in_values), key=lambda item: item.rank)
    anomalies = [*given, *(anomaly for _, anomaly in found)]
    for anomaly in anomalies:
        if anomaly.produced or anomaly.kind == "nan":
            return anomaly
    back = max(_operations(trace, _in_gradients), key=lambda item: item.rank, default=None)
    return back.anomaly if back else next(iter(anomalies), None)


def _parameters(trace: Trace) -> Iterator[TracedAnomaly]:
    for name, parameter in trace.parameters.items():
        value = parameter.value
        if value is not None and not np.isfinite(value).all():
            kind = "nan" if np.isnan(value).any() else "inf"
            yield TracedAnomaly("forward", kind, "", name, "leaf", None, False)


Look = Callable[[Alike, TracedOperation], Iterator[tuple[HostArray, str, bool]]]


def _operations(trace: Trace, look: Look) -> Iterator[Ranked]:
    """Anomalies that ``look`` finds in each operation, at the first and at the last such step."""
    phase: Literal["forward", "backward"] = "forward" if look is _in_values else "backward"
    for i, box in enumerate(trace.boxes):
        for steps in box.steps:
            for k, operation in enumerate(steps.operations):
                for flags, kind, produced in look(steps, operation):
                    times = steps.times[flags]
                    for t in {*map(int, times[:1]), *map(int, times[-1:])}:
                        time = t if box.is_recurrent else None
                        what = operation.label, operation.op, time, produced
                        # the input of a box counts where it was computed
                        own = not operation.is_given
                        rank: tuple[int, ...] = (runs_at(trace.boxes, i, t), i, t, k)
                        rank = (own, *rank) if phase == "backward" else rank
                        yield Ranked(rank, TracedAnomaly(phase, kind, box.name, *what))


def _in_values(steps: Alike, operation: TracedOperation) -> Iterator[tuple[HostArray, str, bool]]:
    """Steps at which a value is not finite, or underflows to 0."""
    rows = steps.values.get(operation.label)
    if rows is None or not np.issubdtype(rows.values.dtype, np.floating):
        return
    nan, inf = _kinds(rows)
    some = [_kinds(steps.values[x]) for x in operation.operands if x in steps.values]
    held_nan, held_inf = (
        np.any([kinds[k] for kinds in some], axis=0) if some else np.zeros_like(nan) for k in (0, 1)
    )
    if operation.is_given:
        yield nan, "nan", False
        yield inf & ~nan, "inf", False
        return
    yield nan & ~held_nan, "nan", True
    yield inf & ~nan & ~held_inf & ~held_nan, "inf", True
    if operation.op in POSITIVE:
        zero = ~rows.values.any((1, 2))
        yield zero & ~held_nan & ~held_inf, "underflow", True


def _in_gradients(
    steps: Alike, operation: TracedOperation
) -> Iterator[tuple[HostArray, str, bool]]:
    """Steps at which a gradient is not finite, or too small for its type."""
    rows = steps.grads.get(operation.label)
    if rows is None:
        return
    nan, inf = _kinds(rows)
    yield nan, "nan", True
    yield inf & ~nan, "inf", True
    size = np.abs(rows.values.astype(np.float64)).max(-1, initial=0.0)
    least = math.log2(float(np.finfo(rows.values.dtype).smallest_subnormal))
    representable = np.log2(size) + rows.powers >= least
    yield (size > 0).any(1) & ~representable.any(1) & ~nan & ~inf, "underflow", True


def _kinds(rows: Rows) -> tuple[HostArray, HostArray]:
    """Steps with a NaN, and steps with an infinity, (n,)."""
    flat = rows.values.reshape(len(rows.values), -1)
    return np.any(np.isnan(flat), axis=1), np.any(np.isinf(flat), axis=1)
