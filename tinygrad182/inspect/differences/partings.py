"""The first place where two runs part: a difference arises there that the operands do not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ..graph.traces import TracedOperation, runs_at
from ..passes.scaling import HostArray
from .comparing import (
    BoxDifference,
    ParameterDifference,
    Series,
    What,
    at_one_power,
    by_name,
    differences,
    size_of,
)

ROUNDINGS = 100
"""Units of rounding by which two numbers may differ, if no tolerance is given."""

GROWTH = 30
"""Factor by which one operation may enlarge a difference in its operands."""

Cause = Literal[
    "arises",
    "input",
    "between",
    "uncompared",
    "overflow",
    "parameters",
    "values",
    "grown",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Parting:
    """The first place at which two runs part.

    Attributes
    ----------
    path : str
        The recurrence or module, such as ``"lstm.l1"``.
    label : str
        The operation, such as ``"f"`` or ``"W_hh h₋"``.
    kind : str
        Its role in the step; see :class:`StepOperation`.
    time : int or None
        The step; of a module that is called several times, the call; None for one that is called once.
    is_recurrent : bool
        Whether ``time`` is a step of a recurrence.
    gate : str
        The gate of the number; ``""`` for none. In your own loop, a marked value that is not passed on to
        the next step, or else the label of the operation that reads these columns.
    sequence, unit : int
        The place of the largest difference: a row of the batch, and a column (in a gate's columns, the
        unit).
    element : tuple of int
        This place as an index, for modules, whose arrays may have any number of axes.
    way : tuple of str
        Operations of the step through which a differing value reaches the next state, the last of them;
        empty if there are several ways.
    a, b : float
        Both numbers there, divided by 10 to the power ``log10_scale``, for gradients may lie far below
        what a float can hold.
    log10_scale : float
    difference : float
        The difference of both numbers, relative to the largest number of the row; ∞ if only one is finite.
    cause : str
        ``"arises"``: its operands agree, parameters included. ``"parameters"``: the parameters differ.
        ``"input"``: the model's input differs. ``"between"``: the input of a later layer or module differs.
        ``"uncompared"``: its operands have no counterpart in the other run. ``"overflow"``: the coarser
        dtype cannot hold the number. For gradients alone, ``"values"``: the values that the gradient is
        computed from differ; ``"unknown"``: values were not saved. ``"grown"``: no single place is the
        cause; rounding grew step by step.
    parameters : tuple of str
        Differing parameters that the operation, or the source of the gradient, reads.
    """

    path: str
    label: str
    kind: str
    time: int | None
    is_recurrent: bool
    gate: str
    sequence: int
    unit: int
    element: tuple[int, ...]
    way: tuple[str, ...]
    a: float
    b: float
    log10_scale: float
    difference: float
    cause: Cause
    parameters: tuple[str, ...] = ()


class Place(NamedTuple):
    """An operation at a step: positions of the box, of the operation, and of the step."""

    box: int
    operation: int
    step: int


class Partings:
    """The places where values and gradients of the compared boxes part.

    Parameters
    ----------
    boxes : sequence of BoxDifference
    parameters : mapping of str to ParameterDifference
    tolerance : float
        Relative differences up to this are rounding.
    limit : float
        Differences without a single cause are reported above this.
    largest : float or None
        The largest number of the coarser dtype, if the runs differ in dtype.
    alike : bool
        Whether both runs have the same layers and modules, steps and shapes.
    """

    def __init__(
        self,
        boxes: Sequence[BoxDifference],
        parameters: Mapping[str, ParameterDifference],
        tolerance: float,
        limit: float,
        largest: float | None,
        alike: bool,
    ) -> None:
        self.boxes = boxes
        self.parameters = parameters
        self.tolerance = tolerance
        self.limit = limit
        self.largest = largest
        self.alike = alike
        self._in_a = [box.a for box in boxes]

    def first(self, what: What) -> Parting | None:
        """Return where values part first, or, going back, gradients."""
        arises = self._value_arises if what == "values" else self._gradient_arises
        at = self._earliest(what, arises)
        if at is None:
            at = self._earliest(what, lambda i, label: self.boxes[i].of(what)[label] > self.limit)
            return None if at is None else self._parting(at, what, "grown", ())
        if what == "values":
            return self._parting(at, what, *self._cause_of_value(at))
        return self._parting(at, what, *self._cause_of_gradient(at))

    def first_step(self, what: What) -> Parting | None:
        """Return the first place in a recurrence that differs, even if the difference arises elsewhere."""

        def differs(i: int, label: str) -> HostArray:
            box = self.boxes[i]
            return (box.of(what)[label] > self.tolerance) & box.is_recurrent

        at = self._earliest(what, differs)
        return None if at is None else self._parting(at, what, "values", ())

    def in_backward_alone(self) -> Parting | None:
        """Return the first place, going back, where gradients part though values and parameters agree."""

        def arises(i: int, label: str) -> HostArray:
            found = self._gradient_arises(i, label)
            for k in np.flatnonzero(found):
                at = Place(i, self._position(i, label), int(k))
                found[k] = self._cause_of_gradient(at)[0] == "arises"
            return found

        at = self._earliest("gradients", arises)
        return None if at is None else self._parting(at, "gradients", "arises", ())

    # --- in the order of computation --------------------------------------------------------------

    def _earliest(self, what: What, found: Callable[[int, str], HostArray]) -> Place | None:
        """The first place, for gradients going back, at which ``found(box, label)``, (T,), is true."""
        places = []
        for i, box in enumerate(self.boxes):
            for k, operation in enumerate(box.operations):
                if operation.label in box.of(what):
                    steps = np.flatnonzero(found(i, operation.label))
                    places += [Place(i, k, int(step)) for step in {*steps[:1], *steps[-1:]}]
        if what == "values":
            return min(places, key=self._rank, default=None)
        # the input of a box was computed in another box and counts there
        return max(
            places, key=lambda at: (not self._at(at).is_given, *self._rank(at)), default=None
        )

    def _at(self, place: Place) -> TracedOperation:
        return self.boxes[place.box].operations[place.operation]

    def _rank(self, place: Place) -> tuple[int, int, int, int]:
        """The rank of an operation: by step, and within a step by layer."""
        i, k, step = place
        return runs_at(self._in_a, i, int(self.boxes[i].time[step])), i, step, k

    def _position(self, i: int, label: str) -> int:
        return [operation.label for operation in self.boxes[i].operations].index(label)

    # --- values -----------------------------------------------------------------------------------

    def _value_arises(self, i: int, label: str) -> HostArray:
        """Steps at which an operation differs more than its operands explain."""
        box = self.boxes[i]
        found = box.sums.get(label, box.values[label])
        operation = box.operations[self._position(i, label)]
        if operation.is_given:
            explained = self._given_by(i)
            if operation.kind == "before":  # it is the state of the step before, but for the first
                explained = np.where(np.arange(len(found)) == box.first_step(), explained, np.inf)
        else:
            known, others = _compared(box.values, box.operands, label)
            explained = _largest(box.values, known, found)
            if others:
                explained = np.maximum(explained, self._given_by(i))
        arises = (found > self.tolerance) & ~(found <= GROWTH * explained)
        if operation.kind == "input":
            for k in np.flatnonzero(arises):
                arises[k] = not self._comes_from_another_loop(i, label, int(box.time[k]))
        return arises

    def _comes_from_another_loop(self, i: int, label: str, time: int) -> bool:
        """Whether a later loop that runs at the same time computes an input of a step."""
        mine = self.boxes[i].rows(label, time, "values")[0].values
        return any(
            o.label in other.values
            and time in other.a.times
            and np.array_equal(other.rows(o.label, time, "values")[0].values, mine)
            for other in self.boxes[i + 1 :]
            if other.is_recurrent and self.boxes[i].is_recurrent
            for o in other.operations
            if not o.is_given
        )

    def _given_by(self, i: int) -> HostArray:
        """The largest difference in the possible inputs of a step: earlier boxes and earlier steps."""
        box = self.boxes[i]
        others = max((_peak(each.values) for each in self.boxes[:i]), default=0.0)
        own = _largest(box.values, box.values, np.zeros(len(box.time)))
        order = slice(None, None, -1 if box.a.backward else 1)
        so_far = np.maximum.accumulate(own[order])
        return np.maximum(others, np.concatenate([[0.0], so_far[:-1]])[order])

    def _cause_of_value(self, at: Place) -> tuple[Cause, tuple[str, ...]]:
        box = self.boxes[at.box]
        operation = box.operations[at.operation]
        _, others = _compared(box.values, box.operands, operation.label)
        hidden = [o for steps in box.a.steps for o in steps.operations if o.label in others]
        every = dict.fromkeys(name for o in (operation, *hidden) for name in o.weights)
        if weights := self._differing([*every]):
            return "parameters", weights
        if self._overflows(box, at):
            return "overflow", ()
        behind = operation.is_given and (at.box > 0 or not box.is_recurrent)
        if not self.alike and (behind or others & box.unlike.keys()):
            return "uncompared", ()
        if operation.is_given or others:
            return ("between" if at.box else "input"), ()
        return "arises", ()

    def _overflows(self, box: BoxDifference, at: Place) -> bool:
        """Whether the coarser of two dtypes cannot hold a number."""
        if self.largest is None:
            return False
        label, time = box.operations[at.operation].label, int(box.time[at.step])
        first, second, _ = at_one_power(*box.rows(label, time, "values"))
        odd = np.isfinite(first) != np.isfinite(second)
        finite = np.where(np.isfinite(first), first, second)
        return bool((np.abs(finite[odd]) >= self.largest / GROWTH).any())

    def _differing(self, names: Sequence[str]) -> tuple[str, ...]:
        """Choose the parameters whose values differ."""
        every = [each for name in names for each in by_name(self.parameters, name)]
        return tuple(n for n in every if self.parameters[n].relative_value > self.tolerance)

    # --- gradients --------------------------------------------------------------------------------

    def _gradient_arises(self, i: int, label: str) -> HostArray:
        """Steps at which a gradient differs more than the gradients that it is computed from explain."""
        box = self.boxes[i]
        found, operation = box.gradients[label], box.operations[self._position(i, label)]
        known, _ = _compared(box.gradients, box.consumers, label)
        explained = _largest(box.gradients, known, found)
        before = f"{label}₋"
        if operation.kind == "before":  # it is the gradient of a state, but for the initial one
            explained = np.where(np.arange(len(found)) == box.first_step(), explained, np.inf)
        elif operation.kind == "state" and before in box.gradients:
            users = box.consumers.get(before, set())
            explained = np.maximum(
                explained, box.next_of(_largest(box.gradients, users, np.zeros(len(found))))
            )
        if self._leaves(box, label):
            later = max((_peak(b.computed("gradients")) for b in self.boxes[i + 1 :]), default=0.0)
            explained = np.fmax(explained, later)
        return (found > self.tolerance) & ~(found <= GROWTH * explained)

    @staticmethod
    def _leaves(box: BoxDifference, label: str) -> bool:
        """Whether an operation may be read outside of its box."""
        kind = next(o.kind for o in box.operations if o.label == label)
        return kind == "state" or not box.consumers.get(label)

    def _cause_of_gradient(self, at: Place) -> tuple[Cause, tuple[str, ...]]:
        box = self.boxes[at.box]
        if not box.values:
            return "unknown", ()
        operation = box.operations[at.operation]
        steps = [at.step]
        if operation.kind == "state":
            next_one = at.step + (-1 if box.a.backward else 1)
            steps += [next_one] if 0 <= next_one < len(box.time) else []
        near = max((_at(row, steps) for row in box.values.values()), default=0.0)
        readers = [o for o in box.operations if o.label in box.consumers.get(operation.label, ())]
        if operation.kind == "state":
            readers = list(box.operations)
        if self._leaves(box, operation.label):
            later = self.boxes[at.box + 1 :]
            near = max([near, *(_peak(each.values) for each in later)])
            readers += [o for each in later for o in each.operations]
        if near > self.tolerance:
            return "values", ()
        weights = self._differing([name for each in readers for name in each.weights])
        if weights:
            return "parameters", weights
        _, others = _compared(box.gradients, box.consumers, operation.label)
        return ("uncompared" if others & box.unlike.keys() else "arises"), ()

    # --- what is there ----------------------------------------------------------------------------

    def _parting(self, at: Place, what: What, cause: Cause, parameters: tuple[str, ...]) -> Parting:
        box = self.boxes[at.box]
        operation = box.operations[at.operation]
        time = int(box.time[at.step])
        first, second, powers = at_one_power(*box.rows(operation.label, time, what))
        apart = differences(first, second)[0]
        size = np.maximum(size_of(first), size_of(second))[0, :, None]
        relative = apart / np.where(size > 0, size, 1.0)
        sequence, column = np.unravel_index(int(np.argmax(relative)), relative.shape)
        gate, unit = self._gate_and_unit(box, operation, int(column), relative.shape[1])
        way = self._way(box, operation, at.step) if what == "values" else ()
        if not box.a.gates and (found := self._gate_of_loop(box, operation, way)):
            gate = found
            if what == "values":
                unit = self._unit(box, gate, time, int(sequence))
        shape = operation.shape if math.prod(operation.shape) == apart.size else apart.shape
        return Parting(
            path=box.name,
            label=operation.label,
            kind=operation.kind,
            time=time if box.is_recurrent or len(box.time) > 1 else None,
            is_recurrent=box.is_recurrent,
            gate=gate,
            sequence=int(sequence),
            unit=unit,
            element=tuple(map(int, np.unravel_index(sequence * apart.shape[1] + column, shape))),
            way=way,
            a=float(first[0, sequence, column]),
            b=float(second[0, sequence, column]),
            log10_scale=float(powers[0, sequence] * math.log10(2)),
            difference=float(box.of(what)[operation.label][at.step]),
            cause=cause,
            parameters=parameters,
        )

    def _way(self, box: BoxDifference, operation: TracedOperation, step: int) -> tuple[str, ...]:
        """The operations through which a differing value reaches a state of the next step."""
        if not box.is_recurrent or self._is_handed_on(box, operation.label):
            return ()
        found: list[str] = []
        label = operation.label
        while not found or not self._is_handed_on(box, label):
            users = [
                o.label
                for o in box.operations
                if o.label in box.consumers.get(label, ())
                and o.label in box.values
                and box.values[o.label][step] > self.tolerance
            ]
            if len(users) != 1:
                return () if users else tuple(found)
            (label,) = users
            found.append(label)
        return tuple(found)

    @staticmethod
    def _is_handed_on(box: BoxDifference, label: str) -> bool:
        """Whether a state is read by the next step."""
        return any(o.kind == "before" and o.label == f"{label}₋" for o in box.operations)

    def _gate_of_loop(
        self, box: BoxDifference, operation: TracedOperation, way: Sequence[str]
    ) -> str:
        """The gate of your own loop: a marked value that is not passed on, or a part of a product."""
        labels = [operation.label, *way]
        marked = {o.label for o in box.operations if o.kind == "state"}
        named = [x for x in labels if x in marked and not self._is_handed_on(box, x)]
        if named or not way:
            return named[0] if named else ""
        widths = {o.label: o.shape[-1] for o in box.operations if o.shape}
        units = widths.get(way[-1])
        if widths.get(operation.label) == units:
            return ""
        return next(x for x in way if widths.get(x) == units)

    @staticmethod
    def _unit(box: BoxDifference, label: str, time: int, sequence: int) -> int:
        """The column of one row in which an operation differs most."""
        first, second, _ = at_one_power(*box.rows(label, time, "values"))
        return int(np.argmax(differences(first, second)[0, sequence]))

    @staticmethod
    def _gate_and_unit(
        box: BoxDifference, operation: TracedOperation, column: int, width: int
    ) -> tuple[str, int]:
        """The gate of a column of an operation, and its unit."""
        gates = box.a.gates
        if operation.kind == "gate" or len(gates) < 2 or width % len(gates):
            return (operation.name if operation.kind == "gate" else ""), column
        units = width // len(gates)
        if box.a.units() != units:
            return "", column
        return gates[column // units], column % units


def _compared(
    series: Series, links: Mapping[str, set[str]], label: str
) -> tuple[set[str], set[str]]:
    """The linked operations that are compared, and those before them that are not."""
    known, others = set[str](), set[str]()
    left = [*links.get(label, ())]
    while left:
        x = left.pop()
        if x in series:
            known.add(x)
        elif x not in others:
            others.add(x)
            left += links.get(x, ())
    return known, others


def _largest(series: Series, labels: Iterable[str], like: HostArray) -> HostArray:
    """The largest of some differences at every step, 0 where none is known, (T,)."""
    rows = [series[label] for label in labels if label in series]
    return np.fmax.reduce([np.zeros(like.shape), *rows])


def _peak(series: Series) -> float:
    """The largest difference of all."""
    return max((_at(row, slice(None)) for row in series.values()), default=0.0)


def _at(row: HostArray, steps: Any) -> float:
    return float(np.fmax.reduce(row[steps], initial=0.0))
