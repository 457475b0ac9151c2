"""Values, gradients and second derivatives agree with PyTorch in float64 to 1e-10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, const, leaf, leaves, needs_torch

from . import edge_case_checks
from .checks import cotangent, directions
from .table import ROWS, Row

TOLERANCE = 1e-10


def _torch_leaves(t: Any, xs: Sequence[Array]) -> list[Any]:
    return [t.tensor(x, requires_grad=x.dtype.kind == "f") for x in xs]


def _grad(t: Any, outputs: Sequence[Any], inputs: Sequence[Any], gs: Sequence[Any]) -> list[Any]:
    """PyTorch's gradients of outputs that may not depend on anything, recorded."""
    pairs = [(y, g) for y, g in zip(outputs, gs, strict=True) if y.requires_grad]
    if not pairs:
        return [t.zeros_like(x) for x in inputs]
    ys, cotangents = zip(*pairs, strict=True)
    return list(t.autograd.grad(ys, inputs, cotangents, create_graph=True, materialize_grads=True))


def values_and_gradients(row: Row, t: Any) -> None:
    """Raise AssertionError where the row differs from PyTorch."""
    xs = row.draw()
    g = cotangent(row, xs)
    mine, theirs = leaves(xs), _torch_leaves(t, xs)
    y, expected = row.f(*mine), row.torch(t, *theirs)
    assert_close(y, expected.detach().numpy(), TOLERANCE)
    y.backward(const(g))
    expected.backward(t.tensor(g, dtype=expected.dtype))
    for x, other in zip(mine, theirs, strict=True):
        if other.grad is not None:
            assert x.grad is not None
            assert_close(x.grad, other.grad.numpy(), TOLERANCE, "gradient")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_values_and_gradients(row: Row) -> None:
    values_and_gradients(row, needs_torch())


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_values_elsewhere(row: Row) -> None:
    """Large and tiny inputs, whole numbers, a zero."""
    edge_case_checks.values(row, needs_torch())


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_second_derivatives(row: Row) -> None:
    t = needs_torch()
    xs = row.draw()
    g = cotangent(row, xs)
    vs = [v for v in directions(xs) if v is not None]
    mine, theirs = [*leaves(xs), leaf(g)], _torch_leaves(t, [*xs, g])
    active = [x for x in mine if x.requires_grad]
    their_active = [x for x in theirs if x.requires_grad]

    first = tg.grad(row.f(*mine[:-1]), active[:-1], mine[-1], create_graph=True)
    pairs = [
        (d, const(v)) for d, v in zip(first, vs, strict=True) if d is not None and d.requires_grad
    ]
    second: list[tg.Tensor | None] = [None] * len(active)
    if pairs:
        second = tg.grad([d for d, _ in pairs], active, [v for _, v in pairs])

    y = row.torch(t, *theirs[:-1])
    their_first = _grad(t, [y], their_active[:-1], [theirs[-1].to(y.dtype)])
    their_second = _grad(t, their_first, their_active, [t.tensor(v) for v in vs])
    for a, b in zip(second, their_second, strict=True):
        expected = b.detach().numpy(force=True)
        actual = np.zeros(expected.shape) if a is None else a.numpy()
        assert_close(actual, expected, TOLERANCE, "second derivative", floor=1e-3)
