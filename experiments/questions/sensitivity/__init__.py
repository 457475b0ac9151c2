"""Sensitivity: a state that remembers for long depends strongly on λ, though no gradient grows.

A linear unit h_t = λ h_{t−1} + x_t multiplies gradients by λ < 1 at every step, so none explodes. Yet λ is
used at every step, and the contributions of its uses to dh_{T−1}/dλ add up: the longer the unit remembers,
the more uses count, and the more alike they are. This is measured use by use, then with two remedies, and
in an LSTM, whose cell path has the second remedy built in. Its hidden path has not: with W_h as it is,
single units of some seeds are a hundred times as sensitive and more (``--seed 20``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.options import NetworkOptions
from experiments.app.result import Claim, Result, identity
from experiments.questions.sensitivity import figures, words
from experiments.questions.sensitivity.lstm_cells import Cells, see_cells
from experiments.questions.sensitivity.measure import (
    FORMS,
    Unit,
    fitted_power,
    memory_of,
    see_unit,
    steps_for,
    white,
)
from experiments.regressors.networks import gate_of

GATED = 2.0
"""Twice what constant gates can give, which is 1 (see :func:`claims`): room for gates that move."""

LEAST = 0.001
"""The least λ: with less a unit remembers nothing, and its dependence on ν underflows."""

APART = 1.01
"""The least ratio of the longest memory to the shortest that a slope is fitted to."""

LONGEST = 30_000
"""Most time steps of a unit: more fill the memory of a small machine."""


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(NetworkOptions):
    """Options of sensitivity."""

    decay: tuple[float, ...] = (0.5, 0.9, 0.97, 0.99, 0.997, 0.999)
    """λ of the linear units, from 0.001 to below 1: two or more."""

    forget_bias: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    """Added to the biases of the LSTMs' forget gates: one or several."""

    span: float = 10.0
    """Time steps that each unit and cell is run for, in units of its memory 1/(1 − λ) or 1/(1 − σ(b))."""

    hidden_size: int = 8
    """Hidden units H of an LSTM."""

    batch: int = 256
    """Sequences B in a batch of the linear units; the LSTMs read the first 64."""

    repeats: int = 2
    """LSTMs drawn for each forget bias, with seed, seed + 1, …"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.finite("forget_bias")
        self.positive("span")
        self.at_least(1, "hidden_size")
        for value in self.decay:
            if not LEAST <= value < 1:
                raise OptionError(f"--decay must be from {LEAST:g} to below 1, not {value}")
        self.one_or_more("decay")
        if memory_of(max(self.decay)) < APART * memory_of(min(self.decay)):
            raise OptionError(
                "--decay needs at least two values with different memories 1/(1 − λ): a slope is fitted"
            )
        longest = max([*self.decays, *map(gate_of, self.forget_bias)])
        if longest == 1 or steps_for(memory_of(longest), self.span) > LONGEST:
            raise OptionError(
                f"--span {self.span:g} times the longest memory is more than {LONGEST:,} time steps; "
                "choose a smaller --span, --decay or --forget-bias"
            )

    @property
    def decays(self) -> list[float]:
        """Each λ once."""
        return sorted(set(self.decay))

    @property
    def biases(self) -> list[float]:
        """Forget biases, once each."""
        return sorted(set(self.forget_bias))


def run(opts: SensitivityOptions, progress: Progress) -> Result:
    """Measure every form of the unit at every λ, then the LSTMs."""
    cells = list(itertools.product(opts.biases, opts.seeds))
    task = progress.add_task("units", total=len(opts.decays) * len(FORMS) + len(cells))
    units = []
    for decay in opts.decays:
        inputs = white(opts, decay)
        for form in FORMS:
            progress.update(task, description=f"λ = {decay:g}")
            units.append(see_unit(form, decay, inputs))
            progress.advance(task)
    gated = []
    for bias, seed in cells:
        progress.update(task, description=f"forget bias {bias:g}")
        inputs = white(opts, gate_of(bias))[:, : figures.LSTM_SEQUENCES]
        gated.append(see_cells(bias, seed, opts.hidden_size, inputs))
        progress.advance(task)
    return Result(
        options=opts,
        headline=words.headline(units),
        reading=words.sentences(opts, units, gated),
        claims=claims(opts, units, gated),
        figures=figures.figures(units, gated, f"B = {opts.batch}, seed {opts.seed}"),
        tables=figures.tables(units, gated),
    )


def claims(
    opts: SensitivityOptions, units: Sequence[Unit], gated: Sequence[Cells]
) -> tuple[Claim, ...]:
    """No gradient grows, a power for each form, what gates do, and that the parts add up."""
    said = [
        Claim(
            "No gradient grows on its way back",
            max(float(np.abs(unit.gradient).max()) for unit in units),
            1.0,
            how="Largest $|∂h_{T−1}/∂h_t|$ of any linear unit at any step",
            why="It is $λ^{T−1−t}$, and λ is below 1.",
        ),
    ]
    for form in FORMS:
        power = fitted_power([unit for unit in units if unit.form is form], opts.batch)
        said.append(
            Claim(
                f"Parameter {form.name}: $dh_{{T−1}}/dθ$ grows as the memory to the power {form.power:g}",
                abs(power.fitted - form.power),
                power.bound,
                how=f"Distance of the fitted power, {power.fitted:.3f}, from {form.power:g}",
                why="The bound comes before the measurement: from the closed form, which is a power "
                "only as λ approaches 1, and four standard errors of a standard deviation.",
            )
        )
    return (
        *said,
        Claim(
            "However long an LSTM's cell path remembers, its dependence on the forget bias stays bounded",
            max(float(cells.alone.max()) for cells in gated),
            GATED,
            how="$∂c_{T−1}/∂b_f$ relative to $c_{T−1}$ with $W_h = 0$, largest of any unit and network",
            why="The slope of the gate $σ(b)$, $σ(1 − σ)$, shrinks as the memory grows. With constant "
            "gates $f$ the ratio is $f √(1 + f^2)/(1 + f)$ for white inputs and $f$ for constant ones: "
            "below 1. Twice that was set before looking, since gates move.",
        ),
        identity(
            "The contributions of all uses add up to $dh_{T−1}/dθ$ by hand, a polynomial in λ",
            max(unit.error for unit in units),
            "Largest relative error of any unit over the batch",
        ),
    )


EXPERIMENT = Experiment(
    question="Why is a network with a long memory sensitive to its weights, even where no gradient "
    "explodes?",
    options=SensitivityOptions,
    run=run,
    predict="$h_t = λ h_{t−1} + x_t$ with λ = 0.9, 0.99 and 0.999, and random inputs. No gradient "
    "$∂h_{T−1}/∂h_t$ is ever above 1. How does the size of $dh_{T−1}/dλ$ grow when the memory 1/(1 − λ) "
    "grows tenfold: not at all, tenfold, or more? And what does the use of λ at one step contribute to it?",
)
