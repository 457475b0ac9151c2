"""The measured numbers as a chart's data: one row with lists over time."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...display.charts import Row, finite
from ..charts.magnitudes import coded
from ..passes.scaling import HostArray, log10
from .measuring import Measured

CIRCLES = 12
"""Number of steps at which the closed form is drawn."""

WIDE = 128
"""Characters of a line of the sentences."""


SLOPE = "dashed: |λ|max multiplied once for every {unit} back"
CLOSED_FORM = "circles: the closed form of the linear network, {form}"
"""Lines below the title of the gradients that explain the dashed line and the circles."""


class Names(NamedTuple):
    """Names of the states, and of the paths of their gradients, by the numbers of a row's lists."""

    states: tuple[str, ...]
    parts: tuple[str, ...]


def values_row(found: Measured, names: Names) -> Row:
    """log10 ‖h_t‖ of every state, in the lists ``v0``, ``v1`` and so on."""
    return _numbered("v", names.states, found.values)


def _numbered(kind: str, names: tuple[str, ...], arrays: dict[str, HostArray]) -> Row:
    return {f"{kind}{k}": arrays[name] for k, name in enumerate(names) if name in arrays}


def loss_row(
    found: Measured,
    names: Names,
    sentences: Sequence[str],
    slope: bool,
    unit: str = "step",
    exact: HostArray | None = None,
    form: str = "",
) -> Row:
    """Return the numbers that depend on the loss.

    Parameters
    ----------
    found : Measured
    names : Names
        The states behind ``g0``, ``g1`` …, log10 of a gradient's norm, and the paths behind ``s0``,
        ``s1`` …, shares. The share ``direct`` is 1 minus the others; it is not stored.
    sentences : sequence of str
        The sentences about it.
    slope : bool
        Whether to draw what the gradient would be if |λ|max multiplied it at every step.
    unit : {"step", "block"}
        The unit of time.
    exact : ndarray ``(T,)``, optional
        The norms in closed form, of which some are drawn.
    form : str
        The closed form, as a formula.
    """
    row: Row = {
        "steps": len(found.time),
        "unit": unit,
        "states": [name for name in names.states if name in found.gradients],
        "parts": ["direct", *(name for name in names.parts if name in found.shares)],
        "radius": found.radius if math.isfinite(found.radius) else None,
        "lines": [line for s in sentences for line in textwrap.wrap(s, WIDE)],
    }
    shown = _numbered("g", names.states, found.gradients)
    shares = _numbered("s", names.parts, found.shares)
    low, high = row["gradients"] = _range(list(shown.values()))
    row["values"] = _range(list(found.values.values()))
    row["shares"] = _share_range(list(shares.values()))
    notes, line = [], _slope(found, low, high) if slope else {}
    if line:
        notes.append(SLOPE.format(unit=unit))
    if exact is not None:
        line |= _closed(exact)
        notes.append(CLOSED_FORM.format(form=form))
    blank = ["\N{NO-BREAK SPACE}"] * (2 - len(notes))  # so that the picture keeps its place
    return row | shown | shares | line | {"notes": notes + blank}


def coded_row(row: Row) -> Row:
    """Return a row as JSON: a word for a logarithm that is not finite, None for a share that is NaN."""
    return {name: _coded(name, given) for name, given in row.items()}


def _coded(name: str, given: Any) -> Any:
    if not isinstance(given, np.ndarray):
        return given
    return finite(given.tolist(), 17) if name[0] == "s" else coded(given, 14)


def _closed(exact: HostArray) -> Row:
    """The closed form at some steps between the ends."""
    every = max(len(exact) // CIRCLES, 1)
    times = np.arange(len(exact) - 1 - every, 0, -every)
    return {"exact_t": times.tolist(), "exact": coded(log10(exact[times]), 14)}


def _range(logs: list[HostArray]) -> list[float]:
    """Both ends of the axis: around all finite logarithms, at least two decades."""
    every = np.concatenate(logs)
    every = every[np.isfinite(every)]
    low, high = (every.min(), every.max()) if every.size else (0.0, 0.0)
    room = max(0.04 * (high - low), (2 - (high - low)) / 2)
    return [round(float(low - room), 3), round(float(high + room), 3)]


def _share_range(shares: list[HostArray]) -> list[float]:
    """Both ends of the axis of shares: 0 to 1, or further, up to −3 and 4."""
    every = np.concatenate(shares)
    every = every[np.isfinite(every)]
    low, high = min(every.min(initial=0.0), 0.0), max(every.max(initial=1.0), 1.0)
    return [round(max(float(low), -3.0) - 0.05, 3), round(min(float(high), 4.0) + 0.05, 3)]


def _slope(found: Measured, low: float, high: float) -> Row:
    """The line of a gradient that every step multiplies by |λ|max, as far as it stays on the axis."""
    last = int(found.time[-1])
    end = float(found.gradients[found.state][-1])
    if not (found.radius > 0 and math.isfinite(found.radius) and math.isfinite(end)):
        return {}
    each = math.log10(found.radius)
    room = high - end if each > 0 else end - low
    steps = min(last, room / abs(each)) if each else last
    return {"line_t": [last - steps, last], "line": [end + steps * each, end]}
