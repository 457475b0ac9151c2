"""What the checks ask of a rule: the calls they make, sorted, with the answers."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad182 as tg
from tinygrad182.backpropagation import ancestors
from tinygrad182.primitives import Primitive
from tinygrad182.primitives.index import Slice
from tinygrad182.recording import Node, is_tensor, node_of

from .. import checks, oracles
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
        asks |= {(site.name, _form(call)) for site, call in calls}
        (others if asks <= seen else chosen).append(row)
        seen |= asks
    return [*chosen, *others[: max(0, count - len(chosen))]]


def _form(call: Call) -> Any:
    """What is asked of it by its parameters: with lengths, of which nonlinearity."""
    return frozenset(call.params), call.params.get("nonlinearity")


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
                    known[kind] = Asked(call, holds, answer_of(site.rule, call), {})
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


def answer_of(rule: Rule | Callable[[Call], Any], call: Call) -> Any:
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
