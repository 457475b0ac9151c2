"""What was measured as a chart's data: one row, whose lists run over time."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._charts import Row
from ..microscope.magnitudes import coded
from .measuring import Measured

HostArray = np.ndarray[Any, Any]

LOG_DIGITS, SHARE_DIGITS = 13, 12
"""Decimals of logarithms and of shares, so that norms and shares are right to 1e-12."""

CIRCLES = 12
"""Steps at which the closed form is drawn."""

AWAY = [-9, -9]
"""Where what is not drawn stands, left of the picture: Vega complains of a layer without a point."""

WIDE = 128
"""Characters of a line of the sentences."""


def values_row(found: Measured, states: Sequence[str]) -> Row:
    """log10 ‖h_t‖ of every state: ``v0``, ``v1`` … in the order of ``states``."""
    there = {f"v{k}": found.values[name] for k, name in enumerate(states) if name in found.values}
    return {field: coded(logs, LOG_DIGITS) for field, logs in there.items()}


def loss_row(
    found: Measured,
    states: Sequence[str],
    parts: Sequence[str],
    sentences: Sequence[str],
    slope: bool,
    exact: HostArray | None = None,
) -> Row:
    """What depends on the loss.

    Parameters
    ----------
    found : Measured
    states, parts : sequence of str
        The names behind ``g0``, ``g1`` …, log10 of a gradient's norm, and ``s0``, ``s1`` …, shares. The
        share ``direct`` is what the others leave of 1; it is not stored.
    sentences : sequence of str
        What is said of it.
    slope : bool
        Whether to draw what the gradient would be if |λ|max multiplied it at every step.
    exact : ndarray ``(T,)``, optional
        The norms in closed form, of which some are drawn.
    """
    gradients = {
        k: found.gradients[name] for k, name in enumerate(states) if name in found.gradients
    }
    shares = {k: found.shares[name] for k, name in enumerate(parts) if name in found.shares}
    row: Row = {f"g{k}": coded(logs, LOG_DIGITS) for k, logs in gradients.items()}
    row |= {f"s{k}": _numbers(share) for k, share in shares.items()}
    row["radius"] = found.radius if math.isfinite(found.radius) else None
    low, high = row["gradients"] = _range(list(gradients.values()))
    row["values"] = _range(list(found.values.values()))
    row["shares"] = _share_range(list(found.shares.values()))
    row["lines"] = [line for s in sentences for line in textwrap.wrap(s, WIDE)]
    row |= {"line_t": AWAY, "line": [low, low], "exact_t": AWAY, "exact": [low, low]}
    if slope:
        row |= _slope(found, low, high)
    return row if exact is None else row | _closed(exact)


def _closed(exact: HostArray) -> Row:
    """The closed form at some steps between the ends."""
    every = max(len(exact) // CIRCLES, 1)
    times = np.arange(len(exact) - 1 - every, 0, -every)
    with np.errstate(divide="ignore"):
        return {"exact_t": times.tolist(), "exact": coded(np.log10(exact[times]), LOG_DIGITS)}


def _numbers(values: HostArray) -> list[float | int | None]:
    """Numbers for JSON; whole ones without a point, which a file of so many notices."""
    return [_number(x) for x in values.tolist()]


def _number(x: float) -> float | int | None:
    return None if not math.isfinite(x) else int(x) if x == int(x) else round(x, SHARE_DIGITS)


def _range(logs: list[HostArray]) -> list[float]:
    """Where the axis begins and ends: around all finite logarithms, two decades at least."""
    every = np.concatenate(logs)
    every = every[np.isfinite(every)]
    low, high = (every.min(), every.max()) if every.size else (0.0, 0.0)
    room = max(0.04 * (high - low), (2 - (high - low)) / 2)
    return [round(float(low - room), 3), round(float(high + room), 3)]


def _share_range(shares: list[HostArray]) -> list[float]:
    """From 0 to 1, and as far beyond as shares go; what would hide all others is cut."""
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
