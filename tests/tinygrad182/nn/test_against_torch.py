"""Layers and losses against PyTorch in float64: values, states and every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles.torch_layers import TOLERANCE, assert_equal_gradients, pair, twins
from tests.support import assert_close, const, draw, needs_torch

torch = needs_torch()
sides = st.integers(1, 6)


def check_rnn(
    sizes: tuple[int, int, int, int], layers: int, start: bool, seed: int, **options: Any
) -> None:
    T, B, I, H = sizes  # noqa: E741
    ours, theirs = twins(
        tg.nn.RNN(I, H, layers, rng=seed, dtype="float64", **options),
        torch.nn.RNN(I, H, layers, **options),
    )
    shape = (B, T) if options.get("batch_first") else (T, B)
    x, h_0, a, b = draw(seed, (*shape, I), (layers, B, H), (*shape, H), (layers, B, H))
    (x_1, x_2), (h_1, h_2) = pair(x), pair(h_0)
    output_1, h_n_1 = ours(x_1, h_1) if start else ours(x_1)
    output_2, h_n_2 = theirs(x_2, h_2) if start else theirs(x_2)
    assert_close(output_1, output_2.detach().numpy(), TOLERANCE, "output")
    assert_close(h_n_1, h_n_2.detach().numpy(), TOLERANCE, "h_n")
    ((const(a) * output_1**2).sum() + (const(b) * h_n_1).sum()).backward()
    ((torch.tensor(a) * output_2**2).sum() + (torch.tensor(b) * h_n_2).sum()).backward()
    assert_equal_gradients(ours, theirs)
    assert_close(x_1.grad, x_2.grad.numpy(), TOLERANCE, "x")
    if start:
        assert_close(h_1.grad, h_2.grad.numpy(), TOLERANCE, "h_0")


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("start", [True, False])
def test_rnn(layers: int, nonlinearity: str, bias: bool, batch_first: bool, start: bool) -> None:
    options = {"nonlinearity": nonlinearity, "bias": bias, "batch_first": batch_first}
    check_rnn((7, 3, 2, 5), layers, start, 1, **options)


@given(st.tuples(sides, sides, sides, sides), st.integers(1, 3), st.integers(0, 99))
def test_rnn_of_any_size(sizes: tuple[int, int, int, int], layers: int, seed: int) -> None:
    check_rnn(sizes, layers, True, seed)


def test_rnn_over_many_steps() -> None:
    check_rnn((300, 2, 3, 20), 2, True, 0)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_rnn_cell(nonlinearity: str, bias: bool) -> None:
    options: dict[str, Any] = {"nonlinearity": nonlinearity, "bias": bias}
    ours, theirs = twins(
        tg.nn.RNNCell(2, 3, rng=0, dtype="float64", **options), torch.nn.RNNCell(2, 3, **options)
    )
    x, h = draw(0, (4, 2), (4, 3))
    (x_1, x_2), (h_1, h_2) = pair(x), pair(h)
    next_1, next_2 = ours(x_1, h_1), theirs(x_2, h_2)
    assert_close(next_1, next_2.detach().numpy(), TOLERANCE)
    assert_close(ours(x_1), theirs(x_2).detach().numpy(), TOLERANCE, "default state")
    (next_1**2).sum().backward()
    (next_2**2).sum().backward()
    assert_equal_gradients(ours, theirs)
    assert_close(x_1.grad, x_2.grad.numpy(), TOLERANCE, "x")
    assert_close(h_1.grad, h_2.grad.numpy(), TOLERANCE, "h")


@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_linear(batch: list[int], inputs: int, outputs: int, bias: bool) -> None:
    ours, theirs = twins(
        tg.nn.Linear(inputs, outputs, bias, rng=0, dtype="float64"),
        torch.nn.Linear(inputs, outputs, bias),
    )
    (x,) = draw(0, (*batch, inputs))
    x_1, x_2 = pair(x)
    y_1, y_2 = ours(x_1), theirs(x_2)
    assert_close(y_1, y_2.detach().numpy(), TOLERANCE)
    (y_1**3).sum().backward()
    (y_2**3).sum().backward()
    assert_equal_gradients(ours, theirs)
    assert_close(x_1.grad, x_2.grad.numpy(), TOLERANCE, "x")


def test_sequential_and_its_names() -> None:
    ours, theirs = twins(
        tg.nn.Sequential(
            tg.nn.Linear(3, 4, rng=0, dtype="float64"),
            tg.tanh,
            tg.nn.Linear(4, 2, rng=1, dtype="float64"),
        ),
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)),
    )
    x_1, x_2 = pair(draw(0, (5, 3))[0])
    y_1, y_2 = ours(x_1), theirs(x_2)
    assert_close(y_1, y_2.detach().numpy(), TOLERANCE)
    (y_1**2).sum().backward()
    (y_2**2).sum().backward()
    assert_equal_gradients(ours, theirs)


@given(st.lists(st.integers(1, 4), max_size=3))
def test_mse_loss(shape: list[int]) -> None:
    pred, target = draw(0, tuple(shape), tuple(shape))
    (p_1, p_2), (t_1, t_2) = pair(pred), pair(target)
    ours, theirs = tg.nn.mse_loss(p_1, t_1), torch.nn.functional.mse_loss(p_2, t_2)
    assert_close(ours, theirs.detach().numpy(), TOLERANCE)
    ours.backward()
    theirs.backward()
    assert_close(p_1.grad, p_2.grad.numpy(), TOLERANCE, "predictions")
    assert_close(t_1.grad, t_2.grad.numpy(), TOLERANCE, "targets")


@given(st.lists(st.integers(1, 4), max_size=3), st.integers(1, 5), st.sampled_from([1.0, 500.0]))
def test_cross_entropy(shape: list[int], classes: int, scale: float) -> None:
    (logits,) = draw(0, (*shape, classes))
    targets = np.random.default_rng(1).integers(0, classes, shape)
    l_1, l_2 = pair(scale * logits)
    ours = tg.nn.cross_entropy(l_1, const(targets))
    theirs = torch.nn.functional.cross_entropy(
        l_2.reshape(-1, classes), torch.tensor(targets).reshape(-1)
    )
    assert_close(ours, theirs.detach().numpy(), TOLERANCE)
    ours.backward()
    theirs.backward()
    assert_close(l_1.grad, l_2.grad.numpy(), TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_values_have_the_same_bounds(dtype: str) -> None:
    for kind, sizes in (("RNN", (3, 50)), ("Linear", (50, 40)), ("RNNCell", (3, 50))):
        ours = getattr(tg.nn, kind)(*sizes, rng=0, dtype=dtype)
        for name, p in getattr(torch.nn, kind)(*sizes).named_parameters():
            bound = 1 / np.sqrt(50)
            assert p.detach().abs().max() <= bound  # what PyTorch promises
            if "bias_hh" not in name:
                values = np.abs(dict(ours.named_parameters())[name].numpy())
                assert 0.8 * bound < values.max() <= np.float32(bound)
