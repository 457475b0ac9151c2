"""The checks are worth something: a fault planted in any rule is caught by one of them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import leaves, needs_torch
from tinygrad182.backpropagation import ancestors
from tinygrad182.recording import node_of

from . import checks, mutants
from .table import ROWS, Row
from .test_against_torch import values_and_gradients

KILLERS = [
    checks.jacobian,
    checks.forward_mode,
    checks.linear_in_the_cotangent,
    checks.double_backward,
    checks.linear_in_a_recorded_cotangent,
    checks.untouched,
]
ROWS_EACH = 4
UNSEEN = {"astype": {"off by 1e-10", "float32 inside", "small ones lost"}}
"""What float32 on the way cannot show."""

PRIMITIVES = pytest.mark.parametrize("name", sorted(tg.PRIMITIVES))


@cache
def _rows_of() -> dict[str, list[Row]]:
    """For each primitive, a few rows that run its rule: its own first, empty ones last."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(ROWS, key=lambda row: not all(map(np.prod, row.shapes))):
        for name in {n.op for n in ancestors([node_of(row.f(*leaves(row.draw())))])}:
            found[name].append(row)
    return {
        name: sorted(rows, key=lambda row: row.name != name)[:ROWS_EACH]
        for name, rows in found.items()
    }


def _caught(rows: list[Row], killers: list[Callable[[Row], None]]) -> bool:
    for check in killers:
        for row in rows:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    check(row)
            except (AssertionError, tg.TinygradError, ValueError, TypeError):
                return True
    return False


@PRIMITIVES
def test_every_faulty_derivative_is_caught(name: str) -> None:
    primitive = tg.PRIMITIVES[name]
    rows = _rows_of()[name]
    assert not _caught(rows, KILLERS), "the checks fail without a fault"
    survivors, equivalent = set(), set()
    for label, fields, fault in (*mutants.vjp_mutants(primitive), *mutants.jvp_mutants(primitive)):
        with mutants.planted(primitive, **fields):
            caught = _caught(rows, KILLERS)
        if not caught:
            (equivalent if fault is not None and not fault.fired else survivors).add(label)
    assert {s.partition(",")[0] for s in survivors} <= UNSEEN.get(name, set())
    assert len(equivalent) <= 1, equivalent


@PRIMITIVES
def test_every_faulty_value_is_caught(name: str) -> None:
    t = needs_torch()
    primitive = tg.PRIMITIVES[name]
    rows = _rows_of()[name]

    def against_torch(row: Row) -> None:
        values_and_gradients(row, t)

    assert not _caught(rows, [against_torch]), "the check fails without a fault"
    for label, fields in mutants.forward_mutants(primitive):
        with mutants.planted(primitive, **fields):
            assert _caught(rows, [against_torch]), label
