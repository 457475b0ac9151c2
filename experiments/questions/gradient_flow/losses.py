"""Training losses as rows and as a chart."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.curves import points
from experiments.drawing.numbers import log10
from experiments.drawing.tables import Row
from experiments.regressors.flow import TARGET_TEXT
from experiments.regressors.looks import nonlinearity_colour
from experiments.regressors.networks import NONLINEARITY_TEXT
from experiments.regressors.study import Study


def loss_rows(studies: Sequence[Study]) -> list[Row]:
    """Return a row for each training step of each network."""
    return [
        {
            "nonlinearity": study.network.nonlinearity,
            "spectral_radius": study.network.radius,
            "target": study.network.target,
            "training_step": step,
            "loss": loss,
        }
        for study in studies
        for step, loss in enumerate(study.training.losses, start=1)
    ]


def loss_chart(studies: Sequence[Study], title: str, subtitle: str) -> alt.TopLevelMixin:
    """Loss of each training batch, in the same grid as the gradients."""
    rows: list[Row] = []
    for study in studies:
        rows += points(
            {
                "column": f"spectral radius {study.network.radius:g}",
                "row": TARGET_TEXT[study.network.target],
                "nonlinearity": NONLINEARITY_TEXT[study.network.nonlinearity],
            },
            log10(study.training.losses),
        )
    last = max(len(study.training.losses) for study in studies)
    line = (
        alt.Chart()
        .mark_line(strokeWidth=1.6, point=last == 1)  # a line needs two points
        .encode(
            x=charts.steps(last, "training step"),
            y=charts.powers((row["value"] for row in rows), "mean squared error"),
            color=nonlinearity_colour(study.network.nonlinearity for study in studies),
            tooltip=[
                "nonlinearity:N",
                alt.Tooltip("step:Q", title="training step"),
                alt.Tooltip("value:Q", title="log10 of the loss", format=".3f"),
            ],
        )
    )
    return charts.panels([line], rows, title=title, subtitle=subtitle)
