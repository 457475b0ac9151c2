"""``first_anomaly``: where a graph first went wrong, found after the fact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .. import backend
from ..anomaly import is_floating, kind_of
from ..backpropagation import pull
from ..modes import no_grad
from ..primitives.index import Slice
from .graph import Graph, GraphNode
from .scaling import largest_exponent, times_power


@dataclass(frozen=True, slots=True)
class Anomaly:
    """The first node of a graph at which numbers went wrong.

    Attributes
    ----------
    phase : {"forward", "backward"}
    kind : {"nan", "inf", "underflow"}
        ``"underflow"``: a gradient that is exactly 0 only because its type cannot hold it.
    node : GraphNode
        Forward: the operation whose result it is. Backward: the node whose gradient it is.
    produced : bool
        Whether it arose here, from finite numbers; otherwise it came in from outside.
    """

    phase: Literal["forward", "backward"]
    kind: str
    node: GraphNode
    produced: bool

    def __str__(self) -> str:
        verb = "arises in" if self.produced else "comes in through"
        return f"{self.phase}: {self.kind} {verb} {self.node!r}"


def first_anomaly(graph: Graph) -> Anomaly | None:
    """Find the first NaN, infinity or gradient lost to underflow; None if there is none.

    The forward pass is searched from the oldest node on, then the backward pass from the latest.

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
    backward: underflow arises in <leaf (1,)>
    """
    for node in graph:
        if is_floating(node.value) and (kind := kind_of(node.value)):
            sick = any(is_floating(x.value) and kind_of(x.value) for x in node.inputs)
            return Anomaly("forward", kind, node, node.op != "leaf" and not sick)
    for node in reversed(graph.nodes):
        if node.requires_grad and node.grad is not None and (found := _in_gradient(node)):
            return found
    return None


def _in_gradient(node: GraphNode) -> Anomaly | None:
    consumers = [c for c in node.consumers if c.requires_grad and c.grad is not None]
    if kind := kind_of(node.grad):
        sick = any(kind_of(c.grad) for c in consumers)
        return Anomaly("backward", kind, node, bool(consumers) and not sick)
    if _is_zero(node.grad) and any(_lost(node, c) for c in consumers):
        return Anomaly("backward", "underflow", node, True)
    return None


def _lost(node: GraphNode, consumer: GraphNode) -> bool:
    """Whether the consumer's share would not be 0 if its own gradient were as large as can be."""
    g = consumer.grad
    if _is_zero(g):
        return False
    raised = times_power(g, largest_exponent(g.dtype) - 2 - math.frexp(backend.norm(g))[1])
    with no_grad(), np.errstate(over="ignore", invalid="ignore"):
        shares = pull(consumer._node, raised, {node._node})
    return any(not _is_zero(s.value if type(s) is Slice else s) for _, s in shares)


def _is_zero(array: Any) -> bool:
    xp = backend.namespace(array)
    with backend.on(array):
        return not bool(xp.any(array != 0))
