"""Curves over time steps or lags in a grid of panels, each kind with a look of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from experiments.drawing import charts
from experiments.drawing.tables import Row


@dataclass(frozen=True)
class Look:
    """How a kind of curve is drawn."""

    colour: str
    dash: tuple[int, int] = (1, 0)
    width: float = 2.5


def points(
    fields: Row,
    values: Iterable[float],
    x: str = "step",
    *,
    first: int = 1,
    every: int = 1,
    y: str = "value",
) -> list[Row]:
    """Rows of one curve, or of the dots above it.

    Parameters
    ----------
    fields : mapping
        What all rows have: ``column`` and ``row`` of the panel, ``what``.
    values : iterable of float
        What is not finite is left out of a drawing.
    x, y : str
        Fields of a value's place and of the value.
    first, every : int
        Place of the first value, and how many places apart those are that are kept.

    Examples
    --------
    >>> points({"what": "a"}, [1.0, 2.0, float("inf")], "lag", first=0, every=2)
    [{'what': 'a', 'lag': 0, 'value': 1.0}, {'what': 'a', 'lag': 2, 'value': None}]
    """
    return [
        {**fields, x: place, y: charts.drawable(float(value))}
        for place, value in enumerate(values, start=first)
        if (place - first) % every == 0
    ]


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
