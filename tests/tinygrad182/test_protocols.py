"""NumPy's own functions on tensors: ours of the same name, or a refusal that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, const, leaf

X = np.array([[0.5, -1.5, 2.0], [3.0, 0.25, -0.75]])

# what NumPy computes of an array must come out of a tensor, on the graph
DIFFERENTIABLE: list[Callable[[Any], Any]] = [
    np.sin,
    np.tanh,
    np.exp,
    np.absolute,
    np.negative,
    np.square,
    lambda x: np.add(x, X),
    lambda x: np.multiply(X, x),
    lambda x: np.maximum(x, 0.3),
    lambda x: np.power(np.abs(x), 1.5),
    lambda x: np.matmul(x, X.T),
    lambda x: np.dot(x, X[0]),
    lambda x: np.add.reduce(x),
    lambda x: np.add.reduce(x, axis=None),
    lambda x: np.multiply.reduce(x, axis=1),
    lambda x: np.maximum.reduce(x, axis=-1, keepdims=True),
    lambda x: np.sum(x, axis=0),
    lambda x: np.mean(x, axis=1, keepdims=True),
    lambda x: np.prod(x),
    lambda x: np.max(x, axis=1),
    lambda x: np.amin(x),
    lambda x: np.var(x, axis=0, ddof=1),
    lambda x: np.std(x),
    lambda x: np.clip(x, -0.6, 0.6),
    lambda x: np.where(X > 0, x, 0.0),
    lambda x: np.concatenate([x, X]),
    lambda x: np.stack([x, x], axis=1),
    lambda x: np.reshape(x, (3, 2)),
    lambda x: np.transpose(x),
    lambda x: np.swapaxes(x, 0, 1),
    lambda x: np.expand_dims(x, 1),
    lambda x: np.squeeze(np.expand_dims(x, 0)),
    lambda x: np.broadcast_to(x, (2, 2, 3)),
    lambda x: np.flip(x, axis=1),
    lambda x: np.cumsum(x, axis=1),
    lambda x: np.einsum("ij,kj->ik", x, X),
    lambda x: np.take(x, [0, 2], axis=1),
    lambda x: np.outer(x[0], X[1]),
    lambda x: X - x,
    lambda x: X @ x.T,
    lambda x: np.float64(2.0) ** x,
]  # fmt: skip


@pytest.mark.parametrize("f", DIFFERENTIABLE)
def test_numpy_functions_stay_differentiable(f: Callable[[Any], Any]) -> None:
    x = leaf(X)
    y = f(x)
    assert isinstance(y, tg.Tensor)
    assert_close(y, np.asarray(f(X)), 1e-14)
    g = np.random.default_rng(0).standard_normal(y.shape)
    (found,) = tg.grad(y, x, const(g))
    h = 1e-6
    columns = [(np.asarray(f(X + h * e)) - np.asarray(f(X - h * e))) / (2 * h) for e in _units()]
    assert_close(found, np.array([np.sum(g * c) for c in columns]).reshape(2, 3), 1e-8, floor=1.0)


def _units() -> Any:
    return np.eye(6).reshape(6, 2, 3)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.greater(X, x),
        lambda x: np.less(x, X),
        lambda x: np.isnan(x),
        lambda x: np.argmax(x, axis=1),
        lambda x: np.sign(x),
        lambda x: np.equal(X, x),
    ],
)
def test_functions_without_a_derivative_give_plain_tensors(f: Callable[[Any], Any]) -> None:
    y = f(leaf(X))
    assert isinstance(y, tg.Tensor)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), f(X))


@pytest.mark.parametrize(
    "f", [lambda m: (X > 0) & m, lambda m: m | (X > 0), lambda m: np.logical_and(X > 0, m)]
)
def test_masks_of_arrays_and_tensors_combine(f: Callable[[Any], Any]) -> None:
    m = const(X < 1)
    assert isinstance(f(m), tg.Tensor)
    np.testing.assert_array_equal(f(m).numpy(), f(X < 1))


@pytest.mark.parametrize(
    "f",
    [lambda x: np.fft.fft(x), lambda x: np.median(x), lambda x: np.arctan(x), np.add.accumulate],
)
def test_what_has_no_derivative_here_says_so(f: Callable[[Any], Any]) -> None:
    with pytest.raises(tg.DTypeError, match=r"np\..*x\.detach\(\)"):
        f(leaf(X))
    np.testing.assert_allclose(np.asarray(f(const(X))), f(X))  # without a graph NumPy may have it


@pytest.mark.parametrize("f", [lambda x, o: np.sin(x, out=o), lambda x, o: np.sum(x, out=o)])
def test_out_is_refused(f: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(tg.ArgumentError, match="out="):
        f(leaf(X), np.zeros(()))


def test_arguments_we_do_not_have_are_named() -> None:
    with pytest.raises(tg.ArgumentError, match=r"np\.sum on a Tensor is tg\.sum: .*'where'"):
        np.sum(leaf(X), where=X > 0)


def test_numpy_asserts_and_predicates_take_tensors() -> None:
    np.testing.assert_allclose(const(X), X)
    assert np.allclose(leaf(X), X)
    assert np.array_equal(leaf(X), X)
    assert np.shape(leaf(X)) == (2, 3)
