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
    """The reason, then losses with and without, and what became of the gradient."""
    plain, helped = trained(found, Way()), trained(found, Way(opts.weight))
    first = helped[0]
    return (
        "A network cannot learn from a step that its gradient does not reach; the penalty rewards weights "
        "through which the gradient keeps its size, and then the loss of the task can use it. "
        f"After {counted(opts.steps, 'training step')} the loss is "
        f"{between(learned.loss for learned in helped)} with the penalty and "
        f"{between(learned.loss for learned in plain)} without it ({opts.seeds_text}; 1 without memory). "
        f"At first {power_text(decades(first.before))} of the gradient comes back to the first step, after "
        f"training with the penalty {power_text(decades(first.after))} of it (seed {first.seed})."
    )


def sentences(opts: PenaltyOptions, found: Sequence[Learned]) -> tuple[str, ...]:
    """Sentences on larger steps, on the gradient after plain training, and on training that ended early."""
    said = [
        "All networks of a seed have the same initial values and batches, and take as many steps. A "
        f"gradient whose norm is above 1 is scaled down to 1. A loss of {LEARNED:g} or less counts as "
        "learned."
    ]
    if opts.optimizer == "sgd":
        said.append(
            "SGD with momentum takes the steps. Adam divides by the size of each gradient, and learns "
            "without the penalty for some seeds and step sizes: --optimizer adam measures it."
        )
    for way in opts.ways:
        some = trained(found, way)
        said.append(
            f"{way.name.capitalize()}: {having_learned(some)} of {len(some)} networks learn. After "
            f"training, {spread(decades(learned.after) for learned in some)} of the gradient comes back "
            "to the first step."
        )
    said += [
        f"Training ended early {learned.way.name}, seed {learned.seed}: {learned.training.stopped}."
        for learned in found
        if learned.training.stopped
    ]
    return tuple(said)
