"""The loops over time for NumPy arrays, compiled by LLVM (extra ``fast``)."""

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

from ..backend import Array
from .llvm import machine_code, time_loops
from .llvm.matrices import DEEP, LINE
from .llvm.vectors import BITS, Code
from .numpy_loops import Deltas, Ends
from .numpy_loops import crossed as crossed_by_blas
from .powers import held
from .program import Program, Run

EACH = 1 << 25
"""Multiplications in all from which another thread is worth its start."""

SMALL = 1 << 20
"""Multiplications in a product for which BLAS is called: its call costs less, each of them more."""

ROWS = 4 if BITS != 256 else 2
"""A thread has whole groups of so many sequences."""

NEVER = np.array([1 << 62])
"""The length of sequences that have all steps."""

INT = np.dtype("int64")

NO_POWER = np.array([0])
"""The power of all rows."""


def _threads() -> int:
    """As many threads as OpenBLAS would use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(wanted) if wanted.isdecimal() and int(wanted) else there or 1


THREADS = _threads()
"""How many threads large layers use."""


class Loop:
    """A compiled function, called with arrays and integers, without the lock of Python.

    Parameters
    ----------
    library : object
        What keeps the machine code in memory, with the addresses of functions.
    name : str
    """

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


_RUNS: dict[Any, tuple[Loop, ...]] = {}
"""What was compiled: of a program and a type forward and backward, of a type the loops over rows."""


def ready(program: Program, dtype: Any) -> None:
    """Have the loops of a program compiled for a type, or loaded."""
    probe = np.zeros(1)
    if ctypes.c_void_p.from_address(id(probe) + Code.HEAD).value != probe.ctypes.data:
        raise RuntimeError("NumPy's arrays do not begin with the pointer to their elements")
    if dtype not in _RUNS:
        _RUNS[dtype] = _loaded(
            f"recurrent layers for {dtype}", "", partial(time_loops.rows, dtype), *time_loops.ROWS
        )
    name, write = f"{program.name} for {dtype}", partial(time_loops.steps, program, dtype)
    _RUNS[program, dtype] = _loaded(name, program.text, write, *time_loops.STEPS)


def _loaded(name: str, made_from: str, write: Callable[[], Any], *names: str) -> Any:
    library = machine_code.functions(name, made_from, write, names)
    return tuple(Loop(library, name) for name in names)


def forward(run: Run, x: Array) -> None:
    """Do what :func:`.numpy_loops.forward` does."""
    program, _, weights, initial, saved, states, ends = run
    dtype = x.dtype
    (T, B, size), H, G, S = x.shape, states.shape[3], len(program.gates), program.sums
    weight_ih, weight_hh, *biases, others = weights
    given = [*initial, *others, x, weight_ih, weight_hh]
    given += [np.zeros(G * H, dtype) if bias is None else bias for bias in biases]
    arrays = _plain(dtype, *given)
    arrays += [saved, states, _lengths(ends)]
    scratch = (H + LINE) * (G * (size + H) + S) + LINE * LINE * G
    numbers = (T, B, size, H, ends.shortest)
    _over_batch(_RUNS[program, dtype][0], arrays, scratch, numbers, B, T * B * G * H * (H + size))


def backward(
    run: Run,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
) -> Deltas:
    """Do what :func:`.numpy_loops.backward` does."""
    program, _, weights, initial, saved, states, ends = run
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    dtype, steps, N = states.dtype, len(span), program.columns * H
    L = math.prod(lead)
    sums = np.empty((*lead, steps, B, N), dtype)
    every = np.empty((*lead, steps, B), np.int64)
    kept = np.empty((parts, *lead, steps if keep else 1, B, H), dtype)
    start = -held(dtype).middle
    power = np.empty((*lead, B), np.int64)
    if later is None:
        value = np.zeros((parts, *lead, B, H), dtype)
        power.fill(start)
    else:
        value = np.array(later.initial, dtype, order="C")
        power[...] = later.initial_powers
    given = NO_POWER if powers is None else _plain(INT, powers)[0]
    arrays = _plain(dtype, *initial, *weights.others, weights.weight_hh, saved, states, g)
    arrays += [value, sums, kept, _lengths(ends), given, power, every]
    numbers = (L, T, B, H, span.start, span.stop, kept.shape[-3], ends.lengths is not None,
               powers is not None)  # fmt: skip
    size = len(program.gates) * H
    scratch = (H + LINE) * size + LINE
    loop = _RUNS[program, dtype][1]
    moved = _over_batch(loop, arrays, scratch, numbers, B, L * steps * B * size * H)
    return Deltas(
        sums,
        every if moved else start,
        value,
        power if moved else start,
        kept if keep else None,
    )


def exponents(m: Any, rows: Array) -> Array:
    """Do what :func:`.numpy_loops.exponents` does."""
    found = np.empty(len(rows), np.int64)
    _RUNS[rows.dtype][0]([*_plain(rows.dtype, rows), found], rows.shape)
    return found


def at_powers(m: Any, rows: Array, exponents: Array, sizes: Array, lift: Any) -> Array:
    """Do what :func:`.numpy_loops.at_powers` does."""
    out = np.empty_like(rows, order="C")
    arrays = [*_plain(out.dtype, rows), out, *_plain(INT, exponents, sizes)]
    _RUNS[rows.dtype][1](arrays, (*rows.shape, int(lift)))
    return out


def crossed(m: Any, a: Array, b: Array) -> Array:
    """Do what :func:`.numpy_loops.crossed` does: large products on as many threads as the loops."""
    if a.ndim > 2 or a.size * b.shape[1] < SMALL or a.dtype != b.dtype:
        return crossed_by_blas(m, a, b)
    if b.shape[1] < min(a.shape[1], LINE):  # registers hold columns of b
        return np.ascontiguousarray(crossed(m, b, a).T)
    (R, N), K, dtype = a.shape, b.shape[1], a.dtype
    out = np.zeros((N, K), dtype)
    a, b = (_rows(x, dtype) for x in (a, b))
    apart = [x.strides[0] // dtype.itemsize for x in (a, b)]
    scratch = DEEP * (N + K + 3 * LINE)
    _over_batch(_RUNS[dtype][2], [a, b, out], scratch, (R, K, *apart), N, R * N * K)
    return out


def _rows(a: Array, dtype: Any) -> Array:
    """A matrix whose rows are contiguous, which may be part of longer ones."""
    fits = a.dtype is dtype and a.flags.aligned and a.strides[1] == dtype.itemsize
    return a if fits and a.strides[0] % dtype.itemsize == 0 else np.ascontiguousarray(a, dtype)


def _lengths(ends: Ends) -> Array:
    return NEVER if ends.lengths is None else _plain(INT, ends.lengths)[0]


def _plain(dtype: Any, *arrays: Array) -> list[Array]:
    """Arrays as the loops take them: contiguous, aligned."""
    return [
        a if a.dtype is dtype and a.flags.carray else np.require(a, dtype, ("C", "A", "W"))
        for a in arrays
    ]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="tinygrad182")


if hasattr(os, "register_at_fork"):  # a child has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _begun(run: Callable[[], int]) -> Callable[[], int]:
    """What waits for a run on another thread; where there can be none any more, the run itself."""
    try:
        return _pool().submit(run).result
    except RuntimeError:  # while Python shuts down
        return run


def _over_batch(
    loop: Loop, arrays: list[Array], scratch: int, numbers: tuple[int, ...], B: int, size: int
) -> int:
    """Run, the sequences split over threads where there are enough multiplications (``size``).

    ``scratch`` is how many elements packed weights have at most, which begin at a line of the cache.
    """
    dtype = arrays[0].dtype
    threads = 1 + size // EACH
    if threads == 1 or THREADS == 1:
        return loop([*arrays, np.empty(scratch, dtype)], (*numbers, 0, B))
    threads = min(threads, THREADS, B)
    whole = ROWS if threads * ROWS <= B else 1
    cuts = [min(B, -(-B * i // (threads * whole)) * whole) for i in range(threads + 1)]
    mine, *others = (
        partial(loop, [*arrays, np.empty(scratch, dtype)], (*numbers, *cut))
        for cut in pairwise(cuts)
    )
    waiting = [_begun(run) for run in others]
    return max([mine(), *(wait() for wait in waiting)])
