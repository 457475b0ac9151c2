"""A network on the running average task: made, measured, trained and measured again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experiments.regressors.data import Source
from experiments.regressors.fitting import Training, fit
from experiments.regressors.flow import FACTOR_DECADES, TARGET_TEXT, LayerFlow, measure_flow
from experiments.regressors.networks import NONLINEARITY_TEXT, Network
from models import RecurrentRegressor

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
        """The nonlinearity in words; of an LSTM, which state's gradient it is, too."""
        text = NONLINEARITY_TEXT[self.network.nonlinearity]
        return f"{text}, {self.flow.name}" if self.network.nonlinearity == "lstm" else text

    @property
    def has_slope(self) -> bool:
        """Whether |λ|max of W_h says how the gradient goes on: of one W_h, for one loss."""
        return self.network.target == "last" and bool(np.isfinite(self.flow.predicted_slope))

    @property
    def verdict(self) -> str:
        """What becomes of the gradient on its way back.

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


@dataclass(frozen=True)
class Study:
    """What was found on one network."""

    network: Network
    measurements: tuple[Measurement, ...]
    training: Training


def study(
    network: Network,
    source: Source,
    *,
    seed: int,
    steps: int,
    learning_rate: float,
    advance: Callable[[], object],
) -> Study:
    """Measure a network, train it, and measure it again on the same batch.

    Parameters
    ----------
    network : Network
        What to make.
    source : Source
        Batches; the measured one is drawn before the others.
    seed : int
        Of the initial values and of the batches.
    steps, learning_rate : int, float
        Training steps, none for 0, and Adam's step size.
    advance : callable
        Called after every training step.
    """
    model = network.build(source.features, seed)
    batch = source.draw(np.random.default_rng((seed, 1)))
    found = _measure(model, network, batch, "before")
    if not steps:
        return Study(network, found, Training(()))
    training = fit(
        model,
        source,
        np.random.default_rng((seed, 2)),
        target=network.target,
        steps=steps,
        learning_rate=learning_rate,
        advance=advance,
    )
    return Study(network, found + _measure(model, network, batch, "after"), training)


def _measure(
    model: RecurrentRegressor,
    network: Network,
    batch: tuple[NDArray[Any], NDArray[Any]],
    moment: Moment,
) -> tuple[Measurement, ...]:
    flows, loss = measure_flow(model, network.nonlinearity, *batch, network.target)
    return tuple(Measurement(network, moment, flow.layer, flow, loss) for flow in flows)
