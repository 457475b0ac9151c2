"""The course of a curve of gradient norms: its jumps, and the pieces on which its rate is constant."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..passes.scaling import HostArray
from .wording import LEVEL

LEAST_JUMP = 0.3
"""Decades: a step that changes the gradient less than two-fold is not a jump."""

APART = 0.7
"""Decades by which two pieces must differ."""

MOST_PIECES = 3
MOST_KNOTS = 120
"""Pieces of a curve, and positions at which they may meet."""


class Piece(NamedTuple):
    """A stretch over which the gradient changes at one rate.

    Attributes
    ----------
    start, end : int
        Positions in the curve; the gradient flows from ``start`` down to ``end``.
    decades : float
        Change of log10 of the norm.
    """

    start: int
    end: int
    decades: float

    @property
    def rate(self) -> float:
        """Decades by step back."""
        return self.decades / (self.start - self.end)


def jumps(log: HostArray) -> list[int]:
    """Positions of single steps at which a curve falls, or rises, far more than elsewhere.

    Position i means the step from i back to i − 1. It is a jump if it changes the norm at least
    two-fold, by at least five times the decades of the median step, by at least a quarter of those of the
    largest step, and in that step's direction. The largest comes first. More than three jumps close
    together are a stretch, and then none is returned.

    >>> jumps(np.array([-9.0, -8.9, -8.8, -0.2, -0.1, 0.0]))
    [3]
    """
    if len(log) < 3:
        return []
    changes = -np.diff(log)  # of each step back
    size, largest = np.abs(changes), int(np.argmax(np.abs(changes)))
    usual = float(np.median(np.delete(size, largest)))
    limit = max(LEAST_JUMP, 5 * usual, size[largest] / 4)
    found = np.flatnonzero((size >= limit) & (changes * changes[largest] > 0))
    if len(found) > 3 and np.ptp(found) < 2 * len(found):
        return []
    return [int(i) + 1 for i in found[np.argsort(-size[found], kind="stable")]]


def without(log: HostArray, steps: Iterable[int]) -> HostArray:
    """The curve if some steps changed nothing."""
    changes = np.diff(log)
    changes[[i - 1 for i in steps]] = 0.0
    return np.concatenate([log[:1], log[0] + np.cumsum(changes)])


def stretch(log: HostArray) -> tuple[int, int]:
    """Return the shortest stretch, from start back to end, that makes 80% of the whole change.

    >>> stretch(np.array([-9.0, -9.0, -9.0, -5.0, -1.0, 0.0, 0.0]))
    (4, 2)
    """
    rising = log * np.sign(log[-1] - log[0])
    wanted = 0.8 * abs(float(log[-1] - log[0]))
    low, high = 1, len(log) - 1
    while low < high:
        length = (low + high) // 2
        if (rising[length:] - rising[:-length]).max() >= wanted:
            high = length
        else:
            low = length + 1
    end = int(np.argmax(rising[low:] - rising[:-low]))
    return end + low, end


def pieces(log: HostArray) -> list[Piece]:
    """At most three pieces of a curve, from its end back; one piece if one line fits it.

    Lines are fitted to log10 of the norm by least squares.

    >>> bent = np.concatenate([np.arange(-40.0, 0.0), np.zeros(40)])
    >>> [(p.start, p.end) for p in pieces(bent)]
    [(79, 40), (40, 0)]
    """
    n = len(log)
    at = np.unique(np.linspace(0, n - 1, min(n, MOST_KNOTS)).round().astype(np.int64))
    cuts = at[_cuts(at.astype(np.float64), log[at])].tolist() if n >= 8 else []
    ends = [0, *cuts, n - 1]
    found = [Piece(start, end, float(log[end] - log[start])) for end, start in pairwise(ends)]
    return _merged(found[::-1])


def _cuts(x: HostArray, y: HostArray) -> list[int]:
    """Choose the positions where lines meet. A further line must reduce the squares to a third."""
    costs = _costs(x, y)
    n, shortest = len(x), max(3, len(x) // 12)
    best, back = costs[0], list[HostArray]()
    chosen, left = list[int](), float(best[-1])
    for _ in range(MOST_PIECES - 1):
        sums = np.full((n, n), np.inf)  # [cut, end]
        for cut in range(shortest, n - shortest):
            sums[cut, cut + shortest :] = best[cut] + costs[cut, cut + shortest :]
        back.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
        if left > n * (LEVEL / 2) ** 2 and best[-1] < left / 3:
            left, chosen = float(best[-1]), _followed(back, n - 1)
    return chosen


def _followed(back: list[HostArray], end: int) -> list[int]:
    """The best cuts, from the last line on."""
    cuts: list[int] = []
    for before in reversed(back):
        end = int(before[end])
        cuts.insert(0, end)
    return cuts


def _costs(x: HostArray, y: HostArray) -> HostArray:
    """Sum of squares around the best line over positions i to j inclusive, ``(n, n)``."""
    x, y = x - x.mean(), y - y.mean()
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    sums = np.concatenate([np.zeros((6, 1)), np.cumsum(terms, axis=1)], axis=1)
    count, sx, sy, sxx, sxy, syy = sums[:, None, 1:] - sums[:, :-1, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        varying, both = sxx - sx * sx / count, sxy - sx * sy / count
        costs = syy - sy * sy / count - np.where(count > 1, both * both / varying, 0.0)
    return np.where(count > 0, np.maximum(costs, 0.0), np.inf)


def _merged(found: list[Piece]) -> list[Piece]:
    """Join neighbours whose rates a reader would not see to differ."""
    merged = found[:1]
    for piece in found[1:]:
        last = merged[-1]
        length = min(piece.start - piece.end, last.start - last.end)
        apart = abs(piece.rate - last.rate)
        if apart * length < APART or apart < max(abs(piece.rate), abs(last.rate)) / 2:
            merged[-1] = Piece(last.start, piece.end, last.decades + piece.decades)
        else:
            merged.append(piece)
    return merged
