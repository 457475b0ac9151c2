"""Kernels that are printed from a cell's program, beside the NumPy form of the same program.

Here g++ runs them on the CPU, and nvcc compiles them for a card; no card has run them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.support import Array, assert_close
from tests.tinygrad182.cells import KINDS, Kind
from tests.tinygrad182.nn.own_cells import swish
from tinygrad182.arrays.namespaces import NUMPY
from tinygrad182.kernels import cuda, loops, numpy_loops
from tinygrad182.kernels.cuda_c import EXPRESSIONS
from tinygrad182.kernels.program import Listing, Program, Tape
from tinygrad182.kernels.runs import FULL_LENGTH, Lengths, Run, StepCotangents, Weights
from tinygrad182.primitives import PRIMITIVES, Primitive
from tinygrad182.recurrence.tracing import KNOWN

cupy = pytest.importorskip("cupy")
try:
    cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError:
    pytest.skip("no CUDA device", allow_module_level=True)

STAND_IN = getattr(cupy, "__fake__", False)
counts = pytest.mark.skipif(not STAND_IN, reason="only the stand-in counts launches and waits")

SOFTSIGN = Primitive(
    "softsign",
    forward=lambda xp, x: x / (1 + abs(x)),
    vjp=(lambda xp, g, y, x: g * (1 - abs(y)) / (1 + abs(x)),),
    jvp="elementwise",
)
RNN: Any = PRIMITIVES["rnn_scan"]
CELLS = KINDS | {
    "function": Kind(RNN, {"nonlinearity": swish}),
    "rule": Kind(RNN, {"nonlinearity": SOFTSIGN}),
}

DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 3e-6, "float64": 1e-14}


def program(kind: str) -> Program:
    """The program of a cell; the loops are chosen by the object."""
    scan, params = CELLS[kind]
    found = scan.program(**params)
    assert found is not None
    return found


# --- cases ----------------------------------------------------------------------------------------


@dataclass
class Case:
    """Arguments of the loops, as arrays of NumPy."""

    program: Program
    x: Array
    initial: list[Array]
    weights: Weights
    lengths: Array | None
    g: Array
    powers: Array | None = None

    def on(self, m: Any, dtype: str) -> Case:
        """Return the case with arrays of a library and type."""

        def moved(a: Any) -> Any:
            return (
                None
                if a is None
                else m.asarray(a.astype(dtype if a.dtype.kind == "f" else a.dtype))
            )

        *weights, others = self.weights
        return replace(
            self,
            x=moved(self.x),
            initial=[moved(h) for h in self.initial],
            weights=Weights(*map(moved, weights), tuple(map(moved, others))),
            lengths=moved(self.lengths),
            g=moved(self.g),
            powers=moved(self.powers),
        )

    @property
    def all_lengths(self) -> Lengths:
        return FULL_LENGTH if self.lengths is None else Lengths(self.lengths, 1)


def make(
    kind: str,
    sizes: tuple[int, int, int, int] = (6, 4, 3, 5),
    lead: tuple[int, ...] = (),
    lengths: bool = False,
    bias: bool = True,
    gain: float = 1.0,
    powers: bool = False,
    last: bool = False,
) -> Case:
    """A case whose numbers float32 holds; with ``last``, cotangents arrive at the last step only."""
    p, draw = program(kind), np.random.default_rng(0)
    (T, B, size, H), G = sizes, len(p.gates)

    def normal(*shape: int) -> Array:
        return draw.normal(size=shape).astype("float32").astype("float64")

    weights = Weights(
        normal(G * H, size) / np.float64(4),
        np.float32(gain / np.sqrt(H)) * normal(G * H, H),
        normal(G * H) if bias else None,
        normal(G * H) if bias and p.separate else None,
        tuple(normal(blocks * H) for blocks in p.weights.values()),
    )
    g = normal(len(p.parts), *lead, T, B, H)
    g *= (np.arange(T) == T - 1)[:, None, None] if last else draw.integers(0, 2, (T, B, 1))
    return Case(
        p,
        normal(T, B, size),
        [normal(B, H) for _ in p.parts],
        weights,
        np.resize([T, 2, 1, T - 1], B).astype("int32") if lengths else None,
        g,
        draw.integers(-900, 900, (*lead, T, B)) if powers else None,
    )


Saved = tuple[Any, Any]
"""The arrays that forward fills: the states, and the values saved for backward."""


def forward(run: Any, m: Any, case: Case, dtype: str) -> Saved:
    case = case.on(m, dtype)
    (T, B, _), H, p = case.x.shape, case.initial[0].shape[-1], case.program
    states = m.empty((len(p.parts), T, B, H), dtype)
    saved = m.empty((T, B, p.saved * H), dtype)
    run.forward(Run(p, m, case.weights, case.initial, saved, states, case.all_lengths), case.x)
    return states, saved


def backward(
    run: Any, m: Any, case: Case, dtype: str, kept: Saved, keep: bool = True, *spans: range
) -> list[StepCotangents]:
    """Run back over all steps, or over some after the other."""
    case, found, later = case.on(m, dtype), [], None
    states, saved = (m.asarray(a.astype(dtype)) for a in kept)
    for span in spans or [None]:
        steps = Run(case.program, m, case.weights, case.initial, saved, states, case.all_lengths)
        later = run.backward(steps, case.g, case.powers, keep, span, later)
        found.append(later)
    return found


def host(array: Any) -> Array:
    return array if isinstance(array, (np.ndarray, np.generic)) else cupy.asnumpy(array)


def at_powers(rows: Any, powers: Any) -> Array:
    """The true numbers: long doubles hold what the powers of two stand for."""
    powers = powers if isinstance(powers, int) else host(powers).astype(int)[..., None]
    return np.ldexp(host(rows).astype(np.longdouble), powers)


def numbers(deltas: StepCotangents) -> dict[str, Array]:
    found = {
        "sums": at_powers(deltas.sums, deltas.powers),
        "initial": at_powers(deltas.initial, deltas.initial_powers),
    }
    if deltas.states is not None:
        found["states"] = at_powers(deltas.states, deltas.powers)
    return found


def assert_rows_close(found: Array, expected: Array, tolerance: float, what: str) -> None:
    """The largest difference in a row beside the largest element of that row."""
    assert found.shape == expected.shape
    size = np.abs(expected).max(axis=-1, initial=0)
    error = np.abs(found - expected).max(axis=-1, initial=0)
    assert (error <= tolerance * size).all(), f"{what}: {(error / size).max():.1e}"


OPTIONS: list[dict[str, Any]] = [
    *({"sizes": (4, 3, 2, H)} for H in (1, 3, 33, 300)),
    {"sizes": (1, 1, 1, 32)},
    {"sizes": (5, 9, 4, 257)},
    {"lead": (2, 3)},
    {"lengths": True},
    {"bias": False},
    {"powers": True},
    {"sizes": (60, 3, 2, 4), "gain": 0.001, "last": True},
    {"sizes": (110, 3, 2, 4), "gain": 1.5, "last": True},
    {"sizes": (7, 4, 2, 33), "lead": (2,), "lengths": True, "powers": True},
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_the_numbers_of_numpy(kind: str, options: dict[str, Any], dtype: str) -> None:
    """States, what is kept, and all cotangents of the way back, over all steps and in two spans."""
    case = make(kind, **options)
    kept = forward(numpy_loops, np, case, "float64")
    T, B = case.x.shape[:2]
    running = np.arange(T)[:, None] < (np.full(B, T) if case.lengths is None else case.lengths)
    found = [host(a) for a in forward(cuda, cupy, case, dtype)]
    assert_close(found[0], kept[0], TOLERANCE[dtype] * 3)
    assert_close(found[1][running], kept[1][running], TOLERANCE[dtype] * 3)
    kept = [a.astype(dtype) for a in kept]  # both go back from the same numbers
    for spans in ([], [range(T // 2, T), range(T // 2)][: 2 if T > 1 else 0]):
        ours = backward(cuda, cupy, case, dtype, kept, True, *spans)
        theirs = backward(numpy_loops, np, case, "float64", kept, True, *spans)
        for a, b in zip(map(numbers, ours), map(numbers, theirs), strict=True):
            for what in b:
                assert_rows_close(a[what], b[what], TOLERANCE[dtype] * 10, what)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("options", [{"lengths": True}, {"lead": (2,)}, {"gain": 1.5}], ids=str)
def test_plain_backward_hands_out_the_same_numbers(
    kind: str, options: dict[str, Any], dtype: str
) -> None:
    """Bit for bit, at the power 0, also where spans follow each other."""
    case = make(kind, **options)
    kept = forward(numpy_loops, np, case, "float64")
    for spans in ([], [range(3, 6), range(3)]):
        plain = backward(cuda, cupy, case, dtype, kept, False, *spans)
        looking = backward(cuda, cupy, case, dtype, kept, True, *spans)
        for a, b in zip(plain, looking, strict=True):
            assert (a.powers, a.initial_powers, a.states) == (0, 0, None)
            for what, rows in numbers(a).items():
                np.testing.assert_array_equal(rows, numbers(b)[what])


@pytest.mark.parametrize("options", [{"gain": 0.001}, {"gain": 1.5}, {"powers": True}], ids=str)
@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("kind", CELLS)
def test_rows_are_brought_to_about_1(kind: str, size: float, options: dict[str, Any]) -> None:
    """This holds for cotangents of any size; a row of zeros keeps its power."""
    case = make(kind, (110, 3, 2, 4), last=True, **options)
    kept = forward(numpy_loops, np, case, "float64")
    case.g *= size
    case.g[..., 0, :] = 0
    (found,) = backward(cuda, cupy, case, "float32", kept)
    tops, powers = np.abs(host(found.states)).max(axis=(0, -1)), host(found.powers)
    assert not tops[:, 0].any()
    assert not powers[:, 0].any()
    assert (tops[-1, 1:] >= 0.25).all()  # later ones may be zeros, as of a ReLU
    assert ((tops >= 0.25) | (tops == 0)).all()
    assert (tops <= 8).all()
    if kind == "identity":
        assert np.ptp(powers) > 90


@pytest.mark.parametrize("unit", [0, 31, 32, 255, 256, 299])
def test_the_largest_element_counts_wherever_it_is(unit: int) -> None:
    case = make("identity", (1, 2, 2, 300))
    kept = forward(numpy_loops, np, case, "float64")
    case.g = np.full_like(case.g, 1e-9)
    case.g[..., unit] = 1e9
    (found,) = backward(cuda, cupy, case, "float32", kept)
    np.testing.assert_array_equal(host(found.powers), 30)


def test_what_is_not_finite_does_not_count() -> None:
    """Otherwise its large power of two would hide all other elements."""
    case = make("identity", last=True, powers=True)
    kept = forward(numpy_loops, np, case, "float64")
    case.powers[:] = 0
    expected = numbers(*backward(cuda, cupy, case, "float32", kept))["states"]
    case.g[0, 2, :, 4], case.powers[2] = np.inf, 900
    found = numbers(*backward(cuda, cupy, case, "float32", kept))["states"]
    np.testing.assert_array_equal(found[0, 2, :, :4], expected[0, 2, :, :4])
    assert np.isinf(found[0, 2, :, 4]).all()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", CELLS)
def test_what_is_not_finite_stays_in_its_row(kind: str, value: float, keep: bool) -> None:
    case = make(kind)
    kept = forward(numpy_loops, np, case, "float64")
    (expected,) = map(numbers, backward(cuda, cupy, case, "float64", kept, keep))
    case.g[0, 3, 1, 2] = value
    (found,) = map(numbers, backward(cuda, cupy, case, "float64", kept, keep))
    others = [0, 2, 3]
    for what, rows in found.items():
        np.testing.assert_array_equal(rows[..., others, :], expected[what][..., others, :])
    sums, before = found["sums"], expected["sums"]
    np.testing.assert_array_equal(sums[4:], before[4:])
    assert np.isfinite(sums[3, 1].reshape(-1, 5)[:, [0, 1, 3, 4]]).all()
    assert not np.isfinite(sums[3, 1]).all()


# --- launches and waits ---------------------------------------------------------------------------


@counts
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options", [{}, {"lengths": True}, {"bias": False}, {"powers": True}], ids=str
)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_four_launches_a_step_and_no_waits(
    kind: str, keep: bool, options: dict[str, Any], dtype: str
) -> None:
    """One product and one kernel forwards, as many back, and a few that a pass begins or ends with."""
    case = make(kind, (20, 4, 3, 5), **options)
    kept = [cupy.asarray(a) for a in forward(numpy_loops, np, case, dtype)]
    with cupy.no_waits(), cupy.counted() as found:
        forward(cuda, cupy, case, dtype)
        backward(cuda, cupy, case, dtype, kept, keep)
    kernels, cell = found["kernels"], case.program.name.removesuffix("_scan")
    assert kernels[f"tinygrad182_{cell}_forward"] == kernels[f"tinygrad182_{cell}_backward"] == 20
    assert kernels["matmul"] == 41
    assert found["launch"] - 4 * 20 <= 24


def test_no_kernel_is_given_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake CuPy takes it for a null pointer, but CuPy gives the driver no value then."""
    given = []

    class Spy:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __call__(self, grid: Any, block: Any, operands: Any) -> None:
            given.extend(operands)
            self.kernel(grid, block, operands)

    case, made = make("tanh", bias=False), cuda.kernels(cupy, program("tanh"), "float32")
    spies = cuda.Kernels(*map(Spy, made))
    monkeypatch.setattr(cuda, "kernels", lambda *_: spies)
    kept = [host(a) for a in forward(cuda, cupy, case, "float32")]
    backward(cuda, cupy, case, "float32", kept, False)
    assert given
    assert not any(a is None for a in given)


@counts
def test_neither_the_order_of_threads_nor_the_process_changes_anything() -> None:
    """Another process runs the last block and thread first, and gives names other hashes."""
    code = f"from {__name__} import fingerprint; print(fingerprint())"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"FAKECUPY_ORDER": order, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for order, seed in (("", "1"), ("reverse", "2"))
    ]
    assert found[0] == found[1] != b""


def fingerprint() -> str:
    """Hash the text of the kernels and what they give."""
    seen = hashlib.sha256()
    for kind in CELLS:
        case = make(kind, (4, 3, 2, 300), lead=(2,), lengths=True, powers=True)
        kept = forward(cuda, cupy, case, "float64")
        seen.update(b"".join(host(a).tobytes() for a in kept))
        (found,) = backward(cuda, cupy, case, "float64", [host(a) for a in kept])
        seen.update(b"".join(host(a).tobytes() for a in found))
        for kernel in cuda.kernels(cupy, case.program, "float64"):
            seen.update(kernel.code.encode())
    return seen.hexdigest()


# --- the text -------------------------------------------------------------------------------------


def every_operation() -> Program:
    """A program that keeps the result of each operation on the parts of a state before."""
    tape = Tape()
    a, b = tape.input("before", 0), tape.input("before", 1)
    three = tape.make("where", tape.make("less", a, b), a, 1 / 3)
    results = [three]
    for op, text in EXPRESSIONS.items():
        if op != "where":
            results.append(tape.make(op, *(a, b)[: 2 if text.count("{}") == 2 else 1]))
    outputs: dict[Any, Any] = {("after", 0): a, ("after", 1): b}
    outputs |= {("saved", k): r for k, r in enumerate(results)}
    return Program(
        "every operation", ("z",), ("a", "b"), {}, (), (0,), Listing(outputs), Listing({})
    )


def test_there_is_an_expression_for_each_operation() -> None:
    elementwise = {name for name, p in PRIMITIVES.items() if p.jvp == "elementwise"}
    assert set(EXPRESSIONS) == elementwise | KNOWN


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_operation_does_what_numpy_does(dtype: str) -> None:
    """Each operation agrees to a few of the last bits, for infinities, NaN and zeros as well."""
    p = every_operation()
    some = [-np.inf, -1e30, -87.0, -2.5, -1.0, -0.5, -1e-30, 0.0, 1e-30, 0.5, 0.75, 1.0, 2.5, 80.0]
    a, b = np.meshgrid([*some, np.inf, np.nan], [*some, np.inf, np.nan])
    H = a.shape[1]
    case = Case(
        p, np.zeros((1, H, 1)), [a, b], Weights(np.zeros((H, 1)), np.zeros((H, H))), None, a
    )
    _, saved = forward(cuda, cupy, case, dtype)
    with np.errstate(all="ignore"):
        values = {("before", i): x.astype(dtype) for i, x in enumerate((a, b))}
        expected = p.forward.run(values, NUMPY)
    info = np.finfo(dtype)
    for k, r in enumerate(p.forward.outputs.values()):
        if k >= 2:
            np.testing.assert_allclose(
                host(saved)[0].reshape(H, -1, H)[:, k - 2],
                np.asarray(expected["saved", k - 2], dtype),
                8 * info.eps,
                info.smallest_normal,
                err_msg=r.op,
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_are_accurate_on_both_tails(dtype: str) -> None:
    """They are accurate to the last bits, as far as e⁻ᶻ is finite."""
    tape, end = Tape(), 85 if dtype == "float32" else 700
    z = tape.input("sum", 0)
    listing = Listing({("after", 0): tape.make("sigmoid", z), ("saved", 0): tape.make("tanh", z)})
    p = Program("gate", ("z",), ("h",), {}, (), (0,), listing, Listing({}))
    tail = np.geomspace(1e-30, end, 999)
    x = np.concatenate([-tail, tail]).astype(dtype)[None, :, None]
    weights = Weights(np.ones((1, 1)), np.zeros((1, 1)))
    found = forward(cuda, cupy, Case(p, x, [x[0] * 0], weights, None, x), dtype)
    true = x.astype(np.longdouble)
    for y, exact in zip(found, (1 / (1 + np.exp(-true)), np.tanh(true)), strict=True):
        np.testing.assert_allclose(host(y).reshape(x.shape), exact, 4 * np.finfo(dtype).eps)


@counts
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [*CELLS, "every operation"])
def test_kernels_compile_for_a_card(kind: str, dtype: str) -> None:
    p = every_operation() if kind not in CELLS else program(kind)
    for kernel in cuda.kernels(cupy, p, dtype):
        made = cupy.fake.ptx(kernel)
        if made is None:
            pytest.skip("no nvcc, so nothing was compiled for a card")
        assert f".entry {kernel.name}(" in made


def test_what_cannot_be_printed_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = np.dtype("float32")
    assert loops(program("tanh"), cupy, dtype) is cuda
    assert loops(program("tanh"), cupy, np.dtype("complex64")) is None
    monkeypatch.delitem(EXPRESSIONS, "tanh")
    assert loops(program("tanh"), cupy, dtype) is None
    assert loops(program("relu"), cupy, dtype) is cuda
