"""A layer computes in the dtype of its parameters: the inputs it takes, and conversion of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, const, host

nn = tg.nn
X = np.random.default_rng(0).normal(size=(5, 3, 4))

LAYERS: dict[str, Callable[[str], tg.nn.Module]] = {
    "Linear": lambda dtype: nn.Linear(4, 2, rng=0, dtype=dtype),
    "RNN": lambda dtype: nn.RNN(4, 2, rng=0, dtype=dtype),
    "RNN step by step": lambda dtype: nn.RNN(4, 2, fused=False, rng=0, dtype=dtype),
    "LSTM": lambda dtype: nn.LSTM(4, 2, 2, rng=0, dtype=dtype),
    "ResBlock": lambda dtype: nn.ResBlock(4, rng=0, dtype=dtype),
    "LayerNorm": lambda dtype: nn.LayerNorm(4, dtype=dtype),
    "Sequential": lambda dtype: nn.Sequential(tg.tanh, nn.Linear(4, 2, rng=0, dtype=dtype)),
    "ModuleList": lambda dtype: nn.ModuleList([nn.Linear(4, 2, rng=0, dtype=dtype)])[0],
    "RNNCell": lambda dtype: nn.RNNCell(4, 2, rng=0, dtype=dtype),
    "LSTMCell": lambda dtype: nn.LSTMCell(4, 2, rng=0, dtype=dtype),
}


def input_of(name: str, dtype: str) -> Any:
    return const(X[0] if "Cell" in name else X).astype(dtype)


def outputs(y: Any) -> list[tg.Tensor]:
    if isinstance(y, tg.Tensor):
        return [y]
    return [tensor for part in y for tensor in outputs(part)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("given", "own"), [("float64", "float32"), ("float32", "float64")])
def test_an_input_of_another_dtype_is_refused(name: str, given: str, own: str) -> None:
    layer, x = LAYERS[name](own), input_of(name, given)
    remedy = rf"x\.astype\('{own}'\).*model\.to\(dtype='{given}'\)"
    message = rf"has dtype {given}, the parameters {own}.*{remedy}"
    for form in (x, array(host(x))):
        with pytest.raises(tg.DTypeError, match=message):
            layer(form)
    assert {y.dtype for y in outputs(layer.to(dtype=given)(x))} == {np.dtype(given)}


def test_the_state_is_held_to_it_too() -> None:
    h = np.zeros((1, 3, 2))
    with pytest.raises(tg.DTypeError, match=r"h_0 .*has dtype float64, the parameters float32"):
        nn.RNN(4, 2, rng=0)(input_of("", "float32"), const(h))
    with pytest.raises(tg.DTypeError, match=r"c_0 .*has dtype float64"):
        nn.LSTM(4, 2, rng=0)(input_of("", "float32"), (const(h).float(), const(h)))


def test_the_place_in_the_model_is_named() -> None:
    class Regressor(nn.Module):
        def __init__(self) -> None:
            self.head = nn.Linear(4, 1, rng=0)

        def forward(self, x: Any) -> Any:
            return self.head(x)

    with pytest.raises(tg.DTypeError, match=r"^Linear: .* float32, in head; pass"):
        Regressor()(input_of("", "float64"))


def test_an_integer_input_raises_and_the_error_names_the_layers_dtype() -> None:
    with pytest.raises(tg.DTypeError, match=r"has dtype int64.*x\.astype\('float64'\)"):
        nn.Linear(4, 2, rng=0, dtype="float64")(np.ones((2, 4), np.int64))
    with pytest.raises(tg.DTypeError, match=r"has dtype int64.*x\.astype\('float32'\)"):
        nn.Dropout()(np.ones((2, 4), np.int64))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_model_in_another_dtype(dtype: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3, rng=0), tg.tanh, nn.Linear(3, 1, rng=1))
    start = {name: host(p) for name, p in model.named_parameters()}
    model(input_of("", "float32")).sum().backward()
    grads = [host(p.grad) for p in model.parameters()]
    same = list(model.parameters())
    assert model.to(dtype=dtype) is model
    for p, q, g in zip(model.parameters(), same, grads, strict=True):
        assert p is q
        assert p.dtype == p.grad.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(host(p.grad), g.astype(dtype))
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(host(p), start[name].astype(dtype))
    model.zero_grad(set_to_none=False)
    assert all(host(p.grad).max() == 0 for p in model.parameters())
    loss = model(input_of("", dtype)).sum()
    loss.backward()
    assert {loss.dtype, *(p.grad.dtype for p in model.parameters())} == {np.dtype(dtype)}


def test_the_short_names() -> None:
    model = nn.Linear(2, 1, rng=0)
    for change, dtype in (
        (model.double, "float64"),
        (model.half, "float16"),
        (model.float, "float32"),
        (lambda: model.to("float64"), "float64"),
        (lambda: model.to(tg.float32), "float32"),
        (lambda: model.to(model.weight.device, "float64"), "float64"),
        (lambda: model.to(const(np.ones(2, np.float32))), "float32"),
    ):
        assert change() is model
        assert model.weight.dtype == np.dtype(dtype)
    assert model.cpu().weight.device == "cpu"


def test_a_graph_recorded_before_a_change_refuses() -> None:
    for record in (lambda layer, x: layer(x), lambda layer, x: x * layer.weight):
        layer = nn.Linear(2, 1, bias=False, rng=0)
        loss = record(layer, const(np.ones((1, 2), np.float32))).sum()
        layer.double()
        with pytest.raises(tg.InPlaceError, match=r"changed in place"):
            loss.backward()


def test_training_goes_on_in_another_dtype() -> None:
    """The optimizer's state takes the parameters' new dtype."""
    layer = nn.Linear(2, 1, rng=0)
    optimizer = tg.optim.Adam(layer.parameters(), 0.1)
    for dtype, kept in (("float32", "float32"), ("float64", "float64"), ("float16", "float32")):
        layer.to(dtype=dtype)
        optimizer.zero_grad()
        layer(const(np.ones((1, 2), dtype))).sum().backward()
        optimizer.step()
        assert {v.dtype for s in optimizer.state for k, v in s.items() if k != "step"} == {
            np.dtype(kept)
        }
        assert layer.weight.dtype == np.dtype(dtype)
    assert optimizer.state[0]["step"] == 3
