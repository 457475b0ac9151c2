"""LSTM (Q1d): a vanilla RNN and an LSTM side by side, on the same data and sizes.

Hidden states stay in (−1, 1), cell states need not. The gradient vanishes in both. How fast depends on
the initial values: the forget bias, and how large the weights are. Weights are made larger until the
usual picture, an LSTM that vanishes more slowly and never explodes, breaks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.result import Claim, Result
from experiments.drawing.words import counted
from experiments.questions.lstm import figures, words
from experiments.questions.lstm.measure import NAMED_BIAS, Seen, ahead, pick, see
from experiments.regressors.flow import CONVENTION, FACTOR_DECADES
from experiments.regressors.networks import Cell
from experiments.regressors.untrained import UntrainedOptions

SWEEP = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Factors on the weights that are always measured, to find where the usual picture breaks."""


@dataclass(frozen=True, kw_only=True)
class LSTMOptions(UntrainedOptions):
    """Options of lstm."""

    length: int = 50
    """Time steps T."""

    hidden_size: int = 32
    """Hidden units H."""

    batch: int = 32
    """Sequences B in a batch."""

    repeats: int = 3
    """Networks drawn of each kind, with seed, seed + 1, …: claims are about all of them, curves
    show the first."""

    forget_bias: tuple[float, ...] = (0.0, 1.0)
    """Added to the biases of the LSTM's forget gates: one or several."""

    scale: tuple[float, ...] = (1.0, 4.0, 8.0)
    """Factors on W_h and W_x in the curves. Initial values are uniform in ±1/√H."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.finite("forget_bias")
        self.positive("scale")


def run(opts: LSTMOptions, progress: Progress) -> Result:
    """Measure every cell, forget bias, scale of the weights and seed."""
    biases = sorted({NAMED_BIAS, *opts.forget_bias})
    kinds: list[tuple[Cell, float]] = [("rnn", 0.0), *(("lstm", b) for b in biases)]
    scales = sorted({1.0, *SWEEP, *opts.scale})
    settings = list(itertools.product(kinds, scales, opts.seeds))
    task = progress.add_task("RNN and LSTM", total=len(settings))
    found = []
    for (cell, bias), scale, seed in settings:
        found.append(see(opts, cell, bias, scale, seed))
        progress.advance(task)
    drawn = f"untrained, {opts.drawn}"
    seeds = f"untrained, {opts.size}, {counted(opts.repeats, 'seed')}"
    return Result(
        options=opts,
        headline=words.headline(found),
        reading=words.sentences(found),
        claims=claims(found),
        figures=figures.figures(found, opts.forget_bias, opts.scale, drawn, seeds),
        tables=figures.tables(found),
    )


def claims(found: Sequence[Seen]) -> tuple[Claim, ...]:
    """Claims on the size of the states, then on the gradient at the usual initial values."""
    memory = [s.states["c"].largest for s in found if s.cell == "lstm"]
    bound = max(
        (s.states["h"].largest / np.tanh(s.states["c"].largest)).max()
        for s in found
        if (s.cell, s.scale) == ("lstm", 1.0)
    )
    steps = np.arange(1, len(memory[0]) + 1)
    lstm = [state for s in pick(found, "lstm", 1.0) for state in s.states.values()]
    usual = f"Untrained, forget bias {NAMED_BIAS:g}, weights × 1"
    return (
        Claim(
            "No hidden state of an LSTM leaves [−1, 1]",
            float(bound),
            1.0,
            how="Largest $|h_t|$ over tanh of the largest $|c_t|$, any step of any LSTM with weights × 1",
            why="$h_t = o_t ∘ tanh c_t$, and the output gate is below 1. Networks with larger weights are "
            "left out: floating point rounds tanh to 1 itself beyond 19.",
        ),
        Claim(
            "Cell states do leave [−1, 1]",
            float(max(c.max() for c in memory)),
            1.0,
            "at least",
            how="Largest $|c_t|$ of any LSTM",
            why="1 is the bound of the hidden state.",
        ),
        Claim(
            "Cell states grow by less than 1 a step",
            float(max((c / steps).max() for c in memory)),
            1.0,
            how="Largest $|c_t|/(t + 1)$ of any LSTM",
            why="$|c_t| ≤ f|c_{t−1}| + i|g| < |c_{t−1}| + 1$, and there is no cell state before $t = 0$.",
            about="computation",
        ),
        Claim(
            "The LSTM's gradients vanish",
            max(state.flow.growth for state in lstm),
            -FACTOR_DECADES,
            how=f"{usual}: decades that $‖∂L/∂h_t‖$ or $‖∂L/∂c_t‖$ gains from the last step back to the "
            "first, most of any seed",
            why=CONVENTION,
        ),
        Claim(
            "They vanish more slowly than the RNN's",
            min(ahead(found, 1.0)),
            FACTOR_DECADES,
            "at least",
            how=f"{usual}: those decades of the LSTM minus those of the RNN, least of any seed",
            why=f"{CONVENTION} Both see the same batch.",
        ),
        Claim(
            "They do not explode",
            max(state.rise for state in lstm),
            FACTOR_DECADES,
            how=f"{usual}: decades that $‖∂L/∂h_t‖$ or $‖∂L/∂c_t‖$ is above its value at the last step, at "
            "any step",
            why=CONVENTION,
        ),
    )


EXPERIMENT = Experiment(
    question="What does an LSTM do to the gradient's way back through time, beside a vanilla RNN?",
    options=LSTMOptions,
    run=run,
    letter="Q1d",
    predict="Draw the norm of the gradient (a logarithmic axis) against the time step, with the loss "
    "at the last of 50 steps, for an RNN and an LSTM of the same size, untrained. Which of the two "
    "is steeper? And what becomes of both when all weights are made 8 times as large?",
)
