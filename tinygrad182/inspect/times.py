"""Which time step an operation belongs to, and which axis of a whole sequence is time."""

from __future__ import annotations

from ..recording import Node

Times = dict[Node, int]


def node_times(nodes: list[Node]) -> Times:
    """The time step of every node that belongs to one.

    ``nodes`` are a whole graph, oldest first. Layers record the step with every node. In a person's
    own loop only the states are marked: there, what leads to the states of one step alone belongs to
    it, and what is computed from those of one step and leads to no further one, too.
    """
    upcoming = _upcoming(nodes)
    times: Times = {}
    for node in nodes:
        time = _recorded(node)
        if time is None and node.primitive is not None:
            before = {times[x] for x in node.inputs or () if x in times}
            first, alone = upcoming.get(node, (None, False))
            if first is not None:
                time = first if before or alone else None
            elif len(before) == 1:
                time = before.pop()
        if time is not None and time >= 0:
            times[node] = time
    return times


def _recorded(node: Node) -> int | None:
    for mark in reversed(node.marks):
        if mark.scope.time is not None:
            return mark.scope.time
    return node.scope.time


def _upcoming(nodes: list[Node]) -> dict[Node, tuple[int, bool]]:
    """The first step whose states each node leads to, and whether it leads to those of no other."""
    found: dict[Node, tuple[int, bool]] = {}
    for node in reversed(nodes):
        time = _recorded(node)
        here = found.get(node) if time is None else (time, True)
        if here is None:
            continue
        for x in node.inputs or ():
            if isinstance(x, Node):
                first, alone = found.get(x, here)
                found[x] = min(first, here[0]), alone and here == (first, True)
    return found


def time_axes(nodes: list[Node], times: Times) -> dict[Node, int]:
    """Which axis of a result that belongs to no single step is time, counted from the end.

    It is known where steps are stacked, and where a step takes its part of the whole; it goes along
    with elementwise operations, products and permutations, both ways.
    """
    axes: dict[Node, int] = {}
    for node in nodes:
        if node in times:
            if node.op == "index" and (parent := node.inputs[0]) and parent not in times:  # type: ignore[index]
                _note_part(node, times[node], parent, axes)  # type: ignore[arg-type]
        elif node.op == "stack" and [times.get(x) for x in node.inputs or ()] == list(  # type: ignore[arg-type]
            range(len(node.inputs or ()))
        ):
            axes[node] = node.params["axis"]
    for node in reversed(nodes):  # from parts taken, back to what they were computed by
        if node in axes and node.op == "add":
            _note_operands(node, axes, times)
    for node in nodes:
        if node not in axes and node not in times and node.primitive is not None:
            axis = _carried(node, axes)
            if axis is not None:
                axes[node] = axis
    return axes


def _note_part(node: Node, time: int, whole: Node, axes: dict[Node, int]) -> None:
    key = node.params["key"]
    for axis, k in enumerate(key):
        if isinstance(k, int) and k == time:
            axes[whole] = axis - whole.value.ndim
            return
        if k != slice(None):
            return


def _note_operands(node: Node, axes: dict[Node, int], times: Times) -> None:
    """A sum has its time axis from operands that are as long."""
    for x in node.inputs or ():
        axis = axes[node]
        if isinstance(x, Node) and x.primitive is not None and x not in times:
            shape = x.value.shape
            if len(shape) >= -axis and shape[axis] == node.value.shape[axis] > 1:
                axes.setdefault(x, axis)


def _carried(node: Node, axes: dict[Node, int]) -> int | None:
    """The time axis of a result, from those of its operands."""
    for i, x in enumerate(node.inputs or ()):
        axis = axes.get(x) if isinstance(x, Node) else None
        if axis is None:
            continue
        if node.primitive.broadcasts:  # type: ignore[union-attr]
            return axis
        if node.op == "matmul" and i == 0 and axis <= -2:
            return axis
        if node.op == "permute_dims":
            axes_of = [a % x.value.ndim for a in node.params["axes"]]  # type: ignore[union-attr]
            return axes_of.index(axis % len(axes_of)) - len(axes_of)
    return None
