"""Broadcasting equals writing the repetition out, for shapes drawn at random.

A named pattern is drawn first: plain random shapes seldom broadcast, and are never empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, const, leaf, leaves
from tinygrad182.testing import strategies

from .table.elementwise import FUNCTIONS
from .table.row import Domain, Shape

WHOLE = strategies.shapes(min_dims=3)
BATCHES = strategies.broadcastable_shapes(2, whole=WHOLE)

MANY = [entry for entry in FUNCTIONS if len(entry[2]) > 1]


def _summed_to(gradient: Array, shape: Shape) -> Array:
    """What un-broadcasting must do, by NumPy."""
    extra = gradient.ndim - len(shape)
    axes = tuple(i for i in range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and gradient.shape[extra + i] != 1
    )
    return gradient.sum(axis=axes, keepdims=True).reshape(shape)


@pytest.mark.parametrize(
    ("name", "domains"), [(name, domains) for name, _, domains in MANY], ids=[e[0] for e in MANY]
)
@given(data=st.data(), seed=strategies.SEEDS)
def test_elementwise(name: str, domains: tuple[Domain, ...], data: Any, seed: int) -> None:
    xs = data.draw(strategies.broadcastable_arrays(*domains, whole=WHOLE))
    rng = np.random.default_rng(seed)
    common = np.broadcast_shapes(*(x.shape for x in xs))
    written_out = [np.broadcast_to(x, common).copy() for x in xs]

    function = getattr(tg, name)
    g = const(rng.standard_normal(common))
    inputs, full = [strategies.leaf(x) for x in xs], leaves(written_out)
    y = function(*inputs)
    expected = function(*full)
    np.testing.assert_array_equal(function(*leaves(xs)).numpy(), expected.numpy())
    assert_close(y, expected, 1e-14)  # NumPy may round in another way where strides differ
    y.backward(g)
    expected.backward(g)
    for x, other in zip(inputs, full, strict=True):
        if x.requires_grad:
            assert x.grad is not None
            assert other.grad is not None
            assert_close(x.grad, _summed_to(other.grad.numpy(), x.shape), 1e-12, floor=1e-2)


@given(batches=BATCHES, seed=strategies.SEEDS)
def test_batches_of_matrices(batches: strategies.BroadcastableShapes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = batches.input_shapes
    a, b = rng.standard_normal((*first, 2, 3)), rng.standard_normal((*second, 3, 4))
    common = batches.result_shape
    wide = [np.broadcast_to(a, (*common, 2, 3)).copy(), np.broadcast_to(b, (*common, 3, 4)).copy()]

    g = const(rng.standard_normal((*common, 2, 4)))
    inputs, full = leaves([a, b]), leaves(wide)
    y = tg.matmul(*inputs)
    assert_close(y, np.matmul(*wide), 1e-14, floor=1.0)
    y.backward(g)
    tg.matmul(*full).backward(g)
    for x, other in zip(inputs, full, strict=True):
        assert x.grad is not None
        assert other.grad is not None
        assert_close(x.grad, _summed_to(other.grad.numpy(), x.shape), 1e-12, floor=1.0)


@given(data=st.data(), sizes=WHOLE, seed=strategies.SEEDS)
def test_broadcast_to(data: Any, sizes: Shape, seed: int) -> None:
    (shape,) = data.draw(strategies.broadcastable_shapes(1, whole=sizes)).input_shapes
    rng = np.random.default_rng(seed)
    x, g = leaf(rng.standard_normal(shape)), rng.standard_normal(sizes)
    y = tg.broadcast_to(x, sizes)
    np.testing.assert_array_equal(y.numpy(), np.broadcast_to(x.numpy(), sizes))
    y.backward(const(g))
    assert x.grad is not None
    assert_close(x.grad, _summed_to(g, shape), 1e-12, floor=1e-2)
