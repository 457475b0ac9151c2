"""Sorts marked states into recurrences, by the graph and not by their names alone."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...engine.backpropagation import ancestors
from ...engine.marks import Mark
from ...engine.modes import Scope
from ...engine.recording import Node
from ...errors import ArgumentError, GraphError, ShapeError, UnknownPathError, brief
from ...recurrence.scans import Scan, steps_of_scan
from ..passes.gradients import FusedState


class Recurrence:
    """One state of one loop, over time.

    Attributes
    ----------
    module : str
        Path of the module in which it was marked.
    name : str
        Such as ``"h"``.
    call : int
        The call of the module.
    initial : Node or None
        The state before the first input, if it was marked (with time −1).
    steps : dict of int to Node
        The states by time step, in the order they were computed.
    fused : list of FusedState
        The states of the fused layer that computed its steps, one for each window.
    began : int
        Sequence number of its first mark, the initial state included.
    """

    __slots__ = ("began", "call", "fused", "initial", "module", "name", "steps")

    def __init__(self, name: str, scope: Scope, began: int, initial: Node | None) -> None:
        self.module = scope.module
        self.name = name
        self.call = scope.call
        self.began = began
        self.initial = initial
        self.steps: dict[int, Node] = {}
        self.fused: list[FusedState] = []

    def goes_on_from(self, first: Recurrence) -> None:
        """Take the initial state of ``first``, which has no other state."""
        self.initial, self.began = first.initial, first.began

    def is_of(self, name: str, scope: Scope) -> bool:
        """Whether a mark has this state's name, module and call."""
        return (self.module, self.name, self.call) == (scope.module, name, scope.call)

    def ends_before(self, step: int) -> bool:
        """Whether the last window of a fused layer ended just before ``step``."""
        return bool(self.fused) and steps_of_scan(self.fused[-1].node).stop == step

    def runs_backward(self) -> bool:
        """Whether the loop ran from the last step to the first."""
        return bool(self.steps) and next(reversed(self.steps)) < next(iter(self.steps))

    def may_go_on_at(self, time: int) -> bool:
        """Whether a step can be the next; after a single step, that may also be the one before it."""
        if not self.steps:
            return False
        last = next(reversed(self.steps))
        if self.runs_backward():
            return time < last
        return time > last or (len(self.steps) == 1 and time == last - 1)

    def times(self) -> list[int]:
        """The steps, ascending."""
        if self.fused:
            return [t for node, _ in self.fused for t in steps_of_scan(node)]
        return sorted(self.steps)

    def check_shapes(self, view: str) -> None:
        """Raise ShapeError unless the states have one shape over time, so that they can be stacked."""
        if len({tuple(node.value.shape) for node in self.steps.values()}) > 1:
            raise ShapeError(
                f"{view}: the states {self.name!r} in {self.module!r} have different shapes over time"
            )

    def states(self) -> Iterator[Node]:
        """All states but the initial one."""
        yield from self.steps.values()
        yield from (node for node, _ in self.fused)

    def nodes(self) -> Iterator[Node]:
        """All states, the initial one included."""
        yield from self.states()
        if self.initial is not None:
            yield self.initial


Stack = dict[str, Recurrence]
"""The states of one module call by name."""

_Reached = frozenset[Recurrence]


def stacks_of(nodes: list[Node], view: str) -> dict[str, Stack]:
    """Path → name → recurrence of every state in a graph, in the order in which they ran.

    ``nodes`` are the whole graph, oldest first, with its constants. The path of a module's second call ends
    in ``#2``, and so on.

    Raises
    ------
    GraphError
        No state was marked.
    """
    states = recurrences(nodes)
    if not states:
        hidden = any(node.op == "remat" for node in nodes)
        raise GraphError(
            f"{view}: no state is marked with its time step in this graph; use tg.nn.RNN or tg.nn.LSTM, "
            'or name the states of a loop, h = tg.inspect.mark(h, "h", time=t), and let what they depend '
            "on require grad: a frozen layer is not recorded"
            + ("; states inside tg.remat are not seen" if hidden else "")
        )
    ordinals: dict[str, int] = {}
    calls: dict[tuple[str, int], list[Stack]] = {}
    paths: dict[str, Stack] = {}
    for r in states:
        of_call = calls.setdefault((r.module, r.call), [])
        stack = next((s for s in of_call if r.name not in s), None)
        if stack is None:
            n = ordinals[r.module] = ordinals.get(r.module, 0) + 1
            stack = paths.setdefault(r.module if n == 1 else f"{r.module}#{n}", {})
            of_call.append(stack)
        stack[r.name] = r
    return {path: _in_order(stack) for path, stack in paths.items()}


def _in_order(stack: Stack) -> Stack:
    """The states in the order of their first marks: a layer marks them in the order it returns them.

    If the graph lacks the initial state of some, the marks of the first common step count.
    """
    given = {r.initial is not None for r in stack.values()}
    both = set.intersection(*[set(r.steps) for r in stack.values()]) if len(given) > 1 else set()

    def began(item: tuple[str, Recurrence]) -> int:
        name, r = item
        if not both:
            return r.began
        t = min(both)
        return max(m.order for m in r.steps[t].marks if (m.name, m.scope.time) == (name, t))

    return dict(sorted(stack.items(), key=began))


def one_stack(root: Node, path: str | None, view: str) -> Stack:
    """The stack at ``path``, or the only one there is.

    Raises
    ------
    UnknownPathError
        No such path, or several stacks and none chosen; the message lists them.
    """
    return stack_at(ancestors([root], constants=True), path, view)


def stack_at(nodes: list[Node], path: str | None, view: str) -> Stack:
    """The stack at ``path``, or the only one there is, in a whole graph; see :func:`one_stack`."""
    stacks = stacks_of(nodes, view)
    if path is None and len(stacks) == 1:
        return next(iter(stacks.values()))
    if path not in stacks:
        wanted = (
            "several modules have states: choose one" if path is None else f"no states in {path!r}"
        )
        raise UnknownPathError(
            f"{view}: {wanted} with path=; there are {', '.join(map(repr, stacks))}"
        )
    return stacks[path]


Wanted = int | Sequence[int] | None
"""The argument ``times`` of a view: one time step, several, or all."""


def chosen(wanted: Wanted, there: Sequence[int], view: str) -> list[int]:
    """The wanted ones of some time steps, ascending.

    Raises
    ------
    ArgumentError
        No step is wanted, or one that is not there.
    """
    if wanted is None:
        return sorted(there)
    try:
        given = [wanted] if isinstance(wanted, (int, np.integer)) else list(wanted)
        times = sorted({operator.index(t) for t in given})
    except TypeError as error:
        raise ArgumentError(
            f"{view}: times {wanted!r}; pass a time step or a sequence of them, such as times=[0, 10]"
        ) from error
    strange = sorted(set(times).difference(there))
    if not there:
        raise ArgumentError(f"{view}: times {brief(wanted)}; the sequence has no steps")
    if strange or not times:
        raise ArgumentError(
            f"{view}: times {brief(wanted)}; the steps are {min(there)} to {max(there)}"
            + (f", and {strange[0]} is not among them" if strange else "; choose at least one")
        )
    return times


_NONE: _Reached = frozenset()


class Loops(NamedTuple):
    """The recurrences of a graph, in the order they began.

    Attributes
    ----------
    found : list of Recurrence
    reached : dict of Node to frozenset of Recurrence
        By node, the last recurrences of every module and name that it was computed from, or is a state of.
    """

    found: list[Recurrence]
    reached: dict[Node, _Reached]


def recurrences(nodes: list[Node]) -> list[Recurrence]:
    """The recurrences of ``nodes`` (a graph, oldest first), in the order they began."""
    return loops_of(nodes).found


def loops_of(nodes: list[Node]) -> Loops:
    """Sort the marked states of ``nodes`` (oldest first) into recurrences.

    Two loops may give their states one name. So a state belongs to the recurrence of the last states, of
    its module and name, that it was computed from, also if the past was detached. If it was computed from
    none, it continues a recurrence of its name whose steps all ran before it, or begins a new one.
    """
    found: list[Recurrence] = []
    begun: list[Recurrence] = []
    reached: dict[Node, _Reached] = {}  # by node, the last ones of every module and name
    arrays: dict[int, _Reached] = {}  # by a state's array, which a detached Tensor shares
    for node in nodes:
        past = _NONE
        for x in node.inputs or ():
            if x in reached and (above := reached[x]) is not past:
                past = past | above if past else above
        if node.primitive is None and not node.requires_grad:
            past = arrays.get(id(node.value), past)
        if isinstance(node.primitive, Scan):
            past |= _note_fused(node, reached, found)
        for mark in node.marks:
            time = mark.scope.time
            if time is None:
                continue  # a name to select the node by, not a state
            if time < 0:
                r = Recurrence(mark.name, mark.scope, mark.order, node)
                begun.append(r)
            else:
                r = _belongs_to(mark, time, past, found)
                r.steps[time] = node
            others = {p for p in past if (p.module, p.name) != (r.module, r.name)}
            past = arrays[id(node.value)] = frozenset(others | {r})
        if past:
            reached[node] = past
    _give_initial_states(begun, found)
    return Loops(found, reached)


def _give_initial_states(begun: list[Recurrence], found: list[Recurrence]) -> None:
    """Give the remaining initial states to the recurrence of their name and call that has none.

    A part of a state need not be computed from itself; then no step leads back to its initial state.
    """
    taken = {r.initial for r in found}
    for r in found:
        if r.initial is None and not r.fused:
            left = [
                b
                for b in begun
                if (b.module, b.name, b.call) == (r.module, r.name, r.call)
                and b.initial not in taken
                and b.began < r.began
            ]
            others = [a for a in found if (a.module, a.name, a.call) == (r.module, r.name, r.call)]
            if len(left) == len(others) == 1:
                r.goes_on_from(left[0])


def _note_fused(node: Node, reached: dict[Node, _Reached], found: list[Recurrence]) -> _Reached:
    """The recurrences of one window of a fused layer; later windows of its call continue them.

    Each part continues the recurrence from which its initial state was computed, or, if that was detached,
    the first recurrence that ends there.
    """
    scan: Scan = node.primitive  # type: ignore[assignment]
    initial: Any = (node.inputs or ())[1 : 1 + len(scan.parts)]
    start, belongs = node.params.get("start", 0), set()
    for part, name in enumerate(scan.parts):
        options = [r for r in found if r.is_of(name, node.scope) and r.ends_before(start)]
        past = reached.get(initial[part], frozenset())
        r = next((r for r in options if r in past), options[0] if options else None)
        if r is None:
            r = Recurrence(name, node.scope, node.order, initial[part])
            found.append(r)
        r.fused.append(FusedState(node, part))
        belongs.add(r)
    return frozenset(belongs)


def run_backward(nodes: list[Node]) -> set[Node]:
    """The states of loops that ran from the last step to the first, as half of a bidirectional RNN.

    ``nodes`` are a whole graph, oldest first. The set is empty if recurrences cannot be distinguished.
    """
    try:
        return descending(recurrences(nodes))
    except GraphError:
        return set()


def descending(found: list[Recurrence]) -> set[Node]:
    """The states of the recurrences that ran from the last step to the first."""
    return {node for r in found if r.runs_backward() for node in r.steps.values()}


def _belongs_to(mark: Mark, time: int, past: _Reached, found: list[Recurrence]) -> Recurrence:
    """The recurrence to which a mark at ``time`` belongs; a new one is added to ``found``."""
    related = [r for r in past if (r.module, r.name) == (mark.scope.module, mark.name)]
    options = [r for r in related if r.steps and r.call == mark.scope.call and time not in r.steps]
    if len(options) > 1:
        raise GraphError(
            f"the state {mark.name!r} at t = {time} continues two recurrences of that name"
            + (f" in {mark.scope.module}" if mark.scope.module else "")
            + "; give their states different names in tg.inspect.mark"
        )
    # initial states (time -1) without steps so far: those of its own call last, and the latest last
    begun = [r for r in related if r.initial is not None and not r.steps and not r.fused]
    begun.sort(key=lambda r: (r.call == mark.scope.call, r.initial.order))  # type: ignore[union-attr]
    if not options and len(begun) == len(related):
        options = [r for r in found if r.is_of(mark.name, mark.scope) and r.may_go_on_at(time)]
        if begun:  # a part that holds other parts' past meets its own initial state later
            first = begun[-1].began
            options = [r for r in options if r.initial is None and r.began > first]
            for r in options[:1]:
                r.goes_on_from(begun[-1])
    if options:
        return options[0]
    began = min([mark.order, *(first.began for first in begun[-1:])])
    r = Recurrence(mark.name, mark.scope, began, begun[-1].initial if begun else None)
    found.append(r)
    return r
