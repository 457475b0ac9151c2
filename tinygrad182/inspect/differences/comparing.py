"""Two traces side by side: relative differences of every operation at every step, and of parameters."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

from ..graph.traces import Alike, Trace, TracedBox, TracedOperation, TracedParameter
from ..loops.step_rows import Rows
from ..passes.scaling import HostArray

ADDITIVE = frozenset({"add", "subtract", "sum", "mean"})
"""Operations whose result may be much smaller than their operands, so that rounding shows."""

What = Literal["values", "gradients"]
BOTH: tuple[What, What] = ("values", "gradients")

Series = dict[str, HostArray]
"""Label → relative differences over the steps of a box (T,), NaN where there is nothing to compare."""


class ParameterDifference(NamedTuple):
    """The difference of one parameter between two runs.

    Attributes
    ----------
    value, grad : float
        The largest difference of an element; NaN where it is not known.
    relative_value, relative_grad : float
        These differences, relative to the largest element.
    gates : tuple of str
        The gates in whose rows the value differs; empty if it is not a weight of gates.
    """

    value: float
    grad: float
    relative_value: float
    relative_grad: float
    gates: tuple[str, ...]


@dataclass(frozen=True)
class BoxDifference:
    """A recurrence or a module that both runs have.

    Attributes
    ----------
    a, b : TracedBox
    time : ndarray (T,)
        The steps that at least one of the runs has; of a module, its calls.
    operations : tuple of TracedOperation
        The operations that both have under one label, in the order they are computed.
    operands, consumers : dict of str to set of str
        The operands and the readers of an operation at any step, by label.
    values, gradients : dict of str to ndarray (T,)
        Relative differences by label: NaN where they are not compared.
    sums : dict of str to ndarray (T,)
        Differences of sums relative to what they add up, where that is larger than they are.
    unlike : dict of str to pair of tuple
        Both shapes of an operation that cannot be compared because they differ, by label.
    """

    a: TracedBox
    b: TracedBox
    time: HostArray
    operations: tuple[TracedOperation, ...] = ()
    operands: dict[str, set[str]] = field(default_factory=dict, repr=False)
    consumers: dict[str, set[str]] = field(default_factory=dict, repr=False)
    values: Series = field(default_factory=dict, repr=False)
    gradients: Series = field(default_factory=dict, repr=False)
    sums: Series = field(default_factory=dict, repr=False)
    unlike: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path, or what it is where there is none."""
        return self.a.name

    @property
    def is_recurrent(self) -> bool:
        """Whether :attr:`time` is time."""
        return self.a.is_recurrent

    def of(self, what: What) -> Series:
        """The differences of values, or of gradients."""
        return self.values if what == "values" else self.gradients

    def computed(self, what: What) -> Series:
        """The differences of operations that are computed here, without the steps' inputs."""
        labels = [o.label for o in self.operations if not o.is_given]
        return {label: self.of(what)[label] for label in labels if label in self.of(what)}

    def next_of(self, series: HostArray) -> HostArray:
        """The series shifted to the step that is computed next; NaN after the last one."""
        end = [np.nan]
        return np.concatenate([end, series[:-1]] if self.a.backward else [series[1:], end])

    def first_step(self) -> int:
        """The position in :attr:`time` of the step that is computed first."""
        return len(self.time) - 1 if self.a.backward else 0

    def rows(self, label: str, time: int, what: What) -> tuple[Rows, Rows]:
        """The numbers of an operation at one step in both runs; zeros where there is no gradient."""
        both = [_at_time(box, time) for box in (self.a, self.b)]
        if both[0] and both[1]:
            for operation, mine, other in _pairs(both[0], both[1], what):
                if operation.label == label:
                    return mine, other
        alone = [steps.of(what).get(label) if steps else None for steps in both]
        first, second = (rows or zeros_like(other) for rows, other in (alone, alone[::-1]))
        return first, second


class Boxes(NamedTuple):
    """The boxes that both runs have, and the names of those that only one has."""

    shared: list[BoxDifference]
    only_in_a: list[str]
    only_in_b: list[str]


def boxes_of(a: Trace, b: Trace) -> Boxes:
    """Compare the boxes of two traces."""
    whats = BOTH if a.has_values and b.has_values else BOTH[1:]
    first, second = (_by_path(trace) for trace in (a, b))
    both = [box_difference(first[key], second[key], whats) for key in first if key in second]
    alone = [
        [box.name for key, box in mine.items() if key not in other]
        for mine, other in ((first, second), (second, first))
    ]
    return Boxes(both, *alone)


def _by_path(trace: Trace) -> dict[tuple[str, str, int], TracedBox]:
    """Boxes by kind, path, and number among those of one path."""
    counts: Counter[tuple[str, str]] = Counter()
    found = {}
    for box in trace.boxes:
        key = box.kind, box.path
        found[(*key, counts[key])] = box
        counts[key] += 1
    return found


def box_difference(a: TracedBox, b: TracedBox, whats: tuple[What, ...]) -> BoxDifference:
    """Compare two boxes step by step."""
    a, b = _like_later_steps(a), _like_later_steps(b)
    box = BoxDifference(a, b, np.union1d(a.times, b.times))
    operations: dict[str, TracedOperation] = {}
    for first, second in _shared(a, b):
        at = np.searchsorted(box.time, first.times)
        for what in whats:
            for operation, ours, theirs in _pairs(first, second, what):
                operations.setdefault(operation.label, operation)
                if ours.values.shape != theirs.values.shape:
                    box.unlike[operation.label] = ours.values.shape[1:], theirs.values.shape[1:]
                    continue
                row = box.of(what).setdefault(operation.label, np.full(len(box.time), np.nan))
                row[at] = apart(ours, theirs).max(-1, initial=0.0)
                scale = _added(first, operation) if what == "values" else None
                if scale is not None:
                    row = box.sums.setdefault(operation.label, np.full(len(box.time), np.nan))
                    row[at] = apart(ours, theirs, scale).max(-1, initial=0.0)
        _add_states_that_are_cut_off(box, first, second)
        for operation in first.operations:
            box.operands.setdefault(operation.label, set()).update(operation.operands)
            for x in operation.operands:
                box.consumers.setdefault(x, set()).add(operation.label)
    _add_what_is_cut_off(box)
    for label in {
        *box.values,
        *box.gradients,
    }:  # an intervention changed the shape at some steps only
        box.unlike.pop(label, None)
    order = [
        o.label for steps in sorted(a.steps, key=lambda s: -len(s.times)) for o in steps.operations
    ]
    ordered = [operations[label] for label in dict.fromkeys(order) if label in operations]
    return BoxDifference(**vars(box) | {"operations": tuple(ordered)})


def _like_later_steps(box: TracedBox) -> TracedBox:
    """Give the operations of a loop's first step the labels of later steps, if each has its match there.

    The first step has no state before it, so its labels name the initial numbers.
    """
    typical = max(box.steps, key=lambda steps: len(steps.times), default=None)
    first = _at_time(box, int(box.times[-1 if box.backward else 0])) if len(box.times) else None
    if typical is None or first is None or not box.is_recurrent or len(typical.times) < 2:
        return box
    own = [steps for steps in box.steps if np.array_equal(steps.times, first.times)]
    named, later = partners(first, typical), {o.label: o for o in typical.operations}
    alike = all(
        o.label in named and (o.is_given or o.op == later[named[o.label]].op)
        for o in first.operations
    )
    if not own or not alike:
        return box
    operations = tuple(
        replace(
            o,
            label=named[o.label],
            kind=later[named[o.label]].kind,
            operands=tuple(named[x] for x in o.operands),
        )
        for o in first.operations
    )
    values, grads = (
        {named[label]: rows for label, rows in some.items()} for some in (first.values, first.grads)
    )
    renamed = Alike(first.times, operations, values, grads)
    return replace(box, steps=[renamed if s is own[0] else s for s in box.steps])


def _add_what_is_cut_off(box: BoxDifference) -> None:
    """Compare gradients with 0 at first steps of a loop that are not in the other run's graph."""
    common = np.intersect1d(box.a.times, box.b.times)
    if not len(common) or not box.is_recurrent:
        return
    for mine in (box.a, box.b):
        for steps in mine.steps:
            before = steps.times > common[-1] if mine.backward else steps.times < common[0]
            at = np.searchsorted(box.time, steps.times[before])
            for label, rows in steps.grads.items():
                if label in box.gradients:
                    some = Rows(rows.values[before], rows.powers[before])
                    box.gradients[label][at] = apart(some, zeros_like(some)).max(-1, initial=0.0)


def _add_states_that_are_cut_off(box: BoxDifference, a: Alike, b: Alike) -> None:
    """Compare gradients with 0 of states that the other run's loss does not lead to at a step of both."""
    at = np.searchsorted(box.time, a.times)
    for mine, other, others in ((a, b, box.b), (b, a, box.a)):
        there = {operation.label for operation in other.operations}
        for operation in mine.operations:
            label = operation.label
            cut = operation.kind == "state" and label in mine.grads and label not in there
            if cut and any(label in steps.grads for steps in others.steps):
                row = box.gradients.setdefault(label, np.full(len(box.time), np.nan))
                rows = mine.grads[label]
                row[at] = apart(rows, zeros_like(rows)).max(-1, initial=0.0)


def _shared(a: TracedBox, b: TracedBox) -> Iterator[tuple[Alike, Alike]]:
    """The steps that both have, as many at once as have the same operations in each."""
    group = {int(t): steps for steps in b.steps for t in steps.times}
    for first in a.steps:
        alike: dict[int, list[int]] = {}
        for t in first.times.tolist():
            if t in group:
                alike.setdefault(id(group[t]), []).append(t)
        for times in alike.values():
            yield first.among(times), group[times[0]].among(times)


def _at_time(box: TracedBox, time: int) -> Alike | None:
    return next((steps.among([time]) for steps in box.steps if time in steps.times), None)


def _pairs(a: Alike, b: Alike, what: What) -> Iterator[tuple[TracedOperation, Rows, Rows]]:
    """The arrays of operations that both have; zeros where there is no gradient."""
    ours, theirs, partner = a.of(what), b.of(what), partners(a, b)
    for operation in a.operations:
        if operation.label in partner:
            found = ours.get(operation.label), theirs.get(partner[operation.label])
            if any(found):
                first, second = (x or zeros_like(y) for x, y in (found, found[::-1]))
                yield operation, first, second


def partners(a: Alike, b: Alike) -> dict[str, str]:
    """Return the operation of b's step that matches each operation of a's step, by label.

    Operations are matched from the states back: operands of matching operations match too. So a gate
    matches the operation in its place, and inputs, which are numbered, need not have equal numbers.
    Operations from which no state is computed are matched by label.
    """
    ours, theirs = ({o.label: o for o in steps.operations} for steps in (a, b))
    if [(o.label, o.operands) for o in a.operations] == [
        (o.label, o.operands) for o in b.operations
    ]:
        return {label: label for label in ours}
    found: dict[str, str] = {}
    taken: set[str] = set()
    left = deque(_ends(a, b))
    while left:
        mine, other = left.popleft()
        if mine not in found and other not in taken:
            found[mine] = other
            taken.add(other)
            left.extend(_alike_operands(ours[mine].operands, theirs[other].operands))
    rest = [label for label in ours if label not in found and label in theirs]
    return found | {label: label for label in rest if label not in taken}


def _ends(a: Alike, b: Alike) -> list[tuple[str, str]]:
    """The states of both by name, or else what is computed last."""
    named = [{o.name: o.label for o in steps.operations if o.kind == "state"} for steps in (a, b)]
    shared = [(named[0][name], named[1][name]) for name in named[0] if name in named[1]]
    last = [steps.operations[-1] for steps in (a, b)]
    same = [(last[0].label, last[1].label)] if last[0].op == last[1].op else []
    return shared[::-1] or same


def _alike_operands(mine: tuple[str, ...], others: tuple[str, ...]) -> list[tuple[str, str]]:
    """Match operands: by position if their labels differ and their number does not, or else by label."""
    if set(mine) != set(others) and len(mine) == len(others):
        return list(zip(mine, others, strict=True))
    return [(label, label) for label in mine if label in others]


def zeros_like(rows: Rows | None) -> Rows:
    """Zeros in the shape of other rows: the gradient of an operation that gets none."""
    assert rows is not None, "one of two runs has the operation"
    return Rows(np.zeros_like(rows.values), np.zeros_like(rows.powers))


def _added(steps: Alike, operation: TracedOperation) -> HostArray | None:
    """The largest number among the operands of an additive operation, (n, 1)."""
    some = [steps.values[x].values for x in operation.operands if x in steps.values]
    if operation.op not in ADDITIVE or not some:
        return None
    return np.max([size_of(x).max(-1, keepdims=True, initial=0.0) for x in some], axis=0)


# --- how far two arrays are apart -----------------------------------------------------------------


def apart(a: Rows, b: Rows, scale: HostArray | None = None) -> HostArray:
    """Return the largest difference of each row, relative to the row's largest number, (n, B).

    It is 0 between equal infinities and NaNs, and ∞ where one number is finite and the other is not.

    Parameters
    ----------
    a, b : Rows (n, B, W)
    scale : ndarray, optional
        Sizes that the difference is relative to where they are larger; it broadcasts with (n, B).
    """
    first, second, _ = at_one_power(a, b)
    size = np.maximum(size_of(first), size_of(second))
    if scale is not None:
        size = np.maximum(size, scale)
    return differences(first, second).max(-1, initial=0.0) / np.where(size > 0, size, 1.0)


def at_one_power(a: Rows, b: Rows) -> tuple[HostArray, HostArray, HostArray]:
    """Return two arrays in float64, of which every row is at the larger of its powers, and these (n, B)."""
    top = np.maximum(*(np.where(r.values.any(-1), r.powers, -(2**30)) for r in (a, b)))
    parts = []
    for rows in (a, b):
        values = np.asarray(rows.values, np.float64)
        behind = np.clip(rows.powers - top, -4000, 0)
        parts.append(np.ldexp(values, behind[..., None]) if behind.any() else values)
    return parts[0], parts[1], np.where(top > -(2**30), top, 0)


def differences(a: HostArray, b: HostArray) -> HostArray:
    """Absolute differences: 0 between equal infinities and NaNs, ∞ where one alone is finite."""
    with np.errstate(invalid="ignore"):
        found: HostArray = np.abs(a - b)
        odd = ~np.isfinite(found)
        if odd.any():
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            found = np.where(odd, np.where(same, 0.0, np.inf), found)
    return found


def size_of(values: HostArray) -> HostArray:
    """The largest finite number of each row, in float64."""
    sizes = np.abs(np.asarray(values, np.float64))
    return np.where(np.isfinite(sizes), sizes, 0.0).max(-1, initial=0.0)


# --- parameters -----------------------------------------------------------------------------------


def parameters_of(a: Trace, b: Trace) -> dict[str, ParameterDifference]:
    """Compare the parameters that both have in one shape, by name."""
    gates = {box.path.rpartition(".")[2]: box.gates for box in a.boxes}
    found = {}
    for name, mine in a.parameters.items():
        other = b.parameters.get(name)
        if other is not None and mine.grad.shape == other.grad.shape:
            layer = name.partition("#")[0].rpartition("_l")[2]
            found[name] = _parameter(mine, other, gates.get(f"l{layer}", ()))
    return found


def _parameter(
    a: TracedParameter, b: TracedParameter, gates: tuple[str, ...]
) -> ParameterDifference:
    grad, relative_grad, _ = _largest(a.grad, b.grad)
    if a.value is None or b.value is None:
        return ParameterDifference(np.nan, grad, np.nan, relative_grad, ())
    value, relative, apart_at = _largest(a.value, b.value)
    named: tuple[str, ...] = ()
    if gates and a.value.ndim and not len(a.value) % len(gates):
        blocks = np.split(apart_at, len(gates))
        tiny = value * 1e-3  # rounding beside a change
        named = tuple(g for g, block in zip(gates, blocks, strict=True) if (block > tiny).any())
    return ParameterDifference(value, grad, relative, relative_grad, named)


def _largest(a: HostArray, b: HostArray) -> tuple[float, float, HostArray]:
    """The largest difference of two arrays, the same relative to the largest number, and all of them."""
    first, second = (np.asarray(x, np.float64) for x in (a, b))
    found = differences(first, second)
    size = max(float(size_of(x.reshape(1, -1))[0]) for x in (first, second))
    most = float(found.max(initial=0.0))
    return most, most / (size or 1.0), found


def by_name(parameters: Mapping[str, ParameterDifference], name: str) -> list[str]:
    """The parameters of a name; several where models without a common root have the same."""
    return [each for each in parameters if each.partition("#")[0] == name]
