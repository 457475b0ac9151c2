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
from tests.support import Array, array, assert_close, const, host_only, leaf, leaves
from tinygrad182.arrays import backend
from tinygrad182.engine.backpropagation import backpropagate
from tinygrad182.testing import strategies

from .table.elementwise import FUNCTIONS
from .table.row import Domain, Shape

WHOLE = strategies.shapes(min_dims=3)
BATCHES = strategies.broadcastable_shapes(2, whole=WHOLE)

MANY = [entry for entry in FUNCTIONS if len(entry[2]) > 1]


def _summed_to(gradient: Array, shape: Shape) -> Array:
    """The gradient summed to a shape by NumPy, as un-broadcasting must do."""
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


@pytest.mark.parametrize("shape", [(5, 4, 1), (1, 4, 3), (5, 1, 3), (2, 1, 4, 1), (1, 1), (3,)])
def test_an_axis_of_one_is_summed_where_it_was_repeated_and_nowhere_else(
    shape: tuple[int, ...],
) -> None:
    x = leaf([[3.0]])
    c = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    jacobian = tg.jacobian(lambda x: x * const(c), x)
    assert_close(jacobian, c.reshape(*np.broadcast_shapes(shape, (1, 1)), 1, 1), 0.0)
    (x * const(c)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[c.sum()]]


WRONG = {
    "another size": lambda xp, g, y, x: xp.concat([g, g], axis=-1),
    "the first axis lost": lambda xp, g, y, x: g[0],
    "the first axis summed": lambda xp, g, y, x: xp.sum(g, axis=0, keepdims=True),
    "an axis more behind, of one": lambda xp, g, y, x: g[..., None],
    "as many elements": lambda xp, g, y, x: xp.permute_dims(
        g, (*range(g.ndim - 2), g.ndim - 1, g.ndim - 2)
    ),
}


def test_one_shape_is_summed_by_how_many_axes_lead() -> None:
    """One number repeated over four rows of five, and over five with four cotangents at once."""
    x, c = leaf([3.0]), np.arange(20.0).reshape(4, 5)
    for _ in range(2):
        (g,) = tg.grad((x * const(c)).sum(), x)
        assert g is not None
        assert g.tolist() == [c.sum()]
        y = x * const(np.ones(5))
        assert y._node is not None
        assert x._node is not None
        found = backpropagate([(y._node, array(c))], {x._node}, retain_graph=True)[x._node]
        assert_close(found, c.sum(axis=1, keepdims=True), 0.0)


TYPES = "?bBhHiIlLefdgFDG"


@host_only("the forms are NumPy's")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (1, 1, 1), (1024,), (1025,), (2, 600)])
def test_one_number_spread_over_a_shape_keeps_its_bits(kind: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(kind)
    numbers: list[Any] = [1]
    if dtype.kind in "fc":
        numbers = [0.0, -0.0, dtype.type(1) / 3, np.nan, np.inf, np.finfo(dtype).smallest_subnormal]
    if dtype.kind == "c":
        numbers += [1 + 2j, complex(0.0, -0.0)]
    if dtype.kind in "iu":
        numbers += [np.iinfo(dtype).max, np.iinfo(dtype).min]
    for number in numbers:
        for ndim in range(len(shape) + 1):
            x = np.full((1,) * ndim, number, dtype)
            spread = backend.NUMPY.broadcast_to(x, shape)
            assert spread.dtype == dtype
            assert spread.shape == shape
            assert np.array_equal(spread, np.broadcast_to(x, shape), equal_nan=True)
            for part, whole in ((x.real, spread.real), (x.imag, spread.imag)):
                assert dtype.kind not in "fc" or (np.signbit(whole) == np.signbit(part)).all()
