"""Cotangents on their way back through time, where each row has a power of two.

A row is one sequence at one step. It is stored as values and an integer p, its *power*: the true row is the
values times 2^p. Where a cotangent vanishes or explodes, the values are multiplied by a power of two and p
changes by as much. That is exact, because backward is linear. It also keeps subnormal numbers out of the
arithmetic, which take some processors a hundred times as long.

**Range.** The largest element of a row stays between 2^-24 and 2^64 in float32 (:func:`exponent_range`;
read 8 times as much for each exponent in float64). A pass begins at the power -32, with cotangents
multiplied by 2^32: what is computed from a row may be much smaller than the row, but is seldom much larger,
so most passes never change a power. float16 is computed in float32: 30 powers of two are too few for a
recurrence, and its digits are too few for sums over many steps.

**What counts as 0.** A value computed from a row may count as 0 where it is smaller than 2^-100 times the
row's largest element (2^-800 in float64): values below 2^-126 are set to 0. In the gradient of a weight,
all rows together count as one row, except those that are multiplied by zeros alone.

**Results.** A result has the type of the model. There it is rounded once, to a subnormal number, to 0 or to
infinity. Before that nothing overflows, even from cotangents close to the largest number, as long as no
single operation makes a row more than 2^60 times as large (2^500 in float64).

Each form of the loops has its own code for this: :class:`.carry.Carry` treats all rows at once in NumPy,
:class:`.llvm.row_powers.RowCarry` one row in compiled code, and :mod:`.cuda_c` one row by a block of
threads. A device brings every row to about 1 at every step. A plain backward pass there applies the powers
at once, so values below 2^-126 count as 0 (float32).

Subnormal numbers do occur where the layer above passes them in, and where gates or states are subnormal
themselves, as in a saturated LSTM.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import Array

NOTHING = -(1 << 40)
"""The power of a row of zeros."""


@cache
def largest_exponent(dtype: Any) -> int:
    """The power of two at which a floating type overflows. It underflows at about the negative of it."""
    return int(np.finfo(str(dtype).rpartition(".")[2]).maxexp)  # also of another library's dtype


@cache
def two_to(dtype: Any, exponent: int) -> Any:
    """2**exponent in a floating type."""
    return np.ldexp(np.ones((), np.finfo(dtype).dtype), exponent)


@cache
def smallest(dtype: Any) -> Any:
    """The smallest normal number of a floating type."""
    return np.finfo(dtype).smallest_normal


class ExponentRange(NamedTuple):
    """Powers of two for the largest element of a row: the lowest, the one it is brought to, the highest."""

    low: int
    middle: int
    high: int


@cache
def exponent_range(dtype: Any) -> ExponentRange:
    """The range for the largest element of a row: -24, 32 and 64 in float32."""
    limit = largest_exponent(dtype)
    return ExponentRange(-3 * limit // 16, limit // 4, limit // 2)


def sizes_of(m: Any, tops: Array, powers: Any = 0) -> Array:
    """The exponents of the true elements ``tops`` · 2^``powers``; :data:`NOTHING` for 0.

    An element that is not finite counts as about 1.
    """
    exponents = m.where(m.isfinite(tops), m.frexp(tops)[1], 0).astype("int64")
    return m.where(tops == 0, NOTHING, exponents + powers)


def or_zero(m: Any, sizes: Array) -> Array:
    """The sizes, with 0 in the place of :data:`NOTHING`."""
    return m.where(sizes == NOTHING, 0, sizes)


def to_one(m: Any, rows: Array, powers: Any) -> tuple[Array, Array]:
    """Bring each row's largest element to about 1; return the rows and their powers."""
    exponent = or_zero(m, sizes_of(m, m.max(m.abs(rows), axis=-1)))
    return times_rows(m, rows, -exponent), powers + exponent


def powers_of_two(m: Any, exponents: Array, dtype: Any) -> Array:
    """2**exponents as an array of the type; 0 where that is below the normal numbers of the type."""
    limit = largest_exponent(dtype)
    clipped = m.clip(exponents, -limit + 2, limit - 1).astype("int32")  # faster than int64
    scale = m.ldexp(m.ones((), np.finfo(dtype).dtype), clipped)
    return m.where(exponents < -limit + 2, 0, scale).astype(scale.dtype, copy=False)


def times_rows(m: Any, array: Array, powers: Array) -> Array:
    """Each row times 2 to its own power, rounded to the array's type."""
    limit = 4 * largest_exponent(array.dtype)  # beyond it the result no longer changes
    if m is np and powers.size and powers.min() < -np.finfo(array.dtype).nmant:
        lost = powers_of_two(m, _lowest(array.dtype) - 1 - powers, array.dtype)[..., None]
        array = m.where(m.abs(array) <= lost, 0, array)  # rounding to 0 is slow
    return m.ldexp(array, m.clip(powers, -limit, limit)[..., None].astype("int32"))


def times_all(m: Any, array: Array, by: Any) -> Array:
    """An array times 2 to one power, an int or an array (). A small int is applied in place."""
    if not isinstance(by, int) or abs(by) >= largest_exponent(array.dtype) - 1:
        return times_rows(m, array, m.asarray(by))
    return m.multiply(array, two_to(array.dtype, by), out=array) if by else array


@cache
def _lowest(dtype: Any) -> int:
    """The exponent of a floating type's smallest subnormal number."""
    info = np.finfo(dtype)
    return 2 - largest_exponent(dtype) - int(info.nmant)
