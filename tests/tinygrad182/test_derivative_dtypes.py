"""The dtypes of cotangents and tangents: those of the values, however a rule was promoted."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, leaf


@pytest.mark.parametrize(("narrow", "wide"), [("float32", "float64"), ("float16", "float32")])
def test_a_tangent_has_the_type_its_value_was_promoted_to(narrow: str, wide: str) -> None:
    x, c = const(np.ones(2, narrow)), const(np.ones(2, wide))
    for f in (lambda x: x + c, lambda x: c - x):
        out, tangent = tg.jvp(f, x, np.ones(2))
        assert isinstance(out, tg.Tensor)
        assert isinstance(tangent, tg.Tensor)
        assert out.dtype == tangent.dtype == np.dtype(wide)


def test_a_cotangent_is_cast_down_before_it_is_used() -> None:
    x = leaf(np.ones(1, np.float32))
    g = leaf([2.0**24 + 1])  # float32 rounds it, and three times it, differently
    for given, recorded in ((g, True), (g, False), (g.numpy(), False)):
        (dx,) = tg.grad(x * 3, x, given, create_graph=recorded)
        assert dx is not None
        assert dx.dtype == tg.float32
        assert dx.item() == 3 * 2.0**24
    (dx,) = tg.grad(x * 3, x, g, create_graph=True)
    assert dx is not None
    assert tg.grad(dx.sum(), g)[0].tolist() == [3.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_cotangent_takes_the_type_of_its_output(create_graph: bool) -> None:
    x = tg.tensor(np.array([1.0, 2.0]), requires_grad=True)
    g = tg.tensor(np.array([1.0, 3.0], dtype="float32"), requires_grad=create_graph)
    (dx,) = tg.grad(x * x, x, g, create_graph=create_graph)
    assert dx is not None
    assert dx.dtype == tg.float64
    assert dx.tolist() == [2.0, 12.0]
    if create_graph:
        (dg,) = tg.grad(dx.sum(), g)
        assert dg is not None
        assert dg.dtype == tg.float32
        assert dg.tolist() == [2.0, 4.0]
    (dx,) = tg.grad(x * x, x, [[1, 3]])
    assert dx is not None
    assert dx.dtype == tg.float64


def test_a_tangent_keeps_the_type_of_its_value() -> None:
    x = tg.tensor(np.array([1.0, 2.0], dtype="float32"))
    for f in (lambda x: tg.astype(x, "float64") * 2, lambda x: tg.where(x > 1, x, 0.0)):
        out, tangent = tg.jvp(f, x, tg.ones(2))
        assert isinstance(out, tg.Tensor)
        assert isinstance(tangent, tg.Tensor)
        assert tangent.dtype == out.dtype
