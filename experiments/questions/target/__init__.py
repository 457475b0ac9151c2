"""Target: what a loss at every step changes, and what it does not.

The total gradient ∂L/∂h_t no longer vanishes: every step has a loss of its own nearby. But the
gradient of each single loss L_k still does: the matrix of ‖∂L_k/∂h_t‖ decays away from its diagonal.
So the loss at step k says as little about states long before k as it does without the other losses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.result import Claim, Result, identity
from experiments.drawing.numbers import ROUNDING
from experiments.questions.target import figures, words
from experiments.questions.target.measure import Targets, excess, last_row_error, see
from experiments.regressors.flow import FACTOR, FACTOR_DECADES
from experiments.regressors.networks import NONLINEARITY_TEXT, InitialWeights, Network, check_kinds
from experiments.regressors.untrained import UntrainedOptions


@dataclass(frozen=True, kw_only=True)
class TargetOptions(UntrainedOptions):
    """Options of target."""

    nonlinearity: str = "tanh"
    """σ: identity, tanh, relu, or your own my_module:f."""

    spectral_radius: tuple[float, ...] = (0.7, 1.0, 1.4)
    """Largest eigenvalue magnitude of W_h: one or several. The answer is about those below 1."""

    initial_weights: InitialWeights = "orthogonal"
    """W_h before it is scaled: all eigenvalues equally large, or spread over a disk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kinds(nonlinearities=(self.nonlinearity,))
        self.positive("spectral_radius")


def run(opts: TargetOptions, progress: Progress) -> Result:
    """Measure each network under both losses."""
    radii = sorted(set(opts.spectral_radius))
    total = len(radii) * opts.repeats * opts.length
    task = progress.add_task("networks", total=total)
    found = []
    for radius, seed in itertools.product(radii, opts.seeds):
        progress.update(task, description=f"spectral radius {radius:g}, seed {seed}")
        network = Network(
            opts.nonlinearity, radius, "all", opts.hidden_size, initial_weights=opts.initial_weights
        )
        found.append(see(opts, network, seed, lambda: progress.advance(task)))
    size = f"{NONLINEARITY_TEXT[opts.nonlinearity]}, {opts.drawn}, {opts.initial_weights} W_h"
    return Result(
        options=opts,
        headline=words.headline(opts, found),
        reading=words.sentences(opts, found),
        claims=claims(opts, found),
        figures=figures.figures([each for each in found if each.seed == opts.seed], size),
        tables=figures.tables(found),
    )


def claims(opts: TargetOptions, found: Sequence[Targets]) -> tuple[Claim, ...]:
    """Bounds on every single loss, equalities between the two targets, and the verdicts."""
    flat = ":" not in opts.nonlinearity  # the slope of your own may exceed 1
    bound = Claim(
        "The weights bound the gradient of a single loss: $‖∂L_k/∂h_t‖ ≤ ‖∂L_k/∂h_k‖ "
        "σ_{max}(W_h)^{k−t}$",
        measured=max(excess(each) for each in found),
        threshold=ROUNDING,
        how="largest excess at any k and t, in decades",
        why="|σ′| ≤ 1, and no vector grows more than by the largest singular value in a step.",
    )
    made = [
        *([bound] if flat else []),
        identity(
            "The gradients of all losses add up to the total: $Σ_k ∂L_k/∂h_t = ∂L/∂h_t$",
            max(each.sum_error for each in found),
            how="largest error of any step, relative to the sizes that are added",
        ),
        Claim(
            "Losses at other steps add nothing to what the last loss says about the past",
            measured=max(last_row_error(each) for each in found),
            threshold=ROUNDING,
            how="largest difference, in decades, between the last row of the matrix and the gradient of "
            "the loss at the last step alone, divided by T",
            why="It is the same function in both; in the mean over all steps it counts 1/T.",
        ),
    ]
    small = [each for each in found if each.radius == found[0].radius]
    finite = all(np.isfinite([e.last[0], e.every[0]]).all() for e in small)
    if flat and small[0].stretch < 0 and finite:
        lag = len(small[0].last) - 1
        made += [
            Claim(
                f"At spectral radius {small[0].radius:g}, with the loss at the last step, the gradient "
                "vanishes at least as fast as $σ_{max}(W_h)^{T−1}$",
                measured=max(float(e.last[0] - e.last[-1]) - lag * (e.stretch) for e in small)
                + lag * small[0].stretch,
                threshold=lag * small[0].stretch + ROUNDING,
                how="largest $log_{10} (‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖)$ of any seed",
                why=f"The bound of the first claim, over {lag} steps back.",
            ),
            Claim(
                f"With a loss at every step, it does not vanish at spectral radius {small[0].radius:g}",
                measured=min(float(e.every[0] - e.every[-1]) for e in small),
                threshold=-FACTOR_DECADES,
                relation="at least",
                how="least $log_{10} (‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖)$ of any seed",
                why=f"A gradient that becomes more than {FACTOR} times smaller counts as vanished.",
            ),
        ]
    return tuple(made)


EXPERIMENT = Experiment(
    question="What does a loss at every step change about vanishing gradients, and what does it not?",
    letter="Q1c",
    predict="Picture a square: the loss $L_k$ at each step k downwards, the state $h_t$ at each step t to "
    "the right, coloured by the size of $∂L_k/∂h_t$. Where is it large and where small? And the "
    "total over all losses, drawn over t: does it still fall towards the first step?",
    options=TargetOptions,
    run=run,
)
