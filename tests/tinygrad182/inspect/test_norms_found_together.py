"""Norms of many gradients are found together, later in the pass, and nothing is lost by that.

Every step multiplies by a power of two, so that the gradients' logarithms are known exactly. A state is 0,
whose values neither vanish nor explode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, const, host_only, leaf
from tinygrad182.inspect.passes import gradients

mark = tg.inspect.mark


def chain(
    rates: Sequence[Any], dtype: str = "float32", size: int = 3, between: int = 0, name: str = "h"
) -> list[tg.Tensor]:
    """The states of h ← h·2^rate, with some operations between that change nothing."""
    h = leaf(np.zeros((2, size), dtype))
    states = []
    for t, rate in enumerate(rates):
        h = h * const(np.broadcast_to(np.exp2(rate), h.shape).astype(dtype))
        for _ in range(between):
            h = h + 0.0
        h = mark(h, name, t)
        states.append(h)
    return states


def behind(rates: Sequence[float]) -> Array:
    """The power of two of the last state's gradient by each state."""
    return np.append(np.cumsum(rates[:0:-1])[::-1], 0.0)


def logs(loss: tg.Tensor, name: str = "h") -> Array:
    """The powers of two of the gradients' norms."""
    (stack,) = tg.inspect.gradient_flow(loss).values()
    return stack[name].log_grad_norm / np.log(2)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one with every backward pass of a view."""
    made: list[Any] = []
    run = gradients.backpropagate
    monkeypatch.setattr(gradients, "backpropagate", lambda *a, **k: made.append(a) or run(*a, **k))
    return made


RATES = [-0.25, 1.0, -2.0, 7.0, -15.0, 31.0, -31.0, 32.0, -33.0, 45.0, -59.0, 59.0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("between", "size"), [(0, 3), (2, 3), (70, 3), (0, 3000)])
@pytest.mark.parametrize("T", [4, 40])
def test_norms_are_right_at_every_rate(rate: float, between: int, size: int, T: int) -> None:
    """Four steps are seen at the end of the pass alone, and so are those of few, many or large arrays."""
    loss = chain([rate] * T, between=between, size=size)[-1].sum()
    expected = behind([rate] * T) + np.log2(2 * size) / 2
    np.testing.assert_allclose(logs(loss), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 6), ("float32", 59), ("float64", 500)])
@pytest.mark.parametrize("seed", range(5))
def test_norms_are_right_where_rates_jump(dtype: str, limit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rates = np.round(rng.uniform(-limit, limit, 60) * (rng.random(60) < rng.random()))
    loss = chain(list(rates), dtype, between=seed)[-1].sum()
    np.testing.assert_allclose(
        logs(loss), behind(list(rates)) + np.log2(6) / 2, rtol=1e-6, atol=1e-3
    )


@pytest.mark.parametrize("rate", [1.0, 8.0, 20.0])
def test_a_sample_vanishes_beside_one_that_explodes(rate: float) -> None:
    rates = np.array([[-rate], [rate]])
    (stack,) = tg.inspect.gradient_flow(chain([rates] * 40)[-1].sum()).values()
    expected = rates.T * np.arange(39.0, -1.0, -1.0)[:, None]
    np.testing.assert_allclose(np.log2(stack.h.sample_grad_norm), expected + np.log2(3) / 2)


def test_zeros_stay_zeros_and_hide_nothing() -> None:
    """Elements that are masked after they went beyond the limit are 0 before; the others are right."""
    rates = [np.full(3, -30.0) for _ in range(40)]
    rates[35][0] = rates[2][1] = -np.inf
    (stack,) = tg.inspect.gradient_flow(chain(rates)[-1].sum()).values()
    alive = np.where(np.arange(40) >= 35, 3, np.where(np.arange(40) >= 2, 2, 1))
    expected = behind([-30.0] * 40) + np.log2(2 * alive) / 2
    np.testing.assert_allclose(stack.h.log_grad_norm / np.log(2), expected, rtol=1e-6)
    assert tg.inspect.gradient_flow((chain(rates)[-1] * 0.0).sum())[""].h.grad_norm.max() == 0.0


@pytest.mark.parametrize("beside", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_hides_nothing_that_its_type_holds(beside: float) -> None:
    cotangent = const(np.float32([[beside] * 3, [1.0] * 3]))
    flow = tg.inspect.gradient_flow(chain([-5.0] * 20)[-1], gradient=cotangent)
    norms = flow[""].h.sample_grad_norm
    assert not np.isfinite(norms[:, 0]).any()
    expected = behind([-5.0] * 20) + np.log2(3) / 2
    np.testing.assert_allclose(np.log2(norms[:, 1]), expected, rtol=1e-6)


@pytest.mark.parametrize("power", [511, 512, 513, 1000, -511, -512, -513, -1000])
def test_a_loss_of_any_size(power: int) -> None:
    """2^512 is where float64 counts as near its end, and its square is beyond it."""
    loss = (chain([-1.0] * 3, "float64")[-1] * 2.0**power).sum()
    np.testing.assert_allclose(logs(loss), behind([-1.0] * 3) + power + np.log2(6) / 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_types_are_looked_at_each_by_its_own_limit(dtype: str) -> None:
    """Half precision loses gradients that float64 represents well."""
    rates = [-7.0] * 20
    other = [0.0] * 20
    narrow, wide = chain(rates, "float32", name="a"), chain(other, dtype, name="b")
    loss = narrow[-1].sum() + wide[-1].sum()
    (stack,) = tg.inspect.gradient_flow(loss).values()
    np.testing.assert_allclose(
        stack["a"].log_grad_norm / np.log(2), behind(rates) + np.log2(6) / 2, rtol=1e-6
    )
    loss = chain([-6.0] * 20, "float16", name="a")[-1].sum() + chain(other, name="b")[-1].sum()
    (stack,) = tg.inspect.gradient_flow(loss).values()
    np.testing.assert_allclose(
        stack["a"].log_grad_norm / np.log(2), behind([-6.0] * 20) + np.log2(6) / 2, rtol=1e-3
    )


@pytest.mark.parametrize("rate", [-0.5, -12.0, 59.0])
def test_several_losses_go_back_together(rate: float) -> None:
    """Each loss begins at another step, and their sizes are far apart."""
    states = chain([rate] * 30)
    losses = [(states[k].sum() * 2.0 ** (k - 15)) for k in (5, 17, 29)]
    found = tg.inspect.state_grad_matrix(losses, log=True)
    for row, k in zip(found, (5, 17, 29), strict=True):
        expected = rate * (k - np.arange(k + 1)) + k - 15 + np.log2(6) / 2
        np.testing.assert_allclose(row[: k + 1] / np.log(2), expected, rtol=1e-5, atol=1e-5)
        assert np.isneginf(row[k + 1 :]).all()


@pytest.mark.parametrize("rate", RATES)
def test_numbers_without_axes(rate: float) -> None:
    h, w = leaf(np.float32(0.0)), const(np.float32(2.0**rate))
    for t in range(40):
        h = mark(h * w, "h", t)
    np.testing.assert_allclose(logs(h), behind([rate] * 40), rtol=1e-6, atol=1e-6)


@host_only("a device is not waited for: there the pass has another way")
@pytest.mark.parametrize(
    ("rates", "times"),
    [
        ([0.0] * 100, 1),
        ([-1.0] * 300, 1),  # from the second or third look on, each is looked at before it goes on
        ([1.0] * 300, 1),
        ([-0.6] * 300 + [0.0] * 15, 1),  # within 64 operations from near 1 to beyond what is held
        ([-math.pi] * 100, 2),
        ([-59.0] * 3 + [0.0] * 10, 2),
    ],
)
def test_a_pass_is_made_again_only_where_something_may_be_lost(
    passes: list[Any], rates: list[float], times: int
) -> None:
    logs(chain(rates)[-1].sum())
    assert len(passes) == times


@host_only("a device is not waited for: there the pass has another way")
@pytest.mark.parametrize("radius", [0.5, 0.9, 1.2])
def test_a_loop_that_vanishes_as_loops_do_is_gone_through_once(
    passes: list[Any], radius: float
) -> None:
    rng = np.random.default_rng(0)
    V = rng.normal(size=(16, 16))
    V *= radius / np.abs(np.linalg.eigvals(V)).max()
    V, x = leaf(V.astype(np.float32)), const(rng.normal(size=(200, 2, 16)).astype(np.float32))
    h = const(np.zeros((2, 16), np.float32))
    for t in range(200):
        h = mark(tg.tanh(x[t] + h @ V), "h", t)
    logs(h.sum())
    assert len(passes) == 1


@host_only("a device is not waited for: there the pass has another way")
def test_gradients_near_1_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(gradients, "is_in_range", lambda g: looks.append(g) or True)
    farthest = gradients.farthest
    monkeypatch.setattr(gradients, "farthest", lambda g: looks.append(g) or farthest(g))
    logs(chain([0.0] * 100)[-1].sum())
    assert len(looks) < 5
