"""The picture of two runs side by side: the difference of every operation at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...display import charts
from ..charts.drawn_steps import spread
from ..graph.traces import TracedBox
from ..passes.scaling import HostArray
from .comparing import BOTH, BoxDifference, What
from .partings import Parting

WIDTH, ROW, LABELS = 420, 15, 135
"""Pixels of a panel, of the row of one operation, and of the text beside them."""

COLUMNS = 210
"""Largest number of columns; each shows the largest difference of its steps."""

STEPS = 420
"""Largest number of steps of a curve."""

SAME, ODD = charts.PALE_GREY, charts.ORANGE
"""Colours of numbers that are equal to the last bit, and of numbers that are finite in one run alone."""

MOST = 8
"""Largest number of drawn operations of one module; they are those that differ most."""

LOWEST = -16.5
"""Decades: a little below the rounding of float64."""


def diff_chart(
    boxes: Sequence[BoxDifference],
    values: Parting | None,
    gradients: Parting | None,
    tolerance: float,
) -> Any:
    """Return the picture: a row for each operation, a column for each step, values beside gradients.

    Above the rows of a recurrence stand the norms of a state, and of the gradient by it, of both runs:
    the first state that differs.
    """
    alt = charts.altair()
    partings = {"values": values, "gradients": gradients}
    loops = [box for box in boxes if box.is_recurrent]
    modules = [box for box in boxes if not box.is_recurrent]
    panels = []
    for box in loops:
        if box.a.states:
            name = _state_of_interest(box, tolerance)
            panels += [_curves(box, name, what) for what in BOTH]
        panels += [_steps(box, what, partings[what]) for what in BOTH]
    if modules:
        panels += [_modules(modules, what, partings[what]) for what in BOTH]
    title = {
        "text": "How far two runs are apart, operation by operation",
        "offset": 16,
        "subtitle": [
            "colour: the largest difference of an element, relative to the largest number of its row; "
            f"up to {tolerance:.1e} two rows agree",
            "grey: the same to the last bit · orange: finite in one run alone · blank: nothing to compare "
            "· ring: where they part first",
        ],
    }
    whole = alt.concat(*panels, columns=2, spacing=12).properties(title=title, padding=12)
    return whole.resolve_scale(color="independent", strokeDash="independent")


def _state_of_interest(box: BoxDifference, tolerance: float) -> str:
    """The first state whose values differ, or else whose gradients differ, or else the first state."""
    states = box.a.states
    for what in BOTH:
        for name in states:
            if _most(box.of(what).get(name, np.zeros(0))) > tolerance:
                return name
    return states[0]


def _curves(box: BoxDifference, name: str, what: What) -> Any:
    """The norms of a state over time, or of the gradient by it, of both runs."""
    alt = charts.altair()
    rows: list[charts.Row] = [
        {"t": t + 0.5, "norm": round(float(y), 3), "run": run}
        for run, side in (("a", box.a), ("b", box.b))
        for t, y in spread(list(_norms(side, name, what)), STEPS)
    ]
    known = [row["norm"] for row in rows] or [0.0]
    decades = charts.decade_axis(min(known), max(known), most=4)
    ends = alt.Scale(domain=[decades["values"][0], decades["values"][-1]], nice=False)
    axis = alt.Axis(**decades, minExtent=LABELS, maxExtent=LABELS)
    state = f"{name}ₜ" if what == "values" else f"∂L/∂{name}ₜ"
    colours = alt.Scale(domain=["a", "b"], range=[charts.BLUE, charts.ORANGE])
    dashes = alt.Scale(domain=["a", "b"], range=[[1, 0], [5, 3]])
    return charts.encoded(
        alt.Chart(charts.data(rows)).mark_line(strokeWidth=1.5, clip=True),
        x=alt.X("t:Q", title=None, scale=_times(box), axis=alt.Axis(labels=False, grid=False)),
        y=alt.Y("norm:Q", title=f"‖{state}‖", axis=axis, scale=ends),
        color=alt.Color("run:N", title="run", scale=colours, legend=_legend(what)),
        strokeDash=alt.StrokeDash("run:N", title="run", scale=dashes, legend=_legend(what)),
    ).properties(width=WIDTH, height=70, title=f"{box.name}: {what}")


def _legend(what: What, **settings: Any) -> Any:
    """A legend beside the gradients, on the right."""
    return charts.altair().Legend(**settings) if what == "gradients" else None


def _norms(box: TracedBox, name: str, what: What) -> Iterator[tuple[int, float]]:
    """Steps and log10 norms of a state in one run, without those that are not finite."""
    found = {
        int(t): float(norm)
        for steps in box.steps
        if name in steps.of(what)
        for t, norm in zip(steps.times, steps.of(what)[name].log10_norm(), strict=True)
    }
    yield from ((t, found[t]) for t in sorted(found) if np.isfinite(found[t]))


def _times(box: BoxDifference) -> Any:
    return charts.altair().Scale(domain=[int(box.time[0]), int(box.time[-1]) + 1], nice=False)


def _steps(box: BoxDifference, what: What, parting: Parting | None) -> Any:
    """The operations of a recurrence: a row each, and a column for each step."""
    alt = charts.altair()
    shown = [o.label for o in box.operations if o.kind != "before"]  # states of the step before
    labels = [label for label in shown if label in box.of(what) and _is_shown(box.of(what)[label])]
    bins = np.array_split(np.arange(len(box.time)), min(len(box.time), COLUMNS))
    rows = [
        {"t": int(box.time[some[0]]), "u": int(box.time[some[-1]]) + 1, "y": label}
        | _coded(_most(box.of(what)[label][some]))
        for label in labels
        for some in bins
    ]
    marks = []
    if parting is not None and parting.is_recurrent and parting.path == box.name:
        marks = [{"t": (parting.time or 0) + 0.5, "y": parting.label}]
    axis = alt.Axis(grid=False, tickMinStep=1, format="d", labelOverlap="greedy", labelSeparation=8)
    x = alt.X("t:Q", title="t", scale=_times(box), axis=axis)
    return _heat(rows, marks, labels, x, what, box.name)


def _is_shown(series: HostArray) -> bool:
    """Whether there is something to compare at several steps, if there are several.

    The first step of a loop, which has no state before, often has operations of its own.
    """
    return len(series) == 1 or bool(np.sum(~np.isnan(series)) > 1)


def _modules(boxes: Sequence[BoxDifference], what: What, parting: Parting | None) -> Any:
    """The operations of modules: a row each, with the largest difference of all calls."""
    alt = charts.altair()
    rows: list[charts.Row] = []
    marks = []
    for box in boxes:
        series_of = box.computed(what)
        for label in sorted(series_of, key=lambda x: -_most(series_of[x]))[:MOST]:
            series = series_of[label]
            row = {"t": 0, "u": 1, "y": f"{box.name}: {label}"}
            rows.append(row | _coded(_most(series)))
            if parting is not None and (parting.path, parting.label) == (box.name, label):
                marks.append({"t": 0.5, "y": row["y"]})
    x = alt.X("t:Q", title=None, axis=None, scale=alt.Scale(domain=[0, 1]))
    return _heat(rows, marks, [row["y"] for row in rows], x, what, "outside recurrences")


def _most(series: HostArray) -> float:
    known = series[~np.isnan(series)]
    return float(known.max()) if len(known) else np.nan


def _coded(difference: float) -> dict[str, Any]:
    """A difference as a colour's number, or the word for a colour of its own."""
    if np.isnan(difference):
        return {"d": None, "kind": "none"}
    if difference == 0 or np.isinf(difference):
        return {"d": None, "kind": "same" if difference == 0 else "odd"}
    return {"d": round(float(np.log10(difference)), 2), "kind": "apart"}


def _heat(
    rows: list[charts.Row],
    marks: list[charts.Row],
    labels: Sequence[str],
    x: Any,
    what: What,
    title: str,
) -> Any:
    alt = charts.altair()
    axis = alt.Axis(labelLimit=LABELS - 5, ticks=False, minExtent=LABELS, maxExtent=LABELS)
    y = alt.Y("y:N", sort=list(labels), title=None, axis=axis)
    ticks = {"values": [-16, -12, -8, -4, 0], "labelExpr": "'1e' + format(datum.value, 'd')"}
    shade = alt.Color(
        "d:Q",
        title="difference",
        scale=alt.Scale(scheme=charts.MAGNITUDE, domain=[LOWEST, 0.3], clamp=True),
        legend=_legend(what, **ticks),
    )
    tooltip = [
        alt.Tooltip("y:N"),
        alt.Tooltip("t:Q"),
        alt.Tooltip("d:Q", title="log10 of the difference"),
    ]
    base, wide = alt.Chart(charts.data(rows)), {"x": x, "x2": alt.X2("u:Q"), "y": y}
    apart = base.transform_filter("datum.kind === 'apart'").mark_rect()
    layers = [charts.encoded(apart, **wide, color=shade, tooltip=tooltip)]
    for kind, fixed in (("same", SAME), ("odd", ODD)):
        chosen = base.transform_filter(f"datum.kind === '{kind}'").mark_rect(color=fixed)
        layers.append(charts.encoded(chosen, **wide))
    for colour, width in (("white", 5), ("black", 2)):  # to be seen on every colour
        ring = alt.Chart(charts.data(marks)).mark_point(size=130, strokeWidth=width, color=colour)
        layers.append(charts.encoded(ring, x=x, y=y))
    return alt.layer(*layers).properties(width=WIDTH, height={"step": ROW}, title=title)
