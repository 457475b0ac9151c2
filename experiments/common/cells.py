"""Vanilla RNNs and LSTMs of the same sizes, made and measured on the same batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.common.data import running_average
from experiments.common.flow import LN_10, Floats, LayerFlow, Target, regression_loss, to_numpy
from experiments.common.study import FACTOR_DECADES
from models import RecurrentRegressor

Cell = Literal["rnn", "lstm"]
CELL_TEXT: Mapping[Cell, str] = {"rnn": "RNN", "lstm": "LSTM"}

NAMED_BIAS = 1.0
"""The usual forget bias: claims are about it."""


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
            parameter.assign(parameter.data * scale)
    return model


def batch_of(seed: int, batch: int, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and labels ``(T, B, 1)`` that all networks of a seed are measured on."""
    return running_average(np.random.default_rng((seed, 1)), batch, length)


def loss_of(
    model: RecurrentRegressor, batch: tuple[NDArray[Any], NDArray[Any]], target: Target
) -> tuple[tg.Tensor, tg.Tensor]:
    """Mean squared error on a batch, and the predictions."""
    inputs, labels = batch
    return regression_loss(model, tg.tensor(inputs), tg.tensor(labels), target)


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
        gradient = to_numpy(state.log_grad_norm).astype(np.float64) / LN_10
        size = to_numpy(state.value_norm).astype(np.float64)
        largest = np.abs(values).reshape(len(values), -1).max(axis=1)
        found[name] = StateCurve(LayerFlow(np.nan, gradient, size), largest)
    return found


@dataclass(frozen=True)
class Seen:
    """One untrained network, the loss at the last step."""

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


def pick(found: Sequence[Seen], cell: Cell, scale: float, bias: float = NAMED_BIAS) -> list[Seen]:
    """The networks of a kind, one for each seed."""
    bias = bias if cell == "lstm" else 0.0
    return [s for s in found if (s.cell, s.scale, s.forget_bias) == (cell, scale, bias)]


def ahead(found: Sequence[Seen], scale: float, bias: float = NAMED_BIAS) -> list[float]:
    """Decades by which the LSTM's h and c lose less than the RNN's h from T to 1; one per seed."""
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
