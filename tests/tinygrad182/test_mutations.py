"""The checks are worth something: a fault planted in any rule is caught by one of them."""

from __future__ import annotations

import pytest

import tinygrad182 as tg
from tests.support import device

from . import corners, mutation

pytestmark = pytest.mark.skipif(device() != "cpu", reason="the rules are the same on a GPU")


@pytest.mark.parametrize("name", sorted(tg.PRIMITIVES))
def test_every_fault_is_caught(name: str) -> None:
    report = mutation.mutate(tg.PRIMITIVES[name])
    assert not report.survivors
    assert len(report.killed) > 100
    if corners.values in mutation.KILLERS:
        reviewed = {label for label in mutation.EQUIVALENT if label.startswith(f"{name}, ")}
        assert reviewed <= set(report.equivalent), "these are killed: take them off the list"


def test_a_survivor_is_named() -> None:
    """With one check alone that sees no derivative, faults get through, and the report says which."""
    killers = mutation.KILLERS[:]
    try:
        mutation.KILLERS[:] = [corners.ties]
        report = mutation.mutate(tg.PRIMITIVES["max"])
    finally:
        mutation.KILLERS[:] = killers
    assert "max, input 0: recorded twice" in report.survivors
    assert "max, input 0: doubled" in report.killed
