"""Random programs: gradients through random graphs, against the complex step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles import derivatives
from tests.support import assert_close, assert_same_bits, const, leaf, leaves

UNARY: list[Callable[[Any], Any]] = [
    tg.tanh,
    tg.sin,
    tg.sigmoid,
    lambda x: tg.exp(-x * x),
    lambda x: x[::-1],
    lambda x: x.T,
    lambda x: tg.concat([x[1:], x[:1] * 2], axis=0),
    lambda x: tg.stack(tg.unstack(x, axis=1)),
    lambda x: x[[0, 2, 2]],
    lambda x: x - tg.mean(x, axis=0),
    lambda x: tg.softmax(x, axis=1),
    lambda x: tg.cumulative_sum(x, axis=0) / 3,
    lambda x: tg.broadcast_to(tg.sum(x, axis=1, keepdims=True), (3, 3)) / 3,
]
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - 2 * b,
    lambda a, b: a * b,
    lambda a, b: a @ b / 3,
    lambda a, b: a / (1 + b * b),
    lambda a, b: tg.einsum("ij,kj->ki", a, b) / 3,
    lambda a, b: a[0] * b,
]

Step = tuple[int, int, int]
STEPS = st.lists(
    st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=12,
)


def _program(steps: list[Step]) -> Callable[..., Any]:
    """Each step applies an operation to values made before, so that fan-outs are many."""

    def run(*inputs: Any) -> Any:
        values = list(inputs)
        for which, first, second in steps:
            a, b = values[first % len(values)], values[second % len(values)]
            if which < len(UNARY):
                values.append(UNARY[which](a))
            else:
                values.append(BINARY[which - len(UNARY)](a, b))
        return (values[-1] * values[len(values) // 2]).sum()

    return run


@given(steps=STEPS, seed=st.integers(0, 2**32 - 1))
def test_gradients(steps: list[Step], seed: int) -> None:
    rng = np.random.default_rng(seed)
    xs = [rng.uniform(-1, 1, (3, 3)) for _ in range(2)]
    f = _program(steps)
    inputs = leaves(xs)
    f(*inputs).backward()
    for i, expected in derivatives.complex_jacobians(f, xs).items():
        g = inputs[i].grad
        assert_close(np.zeros((3, 3)) if g is None else g, expected, 1e-11, floor=1e-3)
    again = leaves(xs)
    found = tg.grad(f(*again), again)
    for x, g in zip(inputs, found, strict=True):
        assert (x.grad is None) == (g is None)
        if g is not None:
            assert_same_bits(x.grad, g)


@given(steps=STEPS, seed=st.integers(0, 2**32 - 1))
def test_hessian_vector_products(steps: list[Step], seed: int) -> None:
    """Reverse over reverse, forward over reverse and reverse over forward agree."""
    rng = np.random.default_rng(seed)
    x, other, v = (rng.uniform(-1, 1, (3, 3)) for _ in range(3))
    program = _program(steps)

    def f(x: Any) -> Any:
        return program(x, const(other))

    point = leaf(x)
    y = f(point)
    (g,) = tg.grad(y, point, create_graph=True) if y.requires_grad else [None]
    (h,) = tg.grad((g * const(v)).sum(), point) if g is not None and g.requires_grad else [None]
    expected = np.zeros((3, 3)) if h is None else h.numpy()
    _, forward = tg.jvp(lambda x: tg.vjp(f, x)[1](1.0)[0], const(x), const(v))
    (reverse,) = tg.vjp(lambda x: tg.jvp(f, x, const(v))[1], const(x))[1](1.0)
    assert_close(forward, expected, 1e-11, floor=1e-2)
    assert_close(reverse, expected, 1e-11, floor=1e-2)
