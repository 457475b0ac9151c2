"""The cotangents that NumPy's loops carry back through time, with their powers of two.

:func:`.numpy_loops.backward` makes one :class:`Carry` for a pass and calls it at every step. What a row's
power means, and in which range rows are kept, is said in :mod:`.powers`. The inspector's hop counts carry
polynomials instead (:mod:`..inspect.polynomials`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..arrays.namespaces import Array
from .powers import NOTHING, exponent_range, largest_exponent, powers_of_two, smallest, two_to
from .runs import StepCotangents


class Carry:
    """Cotangents of a state on their way back: ``value`` (parts, …, B, H) with ``power`` (…, B).

    An int is the power of all rows. What arrives from the loss is ``g`` (parts, …, T, B, H) with ``powers``
    (…, T, B), and ``later`` has the cotangents of the steps after these. A row is rescaled when its largest
    element leaves :func:`.powers.exponent_range`.
    """

    def __init__(
        self, g: Array, powers: Array | None = None, later: StepCotangents | None = None
    ) -> None:
        self.g = g
        self.range = exponent_range(g.dtype)
        self.start = -self.range.middle
        self.low, self.high = (two_to(g.dtype, e) for e in (self.range.low, self.range.high))
        self.tiny = smallest(g.dtype)
        self.powers: Any = 0 if powers is None else powers
        shape = (*g.shape[:-3], *g.shape[-2:])
        self.value = np.zeros(shape, g.dtype) if later is None else later.initial.copy()
        self.power: Any = self.start if later is None else later.initial_powers

    def add(self, t: int) -> None:
        """Add what arrives at step t, and rescale."""
        if not self.value.size:
            return
        if isinstance(self.power, int) and isinstance(self.powers, int):
            value = self.g[..., t, :, :] * self._raised
            value += self.value
            magnitude = np.abs(value)
            if self._is_in_range(magnitude):
                self.value = value
                return
            top = _top(magnitude)
            if top.max() < np.inf:  # g could be raised that far
                self.value = value
                self._rescale(magnitude, top)
                return
        if self._arriving[t]:
            self._add_at_powers(t)
        magnitude = np.abs(self.value)
        self._rescale(magnitude, _top(magnitude))

    @cached_property
    def _raised(self) -> Array:
        """The factor that brings ``g`` to the power of ``value``, as an array: that multiplies faster."""
        return np.asarray(two_to(self.g.dtype, self.powers - self.power))

    def _is_in_range(self, magnitude: Array) -> bool:
        """Whether no row surely needs rescaling, judged by the sums of the rows' elements."""
        parts, H = len(magnitude), magnitude.shape[-1]
        totals = magnitude.reshape(-1, H).dot(self._ones)
        if parts > 1:
            totals = totals.reshape(parts, -1).sum(axis=0)
        least, most = totals.min(), totals.max()
        in_range = self.low * parts * H <= least and most < self.high
        return bool(in_range and magnitude.min() >= self.tiny)

    @cached_property
    def _ones(self) -> Array:
        return np.ones(self.g.shape[-1], self.g.dtype)

    @cached_property
    def _arriving(self) -> list[bool]:
        """At which steps ``g`` is not all zeros."""
        axes = (*range(self.g.ndim - 3), -2, -1)
        return list(self.g.any(axis=axes).tolist())

    def _add_at_powers(self, t: int) -> None:
        """Add ``g`` at step t where powers differ. The larger row goes to the middle of the range."""
        g_power = self.powers if isinstance(self.powers, int) else self.powers[..., t, :]
        terms = []
        size = np.full(self.value.shape[1:-1], NOTHING)
        for rows, power in ((self.value, self.power), (self.g[..., t, :, :], g_power)):
            top = _top(np.abs(rows))
            exponent = self._exponent(top)
            size = np.where(top == 0, size, np.maximum(size, power + exponent))
            terms.append((rows, exponent, power + exponent))
        self.power = np.where(size == NOTHING, self.power, size - self.range.middle)
        carried, arriving = (
            self._times(self._times(rows, -exponent), size - self.power)
            for rows, exponent, size in terms
        )
        self.value = carried + arriving

    def _rescale(self, magnitude: Array, top: Array) -> None:
        """Bring rows that are out of range to the middle of it, and set subnormal elements to 0.

        ``magnitude`` is |value|, and ``top`` has the largest element of each row.
        """
        if not (top.min() >= self.low and top.max() < self.high):
            stays = ((top >= self.low) & (top < self.high)) | (top == 0) | ~np.isfinite(top)
            if not stays.all():
                limit = largest_exponent(top.dtype) - 2
                shift = np.clip(self.range.middle - self._exponent(top), -limit, limit)
                shift = np.where(stays, 0, shift)
                self.value = self._times(self.value, shift)
                self.power = self.power - shift
                magnitude = np.abs(self.value)
        if magnitude.min() < self.tiny:
            self.value[magnitude < self.tiny] = 0

    def _exponent(self, top: Array) -> Array:
        """The exponent of each row's largest element; the middle of the range where it is not finite."""
        limit = largest_exponent(top.dtype) - 2
        exponent = np.clip(np.frexp(top)[1], -limit, limit)
        return np.where(np.isfinite(top), exponent, self.range.middle)

    def _times(self, value: Array, powers: Array) -> Array:
        return value * powers_of_two(np, powers, value.dtype)[..., None]


def _top(magnitude: Array) -> Array:
    """The largest element over units and parts. One axis after the other is faster than both at once."""
    return magnitude.max(axis=-1).max(axis=0)
