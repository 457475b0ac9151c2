"""Which time step an operation belongs to, and which axis of a whole sequence is time."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...engine.recording import Node
from ...errors import GraphError
from .axes import Axes, TimeAxis, carried, operand_places, place_of_part, step_taken
from .recurrences import Loops, Recurrence, descending, loops_of

Times = dict[Node, int]


class Places(NamedTuple):
    """Where the operations of a graph are in time.

    Attributes
    ----------
    times : dict of Node to int
        The step of those that belong to one.
    axes : dict of Node to TimeAxis
        Which axis is time, of others that hold several steps side by side.
    """

    times: Times
    axes: Axes


def places(nodes: list[Node]) -> Places:
    """The step of every operation that belongs to one, and the time axis of those that have one.

    ``nodes`` are a whole graph, oldest first. The step of an operation is, by the first of these that
    tells it,

    1. the one it was recorded or marked at; layers record it with every node;
    2. the step t of the first state computed from it, if it goes on in that state's own loop: it is
       computed from an earlier state of the same recurrence, and from none that is later than t (a
       part of the state that is not marked). Several steps side by side, in a ``stack`` or ``concat``,
       are not part of a state;
    3. the step t of the states it leads to, if the first states computed from it, on every way, are of
       step t alone, and their loops have other steps. Several steps side by side along a time axis are
       not part of a state here either;
    4. the step that it takes out of a whole along its time axis;
    5. the single step that all those belong to, of what it is computed from, that have one;
    6. the step t of the states it leads to, as in 3, where these are the only ones of their loops (a
       pooled state, or a decoder of one step), unless it has a time axis.

    Otherwise it has none. By the fifth, what mixes several steps has none, nor has what is computed from
    it. An unmarked part of a loop's first step is told from what was computed before the loop only if the
    initial state is marked with ``time=-1``.

    The time axis of a whole is known where states are stacked or windows joined, and where steps take
    their parts of it. It goes along with operations that leave steps apart, to results and back to
    operands. Where two places disagree about it, it is not known.
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
    """The step of every operation that belongs to one, as :func:`places` tells it."""
    return places(nodes).times


class _Reading:
    """One way through a graph, oldest node first."""

    def __init__(self, nodes: list[Node], given: Times, axes: Axes) -> None:
        self.given = given
        try:
            self.loops = loops_of(nodes)
        except GraphError:  # which go on from two recurrences of one name
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
        self.mixed: set[Any] = set()  # computed from several steps
        self.steps = steps
        for node in nodes:
            time = steps.get(node)
            if time is None and node.primitive is not None:
                time = self._told(node)
            if time is not None:
                self.times[node] = time

    def _told(self, node: Node) -> int | None:
        """The step of an operation that was recorded at none."""
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
        """Whether a state is the only one of its loop, of which no other step is there to compare."""
        return all(len(r.steps) == 1 for r in self.own.get(state, ()))

    def _axis(self, node: Node) -> TimeAxis | None:
        if node.op == "stack" and (start := _stacked_from(node, self.times)) is not None:
            return TimeAxis(node.params["axis"], start)
        return carried(node, self.axes, self.times)

    def _goes_on(self, node: Node, state: Node, before: set[int]) -> bool:
        """Whether an operation is computed from earlier states of the loop of ``state``, and no later."""
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
    """Whether two are one; a marked initial state stands for what begins with it."""
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
    """What is stacked along a time axis, or taken of it, and was not known to be of that step."""
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
    """Whether the axis along which a stack puts its operands is time, and not one that they have."""
    return node in axes and axes[node].axis == node.params["axis"]


def _taken(nodes: list[Node], times: Times) -> dict[Node, list[Node]]:
    """The parts that steps take of each whole."""
    taken: dict[Node, list[Node]] = {}
    for node in nodes:
        if node.op == "index" and times.get(node, -1) >= 0:
            whole = node.inputs[0]  # type: ignore[index]
            if isinstance(whole, Node) and whole not in times:
                taken.setdefault(whole, []).append(node)
    return taken


def _back(nodes: list[Node], axes: Axes, times: Times) -> None:
    """Give operands the time axis of what is computed from them, where all of it agrees."""
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
    """The step a node was marked or made at; of a state that was handed on, the first."""
    return next(iter(marked_times(node)), node.scope.time)


def marked_times(node: Node) -> list[int]:
    """The steps that a node was marked at; several if it was handed on as it is."""
    return [mark.scope.time for mark in node.marks if mark.scope.time is not None]


def _upcoming(nodes: list[Node], steps: Times) -> dict[Node, tuple[Node, bool]]:
    """The first state computed from each node, and whether it leads to those of no other step."""
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
    """The first of the consecutive steps that are stacked; None if they are none."""
    steps: list[Any] = list(node.inputs or ())
    first = {times.get(steps[0]), *marked_times(steps[0])} - {None} if steps else set()
    for start in sorted(first):  # type: ignore[type-var]
        if all(
            times.get(x) == t or t in marked_times(x)
            for t, x in enumerate(steps, start)  # type: ignore[arg-type]
        ):
            return start
    return None
