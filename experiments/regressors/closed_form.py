"""The gradient of the linear RNN in closed form , computed without the autodiff engine.

Without a nonlinearity, a loss L_k at step k reaches the state at an earlier step t through one
matrix power::

    ∂L_k/∂h_t = ∂L_k/∂ŷ_k W_fᵀ (W_hᵀ)^(k−t)

and ∂L/∂h_t is the sum over k ≥ t. In the layout of the parameters, W_hᵀ is ``weight_hh`` and W_fᵀ
is the head's ``weight``, and rows are samples, so both multiply from the right. A lower layer
receives the gradient of the layer above through that layer's ``weight_ih``, and then the same
formula holds for it.

The powers span hundreds of decades, more than floating-point numbers have exponents for. Here every
array is a mantissa with its power of two beside it; scaling by a power of two rounds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOG_2 = float(np.log(2.0))
ZERO = -(10**9)


@dataclass(frozen=True)
class Scaled:
    """Arrays, one for each time step: ``mantissa[t] * 2.0 ** exponent[t]``.

    Parameters
    ----------
    mantissa : array (T, B, H)
        The arrays, scaled to where floating-point numbers are.
    exponent : int array (T,)
        Their powers of two.
    """

    mantissa: Floats
    exponent: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Scaled:
        """Scale each step so that its largest magnitude is between 1/2 and 1."""
        values = np.asarray(values, dtype=np.float64)
        largest = np.abs(values).max(axis=(1, 2))
        _, exponent = np.frexp(largest)
        # Zero counts as smaller than everything, so that sums take the other term's scale.
        exponent = np.where(largest > 0, exponent.astype(np.int64), ZERO)
        return cls(_shift(values, -exponent), exponent)

    def norm_log(self) -> Floats:
        """Natural logarithm of each step's Frobenius norm, -inf where it is zero."""
        with np.errstate(divide="ignore"):
            mantissa: Floats = np.log(np.linalg.norm(self.mantissa, axis=(1, 2)))
        return mantissa + self.exponent * LOG_2

    def relative_error(self, measured: NDArray[Any]) -> Floats:
        """‖measured − self‖ / ‖self‖ of each step, where ``measured`` is (T, B, H); NaN for 0/0."""
        difference = _shift(np.asarray(measured, dtype=np.float64), -self.exponent) - self.mantissa
        with np.errstate(all="ignore"):
            error: Floats = np.linalg.norm(difference, axis=(1, 2))
            error /= np.linalg.norm(self.mantissa, axis=(1, 2))
        return error


def linear_flow(
    state: Mapping[str, NDArray[Any]], output_grad: NDArray[Any], layers: int
) -> list[Scaled]:
    """∂L/∂h_t of a linear RNN regressor, for each layer at each step.

    Parameters
    ----------
    state : mapping
        The model's parameters by name: ``rnn.weight_ih_l0``, ``rnn.weight_hh_l0``, ``head.weight``.
    output_grad : array (T, B, O)
        The gradient of the loss with respect to the predictions; zero at steps without a target.
    layers : int
        Layers of the network.

    Returns
    -------
    list of Scaled
        The lowest layer first.
    """
    weights = {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}
    local = Scaled.of(output_grad @ weights["head.weight"])
    flows = []
    for layer in reversed(range(layers)):
        flow = _through_time(local, weights[f"rnn.weight_hh_l{layer}"])
        flows.append(flow)
        if layer:
            below = Scaled.of(flow.mantissa @ weights[f"rnn.weight_ih_l{layer}"])
            local = Scaled(below.mantissa, below.exponent + flow.exponent)
    return flows[::-1]


def _through_time(local: Scaled, weight: Floats) -> Scaled:
    """Σ_{k ≥ t} local_k weight^(k−t) for each t, by explicit matrix powers."""
    length = len(local.mantissa)
    total, exponent = local.mantissa.copy(), local.exponent.copy()
    power, power_exponent = np.eye(len(weight)), 0
    for lag in range(1, length):
        power, grown = _normalize(power @ weight)
        power_exponent += grown
        term = local.mantissa[lag:] @ power
        term_exponent = local.exponent[lag:] + power_exponent
        early = slice(0, length - lag)  # the steps with a step `lag` steps after them
        largest = np.maximum(exponent[early], term_exponent)
        total[early] = _shift(total[early], exponent[early] - largest)
        total[early] += _shift(term, term_exponent - largest)
        exponent[early] = largest
    return Scaled(total, exponent)


def _normalize(matrix: Floats) -> tuple[Floats, int]:
    """Mantissa with its largest magnitude between 1/2 and 1, and its power of two."""
    _, exponent = np.frexp(np.abs(matrix).max())
    return np.ldexp(matrix, -int(exponent)), int(exponent)


def _shift(values: Floats, exponent: NDArray[np.int64]) -> Floats:
    """values[t] * 2.0 ** exponent[t]; ldexp takes exponents of 32 bits."""
    clipped = np.clip(exponent, -5000, 5000).astype(np.int32)
    shifted: Floats = np.ldexp(values, clipped[:, None, None])
    return shifted
