"""LSTMs beside RNNs in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import between, counted, per_step
from experiments.questions.lstm.measure import NAMED_BIAS, Seen, ahead, keeps_more, pick, scales_of
from experiments.regressors.flow import FACTOR, FACTOR_DECADES
from experiments.regressors.networks import CELL_TEXT


def headline(found: Sequence[Seen]) -> str:
    """The reason, the two rates at the usual initial values, and where the picture ends."""
    rnns = pick(found, "rnn", 1.0)
    rnn, lstm = (
        per_step([float(np.mean([s.states["h"].slope for s in some]))])
        for some in (rnns, pick(found, "lstm", 1.0))
    )
    length, seeds = len(rnns[0].states["h"].largest), len(rnns)
    breaks = [k for k in scales_of(found) if k > 1 and keeps_more(found, k)[1] < seeds]
    mean = f", means of {seeds} seeds" if seeds > 1 else ""
    said = (
        "Along the cell state of an LSTM the gradient is multiplied by the forget gate alone, never by a "
        "matrix; in an RNN every step multiplies it by $W_h$. "
        f"With forget bias {NAMED_BIAS:g}, the LSTM's gradient {lstm}; the RNN's "
        f"{rnn}{mean}. Over {length - 1} steps back the LSTM keeps at least {FACTOR} times as much as "
        f"the RNN {_counted(found, 1.0)}"
    )
    if breaks:
        turn = "but" if keeps_more(found, 1.0)[1] else "and"
        said += f", {turn} with weights {breaks[0]:g} times as large {_counted(found, breaks[0])}"
    return said + "."


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
    """The size that weights may have: for the LSTM's lead, and before gradients explode."""
    said = []
    for bias in sorted({s.forget_bias for s in found if s.cell == "lstm"}):
        counts: dict[str, list[float]] = {}
        for scale in scales_of(found):
            counts.setdefault(_counted(found, scale, bias), []).append(scale)
        said.append(
            f"With forget bias {bias:g} the LSTM keeps at least"
            f" {FACTOR} times as much as the RNN "
            + "; ".join(f"{count} with {_weights(scales)}" for count, scales in counts.items())
            + f". With weights × 1 it is ahead by {between(ahead(found, 1.0, bias), '+.1f')} decades."
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
            f"Nothing keeps the gradient of an {name} from exploding. From weights × {exploding[0]:g} on "
            f"it is more than {FACTOR} times as large at some step as at the last, for some {which}; with "
            f"weights × {worst:g} it is up to {power_text(rises[worst])} times as large."
            if exploding
            else f"The gradient of the {name} does not explode at any scale tried, up to × {max(rises):g}."
        )
    return tuple(said)


def _weights(scales: Sequence[float]) -> str:
    return f"weights × {', '.join(f'{k:g}' for k in scales)}"
