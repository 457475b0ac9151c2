"""Gradients through depth in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import percent
from experiments.questions.skip import figures
from experiments.questions.skip.measure import Depth, Kind, Products, growths
from experiments.regressors.flow import FACTOR_DECADES

if TYPE_CHECKING:
    from experiments.questions.skip import SkipOptions


CANCELLING = 2.0
"""Sum of the sizes of shares that sum to 1 from which their cancelling is named: half of it is lost."""


def headline(opts: SkipOptions, found: Sequence[Depth]) -> str:
    """The three gradients at the first layer, and how they got there."""
    parts = {kind: power_text(float(np.median(growths(found, kind)))) for kind in figures.KINDS}
    free = {kind: figures.typical(found, kind, "free") for kind in ("ResNet", "LSTM")}
    seeds = f", medians of {opts.repeats} seeds" if opts.repeats > 1 else ""
    return (
        f"From layer {opts.length} back to layer 1 the gradient becomes {parts['plain network']} times "
        f"what it was without skips and {parts['ResNet']} times with them; over as many LSTM steps, "
        f"{parts['LSTM']} times{seeds}. In one step back the skip's signed share is "
        f"{percent(free['ResNet'])} and the cell path's {percent(free['LSTM'])} (median)."
    )


def sentences(
    opts: SkipOptions, found: Sequence[Depth], products: Mapping[Kind, Products]
) -> tuple[str, ...]:
    """Sentences on what both have in common, how they differ, and where it breaks."""
    said = [
        by_products("ResNet", products["ResNet"], "branches", "h_1", opts.seed),
        by_products("LSTM", products["LSTM"], "hidden states", "c_1", opts.seed),
        "What differs: a skip's factor is 1 exactly, the cell's is the forget gate f_t, between 0 and "
        "1. Skips therefore keep the path but do not bound the sum over paths.",
    ]
    for kind in figures.KINDS:
        scales = sorted({depth.scale for depth in found})
        way = "steps" if kind == "LSTM" else "layers"
        broken = [k for k in scales if max(growths(found, kind, k)) > FACTOR_DECADES]
        said.append(
            f"{kind}: over {opts.length} {way} it explodes with weights × "
            f"{', '.join(f'{k:g}' for k in broken)}."
            if broken
            else f"{kind}: over {opts.length} {way} it explodes at no scale tried, up to × {scales[-1]:g}."
        )
    return tuple(said)


def by_products(kind: Kind, split: Products, way: str, state: str, seed: int) -> str:
    """How the gradient at the first layer or step is made up, and whether its parts cancel."""
    most, last = int(np.argmax(split.shares)), len(split.shares) - 1
    said = (
        f"{kind}, seed {seed}: of what reaches {state}, a share of {percent(split.shares[0])} went through "
        f"no matrix product at all; the largest, {percent(split.shares[most])}, went through {most} {way}"
    )
    if split.rest is not None:
        said += (
            f". Only classes up to {last} are counted one by one: together they have "
            f"{percent(float(split.shares.sum()))}, those over {last} the other {percent(split.rest)}"
        )
    if split.sizes > CANCELLING:
        said += (
            f". Shares of opposite signs cancel: the sum of their sizes is {split.sizes:.3g}, not 1, so "
            "that none of them is a part of the whole by itself"
        )
    return said + "."
