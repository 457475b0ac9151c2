"""The sensitivity of units and cells as figures and tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import log10
from experiments.drawing.tables import Column, Figure, Row, Table
from experiments.questions.sensitivity.lstm_cells import Cells
from experiments.questions.sensitivity.measure import FORMS, Unit

LSTM_SEQUENCES = 64
"""Most sequences that an LSTM reads: the contributions of its steps to more would fill the memory."""

GRADIENT = "largest gradient of any step"
CLOSED = "closed form"
CELL = "units of LSTMs without a hidden path"

FORM_LOOKS = {
    form.name: Look(colour, dash)
    for form, colour, dash in zip(
        FORMS,
        (charts.ORANGE, charts.BLUE, charts.GREEN),
        ((1, 0), (7, 3), (3, 2)),
        strict=True,
    )
}

USE, SUM, BACK = "use of λ at that step", "uses from that step on, summed", "gradient by the state"

USE_LOOKS = {
    SUM: Look(charts.ORANGE, (1, 0), 3.0),
    USE: Look(charts.BLUE, (7, 3)),
    BACK: Look(charts.GREY, (2, 2)),
}


def memory_axis(memories: Sequence[float], title: str = "memory 1/(1 − λ) in time steps") -> alt.X:
    """Horizontal axis for log10 of the memory in the field ``memory``."""
    low, high = charts.spanned([float(log10(memory)) for memory in memories])
    return alt.X(
        "memory:Q",
        title=title,
        scale=alt.Scale(domain=[low, high], zero=False, nice=False),
        axis=alt.Axis(grid=False, **charts.power_labels(low, high)),
    )


def growth_chart(units: Sequence[Unit], size: str) -> alt.TopLevelMixin:
    """Size of dh_{T−1}/dθ against the memory, a curve for each form, beside the largest gradient."""
    memories = [float(log10(unit.memory)) for unit in units if unit.form is FORMS[0]]
    lines: list[Line] = []
    dots: list[Line] = []
    for form in FORMS:
        some = [unit for unit in units if unit.form is form]
        panel = "linear unit", "", memories
        lines.append(Line(form.name, log10([unit.sensitivity for unit in some]), *panel))
        dots.append(Line(CLOSED, log10([unit.expected for unit in some]), *panel))
        if form is FORMS[0]:
            largest = log10([np.abs(unit.gradient).max() for unit in some])
            lines.append(Line(GRADIENT, largest, *panel))
    return curves(
        lines,
        FORM_LOOKS | {GRADIENT: Look(charts.GREY, (2, 2))},
        x=memory_axis([unit.memory for unit in units]),
        y="size of the derivative by the parameter",
        dots=dots,
        title="The last state depends ever more on λ, and no gradient grows",
        subtitle="root mean square over sequences of white inputs; "
        f"scaled by √(1 − λ²); ν: λ = exp(−exp ν); {size}",
        height=330,
    )


def use_chart(units: Sequence[Unit], size: str) -> alt.TopLevelMixin:
    """Contributions of single uses and their sum, a panel for some λ."""
    plain = [unit for unit in units if unit.form is FORMS[0]]
    shown = [plain[i] for i in sorted({0, len(plain) // 2, len(plain) - 1})]
    lines = [
        Line(
            what,
            log10(values),
            f"λ = {unit.decay:g}, T = {unit.length}",
            x=(unit.lags / unit.memory).tolist(),
        )
        for unit in shown
        for what, values in (
            (SUM, unit.summed),
            (USE, unit.uses),
            (BACK, unit.gradient[::-1][unit.lags]),
        )
    ]
    last = max(float(unit.lags.max() / unit.memory) for unit in shown)
    return curves(
        lines,
        USE_LOOKS,
        x=charts.lags(last, "steps back, in units of the memory"),
        y="size",
        title="Single uses stay small; their sum does not",
        subtitle=f"parts of the derivative by λ, root mean squares over sequences of white inputs; {size}",
        rules=(0.0,),
        height=260,
    )


def relative_chart(units: Sequence[Unit], gated: Sequence[Cells]) -> alt.TopLevelMixin:
    """Sizes relative to the state: the linear unit's forms, and every unit of the LSTMs."""
    panel = "relative to the state"
    lines = [
        Line(
            form.name,
            log10([unit.sensitivity / unit.state for unit in some]),
            panel,
            x=[float(log10(unit.memory)) for unit in some],
        )
        for form in FORMS
        if (some := [unit for unit in units if unit.form is form])
    ]
    dots = [
        Line(CELL, log10(cells.alone), panel, x=itertools.repeat(float(log10(cells.memory))))
        for cells in gated
    ]
    memories = [unit.memory for unit in units] + [cells.memory for cells in gated]
    return curves(
        lines,
        FORM_LOOKS,
        x=memory_axis(memories, "memory 1/(1 − λ) or 1/(1 − σ(b)) in time steps"),
        y="size of the derivative / size of the state",
        dots=dots,
        title="Along the cell path, the dependence on the forget bias stays bounded",
        subtitle="by λ or ν for linear units, by the forget bias for untrained LSTMs without a hidden path",
        height=330,
    )


def figures(units: Sequence[Unit], gated: Sequence[Cells], size: str) -> tuple[Figure, ...]:
    """Growth with the memory, the single uses, and the LSTM beside the unit."""
    return (
        Figure(
            "growth",
            "How the sensitivity grows with the memory",
            "A straight line is a power of the memory, its slope the exponent: 3/2 for λ itself, 1 once "
            "the inputs are scaled so that the states keep their size, 0 with the parameter ν. The "
            "gradient that flows back is 1 at most, whatever the memory.",
            growth_chart(units, size),
        ),
        Figure(
            "uses",
            "What the uses of λ contribute",
            "The use of λ at step $t$ contributes $λ^{T−1−t} h_{t−1}$. In a unit with a long memory "
            "neighbouring uses read nearly the same state, so they add up instead of cancelling.",
            use_chart(units, size),
        ),
        Figure(
            "relative",
            "An LSTM beside the linear unit",
            "Each circle is a hidden unit of an LSTM with $W_h = 0$: how much its last cell state depends "
            "on its own forget bias. The slope of σ shrinks just as the number of uses grows. With $W_h$ "
            "as it is, gradients through h come on top, and they may explode: see the table.",
            relative_chart(units, gated),
        ),
    )


def tables(units: Sequence[Unit], gated: Sequence[Cells]) -> tuple[Table, ...]:
    """Units and LSTMs for people; every step back that is drawn for programs."""
    return (
        Table(
            "units",
            "Each linear unit at its last step",
            units,
            (
                Column("parameter", "parameter θ", get=lambda e: e.form.name),
                Column("decay", "λ", "g"),
                Column("memory", "memory (steps)", ".4g"),
                Column("steps", get=lambda e: e.length),
                Column("state", "$h_{T−1}$", ".3g"),
                Column(
                    "largest_gradient",
                    "largest $∂h_{T−1}/∂h_t$",
                    ".3g",
                    get=lambda e: np.abs(e.gradient).max(),
                ),
                Column("largest_use", "largest use of λ", ".3g", get=lambda e: e.uses.max()),
                Column("sensitivity", "$dh_{T−1}/dθ$", ".4g"),
                Column("closed_form", "closed form", ".4g", get=lambda e: e.expected),
                Column("error", "error", ".0e"),
            ),
            "$h_{T−1}$ is the last state; sizes are root mean squares over the batch. Closed form: the "
            "standard deviation of $dh_{T−1}/dθ$ for white inputs. Error: relative, against the "
            "polynomial in λ on these inputs.",
            printed=True,
        ),
        Table(
            "cells",
            "How each LSTM's last cell state depends on the forget bias, relative to its size",
            gated,
            (
                Column("forget_bias", "forget bias", "g"),
                Column("seed", "seed", "d"),
                Column("memory", "memory (steps)", ".3g"),
                Column("steps", get=lambda e: e.length),
                Column(
                    "median",
                    "$W_h = 0$: median unit",
                    ".3g",
                    get=lambda e: np.median(e.alone),
                ),
                Column("most", "largest", ".3g", get=lambda e: e.alone.max()),
                Column(
                    "whole_median",
                    "$W_h$ as it is: median unit",
                    ".3g",
                    get=lambda e: np.median(e.whole),
                ),
                Column("whole_most", "largest", ".3g", get=lambda e: e.whole.max()),
            ),
            f"Ratios of root mean squares over up to {LSTM_SEQUENCES} sequences. Memory: $1/(1 − σ(b))$.",
            printed=True,
        ),
        Table("uses", "Each linear unit at some steps back", list(_lag_rows(units))),
    )


def _lag_rows(units: Sequence[Unit]) -> Iterator[Row]:
    for unit in units:
        for lag, use, total in zip(unit.lags.tolist(), unit.uses, unit.summed, strict=True):
            yield {
                "parameter": unit.form.name,
                "decay": unit.decay,
                "lag": lag,
                "gradient": float(unit.gradient[-1 - lag]),
                "use": float(use),
                "summed": float(total),
            }
