"""The checks are worth something: a fault planted in any rule is caught by one of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import tinygrad182 as tg
from tests.support import device
from tinygrad182.kernels.arrays import Deltas
from tinygrad182.primitives import recurrent

from .. import checks, corners
from ..table import ROWS
from . import planting
from .reviewed import EQUIVALENT
from .sites import sites

pytestmark = pytest.mark.skipif(device() != "cpu", reason="the rules are the same on a GPU")


@pytest.mark.parametrize("name", sorted(tg.PRIMITIVES))
def test_every_fault_is_caught(name: str) -> None:
    primitive = tg.PRIMITIVES[name]
    report = planting.mutate(primitive)
    assert not report.survivors
    for site in sites(primitive):
        kills = [label for label in report.killed if label.startswith(f"{name}, {site.name}: ")]
        assert kills, f"no fault was tried at {site.name}"
    reviewed = {label for label in EQUIVALENT if label.startswith(f"{name}, ")}
    assert reviewed <= set(report.equivalent), "these are killed: take them off the list"


def test_no_killer_needs_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the suite catches the same faults where PyTorch is not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    monkeypatch.setattr(pytest, "importorskip", pytest.fail)  # and so does to skip for want of it
    for check in planting.KILLERS:
        check(next(row for row in ROWS if row.name == "tanh"))


@pytest.mark.parametrize("name", ["lstm_scan", "rnn_scan"])
@pytest.mark.parametrize("lost", ["powers", "initial_powers", "sums", "initial"])
def test_what_a_loop_finds_and_loses_is_caught(
    name: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The powers of two of rows that have left their type; and all that is found before the first step."""
    found = recurrent.deltas

    def losing(*given: Any, **options: Any) -> Deltas:
        whole = found(*given, **options)
        value = getattr(whole, lost)
        return whole._replace(**{lost: None if "powers" in lost else 0 * value})

    rows = planting.rows_of(tg.PRIMITIVES[name])
    monkeypatch.setattr(recurrent, "deltas", losing)
    killers = (checks.jacobian, corners.cotangents_far_away)
    assert any(planting.fails(check, row) for check in killers for row in rows)


def test_a_survivor_is_named() -> None:
    """With one check alone that sees no derivative, faults get through, and the report says which."""
    killers = planting.KILLERS[:]
    try:
        planting.KILLERS[:] = [corners.ties]
        report = planting.mutate(tg.PRIMITIVES["max"])
    finally:
        planting.KILLERS[:] = killers
    assert "max, input 0: recorded twice" in report.survivors
    assert "max, input 0: doubled" in report.killed
