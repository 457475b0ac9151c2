"""Gradient flow (S4): ‖∂L/∂h_t‖ on the way back through time, before and after training.

For each nonlinearity, spectral radius and target, a recurrent regressor on the running average task
is measured, trained and measured again, always on the same batch. Beside each measured curve stand
the slope that the largest eigenvalue of W_h predicts and, without a nonlinearity, the closed form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING, worst
from experiments.drawing.tables import Column, Figure, Table
from experiments.questions.gradient_flow import figures as views
from experiments.questions.gradient_flow import losses
from experiments.questions.gradient_flow.words import headline, sentences
from experiments.regressors.data import RandomSequences, Source, load_sequences
from experiments.regressors.flow import FACTOR, Target
from experiments.regressors.networks import Cell, InitialWeights, Kind, Network, Nonlinearity
from experiments.regressors.study import Measurement, Study, study

DEFAULT_LENGTH = 30

TOLERANCE = {"float64": ROUNDING, "float32": 2.0**29 * ROUNDING}
"""How far a measurement and its closed form may be apart, relative to the norm at each step: the
roundings of float32 are 2^29 times as coarse as those of float64."""


@dataclass(frozen=True, kw_only=True)
class GradientFlowOptions(options.Options):
    """Options of gradient-flow."""

    cell: Cell = "rnn"
    """The recurrent layer."""

    nonlinearity: tuple[Nonlinearity, ...] = ("identity", "tanh", "relu")
    """σ of a vanilla RNN: one or several."""

    spectral_radius: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Largest eigenvalue magnitude that W_h starts with: one or several."""

    targets: Literal["last", "all", "both"] = "both"
    """Steps that enter the loss: the last one, all of them, or a network for each."""

    length: int | None = None
    """Time steps T. By default 30, or all that --data has."""

    hidden_size: int = 32
    """Hidden units H."""

    layers: int = 1
    """Recurrent layers above each other."""

    initial_weights: InitialWeights = "orthogonal"
    """W_h before it is scaled: all eigenvalues equally large, or spread over a disk."""

    batch: int = 32
    """Sequences B in a batch."""

    steps: int = 150
    """Training steps. With 0 the untrained networks alone are measured."""

    learning_rate: float = 0.003
    """Step size of Adam."""

    dtype: Literal["float64", "float32"] = "float64"
    """Floating-point type of everything."""

    data: Path | None = None
    """Your own sequences: a .csv file with one in each row, or a .npy file of shape (N, T) or
    (N, T, I). The task is still the running average."""

    standardize: bool = True
    """Shift and scale each feature of --data to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.one_or_more("nonlinearity", self.nonlinearity)
        if self.cell == "lstm" and self.nonlinearity != ("identity", "tanh", "relu"):
            raise OptionError("--nonlinearity is for --cell rnn; an LSTM's are fixed")
        options.positive("spectral-radius", *self.spectral_radius)
        options.at_least("length", DEFAULT_LENGTH if self.length is None else self.length, 2)
        options.at_least("hidden-size", self.hidden_size, 1)
        options.at_least("layers", self.layers, 1)
        options.at_least("batch", self.batch, 1)
        options.at_least("steps", self.steps, 0)
        options.positive("learning-rate", self.learning_rate)

    def networks(self) -> Iterator[Network]:
        """Every combination asked for, once."""
        targets: tuple[Target, ...] = ("last", "all")
        kinds: tuple[Kind, ...] = ("lstm",) if self.cell == "lstm" else self.nonlinearity
        for target, radius, kind in itertools.product(
            targets if self.targets == "both" else (self.targets,),
            sorted(set(self.spectral_radius)),
            dict.fromkeys(kinds),
        ):
            yield Network(
                kind,
                radius,
                target,
                self.hidden_size,
                self.layers,
                self.initial_weights,
                self.dtype,
            )

    def source(self) -> Source:
        """Where the batches come from; raises DataError for a file that cannot be used."""
        if self.data is None:
            return RandomSequences(self.batch, self.length or DEFAULT_LENGTH, self.dtype)
        return load_sequences(
            self.data,
            batch=self.batch,
            length=self.length,
            standardize=self.standardize,
            dtype=self.dtype,
        )


def run(opts: GradientFlowOptions, progress: Progress) -> Result:
    """Measure every network and draw, count and say what was found."""
    source = opts.source()
    opts = replace(opts, length=source.length)
    networks = list(opts.networks())
    task = progress.add_task("", total=len(networks) * (opts.steps + 1))
    studies = []
    for count, network in enumerate(networks, start=1):
        name = network.name.replace("loss at ", "")  # for a line that fits a terminal
        progress.update(task, description=f"{count} of {len(networks)}: {name}")
        found = study(
            network,
            source,
            seed=opts.seed,
            steps=opts.steps,
            learning_rate=opts.learning_rate,
            advance=lambda: progress.advance(task),
        )
        studies.append(found)
        progress.update(task, completed=count * (opts.steps + 1))
    measurements = [m for found in studies for m in found.measurements]
    return Result(
        options=opts,
        headline=headline(measurements),
        reading=sentences(studies),
        claims=claims(opts, measurements),
        figures=figures(opts, studies),
        tables=tables(opts, studies),
    )


def claims(opts: GradientFlowOptions, measurements: Sequence[Measurement]) -> tuple[Claim, ...]:
    """What the linear networks must fulfil; the thresholds follow from rounding."""
    linear = [m for m in measurements if m.network.nonlinearity == "identity"]
    errors = [e for m in linear if (e := worst(m.flow.closed_form_error)) is not None]
    found = []
    if errors:
        found.append(
            Claim(
                "Without a nonlinearity, the measured ∂L/∂h_t is the closed form "
                "Σ_k 2(ŷ_k − y_k)/n W_fᵀ (W_hᵀ)^(k−t) (largest relative error of any step)",
                measured=max(errors),
                threshold=TOLERANCE[opts.dtype],
                why=f"The threshold is rounding in {opts.dtype}, with room for long products.",
            )
        )
    slopes = [
        abs(m.flow.measured_slope - m.flow.predicted_slope)
        for m in linear
        if (m.network.target, m.moment, m.layer) == ("last", "before", m.network.layers)
        and math.isfinite(m.flow.measured_slope)
    ]
    if slopes and opts.initial_weights == "orthogonal":
        found.append(
            Claim(
                "Before training, with the loss at the last step, the linear network's gradient "
                "has the slope log10 |λ|max (largest difference, in decades per step)",
                measured=max(slopes),
                threshold=TOLERANCE[opts.dtype],
                why="The eigenvalues of a scaled orthogonal W_h are all equally large, so only "
                "rounding is between the two. After training they are not, and the slope is "
                "reached at long lags only.",
            )
        )
    return tuple(found)


def figures(opts: GradientFlowOptions, studies: Sequence[Study]) -> tuple[Figure, ...]:
    """Gradient before and after training, hidden states, losses."""
    measurements = [m for found in studies for m in found.measurements]
    size = f"T = {opts.length}, H = {opts.hidden_size}"
    drawn = gradient_figures(opts, measurements, size)
    states = "hidden and cell state" if opts.cell == "lstm" else "hidden state"
    drawn.append(
        Figure(
            "hidden_states",
            f"The {states} at each time step",
            "Norm over the batch and the hidden units. "
            + (
                "Every unit of h is in [−1, 1]; c has no bound."
                if opts.cell == "lstm"
                else "tanh keeps every unit in [−1, 1]; the others have no bound."
            ),
            views.moments_chart(
                measurements, "state", f"The size of the {states} at each time step", size
            ),
        )
    )
    if opts.steps:
        drawn.append(
            Figure(
                "loss",
                "The loss during training",
                "Mean squared error of the running average on each training batch.",
                losses.loss_chart(studies, "The loss during training", size),
            )
        )
    return tuple(drawn)


def gradient_figures(
    opts: GradientFlowOptions, measurements: Sequence[Measurement], size: str
) -> list[Figure]:
    """Gradient before training, after it, and both in one."""
    before = [m for m in measurements if m.moment == "before"]
    after = [m for m in measurements if m.moment == "after"]
    reach = "How much of the gradient reaches each time step"
    backwards = f"before training, {size}; the gradient flows from right to left"
    trained = f"after {opts.steps} training steps, {size}"
    both = "The gradient before and after training"
    first = Figure(
        "gradient_flow",
        "The gradient at each time step, before training",
        "The gradient starts at the last step, on the right, and flows to the left. "
        f"{marks(before)}A gap in a curve is a gradient that is exactly zero, or no finite number.",
        views.gradient_chart(before, reach, backwards),
    )
    if not after:
        return [first]
    second = Figure(
        "gradient_flow_after",
        "The gradient at each time step, after training",
        "The same on the same batch, with what the networks have learned"
        + (": each has its own W_h now, and so its own dashed slope." if slope(after) else "."),
        views.gradient_chart(after, reach, trained),
    )
    third = Figure(
        "gradient_before_after",
        "What training changed",
        "The measured curves of the two figures above.",
        views.moments_chart(measurements, "gradient", both, f"{opts.steps} training steps, {size}"),
    )
    return [first, second, third]


def slope(measurements: Sequence[Measurement]) -> bool:
    """Whether a slope is drawn beside any curve."""
    return any(m.has_slope for m in measurements)


def marks(measurements: Sequence[Measurement]) -> str:
    """What is drawn beside the curves, in sentences."""
    said = ""
    if slope(measurements):
        said += (
            "Dashed: the slope of the largest eigenvalue magnitude |λ|max of W_h, for the loss at the "
            "last step; where every step has a loss, their gradients add up to another curve. "
        )
    if any(m.flow.closed_form is not None for m in measurements):
        said += (
            "Circles: the closed form of the linear network, computed without the autodiff engine. "
        )
    return said


RADIUS = Column("spectral_radius", "spectral radius", "g")
"""What W_h starts with."""

SUMMARY = (
    Column("moment", "training"),
    Column("eigenvalue", "|λ|max", ".3f"),
    Column("gradient_last_log10", "‖∂L/∂h_T‖", log10=True),
    Column("gradient_first_log10", "‖∂L/∂h_1‖", log10=True),
    Column("decades_per_step", "decades/step", "+.3f"),
    Column("predicted_decades_per_step", "log10 |λ|max", "+.3f"),
    Column("verdict", "the gradient"),
    Column("closed_form_error", "closed form ±", ".0e"),
    Column("loss", "loss", ".3g"),
)

LSTM_SUMMARY = (
    Column("moment", "training"),
    Column("gradient_last_log10", "at step T", log10=True),
    Column("gradient_first_log10", "at step 1", log10=True),
    *(column for column in SUMMARY if column.key in {"decades_per_step", "verdict", "loss"}),
)
"""The columns for the gradient by h or c; an LSTM has four W_h, and no closed form."""

LSTM_NOTE = (
    f"The gradient vanishes or explodes if its norm at step 1 is more than {FACTOR} times smaller or "
    "larger than at step T. With a loss at every step T gradients add up, so there it explodes "
    "only if the slope, continued over all steps, exceeds the same factor. It dies where it is "
    "exactly zero. Decades per step: fitted to the last third of the lags, counted backwards in "
    "time."
)
SUMMARY_NOTE = (
    f"{LSTM_NOTE} With the loss at the last step alone, log10 |λ|max is to be compared with them. "
    "Closed form: largest relative error of any step."
)


def tables(opts: GradientFlowOptions, studies: Sequence[Study]) -> tuple[Table, ...]:
    """Numbers per network for people; numbers per time step and training step for programs."""
    measurements = [m for found in studies for m in found.measurements]
    lstm = opts.cell == "lstm"
    keys = [Column("nonlinearity", "cell" if lstm else "nonlinearity"), Column("target", "loss at")]
    if opts.layers > 1:
        keys.append(Column("layer", "layer"))
    if lstm:
        keys.append(Column("state", "state"))
    verdicts, radii = views.verdict_rows(measurements)
    return (
        Table(
            "verdicts",
            "What becomes of the gradient on its way back, before → after training",
            verdicts,
            (*keys, *(Column(radius, radius) for radius in radii)),
            "×: how large the gradient is at step 1, in units of that at step T."
            if lstm
            else "×: how large ‖∂L/∂h_1‖ is, in units of ‖∂L/∂h_T‖.",
            printed=True,
        ),
        Table(
            "summary",
            "Each network in numbers",
            views.summary_rows(measurements),
            (*keys, RADIUS, *(LSTM_SUMMARY if lstm else SUMMARY)),
            LSTM_NOTE if lstm else SUMMARY_NOTE,
        ),
        Table("flow", "Each layer at each time step", views.step_rows(measurements)),
        *([Table("loss", "Each training step", losses.loss_rows(studies))] * bool(opts.steps)),
    )


EXPERIMENT = Experiment(
    question="How does the gradient of the loss change on its way back through time, "
    "and what does training change?",
    options=GradientFlowOptions,
    run=run,
)
