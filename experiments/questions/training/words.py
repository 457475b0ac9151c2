"""Sentences on what networks learned and how their gradient flow changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import between, counts
from experiments.questions.training.measure import Learned, inputs_used, least_loss
from experiments.regressors.flow import TARGET_TEXT

if TYPE_CHECKING:
    from experiments.questions.training import TrainingOptions


def needed(learned: Learned, length: int) -> int:
    """Numbers that a network must be shown to use for every claim about it to hold."""
    return length if learned.task.target == "last" else min(2, length)


def behind(opts: TrainingOptions, found: Sequence[Learned]) -> list[str]:
    """The networks that have not learned the task, and what may help them; nothing if all have."""
    names = [
        f"{learned.task.name}, {TARGET_TEXT[learned.task.target]}, seed {learned.task.seed}"
        for learned in found
        if inputs_used(learned.loss, opts.length, learned.task.target)
        < needed(learned, opts.length)
    ]
    if not names:
        return []
    return [
        f"Not learned yet by {len(names)} of {len(found)} networks ({'; '.join(names[:3])}"
        f"{'; …' if len(names) > 3 else ''}), so claims about all of them cannot hold. A long sequence "
        f"needs more --steps (now {opts.steps}); where the loss jumps up and down, or H is large, a "
        f"smaller --learning-rate (now {opts.learning_rate:g}) helps."
    ]


def proven(used: Sequence[int]) -> str:
    """Say what some networks' losses prove, from how many numbers each must use.

    >>> proven([0, 0])
    'no loss proves that a network uses any of the numbers'
    >>> proven([0, 2, 5])
    'the losses of 2 of 3 networks prove that they use at least 2 to 5 of the last numbers'
    >>> proven([3, 3])
    'the losses prove that networks use at least 3 of the last numbers'
    """
    some = [count for count in used if count]
    if not some:
        return "no loss proves that a network uses any of the numbers"
    if len(some) < len(used):
        return (
            f"the losses of {len(some)} of {len(used)} networks prove that they use at least "
            f"{counts(some)} of the last numbers"
        )
    return f"the losses prove that networks use at least {counts(some)} of the last numbers"


def headline(opts: TrainingOptions, found: Sequence[Learned]) -> str:
    """The losses, and how the reach of the gradient changed."""
    parts = []
    for target in dict.fromkeys(opts.target):
        losses = [learned.loss for learned in found if learned.task.target == target]
        constant = least_loss(0, opts.length, target)
        parts.append(
            f"{between(losses)}, where the best constant prediction has {constant:.2g} "
            f"({TARGET_TEXT[target]})"
        )
    watched = [learned for learned in found if len(learned.moments)]
    shown = min(watched, key=lambda learned: learned.reach(0))
    return (
        "A mean needs every number, so a network learns it only as far back as its gradient reaches. "
        "Where that was least before training "
        f"({shown.task.name}, {TARGET_TEXT[shown.task.target]}), $‖∂L/∂h_0‖ / ‖∂L/∂h_{{T−1}}‖$ went from "
        f"{power_text(shown.reach(0))} to {power_text(shown.reach(-1))}. After {opts.steps} training "
        f"steps the loss is {' and '.join(parts)}."
    )


def sentences(opts: TrainingOptions, found: Sequence[Learned]) -> tuple[str, ...]:
    """Cells and layers compared, memory proven, and training that ended early."""
    said = behind(opts, found)
    for target in dict.fromkeys(opts.target):
        chosen = [learned for learned in found if learned.task.target == target]
        best = min(chosen, key=lambda learned: learned.loss)
        used = [inputs_used(learned.loss, opts.length, target) for learned in chosen]
        said.append(
            f"{TARGET_TEXT[target].capitalize()}: the smallest mean squared error on fresh sequences is "
            f"{best.loss:.2g} ({best.task.name}); {proven(used)}."
        )
        watched = [learned for learned in chosen if len(learned.moments)]
        changes = "; ".join(
            f"from {power_text(learned.reach(0))} to {power_text(learned.reach(-1))} ({learned.task.name})"
            for learned in watched
            if np.isfinite([learned.reach(0), learned.reach(-1)]).all()
        )
        if changes:
            said.append(
                f"{TARGET_TEXT[target].capitalize()}: during training, $‖∂L/∂h_0‖ / ‖∂L/∂h_{{T−1}}‖$ of "
                f"the lowest layer went {changes}."
            )
    said += [
        f"Training ended early for {learned.task.name}, {TARGET_TEXT[learned.task.target]}: "
        f"{learned.training.stopped}."
        for learned in found
        if learned.training.stopped
    ]
    return tuple(said)
