"""Cotangents of a pass through recurrences: every row of an array may have a power of two of its own."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..backend import Array, Key
from ..kernels.powers import NOTHING, largest_exponent, or_zero, sizes_of, smallest
from ..primitives.index import Slice, fill
from ..recording import Node
from ..unrolling import is_scan
from .along import keeps_rows
from .elements import Elements
from .scaling import (
    NOT_FINITE,
    Band,
    Power,
    ScaledCotangents,
    reach_of,
    steps_that_show,
    times_power,
)


class RowCotangents(ScaledCotangents):
    """Cotangents whose bands have a power of two each, or one for every row (a sequence at a step).

    The steps of a vanishing sequence then are one array, and go through operations that keep rows apart
    (:mod:`.along`) as one. A recurrence gets one array.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_row: dict[Node, list[Band]] = {}
        self._parts: dict[Node, list[tuple[Slice, Power]]] = {}
        self._of_parts: dict[Node, list[Rows]] = {}

    def put(self, node: Node, cotangent: Any, power: Power) -> None:
        """Add one array at a power of two, or at one for every row."""
        if type(cotangent) is Slice:
            self._parts.setdefault(node, []).append((cotangent, power))
        elif isinstance(power, int):
            super().put(node, cotangent, power)
        elif not power.size or (power == power.flat[0]).all():
            super().put(node, cotangent, int(power.flat[0]) if power.size else 0)
        else:
            some = self._by_row.setdefault(node, [])
            for i, (g, p) in enumerate(some):
                if np.array_equal(p, power):
                    some[i] = g + cotangent, p
                    return
            some.append((cotangent, power))

    def put_rows(self, scan: Node, rows: Rows) -> None:
        """Add to one part of the states of a recurrence."""
        self._of_parts.setdefault(scan, []).append(rows)

    def pop(self, node: Node) -> Any:
        """The complete cotangent without its powers of two, which are then in :attr:`powers`."""
        if not is_scan(node):
            return super().pop(node)
        bands, rows = self._arrived(node), self._of_parts.pop(node, [])
        if not bands and not rows:
            return None
        if len(bands) == 1 and not rows and isinstance(bands[0][1], int):
            found = bands[0]
        else:
            found = _merged(node.value, bands, rows)
        self.powers = [found[1]]
        return found[0]

    def _arrived(self, node: Node) -> list[Band]:
        parts = self._parts.pop(node, None)
        wholes = self._joined(node, parts) if parts else None
        found = super()._arrived(node)
        if node in self._by_row:
            found += self._by_row.pop(node)
        if wholes:
            found += wholes
        return found

    def _joined(self, node: Node, parts: list[tuple[Slice, Power]]) -> list[Band]:
        """Parts of a node's cotangent as few whole ones; those of one power are put there."""
        power = parts[0][1]
        if all(isinstance(p, int) and p == power for _, p in parts):
            for s, _ in parts:
                super().put(node, s, power)
            return []
        return joined(node, parts)

    def apart(self, node: Node, bands: list[Band]) -> list[Band]:
        """Return a sum as bands in which no element is near the ends of its type."""
        if all(isinstance(power, int) for _, power in bands):
            return super().apart(node, bands)
        return _by_rank(bands)


class TrustedCotangents(RowCotangents):
    """Cotangents of a pass on a device that the host does not wait for on the way.

    The pass goes on as if nothing outside recurrences left what its type holds well. :meth:`held` says at
    the end whether that was so; if not, what was found is wrong and has to be found in another way.

    Parameters
    ----------
    watched : container of Node
        The nodes whose cotangents have to be true, and what these are computed from.
    """

    def __init__(self, watched: Container[Node]) -> None:
        super().__init__()
        self._watched = watched
        self._seen: list[Array] = []

    def is_held(self, node: Node, g: Array) -> bool:
        """Let the array go on as it is; :meth:`held` looks at it later."""
        if node in self._watched:
            self._seen.append(g)
        return True

    def put(self, node: Node, cotangent: Any, power: Power) -> None:
        """Add an array; one whose rows have powers in its own type, if that holds it."""
        if not isinstance(power, int):
            g, cotangent, power = cotangent, times_power(cotangent, power), 0
            if node in self._watched:
                # what goes to 0 or infinity counts as the smallest number there is
                xp = backend.namespace(g)
                m, whole = xp.module, cotangent
                with xp.on(g):
                    lost = ((whole == 0) & (g != 0)) | (m.isfinite(g) & ~m.isfinite(whole))
                    self._seen.append(m.where(lost, smallest(g.dtype), whole))
        super().put(node, cotangent, power)

    def held(self) -> bool:
        """Whether every cotangent stayed within what its type holds well; the host waits once."""
        alike: dict[Any, list[Array]] = {}
        for g in self._seen:
            xp = backend.namespace(g)
            alike.setdefault((xp, xp.device(g), g.dtype), []).append(g)
        verdicts = []
        for (xp, *_), arrays in alike.items():
            with xp.on(arrays[0]):
                sizes = xp.abs(xp.concat([xp.reshape(g, (-1,)) for g in arrays]))
                reach = reach_of(sizes)
                near = (sizes >= 1 / reach) & (sizes <= reach)
                verdicts.append(xp.all(near | (sizes == 0) | ~xp.isfinite(sizes)))
        return all(bool(v) for v in backend.fetch(verdicts))


class Rows(NamedTuple):
    """Cotangents of one part of a recurrence's states, (*lead, T, B, H).

    The powers of its rows are (*lead, T, B, 1).
    """

    part: int
    values: Array
    powers: Array


def _merged(value: Array, bands: list[Band], rows: list[Rows]) -> Band:
    """The sum of all, in the shape of a recurrence's ``value``; each row at the power of its largest part.

    The powers are (*lead, [1,] T, B, 1).
    """
    m = backend.namespace(value).module
    some = bands[0][0] if bands else rows[0].values
    lead = some.shape[: some.ndim - (value.ndim if bands else 3)]
    axes = (-1,) if value.ndim == 3 else (-4, -1)
    with backend.on(value):
        every = [(g, power, axes) for g, power in bands]
        every += [(r.values, r.powers, (-1,)) for r in rows]
        top = m.full((*lead, *value.shape[-3:-1]), NOTHING)
        for g, power, over in every:
            top = m.maximum(top, m.max(sizes_of(m, g, power), axis=over))
        top = or_zero(m, top)[..., None]
        whole = m.zeros((*lead, *value.shape), m.result_type(*[g for g, *_ in every]))
        tops = top if value.ndim == 3 else top[..., None, :, :, :]
        for g, power in bands:
            whole += times_power(g, power - tops)
        for r in rows:
            part = whole if value.ndim == 3 else whole[..., r.part, :, :, :]
            part += times_power(r.values, r.powers - top)
    return whole, tops


def joined(node: Node, parts: list[tuple[Slice, Power]]) -> list[Band]:
    """Parts of a node's cotangent as few whole ones: rows as they are, other parts added up."""
    rows = [(s, p) for s, p in parts if keeps_rows(s, node) and _of_rows(p)]
    others = [(s, p) for s, p in parts if not (keeps_rows(s, node) and _of_rows(p))]
    return placed(node, rows) + ([elements_of(node, others)] if others else [])


def _of_rows(power: Power) -> bool:
    return isinstance(power, int) or bool(power.shape[-1] == 1)


def elements_of(node: Node, parts: list[tuple[Slice, Power]]) -> Band:
    """Parts of a node's cotangent as a whole one, where they may overlap."""
    lead = parts[0][0].lead
    total = Elements(parts[0][0].value, (*lead, *node.value.shape))
    for s, power in parts:
        key = (slice(None),) * len(lead) + fill(s.key, s.arrays)
        total.add(s.value, power, total.places[key])
    return total.band()


def placed(node: Node, parts: list[tuple[Slice, Power]]) -> list[Band]:
    """Parts of a node's cotangent as few whole ones: each in the first whose rows can take it."""
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
    """Whether a part has its rows for itself, or its place in rows of the same powers."""
    if not whole[rows].any():
        return True
    return not whole[key].any() and bool((powers[rows] == power).all())


def _by_rank(bands: list[Band]) -> list[Band]:
    """Return a sum as bands with powers by rows: in the first each row's largest elements, and so on.

    Sizes lie on a grid of powers, as those of bands without rows. There are as many bands as the elements
    of a row lie apart; rows of one band need not have the same power.
    """
    m, unit = backend.namespace(bands[0][0]).module, largest_exponent(bands[0][0].dtype) // 2
    shows = steps_that_show(bands[0][0].dtype)
    shape = np.broadcast_shapes(*(p.shape for _, p in bands if not isinstance(p, int)))
    axes = tuple(i for i, n in enumerate(shape) if n == 1)
    left = [_on_grid(m, g, power, unit) for g, power in bands]
    kept: list[tuple[Array, Array]] = []
    taken: Array = False
    while True:
        top = m.full(shape, NOTHING)
        for level in left:
            top = m.maximum(top, level.max(axis=axes, keepdims=True))
        if (top == NOTHING).all():
            return [(g, m.where(k == NOTHING, 0, k * unit)) for g, k in kept]
        low = m.zeros_like(bands[0][0])
        for (g, power), level in zip(bands, left, strict=True):
            here = (level == top) & (level != NOTHING)
            low += times_power(m.where(here, g, 0), m.where(here, power - top * unit, 0))
            level[here] = NOTHING
        for i, (high, above) in enumerate(kept[-shows:], max(len(kept) - shows, 0)):
            near = (high != 0) & (above - top <= shows)
            if near.any():
                kept[i] = high + m.where(near, times_power(low, (top - above) * unit), 0), above
        if kept:
            low = m.where(taken, 0, low)
        new = low != 0
        if new.any():
            kept.append((low, top))
            taken = taken | new
            for level in left:
                level[new & (level < top - shows)] = NOTHING


def _on_grid(m: Any, g: Array, power: Power, unit: int) -> Array:
    """Which multiple of ``unit`` the power of two of every element is about."""
    level = (m.frexp(g)[1].astype("int64") - 1 + power + unit // 2) // unit
    level = m.where(m.isfinite(g), level, NOT_FINITE // unit)
    return m.where(g == 0, NOTHING, level)


def as_bands(g: Array, powers: Array, limit: int | None = None) -> Iterator[Band]:
    """Yield an array whose rows have powers as bands of one power each.

    With ``limit``, what is at a higher power is put there, and what is at a lower than -``limit`` is 0.
    """
    m, unit = backend.namespace(g).module, largest_exponent(g.dtype) // 2
    if limit is not None:
        g, powers = m.where(powers < -limit, 0, g), m.clip(powers, -limit, limit)
    near = m.rint(powers / unit).astype("int64")
    for k in np.unique(near).tolist():
        some = m.where(near == k, g, 0)
        if some.any():
            yield times_power(some, m.where(near == k, powers - k * unit, 0)), k * unit
