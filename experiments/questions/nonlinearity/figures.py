"""Gradients, states and gains of several nonlinearities as charts, rows and tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Line, curves
from experiments.drawing.numbers import Floats, log10
from experiments.drawing.tables import Column, Figure, Row, Table, Value, along, rows_of
from experiments.questions.nonlinearity import words
from experiments.questions.nonlinearity.measure import Seen, typical
from experiments.regressors.flow import FACTOR
from experiments.regressors.looks import NONLINEARITY_LOOKS
from experiments.regressors.networks import NONLINEARITY_TEXT

if TYPE_CHECKING:
    from experiments.questions.nonlinearity import NonlinearityOptions


def steps_chart(
    seen: Sequence[Seen],
    quantities: Sequence[tuple[str, Callable[[Seen], Floats]]],
    axis: str,
    title: str,
    subtitle: str,
    rules: Sequence[float] = (),
    log: bool = True,
) -> alt.TopLevelMixin:
    """Curves over time steps: columns are radii, rows quantities or else input sizes.

    With ``log``, the quantities are logarithms.
    """
    lines: list[Line] = []
    for (label, quantity), each in itertools.product(quantities, seen):
        with np.errstate(invalid="ignore"):
            values = quantity(each)
        lines.append(
            Line(
                NONLINEARITY_TEXT[each.network.nonlinearity],
                values,
                f"spectral radius {each.network.radius:g}",
                label or each.inputs,
            )
        )
    return curves(
        lines,
        NONLINEARITY_LOOKS,
        x=charts.steps(len(seen[0].largest)),
        y=axis,
        axis=charts.powers if log else from_zero,
        title=title,
        subtitle=subtitle,
        rules=rules,
    )


def from_zero(values: Iterable[Value], title: str) -> alt.Y:
    """Vertical axis that holds 0, too."""
    return charts.linear([0.0, *values], title)


def sweep_chart(sweep: Sequence[Seen], subtitle: str) -> alt.TopLevelMixin:
    """The gradient's change against the factor on the inputs."""

    def kind(each: Seen) -> tuple[float, str]:
        return each.network.radius, each.network.nonlinearity

    lines = [
        Line(
            NONLINEARITY_TEXT[name],
            [each.flow.growth for each in some],
            f"spectral radius {radius:g}",
            x=[-each.halvings for each in some],
        )
        for (radius, name), group in itertools.groupby(sweep, kind)
        for some in [list(group)]
    ]
    low, high = (f(-each.halvings for each in sweep) for f in (min, max))
    x = alt.X(
        "doublings:Q",
        title="factor on inputs and biases",
        scale=alt.Scale(domain=[low, high], nice=False, padding=5),
        axis=alt.Axis(
            values=charts.ticks(low, high), labelExpr="'2^' + format(datum.value, 'd')", grid=False
        ),
    )
    return curves(
        lines,
        NONLINEARITY_LOOKS,
        x=x,
        y="‖∂L/∂h_0‖ / ‖∂L/∂h_(T−1)‖",
        title="The gradient's change over the whole sequence, for inputs of any size",
        subtitle=subtitle,
        rules=[0.0],
        height=260,
    )


KEYS = (
    Column("nonlinearity", "nonlinearity", get=lambda e: e.network.nonlinearity),
    Column("spectral_radius", "$|λ|_{max}$", "g", get=lambda e: e.network.radius),
    Column("inputs_log2", "$log_2$ of the inputs' factor", "d", get=lambda e: -e.halvings),
    Column("seed", "seed"),
)

SUMMARY = (
    *KEYS,
    Column("largest_state_log10", "largest |h|", get=lambda e: log10(e.largest.max())),
    Column("saturation_log10", "saturation (factor per step)", get=lambda e: typical(e.saturation)),
    Column("weight_log10", "weight (factor per step)", get=lambda e: typical(e.weight)),
    Column("growth_log10", "$‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖$", get=lambda e: e.flow.growth),
    Column("verdict", "the gradient"),
)


def _step_rows(each: Seen) -> list[Row]:
    (keys,) = rows_of([each], KEYS)
    columns = {
        "gradient_log10": each.flow.gradient,
        "largest_state": each.largest,
        "saturation": each.saturation,
        "weight": each.weight,
    }
    return along(keys, "step", columns)


def tables(
    found: Sequence[Seen], sweep: Sequence[Seen], draws: Sequence[Seen]
) -> tuple[Table, ...]:
    """Each network for people; each step, the sweep and the many networks for programs."""
    return (
        Table(
            "networks",
            "Each network: its states, the two factors and what becomes of the gradient",
            found,
            SUMMARY,
            "A step back multiplies the gradient by two factors, given as geometric means over the "
            "steps: saturation, by the nonlinearity's slope, and weight, by $W_h$. The gradient vanishes "
            f"or explodes if it changes by more than a factor {FACTOR}.",
            printed=True,
        ),
        Table(
            "steps",
            "Each network at each time step",
            [row for each in found for row in _step_rows(each)],
        ),
        Table("input_size", "The sweep over input sizes", rows_of(sweep, SUMMARY)),
        Table("draws", "Many networks at one radius", rows_of(draws, SUMMARY)),
    )


def figures(
    opts: NonlinearityOptions, found: Sequence[Seen], sweep: Sequence[Seen]
) -> tuple[Figure, ...]:
    """Gradients, states, the two factors, and the sweep over input sizes."""
    first = [each for each in found if each.seed == opts.seed]
    usual = [each for each in first if not each.halvings]
    size = f"{opts.drawn}, {opts.initial_weights} W_h, loss at the last step"
    return (
        Figure(
            "gradients",
            "The gradient at each time step",
            "Each curve in units of its last step; the gradient flows from right to left. Above: "
            f"inputs as they are. Below: inputs and biases × $2^{{{-opts.halvings}}}$"
            f"{words.where_tanh_is(first)}. A gap is a gradient of exactly zero.",
            steps_chart(
                first,
                [("", lambda e: e.flow.gradient - e.flow.gradient[-1])],
                "‖∂L/∂h_t‖ / ‖∂L/∂h_(T−1)‖",
                "How much of the gradient reaches each time step",
                size,
            ),
        ),
        Figure(
            "states",
            "The hidden state at each time step",
            "The largest unit at each step. tanh cannot pass the grey line at 1.",
            steps_chart(
                first,
                [("", lambda e: log10(e.largest))],
                "largest |h_t| of any unit",
                "How large hidden units become",
                size,
                rules=[0.0],
            ),
        ),
        Figure(
            "gains",
            "Why: the two factors of each step back",
            "Above: $‖Dδ‖/‖δ‖$, the part of the gradient that the slope of the nonlinearity leaves. Below: "
            "$‖W_h^TDδ‖/‖Dδ‖$, by how much $W_h$ then multiplies it. One step back is their product.",
            steps_chart(
                usual,
                [
                    ("saturation", lambda e: e.saturation),
                    (
                        "weight",
                        lambda e: np.r_[np.nan, e.weight[1:]],
                    ),  # nothing goes on from step 0
                ],
                "factor of one step back",
                "What a step back does to the gradient: saturation × weight",
                f"{size}, inputs as they are",
                rules=[1.0],
                log=False,
            ),
        ),
        Figure(
            "input_size",
            "When tanh explodes: the size of the inputs decides",
            "The gradient's change over the whole sequence against the factor on inputs and biases. "
            "It changes nothing in the linear network, nor in a ReLU network, where it scales the states "
            "but not the slopes. tanh approaches the linear network as its states come near 0.",
            sweep_chart(sweep, size),
        ),
    )
