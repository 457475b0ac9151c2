"""Why a recurrence's gradient changes: the path it takes, and the factors that multiply it there.

Each sentence names the reason first, and the numbers after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..passes.scaling import HostArray, log10
from ..views.gain_split import GainSplit
from .passed_back import Carried
from .wording import LEVEL, Words, factor


class Cause(NamedTuple):
    """A sentence without its full stop, and the numbers in it."""

    text: str
    numbers: dict[str, Any]


class Blamed(NamedTuple):
    """The steps that cause most of a change.

    Attributes
    ----------
    where : str
        The name of these steps in a sentence, such as ``"at t = 7"``.
    times : sequence of int
        These steps.
    decades : float
        The change of one of them, on average.
    """

    where: str
    times: Sequence[int]
    decades: float

    def split(self, time: HostArray, decades: HostArray) -> tuple[float, float]:
        """Return the mean of a factor's decades at these steps, and at all others."""
        here = np.isin(time, self.times)
        elsewhere = decades[~here]
        return float(decades[here].mean()), float(elsewhere.mean()) if len(elsewhere) else math.nan


AFRESH = 0.05
"""From this share on, a sentence says how much of the gradient is new at every step."""

SHUT = 0.1
"""A gate whose mean is below this is called nearly shut."""

AROUND = "around"
"""The cause if the path of the state alone does the same as elsewhere."""


def by_gain(
    split: GainSplit, blamed: Blamed | None, net: float, afresh: float, words: Words
) -> Cause:
    """Say how much of a change of ``net`` decades the nonlinearity makes, and how much the weights."""
    return _gain_at(split, blamed, words) if blamed else _gain(split, net, afresh, words)


def _gain(split: GainSplit, net: float, afresh: float, words: Words) -> Cause:
    """The cause if all steps do alike."""
    s, w = (float(log10(x).mean()) for x in (split.saturation, split.weight))
    numbers = {"saturation": s, "weight": w, "afresh": afresh}
    (strong, most), (weak, least) = sorted(
        [("saturation", s), (words.matrix, w)], key=lambda part: part[1], reverse=net > 0
    )
    each = f"{words.each} back multiplies it by {factor(most)} ({strong}) and by {factor(least)} ({weak})"
    if afresh > AFRESH:
        return Cause(f"{_afresh(afresh)}; {each}", numbers)
    if abs(net) < LEVEL:
        return Cause(
            f"saturation and {words.matrix} leave the gradient as large as it is: {each}", numbers
        )
    verb = "shrink" if net < 0 else "enlarge"
    makes = f"{_verb(strong, verb)} the gradient"
    if s * w < 0:
        return Cause(
            f"{strong} {makes}, although {weak} {_verb(weak, 'work')} against that: {each}", numbers
        )
    numbers["weight_share"] = share = w / (s + w)
    if share > 0.995:
        alone = f"{words.each} multiplies it by {factor(w)}"
        return Cause(f"nothing saturates, so {words.matrix} alone {makes}: {alone}", numbers)
    change = "fall" if net < 0 else "rise"
    text = f"both {strong} and {weak} {verb} the gradient, {strong} more: {each}"
    return Cause(f"{text}. {share:.0%} of the {change} (in decades) is {words.matrix}", numbers)


def _verb(subject: str, verb: str) -> str:
    """Return a verb in the number of its subject.

    >>> _verb("the skips", "pass"), _verb("the cell path", "pass"), _verb("saturation", "multiply")
    ('pass', 'passes', 'multiplies')
    """
    if subject.endswith("s"):
        return verb
    return (
        f"{verb[:-1]}ies" if verb.endswith("y") else f"{verb}{'es' if verb.endswith('s') else 's'}"
    )


def _gain_at(split: GainSplit, blamed: Blamed, words: Words) -> Cause:
    """The cause if saturation or the weights make the difference at some steps."""
    logs = {"saturation": log10(split.saturation), words.matrix: log10(split.weight)}
    means = {name: blamed.split(split.time, log) for name, log in logs.items()}
    sign = math.copysign(1.0, blamed.decades)
    first, second = sorted(
        means,
        key=lambda name: sign * (means[name][0] - np.nan_to_num(means[name][1])),
        reverse=True,
    )
    (own, elsewhere), (other, usual) = means[first], means[second]
    it = "they multiply" if first.endswith("s") else "it multiplies"
    makes, does = _verb(first, "make"), _verb(second, "multiply")
    text = (
        f"{blamed.where} {first} {makes} the difference: {it} the gradient by {factor(own)}"
        f"{_elsewhere(elsewhere)}; {second} {does} it by {factor(other)}{_elsewhere(usual)}"
    )
    why = "saturation" if first == "saturation" else "weight"
    return Cause(text, {"why": why, "factor": own, "elsewhere": elsewhere})


def by_path(
    carried: Carried, blamed: Blamed | None, net: float, afresh: float, words: Words
) -> Cause:
    """Say which path the gradient takes, and what multiplies it there."""
    if blamed:
        cause = _path_at(carried, blamed, words)
        if len(blamed.times) == 1 or cause.numbers["why"] != AROUND:
            return cause
    return _path(carried, net, afresh, words)


def _path(carried: Carried, net: float, afresh: float, words: Words) -> Cause:
    """The cause if all steps do alike."""
    kept = float(log10(carried.straight).mean())
    share = float(np.nanmean(carried.share))
    numbers = {"share": share, "kept": kept, "afresh": afresh, "gate": words.gate}
    if -0.1 <= share < 0.5:
        return _around(carried, afresh, words, numbers)
    times = f"{words.each} multiplies it by {factor(kept)}"
    if words.gate:
        by = f"{words.keeper} alone, never by a matrix"
        text = f"on {words.straight} the gradient is multiplied by {by}: {times}"
    elif abs(kept) < 1e-6:
        does = f"{_verb(words.straight, 'pass')} the gradient back as it is"
        text = f"{words.straight} {does}, never through a matrix"
    else:
        only = "no matrix multiplies the gradient, only one factor for each unit"
        text = f"on {words.straight} {only}: {times}"
    if -0.1 <= share <= 1.1:
        text += f". On average {share:z.0%} of {words.grad} arrives this way"
    else:
        text += f". A part of what arrives this way is cancelled over {words.around}"
    if afresh > AFRESH:
        text += f"; {_afresh(afresh)}"
    elif net > LEVEL and kept < 0:
        text += f"; it grows by what {words.around} {_verb(words.around, 'add')}"
    return Cause(text, numbers)


def _around(carried: Carried, afresh: float, words: Words, numbers: dict[str, Any]) -> Cause:
    """The cause if little of the gradient comes over the path of the state alone."""
    text = (
        f"most of {words.grad} arrives over {words.around}: {1 - numbers['share']:.0%} on average"
    )
    if words.gate and carried.value.mean() < SHUT:
        text = f"{words.keeper} are nearly shut, so {text}"
    if afresh > AFRESH:
        return Cause(f"{text}; {_afresh(afresh)}", numbers)
    numbers["around"] = around = float(log10(carried.around).mean())
    return Cause(f"{text}. One {words.unit} that way multiplies it by {factor(around)}", numbers)


def _path_at(carried: Carried, blamed: Blamed, words: Words) -> Cause:
    """The cause at some steps, if the state has a path of its own."""
    own, elsewhere = blamed.split(carried.time, log10(carried.straight))
    value, _ = blamed.split(carried.time, carried.value)
    numbers = {"factor": own, "elsewhere": elsewhere, "value": value}
    usual = 0.0 if math.isnan(elsewhere) else elsewhere
    multiply = "multiply" if words.several else "multiplies"
    does = f"{multiply} the gradient by {factor(own)}{_elsewhere(elsewhere)}"
    if own > usual - math.log10(2) or blamed.decades > 0:
        text = f"{blamed.where} the difference comes over {words.around}; {words.keeper} {does}"
        return Cause(text, numbers | {"why": AROUND})
    shut = " are nearly shut and" if words.gate and value < SHUT else ""
    text = f"{blamed.where} {words.keeper}{shut} {does}"
    if blamed.decades > own + 0.3:
        text += f"; what still arrives comes over {words.around}"
    return Cause(text, numbers | {"why": words.gate or "straight"})


def _elsewhere(decades: float) -> str:
    return "" if math.isnan(decades) else f" (elsewhere by {factor(decades)})"


def _afresh(share: float) -> str:
    return f"{share:.0%} of it is new at every step, from the layer that reads these states"
