"""A language model as figures and tables: how it learned, and what each search makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.charts import paler
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.heatmap import heatmap
from experiments.drawing.numbers import Floats
from experiments.drawing.tables import Column, Figure, Row, Table, along
from experiments.questions.char_lm.continuations import Continuation, Sample
from experiments.questions.char_lm.learner import History, Learner
from experiments.questions.char_lm.text import quoted, shown

TRAINING, HELD_OUT = "each training window", "held-out text"

MOST_POINTS = 800
"""Training windows that a chart shows."""

LOSSES = ("every character", "last character")
STATES = ("hidden state h", "cell state c")


def loss_chart(
    history: History, counting: Sequence[float], steps: int, size: str
) -> alt.TopLevelMixin:
    """Losses over training, and levels for what counting can do."""
    looks = {TRAINING: Look(paler(charts.BLUE, 0.65), (1, 0), 1.0)}
    lines = [
        Line(TRAINING, history.losses, every=max(1, len(history.losses) // MOST_POINTS)),
        Line(HELD_OUT, history.held_out, x=history.moments),
    ]
    best = counting.index(min(counting)) + 1
    for n, dash in ((2, (2, 3)), (3, (6, 3)), (best, (1, 0))):
        what = f"{n}-gram model{', the best of these' * (n == best)}"
        looks[what] = Look(charts.GREY, dash, 1.4)
        lines.append(Line(what, [counting[n - 1]] * 2, x=(0, steps)))
    looks[HELD_OUT] = Look(charts.BLUE, (1, 0), 2.5)
    return curves(
        lines,
        looks,
        x=charts.steps(steps + 1, "training steps done"),
        y="nats per character",
        axis=charts.linear,
        title="How much of the next character remains unknown",
        subtitle=size,
        height=300,
    )


def flow_chart(history: History, steps: int, size: str) -> alt.TopLevelMixin:
    """Gradient by step in the window and training step, for both losses and both states."""
    gradient = history.gradient()
    panels: list[tuple[Row, list[int], Floats]] = [
        ({"column": state, "row": loss}, history.moments, gradient[:, i, j])
        for i, loss in enumerate(LOSSES)
        for j, state in enumerate(STATES)
    ]
    return heatmap(
        panels,
        steps=steps,
        legend="size of the gradient, ‖∂L/∂hₜ‖ or ‖∂L/∂cₜ‖",
        title="Which characters the gradient reaches, during training",
        subtitle=f"first layer, on one window of held-out text; {size}",
    )


def search_chart(found: Sequence[Continuation], length: int) -> alt.TopLevelMixin:
    """Log-probability that each method found, with a line to what it could have missed at most."""
    prompts = list(dict.fromkeys(each.prompt for each in found))
    rows: list[Row] = [
        {
            "column": "",
            "row": f"prompt {prompts.index(each.prompt) + 1}",
            "method": each.method,
            "value": charts.drawable(each.log_probability),
            "bound": charts.drawable(each.bound),
            "text": shown(each.text),
        }
        for each in found
    ]
    values = [row[key] for row in rows for key in ("value", "bound")]
    low, high = charts.spanned(values)
    x = alt.X(
        "value:Q",
        title="log-probability of the text in nats (dot), and what no text exceeds (line)",
        scale=alt.Scale(domain=[low, max(high, 0.0)], nice=False, zero=False),
    )
    order = list(dict.fromkeys(each.method for each in found))
    y = alt.Y("method:N", title=None, sort=order)
    tooltip = [alt.Tooltip("method:N"), alt.Tooltip("text:N")]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".4f") for name in ("value", "bound")]
    dots = alt.Chart().encode(x=x, y=y, tooltip=tooltip)
    return charts.panels(
        [
            alt.Chart()
            .transform_filter("isValid(datum.bound)")
            .mark_rule(color=charts.GREY, strokeWidth=2)
            .encode(x=x, x2="bound:Q", y=y),
            alt.Chart()
            .transform_filter("isValid(datum.bound)")
            .mark_tick(color=charts.GREY, thickness=2, size=10)
            .encode(x="bound:Q", y=y),
            dots.mark_point(color=charts.BLUE, filled=True, size=70, opacity=1),
        ],
        rows,
        title="What each search found, and what it can have missed",
        subtitle=f"continuations of {length} characters",
        height=22 * len(order),
    )


def figures(
    history: History,
    counting: Sequence[float],
    found: Sequence[Continuation],
    length: int,
    size: str,
) -> tuple[Figure, ...]:
    """Losses, gradient flow and searches."""
    steps = len(history.losses)
    return (
        Figure(
            "loss",
            "The loss during training",
            "The held-out text is the end of the source, on which nothing was trained. Grey lines: models "
            "that count which character follows those before it.",
            loss_chart(history, counting, steps, size),
        ),
        Figure(
            "flow",
            "Gradient flow during training",
            "Each column of a panel is one moment of training. Upper row: L is the loss that is trained "
            "on, the mean over all characters. Lower row: L is the loss of a window's last character "
            "alone, which shows how far back the gradient reaches.",
            flow_chart(history, steps, size),
        ),
        Figure(
            "searches",
            "What each search found",
            "Further to the right is likelier. The line leads to the bound that no text exceeds. A search "
            "whose line has no length has proven that its text is the likeliest of all. Samples have no "
            "bound.",
            search_chart(found, length),
        ),
    )


def tables(
    history: History,
    found: Sequence[Continuation],
    samples: Sequence[Sample],
    losses: Sequence[Row],
    words: Sequence[Row],
) -> tuple[Table, ...]:
    """Each continuation for people; losses, flow and long samples for programs."""
    prompts = list(dict.fromkeys(each.prompt for each in found))
    columns = (
        Column("prompt", "prompt", "d", get=lambda e: prompts.index(e.prompt) + 1),
        Column("method", "method"),
        Column("log_probability", "log-probability (nats)", ".3f"),
        Column("rescored"),
        Column("bound"),
        Column("gap", "gap (nats)", ".3f"),
        Column("certified", "certified"),
        Column("shown", "text", get=lambda e: shown(e.text)),
        Column("text"),
    )
    named = "; ".join(f"{k} {quoted(prompt)}" for k, prompt in enumerate(prompts, start=1))
    flow: list[Row] = [
        {
            "training_step": moment,
            "loss": LOSSES[i],
            "state": state,
            "step": t,
            "gradient_log10": values[i][j][t],
        }
        for moment, values in zip(history.moments, history.flow, strict=True)
        for i in range(2)
        for j, state in enumerate("hc")
        for t in range(len(values[i][j]))
    ]
    return (
        Table(
            "continuations",
            "What each method makes of each prompt",
            found,
            columns,
            f"Prompts: {named}. No text of this length is likelier by more than the gap. Certified texts "
            "are proven to be the likeliest.",
            printed=True,
        ),
        Table(
            "models",
            "How much of a character of the held-out text is unknown",
            losses,
            (
                Column("model", "model"),
                Column("loss", "nats per character", ".3f"),
                Column("perplexity", "as a choice among", ".2f"),
            ),
            "An n-gram model counts what follows n − 1 characters, mixed with shorter ones (Witten–Bell).",
            printed=True,
        ),
        Table(
            "words",
            "Words of four letters or more that occur in the training text",
            words,
            (Column("source", "words of"), Column("known", "share that occurs", ".1%")),
            "Letters at random are drawn one by one, each as often as in the text.",
            printed=True,
        ),
        Table(
            "samples",
            "Longer samples",
            [vars(sample) for sample in samples],
        ),
        Table(
            "losses",
            "Each training step",
            along({}, "training_step", {"loss": history.losses}),
        ),
        Table(
            "held_out",
            "Each measured moment",
            [
                {"training_step": moment, "loss": loss}
                for moment, loss in zip(history.moments, history.held_out, strict=True)
            ],
        ),
        Table("flow", "Gradient flow at each measured moment", flow),
    )


def loss_rows(counting: Sequence[float], learners: Sequence[Learner]) -> list[Row]:
    """Rows of the models' losses on the held-out text."""
    losses = {f"{n}-gram": loss for n, loss in enumerate(counting, start=1)}
    losses |= {each.model.cell.upper(): each.history.held_out[-1] for each in learners}
    return [
        {"model": name, "loss": loss, "perplexity": float(np.exp(loss))}
        for name, loss in losses.items()
    ]
