"""Plant every fault in every rule of a primitive, and see what becomes of it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tinygrad182 import kernels
from tinygrad182.primitives import Primitive
from tinygrad182.recurrence import Scan

from .. import checks, corners
from ..table import Row
from . import mutants
from .asking import Asked, Check, answer_of, ask, rows_of
from .cases import CONDITIONS, Rule
from .mutants import Fault
from .reviewed import CANNOT_HAPPEN, EQUIVALENT
from .scans import of_scans
from .sites import Site, on_top, planted, sites

KILLERS: list[Check] = [*checks.CHECKS, *corners.CHECKS]
"""None needs a peer: a fault is caught on every machine, or on none."""

BESIDE = ("value, recorded", "saved", "definition")
"""Sites of a primitive that does one thing in two ways."""


@dataclass
class Report:
    """What became of the mutants of one primitive, each by its name."""

    primitive: str
    killed: list[str] = field(default_factory=list)
    equivalent: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.killed) + len(self.equivalent) + len(self.survivors)


def faults(primitive: Primitive, site: Site) -> Iterator[tuple[str, Fault]]:
    """The faults that make sense at a site of that kind, those with state made anew."""
    every: dict[str, Fault] = {
        **(mutants.ALONE if site.name == "cotangents" else {}),
        **(of_scans(primitive, site.kind) if isinstance(primitive, Scan) else {}),
        **{name: mutants.returns(change) for name, change in mutants.RESULTS.items()},
        **mutants.QUESTIONS,
        **mutants.WRITES,
        **{name: make() for name, make in mutants.WITH_STATE.items()},
        **{f"wrong for {name}": mutants.only_when(c) for name, c in CONDITIONS.items()},
    }
    strange = mutants.STRANGE_TO[site.kind]
    return ((n, fault) for n, fault in every.items() if not any(word in n for word in strange))


def mutate(primitive: Primitive, thorough: bool = False) -> Report:
    """Plant every fault in every rule of the primitive, and see which of them no check sees.

    A rule that is derived from the others, or is held against another to the last bit, has a few, unless
    the search is ``thorough``.
    """
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # compiled loops trust in what they saved themselves
        patch.setattr(kernels, "COMPILED", False)
        return _mutate(primitive, thorough)


def _mutate(primitive: Primitive, thorough: bool) -> Report:
    rows = rows_of(primitive)
    asked = ask(primitive, rows, KILLERS)
    report = Report(primitive.name)
    for site in sites(primitive):
        few = site.kind == "jvp" and not callable(primitive.jvp) and not thorough
        for name, fault in faults(primitive, site):
            if few and name not in mutants.OF_DERIVED_TANGENTS:
                continue
            if site.name in BESIDE and name.startswith("wrong for ") and not thorough:
                continue
            label = f"{primitive.name}, {site.name}: {name}"
            fate = _fate(primitive, site, name, fault, asked[site.name])
            if fate == "survivors" and label in EQUIVALENT:
                fate = "equivalent"
            getattr(report, fate).append(label)
    for label, fields in _consistent(primitive):
        with planted(primitive, **fields):
            killed = any(fails(check, row) for check in KILLERS for row in rows)
        (report.killed if killed else report.survivors).append(label)
    return report


def _consistent(primitive: Primitive) -> Iterator[tuple[str, dict[str, Any]]]:
    """Faults made in several rules alike, so that these agree with one another."""
    for name in ("doubled", "negated", "off by 1e-9"):
        fault = mutants.returns(mutants.RESULTS[name])
        for kinds in ({"vjp", "jvp"}, {"forward", "definition", "vjp", "jvp"}):
            derived = {"elementwise": "vjp", "linear": "forward", "multilinear": "forward"}
            derived["definition"] = "definition"
            kinds &= {site.kind for site in sites(primitive)}
            fields: dict[str, Any] = {}
            for site in sites(primitive):
                follows = site.kind == "jvp" and derived.get(str(primitive.jvp)) in kinds
                if site.kind in kinds and not follows:
                    with planted(primitive, **fields):
                        faulty = site.wrapped(functools.partial(fault, site.rule))
                        fields |= on_top(primitive, site, faulty)
            yield f"{primitive.name}, {' and '.join(sorted(kinds))}: {name}", fields


def _fate(primitive: Primitive, site: Site, name: str, fault: Fault, asked: list[Asked]) -> str:
    condition = name.removeprefix("wrong for ") if name.startswith("wrong for ") else None
    if condition is not None:
        if any(never(primitive, site) for never in CANNOT_HAPPEN.get(condition, [])):
            return "equivalent"
        asked = [a for a in asked if condition in a.holds]
        if not asked:
            return "survivors"
    faulty = site.wrapped(functools.partial(fault, site.rule))
    fields = site.fields(faulty)
    fired = False
    tried: set[Any] = set()
    for a in asked:
        if a.by.keys() <= tried:
            continue
        if not (_silent(primitive, site, name, a) or _answers_otherwise(a, faulty)):
            continue
        fired = True
        untried = (pair for pair in a.by if pair not in tried)
        for check, row in sorted(untried, key=_takes_long):
            tried.add((check, row))
            with planted(primitive, **fields):
                if fails(check, row):
                    return "killed"
    return "survivors" if fired else "equivalent"


def _takes_long(pair: tuple[Check, Row]) -> bool:
    return pair[0] is corners.elsewhere


def _silent(primitive: Primitive, site: Site, name: str, asked: Asked) -> bool:
    """Whether the fault shows in no single answer: its bits are right, its memory or its graph wrong."""
    if site.kind == "forward" and name == "over the first input" and not primitive.view:
        x = asked.call.xs[0]
        return (
            isinstance(x, np.ndarray)
            and x.ndim > 0
            and asked.answer[0][:2] == (str(x.dtype), x.shape)
        )
    return name in ("reuses its buffer", "recorded twice")


def _answers_otherwise(asked: Asked, faulty: Rule) -> bool:
    """Try the fault on a call; what it writes over is put back."""
    call = asked.call
    given = [x for x in (call.g, call.y, *call.xs) if isinstance(x, np.ndarray)]
    before = [x.copy() for x in given]
    other = answer_of(faulty, call) != asked.answer
    for x, old in zip(given, before, strict=True):
        if x.flags.writeable:
            x[...] = old
    return other


def fails(check: Check, row: Row) -> bool:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            check(row)
    except Exception:  # however a fault shows, it shows
        return True
    return False
