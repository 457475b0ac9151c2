"""Products on the way to which nothing over- or underflows.

A number is held as a mantissa between 1/2 and 1 beside its power of two, so only a result that does not
fit its type is infinite or 0. To multiply by a power of two is exact: what fits is rounded as it would be
without. All functions go along the last axis, which is not empty; ``xp`` is an array library's namespace.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = Any
Scaled = tuple[Array, Array]
"""Mantissas (0, infinities and NaN stay themselves) and exponents, integers of 64 bits."""

_FAR = 1 << 16
"""A power of two beyond every floating type."""


@cache
def _block(dtype: str) -> int:
    """How many mantissas are multiplied before the product is brought back to about 1."""
    return int(np.finfo(dtype.rpartition(".")[2]).maxexp) // 2  # whatever library's


def running(xp: Any, x: Array) -> Scaled:
    """The product of each element and all before it, multiplied in order."""
    mantissas, exponents = xp.frexp(x)
    parts: list[Array] = []
    powers: list[Array] = []
    n, size = x.shape[-1], _block(str(x.dtype))
    for start in range(0, n, size):
        block = mantissas[..., start : min(start + size, n)]
        if start:
            block = xp.concat([parts[-1][..., -1:] * block[..., :1], block[..., 1:]], axis=-1)
        part, power = xp.frexp(xp.cumulative_prod(block, axis=-1))
        parts.append(part)
        powers.append(power + powers[-1][..., -1:] if start else power)
    total = xp.cumulative_sum(xp.astype(exponents, "int64"), axis=-1)
    if len(parts) == 1:
        return parts[0], total + powers[0]
    return xp.concat(parts, axis=-1), total + xp.concat(powers, axis=-1)


def running_before(xp: Any, x: Array) -> Scaled:
    """The product of all elements before each; 1 for the first."""
    return running(xp, xp.concat([xp.ones_like(x[..., :1]), x[..., :-1]], axis=-1))


def of_others(xp: Any, x: Array) -> Array:
    """The product of all elements but each."""
    before = running_before(xp, x)
    mantissas, exponents = running_before(xp, xp.flip(x, axis=-1))
    behind = xp.flip(mantissas, axis=-1), xp.flip(exponents, axis=-1)
    return number(xp, times(xp, before, behind))


def sums_behind(xp: Any, x: Array, g: Array) -> Scaled:
    """Each g_i and what comes of those behind it: s_i = g_i + x_{i+1} s_{i+1}.

    The steps from i to i + 1 are joined to steps to i + 2, i + 4 and so on: about log₂ n times.
    """
    sums = _scaled(xp, g)
    factors = _scaled(xp, xp.concat([x[..., 1:], xp.zeros_like(x[..., :1])], axis=-1))
    step = 1
    while step < x.shape[-1]:
        near = factors[0][..., :-step], factors[1][..., :-step]
        whole = times(xp, near, (sums[0][..., step:], sums[1][..., step:]))
        whole = _plus(xp, (sums[0][..., :-step], sums[1][..., :-step]), whole)
        joined = times(xp, near, (factors[0][..., step:], factors[1][..., step:]))
        sums, factors = (
            tuple(xp.concat([a, b[..., -step:]], axis=-1) for a, b in zip(new, old, strict=True))
            for new, old in ((whole, sums), (joined, factors))
        )
        step *= 2
    return sums


def _scaled(xp: Any, x: Array) -> Scaled:
    mantissas, exponents = xp.frexp(x)
    return mantissas, xp.astype(exponents, "int64")


def times(xp: Any, a: Scaled, b: Scaled) -> Scaled:
    """The products of two arrays of numbers."""
    mantissas, exponents = xp.frexp(a[0] * b[0])
    return mantissas, a[1] + b[1] + exponents


def _plus(xp: Any, a: Scaled, b: Scaled) -> Scaled:
    of_a = xp.where(a[0] == 0, b[1], a[1])  # a 0 has no power of its own
    of_b = xp.where(b[0] == 0, a[1], b[1])
    top = xp.maximum(of_a, of_b)
    total = number(xp, (a[0], of_a - top)) + number(xp, (b[0], of_b - top))
    mantissas, exponents = xp.frexp(total)
    return mantissas, exponents + top


def number(xp: Any, x: Scaled) -> Array:
    """The numbers themselves, rounded once where they leave their type."""
    powers = xp.minimum(xp.maximum(x[1], -_FAR), _FAR)
    return xp.ldexp(x[0], xp.astype(powers, "int32"))
