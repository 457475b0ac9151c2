"""Recurrences step by step: how unrolled layers run, and how the inspector opens fused ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from . import functions
from ._tensor import Tensor
from .backpropagation import ancestors
from .creation import ones, tensor
from .functions import stack
from .marks import mark
from .modes import Modes, Scope, at_time, enable_grad, modes_kept, recording_as
from .recording import Node, node_of, wrap
from .recurrence import Scan, own

State = tuple[Tensor, ...]
"""The parts of a state: (h,) or (h, c)."""


@modes_kept
def run_steps(scan: Scan, operands: Sequence[Any], params: dict[str, Any]) -> list[State]:
    """The states of a recurrence run step by step, each marked with its name and time."""
    steps = scan.unrolled(functions, *operands, **params)
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


def is_scan(node: Node) -> bool:
    """Whether a node is a recurrence over a whole sequence."""
    return isinstance(node.primitive, Scan)


def operations(node: Node) -> frozenset[str]:
    """The names of the operations inside a recurrence."""
    return _operations(node.primitive, **own(node.params))


@cache
@modes_kept
def _operations(scan: Scan, **params: Any) -> frozenset[str]:
    inputs = [ones((2, 1, 1)), *[ones((1, 1))] * len(scan.parts)]
    weight = ones((len(scan.gates), 1), requires_grad=True)
    others = [ones((blocks,), requires_grad=True) for blocks in scan.weights.values()]
    biases = [weight[:, 0], weight[:, 0] if scan.separate else 0]
    lengths = tensor([1], dtype="int64")
    operands = [*inputs, weight, weight, *biases, *others, lengths]
    with enable_grad():
        states = run_steps(scan, operands, {"shortest": 1, **params})
        nodes = ancestors([node_of(stack(list(part))) for part in zip(*states, strict=True)])
    return frozenset(node.op for node in nodes) - {"leaf"}


def steps_of_scan(node: Node) -> range:
    """The time steps that a scan computed."""
    start = node.params.get("start", 0)
    return range(start, start + node.value.shape[-3])


def unrolled(root: Node) -> Node:
    """The root of the same graph with its recurrences step by step.

    What lies before the first recurrence is shared, what comes after is made again around the same
    values. Inside, everything is computed again. The root itself where there is nothing to open.

    Raises
    ------
    FreedGraphError
        Part of the graph was freed by an earlier backward pass.
    InPlaceError
        An input of a recurrence was changed after it was recorded.
    """
    nodes = ancestors([root], constants=True)
    if not any(map(is_scan, nodes)):
        return root
    twins: dict[Any, Node | _Part] = {}
    for node in nodes:
        if is_scan(node):
            twins[node] = _open(node, twins)
        elif any(x in twins for x in node.inputs or ()):
            source = twins.get(node.inputs[0])  # type: ignore[index]
            if node.op == "index" and isinstance(source, _Part):
                twins[node] = source.at(node)
            else:
                twins[node] = _again(node, [_twin(x, twins) for x in node.inputs or ()])
    return _as_node(twins[root])


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
        return _again(node, [_as_node(self), *(node.inputs or ())[1:]])


def _as_node(x: Any) -> Any:
    return node_of(x.whole()) if isinstance(x, _Part) else x


def _twin(x: Any, twins: dict[Any, Any]) -> Any:
    """What stands in the new graph for an input."""
    return _as_node(twins.get(x, x))


@modes_kept
def _open(node: Node, twins: dict[Node, Any]) -> _Part:
    """The states of a recurrence, recorded step by step where it was recorded."""
    given: list[Any] = []
    for x in node.inputs or ():
        if not isinstance(x, Node):
            given.append(x)
            continue
        if x.memory is not None:
            x.check_unchanged(node)
        twin = _twin(x, twins)
        given.append(wrap(twin.value, twin))
    with recording_as(Modes(True, given[0].device, node.scope)):
        states = run_steps(node.primitive, given, node.params)  # type: ignore[arg-type]
        parts = [_Part(list(part), node.scope) for part in zip(*states, strict=True)]
    return parts[0] if len(parts) == 1 else _Part(parts, node.scope)


def _again(node: Node, inputs: list[Any]) -> Node:
    """Record an operation on other inputs, around the same value."""
    for x in node.inputs or ():
        if isinstance(x, Node) and x.memory is not None:
            x.check_unchanged(node)
    twin = Node(node.primitive, tuple(inputs), node.value, node.params, node.scope)
    twin.marks, twin.saved, twin.memory = node.marks, node.saved, node.memory
    return twin
