"""The loops over time for NumPy arrays, compiled by LLVM (the extra ``fast``).

:func:`.loops` calls :func:`ready`, which has :mod:`.llvm.machine_code` compile or load a program's loops.
The other functions bring arrays into the layout that the machine code expects and call it, on several
threads where that is worth it. :mod:`.llvm.time_loops` writes the loops themselves, and names the arrays
and numbers that are passed here by position.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import ctypes
import math
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..arrays.namespaces import Array
from .llvm import machine_code, time_loops
from .llvm.matrices import DEEP, LINE
from .llvm.vectors import BITS, Code
from .numpy_loops import crossed as crossed_by_blas
from .powers import exponent_range
from .program import Program
from .runs import Lengths, Run, StepCotangents

THREAD_WORK = 1 << 25
"""Multiplications in all from which another thread is worth its start."""

BLAS_WORK = 1 << 20
"""Multiplications of a product below which BLAS is called: its call costs less, its products cost more."""

THREAD_ROWS = 4 if BITS != 256 else 2
"""The number of a thread's sequences is a multiple of this."""

NEVER = np.array([1 << 62])
"""The length of all sequences where they have all steps."""

INT = np.dtype("int64")

NO_POWER = np.array([0])
"""The power of all rows where they have none."""


def _threads() -> int:
    """As many threads as OpenBLAS would use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(wanted) if wanted.isdecimal() and int(wanted) else there or 1


THREADS = _threads()
"""How many threads large layers use."""


class Loop:
    """A compiled function of a library. It takes arrays and integers, and releases Python's lock."""

    __slots__ = ("_call", "_library", "_pack")

    def __init__(self, library: Any, name: str) -> None:
        self._library = library
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(library[name])
        self._pack: Callable[..., bytes] | None = None

    def __call__(self, arrays: list[Array], numbers: tuple[int, ...]) -> int:
        """Run it."""
        if self._pack is None:
            self._pack = struct.Struct(f"{len(arrays) + len(numbers)}q").pack
        return self._call(self._pack(*map(id, arrays), *numbers))


_LOOPS: dict[Any, dict[str, Loop]] = {}
"""Compiled functions by name: those of a program and type, and those of a type for rows."""


def ready(program: Program, dtype: Any) -> None:
    """Compile or load the loops of a program for a type."""
    probe = np.zeros(1)
    if ctypes.c_void_p.from_address(id(probe) + Code.HEAD).value != probe.ctypes.data:
        raise RuntimeError("NumPy's arrays do not begin with the pointer to their elements")
    if dtype not in _LOOPS:
        write = partial(time_loops.row_module, dtype)
        name = f"recurrent layers for {dtype}"
        _LOOPS[dtype] = _loaded(name, "", write, time_loops.ROW_FUNCTIONS)
    write = partial(time_loops.step_module, program, dtype)
    name = f"{program.name} for {dtype}"
    _LOOPS[program, dtype] = _loaded(name, program.text, write, time_loops.STEP_FUNCTIONS)


def _loaded(
    name: str, made_from: str, write: Callable[[], Any], functions: tuple[str, ...]
) -> dict[str, Loop]:
    library = machine_code.functions(name, made_from, write, functions)
    return {function: Loop(library, function) for function in functions}


def forward(run: Run, x: Array) -> None:
    """Run forward, as :func:`.numpy_loops.forward` does."""
    program, weights, dtype = run.program, run.weights, x.dtype
    (T, B, size), H, G, S = x.shape, run.states.shape[3], len(program.gates), program.sums
    weight_ih, weight_hh, *biases, others = weights
    read = [*run.initial, *others, x, weight_ih, weight_hh]
    read += [np.zeros(G * H, dtype) if bias is None else bias for bias in biases]
    arrays = _contiguous(dtype, *read)
    arrays += [run.saved, run.states, _steps_of(run.lengths)]
    scratch = (H + LINE) * (G * (size + H) + S) + LINE * LINE * G
    numbers = (T, B, size, H, run.lengths.shortest)
    work = T * B * G * H * (H + size)
    _over_batch(_LOOPS[program, dtype]["forward"], arrays, scratch, numbers, B, work)


def backward(
    run: Run,
    g: Array,
    powers: Array | None = None,
    with_states: bool = False,
    span: range | None = None,
    later: StepCotangents | None = None,
) -> StepCotangents:
    """Run backward, as :func:`.numpy_loops.backward` does."""
    program, dtype = run.program, run.states.dtype
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    L, steps, size = math.prod(lead), len(span), len(program.gates) * H
    start = -exponent_range(dtype).middle
    power = np.empty((*lead, B), np.int64)
    if later is None:
        value = np.zeros((parts, *lead, B, H), dtype)
        power.fill(start)
    else:
        value = np.array(later.initial, dtype, order="C")
        power[...] = later.initial_powers
    sums = np.empty((*lead, steps, B, program.columns * H), dtype)
    # without with_states the same step is overwritten again and again
    states = np.empty((parts, *lead, steps if with_states else 1, B, H), dtype)
    step_powers = np.empty((*lead, steps, B), np.int64)
    g_powers = NO_POWER if powers is None else _contiguous(INT, powers)[0]
    read = [*run.initial, *run.weights.others, run.weights.weight_hh, run.saved, run.states, g]
    arrays = _contiguous(dtype, *read)
    arrays += [value, sums, states, _steps_of(run.lengths), g_powers, power, step_powers]
    numbers = (L, T, B, H, span.start, span.stop, states.shape[-3], run.lengths.steps is not None,
               powers is not None)  # fmt: skip
    loop, scratch = _LOOPS[program, dtype]["backward"], (H + LINE) * size + LINE
    moved = _over_batch(loop, arrays, scratch, numbers, B, L * steps * B * size * H)
    all_powers = (step_powers, power) if moved else (start, start)
    return StepCotangents(
        sums, all_powers[0], value, all_powers[1], states if with_states else None
    )


def exponents(m: Any, rows: Array) -> Array:
    """Find the exponents of rows, as :func:`.numpy_loops.exponents` does."""
    found = np.empty(len(rows), np.int64)
    _LOOPS[rows.dtype]["exponents"]([*_contiguous(rows.dtype, rows), found], rows.shape)
    return found


def at_powers(m: Any, rows: Array, exponents: Array, sizes: Array, lift: Any) -> Array:
    """Bring rows to other powers, as :func:`.numpy_loops.at_powers` does."""
    out = np.empty_like(rows, order="C")
    arrays = [*_contiguous(out.dtype, rows), out, *_contiguous(INT, exponents, sizes)]
    _LOOPS[rows.dtype]["at_powers"](arrays, (*rows.shape, int(lift)))
    return out


def crossed(m: Any, a: Array, b: Array) -> Array:
    """Return aᵀ b, as :func:`.numpy_loops.crossed` does; large products on as many threads as the loops."""
    if a.ndim > 2 or a.size * b.shape[1] < BLAS_WORK or a.dtype != b.dtype:
        return crossed_by_blas(m, a, b)
    if b.shape[1] < min(a.shape[1], LINE):  # registers hold columns of b
        return np.ascontiguousarray(crossed(m, b, a).T)
    (R, N), K, dtype = a.shape, b.shape[1], a.dtype
    out = np.zeros((N, K), dtype)
    a, b = (_contiguous_rows(x, dtype) for x in (a, b))
    strides = [x.strides[0] // dtype.itemsize for x in (a, b)]
    scratch = DEEP * (N + K + 3 * LINE)
    loop = _LOOPS[dtype]["crossed"]
    _over_batch(loop, [a, b, out], scratch, (R, K, *strides), N, R * N * K)
    return out


def _contiguous(dtype: Any, *arrays: Array) -> list[Array]:
    """Arrays of the type, contiguous and aligned."""
    return [
        a if a.dtype is dtype and a.flags.carray else np.require(a, dtype, ("C", "A", "W"))
        for a in arrays
    ]


def _contiguous_rows(a: Array, dtype: Any) -> Array:
    """A matrix with contiguous rows, which may be parts of longer ones."""
    is_fit = a.dtype is dtype and a.flags.aligned and a.strides[1] == dtype.itemsize
    return a if is_fit and a.strides[0] % dtype.itemsize == 0 else np.ascontiguousarray(a, dtype)


def _steps_of(lengths: Lengths) -> Array:
    return NEVER if lengths.steps is None else _contiguous(INT, lengths.steps)[0]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="tinygrad182")


if hasattr(os, "register_at_fork"):  # a child process has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _begun(run: Callable[[], int]) -> Callable[[], int]:
    """Start a run on another thread, and return what waits for it; without threads, the run itself."""
    try:
        return _pool().submit(run).result
    except RuntimeError:  # while Python shuts down
        return run


def _over_batch(
    loop: Loop, arrays: list[Array], scratch: int, numbers: tuple[int, ...], B: int, work: int
) -> int:
    """Run a loop; with enough ``work``, in multiplications, the B sequences are split over threads.

    Each thread gets ``scratch`` elements of memory for packed weights. Return the largest result.
    """
    dtype = arrays[0].dtype
    threads = 1 + work // THREAD_WORK
    if threads == 1 or THREADS == 1:
        return loop([*arrays, np.empty(scratch, dtype)], (*numbers, 0, B))
    threads = min(threads, THREADS, B)
    whole = THREAD_ROWS if threads * THREAD_ROWS <= B else 1
    cuts = [min(B, -(-B * i // (threads * whole)) * whole) for i in range(threads + 1)]
    mine, *others = (
        partial(loop, [*arrays, np.empty(scratch, dtype)], (*numbers, *cut))
        for cut in pairwise(cuts)
    )
    waiting = [_begun(run) for run in others]
    return max([mine(), *(wait() for wait in waiting)])
