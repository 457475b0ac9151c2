"""One step of a recurrence opened into its operations, with the gradient that flows over every edge."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...display.charts import (
    BLUE,
    GREEN,
    GREY,
    MAGNITUDE,
    ORANGE,
    PINK,
    Row,
    altair,
    data,
    encoded,
    layered,
)
from ..charts.magnitudes import coded, norm_text
from ..passes.scaling import HostArray
from ..views.step_flow import StepEdge, StepFlow, StepOperation
from .step_layout import Layout, Place, laid_out

Times = Mapping[int, Sequence[int]]

WIDTH = 1150
"""The width of the page, without room for the labels of an axis."""
HEAD = 62
"""Pixels above the operations, for the title."""

DECADES = 6
"""Decades below the largest gradient of the step over which an edge's width and colour differ."""

_STROKES = {"gate": BLUE, "state": GREEN, "before": GREEN}
_BOX = "In a box: the norm of its value, then (∂) the norm of its gradient. "
_FACTOR = "× on an edge: the factor of the gradient on its way back to the left. "
_SHARES = "% on an edge: the share of the left box's gradient that comes back over it"
_REST = " (the rest of {}'s came to it at its own step)"
_WIDTH = f"5 + datum.below * {4 / DECADES}"
"""Width of an edge: from 5 pixels for the largest gradient of the step to 1 pixel."""


def step_chart(
    flows: Mapping[int, StepFlow],
    drawn: Times,
    linked: bool = False,
    titles: Mapping[int, str] | None = None,
) -> Any:
    """Draw the operations of the chosen step of the chosen block, from left to right.

    An edge's width and colour show the gradient it carries, in decades below the largest of this step;
    the number below it (×) is what the norm of the gradient is multiplied by from the operation that uses
    the result to what comes back over the edge; the one above it (%), where a result has several uses,
    its share of the gradient of the operation it comes from. A factor without room is in the tooltip. An
    edge with a negative share is dashed; one that carries a NaN or an infinity is pink, one that carries
    exactly 0 grey and dotted, with "NaN", "∞" or "0" on it. Expressions refer to the parameters
    ``block``, ``step`` and ``node``, which are the caller's.

    Parameters
    ----------
    flows : mapping of int to StepFlow
        By the position of the block in :attr:`Network.blocks`.
    drawn : mapping of int to sequence of int
        The times that are drawn of each block; ``step`` is an index into them.
    linked : bool
        Add the point selection ``pick_node`` (fields ``node``, an index into
        :attr:`StepFlow.operations`, and ``block``). A click on an edge takes the operation it comes from.
    titles : mapping of int to str, optional
        The name of a block without a path; of a module, text behind the path.
    """
    alt = altair()
    drawings = {block: _Drawing(flow, _measured(flow)) for block, flow in flows.items()}
    height = HEAD + max((drawing.height for drawing in drawings.values()), default=0)
    picked = {block: _indices(flow, drawn[block]) for block, flow in flows.items()}
    rows = [(block, drawings[block], picked[block]) for block in flows]
    heads = data([_head(*row, (titles or {}).get(row[0], "")) for row in rows])
    edges = data([row for block, drawing, times in rows for row in drawing.edges(block, times)])
    boxes = data([row for block, drawing, times in rows for row in drawing.boxes(block, times)])
    axes = _Axes(
        alt.Scale(domain=[0, WIDTH], nice=False), alt.Scale(domain=[height, 0], nice=False)
    )
    layers = [
        *_title(heads),
        _chosen(boxes),
        *_curves(edges, axes),
        *_boxes(boxes, axes, linked),
        *_edge_texts(edges, axes),
        *_box_texts(boxes, axes),
    ]
    return layered(layers, width=WIDTH, height=height)


def _indices(flow: StepFlow, times: Sequence[int]) -> list[int]:
    at = {int(t): k for k, t in enumerate(flow.time)}
    return [at[int(t)] for t in times]


class _Measures(NamedTuple):
    """Sizes of a drawing in pixels, and which texts there is room for."""

    layout: Layout
    lefts: list[float]
    rights: list[float]
    pitch: float
    box: float
    numbers: bool
    factors: bool
    labels: bool


def _measured(flow: StepFlow) -> _Measures:
    """Choose the texts that fit: labels, norms and factors, or fewer."""
    layout = laid_out(flow)
    longest = [0] * layout.slots
    for op, place in zip(flow.operations, layout.places, strict=True):
        longest[place.slot] = max(longest[place.slot], len(op.label))
    full = [min(max(58.0, 7.5 * n + 10), 130.0) for n in longest]
    short = [min(max(26.0, 7.5 * n + 10), 130.0) for n in longest]
    gaps = _gaps(flow, layout, factors=True)
    factors = numbers = sum(full) + _END + sum(gaps) <= WIDTH
    if not factors:
        gaps = _gaps(flow, layout, factors=False)
        numbers = sum(full) + _END + sum(gaps) <= WIDTH
    widest = _widest(short, WIDTH - _END - sum(gaps))
    labels = numbers or widest >= min(40, max(short))
    widths = full if numbers else [min(width, widest) for width in short]
    if not labels:
        widths = [min(12.0, (WIDTH - _END) / (3 * layout.slots))] * layout.slots
        gaps = [0.0] * layout.slots
    spare = min((WIDTH - _END - sum(widths) - sum(gaps)) / layout.slots, 54)
    lefts = [sum(widths[:k]) + sum(gaps[:k]) + spare * k for k in range(layout.slots + 1)]
    rights = [left + width for left, width in zip(lefts, [*widths, _END], strict=True)]
    least, most, box = (54, 84, 46) if numbers else (28, 60, 22) if labels else (14, 40, 10)
    pitch = min(max(300 / layout.lanes, least), most)
    return _Measures(layout, lefts, rights, pitch, box, numbers, factors, labels)


def _gaps(flow: StepFlow, layout: Layout, factors: bool) -> list[float]:
    """The smallest gap behind each slot; wider before an edge with a number."""
    uses = Counter(edge.source for edge in flow.edges)
    gaps = [20.0] * layout.slots
    for edge in flow.edges:
        inside = isinstance(edge.target, int)
        slot = layout.places[int(edge.target)].slot if inside else layout.slots
        if _is_part(flow, edge, uses) or (factors and inside):
            gaps[slot - 1] = _WRITTEN
    return gaps


def _is_part(flow: StepFlow, edge: StepEdge, uses: Mapping[int, int]) -> bool:
    """Whether the source's gradient comes over other edges too, so that the edge has a share."""
    return uses[edge.source] > 1 or flow.operations[edge.source].kind == "before"


def _widest(widths: Sequence[float], room: float) -> float:
    """The width to which the widest boxes are cut so that all fit.

    >>> from tinygrad182.inspect.microscope.opened_step import _widest
    >>> _widest([10.0, 30.0, 50.0], 70.0)
    30.0
    """
    for k, width in enumerate(sorted(widths)):
        share = room / (len(widths) - k)
        if width > share:
            return share
        room -= width
    return max(widths, default=0.0)


_END = 60.0
"""Pixels of "next step", at the right edge."""

_WRITTEN = 46.0
"""Pixels of a gap with a number on an edge."""

_LINE = 12.0
"""Pixels of the height of a number on an edge, with its distance to the line."""

_STUB = 3
"""Pixels of an edge before its bend."""


class _Drawing:
    """The data of one block: boxes and edges with coordinates, and numbers over time."""

    def __init__(self, flow: StepFlow, measures: _Measures) -> None:
        self.flow, self.measures = flow, measures
        self.height = measures.layout.lanes * measures.pitch
        self.uses = Counter(edge.source for edge in flow.edges)
        self.crowded: set[int] = set()
        self.ports = self._ports()

    def middle(self, lane: float) -> float:
        return HEAD + (lane + 0.5) * self.measures.pitch

    def boxes(self, block: int, times: Sequence[int]) -> list[Row]:
        found = zip(self.flow.operations, self.measures.layout.places, strict=True)
        return [
            self._box(op, place, times) | {"block": block, "node": node}
            for node, (op, place) in enumerate(found)
        ]

    def _box(self, op: StepOperation, place: Place, times: Sequence[int]) -> Row:
        m = self.measures
        middle = self.middle(place.lane)
        shape = " × ".join(map(str, op.shape))
        says = {
            "label": op.label,
            "op": op.op,
            "kind": op.kind,
            "module": op.module,
            "shape": shape,
        }
        at = {"x": round(m.lefts[place.slot], 1), "x2": round(m.rights[place.slot], 1)}
        at |= {"y": round(middle - m.box / 2, 1), "y2": round(middle + m.box / 2, 1)}
        norms = {"value": _at(op.log10_value_norm, times), "grad": _at(op.log10_grad_norm, times)}
        shown = {"numbers": m.numbers, "labels": m.labels, "width": at["x2"] - at["x"]}
        return says | at | norms | shown | {"constant": not op.requires_grad}

    def edges(self, block: int, times: Sequence[int]) -> list[Row]:
        return [
            self._edge(k, edge, times) | {"block": block, "edge": k, "node": edge.source}
            for k, edge in enumerate(self.flow.edges)
        ]

    def _edge(self, k: int, edge: StepEdge, times: Sequence[int]) -> Row:
        xs, ys = self._path(k, edge)
        inside = isinstance(edge.target, int)
        names = [op.label for op in self.flow.operations]
        says = {
            "from": names[edge.source],
            "to": names[int(edge.target)] if inside else edge.target,
            "end": "" if inside else edge.target,
            "numbers": self.measures.labels,
            "part": _is_part(self.flow, edge, self.uses),
            "times": self._has_factor(k) and k not in self.crowded,
            "constant": not self.flow.operations[edge.source].requires_grad,
        }
        numbers = {"log": _at(edge.log10_norm, times), "share": _shares(edge.share, times)}
        if inside:
            whole = self.flow.operations[int(edge.target)].log10_grad_norm
            numbers["factor"] = _at(_ratio(edge.log10_norm, whole), times)
        return says | numbers | {"x": xs, "y": ys, "last_x": xs[-1], "last_y": ys[-1]}

    def _ports(self) -> list[float]:
        """The height at which each edge arrives at its box, in the order of lanes."""
        at: dict[Place, list[int]] = defaultdict(list)
        runs = self.measures.layout.runs
        for k, edge in enumerate(self.flow.edges):
            at[self._target(k, edge)].append(k)
        heights = [0.0] * len(self.flow.edges)
        for place, edges in at.items():
            edges.sort(key=lambda k: (self._from(k), runs[k]))
            below = self._spread(edges)
            for k, down in zip(edges, below, strict=True):
                heights[k] = self.middle(place.lane) + down - below[-1] / 2
        return heights

    def _spread(self, edges: Sequence[int]) -> list[float]:
        """Distance of each arriving edge below the first; factors are left out if they have no room."""
        room = self.measures.box - 8
        apart = [max(self._apart(a, b), 17) for a, b in itertools.pairwise(edges)]
        if sum(apart) > room:
            self.crowded |= set(edges)
            apart = [min(17, room / len(apart))] * len(apart)
        return [0.0, *itertools.accumulate(apart)]

    def _apart(self, upper: int, lower: int) -> float:
        """Pixels between two edges, with room for a factor and a share between them."""
        part = _is_part(self.flow, self.flow.edges[lower], self.uses)
        return 4 + _LINE * (self._has_factor(upper) + part)

    def _has_factor(self, k: int) -> bool:
        return self.measures.factors and isinstance(self.flow.edges[k].target, int)

    def _from(self, k: int) -> int:
        """The lane an edge comes from when it arrives."""
        edge = self.flow.edges[k]
        start = self.measures.layout.places[edge.source]
        near = self._target(k, edge).slot == start.slot + 1
        return start.lane if near else self.measures.layout.runs[k]

    def _target(self, k: int, edge: StepEdge) -> Place:
        layout = self.measures.layout
        if isinstance(edge.target, int):
            return layout.places[edge.target]
        return Place(layout.slots, layout.runs[k])

    def _path(self, k: int, edge: StepEdge) -> tuple[list[float], list[float]]:
        """The points of an edge, from the right side of a box to the left side of another."""
        m = self.measures
        start, end = m.layout.places[edge.source], self._target(k, edge)
        x, y = m.rights[start.slot], self.middle(start.lane)
        xs, ys = [x], [y]
        run = self.middle(m.layout.runs[k])
        if end.slot > start.slot + 1:
            _bend(xs, ys, x + _STUB, self._turn(start.slot), run)
        _bend(xs, ys, m.rights[end.slot - 1] + _STUB, self._turn(end.slot - 1), self.ports[k])
        xs.append(m.lefts[end.slot] - 1)
        ys.append(self.ports[k])
        return [round(v, 1) for v in xs], [round(v, 1) for v in ys]

    def _turn(self, slot: int) -> float:
        """The abscissa behind a slot at which edges have finished their bend; their numbers follow it."""
        m = self.measures
        gap = m.lefts[slot + 1] - m.rights[slot]
        return m.rights[slot] + max(gap - _WRITTEN + 6, min(10, 0.35 * gap))


def _bend(xs: list[float], ys: list[float], begin: float, end: float, to: float) -> None:
    """Append a smooth bend from the last height to another one, between two abscissas."""
    height = ys[-1]
    for part in (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0):
        xs.append(begin + part * (end - begin))
        ys.append(height + part * part * (3 - 2 * part) * (to - height))


def _at(log10: HostArray, times: Sequence[int]) -> list[float | str]:
    return coded(np.asarray(log10)[list(times)])


def _ratio(log10: HostArray, of: HostArray) -> HostArray:
    """The logarithm of a quotient; NaN if both are 0 or infinite."""
    with np.errstate(invalid="ignore"):
        return np.asarray(log10) - np.asarray(of)


def _shares(share: HostArray, times: Sequence[int]) -> list[float | None]:
    found = np.asarray(share)[list(times)]
    return [float(f"{x:.3g}") if np.isfinite(x) else None for x in found]


def _head(block: int, drawing: _Drawing, times: Sequence[int], title: str) -> Row:
    flow, m = drawing.flow, drawing.measures
    explained = _explained(flow, m)
    heads = [f"{_opened(flow, int(flow.time[k]), title)}, opened" for k in times]
    return {"block": block, "title": heads, "says": explained}


def _explained(flow: StepFlow, m: _Measures) -> str:
    """The explanation of the numbers, in up to two lines."""
    left_out = f"{len(flow.operations)} operations: "
    if not m.labels:
        return left_out + "names, norms, factors and shares are in the tooltips."
    factors = _FACTOR if m.factors else ""
    boxes = _BOX + factors if m.numbers else left_out + "norms and factors are in the tooltips."
    before = " and ".join(op.label for op in flow.operations if op.kind == "before")
    uses = Counter(edge.source for edge in flow.edges)
    shares = any(_is_part(flow, edge, uses) for edge in flow.edges)
    return boxes + (f"\n{_SHARES}{_REST.format(before) if before else ''}." if shares else "")


def _opened(flow: StepFlow, time: int, title: str) -> str:
    """The title: a step of a recurrence, a call of a module, or all of a module."""
    if is_recurrent(flow):
        return f"Step t = {time} of {flow.path or title or 'the loop'}"
    name = f"{flow.path} ({title})" if flow.path and title else flow.path or title or "operations"
    return f"Call {time} of {name}" if len(flow.time) > 1 else name


def is_recurrent(flow: StepFlow) -> bool:
    """Whether the steps are time steps, and not calls of a module."""
    return any(op.kind in ("state", "before") for op in flow.operations)


class _Axes(NamedTuple):
    """Scales on which a coordinate is a pixel."""

    across: Any
    down: Any

    def at(self, x: str, y: str) -> dict[str, Any]:
        alt = altair()
        return {
            "x": alt.X(f"{x}:Q", scale=self.across, axis=None),
            "y": alt.Y(f"{y}:Q", scale=self.down, axis=None),
        }


def _of_block(rows: Any) -> Any:
    return altair().Chart(rows).transform_filter("datum.block == block")


def _chosen(boxes: Any) -> Any:
    """The norms of the chosen operation. Small boxes have no room for them."""
    alt = altair()
    chosen = _numbers(boxes).transform_filter("datum.node == node")
    chosen = chosen.transform_calculate(
        chosen="datum.label + ':  value ' + datum.value_text + ',  ' + (datum.constant"
        " ? 'a constant' : 'gradient ' + datum.grad_text)"
    )
    mark = chosen.mark_text(
        align="right", baseline="top", fontSize=12, fontWeight="bold", color=ORANGE
    )
    return encoded(mark, x=alt.value(WIDTH), y=alt.value(1), text=alt.Text("chosen:N"))


def _title(heads: Any) -> list[Any]:
    alt = altair()
    chart = _of_block(heads).transform_calculate(now="datum.title[step]")
    text = {"align": "left", "baseline": "top"}
    big = chart.mark_text(**text, fontSize=14, fontWeight="bold")
    small = chart.mark_text(**text, fontSize=12, lineBreak="\n", lineHeight=15)
    return [
        big.encode(x=alt.value(0), y=alt.value(0), text="now:N"),
        small.encode(x=alt.value(0), y=alt.value(21), text="says:N"),
    ]


_NOTHING = "datum.now === '0' || datum.constant"
"""True for an edge without a gradient: it is exactly 0, or its source is a constant."""

_SHARE = (
    "(!isNumber(datum.now) ? datum.now : !isNumber(datum.part_now) ? '' : datum.part_now == 0 ? '0%' : "
    "abs(datum.part_now) >= 0.0005 ? format(datum.part_now, '.2~p') : "
    "abs(datum.part_now) >= 0.00001 ? format(datum.part_now, '.1~p') : "
    "format(100 * datum.part_now, '.0e') + '%')"
)
_TIMES = (
    "(!isNumber(datum.now) && !datum.part ? datum.now : !isNumber(datum.ratio) ? '' : '×' + "
    "(datum.ratio >= -3 && datum.ratio < 3 ? "
    "format(pow(10, datum.ratio), datum.ratio < -2 ? '.1~r' : '.2~r') : "
    "format(pow(10, datum.ratio - datum.power), '.0f') + 'e' + datum.power))"
)
"""A factor, or the word for a gradient that is 0, infinite or NaN, unless the share's text says it."""


def _edges_now(edges: Any) -> Any:
    """The edges of the chosen block, with their numbers at the chosen step."""
    return (
        _of_block(edges)
        .transform_calculate(
            now="datum.constant ? '' : datum.log[step]",
            part_now="datum.share[step]",
            ratio="datum.factor ? datum.factor[step] : ''",
            power="floor(datum.ratio + 0.0223)",  # 1 − log10(9.5): a single 9.5 is rounded up to 10
        )
        .transform_calculate(
            finite="isNumber(datum.now) ? datum.now : null",
            norm=norm_text("datum.now"),
            share_text=_SHARE,
            factor_text=_TIMES,
        )
        .transform_joinaggregate(top="max(finite)")
        .transform_calculate(below=f"max(datum.now - datum.top, {-DECADES})")
    )


def _curves(edges: Any, axes: _Axes) -> list[Any]:
    alt = altair()
    tooltip = [
        alt.Tooltip("from:N", title="gradient of"),
        alt.Tooltip("to:N", title="that comes back from"),
        alt.Tooltip("norm:N", title="norm"),
        alt.Tooltip("factor_text:N", title="multiplied by"),
        alt.Tooltip("share_text:N", title="share"),
    ]
    now = _edges_now(edges)
    numbers = now.transform_filter("isNumber(datum.now)").transform_flatten(["x", "y"])
    words = now.transform_filter("isString(datum.now)").transform_flatten(["x", "y"])
    at = {**axes.at("x", "y"), "detail": ["edge:N"], "tooltip": tooltip}
    legend = alt.Legend(
        title="edges: decades below the largest of this step",
        orient="none", legendX=WIDTH - 260, legendY=18, direction="horizontal",
        gradientLength=250, gradientThickness=8, titleLimit=500,
        values=list(range(-DECADES, 1)), format="d",
    )  # fmt: skip
    scheme = alt.SchemeParams(name=MAGNITUDE, extent=[0.15, 0.85])
    colour = alt.Scale(scheme=scheme, domain=[-DECADES, 0], clamp=True)
    line = {"interpolate": "monotone", "strokeCap": "butt", "opacity": 0.9}
    return [
        encoded(
            numbers.mark_line(**line, strokeWidth=alt.ExprRef(_WIDTH)),
            color=alt.Color("below:Q", scale=colour, legend=legend),
            strokeDash=alt.condition("datum.part_now < 0", alt.value([6, 3]), alt.value([])),
            **at,
        ),
        words.mark_line(**line).encode(
            color=alt.condition(_NOTHING, alt.value(GREY), alt.value(PINK)),
            strokeWidth=alt.condition(_NOTHING, alt.value(1.2), alt.value(4)),
            strokeDash=alt.condition("datum.now === '0'", alt.value([2, 3]), alt.value([])),
            **at,
        ),
    ]


def _edge_texts(edges: Any, axes: _Axes) -> list[Any]:
    """Texts at the end of an edge: the share above it, the factor below it, the name of an end outside."""
    alt = altair()
    now = _edges_now(edges)
    share = now.transform_filter(
        "datum.numbers && (datum.part || !(datum.times || isNumber(datum.now)))"
    )
    share = share.mark_text(align="right", baseline="bottom", dx=-3, dy=-3)
    factor = now.transform_filter("datum.times").mark_text(
        align="right", baseline="top", dx=-3, dy=3
    )
    ends = now.transform_filter("datum.end").mark_text(align="left", baseline="middle", dx=4)
    at = axes.at("last_x", "last_y")
    return [
        encoded(share.transform_filter("!(datum.part_now < 0)"), text="share_text:N", **at),
        encoded(
            share.transform_filter("datum.part_now < 0"),
            text="share_text:N",
            color=alt.value(ORANGE),
            **at,
        ),
        encoded(factor, text="factor_text:N", **at),
        encoded(ends, text="end:N", **at),
    ]


def _boxes(boxes: Any, axes: _Axes, linked: bool) -> list[Any]:
    alt = altair()
    tooltip = [
        alt.Tooltip("label:N", title="operation"),
        alt.Tooltip("op:N", title="computed by"),
        alt.Tooltip("module:N", title="in"),
        alt.Tooltip("shape:N", title="shape"),
        alt.Tooltip("value_text:N", title="norm of its value"),
        alt.Tooltip("grad_text:N", title="norm of its gradient"),
    ]
    colour = " : ".join(f"datum.kind === {kind!r} ? {c!r}" for kind, c in _STROKES.items())
    rect = _numbers(boxes).mark_rect(
        cornerRadius=4, fillOpacity=0.12, cursor="pointer",
        fill=alt.ExprRef(f"{colour} : {GREY!r}"),
        stroke=alt.ExprRef(f"datum.node == node ? {ORANGE!r} : {colour} : {GREY!r}"),
        strokeWidth=alt.ExprRef("datum.node == node ? 3 : 1"),
    )  # fmt: skip
    rect = encoded(rect, x2="x2:Q", y2="y2:Q", tooltip=tooltip, **axes.at("x", "y"))
    rect = rect.properties(name="operations")
    if not linked:
        return [rect]
    pick = alt.selection_point(
        name="pick_node", fields=["node", "block"], empty=False, toggle=False, clear=False
    )
    return [rect.add_params(pick)]


def _numbers(boxes: Any) -> Any:
    return (
        _of_block(boxes)
        .transform_calculate(v="datum.value[step]", g="datum.grad[step]")
        .transform_calculate(
            value_text=norm_text("datum.v"),
            grad_text=f"datum.constant ? 'a constant has none' : {norm_text('datum.g')}",
            middle="(datum.x + datum.x2) / 2",
            centre="(datum.y + datum.y2) / 2",
        )
    )


_SHORT = (
    "datum.constant ? '' : '∂\u2009' + (datum.g <= -100 ? '1e' + round(datum.g) : datum.grad_text)"
)
"""A gradient in a box; without its mantissa if the exponent has three digits."""


def _box_texts(boxes: Any, axes: _Axes) -> list[Any]:
    alt = altair()
    now = _numbers(boxes).transform_calculate(grad_line=_SHORT)
    at = axes.at("middle", "centre")
    full = now.transform_filter("datum.numbers")
    label = now.transform_filter("datum.labels").mark_text(
        fontWeight="bold", baseline="middle",
        limit=alt.ExprRef("datum.width - 3"), dy=alt.ExprRef("datum.numbers ? -13 : 0"),
    )  # fmt: skip
    value = full.mark_text(baseline="middle", dy=2)
    grad = full.mark_text(baseline="middle", dy=15)
    return [
        encoded(label, text="label:N", **at),
        encoded(value, text="value_text:N", **at),
        encoded(grad, text="grad_line:N", **at),
    ]
