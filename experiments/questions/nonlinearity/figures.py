"""Gradients, states and gains of several nonlinearities as charts, rows and tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import curves, points
from experiments.drawing.numbers import Floats, log10
from experiments.drawing.tables import Column, Figure, Row, Table
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
    rows: list[Row] = []
    for (label, quantity), each in itertools.product(quantities, seen):
        with np.errstate(invalid="ignore"):
            values = quantity(each)
        rows += points(
            {
                "column": f"spectral radius {each.network.radius:g}",
                "row": label or each.inputs,
                "what": NONLINEARITY_TEXT[each.network.nonlinearity],
            },
            values,
        )
    return curves(
        rows,
        NONLINEARITY_LOOKS,
        x=charts.steps(len(seen[0].largest)),
        y=charts.powers((row["value"] for row in rows), axis)
        if log
        else charts.linear([0.0, *(row["value"] for row in rows)], axis),
        title=title,
        subtitle=subtitle,
        rules=rules,
    )


def sweep_chart(sweep: Sequence[Seen], subtitle: str) -> alt.TopLevelMixin:
    """The gradient's change against the factor on the inputs."""
    rows: list[Row] = [
        {
            "column": f"spectral radius {each.network.radius:g}",
            "row": "",
            "what": NONLINEARITY_TEXT[each.network.nonlinearity],
            "doublings": -each.halvings,
            "value": charts.drawable(each.flow.growth),
        }
        for each in sweep
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
        rows,
        NONLINEARITY_LOOKS,
        x=x,
        y=charts.powers((row["value"] for row in rows), "‖∂L/∂h_1‖ / ‖∂L/∂h_T‖"),
        title="The gradient's change over the whole sequence, for inputs of any size",
        subtitle=subtitle,
        rules=[0.0],
        height=260,
    )


def _keys(each: Seen) -> dict[str, str | float | int]:
    return {
        "nonlinearity": each.network.nonlinearity,
        "spectral_radius": each.network.radius,
        "inputs_log2": -each.halvings,
        "seed": each.seed,
    }


def _summary(each: Seen) -> Row:
    return {
        **_keys(each),
        "largest_state_log10": float(log10(each.largest.max())),
        "saturation_log10": typical(each.saturation),
        "weight_log10": typical(each.weight),
        "growth_log10": each.flow.growth,
        "verdict": each.verdict,
    }


def _step_rows(seen: Iterable[Seen]) -> Iterable[Row]:
    for each in seen:
        columns = zip(each.flow.gradient, each.largest, each.saturation, each.weight, strict=True)
        for step, (gradient, largest, saturation, weight) in enumerate(columns, start=1):
            yield {
                **_keys(each),
                "step": step,
                "gradient_log10": float(gradient),
                "largest_state": float(largest),
                "saturation": float(saturation),
                "weight": float(weight),
            }


def tables(
    found: Sequence[Seen], sweep: Sequence[Seen], draws: Sequence[Seen]
) -> tuple[Table, ...]:
    """Each network for people; each step, the sweep and the many networks for programs."""
    return (
        Table(
            "networks",
            "Each network: its states, the two factors and what becomes of the gradient",
            [_summary(each) for each in found],
            (
                Column("nonlinearity", "nonlinearity"),
                Column("spectral_radius", "|λ|max", "g"),
                Column("inputs_log2", "log2 inputs", "d"),
                Column("seed", "seed"),
                Column("largest_state_log10", "largest |h|", log10=True),
                Column("saturation_log10", "saturation", log10=True),
                Column("weight_log10", "weight", log10=True),
                Column("growth_log10", "‖∂L/∂h_1‖ / ‖∂L/∂h_T‖", log10=True),
                Column("verdict", "the gradient"),
            ),
            "Saturation and weight: geometric means of the two factors of each step back. The "
            f"gradient vanishes or explodes if it changes by more than a factor {FACTOR}.",
            printed=True,
        ),
        Table("steps", "Each network at each time step", list(_step_rows(found))),
        Table("input_size", "The sweep over input sizes", [_summary(each) for each in sweep]),
        Table("draws", "Many networks at one radius", [_summary(each) for each in draws]),
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
            f"inputs as they are. Below: inputs and biases × 2^{-opts.halvings}"
            f"{words.where_tanh_is(first)}. A gap is a gradient of exactly zero.",
            steps_chart(
                first,
                [("", lambda e: e.flow.gradient - e.flow.gradient[-1])],
                "‖∂L/∂h_t‖ / ‖∂L/∂h_T‖",
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
            "Above: ‖Dδ‖/‖δ‖, what the derivative of the nonlinearity leaves of the gradient. Below: "
            "‖W_hᵀDδ‖/‖Dδ‖, what the weight makes of that. Their product is one step back.",
            steps_chart(
                usual,
                [
                    ("saturation", lambda e: e.saturation),
                    ("weight", lambda e: np.r_[np.nan, e.weight[1:]]),  # nothing arrives at h_0
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
            "The linear network does not care. A ReLU network does not either: scaling all its "
            "inputs scales its states, but not its slopes. tanh approaches the linear one as its "
            "states come near 0.",
            sweep_chart(sweep, size),
        ),
    )
