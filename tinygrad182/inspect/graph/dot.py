"""``Graph.to_dot``: a graph as text for Graphviz, as boxes or with all operations."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..._numbers import check_whole
from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.recording import Leaf, Node
from ..charts.magnitudes import number
from ..loops.times import marked_times, node_times
from ..microscope.network import Block, Network

MOST = 400
"""Most operations that are written by default; ``dot`` lays them out in a few seconds."""


def to_dot(
    network: Network,
    opened: bool = False,
    grads: Mapping[Node, Array] | None = None,
    most: int = MOST,
) -> str:
    r"""Write a network as text for Graphviz, with the input at the bottom.

    Parameters
    ----------
    network : Network
        See :func:`network_of`.
    opened : bool
        Whether to write every operation, with a cluster for each box and for each step of a recurrence;
        otherwise the boxes, and the gradient over their arrows. A fused layer is one operation here too: to
        see its steps, pass the network of :meth:`Graph.opened`.
    grads : mapping of Node to array, optional
        The derivatives of the loss by the nodes; their norms are written.
    most : int
        About so many operations are written. If there are more, only the first and the last steps of every
        recurrence are written (elsewhere, operations), at least one of each. A node and a comment on the
        first line say how many are left out.

    Raises
    ------
    ArgumentError
        ``most`` is not a whole number from 1.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> from tinygrad182.inspect.microscope.network import network_of
    >>> graph = tg.inspect.trace(tg.nn.Linear(2, 1, rng=0)(tg.ones((3, 2))).sum())
    >>> print(to_dot(network_of(graph._order, graph._seeds)))
    digraph {
      rankdir=BT;
      node [shape=box, style=rounded, fontname="sans-serif"];
      edge [fontname="sans-serif", fontsize=10];
      b0 [label="input\n‖∂L/∂·‖ 0.66"];
      b1 [label="Linear 2 → 1\nlinear\n‖∂L/∂·‖ 0.66"];
      b2 [label="loss\n‖∂L/∂·‖ 1.7"];
      b0 -> b1 [label="0.66", penwidth=4.4];
      b1 -> b2 [label="1.7", penwidth=5.0];
    }
    """
    most = check_whole("to_dot", "most", most, 1)
    lines = _opened(network, grads or {}, most) if opened else _rolled(network)
    return "\n".join(lines)


def quoted(text: str) -> str:
    r"""A text as a string for Graphviz; line breaks stay.

    >>> print(quoted('a "b" \\n'))
    "a \"b\" \\n"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


_BEGIN = [
    "  rankdir=BT;",
    '  node [shape=box, style=rounded, fontname="sans-serif"];',
    '  edge [fontname="sans-serif", fontsize=10];',
]


# --- rolled -------------------------------------------------------------------------------------


def _rolled(network: Network) -> Iterator[str]:
    yield "digraph {"
    yield from _BEGIN
    for i, block in enumerate(network.blocks):
        words = [block.title, block.path, f"‖∂L/∂·‖ {number(block.log10_grad_norm)}"]
        yield f"  b{i} [label={quoted(_lines(words))}];"
        if block.kind == "recurrence":
            loop = f"{', '.join(block.states)} × {block.steps} steps"
            yield f"  b{i} -> b{i} [label={quoted(loop)}];"
    top = max((link.log10_norm for link in network.links), default=0.0)
    for link in network.links:
        width = _width(link.log10_norm, top)
        label = quoted(number(link.log10_norm))
        yield f"  b{link.source} -> b{link.target} [label={label}, penwidth={width:.1f}];"
    yield "}"


def _width(log: float, top: float) -> float:
    """The width of an arrow: 5 for the largest gradient, 1.5 less for each decade, at least 0.5."""
    if math.isnan(log) or log == top:
        return 5.0
    return max(0.5, 5 - 1.5 * (top - log))


def _lines(words: Iterable[str]) -> str:
    return "\n".join(filter(None, words))


# --- opened -------------------------------------------------------------------------------------


@dataclass
class _Part:
    """One box with its operations by step; in a box without steps, each operation is one."""

    name: str
    block: Block
    always: list[Node]
    steps: dict[int, list[Node]]

    def shown_steps(self, ends: int) -> list[int]:
        """The first and the last steps."""
        steps = sorted(self.steps)
        return steps if len(steps) <= 2 * ends else [*steps[:ends], *steps[-ends:]]

    def size(self, ends: int) -> int:
        """The number of nodes that are written."""
        return len(self.always) + sum(len(self.steps[t]) for t in self.shown_steps(ends))


def _parts(network: Network) -> list[_Part]:
    """The boxes with their operations by step."""
    members = [node for block in network.blocks for node in block.members]
    times = node_times(sorted(members, key=lambda node: node.order))
    found = []
    for i, block in enumerate(network.blocks):
        part = _Part(f"b{i}", block, [], {})
        for place, node in enumerate(block.members):
            marked = next(iter(marked_times(node)), None)  # -1 for an initial state
            time = times.get(node, marked) if block.kind == "recurrence" else place
            (part.always if time is None else part.steps.setdefault(time, [])).append(node)
        found.append(part)
    return found


def _ends(parts: list[_Part], most: int) -> int:
    """The number of steps to write at each end, so that about ``most`` nodes are written."""
    longest = max((len(part.steps) for part in parts), default=1)
    sizes = range(1, longest // 2 + 2)
    fits = bisect_right(sizes, most, key=lambda ends: sum(part.size(ends) for part in parts))
    return max(1, fits)


def _opened(network: Network, grads: Mapping[Node, Array], most: int) -> Iterator[str]:
    parts = _parts(network)
    ends = _ends(parts, most)
    shown = [
        node
        for p in parts
        for node in [*p.always, *(n for t in p.shown_steps(ends) for n in p.steps[t])]
    ]
    total = sum(len(part.block.members) for part in parts)
    if len(shown) < total:
        yield f"// {len(shown)} of {total} nodes are written; {total - len(shown)} are left out"
    yield "digraph {"
    yield from _BEGIN
    names = {node: f"n{i}" for i, node in enumerate(shown)}
    labels = _labels(shown, grads)
    for part in parts:
        yield from _cluster(part, ends, names, labels)
    yield from _edges(parts, names)
    yield "}"


def _labels(nodes: list[Node], grads: Mapping[Node, Array]) -> dict[Node, str]:
    """The label of each node: its operation, its shape and the norms of its value and gradient."""
    valued = [node for node in nodes if node.value is not None]
    sloped = [node for node in nodes if node in grads]
    sizes = backend.norms([*(n.value for n in valued), *(grads[n] for n in sloped)])
    values = dict(zip(valued, sizes, strict=False))
    slopes = dict(zip(sloped, sizes[len(valued) :], strict=True))
    found = {}
    for node in nodes:
        name = node.marks[-1].name if node.marks else node.name if isinstance(node, Leaf) else ""
        words = [f"{node.op} {name}".strip()]
        if node in values:
            words += [str(tuple(node.value.shape)), f"‖value‖ {values[node]:.3g}"]
        if node in slopes:
            words.append(f"‖grad‖ {slopes[node]:.3g}")
        found[node] = _lines(words)
    return found


def _cluster(
    part: _Part, ends: int, names: dict[Node, str], labels: dict[Node, str]
) -> Iterator[str]:
    """One box, with a cluster for each step and a node for the operations that are left out."""
    yield f"  subgraph cluster_{part.name} {{"
    yield f"    label={quoted(_lines([part.block.title, part.block.path]))};"
    shown = part.shown_steps(ends)
    for node in part.always:
        yield f"    {names[node]} [label={quoted(labels[node])}];"
    for time in shown:
        looped = part.block.kind == "recurrence"
        if looped:
            yield f"    subgraph cluster_{part.name}_{time + 1} {{"
            yield f'      label="t = {time}";'
        for node in part.steps[time]:
            yield f"    {'  ' * looped}{names[node]} [label={quoted(labels[node])}];"
        if looped:
            yield "    }"
    if len(shown) < len(part.steps):
        out = sum(len(nodes) for t, nodes in part.steps.items() if t not in set(shown))
        steps = (
            f"{len(part.steps) - len(shown)} steps with " if part.block.kind == "recurrence" else ""
        )
        yield f'    {part.name}_out [label="{steps}{out} nodes\\nleft out", style=dashed];'
    yield "  }"


def _edges(parts: list[_Part], names: dict[Node, str]) -> Iterator[str]:
    """Every edge once; edges of operations that are left out go to the node in their place."""
    places = {n: names.get(n, f"{part.name}_out") for part in parts for n in part.block.members}
    written: dict[tuple[str, str], None] = {}
    for target, place in places.items():
        for x in target.inputs or ():
            if isinstance(x, Node) and (x in names or target in names or places[x] != place):
                written[places[x], place] = None
    for source, place in written:
        yield f"  {source} -> {place};"
