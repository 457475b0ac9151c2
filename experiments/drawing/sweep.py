"""A number of each network against what its weights were multiplied by, or another setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.tables import Row


def sweep_chart(
    rows: Sequence[Row],
    colours: Mapping[str, str],
    *,
    y: str,
    title: str,
    subtitle: str,
    x: alt.X | None = None,
) -> alt.TopLevelMixin:
    """Draw a point for each network, and for each kind a line through the means.

    Parameters
    ----------
    rows : sequence of mappings
        With ``what`` (the kind), ``scale``, ``seed`` and ``value`` (None is left out).
    colours : mapping
        Of the kinds, in the order of the legend.
    y : str
        Title of the vertical axis.
    title, subtitle : str
    x : axis, optional
        Of the field ``scale``, where it is not what the weights were multiplied by.
    """
    scales = sorted({float(str(row["scale"])) for row in rows})
    by_weights = alt.X(
        "scale:Q",
        title="weights multiplied by",
        scale=alt.Scale(type="log", domain=[scales[0] * 0.95, scales[-1] * 1.05], nice=False),
        axis=alt.Axis(values=scales, format="~g", grid=False, labelOverlap=True),
    )
    base = alt.Chart(charts.data(rows)).encode(
        x=by_weights if x is None else x,
        color=alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            legend=alt.Legend(symbolStrokeWidth=3),
        ),
    )
    tooltip = ["what:N", "scale:Q", "seed:N", alt.Tooltip("value:Q", format="+.3f")]
    zero = alt.Chart(charts.data([{"y": 0.0}])).mark_rule(color=charts.GREY).encode(y="y:Q")
    chart = alt.layer(
        zero,
        base.mark_line(strokeWidth=2).encode(y=alt.Y("mean(value):Q", title=y)),
        base.mark_point(size=45, filled=True, opacity=0.8).encode(
            y=alt.Y("value:Q", title=y), tooltip=tooltip
        ),
    ).properties(width=charts.GRID_WIDTH, height=330)
    return charts.finish(chart, title=title, subtitle=subtitle)
