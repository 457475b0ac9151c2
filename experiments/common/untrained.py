"""Untrained networks with a batch: what the experiments on initial values measure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.common import options
from experiments.common.data import running_average
from experiments.common.errors import OptionError
from experiments.common.flow import Floats, regression_loss, to_numpy
from experiments.common.result import power_text
from experiments.common.study import Network
from models import RecurrentRegressor

LAYER = "rnn.l0"
"""Path of the one recurrent layer."""

ROUNDING = 1e-12
"""4,500 roundings of float64: the products through time and the sums over a batch that lie between
two ways to compute the same numbers leave them no further apart, relative to what is added or in
decades."""


@dataclass(frozen=True, kw_only=True)
class UntrainedOptions(options.Options):
    """Options of every experiment on untrained networks."""

    length: int = 30
    """Time steps T."""

    hidden_size: int = 16
    """Hidden units H."""

    batch: int = 16
    """Sequences B in a batch."""

    repeats: int = 2
    """Networks drawn of each kind, with seed, seed + 1, …: claims are about all of them, figures
    show the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.at_least("length", self.length, 3)
        options.at_least("hidden-size", self.hidden_size, 1)
        options.at_least("batch", self.batch, 1)
        options.at_least("repeats", self.repeats, 1)

    @property
    def seeds(self) -> range:
        """Of the networks that are drawn."""
        return range(self.seed, self.seed + self.repeats)

    @property
    def size(self) -> str:
        """The sizes as a subtitle names them."""
        return f"T = {self.length}, H = {self.hidden_size}, B = {self.batch}"

    @property
    def drawn(self) -> str:
        """Sizes and seed of the networks that figures show, as a subtitle names them."""
        return f"{self.size}, seed {self.seed}"

    @property
    def seeds_text(self) -> str:
        """The seeds that a sentence is about."""
        return (
            f"seed {self.seed}"
            if self.repeats == 1
            else (f"seeds {self.seed} {'and' if self.repeats == 2 else 'to'} {self.seeds[-1]}")
        )


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
    inputs, labels = running_average(np.random.default_rng((seed, 1)), opts.batch, opts.length)
    inputs, labels = inputs * drive, labels * drive
    layer: Any = model.rnn
    if weight is not None:
        layer.weight_hh_l0.assign(weight)
    biases: tuple[Any, ...] = layer.bias_ih_l0, model.head.bias
    for bias in biases:
        bias.assign(bias.numpy() * drive)
    loss, predictions = regression_loss(model, tg.tensor(inputs), tg.tensor(labels), network.target)
    if not np.isfinite(loss.item()):
        raise OptionError(
            f"The loss overflows ({network.name}, T = {opts.length}); choose a smaller "
            "--spectral-radius or --length"
        )
    return Probe(network, model, inputs, labels, loss, predictions)


def relative(difference: Floats, reference: Floats) -> Floats:
    """‖difference[t]‖ / ‖reference[t]‖ along the first axis; 0 where both are 0."""
    apart = norms(difference)
    size = norms(reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.where(apart == 0, 0.0, apart / size)
    return ratio


def norms(values: Any) -> Floats:
    """Frobenius norm of each entry along the first axis, also where its squares underflow."""
    rows = to_numpy(values).astype(np.float64)
    rows = rows.reshape(len(rows), -1)
    top = np.abs(rows).max(axis=1, initial=0.0)
    scale = np.where(top > 0, top, 1.0)
    found: Floats = scale * np.linalg.norm(rows / scale[:, None], axis=1)
    return found


def log10(values: Any) -> Floats:
    """log10 with -inf for 0, without a warning."""
    with np.errstate(divide="ignore"):
        found: Floats = np.log10(np.asarray(values, dtype=np.float64))
    return found


def spread(logs: Iterable[float]) -> str:
    """Range of numbers whose logarithms are given, such as one number of each seed.

    >>> spread([-2.0, -6.5]), spread([0.0, 0.0])
    ('3.2e-07 to 0.01', '1')
    """
    return _range([power_text(log) for log in sorted(logs)])


def counts(numbers: Iterable[int]) -> str:
    """Range of whole numbers.

    >>> counts([4, 1]), counts([2, 2])
    ('1 to 4', '2')
    """
    return _range([str(number) for number in sorted(numbers)])


def _range(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"
