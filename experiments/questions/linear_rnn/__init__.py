"""Linear RNN (Q1a): when gradients explode or vanish without a nonlinearity.

The measured gradient is the closed form g W_h^k, k steps back. Its slope is set by the largest
eigenvalue of W_h at long lags, and only there: beside it stand the largest singular value of W_h^k,
which bounds it at every lag, and matrices whose eigenvalues promise what short lags do not keep.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING, worst
from experiments.questions.linear_rnn import figures, words
from experiments.questions.linear_rnn.measure import BREAKING, LinearFlow, linear_flow
from experiments.questions.linear_rnn.spectrum import CHAIN
from experiments.regressors.networks import InitialWeights
from experiments.regressors.untrained import UntrainedOptions


@dataclass(frozen=True, kw_only=True)
class LinearRnnOptions(UntrainedOptions):
    """Options of linear-rnn."""

    length: int = 100
    """Time steps T."""

    spectral_radius: tuple[float, ...] = (0.8, 1.0, 1.25)
    """Largest eigenvalue magnitude of W_h: one or several."""

    initial_weights: tuple[InitialWeights, ...] = ("orthogonal", "gaussian")
    """W_h before it is scaled: all eigenvalues equally large, or spread over a disk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("spectral_radius")
        self.one_or_more("initial_weights")
        self.at_least(CHAIN, "hidden_size")


def run(opts: LinearRnnOptions, progress: Progress) -> Result:
    """Measure the networks asked for and those that break the naive claim."""
    asked = list(
        itertools.product(
            dict.fromkeys(opts.initial_weights), sorted(set(opts.spectral_radius)), opts.seeds
        )
    )
    task = progress.add_task("linear networks", total=len(asked) + len(BREAKING))
    found, breaking = [], []
    for kind, radius, seed in asked:
        found.append(linear_flow(opts, kind, radius, seed))
        progress.advance(task)
    for matrix, radius, _ in BREAKING:
        breaking.append(linear_flow(opts, matrix, radius, opts.seed))
        progress.advance(task)
    return Result(
        options=opts,
        headline=words.headline(opts, found, breaking),
        reading=words.sentences(opts, found, breaking),
        claims=claims(opts, found, breaking),
        figures=figures.figures(opts, found, breaking),
        tables=figures.tables(found, breaking),
    )


def claims(
    opts: LinearRnnOptions, found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]
) -> tuple[Claim, ...]:
    """Rounding where two things are equal; the spectrum's own bounds where they only converge."""
    every = [*found, *breaking]
    errors = [error for each in every if (error := worst(each.flow.closed_form_error)) is not None]
    excess = max(float(np.max(each.by_lag - each.powers)) for each in every)
    determinant = max(
        abs(float(each.exponents[-1].sum() - each.magnitudes.sum())) for each in found
    )
    made = [
        Claim(
            "The measured ∂L/∂h_t is the closed form 2(ŷ − y)/n W_fᵀ (W_hᵀ)^(T−t) "
            "(largest relative error of any step)",
            measured=max(errors, default=math.nan),
            threshold=ROUNDING,
            why="Rounding in float64, with room for long products.",
        ),
        *slope_claims(found),
        Claim(
            "No gradient grows more in k steps than the largest singular value of W_h^k "
            "(largest excess of any lag, in decades)",
            measured=excess,
            threshold=ROUNDING,
            why="That is what the largest singular value is; only rounding can exceed it.",
        ),
        Claim(
            "The naive claim, that a gradient shrinks with every step back where |λ|max < 1, is "
            f"wrong: with the {BREAKING[0][2]}, it first grows (largest ‖∂L/∂h_t‖ / ‖∂L/∂h_T‖, t < T)",
            measured=float(10.0 ** breaking[0].by_lag[1:].max()),
            threshold=1.0,
            relation="at least",
            why="The naive claim allows no lag at which the gradient is larger than at the start.",
        ),
        Claim(
            "The finite-time Lyapunov exponents from the step Jacobians add up to log10 |det W_h|, "
            "the sum of all log10 |λ_i| (largest difference, in decades per step)",
            measured=determinant,
            threshold=opts.hidden_size * ROUNDING,
            why="Each QR step keeps the determinant; H logarithms are added, with rounding each.",
        ),
    ]
    if exponents := [each for each in found if math.isfinite(each.exponent_bound)]:
        made.append(
            Claim(
                "The largest exponent is log10 |λ|max up to what the eigenvectors allow over T "
                "steps (largest difference, as a part of the bound)",
                measured=max(
                    abs(float(each.exponents[-1, 0] - each.magnitudes[0]))
                    / max(each.exponent_bound / len(each.exponents), ROUNDING)
                    for each in exponents
                ),
                threshold=1.0,
                why="log ‖(W_hᵀ)^k e_1‖ is within log(σ_max(V)‖c‖) and log(σ_min(V)|c_1|) of "
                "k log |λ|max, with the eigenvectors V and c = V⁻¹ e_1.",
            )
        )
    return tuple(made)


def slope_claims(found: Sequence[LinearFlow]) -> list[Claim]:
    """The slope over the last third of the lags, for each kind of W_h."""
    made = []
    if orthogonal := [each for each in found if each.kind == "orthogonal"]:
        made.append(
            Claim(
                "Orthogonal W_h: over the last third of the lags the slope is log10 |λ|max "
                "(largest difference, in decades per step)",
                measured=max(each.slope_error for each in orthogonal),
                threshold=ROUNDING,
                why="A scaled orthogonal W_h scales every vector by |λ|: only rounding is between.",
            )
        )
    decided = [e for e in found if e.kind == "gaussian" and math.isfinite(e.slope_bound)]
    if decided:
        made.append(
            Claim(
                "Gaussian W_h: over the last third of the lags the slope is log10 |λ|max up to what "
                "its other eigenvalues and its oscillation allow (largest difference, as a part of "
                "the bound)",
                measured=max(e.slope_error / max(e.slope_bound, ROUNDING) for e in decided),
                threshold=1.0,
                why="The bound comes from the eigenvectors of W_h alone: how far log ‖g W_h^k‖ can "
                "be off the line at the first fitted lag. It is never taken below rounding.",
            )
        )
    return made


EXPERIMENT = Experiment(
    question="Without a nonlinearity, when do gradients explode or vanish?",
    letter="Q1a",
    predict="A linear RNN has its loss at the last step. Draw the size of the gradient (vertical, "
    "powers of ten) over the steps back k (horizontal) for |λ|max of 0.8, 1 and 1.25. Is it a "
    "straight line from the first step on? Can it rise anywhere when every eigenvalue is 0.7?",
    options=LinearRnnOptions,
    run=run,
)
