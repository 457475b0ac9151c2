"""One operation over hidden units: as bars at the chosen step, and as a heatmap over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..._charts import BLUE, GREY, MAGNITUDE, ORANGE, PINK, SHARE, Row, altair, data
from ..step_flow import HostArray, StepFlow, StepVectors
from .magnitudes import INFINITE, NOT_A_NUMBER, ZERO, coded

UNITS = 128
"""Of more units, those with the largest gradient are drawn."""


def unit_rows(
    flows: Mapping[int, StepFlow],
    kept: Mapping[int, Sequence[int]],
    shown: Mapping[int, Sequence[int]],
    sample: int = 0,
) -> list[Row]:
    """Gather the values and gradients over hidden units that :func:`unit_bars` and the heatmap draw.

    Parameters
    ----------
    flows : mapping of int to StepFlow
        By the position of the block in :attr:`Network.blocks`.
    kept : mapping of int to sequence of int
        The times that ``step`` counts.
    shown : mapping of int to sequence of int
        Those of them whose vectors are kept.
    sample : int
        The sequence of the batch.

    Returns
    -------
    list of dict
        One for each block, operation and time in ``shown``, with arrays over hidden units.
    """
    rows = []
    for block, flow in flows.items():
        positions = {int(t): i for i, t in enumerate(kept[block])}
        for node, operation in enumerate(flow.operations):
            vectors = flow.vectors(node, shown[block], sample)
            head = {"block": block, "node": node, "label": operation.label}
            rows += [head | row for row in _over_units(vectors, positions)]
    return rows


def _over_units(vectors: StepVectors, positions: Mapping[int, int]) -> list[Row]:
    width = vectors.value.shape[1]
    units = _largest(vectors)
    size = f"hidden unit ({len(units)} of {width}: those with the largest gradient)"
    says = "hidden unit" if len(units) == width else size
    return [
        {
            "t": int(vectors.time[k]),
            "i": positions[int(vectors.time[k])],
            "scale": coded([vectors.log10_scale[k]])[0],
            "says": says,
            "unit": units.tolist(),
            "value": _rounded(vectors.value[k, units]),
            "grad": _rounded(vectors.grad[k, units]),
        }
        for k in range(len(vectors.time))
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
    """To 3 digits; infinities and NaN as words, for which JSON has no numbers."""
    return [
        float(f"{x:.3g}") if np.isfinite(x) else NOT_A_NUMBER if np.isnan(x) else INFINITE
        for x in np.asarray(numbers, dtype=np.float64)
    ]


def _of_node(rows: Sequence[Row]) -> Any:
    return altair().Chart(data(rows)).transform_filter("datum.block == block && datum.node == node")


def _nearest(rows: Sequence[Row]) -> Any:
    """Its row at the chosen step; at the nearest one (the earlier of two) if that has no vectors."""
    return (
        _of_node(rows)
        .transform_calculate(far="abs(datum.i - step) + (datum.i > step ? 0.5 : 0)")
        .transform_joinaggregate(nearest="min(far)")
        .transform_filter("datum.far == datum.nearest")
    )


_TITLE = (
    "datum.label + ' at t = ' + datum.t"
    " + (datum.i == step ? '' : ', the nearest step whose units are kept')"
)


def unit_bars(rows: Sequence[Row]) -> Any:
    """Draw the value and the gradient of the chosen operation over hidden units, at the chosen step.

    If the vectors of that step are not kept, those of the nearest one are drawn, and the title says so.
    Expressions refer to the parameters ``block``, ``step`` and ``node``, which are the caller's.

    Parameters
    ----------
    rows : list of dict
        From :func:`unit_rows`.

    Returns
    -------
    alt.VConcatChart
    """
    alt = altair()
    value = _bars(rows, "value", BLUE, "'value'", title=True)
    scale = (
        "'gradient' + (datum.scale === '0' ? '' : isNumber(datum.scale) ? "
        "', times 1e' + datum.scale : '')"
    )
    return alt.vconcat(value, _bars(rows, "grad", ORANGE, scale, title=False), spacing=12)


def _bars(rows: Sequence[Row], field: str, colour: str, caption: str, title: bool) -> Any:
    alt = altair()
    row = _nearest(rows)
    flat = row.transform_flatten(["unit", "value", "grad"])
    number = flat.transform_calculate(y=f"isNumber(datum.{field}) ? datum.{field} : null")
    axis = alt.Axis(labelAngle=0, labelOverlap="greedy", labelSeparation=5, grid=False, ticks=False)
    x = alt.X("unit:O", axis=axis, title=None if title else "hidden unit")
    tooltip = [alt.Tooltip("unit:O"), alt.Tooltip(f"{field}:N", title=caption.split("'")[1])]
    y = alt.Y("y:Q", title=None).axis(tickCount=4, format="~g")
    bars = number.mark_bar(color=colour).encode(x=x, y=y, tooltip=tooltip)
    words = flat.transform_filter(f"!isNumber(datum.{field})").mark_text(
        color=PINK, fontWeight="bold", angle=270, baseline="middle"
    )
    head = row.transform_calculate(caption=caption).mark_text(align="left", baseline="bottom")
    layers = [
        bars,
        words.encode(x=x, y=alt.value(45), text=f"{field}:N", tooltip=tooltip),
        head.encode(x=alt.value(0), y=alt.value(-4), text="caption:N"),
    ]
    if title:
        name = row.transform_calculate(title=_TITLE).mark_text(
            align="left", baseline="bottom", fontSize=14, fontWeight="bold"
        )
        layers.append(name.encode(x=alt.value(-30), y=alt.value(-20), text="title:N"))
    return alt.layer(*layers).properties(width=270, height=80)


def unit_heatmap(rows: Sequence[Row], of: Literal["gradient", "value"] = "gradient") -> Any:
    """Draw the chosen operation over time and hidden units: the log10 of its gradient, or its value.

    A gradient that is exactly 0, infinities and NaN have colours of their own. A mark above the heatmap
    shows the step of :func:`unit_bars`. Expressions refer to the parameters ``block``, ``step`` and
    ``node``, which are the caller's.

    Parameters
    ----------
    rows : list of dict
        From :func:`unit_rows`.
    of : {"gradient", "value"}

    Returns
    -------
    alt.LayerChart
    """
    alt = altair()
    number = _LOG if of == "gradient" else "datum.value"
    cells = _of_node(rows).transform_flatten(["unit", "value", "grad"])
    cells = cells.transform_calculate(number=number)
    axis = alt.Axis(labelOverlap="greedy", labelSeparation=5, labelAngle=0, grid=False, ticks=False)
    at = {
        "x": alt.X("t:O", title="step t, of those whose units are kept", axis=axis),
        "y": alt.Y("unit:O", title="hidden unit", axis=axis),
        "tooltip": [alt.Tooltip(f"{name}:N") for name in ("t", "unit", "value", "grad", "number")],
    }
    finite = cells.transform_filter("isNumber(datum.number)").mark_rect()
    return (
        alt.layer(
            finite.encode(color=_shade(of), **at),
            *_words(cells, rows, of, at),
            *_heading(rows, of),
        )
        .resolve_scale(color="independent")
        .properties(width=540, height=200)
    )


_LOG = (
    "(!isNumber(datum.grad) ? datum.grad : datum.grad == 0 ? '0' : !isNumber(datum.scale) ? "
    "datum.scale : log(abs(datum.grad)) / LN10 + datum.scale)"
)
_WORDS = {ZERO: ("exactly 0", GREY), INFINITE: ("infinite", ORANGE), NOT_A_NUMBER: ("NaN", PINK)}


def _shade(of: Literal["gradient", "value"]) -> Any:
    alt = altair()
    if of == "value":
        return alt.Color("number:Q", title="value", scale=alt.Scale(scheme=SHARE, domainMid=0))
    legend = alt.Legend(title="|gradient|", labelExpr="'1e' + format(datum.value, '~g')")
    return alt.Color("number:Q", scale=alt.Scale(scheme=MAGNITUDE, zero=False), legend=legend)


def _words(cells: Any, rows: Sequence[Row], of: str, at: Mapping[str, Any]) -> list[Any]:
    """Cells without a finite number, with a legend of what occurs; nothing if there are none."""
    alt = altair()
    field = "grad" if of == "gradient" else "value"
    found = {x for row in rows for x in row[field] if isinstance(x, str)}
    if of == "gradient":
        found |= {ZERO for row in rows if 0 in row[field]}
        found |= {row["scale"] for row in rows if isinstance(row["scale"], str)}
    names = [_WORDS[word] for word in _WORDS if word in found]
    if not names:
        return []
    words = " : ".join(
        f"datum.number === {word!r} ? {name!r}" for word, (name, _) in _WORDS.items()
    )
    scale = alt.Scale(domain=[name for name, _ in names], range=[colour for _, colour in names])
    marks = cells.transform_filter("isString(datum.number)")
    marks = marks.transform_calculate(word=f"{words} : ''").mark_rect()
    return [marks.encode(color=alt.Color("word:N", title=None, scale=scale), **at)]


def _heading(rows: Sequence[Row], of: str) -> list[Any]:
    alt = altair()
    row = _nearest(rows)
    mark = row.mark_text(text="▼", baseline="bottom", color=ORANGE)
    what = "the log10 of its gradient" if of == "gradient" else "its value"
    title = row.transform_calculate(title=f"datum.label + ' over time: {what}; ' + datum.says")
    head = title.mark_text(align="left", baseline="bottom", fontSize=14, fontWeight="bold")
    return [
        mark.encode(x="t:O", y=alt.value(0)),
        head.encode(x=alt.value(0), y=alt.value(-16), text="title:N"),
    ]
