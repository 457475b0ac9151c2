"""Plant every fault in every rule of a primitive, and see whether a check fails."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tinygrad182 import kernels
from tinygrad182.primitives import PRIMITIVES, Primitive
from tinygrad182.recurrence.scans import Scan

from .. import checks, edge_case_checks
from ..table import Row
from . import mutants
from .asking import Asked, Check, answer_of, ask, rows_of
from .cases import CONDITIONS, Rule
from .mutants import Fault
from .reviewed import CANNOT_HAPPEN, EQUIVALENT
from .scans import of_scans
from .sites import Site, on_top, planted, sites

SLOW: Check = edge_case_checks.elsewhere
"""This check takes as long as all others together."""

KILLERS: list[Check] = [c for c in (*checks.CHECKS, *edge_case_checks.CHECKS) if c is not SLOW] + [
    SLOW
]
"""None needs a peer: a fault is caught on every machine, or on none."""

FEW = 2
"""So many rows are enough for a part of the faults. What shows there is tried on all until it is seen."""


@dataclass
class Report:
    """The fates of the mutants of one primitive, by their names."""

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


def planned(primitive: Primitive, thorough: bool) -> Iterator[tuple[Site, str, Fault]]:
    """All faults at all sites; or each fault at one site, with another site for the next fault."""
    every = [(site, dict(faults(primitive, site))) for site in sites(primitive)]
    names = dict.fromkeys(name for _, known in every for name in known)
    first = sorted(PRIMITIVES).index(primitive.name)  # other primitives have it at another site
    for turn, name in enumerate(names, first):
        where = [(site, name, known[name]) for site, known in every if name in known]
        yield from where if thorough else [where[turn % len(where)]]


def mutate(primitive: Primitive, thorough: bool = False) -> Report:
    """Plant faults in the rules of the primitive, and see which of them no check sees.

    A ``thorough`` search plants every fault in every rule and tries it on every row. Otherwise a part is
    planted, which ``planned`` chooses, and a few rows are enough.
    """
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # compiled loops trust in what they saved themselves
        patch.setattr(kernels, "COMPILED", False)
        return _mutate(primitive, thorough)


def _mutate(primitive: Primitive, thorough: bool) -> Report:
    rows = rows_of(primitive)
    asked = functools.cache(lambda row: ask(primitive, row, KILLERS))
    report = Report(primitive.name)
    for site, name, fault in planned(primitive, thorough):
        label = f"{primitive.name}, {site.name}: {name}"
        if label in EQUIVALENT and not thorough:
            fate = "equivalent"  # no check fails, which takes longest to find out
        else:
            fate = _fate(primitive, site, name, fault, rows, asked, len(rows) if thorough else FEW)
        if fate == "survivors" and label in EQUIVALENT:
            fate = "equivalent"
        getattr(report, fate).append(label)
    for label, fields in _consistent(primitive):
        with planted(primitive, **fields):
            killed = any(fails(check, row) for row in rows for check in KILLERS)
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


def _fate(
    primitive: Primitive,
    site: Site,
    name: str,
    fault: Fault,
    rows: list[Row],
    asked: Callable[[Row], dict[str, list[Asked]]],
    enough: int,
) -> str:
    """The fate of a fault; it is "equivalent" if neither ``enough`` rows nor its own case show it."""
    condition = name.removeprefix("wrong for ") if name.startswith("wrong for ") else None
    if any(never(primitive, site) for never in CANNOT_HAPPEN.get(condition or "", [])):
        return "equivalent"
    faulty = site.wrapped(functools.partial(fault, site.rule))
    fields = site.fields(faulty)
    met, fired = condition is None, False

    def shows(a: Asked) -> bool:
        return _silent(primitive, site, name, a) or _answers_otherwise(a, faulty)

    for count, row in enumerate(rows):
        if count >= enough and met and not fired:
            break
        given = [a for a in asked(row)[site.name] if condition is None or condition in a.holds]
        met = met or bool(given)
        for check in _seeing(given, shows):
            fired = True
            with planted(primitive, **fields):
                if fails(check, row):
                    return "killed"
    return "equivalent" if met and not fired else "survivors"


def _seeing(asked: list[Asked], shows: Callable[[Asked], bool]) -> Iterator[Check]:
    """The checks whose calls show a fault, the slow one at the end."""
    known: set[Check] = set()
    for a in asked:
        new = a.by.keys() - known
        if new and shows(a):
            known |= new
            yield from (check for check in a.by if check in new and check is not SLOW)
    if SLOW in known:
        yield SLOW


def _silent(primitive: Primitive, site: Site, name: str, asked: Asked) -> bool:
    """Whether every answer has the right bits, so that only the memory or the graph is wrong."""
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
