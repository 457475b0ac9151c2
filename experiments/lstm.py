"""LSTM (Q1d): a vanilla RNN and an LSTM side by side, on the same data and sizes.

Hidden states stay in (−1, 1), cell states need not. The gradient vanishes in both, at rates that
initial values decide: the forget bias, and how large the weights are. They are swept until the
usual picture, an LSTM that vanishes more slowly and never explodes, breaks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
from rich.progress import Progress

from experiments.catalogue import Experiment
from experiments.common import cells, charts, options
from experiments.common.cells import CELL_TEXT, NAMED_BIAS, Cell, Seen, ahead, keeps_more, pick
from experiments.common.curves import Look, curves
from experiments.common.errors import OptionError
from experiments.common.result import Claim, Column, Figure, Result, Row, Table, power_text
from experiments.common.study import FACTOR, FACTOR_DECADES
from experiments.common.sweep_views import PALETTE, sweep_chart
from experiments.common.untrained import UntrainedOptions, log10

SWEEP = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""What weights are multiplied by to find where the picture breaks."""

LOOKS = {
    "RNN, h": Look(charts.VERMILLION),
    "LSTM, c": Look(charts.GREEN, width=5.0),
    "LSTM, h": Look(charts.BLUE, width=1.6),
}
"""The LSTM's c is wide and its h thin, above it: the two often run along together."""


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
        options.one_or_more("forget-bias", self.forget_bias)
        options.one_or_more("scale", self.scale)
        for scale in self.scale:
            options.positive("scale", scale)
        for bias in self.forget_bias:
            if not np.isfinite(bias):
                raise OptionError(f"--forget-bias must be a finite number, not {bias}")


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
    return Result(
        options=opts,
        headline=headline(found),
        reading=sentences(found),
        claims=claims(found),
        figures=figures(opts, found),
        tables=tables(found),
    )


def see(opts: LSTMOptions, cell: Cell, forget_bias: float, scale: float, seed: int) -> Seen:
    """Measure one network."""
    model = cells.regressor(cell, opts.hidden_size, seed, forget_bias=forget_bias, scale=scale)
    loss, _ = cells.loss_of(model, cells.batch_of(seed, opts.batch, opts.length), "last")
    if not np.isfinite(loss.item()):
        raise OptionError(f"The loss overflows with --scale {scale:g}; choose a smaller one")
    return Seen(cell, forget_bias, scale, seed, cells.state_curves(loss))


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
            "Hidden states stay within tanh of the cell states, and so in (−1, 1): largest |h_t| over "
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
        return f"for {slower} of {seeds} seed{'s' * (seeds > 1)}"
    if not vanishing:
        return "for no seed (no RNN vanishes)"
    return f"for {slower} of the {vanishing} seed{'s' * (vanishing > 1)} whose RNN vanishes"


def scales_of(found: Sequence[Seen]) -> list[float]:
    """The scales that were tried."""
    return sorted({s.scale for s in found})


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
            + f". With weights × 1 it is ahead by {min(decades):+.1f} to {max(decades):+.1f} decades."
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


def figures(opts: LSTMOptions, found: Sequence[Seen]) -> tuple[Figure, ...]:
    """Gradients, slopes against the size of the weights, states."""
    rows = curve_rows(opts, found)
    size = f"untrained, {opts.size}, seed {opts.seed}"
    return (
        Figure(
            "gradient_flow",
            "The gradient at each time step",
            "The loss is at the last step, on the right, and the gradient flows to the left. "
            "The RNN has no forget gate: its curve is the same in every row.",
            curve_chart(
                [{**row, "value": row["gradient"]} for row in rows],
                "gradient norm",
                title="How much of the gradient reaches each time step",
                subtitle=f"‖∂L/∂h_t‖ and ‖∂L/∂c_t‖, {size}; the gradient flows from right to left",
            ),
        ),
        Figure(
            "slopes",
            "Where the picture breaks",
            "Each point is a network, each line the mean over the seeds. Above 0 the gradient "
            "explodes. The claims are about weights × 1 and forget bias 1.",
            slope_chart(opts, found),
        ),
        Figure(
            "states",
            "The largest state at each time step",
            "Largest of all units and sequences. The grey line is 1: no hidden state gets past it, "
            "cell states do.",
            curve_chart(
                [{**row, "value": row["largest"]} for row in rows],
                "largest |h_t|, |c_t|",
                title="The largest hidden and cell state at each time step",
                subtitle=f"of all units and sequences, {size}",
                rules=(0.0,),
            ),
        ),
    )


def curve_chart(
    rows: Sequence[Row], y: str, *, title: str, subtitle: str, rules: tuple[float, ...] = ()
) -> alt.TopLevelMixin:
    """Draw logarithms of a number of every state, with level lines."""
    x = charts.steps(max(int(str(row["step"])) for row in rows))
    domain = charts.spanned([*rules, *(row["value"] for row in rows)])
    axis = charts.decades("value", y, domain)
    return curves(rows, LOOKS, x=x, y=axis, title=title, subtitle=subtitle, rules=rules)


def curve_rows(opts: LSTMOptions, found: Sequence[Seen]) -> list[Row]:
    """A row for each state and step of the networks whose curves are drawn."""
    rows: list[Row] = []
    for bias, scale in itertools.product(sorted(set(opts.forget_bias)), sorted(set(opts.scale))):
        for seen in pick(found, "rnn", scale)[:1] + pick(found, "lstm", scale, bias)[:1]:
            for name, state in seen.states.items():
                for index, value in enumerate(log10(state.largest)):
                    rows.append(
                        {
                            "column": f"weights × {scale:g}",
                            "row": f"forget bias {bias:g}",
                            "what": f"{CELL_TEXT[seen.cell]}, {name}",
                            "step": index + 1,
                            "gradient": charts.drawable(float(state.flow.gradient[index])),
                            "largest": charts.drawable(float(value)),
                        }
                    )
    return rows


def slope_chart(opts: LSTMOptions, found: Sequence[Seen]) -> alt.TopLevelMixin:
    """Decades per step of ∂L/∂h_t against what the weights are multiplied by."""
    rows: list[Row] = [
        {
            "what": seen.kind,
            "scale": seen.scale,
            "seed": seen.seed,
            "value": charts.drawable(seen.states["h"].slope),
        }
        for seen in found
    ]
    kinds = dict.fromkeys(seen.kind for seen in found)
    return sweep_chart(
        rows,
        dict(zip(kinds, itertools.cycle(PALETTE), strict=False)),
        y="decades per step going back",
        title="How fast ∂L/∂h_t changes on the way back, against the size of the weights",
        subtitle=f"slope over the last third of the lags, untrained, {opts.size}, "
        f"{opts.repeats} seed{'s' * (opts.repeats > 1)}",
    )


def tables(found: Sequence[Seen]) -> tuple[Table, ...]:
    """Slopes by kind and scale for people; each network and each step for programs."""
    slopes: dict[str, dict[float, list[float]]] = {}
    for seen in found:
        by_scale = slopes.setdefault(seen.kind, {})
        by_scale.setdefault(seen.scale, []).append(seen.states["h"].slope)
    by_kind: list[Row] = [
        {
            "kind": kind,
            **{f"× {k:g}": f"{min(v):+.2f} … {max(v):+.2f}" for k, v in by_scale.items()},
        }
        for kind, by_scale in slopes.items()
    ]
    networks: list[Row] = []
    steps: list[Row] = []
    for seen in found:
        for name, state in seen.states.items():
            what: Row = {
                "cell": seen.cell,
                "forget_bias": seen.forget_bias if seen.cell == "lstm" else None,
                "scale": seen.scale,
                "seed": seen.seed,
                "state": name,
            }
            networks.append(
                {
                    **what,
                    "decades_per_step": state.slope,
                    "growth_log10": state.flow.growth,
                    "rise_log10": state.rise,
                    "largest_state": float(state.largest.max()),
                }
            )
            steps += [
                {**what, "step": t + 1, "gradient_log10": float(g), "largest": float(v)}
                for t, (g, v) in enumerate(zip(state.flow.gradient, state.largest, strict=True))
            ]
    columns = [Column("kind", "weights multiplied by")]
    columns += [Column(f"× {k:g}", f"{k:g}") for k in scales_of(found)]
    return (
        Table(
            "slopes",
            "Decades per step that ∂L/∂h_t changes on the way back, least … most of the seeds",
            by_kind,
            tuple(columns),
            "Below 0 it vanishes, above 0 it explodes; over the last third of the lags.",
            printed=True,
        ),
        Table("networks", "Each state of each network", networks),
        Table("flow", "Each state at each time step", steps),
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
