"""The checks are worth something: a fault planted in any rule is caught by one of them."""

from __future__ import annotations

import pytest

import tinygrad182 as tg
from tests.support import device

from .. import corners
from . import planting
from .reviewed import EQUIVALENT

pytestmark = pytest.mark.skipif(device() != "cpu", reason="the rules are the same on a GPU")


@pytest.mark.parametrize("name", sorted(tg.PRIMITIVES))
def test_every_fault_is_caught(name: str) -> None:
    report = planting.mutate(tg.PRIMITIVES[name])
    assert not report.survivors
    assert len(report.killed) > 100
    if corners.values in planting.KILLERS:
        reviewed = {label for label in EQUIVALENT if label.startswith(f"{name}, ")}
        assert reviewed <= set(report.equivalent), "these are killed: take them off the list"


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
