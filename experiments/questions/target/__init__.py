"""Target (Q1c): what a loss at every step changes (last_target_only=False), and what it does not.

The total gradient ∂L/∂h_t no longer vanishes: every step has a loss of its own nearby. But the
gradient of each single loss L_k still does: the matrix of ‖∂L_k/∂h_t‖ decays away from its diagonal,
so what happens at step k teaches the network as little about t ≪ k as before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING
from experiments.drawing.words import counts, spread
from experiments.questions.target import figures as views
from experiments.questions.target.measure import Targets, excess, last_row_error, measure
from experiments.regressors.flow import FACTOR, FACTOR_DECADES
from experiments.regressors.networks import NONLINEARITY_TEXT, InitialWeights, Network, Nonlinearity
from experiments.regressors.untrained import UntrainedOptions


@dataclass(frozen=True, kw_only=True)
class TargetOptions(UntrainedOptions):
    """Options of target."""

    nonlinearity: Nonlinearity = "tanh"
    """σ."""

    spectral_radius: tuple[float, ...] = (0.7, 1.0, 1.4)
    """Largest eigenvalue magnitude of W_h: one or several. The answer is about those below 1."""

    initial_weights: InitialWeights = "orthogonal"
    """W_h before it is scaled: all eigenvalues equally large, or spread over a disk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.positive("spectral-radius", *self.spectral_radius)


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
        found.append(measure(opts, network, seed, lambda: progress.advance(task)))
    size = f"{NONLINEARITY_TEXT[opts.nonlinearity]}, {opts.drawn}, {opts.initial_weights} W_h"
    return Result(
        options=opts,
        headline=headline(opts, found),
        reading=sentences(opts, found),
        claims=claims(opts, found),
        figures=views.figures([each for each in found if each.seed == opts.seed], size),
        tables=views.tables(found),
    )


def claims(opts: TargetOptions, found: Sequence[Targets]) -> tuple[Claim, ...]:
    """Bounds on every single loss, equalities between the two targets, and the verdicts."""
    made = [
        Claim(
            "The gradient of a single loss is bounded by the weight: ‖∂L_k/∂h_t‖ is at most "
            "‖∂L_k/∂h_k‖ σ_max(W_h)^(k−t), at every k and t (largest excess, in decades)",
            measured=max(excess(each) for each in found),
            threshold=ROUNDING,
            why="|σ′| ≤ 1, and no vector grows more than by the largest singular value in a step.",
        ),
        Claim(
            "The losses' gradients add up to the total: Σ_k ∂L_k/∂h_t = ∂L/∂h_t (largest error of "
            "any step, in units of what is added)",
            measured=max(each.sum_error for each in found),
            threshold=ROUNDING,
            why="Backward is linear; only rounding is between the two.",
        ),
        Claim(
            "The last row of the matrix is what the loss at the last step alone gives, divided by T: "
            "losses at other steps add nothing to what step T says about the past (largest "
            "difference, in decades)",
            measured=max(last_row_error(each) for each in found),
            threshold=ROUNDING,
            why="L_T is the same function in both; in the mean over all steps it counts 1/T.",
        ),
    ]
    small = [each for each in found if each.radius == found[0].radius]
    if small[0].stretch < 0 and all(np.isfinite([e.last[0], e.every[0]]).all() for e in small):
        lag = len(small[0].last) - 1
        made.append(
            Claim(
                f"At spectral radius {small[0].radius:g}, with the loss at the last step the gradient "
                "vanishes at least as fast as σ_max(W_h)^(T−1) (largest ‖∂L/∂h_1‖ / ‖∂L/∂h_T‖ of any "
                "seed, in decades)",
                measured=max(float(e.last[0] - e.last[-1]) - lag * (e.stretch) for e in small)
                + lag * small[0].stretch,
                threshold=lag * small[0].stretch + ROUNDING,
                why=f"The first claim, over T − 1 = {lag} steps.",
            )
        )
        made.append(
            Claim(
                "With a loss at every step it does not vanish there: ‖∂L/∂h_1‖ / ‖∂L/∂h_T‖, in decades "
                "(least of any seed)",
                measured=min(float(e.every[0] - e.every[-1]) for e in small),
                threshold=-FACTOR_DECADES,
                relation="at least",
                why=f"A gradient that becomes more than {FACTOR} times smaller vanishes, by this "
                "project's convention.",
            )
        )
    return tuple(made)


def headline(opts: TargetOptions, found: Sequence[Targets]) -> str:
    """The total against a single loss, at the smallest radius."""
    drawn = [each for each in found if each.radius == found[0].radius]
    totals = [float(each.every[0] - each.every[-1]) for each in drawn]
    singles = [float(each.decay[-1, 0]) for each in drawn]
    words = [becomes(totals), becomes(singles)]
    link = "and" if words[0] == words[1] else "but"
    return (
        f"At spectral radius {found[0].radius:g} ({opts.seeds_text}), with a loss at every step, the "
        f"total gradient {words[0]} on its way to step 1 (‖∂L/∂h_1‖ / ‖∂L/∂h_T‖ is {spread(totals)}), "
        f"{link} the gradient of loss {opts.length} alone {words[1]} ({spread(singles)} of it reaches "
        f"step 1, whatever other losses there are)."
    )


def becomes(changes: Sequence[float]) -> str:
    """What becomes of gradients that change by these decades."""
    vanished = sum(not change >= -FACTOR_DECADES for change in changes)
    if 0 < vanished < len(changes):
        return f"vanishes in {vanished} of {len(changes)} networks"
    return "vanishes" if vanished else "does not vanish"


def sentences(opts: TargetOptions, found: Sequence[Targets]) -> tuple[str, ...]:
    """Say what is the same at every radius, and where a single loss keeps reaching the first step."""
    said = []
    for radius in dict.fromkeys(each.radius for each in found):
        drawn = [each for each in found if each.radius == radius]
        total, single = (
            spread(float(values[0] - values[-1]) for values in each)
            for each in ([e.every for e in drawn], [e.last for e in drawn])
        )
        own = spread(float(log) for each in drawn for log in np.diag(each.matrix))
        local = sorted(float(np.nanmean(each.local)) for each in drawn)
        said.append(
            f"Spectral radius {radius:g}, {opts.seeds_text}: from step T to step 1 the total gradient "
            f"changes ×{total} with a loss at every step, ×{single} with the last alone; ‖∂L_k/∂h_k‖ "
            f"is {own}; the first {counts(each.reach for each in drawn)} of {opts.length} losses make "
            f"up ∂L/∂h_1 to 10%; the mean share of the local loss in ∂L/∂h_t is "
            f"{' to '.join(dict.fromkeys(f'{share:.0%}' for share in (local[0], local[-1])))}."
        )
    if kept := [each for each in found if float(each.decay[-1, 0]) > -FACTOR_DECADES]:
        names = ", ".join(f"{each.radius:g} (seed {each.seed})" for each in kept)
        said.append(
            f"The decay depends on the initial values: loss T reaches step 1 with more than 1/{FACTOR} "
            f"of its gradient at spectral radius {names}."
        )
    return tuple(said)


EXPERIMENT = Experiment(
    question="What does a loss at every step change about vanishing gradients, and what does it not?",
    letter="Q1c",
    predict="Picture a square: the loss L_k at each step k downwards, the state h_t at each step t to "
    "the right, coloured by the size of ∂L_k/∂h_t. Where is it large and where small? And the "
    "total over all losses, drawn over t: does it still fall towards the first step?",
    options=TargetOptions,
    run=run,
)
