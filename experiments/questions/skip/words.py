"""Gradients through depth in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import counted, percent
from experiments.questions.skip import figures
from experiments.questions.skip.measure import Depth, Kind, Products, growths
from experiments.regressors.flow import FACTOR_DECADES

if TYPE_CHECKING:
    from experiments.questions.skip import SkipOptions


CANCELLING = 2.0
"""Shares sum to 1; from this sum of their sizes on, a sentence says that they cancel."""


def headline(opts: SkipOptions, found: Sequence[Depth]) -> str:
    """The reason, then the three gradients at the first layer, and how they got there."""
    parts = {kind: power_text(float(np.median(growths(found, kind)))) for kind in figures.KINDS}
    free = {kind: figures.typical(found, kind, "free") for kind in ("ResNet", "LSTM")}
    medians = f", medians of {opts.repeats} seeds" if opts.repeats > 1 else ""
    return (
        "Both let the gradient through without a matrix: a skip passes it on unchanged, and a cell "
        "multiplies it by the forget gate alone. In one step back the skip brings "
        f"{percent(free['ResNet'])} of the gradient and the cell {percent(free['LSTM'])} (median). From "
        f"the last of {opts.length} layers to the first, the gradient becomes {parts['plain network']} "
        f"times what it was without skips and {parts['ResNet']} times with them; over as many steps "
        f"of an LSTM, {parts['LSTM']} times{medians}."
    )


def sentences(
    opts: SkipOptions, found: Sequence[Depth], products: Mapping[Kind, Products]
) -> tuple[str, ...]:
    """Sentences on what both have in common, how they differ, and where it breaks."""
    said = [
        by_products("ResNet", products["ResNet"], opts.seed),
        by_products("LSTM", products["LSTM"], opts.seed),
        "They differ in the factor: a skip's is exactly 1, a cell's is the forget gate $f_t$, between 0 "
        "and 1. Neither limits what comes through the matrices besides.",
    ]
    for kind in figures.KINDS:
        scales = sorted({depth.scale for depth in found})
        way = "steps" if kind == "LSTM" else "layers"
        broken = [k for k in scales if max(growths(found, kind, k)) > FACTOR_DECADES]
        where = (
            f"explodes with weights × {', '.join(f'{k:g}' for k in broken)}"
            if broken
            else f"does not explode with any weights tried, up to × {scales[-1]:g}"
        )
        said.append(f"In {opts.length} {way} the gradient of the {kind} {where}.")
    return tuple(said)


def by_products(kind: Kind, split: Products, seed: int) -> str:
    """The parts of the gradient at the first layer or step, and whether they cancel."""
    most, last = int(np.argmax(split.shares)), len(split.shares) - 1
    state, way = ("$h_0$", "branch") if kind == "ResNet" else ("$c_0$", "hidden state")
    said = (
        f"{kind}, seed {seed}: {percent(split.shares[0])} of what reaches {state} went through no matrix "
        f"product at all. The largest share, {percent(split.shares[most])}, went through "
        f"{counted(most, way)}"
    )
    if split.rest is not None:
        said += (
            f". Up to {last} products are counted one by one: together they bring "
            f"{percent(float(split.shares.sum()))}, and more than {last} bring the other "
            f"{percent(split.rest)}"
        )
    if split.sizes > CANCELLING:
        said += (
            f". Shares of opposite signs cancel: their sizes sum to {split.sizes:.3g}, not 1, so none of "
            "them is a part of the whole by itself"
        )
    return said + "."
