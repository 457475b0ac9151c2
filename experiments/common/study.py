"""A network on the running average task: made, measured, trained and measured again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.common.data import Source
from experiments.common.fitting import Training, fit
from experiments.common.flow import LayerFlow, Target, measure_flow
from models import RecurrentRegressor

Cell = Literal["rnn", "lstm"]
Nonlinearity = Literal["identity", "tanh", "relu"]
Kind = Literal["identity", "tanh", "relu", "lstm"]
"""A vanilla RNN by its nonlinearity, or an LSTM."""

InitialWeights = Literal["orthogonal", "gaussian"]
Moment = Literal["before", "after"]

NONLINEARITY_TEXT = {
    "identity": "identity (linear)",
    "tanh": "tanh",
    "relu": "ReLU",
    "lstm": "LSTM",
}
TARGET_TEXT = {"last": "loss at the last step", "all": "loss at every step"}

FACTOR_DECADES = 2.0
"""A gradient that changes by more than a factor 100 on its way through the sequence vanishes or
explodes; this is a convention, stated in the report."""

FACTOR = f"{10**FACTOR_DECADES:.0f}"
"""The same as text."""


@dataclass(frozen=True)
class Network:
    """What a network is before it is trained.

    Parameters
    ----------
    nonlinearity : {"identity", "tanh", "relu", "lstm"}
        σ of a vanilla RNN, or an LSTM, whose own are fixed.
    radius : float
        Spectral radius that every W_h starts with; in an LSTM, that of each gate.
    target : {"last", "all"}
        Which steps enter the loss.
    hidden_size, layers : int
        Hidden units H, and recurrent layers above each other.
    initial_weights, dtype : str
        Kind of W_h before it is scaled, and of the numbers.
    """

    nonlinearity: Kind
    radius: float
    target: Target
    hidden_size: int = 32
    layers: int = 1
    initial_weights: InitialWeights = "orthogonal"
    dtype: str = "float64"

    @property
    def name(self) -> str:
        """What tells it from the others, in words."""
        return (
            f"{NONLINEARITY_TEXT[self.nonlinearity]}, spectral radius {self.radius:g}, "
            f"{TARGET_TEXT[self.target]}"
        )

    def build(self, features: int, seed: int) -> RecurrentRegressor:
        """Make the model; one seed gives all networks the same values but for the scale of W_h."""
        rng = np.random.default_rng(seed)
        lstm = self.nonlinearity == "lstm"
        model = RecurrentRegressor(
            features,
            self.hidden_size,
            features,
            cell="lstm" if lstm else "rnn",
            nonlinearity="tanh" if self.nonlinearity == "lstm" else self.nonlinearity,
            num_layers=self.layers,
            rng=rng,
            dtype=self.dtype,
        )
        for layer in range(self.layers):
            weight = getattr(model.rnn, f"weight_hh_l{layer}")
            blocks = [self._recurrent_weight(weight, rng) for _ in range(4 if lstm else 1)]
            weight.assign(np.concatenate(blocks))
        return model

    def _recurrent_weight(self, like: tg.Tensor, rng: np.random.Generator) -> NDArray[Any]:
        """Draw one square W_h of the radius asked for."""
        block = tg.zeros((self.hidden_size, self.hidden_size), dtype=like.dtype, device=like.device)
        if self.initial_weights == "orthogonal":
            tg.nn.init.orthogonal_(block, rng=rng)
        else:
            tg.nn.init.normal_(block, rng=rng)
        return tg.nn.init.scale_to_spectral_radius_(block, self.radius).numpy()


@dataclass(frozen=True)
class Measurement:
    """The flow in one layer of a network at one moment.

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
    return tuple(
        Measurement(network, moment, layer, flow, loss) for layer, flow in enumerate(flows, start=1)
    )
