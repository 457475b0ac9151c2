"""Properties of every row of the table; a check raises AssertionError where its property does not hold.

``test_checks.py`` runs every check on every row; ``test_mutations.py`` plants faults in every derivative
rule and sees that they are caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.oracles import derivatives
from tests.oracles.definitions import definition_of
from tests.support import (
    Array,
    assert_close,
    assert_same_bits,
    const,
    device,
    is_floating,
    leaf,
    leaves,
    write,
)
from tinygrad182.testing import strategies

from .table import Row, floating
from .table.row import positive


def exact(row: Row) -> float:
    """Accuracy of the complex step, relative to the largest element."""
    return 1e-6 if row.through_float32 else 1e-13


FUSED = {name for name, primitive in tg.PRIMITIVES.items() if primitive.definition is not None}
"""Primitives with a definition, which is recorded where their derivatives are recorded."""


def like(row: Row) -> float:
    """Tolerance between two ways to one result; a definition rounds differently from the rules."""
    return exact(row) if row.name in FUSED else 1e-14


def cotangent(row: Row, xs: Sequence[Array], seed: int = 1) -> Array:
    """A random cotangent of the row's output."""
    return np.random.default_rng(seed).standard_normal(derivatives.value(row.f, xs).shape)


def directions(xs: Sequence[Array], seed: int = 2) -> list[Array | None]:
    """A random direction for every floating input."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(x.shape) if is_floating(x) else None for x in xs]


def alone(row: Row, xs: Sequence[Array], i: int) -> Callable[[Any], tg.Tensor]:
    """The row as a function of its input i."""
    before, after = [const(x) for x in xs[:i]], [const(x) for x in xs[i + 1 :]]
    return lambda x: row.f(*before, x, *after)


# --- first derivatives --------------------------------------------------------------------------


def jacobian(row: Row) -> None:
    """All rows of the Jacobian carried at once agree with the complex step."""
    xs = row.draw()
    for i, expected in derivatives.complex_jacobians(row.f, xs).items():
        actual = tg.jacobian(alone(row, xs, i), const(xs[i]))
        assert_close(actual, expected, exact(row), f"Jacobian by input {i}")


def rows_one_by_one(row: Row) -> None:
    """Row k of the Jacobian is the gradient for the k-th unit cotangent alone."""
    xs = row.draw()
    shape = derivatives.value(row.f, xs).shape
    size = int(np.prod(shape))
    units = np.eye(size).reshape(size, *shape)
    one_by_one = [derivatives.gradients(row.f, xs, unit) for unit in units]
    for k, i in enumerate(floating(xs)):
        at_once = tg.jacobian(alone(row, xs, i), const(xs[i])).numpy()
        expected = np.array([rows[k] for rows in one_by_one]).reshape((*shape, *xs[i].shape))
        assert_close(at_once, expected, 1e-14, f"rows by input {i}")


def forward_mode(row: Row) -> None:
    """``jvp`` is the complex step's directional derivative, and ⟨g, Jv⟩ = ⟨gJ, v⟩."""
    xs = row.draw()
    vs = directions(xs)
    inputs = [i for i, v in enumerate(vs) if v is not None]

    def f(*active: Any) -> tg.Tensor:
        given = dict(zip(inputs, active, strict=True))
        return row.f(*(given.get(i, x) for i, x in enumerate(map(const, xs))))

    out, tangent = tg.jvp(f, [const(xs[i]) for i in inputs], [const(vs[i]) for i in inputs])
    assert isinstance(out, tg.Tensor)
    assert isinstance(tangent, tg.Tensor)
    assert_same_bits(out, derivatives.value(row.f, xs), "value")
    assert_close(tangent, derivatives.complex_jvp(row.f, xs, vs), exact(row), "tangent")

    g = cotangent(row, xs)
    out, pull = tg.vjp(f, *(const(xs[i]) for i in inputs))
    pulled = pull(const(g))
    left = np.sum(g * tangent.numpy())
    parts = [p.numpy() * vs[i] for p, i in zip(pulled, inputs, strict=True)]
    right = sum(np.sum(p) for p in parts)
    size = np.sum(np.abs(g * tangent.numpy())) + sum(np.sum(np.abs(p)) for p in parts)
    assert abs(left - right) <= exact(row) * size, f"duality: {left} and {right}"


def linear_in_the_cotangent(row: Row) -> None:
    """Rules are exactly homogeneous, down to cotangents of 1e-150 of either sign, and additive."""
    xs = row.draw()
    g, other = cotangent(row, xs), cotangent(row, xs, seed=3)
    base = derivatives.gradients(row.f, xs, g)
    small = -50 if row.through_float32 else -500
    for scale in (-(2.0**small), 2.0 ** (-small // 2), 0.0):
        scaled = derivatives.gradients(row.f, xs, scale * g)
        for a, b in zip(scaled, base, strict=True):
            np.testing.assert_array_equal(a, scale * b)
    summed = derivatives.gradients(row.f, xs, g + other)
    parts = zip(base, derivatives.gradients(row.f, xs, other), strict=True)
    for a, (b, c) in zip(summed, parts, strict=True):
        np.testing.assert_allclose(
            a, b + c, rtol=exact(row), atol=exact(row) * np.abs(b).max(initial=0)
        )


# --- second derivatives -------------------------------------------------------------------------


def double_backward(row: Row) -> None:
    """A gradient is recorded by the same rules: its derivative agrees with five points of it."""
    xs = row.draw()
    g = cotangent(row, xs)
    vs = [v for v in directions(xs) if v is not None]
    inputs = leaves(xs)
    active = [x for x in inputs if x.requires_grad]
    first = tg.grad(row.f(*inputs), active, const(g), create_graph=True)
    for a, b in zip(first, derivatives.gradients(row.f, xs, g), strict=True):
        assert_close(np.zeros(b.shape) if a is None else a, b, like(row), "recorded gradient")
    found = [(a, const(v)) for a, v in zip(first, vs, strict=True) if a is not None]
    recorded = [(a, v) for a, v in found if a.requires_grad]
    second = [None] * len(active)
    if recorded:  # the Hessian is symmetric: its product with vs both ways
        second = tg.grad([a for a, _ in recorded], active, [v for _, v in recorded])
    for a, b, x in zip(
        second, derivatives.second_derivative(row.f, xs, g, vs), active, strict=True
    ):
        actual = np.zeros(x.shape) if a is None else a.numpy()
        np.testing.assert_allclose(actual, b, rtol=1e-7, atol=1e-8 * (1 + np.abs(b).max(initial=0)))


def linear_in_a_recorded_cotangent(row: Row) -> None:
    """The derivative of ⟨v, gradient⟩ by the cotangent is Jv, also when all is recorded."""
    xs = row.draw()
    vs = directions(xs)
    g = leaf(cotangent(row, xs))
    inputs = leaves(xs)
    active = [x for x in inputs if x.requires_grad]
    first = tg.grad(row.f(*inputs), active, g, create_graph=True)
    given = (v for v in vs if v is not None)
    pairs = [(d, v) for d, v in zip(first, given, strict=True) if d is not None and d.requires_grad]
    found = None
    if pairs:
        (found,) = tg.grad([d for d, _ in pairs], g, [const(v) for _, v in pairs])
    expected = derivatives.complex_jvp(row.f, xs, vs)
    assert_close(
        np.zeros(g.shape) if found is None else found, expected, exact(row), "by the cotangent"
    )


def symmetric_hessian(row: Row) -> None:
    """⟨u, Hv⟩ = ⟨v, Hu⟩ for the Hessian of ⟨g, f⟩ in all inputs together."""
    xs = row.draw()
    g = cotangent(row, xs)
    u, v = ([d for d in directions(xs, seed) if d is not None] for seed in (5, 6))
    hu, hv = _hessian_product(row, xs, g, u), _hessian_product(row, xs, g, v)
    left = [a * b for a, b in zip(u, hv, strict=True)]
    right = [a * b for a, b in zip(v, hu, strict=True)]
    size = sum(np.sum(np.abs(p)) for p in (*left, *right))
    difference = sum(np.sum(p) for p in left) - sum(np.sum(p) for p in right)
    assert abs(difference) <= exact(row) * size, f"not symmetric by {difference}"


def _hessian_product(
    row: Row, xs: Sequence[Array], g: Array, vs: Sequence[Array], f: Any = None
) -> list[Array]:
    """The Hessian of ⟨g, f⟩ times a direction in all floating inputs: double backward."""
    inputs = leaves(xs)
    active = [x for x in inputs if x.requires_grad]
    first = tg.grad((f or row.f)(*inputs), active, const(g), create_graph=True)
    pairs = [(d, v) for d, v in zip(first, vs, strict=True) if d is not None and d.requires_grad]
    second: list[tg.Tensor | None] = [None] * len(active)
    if pairs:
        second = tg.grad([d for d, _ in pairs], active, [const(v) for _, v in pairs])
    return [
        np.zeros(x.shape) if d is None else d.numpy() for d, x in zip(second, active, strict=True)
    ]


def equals_its_definition(row: Row) -> None:
    """A fused operation and its definition agree in values, gradients and second derivatives."""
    definition = definition_of(row)
    if definition is None:
        return
    xs = row.draw()
    g = cotangent(row, xs)
    vs = [v for v in directions(xs) if v is not None]
    fused = _run(row.f, leaves(xs), const(g)), _hessian_product(row, xs, g, vs)
    plain = _run(definition, leaves(xs), const(g)), _hessian_product(row, xs, g, vs, definition)
    for actual, expected in zip(fused, plain, strict=True):
        for a, b in zip(actual, expected, strict=True):
            tolerance = like(row) if row.name in FUSED else 1e-12
            assert_close(a, b, tolerance, "fused and its definition", floor=1.0)


# --- arrays -------------------------------------------------------------------------------------


def _run(f: Callable[..., tg.Tensor], inputs: Sequence[tg.Tensor], g: Any) -> list[Array]:
    """Value and gradients, all as arrays."""
    y = f(*inputs)
    found = tg.grad(y, [x for x in inputs if x.requires_grad], g)
    return [y.numpy(), *(d.numpy() for d in found if d is not None)]


def untouched(row: Row) -> None:
    """Inputs, cotangent and saved output keep their bits; two runs give the same ones."""
    xs = row.draw()
    g = const(cotangent(row, xs))
    inputs = leaves(xs)
    before = [x.numpy().copy() for x in (*inputs, g)]
    y = row.f(*inputs)
    value = y.numpy().copy()
    active = [x for x in inputs if x.requires_grad]
    first = [d.numpy() for d in tg.grad(y, active, g, retain_graph=True) if d is not None]
    for x, b in zip((*inputs, g), before, strict=True):
        assert_same_bits(x, b, "an operand")
    assert_same_bits(y, value, "the saved output")
    again = [d.numpy() for d in tg.grad(y, active, g) if d is not None]
    for a, b in zip((*again, *_run(row.f, leaves(xs), g)), (*first, value, *first), strict=True):
        assert_same_bits(a, b, "a second run")


def memory_of_its_own(row: Row) -> None:
    """``.grad`` shares memory with no operand, no cotangent and no other gradient."""
    xs = row.draw()
    inputs = leaves(xs)
    g = const(cotangent(row, xs))
    row.f(*inputs).backward(g)
    grads = [x.grad for x in inputs if x.grad is not None]
    everything = [*grads, *inputs, g]
    for grad in grads:
        others = [(x, x.numpy().copy()) for x in everything if x is not grad]
        write(grad, 7.0)
        for x, before in others:
            assert_same_bits(x, before, "what shares memory with a gradient")


def accumulated(row: Row) -> None:
    """Three uses of one input: the first cotangent is borrowed, the others are added to a copy."""
    xs = row.draw()
    g = const(cotangent(row, xs))
    once = derivatives.gradients(row.f, xs, g.numpy())
    inputs = leaves(xs)
    active = [x for x in inputs if x.requires_grad]
    outputs = [row.f(*inputs) for _ in range(3)]
    before = g.numpy().copy()
    found = tg.grad(outputs, active, [g, g, g])
    assert_same_bits(g, before, "the cotangent")
    for d, expected in zip(found, once, strict=True):
        assert d is not None or not expected.any()
        if d is not None:
            assert_close(d, 3 * expected, 1e-14, "three times the gradient")


def mixed_dtypes(row: Row) -> None:
    """Every gradient has the dtype and shape of its own input, whatever the other inputs are."""
    xs = row.draw()
    inputs = floating(xs)
    for narrow in inputs:
        mixed = [x.astype(np.float32) if i == narrow else x for i, x in enumerate(xs)]
        wide = [x.astype(np.float64) if is_floating(x) else x for x in mixed]
        g = cotangent(row, xs)
        found = derivatives.gradients(row.f, mixed, g)
        for i, d, expected in zip(
            inputs, found, derivatives.gradients(row.f, wide, g), strict=True
        ):
            assert d.dtype == mixed[i].dtype
            assert_close(d, expected, 2e-5, "mixed dtypes", floor=1e-2)


def float32(row: Row) -> None:
    """float32 in, float32 out and float32 gradients, close to those in float64."""
    xs = [x.astype(np.float32) if is_floating(x) else x for x in row.draw()]
    wide = [x.astype(np.float64) if is_floating(x) else x for x in xs]
    g = cotangent(row, wide).astype(np.float32)
    narrow = _run(row.f, leaves(xs), const(g))
    y = narrow[0]
    assert y.dtype == np.float32
    expected = _run(row.f, leaves(wide), const(g.astype(np.float64)))
    for a, b in zip(narrow, expected, strict=True):
        assert a.dtype == np.float32, "float32 became wider on the way"
        assert_close(a, b, 2e-5, "float32")


def layouts(row: Row) -> None:
    """Operands and cotangents laid out in any way change nothing."""
    xs = row.draw()
    g = cotangent(row, xs)
    expected = _run(row.f, leaves(xs), const(g))
    for layout in strategies.LAYOUTS:
        inputs = [strategies.leaf(strategies.laid_out(x, layout)) for x in xs]
        changed = strategies.laid_out(g, layout) if device() == "cpu" else const(g).data
        actual = _run(row.f, inputs, changed)
        for a, b in zip(actual, expected, strict=True):
            assert_close(a, b, 1e-14, layout)
    one = np.ones(g.shape)
    stride_0 = strategies.laid_out(one, "broadcast")  # the sum's cotangent, which is broadcast
    if device() == "cpu":
        for a, b in zip(
            _run(row.f, leaves(xs), stride_0), _run(row.f, leaves(xs), one), strict=True
        ):
            assert_close(a, b, 1e-14, "stride 0")


def fan_out(row: Row) -> None:
    """f(x, x), and f(x)²: gradients over several edges add up."""
    xs = row.draw()
    for function, x in fans(row, xs):
        actual = tg.jacobian(function, const(x))
        (expected,) = derivatives.complex_jacobians(function, [x]).values()
        assert_close(actual, expected, exact(row), "fan-out", floor=1.0)  # x / x: terms cancel


def fans(row: Row, xs: Sequence[Array]) -> Iterator[tuple[Callable[..., tg.Tensor], Array]]:
    inputs = floating(list(xs))
    first = inputs[0]

    def same(x: Any) -> tg.Tensor:
        return row.f(*(x if i in inputs else const(xs[i]) for i in range(len(xs))))

    def squared(x: Any) -> tg.Tensor:
        y = alone(row, xs, first)(x)
        return y * y

    yield squared, xs[first]
    if len(inputs) > 1 and len({xs[i].shape for i in inputs}) == 1:
        yield same, positive(np.random.default_rng(4), xs[first].shape)


CHECKS: list[Callable[[Row], None]] = [
    jacobian,
    forward_mode,
    linear_in_the_cotangent,
    rows_one_by_one,
    double_backward,
    linear_in_a_recorded_cotangent,
    symmetric_hessian,
    equals_its_definition,
    fan_out,
    accumulated,
    untouched,
    memory_of_its_own,
    float32,
    mixed_dtypes,
    layouts,
]
