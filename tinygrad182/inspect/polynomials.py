"""Cotangents by the number of hops on the way: polynomials in λ, of which every hop is a factor."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backpropagation import Cotangents, fit, pull
from ..kernels.arrays import Ends
from ..kernels.powers import NOTHING, or_zero, sizes_of, to_one
from ..recording import Node
from ..unrolling import is_scan
from .rows import RowCotangents, Rows
from .scaling import Band, Power, at_band
from .sending import sent
from .steps import Scaled, Steps, scaled
from .times import Times


class Polynomials(Cotangents):
    """Cotangents as polynomials: sums of their own, with powers of two, for every coefficient.

    A hop multiplies by λ: what goes over its edge is added to the next coefficient. The last one keeps all
    that is of a higher degree.

    Parameters
    ----------
    last : int
        The number of the last coefficient.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self.of = [RowCotangents() for _ in range(last + 1)]
        self.arrived: dict[int, Scaled] = {}
        """By coefficient, what arrived at the states of the recurrence popped last."""
        self.found: list[tuple[int, Band]] = []
        """The bands of the node popped last, and the coefficients that they are of."""
        self.hop = False
        """Whether the edge that is added next is a hop."""
        self._layout: list[tuple[int, Power]] = [(0, 0)]

    def add(self, node: Node, cotangent: Any) -> None:
        """Add what arrives over one edge; of a seed, the first coefficient."""
        for i, (j, power) in enumerate(self._layout):
            self.after(j, self.hop).put(node, at_band(cotangent, i), power)

    def after(self, j: int, hop: bool) -> RowCotangents:
        """The sums of what was of degree ``j`` before an edge."""
        return self.of[min(j + hop, len(self.of) - 1)]

    def pop(self, node: Node) -> Any:
        """The coefficients' bands on a leading axis; those of a recurrence are in :attr:`arrived`."""
        if is_scan(node):
            return self._pop_scan(node)
        self.found = []
        for j, sums in enumerate(self.of):
            g = sums.pop(node)
            self.found += [] if g is None else [(j, band) for band in sums.bands(g)]
        if not self.found:
            return None
        self._layout = [(j, power) for j, (_, power) in self.found]
        return backend.namespace(self.found[0][1][0]).stack([g for _, (g, _) in self.found])

    def _pop_scan(self, node: Node) -> Any:
        self.arrived, found = {}, None
        for j, sums in enumerate(self.of):
            g = sums.pop(node)
            if g is not None:
                found, self.arrived[j] = g, scaled(g, sums.powers[0])
        return found


class InsideScans:
    """Polynomials on their way back through recurrences that were run as one operation.

    Parameters
    ----------
    sums : Polynomials
    through : str
        The part of the state whose use by the next step is a hop.
    is_hop : callable
        ``is_hop(parent, time)``: whether the use of a node at a time step, or at none, is one.
    times : dict of Node to int
        The time steps of the nodes that belong to one.
    watched : dict of Node to int
        Recurrences, and the part of their states whose gradients are to be kept.

    Attributes
    ----------
    found : dict of Node to (array (K, T, B, H), int array (K, T, B))
        The coefficients of the gradients of ``watched``, and the powers of their rows.
    """

    def __init__(
        self,
        sums: Polynomials,
        through: str,
        is_hop: Callable[[Node, int | None], bool],
        times: Times,
        watched: dict[Node, int],
    ) -> None:
        self.sums = sums
        self.through = through
        self.is_hop = is_hop
        self.times = times
        self.watched = watched
        self.found: dict[Node, tuple[Array, Array]] = {}
        self._arrived: dict[Node, dict[int, Scaled]] = {}

    def arrive(self, node: Node) -> None:
        """Note what arrived at a recurrence, which was popped last."""
        self._arrived[node] = self.sums.arrived

    def finish(self) -> None:
        """Go through the recurrences that send nothing on."""
        for node in list(self._arrived):
            self._pull_scan(node, ())

    def pull(self, node: Node, g: Any, wanted: Container[Any]) -> list[tuple[Node, Any]]:
        """The cotangents a node sends to its inputs.

        Those of a recurrence, and those whose rows have powers of their own, are put there.
        """
        if is_scan(node):
            self._pull_scan(node, wanted)
        elif all(isinstance(power, int) for _, (_, power) in self.sums.found):
            return pull(node, g, wanted)
        else:
            for j, band in self.sums.found:
                self._pull_rows(node, j, *band, wanted)
        return []

    def _pull_rows(
        self, node: Node, j: int, g: Array, power: Power, wanted: Container[Any]
    ) -> None:
        """Send on one coefficient, as it is where its rows stay apart, else as bands."""
        for parent, cotangent, powers in sent(node, g, power, wanted):
            self._after(node, parent, j).put(parent, cotangent, powers)

    def _after(self, node: Node, parent: Node, j: int) -> RowCotangents:
        return self.sums.after(j, self.is_hop(parent, self.times.get(node)))

    def _pull_scan(self, node: Node, wanted: Container[Any]) -> None:
        """Go back through a recurrence, and send on what comes of it."""
        steps, count = Steps(node), len(self.sums.of)
        parts = steps.scan.parts
        hop = parts.index(self.through) if self.through in parts else None
        back = _Back(steps, self._arrived.pop(node), count, hop)
        x, *others = node.inputs or ()
        watched, kept, to_x = self.watched.get(node), [], []
        chunks = steps.chunks(np.arange(len(steps)), rows=count * steps.states.shape[2])
        for chunk in reversed(list(chunks)):
            states, sums, powers = back.run(chunk, watched, x in wanted)
            kept.append((states, powers))
            if x in wanted:
                to_x.append(to_one(np, sums @ steps.given.weight_ih, powers))
        if watched is not None:
            self.found[node] = _joined(kept)
        if to_x:
            self._put(node, x, *_joined(to_x), None)
        for value, initial in zip(back.value, others[: len(parts)], strict=True):
            if initial in wanted:
                self._put(node, initial, *to_one(np, value, back.power), steps.start)

    def of(self, node: Node) -> tuple[Array, Array]:
        """What was found of a recurrence; zeros where the loss does not depend on it."""
        if node in self.found:
            return self.found[node]
        shape = (len(self.sums.of), *node.value.shape[-3:])
        return np.zeros(shape), np.zeros(shape[:-1], np.int64)

    def _put(self, node: Node, parent: Any, values: Array, powers: Array, time: int | None) -> None:
        """Add coefficients (K, …, B, H), whose rows have powers (K, …, B), to what an input gets."""
        xp, hop = backend.namespace(node.value), self.is_hop(parent, time)
        for j, (g, rows) in enumerate(zip(values, powers, strict=True)):
            if not g.any():
                continue
            sums, g = self.sums.after(j, hop), fit(xp, node, parent, g)
            if (part := _part_of_scan(parent)) is not None:
                sums.put_rows(part[0], Rows(part[1], g, rows[..., None]))
            else:
                sums.put(parent, g, rows[..., None])


def _part_of_scan(node: Node) -> tuple[Node, int] | None:
    """The recurrence, and the part, that a node is all the states of."""
    if is_scan(node):
        return (node, 0) if node.value.ndim == 3 else None
    if node.op == "index" and len(node.params["key"]) == 1:
        (whole, *_), (part,) = node.inputs or (), node.params["key"]
        if isinstance(whole, Node) and is_scan(whole) and isinstance(part, int):
            return (whole, part) if whole.value.ndim == 4 else None
    return None


def _joined(windows: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Values and powers from those of windows (K, T, …), the last window first."""
    values, powers = zip(*reversed(windows), strict=True)
    return np.concatenate(values, axis=1), np.concatenate(powers, axis=1)


# --- the loop back over the steps of a recurrence ----------------------------------------------

_REACH = 2.0**200
"""Rows are rescaled where their largest element is beyond that, or below its inverse."""

_SPREAD = 128
"""A row's power lies at most this far below that of the coefficient before it, which a hop adds to it."""


_FAR = 300
"""What arrives is brought to the powers of the sum it joins, unless these lie further apart than this.

Then the sum too is brought to the higher of both."""


class _Coming:
    """What arrives at the states of a recurrence from outside.

    Attributes
    ----------
    among : slice
        The coefficients that it is of.
    values : array (T, parts, some coefficients, B, H)
    powers, tops : int array (T, some coefficients, B)
        Those of the rows, and what their largest elements are about.
    some : bool array (T, some coefficients, B)
        Which rows are not all zeros.
    """

    def __init__(self, arrived: dict[int, Scaled]) -> None:
        self.among = slice(min(arrived), max(arrived) + 1)
        like = next(iter(arrived.values()))
        nothing = Scaled(np.zeros_like(like.values), np.zeros_like(like.powers))
        given = [arrived.get(j, nothing) for j in range(self.among.start, self.among.stop)]
        self.values = np.ascontiguousarray(
            np.stack([g.values for g in given]).transpose(2, 1, 0, 3, 4)
        )
        self.powers = np.stack([g.powers for g in given], axis=1)
        sizes = np.abs(self.values).max(axis=(1, -1), initial=0.0)
        self.tops = sizes_of(np, sizes, self.powers)
        self.some = self.tops != NOTHING


class _Back:
    """Back over the steps of a recurrence, in float64; every row of every coefficient has a power of two.

    Attributes
    ----------
    value : array (parts, K, B, H)
        The coefficients of the cotangent of the state before the steps that were passed.
    power : int array (K, B)
    """

    def __init__(
        self, steps: Steps, arrived: dict[int, Scaled], count: int, hop: int | None
    ) -> None:
        self.steps = steps
        self.hop = hop
        parts, self.last, *sizes = steps.states.shape
        self.value = np.zeros((parts, count, *sizes))
        self.power = np.zeros((count, sizes[0]), np.int64)
        params = {k: v for k, v in steps.node.params.items() if k not in ("start", "shortest")}
        self.cell = steps.scan.cell(np, **params)
        self.weight = np.ascontiguousarray(steps.given.weight_hh, np.float64)
        lengths = steps.lengths()
        self.ends = Ends(lengths, self.last if lengths is None else int(lengths.min()))
        self._lift: Array | None = None
        self.coming = _Coming(arrived)
        self.comes: list[bool] = self.coming.some.any(axis=(1, 2)).tolist()

    def run(
        self, steps: Array, part: int | None, sums_too: bool
    ) -> tuple[Array, Array | None, Array]:
        """Go back over some steps, the last that are left; return what was found, coefficients first.

        These are the cotangents of one part of the states, those of the sums, and the powers of both.
        """
        start, n, (_, K, B, H), N = int(steps[0]), len(steps), self.value.shape, len(self.weight)
        states, powers = np.zeros((n, K, B, H)), np.empty((n, K, B), np.int64)
        sums = np.empty((n if sums_too else 1, K, B, N))
        factors = self._factors(start, start + n)
        flat = self.value[0].reshape(K * B, H)
        for i in range(n - 1, -1, -1):
            if start + i + 1 < self.last:
                self._shift()
            if self.comes[start + i]:
                self._add(start + i)
            self._rescale()
            powers[i] = self.power
            dz, here = sums[i if sums_too else 0], [f[i] for f in factors]
            over = self.ends.over(start + i)
            self._note(states[i], part, 0, over)
            self.cell.inside(here, self.value)
            for k in range(1, len(self.value)):
                self._note(states[i], part, k, over)
            self.cell.backward(here, self.value, dz)
            np.matmul(dz.reshape(K * B, N), self.weight, out=flat)
        return (
            states.swapaxes(0, 1),
            sums.swapaxes(0, 1) if sums_too else None,
            powers.swapaxes(0, 1),
        )

    def _note(self, states: Array, part: int | None, k: int, over: Array | None) -> None:
        """Keep one part's cotangent; past a sequence's end it goes no further."""
        if k == part:
            states[...] = self.value[k]
        if over is not None:
            self.value[k][:, over] = 0.0

    def _factors(self, start: int, stop: int) -> list[Array]:
        """The cell's factors at some steps, in float64."""
        before = []
        for states, initial in zip(self.steps.states, self.steps.given.initial, strict=True):
            first = initial if start == 0 else states[start - 1]
            before.append(np.concatenate([first[None], states[start : stop - 1]], dtype=np.float64))
        after = [states[start:stop].astype(np.float64) for states in self.steps.states]
        gates = self.steps.node.saved.gates[start:stop].astype(np.float64)
        return list(self.cell.factors(gates, before, after))

    def _shift(self) -> None:
        """Multiply by λ what goes on through the hopping part."""
        if self.hop is None:
            return
        value = self.value[self.hop]
        higher = value[:-1] if self._lift is None else value[:-1] * self._lift
        value[-1] += higher[-1]
        value[1:-1] = higher[:-1]  # NumPy copies what overlaps
        value[0] = 0.0

    def _add(self, t: int) -> None:
        """Add what arrives at a step from outside, brought to the powers here, or these to it."""
        coming = self.coming
        some, powers = coming.some[t], coming.powers[t]
        g = coming.values[t].astype(np.float64)
        shift = np.where(some, powers - self.power[coming.among], 0)
        if np.abs(shift).max() > _FAR:
            tops = self._exponents()
            tops[coming.among] = np.maximum(tops[coming.among], coming.tops[t])
            self._bring_to(tops)
            shift = np.where(some, powers - self.power[coming.among], 0)
        self.value[:, coming.among] += _times(g, shift) if shift.any() else g

    def _rescale(self) -> None:
        """Bring the rows to about 1 where one of them is far from it."""
        size = np.abs(self.value).max(axis=-1).max(axis=0)
        size[size == 0] = 1.0
        if not 1 / _REACH < size.min() <= size.max() < _REACH:
            self._bring_to(self._exponents())

    def _exponents(self) -> Array:
        return sizes_of(np, np.abs(self.value).max(axis=(0, -1), initial=0.0), self.power)

    def _bring_to(self, tops: Array) -> None:
        """Give every row the power of its largest element.

        None lies far below that of a lower coefficient, whose row is shifted to it.
        """
        some = tops != NOTHING
        lowest = np.where(some, tops, tops.max()).min(axis=0)
        power: Array = np.where(some, tops, or_zero(np, lowest))
        if self.hop is not None:
            room = _SPREAD * np.arange(len(tops))[:, None]
            power = np.maximum.accumulate(power + room, axis=0) - room
        self.value[...] = _times(self.value, self.power - power)
        self.power = power
        down = power[:-1] - power[1:]
        self._lift = _times(np.ones((*down.shape, 1)), down) if down.any() else None


def _times(values: Array, powers: Array) -> Array:
    """Each row times 2 to its power, in float64."""
    return np.ldexp(values, np.clip(powers, -4096, 4096)[..., None].astype(np.int32))
