"""array-api-strict as a third library: code that needs NumPy or CuPy fails here, without a GPU.

Its arrays refuse everything the Array API standard does not promise: mixed dtypes, NumPy operands,
methods, ``out=``, index arrays beside slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_strict
import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, host_only, is_floating, leaves

from .checks import cotangent, directions, like
from .table import PLAIN, ROWS, PlainRow, Row
from .table.compositions import ARRAYS, CALLS

pytestmark = host_only("the third library's arrays live there")


def _strict(array: Any) -> Any:
    return array_api_strict.asarray(np.asarray(array))


def _strict_leaves(xs: Sequence[Array]) -> list[tg.Tensor]:
    return [tg.tensor(_strict(x), requires_grad=is_floating(np.asarray(x))) for x in xs]


def _values(f: Any, inputs: Sequence[tg.Tensor], g: Any) -> list[Array]:
    y = f(*inputs)
    kind = type(inputs[0].data)
    assert type(y.data) is kind, "the result left its library"
    found = tg.grad(y, [x for x in inputs if x.requires_grad], g)
    assert all(d is None or type(d.data) is kind for d in found)
    return [y.numpy(), *(d.numpy() for d in found if d is not None)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_values_and_gradients_equal_numpy(row: Row) -> None:
    xs = row.draw()
    g = cotangent(row, xs)
    actual = _values(row.f, _strict_leaves(xs), _strict(g))
    with tg.use_device("cpu"):
        expected = _values(row.f, [tg.tensor(x, requires_grad=is_floating(x)) for x in xs], g)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, like(row))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_second_derivatives_equal_numpy(row: Row) -> None:
    xs = row.draw()
    g = cotangent(row, xs)
    vs = [v for v in directions(xs) if v is not None]
    actual = _second(row, _strict_leaves(xs), _strict(g), [_strict(v) for v in vs])
    expected = _second(row, leaves(xs), g, vs)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, 1e-13, floor=1e-3)


def _second(row: Row, inputs: Sequence[tg.Tensor], g: Any, vs: Sequence[Any]) -> list[Array]:
    active = [x for x in inputs if x.requires_grad]
    first = tg.grad(row.f(*inputs), active, g, create_graph=True)
    pairs = [(d, v) for d, v in zip(first, vs, strict=True) if d is not None and d.requires_grad]
    if not pairs:
        return []
    second = tg.grad([d for d, _ in pairs], active, [v for _, v in pairs])
    return [
        np.zeros(x.shape) if d is None else d.numpy() for d, x in zip(second, active, strict=True)
    ]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_forward_mode_and_jacobians_equal_numpy(row: Row) -> None:
    xs = row.draw()
    vs = [v for v in directions(xs) if v is not None]
    strict = _forward(row, _strict_leaves(xs), [_strict(v) for v in vs])
    for actual, expected in zip(strict, _forward(row, leaves(xs), vs), strict=True):
        assert_close(actual, expected, like(row))


def _forward(row: Row, inputs: Sequence[tg.Tensor], vs: Sequence[Any]) -> list[Array]:
    """Value, tangent and Jacobian by the first input."""
    active = [k for k, x in enumerate(inputs) if x.requires_grad]

    def f(*moved: Any) -> tg.Tensor:
        given = dict(zip(active, moved, strict=True))
        return row.f(*(given.get(k, x) for k, x in enumerate(inputs)))

    points = [inputs[k].detach() for k in active]
    out, tangent = tg.jvp(f, points, vs)
    jacobian = tg.jacobian(lambda x: f(x, *points[1:]), points[0])
    for result in (out, tangent, jacobian):
        assert isinstance(result, tg.Tensor)
        assert type(result.data) is type(inputs[0].data)
    return [result.numpy() for result in (out, tangent, jacobian)]


@pytest.mark.parametrize("row", [r for r in PLAIN if r.inputs], ids=str)
def test_plain_functions_equal_numpy(row: PlainRow) -> None:
    result = row.f(*_strict_leaves(row.inputs))
    assert not isinstance(result.data, np.ndarray)
    np.testing.assert_array_equal(result.numpy(), row.numpy(*row.inputs))


NUMPYS = ("np.linalg.", "accumulate", "outer", "'constant'")
"""Names and arguments that only NumPy has."""


@pytest.mark.parametrize("call", [c for c in CALLS if not any(name in c for name in NUMPYS)])
def test_compositions_stay_in_their_library(call: str) -> None:
    strict = dict(zip(ARRAYS, _strict_leaves(list(ARRAYS.values())), strict=True))
    found, expected = (eval(call, {"np": m, **xs}) for m, xs in ((tg, strict), (np, ARRAYS)))
    several = isinstance(expected, (list, tuple))
    for y, array in zip(*((found, expected) if several else ([found], [expected])), strict=True):
        assert type(y.data) is type(strict["x"].data), "the result left its library"
        np.testing.assert_allclose(y.numpy(), np.asarray(array), rtol=1e-13, atol=1e-15)
        tg.sum(y).backward()
