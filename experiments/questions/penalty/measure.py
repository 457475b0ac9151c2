"""Networks that learn to say the first number last, with a penalty on their gradient flow and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

import tinygrad182 as tg
from experiments.drawing.numbers import Floats
from experiments.regressors.data import Array
from experiments.regressors.fitting import Training, fit
from experiments.regressors.flow import loss_of
from experiments.regressors.networks import LAYER, Network
from experiments.regressors.states import state_curves
from models import RecurrentRegressor

if TYPE_CHECKING:
    from experiments.questions.penalty import PenaltyOptions

Optimizer = Literal["sgd", "adam"]

OPTIMIZERS: Mapping[Optimizer, Callable[..., tg.optim.Optimizer]] = {
    "sgd": partial(tg.optim.SGD, momentum=0.9),
    "adam": tg.optim.Adam,
}

TEST_SEQUENCES = 1024
"""Fresh sequences that final losses are measured on: their sampling error is a few percent."""


@dataclass(frozen=True)
class FirstNumber:
    """Sequences whose label, at every step, is their first number.

    That is uniform with mean 0 and variance 1; the others are normal numbers that say nothing.

    Parameters
    ----------
    batch, length : int
    noise : float
        Standard deviation of the others.
    """

    batch: int
    length: int
    noise: float
    features: int = 1

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw inputs and labels, both ``(T, B, 1)``."""
        inputs = self.noise * rng.standard_normal((self.length, self.batch, 1))
        inputs[0] = rng.uniform(-np.sqrt(3.0), np.sqrt(3.0), (self.batch, 1))
        return inputs, np.broadcast_to(inputs[:1], inputs.shape).copy()


@dataclass(frozen=True)
class Way:
    """One way of training a network.

    Parameters
    ----------
    weight : float
        Of the penalty; 0 for none.
    larger : float
        What the step size is multiplied by; other than 1 without the penalty only.
    """

    weight: float = 0.0
    larger: float = 1.0

    @property
    def name(self) -> str:
        """Name of the way in words.

        >>> Way(0.1).name, Way().name, Way(larger=3).name
        ('with the penalty', 'without the penalty', 'without, steps × 3')
        """
        if self.larger != 1:
            return f"without, steps × {self.larger:g}"
        return "with the penalty" if self.weight else "without the penalty"


@dataclass(frozen=True)
class Learned:
    """One network after its training.

    Parameters
    ----------
    seed : int
        Of the initial values and of the batches.
    way : Way
    training : Training
        The loss of each training batch, without the penalty.
    before, after : array (T,)
        log10 ‖∂L/∂h_t‖ on one batch, before and after training.
    loss : float
        On fresh sequences.
    """

    seed: int
    way: Way
    training: Training
    before: Floats
    after: Floats
    loss: float


def penalty_of(loss: tg.Tensor, weight: float) -> tg.Tensor:
    """``weight`` times the mean square of the change of log ‖∂L/∂h_t‖ from step to step.

    It is 0 where the gradient neither vanishes nor explodes, whatever its size. A norm kept along the
    gradient's own direction is what Pascanu et al. ask for, in ratios instead of logarithms [1]_.

    References
    ----------
    .. [1] Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013,
       equation 9.
    """
    logs = tg.inspect.gradient_flow(loss, create_graph=True)[LAYER].h.log_grad_norm
    return weight * ((logs[1:] - logs[:-1]) ** 2).mean()


def learn(
    opts: PenaltyOptions, way: Way, seed: int, advance: Callable[[], object] = lambda: None
) -> Learned:
    """Train a network, calling ``advance`` after every step, and measure its gradient before and after."""
    source = FirstNumber(opts.batch, opts.length, opts.noise)
    model = Network("tanh", opts.spectral_radius, "last", opts.hidden_size).build(1, seed)
    seen = source.draw(np.random.default_rng((seed, 1)))
    before = flow_of(model, seen)
    training = fit(
        model,
        source,
        np.random.default_rng((seed, 2)),
        target="last",
        steps=opts.steps,
        learning_rate=opts.learning_rate * way.larger,
        advance=advance,
        optimizer=OPTIMIZERS[opts.optimizer],
        penalty=partial(penalty_of, weight=way.weight) if way.weight else None,
    )
    fresh = FirstNumber(TEST_SEQUENCES, opts.length, opts.noise)
    with tg.no_grad():
        loss, _ = loss_of(model, fresh.draw(np.random.default_rng((seed, 3))), "last")
    return Learned(seed, way, training, before, flow_of(model, seen), float(loss.item()))


def flow_of(model: RecurrentRegressor, batch: tuple[Array, Array]) -> Floats:
    """log10 ‖∂L/∂h_t‖, ``(T,)``."""
    loss, _ = loss_of(model, batch, "last")
    return state_curves(loss)["h"].flow.gradient


def decades(gradient: Floats) -> float:
    """The decades that a gradient grows on the whole way back; negative where it vanishes."""
    return float(gradient[0] - gradient[-1])


LEARNED = 0.5
"""A network with this loss or less has learned: half of the loss without knowing the number."""


NOT_LEARNED = 0.9
"""The loss of a network that has learned next to nothing."""


def trained(found: Sequence[Learned], way: Way) -> list[Learned]:
    """The networks of one way."""
    return [learned for learned in found if learned.way == way]


def having_learned(found: Sequence[Learned]) -> int:
    """The number of networks that have learned."""
    return sum(learned.loss <= LEARNED for learned in found)


def best_plain(opts: PenaltyOptions, found: Sequence[Learned]) -> int:
    """The number of networks that learn without the penalty, at the best of the step sizes."""
    return max(having_learned(trained(found, way)) for way in opts.ways if not way.weight)


def worst(numbers: Sequence[float]) -> float:
    """The largest; NaN where one of them is, of which no claim holds."""
    return float(np.max(numbers))
