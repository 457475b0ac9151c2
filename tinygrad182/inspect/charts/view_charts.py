"""Charts of single views: shares, gains, matrices over losses and steps, singular values, weights."""

from __future__ import annotations

import functools
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...display.charts import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    MAGNITUDE,
    ORANGE,
    PALETTE,
    PINK,
    SKY,
    Row,
    altair,
    data,
    decade_axis,
    encoded,
    finite,
    layered,
)
from ..passes.scaling import HostArray, log10
from .drawn_steps import cell_ends
from .magnitudes import LOOKS, coded
from .view_arrays import Matrix, SingularValues

if TYPE_CHECKING:
    from ..microscope.linked_views import LinkedViews


# --- what all charts have in common ----------------------------------------------------------------

Views = Mapping[int, Any]
"""By block, the arrays of one view, or a str: why the block lacks it."""

WIDTH, HEIGHT = 340, 160
"""Pixels inside the axes; a page shows three charts side by side."""

FEW = 60
"""Up to this many steps, each is also drawn as a point."""

_LOOKS = {look.name: look for look in LOOKS.values()}
"""By name: the data of these charts hold the names themselves."""


class _Axis(NamedTuple):
    """The vertical axis of one block: both ends, and the labelled values."""

    low: float
    high: float
    ticks: list[float]


def _by_block(values: Mapping[int, Any]) -> str:
    """An expression for the value of the chosen recurrence."""
    return f"({json.dumps({str(block): value for block, value in values.items()})})[loop]"


def _ends(axes: Mapping[int, _Axis]) -> list[str]:
    """Expressions for the low and the high end of the chosen block's axis."""
    return [_by_block({block: axis[i] for block, axis in axes.items()}) for i in (0, 1)]


def _text(values: Mapping[int, str]) -> Any:
    """A text, or an expression for the text of the chosen block if these differ."""
    every = list(dict.fromkeys(values.values()))
    return every[0] if len(every) == 1 else altair().ExprRef(_by_block(values))


def _cells(values: HostArray) -> list[float | str]:
    """Numbers to draw; a name where there is no finite number."""
    words = coded(values[~np.isfinite(values)])
    names = iter(LOOKS[str(word)].name for word in words)
    return [next(names) if x is None else x for x in finite(values.tolist())]


def _range(*arrays: HostArray) -> tuple[float, float]:
    every = np.concatenate([np.ravel(a) for a in arrays])
    every = every[np.isfinite(every)]
    return (float(every.min()), float(every.max())) if every.size else (0.0, 0.0)


def _decades(*logs: HostArray) -> _Axis:
    """An axis in decades."""
    low, high = _range(*logs)
    bottom, top = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    ticks = decade_axis(bottom, top, 5)["values"]
    return _Axis(bottom, top, [n for n in ticks if bottom <= n <= top])


def _factors(low: float, high: float) -> _Axis:
    """An axis of log10 factors around 1, labelled 0.5, 1, 2 where there is room."""
    low, high = min(low, -0.02), max(high, 0.02)
    powers = range(math.floor(low) - 1, math.ceil(high) + 2)
    every = ([n + math.log10(d) for n in powers for d in digits] for digits in _DIGITS)
    enough = (ticks for ticks in (_enclosing(each, low, high) for each in every) if len(ticks) <= 6)
    ticks = next(enough, None) or [float(n) for n in decade_axis(low, high, 5)["values"]]
    room = 0.03 * (ticks[-1] - ticks[0])
    return _Axis(ticks[0] - room, ticks[-1] + room, ticks)


_DIGITS = (1, 1.2, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3)


def _enclosing(ticks: list[float], low: float, high: float) -> list[float]:
    """Keep the fewest ticks that enclose the range.

    >>> from tinygrad182.inspect.charts.view_charts import _enclosing
    >>> _enclosing([-2.0, -1.0, 0.0, 1.0], -0.5, 0.0)
    [-1.0, 0.0]
    """
    first = max(tick for tick in ticks if tick <= low)
    last = min(tick for tick in ticks if tick >= high)
    return [tick for tick in ticks if first <= tick <= last]


_DECADE = "'1e' + format(datum.value, 'd')"
_FACTOR = f"(abs(datum.value) >= 3 ? {_DECADE} : format(pow(10, datum.value), '.2~r'))"
_NOTHING = _Axis(0.0, 1.0, [])


def _curve(block: int, part: str, time: HostArray, values: HostArray) -> Row:
    """One curve as a row that holds lists over time."""
    row = {"block": block, "part": part, "t": time.tolist(), "v": _cells(values)}
    return {**row, "few": True} if len(time) <= FEW else row


def _flat(rows: list[Row], condition: str, *fields: str) -> Any:
    """The chosen block's rows, one for each element of the lists."""
    chart = altair().Chart(data(rows)).transform_filter(f"datum.block == loop{condition}")
    return chart.transform_flatten(list(fields or ("t", "v")))


def _drawn(rows: list[Row], colours: Mapping[str, str], x: Any, y: Any) -> list[Any]:
    """Curves with gaps, and points if there are few steps; ``colours`` are in the legend's order."""
    alt = altair()
    there = dict.fromkeys((row["block"], row["part"]) for row in rows)
    here = {block: [p for p in colours if (block, p) in there] for block, _ in there}
    scale = alt.Scale(domain=[*colours, ""], range=[*colours.values(), "transparent"])
    color = alt.Color("part:N", scale=scale, legend=_legend(here))
    layers = [
        encoded(
            _flat(rows, "")
            .transform_calculate(y="isNumber(datum.v) ? datum.v : null")
            .mark_line(clip=True, strokeWidth=alt.ExprRef("datum.width || 1.5")),
            x=x,
            y=y,
            color=color,
        )
    ]
    if any("few" in row for row in rows):
        layers.append(
            encoded(
                _flat(rows, " && datum.few")
                .transform_filter("isNumber(datum.v)")
                .mark_circle(clip=True, size=28, opacity=1),
                x=x,
                y=alt.Y("v:Q"),
                color=color,
            )
        )
    return layers


def _legend(here: Mapping[int, list[str]], nan: str = "NaN") -> Any:
    """A legend above the chart with the parts of the chosen block.

    A legend without entries would push the others out of the picture, so it then has a blank entry.
    """
    alt = altair()
    here = {block: names or [""] for block, names in here.items()}
    return alt.Legend(
        title=None, orient="top", direction="horizontal", values=alt.ExprRef(f"{_by_block(here)} || ['']"),
        labelExpr=f"datum.label == 'NaN' ? '{nan}' : datum.label",
        symbolStrokeWidth=3, offset=4, padding=0, columnPadding=12,
    )  # fmt: skip


def _odd(rows: list[Row]) -> dict[int, list[str]]:
    """By block, the names of the values that are drawn as marks."""
    found: dict[int, set[str]] = {}
    for row in rows:
        found.setdefault(row["block"], set()).update(_LOOKS.keys() & set(row["v"]))
    return {block: [kind for kind in _LOOKS if kind in kinds] for block, kinds in found.items()}


def _edges(
    rows: list[Row], axes: Mapping[int, _Axis], x: Any, y: Any, linked: bool, nan: str
) -> list[Any]:
    """Marks at the edge for values without a finite logarithm, if there are any."""
    alt = altair()
    odd = _odd(rows)
    if not any(odd.values()):
        return []
    low, high = _ends(axes)
    scale = alt.Scale(domain=[*_LOOKS, ""], range=[*(x.shape for x in _LOOKS.values()), "M0,0"])
    shape = alt.Shape("v:N", scale=scale, legend=_legend(odd, nan))
    rows = [row for row in rows if any(k in row["v"] for k in _LOOKS)]
    inside = " && inrange(datum.t, window)" if linked else ""  # marks at the edge are not clipped
    return [
        encoded(
            _flat(rows, "")
            .transform_filter(f"isString(datum.v){inside}")
            .transform_calculate(y=f"datum.v == 'infinite' ? {high} : {low}")
            .mark_point(size=40, filled=True, opacity=1, color=GREY),
            x=x,
            y=y,
            shape=shape,
            tooltip=["t:Q", "v:N"],
        )
    ]


def _level(value: float) -> Any:
    """A horizontal line at a reference value."""
    alt = altair()
    return encoded(alt.Chart(data([{"y": value}])).mark_rule(color=GREY, clip=True), y="y:Q")


class Panel(NamedTuple):
    """Data and size of one chart of a view.

    Attributes
    ----------
    views : mapping of int to Any
        By block; a str says why there is none.
    times : mapping of int to ndarray
        By block, the time steps that the signal ``loop_step`` counts.
    linked : bool
    size : tuple of int
        Width and height inside the axes.
    """

    views: Views
    times: Mapping[int, HostArray]
    linked: bool
    size: tuple[int, int]

    @property
    def found(self) -> dict[int, Any]:
        """The blocks that have the view."""
        return {block: view for block, view in self.views.items() if not isinstance(view, str)}

    def x(self) -> Any:
        """The time axis: the page's window, or all steps of the block."""
        alt = altair()
        ends = {b: [int(t[0]), int(t[-1])] for b, t in self.times.items()}
        window = "window" if self.linked else _by_block(ends)
        domain = [alt.ExprRef(f"{window}[0] - 0.5"), alt.ExprRef(f"{window}[1] + 0.5")]
        axis = alt.Axis(title="step t", format="d", tickMinStep=1, grid=False, labelFlush=True)
        return alt.X("t:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=axis)

    def y(self, axes: Mapping[int, _Axis], title: str, label: str) -> Any:
        """The vertical axis; ``label`` is the expression for the text of a tick."""
        alt = altair()
        axes = {b: axes.get(b, _NOTHING) for b in self.views}
        domain = [alt.ExprRef(end) for end in _ends(axes)]
        ticks = alt.ExprRef(_by_block({b: axis.ticks for b, axis in axes.items()}))
        # with fewer than 20 ticks, Vega leaves out every second label
        axis = alt.Axis(title=title, values=ticks, labelExpr=label, tickCount=20)
        scale = alt.Scale(domain=domain, nice=False, zero=False, clamp=False)
        return alt.Y("y:Q", scale=scale, axis=axis)

    def lines(
        self,
        rows: list[Row],
        colours: Mapping[str, str],
        axes: Mapping[int, _Axis],
        y: Any,
        nan: str = "NaN",
    ) -> list[Any]:
        x = self.x()
        return [*_drawn(rows, colours, x, y), *_edges(rows, axes, x, y, self.linked, nan)]

    def rows(self, parts: Mapping[int, Mapping[str, HostArray]]) -> list[Row]:
        """The curves of each block, by the name of the part."""
        return [
            _curve(b, part, self.views[b].time, values)
            for b, some in parts.items()
            for part, values in some.items()
        ]

    def chart(self, layers: Iterable[Any], title: Callable[[Any], str], subtitle: list[str]) -> Any:
        """All layers, the rule at the chosen step, and the reason if a block lacks the view."""
        titles = {b: title(view) for b, view in self.found.items()}
        titles = {b: titles.get(b) or next(iter(titles.values()), "") for b in self.views}
        width, height = self.size
        return layered(
            [*layers, self._step(), *self._reasons()],
            width=width,
            height=height,
            title=altair().Title(_text(titles), subtitle=subtitle, frame="group"),
        )

    def _step(self) -> Any:
        """The rule at the chosen step."""
        rows = [{"block": block, "time": self.times[block].tolist()} for block in self.found]
        chart = altair().Chart(data(rows)).transform_filter("datum.block == loop")
        chart = chart.transform_calculate(t="datum.time[loop_step]").transform_filter(
            "isValid(datum.t)"
        )
        rule = chart.mark_rule(color=GREY, strokeDash=[4, 3], strokeWidth=1.5, clip=True)
        return encoded(rule, x=self.x())

    def _reasons(self) -> list[Any]:
        """In the middle of the chart: why a block lacks the view."""
        alt = altair()
        rows = [
            {"block": b, "why": "\n".join(textwrap.wrap(f"Not here: {view}.", self.size[0] // 8))}
            for b, view in self.views.items()
            if isinstance(view, str)
        ]
        if not rows:
            return []
        chart = alt.Chart(data(rows)).transform_filter("datum.block == loop")
        text = chart.mark_text(lineBreak="\n", fontSize=12, baseline="middle")
        width, height = self.size
        return [encoded(text, text="why:N", x=alt.value(width / 2), y=alt.value(height / 2))]


# --- the charts -------------------------------------------------------------------------------------


class ViewChart:
    """A function that draws one view of several blocks: a decorator of a function of a :class:`Panel`."""

    def __init__(self, draw: Callable[[Panel], Any]) -> None:
        self._draw = draw
        functools.update_wrapper(self, draw)

    def __call__(
        self,
        views: Views,
        time: Mapping[int, HostArray] | None = None,
        *,
        linked: bool = False,
        width: int = WIDTH,
        height: int = HEIGHT,
    ) -> Any:
        """Draw the view.

        Parameters
        ----------
        views : mapping of int to Any
            By block, the arrays of the view, or a str: why the block lacks it.
        time : mapping of int to ndarray, optional
            By block, the time steps that the signal ``loop_step`` counts; by default the view's own.
        linked : bool
            Whether the time axis is the page's signal ``window``.
        width, height : int
            Pixels inside the axes.
        """
        own = {b: np.array([0, 1]) if isinstance(v, str) else v.time for b, v in views.items()}
        times = own if time is None else {b: time[b] for b in views}
        return self._draw(Panel(views, times, linked, (width, height)))


_PARTS = {"direct": BLUE, "via h": ORANGE, "via branch": ORANGE, "local": GREEN}


@ViewChart
def shares_chart(panel: Panel) -> Any:
    """Draw the shares of a state's gradient by the way it came: curves, because shares may leave 0 to 1.

    On a page, the shares of h_{t−1} are drawn at t, the step over which the gradient comes back, as all
    else there. The last state, to which nothing comes back over a step, is then left out. In a picture of
    its own, the chart draws the shares of h_{t−1} at t − 1.
    """
    times = {
        b: view.time[:-1] + 1 if panel.linked else view.time for b, view in panel.found.items()
    }
    rows = [
        _curve(block, part, times[block], values[: len(times[block])])
        for block, view in panel.found.items()
        for part, values in view.parts.items()
    ]
    names = list(dict.fromkeys(row["part"] for row in rows))
    spare = iter((PINK, SKY, AMBER) * len(names))
    colours = {name: _PARTS.get(name) or next(spare) for name in names}
    axes = {b: _share_axis(view.parts.values()) for b, view in panel.found.items()}
    y = panel.y(axes, "share of ‖δ‖²", "format(datum.value, '~g')")
    layers = [_level(0.0), _level(1.0), *panel.lines(rows, colours, axes, y, "δ is 0 or NaN")]
    if panel.linked:
        return panel.chart(
            layers,
            lambda view: f"How δ = ∂L/∂{view.state}ₜ₋₁ comes back through step t",
            [
                "Shares add up to 1. Direct: straight from step t;",
                "local: from the loss, not through step t.",
            ],
        )
    return panel.chart(
        layers,
        lambda view: f"Where δ = ∂L/∂{view.state}ₜ comes from",
        [
            "Shares add up to 1. Direct: straight from t + 1;",
            "local: from the loss, not through t + 1.",
        ],
    )


def _share_axis(parts: Iterable[HostArray]) -> _Axis:
    low, high = _range(*parts)
    low, high = min(low, 0.0), max(high, 1.0)
    room = 0.05 * (high - low)
    every = next(
        n for n in (0.5, 1, 2, 5, *(10.0**k for k in range(1, 300))) if (high - low) / n <= 5
    )
    ticks = np.arange(math.ceil(low / every), math.floor(high / every) + 1) * every
    return _Axis(low - room, high + room, ticks.tolist())


@ViewChart
def gain_chart(panel: Panel) -> Any:
    """Draw the factor by which each step scales the gradient: saturation, weight and their product."""
    product = (
        "gain = product"  # first and wider, so that it shows behind a factor with equal values
    )
    factors = {product: BLUE, "saturation": ORANGE, "weight": GREEN}
    logs = {
        b: dict(zip(factors, map(log10, (v.gain, v.saturation, v.weight)), strict=True))
        for b, v in panel.found.items()
    }
    rows = [row | {"width": 4 if row["part"] == product else 1.5} for row in panel.rows(logs)]
    axes = {b: _factors(*_range(*parts.values())) for b, parts in logs.items()}
    y = panel.y(axes, "factor of one step back", _FACTOR)
    return panel.chart(
        [_level(0.0), *panel.lines(rows, factors, axes, y)],
        lambda view: "What one step back does to the gradient",
        ["Below 1 the step makes it smaller;", "at 1 nothing is lost."],
    )


@ViewChart
def weights_chart(panel: Panel) -> Any:
    """Draw the part of each step in the gradients by the weights, in decades."""
    rows = panel.rows({b: _short(view.log10_norm) for b, view in panel.found.items()})
    names = dict.fromkeys(row["part"] for row in rows)
    colours = dict(zip(names, PALETTE * len(names), strict=False))
    axes = {b: _decades(*view.log10_norm.values()) for b, view in panel.found.items()}
    y = panel.y(axes, "‖part of ∂L/∂W‖", _DECADE)
    return panel.chart(
        panel.lines(rows, colours, axes, y),
        lambda view: "What each step adds to ∂L/∂W",
        ["A step decades below the highest", "teaches the weights nothing."],
    )


def _short(norms: Mapping[str, HostArray]) -> dict[str, HostArray]:
    """Names of weights without their layer, which the box shows, if they stay distinct.

    >>> from tinygrad182.inspect.charts.view_charts import _short
    >>> _short({"weight_ih_l0_reverse": 0, "weight_hh_l0_reverse": 1})
    {'weight_ih': 0, 'weight_hh': 1}
    """
    short = {re.sub(r"_l\d+(_reverse)?$", "", name): logs for name, logs in norms.items()}
    return short if len(short) == len(norms) else dict(norms)


@ViewChart
def singular_chart(panel: Panel) -> Any:
    """Draw how far single steps can stretch a gradient: singular values of the step Jacobians.

    A band from the smallest to the largest, with the median; its lower end may run out of the picture.
    """
    colours = {"largest": ORANGE, "median": BLUE, "smallest": GREY}
    logs = {b: log10(view.values) for b, view in panel.found.items()}
    curves = {
        b: {"largest": v[:, 0], "median": np.median(v, axis=1), "smallest": v[:, -1]}
        for b, v in logs.items()
    }
    rows = panel.rows(curves)
    axes = {b: _singular_axis(curves[b], v) for b, v in logs.items()}
    y = panel.y(axes, "singular value", _FACTOR)
    bands = [
        {
            "block": b,
            "t": panel.found[b].time.tolist(),
            "low": finite(np.maximum(v[:, -1], axes[b].low).tolist()),
            "high": finite(v[:, 0].tolist()),
        }
        for b, v in logs.items()
    ]
    alt = altair()
    band = _flat(bands, "", "t", "low", "high").mark_area(color=GREY, opacity=0.25, clip=True)
    band = encoded(band, x=panel.x(), y=alt.Y("low:Q"), y2="high:Q")
    return panel.chart(
        [_level(0.0), band, *panel.lines(rows, colours, axes, y)],
        _of_step,
        [
            "How far one step can stretch a gradient. Where",
            "all are below 1, every gradient shrinks.",
        ],
    )


def _of_step(view: SingularValues) -> str:
    """The title: the Jacobian, or "all of the state" if the state has many names."""
    names = ", ".join(view.names)
    state = f"({names})" if len(view.names) > 1 else names
    if len(state) > 8:
        return "Singular values of all of the state"
    return f"Singular values of ∂{state}ₜ / ∂{state}ₜ₋₁"


def _singular_axis(curves: Mapping[str, HostArray], values: HostArray) -> _Axis:
    """An axis of the largest and the median, with two more decades for the smallest."""
    low, high = _range(curves["largest"], curves["median"])
    return _factors(max(_range(values)[0], low - 2), high)


@ViewChart
def matrix_chart(panel: Panel) -> Any:
    """Draw the gradient of the loss at each step by each state as colours; zeros have their own colour."""
    rows = [row for b, view in panel.found.items() for row in _matrix_rows(b, view)]
    axes = {b: _row_axis(view.rows) for b, view in panel.found.items()}
    decades = {b: _decades(view.log10_norm) for b, view in panel.found.items()}
    cells = _flat(rows, "", "t", "t2", "v").mark_rect(clip=True)
    cells = encoded(
        cells,
        x=panel.x(),
        x2="t2:Q",
        y=panel.y(axes, "loss at step k", "format(datum.value, 'd')"),
        y2="y2:Q",
    )
    layers = [
        encoded(cells.transform_filter("isNumber(datum.v)"), color=_magnitude(decades)),
        encoded(cells.transform_filter("isString(datum.v)"), color=_oddities(rows)),
    ]
    chart = panel.chart(
        layers,
        lambda view: f"‖∂Lₖ/∂{view.state}ₜ‖: from step k back to t",
        [
            "Lₖ is what the loss reads at step k; its row fades",
            "to the left as its gradient vanishes.",
        ],
    )
    return chart.resolve_scale(color="independent")


def _matrix_rows(block: int, view: Matrix) -> list[Row]:
    """A row for each loss; a cell reaches half way to its neighbours."""
    left, right = cell_ends(view.time, 1.0, 500)
    bottom, top = cell_ends(view.rows, 1.0, 500)
    return [
        {"block": block, "y": y, "y2": y2, "t": left, "t2": right, "v": _cells(logs)}
        for y, y2, logs in zip(bottom, top, view.log10_norm, strict=True)
    ]


def _row_axis(rows: HostArray) -> _Axis:
    low, high = int(rows[0]), int(rows[-1])
    ticks = [rows[i] for i in np.linspace(0, len(rows) - 1, min(len(rows), 4)).astype(int)]
    return _Axis(low - 0.5, high + 0.5, [int(k) for k in ticks])


def _magnitude(decades: Mapping[int, _Axis]) -> Any:
    """The colours of magnitudes in decades."""
    alt = altair()
    domain = [alt.ExprRef(f"{end} + 0") for end in _ends(decades)]
    ticks = alt.ExprRef(_by_block({b: [a.low, a.high] for b, a in decades.items()}))
    there = alt.ExprRef(f"{_by_block(dict.fromkeys(decades, 1))} || 0")
    legend = alt.Legend(
        title=None, orient="top", direction="horizontal", values=ticks, offset=4, padding=0,
        labelExpr=f"isFinite(datum.value) ? {_DECADE} : ''",
        gradientLength=120, gradientThickness=10, gradientOpacity=there,
    )  # fmt: skip
    return alt.Color("v:Q", scale=alt.Scale(scheme=MAGNITUDE, domain=domain), legend=legend)


def _oddities(rows: list[Row]) -> Any:
    """The colours of cells without a finite logarithm."""
    alt = altair()
    scale = alt.Scale(
        domain=[*_LOOKS, ""], range=[*(x.colour for x in _LOOKS.values()), "transparent"]
    )
    return alt.Color("v:N", scale=scale, legend=_legend(_odd(rows)))


CHARTS = {
    "shares": shares_chart,
    "gain": gain_chart,
    "matrix": matrix_chart,
    "singular": singular_chart,
    "weights": weights_chart,
}
"""Name of a view in :class:`LinkedViews` → its chart."""


def charts_of(blocks: Mapping[int, LinkedViews], width: int = WIDTH) -> dict[str, Any]:
    """Return the linked charts of a page by view; views that no block has are left out."""
    found = {}
    for name, draw in CHARTS.items():
        views = {b: getattr(linked, name) for b, linked in blocks.items()}
        if not all(isinstance(view, str) for view in views.values()):
            times = {b: linked.time for b, linked in blocks.items()}
            found[name] = draw(views, times, linked=True, width=width)
    return found
