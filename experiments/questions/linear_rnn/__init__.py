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

from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING, worst
from experiments.drawing.tables import Figure, power_text
from experiments.drawing.words import spread
from experiments.questions.linear_rnn.figures import drawn, exponents_chart, tables
from experiments.questions.linear_rnn.measure import (
    BREAKING,
    KIND_TEXT,
    LinearFlow,
    eigenvalue_line,
    linear_flow,
)
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
        options.positive("spectral-radius", *self.spectral_radius)
        options.one_or_more("initial-weights", self.initial_weights)
        options.at_least("hidden-size", self.hidden_size, CHAIN)


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
        headline=headline(opts, found, breaking),
        reading=sentences(opts, found, breaking),
        claims=claims(opts, found, breaking),
        figures=figures(opts, found, breaking),
        tables=tables(found, breaking),
    )


# --- what is claimed and said ---------------------------------------------------------------------


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


def headline(
    opts: LinearRnnOptions, found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]
) -> str:
    """What becomes of the gradient at each radius, and the exception."""
    growths: dict[float, list[float]] = {}
    for each in found:
        if each.kind == found[0].kind:
            growths.setdefault(each.radius, []).append(each.flow.growth)
    changes = ", ".join(
        f"to {spread(logs)} of its size at |λ|max = {radius:g}" for radius, logs in growths.items()
    )
    peak = breaking[0].by_lag
    return (
        f"The largest eigenvalue of W_h decides, in the long run: over {len(peak) - 1} steps back the "
        f"gradient goes {changes} ({KIND_TEXT[found[0].kind]} W_h, {opts.seeds_text}); but with a "
        f"{BREAKING[0][2]} (seed {opts.seed}), it is at most {power_text(float(peak.max()))} times as "
        f"large, {int(np.argmax(peak))} steps back."
    )


def sentences(
    opts: LinearRnnOptions, found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]
) -> tuple[str, ...]:
    """Transients, oscillation, and how fast the exponents converge."""
    said = []
    if gaussian := [each for each in found if each.kind == "gaussian"]:
        far = max(gaussian, key=lambda each: each.slope_error)
        said.append(
            f"Gaussian W_h: the fitted slope is up to {far.slope_error:.1e} decades per step from "
            f"log10 |λ|max ({far.name})."
        )
        transient = max(
            gaussian, key=lambda each: float(np.max(each.powers - eigenvalue_line(each)))
        )
        height = float(np.max(transient.powers - eigenvalue_line(transient)))
        said.append(
            f"The largest singular value of its W_h^k is up to {10**height:.3g} times |λ|max^k "
            f"({transient.name}): that much more a gradient can grow before the eigenvalue rules."
        )
        quarter = max(1, opts.length // 4)
        early, late = (
            max(float(np.abs(e.exponents[k - 1] - e.magnitudes).max()) for e in gaussian)
            for k in (quarter, opts.length)
        )
        said.append(
            f"All {opts.hidden_size} finite-time exponents of the Gaussian W_h are within {early:.2g} "
            f"decades per step of log10 |λ_i| after {quarter} steps, and within {late:.2g} after "
            f"{opts.length}."
        )
    if undecided := [e for e in found if not math.isfinite(e.slope_bound) and e.kind == "gaussian"]:
        said.append(
            "The slope is not judged where other eigenvalues can still outweigh the largest at the "
            f"first fitted lag: {'; '.join(each.name for each in undecided)}. More --length decides."
        )
    at_one, turning = breaking[1].by_lag, breaking[2].by_lag
    said.append(
        f"|λ|max = 1 is not enough for stability (seed {opts.seed}): in a {BREAKING[1][2]}, the gradient "
        f"grows {power_text(float(at_one[-1]))}-fold, as a power of k and not exponentially; under a "
        f"{BREAKING[2][2]}, it goes up and down between {power_text(float(turning.min()))} and "
        f"{power_text(float(turning.max()))} of its size for ever."
    )
    return tuple(said)


# --- figures and tables ---------------------------------------------------------------------------


def figures(
    opts: LinearRnnOptions, found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]
) -> tuple[Figure, ...]:
    """The gradient by lag, the matrices that break the claim, and the exponents."""
    first = [each for each in found if each.seed == opts.seed]
    names = [name for _, _, name in BREAKING]
    return (
        Figure(
            "gradient_by_lag",
            "The gradient on its way back, and what eigenvalues and singular values say",
            "Blue: measured. Circles: the closed form, computed without the autodiff engine. "
            "Dashed: |λ|max^k. Yellow: the largest singular value of W_h^k, which no gradient can "
            "outgrow. Where yellow is above the dashed line, W_h has transients, which shift a curve but "
            "not its slope at long lags.",
            drawn(
                [(f"|λ|max = {e.radius:g}", f"{KIND_TEXT[e.kind]} W_h", e) for e in first],
                "How much of the gradient is left after k steps back",
                f"linear RNN, {opts.drawn}, loss at the last step",
            ),
        ),
        Figure(
            "breaking",
            "Matrices that break the naive claim",
            "Left: all eigenvalues are 0.7, yet the gradient grows first. Middle: all eigenvalues "
            "are 1, yet it grows without bound, as a power of k. Right: the complex pairs have "
            "magnitude 1, and the gradient oscillates with them.",
            drawn(
                [(name, "", each) for name, each in zip(names, breaking, strict=True)],
                "What the eigenvalues alone do not tell",
                f"linear RNN, {opts.drawn}, loss at the last step",
            ),
        ),
        Figure(
            "exponents",
            "Finite-time Lyapunov exponents and eigenvalues",
            "Each point is one of the H directions: how much k steps back stretch it, by the step "
            "Jacobians, per step. The line is log10 |λ_i|. With k the points settle on it.",
            exponents_chart(opts, first),
        ),
    )


EXPERIMENT = Experiment(
    question="Without a nonlinearity, when do gradients explode or vanish?",
    letter="Q1a",
    predict="A linear RNN has its loss at the last step. Draw the size of the gradient (vertical, "
    "powers of ten) over the steps back k (horizontal) for |λ|max of 0.8, 1 and 1.25. Is it a "
    "straight line from the first step on? Can it rise anywhere when every eigenvalue is 0.7?",
    options=LinearRnnOptions,
    run=run,
)
