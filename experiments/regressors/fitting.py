"""Training a regressor, watched and stopped where its numbers end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import tinygrad182 as tg
from experiments.regressors.data import Source
from experiments.regressors.flow import Target, loss_of
from models import RecurrentRegressor

MAX_NORM = 1.0
"""The gradient of all parameters together is scaled down to this norm, as is usual for RNNs: the
size of a step then says nothing about an explosion, its direction is kept."""


@dataclass(frozen=True)
class Training:
    """The result of training.

    Parameters
    ----------
    losses : tuple of float
        The loss before each update.
    stopped : str
        Why it ended early; empty if it did not.
    """

    losses: tuple[float, ...]
    stopped: str = ""


def fit(
    model: RecurrentRegressor,
    source: Source,
    rng: np.random.Generator,
    *,
    target: Target,
    steps: int,
    learning_rate: float,
    advance: Callable[[], object],
    optimizer: Callable[..., tg.optim.Optimizer] = tg.optim.Adam,
    penalty: Callable[[tg.Tensor], tg.Tensor] | None = None,
) -> Training:
    """Train on fresh batches until ``steps`` updates are done or a number overflows.

    A loss or gradient that is not finite ends the training before the update, so the model keeps
    its last finite parameters.

    Parameters
    ----------
    model : RecurrentRegressor
        Trained in place.
    source : Source
        Batches.
    rng : numpy.random.Generator
        What the batches are drawn with.
    target : {"last", "all"}
        Which steps enter the loss.
    steps, learning_rate : int, float
        Updates, and the optimizer's step size.
    advance : callable
        Called after every update.
    optimizer : callable
        Makes it of the parameters and ``lr``.
    penalty : callable, optional
        What is added to the loss, made of it; it is not among the losses that are returned.

    Returns
    -------
    Training
    """
    parameters = list(model.parameters())
    updates = optimizer(parameters, lr=learning_rate)
    losses: list[float] = []
    for step in range(steps):
        loss, _ = loss_of(model, source.draw(rng), target)
        losses.append(float(loss.item()))
        updates.zero_grad()
        (loss if penalty is None else loss + penalty(loss)).backward()
        norm = tg.optim.clip_grad_norm_(parameters, MAX_NORM, error_if_nonfinite=False)
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            what = "gradient" if math.isfinite(losses[-1]) else "loss"
            return Training(tuple(losses), f"the {what} overflowed at training step {step}")
        updates.step()
        advance()
    return Training(tuple(losses))
