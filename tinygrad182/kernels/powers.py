"""Cotangents on their way back through time, each row beside a power of two.

A row is one sequence at one step. Where it vanishes or explodes it is brought back to about 1 and the power
is remembered. That is exact, for backward is linear, and it keeps arithmetic clear of subnormal numbers, on
which some processors take a hundred times as long: a pass that vanishes takes the time of another.

What counts as 0, in float32 (in float64 read 2^-1022 for 2^-126, and 2^-512 for 2^-64):

- On the host, an element of a state's cotangent below 2^-126 at the power of its row, once the largest of
  the row is at least 2^-16 there: it is then at least 2^110 times as small as that.
- On a device, the same where the largest is about 1; in plain ``backward`` what its kernels take for 0,
  which is below 2^-126 in float32, for no powers are carried there.
- In the compiled loops, an element of a sum's cotangent below 2^-126 at the power of its row, where the
  largest of the state's cotangent is at least 2^-64.
- For weight gradients, a row whose power is more than 126 below the highest one of a row that is not all
  zeros, and elements below 2^-126 at the highest power in rows that might have subnormal ones.
- In a result, what rounds to 0 in its type.

A result is subnormal where its true value is: one operation for each, at the end. Other subnormal numbers
are computed where a layer gets such results from the layer above, for as many steps as they last (about 23
powers of two in float32); where gates or states are subnormal themselves, as in a saturated LSTM; and where
the elements of one row lie more than about 2^60 apart.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np

from ..backend import Array

NOTHING = -(1 << 40)
"""The power of a row of zeros."""

NEAR = 2.0**-16
"""A row whose largest element is smaller is scaled up before any of its elements are set to 0."""


@cache
def largest_exponent(dtype: Any) -> int:
    """Power of two at which a floating type overflows; it underflows at about the negative of it."""
    return int(np.finfo(str(dtype).rpartition(".")[2]).maxexp)  # whatever library's


def power(dtype: Any, exponent: int) -> Any:
    """2**exponent in a floating type."""
    return np.ldexp(np.ones((), np.finfo(dtype).dtype), exponent)


def smallest(dtype: Any) -> Any:
    """The smallest normal number of a floating type."""
    return np.finfo(dtype).smallest_normal


class Carry:
    """Cotangents of the parts of a state on their way back, (parts, …, B, H), as their type holds them.

    Parameters
    ----------
    m : module
    g : array (parts, …, T, B, H)
        What arrives at each of some steps from the loss itself.
    powers : int array (…, T, B), or None
        Powers of two that its rows are to be multiplied by; None: all 0.
    later : Deltas, optional
        What was found for the steps after these.

    Attributes
    ----------
    value : array
    power : int array (…, B), or None
        Those of the rows of ``value``; None: all 0.
    """

    def __init__(self, m: Any, g: Array, powers: Array | None = None, later: Any = None) -> None:
        self.m = m
        self.g = g
        self.powers = powers
        shape = (*g.shape[:-3], *g.shape[-2:])
        self.value = m.zeros(shape, g.dtype) if later is None else later.initial.copy()
        self.power: Array | None = None if later is None else later.initial_powers

    def add(self, t: int) -> None:
        """Add what arrives at step t."""
        self.value += self.g[..., t, :, :]

    def stop(self, over: Array, part: int) -> None:
        """Drop the cotangents of one part where a sequence is over."""
        self.value[part] = self.m.where(over[:, None], 0, self.value[part])


class Rescaled(Carry):
    """A carry of the host: a row is rescaled when it is about to leave its type."""

    def __init__(self, m: Any, g: Array, powers: Array | None = None, later: Any = None) -> None:
        super().__init__(m, g, powers, later)
        self.reach = power(g.dtype, largest_exponent(g.dtype) // 2)
        self.tiny = smallest(g.dtype)

    def add(self, t: int) -> None:
        """Add what arrives at step t, and rescale."""
        if self.power is None and self.powers is None:
            super().add(t)
        elif self._arriving[t]:
            self._add_at_powers(t)
        self._rescale()

    @cached_property
    def _arriving(self) -> list[bool]:
        """At which steps anything but zeros arrives."""
        axes = (*range(self.g.ndim - 3), -2, -1)
        return list(self.g.any(axis=axes).tolist())

    def _add_at_powers(self, t: int) -> None:
        m, g = self.m, self.g[..., t, :, :]
        nothing = m.zeros(g.shape[1:-1], "int64")
        own = nothing if self.power is None else self.power
        given = nothing if self.powers is None else self.powers[..., t, :]
        ours, theirs = _tops(m, self.value), _tops(m, g)
        higher = m.maximum(own + self._exponent(ours), given + self._exponent(theirs))
        higher = m.where(ours == 0, given + self._exponent(theirs), higher)
        higher = m.where(theirs == 0, own, higher)
        self.value = self._times(self.value, own - higher) + self._times(g, given - higher)
        self.power = higher

    def _rescale(self) -> None:
        """Bring rows that are about to leave their type back to about 1.

        Also rows of which elements are about to while the largest are not; beside those that are no
        smaller than :data:`NEAR`, subnormal elements go to 0.
        """
        m = self.m
        size = m.abs(self.value)
        top = _highest(size)
        held = ((top > 1 / self.reach) & (top < self.reach)) | (top == 0) | ~m.isfinite(top)
        faint = None
        if size.size and size.min() < self.tiny:
            faint = (size < self.tiny) & (size > 0)
            held &= (top >= NEAR) | ~faint.any(axis=(0, -1)) | ~m.isfinite(top)
        if held.all():
            if faint is not None:
                self.value[faint] = 0
            return
        exponent = m.where(held, 0, self._exponent(top))
        self.value = self._times(self.value, -exponent)
        self.power = exponent if self.power is None else self.power + exponent
        if faint is not None:
            self.value[m.abs(self.value) < self.tiny] = 0

    def _exponent(self, top: Array) -> Array:
        """Which power of two a size is about; 0 if it is not finite."""
        m, limit = self.m, largest_exponent(top.dtype) - 2
        return m.where(m.isfinite(top), m.clip(m.frexp(top)[1], -limit, limit), 0)

    def _times(self, value: Array, power: Array) -> Array:
        return value * power_of_two(self.m, power, value.dtype)[..., None]


class Normalized(Carry):
    """A carry of a device: every row is brought to about 1 at every step, and no number is looked at."""

    def __init__(self, m: Any, g: Array, powers: Array | None = None, later: Any = None) -> None:
        super().__init__(m, g, powers, later)
        self.nothing = m.zeros(self.value.shape[1:-1], "int64")
        self.power = self.nothing if self.power is None else self.power

    def arriving(self, t: int) -> tuple[Array, Array]:
        """Return what arrives at step t, and the powers of its rows."""
        powers = self.nothing if self.powers is None else self.powers[..., t, :]
        return self.g[..., t, :, :], powers

    def add(self, t: int) -> None:
        """Add what arrives at step t, and normalize."""
        m, own = self.m, self.power
        g, given = self.arriving(t)
        size = m.maximum(own + self.exponents(self.value), given + self.exponents(g))
        self.power = m.where(size < NOTHING // 2, own, size)
        self.value = times_rows(m, self.value, own - self.power)
        self.value += times_rows(m, g, given - self.power)

    def exponents(self, value: Array) -> Array:
        """Return the power of two that each row's largest size is about; :data:`NOTHING` for zeros."""
        m, top = self.m, _tops(self.m, value)
        exponent = m.where(m.isfinite(top), m.frexp(top)[1], self.nothing)
        return m.where(top == 0, NOTHING, exponent)


def power_of_two(m: Any, power: Array, dtype: Any) -> Array:
    """2**power as an array of the type; 0 where that is no normal number of it."""
    limit = largest_exponent(dtype)
    exponents = m.clip(power, -limit + 2, limit - 1).astype("int32")  # many times as fast as int64
    scale = m.ldexp(m.ones((), np.finfo(dtype).dtype), exponents)
    return m.where(power < -limit + 2, 0, scale).astype(scale.dtype, copy=False)


def times_rows(m: Any, array: Array, powers: Array) -> Array:
    """Each row of an array times 2 to its own power; in the type, which may not hold it."""
    limit = 4 * largest_exponent(array.dtype)  # further out, nothing changes any more
    if m is np and powers.size and powers.min() < 0:
        lost = power_of_two(m, _lowest(array.dtype) - 1 - powers, array.dtype)[..., None]
        array = m.where(m.abs(array) <= lost, 0, array)  # slow to round to 0
    return m.ldexp(array, m.clip(powers, -limit, limit)[..., None].astype("int32"))


@cache
def _lowest(dtype: Any) -> int:
    """The power of two of a floating type's smallest subnormal number."""
    info = np.finfo(dtype)
    return 2 - largest_exponent(dtype) - int(info.nmant)


def _tops(m: Any, value: Array) -> Array:
    """The largest size of an element in each row, over all parts."""
    return _highest(m.abs(value))


def _highest(size: Array) -> Array:
    """Over all parts; one axis after the other, which is the faster way."""
    return size.max(axis=-1).max(axis=0)
