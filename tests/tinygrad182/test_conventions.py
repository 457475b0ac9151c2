"""Where a derivative is not unique or a number is extreme: what is promised, and that nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import assert_close, const, leaf, needs_torch

INF, NAN = math.inf, math.nan


def _gradient(f: Callable[..., tg.Tensor], *values: Any) -> list[Any]:
    """Gradients of the sum, as lists."""
    xs = [leaf(np.asarray(v, dtype=float)) for v in values]
    f(*xs).sum().backward()
    return [x.grad.tolist() if x.grad is not None else None for x in xs]


# --- kinks and ties -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "values", "expected"),
    [
        (tg.relu, [[-1.0, -0.0, 0.0, 2.0]], [[0, 0, 0, 1]]),
        (tg.abs, [[-1.0, -0.0, 0.0, 2.0]], [[-1, 0, 0, 1]]),
        (tg.maximum, [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], [[0, 0.5, 1], [1, 0.5, 0]]),
        (tg.minimum, [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], [[1, 0.5, 0], [0, 0.5, 1]]),
        (lambda x: tg.maximum(x, x), [[1.0, -1.0]], [[1, 1]]),
        (tg.max, [[2.0, 5.0, 5.0, 1.0, 5.0]], [[0, 1 / 3, 1 / 3, 0, 1 / 3]]),
        (tg.min, [[2.0, 1.0, 1.0]], [[0, 0.5, 0.5]]),
        (lambda x: tg.max(x, axis=1), [[[1.0, 1.0], [0.0, 2.0]]], [[[0.5, 0.5], [0, 1]]]),
        (lambda x: tg.clip(x, 0.0, 1.0), [[-1.0, 0.0, 0.5, 1.0, 2.0]], [[0, 1, 1, 1, 0]]),
        (lambda x: x**0, [[0.0, -2.0, INF]], [[0, 0, 0]]),
        (lambda x: x**1, [[0.0, -2.0]], [[1, 1]]),
        (lambda x: x**2, [[0.0, -2.0]], [[0, -4]]),
        (tg.power, [[0.0, 0.0, 2.0], [0.0, 3.0, 0.0]], [[0, 0, 0], [0, 0, math.log(2)]]),
        (lambda b: 0.0**b, [[1.0, 2.0]], [[0, 0]]),
        (tg.prod, [[0.0, 2.0, 3.0]], [[6, 0, 0]]),
        (tg.prod, [[0.0, 2.0, 0.0]], [[0, 0, 0]]),
        (tg.square, [[0.0, -0.0]], [[0, 0]]),
    ],
)  # fmt: skip
def test_the_convention(
    f: Callable[..., tg.Tensor], values: list[Any], expected: list[Any]
) -> None:
    assert _gradient(f, *values) == expected


@pytest.mark.parametrize("f", [tg.max, tg.min])
@given(data=st.data())
def test_ties_conserve_the_cotangent(f: Callable[..., tg.Tensor], data: Any) -> None:
    values = data.draw(st.lists(st.integers(-1, 1), min_size=12, max_size=12))
    axis = data.draw(st.sampled_from([None, 0, 1, -1, (0, 2), (0, 1, 2)]))
    x = leaf(np.array(values, dtype=float).reshape(2, 3, 2))
    y = f(x, axis=axis)
    y.backward(tg.ones_like(y))
    assert x.grad is not None
    sums = x.grad.numpy().sum(axis=axis)
    assert_close(sums, np.ones(y.shape), 1e-15)
    _, tangent = tg.jvp(lambda x: f(x, axis=axis), x.detach(), const(np.ones(x.shape)))
    assert_close(tangent, np.ones(y.shape), 1e-15)


def test_the_fused_tie_rule_differentiates_again() -> None:
    hessian = tg.hessian(lambda x: tg.max(x) ** 3, const([2.0, 2.0, 1.0]))
    assert hessian.tolist() == [[3.0, 3.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]]


# --- extreme numbers ----------------------------------------------------------------------------

EXTREME: list[tuple[str, list[float]]] = [
    ("sigmoid", [-800.0, -700.0, -40.0, -1e-300, 0.0, 40.0, 800.0]),
    ("tanh", [-400.0, -20.0, 1e-200, 0.0, 20.0, 400.0]),
    ("expm1", [1e-300, -1e-12, 1e-12, -50.0, 0.0]),
    ("log1p", [1e-300, -1e-12, 1e-12, 1e300]),
    ("softmax", [1000.0, 999.0, -1000.0]),
    ("log_softmax", [1000.0, 999.0, -1000.0, 0.0]),
    ("logsumexp", [1000.0, 1000.0, -1000.0]),
    ("logsumexp", [-INF, 0.0, 1.0]),
    ("exp", [-800.0, 700.0, 0.0]),
    ("sqrt", [1e-300, 1e300]),
    ("std", [1e8, 1e8 + 1.0, 1e8 + 2.0]),
]


@pytest.mark.parametrize(("name", "values"), EXTREME)
def test_extreme_numbers_agree_with_torch(name: str, values: list[float]) -> None:
    t = needs_torch()
    options = {"softmax": {"dim": -1}, "log_softmax": {"dim": -1}, "logsumexp": {"dim": -1}}
    x, other = leaf(values), t.tensor(values, dtype=t.float64, requires_grad=True)
    y = getattr(tg, name)(x)
    expected = getattr(t, name)(
        other, **options.get(name, {"correction": 0} if name == "std" else {})
    )
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-13, atol=0)
    y.sum().backward()
    expected.sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_does_not_see_a_common_offset(dtype: str) -> None:
    """A user's logits often sit far from 0; the probabilities lose no digit by it."""
    logits = np.array([0.0, 1.0, -2.0], dtype=dtype)
    for function in (tg.softmax, tg.log_softmax):
        np.testing.assert_array_equal(
            function(const(logits + logits.dtype.type(4096))).numpy(),
            function(const(logits)).numpy(),
        )


def test_a_masked_row_of_minus_infinity() -> None:
    """An infinite score means "impossible": no NaN in values, gradients or second derivatives."""
    x = leaf([[0.0, -INF], [-INF, -INF]])
    y = tg.logsumexp(x, axis=1)
    assert y.tolist() == [0.0, -INF]
    y[0].backward(retain_graph=True)
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    (g,) = tg.grad(y, x, const([1.0, 1.0]), create_graph=True)
    assert g is not None
    assert g.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    (second,) = tg.grad(g[0, 0], x)
    assert second is not None
    assert second.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("f", "value"),
    [
        (lambda x: tg.relu(x), [-1.0, 1.0]),
        (lambda x: tg.abs(x), [0.0, 1.0]),
        (lambda x: tg.where(const([False, True]), x, 0.0), [3.0, 1.0]),
        (lambda x: tg.maximum(x, 0.5), [0.0, 1.0]),
        (lambda x: tg.clip(x, 0.5, 2.0), [0.0, 1.0]),
        (lambda x: tg.max(x, axis=0, keepdims=True) + tg.zeros(2), [0.0, 1.0]),
        (lambda x: x**0 + 0 * tg.zeros(2), [0.0, 1.0]),
    ],
)
def test_an_infinite_cotangent_does_not_leak_through_a_closed_gate(
    f: Callable[..., tg.Tensor], value: list[float]
) -> None:
    """``g * mask`` would make ∞ · 0 = NaN of it."""
    x = leaf(value)
    (g,) = tg.grad(f(x), x, const([INF, 1.0]))
    assert g is not None
    assert not np.isnan(g.numpy()).any()


def test_gradients_of_1e_minus_100_are_exact() -> None:
    """A chain of 200 steps: the product of the slopes, where a difference quotient says 0."""
    x = leaf(0.3)
    y = x
    for _ in range(200):
        y = tg.tanh(y * 0.3)
    y.backward()
    moved: Any = const(0.3 + 1e-20j)
    for _ in range(200):
        moved = tg.tanh(moved * 0.3)
    assert x.grad is not None
    assert 1e-106 < x.grad.item() < 1e-104
    assert_close(x.grad, moved.numpy().imag / 1e-20, 1e-13)


def test_nan_stays_visible() -> None:
    assert math.isnan(tg.max(const([1.0, NAN])).item())
    assert math.isnan(tg.minimum(const(NAN), const(1.0)).item())
    assert math.isnan(tg.relu(const(NAN)).item())
    assert math.isnan(tg.logsumexp(const([0.0, NAN])).item())
    (g,) = _gradient(lambda x: x * NAN, [1.0])
    assert math.isnan(g[0])
