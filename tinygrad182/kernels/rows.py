"""The loops over time for Numba; imported only where that is there.

Of the arrays only pointers are used inside: a step of some sequences is one of :mod:`.tiles`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numba import njit

from ..backend import Array
from .powers import NOTHING
from .tiles import (
    LSTM,
    added,
    back_lstm,
    back_product,
    back_vanilla,
    forward_lstm,
    forward_vanilla,
    largest,
    pack,
    pointer,
    scaled,
    times,
)
from .vectors import BITS

F = TypeVar("F", bound=Callable[..., Any])
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

_FILES = [Path(__file__).with_name(name) for name in ("rows.py", "tiles.py", "vectors.py")]
_SOURCES = hashlib.sha256(b"".join(p.read_bytes() for p in _FILES if p.is_file())).hexdigest()[:8]


def compiled(function: F) -> F:
    """Compile when first called."""
    return njit(function, **OPTIONS)


KEPT: list[str] = []
"""The functions whose machine code later processes find."""


def kept(function: F) -> F:
    """Keep the machine code for later processes too, where that can be.

    Numba looks at one file to know whether it is out of date; the name tells about all.
    """
    function.__qualname__ += f"_{_SOURCES}"
    try:
        found = njit(function, cache=True, **OPTIONS)
    except RuntimeError:  # no folder that can be written to
        return compiled(function)
    KEPT.append(function.__qualname__)
    return found


@compiled
def packed(weight: Array) -> Array:
    """A weight (K, n) as the tiles go over it: panels of columns, whose rows are contiguous.

    Each has as many columns as :data:`.tiles.WIDE` registers, while there are so many, or as one.
    """
    K, n = weight.shape
    out = np.empty(K * (n + BITS // (8 * weight.itemsize)), weight.dtype)
    pack((pointer(weight), 0, pointer(out), 0, K, n))
    return out


@compiled
def packed_across(weight: Array, blocks: int) -> Array:
    """A weight (blocks · n, K), as (K, blocks · n); of several blocks, a panel has columns of each."""
    if blocks == 1:
        return packed(np.ascontiguousarray(weight.T))
    count = BITS // (8 * weight.itemsize)
    n, K = weight.shape[0] // blocks, weight.shape[1]
    out, flat = np.zeros(K * blocks * (n + count), weight.dtype), weight.ravel()
    for j in range(0, n, count):
        for q in range(blocks):
            start, first = (j * K * blocks) + q * count, (q * n + j) * K
            for k in range(K):
                for i in range(min(count, n - j)):
                    out[start + k * count * blocks + i] = flat[first + i * K + k]
    return out


# --- forward --------------------------------------------------------------------------------------


@kept
def forward(kind: int, x: Array, gates: Array, states: Array, fixed: Any, where: Any) -> None:
    """All steps of some sequences.

    ``fixed`` are the initial h and c (of a vanilla cell h again), both weights and the bias, and the
    lengths, none if all go to the end; ``where`` are the first and last sequence.
    """
    h_0, c_0, weight_ih, weight_hh, bias, lengths = fixed
    blocks = gates.shape[2] // states.shape[3]
    across = packed_across(weight_ih, blocks), packed_across(weight_hh, blocks)
    _forward(kind, x, gates, states, (h_0, c_0, *across, bias, lengths), where)


@compiled
def _forward(kind: int, x: Array, gates: Array, states: Array, fixed: Any, where: Any) -> None:
    """Go forward with packed weights, which live as long as pointers to them are used."""
    h_0, c_0, weight_ih, weight_hh, bias, lengths = fixed
    first, last = where
    _, T, B, n = states.shape
    inputs, N, rows, part = x.shape[2], gates.shape[2], last - first, T * B * n
    p_x, p_z, p_states = pointer(x), pointer(gates), pointer(states)
    p_ih, p_hh, p_bias = pointer(weight_ih), pointer(weight_hh), pointer(bias)
    p_h, p_c, h, c = pointer(h_0), pointer(c_0), first * n, first * n
    for t in range(T):
        if t > 0:
            p_h = p_c = p_states
            h = ((t - 1) * B + first) * n
            c = part + h
        i = t * B + first
        given = (p_x, i * inputs, inputs, p_ih, 0, p_h, h, p_hh, 0, p_bias, 0)
        if kind == LSTM:
            to = (p_z, i * N, p_c, c, p_states, i * n, p_states, part + i * n)
            forward_lstm((n, rows, *to, *given))
        else:
            forward_vanilla((n, rows, kind, p_states, i * n, *given))
        if len(lengths):
            for b in range(first, last):
                if t >= lengths[b]:
                    _stay(h_0, c_0, states, t, b)


@compiled
def _stay(h_0: Array, c_0: Array, states: Array, t: int, b: int) -> None:
    """Let a state be as the one before."""
    for k in range(len(states)):
        for j in range(states.shape[3]):
            first = c_0[b, j] if k else h_0[b, j]
            states[k, t, b, j] = states[k, t - 1, b, j] if t else first


# --- powers of two --------------------------------------------------------------------------------


@compiled
def _two_to(power: int, like: Array, limit: int) -> Any:
    """2**power; 0 where next to what has the power 0 it would not show."""
    return like.dtype.type(0.0 if power < -limit else math.ldexp(1.0, int(np.int32(power))))


@compiled
def _exponent(bits: int, like: Array, middle: int, limit: int) -> int:
    """Which power of two a size is about, by its bits; if it is not finite, such that its row stays."""
    mantissa, top = (23, 0xFF) if like.itemsize == 4 else (52, 0x7FF)
    power = bits >> mantissa
    return max(-limit, min(limit, power - top // 2 + 1)) if power < top else middle


@compiled
def _met(value: Any, power: int, g: Any, given: int, middle: int, limit: int) -> Any:
    """At which power two rows at others are added, and the factors that bring both there.

    The rows are given as :func:`.tiles.largest` takes them, with the array before. Each is brought to about
    1 first; the larger one is then at ``middle``.
    """
    like, ours, theirs = value[0], largest(value[1]), largest(g[1])
    zero, one = like.dtype.type(0.0), like.dtype.type(1.0)
    if theirs == 0:
        return power, (one, one, zero, zero)
    a, b = _exponent(ours, like, middle, limit), _exponent(theirs, like, middle, limit)
    to = given + b - middle
    if ours == 0:
        return to, (zero, zero, _two_to(-b, like, limit), _two_to(middle, like, limit))
    to = max(to, power + a - middle)
    return to, (
        _two_to(-a, like, limit),
        _two_to(power + a - to, like, limit),
        _two_to(-b, like, limit),
        _two_to(given + b - to, like, limit),
    )


@compiled
def _rescale(at: Any, held: Array, top: int, middle: int, tiny: Any, limit: int) -> int:
    """Bring a row of ``held`` to where its largest element is kept; by which power of two."""
    exponent = max(-limit, min(limit, _exponent(top, held, middle, limit) - middle))
    pointer, row, part, parts, n = at
    scaled((pointer, row, part, parts, n, _two_to(-exponent, held, limit), tiny))
    return exponent


@kept
def exponents(rows: Array, found: Array) -> None:
    """Do what :func:`.arrays.exponents` does, into ``found``."""
    R, n = rows.shape
    mantissa, half = (23, 126) if rows.itemsize == 4 else (52, 1022)
    for r in range(R):
        bits = largest((pointer(rows), r * n, 0, 1, n))
        found[r] = (bits >> mantissa) - half if bits else NOTHING


@kept
def at_powers(
    rows: Array, exponents: Array, sizes: Array, lift: int, limit: int, out: Array
) -> None:
    """Do what :func:`.arrays.at_powers` does, into ``out``."""
    R, n = rows.shape
    for r in range(R):
        factor = _two_to(-exponents[r], rows, limit)
        other = _two_to(sizes[r] + lift, rows, limit)
        lowest = _two_to(exponents[r] - limit - sizes[r], rows, limit)
        times((pointer(rows), r * n, pointer(out), r * n, n, factor, other, lowest))


# --- backward -------------------------------------------------------------------------------------


@kept
def backward(
    kind: int,
    gates: Array,
    fixed: Any,
    g: Array,
    given: Array,
    carry: Any,
    scales: Any,
    out: Any,
    where: Any,
) -> bool:
    """Some steps back of some sequences; whether any power has changed.

    ``fixed`` are the initial h and c, the weight, the states and the lengths; ``where`` the first
    and last sequence, and the steps, which ``out`` is of.

    ``g`` (parts, L, T, B, H) are at the powers ``given``; ``carry`` are what comes from later steps,
    (parts, L, B, H), and its powers; ``scales`` are :func:`.powers.held`'s middle, the smallest normal
    number, and the bits of the least and the most that a row's largest may be and of infinity; ``out`` are
    the cotangents of the sums, the powers, and those of the states: of one step, which is written over,
    where they are not wanted.
    """
    h_0, c_0, weight, states, lengths = fixed
    by_rows = (h_0, c_0, packed(weight), states, lengths)
    return _backward(kind, gates, by_rows, g, given, carry, scales, out, where)


@compiled
def _backward(
    kind: int,
    gates: Array,
    fixed: Any,
    g: Array,
    given: Array,
    carry: Any,
    scales: Any,
    out: Any,
    where: Any,
) -> bool:
    """Go back with a packed weight, which lives as long as a pointer to it is used."""
    _, c_0, weight, states, lengths = fixed
    first, last, start, stop = where
    (value, power), (middle, tiny, bits), (sums, every, held) = carry, scales, out
    parts, L, B, n = value.shape
    T, (N, span, keep) = g.shape[2], (sums.shape[3], sums.shape[1], held.shape[2])
    p_z, p_g, p_states = pointer(gates), pointer(g), pointer(states)
    p_sums, p_value, p_held = pointer(sums), pointer(value), pointer(held)
    part, part_g, part_held = L * B * n, L * T * B * n, L * keep * B * n
    moved, limit, one = False, int(1 - math.frexp(tiny)[1]), value.dtype.type(1.0)
    above, up = 0, one  # by how much what arrives is raised: mostly as the row before it was
    for e in range(L):
        for t in range(stop - 1, start - 1, -1):
            i = t - start
            p_c, c = (p_states, (T + t - 1) * B * n) if t else (pointer(c_0), 0)
            for b in range(first, last):
                row, to = (e * B + b) * n, ((e * keep + i % keep) * B + b) * n
                at, p = ((e * T + t) * B + b) * n, power[e, b]
                other = given[e, t, b] if len(given) else 0
                rows = (p_value, row, p_g, at, p_held, to, part, part_g, part_held, parts, n)
                top = bits[2]
                if 0 <= other - p <= limit:
                    if other - p != above:
                        above = other - p
                        up = _two_to(above, value, limit)
                    top = added((*rows, (one, one, up, one), tiny))
                if top >= bits[2]:  # what arrives cannot be raised that much
                    p, factors = _met(
                        (value, (p_value, row, part, parts, n)), p,
                        (g, (p_g, at, part_g, parts, n)), other, middle, limit,
                    )  # fmt: skip
                    top = added((*rows, factors, tiny))
                if (top < bits[0] or top > bits[1]) and 0 < top < bits[2]:
                    p += _rescale((p_held, to, part_held, parts, n), held, top, middle, tiny, limit)
                power[e, b] = every[e, i, b] = p
                moved |= p != -middle
                state, dz = (t * B + b) * n, ((e * span + i) * B + b) * N
                if len(lengths) and t >= lengths[b]:  # the state stayed as it was, as a constant
                    value[:, e, b] = 0
                    sums[e, i, b] = 0
                elif kind == LSTM:
                    back_lstm(
                        (p_z, (t * B + b) * N, p_c, c + b * n, p_states, T * B * n + state,
                         p_held, to, p_held, part_held + to, p_sums, dz, p_value, part + row, n, tiny)
                    )  # fmt: skip
                else:
                    back_vanilla((p_states, state, p_held, to, p_sums, dz, n, tiny, kind))
            dz, to = ((e * span + i) * B + first) * N, (e * B + first) * n
            back_product((p_sums, dz, pointer(weight), 0, p_value, to, N, n, last - first))
    return moved
