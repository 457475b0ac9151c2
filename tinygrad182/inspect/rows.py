"""Cotangents of a pass through recurrences: bands outside them, a power of two for every row inside."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..backend import Array
from ..kernels.powers import NOTHING, exponents_of, largest_exponent, smallest, times_rows
from ..recording import Node
from ..unrolling import is_scan
from .scaling import Band, ScaledCotangents, reach_of


class RowCotangents(ScaledCotangents):
    """Cotangents of a pass through recurrences, where every row (a sequence at a step) has a power of two.

    Attributes
    ----------
    rows : int array (T, B), or None
        Of the recurrence popped last, the powers that its rows are to be multiplied by; None: all 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: Array | None = None
        self._by_row: dict[Node, list[Rows]] = {}

    def put_rows(self, scan: Node, rows: Rows) -> None:
        """Add to one part of the states of a recurrence."""
        self._by_row.setdefault(scan, []).append(rows)

    def pop(self, node: Node) -> Any:
        """Return the node's cotangent; a recurrence has one array, whose powers are in :attr:`rows`."""
        if not is_scan(node):
            return super().pop(node)
        bands, rows = self._arrived(node), self._by_row.pop(node, [])
        if len(bands) == 1 and not rows:
            ((g, power),) = bands
            self.powers, self.rows = [power], None
            return g
        self.powers = [0]
        g, self.rows = _merged(node.value, bands, rows) if bands or rows else (None, None)
        return g

    def put_spread(self, xp: Any, node: Node, g: Array, rows: Array, power: int) -> None:
        """Add an array whose rows have powers to what takes it as bands."""
        for array, p in _as_bands(xp, g, rows):
            self.put(node, array, p + power)


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

    def put_spread(self, xp: Any, node: Node, g: Array, rows: Array, power: int) -> None:
        """Add an array whose rows have powers in its own type, if that holds it."""
        m = xp.module
        whole = times_rows(m, g, rows + power)
        if node in self._watched:
            # what goes to 0 or infinity counts as the smallest number there is
            lost = ((whole == 0) & (g != 0)) | (m.isfinite(g) & ~m.isfinite(whole))
            self._seen.append(m.where(lost, smallest(g.dtype), whole))
        self.put(node, whole, 0)

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
    """Cotangents (T, B, H) of one part of a recurrence's states, and the powers (T, B) of its rows."""

    part: int
    values: Array
    powers: Array


def _merged(value: Array, bands: list[Band], rows: list[Rows]) -> tuple[Array, Array]:
    """The sum of all, in the shape of ``value``; the largest part of each row is about 1."""
    m = backend.namespace(value).module
    axes = (-1,) if value.ndim == 3 else (0, -1)
    with backend.on(value):
        sizes = [exponents_of(m, m.max(m.abs(g), axis=axes)) + p for g, p in bands]
        sizes += [exponents_of(m, m.max(m.abs(r.values), axis=-1)) + r.powers for r in rows]
        top = sizes[0]
        for size in sizes[1:]:
            top = m.maximum(top, size)
        top = m.where(top < NOTHING // 2, 0, top)
        whole = m.zeros(
            value.shape, m.result_type(*[g for g, _ in bands], *[r.values for r in rows])
        )
        for g, power in bands:
            whole += times_rows(m, g, power - top)
        for r in rows:
            part = whole if value.ndim == 3 else whole[r.part]
            part += times_rows(m, r.values, r.powers - top)
    return whole, top


def _as_bands(xp: Any, array: Array, powers: Array) -> list[Band]:
    """Rows beside their powers as bands of similar ones."""
    m, unit = xp.module, largest_exponent(array.dtype) // 2
    near = m.rint(powers / unit).astype("int64")
    bands = []
    for k in np.unique(xp.to_numpy(near)).tolist():
        rows = m.where((near == k)[..., None], array, 0)
        bands.append((times_rows(m, rows, m.where(near == k, powers - k * unit, 0)), k * unit))
    return bands
