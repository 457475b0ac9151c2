"""Each nonlinearity's own colour and line, the same in every chart."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import altair as alt

from experiments.drawing import charts
from experiments.drawing.curves import Look
from experiments.regressors.networks import NONLINEARITY_TEXT

NONLINEARITY_COLOURS = {
    "identity": charts.BLUE,
    "tanh": charts.ORANGE,
    "relu": charts.GREEN,
    "lstm": charts.BLUE,
}

NONLINEARITY_LOOKS = {
    text: Look(NONLINEARITY_COLOURS[name], dash, width)
    for (name, text), dash, width in zip(
        NONLINEARITY_TEXT.items(),
        ((1, 0), (1, 0), (7, 3), (1, 0)),
        (4.0, 2.2, 2.2, 2.2),
        strict=True,
    )
}
"""Curves that coincide are told apart, too: the linear one is wider, ReLU's is dashed."""

CURVE_COLOURS = {
    **{text: NONLINEARITY_COLOURS[name] for name, text in NONLINEARITY_TEXT.items()},
    "LSTM, c": charts.GREEN,
    "LSTM, h": charts.BLUE,
}


def curve_colours(occurring: Iterable[object]) -> dict[str, str]:
    """Colours of the texts that occur, in the legend's order; your own kinds come last."""
    present = dict.fromkeys(map(str, occurring))
    known = {text: colour for text, colour in CURVE_COLOURS.items() if text in present}
    own = [text for text in present if text not in known]
    return known | dict(zip(own, itertools.cycle(charts.SPARE), strict=False))


def curve_colour(occurring: Iterable[object]) -> alt.Color:
    """Colour by the field ``nonlinearity`` for the texts that occur, always the same one for each."""
    colours = curve_colours(occurring)
    return alt.Color(
        "nonlinearity:N",
        title=None,
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=alt.Legend(symbolStrokeWidth=3, symbolType="stroke"),
    )
