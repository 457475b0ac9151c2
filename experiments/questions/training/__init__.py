"""Training: how RNNs and LSTMs learn the running average, and how their gradient flow changes.

One- and two-layer networks learn to predict the mean so far, at every step or only at the last one.
Since the numbers are independent, a small loss proves how many of them a network uses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.options import NetworkOptions
from experiments.app.result import Claim, Result
from experiments.questions.training import figures, words
from experiments.questions.training.measure import Learned, Task, learn, least_loss
from experiments.regressors.flow import Target
from experiments.regressors.networks import Cell, check_kinds

MOST_CELLS = 20_000
"""Marks that a heatmap may have for the report to stay quick: fewer moments where T is long."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(NetworkOptions):
    """Options of training."""

    cell: tuple[Cell, ...] = ("rnn", "lstm")
    """The recurrent layers, one or several: rnn, lstm, or your own my_module:MGU."""

    layers: tuple[int, ...] = (1, 2)
    """How many of them above each other: one number or several."""

    target: tuple[Target, ...] = ("all", "last")
    """Steps that enter the loss: networks are trained for each."""

    length: int = 10
    """Time steps T."""

    hidden_size: int = 32
    """Hidden units H of each layer."""

    batch: int = 32
    """Sequences B in a batch."""

    steps: int = 150
    """Training steps."""

    learning_rate: float = 0.01
    """Step size of Adam."""

    repeats: int = 2
    """Networks trained of each kind, with seed, seed + 1, …: claims are about all of them, figures
    show the first."""

    moments: int = 30
    """Moments of training at which the gradient flow of the first network is measured, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_or_more("cell", "target")
        check_kinds(cells=self.cell)
        self.at_least(1, "layers", "hidden_size", "steps", "moments")
        self.at_least(2, "length")
        self.positive("learning_rate")

    def tasks(self) -> list[Task]:
        """Every network, once."""
        kinds = itertools.product(
            self.seeds,
            dict.fromkeys(self.target),
            sorted(set(self.layers)),
            dict.fromkeys(self.cell),
        )
        return [Task(cell, layers, target, seed) for seed, target, layers, cell in kinds]

    @property
    def watched(self) -> int:
        """Moments at which the flow is measured, fewer for long sequences."""
        panels = len(set(self.cell)) * len(set(self.target)) * sum(set(self.layers))
        return max(4, min(self.moments, MOST_CELLS // (panels * self.length)))


def run(opts: TrainingOptions, progress: Progress) -> Result:
    """Train every network, and watch those of the first seed."""
    tasks = opts.tasks()
    bar = progress.add_task("", total=len(tasks) * opts.steps)
    found = []
    for count, task in enumerate(tasks, start=1):
        progress.update(bar, description=f"{count} of {len(tasks)}: {task.name}, {task.target}")
        found.append(
            learn(
                task,
                hidden_size=opts.hidden_size,
                batch=opts.batch,
                length=opts.length,
                steps=opts.steps,
                learning_rate=opts.learning_rate,
                moments=opts.watched if task.seed == opts.seed else 0,
                advance=lambda: progress.advance(bar),
            )
        )
        progress.update(bar, completed=count * opts.steps)
    shown = [learned for learned in found if learned.task.seed == opts.seed]
    size = f"T = {opts.length}, H = {opts.hidden_size}, B = {opts.batch}, seed {opts.seed}"
    return Result(
        options=opts,
        headline=words.headline(opts, found),
        reading=words.sentences(opts, found),
        claims=claims(opts, found),
        figures=figures.figures(shown, opts.batch, opts.length, opts.steps, size),
        tables=figures.tables(found, opts.length),
    )


def worst_ratio(found: Sequence[Learned], inputs: int, length: int) -> float:
    """Largest loss, in units of the least that can be had with the last ``inputs`` numbers."""
    return max(learned.loss / least_loss(inputs, length, learned.task.target) for learned in found)


def claims(opts: TrainingOptions, found: Sequence[Learned]) -> tuple[Claim, ...]:
    """Losses below what is possible without memory, and without all of it."""
    said = [
        Claim(
            "Every network beats the best constant prediction, whose loss is the variance of the labels",
            worst_ratio(found, 0, opts.length),
            1.0,
            how="largest ratio of the losses",
            why="The mean of n independent numbers has variance 1/n.",
        ),
        Claim(
            "Every network remembers: it beats the best predictor that sees the current number only",
            worst_ratio(found, 1, opts.length),
            1.0,
            how="largest ratio of the losses",
            why="Of the label at step t, a part of variance $t/(t + 1)^2$ cannot be known from $x_t$.",
        ),
    ]
    if last := [learned for learned in found if learned.task.target == "last"]:
        said.append(
            Claim(
                f"With the loss at the last step, every network uses all {opts.length} numbers: it beats "
                "the best predictor that does not see the first",
                worst_ratio(last, opts.length - 1, opts.length),
                1.0,
                how="largest ratio of the losses",
                why="$x_0$ is independent of the others and $x_0/T$ is a part of the label: without it no "
                "predictor has a loss below $1/T^2$.",
            )
        )
    return tuple(said)


EXPERIMENT = Experiment(
    question="How do networks learn the running average, and how does their gradient flow change?",
    options=TrainingOptions,
    run=run,
    letter="S3",
    predict="A network learns the mean of 10 numbers from its error at the last step alone. Draw the "
    "norm of the gradient, relative to that at the last step, against the time step: before training, "
    "during, and after it. Does training make the gradient reach further back, or less far? Then draw "
    "the loss against the training step.",
)
