"""Learning networks as figures and tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.heatmap import heatmap
from experiments.drawing.numbers import Floats, log10
from experiments.drawing.tables import Column, Figure, Row, Table, along
from experiments.drawing.words import counted
from experiments.questions.training.measure import Learned, inputs_used, least_loss
from experiments.regressors.data import batch_of
from experiments.regressors.flow import TARGET_TEXT
from experiments.regressors.networks import CELL_TEXT

CONSTANT, FORGETFUL = "best constant prediction", "best without the oldest number"
LABEL = "label"

LOSS_LOOKS = {
    "RNN": Look(charts.ORANGE, (1, 0), 1.8),
    "LSTM": Look(charts.BLUE, (1, 0), 1.8),
    CONSTANT: Look(charts.GREY, (2, 2), 1.6),
    FORGETFUL: Look(charts.INK, (7, 3), 1.6),
}

SHOWN_SEQUENCES = 3


def network_looks(found: Sequence[Learned]) -> dict[str, Look]:
    """Colour by cell, dash by layers."""
    colours = {"rnn": charts.ORANGE, "lstm": charts.BLUE}
    own = dict.fromkeys(each.task.cell for each in found if each.task.cell not in colours)
    colours |= dict(zip(own, itertools.cycle(charts.SPARE), strict=False))
    dashes = ((1, 0), (6, 3), (2, 2))
    layers = sorted({learned.task.layers for learned in found})
    return {
        learned.task.name: Look(
            colours[learned.task.cell], dashes[layers.index(learned.task.layers) % len(dashes)], 2.0
        )
        for learned in found
    }


def loss_chart(found: Sequence[Learned], length: int, steps: int, size: str) -> alt.TopLevelMixin:
    """Loss of each training batch, with the losses that say what must have been remembered."""
    lines: list[Line] = []
    for learned in found:
        panel = counted(learned.task.layers, "layer"), TARGET_TEXT[learned.task.target]
        lines.append(Line(CELL_TEXT[learned.task.cell], log10(learned.training.losses), *panel))
        for what, inputs in (CONSTANT, 0), (FORGETFUL, length - 1):
            level = float(log10(least_loss(inputs, length, learned.task.target)))
            lines.append(Line(what, [level, level], *panel, x=(0, steps)))
    return curves(
        lines,
        LOSS_LOOKS,
        x=charts.steps(steps + 1, "training steps done"),
        y="mean squared error",
        title="Learning the running average",
        subtitle=f"loss of each training batch; {size}",
        height=230,
    )


def prediction_chart(
    found: Sequence[Learned], batch: int, length: int, size: str
) -> alt.TopLevelMixin:
    """Predictions of every network for the first sequences of the measured batch."""
    lines: list[Line] = []
    dots: list[Line] = []
    for learned in found:
        _, labels = batch_of(learned.task.seed, batch, length)
        for sequence in range(min(SHOWN_SEQUENCES, batch)):
            panel = f"sequence {sequence + 1}", TARGET_TEXT[learned.task.target]
            lines.append(Line(learned.task.name, learned.predictions[:, sequence], *panel))
            if learned.task.name == found[0].task.name:
                dots.append(Line(LABEL, labels[:, sequence, 0], *panel))
    return curves(
        lines,
        network_looks(found),
        x=charts.steps(length),
        y="prediction ŷ_t",
        axis=charts.linear,
        dots=dots,
        title="Predictions and labels after training",
        subtitle=f"sequences that no network was trained on; {size}",
    )


def flow_chart(
    found: Sequence[Learned], steps: int, size: str, *, relative: bool
) -> alt.TopLevelMixin:
    """Gradient by time step and training step, a panel for each layer of each network."""
    panels: list[tuple[Row, list[int], Floats]] = []
    for learned in found:
        for layer in range(learned.task.layers):
            where = f"layer {layer + 1} of {learned.task.layers}"
            panel: Row = {
                "column": f"{CELL_TEXT[learned.task.cell]}, "
                + (where if learned.task.layers > 1 else "1 layer"),
                "row": TARGET_TEXT[learned.task.target],
            }
            values = learned.gradient[:, layer]
            values = values - relative * values[:, -1:]
            panels.append((panel, learned.moments.tolist(), values))
    what = "‖∂L/∂h_t‖ / ‖∂L/∂h_(T−1)‖" if relative else "‖∂L/∂h_t‖"
    return heatmap(
        panels,
        steps=steps,
        legend=what,
        title="Which time steps the gradient reaches, during training"
        if relative
        else "How the gradient at each time step changes during training",
        subtitle=f"{what} on one batch; {size}",
    )


def figures(
    found: Sequence[Learned], batch: int, length: int, steps: int, size: str
) -> tuple[Figure, ...]:
    """Reach, losses, predictions and flow, of the networks of one seed."""
    losses = Figure(
        "loss",
        "The loss during training",
        "Below the dashed line a network must use every number of the sequence, the oldest too: "
        "no predictor that leaves it out can have a smaller loss.",
        loss_chart(found, length, steps, size),
    )
    predictions = Figure(
        "predictions",
        "Predictions and labels",
        "Circles: the mean so far. A network whose loss was at the last step alone learned nothing about "
        "earlier predictions.",
        prediction_chart(found, batch, length, size),
    )
    watched = [learned for learned in found if len(learned.moments)]
    if not watched:
        return losses, predictions
    reach = Figure(
        "reach",
        "Reach of the gradient during training",
        "Each column of a panel is one moment of training. Its gradients are relative to the one at the "
        "last step, so that only their reach is seen.",
        flow_chart(watched, steps, size, relative=True),
    )
    flow = Figure(
        "flow",
        "Gradient flow during training",
        "The gradient norms themselves. They darken as the loss gets smaller, because the gradient "
        "starts from it.",
        flow_chart(watched, steps, size, relative=False),
    )
    return reach, losses, predictions, flow


def tables(found: Sequence[Learned], length: int) -> tuple[Table, ...]:
    """Each network in numbers; losses, predictions and flow for programs."""

    def best_constant(each: Learned) -> float:
        return least_loss(0, length, each.task.target)

    def used(each: Learned) -> int:
        return inputs_used(each.loss, length, each.task.target)

    def reach(moment: int) -> Callable[[Learned], float | None]:
        return lambda each: each.reach(moment) if len(each.moments) else None

    columns = (
        Column("network", "network", get=lambda e: e.task.name),
        Column("target", "loss at", get=lambda e: e.task.target),
        Column("seed", "seed", "d", get=lambda e: e.task.seed),
        Column("loss", "mean squared error", ".2g"),
        Column("constant", "best constant prediction", ".3g", get=best_constant),
        Column("ratio", "ratio of the two", ".2%", get=lambda e: e.loss / best_constant(e)),
        Column("inputs_used", "numbers it must use", "d", get=used),
        Column("reach_before_log10", "$‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖$ before training", get=reach(0)),
        Column("reach_after_log10", "after training", get=reach(-1)),
        Column("stopped", get=lambda e: e.training.stopped),
    )
    losses: list[Row] = []
    flow: list[Row] = []
    for learned in found:
        task = learned.task
        keys: Row = {"network": task.name, "target": task.target, "seed": task.seed}
        losses += along(keys, "training_step", {"loss": learned.training.losses})
        for m, moment in enumerate(learned.moments.tolist()):
            for layer in range(task.layers):
                there: Row = {**keys, "layer": layer + 1, "training_step": moment}
                flow += along(there, "step", {"gradient_log10": learned.gradient[m, layer]})
    return (
        Table(
            "networks",
            "Each network on fresh sequences, after training",
            found,
            columns,
            "Numbers it must use: at least so many of the last numbers, since a predictor that sees fewer "
            "has a larger loss. The gradient is that of the lowest layer; it is measured in the networks "
            "with the first seed.",
            printed=True,
        ),
        Table("losses", "Each training step", losses),
        *([Table("flow", "Each watched moment", flow)] * bool(flow)),
    )
