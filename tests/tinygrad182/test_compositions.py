"""Compositions: values equal NumPy's, and derivatives pass check_gradients."""

from __future__ import annotations

import inspect
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import const, host, leaf
from tinygrad182.tensors import compositions

from .table.compositions import ARRAYS, CALLS

INF, NAN = math.inf, math.nan


calls = pytest.mark.parametrize("call", CALLS)


def _evaluated(call: str, names: dict[str, Any], module: Any = np) -> list[Any]:
    found = eval(call, {"np": module, **names})
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _used(call: str) -> list[str]:
    """The arrays that a call names."""
    return [x for x in ARRAYS if re.search(rf"\b{x}\b(?!\.\w*\()", call)]


def test_every_composition_is_called() -> None:
    called = set(re.findall(r"np\.(?:linalg\.)?(\w+)", " ".join(CALLS)))
    same = {getattr(tg, name) for name in called if hasattr(tg, name)}
    missing = {n for n in compositions.__all__ if getattr(tg, n) not in same}
    assert not missing


def test_every_composition_says_what_it_is() -> None:
    for name in compositions.__all__:
        f = getattr(tg, name)
        assert inspect.unwrap(f) is inspect.unwrap(
            getattr(tg.functions, name)
        )  # tg's explains calls
        assert f.__doc__, name
        assert f.__doc__.splitlines()[0].endswith("."), name
        assert f.__name__.isidentifier(), name


@calls
def test_numpy_of_tensors_is_numpy_of_arrays(call: str) -> None:
    expected = _evaluated(call, ARRAYS)
    for module in (
        [np] if "np.linalg" in call or "accumulate" in call or "outer" in call else [np, tg]
    ):
        if module is tg and "'constant'" in call:
            continue  # only NumPy has its modes
        found = _evaluated(call, {name: leaf(x) for name, x in ARRAYS.items()}, module)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert isinstance(a, tg.Tensor)
            np.testing.assert_allclose(host(a), np.asarray(b), rtol=1e-14, atol=1e-15)
            assert a.requires_grad


@calls
def test_derivatives_are_right(call: str) -> None:
    names = _used(call)
    assert names

    def f(*xs: tg.Tensor) -> Any:
        active: dict[str, Any] = dict(zip(names, xs, strict=True))
        if "n" in active:
            active["n"] = tg.where(np.isnan(ARRAYS["n"]), np.nan, active["n"])
        return tuple(_evaluated(call, {k: const(x) for k, x in ARRAYS.items()} | active))

    tg.testing.check_gradients(f, *(np.nan_to_num(ARRAYS[name]) for name in names), max_entries=3)


@calls
def test_float32_stays_float32(call: str) -> None:
    if "float_power" in call:
        return  # float64 by definition
    narrow = {name: leaf(x.astype(np.float32)) for name, x in ARRAYS.items()}
    for y in _evaluated(call, narrow):
        assert y.dtype == np.float32


@calls
def test_halves_are_rounded_once(call: str) -> None:
    """A result in half precision is the float64 result of the same numbers, rounded."""
    if "float_power" in call or "fmod(u, 0.35)" in call or "angle" in call:
        return  # float64 by definition; a number that becomes a half itself; a sum after the function
    halves = {name: x.astype(np.float16) for name, x in ARRAYS.items()}
    exact = _evaluated(call, {name: const(x.astype(np.float64)) for name, x in halves.items()})
    for y, expected in zip(
        _evaluated(call, {name: const(x) for name, x in halves.items()}), exact, strict=True
    ):
        assert y.dtype == np.float16
        np.testing.assert_allclose(host(y), host(expected), rtol=1.01 * 2**-11, atol=2**-20)


# --- edge cases ---------------------------------------------------------------------------------


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=12))
def test_a_product_that_fits_its_type_is_right(exponents: list[int]) -> None:
    """Intermediate results neither underflow nor overflow, for every order of the factors."""
    total = sum(exponents)
    if abs(total) > 1000:
        exponents = [*exponents, *[-total // abs(total) * 500] * (abs(total) // 500)]
        total = sum(exponents)
    x = leaf(2.0 ** np.array(exponents, float))
    assert tg.prod(x).item() == 2.0**total


@given(st.lists(st.sampled_from([0.0, 1.0, -2.0, 0.5, 3.0]), min_size=0, max_size=9))
def test_gradients_of_products_are_products(values: list[float]) -> None:
    x = leaf(np.array(values, float))
    tg.prod(x).backward()
    others = [math.prod(values[:i] + values[i + 1 :]) for i in range(len(values))]
    assert x.grad is not None
    assert x.grad.tolist() == others


@given(st.integers(-4, 4), st.sampled_from([(2, 3), (4,), (1, 1), (3, 0)]))
def test_diagonals_are_numpys(k: int, shape: tuple[int, ...]) -> None:
    x = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    for f in (np.diag, np.tril, np.triu):
        np.testing.assert_array_equal(host(f(leaf(x), k)), f(x, k))


@given(st.integers(1, 5), st.sampled_from([(5,), (3, 4), (0, 2), (1,)]), st.sampled_from([0, -1]))
def test_parts_are_numpys(parts: int, shape: tuple[int, ...], axis: int) -> None:
    x = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    for given_ in (parts, [1, parts], [-1], [parts, 1]):
        expected = np.array_split(x, given_, axis)
        found = np.array_split(leaf(x), given_, axis)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(host(a), b)


@given(st.integers(-7, 7), st.sampled_from([None, 0, 1, (0, 1)]))
def test_rolling_is_numpys(shift: int, axis: Any) -> None:
    x = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(host(np.roll(leaf(x), shift, axis)), np.roll(x, shift, axis))


def test_numbers_take_the_dtype_of_what_they_meet() -> None:
    for dtype in ("float16", "float32", "float64"):
        x = const(np.ones(2, dtype))
        for f in (tg.hypot, tg.fmod, tg.logaddexp, tg.atan2, tg.remainder, tg.fmax, tg.heaviside):
            assert f(x, 0.1).dtype == dtype
            assert f(0.1, x).dtype == dtype
        assert tg.append(x, 0.1).dtype == dtype
        assert tg.stack([x[0], 0.1]).dtype == dtype
    y = tg.concat([const(np.ones(1)), [0.1]])
    assert y.tolist() == [1.0, 0.1]  # not 0.1 of float32


def test_norms_at_0_have_the_least_subgradient() -> None:
    for f in (
        tg.norm,
        lambda x: tg.norm(x, 1),
        lambda x: tg.vector_norm(x, ord=3),
        lambda x: tg.norm(x, axis=1),
    ):
        x = leaf(np.zeros((2, 3)))
        f(x).sum().backward()
        assert x.grad is not None
        np.testing.assert_array_equal(host(x.grad), 0.0)


def test_parts_of_complex_numbers_are_plain() -> None:
    z = np.array([1 + 2j, -3 - 1j])
    for f in (np.real, np.imag, np.conj, np.angle):
        np.testing.assert_allclose(host(f(const(z))), f(z), rtol=1e-15)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda x: tg.split(x, 2, 1), tg.ShapeError, "split: axis 1 .*array_split"),
        (lambda x: tg.moveaxis(x, (0, 1), 0), tg.ShapeError, "moveaxis: .*as many"),
        (lambda x: tg.moveaxis(x, 0, 2), tg.ShapeError, "moveaxis: axis 2"),
        (lambda x: tg.diag(tg.zeros((1, 1, 1))), tg.ShapeError, "diag: a vector or a matrix"),
        (lambda x: tg.cross(x, x[:, :2]), tg.ShapeError, "cross: vectors of three"),
        (lambda x: tg.tensordot(x, x, 1), tg.ShapeError, "tensordot: .*differ in size"),
        (lambda x: tg.select([], []), tg.ArgumentError, "select: "),
        (lambda x: tg.gradient(x, 1.0, 1.0, 1.0), tg.ArgumentError, "gradient: give one spacing"),
        (lambda x: tg.gradient(x[:1]), tg.ShapeError, "gradient: .*too few"),
        (lambda x: tg.correlate(x[0], x[1], "odd"), tg.ArgumentError, "correlate: .*'odd'"),
        (lambda x: tg.norm(x, "nuc"), tg.ArgumentError, "norm: .*singular values"),
        (lambda x: tg.norm(x[0], "a"), tg.ArgumentError, "norm: ord='a'"),
        (lambda x: tg.cumulative_prod(x), tg.ShapeError, "cumulative_prod: name the axis"),
        (lambda x: tg.take_along_axis(x, [0]), tg.ShapeError, "take_along_axis: .*as many axes"),
        (lambda x: tg.broadcast_arrays(x, x[:, :2]), tg.ShapeError, "broadcast_arrays: "),
        (lambda x: tg.tile(x, -1), tg.ArgumentError, "tile: "),
        (lambda x: tg.matrix_power(x, -1), tg.ArgumentError, "matrix_power: "),
    ],
)
def test_wrong_calls(f: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        f(leaf(np.ones((2, 3))))


ONE_AXIS = {
    "concat": lambda x, axis: tg.concat([x, x], axis),
    "stack": lambda x, axis: tg.stack([x, x], axis),
    "cumulative_sum": lambda x, axis: tg.cumulative_sum(x, axis),
    "swapaxes": lambda x, axis: tg.swapaxes(x, 0, axis),
    "unstack": lambda x, axis: tg.unstack(x, axis),
    "take": lambda x, axis: tg.take(x, [0], axis),
    "take_along_axis": lambda x, axis: tg.take_along_axis(x, x > 0, axis),
    "diff": lambda x, axis: tg.diff(x, axis=axis),
}


@pytest.mark.parametrize("name", ONE_AXIS)
def test_several_axes_where_one_is_meant(name: str) -> None:
    with pytest.raises(
        (tg.ArgumentError, tg.ShapeError), match=rf"^{name}: .*(a whole number|as many axes)"
    ):
        ONE_AXIS[name](leaf(np.ones((2, 3))), (0, 1))


def test_what_no_memory_holds_is_refused() -> None:
    for width in (2**62, (0, 2**61)):
        with pytest.raises(tg.ShapeError, match=r"^pad: a result.* more than any memory"):
            tg.pad(leaf(np.ones((2, 3))), width)
    with pytest.raises(tg.ArgumentError, match=r"^var: correction 'a'.*number"):
        tg.var(leaf(np.ones(3)), correction="a")  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [0, -1])
def test_a_number_is_its_own_row(axis: int) -> None:
    x = leaf(np.array(3.0))
    values = {"sum": 3, "prod": 3, "max": 3, "min": 3, "mean": 3, "var": 0, "std": 0}
    values |= {"logsumexp": 3, "softmax": 1, "log_softmax": 0, "cumulative_sum": 3, "norm": 3}
    for name, value in values.items():
        y = getattr(tg, name)(x, axis=axis)
        assert (y.shape, y.item()) == ((), value), name
        assert y.requires_grad
    assert tg.swapaxes(x, axis, 0).shape == ()
    with pytest.raises(tg.ShapeError, match="axis 1 is out of range"):
        tg.sum(x, axis=1)


def test_outer_and_take_read_all_elements_as_numpy_does() -> None:
    x, v = np.arange(6.0).reshape(2, 3), np.asarray([2.0, -1.0])
    a, b = leaf(x), leaf(v)
    np.testing.assert_array_equal(tg.outer(a, b).numpy(), np.outer(x, v))
    np.testing.assert_array_equal(np.take(a, [0, 5]).numpy(), np.take(x, [0, 5]))
    (tg.outer(a, b).sum() + tg.take(a, [0, 5]).sum()).backward()
    np.testing.assert_array_equal(a.grad.numpy(), 1.0 + np.asarray([[1, 0, 0], [0, 0, 1]]))
    np.testing.assert_array_equal(b.grad.numpy(), [15.0, 15.0])


def integers(values: Any) -> tg.Tensor:
    return const(np.asarray(values, np.int64))


# a call of NumPy's, and the arrays it is called with: ours must give what NumPy gives
LIKE_NUMPY: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "linspace of integers": (lambda x: np.linspace(x[0], x[1], 5), ([0, 1],)),
    "gradient of integers": (lambda x: np.gradient(x, [0.0, 0.5, 2.0]), ([1, 2, 4],)),
    "trapezoid of points for all rows": (
        lambda x: np.trapezoid(x, np.array([[0.0, 1.0, 4.0]])),
        (np.arange(6.0).reshape(2, 3),),
    ),
    "trapezoid of integers": (lambda x: np.trapezoid(x, [0.0, 0.5, 2.0]), ([1, 2, 4],)),
    "interp of integers": (lambda x: np.interp(x, [0.0, 2.0], [0.0, 1.0]), ([1, 2],)),
    "interp one point": (lambda x: np.interp(x, [1.0], [7.0]), ([0.5, 1.0, 2.0],)),
    "interp jumps": (
        lambda x: np.interp(x, [0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]),
        ([-1.0, 0.0, 0.5, 1.0, 2.0],),
    ),
    "median of NaN": (lambda x: np.median(x, axis=1), ([[1.0, NAN, 2.0], [3.0, 1.0, 2.0]],)),
    "median of inf": (lambda x: np.median(x), ([INF, INF, -INF, INF],)),
    "median of two axes": (
        lambda x: np.median(x, axis=(0, 2)),
        (np.arange(12.0).reshape(2, 3, 2),),
    ),
    "quantile keepdims": (
        lambda x: np.quantile(x, [0.1, 0.6], axis=(0, 1), keepdims=True),
        (np.arange(12.0).reshape(2, 3, 2),),
    ),
    "rollaxis from the end": (lambda x: np.rollaxis(x, 0, -1), (np.arange(24.0).reshape(2, 3, 4),)),
    "diag of a short k": (lambda x: np.diag(x, np.uint8(1)), ([1.0, 2.0],)),
    "trace of a short k": (lambda x: np.trace(x, np.uint8(1)), (np.arange(9.0).reshape(3, 3),)),
    "tril of a short k": (lambda x: np.tril(x, np.uint8(0)), (np.arange(9.0).reshape(3, 3),)),
    "triu of a short k": (lambda x: np.triu(x, np.uint8(1)), (np.arange(9.0).reshape(3, 3),)),
    "nanmax of NaN": (lambda x: np.nanmax(x, axis=1), ([[NAN, NAN], [1.0, NAN]],)),
    "nanmin of NaN": (lambda x: np.nanmin(x, axis=1), ([[NAN, NAN], [1.0, NAN]],)),
    "nanmax of integers": (lambda x: np.nanmax(x), ([1, 2],)),
    "nansum of integers": (lambda x: np.nansum(x), ([1, 2],)),
    "tril of integers": (np.tril, ([[1, 2], [3, 4]],)),
    "triu of Booleans": (np.triu, ([[True, True], [True, True]],)),
    "diagflat of integers": (np.diagflat, ([1, 2],)),
    "average by floats": (lambda x: np.average(x, weights=[0.2, 0.3, 0.5]), ([1, 2, 9],)),
    "append an integer": (lambda x: np.append(x, [2]), ([1],)),
    "append a float": (lambda x: np.append(x, [0.1]), ([1],)),
    "nan_to_num of integers": (np.nan_to_num, ([1, 2],)),
    "roll one axis twice": (lambda x: np.roll(x, (1, 1), 0), ([1, 2, 3],)),
    "roll by an array": (lambda x: np.roll(x, np.array([1, 2]), (0, 1)), ([[1, 2, 3], [4, 5, 6]],)),
    "tile by an array": (lambda x: np.tile(x, np.array([2, 1])), ([1, 2],)),
    "split by an array": (lambda x: np.split(x, np.array(2))[1], ([1, 2, 3, 4],)),
    "norm of NumPy's number": (lambda x: np.linalg.norm(x, np.int64(3)), (np.ones(3),)),
    "select's default": (lambda x: np.select([x > 1], [x]), ([1, 2],)),
    "cbrt of cubes": (np.cbrt, ([27.0, 8.0, 0.0, -125.0, INF, -INF, NAN, 1e300],)),
    "acosh of the largest": (np.acosh, ([1e308, 1.0, 1.0 + 1e-14],)),
    "argmax keepdims": (lambda x: np.argmax(x, 1, keepdims=True), ([[1, 2], [4, 3]],)),
    "sum, all by position": (lambda x: np.sum(x, 0, None, None, True), ([[1.0, 2.0]],)),
}


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("case", LIKE_NUMPY)
def test_corners_are_numpys(case: str) -> None:
    f, given = LIKE_NUMPY[case]
    arrays = [np.asarray(x) for x in given]
    expected = np.asarray(f(*arrays))
    found = f(*map(const, arrays))
    assert isinstance(found, tg.Tensor)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(host(found), expected, rtol=4e-16)


def test_quantiles_between_infinities_are_infinite() -> None:
    assert tg.quantile(const(np.array([1.0, INF, INF])), [0.0, 0.75, 1.0]).tolist() == [
        1.0,
        INF,
        INF,
    ]
    x = leaf(np.array([-INF, 0.5, 2.0]))
    tg.median(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_a_product_is_right_whether_it_is_ordered_or_not() -> None:
    """Rows of which every product stays in range are multiplied as they come."""
    x = np.array([[2.0, -0.5, 3.0, 0.0, 7.0], [1e-300, 1e300, 1e300, 1e-300, 3.0]])
    np.testing.assert_allclose(host(tg.prod(leaf(x), axis=-1)), [0.0, 3.0], rtol=1e-15)
    for row, expected in zip(
        x, ([0, 0, 0, -21, 0], [3e300, 3e-300, 3e-300, 3e300, 1]), strict=True
    ):
        y = leaf(row)
        tg.prod(y).backward()
        assert y.grad is not None
        np.testing.assert_allclose(host(y.grad), expected, rtol=1e-15)
    assert tg.prod(integers([3, 5, 7]), axis=0).item() == 105


def test_a_cube_root_has_its_derivatives() -> None:
    x = np.array([27.0, -8.0, 0.3])
    tg.testing.check_gradients(tg.cbrt, x)


V, M = np.ones(2), np.ones((2, 3))


WRONG: dict[str, tuple[Callable[[Any, Any], Any], type[Exception]]] = {
    "trapezoid: points of shape": (lambda v, m: tg.trapezoid(m, [0.0, 1.0]), tg.ShapeError),
    "gradient: points of shape": (lambda v, m: tg.gradient(v, [0.0, 1.0, 2.0]), tg.ShapeError),
    "interp: points xp": (lambda v, m: tg.interp(v, [0.0, 1.0], [1.0]), tg.ShapeError),
    "interp: points xp of shape \\(1, 1\\)": (lambda v, m: tg.interp(v, [[0]], [[1]]), tg.ShapeError),
    "quantile: shares": (lambda v, m: tg.quantile(v, 1.5), tg.ArgumentError),
    "percentile: shares": (lambda v, m: tg.percentile(v, -1), tg.ArgumentError),
    "median: no elements": (lambda v, m: tg.median(v[:0]), tg.ArgumentError),
    "median: axis 5": (lambda v, m: tg.median(m, axis=(0, 5)), tg.ShapeError),
    "rot90: k 1.5": (lambda v, m: tg.rot90(m, 1.5), tg.ArgumentError),
    "rot90: axes": (lambda v, m: tg.rot90(m, 1, (0, 1, 1)), tg.ArgumentError),
    "diag: k 1.5": (lambda v, m: tg.diag(v, 1.5), tg.ArgumentError),
    "tril: k 1.5": (lambda v, m: tg.tril(m, 1.5), tg.ArgumentError),
    "trace: offset": (lambda v, m: tg.trace(m, 0.5), tg.ArgumentError),
    "diff: n -1": (lambda v, m: tg.diff(v, -1), tg.ArgumentError),
    "diff: n 1.5": (lambda v, m: tg.diff(v, 1.5), tg.ArgumentError),
    "partition: kth 7": (lambda v, m: tg.partition(v, 7), tg.IndexOutOfRangeError),
    "rollaxis: start 4": (lambda v, m: tg.rollaxis(m, 0, 4), tg.ShapeError),
    "matrix_power: square": (lambda v, m: tg.matrix_power(v, 1), tg.ShapeError),
    "matrix_power: square matrices": (lambda v, m: tg.matrix_power(m, 1), tg.ShapeError),
    "vdot: 1 and 2": (lambda v, m: tg.vdot(v[:1], v), tg.ShapeError),
    "vecdot: 1 and 3": (lambda v, m: tg.vecdot(m[:, :1], m), tg.ShapeError),
    "average: weights of shape": (lambda v, m: tg.average(m, weights=[1, 1, 1]), tg.ShapeError),
    "average: 3 weights for the 2": (lambda v, m: tg.average(m, 0, [1, 1, 1]), tg.ShapeError),
    "norm: ord=2, axis=None": (lambda v, m: tg.norm(m[None], 2), tg.ShapeError),
    "select: conditions": (lambda v, m: tg.select([v], [v]), tg.DTypeError),
    "select: cannot take": (lambda v, m: tg.select(v, 0, 0), tg.DTypeError),
    "repeat: repeats -1": (lambda v, m: tg.repeat(v, -1), tg.ArgumentError),
    "repeat: repeats 1.5": (lambda v, m: tg.repeat(v, 1.5), tg.ArgumentError),
    "repeat: cannot take": (lambda v, m: tg.repeat(v, [1, 2, 3]), tg.ShapeError),
    "delete: index 5": (lambda v, m: tg.delete(v, 5), tg.IndexOutOfRangeError),
    "tensordot: axes": (lambda v, m: tg.tensordot(m, m, [[0], [1], [1]]), tg.ArgumentError),
    "multi_dot: at least two": (lambda v, m: tg.multi_dot([]), tg.ArgumentError),
    "roll: shift": (lambda v, m: tg.roll(m, (1, 2, 3), (0, 1)), tg.ArgumentError),
    "atleast_1d: there is no argument 'foo'": (lambda v, m: tg.atleast_1d(foo=1), tg.CallError),
    "tan: there is no argument 'foo'": (lambda v, m: tg.tan(foo=1), tg.CallError),
    "correlate: mode 'x'": (lambda v, m: tg.correlate(v, v, "x"), tg.ArgumentError),
    "correlate: shapes": (lambda v, m: tg.correlate(v[:1], v), tg.ShapeError),
    "hypot: shape": (lambda v, m: tg.hypot(v, v[:0]), tg.ShapeError),
    "vstack: cannot take 3": (lambda v, m: tg.vstack(3), tg.DTypeError),
    "np.sum on a Tensor .*dtype": (lambda v, m: np.sum(m, 0, np.float32), tg.ArgumentError),
    "sum: axis slice": (lambda v, m: tg.sum(m[0, 0], slice(0, 1)), tg.ArgumentError),
    "swapaxes: axis \\[0\\]": (lambda v, m: tg.swapaxes(m[0, 0], 0, [0]), tg.ArgumentError),
    "cumulative_sum: axis": (lambda v, m: tg.cumulative_sum(v, np.ones(2)), tg.ArgumentError),
    "argmax: axis": (lambda v, m: tg.argmax(m, np.ones(2)), tg.ArgumentError),
    "format: ": (lambda v, m: f"{v:.2f}", tg.ShapeError),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_wrong_calls_say_what_was_called(message: str) -> None:
    f, error = WRONG[message]
    with pytest.raises(error, match=f"^{message}"):
        f(leaf(V), leaf(M))


def test_a_function_with_two_names_is_one_function() -> None:
    for first, second in (("acosh", "arccosh"), ("atanh", "arctanh"), ("deg2rad", "radians")):
        assert getattr(tg, first) is getattr(tg, second)
        assert getattr(tg, second).__name__ == first
    for name in tg.functions.__all__:
        f = getattr(tg, name)
        assert pickle.loads(pickle.dumps(f)) is f, name


def test_keepdims_stands_behind_the_axis() -> None:
    x = const(np.array([[1.0, 3.0], [2.0, 0.0]]))
    for f in (tg.argmax, tg.argmin):
        assert f(x, 1, True).shape == (2, 1)
    for f in (tg.any, tg.all):
        assert f(x > 0.5, 1, True).shape == (2, 1)


def test_numbers_are_divided_rounded_and_shown_as_pythons() -> None:
    x = const(np.array([7.5, -7.5]))
    assert (x // 2).tolist() == [3.0, -4.0]
    assert (20 // x).tolist() == [2.0, -3.0]
    for found, expected in ((divmod(x, 2), (7.5, 2)), (divmod(20, x), (20, 7.5))):
        assert tuple(y[0].item() for y in found) == divmod(*expected)
    assert round(x).tolist() == [8.0, -8.0]
    assert round(const(np.array([1.26])), 1).tolist() == [1.3]
    assert f"{const(np.array(0.12345)):.3f}" == "0.123"
    assert f"{x}" == str(x)
