"""The inputs of a recurrence's steps, and a graph in which there are gradients by them.

Inputs seldom require grad, and a window or a step of a constant is another constant. So the graph is
recorded again with new leaves in the place of the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import ancestors
from ...engine.recording import Leaf, Node, is_tensor, node_of
from ...errors import ArgumentError, DTypeError, GraphError, ShapeError
from ...primitives import PRIMITIVES
from ...primitives.index import ARRAY
from ...recurrence.scans import Scan, steps_of_scan
from ...tensors.tensor import Tensor
from ..passes.gradients import Gradients
from ..passes.scaling import Band
from .recurrences import Recurrence, one_stack


class StepInput(NamedTuple):
    """The input of one step.

    Attributes
    ----------
    node : Node
    row : int or None
        The row of the node that it is; None if it is the whole node.
    """

    node: Node
    row: int | None

    @property
    def value(self) -> Array:
        """The input."""
        return self.node.value if self.row is None else self.node.value[self.row]

    def bands(self, found: Gradients) -> list[Band]:
        """The gradients of several losses by it; empty if they do not depend on it."""
        bands = found.bands.get(self.node, [])
        if self.row is None:
            return bands
        return [
            (g[:, self.row], p if isinstance(p, int) else np.broadcast_to(p, g.shape)[:, self.row])
            for g, p in bands
        ]


class Sources(NamedTuple):
    """The inputs of a graph's steps.

    Attributes
    ----------
    steps : dict of int to StepInput
        By time, in the graph that was recorded again.
    twins : dict of Node to Node
        Node of the original graph → its node in the graph recorded again, if that is another one.
    """

    steps: dict[int, StepInput]
    twins: dict[Node, Node]

    def twin(self, node: Node) -> Node:
        """Return the node here of a node of the original graph."""
        return self.twins.get(node, node)


def again(
    nodes: Sequence[Node], stand_ins: Mapping[Node, Node], first: Mapping[Node, Node]
) -> dict[Node, Node]:
    """Record everything that depends on some nodes again, with other nodes in their place.

    Parameters
    ----------
    nodes : sequence of Node
        A whole graph, oldest first.
    stand_ins : mapping of Node to Node
    first : mapping of Node to Node
        Operation → the new node in the place of its first input.

    Returns
    -------
    dict of Node to Node
        Node → the node recorded again.
    """
    twins: dict[Any, Node] = dict(stand_ins)
    for node in nodes:
        inputs = node.inputs or ()
        if node in first or not twins.keys().isdisjoint(inputs):
            new = [twins.get(x, x) for x in inputs]
            if node in first:
                new[0] = first[node]
            twins[node] = node.again(tuple(new))
    return twins


# --- the inputs of a layer ----------------------------------------------------------------------


def inputs_of_layer(root: Node, path: str | None, view: str) -> Sources:
    """The inputs of the layer at ``path``, or of the only one; each window reads a new leaf.

    Raises
    ------
    GraphError, UnknownPathError
    """
    recurrence = next(iter(one_stack(root, path, view).values()))
    nodes = ancestors([root], constants=True)
    readers = _readers(nodes, recurrence)
    if not readers:
        raise GraphError(
            f"{view}: no operation on the inputs of {recurrence.module!r} is recorded; in a loop of your "
            "own, name them: inputs=x; in a layer with fused=False, let them or weight_ih require grad"
        )
    if recurrence.module.endswith("_reverse"):
        return _turned_round(nodes, recurrence, readers, view)
    own: dict[Node, Node] = {node: _leaf_for(node) for node in readers}
    steps = {
        start + row: StepInput(own[node], row)
        for node, start in readers.items()
        for row in range(len(own[node].value))
    }
    return Sources(steps, again(nodes, {}, own))


def _leaf_for(reader: Node) -> Leaf:
    """A new leaf in the place of an operation's first input."""
    x: Any = reader.inputs[0]  # type: ignore[index]
    return Leaf(x.value, memory=x.memory)


def _turned_round(
    nodes: Sequence[Node], r: Recurrence, readers: Mapping[Node, int], view: str
) -> Sources:
    """The inputs of a reverse direction in the order of time; it reads each sequence from its end."""
    ends = {node: start + len(node.inputs[0].value) for node, start in readers.items()}  # type: ignore[index, union-attr]
    first = next(iter(readers))
    turn = _turn(nodes, r, view)
    count = max(ends.values()) if turn is None else len(turn.value)
    x: Any = first.inputs[0]  # type: ignore[index]
    with backend.on(x.value):
        shape = (count, *x.value.shape[1:])
        whole = Leaf(backend.namespace(x.value).zeros(shape, dtype=x.value.dtype))
    own: dict[Node, Node] = {}
    for node, start in readers.items():
        read: Any = node.inputs[0]  # type: ignore[index]
        key, arrays = _order(node, turn, range(start, ends[node]), count)
        own[node] = Node(
            PRIMITIVES["index"], (whole, *arrays), read.value, {"key": key}, node.scope
        )
    return Sources({t: StepInput(whole, t) for t in range(count)}, again(nodes, {}, own))


def _turn(nodes: Sequence[Node], r: Recurrence, view: str) -> Node | None:
    """The operation that reverses sequences of several lengths, or their states.

    None if there is none: the sequences have one length, or a fused layer knows the lengths.
    """
    picks = [] if r.fused else [n for n in nodes if n.op == "index" and _is_in(n, r, None)]
    ragged = [node for node in picks if ARRAY in node.params["key"]]
    for node in ragged:
        if node.inputs[1].value.ndim == 2:  # type: ignore[index, union-attr]
            return node
    if ragged:  # the last state of each sequence
        raise GraphError(
            f"{view}: the order in which {r.module!r} reads its inputs is not recorded; let these require "
            "grad, or run the layer with fused=True"
        )
    return None


def _order(
    reader: Node, turn: Node | None, steps: range, count: int
) -> tuple[tuple[Any, ...], list[Node]]:
    """The index with which a reverse direction reads some of its steps, and the arrays in it."""
    if turn is not None:
        _, order, batch = (x.value for x in turn.inputs or ())  # type: ignore[union-attr]
        return (ARRAY, ARRAY), [Leaf(order[steps.start : steps.stop]), Leaf(batch)]
    scan, inputs = reader.primitive, reader.inputs or ()
    lengths: Any = scan.operands(inputs).lengths if isinstance(scan, Scan) else None
    if lengths is None:
        stop = count - 1 - steps.stop
        return (slice(count - 1 - steps.start, None if stop < 0 else stop, -1),), []
    with backend.on(lengths.value):
        m = backend.namespace(lengths.value).module
        at, ends = m.arange(steps.start, steps.stop)[:, None], lengths.value + steps.start
        order, batch = m.where(at < ends, ends - 1 - at, at), m.arange(len(ends))
    return (ARRAY, ARRAY), [Leaf(order), Leaf(batch)]


def _readers(nodes: Sequence[Node], r: Recurrence) -> dict[Node, int]:
    """The operations that read the inputs of a recurrence, and the first step that each reads."""
    if r.fused:
        return {node: steps_of_scan(node).start for node, _ in r.fused}
    found = {}
    for node in nodes:
        time = node.scope.time
        if node.op == "index" and time is not None and _is_in(node, r, time):
            projected, (row, *_) = node.inputs[0], node.params["key"]  # type: ignore[index]
            if _is_in(projected, r, None) and projected.value.ndim == 3:  # type: ignore[union-attr]
                product: Any = projected
                while product.op == "add":  # a bias
                    product = product.inputs[0]
                if product.op == "matmul":
                    found[product] = time - row
    return found


def _is_in(node: Any, r: Recurrence, time: int | None) -> bool:
    """Whether an operation belongs to the call of a layer, and to a step of it or to none."""
    scope = node.scope
    return (scope.module, scope.call, scope.time) == (r.module, r.call, time)


# --- the inputs of your own loop ----------------------------------------------------------------


def own_inputs(root: Node, inputs: Tensor | Sequence[Tensor], view: str) -> Sources:
    """The inputs that the user gave. Parts that a loop took from a constant are recorded as such.

    Raises
    ------
    ArgumentError, DTypeError, GraphError, ShapeError
    """
    given = _checked(inputs, view)
    nodes = ancestors([root], constants=True)
    taken = _taken(nodes, [x for x in given if not x.requires_grad], view)
    twins = again(nodes, taken, {}) if taken else {}
    there = ancestors([twins.get(root, root)], constants=True) if taken else nodes
    if set(given).isdisjoint(there):
        raise GraphError(
            f"{view}: the losses depend on none of the inputs that were given; pass the Tensors that the "
            "loop read, and where it computes something from them alone, let them require grad before"
        )
    if is_tensor(inputs):
        steps = {t: StepInput(given[0], t) for t in range(len(given[0].value))}
    else:
        steps = {t: StepInput(x, None) for t, x in enumerate(given)}
    return Sources(steps, twins)


def _checked(inputs: Any, view: str) -> list[Node]:
    """The nodes of the given inputs."""
    given = [inputs] if is_tensor(inputs) else inputs
    if not isinstance(given, (list, tuple)) or not all(map(is_tensor, given)):
        raise DTypeError(
            f"{view}: inputs is a {type(inputs).__name__}; pass the Tensor (T, …) that the loop read, or a "
            "list of its T Tensors"
        )
    if not given or (given[0] is inputs and not inputs.ndim):
        raise ArgumentError(
            f"{view}: inputs has no steps; pass the Tensor (T, …) that the loop read"
        )
    dtype, shapes = given[0].dtype, {x.shape for x in given}
    if dtype.kind not in "fc":
        raise DTypeError(
            f"{view}: inputs of dtype {dtype} have no gradient; pass what was computed from them, such "
            "as the embedded sequence"
        )
    if len(shapes) > 1:
        raise ShapeError(f"{view}: inputs have different shapes over time: {sorted(shapes)}")
    first: dict[Node, int] = {}
    for t, x in enumerate(map(node_of, given)):
        if first.setdefault(x, t) != t:
            raise ArgumentError(
                f"{view}: inputs[{t}] and inputs[{first[x]}] are one Tensor, so the gradients by the two "
                "steps cannot be separated; give every step its own Tensor"
            )
    return list(first)


def _taken(nodes: Sequence[Node], given: Sequence[Node], view: str) -> dict[Node, Node]:
    """Constants of the graph that are parts of given constants → nodes that take these parts.

    ``x[t]`` of a constant is not recorded; its memory, which lies inside that of x, shows what it is.
    """
    there = {_place(x.value): x for x in given}
    named = set(given)
    histories = {id(x.memory) for x in given}
    found: dict[Node, Node] = {}
    for node in nodes:
        if node.inputs or node in named or id(node.memory) not in histories:
            continue
        place = _place(node.value)
        if place in there:
            found[node] = there[place]
            continue
        for x in given:
            key = _steps_in(x.value, node.value)
            if key is not None:
                found[node] = Node(PRIMITIVES["index"], (x,), node.value, {"key": key}, node.scope)
            elif _overlap(x.value, node.value):
                raise GraphError(
                    f"{view}: the losses depend on a Tensor {tuple(node.value.shape)} that shares the "
                    f"memory of inputs {tuple(x.value.shape)} and is not some of their steps; give it as "
                    "inputs=, or let inputs require grad before the loop"
                )
    return found


def _place(array: Array) -> tuple[Any, ...]:
    """The memory of an array: its address, shape and strides."""
    return _address(array), array.shape, array.strides


def _address(array: Array) -> int:
    ptr = getattr(array.data, "ptr", None)
    return array.ctypes.data if ptr is None else ptr


def _steps_in(whole: Array, part: Array) -> tuple[Any, ...] | None:
    """The key that takes a part from an array, if it is one step, or several at equal distances."""
    if not whole.ndim or not whole.strides[0]:
        return None
    row, rest = divmod(_address(part) - _address(whole), whole.strides[0])
    if rest or not 0 <= row < len(whole):
        return None
    if (part.shape, part.strides) == (whole.shape[1:], whole.strides[1:]):
        return (row,)
    if part.ndim != whole.ndim or part.shape[1:] != whole.shape[1:] or not len(part):
        return None
    step, rest = divmod(part.strides[0], whole.strides[0])
    end = row + step * len(part)
    if (
        rest
        or not step
        or part.strides[1:] != whole.strides[1:]
        or not 0 <= end - step < len(whole)
    ):
        return None
    return (slice(row, None if end < 0 else end, step),)


def _overlap(a: Array, b: Array) -> bool:
    """Whether two arrays may have memory in common."""
    (start, stop), (begin, end) = _extent(a), _extent(b)
    return start < end and begin < stop


def _extent(array: Array) -> tuple[int, int]:
    """The first byte of an array, and the one after its last."""
    ends = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    start = _address(array)
    back, ahead = sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)
    return start + back, start + ahead + array.itemsize
