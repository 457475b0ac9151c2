"""``first_anomaly``: find the first NaN, infinity or underflow in a traced graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...arrays import backend
from ...arrays.backend import is_away
from ...engine.anomaly import is_floating, kind_of, kinds_among
from ...engine.backpropagation import pull
from ...engine.modes import modes_kept, no_grad
from ...engine.recording import Node
from ...kernels.powers import largest_exponent
from ...primitives.index import Slice
from ..loops.hosting import twins_of
from ..passes.scaling import times_power

if TYPE_CHECKING:
    from .graph import Graph, GraphNode  # which draws anomalies

POSITIVE = frozenset({"exp", "sigmoid"})
"""Operations whose result for finite numbers is 0 only by underflow."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """The first node of a graph at which numbers went wrong.

    Attributes
    ----------
    phase : {"forward", "backward"}
    kind : {"nan", "inf", "underflow"}
        ``"underflow"``: a gradient, or the result of ``exp`` or ``sigmoid``, all of whose elements are 0
        only because its dtype cannot hold them.
    node : GraphNode
        Forward: the operation that has this result. Backward: the operation whose derivative rule returned
        it. If no rule did (a sum that overflows, a given gradient), the node that has this gradient.
    produced : bool
        Whether it arose here; otherwise it came in from outside.
    """

    phase: Literal["forward", "backward"]
    kind: str
    node: GraphNode
    produced: bool

    def __str__(self) -> str:
        verb = "arises in" if self.produced else "comes in through"
        return f"{self.phase}: {self.kind} {verb} {self.node!r}"


def first_anomaly(graph: Graph) -> Anomaly | None:
    """Find the first NaN, infinity or number lost to underflow; None if there is none.

    The forward pass is searched from the oldest node on, then the backward pass from the latest. An
    infinity that comes in from outside, such as a score of −∞, is reported only if nothing else is found.

    Parameters
    ----------
    graph : Graph
        Made by :func:`trace`, and not freed since.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([1e-30], requires_grad=True)
    >>> loss = (x * x * x).sum()  # the derivative, 3e-60, is too small for float32
    >>> print(tg.inspect.first_anomaly(tg.inspect.trace(loss)))
    backward: underflow arises in <multiply (1,)>
    """
    graph = graph.opened()
    here, originals = _on_host(graph)
    found = _first(here)
    if found is None or here is graph:
        return found
    return replace(found, node=graph._node(originals[found.node._node]))


def _on_host(graph: Graph) -> tuple[Graph, dict[Node, Node]]:
    """Copy a graph to the host; also return the original of every new node."""
    nodes, seeds = graph._order, graph._seeds
    traced = [node for node in nodes if node in graph._grads]
    given = [(node, graph._value(node), graph._inputs(node)) for node in nodes]
    arrays = [*(graph._grads[node] for node in traced), *(g for _, g in seeds)]
    if not is_away([*(value for _, value, _ in given), *arrays]):
        return graph, {}
    twins, arrays = twins_of(given, arrays)
    grads = dict(zip([twins[node] for node in traced], arrays, strict=False))
    roots = [(twins[n], g) for (n, _), g in zip(seeds, arrays[len(traced) :], strict=True)]
    order = [twins[node] for node in nodes]
    return type(graph)(roots, order, grads), {twin: node for node, twin in twins.items()}


def _first(graph: Graph) -> Anomaly | None:
    """The first anomaly of a graph on the host."""
    given: Anomaly | None = None
    for node in graph:
        found = _in_value(node)
        if found and (found.produced or found.kind == "nan"):
            return found
        given = given or found
    for node in reversed(graph.nodes):
        if node.requires_grad and node.grad is not None and (found := _in_gradient(node)):
            return found
    return given


def _in_value(node: GraphNode) -> Anomaly | None:
    if not is_floating(node.value):
        return None
    numbers = [x for x in node._graph._inputs(node._node) if not isinstance(x, Node)]
    held = kinds_among([*numbers, *(x.value for x in node.inputs)])
    if kind := kind_of(node.value):
        passed_on = kind in held or (kind == "inf" and bool(held))
        return Anomaly("forward", kind, node, node.op != "leaf" and not passed_on)
    if node.op in POSITIVE and _is_zero(node.value) and math.prod(node.value.shape) and not held:
        return Anomaly("forward", "underflow", node, True)
    return None


def _in_gradient(node: GraphNode) -> Anomaly | None:
    if kind := kind_of(node.grad):
        edges = node.edges
        for edge in edges:  # the consumers' own gradients are finite
            if share := kind_of(edge.cotangent):
                return Anomaly("backward", share, edge.consumer, True)
        return Anomaly("backward", kind, node, bool(edges))
    if _is_zero(node.grad):
        edges = node.edges
        if all(_is_zero(edge.cotangent) for edge in edges):  # else they cancel
            for edge in edges:
                if _lost(node, edge.consumer):
                    return Anomaly("backward", "underflow", edge.consumer, True)
    return None


@modes_kept
def _lost(node: GraphNode, consumer: GraphNode) -> bool:
    """Whether the consumer's share would not be 0 if its gradient were as large as possible."""
    g = consumer.grad
    if _is_zero(g):
        return False
    raised = times_power(g, largest_exponent(g.dtype) - 2 - math.frexp(backend.norm(g))[1])
    with no_grad(), np.errstate(over="ignore", invalid="ignore"):
        shares = pull(consumer._node, raised, {node._node})
    return any(not _is_zero(s.value if type(s) is Slice else s) for _, s in shares)


def _is_zero(array: Any) -> bool:
    return not bool(backend.namespace(array).any(array != 0))
