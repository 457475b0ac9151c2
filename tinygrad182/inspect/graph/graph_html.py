"""A traced graph in a notebook: tables of its modules and its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...arrays import backend
from ...arrays.namespaces import Array
from ...display.reprs import MOST_ROWS, fold, shown, table, times

if TYPE_CHECKING:
    from .graph import GraphNode

MOST_KINDS = 8
"""Most kinds of operations that are named for each module."""


def graph_html(
    nodes: list[GraphNode], arrays: Callable[[GraphNode], tuple[Array, Array | None]]
) -> str:
    """A graph as two tables, of which the second is folded.

    Arrays are read only for the nodes that the table shows, so a graph of any size is shown quickly.

    Parameters
    ----------
    nodes : list of GraphNode
        Oldest first.
    arrays : callable
        Returns the value of a node, and the loss's gradient by it, or None.
    """
    line = f"<b>graph</b> of {len(nodes):,} nodes"
    return shown(
        fold(
            line, _by_module(nodes), fold("nodes, oldest first", _nodes(nodes, arrays)), opened=True
        )
    )


def _by_module(nodes: list[GraphNode]) -> str:
    kinds: dict[str, Counter[str]] = {}
    for node in nodes:
        kinds.setdefault(node.module, Counter())[node.op] += 1
    rows = [
        (module or "outside modules", counts.total(), _counted(counts))
        for module, counts in kinds.items()
    ]
    return table(("module", "nodes", "operations"), rows)


def _counted(counts: Counter[str]) -> str:
    most = counts.most_common(MOST_KINDS)
    named = [op if n == 1 else f"{op} × {n:,}" for op, n in most]
    if len(counts) > MOST_KINDS:
        named.append(f"{len(counts) - MOST_KINDS} more kinds")
    return ", ".join(named)


def _nodes(
    nodes: list[GraphNode], arrays: Callable[[GraphNode], tuple[Array, Array | None]]
) -> str:
    half = MOST_ROWS // 2
    ends = nodes if len(nodes) <= MOST_ROWS else [*nodes[:half], *nodes[-half:]]
    pairs = [arrays(node) for node in ends]
    norms = iter(backend.norms([x for pair in pairs for x in pair if x is not None]))
    rows = [
        (
            x.op,
            x.name,
            x.module,
            x.time,
            times(x.shape),
            *(a if a is None else next(norms) for a in pair),
        )
        for x, pair in zip(ends, pairs, strict=True)
    ]
    header = ("op", "name", "module", "t", "shape", "‖value‖", "‖gradient‖")
    return table(header, rows, count=len(nodes))
