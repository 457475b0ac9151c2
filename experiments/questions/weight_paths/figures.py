"""The contribution of each step, as charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt

from experiments.drawing import charts
from experiments.drawing.curves import Line, curves
from experiments.drawing.numbers import log10
from experiments.drawing.tables import Column, Figure, Row, Table, along
from experiments.questions.weight_paths.measure import Contributions, running_sum
from experiments.questions.weight_paths.scalar import ScalarCase, scalar_chart, scalar_rows
from experiments.regressors.flow import TARGET_TEXT
from experiments.regressors.looks import NONLINEARITY_LOOKS, curve_colour
from experiments.regressors.networks import NONLINEARITY_TEXT

if TYPE_CHECKING:
    from experiments.questions.weight_paths import WeightPathsOptions


def bars(found: Sequence[Contributions], title: str, subtitle: str) -> alt.TopLevelMixin:
    """‖G_t‖ over time, a panel for each nonlinearity."""
    rows: list[Row] = []
    for each in found:
        name = NONLINEARITY_TEXT[each.nonlinearity]
        rows += [
            {**row, "nonlinearity": name} for row in Line("", log10(each.norm), name).rows("step")
        ]
    domain = charts.spanned(row["value"] for row in rows)
    columns = len(dict.fromkeys(row["column"] for row in rows))
    width = max(150, min(520, charts.GRID_WIDTH // columns))
    chart = (
        alt.Chart()
        .transform_calculate(floor=str(domain[0]))
        .mark_rule(strokeWidth=max(1.0, 0.75 * width / len(found[0].norm)))
        .encode(
            x=charts.steps(len(found[0].norm)),
            y=charts.decades("value", "size of the contribution ‖G_t‖", domain),
            y2="floor:Q",
            color=curve_colour(row["nonlinearity"] for row in rows).legend(None),
            tooltip=[
                alt.Tooltip("step:Q", title="step t"),
                alt.Tooltip("value:Q", title="log10 ‖G_t‖", format=".3f"),
            ],
        )
        .transform_filter("isValid(datum.value)")
    )
    return charts.panels([chart], rows, title=title, subtitle=subtitle, height=260)


def sums(found: Sequence[Contributions], title: str, subtitle: str) -> alt.TopLevelMixin:
    """The running sum of the signed shares from the last step backwards."""
    return curves(
        [Line(NONLINEARITY_TEXT[each.nonlinearity], running_sum(each)) for each in found],
        NONLINEARITY_LOOKS,
        x=charts.steps(len(found[0].norm)),
        y="signed share of step t and later",
        axis=charts.shares,
        title=title,
        subtitle=subtitle,
        rules=[1.0],
        height=300,
    )


def figures(
    opts: WeightPathsOptions, case: ScalarCase, found: Sequence[Contributions]
) -> tuple[Figure, ...]:
    """The paths by hand, the size of each step's contribution, and their running sum."""
    first = [each for each in found if each.seed == opts.seed]
    subtitle = f"{opts.drawn}, spectral radius {opts.spectral_radius:g}, {TARGET_TEXT[opts.target]}"
    return (
        Figure(
            "scalar_paths",
            "The paths of a single weight",
            "To follow a path, multiply the partial derivatives along it. The colour is the path of "
            "one use of w; the other uses, in grey, are held fixed. Beside each product is the number "
            "on that edge of the traced graph.",
            scalar_chart(case),
        ),
        Figure(
            "contributions",
            "What the use of W_h at each step contributes",
            "The size of each $G_t$. A missing bar is a contribution of exactly zero, such as that of "
            "step 0, where $W_h$ multiplies the initial state, which is 0.",
            bars(first, "The size of each step's contribution to ∂L/∂W_h", subtitle),
        ),
        Figure(
            "running_sum",
            "How the contributions add up",
            "Signed shares $⟨G_t, G⟩/‖G‖^2$, added from the last step backwards. At step 0 the sum is 1, "
            "the whole gradient. Where it is above 1, earlier steps take back what later ones gave.",
            sums(first, "Share of ∂L/∂W_h from step t and later", subtitle),
        ),
    )


def tables(case: ScalarCase, found: Sequence[Contributions]) -> tuple[Table, ...]:
    """The scalar paths and the networks for people; every step for programs."""
    return (
        Table(
            "scalar",
            "The paths of a single weight, by hand and by the inspector",
            scalar_rows(case),
            (
                Column("use", "use of w"),
                Column("entry", "$∂h_t/∂w$", ".4g"),
                Column("passes", "$∂h_s/∂h_{s−1}$ of later steps"),
                Column("by_hand", "product, by hand", ".6g"),
                Column("edge", "edge of the traced graph", ".6g"),
                Column("by_time", "weight_grad_by_time", ".6g"),
            ),
            "In the last row, the column of the traced graph is $∂L/∂w$ by an ordinary backward pass.",
            printed=True,
        ),
        Table(
            "networks",
            "The contributions of all steps in each network",
            found,
            (
                Column("nonlinearity", "nonlinearity"),
                Column("seed", "seed"),
                Column("norm_first_log10", "$‖G_1‖$", get=lambda e: log10(e.norm[1])),
                Column("norm_last_log10", "$‖G_{T−1}‖$", get=lambda e: log10(e.norm[-1])),
                Column("steps_for_90_percent", "last steps that hold 90%", get=lambda e: e.reach),
                Column("cancelling", "$Σ‖G_t‖ / ‖ΣG_t‖$", ".3f"),
                Column("sum_of_shares", "sum of shares", ".12f", get=lambda e: e.share.sum()),
                Column("sum_error", "error of $ΣG_t$", ".0e"),
                Column(
                    "copy_error", "error against copies", ".0e", get=lambda e: e.copy_error.max()
                ),
            ),
            "Both errors are relative: that of $ΣG_t$ against $∂L/∂W_h$ by backward, and the largest of "
            "any $G_t$ against the gradient of its own copy of $W_h$.",
            printed=True,
        ),
        Table(
            "contributions",
            "Each network at each time step",
            [
                row
                for each in found
                for row in along(
                    {"nonlinearity": each.nonlinearity, "seed": each.seed},
                    "step",
                    {
                        "norm_log10": log10(each.norm),
                        "share": each.share,
                        "share_from_here_on": running_sum(each),
                        "copy_error": each.copy_error,
                    },
                )
            ],
        ),
    )
