"""Sums in which every element has a power of two of its own, where rows of different powers meet.

However many powers there are, such a sum is one array beside its powers.
"""

from __future__ import annotations

import math

from .. import backend
from ..backend import Array
from ..kernels.powers import NOTHING, largest_exponent, sizes_of
from .scaling import Band, Power


class Elements:
    """A sum of arrays at powers of two.

    Parameters
    ----------
    like : array
        An array of the library and type that the sum is to have.
    shape : tuple of int

    Attributes
    ----------
    places : int array
        The number of every element, in the sum's shape: what :meth:`add` takes.
    """

    def __init__(self, like: Array, shape: tuple[int, ...]) -> None:
        self.m = backend.namespace(like).module
        self.shape = shape
        size = math.prod(shape)
        self.places = self.m.arange(size).reshape(shape)
        self._values = self.m.zeros(size, like.dtype)
        self._powers = self.m.full(size, NOTHING)  # at which an element is about 1

    def add(self, values: Array, powers: Power, places: Array) -> None:
        """Add values at some places, which may be repeated; the powers broadcast against the values."""
        m, shown = self.m, values != 0
        if not shown.any():
            return
        powers = m.broadcast_to(powers, values.shape)[shown]
        places = m.broadcast_to(places, values.shape)[shown]
        values = values[shown]
        before = self._powers[places]
        m.maximum.at(self._powers, places, sizes_of(m, values, powers))
        top = self._powers[places]
        self._values[places] = self._times(self._values[places], before - top)
        m.add.at(self._values, places, self._times(values, powers - top))
        gone = places[self._values[places] == 0]
        self._powers[gone] = NOTHING

    def _times(self, values: Array, powers: Array) -> Array:
        limit = 4 * largest_exponent(values.dtype)  # further out, nothing changes any more
        return self.m.ldexp(values, self.m.clip(powers, -limit, limit).astype("int32"))

    @property
    def parts(self) -> tuple[Array, Array]:
        """The elements and the power of each."""
        return self._values.reshape(self.shape), self._powers.reshape(self.shape)

    def band(self) -> Band:
        """The sum, with size 1 in its powers along axes on which they do not depend much.

        No element is then further below 1 than an array may be that goes on as it is.
        """
        m, apart = self.m, largest_exponent(self._values.dtype) // 2
        values, own = self.parts
        high, low = own, m.where(own == NOTHING, -NOTHING, own)
        for axis in reversed(range(len(self.shape))):
            top, bottom = (
                m.max(high, axis=axis, keepdims=True, initial=NOTHING),
                m.min(low, axis=axis, keepdims=True, initial=-NOTHING),
            )
            if bool((top - bottom < apart).all()):
                high, low = top, bottom
        high = m.where(high == NOTHING, 0, high)
        return self._times(values, m.where(own == NOTHING, 0, own - high)), high


def cumulated(g: Array, powers: Power, axis: int) -> Band:
    """Return the sum of all that stands at or behind each place along an axis.

    Pairs are added up first, then fours, and so on.
    """
    total = Elements(g, g.shape)
    axis %= g.ndim
    total.add(g, powers, total.places)
    distance = 1
    while distance < g.shape[axis]:
        values, own = total.parts
        later, earlier = (
            (slice(None),) * axis + (part,)
            for part in (slice(distance, None), slice(None, -distance))
        )
        total.add(values[later], own[later], total.places[earlier])
        distance *= 2
    return total.band()
