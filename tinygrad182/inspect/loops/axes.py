"""The time axis of arrays, and how operations hand it on from operands to results and back."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NamedTuple

from ...engine.recording import Node
from ...primitives.index import ARRAY


class TimeAxis(NamedTuple):
    """The time axis of an array of several steps.

    Attributes
    ----------
    axis : int
        Counted from the end.
    start : int
        The first step along it; not 0 in a later window of truncated backpropagation.
    """

    axis: int
    start: int


Axes = dict[Node, TimeAxis]


def operand_places(node: Node, result: TimeAxis) -> list[TimeAxis | None]:
    """The time axis of every operand, from that of the result; None for operands without one.

    Step t of the result then depends on step t of the operands with a time axis, and on the others as a
    whole.
    """
    axis, start = result
    inputs = [x for x in node.inputs or () if isinstance(x, Node)]
    if node.op == "concat" and node.params["axis"] == axis:
        lengths = [x.value.shape[axis] for x in inputs]
        return [TimeAxis(axis, start + n) for n in accumulate([0, *lengths[:-1]])]
    if node.op == "index":
        whole = inputs[0].value
        for place in range(-whole.ndim, 0):
            found = _window(node, place)
            if found is not None and found.axis == axis and found.start <= start:
                return [TimeAxis(place, start - found.start), *[None] * (len(inputs) - 1)]
        return [None] * len(inputs)
    return [a if a is None else TimeAxis(a, start) for a in operand_axes(node, axis)]


def operand_axes(node: Node, axis: int) -> list[int | None]:
    """The axis of every operand that corresponds to an axis of the result; None where there is none."""
    inputs = [x for x in node.inputs or () if isinstance(x, Node)]
    if node.op == "permute_dims":
        return [node.params["axes"][axis] % node.value.ndim - node.value.ndim]
    if node.op == "index" and _is_lookup(node):
        place = axis + node.value.ndim - inputs[1].value.ndim
        return [None, place if place < 0 else None]
    if node.op == "reshape":
        return [_before_reshape(inputs[0], node, axis)]
    if node.op == "concat":
        return [None if node.params["axis"] == axis else axis for _ in inputs]
    if node.op == "einsum":
        terms, _, out = node.params["subscripts"].partition("->")
        return [_letter(term, out[axis]) for term in terms.split(",")]
    if node.op in _REDUCTIONS:
        return [_before(inputs[0], node, axis)]
    if node.op in {"astype", "to_device"}:
        return [axis]
    found = []
    for i, x in enumerate(node.inputs or ()):
        if isinstance(x, Node):
            summed = node.op == "matmul" and axis == (-1 if i == 0 else -2)
            along = node.primitive.broadcasts and not summed and _is_long(x, node, axis)  # type: ignore[union-attr]
            found.append(axis if along else None)
    return found


_REDUCTIONS = {"sum", "mean", "max", "min", "logsumexp"}


def _letter(term: str, letter: str) -> int | None:
    """The position of a letter in an operand's subscripts, if it occurs once."""
    return term.index(letter) - len(term) if term.count(letter) == 1 else None


def _before(x: Node, node: Node, axis: int) -> int | None:
    """The axis of a reduction's operand for one of its result; None if it was reduced."""
    reduced = node.params["axis"]
    axes = range(-x.value.ndim, 0)
    reduced = axes if reduced is None else reduced
    if node.params["keepdims"]:
        return None if axis in reduced else axis
    return [a for a in axes if a not in reduced][axis]


def _is_long(x: Node, node: Node, axis: int) -> bool:
    """Whether an operand has the result's length along an axis; of length 1 it may be repeated."""
    shape = x.value.shape
    return len(shape) >= -axis and bool(shape[axis] == node.value.shape[axis] > 1)


def _before_reshape(x: Node, node: Node, axis: int) -> int | None:
    """The axis of an array before a reshape, if it was one axis there."""
    shape, new = x.value.shape, node.value.shape
    behind, long = math.prod(new[len(new) + axis + 1 :]), new[axis]
    for place in range(-len(shape), 0):
        if shape[place] == long and math.prod(shape[len(shape) + place + 1 :]) == behind:
            return place
    return None


def is_separable(node: Node) -> bool:
    """Whether an operation can be applied to one step of its operands at a time."""
    looked_up = node.op == "index" and _is_lookup(node)
    separates = node.op in {"concat", "einsum"} or looked_up
    return separates or node.primitive.broadcasts  # type: ignore[union-attr]


def _is_lookup(node: Node) -> bool:
    """Whether rows of a matrix are looked up by one array of indices."""
    return node.params["key"] == (ARRAY,)


def carried(node: Node, axes: Axes, times: dict[Node, int]) -> TimeAxis | None:
    """The time axis of a result, from those of its operands; None if they disagree."""
    if node.op == "concat" and (joined := _joined(node, axes, times)) is not None:
        return joined
    inputs = [x for x in node.inputs or () if isinstance(x, Node)]
    if not any(x in axes for x in inputs):
        return None
    if node.op == "index":
        return _cut(node, axes.get(inputs[0]))
    found = set()
    for axis in range(-node.value.ndim, 0):
        for x, place in zip(inputs, operand_axes(node, axis), strict=True):
            if place is not None and x in axes and axes[x].axis == place:
                found.add(TimeAxis(axis, axes[x].start))
    return found.pop() if len(found) == 1 else None


def _joined(node: Node, axes: Axes, times: dict[Node, int]) -> TimeAxis | None:
    """The time axis of a concatenation in the order of time."""
    axis, first, due = node.params["axis"], None, None
    for x in node.inputs or ():
        place = axes.get(x)  # type: ignore[arg-type]
        if place is None and x in times and x.value.shape[axis] == 1:
            place = TimeAxis(axis, times[x])
        if place is None or place.axis != axis or due not in (None, place.start):
            return None
        first = place if first is None else first
        due = place.start + x.value.shape[axis]  # type: ignore[union-attr]
    return first


def _cut(node: Node, whole: TimeAxis | None) -> TimeAxis | None:
    """The time axis of a part that slices take from an array, such as a window."""
    if whole is None or (found := _window(node, whole.axis)) is None:
        return None
    return TimeAxis(found.axis, whole.start + found.start)


def _window(node: Node, axis: int) -> TimeAxis | None:
    """The axis of a part for one of the array it was taken from, and the first of its elements there."""
    key, shape = node.params["key"], node.inputs[0].value.shape  # type: ignore[index, union-attr]
    if not all(k is None or isinstance(k, (int, slice)) for k in key):
        return None
    key = (*key, *[slice(None)] * (len(shape) - sum(k is not None for k in key)))
    place, start = len(shape) + axis, 0
    for i, k in enumerate(key):
        if sum(entry is not None for entry in key[:i]) == place and k is not None:
            break
    if not isinstance(k, slice):
        return None
    start, stop, stride = k.indices(shape[place])
    axes = sum(not isinstance(entry, int) for entry in key[i + 1 :])
    return TimeAxis(-axes - 1, start) if stride == 1 and start < stop else None


def step_taken(node: Node, whole: TimeAxis) -> int | None:
    """The step that an index takes out of an array along its time axis."""
    key, source = node.params["key"], node.inputs[0].value  # type: ignore[index, union-attr]
    place = source.ndim + whole.axis
    simple = all(isinstance(k, (int, slice)) for k in key[: place + 1])
    if not simple or place >= len(key) or not isinstance(key[place], int):
        return None
    return whole.start + int(key[place]) % source.shape[place]


def place_of_part(part: Node, time: int) -> TimeAxis | None:
    """The time axis of an array, from the part that one step takes of it."""
    ndim = part.inputs[0].value.ndim  # type: ignore[index, union-attr]
    for axis, k in enumerate(part.params["key"]):
        if isinstance(k, slice) and k.start is not None and k.stop == k.start + 1:
            k = k.start
        if isinstance(k, int):
            return TimeAxis(axis - ndim, time - k) if 0 <= k <= time else None
        if k != slice(None):
            return None
    return None
