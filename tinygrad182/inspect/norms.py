"""Norms of gradients in float64, right where the gradients' own type, or float64, cannot hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..kernels.powers import or_zero, sizes_of

HostArray = np.ndarray[Any, Any]


_SAFE = 1e-280
"""Of a larger sum, squares that underflow are a part smaller than ε."""


def row_norms(rows: Array) -> Array:
    """2-norms along the last axis, right where the squares would under- or overflow."""
    xp = backend.namespace(rows)
    m = xp.module
    with xp.on(rows):
        if m is np:  # mostly no square is out of range, and then one pass does
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                squares = np.einsum("...i,...i->...", rows, rows)
            if squares.size and squares.min() > _SAFE and squares.max() < math.inf:
                return np.sqrt(squares)
        top = _largest(m, rows)
        scale = m.where((top > 0) & (top < math.inf), top, 1.0)
        return scale * m.sqrt(m.sum((rows / scale[..., None]) ** 2, axis=-1))


def _largest(m: Any, rows: Array) -> Array:
    """The largest size along the last axis; 0 of nothing."""
    if m is np:
        return np.maximum(np.max(rows, axis=-1, initial=0.0), -np.min(rows, axis=-1, initial=0.0))
    return m.max(m.abs(rows), axis=-1) if rows.shape[-1] else m.zeros(rows.shape[:-1])


def step_norms(states: Array) -> Array:
    """The norm at every step, ``(T,)``, where the states are."""
    return row_norms(_wide(states, (len(states), math.prod(states.shape[1:]))))


def sample_norms(states: Array, ndim: int | None = None) -> Array:
    """Each sample's norm, ``(…, B)``, of states ``(…, B, H)``; a state without a batch is one sample.

    A state has ``ndim`` axes: by default all but the first of ``states``.
    """
    return row_norms(_wide(states, _by_sample(states, ndim)))


def at_sample_powers(states: Array, powers: Array, ndim: int) -> tuple[Array, Array]:
    """States whose elements have powers of two, in float64, and a single power for each sample (…, B)."""
    xp = backend.namespace(states)
    m, shape = xp.module, _by_sample(states, ndim)
    with xp.on(states):
        wide = states.astype("float64").reshape(shape)
        powers = m.broadcast_to(powers, states.shape).reshape(shape)
        top = or_zero(m, m.max(sizes_of(m, wide, powers), axis=-1))
        shifts = m.clip(powers - top[..., None], -4096, 4096).astype("int32")
        return m.ldexp(wide, shifts).reshape(states.shape), top


def _by_sample(states: Array, ndim: int | None) -> tuple[int, ...]:
    """The shape in which a row is a sample."""
    start = 1 if ndim is None else states.ndim - ndim
    front, state = states.shape[:start], states.shape[start:]
    samples = state[0] if len(state) > 1 else 1
    return (*front, samples, math.prod(state) // max(samples, 1))


def total_norms(norms: HostArray, powers: HostArray) -> tuple[HostArray, HostArray]:
    """Over all samples and bands at every step, and the logarithm, which does not underflow.

    Parameters
    ----------
    norms, powers : ndarrays (bands, T, …, B)
        Legs of right triangles, each beside the power of two it is to be multiplied by.
    """
    top = np.where(norms == 0, powers.min(), powers).max(axis=(0, -1))
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        legs = np.ldexp(norms, powers - top[..., None])
        total = row_norms(np.hypot.reduce(legs, axis=0))
        return np.ldexp(total, top), np.log(total) + top * math.log(2)


def _wide(states: Array, shape: tuple[int, ...]) -> Array:
    """In float64 and another shape; on the host where a library has no functions of NumPy's kind."""
    xp = backend.namespace(states)
    states = states if xp.has_loops else xp.to_numpy(states)
    with backend.on(states):
        return states.astype("float64").reshape(shape)
