"""The gradients of linear RNNs as charts, rows and tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.numbers import worst
from experiments.drawing.tables import Column, Figure, Row, Table, along
from experiments.questions.linear_rnn.measure import (
    BREAKING,
    KIND_TEXT,
    LinearFlow,
    eigenvalue_line,
)
from experiments.regressors.untrained import UntrainedOptions

if TYPE_CHECKING:
    from experiments.questions.linear_rnn import LinearRnnOptions

LOOKS = {
    "bound: largest singular value of W_h^k": Look(charts.AMBER, width=5.0),
    "measured gradient": Look(charts.BLUE, width=2.5),
    "|λ|max^k": Look(charts.INK, (5, 4), 1.4),
}

CLOSED = "closed form"


def drawn(
    panels: Sequence[tuple[str, str, LinearFlow]], title: str, subtitle: str
) -> alt.TopLevelMixin:
    """Curves of the gradient by lag, in panels given by column and row."""
    lines: list[Line] = []
    dots: list[Line] = []
    for column, row, each in panels:
        for what, values in zip(
            LOOKS, (each.powers, each.by_lag, eigenvalue_line(each)), strict=True
        ):
            lines.append(Line(what, values, column, row))
        assert each.flow.closed_form is not None
        closed = each.flow.closed_form[::-1] - each.flow.gradient[-1]
        apart = max(1, (len(closed) - 1) // 12)
        dots.append(Line(CLOSED, closed, column, row, every=apart))
    return curves(
        lines,
        LOOKS,
        x=charts.lags(len(panels[0][2].powers) - 1),
        y="relative gradient norm",
        title=title,
        subtitle=subtitle,
        dots=dots,
    )


def exponents_chart(opts: UntrainedOptions, found: Sequence[LinearFlow]) -> alt.TopLevelMixin:
    """Exponents of all directions after few, more and all steps, at the middle radius."""
    radii = sorted({each.radius for each in found})
    middle = radii[len(radii) // 2]
    shown = [each for each in found if each.radius == middle]
    spans = sorted({min(2, opts.length), max(2, opts.length // 10), opts.length})
    rows: list[Row] = []
    for each, i in itertools.product(shown, range(opts.hidden_size)):
        panel: Row = {"column": f"{KIND_TEXT[each.kind]} W_h", "row": "", "index": i}
        value = charts.drawable(float(each.magnitudes[i]))
        rows.append({**panel, "line": value, "point": None, "span": ""})
        for k in spans:
            value = charts.drawable(float(each.exponents[k - 1, i]))
            rows.append({**panel, "line": None, "point": value, "span": f"after {k} steps"})
    names = [f"after {k} steps" for k in spans]
    looks = [(charts.AMBER, "triangle-up"), (charts.ORANGE, "square"), (charts.BLUE, "circle")]
    looks = looks[-len(names) :]
    colours = alt.Scale(domain=names, range=[colour for colour, _ in looks])
    shapes = alt.Scale(domain=names, range=[shape for _, shape in looks])
    domain = charts.spanned([r[k] for r in rows for k in ("line", "point")], margin=0.06)
    x = alt.X(
        "index:Q",
        title="direction i",
        scale=alt.Scale(domain=[-0.5, opts.hidden_size - 0.5], nice=False),
        axis=alt.Axis(values=charts.ticks(0, opts.hidden_size - 1), format="d", grid=False),
    )
    scale = alt.Scale(domain=list(domain), zero=False, nice=False)
    dash = alt.StrokeDash(
        "name:N", title=None, scale=alt.Scale(domain=["log10 |λ_i|"], range=[[1, 0]])
    )
    line = (
        alt.Chart()
        .transform_filter("isValid(datum.line)")
        .transform_calculate(name="'log10 |λ_i|'")
        .mark_line(color=charts.INK, strokeWidth=1.5)
        .encode(x=x, y=alt.Y("line:Q", title="decades per step", scale=scale), strokeDash=dash)
    )
    points = (
        alt.Chart()
        .transform_filter("isValid(datum.point)")
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=x,
            y=alt.Y("point:Q", title="decades per step", scale=scale),
            color=alt.Color("span:N", title=None, scale=colours),
            shape=alt.Shape("span:N", title=None, scale=shapes),
            tooltip=[
                "span:N",
                "index:Q",
                alt.Tooltip("point:Q", title="decades per step", format=".4f"),
            ],
        )
    )
    return charts.panels(
        [line, points],
        rows,
        title="How much each direction is stretched per step back",
        subtitle=f"linear RNN, H = {opts.hidden_size}, seed {opts.seed}, |λ|max = {middle:g}",
        height=280,
    )


SUMMARY = (
    Column("weights", "$W_h$", get=lambda e: e.kind),
    Column("radius", "$|λ|_{max}$", ".3g"),
    Column("seed", "seed"),
    Column("peak_log10", "largest gradient norm", get=lambda e: e.by_lag.max()),
    Column("peak_lag", "steps back", get=lambda e: e.by_lag.argmax()),
    Column("gradient_first_log10", "at step 0", get=lambda e: e.by_lag[-1]),
    Column("slope", "slope (decades per step)", "+.5f", get=lambda e: e.flow.measured_slope),
    Column("predicted_slope", "$log_{10} |λ|_{max}$", "+.5f", get=lambda e: e.flow.predicted_slope),
    Column(
        "slope_bound",
        "allowed difference",
        ".1e",
        get=lambda e: e.slope_bound if e.kind == "gaussian" else None,
    ),
    Column(
        "exponent", "largest exponent (decades per step)", "+.5f", get=lambda e: e.exponents[-1, 0]
    ),
    Column(
        "closed_form_error",
        "error of the closed form",
        ".0e",
        get=lambda e: worst(e.flow.closed_form_error),
    ),
)


def tables(found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]) -> tuple[Table, ...]:
    """Each network for people, each lag for programs."""
    every = [*found, *breaking]
    return (
        Table(
            "networks",
            "Each network: the slope far back and the largest eigenvalue",
            every,
            SUMMARY,
            "Gradient norms are relative to that at the last step. The slope is fitted to the earliest "
            "third of the steps: −0.097 decades per step means that each step back keeps "
            "$10^{−0.097}$ = 80%. Allowed difference: how far it can be from $log_{10} |λ|_{max}$, by the "
            "eigenvectors of a Gaussian $W_h$; inf where so few steps say nothing.",
            printed=True,
        ),
        Table(
            "lags", "Each network at each lag", [row for each in every for row in _lag_rows(each)]
        ),
        Table(
            "exponents",
            "Each network's finite-time exponents",
            [row for each in every for row in _exponent_rows(each)],
        ),
    )


def _lag_rows(each: LinearFlow) -> list[Row]:
    assert each.flow.closed_form is not None
    columns = {
        "gradient_log10": each.by_lag,
        "closed_form_log10": each.flow.closed_form[::-1] - each.flow.gradient[-1],
        "singular_value_log10": each.powers,
        "eigenvalue_log10": eigenvalue_line(each),
    }
    return along(_keys(each), "lag", columns)


def _exponent_rows(each: LinearFlow) -> list[Row]:
    columns = {"exponent_log10": each.exponents[-1], "eigenvalue_log10": each.magnitudes}
    return along(_keys(each), "direction", columns)


def _keys(each: LinearFlow) -> Row:
    return {"weights": each.kind, "radius": each.radius, "seed": each.seed}


def figures(
    opts: LinearRnnOptions, found: Sequence[LinearFlow], breaking: Sequence[LinearFlow]
) -> tuple[Figure, ...]:
    """The gradient by steps back, the matrices that mislead, and the exponents."""
    first = [each for each in found if each.seed == opts.seed]
    names = [f"{name}, |λ|max = {radius:g}" for _, radius, name in BREAKING]
    return (
        Figure(
            "gradient_by_lag",
            "The gradient on its way back, and what eigenvalues and singular values say",
            "Blue: measured, relative to the last step. Circles: the closed form, computed without the "
            "autodiff engine. Dashed: $|λ|_{max}^k$. Yellow: the largest singular value of $W_h^k$, which "
            "no gradient can exceed. Where yellow is above the dashed line, a gradient can grow at first; "
            "its slope far back stays that of the dashed line.",
            drawn(
                [(f"|λ|max = {e.radius:g}", f"{KIND_TEXT[e.kind]} W_h", e) for e in first],
                "How much of the gradient is left after k steps back",
                f"linear RNN, {opts.drawn}, loss at the last step",
            ),
        ),
        Figure(
            "breaking",
            "Matrices whose eigenvalues mislead",
            "Left: all eigenvalues are 0.7, yet the gradient grows at first. Middle: all eigenvalues "
            "are 1, yet it grows without bound, as a power of k. Right: the complex pairs of eigenvalues "
            "have magnitude 1, and the gradient goes up and down with them.",
            drawn(
                [(name, "", each) for name, each in zip(names, breaking, strict=True)],
                "What the eigenvalues alone do not tell",
                f"linear RNN, {opts.drawn}, loss at the last step",
            ),
        ),
        Figure(
            "exponents",
            "Finite-time Lyapunov exponents and eigenvalues",
            "Each point is one of the H directions: how much a step back stretches it on average over "
            "k steps, in decades (0.1 decades a step: times 1.26). The line is $log_{10} |λ_i|$. "
            "As k grows, the points settle on it.",
            exponents_chart(opts, first),
        ),
    )
