"""The hidden units of one operation: bars at the chosen step, and a heatmap over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ...display.charts import (
    BLUE,
    MAGNITUDE,
    ORANGE,
    PINK,
    SHARE,
    Row,
    altair,
    data,
    encoded,
    layered,
)
from ..charts.magnitudes import INFINITE, LOOKS, NOT_A_NUMBER, ZERO, norm_text
from ..passes.scaling import HostArray
from ..views.step_flow import StepFlow, StepVectors
from .opened_step import is_recurrent

UNITS = 128
"""If there are more units, only those with the largest gradients are drawn."""


def unit_rows(
    flows: Mapping[int, StepFlow],
    drawn: Mapping[int, Sequence[int]],
    shown: Mapping[int, Sequence[int]],
    sample: int = 0,
) -> list[Row]:
    """Gather the values and gradients over hidden units that :func:`unit_bars` and the heatmap draw.

    Parameters
    ----------
    flows : mapping of int to StepFlow
        By the position of the block in :attr:`Network.blocks`.
    drawn : mapping of int to sequence of int
        The drawn times; ``step`` is an index into them.
    shown : mapping of int to sequence of int
        The times whose vectors the page holds.
    sample : int
        The sequence of the batch.

    Returns
    -------
    list of dict
        One for each block, operation and time in ``shown``, with arrays over hidden units.
    """
    rows = []
    for block, flow in flows.items():
        positions = {int(t): i for i, t in enumerate(drawn[block])}
        for node, operation in enumerate(flow.operations):
            vectors = flow.vectors(node, shown[block], sample)
            if not operation.requires_grad:
                vectors = vectors._replace(grad=np.zeros_like(vectors.grad))
            head = {"block": block, "node": node, "label": operation.label, "when": _when(flow)}
            head["constant"] = not operation.requires_grad
            rows += [head | row for row in _over_units(vectors, positions)]
    return rows


def _when(flow: StepFlow) -> str:
    """The words before the number of a step; none for a module that is called once."""
    return " at t = " if is_recurrent(flow) else " in call " if len(flow.time) > 1 else ""


def _over_units(vectors: StepVectors, positions: Mapping[int, int]) -> list[Row]:
    width = vectors.value.shape[1]
    units = _largest(vectors)
    fewer = f"{len(units)} of {width} units: those with the largest gradient"
    scale = np.asarray(vectors.log10_scale, dtype=np.float64)
    scale = np.where(np.isfinite(scale), scale, 0.0)  # 0 for a gradient that is 0 or not finite
    power = np.floor(scale)
    grad = np.asarray(vectors.grad, dtype=np.float64) * 10 ** (scale - power)[:, None]
    return [
        {
            "t": int(time),
            "i": positions[int(time)],
            "power": int(power[k]),
            "fewer": fewer if len(units) < width else "",
            "unit": units.tolist(),
            "value": _rounded(vectors.value[k, units]),
            "grad": _rounded(grad[k, units]),
        }
        for k, time in enumerate(vectors.time)
    ]


def _largest(vectors: StepVectors) -> HostArray:
    """The units to draw, in order."""
    width = vectors.value.shape[1]
    if width <= UNITS:
        return np.arange(width)
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log10(np.abs(vectors.grad)) + np.asarray(vectors.log10_scale)[:, None]
    largest = np.max(np.where(np.isnan(sizes), np.inf, sizes), axis=0, initial=-np.inf)
    return np.sort(np.argsort(-largest, kind="stable")[:UNITS])


def _rounded(numbers: HostArray) -> list[float | str]:
    """Numbers of 3 digits; infinities and NaN, which JSON lacks, as words."""
    return [
        float(f"{x:.3g}") if np.isfinite(x) else NOT_A_NUMBER if np.isnan(x) else INFINITE
        for x in np.asarray(numbers, dtype=np.float64)
    ]


def _of_node(units: Any) -> Any:
    """The rows of the chosen operation."""
    return altair().Chart(units).transform_filter("datum.block == block && datum.node == node")


def _nearest(units: Any) -> Any:
    """The row of the chosen operation at the chosen step, or at the nearest step that has vectors."""
    return (
        _of_node(units)
        .transform_calculate(far="abs(datum.i - step) + (datum.i > step ? 0.5 : 0)")
        .transform_joinaggregate(nearest="min(far)")
        .transform_filter("datum.far == datum.nearest")
    )


_NEAREST = "datum.i == step ? '' : 'Not the opened step: its hidden units are not on this page.'"


def unit_bars(rows: Sequence[Row], width: int = 270) -> Any:
    """Draw the value and the gradient of the chosen operation over hidden units, at the chosen step.

    If the page does not hold the vectors of that step, the bars show the nearest step, as the title says.
    Expressions refer to the parameters ``block``, ``step`` and ``node``, which are the caller's.

    Parameters
    ----------
    rows : list of dict
        From :func:`unit_rows`.
    width : int
    """
    units = data(rows)
    unit = "datum.power ? ', in units of 1e' + datum.power : ''"
    captions = {"value": "'value'", "grad": f"'gradient' + ({unit})"}
    size = {"width": width, "height": 80}
    bars = [
        layered(_bars(rows, units, "value", BLUE, captions["value"], width)),
        layered(_bars(rows, units, "grad", ORANGE, captions["grad"], width), **size),
    ]
    bars[0] = layered([bars[0], *_names(units)], **size)
    return altair().vconcat(*bars, spacing=12)


def _names(units: Any) -> list[Any]:
    """The title of the bars: the operation and the time."""
    alt = altair()
    row = _nearest(units).transform_calculate(
        title="datum.label + (datum.when ? datum.when + datum.t : '')", nearest=_NEAREST
    )
    title = row.mark_text(align="left", baseline="bottom", fontSize=14, fontWeight="bold")
    nearest = row.mark_text(align="left", baseline="bottom", color=ORANGE, fontWeight="bold")
    return [
        encoded(title, x=alt.value(0), y=alt.value(-34), text="title:N"),
        encoded(nearest, x=alt.value(0), y=alt.value(-20), text="nearest:N"),
    ]


def _bars(
    rows: Sequence[Row], units: Any, field: str, colour: str, caption: str, width: int
) -> list[Any]:
    alt = altair()
    row = _nearest(units).transform_calculate(count="length(datum.unit)")
    flat = row.transform_flatten(["unit", "value", "grad"])
    number = flat.transform_calculate(y=f"isNumber(datum.{field}) ? datum.{field} : 0")
    x = alt.X(
        "unit:O", axis=_axis(labelPadding=8), title=None if field == "value" else "hidden unit"
    )
    tooltip = [alt.Tooltip("unit:O"), alt.Tooltip(f"{field}:N")]
    wide = alt.ExprRef(f"min({0.9 * width} / datum.count, 60)")
    bars = encoded(
        number.mark_bar(color=colour, width=wide),
        x=x,
        y=alt.Y("y:Q", title=None).axis(tickCount=4, labelExpr="format(datum.value, '~g')"),
        tooltip=tooltip,
    )
    words = flat.transform_filter(f"!isNumber(datum.{field})").mark_point(
        shape="cross", filled=True, color=PINK, size=40
    )
    head = _nearest(data(_noted(rows, field))).transform_calculate(
        caption=f"{caption} + datum.note"
    )
    return [
        bars,
        encoded(words, x=x, y=alt.value(40), tooltip=tooltip),
        encoded(
            head.mark_text(align="left", baseline="bottom"),
            x=alt.value(0),
            y=alt.value(-4),
            text="caption:N",
        ),
    ]


def _noted(rows: Sequence[Row], field: str) -> list[Row]:
    """The rows without their vectors, with a note on numbers that are 0, infinite or NaN."""
    fields = ("block", "node", "i", "power")
    notes = [
        ": a constant has none" if row["constant"] and field == "grad" else _note(row[field])
        for row in rows
    ]
    return [
        {name: row[name] for name in fields} | {"note": n}
        for row, n in zip(rows, notes, strict=True)
    ]


def _note(numbers: Sequence[float | str]) -> str:
    if not any(numbers):
        return ": all exactly 0"
    names = [look.name for word, look in LOOKS.items() if word in numbers]
    return f" (crosses: {', '.join(names)})" if names else ""


def _axis(**more: Any) -> Any:
    return altair().Axis(
        labelAngle=0, labelOverlap="parity", labelSeparation=5, grid=False, ticks=False, **more
    )


def unit_heatmap(rows: Sequence[Row], of: Literal["gradient", "value"] = "gradient") -> Any:
    """Draw the chosen operation over time and hidden units: the log10 of its gradient, or its value.

    A gradient that is exactly 0, infinities and NaN have colours of their own. A mark above the heatmap
    shows the step of :func:`unit_bars`. An operation with one step, or without a gradient, has no heatmap,
    and the chart says so. Expressions refer to the parameters ``block``, ``step`` and ``node``, which are
    the caller's.

    Parameters
    ----------
    rows : list of dict
        From :func:`unit_rows`.
    of : {"gradient", "value"}
    """
    alt = altair()
    there = _over_time(rows, of)
    axis = _shown(there)
    number = _LOG if of == "gradient" else "datum.value"
    units = data(rows)
    cells = _of_node(units).transform_flatten(["unit", "value", "grad"])
    cells = cells.transform_calculate(number=number)
    cells = cells.transform_calculate(finite="isNumber(datum.number) ? datum.number : null")
    cells = cells.transform_joinaggregate(top="max(finite)")
    at = {
        "x": alt.X("t:O", title=_steps_title(rows), axis=_axis(**axis)),
        "y": alt.Y("unit:O", title="hidden unit", axis=_axis(**axis)),
        "tooltip": [alt.Tooltip(f"{name}:N") for name in ("t", "unit", "value", "grad", "number")],
    }
    # Cells without a number are drawn too, so that there is a scale; a second layer covers them.
    shaded = cells.transform_calculate(
        shade="isNumber(datum.number) ? datum.number : isNumber(datum.top) ? datum.top : 0"
    ).mark_rect(opacity=alt.ExprRef(f"isNumber(datum.number) ? {there.expr} : 0"))
    layers = [
        encoded(shaded, color=_shade(of, there), **at),
        *_words(cells, rows, of, at, there),
        *_heading(units, of, there),
    ]
    return layered(layers, width=540, height=200).resolve_scale(color="independent")


def _steps_title(rows: Sequence[Row]) -> str:
    """The title of the time axis, which says if steps are left out between columns."""
    times: dict[int, set[int]] = {}
    for row in rows:
        times.setdefault(row["block"], set()).add(row["t"])
    whole = all(max(some) - min(some) < len(some) for some in times.values())
    return "step t" if whole else "drawn steps t, not to scale"


_LOG = (
    "(!isNumber(datum.grad) ? datum.grad : datum.grad == 0 ? '0' : "
    "log(abs(datum.grad)) / LN10 + datum.power)"
)


def _over_time(rows: Sequence[Row], of: str) -> Any:
    """An opacity: 1 for an operation with data at several steps, otherwise 0."""
    steps = Counter((row["block"], row["node"]) for row in rows)
    none = {(row["block"], row["node"]) for row in rows if row["constant"] and of == "gradient"}
    without = [f"{b}/{n}" for (b, n), count in steps.items() if count == 1 or (b, n) in none]
    return altair().ExprRef(f"(indexof({without}, block + '/' + node) < 0 ? 1 : 0)")


def _shown(there: Any) -> dict[str, Any]:
    """Properties that hide an axis or a legend together with its marks."""
    opacities = {f"{part}Opacity": there for part in ("domain", "title")}
    return opacities | {"labelExpr": f"{there.expr} ? datum.label : ''"}


def _shade(of: Literal["gradient", "value"], there: Any) -> Any:
    alt = altair()
    shown = {f"{part}Opacity": there for part in ("gradient", "label", "title")}
    if of == "value":
        return alt.Color(
            "shade:Q",
            scale=alt.Scale(scheme=SHARE, domainMid=0),
            legend=alt.Legend(title="value", **shown),
        )
    legend = alt.Legend(
        title="|gradient|",
        titlePadding=12,
        tickCount=5,
        labelExpr=f"replace({norm_text('datum.value')}, '.0e', 'e')",
        **shown,
    )
    return alt.Color("shade:Q", scale=alt.Scale(scheme=MAGNITUDE, zero=False), legend=legend)


def _words(
    cells: Any, rows: Sequence[Row], of: str, at: Mapping[str, Any], there: Any
) -> list[Any]:
    """Cells without a finite number, with a legend of their colours."""
    alt = altair()
    field = "grad" if of == "gradient" else "value"
    found = {x for row in rows for x in row[field] if isinstance(x, str)}
    if of == "gradient":
        found |= {ZERO for row in rows if 0 in row[field]}
    looks = [look for word, look in LOOKS.items() if word in found]
    if not looks:
        return []
    there = alt.ExprRef(f"({there.expr} && {_has_words(rows, field)} ? 1 : 0)")
    words = " : ".join(f"datum.number === {w!r} ? {look.name!r}" for w, look in LOOKS.items())
    scale = alt.Scale(domain=[each.name for each in looks], range=[each.colour for each in looks])
    marks = cells.transform_filter("isString(datum.number)")
    marks = marks.transform_calculate(word=f"{words} : ''").mark_rect(opacity=there)
    legend = alt.Legend(
        title=None, symbolOpacity=there, labelExpr=f"{there.expr} ? datum.label : ''"
    )
    return [encoded(marks, color=alt.Color("word:N", scale=scale, legend=legend), **at)]


def _has_words(rows: Sequence[Row], field: str) -> str:
    """An expression: whether the chosen operation has a cell without a finite number."""
    zero = (0,) if field == "grad" else ()
    found = {
        f"{row['block']}/{row['node']}"
        for row in rows
        if any(isinstance(x, str) or x in zero for x in row[field])
    }
    return f"indexof({sorted(found)}, block + '/' + node) >= 0"


def _heading(units: Any, of: str, there: Any) -> list[Any]:
    alt = altair()
    row = _nearest(units)
    mark = row.mark_text(text="▼", baseline="bottom", color=ORANGE, opacity=there)
    title = row.transform_calculate(title=f"datum.label + ' over time: its {of}'")
    head = title.mark_text(
        align="left", baseline="bottom", fontSize=14, fontWeight="bold", opacity=there
    )
    fewer = row.mark_text(align="left", baseline="bottom", opacity=there)
    alone = alt.ExprRef(f"1 - ({there.expr})")
    nothing = row.transform_calculate(
        text="datum.label + (datum.constant ? ' is a constant: no gradient comes back to it.'"
        " : ' has one step: nothing changes over time.')"
    )
    nothing = nothing.mark_text(align="left", fontSize=12, opacity=alone)
    return [
        encoded(mark, x="t:O", y=alt.value(0)),
        encoded(head, x=alt.value(0), y=alt.value(-34), text="title:N"),
        encoded(fewer, x=alt.value(0), y=alt.value(-20), text="fewer:N"),
        encoded(nothing, x=alt.value(0), y=alt.value(-27), text="text:N"),
    ]
