"""Compositions: values equal NumPy's, and derivatives pass check_gradients."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import const, host, leaf
from tinygrad182.tensors import compositions

from .table.compositions import ARRAYS, CALLS

INF = math.inf

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
        return  # float64 by definition; a number that becomes a half itself; a sum behind it
    halves = {name: x.astype(np.float16) for name, x in ARRAYS.items()}
    exact = _evaluated(call, {name: const(x.astype(np.float64)) for name, x in halves.items()})
    for y, expected in zip(
        _evaluated(call, {name: const(x) for name, x in halves.items()}), exact, strict=True
    ):
        assert y.dtype == np.float16
        np.testing.assert_allclose(host(y), host(expected), rtol=1.01 * 2**-11, atol=2**-20)


# --- corners ------------------------------------------------------------------------------------


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
