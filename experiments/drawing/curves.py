"""Curves over time steps or lags in a grid of panels, each kind with a look of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt

from experiments.drawing import charts
from experiments.drawing.tables import Row, Value


@dataclass(frozen=True)
class Look:
    """The colour, dash and mark of a kind of curve."""

    colour: str
    dash: tuple[int, int] = (1, 0)
    width: float = 2.5


class Line(NamedTuple):
    """A curve of a panel, or the dots above it.

    Parameters
    ----------
    what : str
        Name in the legend.
    values : iterable of float
        What is not finite is left out of the drawing.
    column, row : str
        The panel.
    x : iterable of float, optional
        Places of the values: by default 0, 1, 2, …
    every : int
        Only each value that many places after the one before is drawn.
    """

    what: str
    values: Iterable[float]
    column: str = ""
    row: str = ""
    x: Iterable[float] | None = None
    every: int = 1

    def rows(self, field: str, key: str = "value") -> list[Row]:
        """Rows with the place in ``field`` and the value in ``key``.

        >>> Line("a", [1.0, 2.0, float("inf")], every=2).rows("lag")[1]
        {'column': '', 'row': '', 'what': 'a', 'lag': 2, 'value': None}
        """
        panel = {"column": self.column, "row": self.row, "what": self.what}
        pairs = zip(itertools.count() if self.x is None else self.x, self.values, strict=False)
        return [
            {**panel, field: place, key: charts.drawable(float(value))}
            for place, value in itertools.islice(pairs, 0, None, self.every)
        ]


def curves(
    lines: Iterable[Line],
    looks: Mapping[str, Look],
    *,
    x: alt.X,
    y: str,
    title: str,
    subtitle: str,
    axis: Callable[[Iterable[Value], str], alt.Y] = charts.powers,
    dots: Iterable[Line] = (),
    rules: Sequence[float] = (),
    height: int = 210,
) -> alt.TopLevelMixin:
    """Draw curves in a grid of panels.

    Parameters
    ----------
    lines : iterable of Line
    looks : mapping
        How each ``what`` is drawn, in the order of drawing and of the legend. Others come last, in
        colours of their own.
    x : axis
        The horizontal axis; its field says what the lines' places are.
    y : str
        Title of the vertical axis.
    title, subtitle : str
    axis : callable
        Makes the vertical axis from all values and its title, such as :func:`charts.shares`.
    dots : iterable of Line
        Drawn as points above the curves.
    rules : sequence of float
        Heights of thin level lines.
    height : int
        Of a panel, in pixels.
    """
    field, lines = _field(x), list(lines)
    rows = [row for line in lines for row in line.rows(field)]
    circles = [row for line in dots for row in line.rows(field, "dot")]
    y_axis = axis([*rules, *(r["value"] for r in rows), *(r["dot"] for r in circles)], y)
    present = dict.fromkeys(str(row["what"]) for row in rows)
    shown = {what: look for what, look in looks.items() if what in present}
    others = (what for what in present if what not in looks)
    shown |= {
        what: Look(colour)
        for what, colour in zip(others, itertools.cycle(charts.SPARE), strict=False)
    }
    merged = [{"dot": None, **row} for row in rows] + [{"value": None, **row} for row in circles]
    legend = alt.Legend(
        symbolStrokeWidth=3, symbolType="stroke", symbolSize=300, columns=3 if len(shown) > 5 else 0
    )

    def by_kind(values: list[Any]) -> dict[str, Any]:
        scale = alt.Scale(domain=list(shown), range=values)
        return {"shorthand": "what:N", "title": None, "scale": scale, "legend": legend}

    colour = alt.Color(**by_kind([look.colour for look in shown.values()]))
    dash = alt.StrokeDash(**by_kind([list(look.dash) for look in shown.values()]))
    layers: list[alt.Chart] = [
        alt.Chart().mark_rule(color=charts.GREY, strokeWidth=0.8).encode(y=alt.datum(level))
        for level in rules
    ]
    for what, look in shown.items():
        layers.append(
            alt.Chart()
            .transform_filter(alt.datum.what == what)
            .mark_line(strokeWidth=look.width, clip=True, point=len(rows) == len(lines))
            .encode(x=x, y=y_axis, color=colour, strokeDash=dash, tooltip=_tooltip(field))
        )
    if circles:
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
                        domain=list(dict.fromkeys(str(row["what"]) for row in circles)),
                        range=["circle"],
                    ),
                ),
                color=alt.value(charts.INK),
            )
        )
    return charts.panels(layers, merged, title=title, subtitle=subtitle, height=height)


def _field(x: alt.X) -> str:
    encoding: Any = x.to_dict()
    return str(encoding["field"])


def _tooltip(field: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("what:N", title="curve"),
        alt.Tooltip(f"{field}:Q", title=field),
        alt.Tooltip("value:Q", title="value, or log10 of it on a log axis", format=".4g"),
    ]
