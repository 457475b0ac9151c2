"""Which time step an operation belongs to, and which axis of a whole sequence is time."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..recording import Node
from .recurrences import run_backward

Times = dict[Node, int]


def node_times(nodes: list[Node]) -> Times:
    """The time step of every node that belongs to one.

    ``nodes`` are a whole graph, oldest first. Layers record the step with every node. In a person's
    own loop only the states are marked: there, what leads to the states of one step alone belongs to
    it, and so does what is computed from the states before it (a part of the state that is not
    marked); what else is computed from the states of a single step belongs to that. An unmarked part
    of the first step is told from what was computed before the loop if the initial state is marked.
    """
    upcoming, backward = _upcoming(nodes), run_backward(nodes)
    times: Times = {}
    mixed: set[Node] = set()  # computed from the states of several steps
    for node in nodes:
        time = _recorded(node)
        if time is None and node.primitive is not None:
            before = {times[x] for x in node.inputs or () if x in times}
            state, alone = upcoming.get(node, (None, False))
            past = len(before) > 1 or not mixed.isdisjoint(node.inputs or ())
            if state is not None and (alone or _follows(state, before, state in backward)):
                time = _recorded(state)
            elif past:
                mixed.add(node)
            elif before:
                time = before.pop()
        if time is not None:
            times[node] = time
    return {node: time for node, time in times.items() if time >= 0}


def _recorded(node: Node) -> int | None:
    """The step a node was marked or made at; of a state that was handed on, the first."""
    return next(iter(marked_times(node)), node.scope.time)


def marked_times(node: Node) -> list[int]:
    """The steps that a node was marked at; several if it was handed on as it is."""
    return [mark.scope.time for mark in node.marks if mark.scope.time is not None]


def _follows(state: Node, before: set[int], backward: bool) -> bool:
    """Whether the step of a state comes after, or is, all of some others in its own loop's order."""
    time: int = _recorded(state)  # type: ignore[assignment]
    if backward:
        return bool(before) and all(t >= time or t < 0 for t in before)  # −1: the initial state
    return bool(before) and max(before) <= time


def _upcoming(nodes: list[Node]) -> dict[Node, tuple[Node, bool]]:
    """The first state computed from each node, and whether it leads to those of no other step."""
    found: dict[Node, tuple[Node, bool]] = {}
    for node in reversed(nodes):
        here = found.get(node) if _recorded(node) is None else (node, True)
        if here is None:
            continue
        for x in node.inputs or ():
            if isinstance(x, Node):
                first, alone = found.get(x, here)
                same = _recorded(first) == _recorded(here[0])
                found[x] = min(first, here[0], key=_order), alone and here[1] and same
    return found


def _order(node: Node) -> int:
    return node.order


class TimeAxis(NamedTuple):
    """Where time is in a result that belongs to no single step.

    Attributes
    ----------
    axis : int
        Counted from the end.
    start : int
        The step that stands first along it: not 0 in a later window of truncated backpropagation.
    """

    axis: int
    start: int


def time_axes(nodes: list[Node], times: Times) -> dict[Node, TimeAxis]:
    """Which axis of a result that belongs to no single step is time.

    It is known where steps are stacked, and where a step takes its part of the whole; it goes along
    with elementwise operations, products, permutations and windows that are joined, both ways.
    """
    axes: dict[Node, TimeAxis] = {}
    taken: dict[Node, list[Node]] = {}  # whole → the parts that steps take of it
    for node in nodes:
        if node in times:
            if node.op == "index" and (whole := node.inputs[0]) and whole not in times:  # type: ignore[index]
                taken.setdefault(whole, []).append(node)  # type: ignore[arg-type]
        elif node.op == "stack" and (start := _stacked_from(node, times)) is not None:
            axes[node] = TimeAxis(node.params["axis"], start)
    for whole, parts in taken.items():
        places = {_place(part, times[part]) for part in parts}
        if len(places) == 1 and (place := places.pop()) is not None:
            axes[whole] = TimeAxis(place.axis - whole.value.ndim, place.start)
    for node in reversed(nodes):  # from parts taken, back to what they were computed by
        if node in axes and node.op == "add":
            _note_operands(node, axes, times)
    for node in nodes:
        if node not in axes and node not in times and node.primitive is not None:
            axis = _carried(node, axes)
            if axis is not None:
                axes[node] = axis
    return axes


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


def _place(part: Node, time: int) -> TimeAxis | None:
    """The axis along which a part is the one of its time step, from the front."""
    for axis, k in enumerate(part.params["key"]):
        if isinstance(k, int):
            return TimeAxis(axis, time - k) if 0 <= k <= time else None
        if k != slice(None):
            return None
    return None


def _note_operands(node: Node, axes: dict[Node, TimeAxis], times: Times) -> None:
    """A sum has its time axis from operands that are as long."""
    for x in node.inputs or ():
        axis = axes[node].axis
        if isinstance(x, Node) and x.primitive is not None and x not in times:
            shape = x.value.shape
            if len(shape) >= -axis and shape[axis] == node.value.shape[axis] > 1:
                axes.setdefault(x, axes[node])


def _carried(node: Node, axes: dict[Node, TimeAxis]) -> TimeAxis | None:
    """The time axis of a result, from those of its operands."""
    for i, x in enumerate(node.inputs or ()):
        found = axes.get(x) if isinstance(x, Node) else None
        if found is None:
            continue
        axis, start = found
        if node.op == "matmul" and axis == (-1 if i == 0 else -2):
            continue  # summed over
        if node.primitive.broadcasts:  # type: ignore[union-attr]
            return found
        if node.op == "concat" and i == 0:
            return found if _continue(node, axes) else None
        if node.op == "permute_dims":
            axes_of = [a % x.value.ndim for a in node.params["axes"]]  # type: ignore[union-attr]
            return TimeAxis(axes_of.index(axis % len(axes_of)) - len(axes_of), start)
    return None


def _continue(node: Node, axes: dict[Node, TimeAxis]) -> bool:
    """Whether every operand that is concatenated goes on in time where the one before it ends."""
    due: int | None = None
    for x in node.inputs or ():
        place = axes.get(x)  # type: ignore[arg-type]
        if place is None or place.axis != node.params["axis"] or due not in (None, place.start):
            return False
        due = place.start + x.value.shape[place.axis]  # type: ignore[union-attr]
    return True
