"""``graph.show()``: print a graph as a tree of modules, with each recurrence's norms over time."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..._numbers import check_whole
from ...arrays import backend
from ...display.reprs import scientific
from ..passes.scaling import HostArray, log10

if TYPE_CHECKING:
    from ..views.gradient_flow import StateFlow
    from .graph import GraphNode

Line = list[tuple[str, str]]
"""Pieces of text, each with a style of the package rich; without rich there are no styles."""

BLOCKS = "▁▂▃▄▅▆▇█"
LEVELS = ("red", "magenta", "cyan", "green")
"""Colours from the lowest to the highest quarter of a scale, visible on dark and on light ground."""

UNCOLOURED = ("",)
"""The style of the values, which are less important than gradients."""

ALARM = "bold reverse"
"""The style of NaN and infinities. Exact zeros are normal: a loss may not depend on all steps."""

MARKS: dict[str, tuple[str, Callable[[HostArray], HostArray]]] = {
    "0": ("exactly 0", np.isneginf),
    "N": ("NaN", np.isnan),
    "∞": ("infinite", np.isposinf),
}
"""Characters in the place of a block, each with its meaning and the logarithms that it marks."""

MOST = 10
"""Most parameters, operations or submodules shown of one module; if more, the first and the last."""

MOST_MODULES = 4
"""Submodules shown if there are more than :data:`MOST`: each adds several lines."""

DEEPEST = 8
"""Levels of the tree; modules that are nested deeper are all on the last level."""

NARROWEST = 50
COLUMN = 10
"""Characters of the column of gradient norms."""


Flow = Mapping[str, Mapping[str, "StateFlow"]]


def show(nodes: Iterable[GraphNode], flow: Flow | None = None, width: int | None = None) -> None:
    """Print a graph as a tree of modules, in colours where rich is installed and the terminal has them.

    Colours carry no information: without rich, or in a pipe, the text is the same.

    Parameters
    ----------
    nodes : iterable of GraphNode
        The nodes of a traced graph, which may have fused layers.
    flow : GradientFlow, optional
        The states of the graph's recurrences; None for a feed-forward graph.
    width : int, optional
        Columns, at least 50; by default the terminal's, or 80 where there is none.

    Raises
    ------
    ArgumentError
        ``width`` is not a whole number from 1.
    """
    width = None if width is None else check_whole("show", "width", width, 1)
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        columns = width or shutil.get_terminal_size((80, 24)).columns
        print(text(described(nodes, flow, columns)))  # noqa: T201 - what it is for
        return
    console = Console(width=width, highlight=False)
    lines = described(nodes, flow, console.width)
    whole = Text("\n").join(Text.assemble(*line) for line in lines)
    console.print(whole, no_wrap=True, overflow="ignore", crop=False)


def text(lines: Iterable[Line]) -> str:
    """Lines without their styles."""
    return "\n".join("".join(piece for piece, _ in line).rstrip() for line in lines)


# --- the tree -----------------------------------------------------------------------------------


class _Module:
    """The nodes recorded in one module, and the modules inside it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.parameters: list[tuple[str, GraphNode]] = []
        self.operations: list[GraphNode] = []
        self.steps: list[GraphNode] = []
        self.inside: dict[str, _Module] = {}

    def at(self, path: str) -> _Module:
        """The module of a path below this one; created if it is new."""
        found, so_far = self, ""
        for part in path.split(".", DEEPEST) if path else ():
            so_far = f"{so_far}.{part}" if so_far else part
            found = found.inside.setdefault(part, _Module(so_far))
        return found


def described(nodes: Iterable[GraphNode], flow: Flow | None, width: int) -> list[Line]:
    """Return the lines that :func:`show` prints."""
    root, every, flow = _Module(""), list(nodes), flow or {}
    for node in every:
        if node.op != "leaf":
            module = root.at(node.module)
            outside = node.time is None or node.time < 0
            (module.operations if outside else module.steps).append(node)
        elif _is_parameter(node):
            path, _, name = node.name.rpartition(".")
            root.at(path).parameters.append((name or "parameter", node))
    for path in flow:
        root.at(path)
    operations = _count(sum(node.op != "leaf" for node in every), "operation")
    parameters = _count(sum(map(_is_parameter, every)), "parameter")
    width = max(width, NARROWEST)
    heading = _row([(f"graph of {operations}, {parameters}", "bold")], "‖gradient‖", width)
    return [heading, *_branches(_contents(root, flow), "", width)]


def _is_parameter(node: GraphNode) -> bool:
    return node.op == "leaf" and node.requires_grad and node.time is None


class _Branch(NamedTuple):
    """One entry of the tree: its line, its gradient norm, and the entries below it."""

    pieces: Line
    log10_norm: float | None
    below: Sequence[_Branch | _Block] = ()


class _Block(NamedTuple):
    """A recurrence's norms over time."""

    states: Mapping[str, StateFlow]


def _contents(module: _Module, flow: Flow) -> list[_Branch | _Block]:
    """The entries below a module in the tree, in order.

    In a graph with recurrences, the operations of a module are counted on one line; otherwise each is
    shown.
    """
    norms = _log10_norms([node for _, node in module.parameters])
    leaves = [
        _Branch([(f"{name} {_shape(node)}", "")], norm)
        for (name, node), norm in zip(module.parameters, norms, strict=True)
    ]
    below = [
        _Branch([(part.path, "bold")], None, _contents(part, flow))
        for part in module.inside.values()
    ]
    return [
        *_cut(leaves, "parameters"),
        *_cut(below, "modules", MOST_MODULES),
        *(_in_one(module.operations) if flow else _one_by_one(module.operations)),
        *_loop(module.steps),
        *([_Block(flow[module.path])] if module.path in flow else []),
    ]


def _one_by_one(operations: list[GraphNode]) -> list[_Branch]:
    rows = [
        _Branch([(f"{_called(node)} {_shape(node)}", "")], norm)
        for node, norm in zip(operations, _log10_norms(operations), strict=True)
    ]
    return _cut(rows, "operations")


def _in_one(operations: list[GraphNode]) -> list[_Branch]:
    """Count operations on one line, with the shape and the gradient of the last one."""
    if not operations:
        return []
    last = operations[-1]
    said = f"{_counted(operations)} → {_shape(last)}"
    return [_Branch([(said, "")], next(_log10_norms([last])))]


def _loop(steps: list[GraphNode]) -> list[_Branch]:
    """Count the operations of a loop whose steps were recorded one by one."""
    if not steps:
        return []
    count = _count(len({node.time for node in steps}), "step")
    return [_Branch([(f"{count}: {_counted(steps)}", "")], None)]


def _counted(nodes: list[GraphNode]) -> str:
    ops = Counter(map(_called, nodes))
    return ", ".join(f"{op} ×{n:,}" if n > 1 else op for op, n in ops.items())


def _branches(entries: Sequence[_Branch | _Block], indent: str, width: int) -> Iterator[Line]:
    """The lines of entries, with the tree's lines before them."""
    last_branch = max((i for i, e in enumerate(entries) if isinstance(e, _Branch)), default=-1)
    for i, entry in enumerate(entries):
        last = i >= last_branch
        bar = indent + ("   " if last else "│  ")
        if isinstance(entry, _Block):
            for line in over_time(entry.states, width - len(bar)):
                yield [(bar, ""), *line]
            continue
        norm = "" if entry.log10_norm is None else scientific(entry.log10_norm)
        corner = indent + ("└─ " if last else "├─ ")
        yield _row([(corner, ""), *entry.pieces], norm, width)
        yield from _branches(entry.below, bar, width)


def _row(pieces: Line, number: str, width: int) -> Line:
    """A line with a number at its right end; a long text is cut."""
    room, cut = width - COLUMN - 1, []
    for piece, style in pieces:
        cut.append((piece if len(piece) <= room else piece[: max(room - 1, 0)] + "…", style))
        room -= len(cut[-1][0])
    return [*cut, (" " * room + number.rjust(COLUMN + 1), "")] if number else cut


def _cut(entries: list[_Branch], what: str, shown: int = MOST) -> list[_Branch]:
    """All entries, or the first and the last of many."""
    if len(entries) <= MOST:
        return entries
    hidden = _Branch([(f"… {len(entries) - shown:,} more {what}", "")], None)
    return [*entries[: shown // 2], hidden, *entries[-(shown // 2) :]]


def _called(node: GraphNode) -> str:
    return f"{node.op} {node.name!r}" if node.name else node.op


def _shape(node: GraphNode) -> str:
    return " × ".join(map(str, node.shape)) or "scalar"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number:,} {what}s"


def _log10_norms(nodes: list[GraphNode]) -> Iterator[float | None]:
    """The gradients' norms in decades; None for a node that gets no gradient."""
    grads = [node.grad if node.requires_grad else None for node in nodes]
    norms = iter(backend.norms([g for g in grads if g is not None]))
    for g in grads:
        yield None if g is None else float(log10(np.float64(next(norms))))


# --- norms over time ----------------------------------------------------------------------------


class _Series(NamedTuple):
    """One row of a recurrence's block, and the ends of its scale."""

    label: str
    log10: HostArray
    low: float
    high: float
    colours: tuple[str, ...]


def over_time(states: Mapping[str, StateFlow], width: int) -> list[Line]:
    """The norms of a recurrence's states and of their gradients over time, one row each."""
    grads = {f"‖∂L/∂{name}_t‖": s.log10_grad_norm for name, s in states.items()}
    values = {f"‖{name}_t‖": log10(s.value_norm) for name, s in states.items()}
    rows = [
        _Series(label, log10, *scale_of(group.values()), colours)
        for group, colours in ((grads, LEVELS), (values, UNCOLOURED))
        for label, log10 in group.items()
    ]
    time = next(iter(states.values())).time.tolist()
    ends = [[scientific(row.log10[i]) for row in rows] for i in (0, -1)]
    margin = [max(map(len, column)) for column in ([row.label for row in rows], *ends)]
    every = math.ceil(len(time) / max(width - sum(margin) - 4, 1))
    lines = [
        [
            (f"{row.label:<{margin[0]}}  {first:>{margin[1]}} ", ""),
            *sparkline(row.log10, every, row.low, row.high, row.colours),
            (f" {last}", ""),
        ]
        for row, first, last in zip(rows, *ends, strict=True)
    ]
    scales = (("gradients", rows[0]), ("values", rows[len(states)]))
    notes = [
        f"t = {time[0]} … {time[-1]}; each character is "
        + ("1 step" if every == 1 else f"the smallest of {every} steps"),
        *(f"{what}: {_scale(row)}" for what, row in scales),
        *_dips(rows[: len(states)], time),
        *_legend(rows, time),
    ]
    wrapped = (
        line for note in notes for line in textwrap.wrap(note, width, subsequent_indent="  ")
    )
    return [*lines, *([(line, "")] for line in wrapped)]


def scale_of(series: Iterable[HostArray]) -> tuple[float, float]:
    """The smallest and the largest finite value, at least a decade apart."""
    finite = np.concatenate([log10[np.isfinite(log10)] for log10 in series])
    if not len(finite):
        return -1.0, 0.0
    high = float(finite.max())
    return min(float(finite.min()), high - 1.0), high


def _scale(row: _Series) -> str:
    decades = f"{row.high - row.low:.1f}".removesuffix(".0")
    unit = "decade" if decades == "1" else "decades"
    return f"{BLOCKS[0]} {scientific(row.low)} to {BLOCKS[-1]} {scientific(row.high)}, {decades} {unit}"


def sparkline(
    log10: HostArray, every: int, low: float, high: float, colours: tuple[str, ...] = LEVELS
) -> Line:
    """One character for every ``every`` steps: the height of their smallest value on the scale.

    So a dip stays visible. A NaN or an infinity among the steps is shown instead of the height.
    """
    starts = np.arange(0, len(log10), every)
    smallest = np.minimum.reduceat(log10, starts)
    infinite = np.logical_or.reduceat(np.isposinf(log10), starts)
    pieces: Line = []
    for x, overflows in zip(smallest.tolist(), infinite.tolist(), strict=True):
        height = math.inf if overflows and x == x else (x - low) / (high - low)
        piece, style = _character(height, colours)
        if pieces and pieces[-1][1] == style:
            pieces[-1] = pieces[-1][0] + piece, style
        else:
            pieces.append((piece, style))
    return pieces


def _character(height: float, colours: tuple[str, ...]) -> tuple[str, str]:
    """The block of a height from 0 to 1, or a mark, and its style."""
    if height == -math.inf:
        return "0", ""
    if not math.isfinite(height):
        return "N" if math.isnan(height) else "∞", ALARM
    level = min(int(height * len(BLOCKS)), len(BLOCKS) - 1)
    return BLOCKS[level], colours[level * len(colours) // len(BLOCKS)]


def _dips(gradients: list[_Series], time: list[int]) -> Iterator[str]:
    """Say where gradients are smallest, if that is at neither end of time."""
    for row in gradients:
        finite = np.where(np.isfinite(row.log10), row.log10, math.inf)
        i = int(finite.argmin())
        if finite[i] < min(finite[0], finite[-1]):
            yield f"{row.label} is smallest at t = {time[i]}: {scientific(row.log10[i])}"


def _legend(rows: list[_Series], time: list[int]) -> Iterator[str]:
    """Explain the marks that occur, and say at which steps."""
    for mark, (meaning, occurs) in MARKS.items():
        for row in rows:
            at = np.flatnonzero(occurs(row.log10))
            if len(at):
                span = f"t = {time[at[0]]}" + (f" … {time[at[-1]]}" if len(at) > 1 else "")
                yield f"{mark}: {row.label} is {meaning} at {_count(len(at), 'step')}, {span}"
