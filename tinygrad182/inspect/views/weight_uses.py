"""The uses of one weight in a graph without fused layers, and the contribution of each step's uses."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...arrays.namespaces import Array
from ...engine.backpropagation import ancestors, backpropagate, dense, pull
from ...engine.modes import modes_kept, no_grad
from ...engine.recording import Leaf, Node
from ...errors import GraphError
from ...kernels.powers import NOTHING, largest_exponent
from ...recurrence.unrolling import unrolled
from ..loops.axes import TimeAxis, is_separable, operand_axes, step_taken
from ..loops.times import marked_times, places
from ..passes.gradients import gradients_in_bands
from ..passes.scaling import NOT_FINITE, Band, HostArray, times_power
from .weight_parts import CheckedParts, Part


class _UseCotangent(NamedTuple):
    """The cotangent that a use sends into the neck, to ``node[key]``, times 2**power.

    It belongs to one row: a step, or one sequence at a step.
    """

    row: int
    node: Node
    key: tuple[Any, ...]
    value: Array
    power: int


class Uses:
    """The uses of one weight, each of which belongs to a step.

    The weight and the nodes computed from it alone are the neck. Every way from the loss to the weight
    enters the neck over the edge of one use. So the cotangents that uses send into the neck add up to the
    gradient.

    Attributes
    ----------
    neck : set of Node
        The weight, and nodes computed from it alone, outside any step (its transpose).
    uses : list of Node
        The operations of a step, or with a time axis, that read the neck.
    alone : set of Node
        With ``per_sample``, nodes that a step computes from the neck alone. The use is then the operation
        that combines them with sequences.
    outside : list of Node
        Operations that take the neck to the loss outside any step: a penalty.
    steps : int
        T: one more than the last step.
    batches : dict of Node to int or None
        With ``per_sample``, the axis of every use's result along which sequences lie; None for a result of
        one sequence.
    count : int
        With ``per_sample`` B, the number of sequences; else 1. Rows are steps, and in each the sequences.

    Raises
    ------
    GraphError
        No step uses the weight, or an operation uses it for several steps or sequences that cannot be
        separated.
    """

    def __init__(self, root: Node, weight: Node, per_sample: bool = False) -> None:
        self.root, self.weight = unrolled(root), weight
        nodes = ancestors([self.root], constants=True)
        self.times, self.axes = places(nodes)
        self.uses: list[Node] = []
        self.alone: set[Any] = set()
        self.outside: list[Node] = []
        neck: set[Any] = {weight}
        behind: set[Any] = set()  # nodes that depend on a step
        for node in nodes:
            inputs = node.inputs or ()
            if node in self.times or node in self.axes or not behind.isdisjoint(inputs):
                behind.add(node)
            if node in neck or (neck.isdisjoint(inputs) and self.alone.isdisjoint(inputs)):
                continue
            if node in behind and self._joins_loss(node, neck):
                self.outside.append(node)
            elif per_sample and _is_made_of(node, neck | self.alone):
                self.alone.add(node)
            elif node in self.times or node in self.axes:
                self.uses.append(node)
            elif node in behind:
                self._refuse(node)
            else:
                neck.add(node)
        self.neck = neck
        if not self.uses:
            raise GraphError(
                f"weight_grad_by_time: no time step uses {weight.label()}; the layers of tg.nn mark their "
                "steps, and tg.inspect.mark marks those of your own loop"
            )
        last = max((t for node in nodes for t in marked_times(node)), default=-1)
        self.steps = max(last, *self.times.values()) + 1
        single = _of_single_steps(nodes) if per_sample else set()
        self.batches = {n: self._batch(n, n in single) for n in self.uses} if per_sample else {}
        self.count = self._sequences()
        self.samples = (self.count,) if per_sample else ()

    def _joins_loss(self, node: Node, neck: set[Any]) -> bool:
        """Whether a node adds a number computed from the weight alone, a penalty, to results of steps."""
        numbers = [x for x in node.inputs or () if x in neck]
        if self.weight in numbers or any(x.value.ndim for x in numbers):  # type: ignore[union-attr]
            return False
        in_a_step = node in self.times or node in self.axes
        sums_up = node.op in {"add", "subtract"} and not node.value.ndim
        return not in_a_step or sums_up or node.op == "stack"

    def _refuse(self, node: Node) -> None:
        raise GraphError(
            f"weight_grad_by_time: {node.op} of shape {tuple(node.value.shape)}{node.place()} uses "
            f"{self.weight.label()} for several steps at once, whose time axis is not known; apply it "
            "to every step, or to tg.stack(states), before steps are mixed; or name the step that "
            "computes it: tg.inspect.mark(x, name, time=t)"
        )

    def _batch(self, use: Node, is_single: bool) -> int | None:
        """The axis of sequences: the first of a use's result, except time; not an axis of the weight.

        A result that has no axis but the weight's, or others of size 1 (W @ h), is of one sequence. With
        ``is_single``, the result has a time axis of length 1 although it belongs to one step.
        """
        time, made = self.axes.get(use), self.neck | self.alone
        axes = [axis for axis in range(-use.value.ndim, 0) if time is None or axis != time.axis]
        if (self.steps == 1 or is_single) and len(axes) > 2 and use.value.shape[axes[0]] == 1:
            del axes[0]  # time, in an array of one step
        if not axes:
            return None
        inputs = [x for x in use.inputs or () if isinstance(x, Node)]
        places = zip(inputs, operand_axes(use, axes[0]), strict=True)
        from_left = use.op == "matmul" and inputs[0] in made
        if not from_left and not any(x in made and at is not None for x, at in places):
            return axes[0]
        if all(use.value.shape[axis] == 1 for axis in axes[1:]):
            return None
        raise GraphError(
            "weight_grad_by_time: per_sample needs the sequences along the first axis of a step's results, "
            f"but in {use.op} of shape {tuple(use.value.shape)}{use.place()} that is an axis of "
            f"{self.weight.label()}; write x @ W.T instead of W @ x, and compute functions of the weight "
            "alone before the loop"
        )

    def _sequences(self) -> int:
        """The number of sequences, which every use must have."""
        first: dict[int, Node] = {}
        for use, axis in self.batches.items():
            first.setdefault(1 if axis is None else use.value.shape[axis], use)
        if len(first) > 1:
            found = [
                f"{n} in {use.op} of shape {tuple(use.value.shape)}{use.place()}"
                for n, use in first.items()
            ]
            raise GraphError(
                "weight_grad_by_time: per_sample needs one number of sequences at all uses of "
                f"{self.weight.label()}; there are {', '.join(found)}; broadcast operands that have one"
            )
        return next(iter(first), 1)

    def contributions(self, seed: Array, chunk: int) -> CheckedParts:
        """The contribution of each step, about ``chunk`` elements at a time."""
        found = gradients_in_bands(self.root, seed, {*self.uses, *self.outside, self.weight})
        outside = [
            each
            for node in self.outside
            for each in self._use_cotangents(node, found.get(node, ()), 0)
        ]
        return CheckedParts(
            self.weight,
            self.steps,
            self._by_chunks(found, chunk),
            found.get(self.weight, []),
            self._combined(outside, range(1)),
            self.samples,
        )

    def _by_chunks(self, grads: dict[Node, list[Band]], chunk: int) -> Iterator[Part]:
        largest = max(node.value.size for node in self.neck) * self.count
        count = max(1, chunk // max(largest, 1))
        uses: dict[int, list[Node]] = {}
        for node in self.uses:
            for i in {t // count for t in self._steps_of(node)}:
                uses.setdefault(i, []).append(node)
        for i, start in enumerate(range(0, self.steps, count)):
            times = range(start, min(start + count, self.steps))
            given = [s for node in uses.get(i, ()) for s in self._in_steps(node, grads, times)]
            yield self._combined(given, times)

    def _steps_of(self, node: Node) -> range:
        if node in self.times:
            return range(self.times[node], self.times[node] + 1)
        axis, start = self.axes[node]
        return range(start, start + node.value.shape[axis])

    def _in_steps(
        self, node: Node, grads: dict[Node, list[Band]], times: range
    ) -> Iterator[_UseCotangent]:
        """Yield the cotangents that a use sends into the neck for some of its steps."""
        bands = grads.get(node, ())
        if node in self.times:
            yield from self._use_cotangents(node, bands, self.times[node])
            return
        axis, start = self.axes[node]
        for t in self._steps_of(node):
            if t in times and any(g[_at(axis, t - start)].any() for g, _ in bands):
                yield from self._use_cotangents_at(node, bands, axis, t - start, t)

    def _use_cotangents(
        self, node: Node, bands: Iterable[Band], time: int
    ) -> Iterator[_UseCotangent]:
        axis = self.batches.get(node)
        for g, power in bands:
            for p, c in _pulled(node, g, self.neck | self.alone, axis):
                yield from self._in_rows(time, p, (), c, power, axis is not None)

    def _use_cotangents_at(
        self, node: Node, bands: Iterable[Band], axis: int, i: int, time: int
    ) -> Iterator[_UseCotangent]:
        """Yield the cotangents that element ``i`` along the time axis of a use sends into the neck."""
        if not is_separable(node):
            for g, power in bands:
                alone = np.zeros_like(g)
                alone[_at(axis, i)] = g[_at(axis, i)]
                yield from self._use_cotangents(node, [(alone, power)], time)
            return
        twin, parts = _at_step(node, axis, i)
        wanted = {x for x, (source, _) in parts.items() if source in self.neck | self.alone}
        batch = self.batches.get(node)
        for g, power in bands:
            for x, c in _pulled(twin, g[_at(axis, i)], wanted, batch):
                yield from self._in_rows(time, *parts[x], c, power, batch is not None)

    def _in_rows(
        self, time: int, node: Node, key: tuple[Any, ...], c: Array, power: int, apart: bool
    ) -> Iterator[_UseCotangent]:
        """Yield a cotangent of the neck by rows; with ``apart``, sequences are on its first axis."""
        for p, down in [(node, c)] if node in self.neck else self._carried(node, c):
            rows = down if apart else down[None]
            for b in range(len(rows)):
                yield _UseCotangent(time * self.count + b, p, key, rows[b, ...], power)

    @modes_kept
    def _carried(self, node: Node, c: Array) -> list[tuple[Node, Array]]:
        """The cotangents that the neck gets from that of a node computed from it alone."""
        with no_grad():
            found = backpropagate([(node, c)], self.neck, retain_graph=True, stop=True)
        return list(found.items())

    @modes_kept
    def _combined(self, given: list[_UseCotangent], times: range) -> Part:
        """Send cotangents of the neck down to the weight, with the rows on a leading axis."""
        weight = self.weight.value
        first, count = times.start * self.count, len(times) * self.count
        tops = _tops(given, range(first, first + count), weight.dtype)
        seeds: dict[Node, Array] = {}
        for s in given:
            if s.node not in seeds:
                seeds[s.node] = np.zeros((count, *s.node.value.shape), s.node.value.dtype)
            i = s.row - first
            power = 0 if s.power == NOT_FINITE else s.power
            seeds[s.node][(i, *s.key)] += times_power(s.value, int(power - tops[i]))
        with no_grad():
            found = backpropagate(list(seeds.items()), {self.weight}, retain_graph=True)
        zeros = np.zeros((count, *weight.shape), weight.dtype)
        shape = len(times), *self.samples
        values = found.get(self.weight, zeros).reshape(*shape, *weight.shape)
        return Part(times, values, tops.reshape(shape))


def _of_single_steps(nodes: list[Node]) -> set[Node]:
    """Arrays with one step along their first axis, from which the step is taken, as in a short window.

    States are not among them: an index into a state takes no step.
    """
    found: set[Node] = set()
    for node in reversed(nodes):
        inputs = [x for x in node.inputs or () if isinstance(x, Node) and not x.marks]
        if node.op == "index" and inputs:
            shape = inputs[0].value.shape
            if shape[:1] == (1,) and step_taken(node, TimeAxis(-len(shape), 0)) is not None:
                found.add(inputs[0])
        elif node in found and node.primitive is not None and node.primitive.broadcasts:
            found.update(x for x in inputs if x.value.ndim == node.value.ndim)
    return found


def _is_made_of(node: Node, given: set[Any]) -> bool:
    """Whether an operation without a mark was applied to given nodes and numbers alone."""
    return not node.marks and all(x in given for x in node.inputs or () if isinstance(x, Node))


def _pulled(
    node: Node, g: Array, wanted: Container[Any], axis: int | None
) -> list[tuple[Node, Array]]:
    """The cotangents of a node's wanted inputs; with ``axis``, sequences are on a leading axis."""
    if axis is not None:
        whole, g = g, np.zeros((g.shape[axis], *g.shape), g.dtype)
        for b, alone in enumerate(g):
            alone[_at(axis, b)] = whole[_at(axis, b)]
    return [(x, dense(x, c)) for x, c in pull(node, g, wanted)]


def _at(axis: int, i: int) -> tuple[Any, ...]:
    """The key of element ``i`` along an axis counted from the end; the axis stays, with length 1."""
    return (..., slice(i, i + 1), *[slice(None)] * (-axis - 1))


def _at_step(
    node: Node, axis: int, i: int
) -> tuple[Node, dict[Node, tuple[Node, tuple[Any, ...]]]]:
    """An operation at one step; for each of its inputs, the node and the key that give it."""
    places = iter(operand_axes(node, axis))
    parts: dict[Node, tuple[Node, tuple[Any, ...]]] = {}
    inputs: list[Any] = []
    for x in node.inputs or ():
        if isinstance(x, Node):
            place = next(places)
            key = () if place is None else _at(place, i)
            part = x if place is None else Leaf(x.value[key], x.requires_grad)
            parts[part] = x, key
            x = part
        inputs.append(x)
    value = node.value[_at(axis, i)]
    return Node(node.primitive, tuple(inputs), value, node.params, node.scope), parts


def _tops(given: list[_UseCotangent], rows: range, dtype: Any) -> HostArray:
    """The power of two of every row; 0 where its cotangents are well within the range of the dtype."""
    tops = np.full(len(rows), NOTHING)
    for s in given:
        size = float(np.abs(s.value).max(initial=0.0))
        if 0 < size < math.inf and s.power != NOT_FINITE:
            i = s.row - rows.start
            tops[i] = max(tops[i], s.power + math.frexp(size)[1])
    limit = largest_exponent(dtype) // 2
    return np.where((np.abs(tops) < limit) | (tops == NOTHING), 0, tops)
