"""Cotangents that neither underflow nor overflow: sums of arrays times powers of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backpropagation import Cotangents, backpropagate
from ..kernels.powers import largest_exponent, times_rows
from ..modes import modes_kept, no_grad
from ..primitives.index import Slice
from ..recording import Node

Power = Any
"""An exponent of two: an int or, for an array whose rows differ, an int array that broadcasts with it."""

Band = tuple[Array, Power]
"""An array and the power of two it is to be multiplied by. No array goes without: :func:`times_power` and
:func:`whole_of` put powers back."""


NOT_FINITE = 2**30
"""The power that infinities and NaNs are given: above all others, so that they hide what is beside them."""


class ScaledCotangents(Cotangents):
    """Cotangents as bands: arrays times powers of two, so that nothing underflows or overflows.

    Backward is linear in the cotangent and a power of two is exact. While a cotangent stays within what
    its type holds well it is one array, and the pass is the plain one. Where its elements lie further
    apart (the steps of a vanishing sequence in one array, a sample that explodes beside one that
    vanishes), it is split by magnitude, and the bands go through the rules together, on a leading axis.
    """

    def __init__(self) -> None:
        super().__init__()
        self.powers: list[Power] = [0]
        """Those of the node popped last: what arrives next over its edges has them too."""
        self._by_power: dict[int, Cotangents] = {}
        self._powers_of: dict[Node, dict[int, None]] = {}  # those that something of a node has

    def add(self, node: Node, cotangent: Any) -> None:
        """Add what arrives over one edge, at the powers of the node it comes from."""
        for i, power in enumerate(self.powers):
            self.put(node, cotangent if len(self.powers) == 1 else at_band(cotangent, i), power)

    def put(self, node: Node, cotangent: Any, power: int) -> None:
        """Add one array at a power of two."""
        if power not in self._by_power:
            self._by_power[power] = Cotangents()
        self._powers_of.setdefault(node, {})[power] = None
        self._by_power[power].add(node, cotangent)

    def pop(self, node: Node) -> Any:
        """The complete cotangent without its powers of two, which are then in :attr:`powers`."""
        found = self._arrived(node)
        if not found:
            return None
        if len(found) > 1 or not (_needs_no_care(node) or self.is_held(node, found[0][0])):
            found = self.apart(node, found) or [(zeros_like(found[0][0]), 0)]
        self.powers = [power for _, power in found]
        if len(found) == 1:
            return found[0][0]
        return backend.namespace(found[0][0]).stack([array for array, _ in found])

    def apart(self, node: Node, bands: list[Band]) -> list[Band]:
        """Split a sum into bands of elements of similar size, none where another has one."""
        return _disjoint([band for g, power in bands for band in _split(g, power)])

    def is_held(self, node: Node, g: Array) -> bool:
        """Whether the one array that arrived may go on as it is."""
        return _is_held(g)

    def _arrived(self, node: Node) -> list[Band]:
        powers = self._powers_of.pop(node, {})
        return [(g, p) for p in powers if (g := self._by_power[p].pop(node)) is not None]

    def bands(self, g: Array) -> list[Band]:
        """The cotangent popped last as pairs of an array and its power, the highest first."""
        return list(zip([g] if len(self.powers) == 1 else g, self.powers, strict=True))


def at_band(cotangent: Any, i: int) -> Any:
    """One band of what a rule returned."""
    if type(cotangent) is Slice:
        return Slice(cotangent.key, cotangent.arrays, cotangent.value[i, ...], cotangent.lead[1:])
    return cotangent[i, ...]


def _needs_no_care(node: Node) -> bool:
    """Whether nothing is computed from the node's cotangent."""
    return node.primitive is None or node.primitive.view


def _is_held(array: Array) -> bool:
    """Whether no element is so near the ends of its type that one operation could reach them."""
    top, bottom = _extremes(array)
    reach = reach_of(array)
    return not 0 < top < math.inf or (1 / reach <= bottom and top <= reach)


def reach_of(array: Array) -> float:
    """The size that elements may have without one operation reaching the end of their type."""
    return 2.0 ** (largest_exponent(array.dtype) // 2)


def _extremes(array: Array) -> tuple[float, float]:
    """Largest size of an element, and smallest but 0."""
    if not math.prod(array.shape):
        return 0.0, 0.0
    xp = backend.namespace(array)
    sizes = xp.abs(array)
    top = float(xp.max(sizes))
    if top == 0:
        return 0.0, 0.0
    return top, float(xp.min(sizes)) or float(xp.min(xp.where(sizes > 0, sizes, top)))


def _split(array: Array, power: int) -> list[Band]:
    """The array as bands on a grid of powers, highest first; in each, sizes are about 1.

    Band k holds the elements of size 2**(unit · (k ± ½)), times 2**(−unit · k).
    """
    xp, unit = backend.namespace(array), largest_exponent(array.dtype) // 2
    top, bottom = _extremes(array)
    bands: list[Band] = []
    if not top < math.inf:
        finite = xp.isfinite(array)
        bands.append((xp.where(finite, 0.0, array), NOT_FINITE))
        array = xp.where(finite, array, 0.0)
        top, bottom = _extremes(array)
    while top > 0:
        k = (math.frexp(top)[1] - 1 + power + unit // 2) // unit
        chosen, start = array, unit * k - unit // 2 - power
        if start >= math.frexp(bottom)[1]:
            mask = xp.abs(array) >= 2.0**start
            chosen, array = xp.where(mask, array, 0.0), xp.where(mask, 0.0, array)
            top, bottom = _extremes(array)
        else:
            top = 0.0
        bands.append((times_power(chosen, power - unit * k), unit * k))
    return bands


def _disjoint(bands: list[Band]) -> list[Band]:
    """Return the sum of ``bands`` as others, highest power first, each element in one of them only.

    ``bands`` come from :func:`_split`. Where a higher one has an element, those that show beside it are
    added to it (:func:`steps_that_show`).
    """
    sums: dict[int, Array] = {}
    for array, power in bands:
        sums[power] = _plus(sums[power], array) if power in sums else array
    kept: list[Band] = []
    taken: Array = False
    for power in sorted(sums, reverse=True):
        low = sums[power]
        xp = backend.namespace(low)
        shows = steps_that_show(low.dtype) * (largest_exponent(low.dtype) // 2)
        for i, (high, above) in enumerate(kept):
            if above - power <= shows:
                shown = xp.where(high != 0, times_power(low, power - above), 0.0)
                kept[i] = (_plus(high, shown), above)
        if kept:
            low = xp.where(taken, 0.0, low)
        elements = low != 0
        if bool(xp.any(elements)):
            kept.append((low, power))
            taken = taken | elements
    return kept


@cache
def steps_that_show(dtype: Any) -> int:
    """By how many steps of the grid of powers an element may lie below another and show beside it.

    On neighbouring steps sizes may be close; each further step is ``largest_exponent(dtype) // 2`` powers
    of two. So it is 1, but for float16, whose steps are shorter than its 11 digits: 2.
    """
    digits = int(np.finfo(str(dtype).rpartition(".")[2]).nmant) + 2
    return -(-digits // (largest_exponent(dtype) // 2))


def zeros_like(array: Array) -> Array:
    """Zeros of the array's shape, type and device."""
    with backend.on(array):
        return backend.namespace(array).zeros_like(array)


def times_power(array: Array, power: Power) -> Array:
    """``array`` · 2**power: 0 where that underflows, ±∞ where it overflows."""
    return _times_int(array, power) if isinstance(power, int) else _times_rows(array, power)


def _times_rows(array: Array, powers: Array) -> Array:
    """``times_power`` with a power for every row, or for every element."""
    xp = backend.namespace(array)
    with xp.on(array), np.errstate(over="ignore"):
        if powers.shape[-1:] == (1,):
            return times_rows(xp.module, array, powers[..., 0])
        return times_rows(xp.module, array[..., None], powers)[..., 0]


def _times_int(array: Array, power: int) -> Array:
    """``times_power`` with one power, in steps that the array's type can hold."""
    limit = largest_exponent(array.dtype)
    power = max(-3 * limit, min(3 * limit, power))  # further out, nothing changes any more
    with backend.on(array):
        while power:
            step = max(-limit // 2, min(limit // 2, power))
            array = backend.namespace(array).asarray(array * 2.0**step)
            power -= step
    return array


def whole_of(bands: list[Band]) -> Array:
    """The sum of the bands in the model's dtype."""
    with np.errstate(over="ignore", under="ignore"):
        total = times_power(*bands[0])
        for band in bands[1:]:
            total = total + times_power(*band)
    return total


@modes_kept
def gradients_in_bands(
    root: Node,
    seed: Array,
    targets: set[Node],
    stop: bool = False,
    edge: Callable[[Node, Node, Any], Any] | None = None,
) -> dict[Node, list[Band]]:
    """The gradient by every target, as bands: true however small or large it is.

    ``stop`` and ``edge`` are those of :func:`backpropagate`.
    """
    found: dict[Node, list[Band]] = {}
    sums = ScaledCotangents()

    def keep(node: Node, g: Array) -> None:
        if node in targets:
            found[node] = sums.bands(g)

    with no_grad():
        backpropagate(
            [(root, seed)],
            targets,
            visit=keep,
            edge=edge,
            stop=stop,
            retain_graph=True,
            cotangents=sums,
        )
    return found


def _plus(a: Array, b: Array) -> Array:
    """The sum, as an array also where NumPy makes a scalar of it."""
    return backend.namespace(a).asarray(a + b)
