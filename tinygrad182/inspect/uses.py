"""The uses of a weight in a graph that is step by step, and what each step's contribute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from ..backpropagation import ancestors, backpropagate, gather, pull
from ..errors import GraphError
from ..kernels.powers import NOTHING, largest_exponent
from ..modes import modes_kept, no_grad
from ..primitives.index import Slice
from ..recording import Leaf, Node
from ..unrolling import unrolled
from .axes import is_told_apart, operand_axes
from .gradients import gradients_in_bands
from .parts import CheckedParts, Part
from .scaling import NOT_FINITE, Band, times_power
from .times import marked_times, places


class _Sent(NamedTuple):
    """What one step's use sends into the neck: to ``node[key]``, times 2**power."""

    time: int
    node: Node
    key: tuple[Any, ...]
    value: Array
    power: int


class Uses:
    """The uses of one weight: from what is known to belong to a step, down to the weight.

    Every way from the loss to the weight ends in the neck, and leaves it over the edge of one use: so
    what uses send into the neck is the gradient.

    Attributes
    ----------
    neck : set of Node
        The weight, and what is computed from it before any step takes part (its transpose).
    uses : list of Node
        The operations that take one of these into a step, or into something with a time axis.
    outside : list of Node
        Those that take one of these to the loss alone: a penalty.
    steps : int
        T: one more than the last step there is.

    Raises
    ------
    GraphError
        No step uses the weight, or an operation uses it for several that cannot be told apart.
    """

    def __init__(self, root: Node, weight: Node) -> None:
        self.root, self.weight = unrolled(root), weight
        nodes = ancestors([self.root], constants=True)
        self.times, self.axes = places(nodes)
        self.uses: list[Node] = []
        self.outside: list[Node] = []
        neck: set[Any] = {weight}
        behind: set[Any] = set()  # what depends on a step
        for node in nodes:
            inputs = node.inputs or ()
            if node in self.times or node in self.axes or not behind.isdisjoint(inputs):
                behind.add(node)
            if node in neck or neck.isdisjoint(inputs):
                continue
            if node in behind and self._joins_loss(node, neck):
                self.outside.append(node)
            elif node in self.times or node in self.axes:
                self.uses.append(node)
            elif node in behind:
                self._refuse(node)
            else:
                neck.add(node)
        self.neck = neck
        if not self.uses:
            raise GraphError(
                f"weight_grad_by_time: the loss depends on {weight.label()} in no time step: uses are "
                "told apart by the steps of tg.nn's recurrent layers, or by tg.inspect.mark in a loop of "
                "your own"
            )
        last = max((t for node in nodes for t in marked_times(node)), default=-1)
        self.steps = max(last, *self.times.values()) + 1

    def _joins_loss(self, node: Node, neck: set[Any]) -> bool:
        """Whether a number from the weight alone, a penalty, meets what steps gave in ``node``."""
        numbers = [x for x in node.inputs or () if x in neck]
        if self.weight in numbers or any(x.value.ndim for x in numbers):  # type: ignore[union-attr]
            return False
        in_a_step = node in self.times or node in self.axes
        sums_up = node.op in {"add", "subtract"} and not node.value.ndim
        return not in_a_step or sums_up or node.op == "stack"

    def _refuse(self, node: Node) -> None:
        raise GraphError(
            f"weight_grad_by_time: {node.op} of shape {tuple(node.value.shape)}{node.place()} uses "
            f"{self.weight.label()} for several steps at once, in which no time axis is known: apply it "
            "to every step, or to tg.stack(states), before steps are mixed; or name the step that "
            "computes it: tg.inspect.mark(x, name, time=t)"
        )

    def contributions(self, seed: Array, chunk: int) -> CheckedParts:
        """What each step contributes, about ``chunk`` elements at a time."""
        found = gradients_in_bands(self.root, seed, {*self.uses, *self.outside, self.weight})
        outside = [
            sent for node in self.outside for sent in self._sent(node, found.get(node, ()), 0)
        ]
        return CheckedParts(
            self.weight,
            self.steps,
            self._by_chunks(found, chunk),
            found.get(self.weight, []),
            self._combined(outside, range(1)),
        )

    def _by_chunks(self, grads: dict[Node, list[Band]], chunk: int) -> Iterator[Part]:
        largest = max(node.value.size for node in self.neck)
        count = max(1, chunk // max(largest, 1))
        uses: dict[int, list[Node]] = {}
        for node in self.uses:
            for i in {t // count for t in self._steps_of(node)}:
                uses.setdefault(i, []).append(node)
        for i, start in enumerate(range(0, self.steps, count)):
            times = range(start, min(start + count, self.steps))
            sent = [s for node in uses.get(i, ()) for s in self._in_steps(node, grads, times)]
            yield self._combined(sent, times)

    def _steps_of(self, node: Node) -> range:
        if node in self.times:
            return range(self.times[node], self.times[node] + 1)
        axis, start = self.axes[node]
        return range(start, start + node.value.shape[axis])

    def _in_steps(self, node: Node, grads: dict[Node, list[Band]], times: range) -> Iterator[_Sent]:
        """What a use sends into the neck for some of its steps."""
        bands = grads.get(node, ())
        if node in self.times:
            yield from self._sent(node, bands, self.times[node])
            return
        axis, start = self.axes[node]
        for t in self._steps_of(node):
            if t in times and any(g[_at(axis, t - start)].any() for g, _ in bands):
                yield from self._sent_by_step(node, bands, axis, t - start, t)

    def _sent(self, node: Node, bands: Iterable[Band], time: int) -> Iterator[_Sent]:
        for g, power in bands:
            for p, c in pull(node, g, self.neck):
                yield _Sent(time, p, (), _whole(p, c), power)

    def _sent_by_step(
        self, node: Node, bands: Iterable[Band], axis: int, i: int, time: int
    ) -> Iterator[_Sent]:
        """What element ``i`` along the time axis of a use sends: from that step of its operands."""
        if not is_told_apart(node):
            for g, power in bands:
                alone = np.zeros_like(g)
                alone[_at(axis, i)] = g[_at(axis, i)]
                yield from self._sent(node, [(alone, power)], time)
            return
        twin, parts = _at_step(node, axis, i)
        wanted = {x for x, (source, _) in parts.items() if source in self.neck}
        for g, power in bands:
            for x, c in pull(twin, g[_at(axis, i)], wanted):
                source, key = parts[x]
                yield _Sent(time, source, key, _whole(x, c), power)

    @modes_kept
    def _combined(self, sent: list[_Sent], times: range) -> Part:
        """Carry what was sent down to the weight, the steps on a leading axis."""
        weight = self.weight.value
        tops = _tops(sent, times, weight.dtype)
        seeds: dict[Node, Array] = {}
        for s in sent:
            if s.node not in seeds:
                seeds[s.node] = np.zeros((len(times), *s.node.value.shape), s.node.value.dtype)
            i = s.time - times.start
            power = 0 if s.power == NOT_FINITE else s.power
            seeds[s.node][(i, *s.key)] += times_power(s.value, int(power - tops[i]))
        with no_grad():
            found = backpropagate(list(seeds.items()), {self.weight}, retain_graph=True)
        zeros = np.zeros((len(times), *weight.shape), weight.dtype)
        return Part(times, found.get(self.weight, zeros), tops)


def _at(axis: int, i: int) -> tuple[Any, ...]:
    """The key of element ``i`` along an axis counted from the end, which is kept."""
    return (..., slice(i, i + 1), *[slice(None)] * (-axis - 1))


def _at_step(
    node: Node, axis: int, i: int
) -> tuple[Node, dict[Node, tuple[Node, tuple[Any, ...]]]]:
    """An operation at one step; for each of its inputs, of what it is a part, and which."""
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


def _tops(sent: list[_Sent], times: range, dtype: Any) -> np.ndarray[Any, Any]:
    """The power of two of every step: 0 where its type holds what arrives well."""
    tops = np.full(len(times), NOTHING)
    for s in sent:
        size = float(np.abs(s.value).max(initial=0.0))
        if 0 < size < math.inf and s.power != NOT_FINITE:
            i = s.time - times.start
            tops[i] = max(tops[i], s.power + math.frexp(size)[1])
    limit = largest_exponent(dtype) // 2
    return np.where((np.abs(tops) < limit) | (tops == NOTHING), 0, tops)


def _whole(node: Node, cotangent: Any) -> Array:
    return gather(node, [cotangent]) if type(cotangent) is Slice else cotangent
