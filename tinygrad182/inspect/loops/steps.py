"""The steps of a fused layer, recorded again: all side by side, one alone, or one after the other.

Side by side, the step's definition is recorded once, on the rows of all steps, and one call of each
derivative rule does the work of all. That is possible because the states of all steps are known already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import backpropagate
from ...engine.marks import mark
from ...engine.modes import Modes, modes_kept, no_grad, recording_as
from ...engine.recording import Leaf, Node, is_tensor, node_of, wrap
from ...errors import ArgumentError
from ...kernels.powers import or_zero, sizes_of, times_rows
from ...recurrence.scans import Scan
from ...recurrence.unrolling import State, recorded
from ...tensors.tensor import Tensor
from ..passes.gradients import RowCotangents, ScanGradients, Seed, gradients_inside
from ..passes.scaling import Power, in_own_type, zeros_like
from .recurrences import Stack

ELEMENTS = 1 << 18
"""About so many elements of the steps' sums are worked on at once, which limits memory."""


class Scaled(NamedTuple):
    """Gradients by states (parts, T, B, H), and the powers of two (T, B) of their rows."""

    values: Array
    powers: Array

    def at(self, steps: Array) -> Scaled:
        """Return the rows of some steps."""
        return Scaled(self.values[:, steps], self.powers[steps])


class SideBySide(NamedTuple):
    """Steps as one: the states before and after them (steps·B, H) by name, and their inputs."""

    before: dict[str, Node]
    after: dict[str, Node]
    x: Node


class Steps:
    """The steps of one fused layer, of which some can be recorded side by side.

    Parameters
    ----------
    node : Node
        The layer's operation.

    Raises
    ------
    InPlaceError
        An input was changed after it was recorded.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.scan: Scan = node.primitive  # type: ignore[assignment]
        self.operands = stand_ins(node)
        values = [wrapped._data if is_tensor(wrapped) else wrapped for wrapped in self.operands]
        self.given = self.scan.operands(tuple(values))
        self.xp = backend.namespace(node.value)
        self.states: Array = self.xp.reshape(node.value, (-1, *node.value.shape[-3:]))
        self.start: int = node.params.get("start", 0)

    def __len__(self) -> int:
        return int(self.states.shape[1])

    def times(self) -> range:
        """The time steps."""
        return range(self.start, self.start + len(self))

    def among(self, wanted: Sequence[int]) -> Array:
        """Return the positions of the wanted time steps that are here."""
        there = self.times()
        return np.array([t - self.start for t in wanted if t in there], np.int64)

    def lengths(self) -> Array | None:
        """The number of steps that each sequence has, on the host; None if all have all."""
        given = self.given.lengths
        return None if given is None else self.xp.to_numpy(given).astype(np.int64)

    def chunks(self, steps: Array, rows: int | None = None) -> Iterator[Array]:
        """Split some steps into parts whose gradients fit into memory; a step has ``rows`` rows, or B."""
        each = (rows or self.states.shape[2]) * len(self.given.weight_hh)
        if len(steps):
            yield from np.array_split(steps, min(len(steps), -(-len(steps) * each // ELEMENTS)))

    @modes_kept
    def at(self, steps: Array, sequences: slice = slice(None), inputs: bool = False) -> SideBySide:
        """Record some steps, of some sequences of the batch, each from the state before it.

        They are marked with the time of the first one. With ``inputs``, the step's inputs require grad too.
        """
        names, time = self.scan.parts, self.start + int(steps[0])
        past = zip(self.states, self.given.initial, strict=True)
        rows = [self._rows([s[t - 1, ...] if t else h for t in steps], sequences) for s, h in past]
        before = [wrap(h, Leaf(h, requires_grad=True)) for h in rows]
        x = self._rows([self.given.x[t, ...] for t in steps], sequences)[None, ...]
        others = self.operands[1 + len(names) :]
        if self.given.lengths is not None:
            others = [*others[:-1], *self._left(steps, sequences)]
        with recording_as(Modes(True, self.operands[0].device, self.node.scope)):
            for part, name in zip(before, names, strict=True):
                mark(part, name, time - 1)
        given = Leaf(x, inputs or self.operands[0].requires_grad)
        operands = [wrap(x, given), *before, *others]
        (after,) = recorded(self.node, operands, start=time, shortest=0)
        return SideBySide(_by_name(names, before), _by_name(names, after), given)

    def _rows(self, steps: list[Array], sequences: slice) -> Array:
        """The rows of some sequences at some steps, (steps·B, ·)."""
        some = self.xp.stack(steps)[:, sequences, ...]
        return self.xp.reshape(some, (-1, some.shape[-1]))

    def _left(self, steps: Array, sequences: slice) -> list[Tensor]:
        """The number of steps that each row has left, if some row has none."""
        ends = np.asarray(self.lengths())[sequences]
        left = np.maximum(ends - steps[:, None], 0).reshape(-1)
        return [] if left.all() else [wrap(self.xp.from_numpy(left, self.operands[0].device))]

    @staticmethod
    def by_node(state: dict[str, Node], values: Array) -> dict[Node, Array]:
        """Gradients (parts, …, H) by the nodes of the state's parts, in their shapes."""
        nodes = state.values()
        return {n: g.reshape(n.value.shape) for n, g in zip(nodes, values, strict=True)}


def _by_name(names: tuple[str, ...], state: object) -> dict[str, Node]:
    return {name: node_of(part) for name, part in zip(names, state, strict=True)}  # type: ignore[call-overload]


def stand_ins(node: Node) -> list[Any]:
    """Return leaves with the values of a fused layer's inputs, which must be unchanged, and its numbers."""
    node.check_inputs()
    found = []
    for x in node.inputs or ():
        if isinstance(x, Node):
            leaf = Leaf(x.value, x.requires_grad)
            leaf.name = x.name if isinstance(x, Leaf) else ""
            leaf.marks = x.marks
        found.append(wrap(x.value, leaf) if isinstance(x, Node) else x)
    return found


@modes_kept
def direct_cotangents(sources: dict[Node, Array], targets: Collection[Node]) -> dict[Node, Array]:
    """Send cotangents of some nodes back to the targets, through no other source or target.

    The cotangents may have a leading axis.
    """

    def edge(consumer: Node, parent: Node, cotangent: Any) -> Any:
        return None if parent in sources else cotangent

    with no_grad():
        found = backpropagate(
            list(sources.items()), targets, edge=edge, stop=True, retain_graph=True
        )
    lead = [g.shape[: g.ndim - node.value.ndim] for node, g in sources.items()][:1]
    front = lead[0] if lead else ()
    return {n: found[n] if n in found else zeros_like(n.value, front) for n in targets}


def is_whole(stack: Stack) -> bool:
    """Whether a recurrence is a fused layer that ran on the host, so that :class:`Steps` can record it.

    It may be the windows of truncated backpropagation: several operations between which nothing flows.
    """
    for recurrence in stack.values():
        for i, (node, part) in enumerate(recurrence.fused):
            initial = node.primitive.operands(node.inputs).initial[part]  # type: ignore[union-attr]
            if node.residuals is None or type(node.value) is not np.ndarray:
                return False
            if i and initial.requires_grad:
                return False
    return all(recurrence.fused for recurrence in stack.values())


def scans_of(stack: Stack) -> list[Node]:
    """The operations of a fused layer, one for each window, in the order of time."""
    return [node for node, _ in next(iter(stack.values())).fused]


# --- what arrives at the states -----------------------------------------------------------------


class _Noting(RowCotangents):
    """Cotangents of a pass that also keeps those that arrive at fused layers from outside."""

    def __init__(self, scans: list[Node]) -> None:
        super().__init__()
        self.given = {node: _nothing(node) for node in scans}

    def pop(self, node: Node) -> Array | None:
        g: Array | None = super().pop(node)
        if g is not None and node in self.given:
            self.given[node] = scaled(g, self.powers[0])
        return g


def scaled(g: Array, power: Power) -> Scaled:
    """The cotangent of a fused layer ([parts,] T, B, H), which has one power or one for every row."""
    values = g.reshape((-1, *g.shape[-3:]))
    rows = np.broadcast_to(np.int64(power), (*(1,) * (g.ndim - 3), *values.shape[1:3], 1))
    return Scaled(values, rows.reshape(values.shape[1:3]))


def _nothing(node: Node) -> Scaled:
    return scaled(np.zeros_like(node.value), 0)


class StateCotangents(NamedTuple):
    """Cotangents of a fused layer's states: those from outside the layer, and the whole gradients."""

    scan: Steps
    outside: Scaled
    total: Scaled


def state_cotangents(root: Node, seed: Array, stack: Stack) -> list[StateCotangents]:
    """Run a backward pass; return the cotangents of a fused layer's states, for each of its windows."""
    scans = scans_of(stack)
    sums = _Noting(scans)
    inside = gradients_inside([(root, seed)], set(scans), sums=sums)
    found = []
    for node in scans:
        parts = [inside.within(node).grads(k) for k in range(len(node.primitive.parts))]  # type: ignore[union-attr]
        values = np.stack([np.concatenate([states for states, _ in part]) for part in parts])
        powers = np.concatenate([powers for _, powers in parts[0]])
        found.append(StateCotangents(Steps(node), sums.given[node], Scaled(values, powers)))
    return found


def at_common_powers(*given: Scaled, by_step: bool = False) -> tuple[list[Array], Array]:
    """Bring several arrays to common powers of their rows, at which the largest element is about 1.

    With ``by_step``, all rows of a step have one power, and the powers are (T, 1).
    """
    sizes = [np.abs(g.values).max(axis=(0, -1), initial=0.0) for g in given]
    top = np.maximum.reduce(
        [sizes_of(np, size, g.powers) for size, g in zip(sizes, given, strict=True)]
    )
    top = or_zero(np, top.max(axis=1, keepdims=True) if by_step else top)
    return [times_rows(np, g.values, g.powers - top) for g in given], top


def next_step_cotangents(scan: Steps, steps: Array, total: Scaled) -> Scaled:
    """Return the cotangents that some steps' states get straight from the next step; 0 after the last."""
    last = steps == len(scan) - 1
    after = np.where(last, steps, steps + 1)
    # rows of about 1, which also float16 can hold
    (following,), powers = at_common_powers(total.at(after))
    side = scan.at(after)
    found = direct_cotangents(scan.by_node(side.after, following), set(side.before.values()))
    values = np.stack([found[node] for node in side.before.values()])
    values = values.reshape(following.shape)
    values[:, last] = 0.0
    return Scaled(values, powers)


# --- for `Graph.expand` -------------------------------------------------------------------------

Seeds = list[Seed]
"""The latest nodes, and their cotangents."""


def seeds_of_all_steps(node: Node, g: Array) -> Seeds:
    """Record all steps of a fused layer; return the cotangents of its states, from the layer's ``g``."""
    return _recorded_steps(node, g)[1]


@modes_kept
def _recorded_steps(node: Node, g: Array) -> tuple[list[State], Seeds]:
    """Record all steps of a fused layer; return the states, and their cotangents from the layer's ``g``."""
    states = recorded(node, stand_ins(node))
    seeds: Seeds = []
    for t, state in enumerate(states):
        seeds += zip(map(node_of, state), _at_step(node, g, t), strict=True)
    return states, latest_first(seeds)


def seeds_of_one_step(node: Node, g: Array, time: int) -> Seeds:
    """Record one step; return the cotangents of its states, from the loss and from the next step."""
    steps = Steps(node)
    times = steps.times()
    if time not in times:
        raise ArgumentError(f"expand: time {time!r}; the steps are {times[0]} to {times[-1]}")
    i = times.index(time)  # of Python's int, whatever type the time has
    here = steps.at(np.array([i]))
    arriving = _at_step(node, g, i)
    if i + 1 < len(times):
        after = steps.at(np.array([i + 1]))
        totals = zip(after.after.values(), _totals(node, g, i + 1), strict=True)
        back = direct_cotangents(dict(totals), set(after.before.values()))
        arriving = [a + back[x] for a, x in zip(arriving, after.before.values(), strict=True)]
    return latest_first(list(zip(here.after.values(), arriving, strict=True)))


def _at_step(node: Node, g: Array, i: int) -> list[Array]:
    """The cotangents of the parts of one state, taken from that of a fused layer."""
    parts = [g] if node.value.ndim == 3 else [g[k, ...] for k in range(g.shape[0])]
    return [part[i, ...] for part in parts]


def latest_first(seeds: Seeds) -> Seeds:
    """Sort seeds as a backward pass takes them."""
    return sorted(seeds, key=lambda seed: -seed[0].order)


@modes_kept
def _totals(node: Node, g: Array, i: int) -> list[Array]:
    """The whole gradient of every part of the state at step ``i``, by one pass back to it."""
    scan: Scan = node.primitive  # type: ignore[assignment]
    if node.residuals is None:
        states, seeds = _recorded_steps(node, g)
        targets = [node_of(part) for part in states[i]]
        with no_grad():
            found = backpropagate(seeds, set(targets), retain_graph=True)
        return [found[target] for target in targets]
    xp = backend.namespace(node.value)
    xs = tuple(x.value if isinstance(x, Node) else x for x in node.inputs or ())
    with xp.on(node.value):
        *_, last = scan.inside(
            xp, g, node.value, xs, node.residuals, with_states=True, until=i, **node.params
        )
    whole = ScanGradients(node, [last], 0)
    return [in_own_type(*whole.grads(k)[0])[0] for k in range(len(scan.parts))]
