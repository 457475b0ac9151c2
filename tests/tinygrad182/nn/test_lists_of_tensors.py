"""A list that holds Tensors is the stack of them, with their gradients: layers and losses take it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, leaf
from tinygrad182 import nn

OPTIONS: dict[str, Any] = {"rng": 0, "dtype": "float64"}
TAKING: dict[str, Callable[[Any, Any], Any]] = {
    "Linear": lambda w, of: nn.Linear(2, 3, **OPTIONS)(of(w, w * 2)),
    "Linear beside numbers": lambda w, of: nn.Linear(2, 3, **OPTIONS)(of(w, [1, 2])),
    "LayerNorm": lambda w, of: nn.LayerNorm(2, dtype="float64")(of(w, w * w)) ** 3,
    "Dropout": lambda w, of: nn.Dropout(0.5, rng=3)(of(w, w * 2)),
    "ResBlock": lambda w, of: nn.ResBlock(2, **OPTIONS)(of(w, w * 2)),
    "Sequential": lambda w, of: nn.Sequential(nn.Linear(2, 2, **OPTIONS))(of(w, w * 2)),
    "RNN": lambda w, of: nn.RNN(2, 2, **OPTIONS)(of(of(w), of(w * 2)), of(of(w)))[0],
    "LSTM": lambda w, of: nn.LSTM(2, 2, **OPTIONS)(of(of(w), of(w)), (of(of(w)), of(of(w))))[0],
    "RNNCell": lambda w, of: nn.RNNCell(2, 2, **OPTIONS)(of(w, w * 2), of(w, w)),
    "LSTMCell": lambda w, of: nn.LSTMCell(2, 2, **OPTIONS)(of(w), (of(w), of(w)))[0],
    "mse_loss": lambda w, of: nn.mse_loss(of(w, w * 2), of(w * 3, w * w)),
    "cross_entropy": lambda w, of: nn.cross_entropy(of(w, w * 2), [0, 1]),
}


def stacked(*items: Any) -> tg.Tensor:
    return tg.stack([x if isinstance(x, tg.Tensor) else leaf(np.array(x, float)) for x in items])


@pytest.mark.parametrize("name", TAKING)
def test_a_list_is_the_stack_of_its_tensors(name: str) -> None:
    gradients = []
    for of in (lambda *items: list(items), stacked):
        w = leaf(np.array([0.5, -2.0]))
        (TAKING[name](w, of) ** 2).sum().backward()
        assert w.grad is not None
        gradients.append(w.grad)
    assert_close(gradients[0], gradients[1], 1e-14)
    assert gradients[1].numpy().any()


def test_a_tuple_may_be_what_a_recurrent_layer_returned() -> None:
    w = leaf(np.array([0.5, -2.0]))
    with pytest.raises(tg.DTypeError, match=r"^Linear: .*input.*tuple.*the output alone"):
        nn.Linear(2, 3, **OPTIONS)((w, w))
