"""LSTMs beside RNNs in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import between, counted
from experiments.questions.lstm.measure import NAMED_BIAS, Seen, ahead, keeps_more, pick, scales_of
from experiments.regressors.flow import FACTOR, FACTOR_DECADES
from experiments.regressors.networks import CELL_TEXT


def headline(found: Sequence[Seen]) -> str:
    """The two rates at the initial values named, and where the picture ends."""
    rnns = pick(found, "rnn", 1.0)
    rnn = np.mean([s.states["h"].slope for s in rnns])
    lstm = np.mean([s.states["h"].slope for s in pick(found, "lstm", 1.0)])
    length, seeds = len(rnns[0].states["h"].largest), len(rnns)
    breaks = [k for k in scales_of(found) if k > 1 and keeps_more(found, k)[1] < seeds]
    said = (
        f"A step back changes the RNN's ∂L/∂h by {rnn:+.3f} decades and the LSTM's by {lstm:+.3f} "
        f"({_mean(seeds)}initial values in ±1/√H, forget bias {NAMED_BIAS:g}). Over {length} steps the "
        f"LSTM keeps {FACTOR} times as much as the RNN, or more, {_counted(found, 1.0)}"
    )
    if breaks:
        said += f", with weights {breaks[0]:g} times as large {_counted(found, breaks[0])}"
    return said + "."


def _mean(seeds: int) -> str:
    return f"mean of {seeds} seeds, " if seeds > 1 else ""


def _counted(found: Sequence[Seen], scale: float, bias: float = NAMED_BIAS) -> str:
    """For how many seeds the LSTM keeps more, of those whose RNN vanishes."""
    seeds = len(pick(found, "rnn", scale))
    vanishing, slower = keeps_more(found, scale, bias)
    if vanishing == seeds:
        return f"for {slower} of {counted(seeds, 'seed')}"
    if not vanishing:
        return "for no seed (no RNN vanishes)"
    return f"for {slower} of the {counted(vanishing, 'seed')} whose RNN vanishes"


def sentences(found: Sequence[Seen]) -> tuple[str, ...]:
    """The settings that break each claim, found by trying them."""
    said = []
    for bias in sorted({s.forget_bias for s in found if s.cell == "lstm"}):
        counts: dict[str, list[float]] = {}
        for scale in scales_of(found):
            counts.setdefault(_counted(found, scale, bias), []).append(scale)
        decades = ahead(found, 1.0, bias)
        said.append(
            f"With forget bias {bias:g} the LSTM keeps {FACTOR} times as much of its gradient from step "
            "T to step 1 as the RNN, or more, "
            + "; ".join(f"{count} with {_weights(scales)}" for count, scales in counts.items())
            + f". With weights × 1 it is ahead by {between(decades, '+.1f')} decades."
        )
    for cell in ("rnn", "lstm"):
        rises = {
            k: max(
                c.rise for s in found if (s.cell, s.scale) == (cell, k) for c in s.states.values()
            )
            for k in scales_of(found)
        }
        exploding = [k for k, rise in rises.items() if rise > FACTOR_DECADES]
        worst = max(rises, key=lambda k: rises[k])
        name = CELL_TEXT[cell]
        which = "seed" if cell == "rnn" else "seed and forget bias"
        said.append(
            f"The {name} explodes, too: with weights × {exploding[0]:g} the gradient at some step "
            f"exceeds {FACTOR} times that at T for some {which}; at × {worst:g} it is "
            f"up to {power_text(rises[worst])} times as large. No theorem forbids it."
            if exploding
            else f"The {name} does not explode at any scale tried, up to × {max(rises):g}."
        )
    return tuple(said)


def _weights(scales: Sequence[float]) -> str:
    return f"weights × {', '.join(f'{k:g}' for k in scales)}"
