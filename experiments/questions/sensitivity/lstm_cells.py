"""Cell states of an LSTM, and how they depend on the bias that sets how long they remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, to_numpy
from experiments.questions.sensitivity.measure import memory_of, rms
from experiments.regressors.networks import gate_of


@dataclass(frozen=True)
class Cells:
    """The cell states of one untrained LSTM at the last step.

    Parameters
    ----------
    forget_bias : float
        b.
    seed : int
    length : int
        Time steps T.
    alone, whole : array (H,)
        For each unit the root mean square over the batch of ∂c_{T−1}/∂b_f, its own forget bias, over that
        of c_{T−1}: with W_h = 0, where b_f acts over the cell path alone, and with W_h as it is.
    """

    forget_bias: float
    seed: int
    length: int
    alone: Floats
    whole: Floats

    @property
    def memory(self) -> float:
        """Number of steps that a cell with the forget gate σ(b) remembers for."""
        return memory_of(gate_of(self.forget_bias))


def see_cells(forget_bias: float, seed: int, hidden_size: int, inputs: Floats) -> Cells:
    """Measure an untrained LSTM on inputs ``(T, B)``."""
    lstm: Any = tg.nn.LSTM(1, hidden_size, forget_bias=forget_bias, rng=seed, dtype="float64")
    whole = relative_sensitivity(lstm, inputs)
    lstm.weight_hh_l0.assign(tg.zeros_like(lstm.weight_hh_l0))
    return Cells(forget_bias, seed, len(inputs), relative_sensitivity(lstm, inputs), whole)


def relative_sensitivity(lstm: Any, inputs: Floats) -> Floats:
    """Size of ∂c_{T−1}/∂b_f of each unit, over the size of c_{T−1}, ``(H,)``."""
    _, (_, cell) = lstm(tg.tensor(inputs[..., None]))
    found = []
    for unit in range(lstm.hidden_size):
        values = cell[0, :, unit]
        parts = tg.inspect.weight_grad_by_time(values.sum(), lstm.bias_ih_l0, per_sample=True)
        by_bias = to_numpy(parts).sum(axis=0)[
            :, lstm.hidden_size + unit
        ]  # blocks are i, f, g and o
        found.append(float(rms(by_bias) / rms(to_numpy(values))))
    return np.array(found)
