"""Backward passes for the views: cotangents carry powers of two, and fused layers give all their gradients.

A fused layer is not opened. The pass runs the layer's own backward loop, which computes the gradient of
every state in any case, and keeps these gradients.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import Cotangents, ancestors, backpropagate, match_input, pull
from ...engine.memory import in_pass
from ...engine.recording import Leaf, Node
from ...kernels.powers import (
    NOTHING,
    largest_exponent,
    or_zero,
    sizes_of,
    smallest,
    times_all,
    to_one,
)
from ...kernels.powers import two_to as power_of_two
from ...kernels.products import InputCotangents, WithPower
from ...primitives.index import Slice
from ...recurrence.scans import Scan, Window, is_scan
from .along import input_cotangents
from .scaling import (
    Band,
    Power,
    by_rank,
    by_type,
    disjoint,
    farthest,
    is_in_range,
    joined,
    reach_of,
    split,
    times_power,
    zeros_like,
)

Seed = tuple[Node, Array]
"""A node, and the cotangent that arrives at it."""


_ZERO: list[Power] = [0]
"""The powers of one array without a power of its own."""


class ScaledCotangents(Cotangents):
    """Cotangents as bands: arrays times powers of two, so that nothing underflows or overflows.

    Backward is linear in the cotangent, and a product with a power of two is exact. A cotangent whose
    elements are well within the range of its dtype is one array, as in any backward pass. A cotangent with
    a wider range (the steps of a vanishing sequence in one array, an exploding sample beside a vanishing
    one) is split by magnitude, and the bands go through the rules together, on a leading axis.

    Parameters
    ----------
    looks_later : bool
        Whether to check many cotangents at once, after they were used, as long as they stay near 1.
        LostError is raised if one is then so far from 1 that another operation may have lost it.
    """

    def __init__(self, looks_later: bool = False) -> None:
        super().__init__()
        self._unseen: list[Array] | None = [] if looks_later else None
        self._waiting = 0  # the number of their elements
        self._latest: Array = None
        self.powers: list[Power] = _ZERO
        """The powers of the node popped last; the cotangents added next, over its edges, have them too."""
        self._unscaled = Cotangents()  # cotangents with the power 0
        self._by_power: dict[int, Cotangents] = {}
        self._powers_of: dict[Node, dict[int, None]] = {}  # nodes that get other powers

    def add(self, node: Node, cotangent: Any) -> None:
        """Add the cotangent of one edge, at the powers of the node popped last."""
        if self.powers is _ZERO:
            self._unscaled.add(node, cotangent)
            return
        for i, power in enumerate(self.powers):
            self.put(node, cotangent if len(self.powers) == 1 else at_band(cotangent, i), power)

    def put(self, node: Node, cotangent: Any, power: int) -> None:
        """Add one array at a power of two."""
        if power == 0:
            self._unscaled.add(node, cotangent)
            return
        if power not in self._by_power:
            self._by_power[power] = Cotangents()
        self._powers_of.setdefault(node, {})[power] = None
        self._by_power[power].add(node, cotangent)

    def pop(self, node: Node) -> Any:
        """The complete cotangent without its powers of two, which are then in :attr:`powers`."""
        if node in self._powers_of:
            return self._whole(node, self._arrived(node))
        g = self._unscaled.pop(node)
        if g is None or _needs_no_care(node) or self.is_in_range(node, g):
            self.powers = _ZERO
            return g
        return self._whole(node, [(g, 0)])

    def _whole(self, node: Node, found: list[Band]) -> Any:
        """Several arrays, or one that is out of range, as bands on a leading axis; set :attr:`powers`."""
        if len(found) > 1 or not (_needs_no_care(node) or self.is_in_range(node, found[0][0])):
            found = self.apart(node, found) or [(zeros_like(found[0][0]), 0)]
        if len(found) == 1:
            g, power = found[0]
            self.powers = _ZERO if isinstance(power, int) and not power else [power]
            return g
        self.powers = [power for _, power in found]
        return backend.namespace(found[0][0]).stack([array for array, _ in found])

    def apart(self, node: Node, bands: list[Band]) -> list[Band]:
        """Split a sum into bands of elements of similar size; each element is in one band only."""
        return disjoint([band for g, power in bands for band in split(g, power)])

    def is_in_range(self, node: Node, g: Array) -> bool:
        """Whether the one array that arrived may go on unchanged."""
        if g is self._latest:  # a sum sends its cotangent to all terms
            return True
        if self._unseen is None:
            return is_in_range(g)
        self._latest = g
        self._unseen.append(g)
        self._waiting += g.size
        if self._waiting >= MANY or len(self._unseen) == AT_ONCE:
            self.look()
        return True

    def look(self) -> None:
        """Check the arrays that went on unchecked; from now on check each at once if one was far from 1."""
        if self._unseen is None:
            return
        unseen, self._unseen, self._waiting = self._unseen, [], 0
        for alike in by_type(unseen).values():
            far = farthest(alike)
            if far > reach_of(alike[0]):
                raise LostError
            if far > math.sqrt(reach_of(alike[0])):
                self._unseen = None

    def _arrived(self, node: Node) -> list[Band]:
        g = self._unscaled.pop(node)
        found: list[Band] = [] if g is None else [(g, 0)]
        for power in self._powers_of.pop(node, ()):
            found.append((self._by_power[power].pop(node), power))
        return found

    def bands(self, g: Array) -> list[Band]:
        """The cotangent popped last as pairs of an array and its power, the highest first."""
        if len(self.powers) == 1:
            return [(g, self.powers[0])]
        return list(zip(g, self.powers, strict=True))


AT_ONCE, MANY = 32, 4096
"""At most so many cotangents are checked together, with about so many elements."""


class LostError(Exception):
    """A cotangent that was not checked in time may have underflowed or overflowed."""


class RowCotangents(ScaledCotangents):
    """Cotangents whose bands have one power of two, or one for every row (a sequence at a step).

    The steps of a vanishing sequence are then one array, also behind operations that do not mix rows
    (:mod:`.along`). A fused layer gets one array.
    """

    def __init__(self, looks_later: bool = False) -> None:
        super().__init__(looks_later)
        self._by_row: dict[Node, list[Band]] = {}
        self._parts: dict[Node, list[tuple[Slice, Power]]] = {}
        self._of_parts: dict[Node, list[PartCotangents]] = {}

    def put(self, node: Node, cotangent: Any, power: Power) -> None:
        """Add one array at a power of two, or at one for every row."""
        if isinstance(power, int) and power == 0:
            self._unscaled.add(node, cotangent)
        elif isinstance(power, int) and type(cotangent) is not Slice:
            super().put(node, cotangent, power)
        elif type(cotangent) is Slice:
            self._powers_of.setdefault(node, {})
            self._parts.setdefault(node, []).append((cotangent, power))
        elif not power.size or (power == power.flat[0]).all():
            super().put(node, cotangent, int(power.flat[0]) if power.size else 0)
        else:
            self._powers_of.setdefault(node, {})
            some = self._by_row.setdefault(node, [])
            for i, (g, p) in enumerate(some):
                if np.array_equal(p, power):
                    some[i] = g + cotangent, p
                    return
            some.append((cotangent, power))

    def put_rows(self, scan: Node, rows: PartCotangents) -> None:
        """Add to one part of the states of a fused layer."""
        self._powers_of.setdefault(scan, {})
        self._of_parts.setdefault(scan, []).append(rows)

    def _whole(self, node: Node, found: list[Band]) -> Any:
        if is_scan(node):
            rows = self._of_parts.pop(node, [])
            if rows or len(found) > 1 or not isinstance(found[0][1], int):
                found = [_merged(node.value, found, rows)]
        return super()._whole(node, found)

    def _arrived(self, node: Node) -> list[Band]:
        parts = self._parts.pop(node, None)
        if parts:
            parts += [(s, 0) for s in self._unscaled.parts(node)]
        wholes = self._joined(node, parts) if parts else None
        found = super()._arrived(node)
        if node in self._by_row:
            found += self._by_row.pop(node)
        if wholes:
            found += wholes
        return found

    def _joined(self, node: Node, parts: list[tuple[Slice, Power]]) -> list[Band]:
        """Join parts of a node's cotangent to a few whole ones; add those of one power at once."""
        power = parts[0][1]
        if all(isinstance(p, int) and p == power for _, p in parts):
            for s, _ in parts:
                super().put(node, s, power)
            return []
        return joined(node, parts)

    def apart(self, node: Node, bands: list[Band]) -> list[Band]:
        """Return a sum as bands in which no element is near the limits of its dtype."""
        if all(isinstance(power, int) for _, power in bands):
            return super().apart(node, bands)
        return by_rank(bands)


class TrustedCotangents(RowCotangents):
    """Cotangents of a pass on a device, during which the host does not wait.

    The pass assumes that cotangents outside fused layers stay well within the range of their dtype.
    :meth:`stayed_in_range` says at the end whether they did; if not, the gradients are wrong and have to
    be computed in another way.

    Parameters
    ----------
    watched : container of Node
        The nodes whose cotangents have to be right, and all that these are computed from.
    """

    def __init__(self, watched: Container[Node]) -> None:
        super().__init__()
        self._watched = watched
        self._seen: list[Array] = []

    def is_in_range(self, node: Node, g: Array) -> bool:
        """Let the array go on unchanged; :meth:`stayed_in_range` checks it later."""
        if node in self._watched:
            self._seen.append(g)
        return True

    def put(self, node: Node, cotangent: Any, power: Power) -> None:
        """Add an array; where its rows have powers, put these back first."""
        if not isinstance(power, int):
            g, cotangent, power = cotangent, times_power(cotangent, power), 0
            if node in self._watched:
                # an element that became 0 or infinite counts as the smallest number
                xp = backend.namespace(g)
                m, whole = xp.module, cotangent
                with xp.on(g):
                    lost = ((whole == 0) & (g != 0)) | (m.isfinite(g) & ~m.isfinite(whole))
                    self._seen.append(m.where(lost, smallest(g.dtype), whole))
        super().put(node, cotangent, power)

    def stayed_in_range(self) -> bool:
        """Whether every cotangent stayed well within the range of its dtype; the host waits once."""
        verdicts = []
        for arrays in by_type(self._seen).values():
            xp = backend.namespace(arrays[0])
            with xp.on(arrays[0]):
                sizes = xp.abs(xp.concat([xp.reshape(g, (-1,)) for g in arrays]))
                reach = reach_of(sizes)
                near = (sizes >= 1 / reach) & (sizes <= reach)
                verdicts.append(xp.all(near | (sizes == 0) | ~xp.isfinite(sizes)))
        return all(bool(v) for v in backend.fetch(verdicts))


def at_band(cotangent: Any, i: int) -> Any:
    """One band of a rule's result."""
    if type(cotangent) is Slice:
        return Slice(cotangent.key, cotangent.arrays, cotangent.value[i, ...], cotangent.lead[1:])
    return cotangent[i, ...]


def _needs_no_care(node: Node) -> bool:
    """Whether the node's rule computes nothing, or computes in loops that carry powers of their own."""
    primitive = node.primitive
    return primitive is None or primitive.view or isinstance(primitive, Scan)


class PartCotangents(NamedTuple):
    """Cotangents of one part of a fused layer's states, (*lead, T, B, H), and powers (*lead, T, B, 1)."""

    part: int
    values: Array
    powers: Array


def _merged(value: Array, bands: list[Band], rows: list[PartCotangents]) -> Band:
    """The sum of all, in the shape of a fused layer's ``value``.

    Each row is at the power of its largest part. The powers are (*lead, [1,] T, B, 1).
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


# --- the pass -----------------------------------------------------------------------------------


class ScanGradients(NamedTuple):
    """The gradients inside a fused layer.

    Attributes
    ----------
    scan : Node
        The layer's operation.
    windows : list of Window
        The gradients, in the order of time; empty if the loss does not depend on the layer.
    power : int
        A power of two by which all of them are multiplied, beside their own powers.
    """

    scan: Node
    windows: list[Window]
    power: int

    def grads(self, part: int) -> list[tuple[Array, Array]]:
        """One part's gradients (*lead, T, B, H) by windows, and the powers of their rows (*lead, T, B)."""
        found = []
        if not self.windows:
            value = FusedState(self.scan, part).value
            with backend.on(value):
                powers = backend.namespace(value).zeros(value.shape[:2], dtype="int64")
            return [(zeros_like(value), powers)]
        for window in self.windows:
            states = window.sum_cotangents.states[part]
            with backend.on(states):
                m = backend.namespace(states).module
                powers = m.full(states.shape[:-1], self.power) + window.sum_cotangents.powers
            found.append((states, powers))
        return found


class Gradients(NamedTuple):
    """The result of a pass: the gradient by every target, and the gradients inside fused layers.

    Attributes
    ----------
    bands : dict of Node to list of Band
    inside : dict of Node to ScanGradients
    twins : dict of Node to Node
        The copies on the host, if the pass ran through a copy of the graph; else empty.
    """

    bands: dict[Node, list[Band]]
    inside: dict[Node, ScanGradients]
    twins: dict[Node, Node]

    def twin(self, node: Node) -> Node:
        """Return the copy of a node that the pass went through."""
        return self.twins.get(node, node)

    def of(self, node: Node) -> list[Band]:
        """The gradient of a node; zeros if the loss does not depend on it."""
        twin = self.twin(node)
        return self.bands[twin] if twin in self.bands else [(zeros_like(twin.value), 0)]

    def within(self, scan: Node) -> ScanGradients:
        """The gradients inside a fused layer."""
        twin = self.twin(scan)
        return self.inside.get(twin) or ScanGradients(twin, [], 0)


class FusedState(NamedTuple):
    """One part of the state of a fused layer, at all steps of the layer's operation."""

    node: Node
    part: int

    @property
    def value(self) -> Array:
        """The states (T, B, H)."""
        states = self.node.value
        return states if states.ndim == 3 else states[self.part]


def states_of(node: Node) -> FusedState | None:
    """The fused layer and the part of its state, for a node that holds this part at all steps."""
    if is_scan(node):
        return FusedState(node, 0) if node.value.ndim == 3 else None
    if node.op == "index" and len(node.params["key"]) == 1:
        (whole, *_), (part,) = node.inputs or (), node.params["key"]
        if isinstance(whole, Node) and is_scan(whole) and isinstance(part, int):
            return FusedState(whole, part) if whole.value.ndim == 4 else None
    return None


def gradients_inside(
    seeds: Sequence[Seed],
    targets: set[Node],
    leaves: Set[Node] = frozenset(),
    sums_too: bool = False,
    sums: ScaledCotangents | None = None,
    stop: bool = False,
    kind: type[ScaledCotangents] = RowCotangents,
    nodes: list[Node] | None = None,
) -> Gradients:
    """Run a backward pass whose cotangents are bands, through a graph that may have fused layers.

    Parameters
    ----------
    seeds : sequence of (Node, array)
        All may have a leading axis of cotangents that go back together; the weights of a fused layer must
        then not be targets.
    targets : set of Node
    leaves : set of Node
        Further targets, whose gradients may be 0 or infinite where their dtype cannot hold them.
    sums_too : bool
        Whether to keep the gradients by every step's sums.
    sums : ScaledCotangents, optional
        The cotangents of the pass.
    stop, nodes
        As for :func:`backpropagate`.
    kind : class
        The class of ``sums`` where that is not given.
    """
    run = _Pass(targets, leaves, sums_too, kind(looks_later=True) if sums is None else sums, nodes)
    try:
        in_pass(run, seeds, stop, grad=False)
        run.sums.look()
    except LostError:
        run = _Pass(targets, leaves, sums_too, kind(), nodes)
        in_pass(run, seeds, stop, grad=False)
    return run.found


def gradients_in_bands(
    root: Node, seed: Array, targets: set[Node], stop: bool = False
) -> dict[Node, list[Band]]:
    """The gradient by every target of a graph without fused layers, as bands of one power each."""
    return gradients_inside([(root, seed)], targets, stop=stop, kind=ScaledCotangents).bands


class _Pass:
    """One backward pass that keeps the gradients inside fused layers."""

    def __init__(
        self,
        targets: set[Node],
        leaves: Set[Node],
        sums_too: bool,
        sums: ScaledCotangents,
        nodes: list[Node] | None,
    ) -> None:
        self.sums: Any = sums
        self.nodes = nodes
        self.asked = targets | leaves
        self.found = Gradients({}, {}, {})
        self.targets = targets
        self.sums_too = sums_too
        self._given: dict[Node, Band] = {}

    def __call__(self, seeds: Sequence[Seed], stop: bool) -> None:
        """Carry cotangents from the seeds down to all targets."""
        backpropagate(
            seeds,
            self.asked,
            visit=self.arrive,
            retain_graph=True,
            stop=stop,
            cotangents=self.sums,
            pull=self.pull,
            nodes=self.nodes,
        )
        for node in list(self._given):  # no target lies behind these
            self._run(node, (False,) * len(node.inputs or ()))

    def arrive(self, node: Node, g: Array) -> None:
        """Note the complete cotangent of a target or a fused layer, with its powers."""
        if node in self.asked:
            self.found.bands[node] = self.sums.bands(g)
        if isinstance(node.primitive, Scan):
            (self._given[node],) = self.sums.bands(g)

    def pull(self, node: Node, g: Array, wanted: Container[Any]) -> list[tuple[Node, Any]]:
        """Return the cotangents of a node's inputs; add those that have powers of their own to the sums."""
        if node in self._given:
            self._pull_scan(node, wanted)
        elif isinstance(self.sums.powers[0], int):
            return pull(node, g, wanted)
        else:
            for array, power in self.sums.bands(g):
                for x, cotangent, powers in input_cotangents(
                    node, array, power, wanted, self._only_leaves
                ):
                    self.sums.put(x, cotangent, powers)
        return []

    def _pull_scan(self, node: Node, wanted: Container[Any]) -> None:
        """Go back through a fused layer, and add the cotangents of its inputs."""
        parents = node.inputs or ()
        needs_grad = tuple([x in wanted for x in parents])
        total = self._run(node, needs_grad)
        with backend.on(node.value):
            for i, parent in enumerate(parents):
                if needs_grad[i]:
                    self._put(node, parent, *total.of(i, self._ends(parent)))  # type: ignore[arg-type]

    def _ends(self, node: Any) -> bool:
        """Whether the pass ends at a node, whose gradient may be as right as its dtype allows."""
        return isinstance(node, Leaf) and node not in self.targets

    def _put(self, node: Node, parent: Node, g: Array, rows: Array | None, power: int) -> None:
        """Add to the cotangent of an input; its rows may have powers.

        The powers are put back if only leaves lie behind the input.
        """
        if rows is None and g.shape == parent.value.shape and g.dtype == parent.value.dtype:
            self.sums.put(parent, g, power)
            return
        xp = backend.namespace(g)
        leading = g.shape[: g.ndim - parent.value.ndim]
        if rows is None:
            self.sums.put(parent, match_input(xp, node, parent, g, leading), power)
            return
        powers = (rows + power)[..., None]
        behind = states_of(parent)
        if behind is not None and (behind.node is parent or parent not in self.asked):
            self.sums.put_rows(behind.node, PartCotangents(behind.part, g, powers))
        elif self._only_leaves(parent):
            self.sums.put(parent, match_input(xp, node, parent, times_power(g, powers), leading), 0)
        else:
            self.sums.put(parent, match_input(xp, node, parent, g, leading), powers)

    def _only_leaves(self, parent: Node) -> bool:
        """Whether no target and no fused layer lies behind a node, only leaves."""
        behind = [parent, *ancestors([parent], constants=True)]  # which leaves out a constant
        return self.targets.isdisjoint(behind) and not any(map(is_scan, behind))

    def _run(self, node: Node, needs_grad: tuple[bool, ...]) -> _Total:
        """Go back through a fused layer, window by window; return the cotangents of its inputs."""
        scan: Scan = node.primitive  # type: ignore[assignment]
        inputs = node.inputs or ()
        node.check_inputs()
        g, power = self._given.pop(node)
        rows = None
        if not isinstance(power, int):
            lead = g.shape[: g.ndim - node.value.ndim]
            rows, power = power.reshape(*lead, *node.value.shape[-3:-1]), 0
        xp = backend.namespace(node.value)
        xs = tuple([x.value if isinstance(x, Node) else x for x in inputs])
        first = 1 + len(scan.parts)
        weights = [
            x for x, wanted in zip(inputs[first:], needs_grad[first:], strict=True) if wanted
        ]
        windows: list[Window] = []
        total = _Total(xp, node.value.dtype, len(scan.parts), power, all(map(self._ends, weights)))
        asked, some = node in self.targets, any(needs_grad)
        with xp.on(node.value):
            for window in scan.inside(
                xp, g, node.value, xs, node.residuals, rows, True, needs_grad, **node.params
            ):
                if some:
                    total.add(window)
                if asked:
                    windows.insert(0, window if self.sums_too else window.without_sums())
        if asked:
            self.found.inside[node] = ScanGradients(node, windows, power)
        return total


class _Total:
    """The cotangents of a fused layer's inputs, added up over its windows, the last one first."""

    def __init__(self, xp: Any, dtype: Any, parts: int, power: int, end_at_weights: bool) -> None:
        self.m = xp.module
        self.away: bool = xp.guarded
        self.dtype = dtype
        self.parts = parts
        self.power = power
        self.end_at_weights = end_at_weights
        self.x: list[tuple[Array, Any]] = []
        self.last: InputCotangents
        self.initial: tuple[Array, Any] = (None, None)
        self.weights: tuple[WithPower, ...] = ()
        self._each: list[WithPower] = []

    def add(self, window: Window) -> None:
        """Add the cotangents of one window."""
        self.last, found = window.products(), window.sum_cotangents
        self.x.insert(0, (self.last.x, found.powers))
        self.initial = self.last.initial, found.initial_powers
        weights = self.last.weights
        self.weights = tuple(map(_plus, self.weights, weights)) if self.weights else weights

    def of(self, i: int, ends: bool) -> tuple[Array, Array | None, int]:
        """The cotangent of one input, the powers of its rows, and a power of the whole.

        If the pass ``ends`` there, elements that are negligible beside the largest may become 0.

        The cotangent of a weight on a device has one power, which is given as that of its rows: the host
        does not know it.
        """
        if i > self.parts:
            self._each = self._each or self._by_weights()
            weight, power = self._each[i - self.parts - 1]
            if self.away and not isinstance(power, int):
                return weight, power, self.power
            if isinstance(power, int) and not power and weight.dtype == self.dtype:
                return weight, None, self.power
            return self._settled(weight, int(power), ends)
        if i:
            values, rows = self.initial
            return self._settled(values[i - 1], rows, ends)
        wholes = [whole for whole, _ in self.x]
        x = wholes[0] if len(wholes) == 1 else self.m.concatenate(wholes, axis=-3)
        if all(isinstance(rows, int) and rows == self.x[0][1] for _, rows in self.x):
            return self._settled(x, self.x[0][1], ends)
        powers = [self.m.full(g.shape[:-1], p) if isinstance(p, int) else p for g, p in self.x]
        return self._settled(x, self.m.concatenate(powers, axis=-2), ends)

    def _by_weights(self) -> list[WithPower]:
        """The cotangents of weights and biases, split only here, so that most are scaled together."""
        weights = []
        for g, power in self.weights:
            if g is not None and not self.away and g.dtype == self.dtype:
                g, _, power = self._settled(g, int(power), ends=self.end_at_weights)
                power -= self.power
            weights.append(WithPower(g, power))
        return InputCotangents(None, None, tuple(weights), self.last.operands).by_weights()

    def _settled(self, g: Array, powers: Any, ends: bool) -> tuple[Array, Array | None, int]:
        """The result of :meth:`of`: at the power 0 if the dtype can hold it, else with rows of about 1.

        On a device it is left as it is: powers are put back or rows measured later, without waiting.
        """
        if narrow := g.dtype != self.dtype:  # half precision, which was computed in float32
            powers = self.m.zeros(g.shape[:-1], "int64") + powers
        if not isinstance(powers, int):
            if self.away and not narrow:
                return g, powers, self.power
            return *to_one(self.m, g, powers), self.power
        if powers and _fits(self.m, g, powers, ends):
            return times_all(self.m, g, powers), None, self.power
        return g, None, powers + self.power


def _fits(m: Any, g: Array, by: int, ends: bool) -> bool:
    """Whether the dtype holds the array times a power of two; at an end, all but negligible elements."""
    limit = largest_exponent(g.dtype)
    if abs(by) >= limit // 2 or not g.size:
        return False
    if ends and by < 0 and m is np and g.size <= float(np.vdot(g, g)) < math.inf:
        return True  # the largest is 1 or more
    size = m.abs(g)
    top = size.max()
    if not top < power_of_two(g.dtype, limit - 1 - max(by, 0)):
        return False
    if ends and top >= 1:
        return True
    least = power_of_two(g.dtype, 2 - limit - min(by, 0))
    return bool(size.min() >= least) or bool(((size == 0) | (size >= least)).all())


def _plus(a: WithPower, b: WithPower) -> WithPower:
    """The sum over two windows. Only the host has several, and powers are numbers there."""
    some = [
        WithPower(array, int(power)) for array, power in (a, b) if array is not None and array.any()
    ]
    if len(some) < 2:
        return some[0] if some else a
    top = max(power for _, power in some)
    (left, p), (right, q) = some
    return WithPower(times_power(left, p - top) + times_power(right, q - top), top)
