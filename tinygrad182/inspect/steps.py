"""The steps of a recurrence that was run as one operation, side by side.

What a step does with the gradients that arrive at its state depends on no other step. So the step's
definition is recorded once, on the rows of all steps, and one pull does the work of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .. import functions
from ..backend import Array
from ..kernels.powers import or_zero, sizes_of, times_rows
from ..modes import Modes, modes_kept, recording_as
from ..primitives.recurrent import Scan
from ..recording import Leaf, Node, node_of, wrap
from .gradients import RowCotangents, gradients_inside
from .recurrences import Stack
from .scaling import Power

ELEMENTS = 1 << 18
"""Elements of the sums of the steps that are worked on at once, about: what bounds memory."""


class Scaled(NamedTuple):
    """Gradients by states (parts, T, B, H), and the powers of two (T, B) of their rows."""

    values: Array
    powers: Array

    def at(self, steps: Array) -> Scaled:
        """Return those of some steps."""
        return Scaled(self.values[:, steps], self.powers[steps])


class SideBySide(NamedTuple):
    """Steps as one: the parts of the states before and after them (steps·B, H), by name."""

    before: dict[str, Node]
    after: dict[str, Node]


class Steps:
    """The steps of one recurrence, as many side by side as are asked for.

    Parameters
    ----------
    node : Node
        The operation that computed them, on the host.

    Raises
    ------
    InPlaceError
        An input was changed after it was recorded.
    """

    def __init__(self, node: Node) -> None:
        for x in node.inputs or ():
            if isinstance(x, Node):
                x.check_unchanged(node)
        self.node = node
        self.scan: Scan = node.primitive  # type: ignore[assignment]
        values = [x.value if isinstance(x, Node) else x for x in node.inputs or ()]
        self.given = self.scan.operands(tuple(values))
        self.states: Array = node.value.reshape((-1, *node.value.shape[-3:]))
        self.start: int = node.params.get("start", 0)

    def __len__(self) -> int:
        return int(self.states.shape[1])

    def times(self) -> range:
        """The time steps."""
        return range(self.start, self.start + len(self))

    def among(self, wanted: Sequence[int]) -> Array:
        """Those of some time steps that are here, counted from the first."""
        there = self.times()
        return np.array([t - self.start for t in wanted if t in there], np.int64)

    def lengths(self) -> Array | None:
        """How many of the steps each sequence has; None: all."""
        given = self.given.lengths
        return None if given is None else given.astype(np.int64)

    def chunks(self, steps: Array, rows: int | None = None) -> Iterator[Array]:
        """Parts of some steps whose gradients fit into memory, of ``rows`` each: B by default."""
        each = (rows or self.states.shape[2]) * len(self.given.weight_hh)
        if len(steps):
            yield from np.array_split(steps, min(len(steps), -(-len(steps) * each // ELEMENTS)))

    @modes_kept
    def at(self, steps: Array, sequences: slice = slice(None)) -> SideBySide:
        """Record some steps, of some sequences of the batch, each from the state before it."""
        names, H = self.scan.parts, self.states.shape[-1]
        before = []
        for states, initial in zip(self.states, self.given.initial, strict=True):
            rows = states[steps - 1][:, sequences]
            rows[steps == 0] = initial[sequences]
            rows = rows.reshape(-1, H)
            before.append(wrap(rows, Leaf(rows, requires_grad=True)))
        x = self.given.x[steps][:, sequences]
        x = x.reshape(1, -1, x.shape[-1])
        rest = [self.given.weight_ih, self.given.weight_hh, self.given.bias]
        operands = [x, *rest, *self._left(steps, sequences)]
        x, *others = [wrap(a) if hasattr(a, "shape") else a for a in operands]
        params = {k: v for k, v in self.node.params.items() if k not in ("start", "shortest")}
        with recording_as(Modes(True, "cpu", self.node.scope)):
            _, after = self.scan.unrolled(functions, x, *before, *others, **params)
        return SideBySide(_by_name(names, before), _by_name(names, after))

    def _left(self, steps: Array, sequences: slice) -> list[Array]:
        """How many steps each row has left, if any has none."""
        lengths = self.lengths()
        if lengths is None:
            return []
        left = np.maximum(lengths[sequences] - steps[:, None], 0).reshape(-1)
        return [] if left.all() else [left]

    @staticmethod
    def by_node(state: dict[str, Node], values: Array) -> dict[Node, Array]:
        """Gradients of the parts of a state (parts, …, H) by the parts' nodes, in their shape."""
        nodes = state.values()
        return {n: g.reshape(n.value.shape) for n, g in zip(nodes, values, strict=True)}


def _by_name(names: tuple[str, ...], state: object) -> dict[str, Node]:
    return {name: node_of(part) for name, part in zip(names, state, strict=True)}  # type: ignore[call-overload]


def is_whole(stack: Stack) -> bool:
    """Whether a recurrence was run by our loops on the host, so that its steps can be put side by side.

    The windows of truncated backpropagation are operations of their own, between which nothing flows.
    """
    for recurrence in stack.values():
        for i, (node, part) in enumerate(recurrence.fused):
            initial = node.primitive.operands(node.inputs).initial[part]  # type: ignore[union-attr]
            if node.saved is None or type(node.value) is not np.ndarray:
                return False
            if i and initial.requires_grad:
                return False
    return all(recurrence.fused for recurrence in stack.values())


def stays_whole(root: Node, stack: Stack) -> bool:
    """Say of a graph on the host whether a view takes the recurrence as it was run; see :func:`.opened`."""
    return is_whole(stack)


def scans_of(stack: Stack) -> list[Node]:
    """The operations that computed the states, in the order of time."""
    return [node for node, _ in next(iter(stack.values())).fused]


# --- what arrives at the states -----------------------------------------------------------------


class _Noting(RowCotangents):
    """Cotangents that keep what arrives at some recurrences from outside."""

    def __init__(self, scans: list[Node]) -> None:
        super().__init__()
        self.given = {node: _nothing(node) for node in scans}

    def pop(self, node: Node) -> Array | None:
        g: Array | None = super().pop(node)
        if g is not None and node in self.given:
            self.given[node] = scaled(g, self.powers[0])
        return g


def scaled(g: Array, power: Power) -> Scaled:
    """The cotangent of a recurrence ([parts,] T, B, H), which has one power or one for every row."""
    values = g.reshape((-1, *g.shape[-3:]))
    rows = np.broadcast_to(np.int64(power), (*(1,) * (g.ndim - 3), *values.shape[1:3], 1))
    return Scaled(values, rows.reshape(values.shape[1:3]))


def _nothing(node: Node) -> Scaled:
    return scaled(np.zeros_like(node.value), 0)


def arriving(root: Node, seed: Array, steps: list[Steps]) -> list[tuple[Scaled, Scaled]]:
    """What the loss sends to the states of each recurrence from outside it, and their whole gradients."""
    scans = [each.node for each in steps]
    sums = _Noting(scans)
    inside = gradients_inside(root, seed, set(scans), sums=sums)
    found = []
    for node in scans:
        parts = [inside.rows(node, k) for k in range(len(node.primitive.parts))]  # type: ignore[union-attr]
        values = np.stack([np.concatenate([states for states, _ in part]) for part in parts])
        powers = np.concatenate([powers for _, powers in parts[0]])
        found.append((sums.given[node], Scaled(values, powers)))
    return found


def at_common_powers(*given: Scaled, by_step: bool = False) -> tuple[list[Array], Array]:
    """Values whose rows have one power for all, at which the largest element is about 1; and the powers.

    ``by_step``: all rows of a step have one, too; the powers are then (T, 1).
    """
    sizes = [np.abs(g.values).max(axis=(0, -1), initial=0.0) for g in given]
    top = np.maximum.reduce(
        [sizes_of(np, size, g.powers) for size, g in zip(sizes, given, strict=True)]
    )
    top = or_zero(np, top.max(axis=1, keepdims=True) if by_step else top)
    return [times_rows(np, g.values, g.powers - top) for g in given], top
