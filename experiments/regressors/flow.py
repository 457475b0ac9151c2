"""Measuring how a gradient flows through time, on a model as it is at that moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, in_decades, to_numpy
from experiments.regressors.closed_form import Scaled, linear_flow
from models import RecurrentRegressor

Target = Literal["last", "all"]
TARGET_TEXT = {"last": "loss at the last step", "all": "loss at every step"}

FACTOR_DECADES = 2.0
"""A gradient that changes by more decades on its way through the sequence vanishes or explodes."""

FACTOR = f"{10**FACTOR_DECADES:.0f}"
"""The factor as text."""

CONVENTION = f"By convention a factor of {FACTOR} counts as vanishing or exploding."


@dataclass(frozen=True)
class LayerFlow:
    """One state of a layer at one moment; all norms are Frobenius norms over batch and hidden units.

    Parameters
    ----------
    spectral_radius : float
        Largest eigenvalue magnitude of the layer's W_h; NaN for an LSTM, which has four.
    gradient : array (T,)
        log10 ‖∂L/∂h_t‖; -inf where the gradient is exactly zero, NaN where it is not a number.
    state : array (T,)
        ‖h_t‖.
    closed_form : array (T,) or None
        log10 of the closed form's norm, for a network without nonlinearity.
    closed_form_error : array (T,) or None
        Relative error of the measurement; NaN where both are exactly zero.
    layer : int
        Counted from 1, the lowest.
    name : str
        The state's: ``"h"``, or ``"c"`` of an LSTM, whose ∂L/∂c_t and c_t the norms then are of.
    """

    spectral_radius: float
    gradient: Floats
    state: Floats
    closed_form: Floats | None = None
    closed_form_error: Floats | None = None
    layer: int = 1
    name: str = "h"

    @property
    def predicted_slope(self) -> float:
        """log10 |λ|max: decades per step that a linear network's gradient grows, going back."""
        with np.errstate(divide="ignore"):
            return float(np.log10(self.spectral_radius))

    @property
    def measured_slope(self) -> float:
        """Decades per step going back, fitted to the last third of the lags; NaN if unmeasured.

        The largest eigenvalue rules long lags only, so the fit takes the earliest third of the
        steps, or all of them where that is fewer than three.
        """
        third = len(self.gradient) // 3
        early = self.gradient[: third if third >= 3 else None]
        steps = np.flatnonzero(np.isfinite(early))
        return -float(np.polyfit(steps, early[steps], 1)[0]) if len(steps) >= 2 else np.nan

    @property
    def reference(self) -> Floats:
        """log10 of a gradient that goes back from the last step with ``predicted_slope``."""
        return self.gradient[-1] + self.predicted_slope * np.arange(len(self.gradient))[::-1]

    @property
    def growth(self) -> float:
        """log10(‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖): decades gained on the whole way back."""
        with np.errstate(invalid="ignore"):
            return float(self.gradient[0] - self.gradient[-1])


def loss_of(
    model: RecurrentRegressor, batch: tuple[NDArray[Any], NDArray[Any]], target: Target
) -> tuple[tg.Tensor, tg.Tensor]:
    """Mean squared error on a batch, over all steps or of the last one alone, and the predictions."""
    inputs, labels = (tg.tensor(each) for each in batch)
    predictions, _ = model(inputs)
    if target == "last":
        return tg.nn.mse_loss(predictions[-1], labels[-1]), predictions
    return tg.nn.mse_loss(predictions, labels), predictions


def measure_flow(
    model: RecurrentRegressor,
    nonlinearity: str,
    inputs: NDArray[Any],
    labels: NDArray[Any],
    target: Target,
) -> tuple[list[LayerFlow], float]:
    """Measure every layer of a model on a batch.

    Parameters
    ----------
    model : RecurrentRegressor
        Left as it is: no gradient is written to its parameters.
    nonlinearity : str
        The model's; for ``"identity"`` the closed form is computed beside the measurement.
    inputs, labels : arrays (T, B, I), (T, B, O)
        The batch.
    target : {"last", "all"}
        Which steps enter the loss.

    Returns
    -------
    flows : list of LayerFlow
        The lowest layer first; of an LSTM's layer h, then c.
    loss : float
    """
    loss, predictions = loss_of(model, (inputs, labels), target)
    flow = tg.inspect.gradient_flow(loss)
    parameters = {name: to_numpy(value) for name, value in model.state_dict().items()}
    exact: list[Scaled] | None = None
    # A loss that overflowed has no gradient to compare with.
    if nonlinearity == "identity" and np.isfinite(loss.item()):
        output_grad = mse_gradient(to_numpy(predictions), labels, target)
        exact = linear_flow(parameters, output_grad, model.num_layers)
    flows = []
    for layer in range(model.num_layers):
        for name, states in flow[f"rnn.l{layer}"].items():
            log_norm = to_numpy(states.log_grad_norm).astype(np.float64)
            flows.append(
                LayerFlow(
                    spectral_radius=_radius(parameters[f"rnn.weight_hh_l{layer}"]),
                    gradient=in_decades(log_norm),
                    state=to_numpy(states.value_norm).astype(np.float64),
                    closed_form=in_decades(exact[layer].norm_log()) if exact else None,
                    closed_form_error=compare(exact[layer], to_numpy(states.grad), log_norm)
                    if exact
                    else None,
                    layer=layer + 1,
                    name=name,
                )
            )
    return flows, float(loss.item())


def _radius(weight: NDArray[Any]) -> float:
    return tg.nn.init.spectral_radius(weight) if weight.shape[0] == weight.shape[1] else np.nan


def compare(exact: Scaled, measured: NDArray[Any], log_norm: Floats) -> Floats:
    """Relative error of each step's measured gradient.

    Where the dtype holds the gradient to all its digits, this is the norm of the difference of the
    arrays; where it underflows or overflows, the difference of the norms, whose logarithms the
    measurement gives at any size, as far as these logarithms resolve it.
    """
    limits = np.finfo(measured.dtype)
    exact_log_norm = exact.norm_log()
    held = exact_log_norm > np.log(float(limits.tiny) / float(limits.eps))
    held &= exact_log_norm < np.log(float(limits.max))
    with np.errstate(invalid="ignore"):
        unresolved = 2 * np.spacing(np.abs(exact_log_norm))
        beyond = np.maximum(np.abs(np.expm1(log_norm - exact_log_norm)) - unresolved, 0.0)
    error: Floats = np.where(held, exact.relative_error(measured), beyond)
    return error


def mse_gradient(predictions: NDArray[Any], labels: NDArray[Any], target: Target) -> Floats:
    """∂L/∂ŷ of the mean squared error, written down: 2(ŷ − y)/n at the steps that count."""
    gradient: Floats = 2.0 * (predictions.astype(np.float64) - labels)
    if target == "last":
        gradient[:-1] = 0.0
    gradient /= gradient[-1].size if target == "last" else gradient.size
    return gradient
