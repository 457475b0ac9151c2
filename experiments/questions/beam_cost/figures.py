"""The cost of beam search as charts and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.tables import Column, Figure, Row, Table
from experiments.questions.beam_cost.measure import Cost, Costs

STORED, AGAIN = "state stored", "run again from the start"
COLOURS = {STORED: charts.BLUE, AGAIN: charts.ORANGE}
SHAPES = {STORED: "circle", AGAIN: "square"}


def figures(found: Costs) -> tuple[Figure, ...]:
    """Time over T for two vocabularies, and over K and M."""
    by_length = [(f"M = {M}", cost) for M, costs in found.by_length.items() for cost in costs]
    first, width, vocabulary = by_length[0][1], found.by_width, found.by_vocabulary
    drawn = [
        _figure(
            "length",
            "length T (tokens)",
            by_length,
            f"K = {first.width}",
            "Both axes are logarithmic: a straight line is a power of T, its slope the exponent. The "
            "dashed lines have slopes 1 and 2.",
            guides=True,
        )
    ]
    at = f"T = {width[0].length}, "
    for field, title, costs, fixed in (
        ("width", "width K (hypotheses)", width, f"M = {width[0].vocabulary}"),
        ("vocabulary", "vocabulary M (tokens)", vocabulary, f"K = {vocabulary[0].width}"),
    ):
        if len({getattr(cost, field) for cost in costs}) > 1:
            caption = (
                "Running again multiplies the cost of the model's steps; choosing from the vocabulary is "
                "paid once a token either way."
            )
            drawn.append(_figure(field, title, [("", cost) for cost in costs], at + fixed, caption))
    return tuple(drawn)


def _figure(
    field: str,
    x_title: str,
    points: Iterable[tuple[str, Cost]],
    fixed: str,
    caption: str,
    guides: bool = False,
) -> Figure:
    """Time against a field of the costs, a panel for each name of the points."""
    rows: list[Row] = []
    for column, cost in points:
        for what, seconds in ((STORED, cost.stored), (AGAIN, cost.again)):
            here: Row = {"column": column, "row": "", "what": what, "x": getattr(cost, field)}
            rows.append({**here, "guide": "", "ms": seconds * 1e3})
    rows += _guides(rows) if guides else []
    xs = sorted({row["x"] for row in rows if isinstance(row["x"], int)})
    x = alt.X(
        "x:Q",
        title=x_title,
        scale=alt.Scale(type="log", domain=[xs[0] / 1.15, xs[-1] * 1.15], nice=False),
        axis=alt.Axis(values=xs, format="d", grid=False),
    )
    y = alt.Y("ms:Q", title="time (ms)", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=6))
    colour = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
    )
    shape = alt.Shape(
        "what:N", title=None, scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values()))
    )
    measured = alt.Chart().transform_filter("datum.guide === ''")
    layers = [
        measured.mark_line(strokeWidth=2.2).encode(x=x, y=y, color=colour),
        measured.mark_point(filled=True, size=60, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=["what:N", "x:Q", "ms:Q"]
        ),
    ]
    if guides:
        guide = alt.Chart().transform_filter("datum.guide !== ''")
        layers.append(
            guide.mark_line(color=charts.GREY, strokeDash=[4, 4], strokeWidth=1).encode(
                x=x, y=y, detail="guide:N"
            )
        )
    title, subtitle = f"Time over the {field}", f"{fixed}; least time of several runs"
    chart = charts.panels(layers, rows, title=title, subtitle=subtitle, height=260)
    return Figure(f"over_{field}", title, caption, chart)


def _guides(rows: Sequence[Row]) -> list[Row]:
    """Lines of slope 1 and 2 through the last measured point of each way."""
    found: list[Row] = []
    for column in dict.fromkeys(row["column"] for row in rows):
        for what, power in ((STORED, 1), (AGAIN, 2)):
            curve = [row for row in rows if (row["column"], row["what"]) == (column, what)]
            last = curve[-1]
            assert isinstance(last["x"], int)
            assert isinstance(last["ms"], float)
            for row in (curve[0], last):
                assert isinstance(row["x"], int)
                value = last["ms"] * (row["x"] / last["x"]) ** power
                found.append({**row, "ms": value, "guide": f"slope {power}"})
    return found


def tables(costs: Sequence[Cost]) -> tuple[Table, ...]:
    """Every search, each in one row."""
    return (
        Table(
            "searches",
            "Every search, both ways",
            costs,
            (
                Column("length", "length T"),
                Column("width", "width K"),
                Column("vocabulary", "vocabulary M"),
                Column("stored_ms", "stored (ms)", ".1f", get=lambda e: e.stored * 1e3),
                Column("again_ms", "run again (ms)", ".1f", get=lambda e: e.again * 1e3),
                Column("ratio", "times as long", ".1f", get=lambda e: e.again / e.stored),
                Column("stored_steps", "steps, stored", ",d"),
                Column("again_steps", "steps, run again", ",d"),
                Column("difference", "difference (nats)", ".1e"),
            ),
            note="Times are the least of several runs. A step of the model takes one hypothesis on by one "
            "token. The difference is the largest of the hypotheses' log-probabilities.",
            printed=True,
        ),
    )
