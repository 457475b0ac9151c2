"""A step's program is the step: for any step that is elementwise in its gates, and for no other."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, const, leaf
from tests.tinygrad182.kernels.cases import loops
from tests.tinygrad182.steps import Cell, cells
from tinygrad182 import functions
from tinygrad182.backend import NUMPY
from tinygrad182.recurrence import Scan

CLOSE = 1e-10
SIZES = st.tuples(
    st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 2, 5])
)


# --- any step -------------------------------------------------------------------------------------


def lengths_of(steps: int, batch: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(1, steps + 1, batch)


def both(scan: Scan, **params: Any) -> tuple[Any, Any]:
    """The scan as one operation, and its definition."""
    assert scan.definition is not None
    return partial(tg.apply, scan, **params), partial(scan.definition, functions, **params)


def by_gradients(run: Any, operands: list[Array], *lengths: Array) -> list[Array]:
    """The states, and their gradients by all operands for some cotangent."""
    inputs = [leaf(a) for a in operands]
    y = run(*inputs, *map(const, lengths))
    g = const(np.random.default_rng(1).normal(size=y.shape))
    found = tg.grad(y, inputs, g) if y.requires_grad else [None] * len(inputs)
    return [y.numpy(), *(_dense(d, x) for d, x in zip(found, operands, strict=True))]


def _dense(d: tg.Tensor | None, x: Array) -> Array:
    return np.zeros(x.shape) if d is None else d.numpy()


def assert_same(found: list[Array], expected: list[Array], what: str) -> None:
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert_close(a, b, CLOSE, f"{what} {i}", floor=1.0)


@given(cell=cells(), sizes=SIZES, ragged=st.booleans(), seed=st.integers(0, 9))
def test_any_step_has_a_program_that_gives_what_it_means(
    cell: Cell, sizes: Any, ragged: bool, seed: int
) -> None:
    """States and gradients are those of the definition, also where sequences end."""
    program = cell.scan.program()
    assert program is not None
    assert sorted(program.x_only + program.shared) == list(range(cell.gates))
    operands, (T, B, *_) = cell.operands(*sizes, seed=seed), sizes
    lengths = [lengths_of(T, B, seed)] if ragged and B else []
    params = {"shortest": int(lengths[0].min())} if lengths else {}
    fused, unrolled = both(cell.scan, **params)
    expected = by_gradients(unrolled, operands, *lengths)
    with loops("NumPy"):
        assert_same(by_gradients(fused, operands, *lengths), expected, "result and gradient")
        with tg.no_grad():
            alone = fused(*map(const, operands), *map(const, lengths))
    assert_close(alone.numpy(), expected[0], CLOSE, "not recorded", floor=1.0)


@given(cell=cells(depth=2), seed=st.integers(0, 9))
def test_derivatives_of_derivatives_and_tangents(cell: Cell, seed: int) -> None:
    operands = cell.operands(3, 2, 2, 2, seed=seed)
    draw = np.random.default_rng(seed)
    moves = [draw.normal(size=x.shape) for x in operands]
    found = []
    for run in both(cell.scan):
        inputs = [leaf(x) for x in operands]
        y = run(*inputs)
        if not y.requires_grad:
            return
        g = const(draw.normal(size=y.shape) * 0 + 0.5)
        first = tg.grad(y, inputs, g, create_graph=True)
        some = [d * const(v) for d, v in zip(first, moves, strict=True) if d is not None]
        along = sum(tg.sum(d) for d in some)
        recorded = isinstance(along, tg.Tensor) and along.requires_grad
        second = tg.grad(along, inputs) if recorded else [None] * len(inputs)
        _, tangent = tg.jvp(run, [const(x) for x in operands], [const(v) for v in moves])
        found.append(
            [*(_dense(d, x) for d, x in zip(second, operands, strict=True)), tangent.numpy()]
        )
    assert_same(*found, "second gradient or tangent")


def _parts_again(cell: Cell) -> bool:
    """Whether a part is computed a second time: equal values are one, whose cotangent is the sum."""
    inner = [e for part in cell.expressions for e in _within(part)]
    return any(e[0] == "new" for e in cell.expressions) or any(
        [*cell.expressions, *inner].count(part) > 1 for part in cell.expressions
    )


def _within(e: Any) -> list[Any]:
    inner = [x for x in e if isinstance(x, tuple)]
    return [*inner, *(y for x in inner for y in _within(x))]


@given(
    cell=cells(), ragged=st.booleans(), seed=st.integers(0, 9), window=st.sampled_from([1, 2, 9])
)
def test_the_way_inside(cell: Cell, ragged: bool, seed: int, window: int) -> None:
    """The whole gradient of every state, and two cotangents at once, window by window."""
    T, B, H = 4, 2, 3
    operands, scan = cell.operands(T, B, 2, H, seed=seed), cell.scan
    lengths = [lengths_of(T, B, seed)] if ragged else []
    given_ = [*operands, *lengths]
    gs = np.random.default_rng(seed).normal(size=(2, cell.parts, T, B, H))
    inputs = [leaf(x) for x in operands]
    going = np.arange(T)[:, None] < lengths[0] if ragged else np.ones((T, B), bool)
    new, held = step_by_step(scan, inputs, going)
    targets = [*inputs, *new, *held] if ragged else [*inputs, *new]
    if _parts_again(cell) or not all(x.requires_grad for x in targets):
        return
    expected = [
        tg.grad(
            held,
            targets,
            list(map(const, g.reshape(-1, B, H)[order(T, cell.parts)])),
            retain_graph=True,
        )
        for g in gs
    ]
    with loops("NumPy", steps=window):
        y, saved = scan.keeps(NUMPY, *given_)  # type: ignore[misc]
        g = gs if cell.parts > 1 else gs[:, 0]
        windows = list(scan.inside(NUMPY, g, y, tuple(given_), saved, None, True))
        pulled = scan.vjp(NUMPY, g, y, *given_, saved=saved)  # type: ignore[operator]
    kept = np.concatenate([w.deltas.states for w in windows[::-1]], axis=-3)
    (power,) = {w.deltas.powers for w in windows}
    kept = np.ldexp(kept, power)
    for i, found in enumerate(expected):
        one = [_dense(d, x.numpy()) for d, x in zip(found, targets, strict=True)]
        by_inputs, by_states = one[: len(inputs)], np.array(one[len(inputs) :])
        by_new, *by_held = by_states.reshape(-1, T, cell.parts, B, H)
        where = going[:, None, :, None]
        by_new = np.where(where, by_new, by_held[0]) if ragged else by_new
        assert_close(kept[:, i], np.moveaxis(by_new, 0, 1), CLOSE, "by the states", floor=1.0)
        assert_same([c[i] for c in pulled[: len(inputs)]], by_inputs, "by input")


def order(T: int, parts: int) -> list[int]:
    """Where (t, part) stands among (part, t)."""
    return [p * T + t for t in range(T) for p in range(parts)]


def step_by_step(scan: Scan, inputs: list[tg.Tensor], going: Array) -> tuple[list[Any], list[Any]]:
    """The parts as each step computes them, and as they are held past an end."""
    given_ = scan.operands(tuple(inputs))
    state, others = given_.initial, dict(zip(scan.weights, given_.others, strict=True))
    every_new, every_held = [], []
    for t, goes in enumerate(going):
        x = given_.x[t] @ given_.weight_ih.T + given_.bias_ih
        h = state[0] @ given_.weight_hh.T + given_.bias_hh
        handed_on = {id(part) for part in state}
        new = scan.step(functions, x, h, state, **others)
        new = tuple(1.0 * part if id(part) in handed_on else part for part in new)
        mask = const(goes[:, None])
        pairs = zip(new, state, strict=True)
        state = new if goes.all() else tuple(tg.where(mask, a, b.detach()) for a, b in pairs)
        every_new += new
        every_held += state
    return every_new, every_held
