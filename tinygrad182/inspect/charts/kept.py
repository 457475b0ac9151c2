"""Which steps are drawn: those with most to see, or some that are evenly spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ..passes.scaling import HostArray

Value = TypeVar("Value")


class Kept(NamedTuple):
    """Some steps of a recurrence.

    Attributes
    ----------
    places : list of int
        Their positions among all, ascending.
    told : str
        Which they are, for a reader.
    """

    places: list[int]
    told: str


def telling_steps(logs: Sequence[HostArray], most: int, named: Sequence[int] = ()) -> Kept:
    """Choose the steps at which there is most to see.

    These are both ends; those that are named; on the way back, the first step whose gradient is NaN or
    infinite, the first at which it is exactly 0, and the first at which it is below a thousandth of what
    it is at the end; the steps over which it changes most; and as many evenly spaced ones as there is
    room for.

    Parameters
    ----------
    logs : sequence of ndarray (T,)
        Decadic logarithms of the gradient's norm, one for each state.
    most : int
        At least 8.
    named : sequence of int
        Positions of steps that the page's sentences name; at most two.

    Examples
    --------
    >>> falls = np.concatenate([np.full(50, -9.0), np.zeros(50)])
    >>> kept = telling_steps([falls], 8)
    >>> kept.places
    [0, 1, 25, 49, 50, 51, 75, 99]
    >>> kept.told
    '8 of 100 steps: both ends, where the gradient falls below 1e-3 of its end, ...'
    """
    count = len(logs[0])
    if count <= most:
        return Kept(list(range(count)), f"all {count} steps")
    found = dict.fromkeys([0, count - 1, *named])
    why = ["both ends", *(["what the sentences name"] if named else [])]
    for what, places in _firsts(logs):
        if places:
            found |= dict.fromkeys(places)
            why.append(what)
    changes = np.sum([_changes(log) for log in logs], axis=0)
    largest = [int(i) for i in np.argsort(-changes, kind="stable")[: most // 4] if changes[i] > 0]
    for i in largest:
        found |= dict.fromkeys([i, i + 1])
    left = [i for i in range(count) if i not in found]
    evenly = np.linspace(0, len(left), max(most - len(found), 0), endpoint=False).astype(int)
    places = sorted(list(found | dict.fromkeys(left[i] for i in evenly))[:most])
    told = ", ".join([*why, "the largest changes"])
    return Kept(places, f"{len(places)} of {count} steps: {told}, and some evenly spaced")


def _firsts(logs: Sequence[HostArray]) -> list[tuple[str, list[int]]]:
    """Events, and the steps at which each state first meets them on the way back."""
    with np.errstate(invalid="ignore"):
        events = {
            "where the gradient first is NaN or infinite": [
                np.isnan(x) | (x == np.inf) for x in logs
            ],
            "where it is exactly 0": [np.isneginf(x) & ~np.isneginf(x[-1]) for x in logs],
            "where the gradient falls below 1e-3 of its end": [x < x[-1] - 3 for x in logs],
        }
    return [
        (what, [int(np.flatnonzero(x)[-1]) for x in happens if x.any()])
        for what, happens in events.items()
    ]


def _changes(log: HostArray) -> HostArray:
    """By how many decades the gradient changes over each step, (T − 1,); 0 where that is not known."""
    with np.errstate(invalid="ignore"):
        changes = np.abs(np.diff(log))
    return np.where(np.isfinite(changes), changes, 0.0)


def spread(values: Sequence[Value], most: int) -> list[Value]:
    """At most so many of some values, evenly spread, the ends among them.

    >>> spread(range(100), 4)
    [0, 33, 66, 99]
    """
    if len(values) <= most:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, most).astype(int)]
