"""Nonlinearity (Q1b): what tanh and ReLU do to hidden states and gradients.

One step back multiplies the gradient by the derivative of the nonlinearity (saturation) and by W_h
(weight). Both factors are measured at every step, with inputs as they are, and with inputs so small
that the states stay near 0: there tanh is as good as linear, and explodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.catalogue import Experiment
from experiments.common import options
from experiments.common.errors import OptionError
from experiments.common.flow import Floats
from experiments.common.gains import Seen, near_zero, see, typical, unavoidable
from experiments.common.gains_views import FACTOR, steps_chart, sweep_chart, tables
from experiments.common.result import Claim, Figure, Result, power_text
from experiments.common.study import (
    FACTOR_DECADES,
    NONLINEARITY_TEXT,
    InitialWeights,
    Nonlinearity,
)
from experiments.common.untrained import UntrainedOptions, log10

SCALES = 19
"""How many input scales are swept."""


@dataclass(frozen=True, kw_only=True)
class NonlinearityOptions(UntrainedOptions):
    """Options of nonlinearity."""

    nonlinearity: tuple[Nonlinearity, ...] = ("identity", "tanh", "relu")
    """σ: one or several."""

    spectral_radius: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Largest eigenvalue magnitude of W_h: one or several."""

    halvings: int = 40
    """How many times inputs, labels and biases are halved in the setting that keeps states near 0."""

    initial_weights: InitialWeights = "orthogonal"
    """W_h before it is scaled: all eigenvalues equally large, or spread over a disk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.one_or_more("nonlinearity", self.nonlinearity)
        options.one_or_more("spectral-radius", self.spectral_radius)
        for radius in self.spectral_radius:
            options.positive("spectral-radius", radius)
        if not 4 <= self.halvings <= 300:
            raise OptionError(f"--halvings must be from 4 to 300, not {self.halvings}")


def run(opts: NonlinearityOptions, progress: Progress) -> Result:
    """Measure every nonlinearity, radius and input size, and sweep the input size for one seed."""
    kinds = list(
        itertools.product(sorted(set(opts.spectral_radius)), dict.fromkeys(opts.nonlinearity))
    )
    settings = list(itertools.product(kinds, (0, opts.halvings), opts.seeds))
    scales = sorted(set(np.linspace(opts.halvings, -4, SCALES).round().astype(int).tolist()))
    swept = list(itertools.product(kinds, scales))
    task = progress.add_task("inputs as they are, and small", total=len(settings) + len(swept))
    found, sweep = [], []
    for (radius, nonlinearity), halvings, seed in settings:
        found.append(see(opts, nonlinearity, radius, halvings, seed, opts.initial_weights))
        progress.advance(task)
    progress.update(task, description="inputs of all sizes")
    for (radius, nonlinearity), halvings in swept:
        sweep.append(see(opts, nonlinearity, radius, halvings, opts.seed, opts.initial_weights))
        progress.advance(task)
    return Result(
        options=opts,
        headline=headline(opts, found),
        reading=sentences(opts, found),
        claims=claims(opts, found),
        figures=figures(opts, found, sweep),
        tables=tables(found, sweep),
    )


# --- what is claimed and said ---------------------------------------------------------------------


def claims(opts: NonlinearityOptions, found: Sequence[Seen]) -> tuple[Claim, ...]:
    """Bounds from |σ′| ≤ 1 and |tanh| < 1, and the two ways in which the naive picture fails."""
    bent = [each for each in found if each.network.nonlinearity != "identity"]
    tanh = [each for each in found if each.network.nonlinearity == "tanh"]
    made = []
    if tanh:
        made.append(
            Claim(
                "tanh keeps every hidden unit in (−1, 1) (largest |h| of any unit at any step)",
                measured=max(float(each.largest.max()) for each in tanh),
                threshold=1.0,
                why="The definition of tanh; in floating point it can round to 1.",
            )
        )
    if bent:
        made.append(
            Claim(
                "tanh and ReLU never enlarge a gradient: what saturation leaves is at most the "
                "whole (largest ‖Dδ‖/‖δ‖ of any step)",
                measured=max(_largest(each.saturation) for each in bent),
                threshold=1.0 + 1e-12,
                why="|σ′| ≤ 1 for both, and two norms that are rounded.",
            )
        )
        made.append(
            Claim(
                "So a step back never stretches the gradient by more than the largest singular value "
                "of W_h, and with an orthogonal W_h both explode less and vanish more than the "
                "linear network (largest excess of any gain over it, in decades)",
                measured=max(
                    _largest(log10(each.saturation * each.weight)) - each.stretch for each in bent
                ),
                threshold=1e-12,
                why="‖W_hᵀDδ‖ ≤ σ_max(W_h) ‖δ‖ where |σ′| ≤ 1. Only rounding can exceed it.",
            )
        )
    whole = [each for each in found if math.isfinite(each.flow.growth)]
    if whole:
        made.append(
            Claim(
                "The product of saturation and weight over all steps is the gradient's change from "
                "step T to step 1 (largest difference, in decades)",
                measured=max(abs(each.growth_by_gains - each.flow.growth) for each in whole),
                threshold=opts.length
                * (opts.batch * opts.hidden_size + 16)
                * float(np.finfo("f8").eps),
                why="Each of the T steps divides norms of B·H numbers and adds logarithms: B·H + 16 "
                "roundings a step at most.",
            )
        )
    pairs = [
        (each, other)
        for each, other in itertools.combinations(whole, 2)
        if each.network == other.network
        and each.seed == other.seed
        and each.network.nonlinearity != "tanh"
    ]
    if pairs:
        made.append(
            Claim(
                "Without tanh the size of the inputs changes nothing: identity and ReLU have the same "
                f"change of the gradient with inputs × 2^{-opts.halvings} (largest difference, in "
                "decades)",
                measured=max(abs(a.flow.growth - b.flow.growth) for a, b in pairs),
                threshold=1e-12,
                why="σ(a z) = a σ(z) for a > 0, so states and residuals scale with the inputs and no "
                "slope changes; and a power of two rounds nothing.",
            )
        )
    return (*made, *breaking_claims(opts, found))


def breaking_claims(opts: NonlinearityOptions, found: Sequence[Seen]) -> list[Claim]:
    """ReLU blows up, and tanh explodes, at the largest radius, if that is above 1."""
    top = max(each.network.radius for each in found)
    if top <= 1:
        return []
    made = []
    at_top = [each for each in found if each.network.radius == top]
    relu = [each for each in at_top if (each.network.nonlinearity, each.halvings) == ("relu", 0)]
    if relu:
        made.append(
            Claim(
                f"ReLU's hidden states can blow up: at spectral radius {top:g} they leave (−1, 1) by "
                f"a factor {FACTOR} (largest |h| of any seed)",
                measured=max(float(each.largest.max()) for each in relu),
                threshold=10.0**FACTOR_DECADES,
                relation="at least",
                why=f"A factor {FACTOR} is what this project calls exploding.",
            )
        )
    small = [each for each in at_top if each.network.nonlinearity == "tanh" and each.halvings]
    if small and opts.initial_weights == "orthogonal" and all(near_zero(each) for each in small):
        made.append(
            Claim(
                f"tanh explodes all the same where |λ|max = {top:g} and the states stay near 0 "
                f"({small[0].inputs}): decades gained on the way back, less those that "
                "the states leave no way around",
                measured=min(each.flow.growth - unavoidable(each) for each in small),
                threshold=-1e-9,
                relation="at least",
                why="An orthogonal W_h of radius |λ| gives exactly |λ| a step, and tanh′ = 1 − h² "
                "takes at most max h² of it: at least Σ_t log10(|λ| (1 − max h_t²)), from the "
                "states alone.",
            )
        )
        made.append(
            Claim(
                "That is an explosion: ‖∂L/∂h_1‖ over ‖∂L/∂h_T‖, in decades, with "
                f"{small[0].inputs} (least of any seed)",
                measured=min(each.flow.growth for each in small),
                threshold=FACTOR_DECADES,
                relation="at least",
                why=f"A factor {FACTOR} is what this project calls exploding.",
            )
        )
    return made


def _largest(values: Floats) -> float:
    """Largest number; −inf where there is none, as in a gradient that has died."""
    return float(np.max(values[np.isfinite(values)], initial=-math.inf))


def headline(opts: NonlinearityOptions, found: Sequence[Seen]) -> str:
    """What each nonlinearity does at the largest radius, and what small inputs change."""
    top = max(each.network.radius for each in found)
    first = [e for e in found if e.seed == opts.seed and e.network.radius == top]
    usual = ", ".join(
        f"{NONLINEARITY_TEXT[e.network.nonlinearity]} {_change(e)}" for e in first if not e.halvings
    )
    tanh = [e for e in first if e.halvings and e.network.nonlinearity == "tanh"]
    small = "".join(f"; with {e.inputs}, tanh: {_change(e)}" for e in tanh)
    return (
        f"At spectral radius {top:g}, from step {opts.length} back to step 1, the gradient "
        f"changes by a factor of: {usual}{small}."
    )


def _change(each: Seen) -> str:
    return f"×{power_text(each.flow.growth)}" if math.isfinite(each.flow.growth) else each.verdict


def sentences(opts: NonlinearityOptions, found: Sequence[Seen]) -> tuple[str, ...]:
    """States, the two factors, verdicts, and whatever died or overflowed."""
    usual = [each for each in found if each.seed == opts.seed and not each.halvings]
    top = max(each.network.radius for each in usual)
    said = []
    for each in usual:
        if each.network.radius == top:
            saturation, weight = typical(each.saturation), typical(each.weight)
            if saturation is None or weight is None:
                continue
            said.append(
                f"{NONLINEARITY_TEXT[each.network.nonlinearity]}, spectral radius {top:g}: largest |h| "
                f"{power_text(float(log10(each.largest.max())))}; on average a step leaves "
                f"{power_text(saturation)} of the gradient after saturation, and the weight makes "
                f"that ×{power_text(weight)}."
            )
    for kind in dict.fromkeys(each.network.nonlinearity for each in found):
        counts = {
            verdict: sum(e.verdict == verdict for e in found if e.network.nonlinearity == kind)
            for verdict in ("vanishes", "is stable", "explodes", "dies", "overflows")
        }
        words = ", ".join(f"{verdict} in {n}" for verdict, n in counts.items() if n)
        said.append(
            f"{NONLINEARITY_TEXT[kind]}: the gradient {words} of {sum(counts.values())} networks."
        )
    bent = [
        e for e in found if e.network.nonlinearity == "tanh" and e.halvings and e.network.radius > 1
    ]
    if far := [each for each in bent if not near_zero(each)]:
        largest = max(float(each.largest.max()) for each in far)
        said.append(
            f"With {far[0].inputs} tanh's states do not stay near 0 over {opts.length} steps (largest |h| "
            f"{largest:.2g}), so what happens near 0 is not judged; more --halvings would keep them there."
        )
    if dead := [each.name for each in found if each.verdict == "dies"]:
        said.append(f"The gradient is exactly zero at some step: {'; '.join(dead)}.")
    return tuple(said)


# --- figures and tables ---------------------------------------------------------------------------


def figures(
    opts: NonlinearityOptions, found: Sequence[Seen], sweep: Sequence[Seen]
) -> tuple[Figure, ...]:
    """Gradients, states, the two factors, and the sweep over input sizes."""
    first = [each for each in found if each.seed == opts.seed]
    usual = [each for each in first if not each.halvings]
    size = f"{opts.size}, {opts.initial_weights} W_h, loss at the last step"
    return (
        Figure(
            "gradients",
            "The gradient at each time step",
            "Each curve in units of its last step; the gradient flows from right to left. Above: "
            "inputs as they are. Below: inputs and biases so small that the states stay near 0, "
            "where tanh is as good as linear. A gap is a gradient of exactly zero.",
            steps_chart(
                first,
                [("", lambda e: e.flow.gradient - e.flow.gradient[-1])],
                "‖∂L/∂h_t‖ / ‖∂L/∂h_T‖",
                "How much of the gradient reaches each time step",
                size,
            ),
        ),
        Figure(
            "states",
            "The hidden state at each time step",
            "The largest unit at each step. tanh cannot pass the grey line at 1.",
            steps_chart(
                first,
                [("", lambda e: log10(e.largest))],
                "largest |h_t| of any unit",
                "How large hidden units become",
                size,
                rules=[0.0],
            ),
        ),
        Figure(
            "gains",
            "Why: the two factors of each step back",
            "Above: ‖Dδ‖/‖δ‖, what the derivative of the nonlinearity leaves of the gradient. Below: "
            "‖W_hᵀDδ‖/‖Dδ‖, what the weight makes of that. Their product is one step back.",
            steps_chart(
                usual,
                [
                    ("saturation", lambda e: e.saturation),
                    ("weight", lambda e: np.r_[np.nan, e.weight[1:]]),  # nothing arrives at h_0
                ],
                "factor of one step back",
                "What a step back does to the gradient: saturation × weight",
                f"{size}, inputs as they are",
                rules=[1.0],
                log=False,
            ),
        ),
        Figure(
            "input_size",
            "When tanh explodes: the size of the inputs decides",
            "The gradient's change over the whole sequence against the factor on inputs and biases. "
            "The linear network does not care. A ReLU network does not either: scaling all its "
            "inputs scales its states, but not its slopes. tanh approaches the linear one as its "
            "states come near 0.",
            sweep_chart(sweep, size),
        ),
    )


EXPERIMENT = Experiment(
    question="What do tanh and ReLU do to hidden states and gradients?",
    letter="Q1b",
    predict="Draw the size of the gradient (vertical, powers of ten) over the time step "
    "(horizontal) for identity, tanh and ReLU at spectral radius 2. Which are above the others? "
    "Now halve all inputs forty times: which curves move?",
    options=NonlinearityOptions,
    run=run,
)
