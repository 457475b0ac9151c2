"""Operands of a recurrence that do not fit are refused: nothing is read or written out of bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, const, leaf

STEPS, BATCH, INPUTS, HIDDEN = 4, 3, 2, 5


def operands(name: str) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    blocks, parts = (4, ("h_0", "c_0")) if name == "lstm_scan" else (1, ("h_0",))
    shapes: dict[str, tuple[int, ...]] = {
        "x": (STEPS, BATCH, INPUTS),
        **dict.fromkeys(parts, (BATCH, HIDDEN)),
    }
    rows = blocks * HIDDEN
    shapes |= {"weight_ih": (rows, INPUTS), "weight_hh": (rows, HIDDEN), "bias": (rows,)}
    found = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    return found | {"lengths": np.array([STEPS, 1, 2])}


NAMES = [(name, key) for name in ("rnn_scan", "lstm_scan") for key in operands(name)]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("name", "wrong"), NAMES)
def test_other_shapes_are_refused(name: str, wrong: str, recorded: bool) -> None:
    """One row or column more or less, an axis more or less; by the loops and by the definition."""
    right = operands(name)
    x = right[wrong]
    others: list[Any] = [x[None], x[..., None], x[0]]
    for axis in range(x.ndim):
        if (wrong, axis) != ("x", 0):
            others += [np.delete(x, 0, axis), np.repeat(x, 2, axis), np.take(x, [0], axis)]
    scan: Any = tg.PRIMITIVES[name]
    params: dict[str, Any] = {"shortest": 1} | ({} if "lstm" in name else {"nonlinearity": "tanh"})
    for other in others:
        if other.shape == x.shape:
            continue
        given = [leaf(v) if recorded else const(v) for v in (right | {wrong: other}).values()]
        with pytest.raises(tg.ShapeError, match=rf"{name}: cannot take"):
            tg.apply(scan, *given, **params)
