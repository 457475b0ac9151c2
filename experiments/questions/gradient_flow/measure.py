"""A network on the running average task: made, measured, trained and measured again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.regressors.data import Source
from experiments.regressors.fitting import Training, fit
from experiments.regressors.flow import measure_flow
from experiments.regressors.measurement import Measurement, Moment
from experiments.regressors.networks import Network
from models import RecurrentRegressor


@dataclass(frozen=True)
class Study:
    """All measurements of one network."""

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
