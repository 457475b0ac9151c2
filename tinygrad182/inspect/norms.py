"""Norms of gradients in float64, right where the gradients' own type, or float64, cannot hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array

HostArray = np.ndarray[Any, Any]


def row_norms(rows: HostArray) -> HostArray:
    """2-norms along the last axis, right where the squares would under- or overflow."""
    top = np.max(np.abs(rows), axis=-1, initial=0.0)
    scale = np.where((top > 0) & (top < math.inf), top, 1.0)
    return scale * np.sqrt(np.sum((rows / scale[..., None]) ** 2, axis=-1))


def step_norms(states: Array) -> HostArray:
    """The norm at every step, ``(T,)``."""
    host = _host(states)
    return row_norms(host.reshape(len(host), math.prod(host.shape[1:])))


def sample_norms(states: Array) -> HostArray:
    """Each sample's norm at every step, ``(T, B)``, of ``(T, B, H)``; a state without a batch is one."""
    host = _host(states)
    samples = host.shape[1] if host.ndim > 2 else 1
    each = math.prod(host.shape[1:]) // max(samples, 1)
    return row_norms(host.reshape(len(host), samples, each))


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


def _host(states: Array) -> HostArray:
    return backend.namespace(states).to_numpy(states).astype(np.float64)
