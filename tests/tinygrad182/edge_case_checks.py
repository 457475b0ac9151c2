"""Properties of every row in uncommon places: other points, ties, several leading axes, two uses.

Like those of ``checks.py``, each check raises AssertionError where its property does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.oracles import derivatives, torch_names
from tests.support import (
    Array,
    assert_close,
    assert_same_bits,
    const,
    device,
    is_floating,
    leaf,
    leaves,
    share_memory,
)
from tinygrad182.engine.backpropagation import ancestors, backpropagate
from tinygrad182.engine.recording import Node, node_of
from tinygrad182.recurrence.scans import Scan
from tinygrad182.testing import strategies

from .checks import alone, cotangent, directions, exact, fans, like
from .table import Row
from .table.recurrent import WHOLE
from .table.row import above_minus_one, apart, inside_one, near_one, nonzero, real

OWN = "the row's point"
SCANS = {name for name, primitive in tg.PRIMITIVES.items() if isinstance(primitive, Scan)}
LARGE, TINY = 2.0**7, 2.0**-120
SATURATING = {"tanh", "sigmoid", "softmax", "log_softmax", "logsumexp"}
"""Operations whose saturated derivatives end in 1 − 1, with an error relative to 1."""


def _saturates(row: Row) -> bool:
    return row.name in SATURATING or str(row).startswith(("lstm_scan", "gru_scan", "rnn_scan-tanh"))


def _floor(row: Row, scale: float = 1.0) -> float:
    """The size of the terms that cancel in a saturated derivative.

    A GRU's update gate multiplies them by the previous state's distance from the candidate.
    """
    return float(_saturates(row)) * (max(scale, 1.0) if row.name == "gru_scan" else 1.0)


# --- points -------------------------------------------------------------------------------------


def _points(row: Row) -> Iterator[tuple[str, list[Array], float]]:
    """Points other than the row's own: their names, operands, and the size of the step to take there."""
    xs = row.draw()
    for what, scale in (("large", LARGE), ("tiny", 2.0**-40 if row.through_float32 else TINY)):
        for i, domain in enumerate(row.domains):
            if is_floating(xs[i]) and not (domain in (near_one, inside_one) and scale > 1):
                x = abs(xs[i]) if domain is above_minus_one else xs[i]
                yield f"{what} input {i}", [*xs[:i], x * scale, *xs[i + 1 :]], scale
    if inside_one not in row.domains:
        yield "whole numbers", _whole(row), 1.0
    if apart not in row.domains:
        yield "equal elements", [_with_twins(x) if is_floating(x) else x for x in xs], 1.0
    for i, domain in enumerate(row.domains):
        if (
            domain in (real, apart, above_minus_one, inside_one) and row.name != "std"
        ) or row.name == "relu":
            yield f"a zero in input {i}", [*xs[:i], _with_a_zero(xs[i]), *xs[i + 1 :]], 1.0


def _whole(row: Row) -> list[Array]:
    """1, 2, 3 … over all inputs, in a random order and of either sign where the domain has both."""
    sizes = [int(np.prod(shape)) for shape in row.shapes]
    rng = np.random.default_rng(5)
    numbers = np.split(rng.permutation(1.0 + np.arange(sum(sizes))), np.cumsum(sizes)[:-1])
    given = zip(row.draw(), numbers, row.domains, strict=True)
    return [
        x
        if not is_floating(x)
        else (n * rng.choice((-1, 1), n.size) if domain in (real, nonzero, apart) else n).reshape(
            x.shape
        )
        for x, n, domain in given
    ]


def _with_twins(x: Array) -> Array:
    """The last element like the first."""
    y = np.array(x)
    y[(slice(-1, None),) * x.ndim] = y[(slice(0, 1),) * x.ndim]
    return y


def _with_a_zero(x: Array) -> Array:
    y = np.array(x)
    y[(slice(0, 1),) * x.ndim] = 0.0
    return y


def elsewhere(row: Row) -> None:
    """Large and tiny inputs, whole numbers, a zero: the complex step agrees; cotangents of ones too."""
    for what, xs, scale in _points(row):
        ones = np.ones(derivatives.value(row.f, xs).shape)
        by_ones = derivatives.gradients(row.f, xs, ones)
        floor = _floor(row, scale)
        jacobians = derivatives.complex_jacobians(row.f, xs, scale)
        for (i, expected), total in zip(jacobians.items(), by_ones, strict=True):
            actual = tg.jacobian(alone(row, xs, i), const(xs[i])).numpy()
            assert_close(actual, expected, exact(row), f"{what}: Jacobian by input {i}", floor)
            outputs = tuple(range(ones.ndim))
            size = np.abs(expected).sum(axis=outputs).max(initial=floor)
            expected = expected.sum(axis=outputs)
            assert_close(total, expected, exact(row), f"{what}: of the sum by input {i}", size)


def values(row: Row, t: Any = torch_names) -> None:
    """At these points and the row's own, the value is that of its reference: NumPy's, or PyTorch's."""
    for what, xs, _ in [(OWN, row.draw(), 1.0), *_points(row)]:
        expected = np.asarray(row.torch(t, *(t.tensor(x) for x in xs)))
        actual = derivatives.value(row.f, xs)
        assert_close(actual, expected, exact(row), f"value at {what}")
        if row.name not in SCANS or what == OWN:  # whose sums may cancel before a gate
            np.testing.assert_allclose(actual, expected, rtol=10 * exact(row), atol=0)


def recorded_or_not(row: Row) -> None:
    """A forward that saves values for backward gives the bits of one that does not.

    In any layout and in float32; neither writes to its operands, or to the results of another call.
    """
    if row.name not in SCANS or device() != "cpu":
        return
    xs = row.draw()
    narrow = [x.astype(np.float32) if is_floating(x) else x for x in xs]
    cases = [[strategies.laid_out(x, layout) for x in xs] for layout in strategies.LAYOUTS]
    cases += [narrow, *(points for _, points, _ in _points(row))]
    before = [[x.tobytes() for x in case] for case in cases]
    with tg.no_grad():
        plain = [row.f(*map(strategies.leaf, case)) for case in cases]
    values = [y.numpy().copy() for y in plain]
    recorded = [row.f(*map(strategies.leaf, case)) for case in cases]
    for y, z, value in zip(plain, recorded, values, strict=True):
        assert_same_bits(z, value, "recorded")
        assert_same_bits(y, value, "after other calls")
    assert [[x.tobytes() for x in case] for case in cases] == before, "an operand was written to"


def past_the_end(row: Row) -> None:
    """A sequence past its end keeps its state as a constant, which has no derivative and passes none on."""
    whole = WHOLE.get(str(row))
    if whole is None:
        return
    xs = row.draw()
    for y in (whole(*map(const, xs)), whole(*leaves(xs))):
        states = np.moveaxis(y.numpy(), (-3, -2), (0, 1))
        for i, length in enumerate(xs[-1]):
            for t in range(length, len(states)):
                assert_same_bits(states[t, i], states[length - 1, i], "past the end")
    jacobians = derivatives.complex_jacobians(whole, xs)
    vs = directions(xs)
    along = derivatives.complex_jvp(whole, xs, vs)
    assert_close(_tangent(row, xs, vs, whole=whole), along, exact(row), "tangent")
    g = np.random.default_rng(10).standard_normal(along.shape)
    for recorded in (False, True):
        inputs = leaves(xs)
        active = [x for x in inputs if x.requires_grad]
        found = tg.grad(whole(*inputs), active, const(g), create_graph=recorded)
        for d, (i, jacobian) in zip(found, jacobians.items(), strict=True):
            expected = np.tensordot(g, jacobian, axes=g.ndim)
            assert_close(d, expected, exact(row), f"gradient by input {i}", floor=1.0)


def cotangents_far_away(row: Row) -> None:
    """Rules are homogeneous even if squares of cotangents leave their type, each sequence by itself."""
    if row.name not in SCANS:
        return
    xs = row.draw()
    g = cotangent(row, xs)
    base = derivatives.gradients(row.f, xs, g)
    for scale in (2.0**-800, 2.0**800):
        for a, b in zip(derivatives.gradients(row.f, xs, scale * g), base, strict=True):
            assert_close(a, scale * b, like(row), f"at {scale:.0e}")
    one = np.ones((xs[0].shape[1], 1))
    one[:1] = 2.0**-800
    by_x = derivatives.gradients(row.f, xs, one * g)[0]
    for i, scale in enumerate(one[:, 0]):
        assert_close(by_x[:, i], scale * base[0][:, i], like(row), f"sequence {i}")


def ties(row: Row) -> None:
    """Equal elements have equal shares of the cotangent."""
    inputs = len(row.shapes)
    if row.name not in ("max", "min") and not (row.name in ("maximum", "minimum") and inputs == 2):
        return
    xs = [np.full(shape, 0.5) for shape in row.shapes]
    given = [row.f] if inputs == 1 else [row.f, lambda a, b: row.f(b, a)]
    parts = [derivatives.complex_jacobians(f, xs) for f in given]  # of two, a step takes the first
    for i, x in enumerate(xs):
        expected = sum(part[i] for part in parts) / len(parts)
        actual = tg.jacobian(alone(row, xs, i), const(x))
        assert_close(actual, expected, exact(row), f"shares of input {i}")
        v = np.random.default_rng(9).standard_normal(x.shape)
        tangent = _tangent(row, xs, [v if k == i else None for k in range(inputs)])
        along = np.tensordot(expected, v, axes=x.ndim)
        assert_close(tangent, along, exact(row), f"tangent by input {i}", floor=1.0)


# --- leading axes -------------------------------------------------------------------------------


def _pulled(row: Row, xs: Sequence[Array], g: Array, recorded: bool) -> list[Array]:
    """Gradients for many cotangents at once, on the leading axes of ``g``."""
    inputs = leaves(xs)
    targets = [node_of(x) for x in inputs if x.requires_grad]
    seed = const(g) if recorded else const(g).data
    found = backpropagate([(node_of(row.f(*inputs)), seed)], set(targets), retain_graph=recorded)
    sizes = [x.shape for x in inputs if x.requires_grad]
    lead = g.shape[:2]
    return [
        np.zeros((*lead, *size)) if d is None else tg.tensor(d).numpy()
        for d, size in zip(map(found.get, targets), sizes, strict=True)
    ]


def leading_axes(row: Row) -> None:
    """Two axes of cotangents are as many passes, on arrays and recorded, and also where one is 1."""
    xs = row.draw()
    shape = derivatives.value(row.f, xs).shape
    gs = np.random.default_rng(6).standard_normal((3, 2, *shape))
    one_by_one = [[derivatives.gradients(row.f, xs, g) for g in line] for line in gs]
    for i in range(len(one_by_one[0][0])):
        expected = np.array([[found[i] for found in line] for line in one_by_one])
        for recorded in (False, True):
            actual = _pulled(row, xs, gs, recorded)[i]
            assert_close(actual, expected, exact(row), "two leading axes", floor=1.0)
            for count in (1, 2):
                actual = _pulled(row, xs, gs[:count], recorded)[i]
                assert_close(actual, expected[:count], exact(row), f"{count} × 2", floor=1.0)


# --- several uses -------------------------------------------------------------------------------


def two_at_once(row: Row) -> None:
    """Two uses in one graph give the gradients that each has alone, on arrays and recorded."""
    draws = [row.draw(), row.draw(seed=7)]
    gs = [cotangent(row, xs, seed) for seed, xs in enumerate(draws)]
    alone_ = [derivatives.gradients(row.f, xs, g) for xs, g in zip(draws, gs, strict=True)]
    for recorded in (False, True):
        inputs = [leaves(xs) for xs in draws]
        active = [x for xs in inputs for x in xs if x.requires_grad]
        ys = [row.f(*xs) for xs in inputs]
        found = tg.grad(ys, active, [const(g) for g in gs], create_graph=recorded)
        for d, expected in zip(found, [d for one in alone_ for d in one], strict=True):
            actual = np.zeros(expected.shape) if d is None else d.numpy()
            assert_close(actual, expected, like(row), "beside another use")
    _two_tangents(row, draws)


def results_of_their_own(row: Row) -> None:
    """A result shares memory with an operand only where its primitive says so."""
    for node in ancestors([node_of(row.f(*leaves(row.draw())))]):
        if node.primitive is not None and not node.primitive.view:
            for x in node.inputs or ():
                shared = isinstance(x, Node) and share_memory(x.value, node.value)
                assert not shared, f"{node.op} returned its operand's memory"


def _two_tangents(row: Row, draws: list[list[Array]]) -> None:
    """Check that two uses have the tangents that each has alone, and that operands keep their bits."""
    points = [[const(x) for x in xs if is_floating(x)] for xs in draws]
    moves = [
        [const(v) for v in directions(xs, seed) if v is not None] for seed, xs in enumerate(draws)
    ]
    count = len(points[0])

    def both(*active: tg.Tensor) -> tuple[tg.Tensor, ...]:
        halves = (iter(active[:count]), iter(active[count:]))
        ys = (
            row.f(*(next(half) if is_floating(x) else const(x) for x in xs))
            for half, xs in zip(halves, draws, strict=True)
        )
        return (*ys, *active)

    given = [*points[0], *points[1], *moves[0], *moves[1]]
    before = [x.numpy().copy() for x in given]
    values = [derivatives.value(row.f, xs).copy() for xs in draws]
    found, tangents = tg.jvp(both, given[: 2 * count], given[2 * count :])
    for x, b in zip([*found[2:], *tangents[2:]], before, strict=True):
        assert_same_bits(x, b, "what a tangent was computed from")
    for k, xs in enumerate(draws):
        assert_same_bits(found[k], values[k], "value beside another use")
        expected = derivatives.complex_jvp(row.f, xs, directions(xs, k))
        assert_close(tangents[k], expected, exact(row), "tangent beside another use")


# --- tangents -----------------------------------------------------------------------------------


def _tangent(
    row: Row,
    xs: Sequence[Array],
    vs: Sequence[Array | None],
    first: Callable[[tg.Tensor], tg.Tensor] = lambda x: x,
    whole: Callable[..., tg.Tensor] | None = None,
) -> Array:
    """The framework's directional derivative along ``vs``, of the row after ``first``."""
    moved = [i for i, v in enumerate(vs) if v is not None]

    def f(*active: Any) -> tg.Tensor:
        given = dict(zip(moved, active, strict=True))
        return (whole or row.f)(*(first(given.get(i, x)) for i, x in enumerate(map(const, xs))))

    _, tangent = tg.jvp(f, [const(xs[i]) for i in moved], [const(vs[i]) for i in moved])
    assert isinstance(tangent, tg.Tensor)
    return tangent.numpy()


def tangents(row: Row) -> None:
    """Tangents at other points, of one input alone and of ones; of inputs that are used twice;
    exactly homogeneous, and the same for strided inputs."""
    for what, xs, scale in _points(row):
        vs = directions(xs)
        expected = derivatives.complex_jvp(row.f, xs, vs, derivatives.STEP * scale)
        floor = _floor(row, scale)
        assert_close(_tangent(row, xs, vs), expected, exact(row), f"tangent at {what}", floor)
    xs = row.draw()
    vs = directions(xs)
    base = _tangent(row, xs, vs)
    for change in (np.ones_like, lambda v: _with_a_zero(np.ones_like(v))):
        ones = [None if v is None else change(v) for v in vs]
        expected = derivatives.complex_jvp(row.f, xs, ones)
        assert_close(_tangent(row, xs, ones), expected, exact(row), "along ones", floor=1.0)
    small = -50 if row.through_float32 else -500
    for factor in (-(2.0**small), 2.0 ** (-small // 2), 0.0):
        scaled = _tangent(row, xs, [None if v is None else factor * v for v in vs])
        np.testing.assert_array_equal(scaled, factor * base, err_msg="homogeneous in the tangent")
    backwards = [None if v is None else _backwards(v) for v in vs]
    actual = _tangent(row, [_backwards(x) for x in xs], backwards, tg.flip)
    assert_close(actual, base, like(row), "tangent of strided inputs")
    for function, x in fans(row, xs):
        v = np.random.default_rng(8).standard_normal(x.shape)
        _, actual = tg.jvp(function, const(x), const(v))
        expected = derivatives.complex_jvp(function, [x], [v])
        assert_close(actual, expected, exact(row), "tangent of an input twice", floor=1.0)
    narrow = [x.astype(np.float32) if is_floating(x) else x for x in xs]
    actual = _tangent(row, narrow, [None if v is None else np.float32(v) for v in vs])
    assert actual.dtype == np.float32
    assert_close(actual.astype(np.float64), base, 2e-5, "tangent in float32")


def _backwards(x: Array) -> Array:
    return np.flip(x).copy()


def one_tangent(row: Row) -> None:
    """A tangent of one input alone; recorded, it has the same value and is differentiated right."""
    xs = row.draw()
    vs = directions(xs)
    g = cotangent(row, xs)
    for i, v in enumerate(vs):
        if v is None:
            continue
        still = [w if k == i else None for k, w in enumerate(vs)]
        _, plain = tg.jvp(alone(row, xs, i), const(xs[i]), const(v))
        assert isinstance(plain, tg.Tensor)
        expected = derivatives.complex_jvp(row.f, xs, still)
        assert_close(plain, expected, exact(row), f"tangent by input {i}")
        x, direction = leaf(xs[i]), leaf(v)
        _, tangent = tg.jvp(alone(row, xs, i), x, direction)
        assert isinstance(tangent, tg.Tensor)
        assert_close(tangent, plain, 1e-14, "recorded tangent")
        by_x, by_v = _derivatives(tangent, [x, direction], g)
        position = sum(map(is_floating, xs[:i]))
        pulled = derivatives.gradients(row.f, xs, g)[position]
        assert_close(by_v, pulled, exact(row), "by the direction")
        y = alone(row, xs, i)(x)
        (first,) = tg.grad(y, x, const(g), create_graph=True)
        second = np.zeros(x.shape)
        if first is not None and first.requires_grad:
            (second,) = _derivatives(first, [x], v)
        # ⟨g, Jv⟩ = ⟨gJ, v⟩, so both have one derivative
        assert_close(by_x, second, 10 * exact(row), "by the point", floor=1.0)


def _derivatives(y: tg.Tensor, xs: list[tg.Tensor], g: Array) -> list[Array]:
    found = tg.grad(y, xs, const(g)) if y.requires_grad else [None] * len(xs)
    return [np.zeros(x.shape) if d is None else d.numpy() for d, x in zip(found, xs, strict=True)]


CHECKS: list[Callable[[Row], None]] = [
    elsewhere,
    values,
    recorded_or_not,
    past_the_end,
    cotangents_far_away,
    ties,
    leading_axes,
    two_at_once,
    results_of_their_own,
    tangents,
    one_tangent,
]
