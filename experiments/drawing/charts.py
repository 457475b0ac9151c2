"""The look of every chart, and the pieces that several experiments draw with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from experiments.drawing.tables import Row, Value
from tinygrad182.display import charts

# The colours and the font are those of the framework's own pictures.
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = charts.PALETTE
GREY, PALE_GREY, FONT = charts.GREY, charts.PALE_GREY, charts.FONT
INK, _, LINE = charts.LIGHT
darker, paler = charts.darker, charts.paler
GRID = paler(LINE, 0.5)

PALETTE = (ORANGE, BLUE, GREEN, PINK, AMBER, SKY)
"""Colours for curves that have none of their own."""

SPARE = (PINK, AMBER, SKY)
"""Colours for curves beside those whose colours are fixed."""

GRID_WIDTH = 840
"""Pixels that the panels of a row share."""


def data(rows: Sequence[Row]) -> alt.Data:
    """Rows as a chart's data, without a data frame library."""
    return alt.Data(values=[dict(row) for row in rows])  # type: ignore[no-untyped-call]


def drawable(value: float | None) -> float | None:
    """Value a chart can draw; None, which leaves a gap, for what is not finite."""
    return round(value, 6) if value is not None and math.isfinite(value) else None


def spanned(values: Iterable[Value], margin: float = 0.06) -> tuple[float, float]:
    """Range of the values that can be drawn, with a margin, and never narrower than a decade.

    >>> spanned([None, -10.0, 0.0], margin=0.1)
    (-11.0, 1.0)
    >>> spanned([])
    (-1.0, 1.0)
    """
    drawn = [value for value in values if isinstance(value, float)]
    if not drawn:
        return -1.0, 1.0
    low, high = min(drawn), max(drawn)
    room = max(margin * (high - low), (1.0 - (high - low)) / 2, 0.0)
    return low - room, high + room


def decades(field: str, title: str, domain: tuple[float, float]) -> alt.Y:
    """Vertical axis for log10 values, labelled with the numbers they are the logarithms of.

    Logarithms reach where floating-point numbers, and so a logarithmic scale, do not. The domain
    is given, since panels can be empty: all values of a network may be beyond drawing.
    """
    return alt.Y(
        f"{field}:Q",
        title=title,
        scale=alt.Scale(domain=list(domain), zero=False, nice=False),
        axis=alt.Axis(**power_labels(*domain)),
    )


def power_labels(low: float, high: float) -> dict[str, Any]:
    """Values and labels of an axis or a legend for log10 values.

    Labelled are powers of ten; where there are fewer than two of them, also what is 2 and 5 times a power.

    >>> power_labels(-2.5, 0.1)["values"]
    [-2, -1, 0]
    >>> [round(10**value, 3) for value in power_labels(-0.9, 0.4)["values"]]
    [0.2, 0.5, 1.0, 2.0]
    """
    if len(ticks(low, high)) > 1:
        return {"values": ticks(low, high), "labelExpr": "'1e' + format(datum.value, 'd')"}
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [power + math.log10(digit) for power in powers for digit in (1, 2, 5)]
    shown = [value for value in values if low <= value <= high]
    return {"values": shown, "labelExpr": "format(pow(10, datum.value), '.1~g')"}


def powers(values: Iterable[Value], title: str) -> alt.Y:
    """Vertical axis for log10 values in the field ``value``, labelled as powers of ten."""
    return decades("value", title, spanned(values))


def steps(count: float, title: str = "time step t", field: str = "step") -> alt.X:
    """Horizontal axis for ``count`` whole numbers in ``field``, from 0 on."""
    last = max(count - 1, 1)
    return alt.X(
        f"{field}:Q",
        title=title,
        scale=alt.Scale(domain=[0, last], zero=False, nice=False, padding=5),
        axis=alt.Axis(values=ticks(0, last), format="d", grid=False),
    )


def lags(last: float, title: str = "steps back from the last step") -> alt.X:
    """Horizontal axis for the field ``lag``, from 0 to ``last``."""
    return steps(last + 1, title, "lag")


def shares(values: Iterable[Value], title: str) -> alt.Y:
    """Vertical axis for signed shares in the field ``value``: from 0 to 1, and what lies beyond."""
    return linear([0.0, 1.0, *values], title)


def linear(values: Iterable[Value], title: str) -> alt.Y:
    """Vertical axis for the field ``value`` that leaves room around all of the values."""
    drawn = [value for value in values if isinstance(value, float)]
    low, high = min(drawn), max(drawn)
    room = 0.04 * (high - low)
    domain = [low - room, high + room]
    return alt.Y("value:Q", title=title, scale=alt.Scale(domain=domain, zero=False, nice=False))


def ticks(low: float, high: float) -> list[int]:
    """Return the round whole numbers from ``low`` to ``high``, at most 8.

    Drawing libraries choose ticks for what can be any number: between two neighbouring steps or
    powers of ten they put a third, which is neither and gets the label of one.

    >>> ticks(1, 2), ticks(-0.7, 30)
    ([1, 2], [0, 5, 10, 15, 20, 25, 30])
    """
    sizes = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    size = next(size for size in sizes if high - low <= 7 * size)
    return list(range(math.ceil(low / size) * size, math.floor(high) + 1, size))


def panels(
    layers: Sequence[alt.Chart],
    rows: Sequence[Row],
    *,
    title: str,
    subtitle: str,
    height: int = 210,
    background: str = "white",
) -> alt.TopLevelMixin:
    """Draw layers in a grid of panels by the rows' fields ``column`` and ``row``, in their order.

    Parameters
    ----------
    layers : sequence of charts
        Without data of their own.
    rows : sequence of mappings
        The data of all layers.
    title, subtitle : str
        What is shown, and how to read it.
    height : int
        Of a panel, in pixels.
    background : str
        Colour of what the layers leave free.
    """
    columns = list(dict.fromkeys(str(item["column"]) for item in rows))
    lines = list(dict.fromkeys(str(item["row"]) for item in rows))
    width = max(150, min(520, GRID_WIDTH // len(columns)))
    header = alt.Header(title=None, labelFontSize=13, labelFontWeight="bold", labelColor=INK)
    view = alt.ViewBackground(fill=background)
    chart = alt.layer(*layers, data=data(rows), view=view).properties(width=width, height=height)
    return finish(
        chart.facet(
            column=alt.Column("column:N", sort=columns, header=header),
            row=alt.Row("row:N", sort=lines, header=header),
            spacing=14,
        ),
        title=title,
        subtitle=subtitle,
    )


def finish(chart: Any, *, title: str, subtitle: str) -> alt.TopLevelMixin:
    """Give a chart its title and the common look."""
    finished: alt.TopLevelMixin = (
        chart.properties(
            title=alt.TitleParams(
                title,
                subtitle=subtitle,
                anchor="start",
                fontSize=17,
                subtitleFontSize=13,
                subtitleColor=GREY,
                offset=12,
            ),
            background="white",
            padding=8,
        )
        .configure(font=FONT)
        .configure_view(stroke=LINE)
        .configure_axis(
            labelFontSize=12,
            titleFontSize=13,
            titleFontWeight="normal",
            gridColor=GRID,
            labelColor=INK,
            titleColor=INK,
        )
        .configure_legend(
            orient="bottom", labelFontSize=13, labelLimit=400, columnPadding=24, padding=8
        )
    )
    return finished
