"""The playground's charts: its sentences, and gradients, states and shares over time.

They read one signal, ``drawn``: a row of :mod:`.rows`, as JSON. A new row moves all charts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...display.charts import GREY, PALETTE, Row, altair, encoded, layered, spec, unchecked
from ..charts.magnitudes import LOOKS, ZERO, norm_text
from .rows import Names

WIDTH, HEIGHT = 520, 400
SIDE, LOW = 284, 140
"""Width and height of the charts at the side."""

LINE, LINES = 18, 5
"""Pixels from one line of text to the next, and how many there are."""


DRAWN = "drawn"
"""The signal."""


def page_chart(names: Names) -> Any:
    """Return all charts, placed as on a page."""
    alt = altair()
    words, gradients, states, shares = (draw(names) for draw in VIEWS.values())
    side = alt.vconcat(states, shares, spacing=14).resolve_scale(color="independent")
    both = alt.hconcat(gradients, side, spacing=24).resolve_scale(color="independent")
    return alt.vconcat(words, both, spacing=8)


def chart_spec(row: Row, names: Names, view: str | None = None) -> dict[str, Any]:
    """Return the specification of one view, or of all as on the page.

    Parameters
    ----------
    row : dict
        The row that is drawn at first, as JSON; a signal, which may be set anew.
    names : Names
    view : str, optional
        One of :data:`VIEWS`.
    """
    altair()
    with unchecked():
        found = spec(page_chart(names) if view is None else VIEWS[view](names))
    found["params"] = [{"name": DRAWN, "value": row}, *found.get("params", ())]
    return found


# --- one chart each -------------------------------------------------------------------------------


def words(names: Names) -> Any:
    """Draw the sentences, a line below the other."""
    alt = altair()
    text = _listed(row="sequence(length(drawn.lines))", lines="drawn.lines").mark_text(
        align="left", baseline="top", fontSize=13
    )
    scale = alt.Scale(domain=[0, LINES], range=[0, LINE * LINES], nice=False)
    y = alt.Y("row:Q", scale=scale, axis=None)
    drawn = encoded(text, x=alt.value(0), y=y, text="lines:N")
    return drawn.properties(width=WIDTH + SIDE + 60, height=LINE * LINES)


def gradients(names: Names) -> Any:
    """Draw log10 ‖∂L/∂h_t‖ on a linear axis, down to any magnitude, beside the closed form and |λ|max."""
    alt = altair()
    # Vega complains about a layer without a point, so a missing one has a point left of the picture.
    curves = _norms("g", names.states, "norm of the gradient", "‖∂L/∂{}ₜ‖", 8)
    slope = _listed(line_t="drawn.line_t || [-9]", line="drawn.line || [drawn.gradients[0]]")
    exact = _listed(exact_t="drawn.exact_t || [-9]", exact="drawn.exact || [drawn.gradients[0]]")
    more = [
        _ends("gradients"),
        encoded(
            slope.mark_line(color=GREY, strokeDash=[6, 4], clip=True), x=_x("line_t"), y="line:Q"
        ),
        encoded(
            exact.transform_filter("isNumber(datum.exact)").mark_point(
                color=GREY, size=70, strokeWidth=1.5, opacity=1, clip=True
            ),
            x=_x("exact_t"),
            y="exact:Q",
        ),
    ]
    title = alt.Title("The gradient that reaches each state", subtitle=_signal("drawn.notes"))
    return layered([*curves, *more], width=WIDTH, height=HEIGHT, title=title)


def states(names: Names) -> Any:
    """Draw log10 ‖h_t‖."""
    curves = _norms("v", names.states, "norm", "‖{}ₜ‖", 4)
    axis = _ends("values")
    return layered([*curves, axis], width=SIDE, height=LOW, title="The states")


def shares(names: Names) -> Any:
    """Draw the shares of the gradient by path; the direct share is 1 minus the others."""
    alt = altair()
    there = _over_time("s", names.parts)
    fields = [f"s{k}_t" for k in range(len(names.parts))]
    rest = " - ".join(["1", *(f"datum.{field}" for field in fields)])
    there = there.transform_calculate(direct=f"isNumber(datum.{fields[-1]}) ? {rest} : null")
    lines = dict(zip(["direct", *fields], ["direct", *names.parts], strict=True))
    y = alt.Y("y:Q", title="share", scale=alt.Scale(zero=False, nice=False))
    y = y.axis(format=".0%", tickCount=4)
    texts = {name: _said(field, f"format(datum.{field}, '.1%')") for field, name in lines.items()}
    layers = [
        _lines(there, lines, y, "drawn.parts", "datum.label"),
        _ends("shares"),
        _columns(there, texts),
    ]
    title = "Paths that the gradient comes by"
    return layered(layers, width=SIDE, height=LOW, title=title)


VIEWS = {"words": words, "gradients": gradients, "states": states, "shares": shares}
"""The charts by name."""


# --- what they have in common ---------------------------------------------------------------------


def _x(field: str = "t") -> Any:
    alt = altair()
    scale = alt.Scale(domain=[0, alt.ExprRef("drawn.steps - 1")], nice=False, zero=False)
    axis = alt.Axis(format="d", tickMinStep=1, grid=False)
    return alt.X(f"{field}:Q", title=_signal("drawn.unit + ' t'"), scale=scale, axis=axis)


def _signal(expression: str) -> dict[str, str]:
    """Return an expression for Vega in a place where Vega-Lite expects a text."""
    return {"signal": expression}


def _listed(**lists: str) -> Any:
    """One row for each element of some lists, which are expressions."""
    alt = altair()
    whole = alt.Chart(alt.InlineData(values=({},))).transform_calculate(**lists)
    return whole.transform_flatten(list(lists))


def _over_time(kind: str, names: Sequence[str]) -> Any:
    """One row for each step; an element of the list ``g0`` is called ``g0_t``."""
    lists = [f"{kind}{k}" for k in range(len(names))]
    here = {f"{each}_t": f"drawn.{each} ? drawn.{each}[datum.t] : null" for each in lists}
    return _listed(t="sequence(drawn.steps)").transform_calculate(**here)


def _norms(kind: str, names: Sequence[str], title: str, label: str, ticks: int) -> list[Any]:
    """Norms over time in decades: a line for each state, marks for those that have no logarithm."""
    alt = altair()
    there = _over_time(kind, names)
    fields = {f"{kind}{k}_t": name for k, name in enumerate(names)}
    decade = "'1e' + format(datum.value, 'd')"
    between = norm_text("datum.value")  # where an axis has few decades
    label_of = f"datum.value === floor(datum.value) ? {decade} : {between}"
    axis = alt.Axis(tickCount=ticks, labelExpr=label_of)
    scale = alt.Scale(zero=False, nice=False)
    y = alt.Y("y:Q", title=f"{title}, in decades", scale=scale, axis=axis)
    texts = {label.format(n): _said(f, norm_text(f"datum.{f}")) for f, n in fields.items()}
    before, after = label.split("{}")
    return [
        _lines(there, fields, y, "drawn.states", f"'{before}' + datum.label + '{after}'"),
        *_marks(there, fields),
        _columns(there, texts),
    ]


def _lines(there: Any, fields: dict[str, str], y: Any, shown: str, label: str) -> Any:
    """A line for each field; the legend has those that the expression ``shown`` lists."""
    alt = altair()
    names = list(fields.values())
    legend = alt.Legend(
        title=None, orient="top", symbolType="stroke", symbolSize=300, offset=4, padding=0,
        values=alt.ExprRef(shown), labelExpr=label,
    )  # fmt: skip
    scale = alt.Scale(domain=names, range=list(PALETTE[: len(names)]))
    long = _long(there, fields).transform_calculate(y="isNumber(datum.v) ? datum.v : null")
    colour = alt.Color("line:N", scale=scale, legend=legend)
    return encoded(long.mark_line(clip=True, strokeWidth=2), x=_x(), y=y, color=colour)


def _long(there: Any, fields: dict[str, str]) -> Any:
    """One row for each point of each line."""
    long = there.transform_fold(list(fields), as_=["field", "v"])
    names = "{" + ", ".join(f"{field}: '{name}'" for field, name in fields.items()) + "}"
    return long.transform_calculate(line=f"{names}[datum.field]")


def _marks(there: Any, fields: dict[str, str]) -> list[Any]:
    """A mark for each norm that is exactly 0, at the bottom, and for ∞ and NaN at the top."""
    alt = altair()
    found = []
    for word, look in LOOKS.items():
        odd = _long(there, fields).transform_filter(f"datum.v === '{word}'")
        bottom = word == ZERO
        place = {"x": _x(), "y": alt.value("height" if bottom else 0)}
        mark = odd.mark_point(filled=True, shape=look.shape, size=45, color=GREY, opacity=0.9)
        first = odd.transform_joinaggregate(first="min(t)").transform_filter(
            "datum.t === datum.first"
        )
        text = first.mark_text(align="left", dx=4, dy=-12 if bottom else 12, color=GREY)
        found += [encoded(mark, **place), encoded(text, **place, text=alt.value(look.name))]
    return found


def _ends(field: str) -> Any:
    """Two invisible points that set both ends of the axis."""
    ends = _listed(**{field: f"drawn.{field}"}).mark_point(opacity=0, tooltip=None)
    return encoded(ends, y=altair().Y(f"{field}:Q"))


def _said(field: str, number: str) -> str:
    """An expression for a number, or for a dash where the cell has no such state or path."""
    return f"datum.{field} === null ? '–' : {number}"


def _columns(there: Any, texts: dict[str, str]) -> Any:
    """A transparent column for each step with a tooltip; ``texts`` holds expressions by name."""
    alt = altair()
    fields = {f"text{k}": expr for k, expr in enumerate(texts.values())}
    columns = there.transform_calculate(
        left="datum.t - 0.5", right="datum.t + 0.5", **fields
    ).mark_rect(opacity=0, clip=True)
    tooltip = [alt.Tooltip("t:Q", title="t")]
    tooltip += [
        alt.Tooltip(f"{field}:N", title=name) for field, name in zip(fields, texts, strict=True)
    ]
    return encoded(columns, x=_x("left"), x2="right:Q", tooltip=tooltip)
