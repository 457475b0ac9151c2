"""ResBlock against its definition, and a stack of them against the sum over all paths."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles.recurrent import SIGMA
from tests.support import assert_close, assert_same_bits, const, draw, leaf

SLOPE = {"tanh": lambda z: 1 - np.tanh(z) ** 2, "relu": lambda z: z > 0, "identity": np.ones_like}


def block(width: int, nonlinearity: str = "tanh", **options: bool) -> tg.nn.ResBlock:
    return tg.nn.ResBlock(width, nonlinearity, rng=2, dtype="float64", **options)  # type: ignore[arg-type]


@given(
    st.lists(st.integers(1, 3), max_size=2),
    st.integers(1, 4),
    st.sampled_from(list(SIGMA)),
    st.booleans(),
    st.booleans(),
)
def test_values_and_gradients(
    batch: list[int], width: int, nonlinearity: str, bias: bool, skip: bool
) -> None:
    """y = σ(x Wᵀ + b) + x, δ_z = σ'(z) ∘ δ_y, δ_x = δ_z W + δ_y, δ_W = Σ δ_zᵀ x, δ_b = Σ δ_z."""
    layer = block(width, nonlinearity, bias=bias, skip=skip)
    w = layer.linear.weight.numpy()
    b = layer.linear.bias.numpy() if bias else 0.0
    x, g = draw(width, (*batch, width), (*batch, width))
    z = x @ w.T + b
    inputs = leaf(x)
    y = layer(inputs)
    assert_close(y, SIGMA[nonlinearity](z) + (x if skip else 0.0), 1e-15)
    (const(g) * y).sum().backward()
    of_z = SLOPE[nonlinearity](z) * g
    flat = of_z.reshape(-1, width)
    assert_close(inputs.grad, of_z @ w + (g if skip else 0.0), 1e-14, "x", floor=1e-300)
    assert_close(layer.linear.weight.grad, flat.T @ x.reshape(-1, width), 1e-14, "W", floor=1e-300)
    if bias:
        assert_close(layer.linear.bias.grad, flat.sum(axis=0), 1e-14, "b", floor=1e-300)


@pytest.mark.parametrize("skip", [True, False])
def test_a_stack_carries_the_sum_over_all_paths(skip: bool) -> None:
    """Each of 6 blocks is passed around or through: δ_0 = Σ over 2⁶ paths of the products on them."""
    depth, width = 6, 3
    blocks = [tg.nn.ResBlock(width, skip=skip, rng=seed, dtype="float64") for seed in range(depth)]
    x, g = draw(5, (width,), (width,))
    h, jacobians = x, []
    for layer in blocks:
        w, b = layer.linear.weight.numpy(), layer.linear.bias.numpy()
        jacobians.append((1 - np.tanh(w @ h + b) ** 2)[:, None] * w)
        h = np.tanh(w @ h + b) + (h if skip else 0.0)
    expected = np.zeros(width)
    for through in product([False, True], repeat=depth):
        if not (skip or all(through)):
            continue
        share = g
        for used, jacobian in reversed(list(zip(through, jacobians, strict=True))):
            share = share @ jacobian if used else share
        expected += share
    inputs = leaf(x)
    (const(g) * tg.nn.Sequential(*blocks)(inputs)).sum().backward()
    assert_close(inputs.grad, expected, 1e-14)


def test_without_skip_it_is_a_plain_layer() -> None:
    layer, linear = block(3, skip=False), tg.nn.Linear(3, 3, rng=2, dtype="float64")
    (x,) = draw(6, (4, 3))
    assert_same_bits(layer(const(x)), tg.tanh(linear(const(x))).numpy())


def test_names_and_initial_values_are_those_of_the_linear_layer() -> None:
    layer, linear = block(3), tg.nn.Linear(3, 3, rng=2, dtype="float64")
    assert list(layer.state_dict()) == ["linear.weight", "linear.bias"]
    assert list(block(3, bias=False).state_dict()) == ["linear.weight"]
    for a, b in zip(layer.parameters(), linear.parameters(), strict=True):
        assert_same_bits(a, b.numpy())
    deep = tg.nn.Sequential(layer, block(3))
    assert list(deep.state_dict())[2:] == ["1.linear.weight", "1.linear.bias"]


def test_dtype_and_text() -> None:
    single = tg.nn.ResBlock(2, rng=0)
    assert single(tg.ones((3, 2))).dtype == np.float32
    assert repr(block(2, "relu", skip=False)).startswith("ResBlock('relu', skip=False)")
    assert repr(block(2)).startswith("ResBlock('tanh')")
