"""Networks that learn the running average, watched while they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, to_numpy
from experiments.drawing.words import counted
from experiments.regressors.data import RandomSequences, batch_of, running_average
from experiments.regressors.fitting import Training, fit
from experiments.regressors.flow import Target, loss_of
from experiments.regressors.networks import CELL_TEXT, Cell, regressor

TEST_SEQUENCES = 1024
"""Fresh sequences that final losses are measured on: their sampling error is a few percent."""


@dataclass(frozen=True)
class Task:
    """The task of one network.

    Parameters
    ----------
    cell : {"rnn", "lstm"}
    layers : int
    target : {"last", "all"}
        Which steps enter the loss.
    seed : int
        Of the initial values and of the batches.
    """

    cell: Cell
    layers: int
    target: Target
    seed: int

    @property
    def name(self) -> str:
        """Cell and layers in words."""
        return f"{CELL_TEXT[self.cell]}, {counted(self.layers, 'layer')}"


@dataclass(frozen=True)
class Learned:
    """One network after its training.

    Parameters
    ----------
    task : Task
    training : Training
        The loss of each training batch.
    moments : array (M,)
        Training steps after which the gradient flow was measured; none if it was not watched.
    gradient : array (M, layers, T)
        log10 ‖∂L/∂h_t‖, always on the same batch.
    loss : float
        On fresh sequences.
    predictions : array (T, B)
        For the batch that the flow is measured on.
    """

    task: Task
    training: Training
    moments: NDArray[np.int64]
    gradient: Floats
    loss: float
    predictions: Floats

    def reach(self, moment: int) -> float:
        """log10(‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖) in the lowest layer at one of the moments."""
        return float(self.gradient[moment, 0, 0] - self.gradient[moment, 0, -1])


def learn(
    task: Task,
    *,
    hidden_size: int,
    batch: int,
    length: int,
    steps: int,
    learning_rate: float,
    moments: int,
    advance: Callable[[], object],
) -> Learned:
    """Train a network; measure its gradient flow at up to ``moments`` moments on the way.

    Parameters
    ----------
    task : Task
    hidden_size, batch, length, steps, learning_rate
        Sizes, training steps and Adam's step size.
    moments : int
        0 to leave the flow alone.
    advance : callable
        Called after every training step.
    """
    model = regressor(task.cell, hidden_size, task.seed, layers=task.layers)
    measured_on = batch_of(task.seed, batch, length)
    watched = set(np.linspace(0, steps, min(moments, steps + 1)).astype(int).tolist())
    watch = tg.inspect.watch(model, every=None)

    def look() -> None:
        if watch.passes in watched:
            watch.record(loss_of(model, measured_on, task.target)[0])

    def step() -> None:
        look()
        advance()

    look()
    training = fit(
        model,
        RandomSequences(batch, length),
        np.random.default_rng((task.seed, 2)),
        target=task.target,
        steps=steps,
        learning_rate=learning_rate,
        advance=step,
    )
    watch.stop()
    layers = [stack.h.log10_grad_norm for stack in watch.values()]
    fresh = running_average(np.random.default_rng((task.seed, 3)), TEST_SEQUENCES, length)
    return Learned(
        task,
        training,
        watch.steps,
        np.stack(layers, axis=1) if layers else np.zeros((0, task.layers, length)),
        float(loss_of(model, fresh, task.target)[0].item()),
        to_numpy(loss_of(model, measured_on, task.target)[1])[:, :, 0],
    )


def least_loss(inputs: int, length: int, target: Target) -> float:
    """Loss of the best predictor that sees only the last ``inputs`` numbers of each sequence.

    The numbers are independent with mean 0 and variance 1. The label after n of them is their mean, so
    the best prediction leaves the unseen ones out, and their part of the mean, of variance
    (n − inputs)/n², is lost. A smaller loss can be had only by a network that uses more.

    >>> least_loss(0, 10, "last"), least_loss(9, 10, "last")
    (0.1, 0.01)
    """
    n = np.arange(1, length + 1)
    lost = np.maximum(n - inputs, 0) / n**2
    return float(lost[-1] if target == "last" else lost.mean())


def inputs_used(loss: float, length: int, target: Target) -> int:
    """The least number of last numbers that a network must use to have this loss.

    >>> inputs_used(0.2, 10, "last"), inputs_used(0.05, 10, "last"), inputs_used(0.001, 10, "last")
    (0, 5, 10)
    """
    return sum(loss < least_loss(inputs, length, target) for inputs in range(length))
