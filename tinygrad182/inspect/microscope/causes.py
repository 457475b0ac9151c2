"""Through which path, and by which factor, a recurrence's gradient changes: what is said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..passes.scaling import HostArray
from ..views.paths import GainSplit
from .passing import Carried
from .wording import LEVEL, Words, factor


class Cause(NamedTuple):
    """A sentence without its full stop, and the numbers in it."""

    text: str
    numbers: dict[str, Any]


class Blamed(NamedTuple):
    """The steps that most of a change is due to.

    Attributes
    ----------
    where : str
        How they are called.
    times : sequence of int
        Those steps; none if the change is spread over all.
    decades : float
        What one of them changes, on average.
    """

    where: str
    times: Sequence[int]
    decades: float

    def split(self, time: HostArray, decades: HostArray) -> tuple[float, float]:
        """The mean of a factor's decades at these steps, and at all others."""
        here = np.isin(time, self.times)
        elsewhere = decades[~here]
        return float(decades[here].mean()), float(elsewhere.mean()) if len(elsewhere) else math.nan


AFRESH = 0.05
"""Share from which on it is told that something else sends a gradient at every step."""

SHUT = 0.1
"""The mean of a gate below which it is said to be nearly shut."""

AROUND = "around"
"""The cause where the path of the state alone does as it does elsewhere."""


def by_gain(
    split: GainSplit, blamed: Blamed | None, net: float, afresh: float, words: Words
) -> Cause:
    """Say how much of a change of ``net`` decades the nonlinearity makes and how much the weights."""
    return _gain_at(split, blamed, words) if blamed else _gain(split, net, afresh, words)


def _gain(split: GainSplit, net: float, afresh: float, words: Words) -> Cause:
    """The cause where all steps do alike."""
    s, w = (float(np.log10(x).mean()) for x in (split.saturation, split.weight))
    numbers = {"saturation": s, "weight": w, "afresh": afresh}
    each = (
        f"{words.each} back multiplies it by {factor(s)} (saturation) and by {factor(w)} "
        f"({words.matrix})"
    )
    if afresh > AFRESH:
        return Cause(f"{each}; {_afresh(afresh)}", numbers)
    if abs(net) < LEVEL:
        return Cause(each, numbers)
    change = "fall" if net < 0 else "rise"
    if s * w < 0:
        stronger, weaker = (
            ("saturation", words.matrix) if s * net > 0 else (words.matrix, "saturation")
        )
        of = {"saturation": factor(s), words.matrix: factor(w)}
        does = "multiply" if stronger.endswith("s") else "multiplies"
        works = "work" if weaker.endswith("s") else "works"
        text = f"all of the {change} is {stronger}, which {does} it by {of[stronger]} each {words.unit}"
        return Cause(f"{text}; {weaker} {works} against that, by {of[weaker]}", numbers)
    numbers["weight_share"] = share = w / (s + w)
    if share > 0.995:
        text = (
            f"all of the {change} is {words.matrix}: {words.each} back multiplies it by {factor(w)}"
        )
        return Cause(f"{text}, and nothing saturates", numbers)
    text = f"{share:.0%} of the {change} (in decades) is {words.matrix}, {1 - share:.0%} saturation"
    return Cause(f"{text}: {each}", numbers)


def _gain_at(split: GainSplit, blamed: Blamed, words: Words) -> Cause:
    """Which of the two makes the difference at some steps."""
    with np.errstate(divide="ignore"):
        logs = {"saturation": np.log10(split.saturation), words.matrix: np.log10(split.weight)}
    means = {name: blamed.split(split.time, log) for name, log in logs.items()}
    sign = math.copysign(1.0, blamed.decades)
    first, second = sorted(
        means,
        key=lambda name: sign * (means[name][0] - np.nan_to_num(means[name][1])),
        reverse=True,
    )
    (own, elsewhere), (other, usual) = means[first], means[second]
    text = (
        f"{blamed.where} {first} multiplies it by {factor(own)}{_elsewhere(elsewhere)}, "
        f"{second} by {factor(other)}{_elsewhere(usual)}"
    )
    why = "saturation" if first == "saturation" else "weight"
    return Cause(text, {"why": why, "factor": own, "elsewhere": elsewhere})


def by_path(
    carried: Carried, blamed: Blamed | None, net: float, afresh: float, words: Words
) -> Cause:
    """Say which way the gradient takes, and what this multiplies it by."""
    if blamed:
        cause = _path_at(carried, blamed, words)
        if len(blamed.times) == 1 or cause.numbers["why"] != AROUND:
            return cause
    return _path(carried, net, afresh, words)


def _path(carried: Carried, net: float, afresh: float, words: Words) -> Cause:
    """The cause where all steps do alike."""
    with np.errstate(divide="ignore"):
        kept = float(np.log10(carried.kept).mean())
    share = float(np.nanmean(carried.share))
    numbers = {"share": share, "kept": kept, "afresh": afresh, "gate": words.gate}
    unchanged = not words.gate and abs(kept) < 1e-6
    multiplied = "as it is" if unchanged else f"multiplied by {factor(kept)} {words.each}"
    if words.gate:
        multiplied = f"where {words.keeper} multiply it by {factor(kept)} {words.each}"
    over = f"{words.straight}, {multiplied}"
    if not -0.1 <= share <= 1.1:
        text = f"{words.grad} arrives over {over}; a part of that is cancelled over {words.around}"
    elif share >= 0.5:
        text = f"on average {share:z.0%} of {words.grad} arrives over {over}"
    else:
        return _around(carried, afresh, words, numbers)
    if afresh > AFRESH:
        text += f"; {_afresh(afresh)}"
    elif net > LEVEL and kept < 0:
        text += f"; it grows by what {words.around} add{'' if words.around.endswith('s') else 's'}"
    return Cause(text, numbers)


def _around(carried: Carried, afresh: float, words: Words, numbers: dict[str, Any]) -> Cause:
    """Where little comes over the path of the state alone."""
    text = f"on average {1 - numbers['share']:.0%} of {words.grad} arrives over {words.around}"
    if words.gate and carried.value.mean() < SHUT:
        text += f", for {words.keeper} are nearly shut"
    if afresh > AFRESH:
        return Cause(f"{text}; {_afresh(afresh)}", numbers)
    with np.errstate(divide="ignore"):
        numbers["around"] = around = float(np.log10(carried.around).mean())
    return Cause(f"{text}. One {words.unit} that way multiplies it by {factor(around)}", numbers)


def _path_at(carried: Carried, blamed: Blamed, words: Words) -> Cause:
    """Whether it is the path of the state alone that makes the difference at some steps."""
    with np.errstate(divide="ignore"):
        own, elsewhere = blamed.split(carried.time, np.log10(carried.kept))
    value, _ = blamed.split(carried.time, carried.value)
    numbers = {"factor": own, "elsewhere": elsewhere, "value": value}
    usual = 0.0 if math.isnan(elsewhere) else elsewhere
    does = f"{'multiply' if words.several else 'multiplies'} it by {factor(own)}"
    if own > usual - math.log10(2) or blamed.decades > 0:
        text = f"{blamed.where} {words.keeper} {does}{_elsewhere(elsewhere)}"
        text += f"; the difference comes over {words.around}"
        return Cause(text, numbers | {"why": AROUND})
    shut = " are nearly shut and" if words.gate and value < SHUT else ""
    text = f"{blamed.where} {words.keeper}{shut} {does}{_elsewhere(elsewhere)}"
    if blamed.decades > own + 0.3:
        text += f"; what still arrives comes over {words.around}"
    return Cause(text, numbers | {"why": words.gate or "straight"})


def _elsewhere(decades: float) -> str:
    return "" if math.isnan(decades) else f" (elsewhere {factor(decades)})"


def _afresh(share: float) -> str:
    return f"{share:.0%} comes afresh at every step from what reads these states"
