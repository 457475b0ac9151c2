"""The slopes of linear networks in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import spread
from experiments.questions.linear_rnn.measure import (
    BREAKING,
    KIND_TEXT,
    LinearFlow,
    eigenvalue_line,
)

if TYPE_CHECKING:
    from experiments.questions.linear_rnn import LinearRnnOptions


def headline(
    opts: LinearRnnOptions, found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]
) -> str:
    """Sentences about the gradient's change at each radius, and about the exception."""
    growths: dict[float, list[float]] = {}
    for each in found:
        if each.kind == found[0].kind:
            growths.setdefault(each.radius, []).append(each.flow.growth)
    changes = ", ".join(
        f"{spread(logs)} at $|λ|_{{max}}$ = {radius:g}" for radius, logs in growths.items()
    )
    peak = breaking[0].by_lag
    return (
        "Every step back multiplies the gradient by the same matrix, so in the long run its largest "
        f"eigenvalue decides. Over {len(peak) - 1} steps back the gradient is multiplied by {changes} "
        f"({KIND_TEXT[found[0].kind]} $W_h$, {opts.seeds_text}). Over few steps it need not: with a "
        f"{BREAKING[0][2]} of eigenvalues {BREAKING[0][1]:g} (seed {opts.seed}), the gradient is at most "
        f"{power_text(float(peak.max()))} times as large, {int(np.argmax(peak))} steps back."
    )


def sentences(
    opts: LinearRnnOptions, found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]
) -> tuple[str, ...]:
    """Transients, oscillation, and how fast the exponents converge."""
    said = []
    if gaussian := [each for each in found if each.kind == "gaussian"]:
        far = max(gaussian, key=lambda each: each.slope_error)
        said.append(
            f"Gaussian $W_h$: the slope far back differs by up to {far.slope_error:.1e} decades per "
            f"step from $log_{{10}} |λ|_{{max}}$ ({far.name})."
        )
        transient = max(
            gaussian, key=lambda each: float(np.max(each.powers - eigenvalue_line(each)))
        )
        height = float(np.max(transient.powers - eigenvalue_line(transient)))
        said.append(
            f"The largest singular value of its $W_h^k$ is up to {10**height:.3g} times "
            f"$|λ|_{{max}}^k$ ({transient.name}): a gradient can grow by that factor before the "
            "eigenvalue decides."
        )
        quarter = max(1, opts.length // 4)
        early, late = (
            max(float(np.abs(e.exponents[k - 1] - e.magnitudes).max()) for e in gaussian)
            for k in (quarter, opts.length)
        )
        said.append(
            f"All {opts.hidden_size} finite-time exponents of the Gaussian $W_h$ are within {early:.2g} "
            f"decades per step of $log_{{10}} |λ_i|$ after {quarter} steps, and within {late:.2g} after "
            f"{opts.length}."
        )
    if undecided := [e for e in found if not math.isfinite(e.slope_bound) and e.kind == "gaussian"]:
        said.append(
            "The slope is not judged where other eigenvalues can still outweigh the largest: "
            f"{'; '.join(each.name for each in undecided)}. A larger --length decides."
        )
    at_one, turning = breaking[1].by_lag, breaking[2].by_lag
    said.append(
        f"A largest eigenvalue of 1 does not make the gradient stable (seed {opts.seed}): in a "
        f"{BREAKING[1][2]}, it grows {power_text(float(at_one[-1]))}-fold, as a power of k; under a "
        f"{BREAKING[2][2]}, it goes up and down for ever, between {power_text(float(turning.min()))} "
        f"and {power_text(float(turning.max()))} times its size."
    )
    return tuple(said)
