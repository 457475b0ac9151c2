"""What a curve of gradient norms does on its way back: where it jumps, and in which pieces it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

HostArray = np.ndarray[Any, Any]

LEAST_JUMP = 0.7
"""Decades: a step that changes the gradient less than five-fold is never told alone."""

LEVEL = 0.1
"""Decades: a stretch that changes the gradient by less, about 25%, is said to keep it."""


class Piece(NamedTuple):
    """A stretch over which the gradient changes at one rate.

    Attributes
    ----------
    start, end : int
        Positions in the curve; the way back leads from ``start`` down to ``end``.
    decades : float
        By how much log10 of the norm changes over it, jumps left out.
    """

    start: int
    end: int
    decades: float

    @property
    def rate(self) -> float:
        """Decades by step back."""
        return self.decades / (self.start - self.end)


def jumps(log: HostArray, most: int = 3) -> list[int]:
    """Positions of single steps at which a curve falls, or rises, as it does nowhere else.

    Position i stands for the step from i back to i − 1. It is told where it changes the norm at least
    five-fold, and by five times as many decades as the median step; the largest first.

    >>> jumps(np.array([-9.0, -8.9, -8.8, -0.2, -0.1, 0.0]))
    [3]
    """
    drops = -np.diff(log)  # of each step back
    if len(drops) < 2:
        return []
    size, net = np.abs(drops), -float(drops.sum())
    found = [i for i in np.argsort(-size, kind="stable").tolist() if drops[i] * net < 0]
    limit = max(LEAST_JUMP, 5 * _median_of_others(size))
    return [i + 1 for i in found[:most] if size[i] >= limit]


def _median_of_others(size: HostArray) -> float:
    """The median over all but the largest."""
    return float(np.median(np.delete(size, np.argmax(size))))


def without(log: HostArray, steps: Iterable[int]) -> HostArray:
    """The curve as if some steps changed nothing."""
    drops = np.diff(log)
    drops[[i - 1 for i in steps]] = 0.0
    return np.concatenate([[log[0]], log[0] + np.cumsum(drops)])


def pieces(log: HostArray, most: int = 3) -> list[Piece]:
    """The stretches of a curve, from its end back, at most ``most`` of them: one if one line fits it.

    Lines are fitted to log10 of the norm by least squares, at up to 120 positions.

    >>> bent = np.concatenate([np.arange(-40.0, 0.0), np.zeros(40)])
    >>> [(p.start, p.end) for p in pieces(bent)]
    [(79, 40), (40, 0)]
    """
    n = len(log)
    at = np.unique(np.linspace(0, n - 1, min(n, 120)).round().astype(np.int64))
    ends = [0, n - 1]
    if n >= 8:
        cuts = _cuts(at.astype(np.float64), log[at], most)
        ends = [0, *at[cuts].tolist(), n - 1]
    found = [
        Piece(start, end, float(log[end] - log[start]))
        for end, start in zip(ends[:-1], ends[1:], strict=True)
    ]
    return _merged(found[::-1])


def _cuts(x: HostArray, y: HostArray, most: int) -> list[int]:
    """Where lines meet: each further one has to leave less than a third of the squares."""
    costs = _costs(x, y)
    n, shortest = len(x), max(3, len(x) // 12)
    best, back = costs[0].copy(), []
    chosen, left = list[int](), float(best[-1])
    for _ in range(most - 1):
        sums = np.full((n, n), np.inf)  # [cut, end]
        for cut in range(shortest, n - shortest):
            sums[cut, cut + shortest :] = best[cut] + costs[cut, cut + shortest :]
        back.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
        visible = np.sqrt(left / n) > LEVEL / 2
        if visible and best[-1] < left / 3:
            left, chosen = float(best[-1]), _followed(back, n - 1)
    return chosen


def _followed(back: list[HostArray], end: int) -> list[int]:
    cuts: list[int] = []
    for step in reversed(back):
        end = int(step[end])
        cuts.insert(0, end)
    return cuts


def _costs(x: HostArray, y: HostArray) -> HostArray:
    """The squares that a line leaves over positions i to j, both included, ``(n, n)``."""
    n, y = len(x), y - y.mean()
    powers = np.stack([np.ones(n), x, y, x * x, x * y, y * y])
    sums = np.concatenate([np.zeros((6, 1)), np.cumsum(powers, axis=1)], axis=1)
    count, sx, sy, sxx, sxy, syy = sums[:, None, 1:] - sums[:, :-1, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        varying, both = sxx - sx * sx / count, sxy - sx * sy / count
        costs = syy - sy * sy / count - np.where(varying > 0, both * both / varying, 0.0)
    return np.where(count > 0, np.maximum(costs, 0.0), np.inf)


def _merged(found: list[Piece]) -> list[Piece]:
    """Neighbours as one, where a reader would not see that their rates differ."""
    merged = found[:1]
    for piece in found[1:]:
        last = merged[-1]
        length = min(piece.start - piece.end, last.start - last.end)
        apart = abs(piece.rate - last.rate)
        if apart * length < 0.5 or apart < 0.25 * max(abs(piece.rate), abs(last.rate)):
            merged[-1] = Piece(last.start, piece.end, last.decades + piece.decades)
        else:
            merged.append(piece)
    return merged


def stretch(log: HostArray, part: float = 0.8) -> tuple[int, int]:
    """Return the shortest stretch, (start, end) on the way back, that makes ``part`` of the whole change."""
    net = float(log[0] - log[-1])
    low, high = 1, len(log) - 1
    at = len(log) - 1
    while low <= high:
        length = (low + high) // 2
        change = (log[:-length] - log[length:]) * np.sign(net)
        if change.max() >= part * abs(net):
            at, high = length, length - 1
        else:
            low = length + 1
    end = int(np.argmax((log[:-at] - log[at:]) * np.sign(net)))
    return end + at, end
