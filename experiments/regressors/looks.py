"""Each nonlinearity's own colour and line, the same in every chart."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import altair as alt

from experiments.drawing import charts
from experiments.drawing.curves import Look
from experiments.regressors.networks import NONLINEARITY_TEXT

NONLINEARITY_LOOKS = {
    NONLINEARITY_TEXT["identity"]: Look(charts.BLUE, width=4.0),
    NONLINEARITY_TEXT["tanh"]: Look(charts.ORANGE, width=2.2),
    NONLINEARITY_TEXT["relu"]: Look(charts.GREEN, (7, 3), 2.2),
    NONLINEARITY_TEXT["lstm"]: Look(charts.BLUE, width=2.2),
}
"""Curves that coincide are told apart, too: the linear one is wider, ReLU's is dashed."""

CURVE_COLOURS = {text: look.colour for text, look in NONLINEARITY_LOOKS.items()}
CURVE_COLOURS |= {"LSTM, c": charts.GREEN, "LSTM, h": charts.BLUE}


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
