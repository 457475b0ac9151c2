"""Nested lists that hold Tensors are the stack of them, wherever an array is taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, assert_close, const, device, host, leaf, moved

A, B = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 0.25])
M = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]])

Call = Callable[[Any], Any]
NAMES = (
    *("sum", "mean", "prod", "max", "min", "var", "std", "logsumexp", "softmax", "log_softmax"),
    *("exp", "tanh", "square", "negative", "relu", "flip", "transpose", "matrix_transpose"),
)


def _named(name: str, x: Any) -> Any:
    return getattr(tg, name)(x)


CALLS: dict[str, Call] = {
    **{name: partial(_named, name) for name in NAMES},
    "cumulative_sum": lambda x: tg.cumulative_sum(x, axis=0),
    "reshape": lambda x: tg.reshape(x, (3, 2)),
    "matmul": lambda x: tg.matmul(x, const(M)),
    "matmul, right": lambda x: tg.matmul(const(M), x),
    "einsum": lambda x: tg.einsum("ij,jk->ik", x, const(M)),
    "multiply": lambda x: tg.multiply(x, const(A)),
    "maximum": lambda x: tg.maximum(const(A), x),
    "where": lambda x: tg.where(array(A > 1), x, 0.0),
    "clip": lambda x: tg.clip(x, -0.5, 2.0),
    "operator": lambda x: const(A) - x,
    "take": lambda x: tg.take(x, [1, 0, 1], axis=1),
    "pad": lambda x: tg.pad(x, 1),
    "concat": lambda x: tg.concat([x, const([A])]),
    "stack": lambda x: tg.stack([x, const([A, B])]),
    "astype": lambda x: tg.astype(x, "float64"),
    "mse_loss": lambda x: tg.nn.mse_loss(x, [A, A]),
    "mse_loss, target": lambda x: tg.nn.mse_loss(const([A, A]), x),
    "cross_entropy": lambda x: tg.nn.cross_entropy(x, [0, 2]),
    "vjp": lambda x: tg.vjp(lambda y: y * y, x)[1](const([A, A]))[0],
    "cotangent": lambda x: tg.vjp(lambda y: y * const(A), const([A, B]))[1](x)[0],
    "direction": lambda x: tg.jvp(lambda y: y * y, [const([A, B])], [x])[1],
    "apply": lambda x: tg.apply(tg.PRIMITIVES["sin"], x),
}


@pytest.mark.parametrize("name", CALLS)
def test_gradients_flow_back_to_the_tensors_of_a_list(name: str) -> None:
    call = CALLS[name]
    one, other = leaf([A, B]), leaf([A, B])
    expected = call(one)
    found = call([other[0], other[1]])
    assert_close(found, expected, 1e-14)
    (expected * expected).sum().backward()
    (found * found).sum().backward()
    assert one.grad is not None
    assert_close(other.grad, one.grad, 1e-13)


def test_numbers_and_arrays_among_tensors_take_their_dtype() -> None:
    w = leaf([2.0, 0.1])
    x = tg.as_tensor([[w[0], 0.1], (np.float64(0.3), w[1])])
    assert x.tolist() == [[2.0, 0.1], [0.3, 0.1]]  # 0.1 of float64, which float32 does not have
    tg.sum([w, array([1.0, 2.0]), [3, 4.5]]).backward()
    assert_close(w.grad, [1.0, 1.0], 1e-15)
    small = [tg.tensor([1], dtype="int8", device=device()), [2]]
    assert str(tg.as_tensor(small).dtype) == "int8"
    with pytest.raises(tg.DTypeError, match="300"):
        tg.as_tensor([small[0], [300]])
    assert str(tg.as_tensor([leaf([1.0])[0], 1j]).dtype) == "complex128"


ELEMENTWISE: dict[str, Any] = {
    "x + y": lambda x, y: x + y,
    "y - x": lambda x, y: y - x,
    "x ** y": lambda x, y: x**y,
    "x > y": lambda x, y: x > y,
    "x == y": lambda x, y: x == y,
    "maximum": tg.maximum,
    "atan2": tg.atan2,
    "remainder": tg.remainder,
    "floor_divide": tg.floor_divide,
    "hypot": tg.hypot,
    "where": lambda x, y: tg.where([True, False, True], x, y),
    "where, a number": lambda x, y: tg.where([True, False, True], x, 0.0),
    "select": lambda x, y: tg.select([[True, False, True], x > 0], [x, y], 7.0),
    "clip": lambda x, y: tg.clip(x, 0, y),
    "clip of it": lambda x, y: tg.clip(y, x, None),
    "vstack": lambda x, y: tg.vstack([x, y]),
    "hstack": lambda x, y: tg.hstack([y, x]),
    "dstack": lambda x, y: tg.dstack([x, y]),
    "column_stack": lambda x, y: tg.column_stack([y, x]),
    "broadcast_arrays": lambda x, y: tg.broadcast_arrays(y, x)[0],
    "atleast_2d": lambda x, y: tg.atleast_2d(x, y)[1],
    "inner": tg.inner,
    "vdot": lambda x, y: tg.vdot(y, x),
    "trapezoid": lambda x, y: tg.trapezoid(y, x),
    "gradient": lambda x, y: tg.gradient(y, x),
    "average": lambda x, y: tg.average(y, weights=x),
    "quantile": lambda x, y: tg.quantile(y, x / 3),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_list_of_numbers_is_an_array_beside_a_tensor(name: str, dtype: str) -> None:
    """It goes to the tensor's device, and its numbers take the type they would have by themselves."""
    x, numbers = const(np.array([0.5, 1.5, 2.5], dtype)), [2.0, 0.25, 3.0]
    found = ELEMENTWISE[name](x, numbers)
    expected = ELEMENTWISE[name](x, const(np.array(numbers, dtype)))
    assert (found.device, found.dtype) == (expected.device, expected.dtype)
    assert found.tolist() == expected.tolist()


def test_lists_beside_each_other() -> None:
    w = leaf([2.0, 5.0])
    tg.sum(tg.maximum([1, 6.0], [w[0], w[1]])).backward()  # beside Tensors in a list
    assert_close(w.grad, [1.0, 0.0], 0)
    y = tg.where(w > 2, [1, 2], w.detach().astype("float32"))
    assert str(y.dtype) == "float32"  # the mask is not what its numbers meet
    assert tg.maximum([1, 2], 1.5).tolist() == [1.5, 2.0]
    with pytest.raises(tg.ShapeError, match=r"^maximum: cannot take"):  # which is said once
        tg.maximum([w, w], [1, 2, 3])


def test_a_list_stays_on_the_device_of_its_tensors() -> None:
    assert tg.as_tensor([const(A), const(B)]).device == device()
    assert tg.tensor([const(A), const(B)]).device == device()
    assert tg.tensor(moved([A, B])).device == device()


def test_what_a_list_cannot_be() -> None:
    w = leaf(A)
    with pytest.raises(tg.GraphError, match=r"tensor: .* gradients.*tg\.stack"):
        tg.tensor([w, w])
    with tg.no_grad():
        assert tg.tensor([w, w]).shape == (2, 3)
    with pytest.raises(tg.ShapeError, match="stack"):
        tg.sum([w, w[:2]])
    with pytest.raises(tg.ShapeError, match="empty list"):
        tg.sum([w, []])
    for operands in ((w, [[1.0], [2.0, 3.0]]), ([[1.0], [2.0, 3.0]], w)):
        with pytest.raises(tg.ArgumentError, match=r"^add: .*unequal lengths.*; pad them first"):
            tg.add(*operands)
    for by_numpy in (np.mean, np.array, np.sum):
        with pytest.raises(tg.GraphError, match=r"tg\.mean\(\[x, y\]\).* tg\.stack\(\[x, y\]\)"):
            by_numpy([w, w])  # type: ignore[operator]
    masked = np.ma.masked_array(A, [True, False, False])
    for data in ([masked, A], [w, masked]):
        with pytest.raises(tg.DTypeError, match="its mask would be lost"):
            tg.sum(data)
    with pytest.raises(tg.DTypeError, match="its mask would be lost"):
        w.assign([masked] * 3)


def test_results_without_a_derivative_take_lists_too() -> None:
    w = leaf(A)
    assert tg.argmax([w, w * 2], axis=0).tolist() == [1, 1, 1]
    assert host(tg.greater([w, w], 1.5)).tolist() == [[False, True, True]] * 2


def test_a_list_that_holds_itself_is_refused() -> None:
    items: list[Any] = [1.0]
    items.append(items)
    for call in (tg.tensor, tg.sum):
        with pytest.raises(tg.ArgumentError, match="unequal lengths"):
            call(items)
