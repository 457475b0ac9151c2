"""The loops over time for NumPy arrays, compiled by Numba (extra ``fast``)."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numba.core import event

from ..backend import Array
from . import rows
from .arrays import Deltas, Ends
from .cells import Vanilla
from .powers import held, largest_exponent, power, smallest
from .tiles import IDENTITY, LSTM, RELU, ROWS, TANH

EACH = 1 << 25
"""Multiplications in all from which another thread is worth its start."""


NONE = {n: np.empty((0,) * n, np.int64) for n in (1, 3)}
"""Lengths, or powers, that are not given, by their number of axes."""

KINDS = {"tanh": TANH, "relu": RELU, "identity": IDENTITY}


class _Teller(event.Listener):  # type: ignore[misc, unused-ignore]
    """Say that the loops are being compiled before it begins, and say nothing where they are loaded."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.since = dtype, math.nan

    def on_start(self, event: Any) -> None:
        if math.isnan(self.since) and event.data["dispatcher"] in (rows.forward, rows.backward):
            self.since = time.perf_counter()
            where = "kept for later runs" if rows.KEPT else "kept nowhere: no folder for that"
            self.say(f"compiling the loops of recurrent layers for {self.dtype} ({where}) ...")

    def on_end(self, event: Any) -> None:
        pass

    def say(self, what: str) -> None:
        # a program without a terminal has no stderr, or one that nobody reads any more
        with contextlib.suppress(OSError):
            print(f"tinygrad182: {what}", file=sys.stderr or io.StringIO(), flush=True)


def ready(dtype: Any) -> None:
    """Have the loops compiled for a type, or loaded."""
    one, powers = np.ones((1, 1, 1), dtype), np.zeros((1, 1, 1), np.int64)
    fixed = (one[0], one[0], one[0], one[None], NONE[1])
    first = (one[0], one[0], one[0], one[0], one[0, 0], NONE[1])
    carry, out = (one[None], powers[0]), (one[None], powers, one[None, None])
    g = one[None, None]
    teller = _Teller(dtype)
    with event.install_listener("numba:compile", teller):
        rows.forward(TANH, one, one, one[None], first, (0, 0))
        rows.backward(TANH, one, fixed, g, NONE[3], carry, _scales(dtype), out, (0,) * 4)
        at_powers(np, one[0], exponents(np, one[0]), powers[0, 0], 0)
    if not math.isnan(teller.since):
        teller.say(f"compiled in {time.perf_counter() - teller.since:.0f} s")


def forward(
    cell: Any,
    x: Array,
    initial: list[Array],
    weights: tuple[Array, Array, Any],
    gates: Array,
    states: Array,
    ends: Ends,
) -> None:
    """Do what :func:`.arrays.forward` does."""
    dtype = x.dtype
    weight_ih, weight_hh, bias = weights
    (T, B, inputs), (N, H) = x.shape, weight_hh.shape
    h, c = (_plain(initial[i], dtype) for i in (0, -1))
    bias = np.zeros(N, dtype) if bias is None else _plain(bias, dtype)
    fixed = (h, c, _plain(weight_ih, dtype), _plain(weight_hh, dtype), bias, _lengths(ends))
    operands = (_kind(cell), _plain(x, dtype), gates, states, fixed)
    _over_batch(rows.forward, operands, (), B, T * B * N * (H + inputs))


def backward(
    cell: Any,
    gates: Array,
    initial: list[Array],
    weight: Array,
    states: Array,
    ends: Ends,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
) -> Deltas:
    """Do what :func:`.arrays.backward` does."""
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    dtype, steps, N = gates.dtype, len(span), gates.shape[2]
    L = math.prod(lead)
    g = _plain(g, dtype).reshape(parts, L, T, B, H)
    sums = np.empty((L, steps, B, N), dtype)
    every = np.empty((L, steps, B), np.int64)
    kept = np.empty((parts, L, steps if keep else 1, B, H), dtype)
    start = -held(dtype).middle
    value, power = np.zeros((parts, L, B, H), dtype), np.empty((L, B), np.int64)
    power.fill(start)
    if later is not None:
        value[...] = later.initial.reshape(value.shape)
        powers_before = later.initial_powers
        power[...] = (
            powers_before if isinstance(powers_before, int) else powers_before.reshape(L, B)
        )
    given = NONE[3] if powers is None else _plain(powers, np.int64).reshape(L, T, B)
    h, c = (_plain(initial[i], dtype) for i in (0, -1))
    fixed = (h, c, _plain(weight, dtype), _plain(states, dtype), _lengths(ends))
    carry, out = (value, power), (sums, every, kept)
    operands = (_kind(cell), gates, fixed, g, given, carry, _scales(dtype), out)
    moved = _over_batch(rows.backward, operands, (span.start, span.stop), B, sums.size * H)
    return Deltas(
        sums.reshape(*lead, steps, B, N),
        every.reshape(*lead, steps, B) if moved else start,
        value.reshape(parts, *lead, B, H),
        power.reshape(*lead, B) if moved else start,
        kept.reshape(parts, *lead, steps, B, H) if keep else None,
    )


def exponents(m: Any, rows_: Array) -> Array:
    """Do what :func:`.arrays.exponents` does."""
    found = np.empty(len(rows_), np.int64)
    rows.exponents(_plain(rows_, rows_.dtype), found)
    return found


def at_powers(m: Any, rows_: Array, exponents: Array, sizes: Array, lift: Any) -> Array:
    """Do what :func:`.arrays.at_powers` does."""
    out = np.empty_like(rows_, order="C")
    limit = largest_exponent(out.dtype) - 2
    exponents, sizes = (_plain(p, np.int64) for p in (exponents, sizes))
    rows.at_powers(_plain(rows_, out.dtype), exponents, sizes, int(lift), limit, out)
    return out


def _kind(cell: Any) -> int:
    return KINDS[cell.nonlinearity] if isinstance(cell, Vanilla) else LSTM


def _lengths(ends: Ends) -> Array:
    return NONE[1] if ends.lengths is None else _plain(ends.lengths, np.int64)


def _plain(a: Array, dtype: Any) -> Array:
    """An array as the loops are compiled for: contiguous, aligned, not read-only."""
    if a.dtype == dtype and a.flags.carray:
        return a
    return np.require(a, dtype, ("C", "A", "W"))


@cache
def _scales(dtype: Any) -> tuple[int, Any, Array]:
    """See :func:`.rows.backward`."""
    low, middle, high = held(dtype)
    sizes = np.array([power(dtype, low), power(dtype, high), np.inf], dtype)
    return middle, smallest(dtype), sizes.view(np.int32 if dtype == np.float32 else np.int64)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="tinygrad182")


if hasattr(os, "register_at_fork"):  # a child has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _begun(run: Callable[[], bool]) -> Callable[[], bool]:
    """What waits for a run on another thread; where there can be none any more, the run itself."""
    try:
        return _pool().submit(run).result
    except RuntimeError:  # while Python shuts down
        return run


def _over_batch(
    loop: Any, operands: tuple[Any, ...], steps: tuple[int, ...], B: int, size: int
) -> bool:
    """Run, the sequences split over threads where there are enough multiplications (``size``)."""
    threads = 1 + size // EACH
    threads = 1 if threads == 1 else min(threads, numba.get_num_threads(), B)
    whole = ROWS if threads * ROWS <= B else 1
    cuts = [min(B, -(-B * i // (threads * whole)) * whole) for i in range(threads + 1)]
    runs = [(*operands, (first, last, *steps)) for first, last in pairwise(cuts)]
    if threads == 1:
        return bool(loop(*runs[0]))
    mine, *others = (partial(loop, *run) for run in runs)
    waiting = [_begun(run) for run in others]
    results = [mine(), *(wait() for wait in waiting)]
    return any(results)
