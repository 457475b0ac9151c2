"""LSTM (Q1d): a vanilla RNN and an LSTM side by side, on the same data and sizes.

Hidden states stay in (−1, 1), cell states need not. The gradient vanishes in both, at rates that
initial values decide: the forget bias, and how large the weights are. They are swept until the
usual picture, an LSTM that vanishes more slowly and never explodes, breaks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result
from experiments.drawing.tables import power_text
from experiments.drawing.words import between, counted
from experiments.questions.lstm import figures as views
from experiments.questions.lstm.measure import NAMED_BIAS, Seen, ahead, keeps_more, pick, scales_of
from experiments.regressors.data import batch_of
from experiments.regressors.flow import FACTOR, FACTOR_DECADES, loss_of
from experiments.regressors.networks import CELL_TEXT, Cell, regressor
from experiments.regressors.states import state_curves
from experiments.regressors.untrained import UntrainedOptions

SWEEP = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""What weights are multiplied by to find where the picture breaks."""


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
    """What W_h and W_x are multiplied by in the curves. Initial values are uniform in ±1/√H."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.finite("forget-bias", *self.forget_bias)
        options.positive("scale", *self.scale)


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
        headline=headline(found),
        reading=sentences(found),
        claims=claims(found),
        figures=views.figures(found, opts.forget_bias, opts.scale, drawn, seeds),
        tables=views.tables(found),
    )


def see(opts: LSTMOptions, cell: Cell, forget_bias: float, scale: float, seed: int) -> Seen:
    """Measure one network."""
    model = regressor(cell, opts.hidden_size, seed, forget_bias=forget_bias, scale=scale)
    loss, _ = loss_of(model, batch_of(seed, opts.batch, opts.length), "last")
    if not np.isfinite(loss.item()):
        raise OptionError(f"The loss overflows with --scale {scale:g}; choose a smaller one")
    return Seen(cell, forget_bias, scale, seed, state_curves(loss))


def claims(found: Sequence[Seen]) -> tuple[Claim, ...]:
    """What holds by definition, and what is claimed of the initial values named."""
    memory = [s.states["c"].largest for s in found if s.cell == "lstm"]
    bound = max(
        (s.states["h"].largest / np.tanh(s.states["c"].largest)).max()
        for s in found
        if (s.cell, s.scale) == ("lstm", 1.0)
    )
    steps = np.arange(1, len(memory[0]) + 1)
    lstm = [state for s in pick(found, "lstm", 1.0) for state in s.states.values()]
    named = f"initial values in ±1/√H, forget bias {NAMED_BIAS:g}"
    factor = f"A factor of {FACTOR} over the whole length counts; this is a convention."
    return (
        Claim(
            "Hidden states stay within tanh of the cell states, and so in [−1, 1]: largest |h_t| over "
            "tanh of the largest |c_t|, any step of any LSTM, weights × 1",
            float(bound),
            1.0,
            why="h_t = o_t ∘ tanh c_t, and the output gate is below 1. Larger weights saturate both: "
            "floating point rounds tanh to 1 itself beyond 19.",
        ),
        Claim(
            "Cell states need not: largest |c_t| of any LSTM",
            float(max(c.max() for c in memory)),
            1.0,
            "at least",
            why="1 is the bound of the hidden state.",
        ),
        Claim(
            "They grow by less than 1 a step: largest |c_t|/t of any LSTM",
            float(max((c / steps).max() for c in memory)),
            1.0,
            why="|c_t| ≤ f|c_{t−1}| + i|g| < |c_{t−1}| + 1, and c_0 = 0.",
        ),
        Claim(
            f"The LSTM's gradients vanish ({named}): decades of ‖∂L/∂h_t‖ or ‖∂L/∂c_t‖ from T to 1, "
            "most of any seed",
            max(state.flow.growth for state in lstm),
            -FACTOR_DECADES,
            why=factor,
        ),
        Claim(
            f"They vanish more slowly than the RNN's ({named}): those decades of the LSTM's h and c minus "
            "those of the RNN's h, least of any seed",
            min(ahead(found, 1.0)),
            FACTOR_DECADES,
            "at least",
            why=factor + " Both see the same batch.",
        ),
        Claim(
            f"They do not explode ({named}): decades that ‖∂L/∂h_t‖ or ‖∂L/∂c_t‖ is above its "
            "value at T, at any step",
            max(state.rise for state in lstm),
            FACTOR_DECADES,
            why=factor,
        ),
    )


def headline(found: Sequence[Seen]) -> str:
    """The two rates at the initial values named, and where the picture ends."""
    rnns = pick(found, "rnn", 1.0)
    rnn = np.mean([s.states["h"].slope for s in rnns])
    lstm = np.mean([s.states["h"].slope for s in pick(found, "lstm", 1.0)])
    length, seeds = len(rnns[0].states["h"].largest), len(rnns)
    breaks = [k for k in scales_of(found) if k > 1 and keeps_more(found, k)[1] < seeds]
    said = (
        f"A step back changes the RNN's ∂L/∂h by {rnn:+.3f} decades and the LSTM's by {lstm:+.3f} "
        f"({_mean(seeds)}initial values in ±1/√H, forget bias {NAMED_BIAS:g}). Over {length} steps the "
        f"LSTM keeps {FACTOR} times as much as the RNN, or more, {_counted(found, 1.0)}"
    )
    if breaks:
        said += f", with weights {breaks[0]:g} times as large {_counted(found, breaks[0])}"
    return said + "."


def _mean(seeds: int) -> str:
    return f"mean of {seeds} seeds, " if seeds > 1 else ""


def _counted(found: Sequence[Seen], scale: float, bias: float = NAMED_BIAS) -> str:
    """For how many seeds the LSTM keeps more, of those whose RNN vanishes."""
    seeds = len(pick(found, "rnn", scale))
    vanishing, slower = keeps_more(found, scale, bias)
    if vanishing == seeds:
        return f"for {slower} of {counted(seeds, 'seed')}"
    if not vanishing:
        return "for no seed (no RNN vanishes)"
    return f"for {slower} of the {counted(vanishing, 'seed')} whose RNN vanishes"


def sentences(found: Sequence[Seen]) -> tuple[str, ...]:
    """The settings that break each claim, found by trying them."""
    said = []
    for bias in sorted({s.forget_bias for s in found if s.cell == "lstm"}):
        counts: dict[str, list[float]] = {}
        for scale in scales_of(found):
            counts.setdefault(_counted(found, scale, bias), []).append(scale)
        decades = ahead(found, 1.0, bias)
        said.append(
            f"With forget bias {bias:g} the LSTM keeps {FACTOR} times as much of its gradient from step "
            "T to step 1 as the RNN, or more, "
            + "; ".join(f"{count} with {_weights(scales)}" for count, scales in counts.items())
            + f". With weights × 1 it is ahead by {between(decades, '+.1f')} decades."
        )
    for cell in ("rnn", "lstm"):
        rises = {
            k: max(
                c.rise for s in found if (s.cell, s.scale) == (cell, k) for c in s.states.values()
            )
            for k in scales_of(found)
        }
        exploding = [k for k, rise in rises.items() if rise > FACTOR_DECADES]
        worst = max(rises, key=lambda k: rises[k])
        name = CELL_TEXT[cell]
        which = "seed" if cell == "rnn" else "seed and forget bias"
        said.append(
            f"The {name} explodes, too: with weights × {exploding[0]:g} the gradient at some step "
            f"exceeds {FACTOR} times that at T for some {which}; at × {worst:g} it is "
            f"up to {power_text(rises[worst])} times as large. No theorem forbids it."
            if exploding
            else f"The {name} does not explode at any scale tried, up to × {max(rises):g}."
        )
    return tuple(said)


def _weights(scales: Sequence[float]) -> str:
    return f"weights × {', '.join(f'{k:g}' for k in scales)}"


EXPERIMENT = Experiment(
    question="What does an LSTM do to the gradient's way back through time, beside a vanilla RNN?",
    options=LSTMOptions,
    run=run,
    letter="Q1d",
    predict="Draw the norm of the gradient (a logarithmic axis) against the time step, with the loss "
    "at the last of 50 steps, for an RNN and an LSTM of the same size, untrained. Which of the two "
    "is steeper? And what becomes of both when all weights are made 8 times as large?",
)
