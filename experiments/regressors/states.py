"""Every state of a recurrent layer, at each time step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, to_numpy
from experiments.regressors.flow import LayerFlow


@dataclass(frozen=True)
class StateCurve:
    """One state of a network, such as h, at each time step.

    Parameters
    ----------
    flow : LayerFlow
        log10 ‖∂L/∂h_t‖ and ‖h_t‖, with the slopes of them.
    largest : array (T,)
        Largest size of any unit in any sequence.
    """

    flow: LayerFlow
    largest: Floats

    @property
    def slope(self) -> float:
        """Decades per step going back, fitted to the last third of the lags."""
        return self.flow.measured_slope

    @property
    def rise(self) -> float:
        """Decades that the largest gradient of any step lies above the one at the last step."""
        return float(np.max(self.flow.gradient) - self.flow.gradient[-1])


def state_curves(loss: tg.Tensor, layer: int = 0) -> dict[str, StateCurve]:
    """Measure every state of a layer: ``"h"``, and ``"c"`` for an LSTM."""
    found = {}
    for name, state in tg.inspect.gradient_flow(loss)[f"rnn.l{layer}"].items():
        values = to_numpy(state.value)
        gradient = state.log10_grad_norm
        size = to_numpy(state.value_norm).astype(np.float64)
        largest = np.abs(values).reshape(len(values), -1).max(axis=1)
        found[name] = StateCurve(LayerFlow(np.nan, gradient, size), largest)
    return found
