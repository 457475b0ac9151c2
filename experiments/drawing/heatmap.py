"""A number by time step and training step as coloured rectangles."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.numbers import Floats
from experiments.drawing.tables import Row
from tinygrad182.display.charts import MAGNITUDE


def heatmap(
    panels: Sequence[tuple[Row, Sequence[int], Floats]],
    *,
    steps: int,
    legend: str,
    title: str,
    subtitle: str,
    height: int = 190,
) -> alt.TopLevelMixin:
    """Draw logarithms, training steps to the right and time steps upwards, in the same colours.

    Parameters
    ----------
    panels : sequence of (fields, moments, array (M, T))
        ``column`` and ``row`` of the panel; the training steps after which there was measured, in
        their order; and log10 values for each of them. What is not finite is left out.
    steps : int
        Training steps in all.
    legend : str
        What the colours are.
    title, subtitle : str
    height : int
        Of a panel, in pixels.
    """
    rows: list[Row] = []
    for fields, moments, values in panels:
        ends = [*moments[1:], steps + 1]
        for start, end, column in zip(moments, ends, values, strict=True):
            rows += [
                {
                    **fields,
                    "step": start,
                    # The next ones are drawn over a margin: no hairlines between neighbours.
                    "until": min(end + steps / 500, steps + 1),
                    "low": t - 0.5,
                    "high": min(t + 0.7, len(column) - 0.5),
                    "t": t,
                    "value": charts.drawable(float(value)),
                }
                for t, value in enumerate(column)
            ]
    layer = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X(
                "step:Q",
                title="training steps done",
                scale=alt.Scale(domain=[0, steps + 1], nice=False),
                axis=alt.Axis(
                    values=charts.ticks(0, steps), format="d", grid=False, labelOverlap=True
                ),
            ),
            x2="until:Q",
            y=_time_axis(panels[0][2].shape[1]),
            y2="high:Q",
            color=_colours(charts.spanned(row["value"] for row in rows), legend),
            tooltip=[
                alt.Tooltip("step:Q", title="training steps done"),
                alt.Tooltip("t:Q", title="time step t"),
                alt.Tooltip("value:Q", title=f"log10 {legend}", format=".3f"),
            ],
        )
    )
    return charts.panels([layer], rows, title=title, subtitle=subtitle, height=height)


def _time_axis(length: int) -> alt.Y:
    return alt.Y(
        "low:Q",
        title="time step t",
        scale=alt.Scale(domain=[-0.5, length - 0.5], nice=False, zero=False),
        axis=alt.Axis(values=charts.ticks(0, length - 1), format="d", grid=False),
    )


def _colours(domain: tuple[float, float], title: str) -> alt.Color:
    return alt.Color(
        "value:Q",
        title=title,
        scale=alt.Scale(scheme=MAGNITUDE, domain=list(domain)),
        legend=alt.Legend(
            type="gradient",
            direction="horizontal",
            gradientLength=340,
            **charts.power_labels(*domain),
            titleFontSize=13,
            titleLimit=300,
        ),
    )
