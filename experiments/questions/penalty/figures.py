"""Networks trained with a penalty on their gradient flow and without, as figures and tables."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import log10
from experiments.drawing.tables import Column, Figure, Row, Table, along
from experiments.questions.penalty.measure import Learned, Way, decades

BEFORE, AFTER = "before training", "after training"
CONSTANT = "best constant"

FLOW_LOOKS = {
    BEFORE: Look(charts.GREY, (5, 3), 2.2),
    AFTER: Look(charts.INK, (1, 0), 2.8),
}

LARGER = charts.PALETTE[2:]
"""Colours of larger steps."""

AVERAGED = 10
"""Number of training batches whose mean is one point of a curve of losses."""


def way_looks(ways: Sequence[Way]) -> dict[str, Look]:
    """A colour for each way of training."""
    larger = [way for way in dict.fromkeys(ways) if way.larger != 1]
    looks = {Way(1.0).name: Look(charts.BLUE, (1, 0), 3.0)}
    looks |= {Way().name: Look(charts.ORANGE, (1, 0), 2.2)}
    looks |= {
        way.name: Look(LARGER[i % len(LARGER)], (6, 3) if i % 2 else (3, 2), 1.8)
        for i, way in enumerate(larger)
    }
    return {**looks, CONSTANT: Look(charts.INK, (1, 2), 1.4)}


def flow_chart(found: Sequence[Learned], size: str) -> alt.TopLevelMixin:
    """Gradient over time before and after, a panel for each way."""
    lines = [
        Line(what, gradient - gradient[-1], learned.way.name)
        for learned in found
        for what, gradient in ((BEFORE, learned.before), (AFTER, learned.after))
    ]
    return curves(
        lines,
        FLOW_LOOKS,
        x=charts.steps(len(found[0].before)),
        y="relative size of ∂L/∂hₜ",
        rules=(0.0,),
        title="How far back the gradient reaches",
        subtitle=f"in units of the last step's, on one batch; {size}",
        height=260,
    )


def loss_chart(found: Sequence[Learned], size: str) -> alt.TopLevelMixin:
    """Losses during training, a panel for each seed."""
    lines: list[Line] = []
    most = max(len(learned.training.losses) for learned in found)
    for learned in found:
        panel = f"seed {learned.seed}"
        losses = np.asarray(learned.training.losses)
        starts = range(0, len(losses), AVERAGED)
        means = log10([losses[start : start + AVERAGED].mean() for start in starts])
        lines.append(Line(learned.way.name, means, panel, x=starts))
        lines.append(Line(CONSTANT, [0.0, 0.0], panel, x=(0, most)))
    return curves(
        lines,
        way_looks([learned.way for learned in found]),
        x=charts.steps(most + 1, "training steps done"),
        y="mean squared error",
        title="Learning to say the first number last",
        subtitle=f"loss of the task alone, means over {AVERAGED} training batches; {size}",
        height=260,
    )


def figures(found: Sequence[Learned], shown: int, size: str) -> tuple[Figure, ...]:
    """Gradients of the seed that is shown, and losses of all."""
    same = [learned for learned in found if learned.way.larger == 1 and learned.seed == shown]
    return (
        Figure(
            "flow",
            "The gradient before and after training",
            "The label is about step 0, on the left of each panel. Without the penalty, training cannot "
            "change what its gradient does not reach; with it, training acts on the gradient, too.",
            flow_chart(same, f"{size}, seed {shown}"),
        ),
        Figure(
            "loss",
            "The loss during training",
            "Best constant: the loss of the best predictor that does not know the first number.",
            loss_chart(found, size),
        ),
    )


def tables(found: Sequence[Learned], learning_rate: float) -> tuple[Table, ...]:
    """Each network in numbers; losses and gradients for programs."""
    columns = (
        Column("way", "trained", get=lambda e: e.way.name),
        Column("seed", "seed", "d"),
        Column("weight", get=lambda e: e.way.weight),
        Column("learning_rate", "step size", "g", get=lambda e: learning_rate * e.way.larger),
        Column("loss", "mean squared error", ".2g"),
        Column("before_log10", "$‖∂L/∂h_0‖/‖∂L/∂h_{T−1}‖$ before", get=lambda e: decades(e.before)),
        Column("after_log10", "after", get=lambda e: decades(e.after)),
        Column("stopped", get=lambda e: e.training.stopped),
    )
    losses: list[Row] = []
    flow: list[Row] = []
    for learned in found:
        keys: Row = {"way": learned.way.name, "seed": learned.seed}
        losses += along(keys, "training_step", {"loss": learned.training.losses})
        flow += along(keys, "step", {"before_log10": learned.before, "after_log10": learned.after})
    return (
        Table(
            "networks",
            "Each network on fresh sequences, after training",
            found,
            columns,
            "The best predictor that does not know the first number has a mean squared error of 1.",
            printed=True,
        ),
        Table("losses", "Each training step", losses),
        Table("flow", "Gradients before and after training", flow),
    )
