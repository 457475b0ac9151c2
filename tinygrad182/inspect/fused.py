"""Gradients through recurrences that were run as one operation: every state's, without opening them."""

from __future__ import annotations

from collections.abc import Container, Sequence, Set
from typing import Any, NamedTuple

from .. import backend
from ..backend import Array
from ..backpropagation import ancestors, backpropagate, fit, pull
from ..kernels.arrays import Deltas
from ..kernels.powers import largest_exponent, power, times_all, to_one
from ..kernels.products import Weighted
from ..modes import modes_kept, no_grad
from ..recording import Leaf, Node
from ..recurrence import Scan, Window
from ..unrolling import is_scan, unrolled
from .hosting import Seed, is_away
from .rows import RowCotangents, Rows
from .scaling import Band, times_power, zeros_like
from .sending import sent


class Inside(NamedTuple):
    """The gradients inside a scan.

    Attributes
    ----------
    windows : list of (range, Deltas)
        Steps, counted from the scan's first, and what was found at them; in the order of time.
    power : int
        Of two, that all of them are to be multiplied by besides their own.
    """

    windows: list[tuple[range, Deltas]]
    power: int

    def grads(self, part: int) -> list[tuple[Array, Array]]:
        """One part's gradients (*lead, T, B, H) by windows, and the powers of their rows (*lead, T, B)."""
        found = []
        for _, here in self.windows:
            states = here.states[part]
            with backend.on(states):
                m = backend.namespace(states).module
                powers = m.full(states.shape[:-1], self.power) + here.powers
            found.append((states, powers))
        return found


class Found(NamedTuple):
    """The gradient by every target as bands, and what is inside the recurrences on the way to them.

    Attributes
    ----------
    bands : dict of Node to list of Band
    inside : dict of Node to Inside
    twins : dict of Node to Node
        What stood for the nodes of the graph in the one the pass ran through; empty if that is the same.
    """

    bands: dict[Node, list[Band]]
    inside: dict[Node, Inside]
    twins: dict[Node, Node]

    def twin(self, node: Node) -> Node:
        """Return the node that stands for another."""
        return self.twins.get(node, node)

    def of(self, node: Node) -> list[Band]:
        """The gradient of a node; zeros if the loss does not depend on it."""
        twin = self.twin(node)
        return self.bands[twin] if twin in self.bands else [(zeros_like(twin.value), 0)]

    def rows(self, scan: Node, part: int) -> list[tuple[Array, Array]]:
        """The gradients by one part of a recurrence's states, as :meth:`Inside.grads` gives them."""
        twin = self.twin(scan)
        if twin in self.inside:
            return self.inside[twin].grads(part)
        value = part_of(twin, part)
        with backend.on(value):
            powers = backend.namespace(value).zeros(value.shape[:2], dtype="int64")
        return [(zeros_like(value), powers)]


def part_of(scan: Node, part: int) -> Array:
    """One part of the states of a recurrence, (T, B, H)."""
    return scan.value if scan.value.ndim == 3 else scan.value[part]


def gradients_inside(
    root: Node,
    seed: Array,
    targets: set[Node],
    leaves: Set[Node] = frozenset(),
    sums_too: bool = False,
    sums: RowCotangents | None = None,
) -> Found:
    """Gradients in bands through a graph with recurrences that were run as one operation.

    ``leaves`` are further targets, whose gradients need be no truer than their type. ``sums_too``: keep
    the gradients of every step's sums. ``sums`` is how cotangents are kept.
    """
    return gradients_together([(root, seed)], targets, leaves, sums_too, sums)


@modes_kept
def gradients_together(
    seeds: Sequence[Seed],
    targets: set[Node],
    leaves: Set[Node] = frozenset(),
    sums_too: bool = False,
    sums: RowCotangents | None = None,
) -> Found:
    """Gradients in bands from several seeds, as :func:`gradients_inside` from one.

    They may all have a leading axis, of cotangents that go back together; no weight of a recurrence may
    then be asked for.
    """
    run = _Pass(targets, leaves, sums_too, RowCotangents() if sums is None else sums)
    with no_grad():
        backpropagate(
            seeds,
            targets | leaves,
            visit=run.arrive,
            retain_graph=True,
            cotangents=run.sums,
            pull=run.pull,
        )
        run.finish()
    return run.found


class _Pass:
    """One backward pass that looks inside recurrences."""

    def __init__(
        self, targets: set[Node], leaves: Set[Node], sums_too: bool, sums: RowCotangents
    ) -> None:
        self.sums = sums
        self.found = Found({}, {}, {})
        self.targets = targets
        self.leaves = leaves
        self.sums_too = sums_too
        self._given: dict[Node, Band] = {}

    def arrive(self, node: Node, g: Array) -> None:
        """Note the whole cotangent of a target and of a scan, with its powers."""
        if node in self.targets or node in self.leaves:
            self.found.bands[node] = self.sums.bands(g)
        if is_scan(node):
            (self._given[node],) = self.sums.bands(g)

    def pull(self, node: Node, g: Array, wanted: Container[Any]) -> list[tuple[Node, Any]]:
        """The cotangents a node sends to its inputs.

        Those that have powers of their own, found inside a scan or at rows, are put there.
        """
        if node in self._given:
            self._pull_scan(node, wanted)
        elif isinstance(self.sums.powers[0], int):  # or none of them is
            return pull(node, g, wanted)
        else:
            for array, power in self.sums.bands(g):
                for x, cotangent, powers in sent(node, array, power, wanted, self._only_leaves):
                    self.sums.put(x, cotangent, powers)
        return []

    def _pull_scan(self, node: Node, wanted: Container[Any]) -> None:
        """Go back through a scan, and send on what comes of it."""
        parents = node.inputs or ()
        needed = tuple([x in wanted for x in parents])
        sent = self._run(node, needed)
        with backend.on(node.value):
            for i, parent in enumerate(parents):
                if needed[i]:
                    ends = isinstance(parent, Leaf) and parent not in self.targets
                    self._put(node, parent, *sent.of(i, ends))  # type: ignore[arg-type]

    def _put(self, node: Node, parent: Node, g: Array, rows: Array | None, power: int) -> None:
        """Add to what an input gets, whose rows may have powers.

        Where there is nothing but leaves behind it, in its own type.
        """
        xp = backend.namespace(g)
        leading = g.shape[: g.ndim - parent.value.ndim]
        if rows is None:
            self.sums.put(parent, fit(xp, node, parent, g, leading), power)
            return
        powers = (rows + power)[..., None]
        if (behind := self._states(parent)) is not None:
            self.sums.put_rows(behind[0], Rows(behind[1], g, powers))
        elif self._only_leaves(parent):
            self.sums.put(parent, fit(xp, node, parent, times_power(g, powers), leading), 0)
        else:
            self.sums.put(parent, fit(xp, node, parent, g, leading), powers)

    def _only_leaves(self, parent: Node) -> bool:
        """Whether there is no state whose gradient is asked for behind a node."""
        behind = ancestors([parent], constants=True)
        return self.targets.isdisjoint(behind) and not any(map(is_scan, behind))

    def _states(self, node: Node) -> tuple[Node, int] | None:
        """The recurrence, and the part, that a node is all the states of."""
        if is_scan(node):
            return (node, 0) if node.value.ndim == 3 else None
        asked = node in self.targets or node in self.leaves
        if node.op == "index" and not asked and len(node.params["key"]) == 1:
            (whole, *_), (part,) = node.inputs or (), node.params["key"]
            if isinstance(whole, Node) and is_scan(whole) and isinstance(part, int):
                return (whole, part) if whole.value.ndim == 4 else None
        return None

    def finish(self) -> None:
        """Look into the scans that send nothing on."""
        for node in list(self._given):
            self._run(node, (False,) * len(node.inputs or ()))

    def _run(self, node: Node, needed: tuple[bool, ...]) -> _Total:
        """Go back through a scan, window by window; what its inputs get."""
        scan: Scan = node.primitive  # type: ignore[assignment]
        for x in node.inputs or ():
            if isinstance(x, Node):
                x.check_unchanged(node)
        g, power = self._given.pop(node)
        rows = None
        xp = backend.namespace(node.value)
        if not isinstance(power, int):
            lead = g.shape[: g.ndim - node.value.ndim]
            rows, power = power.reshape(*lead, *node.value.shape[-3:-1]), 0
        xs = tuple(x.value if isinstance(x, Node) else x for x in node.inputs or ())
        windows: list[tuple[range, Deltas]] = []
        total = _Total(xp.module, node.value.dtype, len(scan.parts), power)
        with xp.on(node.value):
            for window in scan.inside(
                xp, g, node.value, xs, node.saved, rows, True, needed, **node.params
            ):
                if any(needed):
                    total.add(window)
                if node in self.targets:
                    kept = window.deltas if self.sums_too else window.deltas._replace(sums=None)
                    windows.insert(0, (window.steps, kept))
        if node in self.targets:
            self.found.inside[node] = Inside(windows, power)
        return total


class _Total:
    """What the inputs of a scan get from all windows, the last first."""

    def __init__(self, m: Any, dtype: Any, parts: int, power: int) -> None:
        self.m = m
        self.dtype = dtype
        self.parts = parts
        self.power = power
        self.x: list[tuple[Array, Any]] = []
        self.initial: tuple[Array, Any] = (None, None)
        self.weights: Sequence[Weighted] = ()

    def add(self, window: Window) -> None:
        """Add those of one window."""
        sent, found = window.sent(), window.deltas
        self.x.insert(0, (sent.x, found.powers))
        self.initial = sent.initial, found.initial_powers
        weights = sent.by_weights()
        self.weights = list(map(_plus, self.weights, weights)) if self.weights else weights

    def of(self, i: int, ends: bool) -> tuple[Array, Array | None, int]:
        """The cotangent of one input, the powers of its rows, and that of all.

        Where the pass ``ends`` there, only elements that show beside the largest need be kept.

        Of a weight, on a device, a single power is that of every row: the host does not know it.
        """
        if i > self.parts:
            weight, power = self.weights[i - self.parts - 1]
            if is_away([power]):
                return weight, power, self.power
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

    def _settled(self, g: Array, powers: Any, ends: bool) -> tuple[Array, Array | None, int]:
        """What :meth:`of` returns: at the power 0 if the type holds that, or with every row at about 1.

        Not so on a device, where powers are put back at once, or rows are measured when they are added up.
        """
        if narrow := g.dtype != self.dtype:  # half precision, which was computed in float32
            powers = self.m.zeros(g.shape[:-1], "int64") + powers
        if not isinstance(powers, int):
            if is_away([g]) and not narrow:
                return g, powers, self.power
            return *to_one(self.m, g, powers), self.power
        if powers and _fits(self.m, g, powers, ends):
            return times_all(self.m, g, powers), None, self.power
        return g, None, powers + self.power


def _fits(m: Any, g: Array, by: int, ends: bool) -> bool:
    """Whether the type holds all elements at a small power of two; or, where it ends, all that show."""
    limit = largest_exponent(g.dtype)
    if abs(by) >= limit // 2 or not g.size:
        return False
    size = m.abs(g)
    top = size.max()
    if not top < power(g.dtype, limit - 1 - max(by, 0)):
        return False
    if ends and top >= 1:
        return True
    least = power(g.dtype, 2 - limit - min(by, 0))
    return bool(size.min() >= least) or bool(((size == 0) | (size >= least)).all())


def _plus(a: Weighted, b: Weighted) -> Weighted:
    """The sum over two windows; there are several on the host only, where powers are numbers."""
    some = [(array, int(power)) for array, power in (a, b) if array is not None and array.any()]
    if len(some) < 2:
        return some[0] if some else a
    top = max(power for _, power in some)
    (left, p), (right, q) = some
    return times_power(left, p - top) + times_power(right, q - top), top


def openable(root: Node) -> Node:
    """The root, of a graph in which recurrences are run step by step where there are no loops for them."""
    scans = [node for node in ancestors([root]) if is_scan(node)]
    if all(getattr(backend.namespace(node.value), "has_loops", False) for node in scans):
        return root
    return unrolled(root)


def in_own_type(states: Array, powers: Array) -> Array:
    """The gradients with their powers put back: 0 where they underflow, ±∞ where they overflow."""
    xp = backend.namespace(states)
    if not xp.guarded:  # the host need not wait to see that there is less to do
        if not powers.any():
            return states
        if (powers == powers.flat[0]).all():
            return times_power(states, int(powers.flat[0]))
    return times_power(states, powers[..., None])
