"""Dropout: its formula, its seeds, and when it does nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, host, leaf

nn = tg.nn


X = np.random.default_rng(0).normal(size=(4, 3, 5))


def test_dropout_is_its_formula() -> None:
    x = leaf(X)
    y = nn.Dropout(0.3, rng=1)(x)
    kept = np.random.default_rng(1).random(X.shape) >= 0.3
    assert_close(y, np.where(kept, X / 0.7, 0.0), 1e-14)
    y.sum().backward()
    assert_close(x.grad, kept / 0.7, 1e-14)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_keeps_dtype_mean_and_seed(dtype: str) -> None:
    x = const(np.ones(100_000, dtype))
    first, second, other = (nn.Dropout(0.25, rng=seed)(x) for seed in (3, 3, 4))
    assert_same_bits(first, second)
    assert (host(first) != host(other)).any()
    assert first.dtype == np.dtype(dtype)
    assert (host(first) == 0).mean() == pytest.approx(0.25, abs=5e-3)
    assert host(first).astype(float).mean() == pytest.approx(1, abs=1e-2)


def test_every_call_draws_another_mask() -> None:
    dropout = nn.Dropout(0.5, rng=0)
    twin = copy.deepcopy(dropout)
    x = const(np.ones(50))
    first, second = dropout(x), dropout(x)
    assert (host(first) != host(second)).any()
    assert_same_bits(twin(x), first)
    assert_same_bits(twin(x), second)


def test_dropout_that_does_nothing() -> None:
    x = const(X)
    dropout = nn.Dropout(0.5, rng=0)
    assert dropout.eval()(x) is x
    assert (host(dropout.train()(x)) == 0).any()
    assert nn.Dropout(0.0)(x) is x
    gone = leaf([np.inf, 1.0])  # dropped elements have no effect, not even infinity
    y = nn.Dropout(1)(gone)
    y.sum().backward()
    assert_same_bits(y, np.zeros(2))
    assert_same_bits(gone.grad, np.zeros(2))
    for p in (-0.1, 1.5, True, "0.5", float("nan")):
        with pytest.raises(tg.ArgumentError, match=r"Dropout: p .*finite number from 0 to 1"):
            nn.Dropout(p)  # type: ignore[arg-type]


def test_what_remat_runs_again_draws_the_same() -> None:
    """This holds also inside another remat, and if two functions draw from one generator."""
    found = []
    for wrapped in (lambda f: f, tg.remat, lambda f: tg.remat(lambda z: tg.remat(f)(z) * 1.0)):
        dropout, layer = nn.Dropout(0.5, rng=0), nn.Linear(5, 5, rng=0, dtype="float64")
        x = leaf(X)
        step = wrapped(nn.Sequential(layer, tg.tanh, dropout))
        y = step(step(x)) + dropout(x)
        (y * y).sum().backward()
        found.append((y, x.grad, layer.weight.grad, dropout(const(X))))
    for others in found[1:]:
        for mine, plain in zip(others, found[0], strict=True):
            assert_close(mine, plain, 1e-13)
