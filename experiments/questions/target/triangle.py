"""A matrix over losses and time steps as coloured squares."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.charts import darker, paler
from experiments.drawing.numbers import Floats
from experiments.drawing.tables import Row

MOST = 60
"""Squares in a row: a page carries 20,000 of them with ease."""

MIDDLE = paler(charts.PALE_GREY, 0.9)
SMALL = (darker(charts.BLUE, 0.5), paler(charts.BLUE, 0.2), paler(charts.BLUE, 0.65), MIDDLE)
LARGE = (MIDDLE, paler(charts.ORANGE, 0.45), charts.ORANGE, darker(charts.ORANGE, 0.45))
"""Numbers below 1 and above 1 have a colour scale each: where one spans 40 decades
and the other 3, a common scale would leave no room for the latter."""


def triangle(
    panels: Sequence[tuple[str, Floats]], *, legend: str, title: str, subtitle: str
) -> alt.TopLevelMixin:
    """Draw lower triangles of logarithms, k downwards and t to the right, in the same colours.

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
            "loss": int(k),
            "step": int(t),
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
    low, high = min([-1.0, *drawn]), max([0.0, *drawn])
    width = max(150, min(520, charts.GRID_WIDTH // len(panels)))
    pixel = (length + stride - 1) / width  # in steps
    reach = [0.5 - stride, length - 0.5]
    ticks = charts.ticks(0, length - 1)
    base = alt.Chart().encode(
        x=alt.X("left:Q", title="state h_t at time step t", axis=alt.Axis(values=ticks, grid=False),
                scale=alt.Scale(domain=reach, nice=False, zero=False)),
        x2="right:Q",
        y=alt.Y("top:Q", title="loss L_k at time step k", axis=alt.Axis(values=ticks, grid=False),
                scale=alt.Scale(domain=reach, nice=False, zero=False, reverse=True)),
        y2="bottom:Q",
        tooltip=["loss:Q", "step:Q", alt.Tooltip("value:Q", title="log10", format=".3f")],
    )  # fmt: skip
    # A square reaches a pixel under the next ones, or the background shines through between them.
    base = base.transform_calculate(
        right=f"datum.right + {pixel}", bottom=f"datum.bottom + {pixel}"
    )
    layers = [base.transform_filter("!isValid(datum.value)").mark_rect(color=charts.INK, clip=True)]
    for condition, channel, heading, ends, colours in (
        ("<= 0", alt.Fill, f"{legend}, up to 1", (low, 0.0), SMALL),
        ("> 0", alt.Color, "above 1", (0.0, max(1.0, high)), LARGE),
    ):
        if condition == "<= 0" or high > 0:
            layers.append(
                base.transform_filter(f"isValid(datum.value) && datum.value {condition}")
                .mark_rect(clip=True)
                .encode(_channel(channel, heading, ends, colours))
            )
    return charts.panels(
        layers,
        rows,
        title=title,
        subtitle=subtitle,
        height=width,
        background=paler(charts.PALE_GREY, 0.5),
    )


def _square(k: int, t: int, stride: int) -> dict[str, float]:
    """The square of an entry; it stands for those that are left out before it, too."""
    return {
        "left": t + 0.5 - stride, "right": t + 0.5, "top": k + 0.5 - stride, "bottom": k + 0.5
    }  # fmt: skip


def _channel(
    channel: type[alt.Fill] | type[alt.Color],
    title: str,
    ends: tuple[float, float],
    colours: Sequence[str],
) -> alt.Fill | alt.Color:
    """The colours of one side of 1, with a legend of their own."""
    return channel(
        "value:Q",
        title=title,
        scale=alt.Scale(domain=np.linspace(*ends, len(colours)).tolist(), range=list(colours),
                        interpolate="rgb", clamp=True),
        legend=alt.Legend(
            direction="horizontal", gradientLength=300, titleLimit=400,
            titleFontWeight="normal", **charts.power_labels(*ends),
        ),
    )  # fmt: skip
