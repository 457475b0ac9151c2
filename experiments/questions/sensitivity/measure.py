"""One linear unit h_t = λ h_{t−1} + s x_t, and how its last state depends on what sets λ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, to_numpy

if TYPE_CHECKING:
    from experiments.questions.sensitivity import SensitivityOptions

POINTS = 100
"""Points of a curve: a unit that remembers for long has too many steps to draw all."""


@dataclass(frozen=True)
class Form:
    """A way to write the unit with a parameter θ.

    Parameters
    ----------
    name : str
    start : callable
        θ for a λ.
    weights : callable
        θ, a Tensor of one element, to the Tensors λ and s.
    by_hand : callable
        s, dλ/dθ and ds/dθ at a λ, without the autodiff engine.
    power : float
        The standard deviation of dh_{T−1}/dθ grows as this power of the memory 1/(1 − λ), for white
        inputs of variance 1.
    factor : float
        What that power is multiplied by, as λ approaches 1.
    why : str
        Where the power comes from, as a sentence without its full stop.
    """

    name: str
    start: Callable[[float], float]
    weights: Callable[[tg.Tensor], tuple[tg.Tensor, tg.Tensor]]
    by_hand: Callable[[float], tuple[float, float, float]]
    power: float
    factor: float
    why: str


def _scaled(decay: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
    """λ, and the s that gives states variance 1."""
    return decay, tg.sqrt(1.0 - decay * decay)


def _scaled_by_hand(decay: float) -> tuple[float, float, float]:
    scale = math.sqrt(1.0 - decay**2)
    return scale, 1.0, -decay / scale


def _exponential_by_hand(decay: float) -> tuple[float, float, float]:
    scale, _, by_decay = _scaled_by_hand(decay)
    slope = decay * math.log(decay)  # of exp(−exp ν)
    return scale, slope, slope * by_decay


FORMS = (
    Form(
        "λ",
        lambda decay: decay,
        lambda theta: (theta, tg.ones_like(theta)),
        lambda decay: (1.0, 1.0, 0.0),
        1.5,
        0.5,
        "as many uses count as the memory has steps, and the state that each reads grows as the root of "
        "the memory",
    ),
    Form(
        "λ, scaled inputs",
        lambda decay: decay,
        _scaled,
        _scaled_by_hand,
        1.0,
        0.5,
        "states keep the size 1 however long the memory, and only the number of uses grows",
    ),
    Form(
        "ν, scaled inputs",
        lambda decay: math.log(-math.log(decay)),
        lambda theta: _scaled(tg.exp(-tg.exp(theta))),
        _exponential_by_hand,
        0.0,
        0.5,
        "the slope dλ/dν = λ ln λ shrinks as the number of uses grows",
    ),
)
"""λ as it is; with inputs × √(1 − λ²), which keeps the variance of states at 1; and with λ = exp(−exp ν)
too, of which the parameter is ν. They are the three steps of Zucchet and Orvieto, "Recurrent neural
networks: vanishing and exploding gradients are not the end of the story", 2024.
For white inputs the standard deviations of dh_{T−1}/dθ are √((1 + λ²) / (1 − λ²)³), 1 / (1 − λ²) and
λ |ln λ| / (1 − λ²)."""


@dataclass(frozen=True)
class Unit:
    """A unit run for several times its memory on a batch of white inputs.

    All sizes are root mean squares over the batch.

    Parameters
    ----------
    form : Form
    decay : float
        λ.
    length : int
        Time steps T.
    state, sensitivity : float
        Sizes of h_{T−1} and of dh_{T−1}/dθ.
    expected : float
        The standard deviation of dh_{T−1}/dθ over white inputs, by hand for T steps.
    error : float
        ‖dh_{T−1}/dθ − by hand‖ / ‖by hand‖ over the batch.
    gradient : array (T,)
        ∂h_{T−1}/∂h_t, which is the same for every sequence.
    lags : array of int (n,)
        Steps back from the last one that the two curves are kept at, from 0.
    uses, summed : array (n,)
        Size of what the use of λ at step t contributes to dh_{T−1}/dλ, and of the sum of what all steps
        from t on contribute.
    """

    form: Form
    decay: float
    length: int
    state: float
    sensitivity: float
    expected: float
    error: float
    gradient: Floats
    lags: np.ndarray
    uses: Floats
    summed: Floats

    @property
    def memory(self) -> float:
        """Number of steps that the unit remembers for: 1 / (1 − λ)."""
        return memory_of(self.decay)


def memory_of(decay: float) -> float:
    """Return the number of steps 1 / (1 − λ) in which about 1/e of a state is left.

    >>> round(memory_of(0.9), 9)
    10.0
    """
    return 1.0 / (1.0 - decay)


def steps_for(memory: float, span: float) -> int:
    """Return T, which is ``span`` times the memory and at least 3."""
    return max(3, math.ceil(span * memory - 1e-9))


def rms(values: Floats) -> Floats:
    """Root mean square along the last axis."""
    found: Floats = np.sqrt(np.mean(np.square(values), axis=-1))
    return found


def see_unit(form: Form, decay: float, inputs: Floats) -> Unit:
    """Measure one unit on inputs ``(T, B)``.

    The parts of dh_{T−1}/dθ are what each step's uses of λ and of s contribute, times dλ/dθ and ds/dθ.
    """
    theta = tg.tensor(form.start(decay), dtype="float64", requires_grad=True)
    decay_of, input_weight = form.weights(theta)
    rnn: Any = tg.nn.RNN(1, 1, nonlinearity="identity", bias=False, rng=0, dtype="float64")
    rnn.weight_hh_l0.assign(decay_of.detach().reshape((1, 1)))
    rnn.weight_ih_l0.assign(input_weight.detach().reshape((1, 1)))
    output, _ = rnn(tg.tensor(inputs[..., None]))
    loss = output[-1].sum()
    by_decay = _parts(loss, rnn.weight_hh_l0)
    by_input = _parts(loss, rnn.weight_ih_l0)
    slopes = [_slope(weight, theta) for weight in (decay_of, input_weight)]
    sensitivity = slopes[0] * by_decay.sum(axis=0) + slopes[1] * by_input.sum(axis=0)
    state = to_numpy(output)[-1, :, 0]
    multiplied_by = coefficients(form, decay, len(inputs))
    exact = multiplied_by @ inputs[::-1]
    lags = np.unique(np.linspace(0, len(inputs) - 1, POINTS).astype(int))
    backwards = by_decay[::-1]
    gradient = to_numpy(tg.inspect.gradient_flow(loss)["rnn.l0"].h.grad)[:, 0, 0]
    return Unit(
        form=form,
        decay=decay,
        length=len(inputs),
        state=float(rms(state)),
        sensitivity=float(rms(sensitivity)),
        expected=float(np.linalg.norm(multiplied_by)),
        error=float(np.linalg.norm(sensitivity - exact) / np.linalg.norm(exact)),
        gradient=gradient,
        lags=lags,
        uses=rms(backwards[lags]),
        summed=rms(np.cumsum(backwards, axis=0)[lags]),
    )


def _parts(loss: tg.Tensor, weight: tg.Tensor) -> Floats:
    """Contribution of each step's use of a one-element weight in each sequence, ``(T, B)``."""
    parts = to_numpy(tg.inspect.weight_grad_by_time(loss, weight, per_sample=True))
    found: Floats = parts[..., 0, 0]
    return found


def _slope(weight: tg.Tensor, theta: tg.Tensor) -> float:
    """Derivative of λ or s by θ; 0 where it does not depend on it."""
    if not weight.requires_grad:
        return 0.0
    (slope,) = tg.grad(weight, [theta], retain_graph=True)
    return float(to_numpy(slope))


def coefficients(form: Form, decay: float, length: int) -> Floats:
    """Return what dh_{T−1}/dθ multiplies the input of k steps back by, ``(T,)`` from k = 0.

    h_{T−1} = Σ_k s λ^k x_{T−1−k}, so this is s k λ^{k−1} dλ/dθ + λ^k ds/dθ.
    """
    scale, by_decay, by_input = form.by_hand(decay)
    k = np.arange(float(length))
    found: Floats = scale * k * decay ** (k - 1.0) * by_decay + decay**k * by_input
    return found


@dataclass(frozen=True)
class Power:
    """The growth of sizes with the memory.

    Parameters
    ----------
    fitted : float
        Slope of the logarithm of the size of dh_{T−1}/dθ against that of the memory, by least squares.
    bound : float
        How far it can be from the form's power.
    """

    fitted: float
    bound: float


def fitted_power(units: list[Unit], batch: int) -> Power:
    """Fit the power of the memory that the sensitivity of one form grows with.

    Each logarithm is off factor · memory^power by what the standard deviation of T steps is, which is
    known, and by the sampling of B sequences: four times 1 / √(2B), the relative standard error of a
    standard deviation of normal numbers. Values that are at most d_i off a line have a slope at most
    Σ |x_i − x̄| d_i / Σ (x_i − x̄)² off it.
    """
    form = units[0].form
    memory = np.log([unit.memory for unit in units])
    fitted = float(np.polyfit(memory, np.log([unit.sensitivity for unit in units]), 1)[0])
    line = form.power * memory + math.log(form.factor)
    off = np.abs(np.log([unit.expected for unit in units]) - line) + 4.0 / math.sqrt(2.0 * batch)
    apart = memory - memory.mean()
    return Power(fitted, float(np.sum(np.abs(apart) * off) / np.sum(apart**2)))


def white(opts: SensitivityOptions, decay: float) -> Floats:
    """Draw inputs ``(T, B)`` from the standard normal distribution, for several times the memory of λ."""
    rng = np.random.default_rng((opts.seed, 1))
    return rng.standard_normal((steps_for(memory_of(decay), opts.span), opts.batch))
