"""Nonlinearity: what tanh and ReLU do to hidden states and gradients.

One step back multiplies the gradient by the derivative of the nonlinearity (saturation) and by W_h
(weight). Both factors are measured at every step, with inputs as they are, and with inputs so small
that the states can stay near 0: while they do, tanh is as good as linear, and explodes. How often
ReLU explodes and blows up is counted over many networks, since it hangs on which units are on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING, Floats, log10
from experiments.questions.nonlinearity import figures, words
from experiments.questions.nonlinearity.measure import (
    Seen,
    exploding,
    near_zero,
    of_kind,
    see,
    unavoidable,
)
from experiments.regressors.flow import FACTOR, FACTOR_DECADES
from experiments.regressors.networks import InitialWeights, check_kinds
from experiments.regressors.untrained import UntrainedOptions

SCALES = 19
"""How many input scales are swept."""


@dataclass(frozen=True, kw_only=True)
class NonlinearityOptions(UntrainedOptions):
    """Options of nonlinearity."""

    nonlinearity: tuple[str, ...] = ("identity", "tanh", "relu")
    """σ, one or several: identity, tanh, relu, or your own my_module:f."""

    spectral_radius: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Largest eigenvalue magnitude of W_h: one or several."""

    halvings: int = 40
    """How many times inputs, labels and biases are halved to keep the states near 0."""

    draws: int = 20
    """Networks of each kind drawn at the largest spectral radius, with seed, seed + 1, …, to count how
    many explode."""

    initial_weights: InitialWeights = "orthogonal"
    """W_h before it is scaled: all eigenvalues equally large, or spread over a disk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_or_more("nonlinearity")
        check_kinds(nonlinearities=self.nonlinearity)
        self.positive("spectral_radius")
        self.at_least(1, "draws")
        if not 4 <= self.halvings <= 300:
            raise OptionError(f"--halvings must be from 4 to 300, not {self.halvings}")


def run(opts: NonlinearityOptions, progress: Progress) -> Result:
    """Measure every nonlinearity, radius and input size, and sweep the input size for one seed."""
    radii = sorted(set(opts.spectral_radius))
    kinds = dict.fromkeys(opts.nonlinearity)
    scales = sorted(set(np.linspace(opts.halvings, -4, SCALES).round().astype(int).tolist()))
    seeds = range(opts.seed, opts.seed + opts.draws)
    cases = {
        "inputs as they are, and small": itertools.product(
            radii, kinds, (0, opts.halvings), opts.seeds
        ),
        "inputs of all sizes": itertools.product(radii, kinds, scales, [opts.seed]),
        "many networks": itertools.product(radii[-1:], {"identity": None} | kinds, [0], seeds),
    }
    chosen = {what: list(product) for what, product in cases.items()}
    task = progress.add_task("", total=sum(map(len, chosen.values())))
    seen: list[list[Seen]] = []
    for what, settings in chosen.items():
        progress.update(task, description=what)
        seen.append([])
        for radius, kind, halvings, seed in settings:
            seen[-1].append(see(opts, kind, radius, halvings, seed, opts.initial_weights))
            progress.advance(task)
    found, sweep, draws = seen
    return Result(
        options=opts,
        headline=words.headline(opts, found),
        reading=words.sentences(opts, found, draws),
        claims=claims(opts, found, draws),
        figures=figures.figures(opts, found, sweep),
        tables=figures.tables(found, sweep, draws),
    )


def claims(
    opts: NonlinearityOptions, found: Sequence[Seen], draws: Sequence[Seen]
) -> tuple[Claim, ...]:
    """Bounds from |σ′| ≤ 1 and |tanh| ≤ 1, and the two ways in which the naive picture fails."""
    bent = [each for each in found if each.network.nonlinearity in ("tanh", "relu")]
    tanh = [each for each in found if each.network.nonlinearity == "tanh"]
    made = []
    if tanh:
        made.append(
            Claim(
                "tanh keeps every hidden unit in [−1, 1]",
                measured=max(float(each.largest.max()) for each in tanh),
                threshold=1.0,
                how="largest |h| of any unit at any step",
                why="|tanh| < 1, which floating point can round to 1.",
            )
        )
    if bent:
        made += [
            Claim(
                "The slopes of tanh and ReLU never enlarge a gradient",
                measured=max(_largest(each.saturation) for each in bent),
                threshold=1.0 + ROUNDING,
                how="largest $‖Dδ‖/‖δ‖$ of any step",
                why="|σ′| ≤ 1 for both, and two norms are rounded.",
            ),
            Claim(
                "A step back never stretches the gradient by more than the largest singular value "
                "of $W_h$",
                measured=max(
                    _largest(log10(each.saturation * each.weight)) - each.stretch for each in bent
                ),
                threshold=ROUNDING,
                how="largest excess of any step over it, in decades",
                why="$‖W_h^TDδ‖ ≤ σ_{max}(W_h) ‖δ‖$ where |σ′| ≤ 1. Only rounding can exceed it.",
            ),
        ]
    whole = [each for each in found if math.isfinite(each.flow.growth)]
    if whole:
        made.append(
            Claim(
                "The product of saturation and weight over all steps is the gradient's whole change",
                measured=max(abs(each.growth_by_gains - each.flow.growth) for each in whole),
                threshold=opts.length
                * (opts.batch * opts.hidden_size + 16)
                * float(np.finfo("f8").eps),
                how="largest difference, in decades",
                why="Each of the T steps divides norms of B·H numbers and adds logarithms: B·H + 16 "
                "roundings a step at most.",
                about="computation",
            )
        )
    pairs = [
        (each, other)
        for each, other in itertools.combinations(whole, 2)
        if each.network == other.network
        and each.seed == other.seed
        and each.network.nonlinearity in ("identity", "relu")
    ]
    if pairs:
        made.append(
            Claim(
                "The size of the inputs changes nothing for identity and ReLU: with inputs × "
                f"$2^{{{-opts.halvings}}}$ the gradient changes by the same factor",
                measured=max(abs(a.flow.growth - b.flow.growth) for a, b in pairs),
                threshold=ROUNDING,
                how="largest difference, in decades",
                why="$σ(a z) = a σ(z)$ for a > 0, so states and errors scale with the inputs and no "
                "slope changes; a power of two rounds nothing.",
            )
        )
    made += comparing_claims(opts, found, draws)
    return (*made, *breaking_claims(opts, found))


def comparing_claims(
    opts: NonlinearityOptions, found: Sequence[Seen], draws: Sequence[Seen]
) -> list[Claim]:
    """Tanh explodes less and vanishes more than the linear network; ReLU explodes often, like it."""
    made = []
    whole = {
        (e.network.nonlinearity, e.network.radius, e.seed): e.flow.growth
        for e in found
        if not e.halvings and e.flow.growth < math.inf
    }
    less = [
        growth - whole["identity", radius, seed]
        for (kind, radius, seed), growth in whole.items()
        if kind == "tanh" and ("identity", radius, seed) in whole
    ]
    if less and opts.initial_weights == "orthogonal":
        made.append(
            Claim(
                "tanh explodes less and vanishes more than the linear network with the same $W_h$",
                measured=max(less),
                threshold=0.0,
                how="largest difference of $log_{10} (‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖)$ from that of the "
                "linear network, of any radius and seed, in decades, inputs as they are",
                why="$‖W_h^TDδ‖ = |λ| ‖Dδ‖ ≤ |λ| ‖δ‖$ for an orthogonal $W_h$ of radius |λ|, and the "
                "linear network has |λ| exactly.",
            )
        )
    relu, linear = (of_kind(draws, kind) for kind in ("relu", "identity"))
    top = linear[0].network.radius
    if relu and (opts.length - 1) * math.log10(top / math.sqrt(2)) > FACTOR_DECADES:
        halves = (
            f"Half of a ReLU network's slopes are 0 on average, which takes √2 a step: {top:g}/√2 a "
            f"step is more than a factor {FACTOR} over {opts.length} steps. "
        )
        made += [
            Claim(
                f"ReLU explodes often, like the linear network: at spectral radius {top:g}, at least "
                "half as often",
                measured=float(exploding(relu)),
                threshold=max(1.0, exploding(linear) / 2),
                relation="at least",
                how=f"networks of {opts.draws} that explode",
                why=f"{halves}Half as many counts as often here.",
            ),
            Claim(
                f"ReLU's hidden states can blow up: at spectral radius {top:g} they reach {FACTOR}",
                measured=float(np.median([each.largest.max() for each in relu])),
                threshold=10.0**FACTOR_DECADES,
                relation="at least",
                how=f"largest |h|, median of {opts.draws} networks",
                why=f"{halves}A factor {FACTOR} counts as an explosion throughout.",
            ),
        ]
    return made


def breaking_claims(opts: NonlinearityOptions, found: Sequence[Seen]) -> list[Claim]:
    """Tanh explodes all the same near 0, at the largest radius, if that is above 1."""
    top = max(each.network.radius for each in found)
    if top <= 1:
        return []
    made = []
    at_top = [each for each in found if each.network.radius == top]
    small = [each for each in at_top if each.network.nonlinearity == "tanh" and each.halvings]
    if small and opts.initial_weights == "orthogonal" and all(near_zero(each) for each in small):
        made += [
            Claim(
                f"tanh explodes, too, while its states stay near 0 ({small[0].inputs}, spectral radius "
                f"{top:g}): it gains at least what the states' sizes imply",
                measured=min(each.flow.growth - unavoidable(each) for each in small),
                threshold=-1e-9,
                relation="at least",
                how="decades gained on the way back, less those that the states imply",
                why="An orthogonal $W_h$ of radius |λ| gives exactly |λ| a step, and $tanh′ = 1 − h^2$ "
                "takes at most $max h^2$ of it: at least $Σ_t log_{10}(|λ| (1 − max h_t^2))$, from the "
                "states alone.",
            ),
            Claim(
                f"There, tanh's gradient grows by more than a factor {FACTOR}",
                measured=min(each.flow.growth for each in small),
                threshold=FACTOR_DECADES,
                relation="at least",
                how=f"least $log_{{10}} (‖∂L/∂h_0‖ / ‖∂L/∂h_{{T−1}}‖)$ of any seed, {small[0].inputs}",
                why=f"A factor {FACTOR} counts as an explosion throughout.",
            ),
        ]
    return made


def _largest(values: Floats) -> float:
    """Largest number; −inf where there is none, as in a gradient that has died."""
    return float(np.max(values[np.isfinite(values)], initial=-math.inf))


EXPERIMENT = Experiment(
    question="What do tanh and ReLU do to hidden states and gradients?",
    letter="Q1b",
    predict="Draw the size of the gradient (vertical, powers of ten) over the time step "
    "(horizontal) for identity, tanh and ReLU at spectral radius 2. Which are above the others? "
    "Now halve all inputs forty times: which curves move?",
    options=NonlinearityOptions,
    run=run,
    pictures=("gradients", "input_size"),
)
