"""The playground's sentences about one loss: the course of its gradient, and the reason."""

from __future__ import annotations

import math

import numpy as np

from ..charts.magnitudes import number
from ..microscope.wording import amount, factor, pace
from .measuring import Measured

WHY = {
    "LSTM": "the cell state is multiplied by the forget gates alone, never by a matrix",
    "GRU": "the update gates z alone multiply hₜ₋₁ in hₜ = z hₜ₋₁ + (1 − z) n, never a matrix",
    "ResNet": "the skip passes the gradient back as it is, never through a matrix",
}
"""Why a step back keeps so much on the straight path, by cell."""


def sentences_about(found: Measured, loss: str, why: str = "", unit: str = "step") -> list[str]:
    """Say what becomes of the gradient, why, and what the last step would make of it in the long run.

    Parameters
    ----------
    found : Measured
    loss : {"last", "all"}
        Whether it reads the last state or every state.
    why : str
        Why a step back keeps so much on the straight path, if this is known; see :data:`WHY`.
    unit : {"step", "block"}
        The unit of time.
    """
    course = _course(found, unit) if loss == "last" else _level(found)
    return [course, *_cause(found, why, unit), *_last(found, unit)]


def _ends(found: Measured) -> tuple[int, int, float, float]:
    """The first time, the last at which a gradient arrives, and log10 of its norm at both."""
    logs = found.gradients[found.state]
    there = np.flatnonzero(logs > -np.inf)
    last = int(there[-1]) if len(there) else 0
    return int(found.time[0]), int(found.time[last]), float(logs[0]), float(logs[last])


def _course(found: Measured, unit: str) -> str:
    first, last, low, high = _ends(found)
    grad = f"∂L/∂{found.state}"
    if not math.isfinite(low) or not math.isfinite(high):
        return _stopped(found)
    if first == last:
        return f"The gradient {grad} reaches no step but t = {first}."
    went, part = pace(low - high, last - first, unit), amount(low - high)
    arrives = f"it arrives {part} as large" if part.endswith("times") else f"{part} of it arrives"
    return f"Going back from t = {last} to t = {first}, the gradient {grad} {went}: {arrives}."


def _level(found: Measured) -> str:
    first, last, low, high = _ends(found)
    if not math.isfinite(low) or not math.isfinite(high):
        return _stopped(found)
    part = amount(low - high)
    than = "that" if part.endswith("times") else "of that"
    return (
        f"The loss reads every state, so every state gets a gradient of its own. At t = {first}, "
        f"∂L/∂{found.state} is {part} {than} at t = {last}."
    )


def _stopped(found: Measured) -> str:
    """The sentence if nothing, or no number, arrives at the first step."""
    logs = found.gradients[found.state]
    first, since = found.time[0], found.time[np.flatnonzero(~np.isfinite(logs))[-1]]
    nothing = logs[0] < 0
    what = "exactly 0" if nothing else number(float(logs[0]))
    arrives = "No gradient arrives" if nothing else "No number arrives"
    return f"{arrives} at t = {first}: from t = {since} back, ∂L/∂{found.state} is {what}."


def _cause(found: Measured, reason: str, unit: str) -> list[str]:
    if math.isfinite(found.saturation + found.weight):
        whole, bent = factor(found.saturation + found.weight), factor(found.saturation)
        if not found.saturation:
            why = "Nothing saturates, so only the weight matrix changes the gradient: on average"
            return [f"{why} one {unit} back multiplies it by {whole}."]
        why = "The nonlinearity and the weight matrix each multiply the gradient: on average"
        factors = (
            f"{whole}, which is {bent} (nonlinearity) times {factor(found.weight)} (weight matrix)"
        )
        return [f"{why} one {unit} back multiplies it by {factors}."]
    if not math.isfinite(found.kept):
        return []
    grad = f"∂L/∂{found.state}"
    because = f"{reason[0].upper()}{reason[1:]}: on" if reason else "On"
    around = next((name for name in found.shares if name.startswith("via ")), None)
    if around is None:
        return [
            f"{because} average one {unit} back keeps {found.kept:.0%} of {grad} this way. The part "
            "that comes back through the matrices is added."
        ]
    straight, turned, local = (
        float(np.nanmean(found.shares[name][:-1])) for name in ("direct", around, "local")
    )
    ways = f"{straight:.0%} directly and {turned:.0%} {around}"
    if abs(local) >= 0.005:  # a loss that reads every state
        ways = f"{straight:.0%} directly, {turned:.0%} {around} and {local:.0%} from the loss at the {unit}"
    against = (
        "; a negative share works against the other" if min(straight, turned, local) < 0 else ""
    )
    return [
        f"{because} average one {unit} back keeps {found.kept:.0%} of {grad} on the direct path. "
        f"The gradient comes {ways}{against}."
    ]


def _last(found: Measured, unit: str) -> list[str]:
    if not found.radius > 0:
        return []
    return [
        f"If all {unit}s were like the last one, each would in the long run multiply the gradient by "
        f"{factor(math.log10(found.radius))}, the |λ|max of its Jacobian."
    ]
