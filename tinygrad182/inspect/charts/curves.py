"""The time axis: the norms of every state and of the gradient that reaches it, in decades."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...display.charts import GREY, PALETTE, PINK, Row, altair, data, decade_axis, encoded, layered
from ..passes.scaling import HostArray, log10
from .magnitudes import LOOKS, ZERO, Extent, coded, norm_text

if TYPE_CHECKING:
    from ..views.gradient_flow import StackFlow, StateFlow

Stacks = Mapping[int, "StackFlow[StateFlow]"]
Times = Mapping[int, Sequence[int]]
Lines = Mapping[str, tuple[str, str]]
"""Field of the data → the line's name in the legend, and its state."""


class Anomaly(NamedTuple):
    """The first step that is not finite: its block, its time, and the text at it."""

    block: int
    time: int
    text: str


WIDTH, HEIGHT, STRIP = 780, 210, 40
FEW = 40
"""Up to this many steps, each has a dot."""


def curves_chart(
    stacks: Stacks, drawn: Times, linked: bool = False, anomaly: Anomaly | None = None
) -> Any:
    """Draw ‖∂L/∂h_t‖ and ‖h_t‖ of every state over time, on a linear axis of their log10.

    The curves of other blocks are pale. A norm that is exactly 0 is a mark at the bottom; an infinite one
    and a NaN are marks at the top. Expressions refer to the caller's parameters ``loop`` and ``loop_step``,
    the chosen block and its step.

    Parameters
    ----------
    stacks : mapping of int to StackFlow
        The states of each recurrence, by the position of its block in :attr:`Network.blocks`.
    drawn : mapping of int to sequence of int
        The drawn times of each block; ``loop_step`` is an index into them.
    linked : bool
        Add the point selection ``pick_step`` (field ``i``, an index into ``drawn``), which takes the
        step nearest to a click, and a strip with the interval selection ``brush`` (over ``t``). The
        time axis then shows the caller's parameter ``window``, the first and the last time.
    anomaly : Anomaly, optional
        The first one, marked when its block is drawn in full.

    Returns
    -------
    alt.LayerChart or alt.VConcatChart
        With the strip if ``linked``.
    """
    alt = altair()
    lines = _lines(stacks)
    wide = alt.Chart(data(_rows(stacks, drawn, lines))).transform_flatten(
        ["i", "t", "left", "right", *lines]
    )
    ends = _ends(stacks, drawn)
    window = [alt.ExprRef("window[0] - 0.5"), alt.ExprRef("window[1] + 0.5")]
    scale = alt.Scale(nice=False, zero=False, domain=window if linked else ends)
    x = alt.X("t:Q", title="step t", scale=scale)
    x = x.axis(format="d", tickMinStep=1, tickCount=10, grid=False)
    extent = Extent.of(_columns(stacks, drawn).values())
    few = max(map(len, drawn.values()), default=0) <= FEW
    layers = [
        _curves(wide, lines, x, extent, few),
        *_marks(wide, lines, x, extent.words),
        *([] if anomaly is None else _anomaly(anomaly, stacks, drawn)),
        *_chosen(wide, x, ends, linked),
        _steps(wide, lines, linked),
    ]
    main = layered(layers, width=WIDTH, height=HEIGHT)
    if not linked:
        return main
    brush = alt.selection_interval(name="brush", encodings=["x"])
    return alt.vconcat(main, _strip(wide, lines, stacks, drawn).add_params(brush), spacing=4)


def _lines(stacks: Stacks) -> Lines:
    """All lines, gradients first."""
    names = list(dict.fromkeys(name for stack in stacks.values() for name in stack))
    gradients = {f"g{k}": (f"‖∂L/∂{name}ₜ‖", name) for k, name in enumerate(names)}
    return {**gradients, **{f"v{k}": (f"‖{name}ₜ‖", name) for k, name in enumerate(names)}}


def _column(flow: StateFlow, field: str, times: Sequence[int]) -> HostArray:
    """A line at the drawn times; NaN at a time that the state lacks."""
    at = {int(t): k for k, t in enumerate(flow.time)}
    norms = flow.log10_grad_norm if field[0] == "g" else log10(flow.value_norm)
    return np.array([norms[at[t]] if t in at else math.nan for t in times])


def _columns(stacks: Stacks, drawn: Times) -> dict[tuple[int, str], HostArray]:
    return {
        (block, field): _column(stack[name], field, drawn[block])
        for block, stack in stacks.items()
        for field, (_, name) in _lines(stacks).items()
        if name in stack
    }


def _rows(stacks: Stacks, drawn: Times, lines: Lines) -> list[Row]:
    """One row for each block, with arrays over its drawn steps."""
    columns = _columns(stacks, drawn)
    rows: list[Row] = []
    for block, stack in stacks.items():
        times = list(map(int, drawn[block]))
        borders = _borders(times)
        row: Row = {"block": block, "path": stack.path, "i": list(range(len(times))), "t": times}
        row |= {"left": borders[:-1], "right": borders[1:]}
        missing = [None] * len(times)
        for field in lines:
            there = columns.get((block, field))
            row[field] = missing if there is None else coded(there)
        rows.append(row)
    return rows


def _borders(times: Sequence[int]) -> list[float]:
    """Borders half-way between neighbouring steps, so that a click anywhere is nearest to one.

    >>> from tinygrad182.inspect.charts.curves import _borders
    >>> _borders([0, 1, 5])
    [-0.5, 0.5, 3.0, 5.5]
    """
    between = [(a + b) / 2 for a, b in itertools.pairwise(times)]
    return [times[0] - 0.5, *between, times[-1] + 0.5]


def _long(wide: Any, lines: Lines) -> Any:
    """One row for each point of each line."""
    names = json.dumps({field: name for field, (name, _) in lines.items()})
    return wide.transform_fold(list(lines), as_=["field", "log"]).transform_calculate(
        line=f"{names}[datum.field]",
        y="isNumber(datum.log) ? datum.log : null",
        gradient="datum.field[0] === 'g'",
    )


def _look(lines: Lines) -> tuple[Any, Any]:
    """A colour for each state; gradients solid or dashed, values dotted."""
    alt = altair()
    states = list(dict.fromkeys(name for _, name in lines.values()))
    colours = [PALETTE[states.index(name) % len(PALETTE)] for _, name in lines.values()]
    dashes = [
        [1, 3] if field[0] == "v" else [] if field == "g0" else [6, 2 + int(field[1:])]
        for field in lines
    ]
    names = [name for name, _ in lines.values()]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=400)
    colour = alt.Color("line:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=dashes), legend=legend)
    return colour, dash


def _curves(wide: Any, lines: Lines, x: Any, extent: Extent, few: bool) -> Any:
    alt = altair()
    colour, dash = _look(lines)
    ticks = _ticks(extent.low, extent.high)
    room = 0.06 * max(extent.high - extent.low, 1)
    y = alt.Y("y:Q").title("norm, in decades").axis(**ticks)
    y = y.scale(domain=[extent.low - room, extent.high + room], nice=False, zero=False)
    point = alt.OverlayMarkDef(size=18, strokeDash=[0]) if few else False
    return encoded(
        _long(wide, lines).mark_line(clip=True, point=point),
        x=x,
        y=y,
        color=colour,
        strokeDash=dash,
        detail=["block:N"],
        opacity=_chosen_block(1, 0.3),
        strokeWidth=alt.condition("datum.gradient", alt.value(2), alt.value(1.3)),
    )


def _ticks(low: float, high: float) -> dict[str, Any]:
    """Decades; 1, 2 and 5 of each where there are hardly any."""
    if high - low > 1.5:
        return decade_axis(low, high)
    every = range(math.floor(low) - 1, math.ceil(high) + 1)
    values = [round(n + math.log10(digit), 3) for n in every for digit in (1, 2, 5)]
    return {"values": values, "labelExpr": norm_text("datum.value")}


def _chosen_block(chosen: float, other: float) -> Any:
    alt = altair()
    return alt.condition("datum.block == loop", alt.value(chosen), alt.value(other))


def _marks(wide: Any, lines: Lines, x: Any, words: Sequence[str]) -> list[Any]:
    """A mark for each norm that has no finite logarithm, if there is one."""
    if not words:
        return []
    alt = altair()
    scale = alt.Scale(
        domain=[LOOKS[word].name for word in words], range=[LOOKS[word].shape for word in words]
    )
    legend = alt.Legend(
        title=None, orient="top", symbolFillColor=GREY, symbolStrokeColor=GREY, symbolSize=70
    )
    lanes = json.dumps({field: 7 * k for k, field in enumerate(lines)})
    long = _long(wide, lines).transform_calculate(
        word=f"{json.dumps({word: LOOKS[word].name for word in LOOKS})}[datum.log]",
        lane=f"{lanes}[datum.field]",
    )
    return [
        encoded(
            long.transform_filter(f"datum.log === {word!r}").mark_point(
                filled=True,
                size=45,
                clip=True,
                yOffset=alt.ExprRef("-5 - datum.lane" if word == ZERO else "5 + datum.lane"),
            ),
            x=x,
            y=alt.value("height" if word == ZERO else 0),
            shape=alt.Shape("word:N", scale=scale, legend=legend),
            color=_look(lines)[0],
            opacity=_chosen_block(0.9, 0.2),
        )
        for word in words
    ]


def _ends(stacks: Stacks, drawn: Times) -> tuple[float, float]:
    """Both ends of the time axis."""
    borders = [_borders(drawn[block]) for block in stacks]
    return min(b[0] for b in borders), max(b[-1] for b in borders)


def _chosen(wide: Any, x: Any, ends: tuple[float, float], linked: bool) -> list[Any]:
    """A rule at the chosen step, and its text above it, on the side towards the middle."""
    alt = altair()
    there = wide.transform_filter("datum.block == loop && datum.i == loop_step")
    rule = there.mark_rule(color=GREY, strokeWidth=1.5, clip=True).encode(x=x)
    seen = there.transform_filter("inrange(datum.t, window)") if linked else there
    label = seen.transform_calculate(
        label="datum.path + (datum.path ? ', ' : '') + 't = ' + datum.t"
    )
    middle = "(window[0] + window[1]) / 2" if linked else f"{sum(ends) / 2}"
    text = label.mark_text(
        baseline="bottom", fontWeight="bold", fontSize=12,
        align=alt.ExprRef(f"datum.t > {middle} ? 'right' : 'left'"),
        dx=alt.ExprRef(f"datum.t > {middle} ? 3 : -3"),
    )  # fmt: skip
    return [rule, encoded(text, x=x, y=alt.value(-4), text="label:N")]


def _anomaly(anomaly: Anomaly, stacks: Stacks, drawn: Times) -> list[Any]:
    """A rule at the first anomaly, and its text on the side where there is room."""
    alt = altair()
    right = 2 * anomaly.time > sum(_ends(stacks, drawn))
    chart = alt.Chart(data([{"block": anomaly.block, "t": anomaly.time, "text": anomaly.text}]))
    # Hidden by opacity only: without its room, the legend above would leave the picture.
    there = alt.ExprRef("datum.block == loop ? 1 : 0")
    rule = chart.mark_rule(color=PINK, strokeWidth=2, strokeDash=[4, 2], clip=True, opacity=there)
    rule = rule.encode(x="t:Q")
    label = chart.mark_text(
        align="right" if right else "left", dx=3 if right else -3, baseline="bottom",
        color=PINK, fontWeight="bold", fontSize=12, opacity=there,
    )  # fmt: skip
    return [rule, encoded(label, x="t:Q", y=alt.value(-19), text="text:N")]


def _steps(wide: Any, lines: Lines, linked: bool) -> Any:
    """A transparent column for each drawn step of the chosen block, with a tooltip; it takes clicks."""
    alt = altair()
    chosen = wide.transform_filter("datum.block == loop").transform_calculate(
        **{f"{field}_text": norm_text(f"datum.{field}") for field in lines}
    )
    tooltip = [alt.Tooltip("path:N", title="of"), alt.Tooltip("t:Q", title="step t")]
    tooltip += [alt.Tooltip(f"{field}_text:N", title=name) for field, (name, _) in lines.items()]
    rect = encoded(
        chosen.mark_rect(opacity=0, clip=True, cursor="pointer"),
        x=alt.X("left:Q", title="step t"),
        x2="right:Q",
        tooltip=tooltip,
    )
    rect = rect.properties(name="steps")
    if not linked:
        return rect
    pick = alt.selection_point(
        name="pick_step", fields=["i"], empty=False, toggle=False, clear=False
    )
    return rect.add_params(pick)


def _strip(wide: Any, lines: Lines, stacks: Stacks, drawn: Times) -> Any:
    """The whole time axis, to drag a window over."""
    alt = altair()
    gradients = {field: line for field, line in lines.items() if field[0] == "g"}
    long = _long(wide, gradients).transform_filter("datum.block == loop")
    return encoded(
        long.mark_line(color=GREY, strokeWidth=1.5),
        x=alt.X("t:Q", title="drag here to zoom in; double-click to zoom out")
        .scale(domain=_ends(stacks, drawn), nice=False)
        .axis(labels=False, ticks=False, grid=False),
        y=alt.Y("max(y):Q", axis=None).scale(domain=_gradient_range(stacks, drawn)),
    ).properties(width=WIDTH, height=STRIP)


def _gradient_range(stacks: Stacks, drawn: Times) -> Any:
    """The finite logarithms of the chosen block's gradients, from a little below the smallest."""
    ranges = {}
    for block, stack in stacks.items():
        columns = {block: stack}
        low, high, _ = Extent.of(c for (_, f), c in _columns(columns, drawn).items() if f[0] == "g")
        ranges[block] = [low - 0.05 * max(high - low, 1), high]
    ends = (f"({json.dumps({b: r[k] for b, r in ranges.items()})})[loop]" for k in (0, 1))
    return [altair().ExprRef(end) for end in ends]
