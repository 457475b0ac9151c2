"""Cotangents that would under- or overflow: float32 against a plain float64 pass that holds them.

All factors are positive, so that nothing cancels and every number is known to a few float32 roundings.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_same_bits, const, host
from tinygrad182.inspect.passes import scaling
from tinygrad182.inspect.passes.scaling import times_power

Flow = tg.inspect.StateFlow
mark = tg.inspect.mark


def wild(rng: np.random.Generator, shape: tuple[int, ...], spread: float, zeros: float) -> Array:
    """Numbers of very different sizes, some of them 0, that float32 holds."""
    array = rng.uniform(0.5, 1.0, shape) * 2.0 ** np.round(rng.uniform(-spread, spread, shape))
    array[rng.random(shape) < zeros] = 0.0
    return array.astype(np.float32)


def two_layers(
    seed: int, T: int, drift: float, spread: float, zeros: float, dtype: str
) -> tuple[Flow, Flow]:
    """Two linear recurrences, the second reading all states of the first at once, as layers do.

    The states are zeros: what is measured is the backward pass alone.
    """
    rng = np.random.default_rng(seed)
    B, H = 3, 2
    gains = wild(rng, (2, T, B, H), spread, zeros) * np.float32(2.0**drift)
    weights = [wild(rng, (H, H), 2, 0.0) for _ in range(3)]
    losses = wild(rng, (2, T, B, H), 60.0, 0.8)
    w = [tg.tensor(a.astype(dtype), requires_grad=True) for a in weights]
    states: list[list[tg.Tensor]] = [[], []]
    h = tg.zeros((B, H), dtype=dtype)
    for t in range(T):
        h = mark((h * const(gains[0, t].astype(dtype))) @ w[0], "first", t)
        states[0].append(h)
    between = tg.stack(states[0]) @ w[1]
    h = tg.zeros((B, H), dtype=dtype)
    for t in range(T):
        h = mark((h * const(gains[1, t].astype(dtype))) @ w[2] + between[t], "second", t)
        states[1].append(h)
    both = tg.stack([tg.stack(layer) for layer in states])
    stack = tg.inspect.gradient_flow((both * const(losses.astype(dtype))).sum())[""]
    return stack.first, stack.second


@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.sampled_from([-20.0, 0.0, 20.0]),
    st.sampled_from([0.0, 5.0, 20.0]),
    st.sampled_from([0.0, 0.3]),
)
def test_float32_agrees_with_float64_for_every_sample(
    seed: int, T: int, drift: float, spread: float, zeros: float
) -> None:
    for single, double in zip(
        two_layers(seed, T, drift, spread, zeros, "float32"),
        two_layers(seed, T, drift, spread, zeros, "float64"),
        strict=True,
    ):
        np.testing.assert_allclose(single.sample_grad_norm, double.sample_grad_norm, rtol=1e-5)
        np.testing.assert_allclose(single.grad_norm, double.grad_norm, rtol=1e-5)
        np.testing.assert_allclose(single.log_grad_norm, double.log_grad_norm, atol=1e-5)
        with np.errstate(over="ignore", under="ignore"):
            rounded = host(double.grad).astype(np.float32)
        np.testing.assert_allclose(host(single.grad), rounded, rtol=1e-5, atol=1e-44)


def test_the_property_above_leaves_the_range_of_float32() -> None:
    sizes = np.concatenate(
        [
            flow.sample_grad_norm.ravel()
            for drift in (-20.0, 20.0)
            for seed in range(10)
            for flow in two_layers(seed, 12, drift, 20.0, 0.3, "float64")
        ]
    )
    assert sizes[sizes > 0].min() < 1e-50
    assert sizes.max() > 1e60
    assert (sizes == 0).any()


def test_samples_that_explode_beside_samples_that_vanish() -> None:
    T = 150
    gains = np.float32([[10.0], [1.0], [0.1]])
    w = tg.ones((1, 1), requires_grad=True)
    h = tg.zeros((3, 1))
    for t in range(T):
        h = mark((h * const(gains)) @ w, "h", t)
    flow = tg.inspect.gradient_flow(h.sum())[""].h
    lags = np.arange(T)[::-1, None]
    expected = np.concatenate([10.0**lags, 10.0 ** (0 * lags), 10.0**-lags], axis=1)
    np.testing.assert_allclose(flow.sample_grad_norm, expected, rtol=1e-5)
    whole = np.log(np.linalg.norm(expected, axis=1))
    np.testing.assert_allclose(flow.log_grad_norm, whole, atol=1e-5)


def test_a_zero_beyond_the_range_does_not_hide_what_is_in_it() -> None:
    """The path that exploded ends at a closed gate; the direct path to the loss stays."""
    w = tg.ones((1, 1), requires_grad=True)
    start = mark(w * 1.0, "start", 0)
    h = start * tg.zeros((1, 1))
    for _ in range(30):
        h = h * 1e4
    flow = tg.inspect.gradient_flow(3.0 * start.sum() + h.sum())[""].start
    assert flow.grad_norm[0] == 3.0
    assert flow.grad.item() == 3.0


@pytest.mark.parametrize("explodes", [False, True])
def test_numbers_without_axes(explodes: bool) -> None:
    factor = 4.0 if explodes else 0.25
    w = tg.tensor(factor, requires_grad=True)
    h = w * 0.0
    for t in range(600):
        h = mark(h * w, "h", t)
    flow = tg.inspect.gradient_flow(h)[""].h
    expected = math.log(factor) * np.arange(600)[::-1]
    np.testing.assert_allclose(flow.log_grad_norm, expected, atol=1e-9)
    assert flow.sample_grad_norm.shape == (600, 1)
    assert flow.grad.shape == (600,)


@pytest.mark.parametrize("factor", [2.0**40, 2.0**-40])
def test_numbers_without_axes_and_a_loss_at_every_step(factor: float) -> None:
    """Contributions of different powers of two meet at every state."""
    w = tg.tensor(factor, requires_grad=True)
    h = w * 0.0
    total = tg.tensor(0.0)
    for t in range(60):
        h = mark(h * w, "h", t)
        total = total + h
    flow = tg.inspect.gradient_flow(total)[""].h
    lags = np.arange(60)[::-1]
    expected = np.log(factor) * lags if factor > 1 else 0.0 * lags  # the largest term tells
    np.testing.assert_allclose(flow.log_grad_norm, expected, atol=1e-6)


def test_half_precision() -> None:
    w = tg.tensor([[0.25]], dtype="float16", requires_grad=True)
    h = tg.zeros((1, 1), dtype="float16")
    for t in range(100):
        h = mark(h @ w, "h", t)
    flow = tg.inspect.gradient_flow(h.sum())[""].h
    np.testing.assert_allclose(flow.log_grad_norm, -math.log(4) * np.arange(100)[::-1], atol=1e-9)
    assert flow.grad.dtype == np.float16


@pytest.mark.parametrize("apart", range(14))
def test_half_precision_keeps_what_shows_beside_another(apart: int) -> None:
    s = tg.tensor([[1.0]], dtype="float16", requires_grad=True)
    for exponent in range(-48, -40):
        flows = []
        for dtype in ("float16", "float64"):
            h = mark(s.astype(dtype) * 1.0, "h", 0)
            total = tg.zeros((), dtype=dtype)
            for n in (exponent, exponent - apart):
                y = h
                for step in [4] * (-n // 4) + [-n % 4]:
                    y = y * 2.0**-step
                total = total + y.sum()
            flows.append(tg.inspect.gradient_flow(total)[""].h.log_grad_norm)
        np.testing.assert_allclose(*flows, atol=2.0**-11)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bands_keep_what_shows_of_their_sum(dtype: str) -> None:
    """Two elements wherever they lie on the grid of powers, and however far apart."""
    info = np.finfo(dtype)
    unit = int(info.maxexp) // 2
    one = np.ones((1, 1), dtype)
    for top in range(0, unit, max(unit // 16, 1)):
        for apart in range(0, 5 * unit, max(unit // 16, 1)):
            powers = (top, top - apart)
            by_row = [(np.tile(one, (2, 1)), np.array([[p], [p - 900]])) for p in powers]
            for bands in (
                scaling.disjoint([b for p in powers for b in scaling.split(one, p)]),
                scaling.by_rank(by_row),
            ):
                ((g, power),) = bands
                found = math.ldexp(float(g[0, 0]), int(np.ravel(power)[0]) - top)
                assert abs(found - (1 + 2.0**-apart)) <= float(info.eps)


def test_a_change_of_dtype_on_the_way() -> None:
    w = tg.tensor([[0.5]], requires_grad=True)
    h = tg.zeros((1, 1))
    for t in range(400):
        step = h @ w
        h = mark(step.astype("float64").astype("float32") if t % 2 else step, "h", t)
    flow = tg.inspect.gradient_flow(h.sum())[""].h
    np.testing.assert_allclose(flow.log_grad_norm, -math.log(2) * np.arange(400)[::-1], atol=1e-9)


def test_in_range_the_arrays_are_those_of_a_plain_pass() -> None:
    """To the bit: also where the elements of one array lie 59 decades apart."""
    w = tg.tensor([[3.0, 0.0], [0.0, 0.3]], requires_grad=True)
    h = const(np.float32(np.eye(2) * 1e-30))
    states = []
    for t in range(61):
        h = mark(h @ w, "h", t)
        states.append(h)
    loss = h.sum()
    flow = tg.inspect.gradient_flow(loss)[""].h
    sizes = host(flow.grad).astype(np.float64)
    assert sizes.max() / sizes.min() > 1e59
    for t, expected in enumerate(tg.grad(loss, states)):
        assert expected is not None
        assert_same_bits(flow.grad[t], expected.numpy(), f"t = {t}")


@given(
    st.floats(-1e3, 1e3).map(np.float32),
    st.integers(-400, 400),
    st.sampled_from(["float32", "float64"]),
)
def test_times_power_is_the_rounded_product(x: np.float32, power: int, dtype: str) -> None:
    with np.errstate(over="ignore", under="ignore"):
        expected = np.ldexp(np.float64(x), power).astype(dtype)
        found = times_power(np.array([x], dtype), power)[0]
    smallest = np.finfo(dtype).smallest_normal
    if abs(expected) >= smallest or expected == 0 == x:
        assert found == expected
    else:  # rounded twice, among the subnormal numbers
        assert abs(found - expected) <= np.finfo(dtype).smallest_subnormal


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    w = tg.ones((2, 1), requires_grad=True)
    h = mark(w * 1.0, "h", 0)
    g = mark(h * const(np.float32([[bad], [1.0]])), "h", 1)
    flow = tg.inspect.gradient_flow(g.sum())[""].h
    np.testing.assert_array_equal(host(flow.grad)[0], [[bad], [1.0]])
    np.testing.assert_array_equal(flow.grad_norm, [bad, math.sqrt(2)])
    np.testing.assert_array_equal(flow.sample_grad_norm, [[bad, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(flow.log_grad_norm, [bad, math.log(2) / 2], rtol=1e-15)


def test_what_is_not_finite_beside_what_has_another_power() -> None:
    w = tg.ones((2, 1), requires_grad=True)
    start = mark(w * 1.0, "start", 0)
    h = start * 0.0
    for _ in range(5):
        h = h * 2.0**-40
    direct = start * const(np.float32([[np.inf], [3.0]]))
    flow = tg.inspect.gradient_flow((direct + h).sum())[""].start
    np.testing.assert_array_equal(flow.sample_grad_norm, [[np.inf, 3.0]])
    h = start * 1.0
    for _ in range(5):
        h = h * 2.0**-40
    flow = tg.inspect.gradient_flow((direct + h).sum())[""].start
    np.testing.assert_array_equal(flow.sample_grad_norm, [[np.inf, 3.0]])
    for _ in range(10):
        h = h * 2.0**40
    flow = tg.inspect.gradient_flow((direct + h).sum())[""].start
    np.testing.assert_array_equal(flow.sample_grad_norm, [[np.inf, 2.0**200]])
