"""Measured gradient flow as rows and charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import Floats, log10, worst
from experiments.drawing.tables import Column, Figure, Row, Table, along, power_text
from experiments.questions.gradient_flow.measure import Study
from experiments.regressors.flow import FACTOR, TARGET_TEXT
from experiments.regressors.looks import curve_colour, curve_colours
from experiments.regressors.measurement import MOMENT_TEXT, Measurement
from experiments.regressors.networks import NONLINEARITY_TEXT

if TYPE_CHECKING:
    from experiments.questions.gradient_flow import GradientFlowOptions

GRADIENT = "‖∂L/∂{}‖"


MEASURED, SLOPE, CLOSED = "measured", "slope of |λ|max", "closed form"


def step_rows(measurements: Iterable[Measurement]) -> list[Row]:
    """Return a row for each layer and time step, as the CSV file holds them."""
    return [
        {
            "nonlinearity": m.network.nonlinearity,
            "spectral_radius": m.network.radius,
            "target": m.network.target,
            "moment": m.moment,
            "layer": m.layer,
            "state": m.flow.name,
            "step": index,
            "gradient_log10": float(m.flow.gradient[index]),
            "eigenvalue_reference_log10": float(m.flow.reference[index]),
            "closed_form_log10": _at(m.flow.closed_form, index),
            "closed_form_error": _at(m.flow.closed_form_error, index),
            "state_norm": float(m.flow.state[index]),
        }
        for m in measurements
        for index in range(len(m.flow.gradient))
    ]


def _at(values: Floats | None, index: int) -> float | None:
    return None if values is None else float(values[index])


def of_group(column: Column) -> Column:
    """The column for a group of measurements that have it in common."""
    return replace(column, get=lambda some: column.value(some[0]))


def at_radius(radius: float) -> Column:
    """Column of verdicts on a group of measurements at one radius, before → after training."""

    def verdict(some: Iterable[Measurement]) -> str:
        return " → ".join(
            m.verdict + (f" ×{power_text(m.flow.growth)}" if np.isfinite(m.flow.growth) else "")
            for m in some
            if m.network.radius == radius
        )

    name = f"spectral radius {radius:g}"
    return Column(name, name, get=verdict)


def gradient_chart(
    measurements: Sequence[Measurement], title: str, subtitle: str
) -> alt.TopLevelMixin:
    """Gradient norms per step; beside them the closed form and the eigenvalue's slope, where they apply."""
    rows: list[Row] = []
    for m in measurements:
        lines = [Line(MEASURED, m.flow.gradient, *m.panel)]
        if m.has_slope:
            lines.append(Line(SLOPE, m.flow.reference, *m.panel))
        if m.flow.closed_form is not None:
            apart = max(1, len(m.flow.gradient) // 15)  # no more than a line can carry
            lines.append(Line(CLOSED, m.flow.closed_form, *m.panel, every=apart))
        rows += [{**row, "nonlinearity": m.kind} for line in lines for row in line.rows("step")]
    present = {row["what"] for row in rows}
    dashes = {MEASURED: [1, 0]} | ({SLOPE: [3, 3]} if SLOPE in present else {})
    encoding = {
        "color": curve_colour(m.kind for m in measurements),
        "strokeDash": alt.StrokeDash(
            "what:N",
            title=None,
            scale=alt.Scale(domain=list(dashes), range=list(dashes.values())),
        ),
    }
    circle = alt.Scale(domain=[CLOSED], range=["circle"])
    marks = {
        SLOPE: alt.Chart().mark_line(strokeWidth=1.4, clip=True, opacity=0.9).encode(**encoding),
        MEASURED: alt.Chart().mark_line(strokeWidth=2.5).encode(**encoding),
        CLOSED: alt.Chart()
        .mark_point(size=42, filled=False, strokeWidth=1.4)
        .encode(
            shape=alt.Shape("what:N", title=None, scale=circle),
            color=alt.value(charts.INK),
        ),
    }
    # The axis spans the measured values; slopes that lead far away from them are cut off.
    measured = (row["value"] for row in rows if row["what"] == MEASURED)
    y = charts.powers(measured, _axis(measurements, "gradient", GRADIENT))
    layers = [
        mark.transform_filter(alt.datum.what == what).encode(
            x=charts.steps(len(measurements[0].flow.gradient)),
            y=y,
            detail="nonlinearity:N",
            tooltip=[
                alt.Tooltip("nonlinearity:N"),
                alt.Tooltip("step:Q", title="time step t"),
                alt.Tooltip("value:Q", title="log10 of the gradient norm", format=".3f"),
            ],
        )
        for what, mark in marks.items()
        if what in present
    ]
    return charts.panels(layers, rows, title=title, subtitle=subtitle)


def _axis(measurements: Iterable[Measurement], what: str, form: str) -> str:
    """Title of an axis: with the formula where there is one state, with the names of several."""
    names = [f"{name}_t" for name in dict.fromkeys(m.flow.name for m in measurements)]
    return f"{what} norm {form.format(*names) if len(names) == 1 else ', '.join(names)}"


def moments_chart(
    measurements: Sequence[Measurement],
    quantity: Literal["gradient", "state"],
    title: str,
    subtitle: str,
) -> alt.TopLevelMixin:
    """Norms of gradients or of states per step, before training (dashed) and after (solid)."""
    looks = {
        f"{kind}, {MOMENT_TEXT[moment]}": Look(colour, dash, 2.2)
        for moment, dash in (("before", (4, 3)), ("after", (1, 0)))
        for kind, colour in curve_colours(m.kind for m in measurements).items()
    }
    lines = [
        Line(
            f"{m.kind}, {MOMENT_TEXT[m.moment]}",
            m.flow.gradient if quantity == "gradient" else log10(m.flow.state),
            *m.panel,
        )
        for m in measurements
    ]
    return curves(
        lines,
        looks,
        x=charts.steps(len(measurements[0].flow.gradient)),
        y=_axis(measurements, quantity, GRADIENT if quantity == "gradient" else "‖{}‖"),
        title=title,
        subtitle=subtitle,
    )


def loss_rows(study: Study) -> list[Row]:
    """Return a row for each training step of a network."""
    keys: Row = {
        "nonlinearity": study.network.nonlinearity,
        "spectral_radius": study.network.radius,
        "target": study.network.target,
    }
    return along(keys, "training_step", {"loss": study.training.losses})


def loss_chart(studies: Sequence[Study], title: str, subtitle: str) -> alt.TopLevelMixin:
    """Loss of each training batch, in the same grid as the gradients."""
    lines = [
        Line(
            NONLINEARITY_TEXT[study.network.nonlinearity],
            log10(study.training.losses),
            f"spectral radius {study.network.radius:g}",
            TARGET_TEXT[study.network.target],
        )
        for study in studies
    ]
    most = max(len(study.training.losses) for study in studies)
    colours = curve_colours(line.what for line in lines)
    return curves(
        lines,
        {text: Look(colour, width=1.6) for text, colour in colours.items()},
        x=charts.steps(most + 1, "training steps done"),
        y="mean squared error",
        title=title,
        subtitle=subtitle,
    )


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
                else ""
                if opts.cell != "rnn"
                else "tanh keeps every unit in [−1, 1]; the others have no bound."
            ),
            moments_chart(
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
                loss_chart(studies, "The loss during training", size),
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
        f"{marks(before)}A gap in a curve is a gradient that is exactly zero or not a finite number.",
        gradient_chart(before, reach, backwards),
    )
    if not after:
        return [first]
    second = Figure(
        "gradient_flow_after",
        "The gradient at each time step, after training",
        "The gradient on the batch of the first figure, with what the networks have learned"
        + (": each has its own $W_h$ now, and so its own dashed slope." if slope(after) else "."),
        gradient_chart(after, reach, trained),
    )
    third = Figure(
        "gradient_before_after",
        "What training changed",
        "The measured curves of the two figures above.",
        moments_chart(measurements, "gradient", both, f"{opts.steps} training steps, {size}"),
    )
    return [first, second, third]


def slope(measurements: Sequence[Measurement]) -> bool:
    """Whether a slope is drawn beside any curve."""
    return any(m.has_slope for m in measurements)


def marks(measurements: Sequence[Measurement]) -> str:
    """Sentences on the lines and dots beside the curves."""
    said = ""
    if slope(measurements):
        said += (
            "Dashed: what the largest eigenvalue magnitude $|λ|_{max}$ of $W_h$ predicts, for the loss "
            "at the last step. Where every step has a loss, gradients add up to another curve. "
        )
    if any(m.flow.closed_form is not None for m in measurements):
        said += (
            "Circles: the closed form of the linear network, computed without the autodiff engine. "
        )
    return said


CELL_NOTE = (
    f"The gradient vanishes or explodes if its norm at step 0 is more than {FACTOR} times smaller or "
    "larger than at the last step, $T−1$. With a loss at every step T gradients add up, so there it "
    "explodes only if the slope, continued over all steps, exceeds this factor. It dies where it is "
    "exactly zero. The slope is fitted to the earliest third of the steps, going back: with −0.30 "
    "decades per step, each step back keeps $10^{−0.30}$ = 50%."
)


SUMMARY_NOTE = (
    f"{CELL_NOTE} With the loss at the last step, compare it with $log_{{10}} |λ|_{{max}}$. Error of "
    "the closed form: the largest relative error of any step."
)


ONE_WEIGHT = "$|λ|_{max}$", "$log_{10} |λ|_{max}$", "error of the closed form"
"""Headings of columns that a network with one W_h has."""


def tables(opts: GradientFlowOptions, studies: Sequence[Study]) -> tuple[Table, ...]:
    """Numbers per network for people; numbers per time step and training step for programs."""
    measurements = [m for found in studies for m in found.measurements]
    gated = opts.cell != "rnn"  # with several W_h, and no closed form
    radius, slope, error = ("", "", "") if gated else ONE_WEIGHT
    keys = (
        Column(
            "nonlinearity",
            "cell" if gated else "nonlinearity",
            get=lambda m: m.network.nonlinearity,
        ),
        Column("target", "loss at", get=lambda m: m.network.target),
        Column("layer", "layer" * (opts.layers > 1)),
        Column("state", "state" * gated, get=lambda m: m.flow.name),
    )
    numbers = (
        Column("spectral_radius", "spectral radius", "g", get=lambda m: m.network.radius),
        Column("moment", "training"),
        Column("eigenvalue", radius, ".3f", get=lambda m: m.flow.spectral_radius),
        Column("gradient_last_log10", "gradient at last step", get=lambda m: m.flow.gradient[-1]),
        Column("gradient_first_log10", "at step 0", get=lambda m: m.flow.gradient[0]),
        Column("decades_per_step", "decades per step", "+.3f", get=lambda m: m.flow.measured_slope),
        Column("predicted_decades_per_step", slope, "+.3f", get=lambda m: m.flow.predicted_slope),
        Column("verdict", "the gradient"),
        Column("closed_form_error", error, ".0e", get=lambda m: worst(m.flow.closed_form_error)),
        Column("state_first", get=lambda m: m.flow.state[0]),
        Column("state_last", get=lambda m: m.flow.state[-1]),
        Column("loss", "mean squared error", ".3g"),
    )
    losses = [row for study in studies for row in loss_rows(study)]
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault(tuple(key.value(m) for key in keys), []).append(m)
    return (
        Table(
            "verdicts",
            "What becomes of the gradient on its way back, before → after training",
            list(groups.values()),
            (
                *map(of_group, keys),
                *map(at_radius, sorted({m.network.radius for m in measurements})),
            ),
            "×: how large the gradient is at step 0, in units of that at the last step.",
            printed=True,
        ),
        Table(
            "summary",
            "Each network in numbers",
            measurements,
            (*keys, *numbers),
            CELL_NOTE if gated else SUMMARY_NOTE,
        ),
        Table("flow", "Each layer at each time step", step_rows(measurements)),
        *([Table("loss", "Each training step", losses)] * bool(opts.steps)),
    )
