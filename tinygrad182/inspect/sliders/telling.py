"""What the playground says of one loss, in sentences whose numbers are computed."""

from __future__ import annotations

import math

import numpy as np

from ..charts.magnitudes import number
from ..microscope.wording import amount, factor, pace
from .measuring import Measured

WHY = {
    "LSTM": "the mean of the forget gates",
    "GRU": "the mean of the update gates z, for hₜ = z hₜ₋₁ + (1 − z) n",
    "ResNet": "the skip hands it on as it is",
}
"""Why a step back keeps as much as it does on the straight path, by the cell."""


def told(found: Measured, loss: str, why: str = "", unit: str = "step") -> list[str]:
    """Say what becomes of the gradient, why, and what the last step alone would make of it.

    Parameters
    ----------
    found : Measured
    loss : {"last", "all"}
        Whether it reads the last state or every state.
    why : str
        Why a step back keeps as much as it does on the straight path, if that is known.
    unit : {"step", "block"}
        What time counts.
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
        f"Every state adds to the loss, so no state is without a gradient of its own. At t = {first}, "
        f"∂L/∂{found.state} is {part} {than} at t = {last}."
    )


def _stopped(found: Measured) -> str:
    """What is said where nothing, or no number, arrives at the first step."""
    logs = found.gradients[found.state]
    first, since = found.time[0], found.time[np.flatnonzero(~np.isfinite(logs))[-1]]
    nothing = logs[0] < 0
    what = "exactly 0" if nothing else number(float(logs[0]))
    arrives = "No gradient arrives" if nothing else "No number arrives"
    return f"{arrives} at t = {first}: from t = {since} back, ∂L/∂{found.state} is {what}."


def _cause(found: Measured, reason: str, unit: str) -> list[str]:
    if math.isfinite(found.saturation + found.weight):
        whole, bent = factor(found.saturation + found.weight), factor(found.saturation)
        parts = f"by {bent} in the nonlinearity and by {factor(found.weight)} in the weight matrix"
        linear = "all of it in the weight matrix, for nothing saturates"
        why = parts if found.saturation else linear
        return [f"On average one {unit} back multiplies it by {whole}: {why}."]
    if not math.isfinite(found.kept):
        return []
    grad = f"∂L/∂{found.state}"
    around = next((name for name in found.shares if name.startswith("via ")), None)
    if around is None:
        return [
            f"On average one {unit} back keeps {found.kept:.0%} of {grad} without passing a weight matrix "
            f"({reason}). What comes back through the matrices is added."
        ]
    straight, turned, local = (
        float(np.nanmean(found.shares[name][:-1])) for name in ("direct", around, "local")
    )
    ways = f"{straight:.0%} directly and {turned:.0%} {around}"
    if abs(local) >= 0.005:  # a loss that reads every state
        ways = f"{straight:.0%} directly, {turned:.0%} {around} and {local:.0%} from the loss at the {unit}"
    by = f" ({reason})" if reason else ""
    against = (
        "; a negative share works against the other" if min(straight, turned, local) < 0 else ""
    )
    return [
        f"On average one {unit} back keeps {found.kept:.0%} of {grad} on the direct path{by}. "
        f"The gradient comes {ways}{against}."
    ]


def _last(found: Measured, unit: str) -> list[str]:
    if not found.radius > 0:
        return []
    return [
        f"|λ|max of the last {unit}'s Jacobian is {factor(math.log10(found.radius))}: the factor that each "
        f"{unit} back would have in the long run if all were like it."
    ]
