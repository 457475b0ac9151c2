"""Weight paths (Q1-intro): why ∂L/∂W is a sum over paths.

First with a single number for a weight, where every path can be followed by hand; then in recurrent
networks, where the use of W_h at each step contributes a matrix G_t, and ∂L/∂W_h = Σ_t G_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING, log10
from experiments.drawing.tables import Column, Figure, Table
from experiments.drawing.words import counts, spread
from experiments.questions.weight_paths.measure import (
    Contributions,
    bars,
    contributions,
    running_sum,
    sums,
)
from experiments.questions.weight_paths.scalar import (
    PATH_COLOURS,
    ScalarCase,
    scalar_case,
    scalar_chart,
    scalar_rows,
)
from experiments.regressors.flow import TARGET_TEXT, Target
from experiments.regressors.networks import NONLINEARITY_TEXT, Network, Nonlinearity
from experiments.regressors.untrained import UntrainedOptions, probe

HAND = 32 * float(np.finfo("f8").eps)
"""A path is a product of at most six factors and a sum of at most five paths: fewer than 32
roundings, on either side of the comparison."""


@dataclass(frozen=True, kw_only=True)
class WeightPathsOptions(UntrainedOptions):
    """Options of weight-paths."""

    w: float = 0.8
    """The one weight of the scalar case."""

    inputs: tuple[float, ...] = (1.0, 2.0, 3.0)
    """u_1, u_2, … of the scalar case: two to five numbers."""

    nonlinearity: tuple[Nonlinearity, ...] = ("identity", "tanh", "relu")
    """σ of the networks: one or several."""

    spectral_radius: float = 0.9
    """Largest eigenvalue magnitude of W_h."""

    target: Target = "last"
    """Steps that enter the networks' loss: the last one or all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.one_or_more("nonlinearity", self.nonlinearity)
        options.positive("spectral-radius", self.spectral_radius)
        if not 2 <= len(self.inputs) <= len(PATH_COLOURS):
            raise OptionError(
                f"--inputs takes 2 to {len(PATH_COLOURS)} numbers, not {len(self.inputs)}"
            )
        for value in (self.w, *self.inputs):
            if not abs(value) <= 1e6:
                raise OptionError(f"--w and --inputs must be numbers up to 1e6, not {value}")


def run(opts: WeightPathsOptions, progress: Progress) -> Result:
    """Follow the scalar paths and measure every network."""
    case = scalar_case(opts.w, opts.inputs)
    kinds = dict.fromkeys(opts.nonlinearity)
    task = progress.add_task("networks", total=len(kinds) * opts.repeats)
    found = []
    for nonlinearity in kinds:
        for seed in opts.seeds:
            progress.update(task, description=f"{NONLINEARITY_TEXT[nonlinearity]}, seed {seed}")
            network = Network(nonlinearity, opts.spectral_radius, opts.target, opts.hidden_size)
            found.append(contributions(probe(network, opts, seed), seed))
            progress.advance(task)
    return Result(
        options=opts,
        headline=headline(case, found),
        reading=sentences(opts, found),
        claims=claims(case, found),
        figures=figures(opts, case, found),
        tables=tables(case, found),
    )


def claims(case: ScalarCase, found: Sequence[Contributions]) -> tuple[Claim, ...]:
    """Three equalities for the scalar case and the networks; all thresholds are rounding."""
    inspected = max(
        case.relative(path.by_hand - other)
        for path in case.paths
        for other in (path.edge, path.by_time)
    )
    return (
        Claim(
            "Scalar case: what flows back to w over each of its edges, by the inspector, is the "
            "product of the path's partials, by hand (largest difference, in units of "
            "the contributions' size)",
            measured=inspected,
            threshold=HAND,
            why="Both are products of a few numbers: fewer than 32 roundings of float64.",
        ),
        Claim(
            "Scalar case: the paths add up to the derivative of the polynomial "
            "w u_n + w² u_(n−1) + … + w^n u_1",
            measured=case.relative(sum(path.by_hand for path in case.paths) - case.polynomial),
            threshold=HAND,
            why="The polynomial is the same function with no path in sight; rounding again.",
        ),
        Claim(
            "Networks: Σ_t G_t is ∂L/∂W_h (largest ‖Σ_t G_t − ∂L/∂W_h‖, in units of Σ_t ‖G_t‖)",
            measured=max(each.sum_error for each in found),
            threshold=ROUNDING,
            why="Rounding in float64, relative to the terms that are added.",
        ),
        Claim(
            "Networks: each G_t is the gradient of a network in which every step has its own copy "
            "of W_h, with respect to copy t (largest relative error of any step)",
            measured=float(max(each.copy_error.max() for each in found)),
            threshold=ROUNDING,
            why="In that network no gradients are summed; only rounding is between the two.",
        ),
    )


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


def figures(
    opts: WeightPathsOptions, case: ScalarCase, found: Sequence[Contributions]
) -> tuple[Figure, ...]:
    """The paths by hand, the size of each step's contribution, and their running sum."""
    first = [each for each in found if each.seed == opts.seed]
    subtitle = f"{opts.drawn}, spectral radius {opts.spectral_radius:g}, {TARGET_TEXT[opts.target]}"
    return (
        Figure(
            "scalar_paths",
            "The paths of a single weight",
            "To follow a path, multiply the partials along it. The colour is the path of one use of "
            "w; the other uses are held fixed, in grey. What the inspector says of the same edge "
            "stands beside the product. Steps count from 1 here and the inspector's marks from 0: "
            f"h_1 … h_{len(case.states)} are marked h at time 0 … {len(case.states) - 1}.",
            scalar_chart(case),
        ),
        Figure(
            "contributions",
            "What the use of W_h at each step contributes",
            "The size of each G_t. A bar that is missing is a contribution of exactly zero, such "
            "as that of step 1, where W_h multiplies h_0 = 0.",
            bars(first, "The size of each step's contribution to ∂L/∂W_h", subtitle),
        ),
        Figure(
            "running_sum",
            "How the contributions add up",
            "Signed shares ⟨G_t, G⟩/‖G‖² added from the last step backwards: at step t the sum of "
            "all from t on. At step 1 it is 1, the whole gradient. Above 1, earlier steps "
            "take back what later ones gave.",
            sums(first, "Share of ∂L/∂W_h from step t and later", subtitle),
        ),
    )


def tables(case: ScalarCase, found: Sequence[Contributions]) -> tuple[Table, ...]:
    """The scalar paths and the networks for people; every step for programs."""
    return (
        Table(
            "scalar",
            "The paths of a single weight, by hand and by the inspector",
            scalar_rows(case),
            (
                Column("use", "use of w"),
                Column("entry", "∂h_t/∂w", ".4g"),
                Column("passes", "∂h_s/∂h_(s−1) of later steps"),
                Column("by_hand", "product, by hand", ".6g"),
                Column("edge", "edge of the traced graph", ".6g"),
                Column("by_time", "weight_grad_by_time", ".6g"),
            ),
            "In the last row, the traced graph's column is ∂L/∂w by an ordinary backward pass.",
            printed=True,
        ),
        Table(
            "networks",
            "The contributions of all steps in each network",
            [
                {
                    "nonlinearity": each.nonlinearity,
                    "seed": each.seed,
                    "sum_of_shares": float(each.share.sum()),
                    "cancelling": each.cancelling,
                    "steps_for_90_percent": each.reach,
                    "norm_first_log10": float(log10(each.norm[1])),
                    "norm_last_log10": float(log10(each.norm[-1])),
                    "sum_error": each.sum_error,
                    "copy_error": float(each.copy_error.max()),
                }
                for each in found
            ],
            (
                Column("nonlinearity", "nonlinearity"),
                Column("seed", "seed"),
                Column("norm_first_log10", "‖G_2‖", log10=True),
                Column("norm_last_log10", "‖G_T‖", log10=True),
                Column("steps_for_90_percent", "last steps that hold 90%"),
                Column("cancelling", "Σ‖G_t‖ / ‖ΣG_t‖", ".3f"),
                Column("sum_of_shares", "sum of shares", ".12f"),
                Column("sum_error", "ΣG_t ±", ".0e"),
                Column("copy_error", "copies ±", ".0e"),
            ),
            "ΣG_t ±: against ∂L/∂W_h by backward. Copies ±: each G_t against the gradient of its own "
            "copy of W_h, largest relative error.",
            printed=True,
        ),
        Table(
            "contributions",
            "Each network at each time step",
            [
                {
                    "nonlinearity": each.nonlinearity,
                    "seed": each.seed,
                    "step": step,
                    "norm_log10": float(size),
                    "share": float(share),
                    "share_from_here_on": float(summed),
                    "copy_error": float(error),
                }
                for each in found
                for step, (size, share, summed, error) in enumerate(
                    zip(
                        log10(each.norm),
                        each.share,
                        running_sum(each),
                        each.copy_error,
                        strict=True,
                    ),
                    start=1,
                )
            ],
        ),
    )


EXPERIMENT = Experiment(
    question="Why is the gradient of a weight that is used at every step a sum over paths?",
    letter="Q1-intro",
    predict="A weight w is used at steps 1, 2 and 3 of h_t = w (u_t + h_(t−1)), and the loss is h_3. "
    "How many numbers flow back to w, what is each of them, and which is the largest? Then imagine "
    "the size of each step's contribution (vertical, powers of ten) over the time step "
    "(horizontal): does it rise, fall or stay level towards the last step?",
    options=WeightPathsOptions,
    run=run,
)
