"""Measure an LSTM's gradients with those through h blocked, and split them by hidden states on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, log10, norms, relative, to_numpy
from experiments.questions.h_detach.blocked_lstm import predict
from experiments.regressors.flow import loss_of
from experiments.regressors.networks import LAYER
from models import RecurrentRegressor


@dataclass(frozen=True)
class Blocked:
    """The mean gradient of one network where h is blocked at each step with some probability.

    Parameters
    ----------
    block : float
        The probability p: 0 is the true gradient, 1 blocks h everywhere.
    gradient : array (T,)
        log10 of the norm of the mean ∂L/∂c_t over all choices of the steps that are blocked.
    cosine, length : float
        Of the mean gradient of all parameters: the cosine of its angle with the true one, and its norm
        in units of the true one's.
    hidden_share : float
        Share of ∂L/∂c_t that comes through h in one step back: the median over the steps.
    hidden : float
        The largest norm that comes to any c_t through h, in units of ‖∂L/∂c_t‖.
    noise : float
        How far ∂L/∂c_0 of a single draw of the blocked steps is from the mean: root mean square over
        draws, in units of the mean's norm. 0 where nothing is drawn.
    error : float
        Largest difference of any step between the mean gradient and Σ_j (1 − p)^j times what went through
        j hidden states, in units of the sum of the terms' norms.
    """

    block: float
    gradient: Floats
    cosine: float
    length: float
    hidden_share: float
    hidden: float
    noise: float
    error: float


@dataclass(frozen=True)
class Network:
    """An LSTM with its blocked gradients; the loss is at the last step.

    Parameters
    ----------
    forget_bias, scale : float
        Added to the biases of the forget gates; what W_h and W_x are multiplied by.
    seed : int
    hops : array (T, T)
        log10 of the norm of what reaches each c_t through exactly j hidden states, j along the first
        axis.
    blocked : tuple of Blocked
        By probability, from 0 to 1.
    """

    forget_bias: float
    scale: float
    seed: int
    hops: Floats
    blocked: tuple[Blocked, ...]

    @property
    def true(self) -> Blocked:
        """The gradient with nothing blocked."""
        return self.blocked[0]

    @property
    def detached(self) -> Blocked:
        """The gradient with h blocked at every step."""
        return self.blocked[-1]

    @property
    def left(self) -> float:
        """log10 of ‖∂L/∂c_0‖ with h blocked everywhere, in units of the true one; 0 where both are 0."""
        left, true = self.detached.gradient[0], self.true.gradient[0]
        return 0.0 if left == true else float(left - true)


def growth(gradient: Floats) -> float:
    """The most decades that the gradient gains anywhere on its way back from the last step."""
    return float(np.max(gradient) - gradient[-1])


def arrived(blocked: Blocked) -> float:
    """log10 of ‖∂L/∂c_0‖ in units of ‖∂L/∂c_{T−1}‖."""
    return float(blocked.gradient[0] - blocked.gradient[-1])


def see(
    model: RecurrentRegressor,
    batch: tuple[NDArray[Any], NDArray[Any]],
    blocks: Sequence[float],
    draws: int,
    *,
    forget_bias: float,
    scale: float,
    seed: int,
) -> Network:
    """Measure one network for every probability; they are sorted and begin with 0."""
    loss, _ = loss_of(model, batch, "last")
    last = len(batch[0]) - 1
    split = tg.inspect.grad_by_hops(loss, last, state="c", through="h", path=LAYER)
    parts = to_numpy(split.grad)
    rng = np.random.default_rng((seed, 2))
    found: list[Blocked] = []
    true = None
    for block in blocks:
        weights = (1.0 - block) ** np.arange(last + 1.0)
        terms = weights[:, None, None, None] * parts
        mean_loss = loss_with(model, batch, 1.0 - block)
        ways = tg.inspect.path_split(mean_loss)["c"]
        mean = to_numpy(ways.grad)
        flat = parameter_gradient(mean_loss, model)
        true = flat if true is None else true
        apart = norms(mean - terms.sum(axis=0))
        sizes = np.array([norms(part) for part in terms]).sum(axis=0)
        found.append(
            Blocked(
                block=block,
                gradient=log10(norms(mean)),
                cosine=float(flat @ true / (np.linalg.norm(flat) * np.linalg.norm(true))),
                length=float(np.linalg.norm(flat) / np.linalg.norm(true)),
                hidden_share=float(np.median(ways.shares["via h"][:-1])),
                hidden=float(relative(to_numpy(ways.parts["via h"]), mean).max()),
                noise=noise(model, batch, block, draws, rng, mean[0]) if 0 < block < 1 else 0.0,
                error=float(
                    np.divide(apart, sizes, out=np.zeros_like(apart), where=apart > 0).max()
                ),
            )
        )
    hops = np.stack([log10(norms(part)) for part in parts])
    return Network(forget_bias, scale, seed, hops, tuple(found))


def loss_with(
    model: RecurrentRegressor, batch: tuple[NDArray[Any], NDArray[Any]], factor: float
) -> tg.Tensor:
    """Return the loss at the last step, with gradients through hidden states multiplied by ``factor``.

    With ``factor`` = 1 − p its gradient is the mean over all choices of blocked steps. A path through j
    hidden states is open with probability (1 − p)^j, because each state lies at a step of its own, and
    here the path is multiplied by (1 − p)^j.
    """
    inputs, labels = batch
    predictions = predict(model, inputs, [factor] * len(inputs))
    return tg.nn.mse_loss(predictions[-1], tg.tensor(labels[-1]))


def parameter_gradient(loss: tg.Tensor, model: RecurrentRegressor) -> Floats:
    """Return the gradient of all parameters as one vector."""
    gradients = tg.grad(loss, list(model.parameters()))
    return np.concatenate([to_numpy(gradient).ravel() for gradient in gradients])


def noise(
    model: RecurrentRegressor,
    batch: tuple[NDArray[Any], NDArray[Any]],
    block: float,
    draws: int,
    rng: np.random.Generator,
    mean: Floats,
) -> float:
    """Root mean square distance of a single draw's ∂L/∂c_0 from the mean ``(B, H)``, relative to it.

    It is 0 where all are 0. All draws are run side by side, each on a copy of the batch.
    """
    inputs, labels = (np.concatenate([each] * draws, axis=1) for each in batch)
    drawn = (rng.random((len(inputs), draws)) >= block).astype(float)
    factors = [tg.tensor(np.repeat(each, mean.shape[0])[:, None]) for each in drawn]
    error = predict(model, inputs, factors)[-1] - tg.tensor(labels[-1])
    loss = (error * error).sum() / batch[1][-1].size
    first = to_numpy(tg.inspect.gradient_flow(loss)[""].c.grad)[0]
    apart = norms(first.reshape(draws, *mean.shape) - mean)
    (size,) = norms(mean[None])
    return float(np.sqrt(np.mean((apart / size) ** 2))) if apart.any() else 0.0
