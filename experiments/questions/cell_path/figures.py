"""The ways of an LSTM's gradient as figures and tables."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.charts import PALETTE
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.tables import Column, Figure, Row, Table, along, rows_of
from experiments.drawing.words import counted
from experiments.questions.cell_path.measure import PARTS, Paths
from experiments.regressors.flow import TARGET_TEXT
from experiments.regressors.measurement import MOMENT_TEXT

ALONE = "cell path alone"

SHARE_LOOKS = {
    PARTS["direct"]: Look(charts.BLUE),
    PARTS["via h"]: Look(charts.ORANGE),
    PARTS["local"]: Look(charts.GREEN, (5, 3)),
}


def share_chart(found: Sequence[Paths], title: str, size: str) -> alt.TopLevelMixin:
    """The three shares of one step, by forget bias and target."""
    lines = [
        Line(PARTS[name], share, f"forget bias {paths.forget_bias:g}", TARGET_TEXT[paths.target])
        for paths in found
        for name, share in paths.shares.items()
    ]
    return curves(
        lines,
        SHARE_LOOKS,
        x=charts.steps(len(found[0].gradient)),
        y="signed share of ∂L/∂cₜ",
        axis=charts.shares,
        title=title,
        subtitle=f"⟨part, δ⟩/‖δ‖² of δ = ∂L/∂cₜ; {size}",
        rules=(0.0, 1.0),
    )


def alone_chart(found: Sequence[Paths], size: str) -> alt.TopLevelMixin:
    """Share of the cell path alone against the lag, a curve for each forget bias."""
    biases = sorted({paths.forget_bias for paths in found})
    dashes = ((1, 0), (7, 3), (2, 2), (9, 3))
    looks = {
        f"forget bias {bias:g}": Look(PALETTE[i % len(PALETTE)], dashes[i % len(dashes)])
        for i, bias in enumerate(biases)
    }
    lines = [
        Line(
            f"forget bias {paths.forget_bias:g}",
            paths.alone[::-1],
            MOMENT_TEXT[paths.moment],
            TARGET_TEXT[paths.target],
        )
        for paths in found
    ]
    return curves(
        lines,
        looks,
        x=charts.lags(len(found[0].gradient) - 1),
        y="signed share of ∂L/∂cₜ",
        axis=charts.shares,
        title="How much of the gradient came over the cell path alone",
        subtitle=f"through no hidden state on the whole way back; {size}",
        rules=(0.0, 1.0),
        height=280,
    )


def hop_chart(found: Sequence[Paths], size: str) -> alt.TopLevelMixin:
    """Norms by the number of hidden states on the way, with the product of the gates."""
    last = len(found[0].hops) - 2
    names = [ALONE, *(counted(j, "hidden state") for j in range(1, last + 1)), f"more than {last}"]
    colours = (charts.BLUE, charts.GREEN, charts.AMBER, charts.PINK, charts.SKY, charts.GREY)
    looks = {
        name: Look(charts.ORANGE if j == last + 1 else colours[j % len(colours)])
        for j, name in enumerate(names)
    }
    looks["whole gradient"] = Look(charts.INK, (2, 2), 2.0)
    length = len(found[0].gradient)
    lines: list[Line] = []
    dots: list[Line] = []
    for paths in found:
        panel = f"forget bias {paths.forget_bias:g}", MOMENT_TEXT[paths.moment]
        lines.append(Line("whole gradient", paths.gradient, *panel))
        lines += [Line(name, each, *panel) for name, each in zip(names, paths.hops, strict=True)]
        dots.append(
            Line("gates' product by hand", paths.by_hand, *panel, every=max(1, length // 12))
        )
    return curves(
        lines,
        looks,
        x=charts.steps(length),
        y="size of the gradient",
        dots=dots,
        title="The gradient by the number of hidden states it went through",
        subtitle=f"‖∂L/∂cₜ‖ over the paths through so many hidden states; {size}",
    )


def figures(found: Sequence[Paths], shown: str, size: str) -> tuple[Figure, ...]:
    """Share of the cell path alone, shares of one step, and gradients by hidden states for one target."""
    before = [paths for paths in found if paths.moment == "before"]
    after = [paths for paths in found if paths.moment == "after"]
    way = "Three ways to ∂L/∂cₜ in one step"
    drawn = [
        Figure(
            "cell_path_alone",
            "The cell path on its own",
            "What went through no hidden state on its whole way back, as a share of what arrives there. A "
            "share below 0 works against the whole.",
            alone_chart(found, size),
        ),
        Figure(
            "shares",
            "The three shares of one step, before training",
            "The gradient arrives at $c_t$ straight from $c_{t+1}$, through $h_t$ and the gates of step "
            "$t + 1$, or from the loss of step $t$. The shares sum to 1 at every step; a share below 0 "
            "works against the whole.",
            share_chart(before, way, f"before training, {size}"),
        ),
        Figure(
            "hops",
            "The gradient by the number of hidden states on its way",
            "Circles: the product of the forget gates, computed by hand. Norms of parts may exceed the "
            "norm of the whole, since parts cancel. A curve ends where too few steps are left for its "
            "number of hidden states.",
            hop_chart([paths for paths in found if paths.target == shown], size),
        ),
    ]
    if after:
        drawn.append(
            Figure(
                "shares_after",
                "The three shares of one step, after training",
                "The same networks on the same batch.",
                share_chart(after, way, f"after training, {size}"),
            )
        )
    return tuple(drawn)


def tables(found: Sequence[Paths], shown: str) -> tuple[Table, ...]:
    """Each network in numbers, and each step for programs."""
    steps: list[Row] = []
    for paths in found:
        keys: Row = {
            "forget_bias": paths.forget_bias,
            "moment": paths.moment,
            "target": paths.target,
            "seed": paths.seed,
        }
        values = {
            "gradient_log10": paths.gradient,
            "forget_mean": paths.forget,
            **{f"share {name}": share for name, share in paths.shares.items()},
            **{f"hops_{j}_log10": hops for j, hops in enumerate(paths.hops[:-1])},
            "more_hops_log10": paths.hops[-1],
            **{f"hops_{j}_share": part for j, part in enumerate(paths.hop_shares[:-1])},
            "more_hops_share": paths.hop_shares[-1],
        }
        steps += along(keys, "step", values)
    columns = (
        Column("forget_bias", "forget bias", "g"),
        Column("moment", "training"),
        Column("target"),
        Column("seed", "seed", "d"),
        Column("forget_mean", "mean forget gate", ".3f", get=lambda e: e.forget.mean()),
        Column("decades_per_step", "decades a step", "+.3f", get=lambda e: e.slope),
        Column("cell_share_one_step", "its share in one step", "+.2f", get=lambda e: e.one_step),
        Column(
            "cell_path_passes",
            "cell path passes",
            ".2g",
            get=lambda e: e.passed if e.target == "last" else None,
        ),
        Column("cell_share_alone", "its share of $∂L/∂c_0$", "+.3f", get=lambda e: e.alone[0]),
        Column("loss", "loss", ".3g"),
        *map(Column, ("sum_error", "part_error", "hop_error")),
    )
    return (
        Table(
            "paths",
            f"The cell path's share of the gradient ({TARGET_TEXT[shown]})",
            [paths for paths in found if paths.target == shown],
            columns,
            "Decades a step: what $‖∂L/∂c_t‖$ gains at each step back, at the earliest third of the "
            "steps; at −0.3 a step keeps half. In one step: the median over the steps. Passes: the part "
            "of $‖∂L/∂c_{T−1}‖$ that the product of the forget gates lets through to $c_0$.",
            printed=True,
        ),
        Table("networks", "Each network and target", rows_of(found, columns)),
        Table("steps", "Each time step", steps),
    )
