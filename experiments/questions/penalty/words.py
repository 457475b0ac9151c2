"""Sentences on training with the penalty and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.drawing.tables import power_text
from experiments.drawing.words import between, counted, spread
from experiments.questions.penalty.measure import (
    LEARNED,
    Learned,
    Way,
    decades,
    having_learned,
    trained,
)

if TYPE_CHECKING:
    from experiments.questions.penalty import PenaltyOptions


def headline(opts: PenaltyOptions, found: Sequence[Learned]) -> str:
    """Losses with and without, and what became of the gradient."""
    plain, helped = trained(found, Way()), trained(found, Way(opts.weight))
    first = helped[0]
    return (
        f"After {counted(opts.steps, 'training step')} the loss is "
        f"{between(learned.loss for learned in helped)} with the penalty and "
        f"{between(learned.loss for learned in plain)} without it ({opts.seeds_text}; 1 without memory). "
        f"‖∂L/∂h_1‖ is {power_text(decades(first.before))} ‖∂L/∂h_T‖ before training, and "
        f"{power_text(decades(first.after))} of it after training with the penalty (seed {first.seed})."
    )


def sentences(opts: PenaltyOptions, found: Sequence[Learned]) -> tuple[str, ...]:
    """Sentences on larger steps, on the gradient after plain training, and on training that ended early."""
    said = [
        "All networks are trained alike: the same initial values, batches and steps, and gradients of a "
        "norm above 1 scaled down to it."
    ]
    if opts.optimizer == "sgd":
        said.append(
            "The steps are those of SGD with momentum. Adam, which divides by the size of each gradient, "
            "learns without the penalty for some seeds and step sizes: --optimizer adam measures it."
        )
    for way in opts.ways:
        some = trained(found, way)
        said.append(
            f"{way.name.capitalize()}: {having_learned(some)} of {len(some)} networks learn (a loss of at "
            f"most {LEARNED:g}); ‖∂L/∂h_1‖ / ‖∂L/∂h_T‖ is "
            f"{spread(decades(learned.after) for learned in some)} after training."
        )
    said += [
        f"Training ended early {learned.way.name}, seed {learned.seed}: {learned.training.stopped}."
        for learned in found
        if learned.training.stopped
    ]
    return tuple(said)
