"""The gradient in a linear RNN, measured, beside what the spectrum of its W_h says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import tinygrad182 as tg
from experiments.drawing.numbers import LN_10, Floats, in_decades, to_numpy
from experiments.questions.linear_rnn.spectrum import (
    Matrix,
    eigenvalues,
    exponent_bound,
    power_norms,
    slope_bound,
    special,
)
from experiments.regressors.flow import LayerFlow, measure_flow
from experiments.regressors.networks import InitialWeights, Network
from experiments.regressors.untrained import UntrainedOptions, probe

BREAKING: tuple[tuple[Matrix, float, str], ...] = (
    ("chain", 0.7, "strongly linked chain"),
    ("defective", 1.0, "weakly linked chain"),
    ("stretched rotation", 1.0, "stretched rotation"),
)
"""Matrices whose eigenvalues mislead: what they are, and their names in figures."""

KIND_TEXT = {"orthogonal": "orthogonal", "gaussian": "Gaussian"}


@dataclass(frozen=True)
class LinearFlow:
    """The gradient in one linear network, and what the spectrum of its W_h says of it.

    Parameters
    ----------
    kind : str
        Of W_h.
    radius : float
        Its largest eigenvalue magnitude, as asked for.
    seed : int
    flow : LayerFlow
        What was measured, with the closed form.
    powers : array (T,)
        log10 of the largest singular value of W_h^k, for each lag k.
    slope_bound : float
        How far, in decades per step, the slope can be from log10 |λ|max by the spectrum alone.
    magnitudes : array (H,)
        log10 |λ_i|, largest first.
    exponents : array (T, H)
        log10 finite-time exponents, by how many steps back: row k is over k + 1 steps.
    exponent_bound : float
        How far the largest of them, times the steps, can be from that of log10 |λ|max.
    """

    kind: str
    radius: float
    seed: int
    flow: LayerFlow
    powers: Floats
    slope_bound: float
    magnitudes: Floats
    exponents: Floats
    exponent_bound: float

    @property
    def by_lag(self) -> Floats:
        """log10(‖∂L/∂h_{T−1−k}‖ / ‖∂L/∂h_{T−1}‖) for k = 0 … T − 1."""
        found: Floats = self.flow.gradient[::-1] - self.flow.gradient[-1]
        return found

    @property
    def slope_error(self) -> float:
        """|fitted slope − log10 |λ|max|, in decades per step."""
        return abs(self.flow.measured_slope - self.flow.predicted_slope)

    @property
    def name(self) -> str:
        """Name in sentences."""
        return f"{KIND_TEXT.get(self.kind, self.kind)}, $|λ|_{{max}}$ = {self.radius:g}, seed {self.seed}"


def linear_flow(
    opts: UntrainedOptions, kind: InitialWeights | Matrix, radius: float, seed: int
) -> LinearFlow:
    """Measure one network, the loss at the last step."""
    network = Network("identity", radius, "last", opts.hidden_size)
    if kind == "orthogonal" or kind == "gaussian":
        probed = probe(replace(network, initial_weights=kind), opts, seed)
    else:
        probed = probe(network, opts, seed, weight=special(kind, opts.hidden_size, radius))
    weight = to_numpy(probed.weight).astype(np.float64)
    start = to_numpy(probed.model.head.weight)[0].astype(np.float64)
    (flow,), _ = measure_flow(probed.model, "identity", probed.inputs, probed.labels, "last")
    third = opts.length // 3
    fitted = np.arange(opts.length - (third if third >= 3 else opts.length), opts.length)
    jacobians = tg.inspect.step_jacobians(probed.loss)
    steps = np.arange(1, len(jacobians.time) + 1)
    with np.errstate(divide="ignore"):
        magnitudes = np.log10(np.abs(eigenvalues(weight)))
    return LinearFlow(
        kind=kind,
        radius=radius,
        seed=seed,
        flow=flow,
        powers=power_norms(weight, opts.length - 1),
        slope_bound=slope_bound(weight, start, fitted),
        magnitudes=magnitudes,
        exponents=in_decades(jacobians.log_growth[::-1] / steps[:, None]),
        exponent_bound=exponent_bound(weight) / LN_10,
    )


def eigenvalue_line(each: LinearFlow) -> Floats:
    """log10 |λ|max^k for each lag."""
    line: Floats = np.arange(float(len(each.powers))) * each.flow.predicted_slope
    return line
