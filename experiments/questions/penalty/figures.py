"""Networks trained with a penalty on their gradient flow and without, as figures and tables."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Look, curves, points
from experiments.drawing.numbers import log10
from experiments.drawing.tables import Column, Figure, Row, Table
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
"""Training batches that a point of a curve of losses is the mean of."""


def way_looks(ways: Sequence[Way]) -> dict[str, Look]:
    """The colour of the penalty, of the same without it, and of each larger step."""
    larger = [way for way in dict.fromkeys(ways) if way.larger != 1]
    looks = {Way(1.0).name: Look(charts.BLUE, (1, 0), 3.0)}
    looks |= {Way().name: Look(charts.VERMILLION, (1, 0), 2.2)}
    looks |= {
        way.name: Look(LARGER[i % len(LARGER)], (6, 3) if i % 2 else (3, 2), 1.8)
        for i, way in enumerate(larger)
    }
    return {**looks, CONSTANT: Look(charts.INK, (1, 2), 1.4)}


def flow_chart(found: Sequence[Learned], size: str) -> alt.TopLevelMixin:
    """Gradient over time before and after, a panel for each way."""
    rows: list[Row] = []
    for learned in found:
        for what, gradient in ((BEFORE, learned.before), (AFTER, learned.after)):
            panel: Row = {"column": learned.way.name, "row": "", "what": what}
            rows += points(panel, gradient - gradient[-1])
    return curves(
        rows,
        FLOW_LOOKS,
        x=charts.steps(len(found[0].before)),
        y=charts.powers((row["value"] for row in rows), "‖∂L/∂h_t‖ / ‖∂L/∂h_T‖"),
        rules=(0.0,),
        title="How far back the gradient reaches",
        subtitle=f"relative to the last step, on one batch; {size}",
        height=260,
    )


def loss_chart(found: Sequence[Learned], size: str) -> alt.TopLevelMixin:
    """Losses during training, a panel for each seed."""
    rows: list[Row] = []
    most = max(len(learned.training.losses) for learned in found)
    for learned in found:
        panel: Row = {"column": f"seed {learned.seed}", "row": ""}
        losses = np.asarray(learned.training.losses)
        for start in range(0, len(losses), AVERAGED):
            some = losses[start : start + AVERAGED]
            mean = log10([some.mean()])
            rows += points({**panel, "what": learned.way.name}, mean, first=start + len(some))
        for step in (1, max(most, 2)):
            rows += points({**panel, "what": CONSTANT}, [0.0], first=step)
    return curves(
        rows,
        way_looks([learned.way for learned in found]),
        x=charts.steps(max(most, 2), "training step"),
        y=charts.powers((row["value"] for row in rows), "mean squared error"),
        title="Saying the first number last",
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
            "On the left it has vanished before it reaches the step that the label is about, and stays "
            "so: training cannot change what it does not see. On the right the penalty has opened the way.",
            flow_chart(same, f"{size}, seed {shown}"),
        ),
        Figure(
            "loss",
            "The loss during training",
            "The dotted line is the loss of the best predictor that does not know the first number.",
            loss_chart(found, size),
        ),
    )


def tables(found: Sequence[Learned], learning_rate: float) -> tuple[Table, ...]:
    """Each network in numbers; losses and gradients for programs."""
    networks: list[Row] = [
        {
            "way": learned.way.name,
            "seed": learned.seed,
            "weight": learned.way.weight,
            "learning_rate": learning_rate * learned.way.larger,
            "loss": learned.loss,
            "before_log10": decades(learned.before),
            "after_log10": decades(learned.after),
            "stopped": learned.training.stopped,
        }
        for learned in found
    ]
    columns = (
        Column("way", "trained"),
        Column("seed", "seed", "d"),
        Column("learning_rate", "step size", "g"),
        Column("loss", "loss", ".2g"),
        Column("before_log10", "‖∂L/∂h_1‖/‖∂L/∂h_T‖ before", log10=True),
        Column("after_log10", "after", log10=True),
    )
    losses: list[Row] = [
        {"way": learned.way.name, "seed": learned.seed, "training_step": step, "loss": loss}
        for learned in found
        for step, loss in enumerate(learned.training.losses, start=1)
    ]
    flow: list[Row] = [
        {
            "way": learned.way.name,
            "seed": learned.seed,
            "step": t + 1,
            "before_log10": float(learned.before[t]),
            "after_log10": float(learned.after[t]),
        }
        for learned in found
        for t in range(len(learned.before))
    ]
    return (
        Table(
            "networks",
            "Each network on fresh sequences, after training",
            networks,
            columns,
            "The loss of the best predictor that does not know the first number is 1.",
            printed=True,
        ),
        Table("losses", "Each training step", losses),
        Table("flow", "Gradients before and after training", flow),
    )
