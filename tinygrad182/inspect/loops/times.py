"""The time step of every operation, and the time axis of arrays that hold several steps."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...engine.recording import Node
from ...errors import GraphError
from .axes import Axes, TimeAxis, carried, operand_places, place_of_part, step_taken
from .recurrences import Loops, Recurrence, descending, loops_of

Times = dict[Node, int]


class Places(NamedTuple):
    """The times of a graph's operations.

    Attributes
    ----------
    times : dict of Node to int
        The step of every operation that belongs to one.
    axes : dict of Node to TimeAxis
        The time axis of other operations, which hold several steps side by side.
    """

    times: Times
    axes: Axes


def places(nodes: list[Node]) -> Places:
    """The step of every operation that belongs to one, and the time axis of those that have one.

    ``nodes`` are a whole graph, oldest first. The first of these rules that applies gives the step of an
    operation:

    1. the step at which it was recorded or marked; layers record it with every node;
    2. the step t of the first state computed from it, if it is inside that state's own loop: it is
       computed from an earlier state of the same recurrence, and from no state later than t. (This is a
       part of the state that is not marked.) A ``stack`` or ``concat`` of several steps is not part of a
       state;
    3. the step t of the states it leads to, if the first states computed from it are all of step t, and
       their loops have other steps. Several steps along a time axis are not part of a state here either;
    4. the step that it takes out of an array along the time axis of that;
    5. the step of its operands, if those that have a step all have this one;
    6. the step t of the states it leads to, as in 3, if these are the only ones of their loops (a pooled
       state, or a decoder of one step) and the operation has no time axis.

    Otherwise it has no step. By rule 5, an operation that mixes several steps has none, nor has anything
    computed from it. In a loop whose initial state is not marked with ``time=-1``, an unmarked part of the
    first step cannot be distinguished from operations before the loop.

    The time axis of an array is known where states are stacked or windows joined, and where steps take
    their parts of it. Operations that do not mix steps hand it on, to results and back to operands. If two
    places disagree, it is not known.
    """
    reading = _Reading(nodes, {}, {})
    while True:
        _find_axes(nodes, reading)
        given = _elements(nodes, reading)
        if not given:
            break
        reading = _Reading(nodes, reading.given | given, reading.axes)
    times = {node: time for node, time in reading.times.items() if time >= 0}
    axes = {node: place for node, place in reading.axes.items() if node not in reading.times}
    return Places(times, axes)


def node_times(nodes: list[Node]) -> Times:
    """The step of every operation that belongs to one; see :func:`places`."""
    return places(nodes).times


class _Reading:
    """One way through a graph, oldest node first."""

    def __init__(self, nodes: list[Node], given: Times, axes: Axes) -> None:
        self.given = given
        try:
            self.loops = loops_of(nodes)
        except GraphError:  # a state continues two recurrences of one name
            self.loops = Loops([], {})
        self.own: dict[Node, list[Recurrence]] = {}
        for r in self.loops.found:
            for node in r.nodes():
                self.own.setdefault(node, []).append(r)
        self.backward = descending(self.loops.found)
        steps = {node: t for node in nodes if (t := given.get(node, _recorded(node))) is not None}
        self.upcoming = _upcoming(nodes, steps)
        self.times: Times = {}
        self.axes: Axes = axes
        self.mixed: set[Any] = set()  # operations computed from several steps
        self.steps = steps
        for node in nodes:
            time = steps.get(node)
            if time is None and node.primitive is not None:
                time = self._derived(node)
            if time is not None:
                self.times[node] = time

    def _derived(self, node: Node) -> int | None:
        """The step of an operation that was not recorded at one, by the rules of :func:`places`."""
        inputs = [x for x in node.inputs or () if isinstance(x, Node)]
        before = {self.times[x] for x in inputs if x in self.times}
        place = self._axis(node)
        if place is not None:
            self.axes[node] = place
        state, alone = self.upcoming.get(node, (None, False))
        beside = node.op in {"stack", "concat"} and len(before) > 1
        if state is not None:
            in_loop = not beside and self._goes_on(node, state, before)
            part = alone and not (beside and place is not None) and not self._is_only(state)
            if in_loop or part:
                return self.steps[state]
        if node.op == "index" and inputs[0] in self.axes:
            step = step_taken(node, self.axes[inputs[0]])
            if step is not None:
                return step
        several = len(before) > 1 or not self.mixed.isdisjoint(inputs)
        if before and not several:
            return before.pop()
        if state is not None and alone and place is None:
            return self.steps[state]
        if several:
            self.mixed.add(node)
        return None

    def _is_only(self, state: Node) -> bool:
        """Whether a state is the only one of its loop."""
        return all(len(r.steps) == 1 for r in self.own.get(state, ()))

    def _axis(self, node: Node) -> TimeAxis | None:
        if node.op == "stack" and (start := _stacked_from(node, self.times)) is not None:
            return TimeAxis(node.params["axis"], start)
        return carried(node, self.axes, self.times)

    def _goes_on(self, node: Node, state: Node, before: set[int]) -> bool:
        """Whether an operation is computed from earlier states of the loop of ``state`` alone."""
        if not before:
            return False
        time = self.steps[state]
        if state in self.backward:
            in_order = all(t >= time or t < 0 for t in before)  # −1: the initial state
        else:
            in_order = max(before) <= time
        reached = [r for x in node.inputs or () for r in self.loops.reached.get(x, ())]  # type: ignore[arg-type]
        return in_order and any(_is_one(r, own) for r in reached for own in self.own.get(state, ()))


def _is_one(a: Recurrence, b: Recurrence) -> bool:
    """Whether two are one recurrence, or begin with one marked initial state."""
    return a is b or (a.initial is not None and a.initial is b.initial)


def _find_axes(nodes: list[Node], reading: _Reading) -> None:
    """Find time axes from the parts that steps take, to operands and then to results."""
    axes, times = reading.axes, reading.times
    for node, parts in _taken(nodes, times).items():
        found = {place_of_part(part, times[part]) for part in parts}
        if len(found) == 1 and (place := found.pop()) is not None:
            axes[node] = place
    _back(nodes, axes, times)
    for node in nodes:
        if node not in axes and node not in times and node.primitive is not None:
            place = carried(node, axes, times)
            if place is not None:
                axes[node] = place


def _elements(nodes: list[Node], reading: _Reading) -> Times:
    """The steps of operations that are stacked along a time axis or taken from it, where not known."""
    axes, times = reading.axes, reading.times
    found: dict[Node, set[int]] = {}
    for node in nodes:
        if node.op == "stack" and _stacks_steps(node, axes) and node not in times:
            for t, x in enumerate(node.inputs or (), axes[node].start):
                if isinstance(x, Node) and x.primitive is not None and x not in times:
                    found.setdefault(x, set()).add(t)
        elif node.op == "index" and node not in times:
            whole: Any = node.inputs[0]  # type: ignore[index]
            step = step_taken(node, axes[whole]) if whole in axes else None
            if step is not None:
                found.setdefault(node, set()).add(step)
    return {node: steps.pop() for node, steps in found.items() if len(steps) == 1}


def _stacks_steps(node: Node, axes: Axes) -> bool:
    """Whether a stack puts its operands along its time axis."""
    return node in axes and axes[node].axis == node.params["axis"]


def _taken(nodes: list[Node], times: Times) -> dict[Node, list[Node]]:
    """By array, the parts that steps take from it."""
    taken: dict[Node, list[Node]] = {}
    for node in nodes:
        if node.op == "index" and times.get(node, -1) >= 0:
            whole = node.inputs[0]  # type: ignore[index]
            if isinstance(whole, Node) and whole not in times:
                taken.setdefault(whole, []).append(node)
    return taken


def _back(nodes: list[Node], axes: Axes, times: Times) -> None:
    """Give operands the time axis of the results computed from them, if all agree."""
    asked: dict[Node, set[TimeAxis]] = {}
    for node in reversed(nodes):
        found = asked.pop(node, set())
        if node not in axes and len(found) == 1:
            axes[node] = found.pop()
        if node not in axes or node in times:
            continue
        inputs = [x for x in node.inputs or () if isinstance(x, Node)]
        for x, place in zip(inputs, operand_places(node, axes[node]), strict=True):
            if place is not None and x.primitive is not None and x not in times:
                asked.setdefault(x, set()).add(place)


def _recorded(node: Node) -> int | None:
    """The step at which a node was marked, or else recorded; the first of several."""
    return next(iter(marked_times(node)), node.scope.time)


def marked_times(node: Node) -> list[int]:
    """The steps at which a node was marked; several if it was handed on unchanged."""
    return [mark.scope.time for mark in node.marks if mark.scope.time is not None]


def _upcoming(nodes: list[Node], steps: Times) -> dict[Node, tuple[Node, bool]]:
    """By node, the first state computed from it, and whether it leads to states of that step alone."""
    found: dict[Node, tuple[Node, bool]] = {}
    for node in reversed(nodes):
        here = (node, True) if node in steps else found.get(node)
        if here is None:
            continue
        for x in node.inputs or ():
            if isinstance(x, Node):
                first, alone = found.get(x, here)
                same = steps[first] == steps[here[0]]
                found[x] = min(first, here[0], key=_order), alone and here[1] and same
    return found


def _order(node: Node) -> int:
    return node.order


def _stacked_from(node: Node, times: Times) -> int | None:
    """The first of the consecutive steps that are stacked; None if the operands are something else."""
    steps: list[Any] = list(node.inputs or ())
    first = {times.get(steps[0]), *marked_times(steps[0])} - {None} if steps else set()
    for start in sorted(first):  # type: ignore[type-var]
        if all(
            times.get(x) == t or t in marked_times(x)
            for t, x in enumerate(steps, start)  # type: ignore[arg-type]
        ):
            return start
    return None
