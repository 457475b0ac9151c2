"""The steps of a long sequence that are drawn: those with most to see, or evenly spread ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ..passes.scaling import HostArray

Value = TypeVar("Value")


class DrawnSteps(NamedTuple):
    """The steps of a recurrence that are drawn.

    Attributes
    ----------
    places : list of int
        Their positions among all, ascending.
    description : str
        Which steps these are, for a reader.
    """

    places: list[int]
    description: str


def steps_to_draw(logs: Sequence[HostArray], most: int, named: Sequence[int] = ()) -> DrawnSteps:
    """Choose the steps at which there is most to see.

    These are both ends; the named steps; on the way back, the first step whose gradient is NaN or infinite,
    the first at which it is exactly 0, and the first at which it is below a thousandth of its last norm;
    the steps over which it changes most; and evenly spaced steps as far as there is room.

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
    >>> kept = steps_to_draw([falls], 8)
    >>> kept.places
    [0, 1, 25, 49, 50, 51, 75, 99]
    >>> kept.description
    '8 of 100 steps: both ends, where the gradient falls below 1/1000 of its last norm, ...'
    """
    count = len(logs[0])
    if count <= most:
        return DrawnSteps(list(range(count)), f"all {count} steps")
    found = dict.fromkeys([0, count - 1, *named])
    why = ["both ends", *(["the steps that the sentences name"] if named else [])]
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
    reasons = ", ".join([*why, "the largest changes"])
    return DrawnSteps(places, f"{len(places)} of {count} steps: {reasons}, and some evenly spaced")


def _firsts(logs: Sequence[HostArray]) -> list[tuple[str, list[int]]]:
    """Events, and the step at which each state first meets them on the way back."""
    with np.errstate(invalid="ignore"):
        events = {
            "where the gradient is first NaN or infinite": [
                np.isnan(x) | (x == np.inf) for x in logs
            ],
            "where it is first exactly 0": [np.isneginf(x) & ~np.isneginf(x[-1]) for x in logs],
            "where the gradient falls below 1/1000 of its last norm": [x < x[-1] - 3 for x in logs],
        }
    return [
        (what, [int(np.flatnonzero(x)[-1]) for x in happens if x.any()])
        for what, happens in events.items()
    ]


def _changes(log: HostArray) -> HostArray:
    """Change of the gradient over each step in decades, (T − 1,); 0 where it is not known."""
    with np.errstate(invalid="ignore"):
        changes = np.abs(np.diff(log))
    return np.where(np.isfinite(changes), changes, 0.0)


def spread(values: Sequence[Value], most: int) -> list[Value]:
    """Choose at most ``most`` values, evenly spread and with both ends.

    >>> spread(range(100), 4)
    [0, 33, 66, 99]
    """
    if len(values) <= most:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, most).astype(int)]


def cell_ends(steps: HostArray, gap: float, pixels: int) -> tuple[list[float], list[float]]:
    """Both ends of a heatmap's cells, half way between steps; the outer ones are ``gap`` wide.

    Cells overlap by a pixel; otherwise seams show.
    """
    first, last = float(steps[0]) - gap / 2, float(steps[-1]) + gap / 2
    middle = (steps[1:] + steps[:-1]) / 2
    return [first, *middle.tolist()], [*(middle + (last - first) / pixels).tolist(), last]
