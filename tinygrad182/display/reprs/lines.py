"""A small line chart of magnitudes over steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import AMBER, BLUE, GREY, PINK
from ..pages import text
from .markup import scientific

HostArray = np.ndarray[Any, Any]

WIDTH, HEIGHT, LEFT, TOP = 360, 52, 62, 10
"""Pixels of the plot, and of what stands left of it and above it."""

MOST = 400
"""With more points than this, only the lowest and the highest of each stretch are drawn."""

LEAST = 1.0
"""Smallest number of decades over the whole height, so that a level looks like one."""

LINE = 13
"""Pixels from one line of text to the next."""

_MARKS = (
    ("exactly 0", GREY, HEIGHT + 3, np.isneginf),
    ("NaN", PINK, HEIGHT / 2 - 2, np.isnan),
    ("infinite", AMBER, -7, np.isposinf),
)
"""Bars for magnitudes without a logarithm: name, colour, height in the plot, test."""


def sparkline(name: str, log10: HostArray, labels: HostArray) -> str:
    """Draw magnitudes over steps, in decades and without a floor.

    Steps whose magnitude is exactly 0, NaN or infinite are bars below, in and above the plot, and are named
    beneath it where there are any.

    Parameters
    ----------
    name : str
        The title, such as ``"‖∂L/∂hₜ‖"``.
    log10 : ndarray (T,)
        Decadic logarithms of the magnitudes.
    labels : ndarray (T,)
        The names of the steps.

    Returns
    -------
    str
        HTML; empty for no steps.
    """
    if not len(log10):
        return ""
    there = np.flatnonzero(np.isfinite(log10))
    low, high = (log10[there].min(), log10[there].max()) if len(there) else (0.0, 0.0)
    span = max(high - low, LEAST)
    top = (high + low + span) / 2
    x = LEFT + WIDTH * np.arange(len(log10)) / max(len(log10) - 1, 1)
    y = TOP + HEIGHT * (top - log10[there]) / span
    line = _path(_thinned(there, log10), x, dict(zip(there.tolist(), y.tolist(), strict=True)))
    texts = [_text(LEFT - 6, y.min() + 4, scientific(high), "end")] if len(there) else []
    if len(there) and y.max() - y.min() > LINE:
        texts.append(_text(LEFT - 6, y.max() + 4, scientific(low), "end"))
    texts += [_text(LEFT, TOP + HEIGHT + 21, labels[0], "start")]
    texts += [_text(LEFT + WIDTH, TOP + HEIGHT + 21, labels[-1], "end")] if len(log10) > 1 else []
    bars, legend = _bars(log10, labels, x)
    drawn = (
        f'<path d="{line}" fill="none" stroke="{BLUE}" stroke-width="2" stroke-linecap="round"/>'
    )
    size = f'width="{LEFT + WIDTH + 12}" height="{TOP + HEIGHT + 26}"'
    picture = f'<svg {size} role="img" style="background:transparent">{_title(name)}{drawn}{bars}'
    return f"<div>{text(name)}{legend}</div>{picture}{''.join(texts)}</svg>"


def _title(value: Any) -> str:
    return f"<title>{text(value)}</title>"


def _text(x: float, y: float, value: Any, anchor: str) -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor" font-size="11">{text(value)}</text>'


def _thinned(there: HostArray, log10: HostArray) -> list[int]:
    """The positions to draw: all, or the lowest and the highest of each small stretch."""
    if len(there) <= MOST:
        return there.tolist()
    kept: set[int] = {int(there[0]), int(there[-1])}
    for stretch in np.array_split(there, MOST // 2):
        values = log10[stretch]
        kept |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
        gaps = np.flatnonzero(np.diff(stretch) > 1)
        kept |= {*stretch[gaps].tolist(), *stretch[gaps + 1].tolist()}
    return sorted(kept)


def _path(kept: list[int], x: HostArray, y: dict[int, float]) -> str:
    """Line segments, interrupted at values that cannot be drawn."""
    steps, before = [], None
    for i in kept:
        joined = before is not None and all(j in y for j in range(before + 1, i))
        steps.append(f"{'L' if joined else 'M'}{x[i]:.1f} {y[i]:.1f}{'' if joined else 'h0'}")
        before = i
    return "".join(steps)


def _bars(log10: HostArray, labels: HostArray, x: HostArray) -> tuple[str, str]:
    """A bar for each run of steps without a logarithm, and a legend of the bars' colours."""
    bars, legend = "", ""
    for kind, colour, height, which in _MARKS:
        steps = np.flatnonzero(which(log10))
        if not len(steps):
            continue
        legend += (
            f' · <span style="color:{colour}">■</span> {kind} at {len(steps):,} of {len(log10):,}'
        )
        for run in np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1):
            first, last = run[0], run[-1]
            place = f'x="{x[first] - 2:.1f}" width="{x[last] - x[first] + 4:.1f}" y="{TOP + height:.1f}"'
            title = _title(f"{kind}: {labels[first]} … {labels[last]}")
            bars += f'<rect {place} height="4" fill="{colour}">{title}</rect>'
    return bars, legend
