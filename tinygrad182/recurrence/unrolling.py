"""Recurrences step by step: how unrolled layers run, and how the inspector opens fused ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..engine.backpropagation import ancestors
from ..engine.marks import mark
from ..engine.modes import MODES, Modes, Scope, at_time, enable_grad, modes_kept, recording_as
from ..engine.recording import Leaf, Node, node_of, wrap
from ..tensors import functions
from ..tensors.creation import ones, tensor
from ..tensors.functions import stack
from ..tensors.tensor import Tensor
from .scans import Scan, by_definition, is_scan, own

State = tuple[Tensor, ...]
"""The parts of a state: (h,) or (h, c)."""


@modes_kept
def run_steps(scan: Scan, operands: Sequence[Any], params: dict[str, Any]) -> list[State]:
    """The states of a recurrence run step by step, each marked with its name and time."""
    steps = scan.unrolled(functions, *followed(scan, operands), **params)
    next(steps)
    states = []
    start = params.get("start", 0)
    for t in range(start, start + operands[0].shape[0]):
        with at_time(t):
            state = next(steps)
            for name, part in zip(scan.parts, state, strict=True):
                mark(part, name)
            states.append(state)
    return states


def followed(scan: Scan, operands: Sequence[Any]) -> list[Any]:
    """The operands, with an initial state that is recorded from its first use on.

    What a step computes from constants alone is not recorded, and that the state after depends on the one
    before would be lost: 0.9 * state[0], of zeros.
    """
    found = list(operands)
    nodes = [node_of(x) for x in operands if isinstance(x, Tensor)]
    if MODES.get().grad and any([node.requires_grad for node in nodes]):  # noqa: C419
        for i in range(1, 1 + len(scan.parts)):
            before: Any = node_of(operands[i])
            if not before.requires_grad:  # a leaf: the other one is around the same memory
                leaf = Leaf(before.value, True, before.memory, before.frozen)
                leaf.marks = before.marks
                found[i] = wrap(leaf.value, leaf)
    return found


@modes_kept
def recorded(node: Node, operands: Sequence[Any], **params: Any) -> list[State]:
    """The states of a recurrence, recorded where it was, on operands that stand for its inputs.

    ``params`` are those that differ from its own.

    Raises
    ------
    InPlaceError
        An input was changed after it was recorded.
    """
    node.check_inputs()
    with recording_as(Modes(True, operands[0].device, node.scope)):
        return run_steps(node.primitive, operands, {**node.params, **params})  # type: ignore[arg-type]


def operations(nodes: Iterable[Node]) -> set[str]:
    """The names of the operations inside recurrences; windows of one layer are looked at once."""
    steps: dict[Any, tuple[Any, dict[str, Any]]] = {}
    for node in filter(is_scan, nodes):
        options = own(node.params)  # which may be functions without a hash
        steps[node.primitive, *map(id, options.values())] = node.primitive, options
    return {op for scan, options in steps.values() for op in _operations(scan, options)}


@modes_kept
def _operations(scan: Scan, params: dict[str, Any]) -> set[str]:
    inputs = [ones((2, 1, 1)), *[ones((1, 1))] * len(scan.parts)]
    weight = ones((len(scan.gates), 1), requires_grad=True)
    others = [ones((blocks,), requires_grad=True) for blocks in scan.weights.values()]
    biases = [weight[:, 0], weight[:, 0] if scan.separate else 0]
    lengths = tensor([1], dtype="int64")
    operands = [*inputs, weight, weight, *biases, *others, lengths]
    with enable_grad():
        states = run_steps(scan, operands, {"shortest": 1, **params})
        nodes = ancestors([node_of(stack(list(part))) for part in zip(*states, strict=True)])
    return {node.op for node in nodes} - {"leaf"}


def unrolled(root: Node) -> Node:
    """The root of the same graph with its recurrences step by step; itself if there are none.

    See :func:`opening`.
    """
    return opening([root])(root)


def opening(roots: Sequence[Node], every: bool = True) -> Callable[[Node], Node]:
    """Open the recurrences behind some nodes; what is returned gives the node that stands for another.

    What lies before the first recurrence is shared, what comes after is made again around the same
    values. Inside, everything is computed again.

    Parameters
    ----------
    roots : sequence of Node
    every : bool
        Whether to open all. Otherwise those alone that have no loops of their own, and run by their
        definition.

    Raises
    ------
    FreedGraphError
        Part of the graph was freed by an earlier backward pass.
    InPlaceError
        An input of a recurrence was changed after it was recorded.
    """
    twins: dict[Any, Node | _Part] = {}
    for node in ancestors(roots, constants=True):
        if by_definition(node) or (every and is_scan(node)):
            twins[node] = _open(node, twins)
        elif any(x in twins for x in node.inputs or ()):
            source = twins.get(node.inputs[0])  # type: ignore[index]
            if node.op == "index" and isinstance(source, _Part):
                twins[node] = source.at(node)
            else:
                twins[node] = node.again(tuple([_twin(x, twins) for x in node.inputs or ()]))
    return lambda node: _twin(node, twins)


class _Part:
    """States along (parts, T) or (T,), of the scan that made them there; stacked when that is needed."""

    def __init__(self, states: list[Any], scope: Scope) -> None:
        self.states = states
        self.scope = scope
        self._whole: Tensor | None = None

    @modes_kept
    def whole(self) -> Tensor:
        if self._whole is None:
            parts = [s.whole() if isinstance(s, _Part) else s for s in self.states]
            with recording_as(Modes(True, parts[0].device, self.scope)):
                self._whole = stack(parts)
        return self._whole

    def at(self, node: Node) -> Node | _Part:
        """What an index into the whole gives: what the layer itself takes are the states as they are."""
        key = node.params["key"]
        if (
            node.scope.call == self.scope.call
            and len(key) == 1
            and isinstance(key[0], (int, slice))
        ):
            found = self.states[key[0]]
            if isinstance(found, list):
                return _Part(found, self.scope)
            return found if isinstance(found, _Part) else node_of(found)
        return node.again((_as_node(self), *(node.inputs or ())[1:]))


def _as_node(x: Any) -> Any:
    return node_of(x.whole()) if isinstance(x, _Part) else x


def _twin(x: Any, twins: dict[Any, Any]) -> Any:
    """What stands in the new graph for an input."""
    return _as_node(twins.get(x, x))


def _open(node: Node, twins: dict[Node, Any]) -> _Part:
    """The states of a recurrence, recorded step by step where it was recorded."""
    given = [_twin(x, twins) for x in node.inputs or ()]
    states = recorded(node, [wrap(x.value, x) if isinstance(x, Node) else x for x in given])
    parts = [_Part(list(part), node.scope) for part in zip(*states, strict=True)]
    return parts[0] if len(parts) == 1 else _Part(parts, node.scope)
