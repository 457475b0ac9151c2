"""Measured gradient flow as rows and charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import points
from experiments.drawing.numbers import log10, worst
from experiments.drawing.tables import Row, Value, power_text
from experiments.regressors.looks import curve_colour
from experiments.regressors.study import MOMENT_TEXT, Measurement

GRADIENT = "‖∂L/∂{}‖"


def step_rows(measurements: Iterable[Measurement]) -> list[Row]:
    """Return a row for each layer and time step, as the CSV file holds them."""
    return [row for measurement in measurements for row in _steps_of(measurement)]


def _steps_of(measurement: Measurement) -> Iterable[Row]:
    network, flow = measurement.network, measurement.flow
    length = len(flow.gradient)
    for index in range(length):
        lag = length - 1 - index
        yield {
            "nonlinearity": network.nonlinearity,
            "spectral_radius": network.radius,
            "target": network.target,
            "moment": measurement.moment,
            "layer": measurement.layer,
            "state": flow.name,
            "step": index + 1,
            "gradient_log10": float(flow.gradient[index]),
            "eigenvalue_reference_log10": float(flow.gradient[-1] + lag * flow.predicted_slope),
            "closed_form_log10": _at(flow.closed_form, index),
            "closed_form_error": _at(flow.closed_form_error, index),
            "state_norm": float(flow.state[index]),
        }


def _at(values: np.ndarray | None, index: int) -> float | None:
    return None if values is None else float(values[index])


def summary_rows(measurements: Iterable[Measurement]) -> list[Row]:
    """Return a row for each layer of each network at each moment."""
    rows: list[Row] = []
    for measurement in measurements:
        network, flow = measurement.network, measurement.flow
        rows.append(
            {
                "nonlinearity": network.nonlinearity,
                "spectral_radius": network.radius,
                "target": network.target,
                "layer": measurement.layer,
                "state": flow.name,
                "moment": measurement.moment,
                "eigenvalue": flow.spectral_radius,
                "gradient_first_log10": float(flow.gradient[0]),
                "gradient_last_log10": float(flow.gradient[-1]),
                "decades_per_step": flow.measured_slope,
                "predicted_decades_per_step": flow.predicted_slope,
                "verdict": measurement.verdict,
                "closed_form_error": worst(flow.closed_form_error),
                "state_first": float(flow.state[0]),
                "state_last": float(flow.state[-1]),
                "loss": measurement.loss,
            }
        )
    return rows


def verdict_rows(measurements: Iterable[Measurement]) -> tuple[list[Row], list[str]]:
    """Return a row for each kind of network, and the columns that hold its verdicts by radius."""
    rows: dict[tuple[str, str, int, str], dict[str, Value]] = {}
    radii: dict[float, str] = {}
    for measurement in measurements:
        network, flow = measurement.network, measurement.flow
        column = radii.setdefault(network.radius, f"spectral radius {network.radius:g}")
        row = rows.setdefault(
            (network.nonlinearity, network.target, measurement.layer, flow.name),
            {
                "nonlinearity": network.nonlinearity,
                "target": network.target,
                "layer": measurement.layer,
                "state": flow.name,
            },
        )
        factor = f" ×{power_text(flow.growth)}" if np.isfinite(flow.growth) else ""
        before = f"{row[column]} → " if measurement.moment == "after" else ""
        row[column] = before + measurement.verdict + factor
    return list(rows.values()), [radii[radius] for radius in sorted(radii)]


def gradient_chart(
    measurements: Sequence[Measurement], title: str, subtitle: str
) -> alt.TopLevelMixin:
    """Gradient norms per step; beside them the closed form and the eigenvalue's slope, where they apply."""
    rows: list[Row] = []
    for measurement in measurements:
        column, row = measurement.panel
        dots = max(1, len(measurement.flow.gradient) // 15)  # no more than a line can carry
        for step in _steps_of(measurement):
            assert isinstance(step["step"], int)
            rows.append(
                {
                    "column": column,
                    "row": row,
                    "nonlinearity": measurement.kind,
                    "step": step["step"],
                    "measured": charts.drawable(_number(step["gradient_log10"])),
                    "reference": charts.drawable(_number(step["eigenvalue_reference_log10"]))
                    if measurement.has_slope
                    else None,
                    "closed": charts.drawable(_number(step["closed_form_log10"]))
                    if (step["step"] - 1) % dots == 0
                    else None,
                }
            )
    return _gradient_panels(measurements, rows, title, subtitle)


def _number(value: Value) -> float | None:
    return value if isinstance(value, float) else None


def _gradient_panels(
    measurements: Sequence[Measurement], rows: Sequence[Row], title: str, subtitle: str
) -> alt.TopLevelMixin:
    """Draw the curves above the slopes and the closed form above both."""
    tooltip = [
        alt.Tooltip("nonlinearity:N"),
        alt.Tooltip("step:Q", title="time step t"),
        alt.Tooltip("measured:Q", title="log10 of the gradient norm", format=".3f"),
    ]
    # The axis spans the measured values; slopes that lead far away from them are cut off.
    domain = charts.spanned(row["measured"] for row in rows)
    steps = charts.steps(len(measurements[0].flow.gradient))
    base = alt.Chart().encode(x=steps, tooltip=tooltip, detail="nonlinearity:N")
    colour = curve_colour(m.kind for m in measurements)
    dashes = {"measured": [1, 0]}
    if any(m.has_slope for m in measurements):
        dashes["slope of |λ|max"] = [3, 3]
    dash = alt.StrokeDash(
        "what:N",
        title=None,
        scale=alt.Scale(domain=list(dashes), range=list(dashes.values())),
    )

    def height(field: str) -> alt.Y:
        return charts.decades(field, _axis(measurements, "gradient", GRADIENT), domain)

    layers = [
        base.transform_calculate(what="'measured'")
        .mark_line(strokeWidth=2.5)
        .encode(y=height("measured"), strokeDash=dash, color=colour),
    ]
    if len(dashes) > 1:
        layers.insert(
            0,
            base.transform_calculate(what="'slope of |λ|max'")
            .mark_line(strokeWidth=1.4, clip=True, opacity=0.9)
            .encode(y=height("reference"), strokeDash=dash, color=colour),
        )
    if any(measurement.flow.closed_form is not None for measurement in measurements):
        circle = alt.Scale(domain=["closed form"], range=["circle"])
        layers.append(
            base.transform_calculate(what="'closed form'")
            .mark_point(size=42, filled=False, strokeWidth=1.4)
            .encode(
                y=height("closed"),
                shape=alt.Shape("what:N", title=None, scale=circle),
                color=alt.value(charts.INK),
            )
        )
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
    rows = [row for measurement in measurements for row in _moment_rows(measurement, quantity)]
    axis = _axis(measurements, quantity, GRADIENT if quantity == "gradient" else "‖{}‖")
    dashes = {
        MOMENT_TEXT[m.moment]: [4, 3] if m.moment == "before" else [1, 0] for m in measurements
    }
    scale = alt.Scale(domain=list(dashes), range=list(dashes.values()))
    line = (
        alt.Chart()
        .mark_line(strokeWidth=2.2)
        .encode(
            x=charts.steps(len(measurements[0].flow.gradient)),
            y=charts.powers((row["value"] for row in rows), axis),
            color=curve_colour(m.kind for m in measurements),
            strokeDash=alt.StrokeDash("moment:N", title=None, scale=scale),
            tooltip=[
                "nonlinearity:N",
                "moment:N",
                alt.Tooltip("step:Q", title="step t"),
                alt.Tooltip("value:Q", title="log10 of the norm", format=".3f"),
            ],
        )
    )
    return charts.panels([line], rows, title=title, subtitle=subtitle)


def _moment_rows(measurement: Measurement, quantity: Literal["gradient", "state"]) -> list[Row]:
    column, row = measurement.panel
    flow = measurement.flow
    return points(
        {
            "column": column,
            "row": row,
            "nonlinearity": measurement.kind,
            "moment": MOMENT_TEXT[measurement.moment],
        },
        flow.gradient if quantity == "gradient" else log10(flow.state),
    )
