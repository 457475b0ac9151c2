"""The Tensor class: operators, conversions, protocols."""

from __future__ import annotations

import copy
import inspect
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, assert_close, const, leaf, write

A = np.array([[1.5, 2.0, 0.5], [3.0, 1.0, 2.0]])
B = np.array([2.0, 1.0, 4.0])

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("op", [*ARITHMETIC, *COMPARISONS], ids=lambda op: op.__name__)
@pytest.mark.parametrize(
    ("a", "b"), [(A, B), (A, 2), (2.0, A), (B[0], A), (A, np.float64(2.0)), (3, B)]
)
def test_operators_equal_numpy(op: Callable[[Any, Any], Any], a: Any, b: Any) -> None:
    """With tensors, arrays and numbers on either side; ``B[0]`` is a NumPy scalar."""
    expected = op(a, b)
    arrays = [isinstance(x, np.ndarray) for x in (a, b)]
    forms = [(leaf(a) if arrays[0] else a, leaf(b) if arrays[1] else b)]
    if all(arrays):
        forms += [(leaf(a), const(b).data), (const(a).data, leaf(b))]
    for x, y in forms:
        result = op(x, y)
        assert isinstance(result, tg.Tensor)
        assert result.dtype == expected.dtype
        assert_close(result.numpy().astype(float), expected.astype(float), 1e-15)
        assert result.requires_grad == (op in ARITHMETIC)


@pytest.mark.parametrize("op", ARITHMETIC, ids=lambda op: op.__name__)
def test_reflected_operators_differentiate_the_right_operand(op: Callable[[Any, Any], Any]) -> None:
    for a, b in ((A, 2.0), (2.0, A)):
        x = leaf(A)
        y = op(x, b) if a is A else op(a, x)
        y.backward(tg.ones_like(y))
        moved: Any = const(A + 1e-20j)
        expected = (op(moved, b) if a is A else op(a, moved)).numpy().imag / 1e-20
        assert x.grad is not None
        assert_close(x.grad, expected, 1e-14)


def test_matmul_on_either_side() -> None:
    for a, b in ((leaf(A), const(A.T).data), (const(A).data, leaf(A.T)), (leaf(A), leaf(A.T))):
        assert_close(a @ b, A @ A.T, 1e-15)
    assert_close(leaf(B) @ leaf(B), np.asarray(B @ B), 1e-15)


def test_unary_and_logical_operators() -> None:
    x, m, n = const(A - 1.5), const(A > 1.5), const(B > 1.5)
    np.testing.assert_array_equal((-x).numpy(), 1.5 - A)
    np.testing.assert_array_equal((+x).numpy(), A - 1.5)
    np.testing.assert_array_equal(abs(x).numpy(), abs(A - 1.5))
    np.testing.assert_array_equal((~m).numpy(), ~m.numpy())
    for op in (operator.and_, operator.or_):
        np.testing.assert_array_equal(op(m, n).numpy(), op(m.numpy(), n.numpy()))
        np.testing.assert_array_equal(op(m.data, n).numpy(), op(m.numpy(), n.numpy()))
        np.testing.assert_array_equal(op(True, n).numpy(), op(True, n.numpy()))


# --- dtypes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 2.0, True, np.float64(2.0), np.int64(2), np.float32(2.0)])
@pytest.mark.parametrize("op", ARITHMETIC, ids=lambda op: op.__name__)
def test_numbers_are_weak(op: Callable[[Any, Any], Any], number: Any) -> None:
    x = leaf(A.astype("float32"))
    for y in (op(x, number), op(number, x)):
        assert y.dtype == tg.float32
        (g,) = tg.grad(y, x, tg.ones_like(y))
        assert g is not None
        assert g.dtype == tg.float32


@pytest.mark.parametrize("op", [*ARITHMETIC, operator.matmul], ids=lambda op: op.__name__)
def test_a_gradient_has_the_dtype_of_its_input(op: Callable[[Any, Any], Any]) -> None:
    square = np.arange(1.0, 10.0).reshape(3, 3) / 4
    a, b = leaf(square.astype("float32")), leaf(square)
    y = op(a, b)
    assert y.dtype == tg.float64
    y.backward(tg.ones_like(y))
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.dtype == tg.float32
    assert b.grad.dtype == tg.float64
    wide = [leaf(a.numpy().astype(float)), leaf(square)]
    z = op(*wide)
    z.backward(tg.ones_like(z))
    for x, other in zip((a, b), wide, strict=True):
        assert other.grad is not None
        assert_close(x.grad, other.grad.numpy(), 1e-6)


def test_whole_numbers_and_booleans_take_part_without_a_gradient() -> None:
    x, k, m = leaf(B), const(np.array([1, 2, 3])), const(np.array([True, False, True]))
    (x * k * m).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 3.0]
    assert k.grad is None


def test_astype_to_whole_numbers_stops_gradients() -> None:
    assert not leaf(B).astype("int64").requires_grad
    assert not leaf(B).astype("bool").requires_grad
    assert leaf(B).astype("float32").requires_grad


# --- conversions --------------------------------------------------------------------------------


def test_item_and_numbers() -> None:
    for shape in ((), (1,), (1, 1)):
        x = leaf(np.full(shape, 2.5))
        assert x.item() == 2.5
        assert type(x.item()) is float
        assert float(x) == 2.5
        assert int(x) == 2
        assert bool(x)
    assert type(const(np.array(3)).item()) is int
    assert type((const(1.0) < 2).item()) is bool
    assert not const(0.0)


def test_numpy_reads_without_a_copy_and_cannot_write() -> None:
    for x in (leaf(A), leaf(A) * 2, const(A)):
        array = x.numpy()
        assert type(array) is np.ndarray
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_numpy_makes_arrays_of_tensors_without_a_graph() -> None:
    np.testing.assert_array_equal(np.asarray(const(A)), A)
    np.testing.assert_array_equal(np.array([const(B), const(B)]), np.array([B, B]))
    assert np.asarray(const(A), dtype="float32").dtype == np.float32
    np.testing.assert_array_equal(np.stack([const(B), const(B)]), np.array([B, B]))
    with pytest.raises(tg.GraphError, match=r"x\.numpy\(\) or x\.detach\(\)"):
        np.asarray(leaf(A))


def test_len_iteration_and_membership_of_python() -> None:
    x = leaf(A)
    assert len(x) == 2
    assert [row.shape for row in x] == [(3,), (3,)]
    assert len({x, x, leaf(A)}) == 2  # hashed by identity
    assert {x: 1}[x] == 1


def test_tolist() -> None:
    assert const(A).tolist() == A.tolist()
    assert const(np.array(2.0)).tolist() == 2.0


# --- methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "function"),
    [
        (lambda x: x.sum(1), lambda x: tg.sum(x, 1)),
        (lambda x: x.mean(axis=0, keepdims=True), lambda x: tg.mean(x, 0, True)),
        (lambda x: x.max(), tg.max),
        (lambda x: x.min(0), lambda x: tg.min(x, 0)),
        (lambda x: x.prod(1), lambda x: tg.prod(x, 1)),
        (lambda x: x.var(1, 1), lambda x: tg.var(x, 1, 1)),
        (lambda x: x.std(axis=0), lambda x: tg.std(x, 0)),
        (lambda x: x.logsumexp(-1), lambda x: tg.logsumexp(x, -1)),
        (lambda x: x.softmax(), tg.softmax),
        (lambda x: x.log_softmax(0), lambda x: tg.log_softmax(x, 0)),
        (lambda x: x.reshape(3, 2), lambda x: tg.reshape(x, (3, 2))),
        (lambda x: x.reshape((3, 2)), lambda x: tg.reshape(x, (3, 2))),
        (lambda x: x.transpose(), lambda x: tg.permute_dims(x, (1, 0))),
        (lambda x: x.transpose((0, 1)), lambda x: x),
        (lambda x: x.transpose((1, 0)), lambda x: tg.permute_dims(x, (1, 0))),
        (lambda x: x.swapaxes(0, 1), lambda x: tg.swapaxes(x, 0, 1)),
        (lambda x: x.flatten(), lambda x: tg.reshape(x, -1)),
        (lambda x: x[None].squeeze(0), lambda x: x),
        (lambda x: x.T, tg.matrix_transpose),
        (lambda x: x.mT, tg.matrix_transpose),
        (lambda x: x.exp().log().sqrt().square().abs(), lambda x: x),
        (lambda x: x.tanh() + x.sigmoid() + x.relu(), lambda x: tg.tanh(x) + tg.sigmoid(x) + tg.relu(x)),
        (lambda x: x.clip(1, 2), lambda x: tg.clip(x, 1, 2)),
        (lambda x: x.clip(max=2), lambda x: tg.clip(x, None, 2)),
        (lambda x: x.clone(), lambda x: x),
        (lambda x: x.astype("float32").astype("float64"), lambda x: x),
    ],
)  # fmt: skip
def test_methods_are_the_functions(method: Any, function: Any) -> None:
    x = leaf(A)
    y, z = method(x), function(x)
    assert_close(y, z, 1e-15)
    (dy,), (dz,) = tg.grad(y.sum(), x), tg.grad(z.sum() if z is not x else (z * 1).sum(), x)
    assert dy is not None
    assert_close(dy, dz, 1e-15)


def test_methods_carry_the_documentation_of_their_functions() -> None:
    for name, method in vars(tg.Tensor).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            assert inspect.getdoc(method), name
    assert list(inspect.signature(tg.Tensor.sum).parameters) == ["x", "axis", "keepdims"]


# --- graphs and memory --------------------------------------------------------------------------


def test_detach_and_clone() -> None:
    x = leaf(A)
    assert x.detach().data is x.data
    assert not x.detach().requires_grad
    y = x.clone()
    assert y.requires_grad
    c = const(A)
    write(c.clone(), 0)
    assert c.tolist() == A.tolist()
    assert not c.clone().requires_grad
    (y * y.detach()).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), A)


def test_deepcopy_is_a_leaf_with_memory_of_its_own() -> None:
    x = leaf(A)
    (x * x).sum().backward()
    for twin in (copy.deepcopy(x), copy.copy(x)):
        assert twin.requires_grad
        assert twin.grad is not None
        assert x.grad is not None
        assert twin.grad.tolist() == x.grad.tolist()
        write(twin, 0)
        write(twin.grad, 0)
        assert x.tolist() == A.tolist()
        assert x.grad.tolist() == (2 * A).tolist()
    shared = [x, x]
    pair = copy.deepcopy(shared)
    assert pair[0] is pair[1]


def test_grad_can_be_set_and_dropped() -> None:
    x = leaf(A)
    x.grad = const(A)
    (x * 2).sum().backward()
    assert x.grad.tolist() == (A + 2).tolist()
    x.grad = None
    assert x.grad is None


def test_requires_grad_can_be_switched_on_a_leaf() -> None:
    x = const(A)
    x.requires_grad = True
    (x * 2).sum().backward()
    assert x.grad is not None
    x.requires_grad = False
    assert not (x * 2).requires_grad


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (lambda: leaf(B), "tensor([2., 1., 4.], dtype=float64, requires_grad=True)"),
        (lambda: leaf(B) * 2, "tensor([4., 2., 8.], dtype=float64, op=multiply)"),
        (lambda: const(B.astype("float32")), "tensor([2., 1., 4.])"),
        (lambda: const(B > 1), "tensor([ True, False,  True])"),
        (lambda: const(2.0), "tensor(2., dtype=float64)"),
    ],
)
def test_repr(x: Callable[[], tg.Tensor], text: str) -> None:
    assert repr(x()).replace(f", device='{x().device}'", "") == text


def test_repr_of_much_is_short() -> None:
    assert len(repr(tg.zeros((1000, 1000)))) < 1000


def test_tensors_are_not_pickled() -> None:
    with pytest.raises(tg.TinygradError, match="state_dict"):
        pickle.dumps(const(A))


def test_a_view_of_a_raw_array_is_a_tensor() -> None:
    flipped = tg.apply(tg.PRIMITIVES["flip"], array([1.0, 2.0]), axis=(-1,))
    assert flipped.tolist() == [2.0, 1.0]
