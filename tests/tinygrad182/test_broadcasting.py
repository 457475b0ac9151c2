"""Broadcasting equals writing the repetition out, for shapes drawn at random.

A named pattern is drawn first: plain random shapes seldom broadcast, and are never empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, const, leaf, leaves

from .table.elementwise import FUNCTIONS
from .table.row import Domain, Shape

Pattern = Callable[[tuple[int, int, int]], Shape]

PATTERNS: dict[str, Pattern] = {
    "whole": lambda n: n,
    "0d": lambda n: (),
    "one element": lambda n: (1,),
    "trailing": lambda n: n[1:],
    "last": lambda n: n[2:],
    "first kept": lambda n: (n[0], 1, 1),
    "middle kept": lambda n: (1, n[1], 1),
    "middle kept, short": lambda n: (n[1], 1),
    "last repeated": lambda n: (*n[:2], 1),
    "all ones": lambda n: (1, 1, 1),
}
SIZES = st.tuples(*[st.sampled_from([1, 2, 3, 0])] * 3)

MANY = [entry for entry in FUNCTIONS if len(entry[2]) > 1]


def _summed_to(gradient: Array, shape: Shape) -> Array:
    """What un-broadcasting must do, by NumPy."""
    extra = gradient.ndim - len(shape)
    axes = tuple(i for i in range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and gradient.shape[extra + i] != 1
    )
    return gradient.sum(axis=axes, keepdims=True).reshape(shape)


@pytest.mark.parametrize(
    ("name", "domains"), [(name, domains) for name, _, domains in MANY], ids=[e[0] for e in MANY]
)
@given(data=st.data(), sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_elementwise(
    name: str, domains: tuple[Domain, ...], data: Any, sizes: tuple[int, int, int], seed: int
) -> None:
    patterns = [data.draw(st.sampled_from(sorted(PATTERNS))) for _ in domains]
    rng = np.random.default_rng(seed)
    xs = [domain(rng, PATTERNS[p](sizes)) for domain, p in zip(domains, patterns, strict=True)]
    common = np.broadcast_shapes(*(x.shape for x in xs))
    written_out = [np.broadcast_to(x, common).copy() for x in xs]

    function = getattr(tg, name)
    g = const(rng.standard_normal(common))
    inputs, full = leaves(xs), leaves(written_out)
    y = function(*inputs)
    np.testing.assert_array_equal(y.numpy(), function(*full).numpy())
    y.backward(g)
    function(*full).backward(g)
    for x, other in zip(inputs, full, strict=True):
        if x.requires_grad:
            assert x.grad is not None
            assert other.grad is not None
            assert_close(x.grad, _summed_to(other.grad.numpy(), x.shape), 1e-12, floor=1e-2)


@given(data=st.data(), sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_batches_of_matrices(data: Any, sizes: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [PATTERNS[data.draw(st.sampled_from(sorted(PATTERNS)))](sizes) for _ in range(2)]
    a, b = rng.standard_normal((*batches[0], 2, 3)), rng.standard_normal((*batches[1], 3, 4))
    common = np.broadcast_shapes(*batches)
    wide = [np.broadcast_to(a, (*common, 2, 3)).copy(), np.broadcast_to(b, (*common, 3, 4)).copy()]

    g = const(rng.standard_normal((*common, 2, 4)))
    inputs, full = leaves([a, b]), leaves(wide)
    y = tg.matmul(*inputs)
    assert_close(y, np.matmul(*wide), 1e-14, floor=1.0)
    y.backward(g)
    tg.matmul(*full).backward(g)
    for x, other in zip(inputs, full, strict=True):
        assert x.grad is not None
        assert other.grad is not None
        assert_close(x.grad, _summed_to(other.grad.numpy(), x.shape), 1e-12, floor=1.0)


@given(data=st.data(), sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_broadcast_to(data: Any, sizes: tuple[int, int, int], seed: int) -> None:
    shape = PATTERNS[data.draw(st.sampled_from(sorted(PATTERNS)))](sizes)
    rng = np.random.default_rng(seed)
    x, g = leaf(rng.standard_normal(shape)), rng.standard_normal(sizes)
    y = tg.broadcast_to(x, sizes)
    np.testing.assert_array_equal(y.numpy(), np.broadcast_to(x.numpy(), sizes))
    y.backward(const(g))
    assert x.grad is not None
    assert_close(x.grad, _summed_to(g, shape), 1e-12, floor=1e-2)
