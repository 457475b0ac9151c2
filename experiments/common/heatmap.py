"""A matrix over losses and time steps as coloured squares."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from experiments.common import charts
from experiments.common.flow import Floats
from experiments.common.result import Row

MOST = 60
"""Squares in a row: a page carries 20,000 of them with ease."""

SMALL, MIDDLE, LARGE = (
    ("#08306b", "#2f79b9", "#a9cfe5"),
    "#fbfbf8",
    ("#f4a07a", "#d55e00", "#7a3300"),
)


def heatmap(
    panels: Sequence[tuple[str, Floats]], *, legend: str, title: str, subtitle: str
) -> alt.TopLevelMixin:
    """Draw lower triangles of logarithms, k downwards and t to the right, in one colour scale.

    Parameters
    ----------
    panels : sequence of (name, array (T, T))
        log10 values; −inf below the diagonal is an exact zero.
    legend : str
        What the colours are.
    title, subtitle : str
    """
    length = len(panels[0][1])
    stride = -(-length // MOST)
    chosen = np.arange(length - 1, -1, -stride)[::-1]  # the last step is always among them
    rows: list[Row] = [
        {
            "column": name,
            "row": "",
            "value": charts.drawable(float(values[k, t])),
            "loss": int(k) + 1,
            "step": int(t) + 1,
            **_square(int(k), int(t), stride),
        }
        for name, values in panels
        for k in chosen
        for t in chosen
        if t <= k
    ]
    if stride > 1:
        subtitle += f"; every {stride}th loss and step is drawn"
    drawn = [row["value"] for row in rows if isinstance(row["value"], float)]
    low, high = min(-1.0, *drawn), max(0.0, *drawn)
    domain, colours = _scale(low, high)
    reach = [0.5 - (stride - 1), length + 0.5]
    ticks = sorted({1, *charts.ticks(1, length)})
    base = alt.Chart().encode(
        x=alt.X("left:Q", title="state h_t at time step t", axis=alt.Axis(values=ticks, grid=False),
                scale=alt.Scale(domain=reach, nice=False, zero=False)),
        x2="right:Q",
        y=alt.Y("top:Q", title="loss L_k at time step k", axis=alt.Axis(values=ticks, grid=False),
                scale=alt.Scale(domain=reach, nice=False, zero=False, reverse=True)),
        y2="bottom:Q",
        tooltip=["loss:Q", "step:Q", alt.Tooltip("value:Q", title="log10", format=".3f")],
    )  # fmt: skip
    bar = alt.Legend(
        direction="horizontal", gradientLength=340, values=charts.ticks(low, high),
        labelExpr="'1e' + format(datum.value, 'd')", titleLimit=400, titleFontWeight="normal",
    )  # fmt: skip
    colour = alt.Color(
        "value:Q", title=legend, scale=alt.Scale(domain=domain, range=colours), legend=bar
    )
    layers = [
        base.transform_filter("!isValid(datum.value)").mark_rect(color=charts.INK),
        base.transform_filter("isValid(datum.value)").mark_rect().encode(color=colour),
    ]
    width = max(150, min(520, charts.GRID_WIDTH // len(panels)))
    return charts.panels(
        layers, rows, title=title, subtitle=subtitle, height=width, background="#e6e8ec"
    )


def _square(k: int, t: int, stride: int) -> dict[str, float]:
    """The square of an entry; it stands for those that are left out before it, too."""
    return {
        "left": t + 1.5 - stride, "right": t + 1.5, "top": k + 1.5 - stride, "bottom": k + 1.5
    }  # fmt: skip


def _scale(low: float, high: float) -> tuple[list[float], list[str]]:
    """Domain and colours: white at 0, one hue below and another above, as far as there are values.

    >>> _scale(-3.0, 0.0)
    ([-3.0, -2.0, -1.0, 0.0], ['#08306b', '#2f79b9', '#a9cfe5', '#fbfbf8'])
    """
    count = len(SMALL)
    below = [low * (count - i) / count for i in range(count)]
    above = [high * (i + 1) / count for i in range(count)] if high > 0 else []
    return [*below, 0.0, *above], [*SMALL, MIDDLE, *(LARGE if above else ())]
