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
        "A change of a shared weight acts at every step that uses it, so its gradient is the sum over "
        f"these uses. A weight that is used {len(case.paths)} times has {len(case.paths)} paths to the "
        f"loss: {terms} = {case.gradient:.4g}. In the networks, the contributions of the "
        f"{len(found[0].norm)} steps add up to $∂L/∂W_h$ with a relative error of at most {error:.0e}."
    )


def sentences(opts: WeightPathsOptions, found: Sequence[Contributions]) -> tuple[str, ...]:
    """Sentences about the steps that matter, and about what does not add up."""
    said = []
    for nonlinearity in dict.fromkeys(each.nonlinearity for each in found):
        drawn = [each for each in found if each.nonlinearity == nonlinearity]
        ratios = spread(float(np.nanmin(log10(e.norm[1:])) - log10(e.norm.max())) for e in drawn)
        said.append(
            f"{NONLINEARITY_TEXT[nonlinearity]}, {opts.seeds_text}: the last "
            f"{counts(e.reach for e in drawn)} of {opts.length} steps make up 90% of the gradient. The "
            f"smallest $‖G_t‖$ after step 0 is {ratios} times the largest."
        )
    worst = max(found, key=lambda each: each.cancelling)
    said.append(
        "Contributions can point against each other, so their norms do not add up: $Σ_t ‖G_t‖$ is up to "
        f"{worst.cancelling:.3g} times $‖∂L/∂W_h‖$ ({NONLINEARITY_TEXT[worst.nonlinearity]}, seed "
        f"{worst.seed}). Signed shares $⟨G_t, G⟩/‖G‖^2$ do; they sum to 1."
    )
    said.append(
        "The contribution of step 0 is exactly zero: $W_h$ multiplies the initial state, 0."
    )
    return tuple(said)
