"""Products and running products: no result and no gradient leaves its type on the way to it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, const, host, host_only, leaf
from tinygrad182.arrays import backend

ANYWHERE = st.lists(
    st.one_of(
        st.just(0.0),
        st.builds(
            math.ldexp,
            st.sampled_from([1.0, -1.5, 0.7, 1.9]),
            st.one_of(st.integers(-1060, 1020), st.integers(-2, 2)),
        ),
    ),
    min_size=1,
    max_size=7,
)


def _number(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def _near(found: Array, expected: list[Fraction]) -> None:
    """Check equality up to rounding or the smallest number; values beyond the type are infinite."""
    exact = np.array([_number(x) for x in expected])
    at_edge = np.array([abs(x) > Fraction(np.finfo(float).max) * (1 - 1e-12) for x in expected])
    with np.errstate(invalid="ignore"):
        close = np.isclose(found, exact, rtol=1e-14, atol=2e-323)
    assert np.all(close | (at_edge & np.isinf(found))), (found, exact)


def _fractions(values: list[float]) -> list[Fraction]:
    return [Fraction(x) for x in values]


@given(ANYWHERE)
@example([1e-254, 1e-51, 1e-131, 0.0, 1e150])
@example([1e197, 1e275, 1e-84, 1e-211, 1e10, 1e284])
@example([1e300, 1e300, 1e300, 0.0])
@example([1e200, 1e200, 1e-300])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_product_and_its_gradient_are_right_wherever_they_fit(
    recorded: bool, values: list[float]
) -> None:
    x, parts = leaf(np.array(values)), _fractions(values)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity times 0, along one of them
        y = tg.prod(x)
        (g,) = tg.grad(y, x, create_graph=recorded)
        _, along = tg.jvp(tg.prod, x.detach(), const(np.eye(len(values))[0]))
    others = [math.prod(parts[:i] + parts[i + 1 :], start=Fraction(1)) for i in range(len(parts))]
    assert g is not None
    _near(host(y)[None], [math.prod(parts, start=Fraction(1))])
    _near(host(g), others)
    if all(abs(x) < 10**300 for x in others):
        _near(host(along)[None], others[:1])


@given(ANYWHERE)
@example([1e-200, 1e200, 1e200, 1e-200])
@example([1e-200, 1.0, 1e200, 1e200])
@example([1e-200, 1e-200, 1e300])
@example([1.0, 0.0, 1e300, 1e300, 1e300])
@example([1e300, 1e300, 1e-300, 1e-300, 1e-300, 1e300])
def test_running_products_and_their_gradients_are_right_wherever_they_fit(
    values: list[float],
) -> None:
    x, parts = leaf(np.array(values)), _fractions(values)
    with np.errstate(over="ignore"):
        y = tg.cumulative_prod(x)
        (g,) = tg.grad(y.sum(), x, retain_graph=True)
        (of_last,) = tg.grad(y[-1], x)
    _near(host(y), [math.prod(parts[: i + 1], start=Fraction(1)) for i in range(len(parts))])
    n = range(len(parts))
    terms = [
        [math.prod(parts[:i] + parts[i + 1 : t + 1], start=Fraction(1)) for t in n[i:]] for i in n
    ]
    assert g is not None
    assert of_last is not None
    _near(host(of_last), [row[-1] for row in terms])
    # what cancels is right to the rounding of what it is the sum of
    for found, row in zip(host(g), terms, strict=True):
        size = sum(map(abs, row))
        if size < Fraction(np.finfo(float).max):
            assert abs(Fraction(float(found)) - sum(row)) <= size / 10**14 + Fraction(2e-323)
        elif all(term >= 0 for term in row):
            assert found == math.inf or found > 1e308


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 64, 65, 700, 3000])
def test_a_running_product_is_multiplied_in_numpys_order(dtype: str, n: int) -> None:
    x = (2.0 ** np.random.default_rng(n).uniform(-0.5, 0.5, (2, n))).astype(dtype)
    np.testing.assert_array_equal(host(tg.cumulative_prod(const(x), 1)), np.cumprod(x, 1))


def test_gradients_of_long_products_are_those_of_short_ones() -> None:
    """The products are longer than the blocks in which mantissas are multiplied."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1, 1], 3000) * 2.0 ** rng.uniform(-1, 1, 3000)
    a, b = leaf(x), leaf(np.log(np.abs(x)))
    tg.prod(a).backward()
    sign, (size,) = np.prod(np.sign(x)), np.exp([np.log(np.abs(x)).sum()])
    assert a.grad is not None
    np.testing.assert_allclose(host(a.grad), sign * size / x, rtol=1e-11)
    positive = leaf(np.abs(x))
    g = rng.uniform(0, 1, 3000)
    (tg.cumulative_prod(positive) * const(g)).sum().backward()
    (tg.exp(tg.cumulative_sum(b)) * const(g)).sum().backward()
    assert positive.grad is not None
    assert b.grad is not None
    np.testing.assert_allclose(host(positive.grad), host(b.grad) / np.abs(x), rtol=1e-10)


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2), -1])
def test_products_of_whole_numbers_keep_their_type(axis: int | tuple[int, ...] | None) -> None:
    x = np.arange(1, 13, dtype="int32").reshape(2, 2, 3)
    for dtype in ("int8", "int32", "int64", "bool"):
        y = tg.prod(const(x.astype(dtype)), axis=axis)
        assert y.dtype == dtype
        np.testing.assert_array_equal(host(y), np.prod(x.astype(dtype), axis=axis, dtype=dtype))
        running = tg.cumulative_prod(const(x.astype(dtype)), axis=1)
        assert running.dtype == dtype


def test_second_derivatives_are_right_at_0() -> None:
    x = np.array([2.0, 0.0, 3.0, 0.0])
    hessian = tg.hessian(lambda v: tg.cumulative_prod(v).sum(), const(x))
    assert host(hessian).tolist() == [[0, 4, 0, 0], [4, 0, 2, 6], [0, 2, 0, 0], [0, 6, 0, 0]]


TYPES = "?bBhHiIlLefdgFDG"


@host_only("the forms are NumPy's")
@pytest.mark.parametrize("left", TYPES)
def test_products_of_matrices_are_numpys(left: str) -> None:
    """Products of every type with every other, in any layout, with and without axes of length 0."""
    rng, xp = np.random.default_rng(0), backend.NUMPY
    for right in TYPES:
        for m, k, n in [
            (3, 4, 5),
            (1, 1, 1),
            (0, 3, 2),
            (2, 0, 3),
            (2, 3, 0),
            (2, 300, 1),
            (99, 5, 3),
        ]:
            a = (rng.normal(size=(m, k)) * 5).astype(left)
            b = (rng.normal(size=(k, n)) * 5).astype(right)
            for x, y in [
                (a, b),
                (np.asfortranarray(a), np.repeat(b, 2, axis=0)[::2]),
                (a[::-1, ::-1], b[::-1]),
            ]:
                found, expected = xp.matmul(x, y), np.matmul(x, y)
                assert found.dtype == expected.dtype
                size = np.abs(x.astype("G")) @ np.abs(y.astype("G"))
                exact = found.dtype.kind not in "fc"
                eps = 0 if exact else 16 * np.finfo(found.dtype).eps
                if exact:
                    np.testing.assert_array_equal(found, expected)
                assert exact or (np.abs(found - expected) <= eps * np.abs(size)).all()
                assert np.array_equal(found, xp.matmul(x, y))


@host_only("the forms are NumPy's")
def test_a_product_of_halves_is_added_up_in_float32() -> None:
    ones = np.ones((1, 4096), np.float16)
    assert backend.NUMPY.matmul(ones, ones.T).item() == 4096  # a count in halves ends at 2048


@host_only("the forms are NumPy's")
def test_products_of_other_than_two_matrices() -> None:
    rng, xp = np.random.default_rng(0), backend.NUMPY
    for a, b in [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
    ]:
        x, y = rng.normal(size=a), rng.normal(size=b)
        np.testing.assert_allclose(xp.matmul(x, y), np.matmul(x, y), rtol=1e-14)
    with pytest.raises(tg.ShapeError, match=r"\(2, 3\).*\(2, 3\).*the last axis of the first"):
        tg.matmul(leaf(np.ones((2, 3))), np.ones((2, 3)))
