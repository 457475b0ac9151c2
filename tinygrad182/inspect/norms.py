"""Norms of gradients in float64, right where the gradients' own type, or float64, cannot hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..kernels.powers import or_zero, sizes_of

HostArray = np.ndarray[Any, Any]


def row_norms(rows: Array) -> Array:
    """2-norms along the last axis, right where the squares would under- or overflow."""
    xp = backend.namespace(rows)
    m = xp.module
    with xp.on(rows):
        top = _largest(m, rows)
        scale = m.where((top > 0) & (top < math.inf), top, 1.0)
        return scale * m.sqrt(m.sum((rows / scale[..., None]) ** 2, axis=-1))


def _largest(m: Any, rows: Array) -> Array:
    """The largest size along the last axis; 0 of nothing."""
    if m is np:
        return np.max(np.abs(rows), axis=-1, initial=0.0)
    return m.max(m.abs(rows), axis=-1) if rows.shape[-1] else m.zeros(rows.shape[:-1])


def step_norms(states: Array) -> Array:
    """The norm at every step, ``(T,)``, where the states are."""
    return row_norms(_wide(states, (len(states), math.prod(states.shape[1:]))))


def sample_norms(states: Array) -> Array:
    """Each sample's norm at every step, ``(T, B)``, of ``(T, B, H)``; a state without a batch is one."""
    samples = states.shape[1] if states.ndim > 2 else 1
    each = math.prod(states.shape[1:]) // max(samples, 1)
    return row_norms(_wide(states, (len(states), samples, each)))


def at_sample_powers(state: Array, powers: Array) -> tuple[Array, Array]:
    """One state whose rows have powers of two, in float64, and a single power for each sample ``(B,)``."""
    xp = backend.namespace(state)
    m = xp.module
    with xp.on(state):
        wide = state.astype("float64").reshape(len(state) if state.ndim > 1 else 1, -1)
        rows = m.broadcast_to(powers, state.shape).reshape(wide.shape)
        top = or_zero(m, m.max(sizes_of(m, wide, rows), axis=-1))
        shifts = m.clip(rows - top[:, None], -4096, 4096).astype("int32")
        return m.ldexp(wide, shifts).reshape(state.shape), top


def total_norms(norms: HostArray, powers: HostArray) -> tuple[HostArray, HostArray]:
    """Over all samples and bands at every step, and the logarithm, which does not underflow.

    Parameters
    ----------
    norms, powers : ndarrays (bands, T, B)
        Legs of right triangles, each beside the power of two it is to be multiplied by.
    """
    top = np.where(norms == 0, powers.min(), powers).max(axis=(0, 2))
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        legs = np.ldexp(norms, powers - top[:, None])
        total = row_norms(np.hypot.reduce(legs, axis=0))
        return np.ldexp(total, top), np.log(total) + top * math.log(2)


def _wide(states: Array, shape: tuple[int, ...]) -> Array:
    """In float64 and another shape; on the host where a library has no functions of NumPy's kind."""
    xp = backend.namespace(states)
    states = states if xp.has_loops else xp.to_numpy(states)
    with backend.on(states):
        return states.astype("float64").reshape(shape)
