"""A small array as a grid of colours, one cell for each number; a large array as figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ..charts import AMBER, BLUE, ORANGE, PINK
from ..pages import text
from .lines import sparkline
from .markup import fold, preformatted

HostArray = np.ndarray[Any, Any]

MOST_CELLS = 64 * 64
WIDEST = 64
"""Arrays with more cells, or with longer rows, are not drawn."""

MOST_PARTS = 200
"""Parts of a large array along its first axis, whose norms are drawn."""

FEW = 60
"""At most so many numbers are printed without being asked for."""


class Figures(NamedTuple):
    """Figures of an array: of its finite elements, or of the magnitudes of complex ones.

    Attributes
    ----------
    low, high : number
        In the array's own type; None where no element is finite.
    mean : float
    nans, infinities : int
    first : ndarray (n,)
        The start of each part on the first axis.
    log10_norms : ndarray (n,)
        Decadic logarithms of the parts' norms.
    """

    low: Any
    mean: float
    high: Any
    nans: int
    infinities: int
    first: HostArray
    log10_norms: HostArray


def array_body(array: HostArray) -> str:
    """The folded part below an array's line: its grid if it is small, its figures, its numbers."""
    figures = measured(array)
    with np.errstate(all="ignore"):
        drawn = "" if array.ndim == 0 else _grid(array, figures) if _is_small(array) else ""
        if not drawn and array.ndim and array.size:
            drawn = _norms(array, figures)
    printed = np.array2string(array, separator=", ", threshold=1000)
    numbers = fold("numbers", preformatted(printed), opened=array.size <= FEW)
    return "".join([drawn, _summary(array, figures), numbers])


def _is_small(array: HostArray) -> bool:
    return 0 < array.size <= MOST_CELLS and array.shape[-1] <= WIDEST


def measured(array: HostArray) -> Figures:
    """Look at an array once, part by part along its first axis, so that each part stays in the cache."""
    whole = np.atleast_1d(array)
    count = min(len(whole), MOST_PARTS) if whole.size else 0
    parts = np.array_split(whole, count) if count else []
    with np.errstate(all="ignore"):  # the largest numbers of a type are looked at too
        found = [_of_part(np.abs(part) if part.dtype.kind == "c" else part) for part in parts]
    first = np.cumsum([0, *map(len, parts)])[:-1]
    seen = [part for part in found if part.finite]
    return Figures(
        low=min((part.low for part in seen), default=None),
        mean=math.fsum(p.mean * p.finite for p in seen) / sum(p.finite for p in seen)
        if seen
        else math.nan,
        high=max((part.high for part in seen), default=None),
        nans=sum(part.nans for part in found),
        infinities=sum(part.infinities for part in found),
        first=first,
        log10_norms=np.array([part.log10_norm for part in found]),
    )


class _Part(NamedTuple):
    low: Any
    mean: float
    high: Any
    finite: int
    nans: int
    infinities: int
    log10_norm: float


def _of_part(part: HostArray) -> _Part:
    wide = part.astype(np.float64).ravel("K")
    squares = float(wide @ wide)
    nans = infinities = 0
    if (
        not 1e-250 < squares < math.inf
    ):  # something is not finite, or the squares are beyond the type
        nans, infinities = int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
        if nans or infinities:
            part = part[np.isfinite(part)]
            wide = part.astype(np.float64)
    norm = math.nan if nans else math.inf if infinities else _log10_norm(wide, squares)
    if not wide.size:
        return _Part(None, math.nan, None, 0, nans, infinities, norm)
    own = part.dtype.type
    low, high = (wide.min(), wide.max()) if part.dtype.kind == "f" else (part.min(), part.max())
    return _Part(own(low), float(wide.mean()), own(high), wide.size, nans, infinities, norm)


def _log10_norm(wide: HostArray, squares: float) -> float:
    if 1e-250 < squares < math.inf:
        return 0.5 * math.log10(squares)
    top, scaled = backend.tops_and_sums([wide])[0]
    return math.log10(top) + 0.5 * math.log10(scaled) if top else -math.inf


def _grid(array: HostArray, figures: Figures) -> str:
    """One cell for each number: orange above 0, blue below, the fuller the larger.

    Axes in front of the last two stand below each other, with a gap between the matrices.
    """
    rows, columns = array.size // array.shape[-1], array.shape[-1]
    tall = array.shape[-2] if array.ndim > 1 else 1
    high = rows + (rows - 1) // tall
    scale = max(5, min(18, 320 // max(columns, high)))
    size = f'width="{columns * scale}" height="{high * scale}"'
    frame = f'{size} viewBox="-.1 -.1 {columns + 0.2:g} {high + 0.2:g}" role="img"'
    cells = "".join(_cells(array, figures, tall))
    return f'<svg {frame} style="background:transparent">{_LINES}{cells}</g></svg>'


_LINES = '<g stroke="currentColor" stroke-opacity=".25" stroke-width=".04">'


def _cells(array: HostArray, figures: Figures, tall: int) -> Iterator[str]:
    """The cells in groups of one colour; a cell holds its place and its number as a title."""
    sizes = np.abs(array) if array.dtype.kind == "c" else array
    sizes = sizes.astype(np.float64).reshape(-1, array.shape[-1])
    ends = [] if figures.low is None else [abs(float(figures.low)), abs(float(figures.high))]
    parts = np.nan_to_num(np.abs(sizes) / (max(ends, default=0.0) or 1.0), nan=1.0, posinf=1.0)
    values, places = array.ravel(), list(np.ndindex(array.shape))
    for colour, which in (
        (ORANGE, np.isfinite(sizes) & (sizes >= 0)),
        (BLUE, np.isfinite(sizes) & (sizes < 0)),
        (PINK, np.isnan(sizes)),
        (AMBER, np.isinf(sizes)),
    ):
        yield f'<g fill="{colour}">'
        for row, x in zip(*(axis.tolist() for axis in np.nonzero(which)), strict=True):
            place, y = row * array.shape[-1] + x, row + row // tall
            title = f"{list(places[place])}: {values[place]}"
            full = f"{parts[row, x]:.2g}"
            yield f'<path d="M{x} {y}h1v1h-1z" fill-opacity="{full}"><title>{title}</title></path>'
        yield "</g>"


def _norms(array: HostArray, figures: Figures) -> str:
    several = len(array) > len(figures.first)
    what = (
        "norms of parts along the first axis" if several else "norm of each [i] of the first axis"
    )
    return sparkline(what, figures.log10_norms, figures.first)


def _summary(array: HostArray, figures: Figures) -> str:
    """A line with the smallest, mean and largest number, and how many are not finite."""
    if figures.low is None:
        parts = [] if array.size else ["no elements"]
    else:
        bars = "|" if array.dtype.kind == "c" else ""
        low, high = text(figures.low), text(figures.high)
        parts = [f"min {low}", f"mean {figures.mean:.4g}", f"max {high}"]
        parts = [f"{bars}x{bars}: {', '.join(parts)}"] if bars else parts
    for name, count, colour in (
        ("NaN", figures.nans, PINK),
        ("infinite", figures.infinities, AMBER),
    ):
        if count:
            parts.append(f'<span style="color:{colour}">■</span> {count:,} {name}')
    return f"<div>{' · '.join(parts)}</div>"
