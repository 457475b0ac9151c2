"""Pictures of the characters that a prediction depends on: over the text, and by their distance back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.charts import darker, paler
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import Floats
from experiments.drawing.tables import Column, Figure, Row, Table
from experiments.drawing.words import counted
from experiments.questions.char_lm.saliency import BACK, LAGS, Saliency, telling
from experiments.questions.char_lm.text import shown
from tinygrad182.display import charts as _charts

LOOKS = {
    "RNN": Look(charts.ORANGE, (2, 3)),
    "LSTM": Look(charts.BLUE),
    "GRU": Look(charts.GREEN, (7, 3)),
}

COLUMNS = 64
"""Characters in a line of the text."""

WIDTH, HEIGHT = 16, 25
"""Pixels of a character's cell."""

LEAST = -3.0
"""log10 of the least relative norm that has a colour of its own."""

LIKELIEST = 3
"""Number of likeliest characters that are named."""

COLOURS = ("white", paler(charts.BLUE, 0.5), darker(charts.BLUE, 0.3))
"""Colours from the least share to the largest; unlike viridis, text can be read on each."""

UNREAD, ODD = charts.GRID, paler(charts.ORANGE, 0.75)
"""Colours behind characters that a model has not read, and behind norms that are 0 or not a number."""

EXACTLY_0, NO_NUMBER = "exactly 0", "not a number"

SHARE = "‖∂L/∂xₜ‖ in units of the largest of a prediction"


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
    blocks = [*_cells(found, text), *_heads(found, text, vocabulary)]
    hover, pin, *signals = _signals(found)
    text_layers = _text_layers()
    text_layers[0] = text_layers[0].add_params(hover, pin)
    chart = (
        alt.layer(*text_layers, *_head_layers(), data=_charts.data(blocks))
        .add_params(*signals)
        .properties(width=alt.Step(WIDTH), height=alt.Step(HEIGHT))
    )
    return charts.finish(
        chart,
        title="Which characters the prediction after the framed one depends on",
        subtitle=f"{size}; point at a character, click to keep it, double-click to let it go",
    )


def _signals(found: Sequence[Saliency]) -> list[alt.Parameter]:
    """Character pointed at and character clicked; the character k that follows from them; largest norms."""
    at = telling(next(each for each in found if each.cell == "lstm"))
    point: dict[str, Any] = {"fields": ["t"], "empty": False, "toggle": False}
    tops = {each.name: _drawable(each.log10.max(axis=1)) for each in found}
    return [
        alt.selection_point("hover", on="pointerover", clear=False, value=[{"t": at}], **point),
        alt.selection_point("pin", on="click", **point),
        alt.param("k", expr="isArray(pin.t) ? pin.t[0] : hover.t[0]"),
        alt.param("largest", value=tops),
    ]


LINES = alt.Y("line:O", axis=None, scale=alt.Scale(paddingInner=0.08))


def _text_layers() -> list[alt.Chart]:
    """The cells of characters, in the colours of their norms by the prediction after character k."""
    cells = (
        alt.Chart()
        .transform_filter("isArray(datum.k_to_log)")
        .transform_calculate(log="datum.k_to_log[k - datum.t]")
        .transform_calculate(
            share="isNumber(datum.log) ? datum.log - largest[datum.model][k] : datum.log",
            back="k >= datum.t ? k - datum.t : 'not read yet'",
        )
        .transform_calculate(norm_text=_power("log"), share_text=_power("share"))
        .encode(
            x=alt.X("column:O", axis=None, scale=alt.Scale(paddingInner=0.04)),
            y=LINES,
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("character:N"),
                alt.Tooltip("t:Q"),
                alt.Tooltip("back:N", title="characters back"),
                alt.Tooltip("norm_text:N", title="‖∂L/∂xₜ‖"),
                alt.Tooltip("share_text:N", title="of the largest"),
            ],
        )
    )
    dark = f"datum.t <= k && datum.share > {LEAST / 3:g}"
    ink = f"{dark} ? 'white' : datum.t > k ? '{charts.GREY}' : '{charts.INK}'"
    return [
        cells.mark_rect(color=UNREAD),
        cells.transform_filter("isNumber(datum.share)").mark_rect().encode(color=_colour()),
        cells.transform_filter("isString(datum.share)").mark_rect(color=ODD),
        cells.transform_filter("datum.t == k").mark_rect(
            filled=False, stroke=charts.ORANGE, strokeWidth=2.5
        ),
        cells.mark_text(
            color=alt.ExprRef(ink), baseline="middle", font="monospace", fontSize=15
        ).encode(text="character:N"),
    ]


def _head_layers() -> list[alt.Chart]:
    """Above each text its model, and what that expects after character k."""
    heads = alt.Chart().transform_filter("isArray(datum.k_to_said)")
    heads = heads.transform_calculate(said="datum.k_to_said[k]").encode(x=alt.value(0), y=LINES)
    style: dict[str, Any] = {"align": "left", "baseline": "middle", "color": charts.INK}
    return [
        heads.mark_text(fontSize=15, fontWeight="bold", **style).encode(text="model:N"),
        heads.mark_text(fontSize=13, dx=52, **style).encode(text="said:N"),
    ]


def _colour() -> alt.Color:
    labels = f"(datum.value == {LEAST:g} ? '≤ ' : '') + '1e' + format(datum.value, 'd')"
    return alt.Color(
        "share:Q",
        title=SHARE,
        scale=alt.Scale(
            domain=[LEAST, LEAST / 2, 0.0], range=list(COLOURS), interpolate="rgb", clamp=True
        ),
        legend=alt.Legend(
            orient="bottom",
            direction="horizontal",
            gradientLength=340,
            values=list(range(int(LEAST), 1)),
            labelExpr=labels,
            titleLimit=500,
        ),
    )


def _power(field: str) -> str:
    """An expression for the number whose log10 a field holds, as text; 1e-400 is one too."""
    log = f"datum.{field}"
    mantissa, exponent = f"format(pow(10, {log} - floor({log})), '.1f')", f"floor({log})"
    return f"isNumber({log}) ? {mantissa} + 'e' + {exponent} : isString({log}) ? {log} : '–'"


def _cells(found: Sequence[Saliency], text: str) -> list[dict[str, Any]]:
    """A row for each character of each model's text, with lists over the predictions from it on."""
    rows = []
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


def _heads(found: Sequence[Saliency], text: str, vocabulary: str) -> list[dict[str, Any]]:
    """A row above each model's text, with the sentence for each prediction."""
    return [
        {
            "model": each.name,
            "line": _first_line(block, len(text) - 1),
            "k_to_said": [
                expectation(probabilities, vocabulary, following)
                for probabilities, following in zip(each.probabilities, text[1:], strict=True)
            ],
        }
        for block, each in enumerate(found)
    ]


def _first_line(block: int, length: int) -> int:
    return block * (1 + -(-length // COLUMNS))


def expectation(probabilities: Floats, vocabulary: str, following: str) -> str:
    """The likeliest characters in words, and the one that the text goes on with."""
    likeliest = np.argsort(-probabilities, kind="stable")[:LIKELIEST]
    expected = ", ".join(f"“{shown(vocabulary[i])}” {probabilities[i]:.0%}" for i in likeliest)
    true = probabilities[vocabulary.index(following)]
    return f"expects {expected}; the text goes on with “{shown(following)}” {true:.1%}"


def _drawable(logs: Floats) -> list[float | str]:
    """Logarithms to 4 digits; a name for what has none."""
    return [
        float(f"{log:.4g}") if np.isfinite(log) else EXACTLY_0 if log < 0 else NO_NUMBER
        for log in logs.tolist()
    ]


def lag_chart(found: Sequence[Saliency], size: str) -> alt.TopLevelMixin:
    """The share of the last character's norm that is left so many characters before it, the median."""
    return curves(
        [Line(each.name, each.by_lag) for each in found],
        LOOKS,
        x=charts.lags(LAGS - 1, "characters before the last one that was read"),
        y="‖∂L/∂x‖ in units of the last character's",
        title="How far back each model looks",
        subtitle=f"median over windows of the held-out text; {size}",
        height=300,
    )


def figures(found: Sequence[Saliency], text: str, vocabulary: str, size: str) -> tuple[Figure, ...]:
    """The text, and the mean over many windows."""
    return (
        Figure(
            "saliency",
            "Which characters a prediction depends on",
            "Each model has read the text up to the framed character, and predicts the next one. Its loss "
            "is $L = −log p$, where $p$ is the probability that it gives to the character with which the "
            "text goes on. $x_t$ is the embedding vector of character $t$, the model's input at step $t$. "
            "The darker a character is, the more a small change of its vector changes $L$, relative to "
            "the darkest of that model. The model has not read the characters on grey. At first the "
            "character is framed at which the LSTM looks farthest back.",
            text_chart(found, text, vocabulary, size),
        ),
        Figure(
            "reach",
            "How far back each model looks",
            "$L$ is the loss of the character that follows a window of the held-out text. The curves are "
            "medians over all windows: half of the predictions look farther back, half less far. Where a "
            "curve is at 1e-2, a small change of that character's vector changes $L$ a hundredth as much "
            "as a change of the last one's. On a straight line every step back multiplies by the same "
            "factor.",
            lag_chart(found, size),
        ),
    )


AT = (1, 5, 20, 40, BACK)
"""Characters back, in the table for people."""


def _back(lag: int) -> Column:
    return Column(f"log10_{lag}", f"{counted(lag, 'character')} back", get=lambda e: e.by_lag[lag])


def tables(found: Sequence[Saliency]) -> tuple[Table, ...]:
    """Tables: the distance that each model looks back, and every norm for programs."""
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
            found,
            (
                Column("model", "model", get=lambda e: e.name),
                *map(_back, AT),
                Column(
                    "distance",
                    "mean distance (characters)",
                    ".1f",
                    get=lambda e: e.distances().mean(),
                ),
            ),
            "$‖∂L/∂x‖$ that many characters back, relative to the last one that was read: the median over "
            "windows. Mean distance: characters back in the passage, weighted by the norms.",
            printed=True,
        ),
        Table("reach_by_lag", "How much is left at each number of characters back", by_lag),
        Table("saliency", "$‖∂L_k/∂x_t‖$ in the passage", norms),
    )
