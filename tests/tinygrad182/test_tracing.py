"""Programs of steps: every step that is elementwise in its gates has one, and no other step has."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles.loops import step_by_step
from tests.support import Array, assert_close, const, leaf
from tests.tinygrad182.cells import KINDS
from tests.tinygrad182.kernels.cases import loops
from tests.tinygrad182.random_cells import BINARY, COMPARE, UNARY, Cell, cells
from tinygrad182.arrays.namespaces import NUMPY
from tinygrad182.recurrence import scans, tracing
from tinygrad182.recurrence.scans import Scan
from tinygrad182.tensors import functions

CLOSE = 1e-10
SIZES = st.tuples(
    st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 2, 5])
)


# --- any step -------------------------------------------------------------------------------------


def lengths_of(steps: int, batch: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, steps + 1, batch)


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


@pytest.mark.parametrize("add", [lambda x, h: x + (h + h), lambda x, h: (x + x) + h], ids="hx")
def test_a_sum_that_is_added_to_itself(add: Any) -> None:
    """The result is twice that sum; x + h alone is one sum for both."""
    scan = Scan.of("twice", lambda xp, x, h, s: (xp.tanh(add(x, h)),), ("g",), ("h",))
    shapes = (3, 2, 2), (2, 2), (2, 2), (2, 2), (2,), (2,)
    operands = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes)]
    with loops("NumPy"):
        found, expected = (by_gradients(run, operands) for run in both(scan))
    assert_same(found, expected, "result and gradient")


@pytest.mark.parametrize("gates", [4, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ["sigmoid", "tanh", "exp", "sqrt"])
def test_one_unit_of_many_gates(op: str, gates: int, dtype: str) -> None:
    """Operands of one gate then lie a few numbers apart, which NumPy's loops have wrong for some."""

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        n = x.shape[-1] // gates
        return (xp.sin(getattr(xp, op)(x[..., -n:])) * xp.cos(x[..., :n]),)

    scan = Scan.of(op, step, tuple(map(str, range(gates))), ("h",))
    shapes = (1, 9, 1), (9, 1), (gates, 1), (gates, 1), (gates,), (gates,)
    operands = [np.full(shape, 0.5, dtype) for shape in shapes]
    operands[0] += np.arange(9, dtype=dtype)[None, :, None] / 9
    with loops("NumPy"):
        (found, *_), (expected, *_) = (by_gradients(run, operands) for run in both(scan))
    assert_close(found, expected, 1e-6)


@given(cell=cells(depth=2), seed=st.integers(0, 9))
def test_derivatives_of_derivatives_and_tangents(cell: Cell, seed: int) -> None:
    with loops("NumPy"):
        _again(cell, seed)


def _again(cell: Cell, seed: int) -> None:
    operands = cell.operands(3, 2, 2, 2, seed=seed)
    draw = np.random.default_rng(seed)
    moves = [draw.normal(size=x.shape) for x in operands]
    found = []
    for run in both(cell.scan):
        inputs = [leaf(x) for x in operands]
        y = run(*inputs)
        if not y.requires_grad:
            return
        g = const(np.full(y.shape, 0.5))
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
    twice = any(part[0] == "new" for part in cell.expressions)
    if twice or not all(x.requires_grad for x in targets):
        return
    arrive = [np.swapaxes(g, 0, 1).reshape(-1, B, H) for g in gs]
    expected = [tg.grad(held, targets, list(map(const, g)), retain_graph=True) for g in arrive]
    with loops("NumPy", steps=window):
        y, residuals = scan.forward_with_residuals(NUMPY, *given_)  # type: ignore[misc]
        g = gs if cell.parts > 1 else gs[:, 0]
        windows = list(scan.inside(NUMPY, g, y, tuple(given_), residuals, None, True))
        pulled = scan.vjp(NUMPY, g, y, *given_, residuals=residuals)  # type: ignore[operator]
    kept = np.concatenate([w.sum_cotangents.states for w in windows[::-1]], axis=-3)
    (power,) = {w.sum_cotangents.powers for w in windows}
    kept = np.ldexp(kept, power)
    for i, found in enumerate(expected):
        one = [_dense(d, x.numpy()) for d, x in zip(found, targets, strict=True)]
        by_inputs, by_states = one[: len(inputs)], np.array(one[len(inputs) :])
        by_new, *by_held = by_states.reshape(-1, T, cell.parts, B, H)
        where = going[:, None, :, None]
        by_new = np.where(where, by_new, by_held[0]) if ragged else by_new
        assert_close(kept[:, i], np.moveaxis(by_new, 0, 1), CLOSE, "by the states", floor=1.0)
        assert_same([c[i] for c in pulled[: len(inputs)]], by_inputs, "by input")


@given(
    cell=cells(depth=2),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 9),
)
def test_what_is_not_finite_goes_the_way_of_the_definition(
    cell: Cell, value: float, seed: int
) -> None:
    operands = cell.operands(3, 3, 2, 2, seed=seed)
    operands[0][1, 1, 0] = value
    assert cell.scan.program() is not None
    fused, unrolled = both(cell.scan)
    with np.errstate(all="ignore"), loops("NumPy"):
        found, expected = by_gradients(fused, operands), by_gradients(unrolled, operands)
    assert_close(found[0], expected[0], CLOSE, "states", floor=1.0)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert np.isnan(a[np.isnan(b)]).all()
    _, by_x, *by_state = (np.isnan(a).any(axis=-1) for a in found[: 2 + cell.parts])
    assert not by_x[:, [0, 2]].any(), "companions in the batch"
    assert not any(by_h[[0, 2]].any() for by_h in by_state)


@settings(max_examples=8)
@given(cell=cells(depth=2), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 9))
def test_any_step_compiled(cell: Cell, dtype: str, seed: int) -> None:
    operands = [x.astype(dtype) for x in cell.operands(4, 3, 2, 5, seed=seed)]
    fused, _ = both(cell.scan)
    with loops("compiled"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tinygrad182._caches.write_cached", lambda *given: None
        )  # nobody needs it again
        found = by_gradients(fused, operands)
    with loops("NumPy"):
        expected = by_gradients(fused, operands)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, b, {"float32": 3e-5, "float64": CLOSE}[dtype], floor=1.0)


EACH: list[Any] = [
    *(("unary", name, ("state", 0)) for name in UNARY),
    *(("binary", name, ("state", 0), ("z", 0, 1)) for name in BINARY),
    *(("where", name, ("state", 0), ("z", 0, 1), ("z", 0, 1), 0.5) for name in COMPARE),
]


@pytest.mark.parametrize("first", range(0, len(EACH), 6))
def test_each_operation_compiled(first: int) -> None:
    """Each operation is a part of one state, beside a first part that is bounded."""
    bounded = ("unary", "tanh", ("z", 0, 1))
    cell = Cell(1, (), (bounded, *EACH[first : first + 6]))
    operands = cell.operands(4, 3, 2, 5)
    fused, _ = both(cell.scan)
    with loops("compiled"):
        found = by_gradients(fused, operands)
    with loops("NumPy"):
        expected = by_gradients(fused, operands)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-14, floor=1.0)


# --- steps without a program ----------------------------------------------------------------------


def _sum(x: Any, h: Any) -> Any:
    return tg.tanh(x + h)


WHOLE: dict[str, Any] = {
    "softmax": lambda xp, x, h, s: (xp.softmax(x + h, axis=-1),),
    "mean over units": lambda xp, x, h, s: (_sum(x, h) - xp.mean(x, axis=-1, keepdims=True),),
    "mean over the batch": lambda xp, x, h, s: (_sum(x, h) - xp.mean(h, axis=0, keepdims=True),),
    "layer norm": lambda xp, x, h, s: (_sum(x, h) / xp.std(x + h, axis=-1, keepdims=True),),
    "units reversed": lambda xp, x, h, s: (_sum(xp.flip(x, axis=-1), h),),
    "sequences reversed": lambda xp, x, h, s: (_sum(xp.flip(x, axis=0), h),),
    "units shifted": lambda xp, x, h, s: (_sum(xp.roll(x, 1, axis=-1), h),),
    "one unit for all": lambda xp, x, h, s: (_sum(x, h) * x[..., :1],),
    "one sequence for all": lambda xp, x, h, s: (_sum(x, h) * x[:1],),
    "units in order": lambda xp, x, h, s: (_sum(xp.sort(x, axis=-1), h),),
    "zeros": lambda xp, x, h, s: (_sum(x, h) + xp.zeros_like(x),),
    "a method": lambda xp, x, h, s: (_sum(x, h) - x.mean(axis=-1, keepdims=True),),
    "a product": lambda xp, x, h, s: (_sum(x, h) @ const(np.eye(x.shape[-1])[::-1]),),
    "a number of it": lambda xp, x, h, s: (_sum(x, h) * float(x.detach().sum()),),
    "an item": lambda xp, x, h, s: (_sum(x, h) * x[0, 0].item(),),
    "one way or the other": lambda xp, x, h, s: (_sum(x, h) if (x > 0).any() else x,),
    "an array": lambda xp, x, h, s: (_sum(x, h) * np.arange(1.0, x.shape[-1] + 1),),
    "a tensor": lambda xp, x, h, s: (_sum(x, h) * const(np.linspace(0, 1, x.shape[-1])),),
    "how many units": lambda xp, x, h, s: (_sum(x, h) / x.shape[-1],),
    "how many sequences": lambda xp, x, h, s: (_sum(x, h) / x.shape[0],),
    "how many numbers": lambda xp, x, h, s: (_sum(x, h) / x.size,),
    "an even number of units": lambda xp, x, h, s: (_sum(x, h) * (1 + x.shape[-1] % 2),),
    "many units": lambda xp, x, h, s: (_sum(x, h) * (2.0 if x.shape[-1] > 4 else 1.0),),
    "its type": lambda xp, x, h, s: (_sum(x, h) * (2.0 if str(x.dtype) == "float64" else 1.0),),
    "through whole numbers": lambda xp, x, h, s: (_sum(x, h) + (3 * x).astype("int64"),),
    "through halves": lambda xp, x, h, s: (_sum(x, h) + x.astype("float16").astype("float64"),),
}
OF_A_SHAPE = "step depends on a shape, a dtype or random numbers"


def _applied(op: str) -> str:
    return (
        f"step applies {op}, which is not done for each hidden unit by itself; "
        "use elementwise functions and slices of whole gates"
    )


WHY: dict[str, str] = {
    "softmax": _applied("softmax"),
    "mean over units": _applied("mean"),
    "mean over the batch": _applied("mean"),
    "layer norm": _applied("std"),
    "units reversed": _applied("flip"),
    "sequences reversed": _applied("flip"),
    "units shifted": _applied("roll"),
    "units in order": _applied("sort"),
    "zeros": _applied("zeros_like"),
    "a method": _applied("mean"),
    "one unit for all": "step takes a part of a gate, not whole gates",
    "one sequence for all": "step indexes another axis than the last",
    "a product": "step uses arrays of its own; declare them as weights",
    "a number of it": _applied("sum"),
    "an item": "step indexes another axis than the last",
    "one way or the other": _applied("any"),
    "an array": "step uses arrays of its own; declare them as weights",
    "a tensor": "step uses arrays of its own; declare them as weights",
    "through whole numbers": "step changes a dtype, to int64",
    "through halves": "step changes a dtype, to float16",
}
"""Things other than a shape on which they depend."""


@pytest.mark.parametrize("H", [4, 5])
@pytest.mark.parametrize("name", WHOLE)
def test_units_that_depend_on_each_other_have_no_program(name: str, H: int) -> None:
    """Such a step runs by its definition, which is right and can be differentiated again."""
    cell = Cell(1, (), (("state", 0),))
    scan = Scan.of("whole", WHOLE[name], ("z",), ("h",))
    assert scan.program() is None
    assert scan.why_unrolled() == WHY.get(name, OF_A_SHAPE)
    assert scan.separate
    operands = cell.operands(3, 2, 2, H)
    fused, unrolled = both(scan)
    assert_same(by_gradients(fused, operands), by_gradients(unrolled, operands), "of it")


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_what_is_drawn_anew_has_no_program(keep: float) -> None:
    """Every step draws other numbers than the recording."""
    draw = np.random.default_rng(0)

    def dropping(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return (tg.nn.functional.dropout(_sum(x, h), 0.5) + 0 * draw.random(),)

    def noisy(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return (_sum(x, h) + draw.normal(),)

    for step in (dropping, noisy):
        assert Scan.of("random", step, ("z",), ("h",)).program() is None


ELEMENTWISE: dict[str, Any] = {
    "the state unchanged": lambda xp, x, h, s: s,
    "the input's sum": lambda xp, x, h, s: (x,),
    "the state's sum": lambda xp, x, h, s: (h,),
    "of the input alone": lambda xp, x, h, s: (xp.tanh(x),),
    "of the state alone": lambda xp, x, h, s: (xp.tanh(h),),
    "the input's sum twice": lambda xp, x, h, s: (xp.tanh(x + x),),
    "the state's sum twice": lambda xp, x, h, s: (xp.tanh(h + h),),
    "the whole sum twice": lambda xp, x, h, s: (xp.tanh((x + h) + (x + h)),),
    "sums in another order": lambda xp, x, h, s: (xp.tanh(h + (x + x)) * (h + x),),
    "a constant": lambda xp, x, h, s: (0 * x + 1,),
    "no way back": lambda xp, x, h, s: ((x + h).detach(),),
    "a number of NumPy's": lambda xp, x, h, s: (_sum(x, h) * np.float64(0.5),),
    "a function of NumPy's": lambda xp, x, h, s: (np.tanh(x + h),),
    "in place": lambda xp, x, h, s: (_in_place(x + h),),
    "without gradients": lambda xp, x, h, s: (x * _unrecorded(h),),
    "a mask as a number": lambda xp, x, h, s: (x * (h > 0) + h,),
    "masks of masks": lambda xp, x, h, s: (xp.where((x > 0) == (h > 0), x, h),),
    "a mask of three": lambda xp, x, h, s: (xp.where((x > 0) & ~((h > 0) | (s[0] > 0)), x, h),),
    "two masks": lambda xp, x, h, s: (_sum(x, h) * ((x > 0) + (h > 0)),),
    "NaN replaced": lambda xp, x, h, s: (xp.where(xp.isnan(x), 0.0, _sum(x, h)),),
}


def _in_place(z: Any) -> Any:
    z *= 2
    z += 0.5
    return z


def _unrecorded(h: Any) -> Any:
    with tg.no_grad():
        return tg.tanh(h)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_steps_at_the_edge_have_one(name: str, ragged: bool) -> None:
    scan = Scan.of("edge", ELEMENTWISE[name], ("z",), ("h",))
    assert scan.program() is not None
    operands = Cell(1, (), (("state", 0),)).operands(4, 3, 2, 5)
    lengths = [lengths_of(4, 3)] if ragged else []
    for form in ("compiled", "NumPy"):
        fused, unrolled = both(scan)
        with loops(form):
            found = by_gradients(fused, operands, *lengths)
        assert_same(found, by_gradients(unrolled, operands, *lengths), "of it")


@pytest.mark.parametrize("op", ["add", "subtract", "divide", "maximum"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_number_beside_every_gate(op: str, swapped: bool) -> None:
    """An operation on several gates runs once for all of them."""

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        n = state[0].shape[-1]
        gates = x[..., :n] + h[..., :n], x[..., n:] + h[..., n:]
        a, b = (getattr(xp, op)(*((0.3, z) if swapped else (z, 0.3))) for z in gates)
        return (xp.maximum(xp.maximum(state[0], a), b),)

    scan = Scan.of("beside", step, ("f", "g"), ("h",))
    operands = Cell(2, (), (("state", 0),)).operands(4, 3, 2, 5)
    for form in ("compiled", "NumPy"):
        fused, unrolled = both(scan)
        with loops(form):
            found = by_gradients(fused, operands)
        assert_same(found, by_gradients(unrolled, operands), "of it")


# --- mistakes -------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "shapes": (
        lambda xp, x, h, s: (x + h[..., :2],),
        tg.errors.ShapeError,
        r"add: cannot take .*2\)",
    ),
    "a name": (lambda xp, x, h, s: (xp.tanhh(x + h),), AttributeError, "tanhh"),
    "a type": (lambda xp, x, h, s: (-(x > 0) * h,), tg.errors.DTypeError, "boolean negative"),
    "its own": (lambda xp, x, h, s: (1 / 0,), ZeroDivisionError, "division by zero"),
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_says_what_it_says_in_the_definition(name: str, recorded: bool) -> None:
    step, error, message = MISTAKES[name]
    make = leaf if recorded else const
    operands = [make(x) for x in Cell(1, (), (("state", 0),)).operands(3, 2, 2, 4)]
    for run in both(Scan.of("wrong", step, ("z",), ("h",))):
        with pytest.raises(error, match=message):
            run(*operands)


# --- when it is derived ---------------------------------------------------------------------------

SCALE = 0.5
"""Read by a step."""


def test_numbers_that_are_there_later_than_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        scale = 1.0 if inner is None else inner
        return (scale * LATER * xp.tanh(x + h),)  # type: ignore[name-defined]  # noqa: F821

    scan = Scan.of("early", step, ("z",), ("h",))
    operands = Cell(1, (), (("state", 0),)).operands(3, 2, 2, 4)
    assert scan.program() is None
    for later, inner in ((0.5, None), (0.5, 2.0), (0.25, 2.0)):  # noqa: B007
        monkeypatch.setitem(globals(), "LATER", later)
        fused, unrolled = both(scan)
        assert_same(by_gradients(fused, operands), by_gradients(unrolled, operands), "of it")
        assert scan.program() is not None


def test_numbers_that_a_step_reads_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own globals, and variables of the functions around it; what was recorded before stays."""
    inner = 1.0

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return (SCALE * xp.tanh(inner * (x + h)),)

    scan = Scan.of("reading", step, ("z",), ("h",))
    operands = Cell(1, (), (("state", 0),)).operands(3, 2, 2, 4)
    for scale, inner in ((0.5, 1.0), (0.25, 1.0), (0.25, 2.0), (0.5, 1.0)):  # noqa: B007
        monkeypatch.setitem(globals(), "SCALE", scale)
        fused, unrolled = both(scan)
        assert_same(by_gradients(fused, operands), by_gradients(unrolled, operands), "of it")
    x, *others = [leaf(a) for a in operands]
    y = tg.apply(scan, x, *others)
    (expected,) = tg.grad(tg.sum(y), x, retain_graph=True)
    inner = 3.0
    assert tg.grad(tg.sum(y), x)[0].numpy().tolist() == expected.numpy().tolist()


def test_whatever_a_step_reads_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes names defined later, values that are not numbers, and reads of an inner function."""
    inner = "sin"

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        def bent(z: Any) -> Any:
            return z if SLOPES is None else SLOPES[0] * z  # noqa: F821

        return (CURVE(xp, getattr(xp, inner)(bent(x + h))),)  # noqa: F821

    scan = Scan.of("reading", step, ("z",), ("h",))
    operands = Cell(1, (), (("state", 0),)).operands(3, 2, 2, 4)
    choices: list[Any] = [None, (0.25,), (np.float64(0.5), 1), [0.75], {0: 0.3}, {0: True}, {0: 1}]
    curves = [lambda xp, z: xp.tanh(z), lambda xp, z: xp.sigmoid(z)]
    for inner, slopes in product(("sin", "atan"), choices):  # noqa: B007
        for curve in curves:
            monkeypatch.setitem(globals(), "SLOPES", slopes)
            monkeypatch.setitem(globals(), "CURVE", curve)
            with loops("NumPy"):
                found, expected = (by_gradients(run, operands) for run in both(scan))
            assert_same(found, expected, "of it")


def test_equal_options_of_different_types_differ() -> None:
    def step(xp: Any, x: Any, h: Any, state: Any, k: Any = 1) -> Any:
        return (xp.tanh(x + h) if k is True else xp.sigmoid(x + h),)

    scan = Scan.of("typed", step, ("z",), ("h",))
    assert text(scan, k=1) != text(scan, k=True)


def scaled(x: Any) -> Any:
    """Called by a step."""
    return SCALE * x


def test_numbers_that_are_read_further_inside_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """By functions that the step calls, or that are defined in it; NumPy's own numbers too."""
    gain = 1.0

    def outer(x: Any) -> Any:
        return gain * scaled(x)

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        inner = lambda z: SCALE * outer(z)  # noqa: E731
        return (xp.tanh(inner(x + h)),)

    scan = Scan.of("reading", step, ("z",), ("h",))
    operands = Cell(1, (), (("state", 0),)).operands(3, 2, 2, 4)
    numbers = ((0.5, 1.0), (0.25, 1.0), (0.25, 2.0), (np.float64(0.75), 2.0), (np.float64(2), 2.0))
    for scale, gain in numbers:  # noqa: B007
        monkeypatch.setitem(globals(), "SCALE", scale)
        fused, unrolled = both(scan)
        assert_same(by_gradients(fused, operands), by_gradients(unrolled, operands), "of it")


def test_it_is_derived_once_for_each_choice_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[Any] = []

    def counted(*given: Any) -> Any:
        derived.append(given[-1])
        return tracing.derive(*given)

    def step(xp: Any, x: Any, h: Any, state: Any, slope: float = 1.0) -> Any:
        return (xp.maximum(x + h, slope * (x + h)),)

    monkeypatch.setattr(scans, "derive", counted)
    scan = Scan.of("counted", step, ("z",), ("h",))
    inputs = [leaf(a) for a in Cell(1, (), (("state", 0),)).operands(3, 2, 2, 4)]
    for slope in (0.1, 0.2, 0.1):
        for _ in range(2):
            tg.sum(tg.apply(scan, *inputs, slope=slope)).backward()
    assert derived == [{"slope": 0.1}, {"slope": 0.2}]


def test_threads_may_derive_at_once() -> None:
    """Every thread gets one and the same whole program."""
    with ThreadPoolExecutor(8) as pool:
        for kind, (scan, params) in KINDS.items():
            fresh = Scan.of(kind, scan.step, scan.gates, scan.parts, scan.weights)
            texts = set(pool.map(lambda _, scan=fresh, p=params: text(scan, **p), range(8)))
            assert texts == {text(scan, **params)}


def text(scan: Scan, **params: Any) -> str:
    """The text of a whole program."""
    program = scan.program(**params)
    assert program is not None
    return f"{program.x_only} {program.shared}\n{program.forward}\n{program.backward}"


def texts() -> str:
    return "\n".join(text(scan, **params) for scan, params in KINDS.values())


def test_it_is_the_same_in_every_process() -> None:
    """Compiled loops are kept under its text."""
    code = f"from {__name__} import texts; print(texts())"
    root = Path(__file__).parents[2]
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == texts().strip()
