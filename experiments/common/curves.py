"""Curves over time steps or lags in a grid of panels, each kind with a look of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from experiments.common import charts
from experiments.common.result import Row
from experiments.common.study import NONLINEARITY_TEXT


@dataclass(frozen=True)
class Look:
    """How a kind of curve is drawn."""

    colour: str
    dash: tuple[int, int] = (1, 0)
    width: float = 2.5


NONLINEARITY_LOOKS = {
    text: Look(charts.NONLINEARITY_COLOURS[name], dash, width)
    for (name, text), dash, width in zip(
        NONLINEARITY_TEXT.items(),
        ((1, 0), (1, 0), (7, 3), (1, 0)),
        (4.0, 2.2, 2.2, 2.2),
        strict=True,
    )
}
"""Also told apart where curves coincide: the linear one is wider, ReLU's is dashed."""


def lags(last: int) -> alt.X:
    """Horizontal axis for the field ``lag``, from 0 to ``last``."""
    return alt.X(
        "lag:Q",
        title="steps back k = T − t",
        scale=alt.Scale(domain=[0, last], zero=False, nice=False, padding=5),
        axis=alt.Axis(values=charts.ticks(0, last), format="d", grid=False),
    )


def curves(
    rows: Sequence[Row],
    looks: Mapping[str, Look],
    *,
    x: alt.X,
    y: alt.Y,
    title: str,
    subtitle: str,
    dots: Sequence[Row] = (),
    rules: Sequence[float] = (),
    height: int = 210,
) -> alt.TopLevelMixin:
    """Draw a curve for each ``what`` of each panel.

    Parameters
    ----------
    rows : sequence of mappings
        With ``column`` and ``row`` of the panel, ``what``, ``value`` (None leaves a gap), and the
        field of ``x``.
    looks : mapping
        What there is, in the order of drawing and of the legend.
    x, y : axes
    title, subtitle : str
    dots : sequence of mappings
        The same with ``dot`` instead of ``value``: points above the curves.
    rules : sequence of float
        Heights of thin level lines.
    height : int
        Of a panel, in pixels.
    """
    present = {str(row["what"]) for row in rows}
    shown = {what: look for what, look in looks.items() if what in present}
    merged = [{"dot": None, **row} for row in rows] + [{"value": None, **row} for row in dots]
    legend = alt.Legend(symbolStrokeWidth=3, symbolType="stroke", symbolSize=300)
    colour = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=list(shown), range=[look.colour for look in shown.values()]),
        legend=legend,
    )
    dash = alt.StrokeDash(
        "what:N",
        title=None,
        scale=alt.Scale(domain=list(shown), range=[list(look.dash) for look in shown.values()]),
        legend=legend,
    )
    layers: list[alt.Chart] = [
        alt.Chart().mark_rule(color=charts.GREY, strokeWidth=0.8).encode(y=alt.datum(level))
        for level in rules
    ]
    for what, look in shown.items():
        layers.append(
            alt.Chart()
            .transform_filter(alt.datum.what == what)
            .mark_line(strokeWidth=look.width, clip=True)
            .encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=_tooltip(x))
        )
    if dots:
        layers.append(
            alt.Chart()
            .transform_filter("isValid(datum.dot)")
            .mark_point(size=42, filled=False, strokeWidth=1.4, clip=True)
            .encode(
                x=x,
                y=alt.Y("dot:Q"),  # the scale and the axis are those of the curves
                shape=alt.Shape(
                    "what:N",
                    title=None,
                    scale=alt.Scale(
                        domain=list(dict.fromkeys(str(row["what"]) for row in dots)),
                        range=["circle"],
                    ),
                ),
                color=alt.value(charts.INK),
            )
        )
    return charts.panels(layers, merged, title=title, subtitle=subtitle, height=height)


def _tooltip(x: alt.X) -> list[alt.Tooltip]:
    encoding: Any = x.to_dict()
    field = str(encoding["field"])
    return [
        alt.Tooltip("what:N", title="curve"),
        alt.Tooltip(f"{field}:Q", title=field),
        alt.Tooltip("value:Q", title="value, or log10 of it on a log axis", format=".4g"),
    ]
