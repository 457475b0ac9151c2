"""RNNs and LSTMs of the same sizes, measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.app.errors import OptionError
from experiments.regressors.data import batch_of
from experiments.regressors.flow import FACTOR_DECADES, loss_of
from experiments.regressors.networks import CELL_TEXT, Cell, regressor
from experiments.regressors.states import StateCurve, state_curves

if TYPE_CHECKING:
    from experiments.questions.lstm import LSTMOptions

NAMED_BIAS = 1.0
"""The usual forget bias: claims are about it."""


@dataclass(frozen=True)
class Seen:
    """One untrained network with the loss at its last step."""

    cell: Cell
    forget_bias: float
    scale: float
    seed: int
    states: dict[str, StateCurve]

    @property
    def kind(self) -> str:
        """Cell and forget bias in words."""
        bias = f", forget bias {self.forget_bias:g}" if self.cell == "lstm" else ""
        return CELL_TEXT[self.cell] + bias


def scales_of(found: Sequence[Seen]) -> list[float]:
    """The scales that were tried."""
    return sorted({s.scale for s in found})


def pick(found: Sequence[Seen], cell: Cell, scale: float, bias: float = NAMED_BIAS) -> list[Seen]:
    """The networks of a kind, one for each seed."""
    bias = bias if cell == "lstm" else 0.0
    return [s for s in found if (s.cell, s.scale, s.forget_bias) == (cell, scale, bias)]


def ahead(found: Sequence[Seen], scale: float, bias: float = NAMED_BIAS) -> list[float]:
    """Decades by which the LSTM's h and c lose less on the way back than the RNN's h, one per seed."""
    pairs = zip(pick(found, "rnn", scale), pick(found, "lstm", scale, bias), strict=True)
    return [
        min(state.flow.growth for state in lstm.states.values()) - rnn.states["h"].flow.growth
        for rnn, lstm in pairs
    ]


def keeps_more(found: Sequence[Seen], scale: float, bias: float = NAMED_BIAS) -> tuple[int, int]:
    """For how many seeds the RNN vanishes, and for how many of these the LSTM keeps more.

    Both by a factor of 100 or more over the whole length. Where the RNN does not vanish there is
    nothing to be slower than.
    """
    vanishes = [s.states["h"].flow.growth <= -FACTOR_DECADES for s in pick(found, "rnn", scale)]
    slower = [decades >= FACTOR_DECADES for decades in ahead(found, scale, bias)]
    return sum(vanishes), sum(a and b for a, b in zip(vanishes, slower, strict=True))


def see(opts: LSTMOptions, cell: Cell, forget_bias: float, scale: float, seed: int) -> Seen:
    """Measure one network."""
    model = regressor(cell, opts.hidden_size, seed, forget_bias=forget_bias, scale=scale)
    loss, _ = loss_of(model, batch_of(seed, opts.batch, opts.length), "last")
    if not np.isfinite(loss.item()):
        raise OptionError(f"The loss overflows with --scale {scale:g}; choose a smaller one")
    return Seen(cell, forget_bias, scale, seed, state_curves(loss))
