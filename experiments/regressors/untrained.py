"""Untrained networks with a batch: what the experiments on initial values measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.app.errors import OptionError
from experiments.app.options import NetworkOptions
from experiments.drawing.numbers import Floats, log10, to_numpy
from experiments.regressors.data import batch_of
from experiments.regressors.flow import loss_of
from experiments.regressors.networks import Network
from models import RecurrentRegressor


@dataclass(frozen=True, kw_only=True)
class UntrainedOptions(NetworkOptions):
    """Options of every experiment on untrained networks."""

    length: int = 30
    """Time steps T."""

    hidden_size: int = 16
    """Hidden units H."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(3, "length")
        self.at_least(1, "hidden_size")

    @property
    def size(self) -> str:
        """The sizes as a subtitle names them."""
        return f"T = {self.length}, H = {self.hidden_size}, B = {self.batch}"

    @property
    def drawn(self) -> str:
        """Sizes and seed of the networks that figures show, as a subtitle names them."""
        return f"{self.size}, seed {self.seed}"


@dataclass(frozen=True)
class Probe:
    """An untrained network with a batch of the running average task, run forward.

    Parameters
    ----------
    network : Network
        What was made; its target is the loss's.
    model : RecurrentRegressor
    inputs, labels : arrays (T, B, 1)
    loss : Tensor
        Mean squared error.
    predictions : Tensor (T, B, 1)
    """

    network: Network
    model: RecurrentRegressor
    inputs: NDArray[Any]
    labels: NDArray[Any]
    loss: tg.Tensor
    predictions: tg.Tensor

    @property
    def weight(self) -> tg.Tensor:
        """W_h, in the layout of the parameters: row i is what unit i hears."""
        layer: Any = self.model.rnn
        weight: tg.Tensor = layer.weight_hh_l0
        return weight

    @property
    def stretch(self) -> float:
        """log10 of the largest singular value of W_h."""
        return float(log10(np.linalg.norm(to_numpy(self.weight), 2)))


def probe(
    network: Network,
    opts: UntrainedOptions,
    seed: int,
    *,
    drive: float = 1.0,
    weight: Floats | None = None,
) -> Probe:
    """Make a network and run it on a batch.

    Parameters
    ----------
    network : Network
        What to make.
    opts : UntrainedOptions
        Sizes of the batch.
    seed : int
        Of the initial values and of the batch.
    drive : float
        Inputs, labels and all biases are multiplied by it: with a small one the states of a network
        stay near 0.
    weight : array (H, H), optional
        W_h, in place of the network's own.

    Raises
    ------
    OptionError
        The loss overflows, so there is no gradient to look at.
    """
    model = network.build(features=1, seed=seed)
    inputs, labels = (each * drive for each in batch_of(seed, opts.batch, opts.length))
    layer: Any = model.rnn
    if weight is not None:
        layer.weight_hh_l0.assign(weight)
    biases: tuple[Any, ...] = layer.bias_ih_l0, model.head.bias
    for bias in biases:
        bias.assign(bias.numpy() * drive)
    loss, predictions = loss_of(model, (inputs, labels), network.target)
    if not np.isfinite(loss.item()):
        raise OptionError(
            f"The loss overflows ({network.name}, T = {opts.length}); choose a smaller "
            "--spectral-radius or --length"
        )
    return Probe(network, model, inputs, labels, loss, predictions)
