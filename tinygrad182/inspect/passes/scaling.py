"""Arrays with powers of two beside them, which neither underflow nor overflow: parts, sums and norms.

A power is a number for the whole array, or an int array with a power for every row (a sequence at a step)
or element. Such an array has size 1 along the axes on which the powers do not depend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array, Key
from ...engine.recording import Node
from ...kernels.powers import NOTHING, largest_exponent, or_zero, sizes_of, times_rows
from ...primitives.index import Slice, fill

Power = Any
"""An exponent of two: an int or, for an array whose rows differ, an int array that broadcasts with it."""

Band = tuple[Array, Power]
"""An array and the power of two that it is to be multiplied by; :func:`times_power` and :func:`whole_of`
multiply."""

NOT_FINITE = 2**30
"""The power of infinities and NaNs: above all others, so that they win in every sum."""

HostArray = np.ndarray[Any, Any]


def zeros_like(array: Array, lead: tuple[int, ...] = ()) -> Array:
    """Zeros of the array's shape, dtype and device, behind leading axes."""
    with backend.on(array):
        xp = backend.namespace(array)
        return xp.zeros((*lead, *array.shape), dtype=array.dtype) if lead else xp.zeros_like(array)


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
    """``times_power`` with one power, in factors that the array's dtype can hold."""
    limit = largest_exponent(array.dtype)
    power = max(-3 * limit, min(3 * limit, power))  # beyond that, nothing changes any more
    with backend.on(array):
        while power:
            step = max(-limit // 2, min(limit // 2, power))
            array = backend.namespace(array).asarray(array * 2.0**step)
            power -= step
    return array


def whole_of(bands: list[Band]) -> Array:
    """The sum of the bands in the model's dtype."""
    if len(bands) == 1 and isinstance(bands[0][1], int) and not bands[0][1]:
        return bands[0][0]
    with np.errstate(over="ignore", under="ignore"):
        total = times_power(*bands[0])
        for band in bands[1:]:
            total = total + times_power(*band)
    return total


def in_own_type(states: Array, powers: Array) -> Array:
    """The gradients with their powers put back: 0 where they underflow, ±∞ where they overflow."""
    xp = backend.namespace(states)
    if not xp.guarded:  # the host need not wait for a device to see the powers
        if not powers.any():
            return states
        if (powers == powers.flat[0]).all():
            return times_power(states, int(powers.flat[0]))
    return times_power(states, powers[..., None])


def _plus(a: Array, b: Array) -> Array:
    """The sum as an array, also where NumPy returns a scalar."""
    return backend.namespace(a).asarray(a + b)


# --- by magnitude -------------------------------------------------------------------------------


def is_in_range(array: Array) -> bool:
    """Whether no element is so near the limits of its dtype that one operation could reach them."""
    top, bottom = _extremes(array)
    reach = reach_of(array)
    return not 0 < top < math.inf or (1 / reach <= bottom and top <= reach)


def reach_of(array: Array) -> float:
    """The size that elements may have so that no single operation reaches the limit of their dtype."""
    return 2.0 ** (largest_exponent(array.dtype) // 2)


def farthest(arrays: list[Array]) -> float:
    """The largest factor, up or down, between 1 and the size of an element that is not 0 or infinite."""
    xp = backend.namespace(arrays[0])
    with xp.on(arrays[0]):
        flat = [xp.reshape(g, (-1,)) for g in arrays]
        top, bottom = _extremes(whole := flat[0] if len(flat) == 1 else xp.concat(flat))
        if not top < math.inf:
            top, bottom = _extremes(xp.where(xp.isfinite(whole), whole, 0.0))
    return max(top, 1 / bottom) if bottom else 1.0


def by_type(arrays: list[Array]) -> dict[Any, list[Array]]:
    """Arrays by their library, device and dtype."""
    alike: dict[Any, list[Array]] = {}
    for g in arrays:
        kind: Any = g.dtype
        if type(g) is not np.ndarray:
            xp = backend.namespace(g)
            kind = (xp, xp.device(g), g.dtype)
        alike.setdefault(kind, []).append(g)
    return alike


def _extremes(array: Array) -> tuple[float, float]:
    """The largest size of an element, and the smallest that is not 0."""
    if not math.prod(array.shape):
        return 0.0, 0.0
    xp = backend.namespace(array)
    sizes = xp.abs(array)
    top = float(xp.max(sizes))
    if top == 0:
        return 0.0, 0.0
    return top, float(xp.min(sizes)) or float(xp.min(xp.where(sizes > 0, sizes, top)))


def split(array: Array, power: int) -> list[Band]:
    """Split an array into bands on a grid of powers, highest first; in each band sizes are about 1.

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


def disjoint(bands: list[Band]) -> list[Band]:
    """Return the sum of ``bands`` as bands that share no element, highest power first.

    ``bands`` come from :func:`split`. Where several have an element, the highest keeps it, and those that
    are not negligible beside it are added to it (:func:`steps_that_show`).
    """
    sums: dict[int, Array] = {}
    for array, power in bands:
        sums[power] = _plus(sums[power], array) if power in sums else array
    found: list[Band] = []
    taken: Array = False
    for power in sorted(sums, reverse=True):
        low = sums[power]
        xp = backend.namespace(low)
        shows = steps_that_show(low.dtype) * (largest_exponent(low.dtype) // 2)
        for i, (high, above) in enumerate(found):
            if above - power <= shows:
                shown = xp.where(high != 0, times_power(low, power - above), 0.0)
                found[i] = (_plus(high, shown), above)
        if found:
            low = xp.where(taken, 0.0, low)
        elements = low != 0
        if bool(xp.any(elements)):
            found.append((low, power))
            taken = taken | elements
    return found


@cache
def steps_that_show(dtype: Any) -> int:
    """The steps of the grid of powers by which an element may lie below another without being negligible.

    On neighbouring steps sizes may be close; each further step is ``largest_exponent(dtype) // 2`` powers
    of two. The result is 1, but 2 for float16, whose steps are shorter than its 11 binary digits.
    """
    digits = int(np.finfo(str(dtype).rpartition(".")[2]).nmant) + 2
    return -(-digits // (largest_exponent(dtype) // 2))


def by_rank(bands: list[Band]) -> list[Band]:
    """Return a sum as bands with powers by rows: the first has each row's largest elements, and so on.

    Sizes lie on the grid of :func:`split`. The number of bands depends on how much sizes differ inside a
    row; the rows of one band may have different powers.
    """
    m, unit = backend.namespace(bands[0][0]).module, largest_exponent(bands[0][0].dtype) // 2
    shows = steps_that_show(bands[0][0].dtype)
    shape = np.broadcast_shapes(*(p.shape for _, p in bands if not isinstance(p, int)))
    axes = tuple(i for i, n in enumerate(shape) if n == 1)
    left = [_on_grid(m, g, power, unit) for g, power in bands]
    found: list[tuple[Array, Array]] = []
    taken: Array = False
    while True:
        top = m.full(shape, NOTHING)
        for level in left:
            top = m.maximum(top, level.max(axis=axes, keepdims=True))
        if (top == NOTHING).all():
            return [(g, m.where(k == NOTHING, 0, k * unit)) for g, k in found]
        low = m.zeros_like(bands[0][0])
        for (g, power), level in zip(bands, left, strict=True):
            here = (level == top) & (level != NOTHING)
            low += times_power(m.where(here, g, 0), m.where(here, power - top * unit, 0))
            level[here] = NOTHING
        for i, (high, above) in enumerate(found[-shows:], max(len(found) - shows, 0)):
            near = (high != 0) & (above - top <= shows)
            if near.any():
                found[i] = high + m.where(near, times_power(low, (top - above) * unit), 0), above
        if found:
            low = m.where(taken, 0, low)
        new = low != 0
        if new.any():
            found.append((low, top))
            taken = taken | new
            for level in left:
                level[new & (level < top - shows)] = NOTHING


def _on_grid(m: Any, g: Array, power: Power, unit: int) -> Array:
    """The step of every element on the grid of multiples of ``unit``."""
    level = (m.frexp(g)[1].astype("int64") - 1 + power + unit // 2) // unit
    level = m.where(m.isfinite(g), level, NOT_FINITE // unit)
    return m.where(g == 0, NOTHING, level)


def as_bands(g: Array, powers: Array, limit: int | None = None) -> Iterator[Band]:
    """Yield an array whose rows have powers as bands of one power each.

    With ``limit``, higher powers are set to it, and rows at a power below -``limit`` count as 0.
    """
    m, unit = backend.namespace(g).module, largest_exponent(g.dtype) // 2
    if limit is not None:
        g, powers = m.where(powers < -limit, 0, g), m.clip(powers, -limit, limit)
    near = m.rint(powers / unit).astype("int64")
    for k in np.unique(near).tolist():
        some = m.where(near == k, g, 0)
        if some.any():
            yield times_power(some, m.where(near == k, powers - k * unit, 0)), k * unit


# --- sums of parts ------------------------------------------------------------------------------


class Elements:
    """A sum of arrays at powers of two.

    Parameters
    ----------
    like : array
        An array of the library and dtype of the sum.
    shape : tuple of int

    Attributes
    ----------
    places : int array
        The number of every element, in the sum's shape, as :meth:`add` takes it.
    """

    def __init__(self, like: Array, shape: tuple[int, ...]) -> None:
        self.m = backend.namespace(like).module
        self.shape = shape
        size = math.prod(shape)
        self.places = self.m.arange(size).reshape(shape)
        self._values = self.m.zeros(size, like.dtype)
        self._powers = self.m.full(size, NOTHING)  # the power at which an element is about 1

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
        limit = 4 * largest_exponent(values.dtype)  # beyond that, nothing changes any more
        return self.m.ldexp(values, self.m.clip(powers, -limit, limit).astype("int32"))

    @property
    def parts(self) -> tuple[Array, Array]:
        """The elements and the power of each."""
        return self._values.reshape(self.shape), self._powers.reshape(self.shape)

    def band(self) -> Band:
        """The sum as a band, whose powers have size 1 along axes on which they hardly depend.

        Elements are at most as far below 1 as :func:`reach_of` allows.
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
    """Return the sum of all elements at or behind each place along an axis.

    Pairs are added up first, then groups of four, and so on.
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


def joined(node: Node, parts: list[tuple[Slice, Power]]) -> list[Band]:
    """Join parts of a node's cotangent to a few whole ones: rows are placed, other parts added up."""
    rows = [(s, p) for s, p in parts if _keeps_rows(s, node) and _of_rows(p)]
    others = [(s, p) for s, p in parts if not (_keeps_rows(s, node) and _of_rows(p))]
    return placed(node, rows) + ([elements_of(node, others)] if others else [])


def _of_rows(power: Power) -> bool:
    return isinstance(power, int) or bool(power.shape[-1] == 1)


def _keeps_rows(s: Slice, node: Node) -> bool:
    """Whether a part of a node's cotangent is some of its rows, or pieces of some."""
    key, ndim = s.key, node.value.ndim
    return (
        not s.arrays
        and None not in key
        and (len(key) < ndim or (len(key) == ndim and isinstance(key[-1], slice)))
    )


def elements_of(node: Node, parts: list[tuple[Slice, Power]]) -> Band:
    """Add up parts of a node's cotangent, which may overlap."""
    lead = parts[0][0].lead
    total = Elements(parts[0][0].value, (*lead, *node.value.shape))
    for s, power in parts:
        key = (slice(None),) * len(lead) + fill(s.key, s.arrays)
        total.add(s.value, power, total.places[key])
    return total.band()


def placed(node: Node, parts: list[tuple[Slice, Power]]) -> list[Band]:
    """Place parts of a node's cotangent in a few whole ones: each in the first that has room."""
    wholes: list[tuple[Array, Array]] = []
    for s, power in parts:
        key = (slice(None),) * len(s.lead) + s.key
        rows = key[: len(s.lead) + node.value.ndim - 1]
        here = next((w for w in wholes if _has_room(*w, key, rows, power)), None)
        if here is None:
            m, shape = backend.namespace(s.value).module, (*s.lead, *node.value.shape)
            here = m.zeros(shape, node.value.dtype), m.zeros((*shape[:-1], 1), "int64")
            wholes.append(here)
        here[0][key] = s.value
        here[1][rows] = power
    return list(wholes)


def _has_room(whole: Array, powers: Array, key: Key, rows: Key, power: Power) -> bool:
    """Whether the rows of a part are empty, or its place is and the rows have its powers."""
    if not whole[rows].any():
        return True
    return not whole[key].any() and bool((powers[rows] == power).all())


# --- norms in float64 ---------------------------------------------------------------------------


_SAFE = 1e-280
"""A sum of squares above this is right: squares that underflowed are a smaller part than ε."""


def row_norms(rows: Array) -> Array:
    """2-norms along the last axis, right where the squares would under- or overflow."""
    xp = backend.namespace(rows)
    m = xp.module
    with xp.on(rows):
        if m is np:  # one pass is enough where no square is out of range
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                squares = np.einsum("...i,...i->...", rows, rows)
            if squares.size and squares.min() > _SAFE and squares.max() < math.inf:
                return np.sqrt(squares)
        top = _largest(m, rows)
        scale = m.where((top > 0) & (top < math.inf), top, 1.0)
        return scale * m.sqrt(m.sum((rows / scale[..., None]) ** 2, axis=-1))


def shifted(values: HostArray, powers: Any) -> HostArray:
    """Arrays of the host times 2 to powers of any size, which broadcast with them."""
    return np.ldexp(values, np.clip(powers, -4096, 4096).astype(np.int32))


def host_rows(values: Array, count: int) -> HostArray:
    """Values as ``count`` rows, in float64 on the host."""
    host = backend.namespace(values).to_numpy(values).astype(np.float64, copy=False)
    return host.reshape(count, host.size // max(count, 1))


def _largest(m: Any, rows: Array) -> Array:
    """The largest size along the last axis; 0 if that is empty."""
    if m is np:
        return np.maximum(np.max(rows, axis=-1, initial=0.0), -np.min(rows, axis=-1, initial=0.0))
    return m.max(m.abs(rows), axis=-1) if rows.shape[-1] else m.zeros(rows.shape[:-1])


def step_norms(states: Array) -> Array:
    """The norm at every step, ``(T,)``, where the states are."""
    return row_norms(_wide(states, (len(states), math.prod(states.shape[1:]))))


def sample_norms(states: Array, ndim: int | None = None) -> Array:
    """The norm of each sample ``(…, B)`` in states ``(…, B, H)``; a state without a batch is one sample.

    A state has ``ndim`` axes; by default all but the first of ``states``.
    """
    return row_norms(_wide(states, _by_sample(states, ndim)))


def at_sample_powers(states: Array, powers: Array, ndim: int) -> tuple[Array, Array]:
    """States whose elements have powers of two, in float64, and a single power for each sample (…, B)."""
    xp = backend.namespace(states)
    m, shape = xp.module, _by_sample(states, ndim)
    with xp.on(states):
        wide = states.astype("float64").reshape(shape)
        powers = m.broadcast_to(powers, states.shape).reshape(shape)
        top = or_zero(m, m.max(sizes_of(m, wide, powers), axis=-1))
        shifts = m.clip(powers - top[..., None], -4096, 4096).astype("int32")
        return m.ldexp(wide, shifts).reshape(states.shape), top


def _by_sample(states: Array, ndim: int | None) -> tuple[int, ...]:
    """The shape in which a row is a sample."""
    start = 1 if ndim is None else states.ndim - ndim
    front, state = states.shape[:start], states.shape[start:]
    samples = state[0] if len(state) > 1 else 1
    return (*front, samples, math.prod(state) // max(samples, 1))


def total_norms(norms: HostArray, powers: HostArray) -> tuple[HostArray, HostArray]:
    """The norm over all samples and bands at every step, and its logarithm, which does not underflow.

    Parameters
    ----------
    norms, powers : ndarrays (bands, T, …, B)
        Legs of right triangles, each beside the power of two it is to be multiplied by.
    """
    least = powers.min(initial=0)  # of an empty batch too
    top = np.where(norms == 0, least, powers).max(axis=(0, -1), initial=least)
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        legs = np.ldexp(norms, powers - top[..., None])
        total = row_norms(np.hypot.reduce(legs, axis=0))
        return np.ldexp(total, top), np.log(total) + top * math.log(2)


def log10(norms: Any) -> Any:
    """Decadic logarithms; −∞ for 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(norms)


def log10_norm(bands: Iterable[Band]) -> float:
    """The decadic logarithm of the norm of an array that is given as bands; −∞ without bands."""
    logs = []
    for array, power in bands:
        wide = backend.fetch([array])[0].astype("float64")
        top = power
        if not isinstance(power, int):
            powers = np.broadcast_to(backend.fetch([power])[0], wide.shape)
            top = int(powers[wide != 0].max(initial=powers.min()))
            with np.errstate(under="ignore"):
                wide = np.ldexp(wide, powers - top)
        size = backend.norm(wide)
        log = math.log10(size) if size > 0 or math.isnan(size) else -math.inf
        logs.append(log + top * math.log10(2))
    return log10_together(logs)


def log10_together(logs: Sequence[float]) -> float:
    """The decadic logarithm of the joint norm of several arrays, from those of their norms.

    >>> round(10 ** log10_together([math.log10(3), math.log10(4)]), 9)
    5.0
    >>> log10_together([-400.0, -math.inf])
    -400.0
    """
    top = max(logs, default=-math.inf)
    if any(math.isnan(log) for log in logs):
        return math.nan
    if not math.isfinite(top):
        return top
    return top + 0.5 * math.log10(sum(10 ** (2 * (log - top)) for log in logs))


def _wide(states: Array, shape: tuple[int, ...]) -> Array:
    """An array in float64 and another shape; on the host if its library lacks NumPy's functions."""
    xp = backend.namespace(states)
    states = states if xp.has_loops else xp.to_numpy(states)
    with backend.on(states):
        return states.astype("float64").reshape(shape)
