"""Products whose intermediate results neither overflow nor underflow.

A number is a mantissa between 1/2 and 1 with a power of two, so a result is infinite or 0 only if it does
not fit its dtype. Multiplying by a power of two is exact, so other results are rounded as usual. All
functions work along the last axis, which must not be empty; ``xp`` is an array library's namespace.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Scaled(NamedTuple):
    """Numbers as mantissas times powers of two.

    Attributes
    ----------
    mantissas : array
        Between 1/2 and 1; 0, infinities and NaN are kept as they are.
    exponents : int64 array
    """

    mantissas: Array
    exponents: Array

    def at(self, key: Any) -> Scaled:
        """The numbers at a NumPy index."""
        return Scaled(self.mantissas[key], self.exponents[key])


_FAR = 1 << 16
"""An exponent beyond those of every floating dtype."""


@cache
def _block(dtype: str) -> int:
    """How many mantissas can be multiplied before the product has to be scaled again."""
    return int(np.finfo(dtype.rpartition(".")[2]).maxexp) // 2


def running(xp: Any, x: Array) -> Scaled:
    """The product of each element and all elements before it, multiplied in order."""
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
        return Scaled(parts[0], total + powers[0])
    return Scaled(xp.concat(parts, axis=-1), total + xp.concat(powers, axis=-1))


def running_before(xp: Any, x: Array) -> Scaled:
    """The product of all elements before each one; 1 for the first."""
    return running(xp, xp.concat([xp.ones_like(x[..., :1]), x[..., :-1]], axis=-1))


def of_others(xp: Any, x: Array) -> Array:
    """The product of all other elements, for each element."""
    before = running_before(xp, x)
    after = Scaled(*(xp.flip(a, axis=-1) for a in running_before(xp, xp.flip(x, axis=-1))))
    return number(xp, times(xp, before, after))


def sums_after(xp: Any, x: Array, g: Array) -> Scaled:
    """The sums s_i = g_i + x_{i+1} s_{i+1}, from the last to the first.

    Steps from i + 1 to i are combined into steps from i + 2, i + 4 and so on, in about log₂ n rounds.
    """
    sums = _scaled(xp, g)
    factors = _scaled(xp, xp.concat([x[..., 1:], xp.zeros_like(x[..., :1])], axis=-1))
    step = 1
    while step < x.shape[-1]:
        first, rest = (..., slice(None, -step)), (..., slice(step, None))
        near = factors.at(first)
        total = _plus(xp, sums.at(first), times(xp, near, sums.at(rest)))
        joined = times(xp, near, factors.at(rest))
        sums, factors = (
            Scaled(
                *(xp.concat([a, b[..., -step:]], axis=-1) for a, b in zip(new, old, strict=True))
            )
            for new, old in ((total, sums), (joined, factors))
        )
        step *= 2
    return sums


def _scaled(xp: Any, x: Array) -> Scaled:
    mantissas, exponents = xp.frexp(x)
    return Scaled(mantissas, xp.astype(exponents, "int64"))


def times(xp: Any, a: Scaled, b: Scaled) -> Scaled:
    """The elementwise products."""
    mantissas, exponents = xp.frexp(a.mantissas * b.mantissas)
    return Scaled(mantissas, a.exponents + b.exponents + exponents)


def _plus(xp: Any, a: Scaled, b: Scaled) -> Scaled:
    # the exponent of a 0 is meaningless
    of_a = xp.where(a.mantissas == 0, b.exponents, a.exponents)
    of_b = xp.where(b.mantissas == 0, a.exponents, b.exponents)
    top = xp.maximum(of_a, of_b)
    total = number(xp, Scaled(a.mantissas, of_a - top)) + number(
        xp, Scaled(b.mantissas, of_b - top)
    )
    mantissas, exponents = xp.frexp(total)
    return Scaled(mantissas, exponents + top)


def number(xp: Any, x: Scaled) -> Array:
    """The numbers as one array, rounded once if they do not fit their dtype."""
    powers = xp.minimum(xp.maximum(x.exponents, -_FAR), _FAR)
    return xp.ldexp(x.mantissas, xp.astype(powers, "int32"))
