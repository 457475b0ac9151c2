"""``Graph.through``: the shares of a node's gradient that pass each operation of a step.

The part of a gradient δ = ∂L/∂u that passes an operation v is Jᵀ ∂L/∂v, where J = ∂v/∂u. It is the result
of a backward pass from v to u, with ∂L/∂v as the cotangent. The operations of a step go back in one pass,
each on its own row of a leading axis.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import dense, descendants, pull
from ...engine.modes import modes_kept, no_grad
from ...engine.recording import Node
from ...errors import ArgumentError, FreedGraphError, GraphError, brief
from ..loops.step_rows import is_weight, only_moves
from ..loops.times import node_times
from ..passes.gradients import ScaledCotangents, Seed, gradients_inside
from ..passes.scaling import Band, HostArray, times_power, zeros_like
from ..table import TextTable, text_table
from .step_labels import labels_of

if TYPE_CHECKING:
    from ..graph.graph import Graph, GraphNode

ELEMENTS = 1 << 22
"""About so many elements of the operations' cotangents go back at once, which limits memory."""


@dataclass(frozen=True, eq=False, repr=False)
class Through:
    """The shares of a node's gradient that pass the operations of a step; see :meth:`Graph.through`.

    Attributes
    ----------
    target : GraphNode
        The node whose gradient it is.
    shares : dict of GraphNode to float
        By operation, the largest first. A way passes an operation and then its operands, so these do not
        add up to 1.
    entering : dict of GraphNode to float
        By operand from outside the step: the share that passes from the step to this operand, and goes on
        to the target without passing the step again. These ways are different from each other, so these
        shares and :attr:`elsewhere` add up to 1.
    elsewhere : float
        The share that does not pass the step.
    """

    target: GraphNode
    shares: dict[GraphNode, float]
    entering: dict[GraphNode, float]
    _title: str
    _labels: dict[GraphNode, str]

    @property
    def elsewhere(self) -> float:
        """The share that does not pass the step."""
        return 1.0 - sum(self.entering.values())

    def table(self, max_rows: int | None = 60) -> TextTable:
        """One line per operation, the largest share first; without operations that only move elements."""
        rows: list[tuple[object, ...]] = [
            (_Share(share), self._labels[node], node.op, node.module, node.time)
            for node, share in self.shares.items()
            if node in self._labels
        ]
        left = 0 if max_rows is None else max(0, len(rows) - max_rows)
        rows = rows[: len(rows) - left] + [("…", f"{left} more", "", "", "")] * bool(left)
        return text_table(("share", "operation", "", "module", "t"), rows, None)

    def __repr__(self) -> str:
        ways = [f"{share:.3f} to {_called(node)}" for node, share in self.entering.items()]
        rest = f"{abs(round(self.elsewhere, 3)):.3f}"
        return f"{self._title}\n{self.table(12)}\nFrom there {', '.join(ways)}; {rest} passes elsewhere."


class _Share(float):
    """A share that prints with three decimals."""

    def __str__(self) -> str:
        return f"{self:.3f}" if abs(self) >= 5e-4 or not self else f"{float(self):.0e}"


def through(
    graph: Graph, target: GraphNode | str | tuple[str, int], time: int | None, module: str | None
) -> Through:
    """See :meth:`Graph.through`; ``graph`` has no fused layers."""
    if not (module is None or isinstance(module, str)):
        raise ArgumentError(f"through: module {module!r} must be a path, such as 'lstm.l0'")
    node = _target_in(graph, target)
    if any(n.inputs is None for n in graph._order):
        raise FreedGraphError(
            "through: a backward pass after the trace freed the graph; ask before it, or pass it "
            "retain_graph=True"
        )
    step = _step(graph, node, time, module)
    shares, entering = shares_through(graph._seeds, graph._order, node._node, step)
    names = {n._node: n.name for n in graph if n.name}
    given = {
        x: "before" if x.marks else "input"
        for v in step
        for x in v.inputs or ()
        if isinstance(x, Node) and x not in step and (x.marks or not is_weight(x))
    }
    shown = [v for v in step if not only_moves(v, step)]
    every = sorted([*given, *shown], key=operator.attrgetter("order"))
    labels = labels_of(every, given, names)
    where = [] if module is None else [module]
    where += [] if time is None else [f"t = {time}"]
    title = f"∂L/∂{_called(node)} through {', '.join(where) or 'every operation'}:"
    return Through(
        node,
        {graph._node(v): share for v, share in _largest_first(shares)},
        {graph._node(u): share for u, share in _largest_first(entering) if share},
        title,
        {graph._node(v): label for v, label in labels.items()},
    )


def _largest_first(shares: dict[Node, float]) -> list[tuple[Node, float]]:
    """Sort shares; those that differ only by rounding stay in the order of the graph."""
    return sorted(shares.items(), key=lambda item: -round(abs(item[1]), 5))


def _called(node: GraphNode) -> str:
    at = "" if node.time is None else f" at t = {node.time}"
    name = node.name or f"{node.op} {node.shape}"
    return f"{name}{at}{f' in {node.module}' if node.module else ''}"


def _target_in(graph: Graph, target: GraphNode | str | tuple[str, int]) -> GraphNode:
    """The node that the user gave, itself or by its name and time.

    Raises
    ------
    GraphError
        It is not of the graph, or the loss does not depend on it.
    ArgumentError
        No node of that name and time, or several.
    """
    if isinstance(target, str) or (isinstance(target, tuple) and len(target) == 2):
        name, time = (target, None) if isinstance(target, str) else target
        found = graph.select(name=name, time=time)
        if len(found) != 1:
            at = "" if time is None or not found else f", time={time}"
            several = (
                f"{len(found)} nodes have this name: {brief(found)[1:-1]}"
                if found
                else "no node has this name"
            )
            raise ArgumentError(
                f"through: {target!r} must be one node, and {several}; give one of "
                f"graph.select(name={name!r}{at})"
            )
        node = found[0]
    else:
        node = graph._own(target)
    if node._node not in graph._grads and not node.requires_grad:
        raise GraphError(f"through: the loss has no gradient by {node!r}, which is a constant")
    return node


def _step(graph: Graph, target: GraphNode, time: int | None, module: str | None) -> list[Node]:
    """The operations of a step, or of a module, that are computed from the target.

    Raises
    ------
    ArgumentError
        There are none.
    """
    every = descendants({target._node}, graph._order)
    later = [n for n in every if n in graph._grads and n is not target._node]
    times = node_times(graph._order) if time is not None else {}
    inside = [n for n in later if _is_in(graph._node(n).module, module)]
    step = [n for n in inside if time is None or times.get(n) == time]
    if not step:
        there = sorted({times[n] for n in inside if n in times})
        modules = sorted({graph._node(n).module for n in later} - {""})
        if there:
            remedy = f"operations that are belong to t = {there[0]} to {there[-1]}"
        elif modules:
            remedy = f"operations that are belong to {brief(modules)[1:-1]}"
        else:
            remedy = "take one that the loss is computed from"
        at = ("" if module is None else f" of {module!r}") + (
            "" if time is None else f" at t = {time}"
        )
        raise ArgumentError(
            f"through: no operation{at} that leads to the loss is computed from {target!r}; {remedy}"
        )
    return step


def _is_in(module: str, path: str | None) -> bool:
    return path is None or module == path or module.startswith(path + ".")


class _Row(NamedTuple):
    """The cotangent of a node that goes back on one row, times 2**power."""

    node: Node
    cotangent: Array
    power: int


class _Gradient:
    """The target's gradient, divided by a power of two so that its largest element is about 1."""

    def __init__(self, bands: list[Band]) -> None:
        arrays = _on_host(bands)
        tops = [float(np.abs(a).max(initial=0.0)) for a in arrays]
        powers = [p + math.frexp(top)[1] for top, (_, p) in zip(tops, bands, strict=True) if top]
        self.power: int = max(powers, default=0)
        self.values: HostArray = np.zeros(())
        for a, (_, power) in zip(arrays, bands, strict=True):
            self.values = self.values + times_power(a, power - self.power)
        self.square = float(np.vdot(self.values, self.values))

    def share(self, part: HostArray, power: int) -> float:
        """⟨part · 2**power, δ⟩ / ‖δ‖²; NaN where the gradient is exactly 0."""
        if not self.square:
            return math.nan
        return float(np.vdot(times_power(part, power - self.power), self.values)) / self.square


@modes_kept
def shares_through(
    seeds: Sequence[Seed], nodes: list[Node], target: Node, step: Sequence[Node]
) -> tuple[dict[Node, float], dict[Node, float]]:
    """Return the shares of a node's gradient by a step's operations, and by its operands from outside.

    Parameters
    ----------
    seeds : sequence of (Node, array)
        The latest nodes, and their cotangents.
    nodes : list of Node
        The whole graph, oldest first, without fused layers.
    target : Node
    step : sequence of Node
        Operations computed from the target, without the target.
    """
    between = set(descendants({target}, nodes)).difference(step)
    with no_grad():
        bands = gradients_inside(seeds, {target, *step}, kind=ScaledCotangents, nodes=nodes).bands
        whole = _Gradient(bands.get(target, []))
        rows = [_Row(v, g, power) for v in step for g, power in bands.get(v, ())]
        given = [
            _Row(u, dense(u, g), row.power)
            for row in rows
            for u, g in pull(row.node, row.cotangent, between)
        ]
        return _back(rows, target, {target}, whole), _back(given, target, {target, *step}, whole)


def _back(rows: list[_Row], target: Node, ends: Set[Node], whole: _Gradient) -> dict[Node, float]:
    """The shares of the cotangents that go from the rows' nodes to the target, through no other end."""
    shares = dict.fromkeys([row.node for row in rows], 0.0 if whole.square else math.nan)
    for some in _chunks(rows):
        found = gradients_inside(_seeds(some), set(ends), stop=True, kind=ScaledCotangents)
        bands = found.bands.get(target, [])
        for part, (_, power) in zip(_on_host(bands), bands, strict=True):
            for i, row in enumerate(some):
                shares[row.node] += whole.share(part[i, ...], power + row.power)
    return shares


def _chunks(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Yield rows in pieces that fit into memory; every node of a piece has all its rows."""
    size = max((math.prod(row.node.value.shape) for row in rows), default=1)
    many = max(1, math.isqrt(ELEMENTS // max(size, 1)))
    for start in range(0, len(rows), many):
        yield rows[start : start + many]


def _seeds(rows: list[_Row]) -> list[Seed]:
    """The seed of each node, (rows, …): its cotangent on its own row, and 0 elsewhere."""
    seeds = []
    for node in dict.fromkeys(row.node for row in rows):
        with backend.on(node.value):
            own = [r.cotangent if r.node is node else zeros_like(node.value) for r in rows]
            seeds.append((node, backend.namespace(node.value).stack(own)))
    return seeds


def _on_host(bands: list[Band]) -> list[HostArray]:
    return [np.asarray(a, np.float64) for a in backend.fetch([array for array, _ in bands])]
