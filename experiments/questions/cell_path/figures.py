"""The ways of an LSTM's gradient as figures and tables."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from experiments.drawing import charts
from experiments.drawing.charts import PALETTE
from experiments.drawing.curves import Look, curves, lags, points
from experiments.drawing.tables import Column, Figure, Row, Table
from experiments.questions.cell_path.measure import PARTS, Paths
from experiments.regressors.flow import TARGET_TEXT
from experiments.regressors.measurement import MOMENT_TEXT

ALONE = "cell path alone (0 hops)"

SHARE_LOOKS = {
    PARTS["direct"]: Look(charts.BLUE),
    PARTS["via h"]: Look(charts.VERMILLION),
    PARTS["local"]: Look(charts.GREEN, (5, 3)),
}


def share_chart(found: Sequence[Paths], title: str, size: str) -> alt.TopLevelMixin:
    """The three shares of one step, by forget bias and target."""
    rows = [
        row
        for paths in found
        for name, share in paths.shares.items()
        for row in points(
            {
                "column": f"forget bias {paths.forget_bias:g}",
                "row": TARGET_TEXT[paths.target],
                "what": PARTS[name],
            },
            share,
        )
    ]
    return curves(
        rows,
        SHARE_LOOKS,
        x=charts.steps(len(found[0].gradient)),
        y=charts.shares((row["value"] for row in rows), "signed share of ∂L/∂c_t"),
        title=title,
        subtitle=f"⟨part, δ⟩/‖δ‖² of δ = ∂L/∂c_t; {size}",
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
    length = len(found[0].gradient)
    rows = [
        row
        for paths in found
        for row in points(
            {
                "column": MOMENT_TEXT[paths.moment],
                "row": TARGET_TEXT[paths.target],
                "what": f"forget bias {paths.forget_bias:g}",
            },
            paths.alone[::-1],
            "lag",
            first=0,
        )
    ]
    return curves(
        rows,
        looks,
        x=lags(length - 1),
        y=charts.shares((row["value"] for row in rows), "signed share of ∂L/∂c_t"),
        title="How much of the gradient came over the cell path alone",
        subtitle=f"through no hidden state on the whole way back; {size}",
        rules=(0.0, 1.0),
        height=280,
    )


def hop_chart(found: Sequence[Paths], size: str) -> alt.TopLevelMixin:
    """Norms by the number of hidden states on the way, with the product of the gates."""
    last = len(found[0].hops) - 2
    names = [ALONE, *(f"{j} hop{'s' * (j > 1)}" for j in range(1, last + 1)), f"over {last} hops"]
    colours = (charts.BLUE, charts.GREEN, "#E69F00", "#CC79A7", "#56B4E9", charts.GREY)
    looks = {
        name: Look(charts.VERMILLION if j == last + 1 else colours[j % len(colours)])
        for j, name in enumerate(names)
    }
    looks["whole gradient"] = Look(charts.INK, (2, 2), 2.0)
    length = len(found[0].gradient)
    rows: list[Row] = []
    dots: list[Row] = []
    for paths in found:
        panel: Row = {
            "column": f"forget bias {paths.forget_bias:g}",
            "row": MOMENT_TEXT[paths.moment],
        }
        rows += points({**panel, "what": "whole gradient"}, paths.gradient)
        for name, values in zip(names, paths.hops, strict=True):
            rows += points({**panel, "what": name}, values)
        apart = max(1, length // 12)
        dots += points(
            {**panel, "what": "gates' product by hand"}, paths.by_hand, every=apart, y="dot"
        )
    return curves(
        rows,
        looks,
        x=charts.steps(length),
        y=charts.powers((row["value"] for row in rows), "gradient norm"),
        dots=dots,
        title="The gradient by the number of hidden states it went through",
        subtitle=f"‖∂L/∂c_t‖ over exactly j hops from h_s to a later step; {size}",
    )


def figures(found: Sequence[Paths], shown: str, size: str) -> tuple[Figure, ...]:
    """Share of the cell path alone, shares of one step, gradients by hops.

    Parameters
    ----------
    found : sequence of Paths
        Of one seed.
    shown : str
        The target that hops are drawn for.
    size : str
        For the subtitles.
    """
    before = [paths for paths in found if paths.moment == "before"]
    after = [paths for paths in found if paths.moment == "after"]
    way = "Three ways to ∂L/∂c_t in one step"
    drawn = [
        Figure(
            "cell_path_alone",
            "The cell path on its own",
            "What went through no hidden state at all on its whole way back, as a share of what "
            "arrives there. A share below 0 works against the whole.",
            alone_chart(found, size),
        ),
        Figure(
            "shares",
            "The three shares of one step, before training",
            "Of what arrives at c_t in one step back: straight from c_{t+1}, through h_t and the gates of "
            "step t + 1, or from the loss of step t. The shares sum to 1 at every step; a share below 0 "
            "works against the whole.",
            share_chart(before, way, f"before training, {size}"),
        ),
        Figure(
            "hops",
            "The gradient by the number of hidden hops",
            "Circles: the cell path alone as the gates' product, computed by hand. Norms of parts "
            "may exceed the norm of the whole: parts cancel. A part begins where there are steps "
            "enough for its hops.",
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
    networks: list[Row] = [
        {
            "forget_bias": paths.forget_bias,
            "moment": paths.moment,
            "target": paths.target,
            "seed": paths.seed,
            "forget_mean": float(paths.forget.mean()),
            "decades_per_step": paths.slope,
            "cell_share_one_step": paths.one_step,
            "cell_path_passes": paths.passed if paths.target == "last" else None,
            "cell_share_alone": float(paths.alone[0]),
            "loss": paths.loss,
            "sum_error": paths.sum_error,
            "part_error": paths.part_error,
            "hop_error": paths.hop_error,
        }
        for paths in found
    ]
    steps: list[Row] = [
        {
            "forget_bias": paths.forget_bias,
            "moment": paths.moment,
            "target": paths.target,
            "seed": paths.seed,
            "step": t + 1,
            "gradient_log10": float(paths.gradient[t]),
            "forget_mean": float(paths.forget[t]),
            **{f"share {name}": float(share[t]) for name, share in paths.shares.items()},
            **{f"hops_{j}_log10": float(hops[t]) for j, hops in enumerate(paths.hops[:-1])},
            "more_hops_log10": float(paths.hops[-1, t]),
            **{f"hops_{j}_share": float(part[t]) for j, part in enumerate(paths.hop_shares[:-1])},
            "more_hops_share": float(paths.hop_shares[-1, t]),
        }
        for paths in found
        for t in range(len(paths.gradient))
    ]
    columns = (
        Column("forget_bias", "forget bias", "g"),
        Column("moment", "training"),
        Column("seed", "seed", "d"),
        Column("forget_mean", "mean f", ".3f"),
        Column("decades_per_step", "decades/step", "+.3f"),
        Column("cell_share_one_step", "cell path, one step", "+.2f"),
        Column("cell_path_passes", "cell path passes", ".2g"),
        Column("cell_share_alone", "its share at step 1", "+.3f"),
        Column("loss", "loss", ".3g"),
    )
    return (
        Table(
            "paths",
            f"The cell path's share of ∂L/∂c_t ({TARGET_TEXT[shown]})",
            [row for row in networks if row["target"] == shown],
            columns,
            "One step: share, the median over the steps. Passes: ‖(∏ f_s) ∘ δ_{c_T}‖ / ‖δ_{c_T}‖, from "
            "step T to step 1. Its share: of ∂L/∂c_1. Decades per step: of ‖∂L/∂c_t‖ "
            "over the last third of the lags.",
            printed=True,
        ),
        Table("networks", "Each network and target", networks),
        Table("steps", "Each time step", steps),
    )
