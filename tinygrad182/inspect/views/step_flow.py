"""``step_flow``: every operation of every step of a recurrence, with its value, gradient and shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...display.reprs import scientific
from ...engine.backpropagation import ancestors
from ...engine.recording import Node
from ...errors import ArgumentError, UnknownPathError, brief
from ...tensors.tensor import Tensor
from ..loops.recurrences import Stack, chosen, recurrences
from ..loops.step_rows import LOSS, NEXT, RecordedSteps, StepGroup, is_weight, side_by_side
from ..loops.steps import state_cotangents
from ..passes.gradients import Seed
from ..passes.scaling import HostArray
from ..table import text_table
from .gate_names import gate_names
from .step_labels import distinct_labels, labels_of
from .viewed_recurrence import ViewedRecurrence


@dataclass(frozen=True, slots=True)
class StepOperation:
    """One operation of a step, over all steps.

    Attributes
    ----------
    label : str
        Its formula: ``"f"``, ``"c"``, ``"f∘c₋"``, ``"tanh(c)"``. ``₋`` marks the state before.
    op : str
        The operation, such as ``"sigmoid"``; ``"leaf"`` for an operand that the step is given.
    kind : {"input", "before", "operation", "gate", "state"}
        ``"before"``: a state of the step before; ``"input"``: any other operand from outside the step.
    name : str
        The gate's or state's name; ``""`` for others.
    module : str
        The path of the module it was recorded in.
    shape : tuple of int
        At one step, (B, H).
    log10_value_norm, log10_grad_norm : ndarray ``(T,)``
        Decadic logarithms of Frobenius norms, right also where the norm under- or overflows; −∞ for an
        exact 0, NaN for a NaN and for a step without this operation.
    requires_grad : bool
        Whether a gradient goes to it; if not, ``log10_grad_norm`` and the norms of its edges are NaN.
    """

    label: str
    op: str
    kind: str
    name: str
    module: str
    shape: tuple[int, ...]
    log10_value_norm: HostArray
    log10_grad_norm: HostArray
    requires_grad: bool

    def __repr__(self) -> str:
        return f"<{self.label}: {self.op} {self.shape}, ‖grad‖ {_ends(self.log10_grad_norm)}>"


@dataclass(frozen=True, slots=True)
class StepEdge:
    """One use of an operation's result, and the gradient that comes back over it.

    Attributes
    ----------
    source : int
        The operation that is used, by its position in :attr:`StepFlow.operations`.
    target : int or str
        The operation that uses it; ``"next step"``, or ``"loss"`` for any other reader of a state.
    log10_norm : ndarray ``(T,)``
        Decadic logarithms of the norms of the gradient that arrives at the source over this edge.
    share : ndarray ``(T,)``
        ⟨edge, δ⟩ / ‖δ‖², where δ is the source's whole gradient. The shares of one source sum to 1, except
        for a state before, which gets the rest of its gradient at its own step. NaN where δ is exactly 0.
    """

    source: int
    target: int | str
    log10_norm: HostArray
    share: HostArray

    def __repr__(self) -> str:
        target = f"{self.target}" if isinstance(self.target, int) else f"the {self.target}"
        return f"<from {self.source} to {target}: ‖grad‖ {_ends(self.log10_norm)}>"


class StepVectors(NamedTuple):
    """One operation over hidden units, of one sequence, at n steps.

    Attributes
    ----------
    time : ndarray (n,)
    value : ndarray (n, H)
    grad : ndarray (n, H)
        At each step divided by a power of ten, so that the largest is about 1.
    log10_scale : ndarray (n,)
        The decadic logarithm of the factor by which ``grad`` was divided.
    """

    time: HostArray
    value: HostArray
    grad: HostArray
    log10_scale: HostArray

    def __repr__(self) -> str:
        return f"<StepVectors: value and grad of {len(self.time)} steps {self.grad.shape}>"


def _ends(log10: HostArray) -> str:
    """The first and the last magnitude over time, for a repr."""
    first, last = map(scientific, log10[[0, -1]].tolist())
    return f"{first} … {last} over {len(log10)} steps" if len(log10) > 1 else first


@dataclass(frozen=True)
class StepFlow:
    """The operations of every step of one recurrence, or of a module, which has one step.

    Attributes
    ----------
    path : str
        As in :func:`gradient_flow`: ``"lstm.l0"``.
    time : ndarray ``(T,)``
    operations : tuple of StepOperation
        In the order of computation; operands from outside the step come first. Parameters are left out. If
        steps differ, the operations of all steps; ``label`` and ``op`` are those of the last step.
    edges : tuple of StepEdge
    """

    path: str
    time: HostArray
    operations: tuple[StepOperation, ...]
    edges: tuple[StepEdge, ...]
    _vectors: Callable[[tuple[int, ...], int], dict[int, StepVectors]] = field(repr=False)

    def __repr__(self) -> str:
        rows = [
            (i, o.label, o.op, o.kind, *map(scientific, o.log10_grad_norm[[0, -1]].tolist()))
            for i, o in enumerate(self.operations)
        ]
        ends = f"‖grad‖ t = {self.time[0]}", f"t = {self.time[-1]}"
        header = ("", "operation", "op", "kind", *ends)
        said = f"{self.path}: {len(self.operations)} operations, {len(self.edges)} edges, each of"
        return f"{said} {len(self.time)} steps\n{text_table(header, rows, 20)}"

    def vectors(self, operation: int | str, times: Sequence[int], sample: int = 0) -> StepVectors:
        """Return the value and the gradient of one operation over hidden units, at some steps.

        Steps that do not have the operation are left out.

        Parameters
        ----------
        operation : int or str
            Its position in :attr:`operations`, or its label.
        times : sequence of int
        sample : int
            Which sequence of the batch.

        Raises
        ------
        UnknownPathError, ArgumentError
            No such operation; no such step or sequence.
        """
        wanted = tuple(chosen(times, self.time.tolist(), "vectors"))
        place = self.index(operation)
        width = math.prod(self.operations[place].shape[1:])
        nothing = np.zeros(0), np.zeros((0, width))
        none = StepVectors(np.zeros(0, np.int64), nothing[1], nothing[1], nothing[0])
        return self._vectors(wanted, sample).get(place, none)

    def index(self, operation: int | str) -> int:
        """The position of an operation in :attr:`operations`, by its label."""
        places = range(len(self.operations))
        if isinstance(operation, int) and -len(places) <= operation < len(places):
            return places[operation]
        labels = [each.label for each in self.operations]
        if operation not in labels:
            raise UnknownPathError(
                f"step_flow: no operation {operation!r} in {self.path!r}; there are {brief(labels)[1:-1]}"
            )
        return labels.index(operation)

    def __getitem__(self, operation: int | str) -> StepOperation:
        return self.operations[self.index(operation)]

    def edge(self, source: int | str, target: int | str) -> StepEdge:
        """The edge between two operations.

        Parameters
        ----------
        source, target : int or str
            The operand and the operation that uses it, by position or label; the target may be
            ``"next step"`` or ``"loss"``.

        Raises
        ------
        UnknownPathError
            There is no such edge.
        """
        start = self.index(source)
        end = target if target in (NEXT, LOSS) else self.index(target)
        for edge in self.edges:
            if (edge.source, edge.target) == (start, end):
                return edge
        there = [
            e.target if isinstance(e.target, str) else self[e.target].label
            for e in self.edges
            if e.source == start
        ]
        raise UnknownPathError(
            f"step_flow: {self[start].label!r} is not used by {target!r}; it is by {brief(there)[1:-1]}"
        )


@np.errstate(all="ignore")  # models with NaN and infinity are looked at too
def step_flow(loss: Tensor, path: str | None = None, gradient: Any = None) -> StepFlow:
    """Return norms and shares of every operation at every step of a recurrence.

    The steps of a fused layer are recorded again, side by side, from the states and gradients that the pass
    through it finds in any case.

    Parameters
    ----------
    loss : Tensor
        A single element, unless ``gradient`` is given.
    path : str, optional
        The module that has the steps, as in :func:`gradient_flow`; needed if several have states.
    gradient : Tensor or array, optional
        The cotangent to start from.

    Returns
    -------
    StepFlow

    Raises
    ------
    GraphError
        No state was marked.
    UnknownPathError
        No such path, or several and none given.

    Notes
    -----
    Time and memory are linear in T. Norms and shares are right far below what the model's dtype can hold.

    Examples
    --------
    How much of the gradient by the cell state before step 10 comes back over its product with the gate?

    >>> import tinygrad182 as tg
    >>> lstm = tg.nn.LSTM(1, 8, forget_bias=2.0, rng=0)
    >>> flow = tg.inspect.step_flow(lstm(tg.ones((20, 1, 1)))[0][-1].sum())
    >>> [operation.label for operation in flow.operations if operation.kind == "gate"]
    ['i', 'f', 'g', 'o']
    >>> flow["f"].log10_grad_norm.shape
    (20,)
    >>> round(float(flow.edge("c₋", "f∘c₋").share[10]), 2)
    0.89
    """
    return _opened(loss, path, gradient, None)


def flow_among(loss: Tensor, path: str | None, times: Sequence[int]) -> StepFlow:
    """Return the operations of some steps alone, in proportionally less time; see :func:`step_flow`."""
    return _opened(loss, path, None, times)


def _opened(loss: Tensor, path: str | None, gradient: Any, times: Sequence[int] | None) -> StepFlow:
    here = ViewedRecurrence.of(loss, path, "step_flow", gradient=gradient)
    name = path if path is not None else next(iter(here.stack.values())).module
    some, every = _source(here, times)
    return _flow(name, every, some(every, True), lambda wanted: some(wanted, False))


@np.errstate(all="ignore")
def step_groups(loss: Tensor, path: str) -> Iterator[StepGroup]:
    """Yield the operations of :func:`step_flow` with their arrays, many steps at once, without edges."""
    some, every = _source(ViewedRecurrence.of(loss, path, "step_flow"), None)
    yield from some(every, False)


def _source(
    here: ViewedRecurrence, wanted: Sequence[int] | None
) -> tuple[Callable[[Sequence[int], bool], Iterator[StepGroup]], list[int]]:
    """A function that yields some steps of a recurrence, with or without edges, and all its steps."""
    if here.is_fused:
        return _of_layer(here, wanted)
    nodes = ancestors([here.root], constants=True)
    steps = steps_of_loop(nodes, here.stack)
    some = steps if wanted is None else {t: steps[t] for t in wanted if t in steps}
    states = {node for r in here.stack.values() for node in r.nodes()}
    source = RecordedSteps((here.root, here.seed), nodes, some, states)
    return source.groups, source.times()


@np.errstate(all="ignore")  # models with NaN and infinity are looked at too
def flow_of_nodes(
    seed: Seed, nodes: list[Node], steps: dict[int, list[Node]], path: str
) -> StepFlow:
    """Return the operations of steps that are nodes of a graph; see :class:`.step_rows.RecordedSteps`."""
    source = RecordedSteps(seed, nodes, steps, frozenset())

    def some(times: Sequence[int]) -> Iterator[StepGroup]:
        return source.groups(times, edges=False)

    return _flow(path, source.times(), source.groups(source.times()), some)


def calls_of(members: Sequence[Node], most: int | None = None) -> dict[int, list[Node]]:
    """Return the operations of a module: one step for each call if all are alike, else a single step.

    A single step has the last ``most`` operations, or all.
    """
    calls: dict[int, list[Node]] = {}
    for node in members:
        if node.primitive is not None and not is_weight(node):
            calls.setdefault(node.scope.call, []).append(node)
    alike = len({tuple(n.op for n in some) for some in calls.values()}) == 1
    if len(calls) > 1 and alike:
        return dict(enumerate(calls.values()))
    every = sorted((n for some in calls.values() for n in some), key=lambda n: n.order)
    return {0: every[-most:] if most else every} if every else {}


def _of_layer(
    here: ViewedRecurrence, wanted: Sequence[int] | None
) -> tuple[Callable[[Sequence[int], bool], Iterator[StepGroup]], list[int]]:
    """A function that yields some steps of a fused layer, and all its steps or the wanted ones."""
    windows = state_cotangents(here.root, here.seed, here.stack)

    def some(times: Sequence[int], edges: bool) -> Iterator[StepGroup]:  # edges cost little here
        for scan, outside, total in windows:
            yield from side_by_side(scan, outside, total, scan.among(times))

    return some, [t for scan, *_ in windows for t in scan.times() if wanted is None or t in wanted]


def steps_of_loop(nodes: list[Node], stack: Stack) -> dict[int, list[Node]]:
    """Return the operations that lead to the states of each step of a loop, and to no other step.

    Parameters are left out. ``nodes`` are the whole graph, oldest first.
    """
    times = {node: t for r in stack.values() for t, node in r.steps.items()}
    others = {node for r in recurrences(nodes) for node in r.nodes()} - times.keys()
    owner: dict[Node, int | None] = {}
    for node in reversed(nodes):
        t = times.get(node, owner.get(node))
        if node in others or (node not in times and t is None):
            continue
        owner[node] = t
        for x in node.inputs or ():
            if isinstance(x, Node) and x not in times:
                owner[x] = t if owner.get(x, t) == t else None
    found: dict[int, list[Node]] = {t: [] for t in sorted(set(times.values()))}
    for node in nodes:
        t = owner.get(node)
        if (
            t is not None
            and node.primitive is not None
            and node not in others
            and not is_weight(node)
        ):
            found[t].append(node)
    return found


# --- from groups to figures over time ------------------------------------------------------------

Key = tuple[str, str, str, int]
"""An operation across steps: its module, kind and name, and its number among several."""


def _flow(
    path: str,
    times: Sequence[int],
    groups: Iterable[StepGroup],
    again: Callable[[Sequence[int]], Iterable[StepGroup]],
) -> StepFlow:
    table = _Table(times)
    for group in groups:
        table.add(group)
    order = {key: i for i, key in enumerate(table.in_order())}
    named = {key for key, row in table.operations.items() if row["kind"] in ("gate", "state")}
    labels = distinct_labels({key: table.operations[key]["label"] for key in order}, named)

    @cache
    @np.errstate(all="ignore")
    def vectors(times: tuple[int, ...], sample: int) -> dict[int, StepVectors]:
        found: dict[int, list[StepVectors]] = {}
        for group in again(times):
            for key, node in _keys(group).items():
                found.setdefault(order[key], []).append(_vectors(group, node, sample))
        return {
            i: StepVectors(*map(np.concatenate, zip(*some, strict=True)))
            for i, some in found.items()
        }

    operations = tuple(
        StepOperation(**table.operations[key] | {"label": labels[key]}) for key in order
    )
    edges = tuple(
        StepEdge(order[source], target if isinstance(target, str) else order[target], *arrays)
        for (source, target), arrays in table.edges.items()
        if not np.isneginf(arrays[0]).all()
    )
    return StepFlow(path, np.array(times), operations, edges, vectors)


class _Table:
    """Figures over time of every operation and edge that occurs at some step."""

    def __init__(self, times: Sequence[int]) -> None:
        self._places = {t: i for i, t in enumerate(times)}
        self.operations: dict[Key, dict[str, Any]] = {}
        self.edges: dict[tuple[Key, Key | str], tuple[HostArray, HostArray]] = {}
        self._order: list[Key] = []

    def add(self, group: StepGroup) -> None:
        """Add the figures of some steps."""
        at = [self._places[t] for t in group.times]
        keys = _keys(group)
        names, labels = called(group)
        self._arrange([*keys])
        for key, node in keys.items():
            row = self.operations.get(key)
            if row is None:
                row = self.operations[key] = self._row(group, node, labels[node], names)
            # a first step, without a state before, is not typical
            row["label"], row["op"] = labels[node], node.op
            row["log10_value_norm"][at] = group.values[node].log10_norm()
            if node in group.grads:
                row["log10_grad_norm"][at] = group.grads[node].log10_norm()
        key_of = {node: key for key, node in keys.items()}
        for (source, target), rows in group.edges.items():
            end = target if isinstance(target, str) else key_of[target]
            arrays = self.edges.setdefault((key_of[source], end), (self._empty(), self._empty()))
            if rows is not None:
                arrays[0][at] = rows.log10_norm()
                arrays[1][at] = rows.share_of(group.grads[source])

    def _arrange(self, keys: list[Key]) -> None:
        """Insert operations that no step had so far behind the operations that they follow."""
        place = 0
        for key in keys if any(key not in self.operations for key in keys) else ():
            if key in self.operations:
                place = self._order.index(key) + 1
            else:
                self._order.insert(place, key)
                place += 1

    def in_order(self) -> list[Key]:
        """The operations in the order of computation, behind the operands from outside the step."""
        kinds = ["before", "input"]

        def rank(key: Key) -> int:
            kind = self.operations[key]["kind"]
            return kinds.index(kind) if kind in kinds else len(kinds)

        return sorted(self._order, key=rank)

    def _row(
        self, group: StepGroup, node: Node, label: str, names: dict[Node, str]
    ) -> dict[str, Any]:
        shape = group.values[node].values.shape[1:]
        return {
            "label": label,
            "op": node.op,
            "kind": kind_of(node, group, names),
            "name": names.get(node, ""),
            "module": node.scope.module,
            "shape": shape,
            "log10_value_norm": self._empty(),
            "log10_grad_norm": self._empty(),
            "requires_grad": node in group.grads,
        }

    def _empty(self) -> HostArray:
        return np.full(len(self._places), np.nan)


def called(group: StepGroup) -> tuple[dict[Node, str], dict[Node, str]]:
    """Return the names of the states and gates among a step's operations, and every operation's label."""
    names = {node: name for node in group.nodes if (name := name_of(node))}
    names |= {n: g for n, g in gate_names(group.every).items() if n not in names}
    return names, labels_of(group.nodes, group.given, names)


def kind_of(node: Node, group: StepGroup, names: Mapping[Node, str]) -> str:
    """Return the kind of an operation; see :class:`StepOperation`."""
    kind = "gate" if node in names else "operation"
    kind = "state" if name_of(node) else kind
    return group.given.get(node, kind)


def name_of(node: Node) -> str:
    """The name a state was marked with."""
    return node.marks[-1].name if node.marks else ""


def _keys(group: StepGroup) -> dict[Key, Node]:
    """The operations of a step by the keys that identify them across steps."""
    counts: Counter[tuple[str, str, str]] = Counter()
    found: dict[Key, Node] = {}
    for node in group.nodes:
        kind = group.given.get(node) or ("state" if node.marks else node.op)
        what = ("" if kind in group.given.values() else node.scope.module, kind, name_of(node))
        found[(*what, counts[what])] = node
        counts[what] += 1
    return found


def _vectors(group: StepGroup, node: Node, sample: Any) -> StepVectors:
    values = group.values[node].values
    if not isinstance(sample, int) or not -values.shape[1] <= sample < values.shape[1]:
        raise ArgumentError(f"sample {sample}; the batch has {values.shape[1]} sequences, from 0")
    nothing = np.full(values.shape[::2], np.nan), np.full(len(values), np.nan)
    grads, scales = group.grads[node].at_sample(sample) if node in group.grads else nothing
    return StepVectors(np.array(group.times), values[:, sample], grads, scales)
