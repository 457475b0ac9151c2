"""A vanilla RNN as NumPy loops over samples and steps, and gradients without a derivative rule.

Nothing here uses the framework: the weights are arrays by the names of ``state_dict()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tests.support import Array

SIGMA: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "relu": lambda z: np.where(z.real > 0, z, 0.0),
}
STEP = 1e-30

Weights = Mapping[str, Array]


class Run(NamedTuple):
    """What a layer computes: output (T, B, H), h_n (layers, B, H), states (layers, T, B, H)."""

    output: Array
    h_n: Array
    states: Array


def rnn(
    weights: Weights, x: Array, h_0: Array, nonlinearity: str, kicks: Array | None = None
) -> Run:
    """h_t = σ(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh), layer by layer; real or complex.

    ``kicks`` (layers, T, B, H) are added to the states: the derivative by one is ∂L/∂h_t.
    """
    kicks = np.zeros((len(h_0), *x.shape[:2], h_0.shape[2])) if kicks is None else kicks
    sigma, below, states = SIGMA[nonlinearity], x, []
    for layer in range(len(h_0)):
        w_x, w_h = weights[f"weight_ih_l{layer}"], weights[f"weight_hh_l{layer}"]
        b = weights.get(f"bias_ih_l{layer}", 0.0) + weights.get(f"bias_hh_l{layer}", 0.0)
        above = np.empty(
            (*x.shape[:2], h_0.shape[2]), np.result_type(below, h_0, w_x, w_h, b, kicks)
        )
        for sample in range(x.shape[1]):
            h = h_0[layer, sample]
            for t in range(x.shape[0]):
                h = sigma(w_x @ below[t, sample] + b + w_h @ h) + kicks[layer, t, sample]
                above[t, sample] = h
        states.append(above)
        below = above
    return Run(below, np.stack([s[-1] for s in states]), np.stack(states))


def gradients(
    f: Callable[[dict[str, Array]], Array], at: dict[str, Array], step: float = STEP
) -> dict[str, Array]:
    """∂f/∂ every element of every array, each by one complex step: no cancellation, no truncation."""
    found = {}
    for name, array in at.items():
        derivative = np.empty(array.shape)
        for i in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[i] += 1j * step
            derivative[i] = f({**at, name: moved}).imag / step
        found[name] = derivative
    return found


def weights_of(module: object) -> dict[str, Array]:
    """The arrays of a module's state dict."""
    state = module.state_dict()  # type: ignore[attr-defined]
    return {name: np.array(value.numpy()) for name, value in state.items()}
