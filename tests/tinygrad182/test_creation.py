"""Tensors from data: copies, dtypes, devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, device, leaf, write


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, "float32"),
        (2.5, "float32"),
        (True, "bool"),
        (1j, "complex128"),
        ([1, 2], "float32"),
        ([[1.5], [2]], "float32"),
        ([True, False], "bool"),
        ([], "float32"),
        ([[], []], "float32"),
        (((1, 2), (3, 4)), "float32"),
        (range(3), "float32"),
        (np.float64(2.0), "float64"),  # data with a dtype keeps it, though it is weak in arithmetic
        (np.int8(2), "int8"),
        (np.array(2.0), "float64"),
        (np.array([1, 2]), "int64"),
        (np.array([1.0], dtype="float16"), "float16"),
        (np.array([True]), "bool"),
        ([np.array([1.0, 2.0])], "float64"),
        (np.ma.array([1.0]), "float64"),
    ],
    ids=repr,
)
def test_dtype_of_data(data: Any, dtype: str) -> None:
    x = tg.tensor(data, device=device())
    assert str(x.dtype) == dtype
    assert x.device == device()
    np.testing.assert_array_equal(x.numpy(), np.asarray(data))


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64"), float, tg.float64])
def test_dtypes_are_named_in_any_way(dtype: Any) -> None:
    assert tg.tensor([1, 2], dtype=dtype, device=device()).dtype == tg.float64
    assert tg.zeros(2, dtype=dtype).dtype == tg.float64
    assert tg.astype(tg.zeros(2), dtype).dtype == tg.float64
    assert tg.arange(2, dtype=dtype).dtype == tg.float64
    assert tg.eye(2, dtype).dtype == tg.float64


def test_whole_numbers_for_indices() -> None:
    x = tg.tensor([[0, 2], [2**62, 1]], dtype="int64")
    assert x.tolist() == [[0, 2], [2**62, 1]]  # not by way of a float


@pytest.mark.parametrize(
    "make", [np.asfortranarray, lambda a: a[::-1], lambda a: a.T, lambda a: a[:, ::2]]
)
def test_data_is_copied(make: Callable[[Any], Any]) -> None:
    array = make(np.arange(6.0).reshape(2, 3))
    x = tg.tensor(array, device=device())
    before = array.copy()
    array[...] = -1
    np.testing.assert_array_equal(x.numpy(), before)
    y = tg.tensor(x, requires_grad=True)
    write(x, 7)
    np.testing.assert_array_equal(y.numpy(), before)
    assert y.requires_grad
    assert not x.requires_grad


def test_tensors_inside_sequences() -> None:
    x = tg.tensor([const([1.0, 2.0]), const([3.0, 4.0])])
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert (str(x.dtype), x.device) == ("float64", device())
    with pytest.raises(tg.GraphError, match=r"gradients.*tg\.stack"):
        tg.tensor([const([1.0, 2.0]), leaf([3.0, 4.0])])


def test_a_result_is_copied_without_its_graph() -> None:
    y = leaf([1.0]) * 2
    assert not tg.tensor(y).requires_grad
    assert tg.as_tensor(y) is y


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: tg.zeros((2, 3)), np.zeros((2, 3), "float32")),
        (lambda: tg.zeros(()), np.zeros((), "float32")),
        (lambda: tg.ones(3), np.ones(3, "float32")),
        (lambda: tg.ones([2, 0], dtype="int64"), np.ones((2, 0), "int64")),
        (lambda: tg.full((2,), 7), np.full(2, 7, "float32")),
        (lambda: tg.full(2, True), np.full(2, True)),
        (lambda: tg.full(np.int64(2), np.float64(0.5)), np.full(2, 0.5, "float32")),
        (lambda: tg.arange(3), np.arange(3)),
        (lambda: tg.arange(1, 7, 2), np.arange(1, 7, 2)),
        (lambda: tg.arange(3, 0, -1), np.arange(3, 0, -1)),
        (lambda: tg.arange(0, 1, 0.25), np.arange(0, 1, 0.25, "float32")),
        (lambda: tg.arange(2.0), np.arange(2, dtype="float32")),
        (lambda: tg.arange(5, 2), np.zeros(0, int)),
        (lambda: tg.eye(3), np.eye(3, dtype="float32")),
        (lambda: tg.eye(0), np.eye(0, dtype="float32")),
    ],
)
def test_tensors_of_constants(made: Callable[[], tg.Tensor], expected: Any) -> None:
    x = made()
    assert (str(x.dtype), x.shape, x.device) == (str(expected.dtype), expected.shape, device())
    np.testing.assert_array_equal(x.numpy(), expected)
    assert not x.requires_grad
    write(x, 1)  # and is its owner's to change


@pytest.mark.parametrize(
    "made",
    [
        lambda: tg.tensor([1.0], requires_grad=True),
        lambda: tg.zeros(2, requires_grad=True),
        lambda: tg.ones(2, dtype="float64", requires_grad=True),
        lambda: tg.full(2, 3.0, requires_grad=True),
        lambda: tg.arange(0, 1, 0.5, requires_grad=True),
    ],
)
def test_requires_grad(made: Callable[[], tg.Tensor]) -> None:
    x = made()
    assert x.requires_grad
    assert x.is_leaf
    (x * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == x.dtype
    np.testing.assert_array_equal(x.grad.numpy(), 3)


@pytest.mark.parametrize("f", [tg.zeros_like, tg.ones_like, lambda x: tg.full_like(x, 2)])
def test_like_another(f: Callable[[tg.Tensor], tg.Tensor]) -> None:
    for x in (leaf(np.ones((2, 3))), const(np.ones((0, 2), "float32")), const(np.array(True))):
        y = f(x)
        assert (y.shape, y.dtype, y.device, y.requires_grad) == (x.shape, x.dtype, x.device, False)
        assert f(x.data).shape == x.shape  # an array will do


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: tg.zeros((2**62, 4)), tg.ShapeError, "zeros: .* more than any memory holds"),
        (lambda: tg.ones(2**70), tg.ShapeError, "ones: .* more than any memory holds"),
        (lambda: tg.full(np.uint64(2**63), 1.0), tg.ShapeError, "full: .* more than any memory"),
        (lambda: tg.eye(2**40), tg.ShapeError, "eye: .* more than any memory holds"),
        (lambda: tg.eye([1, 2]), tg.ArgumentError, "eye: size .* must be a whole number"),  # type: ignore[arg-type]
        (lambda: tg.arange(10**400), tg.ShapeError, "arange: .* more than any memory holds"),
        (lambda: tg.arange(0, 1e300), tg.ShapeError, "arange: .* more than any memory holds"),
        (lambda: tg.arange(0.5, 10**400), tg.ArgumentError, "arange: .* finite real numbers"),
        (lambda: tg.arange(0, 1, 0), tg.ArgumentError, "arange: .* the step not 0"),
        (lambda: tg.arange(2**70, 2**70 + 2), tg.DTypeError, "arange: .* cannot be int64"),
        (lambda: tg.tensor(10**400), tg.DTypeError, "tensor: .* is beyond all dtypes"),
        (lambda: tg.tensor(2**70, dtype="int64"), tg.DTypeError, "tensor: .* cannot be int64"),
    ],
)
def test_numbers_and_shapes_that_are_too_large(
    call: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call()


def test_large_numbers_that_fit() -> None:
    assert tg.tensor([2**70, 1.5]).tolist() == [float(2**70), 1.5]
    assert tg.tensor(2**70, dtype="float64").item() == 2.0**70
    assert tg.arange(2**63, 2**63 + 2, dtype="uint64").tolist() == [2**63, 2**63 + 1]
    assert tg.arange(2**63 - 3, 2**63 - 1).tolist() == [2**63 - 3, 2**63 - 2]
    assert tg.arange(np.uint8(250), np.uint8(3), np.int8(-100)).tolist() == [250, 150, 50]


def test_scatter_add_broadcasts_a_value() -> None:
    w, at = leaf([2.0]), tg.tensor([0, 2, 0], dtype="int64", device=device())
    y = tg.scatter_add((3,), "float64", [((slice(0, 2),), w), ((at,), w[0])])
    assert y.tolist() == [6.0, 2.0, 2.0]
    (y * const([1.0, 10.0, 100.0])).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [113.0]
    with pytest.raises(tg.ShapeError, match="scatter_add"):
        tg.scatter_add((3,), "float64", [((slice(0, 2),), leaf([1.0, 2.0, 3.0]))])


def test_a_numpy_scalar_keeps_its_dtype_in_a_tensor_and_is_weak_in_an_operator() -> None:
    scalar = np.float64(0.1)
    for data in (scalar, [scalar], [[scalar]]):
        assert tg.tensor(data).dtype == np.float64
    assert (tg.ones(1) * scalar).dtype == np.float32
    prediction = tg.tensor(np.array(0.3))
    assert tg.nn.mse_loss(prediction, scalar).item() == pytest.approx(0.04, rel=1e-14)
    assert tg.nn.cross_entropy(tg.zeros(4), np.int64(1)).item() == pytest.approx(
        np.log(4), rel=1e-6
    )
