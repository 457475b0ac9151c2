"""The flow in one layer of a network at one moment of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.regressors.flow import FACTOR_DECADES, TARGET_TEXT, LayerFlow
from experiments.regressors.networks import NONLINEARITY_TEXT, Network

MOMENT_TEXT = {"before": "before training", "after": "after training"}


Moment = Literal["before", "after"]


@dataclass(frozen=True)
class Measurement:
    """The flow in one layer of a network at one moment, by one of its states.

    Parameters
    ----------
    network : Network
        As it was made.
    moment : {"before", "after"}
        Of training.
    layer : int
        Counted from 1, the lowest.
    flow : LayerFlow
        What was measured.
    loss : float
        On the same batch.
    """

    network: Network
    moment: Moment
    layer: int
    flow: LayerFlow
    loss: float

    @property
    def panel(self) -> tuple[str, str]:
        """Column and row in a grid of charts."""
        layer = f", layer {self.layer}" if self.network.layers > 1 else ""
        return f"spectral radius {self.network.radius:g}", TARGET_TEXT[self.network.target] + layer

    @property
    def kind(self) -> str:
        """The nonlinearity in words; of a cell with several states, which's gradient it is, too."""
        text = NONLINEARITY_TEXT[self.network.nonlinearity]
        several = self.network.nonlinearity == "lstm" or self.flow.name != "h"
        return f"{text}, {self.flow.name}" if several else text

    @property
    def has_slope(self) -> bool:
        """Whether |λ|max of W_h says how the gradient goes on: of one W_h, for one loss."""
        return self.network.target == "last" and bool(np.isfinite(self.flow.predicted_slope))

    @property
    def verdict(self) -> str:
        """Verb that says how the gradient changes on its way back.

        With a loss at every step, T gradients add up, and that alone can make the first T times
        the last. An explosion then also has to show in the slope at the earliest steps.
        """
        gradient, growth = self.flow.gradient, self.flow.growth
        if np.isnan(gradient).any() or np.isposinf(gradient).any():
            return "overflows"
        if np.isneginf(gradient).any():
            return "dies"
        if self.network.target == "all":
            growth = min(growth, self.flow.measured_slope * (len(gradient) - 1))
        if growth > FACTOR_DECADES:
            return "explodes"
        return "vanishes" if self.flow.growth < -FACTOR_DECADES else "is stable"
