"""Training: how RNNs and LSTMs learn the running average, and how their gradient flow changes.

One- and two-layer networks learn to predict the mean so far, at every step or at the last one
alone. Since the numbers are independent, a loss says how many of them a network must be using.
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
from experiments.drawing.tables import power_text
from experiments.drawing.words import between, counts
from experiments.questions.training import figures as views
from experiments.questions.training.measure import Learned, Task, inputs_used, learn, least_loss
from experiments.regressors.flow import TARGET_TEXT, Target
from experiments.regressors.networks import Cell

MOST_CELLS = 20_000
"""Marks that a heatmap may have for the report to stay quick: fewer moments where T is long."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(options.NetworkOptions):
    """Options of training."""

    cell: tuple[Cell, ...] = ("rnn", "lstm")
    """The recurrent layers: one or both."""

    layers: tuple[int, ...] = (1, 2)
    """How many of them above each other: one number or several."""

    targets: tuple[Target, ...] = ("all", "last")
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
    """Moments of training at which the gradient flow of the first is measured, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cell", "layers", "targets"):
            options.one_or_more(name, getattr(self, name))
        for layers in self.layers:
            options.at_least("layers", layers, 1)
        options.at_least("length", self.length, 2)
        for name in ("hidden_size", "steps", "moments"):
            options.at_least(name.replace("_", "-"), getattr(self, name), 1)
        options.positive("learning-rate", self.learning_rate)

    def tasks(self) -> list[Task]:
        """Every network, once."""
        kinds = itertools.product(
            self.seeds,
            dict.fromkeys(self.targets),
            sorted(set(self.layers)),
            dict.fromkeys(self.cell),
        )
        return [Task(cell, layers, target, seed) for seed, target, layers, cell in kinds]

    @property
    def watched(self) -> int:
        """Moments at which the flow is measured, fewer for long sequences."""
        panels = len(set(self.cell)) * len(set(self.targets)) * sum(set(self.layers))
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
        headline=headline(opts, found),
        reading=sentences(opts, found),
        claims=claims(opts, found),
        figures=views.figures(shown, opts.batch, opts.length, opts.steps, size),
        tables=views.tables(found, opts.length),
    )


def worst_ratio(found: Sequence[Learned], inputs: int, length: int) -> float:
    """Largest loss, in units of the least that can be had with the last ``inputs`` numbers."""
    return max(learned.loss / least_loss(inputs, length, learned.task.target) for learned in found)


def claims(opts: TrainingOptions, found: Sequence[Learned]) -> tuple[Claim, ...]:
    """Losses below what is possible without memory, and without all of it."""
    said = [
        Claim(
            "Every network beats the best constant predictor, whose loss is the variance of the labels "
            "(largest ratio of the losses)",
            worst_ratio(found, 0, opts.length),
            1.0,
            why="The mean of t independent numbers has variance 1/t.",
        ),
        Claim(
            "Every network remembers: it beats the best predictor that sees the current number only "
            "(largest ratio of the losses)",
            worst_ratio(found, 1, opts.length),
            1.0,
            why="Of the label at step t, a part of variance (t − 1)/t² cannot be known from x_t.",
        ),
    ]
    if last := [learned for learned in found if learned.task.target == "last"]:
        said.append(
            Claim(
                f"With the loss at the last step, every network uses all {opts.length} numbers: it beats "
                "the best predictor that does not see the first (largest ratio of the losses)",
                worst_ratio(last, opts.length - 1, opts.length),
                1.0,
                why="x_1 is independent of the others and x_1/T is a part of the label: without it no "
                "predictor has a loss below 1/T².",
            )
        )
    return tuple(said)


def needed(learned: Learned, length: int) -> int:
    """Numbers that a network must be shown to use for every claim about it to hold."""
    return length if learned.task.target == "last" else min(2, length)


def behind(opts: TrainingOptions, found: Sequence[Learned]) -> list[str]:
    """Which networks have not learned the task, and what may help them; nothing if all have."""
    names = [
        f"{learned.task.name}, {TARGET_TEXT[learned.task.target]}, seed {learned.task.seed}"
        for learned in found
        if inputs_used(learned.loss, opts.length, learned.task.target)
        < needed(learned, opts.length)
    ]
    if not names:
        return []
    return [
        f"Not learned yet by {len(names)} of {len(found)} networks ({'; '.join(names[:3])}"
        f"{'; …' if len(names) > 3 else ''}), so claims about all of them cannot hold. A long sequence "
        f"needs more --steps (now {opts.steps}); where the loss jumps up and down, or H is large, a "
        f"smaller --learning-rate (now {opts.learning_rate:g}) helps."
    ]


def proven(used: Sequence[int]) -> str:
    """What the losses of some networks prove, from how many numbers each must use.

    >>> proven([0, 0])
    'no loss proves that a network uses any of the numbers'
    >>> proven([0, 2, 5])
    'the losses of 2 of 3 networks prove that they use at least 2 to 5 of the last numbers'
    >>> proven([3, 3])
    'the losses prove that networks use at least 3 of the last numbers'
    """
    some = [count for count in used if count]
    if not some:
        return "no loss proves that a network uses any of the numbers"
    if len(some) < len(used):
        return (
            f"the losses of {len(some)} of {len(used)} networks prove that they use at least "
            f"{counts(some)} of the last numbers"
        )
    return f"the losses prove that networks use at least {counts(some)} of the last numbers"


def headline(opts: TrainingOptions, found: Sequence[Learned]) -> str:
    """What was learned, and what became of the reach of the gradient."""
    parts = []
    for target in dict.fromkeys(opts.targets):
        losses = [learned.loss for learned in found if learned.task.target == target]
        constant = least_loss(0, opts.length, target)
        parts.append(f"{between(losses)} of {constant:.2g} ({TARGET_TEXT[target]})")
    said = f"After {opts.steps} training steps the loss is {' and '.join(parts)}"
    watched = [learned for learned in found if len(learned.moments)]
    shown = min(watched, key=lambda learned: learned.reach(0))
    return (
        f"{said}. The gradient that reached the first step least, ‖∂L/∂h_1‖ = "
        f"{power_text(shown.reach(0))} ‖∂L/∂h_T‖ before training ({shown.task.name}, "
        f"{TARGET_TEXT[shown.task.target]}), is {power_text(shown.reach(-1))} of it after."
    )


def sentences(opts: TrainingOptions, found: Sequence[Learned]) -> tuple[str, ...]:
    """Cells and layers compared, memory proven, and training that ended early."""
    said = behind(opts, found)
    for target in dict.fromkeys(opts.targets):
        chosen = [learned for learned in found if learned.task.target == target]
        best = min(chosen, key=lambda learned: learned.loss)
        used = [inputs_used(learned.loss, opts.length, target) for learned in chosen]
        said.append(
            f"{TARGET_TEXT[target].capitalize()}: the smallest loss on fresh sequences is "
            f"{best.loss:.2g} ({best.task.name}); {proven(used)}."
        )
        watched = [learned for learned in chosen if len(learned.moments)]
        said += [
            f"{TARGET_TEXT[target].capitalize()}, {learned.task.name}: ‖∂L/∂h_1‖ / ‖∂L/∂h_T‖ went from "
            f"{power_text(learned.reach(0))} to {power_text(learned.reach(-1))} in the first layer."
            for learned in watched
            if np.isfinite([learned.reach(0), learned.reach(-1)]).all()
        ]
    said += [
        f"Training ended early for {learned.task.name}, {TARGET_TEXT[learned.task.target]}: "
        f"{learned.training.stopped}."
        for learned in found
        if learned.training.stopped
    ]
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
