"""Weight paths: why ∂L/∂W is a sum over paths.

First with a single number for a weight, where every path can be followed by hand; then in recurrent
networks, where the use of W_h at each step contributes a matrix G_t, and ∂L/∂W_h = Σ_t G_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result, identity
from experiments.questions.weight_paths import figures, words
from experiments.questions.weight_paths.measure import Contributions, contributions
from experiments.questions.weight_paths.scalar import PATH_COLOURS, ScalarCase, scalar_case
from experiments.regressors.flow import Target
from experiments.regressors.networks import NONLINEARITY_TEXT, Network, check_kinds
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
    """u_0, u_1, … of the scalar case: two to five numbers."""

    nonlinearity: tuple[str, ...] = ("identity", "tanh", "relu")
    """σ of the networks, one or several: identity, tanh, relu, or your own my_module:f."""

    spectral_radius: float = 0.9
    """Largest eigenvalue magnitude of W_h."""

    target: Target = "last"
    """Steps that enter the networks' loss: the last one or all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_or_more("nonlinearity")
        check_kinds(nonlinearities=self.nonlinearity)
        self.positive("spectral_radius")
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
        headline=words.headline(case, found),
        reading=words.sentences(opts, found),
        claims=claims(case, found),
        figures=figures.figures(opts, case, found),
        tables=figures.tables(case, found),
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
            "One weight: what flows back to w over each edge of the traced graph is the product of "
            "the path's partial derivatives",
            measured=inspected,
            threshold=HAND,
            how="largest difference between the inspector and the product by hand, relative to the "
            "sum of all contributions' sizes",
            why="Both are products of a few numbers: fewer than 32 roundings of float64.",
            about="computation",
        ),
        Claim(
            "One weight: the paths add up to the derivative of the polynomial "
            "$w u_{n−1} + w^2 u_{n−2} + … + w^n u_0$",
            measured=case.relative(sum(path.by_hand for path in case.paths) - case.polynomial),
            threshold=HAND,
            how="difference, relative to the sum of all contributions' sizes",
            why="The polynomial is the last state, written without any path; only rounding differs.",
        ),
        identity(
            "Networks: the contributions of all steps add up to the gradient, $Σ_t G_t = ∂L/∂W_h$",
            max(each.sum_error for each in found),
            how="largest $‖Σ_t G_t − ∂L/∂W_h‖$, relative to $Σ_t ‖G_t‖$",
        ),
        identity(
            "Networks: $G_t$ is the gradient of copy t in a network with a copy of $W_h$ for each step",
            float(max(each.copy_error.max() for each in found)),
            how="largest relative error of any step",
        ),
    )


EXPERIMENT = Experiment(
    question="Why is the gradient of a weight that is used at every step a sum over paths?",
    letter="Q1-intro",
    predict="A weight w is used at steps 0, 1 and 2 of $h_t = w (u_t + h_{t−1})$, and the loss is $h_2$. "
    "How many numbers flow back to w, what is each of them, and which is the largest? Then imagine "
    "the size of each step's contribution (vertical, powers of ten) over the time step "
    "(horizontal): does it rise, fall or stay level towards the last step?",
    options=WeightPathsOptions,
    run=run,
)
