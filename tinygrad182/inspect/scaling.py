"""Cotangents that neither underflow nor overflow: sums of arrays times powers of two."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backpropagation import Cotangents
from ..primitives.index import Slice
from ..recording import Node

Band = tuple[Array, int]
"""An array and the power of two it is to be multiplied by."""


class ScaledCotangents(Cotangents):
    """Cotangents as bands: arrays times powers of two, so that nothing underflows or overflows.

    Backward is linear in the cotangent and a power of two is exact. While a cotangent stays within what
    its type holds well it is one array, and the pass is the plain one. Where its elements lie further
    apart (the steps of a vanishing sequence in one array, a sample that explodes beside one that
    vanishes), it is split by magnitude, and the bands go through the rules together, on a leading axis.
    """

    def __init__(self) -> None:
        super().__init__()
        self.powers = [0]
        """Of the node popped last: what arrives next over its edges has them too."""
        self._by_power: dict[int, Cotangents] = {}

    def add(self, node: Node, cotangent: Any) -> None:
        """Add what arrives over one edge, at the powers of the node it comes from."""
        for i, power in enumerate(self.powers):
            if power not in self._by_power:
                self._by_power[power] = Cotangents()
            one = cotangent if len(self.powers) == 1 else _at(cotangent, i)
            self._by_power[power].add(node, one)

    def pop(self, node: Node) -> Any:
        """The complete cotangent without its powers of two, which are then in :attr:`powers`."""
        found = [(g, p) for p, c in self._by_power.items() if (g := c.pop(node)) is not None]
        if not found:
            return None
        bands = _disjoint([band for g, power in found for band in _split(g, power)])
        self.powers = [power for _, power in bands]
        if len(bands) == 1:
            return bands[0][0]
        return backend.namespace(bands[0][0]).stack([array for array, _ in bands])

    def bands(self, g: Array) -> list[Band]:
        """The cotangent popped last as pairs of an array and its power, the highest first."""
        return list(zip([g] if len(self.powers) == 1 else g, self.powers, strict=True))


def _at(cotangent: Any, i: int) -> Any:
    """One band of what a rule returned."""
    if type(cotangent) is Slice:
        return Slice(cotangent.key, cotangent.arrays, cotangent.value[i, ...], ())
    return cotangent[i, ...]


def _split(array: Array, power: int) -> list[Band]:
    """The array, as bands within which no element is near the ends of its type."""
    if not math.prod(array.shape):
        return [(array, power)]
    xp = backend.namespace(array)
    sizes = xp.abs(array)
    top, bottom = float(xp.max(sizes)), float(xp.min(sizes))
    limit = _largest_exponent(array.dtype)
    lowest, highest = 2.0 ** (-limit // 2), 2.0 ** (limit // 2)  # one operation reaches no end
    if bottom < lowest:
        bottom = float(xp.min(xp.where(sizes > 0, sizes, top)))
    if lowest <= bottom <= top <= highest or not 0 < top < math.inf:
        return [(array, power)]
    # Band k holds sizes from 2**(unit · (k - ½)): brought to about 1, each has room on both sides.
    unit = limit // 2
    k = (math.frexp(top)[1] + unit // 2) // unit
    bands = []
    while top > 0:
        threshold = 2.0 ** max(unit * k - unit // 2, -2 * limit)
        chosen = sizes >= threshold
        bands.append((times_power(xp.where(chosen, array, 0.0), -unit * k), power + unit * k))
        array, sizes = xp.where(chosen, 0.0, array), xp.where(chosen, 0.0, sizes)
        top = float(xp.max(sizes))
        k -= 1
    return bands


def _disjoint(bands: list[Band]) -> list[Band]:
    """The same sum, highest power first, each element in one band only.

    Where a higher band has an element, lower ones are added to it: what underflows there would not
    show beside it.
    """
    if len(bands) == 1:
        return bands
    xp = backend.namespace(bands[0][0])
    kept: list[Band] = []
    for array, power in sorted(bands, key=lambda band: -band[1]):
        low = array
        for i, (high, above) in enumerate(kept):
            taken = (high != 0) | (power == above)
            kept[i] = (xp.where(taken, high + times_power(low, power - above), high), above)
            low = xp.where(taken, 0.0, low)
        if bool(xp.any(low != 0)):
            kept.append((low, power))
    return kept or bands[:1]


@cache
def _largest_exponent(dtype: Any) -> int:
    """Power of two at which a floating type overflows; it underflows at about the negative of it."""
    return int(np.finfo(str(dtype).rpartition(".")[2]).maxexp)


def times_power(array: Array, power: int) -> Array:
    """``array`` · 2**power, in steps that its type can hold."""
    limit = _largest_exponent(array.dtype)
    power = max(
        -3 * limit, min(3 * limit, power)
    )  # beyond the whole range nothing changes any more
    while power:
        step = max(-limit // 2, min(limit // 2, power))
        array = backend.namespace(array).asarray(array * 2.0**step)
        power -= step
    return array
