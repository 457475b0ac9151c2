"""x[key] against NumPy for keys drawn at random: values, gradients, leading axes, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, const, leaf
from tinygrad182.primitives.index import ARRAY
from tinygrad182.testing import strategies

Key = tuple[Any, ...]

# --- keys ---------------------------------------------------------------------------------------

WAYS = ["tensor", "array", "list"]
"""How an index array is given."""


KEYS = strategies.index_expressions
MASKED = ["mask", "slice", "integer", "newaxis", "ellipsis"]


def _whole(key: Any) -> Key:
    """The key with its entries in a tuple."""
    return key if isinstance(key, tuple) else (key,)


def _is_mask(entry: Any) -> bool:
    return isinstance(entry, np.ndarray) and entry.dtype == bool


def _given(key: Any, ways: list[str]) -> Any:
    """The key with its arrays as Tensors, arrays or nested lists."""
    if not isinstance(key, tuple):
        return _given((key,), ways)[0]
    converted = []
    for k, way in zip(key, ways, strict=True):
        if isinstance(k, np.ndarray) and way != "array":
            k = const(k) if way == "tensor" else k.tolist()
        elif isinstance(k, np.ndarray):
            k = const(k).data
        converted.append(k)
    return tuple(converted)


def _check(x: Array, key: Any, ours: Any, seed: int = 0) -> None:
    """Value, gradient and two cotangents carried at once."""
    expected = np.asarray(x[key])
    tensor = leaf(x)
    y = tensor[ours]
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.numpy(), expected)
    g = np.random.default_rng(seed).standard_normal((2, *expected.shape))
    rows = []
    for one in g:
        scattered = np.zeros(x.shape)
        np.add.at(scattered, key, one)
        rows.append(scattered)
    (found,) = tg.grad(y, tensor, const(g[0]), retain_graph=True)
    assert found is not None
    assert_close(found, rows[0], 1e-14, floor=1.0)
    picked = tg.jacobian(
        lambda x: tg.einsum("kn,n->k", const(g.reshape(2, -1)), tg.reshape(x[ours], -1)),
        tensor.detach(),
    )
    assert_close(picked, np.array(rows), 1e-14, floor=1.0)


SHAPES = st.sampled_from([(3,), (2, 3), (3, 2, 2), (2, 3, 1, 2), (2, 0), (4, 1)])


@given(data=st.data(), shape=SHAPES, seed=st.integers(0, 1000))
def test_any_key(data: Any, shape: tuple[int, ...], seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(shape)
    key = data.draw(KEYS(shape))
    ways = [data.draw(st.sampled_from(WAYS)) for _ in _whole(key)]
    _check(x, key, _given(key, ways), seed)


@given(data=st.data(), seed=st.integers(0, 1000))
def test_masks(data: Any, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 3, 4))
    key = data.draw(KEYS(x.shape, kinds=MASKED).map(_whole).filter(lambda k: any(map(_is_mask, k))))
    way = data.draw(st.sampled_from(WAYS))
    _check(x, key, _given(key, [way] * len(key)), seed)
    if len(key) == 1:
        _check(x, key, _given(key, [way])[0], seed)


@pytest.mark.parametrize(
    "key",
    [
        3, -1, (), ..., None, slice(None, None, -2), (1, 2, 0), (..., 1), (0, ..., None), (slice(0, 0),),
        (None, slice(None), None, 0), np.int64(2), (np.int64(2), slice(1)), (slice(None), np.array(1)),
        np.array([[0, 3], [1, 1]]), np.array([], dtype=int), (np.array([0, 0]), np.array([2, 2])),
        (np.array([0, 1]), slice(None), np.array([1, 1])), (0, slice(None), np.array([1, 1])),
        (slice(None), np.array([[0], [1]]), np.array([0, 1])), (np.array([0]), None, np.array([1])),
        (np.array([1, 0], dtype="uint8"),), (np.array([True, False, True, True]), 0),
        (np.zeros((4, 3), bool),), (slice(None), slice(None), np.array([True, False])),
        (np.array([True, False, True, True]), slice(None), np.array([0, 1, 1])),
        (None, 0, ..., np.array([1, 2]), np.array([1])),  # None separates the arrays
    ],
    ids=str,
)  # fmt: skip
def test_named_keys(key: Any) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 2))
    for way in WAYS:
        _check(x, key, _given(key, [way] * len(_whole(key))))


# --- what takes an index ------------------------------------------------------------------------


@given(data=st.data(), axis=st.integers(-3, 2), seed=st.integers(0, 1000))
def test_take(data: Any, axis: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 3, 4))
    chosen = data.draw(st.lists(st.integers(0, x.shape[axis] - 1), max_size=5))
    expected = np.take(x, np.asarray(chosen, dtype=int), axis=axis)
    tensor = leaf(x)
    y = tg.take(tensor, chosen, axis=axis)
    np.testing.assert_array_equal(y.numpy(), expected)
    y.backward(tg.ones_like(y))
    counts = np.bincount(np.asarray(chosen, dtype=int), minlength=x.shape[axis])
    shape = [-1 if i == axis % 3 else 1 for i in range(3)]
    assert tensor.grad is not None
    np.testing.assert_array_equal(
        tensor.grad.numpy(), np.broadcast_to(counts.reshape(shape), x.shape)
    )


def test_iteration_and_unstack_give_the_same_parts() -> None:
    x = leaf(np.arange(6.0).reshape(3, 2))
    for a, b, c in zip(x, tg.unstack(x), x.numpy(), strict=True):
        np.testing.assert_array_equal(a.numpy(), c)
        np.testing.assert_array_equal(b.numpy(), c)
    first, *_, last = x
    (first * last).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[4.0, 5.0], [0.0, 0.0], [0.0, 1.0]]


def test_an_integer_tensor_serves_wherever_python_wants_an_index() -> None:
    x = leaf(np.arange(6.0))
    t = tg.argmax(x)
    assert x[t].item() == 5.0
    assert x[2 : tg.tensor(4, dtype="int64")].tolist() == [2.0, 3.0]
    assert list(range(tg.tensor(3, dtype="int64"))) == [0, 1, 2]


def test_a_cotangent_of_a_part_is_added_not_spread() -> None:
    """Parts of parts overlap, and the whole is used too."""
    x = leaf(np.arange(5.0))
    (x[1:4][::2].sum() + (x[2] * x[[2, 2]]).sum() + (x * x).sum()).backward()
    assert x.grad is not None
    # by hand: 2x, plus 1 at 1 and 3, plus the derivative of 2·x₂² at 2
    assert x.grad.tolist() == [0.0, 3.0, 12.0, 7.0, 8.0]


# --- out of range -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_an_index_out_of_range_raises_at_every_place(way: str, seed: int, data: Any) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, 3, 4)
    axis = data.draw(st.integers(0, 2))
    bad = data.draw(st.sampled_from([shape[axis], -shape[axis] - 1, 10**9]))
    array = rng.integers(0, 2, (3,))
    array[rng.integers(3)] = bad
    entry = data.draw(st.sampled_from([bad, array]))
    key = (*(slice(None),) * axis, entry)
    x = leaf(np.zeros(shape))
    with pytest.raises(tg.IndexOutOfRangeError, match=rf"index: {bad} .* axis {axis} of shape"):
        x[_given(key, [way] * len(key))]
    with pytest.raises(IndexError):  # what NumPy's users catch
        x[_given(key, [way] * len(key))]


@given(data=st.data(), shape=SHAPES)
def test_out_of_range_raises_in_any_key(data: Any, shape: tuple[int, ...]) -> None:
    key = data.draw(KEYS(shape, out_of_range=True))
    way = data.draw(st.sampled_from(WAYS))
    with pytest.raises(tg.IndexOutOfRangeError):
        leaf(np.zeros(shape))[_given(key, [way] * len(_whole(key)))]


def test_the_mark_of_an_index_array_says_so() -> None:
    assert repr(ARRAY) == "ARRAY"
