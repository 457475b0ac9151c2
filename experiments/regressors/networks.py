"""Recurrent regressors as they are before training: vanilla RNNs and LSTMs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.regressors.flow import TARGET_TEXT, Target
from models import RecurrentRegressor

Cell = Literal["rnn", "lstm"]

Nonlinearity = Literal["identity", "tanh", "relu"]

Kind = Literal["identity", "tanh", "relu", "lstm"]
"""A vanilla RNN by its nonlinearity, or an LSTM."""

InitialWeights = Literal["orthogonal", "gaussian"]

CELL_TEXT: Mapping[Cell, str] = {"rnn": "RNN", "lstm": "LSTM"}

NONLINEARITY_TEXT = {
    "identity": "identity (linear)",
    "tanh": "tanh",
    "relu": "ReLU",
    "lstm": "LSTM",
}

LAYER = "rnn.l0"
"""Path of the one recurrent layer."""


@dataclass(frozen=True)
class Network:
    """Description of a network before it is trained.

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
        """Name that tells it apart from the others."""
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


def regressor(
    cell: Cell,
    hidden_size: int,
    seed: int,
    *,
    layers: int = 1,
    forget_bias: float = 0.0,
    scale: float = 1.0,
) -> RecurrentRegressor:
    """Make a regressor of single numbers in float64, its initial values those of the layers.

    They are uniform in ±1/√H. One seed draws the same values whatever the forget bias and the
    scale.

    Parameters
    ----------
    cell : {"rnn", "lstm"}
    hidden_size, seed, layers : int
    forget_bias : float
        Added to the biases of an LSTM's forget gates.
    scale : float
        What W_h and W_x of every recurrent layer are multiplied by.
    """
    model = RecurrentRegressor(
        1,
        hidden_size,
        cell=cell,
        forget_bias=forget_bias,
        num_layers=layers,
        rng=seed,
        dtype="float64",
    )
    for name, parameter in model.rnn.named_parameters():
        if name.startswith("weight"):
            parameter.assign(parameter.detach() * scale)
    return model


def gate_of(forget_bias: float) -> float:
    """Return σ(b), the forget gate at a bias with nothing added to it."""
    return 0.5 * (1.0 + math.tanh(0.5 * forget_bias))  # which does not overflow
