"""Every operation of a step, at many steps: its values, gradients, and the cotangents of its uses.

The steps of a fused layer are recorded again side by side, so that one call of a derivative rule does the
work of all. The steps of a loop, and the operations of other modules, are the nodes of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from ...arrays.namespaces import Array
from ...engine.backpropagation import ancestors, backpropagate, dense, descendants, gather, pull
from ...engine.modes import modes_kept, no_grad
from ...engine.recording import Node
from ...kernels.powers import NOTHING, or_zero, sizes_of
from ...primitives.index import Slice
from ..passes.along import input_cotangents
from ..passes.gradients import Seed, gradients_inside
from ..passes.scaling import (
    NOT_FINITE,
    Band,
    HostArray,
    Power,
    as_bands,
    at_sample_powers,
    row_norms,
    shifted,
    total_norms,
)
from .steps import Scaled, SideBySide, Steps, at_common_powers, latest_first, next_step_cotangents

NEXT, LOSS = "next step", "loss"
"""The targets of edges that leave the step."""

TOGETHER = 64
"""So many steps of a loop are reduced together."""


class Rows(NamedTuple):
    """One array at n steps, where the row of each sequence has a power of two.

    Attributes
    ----------
    values : ndarray (n, B, W)
    powers : ndarray (n, B) of int
    """

    values: HostArray
    powers: HostArray

    def log10_norm(self) -> HostArray:
        """Decadic logarithms of the Frobenius norms over (B, W), (n,)."""
        log = total_norms(row_norms(self.values)[None], self.powers[None])[1]
        return log / math.log(10)

    def share_of(self, whole: Rows) -> HostArray:
        """⟨part, whole⟩ / ‖whole‖² at every step, (n,); NaN where the whole is exactly 0.

        All rows are brought to the power at which the largest of the whole's step is about 1.
        """
        top = or_zero(np, whole.tops().max(1, keepdims=True, initial=NOTHING))
        with np.errstate(all="ignore"):
            part, total = self.divided(top), whole.divided(top)
            return np.einsum("nbw,nbw->n", part, total) / np.einsum("nbw,nbw->n", total, total)

    def tops(self) -> HostArray:
        """The power of two of each row's largest element, (n, B)."""
        return sizes_of(np, np.abs(self.values).max(axis=-1, initial=0.0), self.powers)

    def divided(self, powers: HostArray) -> HostArray:
        """The numbers, divided by 2 to the power of each row."""
        return shifted(self.values, (self.powers - powers)[..., None])

    def at_sample(self, sample: int) -> tuple[HostArray, HostArray]:
        """One sequence's rows (n, W) with the largest at about 1, and the log10 of their factors (n,)."""
        values, powers = self.values[:, sample], self.powers[:, sample]
        size = np.abs(values).max(axis=-1, initial=0.0)
        scale = np.where(np.isfinite(size) & (size > 0), size, 1.0)
        return values / scale[:, None], np.log10(scale) + powers * math.log10(2)


@dataclass
class StepGroup:
    """The operations of some steps that are alike.

    Attributes
    ----------
    times : list of int
    every : list of Node
        The operations of one of these steps, oldest first; operands from outside the step come first.
    nodes : list of Node
        The ones that are shown: without operations that only move elements.
    given : dict of Node to str
        The operands from outside the step: ``"before"`` or ``"input"``.
    values : dict of Node to Rows
    grads : dict of Node to Rows
        Without nodes that get no gradient.
    edges : dict of (Node, Node or str) to Rows
        By the operand and the operation that uses it; None if the operand gets no gradient.
    """

    times: list[int]
    every: list[Node]
    nodes: list[Node]
    given: dict[Node, str]
    values: dict[Node, Rows] = field(default_factory=dict)
    grads: dict[Node, Rows] = field(default_factory=dict)
    edges: dict[tuple[Node, Node | str], Rows | None] = field(default_factory=dict)

    def add_edge(self, source: Node, target: Node | str, rows: Rows) -> None:
        """Add the cotangent of one use; several uses by one operation are one edge."""
        before = self.edges.get((source, target))
        self.edges[source, target] = rows if before is None else plus(before, rows)


def plus(a: Rows, b: Rows) -> Rows:
    """Return the sum, with every row at the power of its larger part."""
    top = or_zero(np, np.maximum(a.tops(), b.tops()))
    with np.errstate(under="ignore"):
        return Rows(a.divided(top) + b.divided(top), top)


VIEWS = frozenset({"index", "reshape", "permute_dims", "broadcast_to", "astype", "to_device"})
"""Operations that only move elements; users of their result count as users of their operand."""


def only_moves(node: Node, inside: Container[Any]) -> bool:
    """Whether an unmarked operation only moves elements of another one in ``inside``."""
    return node.op in VIEWS and not node.marks and seen_in(node) in inside


def seen_in(view: Node) -> Node:
    """The node whose elements a view moves."""
    return cast(Node, (view.inputs or ())[0])


def is_weight(node: Node) -> bool:
    """Whether a node is a parameter, perhaps with other axes or dtype."""
    while node.op in VIEWS and node.op != "index" and not node.marks:
        node = seen_in(node)
    return node.primitive is None and node.requires_grad and not node.marks


# --- side by side -------------------------------------------------------------------------------


@modes_kept
def side_by_side(
    scan: Steps, outside: Scaled, total: Scaled, steps: HostArray
) -> Iterator[StepGroup]:
    """Yield some steps of a fused layer, as many at once as fit into memory.

    ``outside`` are the cotangents of its states from outside the layer, ``total`` their whole gradients.
    """
    for some in scan.chunks(steps):
        back = next_step_cotangents(scan, some, total)
        (direct, own), powers = at_common_powers(back, outside.at(some))
        side = scan.at(some, inputs=True)
        starts = [*side.before.values(), side.x]
        nodes = ancestors(list(side.after.values()), constants=True)
        inside = set(descendants(starts, nodes))
        grads: dict[Node, Array] = {}
        seeds = latest_first([*scan.by_node(side.after, direct + own).items()])
        with no_grad():
            backpropagate(seeds, inside, visit=grads.__setitem__, retain_graph=True)
        every = starts + [n for n in nodes if n in inside and n not in starts]
        given = {**dict.fromkeys(side.before.values(), "before"), side.x: "input"}
        shown = [n for n in every if n in given or not only_moves(n, inside)]
        group = StepGroup([scan.start + int(i) for i in some], every, shown, given)
        _fill(group, grads, powers)
        _outer(group, side, (direct, own), powers, total, some)
        yield group


@modes_kept
def _fill(group: StepGroup, grads: Mapping[Node, Array], powers: HostArray) -> None:
    """Add the values and gradients of the nodes, and the edges inside the step."""
    front = powers.shape
    for node in group.nodes:
        group.values[node] = Rows(_wide(node.value, front), np.zeros(front, np.int64))
        if node in grads:
            group.grads[node] = Rows(_wide(grads[node], front), powers)
    shown, inside = set(group.nodes), set(group.every)
    for node in group.nodes:
        if node in group.given or node not in grads:
            continue
        left = [(node, grads[node])]
        while left:
            with no_grad():
                edges = pull(*left.pop(), inside)
            for x, cotangent in edges:
                whole = dense(x, cotangent)
                if x in shown:
                    group.add_edge(x, node, Rows(_wide(whole, front), powers))
                else:
                    left.append((x, whole))


def _outer(
    group: StepGroup,
    side: SideBySide,
    arriving: tuple[Array, Array],
    powers: HostArray,
    total: Scaled,
    some: HostArray,
) -> None:
    """Add the edges that leave the step, and the whole gradients of the states before."""
    for part, node in enumerate(side.after.values()):
        for target, g in zip((NEXT, LOSS), arriving, strict=True):
            group.add_edge(node, target, Rows(g[part].astype(np.float64), powers))
    whole = total.at(np.maximum(some - 1, 0))
    for part, node in enumerate(side.before.values()):
        own, rows = group.grads.get(node), Rows(whole.values[part].astype(np.float64), whole.powers)
        if own is None:
            continue
        first = some == 0  # an initial state gets its whole gradient from the first step
        values = np.where(first[:, None, None], own.values, rows.values)
        group.grads[node] = Rows(values, np.where(first[:, None], own.powers, rows.powers))


def _wide(values: Array, front: tuple[int, ...]) -> HostArray:
    rows = values.reshape(*front, -1) if values.size else np.zeros((*front, 0))
    return np.asarray(rows, np.float64)


# --- the nodes of a graph -----------------------------------------------------------------------


class RecordedSteps:
    """Steps whose operations are nodes of a graph.

    Parameters
    ----------
    seed : (Node, array)
        The root of the graph and its cotangent.
    nodes : list of Node
        The whole graph, oldest first.
    steps : dict of int to list of Node
        The operations of every step, oldest first, without parameters.
    states : set of Node
        The states that steps hand on, initial ones included; empty for modules that carry none.
    """

    def __init__(
        self, seed: Seed, nodes: list[Node], steps: dict[int, list[Node]], states: Set[Node]
    ) -> None:
        self._seed = seed
        self._steps = steps
        self._states = states
        self._owner = {node: t for t, some in steps.items() for node in some}
        self._given = {t: self._given_to(some) for t, some in steps.items()}
        self._hidden = {
            node
            for t, some in steps.items()
            for node in some
            if node not in self._given[t]
            and (only_moves(node, self._owner) or only_moves(node, self._given[t]))
            and node is not seed[0]
        }
        self._wanted = {*self._owner, *(x for given in self._given.values() for x in given)}
        self._users: dict[Node, list[Node]] = {}
        for node in nodes:
            for x in dict.fromkeys(node.inputs or ()):
                if isinstance(x, Node) and x in self._wanted:
                    self._users.setdefault(x, []).append(node)
        users = {user for some in self._users.values() for user in some}
        targets = {n for n in self._wanted | users if n.requires_grad}
        self._found = gradients_inside([seed], targets, frozenset(), nodes=nodes)
        self._outside: dict[Node, dict[Node, list[Band]]] = {}

    def times(self) -> list[int]:
        """The steps, ascending."""
        return sorted(self._steps)

    def _given_to(self, nodes: list[Node]) -> dict[Node, str]:
        """The operands of a step from outside it: states of other steps, and others but parameters.

        If a step takes its part of an array, such as x[t], the part counts as the operand.
        """
        inside, found = set(nodes), dict[Node, str]()
        for node in nodes:
            outside = [x for x in node.inputs or () if isinstance(x, Node) and x not in inside]
            if node.op == "index" and outside and outside[0] not in self._states:
                found[node] = "input"
                continue
            for x in outside:
                if x in self._states:
                    found[x] = "before"
                elif np.ndim(x.value) and not is_weight(x):
                    found[x] = "input"
        return dict(sorted(found.items(), key=lambda item: item[0].order))

    def groups(self, times: Sequence[int], edges: bool = True) -> Iterator[StepGroup]:
        """Yield some steps; consecutive ones with the same operations are reduced together."""
        alike: list[int] = []
        for t in times:
            if alike and (len(alike) == TOGETHER or self._form(t) != self._form(alike[0])):
                yield self._group(alike, edges)
                alike = []
            alike.append(t)
        if alike:
            yield self._group(alike, edges)

    def _nodes(self, t: int) -> list[Node]:
        given = self._given[t]
        return [*given, *(node for node in self._steps[t] if node not in given)]

    def _form(self, t: int) -> list[Any]:
        """A description of a step, which is equal for two steps with the same operations."""
        nodes = self._nodes(t)
        places: dict[Any, int] = {node: i for i, node in enumerate(nodes)}
        return [
            (
                n.op,
                n.value.shape,
                None if n in self._given[t] else [places.get(x) for x in n.inputs or ()],
            )
            for n in nodes
        ]

    @modes_kept
    def _group(self, times: list[int], edges: bool) -> StepGroup:
        every = [self._nodes(t) for t in times]
        shown = [n for n in every[0] if n not in self._hidden]
        group = StepGroup(times, every[0], shown, self._given[times[0]])
        for i, node in enumerate(every[0]):
            if node in self._hidden:
                continue
            column = [nodes[i] for nodes in every]
            values = np.stack([samples(n.value) for n in column])
            group.values[node] = Rows(values, np.zeros(values.shape[:2], np.int64))
            if node.requires_grad:
                group.grads[node] = stacked([self._found.of(n) for n in column], values.shape)
        for i, node in enumerate(every[0] if edges else ()):
            if node in group.grads:
                column = [nodes[i] for nodes in every]
                for target, bands in self._edges(column, every).items():
                    group.edges[node, target] = stacked(bands, group.values[node].values.shape)
            elif node in group.values:
                inside = [user for user in self._users_of(node) if user in group.values]
                group.edges |= dict.fromkeys(((node, user) for user in inside), None)
        return group

    def _edges(
        self, column: list[Node], every: list[list[Node]]
    ) -> dict[Node | str, list[list[Band]]]:
        """The cotangents of one operation at each of the steps, by its users at the first step."""
        found: dict[Node | str, list[list[Band]]] = {}
        for k, (node, nodes) in enumerate(zip(column, every, strict=True)):
            places = {n: i for i, n in enumerate(nodes)}
            for user in self._users_of(node):
                target: Node | str = LOSS
                if user in places:
                    target = every[0][places[user]]
                elif user in self._owner and self._states:
                    target = NEXT
                bands = self._input_cotangents(user).get(node, [])
                found.setdefault(target, [[] for _ in column])[k].extend(bands)
            if node is self._seed[0]:
                found.setdefault(LOSS, [[] for _ in column])[k].append((self._seed[1], 0))
        return found

    def _users_of(self, node: Node) -> dict[Node, None]:
        """The operations that use a node, or a view of it that is not shown."""
        found: dict[Node, None] = {}
        left = [node]
        while left:
            for user in self._users.get(left.pop(), ()):
                if user in self._hidden:
                    left.append(user)
                else:
                    found[user] = None
        return found

    @modes_kept
    def _input_cotangents(self, user: Node) -> dict[Node, list[Band]]:
        """The cotangents of a node's inputs, as far as these are shown."""
        if user not in self._outside:
            found: dict[Node, list[Band]] = {}
            left = [(user, band) for band in self._found.of(user) if user.requires_grad]
            while left:
                node, (g, power) = left.pop()
                with no_grad():
                    for x, cotangent, powers in input_cotangents(node, g, power, self._wanted):
                        bands = _whole(x, cotangent, powers)
                        if x in self._hidden:
                            left += [(x, band) for band in bands]
                        else:
                            found.setdefault(x, []).extend(bands)
            self._outside[user] = found
        return self._outside[user]


def _whole(x: Node, cotangent: Any, powers: Power) -> Iterator[Band]:
    """Yield a cotangent in the shape of its node; around a part there are zeros."""
    if type(cotangent) is not Slice:
        yield cotangent, _one(powers)
        return
    alone = _one(powers)
    bands = (
        [(cotangent.value, alone)] if isinstance(alone, int) else as_bands(cotangent.value, alone)
    )
    for value, power in bands:
        part = Slice(cotangent.key, cotangent.arrays, value, cotangent.lead)
        yield gather(x, [part]), power


def _one(powers: Power) -> Power:
    """A power as a number, if it is one for all rows."""
    if isinstance(powers, int) or not powers.size or (powers == powers.flat[0]).all():
        return powers if isinstance(powers, int) else int(powers.flat[0]) if powers.size else 0
    return powers


def samples(array: Array) -> HostArray:
    """An array with a row for each sequence of a batch, (B, W), in float64."""
    shape = array.shape if np.ndim(array) > 1 else (1, array.size)
    return np.asarray(array, np.float64).reshape(shape[0], math.prod(shape[1:]))


def stacked(bands: list[list[Band]], shape: tuple[int, ...]) -> Rows:
    """Bands at every step as rows."""
    most = max(map(len, bands), default=0)
    whole: Rows | None = None
    for i in range(most):
        values, powers = np.zeros(shape), np.zeros(shape[:2], np.int64)
        for k, some in enumerate(bands):
            if len(some) > i:
                values[k], powers[k] = _rows(*some[i])
        whole = Rows(values, powers) if whole is None else plus(whole, Rows(values, powers))
    return whole or Rows(np.zeros(shape), np.zeros(shape[:2], np.int64))


def _rows(array: Array, power: Power) -> tuple[HostArray, HostArray]:
    """A band with a row for each sequence, and a power for each row."""
    if isinstance(power, int):
        values = samples(array)
        return values, np.full(len(values), 0 if power == NOT_FINITE else power)
    values, powers = at_sample_powers(array, power, array.ndim)
    return samples(values), powers
