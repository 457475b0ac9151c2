"""Gradient flow: ‖∂L/∂h_t‖ on the way back through time, before and after training.

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

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.options import Options
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING, worst
from experiments.questions.gradient_flow import figures, words
from experiments.questions.gradient_flow.measure import study
from experiments.regressors.data import RandomSequences, Source, load_sequences
from experiments.regressors.flow import Target
from experiments.regressors.measurement import Measurement
from experiments.regressors.networks import Cell, InitialWeights, Network, check_kinds

DEFAULT_LENGTH = 30

TOLERANCE = {"float64": ROUNDING, "float32": 2.0**29 * ROUNDING}
"""How far a measurement and its closed form may be apart, relative to the norm at each step: the
roundings of float32 are 2^29 times as coarse as those of float64."""


@dataclass(frozen=True, kw_only=True)
class GradientFlowOptions(Options):
    """Options of gradient-flow."""

    cell: Cell = "rnn"
    """The recurrent layer: rnn, lstm, or your own subclass of tg.nn.RecurrentLayer, written
    my_module:MGU."""

    nonlinearity: tuple[str, ...] = ("identity", "tanh", "relu")
    """σ of a vanilla RNN, one or several: identity, tanh, relu, or your own function, written
    my_module:f."""

    spectral_radius: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Largest eigenvalue magnitude of W_h before training: one or several."""

    target: tuple[Target, ...] = ("last", "all")
    """Steps that enter the loss, the last one or all of them: a network for each."""

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
    """Training steps. With 0 only the untrained networks are measured."""

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
        self.one_or_more("nonlinearity", "target")
        if self.cell != "rnn" and self.nonlinearity != ("identity", "tanh", "relu"):
            raise OptionError(f"--nonlinearity is for --cell rnn; those of {self.cell} are fixed")
        check_kinds(cells=(self.cell,), nonlinearities=self.nonlinearity)
        self.positive("spectral_radius", "learning_rate")
        self.at_least(2, "length")
        self.at_least(1, "hidden_size", "layers", "batch")
        self.at_least(0, "steps")

    def networks(self) -> Iterator[Network]:
        """Every combination asked for, once."""
        kinds = self.nonlinearity if self.cell == "rnn" else (self.cell,)
        for target, radius, kind in itertools.product(
            dict.fromkeys(self.target),
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
        """The source of the batches; raise DataError for a file that cannot be used."""
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
        headline=words.headline(measurements),
        reading=words.sentences(studies),
        claims=claims(opts, measurements),
        figures=figures.figures(opts, studies),
        tables=figures.tables(opts, studies),
    )


def claims(opts: GradientFlowOptions, measurements: Sequence[Measurement]) -> tuple[Claim, ...]:
    """Claims on the linear networks. The thresholds follow from rounding."""
    linear = [m for m in measurements if m.network.nonlinearity == "identity"]
    errors = [e for m in linear if (e := worst(m.flow.closed_form_error)) is not None]
    found = []
    if errors:
        found.append(
            Claim(
                "Without a nonlinearity, the measured $∂L/∂h_t$ is the closed form "
                "$Σ_k 2(ŷ_k − y_k)/n W_f^T (W_h^T)^{k−t}$",
                measured=max(errors),
                threshold=TOLERANCE[opts.dtype],
                how="largest relative error of any step",
                why=f"The threshold is rounding in {opts.dtype}, with room for long products.",
                about="computation",
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
                "Before training, each step back multiplies the linear network's gradient by "
                "$|λ|_{max}$, the largest eigenvalue magnitude of $W_h$",
                measured=max(slopes),
                threshold=TOLERANCE[opts.dtype],
                how="largest difference between the measured slope and $log_{10} |λ|_{max}$, in "
                "decades per step, with the loss at the last step",
                why="The eigenvalues of a scaled orthogonal $W_h$ are all equally large, so only "
                "rounding is between the two. After training they differ, and the slope is reached "
                "only after many steps back.",
            )
        )
    return tuple(found)


EXPERIMENT = Experiment(
    question="How does the gradient of the loss change on its way back through time, "
    "and what does training change?",
    options=GradientFlowOptions,
    run=run,
)
