"""Cotangents on their way back through time, each row beside a power of two.

A row is one sequence at one step. Where it vanishes or explodes it is multiplied by a power of two, which
is remembered. That is exact, for backward is linear, and it keeps arithmetic clear of subnormal numbers, on
which some processors take a hundred times as long: a pass that vanishes takes the time of another.

**What counts as 0.** What is computed from a row may count as 0 where it is smaller than 2^-100 times the
largest element of that row (2^-800 in float64). For the gradient of a weight, all rows are one that are
multiplied by anything but zeros.

This is so because the largest element of a row is never below 2^-24 when something is computed from it
(:func:`held`), and what is below 2^-126 then goes to 0. A pass begins at the power -32, its cotangents
raised by as much, because what is computed from a row may be much smaller than the row, but seldom is
much larger: so most passes never change a power. (In float64 read 8 times as much for each exponent.
float16 is computed in float32: it has 30 powers of two, too few for
a recurrence, and too few digits for sums over many steps.)

A result has its own type: there it is rounded, once, to a subnormal number, to 0 or to infinity. Until
then nothing overflows as long as no single operation makes a row more than 2^60 times as large (2^500 in
float64), also where cotangents are close to the largest number there is.

Each form of the loops does this in its own way: NumPy's with all rows at once (:class:`Carry`), compiled
code row by row (:class:`.llvm.row_powers.RowCarry`), and a device with a block of threads for each row
(:mod:`.cuda_c`). On a device every row is brought to about 1 at every step, by the kernel that runs the
step. Plain backward hands it out in its type there: what is then below 2^-126 (float32) counts as 0.

Subnormal numbers are still computed where a layer gets such results from the layer above, and where gates
or states are subnormal themselves, as in a saturated LSTM.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array

NOTHING = -(1 << 40)
"""The power of a row of zeros."""


@cache
def largest_exponent(dtype: Any) -> int:
    """Power of two at which a floating type overflows; it underflows at about the negative of it."""
    return int(np.finfo(str(dtype).rpartition(".")[2]).maxexp)  # whatever library's


@cache
def power(dtype: Any, exponent: int) -> Any:
    """2**exponent in a floating type."""
    return np.ldexp(np.ones((), np.finfo(dtype).dtype), exponent)


@cache
def smallest(dtype: Any) -> Any:
    """The smallest normal number of a floating type."""
    return np.finfo(dtype).smallest_normal


class Held(NamedTuple):
    """Powers of two for the largest element of a row: the least, what it is brought to, and the most."""

    low: int
    middle: int
    high: int


@cache
def held(dtype: Any) -> Held:
    """Between which powers of two the largest element of a row is kept: -24, 32 and 64 in float32."""
    limit = largest_exponent(dtype)
    return Held(-3 * limit // 16, limit // 4, limit // 2)


class Carry:
    """Cotangents of the parts of a state on their way back through NumPy's loops, (parts, …, B, H).

    A row is rescaled when its largest element leaves what :func:`held` says.

    Parameters
    ----------
    g : array (parts, …, T, B, H)
        What arrives at each of some steps from the loss itself.
    powers : int array (…, T, B), or None
        Powers of two that its rows are to be multiplied by; None: all 0.
    later : Deltas, optional
        What was found for the steps after these.

    Attributes
    ----------
    value : array
    power : int array (…, B), or int
        Those of the rows of ``value``; a number is that of all.
    start : int
        The power at which a pass begins.
    """

    def __init__(self, g: Array, powers: Array | None = None, later: Any = None) -> None:
        self.g = g
        self.held = held(g.dtype)
        self.start = -self.held.middle
        self.low, self.high = (power(g.dtype, e) for e in (self.held.low, self.held.high))
        self.tiny = smallest(g.dtype)
        self.powers: Any = 0 if powers is None else powers
        shape = (*g.shape[:-3], *g.shape[-2:])
        self.value = np.zeros(shape, g.dtype) if later is None else later.initial.copy()
        self.power: Any = self.start if later is None else later.initial_powers

    def _given(self, t: int) -> Any:
        """The powers of the rows that arrive at step t, or that of all."""
        return self.powers if isinstance(self.powers, int) else self.powers[..., t, :]

    def add(self, t: int) -> None:
        """Add what arrives at step t, and rescale."""
        if not self.value.size:
            return
        if isinstance(self.power, int) and isinstance(self.powers, int):
            value = self.g[..., t, :, :] * self._raised
            value += self.value
            size = np.abs(value)
            if self._is_held(size):
                self.value = value
                return
            top = _highest(size)
            if top.max() < np.inf:  # what arrives could be raised so much
                self.value = value
                self._rescale(size, top)
                return
        if self._arriving[t]:
            self._add_at_powers(t)
        size = np.abs(self.value)
        self._rescale(size, _highest(size))

    @cached_property
    def _raised(self) -> Array:
        """By how much all that arrives is raised; an array, which is quicker to multiply by."""
        return np.asarray(power(self.g.dtype, self.powers - self.power))

    def _is_held(self, size: Array) -> bool:
        """Whether rows of such sizes surely stay as they are, seen from the sums of their elements."""
        parts, H = len(size), size.shape[-1]
        totals = size.reshape(-1, H).dot(self._ones)
        if parts > 1:
            totals = totals.reshape(parts, -1).sum(axis=0)
        least, most = totals.min(), totals.max()
        return bool(self.low * parts * H <= least and most < self.high and size.min() >= self.tiny)

    @cached_property
    def _ones(self) -> Array:
        return np.ones(self.g.shape[-1], self.g.dtype)

    @cached_property
    def _arriving(self) -> list[bool]:
        """At which steps anything but zeros arrives."""
        axes = (*range(self.g.ndim - 3), -2, -1)
        return list(self.g.any(axis=axes).tolist())

    def _add_at_powers(self, t: int) -> None:
        """Add rows at other powers: to the power at which the larger one is as large as rows are held."""
        terms = []
        size = np.full(self.value.shape[1:-1], NOTHING)
        for rows, power in ((self.value, self.power), (self.g[..., t, :, :], self._given(t))):
            top = _highest(np.abs(rows))
            exponent = self._exponent(top)
            size = np.where(top == 0, size, np.maximum(size, power + exponent))
            terms.append((rows, exponent, power + exponent))
        self.power = np.where(size == NOTHING, self.power, size - self.held.middle)
        ours, theirs = (
            self._times(self._times(rows, -exponent), size - self.power)
            for rows, exponent, size in terms
        )
        self.value = ours + theirs

    def _rescale(self, size: Array, top: Array) -> None:
        """Bring the largest elements of rows back to what they are held at; what is subnormal goes to 0.

        ``size`` are those of all elements, and ``top`` the largest of each row.
        """
        if not (top.min() >= self.low and top.max() < self.high):
            stays = ((top >= self.low) & (top < self.high)) | (top == 0) | ~np.isfinite(top)
            if not stays.all():
                limit = largest_exponent(top.dtype) - 2
                shift = np.clip(self.held.middle - self._exponent(top), -limit, limit)
                shift = np.where(stays, 0, shift)
                self.value = self._times(self.value, shift)
                self.power = self.power - shift
                size = np.abs(self.value)
        if size.min() < self.tiny:
            self.value[size < self.tiny] = 0

    def _exponent(self, top: Array) -> Array:
        """Which power of two a size is about; if it is not finite, such that its row stays as it is."""
        limit = largest_exponent(top.dtype) - 2
        exponent = np.clip(np.frexp(top)[1], -limit, limit)
        return np.where(np.isfinite(top), exponent, self.held.middle)

    def _times(self, value: Array, power: Array) -> Array:
        return value * power_of_two(np, power, value.dtype)[..., None]


def sizes_of(m: Any, tops: Array, powers: Any = 0) -> Array:
    """Which powers of two elements are about that are to be multiplied by some; :data:`NOTHING` for 0.

    What is not finite counts as about 1.
    """
    exponents = m.where(m.isfinite(tops), m.frexp(tops)[1], 0).astype("int64")
    return m.where(tops == 0, NOTHING, exponents + powers)


def or_zero(m: Any, sizes: Array) -> Array:
    """The sizes as powers to divide by: 0 for :data:`NOTHING`."""
    return m.where(sizes == NOTHING, 0, sizes)


def to_one(m: Any, rows: Array, powers: Any) -> tuple[Array, Array]:
    """Rows at such powers that the largest element of each is about 1."""
    exponent = or_zero(m, sizes_of(m, m.max(m.abs(rows), axis=-1)))
    return times_rows(m, rows, -exponent), powers + exponent


def power_of_two(m: Any, power: Array, dtype: Any) -> Array:
    """2**power as an array of the type; 0 where that is not a normal number of it."""
    limit = largest_exponent(dtype)
    exponents = m.clip(power, -limit + 2, limit - 1).astype("int32")  # many times as fast as int64
    scale = m.ldexp(m.ones((), np.finfo(dtype).dtype), exponents)
    return m.where(power < -limit + 2, 0, scale).astype(scale.dtype, copy=False)


def times_rows(m: Any, array: Array, powers: Array) -> Array:
    """Each row of an array times 2 to its own power; in the type, which may not hold it."""
    limit = 4 * largest_exponent(array.dtype)  # further out, nothing changes any more
    if m is np and powers.size and powers.min() < -np.finfo(array.dtype).nmant:
        lost = power_of_two(m, _lowest(array.dtype) - 1 - powers, array.dtype)[..., None]
        array = m.where(m.abs(array) <= lost, 0, array)  # slow to round to 0
    return m.ldexp(array, m.clip(powers, -limit, limit)[..., None].astype("int32"))


def times_all(m: Any, array: Array, by: Any) -> Array:
    """An array times 2 to one power, a number or an array (); written over where the type holds that."""
    if not isinstance(by, int) or abs(by) >= largest_exponent(array.dtype) - 1:
        return times_rows(m, array, m.asarray(by))
    return m.multiply(array, power(array.dtype, by), out=array) if by else array


@cache
def _lowest(dtype: Any) -> int:
    """The power of two of a floating type's smallest subnormal number."""
    info = np.finfo(dtype)
    return 2 - largest_exponent(dtype) - int(info.nmant)


def _highest(size: Array) -> Array:
    """Over all parts; one axis after the other, which is the faster way."""
    return size.max(axis=-1).max(axis=0)
