"""The loops over time on a CUDA device: a step is one product, and one kernel printed from the program.

A launch takes longer than the arithmetic of a step. So nothing is left for other kernels: the one
(:mod:`.cuda_c`) also adds biases, lets states be where a sequence is over, and carries the powers of two of
cotangents. The host never waits. What is not :func:`.cuda_c.printable`
runs by its definition.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from . import cuda_c
from .numpy_loops import Deltas, at_powers, crossed, exponents
from .powers import times_rows
from .program import Program, Run

__all__ = ["at_powers", "backward", "crossed", "exponents", "forward"]

THREADS = 256
"""Threads of a block at most, each of which may then have all the registers that a thread can have. Where
there are more hidden units, each has several."""

WHOLE = "int64"

NOWHERE = np.uint64(0)
"""The address of an array that there is not. For None CuPy would give the driver no value at all."""


def forward(run: Run, x: Array) -> None:
    """Do what :func:`.numpy_loops.forward` does."""
    program, m, weights, initial, saved, states, ends = run
    dtype = states.dtype
    kernel = kernels(m, program, str(dtype)).forward
    T, B, size = x.shape
    N, H = weights.weight_hh.shape
    # what is projected may lie where a thread then puts what it saves: it has read it by then
    z = saved if saved.shape[-1] == N else m.empty((T, B, N), dtype)
    m.matmul(x.reshape(T * B, size), weights.weight_ih.T, out=z.reshape(T * B, N))
    h, across, product = initial[0], weights.weight_hh.T, m.empty((B, N), dtype)
    biases = [_dense(m, bias, dtype) for bias in (weights.bias_ih, weights.bias_hh)]
    others, lengths = _joined(m, weights.others), _dense(m, ends.lengths, WHOLE)
    given = z, product, *biases, others, m.stack(initial), lengths, states, saved
    for t in range(T):
        m.matmul(h, across, out=product)
        _launch(kernel, B, H, t, T, B, H, *given)
        h = states[0, t]


def backward(
    run: Run,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
) -> Deltas:
    """Do what :func:`.numpy_loops.backward` does.

    Rows are always carried at powers of two. Where nobody looks at states, that is without ``keep`` and
    ``powers``, what is found is handed out in its type at once, at the power 0.
    """
    program, m, weights, initial, saved, states, ends = run
    dtype = states.dtype
    kernel = kernels(m, program, str(dtype)).backward
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    here, steps, rows = slice(span.start, span.stop), (*lead, len(span), B), math.prod(lead) * B
    looking = keep or powers is not None
    arriving = _dense(m, g[..., here, :, :], dtype)
    their_powers = None if powers is None else _dense(m, powers[..., here, :], WHOLE)
    others, lengths = _joined(m, weights.others), _dense(m, ends.lengths, WHOLE)
    read = _dense(m, saved, dtype), m.stack(initial), _dense(m, states, dtype), others, lengths
    value, power = _start(m, later, (parts, *lead, B, H), dtype)
    sums = m.empty((*steps, program.columns * H), dtype)
    found = m.empty(steps, WHOLE) if looking else None
    kept = m.empty((parts, *steps, H), dtype) if keep else None
    across, product = (m.empty((rows, n), dtype) for n in weights.weight_hh.shape)
    arrived = None  # the product with the sums of the step after
    written = value, power, sums, found, kept, across
    for t in reversed(span):
        at = t, T, B, H, span.start, len(span)
        _launch(kernel, rows, H, *at, *read, arriving, their_powers, *written, arrived)
        arrived = m.matmul(across, weights.weight_hh, out=product)
    value[0] += product.reshape(value.shape[1:])
    if found is None:
        return Deltas(sums, 0, times_rows(m, value, power), 0, None)
    return Deltas(sums, found, value, power, kept)


def _start(m: Any, later: Deltas | None, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """What arrives from the steps after, and the powers of its rows: arrays to be written over."""
    power = m.zeros(shape[1:-1], WHOLE)
    if later is None:
        return m.zeros(shape, dtype), power
    return later.initial.astype(dtype), power + later.initial_powers


def _launch(kernel: Any, rows: int, units: int, *operands: Any) -> None:
    """Start a kernel with a block for each row."""
    if rows:
        threads = min(THREADS, -(-max(units, 1) // 32) * 32)
        kernel((rows,), (threads,), tuple(NOWHERE if a is None else a for a in operands))


def _joined(m: Any, vectors: tuple[Array, ...]) -> Array | None:
    return m.concatenate(vectors) if vectors else None


def _dense(m: Any, array: Array | None, dtype: Any) -> Array | None:
    """An array as a kernel reads it, from its first element on."""
    return None if array is None else m.ascontiguousarray(array, dtype)


class Kernels(NamedTuple):
    """A step forwards and back."""

    forward: Any
    backward: Any


@cache
def kernels(m: Any, program: Program, dtype: str) -> Kernels:
    """The kernels of a program; CuPy compiles each when it is first launched."""
    cell = re.sub(r"\W", "_", program.name.removesuffix("_scan"))
    names = f"tinygrad182_{cell}_forward", f"tinygrad182_{cell}_backward"
    texts = cuda_c.forward(program, names[0], dtype), cuda_c.backward(program, names[1], dtype)
    return Kernels(*map(m.RawKernel, texts, names))
