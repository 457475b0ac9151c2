"""Rule mutation: faults are planted in every rule of every primitive, and the checks must see each.

``make mutate`` prints the table; ``test_mutations.py`` runs the same in the suite. Every rule is first run
as it is under all checks, and its calls are kept. A fault is tried on these: the checks whose calls it
answers otherwise are those that can see it, and they are run with the fault in place until one fails.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tinygrad182 as tg
from tinygrad182.backpropagation import ancestors
from tinygrad182.primitives import PRIMITIVES, Primitive
from tinygrad182.primitives.index import Slice
from tinygrad182.recording import Node, is_tensor, node_of

from . import checks, corners, mutants, oracles
from .cases import CONDITIONS, Call, Rule
from .mutants import Fault
from .reviewed import CANNOT_HAPPEN, EQUIVALENT
from .sites import Site, on_top, planted, sites
from .table import ROWS, Row

Check = Callable[[Row], None]

KILLERS: list[Check] = [*checks.CHECKS, *corners.CHECKS]
if importlib.util.find_spec("torch") is None:  # then nothing sees values that are wrong throughout
    KILLERS.remove(corners.values)
ROWS_EACH = 6


# --- what the checks ask ------------------------------------------------------------------------


@functools.cache
def _rows_by_primitive() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in ROWS:
        y = row.f(*(tg.tensor(x, requires_grad=x.dtype.kind == "f") for x in row.draw()))
        for name in {node.op for node in ancestors([node_of(y)])} - {"leaf"}:
            found[name].append(row)
    return found


def rows_of(primitive: Primitive, count: int = ROWS_EACH) -> list[Row]:
    """Rows that run its rules, its own first: those that ask something new, or ``count``."""

    def order(row: Row) -> tuple[bool, bool]:
        return row.name != primitive.name, 1 not in oracles.value(row.f, row.draw()).shape

    rows = sorted(_rows_by_primitive()[primitive.name], key=order)
    seen: set[Any] = set()
    chosen, others = [], []
    every = list(sites(primitive))
    for row in rows:
        calls = _calls(primitive, every, checks.jacobian, row)
        asks = {
            (site.name, condition)
            for site, call in calls
            for condition in CONDITIONS
            if CONDITIONS[condition](call)
        }
        (others if asks <= seen else chosen).append(row)
        seen |= asks
    return [*chosen, *others[: max(0, count - len(chosen))]]


@dataclass
class Asked:
    """Calls of one sort: one of them, what the rule answers, and which checks of which rows made them."""

    call: Call
    holds: frozenset[str]
    answer: Any
    by: dict[tuple[Check, Row], None]


def ask(primitive: Primitive, rows: list[Row], killers: list[Check]) -> dict[str, list[Asked]]:
    """Run every check on every row; sort the calls of each site. A check may not fail."""
    found: dict[str, dict[Any, Asked]] = defaultdict(dict)
    every = list(sites(primitive))
    for check in killers:
        for row in rows:
            for site, call in _calls(primitive, every, check, row):
                holds = frozenset(n for n, holds in CONDITIONS.items() if holds(call))
                shapes = tuple((x.shape, str(x.dtype)) for x in call.arrays)
                known = found[site.name]
                kind = (
                    holds,
                    call.recorded,
                    _needing(call),
                    getattr(call.g, "shape", None),
                    shapes,
                )
                if kind not in known:
                    known[kind] = Asked(call, holds, _answer(site.rule, call), {})
                known[kind].by[check, row] = None
    return {name: list(known.values()) for name, known in found.items()}


def _calls(
    primitive: Primitive, every: list[Site], check: Check, row: Row
) -> list[tuple[Site, Call]]:
    """The calls a check makes on a row."""
    calls: list[tuple[Site, Call]] = []

    def listening(site: Site) -> Rule:
        def kept(call: Call) -> Any:
            calls.append((site, call))
            return call.by(site.rule)

        return site.wrapped(kept)

    fields: dict[str, Any] = {}
    for site in every:
        with planted(primitive, **fields):
            fields |= on_top(primitive, site, listening(site))
    with planted(primitive, **fields):
        check(row)
    return calls


def _needing(call: Call) -> tuple[bool, ...]:
    """Which of the Tensors it was given require grad."""
    return tuple(is_tensor(x) and x.requires_grad for x in (call.g, call.y, *call.xs))


def _answer(rule: Rule | Callable[[Call], Any], call: Call) -> Any:
    """What a rule returns, down to its bits, and what it leaves of what it was given."""
    given = [x for x in (call.g, call.y, *call.xs) if is_tensor(x) or isinstance(x, np.ndarray)]
    nodes = {node_of(x): i for i, x in enumerate(given) if is_tensor(x)}
    try:
        with tg.enable_grad(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = call.by(rule)
    except Exception as error:
        return type(error)
    return _signature(found, nodes), [_bits(x) for x in given]


def _signature(found: Any, nodes: dict[Any, int]) -> Any:
    """Type, shape and bits; of a Tensor also which of the given ones it was recorded from."""
    if isinstance(found, tuple):
        return tuple(_signature(r, nodes) for r in found)
    if isinstance(found, Slice):
        return _signature(found.value, nodes)
    if not is_tensor(found):
        return None if found is None else _bits(found)
    return _bits(found), found.requires_grad, _reached(node_of(found), nodes)


def _reached(root: Node, nodes: dict[Any, int]) -> set[int]:
    """Which of the nodes the root was recorded from, without passing through another of them."""
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if node not in nodes:
            new = {n for n in node.inputs or () if isinstance(n, Node) and n.requires_grad} - seen
            seen |= new
            stack.extend(new)
    return {nodes[n] for n in seen if n in nodes}


def _bits(x: Any) -> Any:
    array = x.numpy() if is_tensor(x) else np.asarray(x)
    return str(array.dtype), array.shape, array.tobytes()


# --- mutants ------------------------------------------------------------------------------------


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


def faults(kind: str) -> Iterator[tuple[str, Fault]]:
    """The faults that make sense at a site of that kind, those with state made anew."""
    every: dict[str, Fault] = {
        **{name: mutants.returns(change) for name, change in mutants.RESULTS.items()},
        **mutants.QUESTIONS,
        **mutants.WRITES,
        **{name: make() for name, make in mutants.WITH_STATE.items()},
        **{f"wrong for {name}": mutants.only_when(c) for name, c in CONDITIONS.items()},
    }
    strange = mutants.STRANGE_TO[kind]
    return ((n, fault) for n, fault in every.items() if not any(word in n for word in strange))


def mutate(primitive: Primitive, thorough: bool = False) -> Report:
    """Plant every fault in every rule of the primitive, and see which of them no check sees.

    A tangent rule that is derived from the others has a few, unless the search is ``thorough``.
    """
    rows = rows_of(primitive)
    asked = ask(primitive, rows, KILLERS)
    report = Report(primitive.name)
    for site in sites(primitive):
        if site.kind == "forward" and corners.values not in KILLERS:
            continue
        few = site.kind == "jvp" and not callable(primitive.jvp) and not thorough
        for name, fault in faults(site.kind):
            if few and name not in mutants.OF_DERIVED_TANGENTS:
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
        for kinds in ({"vjp", "jvp"}, {"forward", "vjp", "jvp"}):
            derived = {"elementwise": "vjp", "linear": "forward", "multilinear": "forward"}
            if "forward" in kinds and corners.values not in KILLERS:
                continue
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
        if any(never(primitive) for never in CANNOT_HAPPEN.get(condition, [])):
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
        for check, row in [pair for pair in a.by if pair not in tried]:
            tried.add((check, row))
            with planted(primitive, **fields):
                if fails(check, row):
                    return "killed"
    return "survivors" if fired else "equivalent"


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
    other = _answer(faulty, call) != asked.answer
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


# --- the table ----------------------------------------------------------------------------------


def main() -> int:
    """Print what became of all mutants; 1 if one survived."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    console = Console()
    table = Table("primitive", title="Rule mutation")
    for column in ("mutants", "killed", "equivalent", "survivors"):
        table.add_column(column, justify="right")
    reports = []
    for name in track(sorted(PRIMITIVES), "Planting faults", console=console, transient=True):
        reports.append(mutate(PRIMITIVES[name], thorough=True))
        r = reports[-1]
        table.add_row(
            name, *map(str, (r.count, len(r.killed), len(r.equivalent), len(r.survivors)))
        )
    survivors = [label for r in reports for label in r.survivors]
    killed, count = sum(len(r.killed) for r in reports), sum(r.count for r in reports)
    equivalent = count - killed - len(survivors)
    table.add_section()
    table.add_row("all", *map(str, (count, killed, equivalent, len(survivors))))
    console.print(table)
    console.print(
        f"Kill rate {killed / (count - equivalent):.2%} of those that are not equivalent."
    )
    if corners.values not in KILLERS:
        console.print("PyTorch is not installed: no faults were planted in forwards.")
    for label in survivors:
        console.print(f"survived: {label}", style="red", highlight=False)
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
