"""Penalty: a vanishing RNN made trainable by a penalty on its gradient flow.

A network sees one number, then noise, and is to say the number at the end. At first the gradient vanishes
on the way back to it, so plain training does not learn. The penalty is made of ‖∂L/∂h_t‖ alone: it asks
that the gradient keep its size from step to step, and says nothing about the task. SGD takes the steps;
Adam divides by the size of a gradient, and learns without the penalty now and then.

Of seeds 0 to 11 all but one learn. Seed 6 does not, in 600 steps or with a weight of 1 either. With that
weight its gradient comes through, so a gradient that reaches far is not enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.options import NetworkOptions
from experiments.app.result import Claim, Result
from experiments.questions.penalty import figures, words
from experiments.questions.penalty.measure import (
    LEARNED,
    NOT_LEARNED,
    Learned,
    Optimizer,
    Way,
    best_plain,
    decades,
    learn,
    trained,
    worst,
)
from experiments.regressors.flow import CONVENTION, FACTOR_DECADES


@dataclass(frozen=True, kw_only=True)
class PenaltyOptions(NetworkOptions):
    """Options of penalty."""

    weight: float = 0.1
    """Weight of the penalty in the loss."""

    larger: tuple[float, ...] = (3.0, 10.0, 30.0)
    """Factors on the step size; with each, networks are trained without the penalty too."""

    length: int = 50
    """Time steps T."""

    hidden_size: int = 16
    """Hidden units H."""

    spectral_radius: float = 0.5
    """Largest eigenvalue magnitude of the initial W_h."""

    noise: float = 0.1
    """Standard deviation of the numbers after the first."""

    steps: int = 300
    """Training steps."""

    learning_rate: float = 0.01
    """Step size."""

    optimizer: Optimizer = "sgd"
    """SGD with momentum 0.9, or Adam. Adam divides by the size of a gradient and learns without the
    penalty for some seeds, so that not all claims hold."""

    repeats: int = 3
    """Networks trained in each way, with seed, seed + 1, …: claims are about all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "length")
        self.at_least(1, "hidden_size", "steps")
        self.positive("weight", "larger", "spectral_radius", "noise", "learning_rate")

    @property
    def ways(self) -> tuple[Way, ...]:
        """The penalty, none, and none with larger steps."""
        larger = sorted(set(self.larger) - {1.0})
        return (Way(), Way(self.weight), *(Way(larger=factor) for factor in larger))


def run(opts: PenaltyOptions, progress: Progress) -> Result:
    """Train every network in every way."""
    bar = progress.add_task("", total=opts.repeats * len(opts.ways) * opts.steps)
    found = []
    for seed in opts.seeds:
        for way in opts.ways:
            progress.update(bar, description=f"seed {seed}: {way.name}")
            found.append(learn(opts, way, seed, lambda: progress.advance(bar)))
            progress.update(bar, completed=len(found) * opts.steps)
    size = f"T = {opts.length}, H = {opts.hidden_size}, B = {opts.batch}"
    return Result(
        options=opts,
        headline=words.headline(opts, found),
        reading=words.sentences(opts, found),
        claims=claims(opts, found),
        figures=figures.figures(found, opts.seed, size),
        tables=figures.tables(found, opts.learning_rate),
    )


def claims(opts: PenaltyOptions, found: Sequence[Learned]) -> tuple[Claim, ...]:
    """Claims on vanishing, on learning, and on the gradient after training."""
    plain, helped = trained(found, Way()), trained(found, Way(opts.weight))
    return (
        Claim(
            "Before training the gradient vanishes",
            worst([decades(learned.before) for learned in found]),
            -FACTOR_DECADES,
            how="Decades that it gains from the last step back to the first, most of any seed",
            why=CONVENTION,
        ),
        Claim(
            "With the penalty every network learns",
            worst([learned.loss for learned in helped]),
            LEARNED,
            how="Mean squared error on fresh sequences, most of any seed",
            why="The first number has variance 1, so no predictor that does not know it has a loss below "
            "1. Half of that was set before looking.",
        ),
        Claim(
            "Without the penalty, in as many steps of the same size, none learns",
            -worst([-learned.loss for learned in plain]),
            NOT_LEARNED,
            "at least",
            how="Mean squared error on fresh sequences, least of any seed",
            why=f"A loss of {NOT_LEARNED} means that a tenth of what can be known is; 1024 sequences tell "
            f"{NOT_LEARNED} from 1.",
        ),
        Claim(
            "Larger steps do not replace the penalty",
            best_plain(opts, found) / opts.repeats,
            0.5,
            how="Share of the networks that learn without it, at the best of the step sizes",
            why="A step size that works for half of the networks is luck with the seed.",
        ),
        Claim(
            "With the penalty the gradient neither vanishes nor explodes after training",
            worst([abs(decades(learned.after)) for learned in helped]),
            FACTOR_DECADES,
            how="Decades, up or down, from the last step back to the first, most of any seed",
            why=CONVENTION,
        ),
    )


EXPERIMENT = Experiment(
    question="Can a network through which the gradient vanishes be made to learn by a penalty on the "
    "gradient's own flow?",
    options=PenaltyOptions,
    run=run,
    letter="S4",
    predict="A network is to say, after 50 steps, the number it saw first; at the beginning, half of the "
    "gradient is lost at every step back. A term is added to the loss that is small where ‖∂L/∂h_t‖ "
    "changes little from step to step; it does not know the task. Does the network learn it, and does "
    "the same network without the term, with steps of any size?",
)
