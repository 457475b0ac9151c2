"""The loops that LLVM compiles: their numbers beside plain NumPy, and how they are compiled and kept."""

from __future__ import annotations

import importlib.abc
import os
import re
import subprocess
import sys
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits
from tests.tinygrad182.cells import KINDS
from tests.tinygrad182.kernels.cases import are_compiled, loops, make
from tinygrad182 import _caches, kernels
from tinygrad182.kernels import numpy_loops, runs
from tinygrad182.kernels.program import MASKS, Program
from tinygrad182.kernels.runs import FULL_LENGTH, Lengths, Weights
from tinygrad182.recurrence.tracing import KNOWN

pytestmark = pytest.mark.skipif(not are_compiled(), reason="no compiled loops here")
if are_compiled():
    import llvmlite.binding as llvm
    from llvmlite import ir

    from tinygrad182.kernels import compiled
    from tinygrad182.kernels.llvm import machine_code, vectors
    from tinygrad182.kernels.llvm.operations import Operations

SINGLE = np.dtype("float32")
TOLERANCE = {"float32": 4e-6, "float64": 1e-13}
SIZES = ((5, 1, 1, 1), (4, 3, 2, 3), (6, 5, 7, 17), (2, 6, 0, 33), (3, 9, 20, 70))
"""T, B, I, H: less than a register, registers and a rest, several registers' columns and a rest."""


# --- a program in NumPy ---------------------------------------------------------------------------


class Functions:
    """NumPy's functions, and those that it lacks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def sigmoid(self, x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)


class Run(NamedTuple):
    """The program, the operands and the cotangents of a run.

    Attributes
    ----------
    powers : int array (*lead, T, B), or None
        Of the rows of ``g`` (parts, *lead, T, B, H).
    """

    program: Program
    x: Array
    initial: list[Array]
    weights: Weights
    lengths: Lengths
    g: Array
    powers: Array | None

    def wide(self) -> Run:
        """Return the run with all numbers in float64."""

        def wide(a: Any) -> Any:
            return None if a is None else a.astype("float64")

        *weights, others = self.weights
        weights_ = Weights(*map(wide, weights), tuple(map(wide, others)))
        return self._replace(
            x=wide(self.x), initial=list(map(wide, self.initial)), weights=weights_, g=wide(self.g)
        )

    def record(self, states: Array, saved: Array) -> runs.Run:
        """The run as the loops take it."""
        return runs.Run(self.program, np, self.weights, self.initial, saved, states, self.lengths)

    def blocks(self, weight: Array) -> list[Array]:
        return np.split(weight, len(weight) // self.initial[0].shape[1])

    def own(self) -> dict[Any, Array]:
        """The cell's own weights, by blocks."""
        blocks = [block for weight in self.weights.others for block in self.blocks(weight)]
        return {("weight", k): block for k, block in enumerate(blocks)}

    def sums(self, x: Array, h: Array) -> dict[Any, Array]:
        p, w = self.program, self.weights
        found: list[Any] = [0.0] * p.sums
        for i, k in enumerate(p.x_gates):
            found[i] = found[i] + x @ self.blocks(w.weight_ih)[k].T
            if w.bias_ih is not None:
                found[i] = found[i] + self.blocks(w.bias_ih)[k]
        for i, k in enumerate(p.h_gates, p.sums - len(p.gates)):
            found[i] = found[i] + h @ self.blocks(w.weight_hh)[k].T
            if w.bias_hh is not None:
                found[i] = found[i] + self.blocks(w.bias_hh)[k]
        return {("sum", s): z for s, z in enumerate(found)}

    def over(self, t: int) -> Array:
        if self.lengths.steps is None:
            return np.zeros((self.x.shape[1], 1), bool)
        return (self.lengths.steps <= t)[:, None]

    def forward(self) -> tuple[Array, Array]:
        """The states, and the saved values."""
        T, B, _ = self.x.shape
        H, before = self.initial[0].shape[1], self.initial
        states = np.empty((len(before), T, B, H), self.x.dtype)
        saved = np.empty((T, B, self.program.saved, H), self.x.dtype)
        for t in range(T):
            values = self.sums(self.x[t], before[0]) | self.own()
            values |= {("before", p): part for p, part in enumerate(before)}
            for (kind, k), x in self.program.forward.run(values, Functions()).items():
                if kind == "after":
                    states[k, t] = np.where(self.over(t), before[k], x)
                else:
                    saved[t, :, k] = x
            before = list(states[:, t])
        return states, saved.reshape(T, B, -1)

    def backward(self, states: Array, saved: Array) -> tuple[Array, Array, Array]:
        """The cotangents of sums and weights, of the initial state, and of the states."""
        p, (parts, *lead, T, B, H) = self.program, self.g.shape
        g = self.g if self.powers is None else np.ldexp(self.g, self.powers[..., None])
        weight = np.concatenate([self.blocks(self.weights.weight_hh)[k] for k in p.h_gates])
        sums = np.zeros((*lead, T, B, p.columns, H))
        kept, value = np.zeros((parts, *lead, T, B, H)), np.zeros((parts, *lead, B, H))
        slots = saved.reshape(T, B, p.saved, H)
        for t in reversed(range(T)):
            value = value + g[..., t, :, :]
            values = self.own() | {("grad", i): value[i] for i in range(parts)}
            values |= {
                ("before", i): states[i, t - 1] if t else self.initial[i] for i in range(parts)
            }
            values |= {("after", i): states[i, t] for i in range(parts)}
            values |= {("saved", k): slots[t, :, k] for k in range(p.saved)}
            found = p.backward.run(values, Functions())
            for i in range(parts):
                kept[i][..., t, :, :] = np.where(self.over(t), value[i], found[("whole_grad", i)])
            for s in range(p.columns):
                key = ("sum", s) if s < p.sums else ("weight", s - p.sums)
                sums[..., t, :, s, :] = np.where(self.over(t), 0, found.get(key, 0))
            own = [found.get(("before", i), 0.0) + np.zeros_like(value[i]) for i in range(parts)]
            by_h = sums[..., t, :, p.sums - len(p.gates) : p.sums, :]
            own[0] = own[0] + by_h.reshape(*lead, B, -1) @ weight
            value = np.where(self.over(t), 0, np.stack(own))
        return sums.reshape(*lead, T, B, -1), value, kept


def draw(
    kind: str, sizes: tuple[int, int, int, int], dtype: str = "float32", lead: tuple[int, ...] = (),
    biases: int = 2, lengths: bool = False, powers: bool = False,
) -> Run:  # fmt: skip
    """Draw a random run of a cell's program."""
    T, B, inputs, H = sizes
    rng = np.random.default_rng(T + B + H)
    scan, params = KINDS[kind]
    program = scan.program(**params)
    assert program is not None
    N, parts = len(program.gates) * H, len(program.parts)

    def normal(*shape: int) -> Array:
        return rng.normal(size=shape).astype(dtype)

    weights = Weights(
        normal(N, inputs), normal(N, H) / np.asarray(H**0.5, dtype),
        normal(N) if biases else None, normal(N) if biases > 1 else None,
        tuple(normal(blocks * H) for blocks in program.weights.values()),
    )  # fmt: skip
    steps = rng.integers(0, T + 1, B)
    return Run(
        program, normal(T, B, inputs), [normal(B, H) for _ in range(parts)], weights,
        Lengths(steps, int(steps.min())) if lengths else FULL_LENGTH, normal(parts, *lead, T, B, H),
        rng.integers(-120, 60, (*lead, T, B)) if powers else None,
    )  # fmt: skip


def forward(run: Run) -> tuple[Array, Array]:
    """The states and saved values of the compiled loop. What it does not write is NaN."""
    T, B, _ = run.x.shape
    H, dtype = run.initial[0].shape[1], run.x.dtype
    compiled.ready(run.program, dtype)
    states = np.full((len(run.initial), T, B, H), np.nan, dtype)
    saved = np.full((T, B, run.program.saved * H), np.nan, dtype)
    compiled.forward(run.record(states, saved), run.x)
    return states, saved


def backward(run: Run, states: Array, saved: Array, **options: Any) -> Any:
    return compiled.backward(run.record(states, saved), run.g, run.powers, **options)


def whole(rows: Array, powers: Any) -> Array:
    """The true rows, with their powers of two applied."""
    return np.ldexp(rows.astype("float64"), np.broadcast_to(powers, rows.shape[:-1])[..., None])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"biases": 0},
        {"biases": 1, "lead": (2,), "powers": True},
        {"lead": (2, 1), "lengths": True},
        {"lengths": True, "powers": True},
    ],
)
def test_a_program_in_plain_arithmetic(
    kind: str, sizes: tuple[int, int, int, int], dtype: str, options: dict[str, Any]
) -> None:
    run = draw(kind, sizes, dtype, **options)
    states, saved = forward(run)
    expected = run.wide().forward()
    assert_close(states, expected[0], TOLERANCE[dtype], "states")
    if run.lengths is FULL_LENGTH:  # else what is saved of steps past the end is never read
        assert_close(saved, expected[1], TOLERANCE[dtype], "saved")
    found = backward(run, states, saved, with_states=True)
    expected = run.wide().backward(states.astype("float64"), saved.astype("float64"))
    for name, rows, powers, own in zip(
        ("sums", "initial", "states"), (found.sums, found.initial, found.states),
        (found.powers, found.initial_powers, found.powers), expected, strict=True,
    ):  # fmt: skip
        assert rows.dtype == dtype
        assert_close(whole(rows, powers), own, TOLERANCE[dtype], name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("powers", [False, True])
def test_windows_are_parts_of_the_whole(kind: str, powers: bool) -> None:
    run = draw(kind, (7, 3, 2, 19), lead=(2,), lengths=True, powers=powers)
    states, saved = forward(run)
    at_once = backward(run, states, saved, with_states=True)
    last = backward(run, states, saved, with_states=True, span=range(3, 7))
    first = backward(run, states, saved, with_states=True, span=range(3), later=last)
    assert_same_bits(
        whole(first.initial, first.initial_powers), whole(at_once.initial, at_once.initial_powers)
    )
    for name in ("sums", "states"):
        parts = [whole(getattr(w, name), w.powers) for w in (first, last)]
        expected = whole(getattr(at_once, name), at_once.powers)
        assert_same_bits(np.concatenate(parts, axis=-3), expected)


@pytest.mark.parametrize("kind", ["lstm", "relu", "gru", "peephole"])
def test_split_over_threads_to_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(kind, (9, 7, 2, 5), lead=(2,), lengths=True)
    calls = []
    with loops("compiled"):
        monkeypatch.setattr(compiled, "THREADS", 3)
        expected = [case.states(), *case.gradients()]
        monkeypatch.setattr(compiled, "THREAD_WORK", 1)
        submit = ThreadPoolExecutor.submit
        monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *a: calls.append(a) or submit(*a))
        found = [case.states(), *case.gradients()]
        assert (
            len(calls) == 6
        )  # forward, forward and backward, each on two threads besides this one
        monkeypatch.setattr(compiled, "_begun", lambda run: run)
        in_turn = [case.states(), *case.gradients()]
    for a, b, c in zip(found, in_turn, expected, strict=True):
        assert_same_bits(a, c)
        assert_same_bits(b, c, "one part of the batch after the other")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_outside(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing weights writes whole squares of registers, beyond the last panel."""
    call, seen = compiled.Loop.__call__, []

    def guarded(self: Any, given: list[Array], numbers: tuple[int, ...]) -> int:
        *given, scratch = given
        wide = np.full(scratch.size + 4096, 7, scratch.dtype)
        found = call(self, [*given, wide[2048 : 2048 + scratch.size]], numbers)
        seen.append((wide[:2048] == 7).all() and (wide[2048 + scratch.size :] == 7).all())
        return found

    monkeypatch.setattr(compiled.Loop, "__call__", guarded)
    for sizes in SIZES:
        run = draw(kind, sizes, "float64")
        backward(run, *forward(run))
    assert len(seen) == 2 * len(SIZES)
    assert all(seen)


# --- operations -----------------------------------------------------------------------------------

UNARY = [
    "exp", "expm1", "tanh", "sqrt", "square", "abs", "negative", "log", "log2", "log10", "log1p", "sin",
    "cos", "sinh", "cosh", "asin", "acos", "atan", "asinh", "floor", "ceil", "trunc", "round", "sign",
]  # fmt: skip
BINARY = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "atan2", "remainder",
    "floor_divide",
)  # fmt: skip


def applied(dtype: str, op: str, *operands: Array) -> Array:
    """The result of an operation, compiled as a function of its own."""

    def write() -> Any:
        module = ir.Module()
        names = [f"x{i}" for i in range(len(operands))]
        code = vectors.Code(module, "apply", np.dtype(dtype), [*names, "out"], [], ["n"])
        for j, _ in code.over(code["n"]):
            values = [code.load(code[name] + j) for name in names]
            found = getattr(Operations(code), op)(*values)
            found = code.constant(0.0).where(found, 1.0) if op in MASKS else found
            code.store(found, code["out"] + j)
        code.done()
        return module

    library = machine_code.functions(f"{op} for a test", dtype, write, ["apply"])
    out = np.empty_like(operands[0])
    compiled.Loop(library, "apply")([*operands, out], (out.size,))
    return out


def test_there_is_every_operation_that_a_step_may_use() -> None:
    assert {*UNARY, *BINARY, *MASKS, "where"} == KNOWN
    code = vectors.Code(ir.Module(), "none", np.dtype("float32"), [], [], [])
    for op in KNOWN:
        assert callable(getattr(Operations(code), op))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", [*UNARY, *BINARY])
def test_operations_are_numpys(op: str, dtype: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_caches, "folders", lambda: [tmp_path])
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=150) * 3, rng.normal(size=150) * 1e-3])
    y = rng.normal(size=300)
    if op in ("log", "log2", "log10", "sqrt", "power"):
        x = np.abs(x)
    elif op in ("asin", "acos"):
        x = x / 20
    elif op == "log1p":
        x = np.abs(x) - 0.5
    x, y = x.astype(dtype), y.astype(dtype)
    operands = (x, y) if op in BINARY else (x,)
    found = applied(dtype, op, *operands)
    exact = getattr(np, op)(*(a.astype(np.longdouble) for a in operands))
    eps = np.finfo(dtype).eps
    assert (np.abs(found - exact) <= 4 * eps * np.abs(exact)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ["exp", "expm1"])
def test_as_far_as_the_type_goes(op: str, dtype: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_caches, "folders", lambda: [tmp_path])
    info = np.finfo(dtype)
    highest = np.log(info.max)
    x = np.asarray(highest - np.linspace(2e-5 if dtype == "float32" else 1e-12, 1, 200), dtype)
    found, expected = applied(dtype, op, x), getattr(np, op)(x.astype("longdouble"))
    assert_close(found / info.max, (expected / info.max).astype(dtype), 8 * info.eps, op)
    assert np.isinf(applied(dtype, op, np.asarray([highest * 1.0001, np.inf], dtype))).all()


@pytest.mark.parametrize(
    "op",
    [
        "exp", "expm1", "tanh", "abs", "maximum", "minimum", "relu", "sqrt", "sign", "isnan", "isinf",
        "isfinite", "remainder", "floor_divide",
    ],
)  # fmt: skip
def test_operations_on_what_is_not_finite(op: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_caches, "folders", lambda: [tmp_path])
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 800.0, -800.0, 1.0, np.nan])
    operands = (x, np.roll(x, 1)) if op in BINARY else (x,)
    with np.errstate(all="ignore"):
        expected = getattr(Functions(), op)(*operands)
    np.testing.assert_allclose(applied("float64", op, *operands), expected, rtol=4e-16)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (5, 3, 2), (300, 17, 33), (257, 64, 65), (600, 130, 9)]
)
def test_rows_crossed(
    dtype: str, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows may be parts of longer ones, or not contiguous."""
    forward(draw("tanh", (1, 1, 1, 1), dtype))  # loads
    R, N, K = sizes
    rng = np.random.default_rng(0)
    a = rng.normal(size=(R, 2 * N)).astype(dtype)
    b = np.asfortranarray(rng.normal(size=(R, K)).astype(dtype))
    monkeypatch.setattr(compiled, "BLAS_WORK", 0)
    found = compiled.crossed(np, a[:, N:], b)
    expected = a[:, N:].T.astype("float64") @ b
    assert found.flags.c_contiguous
    scale = np.abs(a[:, N:].T).astype("float64") @ np.abs(b)
    assert (np.abs(found - expected) <= 8 * np.finfo(dtype).eps * scale).all()
    monkeypatch.setattr(compiled, "THREAD_WORK", 1)
    monkeypatch.setattr(compiled, "THREADS", 3)
    assert_same_bits(compiled.crossed(np, a[:, N:], b), found)


# --- files ----------------------------------------------------------------------------------------

USE = """
import numpy as np, tinygrad182 as tg
from pathlib import Path
from tinygrad182 import _caches
_caches.folders = lambda: [Path(folder) for folder in {folders!r}]
print(float(tg.nn.RNN(2, 3, rng=0)(tg.ones((4, 2, 2)))[0].sum().data))
"""


def used(*folders: Path) -> tuple[str, str]:
    """The output and messages of a new process that keeps machine code in these folders."""
    program = USE.format(folders=[str(folder) for folder in folders])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300,
        cwd=Path(tg.__file__).parents[1],
    )  # fmt: skip
    return done.stdout, done.stderr


def test_a_new_process_loads_what_another_compiled(tmp_path: Path) -> None:
    first, said = used(tmp_path)
    assert "compiling the loops of rnn_scan for float32" in said
    assert len(list(tmp_path.glob("*.o"))) == 2
    assert used(tmp_path) == (first, "")


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_compiled_again(damage: str, tmp_path: Path) -> None:
    """To run damaged code would crash the process."""
    first, _ = used(tmp_path)
    for file in tmp_path.glob("*.o"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes({"cut": data[: len(data) // 2], "changed": data, "empty": b""}[damage])
    found, said = used(tmp_path)
    assert found == first
    assert "rnn_scan" in said
    assert used(tmp_path) == (first, "")


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    """The next folder is used; without any, every process compiles."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    nowhere = blocked / "folder"
    first, said = used(nowhere)
    assert "compiling" in said
    assert "compiling" in used(nowhere)[1]
    assert used(nowhere, tmp_path / "cache")[0] == first
    assert used(nowhere, tmp_path / "cache") == (first, "")


def test_machine_code_is_kept_by_all_that_it_is_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_caches, "folders", lambda: [tmp_path])
    written, made, machine = [], machine_code._compiled, machine_code._machine()
    monkeypatch.setattr(machine_code, "_compiled", lambda text: written.append(text) or made(text))
    monkeypatch.setattr(machine_code, "_jit", lambda: llvm.create_lljit_compiler(machine))
    monkeypatch.setattr(compiled, "_LOOPS", dict(compiled._LOOPS))  # these are not to be called
    program = draw("tanh", (1, 1, 1, 1)).program
    for _ in range(2):
        monkeypatch.setattr(machine_code, "_LOADED", {})  # as in a new process
        compiled.ready(program, SINGLE)
        assert len(written) == 1
    for where, name, value in (
        (machine_code, "LEVEL", 2),
        (machine_code, "OFF", ()),
        (machine_code, "_features", lambda: "+none"),
        (machine_code, "_sources", str),
        (machine_code, "Code", types.SimpleNamespace(HEAD=24)),  # of another build of Python
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            patch.setattr(machine_code, "_machine", lambda: machine)
            compiled.ready(program, SINGLE)
        assert len(written) == 2, name
        written.pop()


def test_every_file_that_writes_code_counts() -> None:
    """WRITERS lists every file that the code of the loops depends on."""
    folder, left, found = Path(kernels.__file__).parent, ["llvm/time_loops"], set()
    while left:
        found.add(name := left.pop())
        text = (folder / f"{name}.py").read_text()
        folder_of = "llvm/" if name.startswith("llvm/") else ""
        taken = {folder_of + other for other in re.findall(r"^from \.(\w+) import", text, re.M)}
        taken |= set(re.findall(r"^from \.\.(\w+) import", text, re.M)) if folder_of else set()
        left += taken - found
    assert found == set(machine_code.WRITERS)


def test_sources_in_an_archive(tmp_path: Path) -> None:
    """The digest also covers sources in a zip archive."""
    root = Path(tg.__file__).parents[1]
    digests = set()
    for added in ("", "# another version"):
        archive = tmp_path / "archive.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for path in (root / "tinygrad182").rglob("*.py"):
                text = path.read_text() + added * (path.name == "time_loops.py")
                file.writestr(str(path.relative_to(root)), text)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from tinygrad182.kernels.llvm.machine_code import _sources; print(_sources())",
            ],
            capture_output=True, text=True, check=True, timeout=100, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(archive)},
        )  # fmt: skip
        digests.add(done.stdout)
    assert len(digests) == 2


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the cache is elsewhere")
def test_code_is_not_taken_from_where_one_happens_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert _caches.folders()[1] == Path("~/.cache/tinygrad182").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert _caches.folders()[1] == Path("/somewhere/tinygrad182")


# --- the choice -----------------------------------------------------------------------------------


@pytest.fixture
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget all loops that were built."""
    monkeypatch.setattr(kernels, "_BUILT", {})
    monkeypatch.setattr(kernels, "_FAILED", [])


def chosen(kind: str = "tanh", dtype: str = "float32") -> Any:
    return kernels.loops(draw(kind, (1, 1, 1, 1)).program, np, np.dtype(dtype))


def test_compiled_where_llvmlite_is_installed() -> None:
    for kind in KINDS:
        assert chosen(kind) is chosen(kind, "float64") is compiled


@pytest.mark.usefixtures("_anew")
def test_never_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llvmlite", "tinygrad182.kernels.compiled"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(kernels, "compiled", raising=False)
    assert chosen() is numpy_loops
    lstm = tg.nn.LSTM(2, 3, rng=0)
    output, _ = lstm(tg.ones((4, 2, 2)))
    output.sum().backward()
    assert lstm.weight_hh_l0.grad is not None


class Broken(importlib.abc.MetaPathFinder):
    """Makes the import of llvmlite fail."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "llvmlite":
            raise self.error


@pytest.mark.usefixtures("_anew")
@pytest.mark.parametrize(
    "error", [RuntimeError, AttributeError, ImportError, ValueError, OSError, SystemExit]
)
def test_an_llvmlite_that_cannot_be_imported(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one warning, which names the cause, and NumPy runs the loops from the first call on."""
    monkeypatch.setattr(sys, "meta_path", [Broken(error("no libLLVM")), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "llvmlite"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(RuntimeWarning, match="does not work.*no libLLVM") as warned:
        found = [chosen("tanh"), chosen("tanh", "float64"), chosen("lstm"), chosen("tanh")]
    assert found == [numpy_loops] * 4
    assert len(warned) == 1


@pytest.mark.usefixtures("_anew")
def test_a_folder_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    there = types.ModuleType("llvmlite")
    there.__path__ = []
    for name in [name for name in sys.modules if name.startswith("llvmlite.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llvmlite", there)
    for owner, name in ((kernels, "compiled"), (kernels.llvm, "machine_code")):
        monkeypatch.delitem(sys.modules, f"{owner.__name__}.{name}")
        monkeypatch.delattr(owner, name)
    with pytest.warns(RuntimeWarning, match="llvmlite does not work"):
        assert chosen() is numpy_loops


@pytest.mark.usefixtures("_anew")
@pytest.mark.parametrize("error", [EOFError, SystemExit, NotImplementedError])
def test_loops_that_cannot_be_compiled(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one warning for the cell; other cells are still compiled."""
    ready = compiled.ready

    def failing(program: Program, dtype: Any) -> None:
        if program.name == "rnn_scan":
            raise error("no such instruction")
        ready(program, dtype)

    monkeypatch.setattr(compiled, "ready", failing)
    with pytest.warns(RuntimeWarning, match=r"rnn_scan.*no such instruction") as warned:
        found = [chosen() for _ in range(2)]
    assert found == [numpy_loops] * 2
    assert len(warned) == 1
    assert chosen("gru") is compiled


@pytest.mark.usefixtures("_anew")
def test_numbers_of_a_step_that_change_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some choices NumPy runs the loops, with one warning."""

    class Leaky(tg.nn.RecurrentLayer):
        gates = ("z",)
        state = ("h",)

        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any, slope: float = 1.0) -> Any:
            return (xp.maximum(x + h, slope * (x + h)),)

    ready: list[Program] = []
    monkeypatch.setattr(kernels, "CHOICES", 3)
    monkeypatch.setattr(kernels, "_ALIKE", {})
    monkeypatch.setattr(compiled, "ready", lambda program, dtype: ready.append(program))

    def chosen_for(slope: float) -> Any:
        program = Leaky.scan.program(slope=slope)
        assert program is not None
        return kernels.loops(program, np, SINGLE)

    with pytest.warns(RuntimeWarning, match="3 choices") as warned:
        found = [chosen_for(slope) for slope in (0.5, 1e-05, -3.0, 0.25, 2.5e30, 0.5)]
    assert found == [compiled] * 3 + [numpy_loops] * 2 + [compiled]
    assert len(warned) == 1
    assert len(ready) == 3
    for _ in range(4):  # the same step again, in another class

        class Again(tg.nn.RecurrentLayer):
            gates, state, step = ("z",), ("h",), Leaky.step

        assert kernels.loops(Again.scan.program(slope=0.5), np, SINGLE) is compiled
    assert chosen("gru") is compiled


@pytest.mark.usefixtures("_anew")
def test_threads_that_come_while_loops_are_built_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def ready(program: Program, dtype: Any) -> None:
        built.append(dtype)
        time.sleep(0.05)

    monkeypatch.setattr(compiled, "ready", ready)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: chosen(), range(4)))
    assert found == [compiled] * 4
    assert len(built) == 1


@pytest.mark.usefixtures("_anew")
def test_an_interrupt_while_loops_are_built_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ready(program: Program, dtype: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compiled, "ready", ready)
        with pytest.raises(KeyboardInterrupt):
            chosen()
    assert chosen() is compiled


def test_an_interrupt_while_llvm_frees_its_text_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is freed explicitly: Python drops exceptions of ``__del__``."""

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(llvm.ModuleRef, "_dispose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machine_code._compiled("")


@pytest.mark.usefixtures("_anew")
def test_a_child_made_while_loops_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that compiles is not in the child, so the child neither waits nor compiles."""
    monkeypatch.setattr(kernels, "_BUILDING", kernels._BUILDING)  # to be put back
    kernels._BUILDING.acquire()
    try:
        held = kernels._BUILDING
        kernels._in_child()
        assert chosen() is numpy_loops
    finally:
        held.release()
