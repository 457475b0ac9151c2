"""One network under both losses: the matrix, totals and shares as figures and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import Floats
from experiments.drawing.tables import Column, Figure, Table, along
from experiments.questions.target.measure import Targets
from experiments.questions.target.triangle import triangle

TOTALS = {
    "loss at every step": Look(charts.BLUE, width=3.0),
    "loss at the last step alone": Look(charts.ORANGE),
    "each step's own loss alone, ‖∂Lₜ/∂hₜ‖": Look(charts.GREY, (4, 3), 1.8),
}
SHARES = {
    "through later steps": Look(charts.BLUE),
    "local: from the loss at step t": Look(charts.AMBER),
}
SUMS = {"losses 0 … k": Look(charts.BLUE)}


def figures(first: Sequence[Targets], size: str) -> tuple[Figure, ...]:
    """The matrix, the totals, the two shares, and the losses that ∂L/∂h_0 comes from.

    Parameters
    ----------
    first : sequence of Targets
        Of one seed.
    size : str
        For the subtitles.
    """
    length = len(first[0].last)
    steps = charts.steps(length)
    return (
        Figure(
            "matrix",
            "What each single loss says about each state",
            "Row k is the gradient of loss $L_k$ alone. Read it from the diagonal to the left, back in "
            "time. White: as large as at step k. Blue: smaller. Brown: larger, on a scale of its own. "
            "Black: exactly zero. Grey: no state acts on losses before it.",
            triangle(
                [(f"spectral radius {each.radius:g}", each.decay) for each in first],
                legend="‖∂L_k/∂h_t‖ / ‖∂L_k/∂h_k‖",
                title="How much of each loss's gradient reaches each step",
                subtitle=size,
            ),
        ),
        Figure(
            "totals",
            "The total gradient at each time step",
            "With a loss at every step (blue) each state has one of its own (grey), which holds the "
            "total up where the gradient of the last loss alone (orange) has vanished.",
            curves(
                lines(first, TOTALS, lambda each: (each.every, each.last, np.diag(each.matrix))),
                TOTALS,
                x=steps,
                y="gradient norm ‖∂L/∂h_t‖",
                title="The total gradient: a loss at every step, and the last one alone",
                subtitle=size,
                height=260,
            ),
        ),
        Figure(
            "shares",
            "Where the gradient of each state comes from",
            "Signed shares $⟨part, ∂L/∂h_t⟩/‖∂L/∂h_t‖^2$ of the loss at step t and of all later ones; they "
            "sum to 1. At the last step there is no later one.",
            curves(
                lines(first, SHARES, lambda each: (each.through, each.local)),
                SHARES,
                x=steps,
                y="signed share of ∂L/∂h_t",
                axis=charts.shares,
                title="The gradient of each state: from its own loss, or through time",
                subtitle=f"{size}, loss at every step",
                rules=[0.0, 1.0],
                height=240,
            ),
        ),
        Figure(
            "first_step",
            "Which losses the gradient of the first state comes from",
            "Signed shares in $∂L/∂h_0$ of the losses, added from $L_0$ on. Where the curve has come to "
            "1, later losses say nothing about the first state.",
            curves(
                lines(first, SUMS, lambda each: (np.cumsum(each.by_loss),)),
                SUMS,
                x=charts.steps(length, "loss k"),
                y="share of ∂L/∂h_0 from L_0 … L_k",
                axis=charts.shares,
                title="How many losses the first state learns from",
                subtitle=f"{size}, loss at every step",
                rules=[0.0, 1.0],
                height=240,
            ),
        ),
    )


def lines(
    first: Sequence[Targets], looks: Iterable[str], values: Callable[[Targets], Sequence[Floats]]
) -> list[Line]:
    """Curves over time steps, a column for each radius."""
    return [
        Line(what, each_value, f"spectral radius {each.radius:g}")
        for each in first
        for what, each_value in zip(looks, values(each), strict=True)
    ]


NETWORKS = (
    Column("spectral_radius", "$|λ|_{max}$", "g", get=lambda e: e.radius),
    Column("seed", "seed"),
    Column(
        "every_log10",
        "$‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖$, loss at every step",
        get=lambda e: e.every[0] - e.every[-1],
    ),
    Column("last_log10", "loss at the last step", get=lambda e: e.last[0] - e.last[-1]),
    Column("corner_log10", "last of all losses", get=lambda e: e.decay[-1, 0]),
    Column("bound_log10", "bound", get=lambda e: (len(e.last) - 1) * e.stretch),
    Column("own_loss_smallest_log10", "least $‖∂L_k/∂h_k‖$", get=lambda e: np.diag(e.matrix).min()),
    Column("own_loss_largest_log10", "largest", get=lambda e: np.diag(e.matrix).max()),
    Column("local_share", "local share", ".2f", get=lambda e: np.nanmean(e.local)),
    Column("losses_for_90_percent", "losses in $∂L/∂h_0$", get=lambda e: e.reach),
)


def tables(found: Sequence[Targets]) -> tuple[Table, ...]:
    """Each network for people; steps and the matrix for programs."""
    return (
        Table(
            "networks",
            "Each network under both losses",
            found,
            NETWORKS,
            "The first three columns of gradients are $‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖$; the bound on the last "
            "two of them is $σ_{max}(W_h)^{T−1}$. Local share: the share of the loss at step t in "
            "$∂L/∂h_t$, mean over the steps. Losses in $∂L/∂h_0$: how many of the first losses make up "
            "90% of it.",
            printed=True,
        ),
        Table(
            "steps",
            "Each network at each time step",
            [
                row
                for each in found
                for row in along(
                    {"spectral_radius": each.radius, "seed": each.seed},
                    "step",
                    {
                        "last_log10": each.last,
                        "every_log10": each.every,
                        "own_loss_log10": np.diag(each.matrix),
                        "local_share": each.local,
                        "through_time_share": each.through,
                        "share_in_first_state": each.by_loss,
                    },
                )
            ],
        ),
        Table(
            "matrix",
            "Each network: the gradient of each loss by each state",
            [
                {
                    "spectral_radius": each.radius,
                    "seed": each.seed,
                    "loss": k,
                    "step": t,
                    "gradient_log10": float(each.matrix[k, t]),
                }
                for each in found
                for k in range(len(each.last))
                for t in range(k + 1)
            ],
        ),
    )
