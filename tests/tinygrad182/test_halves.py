"""float16: every sum of halves is computed in float32, forward and backward, and returned as halves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, const, host, leaf

MANY = 70_000  # more than the largest half, 65,504
SMALLEST = 2.0**-24
EPSILON = 2.0**-10

ROWS = np.random.default_rng(0).uniform(0.1, 0.6, (MANY, 2)).astype(np.float16)
SHORT = np.random.default_rng(1).uniform(0.9, 1.1, (300, 5)).astype(np.float16)
TIED = np.full((MANY, 2), 0.5, np.float16)

Function = Callable[..., tg.Tensor]

REDUCTIONS: list[tuple[str, Function, Array]] = [
    ("sum", lambda x: tg.sum(x, axis=0), ROWS),
    ("mean", lambda x: tg.mean(x, axis=0), ROWS),
    ("mean-all", lambda x: tg.mean(x), ROWS * 100),
    ("var", lambda x: tg.var(x, axis=0), ROWS * 100),
    ("var-correction", lambda x: tg.var(x, axis=0, correction=1), ROWS),
    ("std", lambda x: tg.std(x, axis=0), ROWS * 500),
    ("max", lambda x: tg.max(x, axis=0), TIED),
    ("min", lambda x: tg.min(x, axis=0), TIED),
    ("logsumexp", lambda x: tg.logsumexp(x, axis=0), ROWS),
    ("softmax", lambda x: tg.softmax(x, axis=0), ROWS),
    ("log_softmax", lambda x: tg.log_softmax(x, axis=0), ROWS),
    ("cumulative_sum", lambda x: tg.cumulative_sum(x, axis=0), ROWS),
    ("prod", lambda x: tg.prod(x, axis=0), SHORT),
    ("cumulative_prod", lambda x: tg.cumulative_prod(x, axis=0), SHORT),
    ("norm", lambda x: tg.norm(x, axis=0), ROWS * 500),
    ("norm-1", lambda x: tg.norm(x, 1, axis=0), ROWS),
    ("norm-3", lambda x: tg.norm(x, 3, axis=0), ROWS * 500),
    ("average", lambda x: tg.average(x, axis=0), ROWS),
    ("nanmean", lambda x: tg.nanmean(x, axis=0), ROWS),
    ("nanvar", lambda x: tg.nanvar(x, axis=0), ROWS),
    ("einsum", lambda x: tg.einsum("ij->j", x), ROWS),
    ("einsum-two", lambda x: tg.einsum("ij,i->j", x, x[:, 0]), ROWS),
    ("matmul", lambda x: x[:, 0] @ x, ROWS),
    ("vdot", lambda x: tg.vdot(x, x * 0.5), ROWS),
    ("trace", lambda x: tg.trace(tg.reshape(x[:62500, 0], (250, 250))), ROWS),
    ("broadcast", lambda x: (tg.sum(x[0], keepdims=True) * x[:, 0]).sum(), ROWS),
    ("take", lambda x: tg.take(x[:3], np.arange(MANY) % 3, axis=0).mean(), ROWS),
]  # fmt: skip


@pytest.mark.parametrize(("f", "x"), [r[1:] for r in REDUCTIONS], ids=[r[0] for r in REDUCTIONS])
def test_a_reduction_of_halves_is_exact_but_for_its_rounding(f: Function, x: Array) -> None:
    found, expected = [], []
    for out, dtype in ((found, np.float16), (expected, np.float64)):
        tensor = leaf(x.astype(dtype))
        y = f(tensor)
        assert y.dtype == dtype
        y.mean().backward()
        assert tensor.grad is not None
        out += [host(y), host(tensor.grad)]
        assert tensor.grad.dtype == dtype
    for a, b in zip(found, expected, strict=True):
        # what is stored is rounded: once as a result, and at most twice on the way of a gradient
        np.testing.assert_allclose(a.astype(float), b, rtol=4 * EPSILON, atol=4 * SMALLEST)


def test_what_is_out_of_a_halfs_range_is_so_only_at_the_end() -> None:
    x = const(np.full((300, 500), 100, np.float16))
    assert tg.mean(x).item() == 100
    assert tg.var(x).item() == 0
    assert tg.mean(tg.ones(MANY, dtype="float16")).item() == 1
    with np.errstate(over="ignore"):
        assert np.isinf(tg.sum(x).item())


def test_a_half_of_a_tie_is_sent_to_each_of_many() -> None:
    x = leaf(TIED)
    tg.max(x).backward()
    assert x.grad is not None
    np.testing.assert_allclose(host(x.grad).astype(float), 1 / (2 * MANY), rtol=0, atol=SMALLEST)


def test_tangents_of_halves_are_those_of_float64() -> None:
    for f in (tg.mean, tg.var, tg.logsumexp, tg.max, tg.norm):
        _, found = tg.jvp(f, const(ROWS), const(ROWS))
        _, expected = tg.jvp(f, const(ROWS.astype(float)), const(ROWS.astype(float)))
        assert isinstance(found, tg.Tensor)
        assert isinstance(expected, tg.Tensor)
        np.testing.assert_allclose(found.item(), expected.item(), rtol=2 * EPSILON)


def test_numpys_functions_of_halves_are_ours() -> None:
    x: Any = leaf(ROWS)
    for f in (np.mean, np.std, np.linalg.norm):
        assert f(x).dtype == np.float16
        np.testing.assert_allclose(f(x).item(), f(ROWS.astype(float)), rtol=EPSILON)


USED_MANY_TIMES: dict[str, Function] = {
    "stack": lambda x: tg.sum(tg.stack([x] * 3000)),
    "concat": lambda x: tg.sum(tg.concat([x] * 3000)),
    "one-by-one": lambda x: sum((tg.astype(x, "float32") for _ in range(3000)), tg.zeros(1)).sum(),
    "parts": lambda x: tg.sum(tg.stack([x[i % 1] for i in range(3000)])),
    "running product": lambda x: tg.sum(tg.cumulative_prod(tg.concat([x] * 77))),
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", USED_MANY_TIMES)
def test_gradients_of_what_is_used_many_times_add_up(name: str, recorded: bool) -> None:
    x = leaf(np.ones(1, np.float16))
    (g,) = tg.grad(USED_MANY_TIMES[name](x), x, create_graph=recorded)
    assert g is not None
    assert g.dtype == np.float16
    assert host(g) == (77 * 78 / 2 if name == "running product" else 3000)


def test_a_running_product_of_many_halves_has_a_gradient() -> None:
    x = 2.0 ** np.random.default_rng(0).uniform(-2, 2, 3000)
    with np.errstate(over="ignore"):
        half = leaf(x.astype(np.float16))
        tg.cumulative_prod(half).sum().backward()
        assert not np.isnan(host(half.grad)).any()


ALL = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
ELEMENTWISE = """
    exp expm1 log log1p log2 log10 sqrt sin cos sinh cosh tanh asin acos atan asinh sigmoid relu abs square
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_function_of_every_half_is_right_to_two_units(name: str) -> None:
    x = ALL[np.isfinite(ALL)]
    f = getattr(tg, name)
    with np.errstate(all="ignore"):
        found, exact = host(f(const(x))), host(f(const(x.astype(float))))
        expected = exact.astype(np.float16)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        off = np.abs(found.astype(float) - expected.astype(float)) / np.spacing(np.abs(expected))
        same = found == expected  # infinities among them
    assert np.all(same | np.isnan(expected) | (off <= 2))


SIGNS = np.array([1.0, -1.0, 1.0], np.float16)


HALVES: dict[str, tuple[Callable[[tg.Tensor], tg.Tensor], Array, float]] = {
    "median": (tg.median, np.repeat([0.0, 1.0], 2500), 0.5),
    "median of many": (tg.median, np.ones(70001), 1.0),
    "nanstd": (tg.nanstd, np.tile([300.0, -300.0], 2000), 300.0),
    "average": (lambda x: tg.average(x, weights=x), np.full(40, 300.0), 300.0),
    "trapezoid": (lambda x: tg.trapezoid(x, dx=0.1), np.full(3, 4e4), 8000.0),
    "acosh": (lambda x: tg.acosh(x)[0], np.array([4e4]), math.acosh(4e4)),
    "vdot": (lambda x: tg.vdot(x, x * const(SIGNS)), np.array([300.0, 300.0, 1.0]), 1.0),
    "linspace": (lambda x: tg.linspace(x[0], x[1], 4001)[2001], np.array([-1e3, 1e3]), 0.5),
    "cumprod": (lambda x: tg.cumprod(x)[-1], np.full(2000, 1 + 2**-10), (1 + 2**-10) ** 2000),
}  # fmt: skip


@pytest.mark.parametrize("case", HALVES)
def test_halves_are_computed_with_in_float32(case: str) -> None:
    f, values, expected = HALVES[case]
    y = f(leaf(values.astype(np.float16)))
    assert y.dtype == np.float16
    assert abs(y.item() - expected) <= expected * 2**-11  # one rounding
    assert y.requires_grad
