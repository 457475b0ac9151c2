"""The calls that the checks make of a rule, sorted, with the answers."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.oracles import derivatives
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.engine.recording import Node, is_tensor, node_of
from tinygrad182.primitives import Primitive
from tinygrad182.primitives.index import Slice

from .. import checks
from ..table import ROWS, Row
from .cases import CONDITIONS, Call, Rule
from .sites import Site, on_top, planted, sites

Check = Callable[[Row], None]

ROWS_EACH = 6


@functools.cache
def _rows_by_primitive() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in ROWS:
        y = row.f(*(tg.tensor(x, requires_grad=x.dtype.kind == "f") for x in row.draw()))
        for name in {node.op for node in ancestors([node_of(y)])} - {"leaf"}:
            found[name].append(row)
    return found


@functools.cache
def rows_of(primitive: Primitive) -> list[Row]:
    """Rows that run a primitive's rules: those that ask something new, and others up to ``ROWS_EACH``.

    Its own come first, and among these the one that asks most of what is not asked before.
    """
    every = list(sites(primitive))

    def own(row: Row) -> bool:
        return row.name == primitive.name

    def order(row: Row) -> tuple[bool, bool]:
        return not own(row), 1 not in derivatives.value(row.f, row.draw()).shape

    rows = sorted(_rows_by_primitive()[primitive.name], key=order)
    left = {row: _asks(row, _calls(primitive, every, checks.jacobian, row)) for row in rows}

    def most(row: Row) -> tuple[bool, int, int]:
        kinds = [kind for kind, _, _ in left[row]]
        return own(row) and bool(kinds), kinds.count("form"), kinds.count("case")

    chosen: list[Row] = []
    while any(left.values()):
        row = max(left, key=most)
        known = left.pop(row)
        left = {other: asked - known for other, asked in left.items()}
        chosen.append(row)
    return [*chosen, *left][: max(ROWS_EACH, len(chosen))]


def _asks(row: Row, calls: list[tuple[Site, Call]]) -> set[tuple[str, str, Any]]:
    """The forms of the calls of each site: their cases, parameters and nonlinearities.

    An empty operand makes a case different, because hardly any fault shows in an empty array.
    """
    nothing = any(np.size(x) == 0 for x in row.draw())
    found: set[tuple[str, str, Any]] = set()
    for site, call in calls:
        names, nonlinearity = frozenset(call.params), call.params.get("nonlinearity")
        forms = names, nonlinearity, (names, nonlinearity)
        found |= {("form", site.name, form) for form in forms}
        found |= {("case", site.name, (c, nothing)) for c in CONDITIONS if CONDITIONS[c](call)}
    return found


@dataclass
class Asked:
    """Calls of one sort: one of them, what the rule answers, and which checks made them."""

    call: Call
    holds: frozenset[str]
    answer: Any
    by: dict[Check, None]


def ask(primitive: Primitive, row: Row, killers: list[Check]) -> dict[str, list[Asked]]:
    """Run every check on the row; sort the calls of each site. A check may not fail."""
    found: dict[str, dict[Any, Asked]] = defaultdict(dict)
    every = list(sites(primitive))
    for check in killers:
        for site, call in _calls(primitive, every, check, row):
            holds = frozenset(n for n, holds in CONDITIONS.items() if holds(call))
            shapes = tuple((x.shape, str(x.dtype)) for x in call.arrays)
            known = found[site.name]
            kind = holds, call.recorded, _needing(call), getattr(call.g, "shape", None), shapes
            if kind not in known:
                known[kind] = Asked(call, holds, answer_of(site.rule, call), {})
            known[kind].by[check] = None
    return {site.name: list(found[site.name].values()) for site in every}


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
    """A flag for each Tensor of the call: whether it requires grad."""
    return tuple(is_tensor(x) and x.requires_grad for x in (call.g, call.y, *call.xs))


def answer_of(rule: Rule | Callable[[Call], Any], call: Call) -> Any:
    """The bits of a rule's results, and of its operands after the call."""
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
    """The nodes that the root was recorded from, not through another one of them."""
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
