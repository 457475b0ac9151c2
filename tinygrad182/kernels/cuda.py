"""The loops over time on a CUDA device: a step is one matrix product and one kernel.

:func:`.loops` returns this module for CuPy's arrays; the kernels are printed from the program by
:mod:`.cuda_c`. To launch a kernel takes longer than the arithmetic of a step, so there is only one: it also
adds biases, keeps the state of sequences that have ended, and carries the powers of two of cotangents. The
host never waits. A program that is not :func:`.cuda_c.printable` runs by its definition, step by step.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import Array
from . import cuda_c
from .numpy_loops import at_powers, crossed, exponents
from .powers import times_rows
from .program import Program
from .runs import Run, StepCotangents

__all__ = ["at_powers", "backward", "crossed", "exponents", "forward"]

THREADS = 256
"""Threads of a block at most. Each may then use as many registers as a thread can have. With more hidden
units than this, a thread computes several."""

INT = "int64"

NULL = np.uint64(0)
"""The address of a missing array. For None, CuPy would pass no value to the driver at all."""


def forward(run: Run, x: Array) -> None:
    """Run forward, as :func:`.numpy_loops.forward` does."""
    m, weights, states, saved = run.m, run.weights, run.states, run.saved
    dtype = states.dtype
    kernel = kernels(m, run.program, str(dtype)).forward
    T, B, size = x.shape
    N, H = weights.weight_hh.shape
    # z may share the memory of what is saved: a thread reads its part of z before it saves there
    z = saved if saved.shape[-1] == N else m.empty((T, B, N), dtype)
    m.matmul(x.reshape(T * B, size), weights.weight_ih.T, out=z.reshape(T * B, N))
    h, transposed, product = run.initial[0], weights.weight_hh.T, m.empty((B, N), dtype)
    biases = [_contiguous(m, bias, dtype) for bias in (weights.bias_ih, weights.bias_hh)]
    others, lengths = _others_and_lengths(run)
    operands = z, product, *biases, others, m.stack(run.initial), lengths, states, saved
    for t in range(T):
        m.matmul(h, transposed, out=product)
        _launch(kernel, B, H, t, T, B, H, *operands)
        h = states[0, t]


def backward(
    run: Run,
    g: Array,
    powers: Array | None = None,
    with_states: bool = False,
    span: range | None = None,
    later: StepCotangents | None = None,
) -> StepCotangents:
    """Run backward, as :func:`.numpy_loops.backward` does.

    Rows always have powers of two on their way. Without ``with_states`` and ``powers``, that is in a plain
    backward pass, the results come with the powers applied.
    """
    m, weights, dtype = run.m, run.weights, run.states.dtype
    kernel = kernels(m, run.program, str(dtype)).backward
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    here, steps, rows = slice(span.start, span.stop), (*lead, len(span), B), math.prod(lead) * B
    keep_powers = with_states or powers is not None
    arriving = _contiguous(m, g[..., here, :, :], dtype)
    g_powers = None if powers is None else _contiguous(m, powers[..., here, :], INT)
    others, lengths = _others_and_lengths(run)
    saved, states = (_contiguous(m, array, dtype) for array in (run.saved, run.states))
    value, power = _start(m, later, (parts, *lead, B, H), dtype)
    sums = m.empty((*steps, run.program.columns * H), dtype)
    step_powers = m.empty(steps, INT) if keep_powers else None
    whole_grads = m.empty((parts, *steps, H), dtype) if with_states else None
    sums_by_h, product = (m.empty((rows, n), dtype) for n in weights.weight_hh.shape)
    read = saved, m.stack(run.initial), states, others, lengths, arriving, g_powers
    written = value, power, sums, step_powers, whole_grads, sums_by_h
    from_later = None  # the product of W_h with the sums of the step after
    for t in reversed(span):
        at = t, T, B, H, span.start, len(span)
        _launch(kernel, rows, H, *at, *read, *written, from_later)
        from_later = m.matmul(sums_by_h, weights.weight_hh, out=product)
    value[0] += product.reshape(value.shape[1:])
    if step_powers is None:
        return StepCotangents(sums, 0, times_rows(m, value, power), 0, None)
    return StepCotangents(sums, step_powers, value, power, whole_grads)


def _start(
    m: Any, later: StepCotangents | None, shape: tuple[int, ...], dtype: Any
) -> tuple[Array, Array]:
    """The cotangents that come from the steps after, and their powers: arrays to be overwritten."""
    power = m.zeros(shape[1:-1], INT)
    if later is None:
        return m.zeros(shape, dtype), power
    return later.initial.astype(dtype), power + later.initial_powers


def _launch(kernel: Any, rows: int, units: int, *operands: Any) -> None:
    """Launch a kernel with a block of threads for each row."""
    if rows:
        threads = min(THREADS, -(-max(units, 1) // 32) * 32)
        kernel((rows,), (threads,), tuple(NULL if a is None else a for a in operands))


def _others_and_lengths(run: Run) -> tuple[Array | None, Array | None]:
    others = run.weights.others
    return run.m.concatenate(others) if others else None, _contiguous(run.m, run.lengths.steps, INT)


def _contiguous(m: Any, array: Array | None, dtype: Any) -> Array | None:
    """An array as a kernel reads it, from its first element on."""
    return None if array is None else m.ascontiguousarray(array, dtype)


class Kernels(NamedTuple):
    """The kernels of a program: one step forward, and one step back."""

    forward: Any
    backward: Any


@cache
def kernels(m: Any, program: Program, dtype: str) -> Kernels:
    """The kernels of a program. CuPy compiles each when it is first launched."""
    cell = re.sub(r"\W", "_", program.name.removesuffix("_scan"))
    names = f"tinygrad182_{cell}_forward", f"tinygrad182_{cell}_backward"
    texts = cuda_c.forward(program, names[0], dtype), cuda_c.backward(program, names[1], dtype)
    return Kernels(*map(m.RawKernel, texts, names))
