"""Every layer through ``check_gradients``: first and second derivatives by all inputs and parameters."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad182 as tg
from tests.support import array, draw


def with_lengths(layer: Any) -> Any:
    """Outputs inside the lengths; those past an end are constants, which have no derivative."""
    inside = array([[[True], [True]], [[True], [False]], [[True], [False]]])

    def run(x: Any, *state: Any) -> Any:
        output, last = layer(x, state if len(state) > 1 else state[0], lengths=[3, 1])
        return tg.where(inside, output, 0.0), last

    return run


nn = tg.nn
DOUBLE: dict[str, Any] = {"rng": 1, "dtype": "float64"}
RNN, LSTM = nn.RNN(1, 2, **DOUBLE), nn.LSTM(1, 2, **DOUBLE)
DEEP = nn.LSTM(1, 2, 2, return_states=True, **DOUBLE)
BOTH = {kind: getattr(nn, kind)(1, 2, bidirectional=True, **DOUBLE) for kind in ("RNN", "LSTM")}
STATE = (1, 2, 2)

CASES: dict[str, tuple[Any, Any, list[tuple[int, ...]]]] = {
    "LSTM": (LSTM, lambda x, h, c: LSTM(x, (h, c)), [(3, 2, 1), STATE, STATE]),
    "LSTM of two layers": (DEEP, DEEP, [(2, 1, 1)]),
    "LSTM of one sequence": (LSTM, LSTM, [(3, 1)]),
    "LSTM with lengths": (LSTM, with_lengths(LSTM), [(3, 2, 1), STATE, STATE]),
    "RNN with lengths": (RNN, with_lengths(RNN), [(3, 2, 1), STATE]),
    "RNN of one sequence": (RNN, RNN, [(3, 1), (1, 2)]),
    "LSTM in both directions": (BOTH["LSTM"], BOTH["LSTM"], [(2, 2, 1)]),
    "RNN in both directions": (BOTH["RNN"], with_lengths(BOTH["RNN"]), [(3, 2, 1), (2, 2, 2)]),
}
for kind, cell in [
    ("LSTMCell", nn.LSTMCell(2, 2, **DOUBLE)),
    ("RNNCell", nn.RNNCell(2, 2, **DOUBLE)),
]:
    CASES[kind] = (cell, cell, [(2, 2)])
table = nn.Embedding(3, 2, **DOUBLE)
CASES["Embedding"] = (table, lambda: table([[0, 2, 2], [2, 2, 0]]) ** 2, [])
for sigma in ("tanh", "relu", "identity"):
    block = nn.ResBlock(3, sigma, **DOUBLE)
    CASES[f"ResBlock {sigma}"] = (block, block, [(2, 3)])
plain = nn.ResBlock(2, skip=False, bias=False, **DOUBLE)
CASES["ResBlock without skip and bias"] = (plain, plain, [(2, 2)])


@pytest.mark.parametrize("name", CASES)
def test_derivatives(name: str) -> None:
    layer, f, shapes = CASES[name]
    check = tg.testing.check_gradients(f, *draw(0, *shapes), parameters=layer, max_entries=12)
    assert check.method == "complex step"
    assert check.order == 2
