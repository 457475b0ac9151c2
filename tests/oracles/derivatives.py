"""Derivatives without any derivative rule.

The complex step, Im f(x + ih v) / h, has no cancellation and no truncation that float64 can see, also
where a gradient is 1e-100. Second derivatives: five points of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import tinygrad182 as tg
from tests.support import Array, const, is_floating, leaves

Function = Callable[..., tg.Tensor]

STEP = 1e-20


def value(f: Function, xs: Sequence[Array]) -> Array:
    return f(*map(const, xs)).numpy()


def complex_jvp(
    f: Function, xs: Sequence[Array], vs: Sequence[Array | None], step: float = STEP
) -> Array:
    """The directional derivative along ``vs`` (None: no step)."""
    moved = [x if v is None else np.asarray(x + 1j * step * v) for x, v in zip(xs, vs, strict=True)]
    y = value(f, moved)
    return y.imag / step if y.dtype.kind == "c" else np.zeros(y.shape)


def complex_jacobians(f: Function, xs: Sequence[Array], scale: float = 1.0) -> dict[int, Array]:
    """For each floating input i: ∂f/∂x_i of shape ``(*f.shape, *x_i.shape)``, column by column.

    ``scale`` is the size of the inputs, next to which the step is to be small.
    """
    shape = value(f, xs).shape
    jacobians = {}
    for i, x in enumerate(xs):
        if not is_floating(x):
            continue
        columns = np.zeros((*shape, x.size))
        for j, unit in enumerate(np.eye(x.size)):
            vs = [unit.reshape(x.shape) if k == i else None for k in range(len(xs))]
            columns[..., j] = complex_jvp(f, xs, vs, STEP * scale)
        jacobians[i] = columns.reshape((*shape, *x.shape))
    return jacobians


def complex_gradients(
    f: Callable[[dict[str, Array]], Array], at: dict[str, Array], step: float = 1e-30
) -> dict[str, Array]:
    """∂f/∂ every element of every array, each by one complex step, of a function in NumPy."""
    found = {}
    for name, array in at.items():
        derivative = np.empty(array.shape)
        for i in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[i] += 1j * step
            derivative[i] = f({**at, name: moved}).imag / step
        found[name] = derivative
    return found


def gradients(f: Function, xs: Sequence[Array], g: Array) -> list[Array]:
    """∂⟨g, f⟩/∂x for each floating input, by the framework; zeros where f does not depend on it."""
    inputs = leaves(xs)
    active = [x for x in inputs if x.requires_grad]
    found = tg.grad(f(*inputs), active, const(g))
    return [
        np.zeros(x.shape, x.dtype) if d is None else d.numpy()
        for d, x in zip(found, active, strict=True)
    ]


def second_derivative(
    f: Function, xs: Sequence[Array], g: Array, vs: Sequence[Array]
) -> list[Array]:
    """The derivative of :func:`gradients` along ``vs`` (one per floating input): five points."""
    h = 1e-4
    total: list[Array] = []
    for weight, k in ((1, -2), (-8, -1), (8, 1), (-1, 2)):
        steps = iter(vs)
        moved = [np.asarray(x + k * h * next(steps)) if is_floating(x) else x for x in xs]
        terms = [weight / (12 * h) * d for d in gradients(f, moved, g)]
        total = [a + b for a, b in zip(total, terms, strict=True)] if total else terms
    return total
