"""Sentences about the differences between two runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...display.reprs import mantissa_and_exponent, times
from ..microscope.wording import and_
from ..passes.scaling import HostArray
from .comparing import BoxDifference, ParameterDifference, What
from .partings import Parting


def parted(
    parting: Parting,
    what: What,
    boxes: Sequence[BoxDifference],
    parameters: Mapping[str, ParameterDifference],
    tolerance: float,
) -> list[str]:
    """Return sentences: where values or gradients part first, why, and where they differ."""
    if parting.cause == "grown":
        return [_grown(parting, what, boxes, tolerance)]
    going = "The values part first" if what == "values" else "Going back, the gradients part first"
    if parting.cause == "input":
        going = "The runs are given different numbers: their values part first"
    sentences = [f"{going} {place(parting)}: {_numbers(parting, what)}.", *_way(parting)]
    sentences.append(_why(parting, what))
    if parting.cause == "parameters":
        sentences += differing(parameters, tolerance)
    return [*sentences, *_following(what, boxes, tolerance)]


def _way(parting: Parting) -> list[str]:
    """The operations through which a value reaches a state, if the gates of a loop have no names."""
    if not parting.way or parting.kind == "gate" or parting.cause not in ("arises", "parameters"):
        return []
    *between, state = parting.way
    through = f" through {and_(between)}" if between else ""
    return [f"From there it goes{through} into {state}."]


def first_step(parting: Parting, what: What) -> str:
    """Return the sentence about the first step of a recurrence that differs."""
    going = "Of the time steps" if what == "values" else "Of the time steps, going back"
    where = place(parting).removeprefix("at ")
    return f"{going}, the first to differ is {where}: {_numbers(parting, what)}."


def place(parting: Parting) -> str:
    """The place of a parting: ``"at t = 40 in lstm.l1"``."""
    where = f"in {parting.path}"
    if parting.time is None:
        return where
    step = f"t = {parting.time}" if parting.is_recurrent else f"call {parting.time}"
    turned = parting.is_recurrent and parting.path.endswith("_reverse")
    return f"at {step} {where}{', which counts from the end' * turned}"


def _numbers(parting: Parting, what: What) -> str:
    name = parting.label
    if parting.kind == "gate":
        name = f"gate {parting.label}"
    elif parting.kind == "state":
        name = f"the state {parting.label}"
        if parting.gate == parting.label:
            name = f"the marked {parting.label}"
    elif parting.kind == "input":
        name = f"the input {parting.label}"
    elif parting.kind == "before":
        name = f"the initial state {parting.label.removesuffix('₋')}"
    if what == "gradients":
        name = f"the gradient by {name}"
    first, second = both_numbers(parting)
    return f"{name}{_where(parting)} is {first} in a and {second} in b"


def _where(parting: Parting) -> str:
    """The place of two numbers in their arrays."""
    if parting.is_recurrent or len(parting.element) == 2:
        gate = f"gate {parting.gate}, " if parting.gate else ""
        if parting.gate in (parting.label, *parting.way):  # it is named, or a mark of a loop
            gate = f"{parting.gate}, " if parting.gate != parting.label else ""
        return f" ({gate}unit {parting.unit} of sequence {parting.sequence})"
    return f" (element {[*parting.element]})" if parting.element else ""


def both_numbers(parting: Parting) -> tuple[str, str]:
    """Both numbers of a parting, with enough digits to differ."""
    digits = 2
    if 0 < parting.difference < 1:
        digits = min(2 - math.floor(math.log10(parting.difference)), 17)
    first, second = (_number(x, parting.log10_scale, digits) for x in (parting.a, parting.b))
    return first, second


def _number(x: float, log10_scale: float, digits: int) -> str:
    if not math.isfinite(x) or not x:
        return {math.inf: "∞", -math.inf: "−∞", 0.0: "0"}.get(x, "NaN")
    size = math.log10(abs(x)) + log10_scale
    sign = "−" if x < 0 else ""
    if -4 <= size < 6:
        return f"{sign}{10**size:.{digits}g}"
    mantissa, exponent = mantissa_and_exponent(size, digits - 1)
    return f"{sign}{mantissa}e{exponent}"


_WHY: Mapping[str, str] = {
    "input": "The cause is the input: nothing that was computed before differs.",
    "between": "Other data comes in here, or something between differs, such as a mask of dropout: all "
    "that was compared before it agrees.",
    "uncompared": "Its operands cannot be compared: the runs do not have the same steps, shapes or layers.",
    "overflow": "Its operands agree, but the coarser dtype cannot hold so large a number.",
    "parameters, values": "Parameters differ; all its other operands agree.",
    "parameters, gradients": "Parameters that it is computed with differ; the values agree there.",
    "values, gradients": "The values that it is computed from differ already.",
    "unknown, gradients": "Values and parameters cannot be compared, because they were not saved; the "
    "gradients that it is computed from agree.",
    "arises, values": "Something else was computed, as by an intervention: its operands agree, the "
    "parameters included.",
    "arises, gradients": "The backward pass itself differs, as with a detach, truncate= or another "
    "derivative rule: the gradients that it is computed from agree, and so do values and parameters.",
}
"""Cause, or cause and what is compared → the reason in one sentence."""


def _why(parting: Parting, what: What) -> str:
    return _WHY.get(parting.cause) or _WHY[f"{parting.cause}, {what}"]


def _grown(parting: Parting, what: What, boxes: Sequence[BoxDifference], tolerance: float) -> str:
    largest, _ = largest_of(what, boxes)
    going = "" if what == "values" else ", going back,"
    return (
        f"No single place is the cause: the {what} part by rounding that grows. Differences are "
        f"{parting.difference:.1e} of the largest number{going} {place(parting)} ({parting.label}), and "
        f"grow to {largest:.1e}."
    )


def differing(parameters: Mapping[str, ParameterDifference], tolerance: float) -> list[str]:
    """Return sentences about the parameters that differ: names, gates and sizes."""
    names = [n for n, each in parameters.items() if each.relative_value > tolerance]
    if not names:
        return []
    if len(names) == len(parameters) > 1:
        return [f"All {len(names)} parameters differ."]
    found = []
    for name in names[:3]:
        each = parameters[name]
        rows = f" in the rows of {_gates(each.gates)}" if each.gates else ""
        found.append(f"{name} differs{rows}, by {each.value:.2g} at most.")
    more = len(names) - len(found)
    return [*found, *([f"{more} more of {len(parameters)} parameters differ."] if more else [])]


def _gates(names: Sequence[str]) -> str:
    return f"gate {names[0]}" if len(names) == 1 else f"the gates {and_(names)}"


def _following(what: What, boxes: Sequence[BoxDifference], tolerance: float) -> list[str]:
    """The boxes and steps that differ."""
    found = []
    for box in boxes if what == "values" else reversed(boxes):
        rows = [row > tolerance for row in box.computed(what).values()]
        steps = box.time[np.any(rows, axis=0)] if rows else box.time[:0]
        if len(steps):
            found.append(f"{box.name}{_steps(box, steps)}")
    found = [*dict.fromkeys(found)]
    return [f"The {what} that differ are those of {and_(found)}."] if found else []


def _steps(box: BoxDifference, steps: HostArray) -> str:
    if not box.is_recurrent:
        return ""
    if len(steps) == len(box.time):
        return " at every step"
    first, last = int(steps[0]), int(steps[-1])
    if first == last:
        return f" at t = {first}"
    return (
        f" at t = {first} … {last}"
        if len(steps) == last - first + 1
        else (f" at {len(steps)} steps between t = {first} and {last}")
    )


def agreeing(what: What, boxes: Sequence[BoxDifference], tolerance: float, type_: str) -> str:
    """Return a sentence about how well values or gradients agree."""
    largest, where = largest_of(what, boxes)
    if not largest:
        return f"The {what} are the same to the last bit."
    rest = f"they differ by {largest:.1e} of the largest number of a row at most, {where}"
    if largest <= tolerance:
        return f"The {what} agree: {rest}, which is the rounding of {type_}."
    return (
        f"The {what} agree but for rounding of {type_}, which has grown: {rest}. No single place is the "
        "cause."
    )


def largest_of(what: What, boxes: Iterable[BoxDifference]) -> tuple[float, str]:
    """The largest difference, and where it is."""
    most, where = 0.0, ""
    for box in boxes:
        for label, row in box.computed(what).items():
            known = np.where(np.isnan(row), -1.0, row)
            if len(row) and known.max() > most:
                most, at = float(known.max()), int(box.time[known.argmax()])
                where = f"in {box.name} ({label})" + (f" at t = {at}" if box.is_recurrent else "")
    return most, where


def unlike(boxes: Sequence[BoxDifference], alone: Sequence[list[str]]) -> list[str]:
    """Return sentences about the parts that cannot be compared."""
    found = []
    for names, run in zip(alone, "ab", strict=True):
        if names:
            found.append(f"{and_(names)} {'is' if len(names) == 1 else 'are'} in {run} alone.")
    for box in boxes:
        found += _lengths(box)
        if box.unlike:
            label, (first, second) = next(iter(box.unlike.items()))
            others = len(box.unlike) - 1
            more = f" and {others} more operation{'s' * (others > 1)}" if others else ""
            found.append(
                f"{box.name}: {label}{more} cannot be compared number by number: {label} is "
                f"{times(first)} in a and {times(second)} in b."
            )
    return found


def _lengths(box: BoxDifference) -> list[str]:
    mine, other = box.a.times, box.b.times
    if np.array_equal(mine, other):
        return []
    unit = "steps" if box.is_recurrent else "calls"
    found = [f"{box.name} has {len(mine)} {unit} in a and {len(other)} in b."]
    common = np.intersect1d(mine, other)
    if box.is_recurrent and len(common):
        found.append(f"Compared are t = {common[0]} … {common[-1]}.")
    return found
