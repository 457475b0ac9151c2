"""``LSTMStep`` against the layers that it is made of; ``CharLM.frozen_step`` has more tests of it."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad182 as tg
from tests.support import array, assert_close


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_step_of_its_layers(bias: bool) -> None:
    embedding = tg.nn.Embedding(5, 3, rng=0, dtype="float64")
    lstm = tg.nn.LSTM(3, 4, 2, bias, dropout=0.5, rng=1, dtype="float64")
    head = tg.nn.Linear(4, 5, bias, rng=2, dtype="float64")
    step = tg.decode.LSTMStep(embedding, lstm, head)
    lstm.eval()
    state: Any = None
    layers_state: Any = None
    for tokens in ([0, 4], [3, 3]):
        found, state = step(array(tokens), state)
        output, layers_state = lstm(embedding(array(tokens))[None], layers_state)
        assert_close(found, tg.log_softmax(head(output[0])).numpy(), 1e-13)
        for part, expected in zip(state, layers_state, strict=True):
            assert_close(part, expected.numpy(), 1e-13)
    assert_close(step.states(array([1, 2]), state)[0], step(array([1, 2]), state)[1][0], 0)


@pytest.mark.parametrize(
    "layer", [tg.nn.GRU(3, 4), tg.nn.LSTM(3, 4, bidirectional=True)], ids=["GRU", "both ways"]
)
def test_other_layers_are_refused(layer: Any) -> None:
    with pytest.raises(tg.ArgumentError, match=r"LSTMStep: .*(GRU|bidirectional).*tg\.nn\.LSTM"):
        tg.decode.LSTMStep(tg.nn.Embedding(5, 3), layer, tg.nn.Linear(4, 5))
