"""Sentences on the measurements. Every number and every verb in them is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from experiments.drawing.tables import power_text
from experiments.questions.gradient_flow.measure import Study
from experiments.regressors.flow import TARGET_TEXT
from experiments.regressors.measurement import Measurement


def headline(measurements: Sequence[Measurement]) -> str:
    """Smallest and largest share of the gradient that reaches the first step, before training."""
    before = [m for m in measurements if m.moment == "before"]
    target = before[0].network.target
    shown = [m for m in before if m.network.target == target]
    start = (
        "Every step back multiplies the gradient by the Jacobian of that step, so over many steps it "
        f"shrinks or grows like a power. With the {TARGET_TEXT[target]}, on its way from step "
        f"{len(shown[0].flow.gradient) - 1} back to step 0, the gradient "
    )
    finite = [m for m in shown if math.isfinite(m.flow.growth)]
    if not finite:
        return f"{start}{shown[0].verdict} ({_name(shown[0])})."
    least = min(finite, key=lambda m: m.flow.growth)
    most = max(finite, key=lambda m: m.flow.growth)
    if least is most:
        return f"{start}{_change(least)} ({_name(least)})."
    return f"{start}{_between(least, most)}."


def sentences(studies: Sequence[Study]) -> tuple[str, ...]:
    """Sentences on the target, on training, and on everything that went wrong."""
    measurements = [m for study in studies for m in study.measurements]
    return (
        *_targets(measurements),
        *_changes(measurements),
        *_losses(studies),
        *_troubles(measurements),
    )


def _name(measurement: Measurement) -> str:
    network = measurement.network
    layer = f", layer {measurement.layer}" if network.layers > 1 else ""
    return f"{measurement.kind}, spectral radius {network.radius:g}{layer}"


def _change(measurement: Measurement) -> str:
    growth = measurement.flow.growth
    if growth > 0.005:
        return f"grows {power_text(growth)}-fold"
    if growth < -0.005:
        return f"shrinks to {power_text(growth)} of its size"
    return "is stable"


def _between(least: Measurement, most: Measurement) -> str:
    """Say the range of changes; its ends share a verb where both change the same way."""
    low, high = power_text(least.flow.growth), power_text(most.flow.growth)
    ends = {_change(m).split()[0] for m in (least, most)}
    if ends == {"grows"}:
        return f"grows between {low}-fold ({_name(least)}) and {high}-fold ({_name(most)})"
    if ends == {"shrinks"}:
        return f"shrinks to between {low} ({_name(least)}) and {high} ({_name(most)}) of its size"
    if ends == {"is"}:
        return "is stable in every network"
    return f"{_change(least)} ({_name(least)}) or {_change(most)} ({_name(most)})"


def _targets(measurements: Sequence[Measurement]) -> list[str]:
    """Compare the network whose gradient vanishes most with itself under a loss at every step."""
    before = [m for m in measurements if m.moment == "before" and math.isfinite(m.flow.growth)]
    last = [m for m in before if m.network.target == "last" and m.verdict == "vanishes"]
    if not last:
        return []
    least = min(last, key=lambda m: m.flow.growth)
    other = replace(least.network, target="all")
    same = [m for m in before if (m.network, m.layer, m.kind) == (other, least.layer, least.kind)]
    return [
        "Each state is close to a loss where every step has one: with a loss at every step the "
        f"gradient {_change(m)} where with the last one alone it {_change(least)} ({_name(m)})."
        for m in same
    ]


def _changes(measurements: Sequence[Measurement]) -> list[str]:
    """The verdicts that training changed, in a sentence."""
    old = {(m.network, m.layer, m.kind): m.verdict for m in measurements if m.moment == "before"}
    after = [m for m in measurements if m.moment == "after"]
    if not after:
        return []
    changed: dict[str, list[str]] = {}
    for m in after:
        if m.verdict != (verdict := old[m.network, m.layer, m.kind]):
            name = f"{_name(m)}, {TARGET_TEXT[m.network.target]}"
            changed.setdefault(f"{verdict} → {m.verdict}", []).append(name)
    count = f"Training changed {sum(map(len, changed.values()))} of {len(after)} verdicts"
    listed = [f" {change.capitalize()} in {'; '.join(names)}." for change, names in changed.items()]
    return [f"{count}.{''.join(listed)}"]


def _losses(studies: Sequence[Study]) -> list[str]:
    """The network that learned its task best, and the trainings that ended early, in a sentence."""
    said = []
    ended = [
        (study, study.measurements[-1].loss)
        for study in studies
        if study.training.losses and math.isfinite(study.measurements[-1].loss)
    ]
    if ended:
        best, loss = min(ended, key=lambda pair: pair[1])
        start = best.measurements[0].loss
        said.append(
            f"The smallest mean squared error after training is {loss:.3g}; before training it was "
            f"{start:.3g} ({best.network.name})."
        )
    said += [
        f"Training ended early for {study.network.name}: {study.training.stopped}. What is shown "
        "as after training is the network as it was then."
        for study in studies
        if study.training.stopped
    ]
    return said


def _troubles(measurements: Sequence[Measurement]) -> list[str]:
    """Gaps in the curves, said in words."""
    zero, broken = [], []
    for m in measurements:
        where = f"{_name(m)}, {TARGET_TEXT[m.network.target]}, {m.moment} training"
        if (gap := _steps(np.isneginf(m.flow.gradient))) is not None:
            zero.append(f"{where} ({gap})")
        if (gap := _steps(np.isnan(m.flow.gradient) | np.isposinf(m.flow.gradient))) is not None:
            broken.append(f"{where} ({gap})")
    said = []
    if zero:
        said.append(f"The gradient is exactly zero: {'; '.join(zero)}.")
    if broken:
        said.append(f"The gradient is not a finite number: {'; '.join(broken)}.")
    unchecked = sum(
        int(np.isnan(m.flow.closed_form_error).sum())
        for m in measurements
        if m.flow.closed_form_error is not None
    )
    if unchecked:
        said.append(
            f"At {unchecked} steps the gradient of a linear network and its closed form are both "
            "exactly zero."
        )
    return said


def _steps(affected: NDArray[np.bool_]) -> str | None:
    """The steps in words; None where there are none."""
    steps = np.flatnonzero(affected)
    if not len(steps):
        return None
    if len(steps) == 1:
        return f"step {steps[0]}"
    return f"{len(steps)} of the steps {steps[0]} to {steps[-1]}"
