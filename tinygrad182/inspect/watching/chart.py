"""One picture of a watched run: the loss, a heatmap of each state, and the curves of one training step.

All share the axis of training steps, which goes to the right; time goes upwards. A rule follows the slider,
and beside each heatmap are the norms over time at the rule, and at the first training step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...display import charts
from ...display.charts import (
    BLUE,
    GREY,
    MAGNITUDE,
    Row,
    altair,
    data,
    decade_axis,
    encoded,
    finite,
    layered,
)
from ..charts.drawn_steps import cell_ends, spread, steps_to_draw
from ..charts.magnitudes import INFINITE, LOOKS, NOT_A_NUMBER, ZERO, Extent, coded, norm_text
from ..passes.scaling import HostArray

READING = (
    "Each heatmap shows one state of the network. A column is a training step, and a row is a time step "
    "of the sequence. The colour is the norm of the gradient by the state at that time step: where it is "
    "1e-3, a small change of the state changes the loss a thousandth as much as where it is 1.",
    "The gradient flows from the loss back through time, from the top of a column down. Where a column "
    "gets dark towards the bottom, the gradient vanished at that training step; where it gets bright "
    "towards the bottom, the gradient exploded.",
    "Move the slider, use its arrow keys, click a column, or drag over several: the rule moves to that "
    "training step, and the curves on the right show its norms over time, beside those of the first one.",
    "A gradient of exactly 0, an infinite one and a NaN have colours of their own, and marks at the edge "
    "of the curves. A decade is a power of ten. Norms are Frobenius norms over batch and hidden units.",
    "Training steps are counted from 0: a number says how many backward passes were made before.",
)

REVERSE = (
    "Steps of a path that ends in _reverse are counted in the order in which that direction runs: its "
    "step 0 reads the last input, and its gradient flows back to that one."
)

MOST_CELLS = 10_000
"""Cells of all heatmaps together: with 20,000, a page takes five seconds to open."""

WIDTH, BESIDE, LOSS_HEIGHT = 720, 300, 90
HEIGHTS = 70, 230, 480
"""The lowest and the highest heatmap, and how high all of them are together if these allow it."""

_SHAPES = {ZERO: "triangle-left", INFINITE: "triangle-right", NOT_A_NUMBER: "cross"}
"""Marks at the edges of curves whose norms grow to the right."""


class Grid(NamedTuple):
    """A heatmap's data.

    Attributes
    ----------
    title : str
        Path and state.
    name : str
        The state's.
    time : ndarray (T,)
    there : ndarray (S, T), bool
        Cells that are drawn.
    log10 : ndarray (S, T)
    """

    title: str
    name: str
    time: HostArray
    there: HostArray
    log10: HostArray


class _Columns(NamedTuple):
    """Training steps that are drawn."""

    places: list[int]
    steps: HostArray
    left: list[float]
    right: list[float]


def drawn(
    grids: Sequence[Grid], steps: HostArray, loss: HostArray, step: int | None, slider: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Return the picture, and sentences about what was left out.

    Parameters
    ----------
    steps, loss : ndarray (S,)
    step : int or None
        The training step at the rule; by default the last.
    slider : bool
        Whether the rule follows a slider and clicks.
    """
    if not len(steps):
        empty = altair().Chart(data([{}])).mark_text(text="Nothing was watched yet.")
        return charts.spec(empty), []
    most_steps, most_times = _room(grids, len(steps))
    places, thinned = _drawn_steps(grids, loss, most_steps)
    columns = _Columns(places, steps[places], *_borders(steps[places], WIDTH))
    times = [spread(range(len(grid.time)), most_times) for grid in grids]
    shared = _Scale.of(grids, places, loss[places])
    with charts.unchecked():
        rows = [
            [_loss_chart(columns, loss), _key(columns, shared)],
            *[
                [_heatmap(k, grid, columns, shown, shared), _curves(grid, columns, shown, shared)]
                for k, (grid, shown) in enumerate(zip(grids, times, strict=True))
            ],
        ]
        spec = _placed(rows)
    wanted = steps[-1] if step is None else step
    first = int(np.argmin(np.abs(columns.steps - wanted)))
    spec["params"] = _params(first, len(places), len(grids), slider)
    thinned += [
        f"{grid.title}: {len(shown)} of {len(grid.time)} time steps are drawn, evenly spaced."
        for grid, shown in zip(grids, times, strict=True)
        if len(shown) < len(grid.time)
    ]
    return spec, thinned


# --- what is drawn --------------------------------------------------------------------------------


def _room(grids: Sequence[Grid], steps: int) -> tuple[int, int]:
    """Largest numbers of training steps and time steps of each heatmap; at least 8 and 8."""
    cells = MOST_CELLS // max(len(grids), 1)
    length = max((len(grid.time) for grid in grids), default=1)
    times = min(length, max(math.isqrt(cells * 2 // 3), cells // steps, 8))
    return max(cells // times, 8), times


def _drawn_steps(grids: Sequence[Grid], loss: HostArray, most: int) -> tuple[list[int], list[str]]:
    """Positions of the training steps with most to see, and a sentence about them."""
    count = len(loss)
    if count <= most:
        return list(range(count)), []
    ends = [grid.log10[::-1, i] for grid in grids for i in (0, -1)]  # their first event comes last
    odd = np.flatnonzero(~np.isfinite(loss))[:1]
    chosen = steps_to_draw(ends, most, [count - 1 - int(i) for i in odd])
    return sorted(count - 1 - i for i in chosen.places), [
        f"{len(chosen.places)} of {count} watched training steps are drawn: the first and the last, where "
        "the gradient or the loss first is not finite or exactly 0, where the gradient changes most, and "
        "some evenly spaced."
    ]


def _borders(steps: HostArray, pixels: int) -> tuple[list[float], list[float]]:
    return cell_ends(steps, float(steps[1] - steps[0]) if len(steps) > 1 else 1.0, pixels)


class _Scale(NamedTuple):
    """Shared by all heatmaps: the range of their norms, the words that occur, and their height."""

    low: float
    high: float
    words: list[str]
    height: int

    @classmethod
    def of(cls, grids: Sequence[Grid], places: list[int], loss: HostArray) -> _Scale:
        low, high, words = Extent.of(g.log10[places][g.there[places]] for g in grids)
        words += Extent.of([np.abs(loss)]).words
        room = 0.5 if high - low < 0.1 else 0.0
        height = min(max(HEIGHTS[2] // max(len(grids), 1), HEIGHTS[0]), HEIGHTS[1])
        return cls(low - room, high + room, [word for word in LOOKS if word in words], height)


# --- charts ---------------------------------------------------------------------------------------


def _x(columns: _Columns, field: str = "x") -> Any:
    alt = altair()
    few = {"values": columns.steps.tolist()} if len(columns.steps) <= 8 else {}
    scale = alt.Scale(domain=[columns.left[0], columns.right[-1]], nice=False, zero=False)
    axis = alt.Axis(
        title="training step",
        format="d",
        tickMinStep=1,
        grid=False,
        labelFlush=True,
        titlePadding=2,
        **few,
    )
    return alt.X(f"{field}:Q", scale=scale, axis=axis)


def _chosen(condition: str, columns: _Columns) -> Any:
    """One row for each training step that meets a condition."""
    rows: list[Row] = [{"i": i, "x": step} for i, step in enumerate(columns.steps.tolist())]
    return altair().Chart(data(rows)).transform_filter(condition)


def _rule(columns: _Columns) -> list[Any]:
    """The rule at the chosen training step: black on white, visible on every colour."""
    x = _x(columns)
    there = _chosen("datum.i === moment", columns)
    return [
        encoded(there.mark_rule(color=colour, strokeWidth=width, opacity=1), x=x)
        for colour, width in (("white", 3), ("black", 1.2))
    ]


def _loss_chart(columns: _Columns, loss: HostArray) -> Any:
    alt = altair()
    values = loss[columns.places]
    ends = values[np.isfinite(values)]
    decades = bool(ends.size and ends.min() > 0 and ends.max() / ends.min() > 100)
    drawn_as = np.log10(values, where=values > 0, out=np.full(len(values), np.nan))
    heights = finite((drawn_as if decades else values).tolist(), 6)
    rows: list[Row] = [
        {"i": i, "x": x, "left": left, "right": right, "y": y, "loss": loss_text(value)}
        | ({} if math.isfinite(value) else {"odd": NOT_A_NUMBER if math.isnan(value) else INFINITE})
        for i, (x, left, right, y, value) in enumerate(
            zip(columns.steps.tolist(), columns.left, columns.right, heights, values, strict=True)
        )
    ]
    chart, x = alt.Chart(data(rows)), _x(columns)
    there = [y for y in heights if y is not None]
    axis = decade_axis(min(there), max(there), 4) if decades else {"tickCount": 4}
    scale = alt.Scale(zero=False, nice=not decades)
    y = alt.Y("y:Q", scale=scale, axis=alt.Axis(title="loss", grid=True, **axis))
    tooltip = [alt.Tooltip("x:Q", title="training step"), alt.Tooltip("loss:N", title="loss")]
    points = {} if len(rows) > 60 else {"point": alt.OverlayMarkDef(size=14)}
    lines = [encoded(chart.mark_line(color=BLUE, strokeWidth=1.6, **points), x=x, y=y)]
    edges = _x(columns, "left")
    strip = chart.transform_filter("isValid(datum.odd)").mark_rect()
    span = {"y": alt.value(0), "y2": alt.value(8)}
    odd = encoded(strip, x=edges, x2="right:Q", color=_odd_colour("odd"), **span)
    target = chart.mark_rect(opacity=0).properties(name=_COLUMNS)
    targets = encoded(target, x=edges, x2="right:Q", tooltip=tooltip)
    layers = [*lines, odd, *_rule(columns), targets]
    return layered(layers, width=WIDTH, height=LOSS_HEIGHT, title="Loss")


def loss_text(loss: float) -> str:
    """Write a loss.

    >>> [loss_text(x) for x in (0.0123456, math.nan, -math.inf)]
    ['0.01235', 'NaN', '−∞']
    """
    if math.isfinite(loss):
        return f"{loss:.4g}"
    return NOT_A_NUMBER if math.isnan(loss) else INFINITE if loss > 0 else f"−{INFINITE}"


def _odd_colour(field: str) -> Any:
    alt = altair()
    scale = alt.Scale(domain=list(LOOKS), range=[look.colour for look in LOOKS.values()])
    return alt.Color(f"{field}:N", scale=scale, legend=None)


def _key(columns: _Columns, shared: _Scale) -> Any:
    """The key of the colours, and the training step at the rule."""
    alt = altair()
    steps = json.dumps(columns.steps.tolist())
    moment = alt.Chart(data([{}])).transform_calculate(text=f"'Training step ' + {steps}[moment]")
    mark = moment.mark_text(align="left", fontSize=16, fontWeight="bold")
    said = encoded(mark, text="text:N", x=alt.value(0), y=alt.value(14))
    names = [
        "at the rule",
        f"at training step {columns.steps[0]}",
        *(LOOKS[w].name for w in shared.words),
    ]
    rows: list[Row] = [{"what": name, "k": k} for k, name in enumerate(names)]
    chart = alt.Chart(data(rows)).transform_calculate(y="datum.k * 16 + 38")
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, LOSS_HEIGHT], range=[0, LOSS_HEIGHT]), axis=None)
    text = encoded(chart.mark_text(align="left"), text="what:N", x=alt.value(44), y=y)
    lines = chart.transform_filter("datum.k < 2").mark_rule(strokeWidth=2)
    colour = alt.Color("what:N", scale=alt.Scale(domain=names[:2], range=[BLUE, GREY]), legend=None)
    dash = alt.StrokeDash(
        "what:N", scale=alt.Scale(domain=names[:2], range=[[1, 0], [5, 3]]), legend=None
    )
    line = encoded(lines, x=alt.value(4), x2=alt.value(36), y=y, color=colour, strokeDash=dash)
    layers = [said, text, line]
    if shared.words:
        odd = chart.transform_filter("datum.k > 1").mark_square(size=120, opacity=1)
        colours = alt.Scale(domain=names[2:], range=[LOOKS[word].colour for word in shared.words])
        patch = alt.Fill("what:N", scale=colours, legend=None)
        layers.append(encoded(odd, x=alt.value(14), y=y, fill=patch))
        shape = alt.Shape(
            "what:N",
            scale=alt.Scale(domain=names[2:], range=[_SHAPES[word] for word in shared.words]),
            legend=None,
        )
        point = chart.transform_filter("datum.k > 1").mark_point(
            size=60, filled=True, opacity=1, color=BLUE
        )
        layers.append(encoded(point, x=alt.value(30), y=y, shape=shape))
    both = layered(layers, width=BESIDE, height=LOSS_HEIGHT)
    return both.resolve_scale(color="independent", shape="independent", strokeDash="independent")


def _t(grid: Grid) -> Any:
    alt = altair()
    scale = alt.Scale(
        domain=[float(grid.time[0]) - 0.5, float(grid.time[-1]) + 0.5], nice=False, zero=False
    )
    axis = alt.Axis(title="step t", format="d", tickMinStep=1, tickCount=5, grid=False)
    return alt.Y("t:Q", scale=scale, axis=axis)


def _rows(grid: Grid, columns: _Columns, shown: Sequence[int], height: int) -> list[Row]:
    """One row for each training step, with lists over the time steps that it has."""
    bottom, top = _borders(grid.time[list(shown)], height)
    rows: list[Row] = []
    for i, place in enumerate(columns.places):
        there = [k for k, t in enumerate(shown) if grid.there[place, t]]
        rows.append(
            {
                "i": i,
                "step": int(columns.steps[i]),
                "x": columns.left[i],
                "right": columns.right[i],
                "at": [int(grid.time[shown[k]]) for k in there],
                "t": [bottom[k] for k in there],
                "top": [top[k] for k in there],
                "v": coded(grid.log10[place, shown[k]] for k in there),
            }
        )
    return rows


def _heatmap(k: int, grid: Grid, columns: _Columns, shown: Sequence[int], shared: _Scale) -> Any:
    alt = altair()
    rows = _rows(grid, columns, shown, shared.height)
    flat = alt.Chart(data(rows)).transform_flatten(["at", "t", "top", "v"])
    flat = flat.transform_calculate(norm=norm_text("datum.v"))
    x = _x(columns)
    tooltip = [
        alt.Tooltip("step:Q", title="training step"),
        alt.Tooltip("at:Q", title="step t"),
        alt.Tooltip("norm:N", title=f"‖∂L/∂{grid.name}‖"),
    ]
    places: Mapping[str, Any] = {"x": x, "x2": "right:Q", "y": _t(grid), "y2": "top:Q"}
    numbers = (
        flat.transform_filter("isNumber(datum.v)").mark_rect().properties(name=f"{_NUMBERS}_{k}")
    )
    words = flat.transform_filter("isString(datum.v)").mark_rect().properties(name=f"{_WORDS}_{k}")
    scale = alt.Scale(scheme=MAGNITUDE, domain=[shared.low, shared.high])
    legend = None
    if k == 0:
        ticks = decade_axis(shared.low, shared.high, 6)
        ticks["values"] = [v for v in ticks["values"] if shared.low <= v <= shared.high]
        legend = alt.Legend(
            title="norm of the gradient, in decades", orient="top", direction="horizontal",
            gradientLength=320, gradientThickness=10, titleOrient="left", titleLimit=240,
            offset=2, **ticks,
        )  # fmt: skip
    layers = [
        encoded(
            numbers, color=alt.Color("v:Q", scale=scale, legend=legend), tooltip=tooltip, **places
        ),
        encoded(words, color=_odd_colour("v"), tooltip=tooltip, **places),
        *_rule(columns),
    ]
    title = f"{grid.title}: ‖∂L/∂{grid.name}ₜ‖"
    chart = layered(layers, width=WIDTH, height=shared.height, title=title)
    return chart.resolve_scale(color="independent")


def _curves(grid: Grid, columns: _Columns, shown: Sequence[int], shared: _Scale) -> Any:
    """The norms over time at the rule, and at the first training step."""
    alt = altair()
    room = 0.04 * (shared.high - shared.low)
    scale = alt.Scale(domain=[shared.low - room, shared.high + room], nice=False, zero=False)
    axis = alt.Axis(title="norm, in decades", grid=True, **decade_axis(shared.low, shared.high, 5))
    x, y = alt.X("v:Q", scale=scale, axis=axis), _t(grid)
    rows = [
        {"i": row["i"], "t": row["at"], "v": row["v"]}
        for row in _rows(grid, columns, shown, shared.height)
    ]
    layers = []
    for condition, colour, dash in (
        ("datum.i === 0", GREY, [5, 3]),
        ("datum.i === moment", BLUE, [1, 0]),
    ):
        flat = alt.Chart(data(rows)).transform_filter(condition).transform_flatten(["t", "v"])
        numbers = flat.transform_calculate(v="isNumber(datum.v) ? datum.v : null")
        line = numbers.mark_line(color=colour, strokeWidth=2, strokeDash=dash, clip=True)
        layers.append(encoded(line, x=x, y=y, order=alt.Order("t:Q")))
        for word in shared.words:
            mark = flat.transform_filter(f"datum.v === {word!r}").mark_point(
                color=colour, shape=_SHAPES[word], filled=True, size=36, opacity=1
            )
            edge = alt.value(4 if word == ZERO else BESIDE - 4)
            layers.append(encoded(mark, x=edge, y=y))
    return layered(layers, width=BESIDE, height=shared.height)


# --- the whole ------------------------------------------------------------------------------------


def _placed(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Charts in rows, as one specification; Altair would copy all of them for each that is added."""
    datasets: dict[str, Any] = {}
    placed = []
    for row in rows:
        specs = [charts.spec(chart) for chart in row]
        for spec in specs:
            datasets |= spec.pop("datasets", {})
            schema = spec.pop("$schema")
            spec.pop("config", None)
        placed.append({"hconcat": specs, "spacing": 20})
    return {"$schema": schema, "vconcat": placed, "spacing": 10, "datasets": datasets}


def _params(first: int, count: int, grids: int, slider: bool) -> list[dict[str, Any]]:
    """The signal ``moment``: the position of the training step at the rule."""
    if not slider or count < 2:
        return [{"name": "moment", "value": first}]
    bound = {"input": "range", "min": 0, "max": count - 1, "step": 1, "name": "Training step"}
    # A bound selection takes no clicks without "on", and it can be in one view of a layer only.
    marks = [_COLUMNS, *(f"{kind}_{k}" for k in range(grids) for kind in (_NUMBERS, _WORDS))]
    moves = [f"@{name}_marks:{how}" for name in marks for how in ("click", _DRAG)]
    select = {
        "type": "point",
        "fields": ["i"],
        "on": ", ".join(moves),
        "toggle": False,
        "clear": False,
    }
    pick = {"name": "pick", "select": select, "bind": {"i": bound}, "views": [_COLUMNS]}
    return [
        {"name": "moment", "expr": f"isArray(pick.i) ? pick.i[0] : {first}"},
        pick | {"value": [{"i": first}]},
    ]


_DRAG = "pointermove[event.buttons === 1]"
_COLUMNS, _NUMBERS, _WORDS = "columns", "numbers", "words"
"""Names of the views whose marks can be clicked."""
