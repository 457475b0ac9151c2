"""The checks catch a fault that is planted in any rule.

Here each fault is planted in one rule of each primitive, and every rule has some. All faults are planted in
all rules by ``make mutate``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import device
from tinygrad182.kernels.program import Register
from tinygrad182.recurrence.scans import Scan

from .. import checks, edge_case_checks
from ..table import ROWS
from . import derivations, planting
from .sites import planted, sites

pytestmark = pytest.mark.skipif(device() != "cpu", reason="the rules are the same on a GPU")


@pytest.mark.parametrize("name", sorted(tg.PRIMITIVES))
def test_a_planted_fault_is_caught(name: str) -> None:
    primitive = tg.PRIMITIVES[name]
    report = planting.mutate(primitive)
    assert not report.survivors
    for site in sites(primitive):
        kills = [label for label in report.killed if label.startswith(f"{name}, {site.name}: ")]
        assert kills, f"no fault was tried at {site.name}"


def test_no_fault_is_left_out() -> None:
    """Over all primitives together, every kind of rule gets each of its faults."""

    def planned(thorough: bool) -> set[tuple[str, str]]:
        return {
            (site.kind, name)
            for primitive in tg.PRIMITIVES.values()
            if not isinstance(primitive, Scan)  # these three share faults of their own
            for site, name, _ in planting.planned(primitive, thorough)
            if site.kind in ("vjp", "jvp", "forward")
        }

    assert planned(thorough=False) == planned(thorough=True)


def test_no_killer_needs_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the suite catches the same faults where PyTorch is not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    monkeypatch.setattr(pytest, "importorskip", pytest.fail)  # so does skipping without it
    for check in planting.KILLERS:
        check(next(row for row in ROWS if row.name == "tanh"))


@pytest.mark.parametrize("name", ["lstm_scan", "rnn_scan", "gru_scan"])
@pytest.mark.parametrize("lost", ["powers", "initial_powers", "sums", "initial"])
def test_what_a_loop_finds_and_loses_is_caught(
    name: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults in the powers of rows beyond their type, and in all that is computed before the first step."""
    inside = Scan.inside

    def losing(*given: Any, **options: Any) -> Any:
        for window in inside(*given, **options):
            value = getattr(window.sum_cotangents, lost)
            less = window.sum_cotangents._replace(**{lost: None if "powers" in lost else 0 * value})
            yield window._replace(sum_cotangents=less)

    rows = planting.rows_of(tg.PRIMITIVES[name])
    monkeypatch.setattr(Scan, "inside", losing)
    killers = (checks.jacobian, edge_case_checks.cotangents_far_away)
    assert any(planting.fails(check, row) for check in killers for row in rows)


# --- between a step and its loops -----------------------------------------------------------------


def test_without_a_fault_loops_give_what_steps_mean() -> None:
    with derivations.derived_anew():
        assert not [kind for kind in derivations.SUBJECTS if derivations.differs(kind)]


@pytest.mark.parametrize("name", derivations.FAULTS)
def test_every_fault_of_the_derivation_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with derivations.derived_anew():
        derivations.FAULTS[name](monkeypatch)
        assert any(map(derivations.differs, derivations.SUBJECTS))
        monkeypatch.undo()


def rules_of(kind: str) -> set[str]:
    """The operations whose derivative rules a cell's loops are made of; sums have no rule there."""
    scan, params = derivations.SUBJECTS[kind]
    program = scan.program(**params)
    assert program is not None
    steps = [r for r in program.forward.instructions if isinstance(r, Register)]
    return {r.op for r in steps} & set(tg.PRIMITIVES) - {"add"}


@pytest.mark.parametrize("kind", ["lstm", "gru", "peephole", "minimal", "relu"])
def test_a_fault_of_a_rule_reaches_the_loops(kind: str) -> None:
    """The loops are made of the primitives' rules, so a fault in a rule is a fault in them."""
    clean = derivations.case_of(kind, False).defined()
    found = rules_of(kind)
    assert found
    for name in found:
        primitive = tg.PRIMITIVES[name]
        wrong = tuple(
            rule and (lambda xp, g, y, *xs, rule=rule: 1.5 * rule(xp, g, y, *xs))
            for rule in primitive.vjp  # type: ignore[union-attr]
        )
        with planted(primitive, vjp=wrong), derivations.derived_anew():
            assert not derivations.differs(kind)
            other = derivations.case_of(kind, False).defined()
        assert any(not np.allclose(a, b) for a, b in zip(clean, other, strict=True)), name


def test_a_survivor_is_named() -> None:
    """With a single check that reads no derivative, faults survive, and the report names them."""
    killers = planting.KILLERS[:]
    try:
        planting.KILLERS[:] = [edge_case_checks.ties]
        report = planting.mutate(tg.PRIMITIVES["max"], thorough=True)
    finally:
        planting.KILLERS[:] = killers
    assert "max, input 0: recorded twice" in report.survivors
    assert "max, input 0: doubled" in report.killed
