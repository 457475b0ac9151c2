"""NumPy's formulas at the edges: coordinates, NaN, halves, integers, and calls that cannot be."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, const, host, leaf

INF, NAN = math.inf, math.nan


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


# --- coordinates --------------------------------------------------------------------------------

TIMES = 1.7e9 + np.array([0.0, 1.0, 3.0])


@pytest.mark.parametrize("times", [TIMES, TIMES.tolist()])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_coordinates_of_the_host_are_subtracted_before_they_are_rounded(
    times: Any, dtype: str
) -> None:
    x = const(np.array([1.0, 2.0, 6.0], dtype))
    for y, expected in (
        (tg.trapezoid(x, times), [9.5]),
        (tg.gradient(x, times), np.gradient([1.0, 2.0, 6.0], [0.0, 1.0, 3.0])),
        (tg.interp(TIMES[:2] + 0.5, times, x), [1.5, 3.0]),
    ):
        assert y.dtype == dtype
        np.testing.assert_allclose(
            host(y).reshape(-1), expected, rtol=1e-3 if dtype == "float16" else 1e-7
        )


def test_coordinates_have_derivatives() -> None:
    y, x = np.array([1.0, 2.0, 6.0]), np.array([0.0, 1.0, 3.0])
    tg.testing.check_gradients(tg.trapezoid, y, x)
    tg.testing.check_gradients(tg.gradient, y, x)
    tg.testing.check_gradients(tg.interp, np.array([0.4, 1.7, 5.0]), x, y)
    tg.testing.check_gradients(lambda x, q: tg.quantile(x, q), y, np.array([0.2, 0.7]))


def test_data_of_the_host_goes_where_the_tensor_is() -> None:
    x = leaf(np.array([1.0, 2.0, 6.0]))
    points = np.array([0.0, 1.0, 3.0])
    for y in (
        tg.trapezoid(x, points),
        tg.gradient(x, points),
        tg.average(x, weights=points),
        tg.interp(x, points, points),
        tg.interp(points, points, x),
        tg.quantile(x, np.array([0.5])),
        tg.percentile(x, 50),
    ):
        assert y.device == x.device
        assert y.requires_grad


# --- halves -------------------------------------------------------------------------------------

SIGNS = np.array([1.0, -1.0, 1.0], np.float16)

HALVES: dict[str, tuple[Callable[[tg.Tensor], tg.Tensor], Array, float]] = {
    "median": (tg.median, np.repeat([0.0, 1.0], 2500), 0.5),
    "median of many": (tg.median, np.ones(70001), 1.0),
    "nanstd": (tg.nanstd, np.tile([300.0, -300.0], 2000), 300.0),
    "average": (lambda x: tg.average(x, weights=x), np.full(40, 300.0), 300.0),
    "trapezoid": (lambda x: tg.trapezoid(x, dx=0.1), np.full(3, 4e4), 8000.0),
    "acosh": (lambda x: tg.acosh(x)[0], np.array([4e4]), math.acosh(4e4)),
    "vdot": (lambda x: tg.vdot(x, x * const(SIGNS)), np.array([300.0, 300.0, 1.0]), 1.0),
    "linspace": (lambda x: tg.linspace(x[0], x[1], 4001)[2001], np.array([-1e3, 1e3]), 0.5),
    "cumprod": (lambda x: tg.cumprod(x)[-1], np.full(2000, 1 + 2**-10), (1 + 2**-10) ** 2000),
}  # fmt: skip


@pytest.mark.parametrize("case", HALVES)
def test_halves_are_computed_with_in_float32(case: str) -> None:
    f, values, expected = HALVES[case]
    y = f(leaf(values.astype(np.float16)))
    assert y.dtype == np.float16
    assert abs(y.item() - expected) <= expected * 2**-11  # one rounding
    assert y.requires_grad


# --- wrong calls --------------------------------------------------------------------------------

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


# --- names and operators ------------------------------------------------------------------------


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
