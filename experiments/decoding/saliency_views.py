"""Which characters a prediction depends on, drawn over the text itself and by how far back they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from experiments.common import charts
from experiments.common.curves import Look, curves, points
from experiments.common.numbers import Floats
from experiments.common.result import Column, Figure, Row, Table
from experiments.decoding.saliency import BACK, LAGS, Saliency, telling
from experiments.decoding.text import shown

LOOKS = {
    "RNN": Look(charts.VERMILLION, (2, 3)),
    "LSTM": Look(charts.BLUE),
    "GRU": Look(charts.GREEN, (7, 3)),
}

COLUMNS = 64
"""Characters in a line of the text."""

WIDTH, HEIGHT = 16, 25
"""Pixels of a character's cell."""

LEAST = -3.0
"""log10 of the least share of the largest norm that has a colour of its own."""

LIKELIEST = 3
"""Characters that are named of those a model expects."""

COLOURS = ("#ffffff", "#7db5dc", "#08468b")
"""From the least share to the largest; text can be read on each, which viridis does not allow."""

UNREAD, ODD = "#eceff2", "#f6d9c8"
"""Behind characters that a model has not read, and behind norms that are 0 or no number."""

EXACTLY_0, NO_NUMBER = "exactly 0", "not a number"

SHARE = "‖∂L/∂x_t‖ / largest of the same prediction"


def text_chart(
    found: Sequence[Saliency], text: str, vocabulary: str, size: str
) -> alt.TopLevelMixin:
    """The text once for each model; pointing at a character colours those before it in all of them.

    Parameters
    ----------
    found : sequence of Saliency
        The models, from top to bottom.
    text : str
        The T characters that were read, and the one after them.
    vocabulary : str
        The characters of the models.
    size : str
        What the models are, for the subtitle.
    """
    at = telling(next(each for each in found if each.cell == "lstm"))
    hover = alt.selection_point(
        name="hover",
        fields=["t"],
        on="pointerover",
        clear=False,
        empty=False,
        toggle=False,
        value=[{"t": at}],
    )
    pin = alt.selection_point(name="pin", fields=["t"], on="click", empty=False, toggle=False)
    chosen = alt.param(name="k", expr="isArray(pin.t) ? pin.t[0] : hover.t[0]")
    tops = {each.name: _drawable(each.log10.max(axis=1)) for each in found}
    largest = alt.param(name="largest", value=tops)
    lines = alt.Y("line:O", axis=None, scale=alt.Scale(paddingInner=0.08))
    place = {"x": alt.X("column:O", axis=None, scale=alt.Scale(paddingInner=0.04)), "y": lines}
    cells = (
        alt.Chart()
        .transform_filter("isArray(datum.k_to_log)")
        .transform_calculate(log="datum.k_to_log[k - datum.t]")
        .transform_calculate(
            share="isNumber(datum.log) ? datum.log - largest[datum.model][k] : datum.log",
            back="k >= datum.t ? k - datum.t : 'not read yet'",
        )
        .transform_calculate(norm_text=_power("log"), share_text=_power("share"))
    )
    tooltip = [
        alt.Tooltip("model:N"),
        alt.Tooltip("character:N"),
        alt.Tooltip("t:Q"),
        alt.Tooltip("back:N", title="characters back"),
        alt.Tooltip("norm_text:N", title="‖∂L/∂x_t‖"),
        alt.Tooltip("share_text:N", title="of the largest"),
    ]
    colour = alt.Color(
        "share:Q",
        title=SHARE,
        scale=alt.Scale(domain=[LEAST, LEAST / 2, 0.0], range=list(COLOURS), clamp=True),
        legend=alt.Legend(
            orient="bottom",
            direction="horizontal",
            gradientLength=340,
            values=list(range(int(LEAST), 1)),
            labelExpr=f"(datum.value == {LEAST:g} ? '≤ ' : '') + '1e' + format(datum.value, 'd')",
            titleLimit=500,
        ),
    )
    ink = f"datum.share > {LEAST / 3:g} && datum.t <= k ? 'white' : datum.t > k ? '{charts.GREY}' : '{charts.INK}'"
    layers = [
        cells.mark_rect(color=UNREAD).encode(**place, tooltip=tooltip).add_params(hover, pin),
        cells.transform_filter("isNumber(datum.share)")
        .mark_rect()
        .encode(**place, color=colour, tooltip=tooltip),
        cells.transform_filter("isString(datum.log)")
        .mark_rect(color=ODD)
        .encode(**place, tooltip=tooltip),
        cells.transform_filter("datum.t == k")
        .mark_rect(filled=False, stroke=charts.VERMILLION, strokeWidth=2.5)
        .encode(**place),
        cells.mark_text(color=alt.ExprRef(ink), baseline="middle", font="monospace", fontSize=15).encode(
            **place, text="character:N", tooltip=tooltip
        ),
    ]
    heads = alt.Chart().transform_filter("isArray(datum.k_to_said)")
    head = {"x": alt.value(0), "y": lines}
    layers += [
        heads.mark_text(align="left", baseline="middle", fontSize=15, fontWeight="bold").encode(
            **head, text="model:N", color=alt.value(charts.INK)
        ),
        heads.transform_calculate(said="datum.k_to_said[k]")
        .mark_text(align="left", baseline="middle", fontSize=13, dx=52)
        .encode(**head, text="said:N", color=alt.value(charts.INK)),
    ]
    chart = (
        alt.layer(*layers, data=charts.data(_cells(found, text) + _heads(found, text, vocabulary)))
        .add_params(chosen, largest)
        .properties(width=alt.Step(WIDTH), height=alt.Step(HEIGHT))
        .resolve_scale(x="shared")
    )
    return charts.finish(
        chart,
        title="Which characters the prediction after the framed one depends on",
        subtitle=["Point at a character; a click keeps it, a double click lets it go.", size],
    )


def _power(field: str) -> str:
    """An expression for the number whose log10 a field holds, as text; 1e-400 is one too."""
    log = f"datum.{field}"
    mantissa, exponent = f"format(pow(10, {log} - floor({log})), '.1f')", f"floor({log})"
    return f"isNumber({log}) ? {mantissa} + 'e' + {exponent} : isString({log}) ? {log} : '–'"


def _cells(found: Sequence[Saliency], text: str) -> list[Row]:
    """A row for each character of each model's text, with lists over the predictions from it on."""
    rows: list[Any] = []
    for block, each in enumerate(found):
        for t, character in enumerate(text[:-1]):
            rows.append(
                {
                    "model": each.name,
                    "character": shown(character),
                    "t": t,
                    "column": t % COLUMNS,
                    "line": _first_line(block, len(text) - 1) + 1 + t // COLUMNS,
                    "k_to_log": _drawable(each.log10[t:, t]),
                }
            )
    return rows


def _heads(found: Sequence[Saliency], text: str, vocabulary: str) -> list[Row]:
    """A row above each model's text, with the sentence for each prediction."""
    rows: list[Any] = [
        {
            "model": each.name,
            "line": _first_line(block, len(text) - 1),
            "k_to_said": [
                _expectation(probabilities, vocabulary, following)
                for probabilities, following in zip(each.probabilities, text[1:], strict=True)
            ],
        }
        for block, each in enumerate(found)
    ]
    return rows


def _first_line(block: int, length: int) -> int:
    return block * (1 + -(-length // COLUMNS))


def _expectation(probabilities: Floats, vocabulary: str, following: str) -> str:
    """The likeliest characters in words, and the one that the text goes on with."""
    likeliest = np.argsort(-probabilities, kind="stable")[:LIKELIEST]
    expected = ", ".join(f"“{shown(vocabulary[i])}” {probabilities[i]:.0%}" for i in likeliest)
    true = probabilities[vocabulary.index(following)]
    return f"expects {expected}; the text goes on with “{shown(following)}” {true:.1%}"


def _drawable(logs: Floats) -> list[float | str]:
    """Logarithms to 4 digits; what has none by its name."""
    return [
        float(f"{log:.4g}") if np.isfinite(log) else EXACTLY_0 if log < 0 else NO_NUMBER
        for log in logs.tolist()
    ]


def lag_chart(found: Sequence[Saliency], size: str) -> alt.TopLevelMixin:
    """How much of the last character's norm is left that many characters before it."""
    panel: Row = {"column": "", "row": ""}
    rows = [
        row
        for each in found
        for row in points({**panel, "what": each.name}, each.by_lag, "lag", first=0)
    ]
    x = alt.X(
        "lag:Q",
        title="characters before the last one that was read",
        scale=alt.Scale(domain=[0, LAGS - 1], zero=False, nice=False, padding=5),
        axis=alt.Axis(values=charts.ticks(0, LAGS - 1), format="d", grid=False),
    )
    return curves(
        rows,
        LOOKS,
        x=x,
        y=charts.powers((row["value"] for row in rows), "‖∂L/∂x‖ / that of the last character"),
        title="How far back each model looks",
        subtitle=size,
        height=300,
    )


def figures(
    found: Sequence[Saliency], text: str, vocabulary: str, size: str
) -> tuple[Figure, ...]:
    """The text, and the mean over many windows."""
    return (
        Figure(
            "saliency",
            "Which characters a prediction depends on",
            "L = −log p, where p is the probability that a model gives to the character that comes next. "
            "x_t is the vector of 32 or as many numbers that stands for character t: the model's input. "
            "The darker a character is, the more a small change of its vector would change L; the colour "
            "is relative to the darkest of the same model. Characters on grey are after the framed one: "
            "the model has not read them.",
            text_chart(found, text, vocabulary, size),
        ),
        Figure(
            "reach",
            "How far back each model looks",
            "The root mean square of the norm over windows of the held-out text, in decades: 1e-2 says "
            "that a small change of the character there changes the prediction a hundredth as much as "
            "a change of the last one.",
            lag_chart(found, size),
        ),
    )


AT = (1, 5, 20, 40, BACK)
"""Characters back, in the table for people."""


def tables(found: Sequence[Saliency]) -> tuple[Table, ...]:
    """How far back each model looks, for people; every norm, for programs."""
    reach: list[Row] = [
        {
            "model": each.name,
            **{f"log10_{lag}": float(each.by_lag[lag]) for lag in AT},
            "distance": float(each.distances().mean()),
        }
        for each in found
    ]
    by_lag: list[Row] = [
        {"model": each.name, "lag": lag, "relative_log10": value}
        for each in found
        for lag, value in enumerate(each.by_lag.tolist())
    ]
    norms: list[Row] = [
        {"model": each.name, "k": k, "t": t, "norm_log10": float(each.log10[k, t])}
        for each in found
        for k in range(len(each.log10))
        for t in range(k + 1)
    ]
    return (
        Table(
            "reach",
            "How far back each model looks",
            reach,
            (
                Column("model", "model"),
                *(Column(f"log10_{lag}", f"{lag} back", log10=True) for lag in AT),
                Column("distance", "mean distance", ".1f"),
            ),
            "‖∂L/∂x‖ that many characters back, relative to the last one that was read: the root mean "
            "square over windows. Mean distance: characters back in the passage, weighted by the norms.",
            printed=True,
        ),
        Table("reach_by_lag", "The same for each number of characters back", by_lag),
        Table("saliency", "‖∂L_k/∂x_t‖ in the passage", norms),
    )
