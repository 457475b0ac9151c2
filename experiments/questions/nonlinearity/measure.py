"""The two factors of each step back: saturation and weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, log10, to_numpy
from experiments.regressors.flow import LayerFlow, measure_flow
from experiments.regressors.measurement import Measurement
from experiments.regressors.networks import NONLINEARITY_TEXT, InitialWeights, Network
from experiments.regressors.untrained import UntrainedOptions, probe

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Seen:
    """One network with inputs of one size, before training, the loss at the last step.

    Parameters
    ----------
    network : Network
    halvings : int
        How many times inputs and biases were halved; negative for doubled.
    seed : int
    flow : LayerFlow
        Gradients and states.
    largest : array (T,)
        Largest |h| of any unit and sequence.
    saturation, weight : arrays (T,)
        The two factors by which step t scales the gradient on its way to step t − 1.
    stretch : float
        log10 of the largest singular value of W_h.
    """

    network: Network
    halvings: int
    seed: int
    flow: LayerFlow
    largest: Floats
    saturation: Floats
    weight: Floats
    stretch: float

    @property
    def inputs(self) -> str:
        """Size of the inputs, in words."""
        return (
            f"inputs × 2{str(-self.halvings).translate(SUPERSCRIPT)}" if self.halvings else "inputs"
        )

    @property
    def verdict(self) -> str:
        """Verb that says how the gradient changes, as in gradient-flow."""
        return Measurement(self.network, "before", 1, self.flow, math.nan).verdict

    @property
    def growth_by_gains(self) -> float:
        """log10 of the product of both factors over the steps T − 1 … 1."""
        return float(np.sum(log10(self.saturation[1:]) + log10(self.weight[1:])))

    @property
    def name(self) -> str:
        """Name in sentences."""
        small = f", {self.inputs}" if self.halvings else ""
        return (
            f"{NONLINEARITY_TEXT[self.network.nonlinearity]}, spectral radius "
            f"{self.network.radius:g}{small}, seed {self.seed}"
        )


def see(
    opts: UntrainedOptions,
    nonlinearity: str,
    radius: float,
    halvings: int,
    seed: int,
    initial_weights: InitialWeights = "orthogonal",
) -> Seen:
    """Measure one network."""
    network = Network(
        nonlinearity, radius, "last", opts.hidden_size, initial_weights=initial_weights
    )
    probed = probe(network, opts, seed, drive=2.0**-halvings)
    (flow,), _ = measure_flow(probed.model, nonlinearity, probed.inputs, probed.labels, "last")
    states, _ = probed.model.rnn(tg.tensor(probed.inputs))
    gains = tg.inspect.gain_split(probed.loss)
    return Seen(
        network=network,
        halvings=halvings,
        seed=seed,
        flow=flow,
        largest=np.abs(to_numpy(states)).max(axis=(1, 2)),
        saturation=gains.saturation,
        weight=gains.weight,
        stretch=probed.stretch,
    )


def typical(gains: Floats) -> float | None:
    """log10 of the geometric mean of the factors at steps T − 1 … 1; None where no gradient is left."""
    logs = log10(gains[1:])
    logs = logs[np.isfinite(logs)]
    return float(logs.mean()) if len(logs) else None


def near_zero(each: Seen) -> bool:
    """Whether all states stay where tanh has 99% of its slope or more."""
    return bool(each.largest.max() <= 0.1)


def unavoidable(each: Seen) -> float:
    """Decades that a gradient gains at least over steps T − 1 … 1 of a tanh network, W_h orthogonal."""
    radius = math.log10(each.network.radius)
    return float(np.sum(radius + log10(1.0 - each.largest[1:] ** 2)))


def of_kind(seen: Sequence[Seen], nonlinearity: str) -> list[Seen]:
    """Networks with this nonlinearity."""
    return [each for each in seen if each.network.nonlinearity == nonlinearity]


def exploding(seen: Sequence[Seen]) -> int:
    """The number of gradients that explode."""
    return sum(each.verdict == "explodes" for each in seen)
