"""Cotangents by the number of hops on their way: polynomials in λ, where every hop multiplies by λ."""

from __future__ import annotations

from collections.abc import Callable, Container
from copy import copy
from functools import partial
from typing import Any

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import Cotangents, ancestors, match_input, pull
from ...engine.recording import Node
from ...kernels import numpy_loops
from ...kernels.carry import Carry
from ...kernels.numpy_loops import of_gates
from ...kernels.powers import NOTHING, or_zero, sizes_of, to_one
from ...kernels.runs import FULL_LENGTH, Lengths, Run, StepCotangents, Weights
from ...primitives.index import Slice
from ...recurrence.scans import is_scan
from ..loops.steps import Scaled, Steps, scaled
from ..loops.times import Times
from ..passes.along import input_cotangents
from ..passes.gradients import PartCotangents, RowCotangents, at_band, states_of
from ..passes.scaling import Band, Power, joined, shifted


class Polynomials(Cotangents):
    """Cotangents as polynomials: each coefficient has sums of its own, with powers of two.

    A hop multiplies by λ: the cotangent of its edge is added to the next coefficient. The last coefficient
    also has everything of a higher degree.

    Parameters
    ----------
    last : int
        The number of the last coefficient.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self.of = [RowCotangents() for _ in range(last + 1)]
        self.arrived: dict[int, Scaled] = {}
        """By coefficient, the cotangents of the states of the fused layer popped last."""
        self.found: list[tuple[int, Band]] = []
        """The bands of the node popped last, each with its coefficient."""
        self.hop = False
        """Whether the edge that is added next is a hop."""
        self._layout: list[tuple[int, Power]] = [(0, 0)]

    def add(self, node: Node, cotangent: Any) -> None:
        """Add the cotangent of one edge; a seed is added to the first coefficient."""
        for i, (j, power) in enumerate(self._layout):
            self.after(j, self.hop).put(node, at_band(cotangent, i), power)

    def after(self, j: int, hop: bool) -> RowCotangents:
        """The sums that take a coefficient of degree ``j`` after an edge."""
        return self.of[min(j + hop, len(self.of) - 1)]

    def pop(self, node: Node) -> Any:
        """The coefficients' bands on a leading axis; those of a fused layer are in :attr:`arrived`."""
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
    """Polynomials on their way back through fused layers.

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
        Fused layers, and the part of their states whose gradients are kept.

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
        """Note the cotangents of a fused layer, which was popped last."""
        self._arrived[node] = self.sums.arrived

    def finish(self) -> None:
        """Go through the fused layers behind which there is no target."""
        for node in list(self._arrived):
            self._pull_scan(node, ())

    def pull(self, node: Node, g: Any, wanted: Container[Any]) -> list[tuple[Node, Any]]:
        """Return the cotangents of a node's inputs; add those with powers by rows to the sums."""
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
        """Send one coefficient on, with powers by rows."""
        for parent, cotangent, powers in input_cotangents(node, g, power, wanted):
            self._after(node, parent, j).put(parent, cotangent, powers)

    def _after(self, node: Node, parent: Node, j: int) -> RowCotangents:
        return self.sums.after(j, self.is_hop(parent, self.times.get(node)))

    def _pull_scan(self, node: Node, wanted: Container[Any]) -> None:
        """Go back through a fused layer, and add the cotangents of its inputs."""
        steps, count = Steps(node), len(self.sums.of)
        weight, H = steps.given.weight_ih, steps.states.shape[-1]
        by_x = of_gates(np, weight, node.residuals.program.x_gates, H)
        parts = steps.scan.parts
        kind = partial(Hopping, parts.index(self.through) if self.through in parts else None)
        x, *others = node.inputs or ()
        watched, kept, to_x = self.watched.get(node), [], []
        found: Any = None  # until the last steps were gone through
        arrived = self._arrived.pop(node)
        chunks = steps.chunks(np.arange(len(steps)), rows=count * steps.states.shape[2])
        for chunk in reversed(list(chunks)):
            found = _back(steps, chunk, _dense(arrived, count, chunk), kind, found)
            if watched is not None:
                kept.append((found.states[watched], found.powers))
            if x in wanted:
                to_x.append(to_one(np, found.sums[..., : len(by_x)] @ by_x, found.powers))
        if watched is not None:
            self.found[node] = _joined(kept)
        if to_x:
            self._put(node, x, *_joined(to_x), None)
        for value, initial in zip(found.initial, others[: len(parts)], strict=True):
            if initial in wanted:
                self._put(node, initial, *to_one(np, value, found.initial_powers), steps.start)

    def of(self, node: Node) -> tuple[Array, Array]:
        """The coefficients inside a fused layer; zeros if the loss does not depend on it."""
        if node in self.found:
            return self.found[node]
        shape = (len(self.sums.of), *node.value.shape[-3:])
        return np.zeros(shape), np.zeros(shape[:-1], np.int64)

    def _put(self, node: Node, parent: Any, values: Array, powers: Array, time: int | None) -> None:
        """Add coefficients (K, …, B, H), with powers (K, …, B) of rows, to an input's cotangent."""
        xp, hop = backend.namespace(node.value), self.is_hop(parent, time)
        for j, (g, rows) in enumerate(zip(values, powers, strict=True)):
            if not g.any():
                continue
            sums, g = self.sums.after(j, hop), match_input(xp, node, parent, g)
            if (state := states_of(parent)) is not None:
                sums.put_rows(state.node, PartCotangents(state.part, g, rows[..., None]))
            else:
                sums.put(parent, g, rows[..., None])


def _joined(windows: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Join the values and powers of windows (K, T, …), of which the last comes first."""
    values, powers = zip(*reversed(windows), strict=True)
    return np.concatenate(values, axis=1), np.concatenate(powers, axis=1)


# --- the loop back over the steps of a recurrence ----------------------------------------------


def _dense(arrived: dict[int, Scaled], count: int, steps: Array) -> Scaled:
    """The cotangents of some steps' states, by coefficients (parts, K, steps, B, H), in float64."""
    parts, _, B, H = next(iter(arrived.values())).values.shape
    values = np.zeros((parts, count, len(steps), B, H))
    powers = np.zeros((count, len(steps), B), np.int64)
    for j, given in arrived.items():
        values[:, j], powers[j] = given.at(steps)
    return Scaled(values, powers)


def _back(
    steps: Steps, chunk: Array, given: Scaled, kind: Callable[..., Carry], later: Any
) -> StepCotangents:
    """Go back over some steps in float64, with all coefficients at once."""
    start, stop = int(chunk[0]), int(chunk[-1]) + 1
    first = steps.given.initial if start == 0 else steps.states[:, start - 1]
    lengths = steps.lengths()
    ends = FULL_LENGTH if lengths is None else Lengths(lengths - start, int(lengths.min()) - start)
    saved = steps.node.residuals
    others = tuple([w.astype(np.float64) for w in saved.others])
    run = Run(
        saved.program,
        np,
        Weights(None, saved.weight_hh.astype(np.float64), None, None, others),
        [h.astype(np.float64) for h in first],
        saved.values[start:stop].astype(np.float64),
        steps.states[:, start:stop].astype(np.float64),
        ends,
    )
    return numpy_loops.backward(run, *given, with_states=True, later=later, make_carry=kind)


_REACH = 2.0**200
"""PartCotangents are rescaled where their largest element is beyond that, or below its inverse."""

_SPREAD = 128
"""A row's power is at most this far below that of the coefficient before it, which a hop adds to it."""

_FAR = 300
"""A cotangent is brought to the powers of the sum it joins, unless the powers differ by more than this.

Then the sum is brought to the higher power of both."""


class Hopping(Carry):
    """The coefficients of a cotangent on its way back, (parts, K, B, H), each row at a power of its own.

    Parameters
    ----------
    hop : int or None
        The part of the state whose use by the next step is a hop, a multiplication by λ.
    g, powers, later
        As for :class:`.Carry`.
    """

    def __init__(
        self, hop: int | None, g: Array, powers: Array, later: StepCotangents | None
    ) -> None:
        super().__init__(g, powers, later)
        self.hop = hop
        self.begun = later is not None
        if later is None:
            self.power = np.zeros(self.value.shape[1:-1], np.int64)
        self.tops = sizes_of(np, np.abs(g).max(axis=(0, -1), initial=0.0), powers)
        some = self.tops != NOTHING
        self.comes: list[bool] = some.any(axis=(0, -1)).tolist()
        self.among = slice(int(some.any(axis=(1, -1)).nonzero()[0].max(initial=0)) + 1)
        self._lift: Array | None = None
        self._note_lift()

    def add(self, t: int) -> None:
        """Multiply the hopping part by λ, add the cotangents of step t, and rescale."""
        if self.begun and self.hop is not None:
            self._shift(self.value[self.hop])
        self.begun = True
        if self.comes[t]:
            self._add(t)
        size = np.abs(self.value).max(axis=-1).max(axis=0)
        size[size == 0] = 1.0
        if not 1 / _REACH < size.min() <= size.max() < _REACH:
            self._bring_to(self._exponents())

    def _shift(self, value: Array) -> None:
        """Multiply the hopping part by λ."""
        higher = value[:-1] if self._lift is None else value[:-1] * self._lift
        value[-1] += higher[-1]
        value[1:-1] = higher[:-1]  # NumPy copies what overlaps
        value[0] = 0.0

    def _add(self, t: int) -> None:
        """Add the cotangents of step t, brought to the powers here, or these to theirs."""
        some, powers = self.tops[:, t] != NOTHING, self.powers[:, t]
        shift = np.where(some, powers - self.power, 0)
        if np.abs(shift).max() > _FAR:
            self._bring_to(np.maximum(self._exponents(), self.tops[:, t]))
            shift = np.where(some, powers - self.power, 0)
        g, here = self.g[:, self.among, t], shift[self.among]
        self.value[:, self.among] += shifted(g, here[..., None]) if here.any() else g

    def _exponents(self) -> Array:
        return sizes_of(np, np.abs(self.value).max(axis=(0, -1), initial=0.0), self.power)

    def _bring_to(self, tops: Array) -> None:
        """Give every row the power of its largest element.

        It is raised where a lower coefficient, whose row will be added to it, has a much higher power.
        """
        some = tops != NOTHING
        lowest = np.where(some, tops, tops.max()).min(axis=0)
        power: Array = np.where(some, tops, or_zero(np, lowest))
        if self.hop is not None:
            room = _SPREAD * np.arange(len(tops))[:, None]
            power = np.maximum.accumulate(power + room, axis=0) - room
        self.value[...] = shifted(self.value, (self.power - power)[..., None])
        self.power = power
        self._note_lift()

    def _note_lift(self) -> None:
        """Note the factor of a row when it is added to the next coefficient."""
        down = self.power[:-1] - self.power[1:]
        self._lift = shifted(np.ones((*down.shape, 1)), down[..., None]) if down.any() else None


# --- through your own loop -----------------------------------------------------------------------
#
# All coefficients of a cotangent are one array. Every row (the elements along the last axis) of every
# coefficient has a power of two of its own, and the arithmetic is in float64. So the elements of a cell
# state, whose gradients drift apart by a factor at every step, stay in one array. A result that is smaller
# than 2^-800 times the largest element of its row may become 0, as in the fused loops.

WithPowers = tuple[Array, Array]
"""Coefficients (K, …), and the powers of their rows, which broadcast against them."""


def in_float64(root: Node) -> dict[Node, Node]:
    """Copy a graph on the host, with float64 values as NumPy's arrays; return the copy of each node."""
    twins: dict[Any, Node] = {}
    for node in ancestors([root], constants=True):
        twin = twins[node] = copy(node)
        value = backend.namespace(node.value).to_numpy(node.value)
        twin.value = value.astype(np.float64) if value.dtype.kind == "f" else value
        twin.inputs = tuple([twins.get(x, x) for x in node.inputs or ()])
        twin.grad = None
    return twins


class Coefficients(Cotangents):
    """Cotangents as polynomials in λ, where every hop multiplies by λ.

    The last coefficient also has everything of a higher degree.

    Parameters
    ----------
    count : int
        The number of coefficients.
    is_hop : callable
        ``is_hop(consumer, parent)``: whether an edge is one.

    Attributes
    ----------
    powers : array
        The powers of the cotangent popped last.
    """

    def __init__(self, count: int, is_hop: Callable[[Node, Node], bool]) -> None:
        super().__init__()
        self.count = count
        self.is_hop = is_hop
        self.powers: Array = np.zeros((), np.int64)
        self._arrays: dict[Node, list[WithPowers]] = {}
        self._parts: dict[Node, list[tuple[Slice, Array]]] = {}

    def add(self, node: Node, cotangent: Any) -> None:
        """Add a seed: the first coefficient."""
        values = np.zeros((self.count, *node.value.shape))
        values[0] = cotangent
        self.put(node, values, np.zeros((1,) * values.ndim, np.int64))

    def put(self, node: Node, cotangent: Any, powers: Array) -> None:
        """Add coefficients whose rows have powers, or a part of them."""
        if type(cotangent) is Slice:
            self._parts.setdefault(node, []).append((cotangent, powers))
            return
        some = self._arrays.setdefault(node, [])
        for i, (values, p) in enumerate(some):
            if p is powers or np.array_equal(p, powers):
                some[i] = values + cotangent, p
                return
        some.append((cotangent, powers))

    def pop(self, node: Node) -> Any:
        """The complete cotangent without its powers of two, which are then in :attr:`powers`."""
        parts = self._parts.pop(node, [])
        arrived = self._arrays.pop(node, []) + (joined(node, parts) if parts else [])
        if not arrived:
            return None
        values, self.powers = _sum(arrived)
        return values

    def pull(self, node: Node, g: Array, wanted: Container[Any]) -> list[tuple[Node, Any]]:
        """Add the cotangents of a node's inputs."""
        for parent, cotangent, powers in input_cotangents(node, g, self.powers, wanted):
            self._send(node, parent, cotangent, powers)
        return []

    def _send(self, node: Node, parent: Node, cotangent: Any, powers: Array) -> None:
        """Add the cotangent of one edge; a hop raises the degree of every coefficient but the last."""
        if not self.is_hop(node, parent):
            self.put(parent, cotangent, powers)
            return
        powers = np.broadcast_to(powers, (self.count, *powers.shape[1:]))
        value = cotangent.value if type(cotangent) is Slice else cotangent
        higher, last = np.zeros_like(value), np.zeros_like(value)
        higher[1:], last[-1] = value[:-1], value[-1]
        up = np.concatenate([powers[:1], powers[:-1]])
        for moved, p in ((higher, up), (last, powers)):
            if type(cotangent) is Slice:
                moved = Slice(cotangent.key, cotangent.arrays, moved, cotangent.lead)
            self.put(parent, moved, p)


def _sum(terms: list[WithPowers]) -> WithPowers:
    """The sum of coefficients; each row is at the power of its largest part."""
    values, powers = terms[0]
    if len(terms) == 1:
        size = np.abs(values).max(axis=-1 if values.ndim > 1 else (), initial=0.0)
        size = size[size > 0]
        if not size.size or 1 / _REACH < size.min() <= size.max() < _REACH:
            return values, powers
    tops = np.maximum.reduce([_tops(g, p) for g, p in terms])
    tops = or_zero(np, tops)
    return sum(shifted(g, p - tops) for g, p in terms), tops


def at_coefficient_powers(values: Array, powers: Array) -> WithPowers:
    """The coefficients with one power each (K,), at which its largest element is about 1."""
    top = or_zero(np, _tops(values, powers).reshape(len(values), -1).max(axis=1))
    return shifted(values, powers - top.reshape(-1, *(1,) * (values.ndim - 1))), top


def _tops(values: Array, powers: Array) -> Array:
    """The power of two of each row's largest element, or of each element where elements have powers."""
    sizes = np.abs(values)
    if values.ndim > 1 and powers.shape[-1] == 1:
        sizes = sizes.max(axis=-1, keepdims=True, initial=0.0)
    return sizes_of(np, sizes, powers)
