"""The sum over paths in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.numbers import log10
from experiments.drawing.words import counts, spread
from experiments.questions.weight_paths.measure import Contributions
from experiments.questions.weight_paths.scalar import ScalarCase
from experiments.regressors.networks import NONLINEARITY_TEXT

if TYPE_CHECKING:
    from experiments.questions.weight_paths import WeightPathsOptions


def headline(case: ScalarCase, found: Sequence[Contributions]) -> str:
    """One sentence for both halves."""
    terms = case.sum_text
    error = max(each.sum_error for each in found)
    return (
        f"A weight used {len(case.paths)} times has {len(case.paths)} paths to the loss, and its "
        f"gradient is their sum: {terms} = {case.gradient:.4g}; in the networks, the contributions "
        f"of the {len(found[0].norm)} steps add up to ∂L/∂W_h with an error of at most {error:.0e}."
    )


def sentences(opts: WeightPathsOptions, found: Sequence[Contributions]) -> tuple[str, ...]:
    """Which steps matter, and what does not add up."""
    said = []
    for nonlinearity in dict.fromkeys(each.nonlinearity for each in found):
        drawn = [each for each in found if each.nonlinearity == nonlinearity]
        ratios = spread(float(np.nanmin(log10(e.norm[1:])) - log10(e.norm.max())) for e in drawn)
        said.append(
            f"{NONLINEARITY_TEXT[nonlinearity]}, {opts.seeds_text}: the last "
            f"{counts(e.reach for e in drawn)} of {opts.length} steps hold the gradient to 10%; the "
            f"smallest ‖G_t‖ after step 1 is {ratios} of the largest."
        )
    worst = max(found, key=lambda each: each.cancelling)
    said.append(
        f"Norms do not add: Σ_t ‖G_t‖ is up to {worst.cancelling:.3g} times ‖∂L/∂W_h‖ "
        f"({NONLINEARITY_TEXT[worst.nonlinearity]}, seed {worst.seed}), so shares are signed "
        "projections ⟨G_t, G⟩/‖G‖², which sum to 1."
    )
    said.append("G_1 is exactly zero: W_h multiplies h_0 = 0 there.")
    return tuple(said)
