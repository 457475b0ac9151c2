"""RNNs beside LSTMs as figures and tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import Floats, log10
from experiments.drawing.sweep import sweep_chart
from experiments.drawing.tables import Column, Figure, Row, Table, along
from experiments.questions.lstm.measure import Seen, pick, scales_of
from experiments.regressors.networks import CELL_TEXT
from experiments.regressors.states import StateCurve

LOOKS = {
    "RNN, h": Look(charts.ORANGE),
    "LSTM, c": Look(charts.GREEN, width=5.0),
    "LSTM, h": Look(charts.BLUE, width=1.6),
}
"""The LSTM's h is a thin curve above its wide c, since the two often coincide."""


def figures(
    found: Sequence[Seen],
    biases: Iterable[float],
    scales: Iterable[float],
    drawn: str,
    seeds: str,
) -> tuple[Figure, ...]:
    """Gradients, slopes against the size of the weights, states.

    Curves are drawn for ``biases`` and ``scales``; ``drawn`` and ``seeds`` are the subtitles of one seed
    and of all.
    """
    shown = list(itertools.product(sorted(set(biases)), sorted(set(scales))))
    return (
        Figure(
            "gradient_flow",
            "The gradient at each time step",
            "The loss is at the last step, on the right, and the gradient flows to the left. "
            "The RNN has no forget gate: its curve is the same in every row.",
            curve_chart(
                lines_of(found, shown, lambda state: state.flow.gradient),
                "size of the gradient",
                title="How much of the gradient reaches each time step",
                subtitle=f"‖∂L/∂hₜ‖ and ‖∂L/∂cₜ‖, {drawn}; the gradient flows from right to left",
            ),
        ),
        Figure(
            "slopes",
            "Where the picture breaks",
            "Each point is a network, each line the mean over the seeds. Above 0 the gradient grows on "
            "its way back, below 0 it shrinks. The verdicts are about weights × 1 and forget bias 1.",
            slope_chart(found, seeds),
        ),
        Figure(
            "states",
            "The largest state at each time step",
            "Largest of all units and sequences. The grey line is 1: no hidden state gets past it, but "
            "cell states do.",
            curve_chart(
                lines_of(found, shown, lambda state: log10(state.largest)),
                "largest |hₜ|, |cₜ|",
                title="The largest hidden and cell state at each time step",
                subtitle=f"of all units and sequences, {drawn}",
                rules=(0.0,),
            ),
        ),
    )


def curve_chart(
    lines: Sequence[Line], y: str, *, title: str, subtitle: str, rules: tuple[float, ...] = ()
) -> alt.TopLevelMixin:
    """Draw a curve for each state, and level lines."""
    x = charts.steps(max(len(list(line.values)) for line in lines))
    return curves(lines, LOOKS, x=x, y=y, title=title, subtitle=subtitle, rules=rules)


def lines_of(
    found: Sequence[Seen],
    shown: Iterable[tuple[float, float]],
    quantity: Callable[[StateCurve], Floats],
) -> list[Line]:
    """A curve for each state of the first networks of each forget bias and scale."""
    return [
        Line(
            f"{CELL_TEXT[seen.cell]}, {name}",
            quantity(state),
            f"weights × {scale:g}",
            f"forget bias {bias:g}",
        )
        for bias, scale in shown
        for seen in pick(found, "rnn", scale)[:1] + pick(found, "lstm", scale, bias)[:1]
        for name, state in seen.states.items()
    ]


def slope_chart(found: Sequence[Seen], seeds: str) -> alt.TopLevelMixin:
    """Decades that ∂L/∂h_t gains a step against what the weights are multiplied by."""
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
        dict(zip(kinds, itertools.cycle(charts.PALETTE), strict=False)),
        y="decades gained a step",
        title="How fast ∂L/∂hₜ changes on its way back",
        subtitle=f"one decade is a factor of 10; the slope at the earliest third of the steps, {seeds}",
    )


def tables(found: Sequence[Seen]) -> tuple[Table, ...]:
    """Slopes by kind and scale for people; each network and each step for programs."""

    def at_scale(scale: float) -> Column:
        def span(kind: str) -> str:
            slopes = [e.states["h"].slope for e in found if (e.kind, e.scale) == (kind, scale)]
            return f"{min(slopes):+.2f} … {max(slopes):+.2f}"

        return Column(f"× {scale:g}", f"weights × {scale:g}", get=span)

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
            columns = {"gradient_log10": state.flow.gradient, "largest": state.largest}
            steps += along(what, "step", columns)
    return (
        Table(
            "slopes",
            "Decades that $∂L/∂h_t$ gains at each step back, least … most of the seeds",
            list(dict.fromkeys(seen.kind for seen in found)),
            (
                Column("kind", "network", get=str),
                *map(at_scale, scales_of(found)),
            ),
            "A decade is a factor of 10: at −0.3 a step keeps half of the gradient, at +0.3 it doubles it. "
            "Measured is the slope at the earliest third of the steps, farthest from the loss.",
            printed=True,
        ),
        Table("networks", "Each state of each network", networks),
        Table("flow", "Each state at each time step", steps),
    )
