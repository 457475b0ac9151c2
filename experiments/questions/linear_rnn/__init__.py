"""Linear RNN: when gradients explode or vanish without a nonlinearity.

The measured gradient is the closed form g W_h^k, k steps back. After many steps back its slope is that
of the largest eigenvalue of W_h, and only there. The largest singular value of W_h^k bounds it after any
number of steps. Some matrices have eigenvalues below 1, yet the gradient grows over the first steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.result import Claim, Result, identity
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
        identity(
            "The measured $∂L/∂h_t$ is the closed form $2(ŷ − y)/n W_f^T (W_h^T)^{T−1−t}$",
            max(errors, default=math.nan),
            how="largest relative error of any step",
        ),
        *slope_claims(found),
        Claim(
            "No gradient grows more in k steps than the largest singular value of $W_h^k$",
            measured=excess,
            threshold=ROUNDING,
            how="largest excess over it at any k, in decades",
            why="That is what the largest singular value is; only rounding can exceed it.",
        ),
        Claim(
            "Eigenvalues below 1 do not keep a gradient from growing over the first steps back: with "
            f"a {BREAKING[0][2]} of eigenvalues {BREAKING[0][1]:g}, it grows",
            measured=float(10.0 ** breaking[0].by_lag[1:].max()),
            threshold=1.0,
            relation="at least",
            how="largest gradient norm of any earlier step, relative to that at the last step",
            why="If eigenvalues decided at once, no earlier step could have a larger gradient.",
        ),
        Claim(
            "The finite-time Lyapunov exponents add up to $log_{10} |det W_h|$, the sum of all "
            "$log_{10} |λ_i|$",
            measured=determinant,
            threshold=opts.hidden_size * ROUNDING,
            how="largest difference, in decades per step",
            why="Each QR step keeps the determinant; H logarithms are added, with rounding each.",
            about="computation",
        ),
    ]
    if exponents := [each for each in found if math.isfinite(each.exponent_bound)]:
        made.append(
            Claim(
                "The largest Lyapunov exponent is $log_{10} |λ|_{max}$, as closely as the eigenvectors "
                "allow over T steps",
                measured=max(
                    abs(float(each.exponents[-1, 0] - each.magnitudes[0]))
                    / max(each.exponent_bound / len(each.exponents), ROUNDING)
                    for each in exponents
                ),
                threshold=1.0,
                how="largest difference, as a part of the bound",
                why="$log ‖(W_h^T)^k e_0‖$ is within $log(σ_{max}(V)‖c‖)$ and "
                "$log(σ_{min}(V)|c_0|)$ of $k log |λ|_{max}$, with the eigenvectors V and "
                "$c = V^{−1} e_0$.",
            )
        )
    return tuple(made)


def slope_claims(found: Sequence[LinearFlow]) -> list[Claim]:
    """The slope over the last third of the lags, for each kind of W_h."""
    made = []
    if orthogonal := [each for each in found if each.kind == "orthogonal"]:
        made.append(
            Claim(
                "Orthogonal $W_h$: every step back multiplies the gradient by $|λ|_{max}$",
                measured=max(each.slope_error for each in orthogonal),
                threshold=ROUNDING,
                how="largest difference between the slope and $log_{10} |λ|_{max}$, in decades per step",
                why="A scaled orthogonal $W_h$ scales every vector by |λ|; only rounding differs.",
            )
        )
    decided = [e for e in found if e.kind == "gaussian" and math.isfinite(e.slope_bound)]
    if decided:
        made.append(
            Claim(
                "Gaussian $W_h$: far back, a step multiplies the gradient by $|λ|_{max}$, as closely as "
                "the other eigenvalues allow",
                measured=max(e.slope_error / max(e.slope_bound, ROUNDING) for e in decided),
                threshold=1.0,
                how="largest difference between the slope over the earliest third of the steps and "
                "$log_{10} |λ|_{max}$, as a part of the bound",
                why="The bound comes from the eigenvectors of $W_h$ alone: how far $log ‖g W_h^k‖$ can "
                "be off a line at the first fitted k. It is never smaller than rounding.",
            )
        )
    return made


EXPERIMENT = Experiment(
    question="Without a nonlinearity, when do gradients explode or vanish?",
    letter="Q1a",
    predict="A linear RNN has its loss at the last step. Draw the size of the gradient (vertical, "
    "powers of ten) over the steps back k (horizontal) for $|λ|_{max}$ of 0.8, 1 and 1.25. Is it a "
    "straight line from the first step on? Can it rise anywhere when every eigenvalue is 0.7?",
    options=LinearRnnOptions,
    run=run,
)
