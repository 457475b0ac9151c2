"""Extreme numbers: large and tiny values keep their digits; infinities and NaN remain visible."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, const, host_only, leaf, needs_torch

INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


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


@pytest.mark.parametrize(
    ("f", "last", "gone"),
    [(tg.tanh, 18.0, 20.0), (tg.sigmoid, 36.0, 38.0)],
    ids=["tanh", "sigmoid"],
)
def test_where_a_saturated_derivative_ends(
    f: Callable[..., tg.Tensor], last: float, gone: float
) -> None:
    """The derivative is computed from the value; below 0, sigmoid's keeps every digit."""
    x = leaf([last, gone])
    f(x).sum().backward()
    assert x.grad is not None
    small, zero = x.grad.tolist()
    assert 0 < small < 1e-14
    assert zero == 0


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


@pytest.mark.parametrize(
    "f",
    [
        tg.relu,
        tg.abs,
        tg.tanh,
        tg.sigmoid,
        tg.max,
        tg.std,
        tg.prod,
        tg.softmax,
        lambda x: tg.clip(x, -1, 1),
        lambda x: tg.maximum(x, 0),
        lambda x: tg.minimum(0, x),
        lambda x: x**2,
        lambda x: x / 2,
    ],
)
def test_a_nan_state_does_not_give_its_weights_a_gradient_of_zero(
    f: Callable[..., tg.Tensor],
) -> None:
    """A loss that is NaN has a gradient that is NaN, all the way back."""
    w = leaf([1.0])
    loss = (f(w * const([NAN, 2.0])) ** 2).sum()
    loss.backward()
    assert math.isnan(loss.item())
    assert w.grad is not None
    assert np.isnan(w.grad.numpy()).all()


def test_the_hessian_of_power_at_an_exponent_of_zero() -> None:
    """∂²(aᵇ)/∂a∂b = aᵇ⁻¹ (1 + b ln a), which is 1/a at b = 0; both ways round."""
    at = [np.array([0.5, 2.0, 3.0]), np.array([0.0, 0.0, 2.0])]
    a, b = map(leaf, at)
    by_a, by_b = tg.grad((a**b).sum(), [a, b], create_graph=True)
    assert by_a is not None
    assert by_b is not None
    expected = at[0] ** (at[1] - 1) * (1 + at[1] * np.log(at[0]))
    for first, other in ((by_a, b), (by_b, a)):
        (mixed,) = tg.grad(first.sum(), other, retain_graph=True)
        assert mixed is not None
        assert_close(mixed, expected, 1e-14)


def test_the_second_derivative_of_power_by_a_base_of_zero() -> None:
    """b (b − 1) 0ᵇ⁻² at whole b: 2 for b = 2, else 0."""
    a, b = leaf([0.0, 0.0, 0.0, 0.0]), const([0.0, 1.0, 2.0, 3.0])
    (first,) = tg.grad((a**b).sum(), a, create_graph=True)
    assert first is not None
    (second,) = tg.grad(first.sum(), a)
    assert second is not None
    assert second.tolist() == [0, 0, 2, 0]


TINY = [5e-324, 1.5e-323, 2.8e-309, 1.1e-308, 2.3e-308, 1e-8, 0.5]
SMALL_EXPONENTS = [0.0, -0.0, 5e-324, -1.5e-323, 2.8e-309, -1e-12, 1e-4, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("exponent", SMALL_EXPONENTS)
@host_only("a card counts subnormal numbers as 0 where it divides")
def test_powers_of_subnormal_numbers(exponent: float) -> None:
    """b·a**(b − 1) where it is a number, and 0 where b is 0, though a**(b − 1) be infinite."""
    values = np.array([*TINY, *(-a for a in TINY)] if exponent in (0, 1, 2) else TINY)
    a, b = leaf(values), leaf(np.full(values.shape, exponent))
    ga, gb = tg.grad((a**b).sum(), [a, b], create_graph=True)
    assert_close(ga, np.array([_slope(x, exponent) for x in values]), 1e-12)
    by_exponent = [math.exp(exponent * math.log(x)) * math.log(x) for x in TINY]
    assert_close(gb.numpy()[: len(TINY)], np.array(by_exponent), 1e-12)


def _slope(a: float, b: float) -> float:
    """The derivative b·a**(b − 1), by the logarithms of its factors."""
    if b in (0, 1, 2):
        return (0.0, 1.0, 2 * a)[int(b)]
    exponent = math.log(abs(b)) + (b - 1) * math.log(a)
    return math.copysign(math.exp(exponent) if exponent < 709 else INF, b)


def test_the_mixed_derivative_of_a_power_at_exponent_0() -> None:
    a, b = leaf([0.5, 3.0]), leaf([0.0, 0.0])
    (by_a,) = tg.grad((a**b).sum(), a, create_graph=True)
    assert_close(tg.grad(by_a.sum(), b)[0], 1 / np.array([0.5, 3.0]), 1e-15)
    assert_close(tg.hessian(lambda x: (x ** leaf([0.0])).sum(), leaf([2.0])), [[0.0]], 0)
