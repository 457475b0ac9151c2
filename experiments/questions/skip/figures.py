"""Skips, no skips and a cell as figures and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import log10, norms
from experiments.drawing.sweep import sweep_chart
from experiments.drawing.tables import Column, Figure, Row, Table, along
from experiments.questions.skip.measure import Branches, Depth, Kind, Products, growths

KINDS: tuple[Kind, ...] = ("ResNet", "plain network", "LSTM")

LOOKS = {
    "ResNet": Look(charts.BLUE),
    "plain network": Look(charts.ORANGE),
    "LSTM": Look(charts.GREEN, (7, 3)),
}

WAYS = {
    "free": "without a matrix (skip, cell path)",
    "matrix": "through a matrix (branch, hidden path)",
    "local": "from the loss itself",
}

WAY_LOOKS = {
    WAYS["free"]: Look(charts.BLUE),
    WAYS["matrix"]: Look(charts.ORANGE),
    WAYS["local"]: Look(charts.GREEN, (5, 3)),
}


def typical(found: Sequence[Depth], kind: Kind | str, share: str) -> float:
    """Median of a share over the layers but the last, at the initial values; NaN if none has any."""
    chosen = [d.shares[share][:-1] for d in found if (d.kind, d.scale) == (kind, 1.0)]
    values = np.concatenate(chosen)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan


def gradient_chart(shown: Sequence[Depth], size: str) -> alt.TopLevelMixin:
    """Norm of the gradient per layer or step."""
    return curves(
        [Line(depth.kind, depth.gradient, f"weights × {depth.scale:g}") for depth in shown],
        LOOKS,
        x=charts.steps(len(shown[0].gradient), "layer l, or time step t"),
        y="size of the gradient",
        title="How much of the gradient reaches each layer, or time step",
        subtitle=f"‖∂L/∂hₗ‖, for the LSTM ‖∂L/∂cₜ‖; {size}",
        height=300,
    )


def share_chart(shown: Sequence[Depth], size: str) -> alt.TopLevelMixin:
    """Shares of one step back, skips above and cell below."""
    lines = [
        Line(WAYS[name], share, f"weights × {depth.scale:g}", depth.kind)
        for kind in ("ResNet", "LSTM")
        for depth in shown
        if depth.kind == kind
        for name, share in depth.shares.items()
    ]
    return curves(
        lines,
        WAY_LOOKS,
        x=charts.steps(len(shown[0].gradient), "layer l, or time step t"),
        y="signed share of the gradient",
        axis=charts.shares,
        title="The way on which the gradient came in one step back",
        subtitle=f"⟨part, δ⟩/‖δ‖² of δ = ∂L/∂hₗ, for the LSTM ∂L/∂cₜ; {size}",
        rules=(0.0, 1.0),
    )


def counts(last: int, title: str, rest: int | None = None) -> alt.X:
    """Horizontal axis for the field ``count``, from 0 to ``last``; what is over it stands at ``rest``."""
    values = charts.ticks(0, last)
    axis = alt.Axis(values=values, format="d", grid=False)
    if rest is not None:
        values = [tick for tick in values if tick < last] + [rest]
        label = f"datum.value == {rest} ? 'over {last}' : format(datum.value, 'd')"
        axis = alt.Axis(values=values, labelExpr=label, grid=False)
    scale = alt.Scale(domain=[0, rest or last], zero=False, nice=False, padding=8)
    return alt.X("count:Q", title=title, scale=scale, axis=axis)


def branch_chart(branches: Branches, size: str) -> alt.TopLevelMixin:
    """Norms by number of branches, with the paths added up by hand."""
    last = len(branches.measured) - 1
    panel = f"{last} blocks, {2**last} paths"
    return curves(
        [Line("measured", log10(norms(branches.measured)), panel, x=range(last + 1))],
        {"measured": Look(charts.BLUE)},
        x=counts(last, "branches on the way"),
        y="size of the gradient",
        dots=[Line("every path by hand", log10(norms(branches.by_hand)), panel, x=range(last + 1))],
        title="A residual network's gradient by the number of branches it went through",
        subtitle=f"‖∂L/∂h₀‖ over all paths with so many branches; {size}",
        height=280,
    )


def product_chart(products: Mapping[Kind, Products], size: str) -> alt.TopLevelMixin:
    """Shares by the number of matrix products on the whole way."""
    last = max(len(split.shares) for split in products.values()) - 1
    over = last + 1 + last // 10 if any(s.rest is not None for s in products.values()) else None
    panel = "from the loss to the first layer, or step"
    lines: list[Line] = []
    for kind, split in products.items():
        values, places = split.shares.tolist(), [*range(len(split.shares))]
        if over is not None and split.rest is not None:
            values, places = [*values, split.rest], [*places, over]
        lines.append(Line(kind, values, panel, x=places))
    return curves(
        lines,
        LOOKS,
        x=counts(last, "matrix products on the way", over),
        y="signed share of the gradient",
        axis=lambda values, title: alt.Y("value:Q", title=title),
        title="Through how many matrix products the gradient went",
        subtitle=f"branches of the ResNet, hidden states of the LSTM; {size}",
        rules=(0.0,),
        height=280,
    )


def figures(
    shown: Sequence[Depth],
    found: Sequence[Depth],
    branches: Branches,
    products: Mapping[Kind, Products],
    size: str,
    seeds: str,
) -> tuple[Figure, ...]:
    """Gradients, shares, paths, and where it breaks.

    Curves are drawn of ``shown``, the networks of one seed, as are ``branches`` and ``products``; ``size``
    and ``seeds`` are the subtitles of that seed and of all.
    """
    last = len(next(iter(products.values())).shares) - 1
    cut = (
        f" The last point is all that went through more than {last} products."
        if any(split.rest is not None for split in products.values())
        else ""
    )
    growth: list[Row] = [
        {
            "what": d.kind,
            "scale": d.scale,
            "seed": d.seed,
            "value": charts.drawable(d.growth),
        }
        for kind in KINDS
        for d in found
        if d.kind == kind
    ]
    return (
        Figure(
            "gradient_flow",
            "The gradient at each layer, or time step",
            "The loss is above the last layer, on the right, and the gradient flows to the left. "
            "The plain network has the same initial values as the ResNet.",
            gradient_chart(shown, size),
        ),
        Figure(
            "shares",
            "Skip and branch, cell path and hidden path",
            "Blue came without a matrix product. The three shares sum to 1; a share below 0 works against "
            "the whole.",
            share_chart(shown, size),
        ),
        Figure(
            "matrix_products",
            "The whole way by its number of matrix products",
            "There is one path without a product and there are many with some, so over many steps those "
            "can carry more. Shares above 1 and below 0 cancel. Weights × 1." + cut,
            product_chart(products, size),
        ),
        Figure(
            "branches",
            "A small residual network, path by path",
            "Circles: each path followed on its own, with NumPy alone. Weights × 1.",
            branch_chart(branches, f"untrained, {branches.measured.shape[-1]} units"),
        ),
        Figure(
            "growth",
            "Where it breaks",
            "Each point is a network, each line the mean over the seeds. By convention the gradient "
            "vanishes below −2 and explodes above 2: a factor of 100.",
            sweep_chart(
                growth,
                {kind: LOOKS[kind].colour for kind in KINDS},
                y="decades gained from the last layer to the first",
                title="What becomes of the gradient with larger weights",
                subtitle=f"‖∂L/∂h₀‖ in units of the last layer's; a decade is a factor of 10; {seeds}",
            ),
        ),
    )


def tables(
    found: Sequence[Depth], branches: Branches, products: Mapping[Kind, Products]
) -> tuple[Table, ...]:
    """A summary for people; each layer, class and share for programs."""

    def growth(scale: float) -> Column:
        def span(kind: Kind) -> str:
            values = growths(found, kind, scale)
            return f"{min(values):+.1f} … {max(values):+.1f}"

        return Column(f"× {scale:g}", f"weights × {scale:g}", get=span)

    columns = (
        Column("kind", "network", get=str),
        *map(growth, sorted({d.scale for d in found})),
        Column(
            "free", "share without a product", "+.2f", get=lambda kind: typical(found, kind, "free")
        ),
        Column(
            "matrix", "share through one", "+.2f", get=lambda kind: typical(found, kind, "matrix")
        ),
    )
    layers = [
        row
        for d in found
        for row in along(
            {"kind": d.kind, "scale": d.scale, "seed": d.seed},
            "layer_or_step",
            {
                "gradient_log10": d.gradient,
                **{f"share_{name}": share for name, share in d.shares.items()},
            },
        )
    ]
    last = len(branches.measured) - 1
    classes: list[Row] = [
        {**row, "paths": math.comb(last, j)}
        for j, row in enumerate(
            along(
                {},
                "branches",
                {
                    "measured_log10": log10(norms(branches.measured)),
                    "by_hand_log10": log10(norms(branches.by_hand)),
                },
            )
        )
    ]
    shares: list[Row] = [
        {"kind": kind, "products": str(j), "share": float(share)}
        for kind, split in products.items()
        for j, share in enumerate(split.shares)
    ]
    shares += [
        {"kind": kind, "products": f"over {len(split.shares) - 1}", "share": split.rest}
        for kind, split in products.items()
        if split.rest is not None
    ]
    return (
        Table(
            "skips",
            "Decades that the gradient gains from the last layer or step to the first, least … most of "
            "the seeds",
            KINDS,
            columns,
            "A decade is a factor of 10. Shares: of the gradient in one step back, median, weights × 1.",
            printed=True,
        ),
        Table("layers", "Each layer, or time step", layers),
        Table("branches", "The small network by number of branches", classes),
        Table("products", "Shares by number of matrix products", shares),
    )
