"""Which marked states belong to one recurrence: told from the graph, not from the names alone."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import GraphError
from ..marks import Mark
from ..recording import Node


class Recurrence:
    """One state on its way through one loop.

    Attributes
    ----------
    module : str
        Path of the module it was marked in.
    name : str
        Such as ``"h"``.
    call : int
        The call of the module.
    initial : Node or None
        The state before the first input, if it was marked (with time −1).
    steps : dict of int to Node
        The states by time step.
    """

    __slots__ = ("call", "initial", "module", "name", "steps")

    def __init__(self, mark: Mark, initial: Node | None) -> None:
        self.module = mark.scope.module
        self.name = mark.name
        self.call = mark.scope.call
        self.initial = initial
        self.steps: dict[int, Node] = {}

    def nodes(self) -> Iterator[Node]:
        """All states, the initial one included."""
        yield from self.steps.values()
        if self.initial is not None:
            yield self.initial


_Reached = frozenset[Recurrence]


def recurrences(nodes: list[Node]) -> list[Recurrence]:
    """Sort the marked ones of ``nodes`` (oldest first) into recurrences, in the order these began.

    Two loops may give their states the same name: a state goes on with the recurrence that the last
    states before it, of its module and name, belong to. If it was computed from none, it goes on with
    one that has only earlier steps (its past was detached, or its steps do not depend on each other),
    or begins another.
    """
    found: list[Recurrence] = []
    reached: dict[Node, _Reached] = {}  # the last before each node, for every module and name
    for node in nodes:
        above = {reached[x] for x in node.inputs or () if x in reached}
        past = above.pop() if len(above) == 1 else frozenset().union(*above)
        for mark in node.marks:
            time = mark.scope.time
            if time is None:
                continue  # a name to select the node by, not a step of anything
            if time < 0:
                r = Recurrence(mark, node)
            else:
                r = _belongs_to(mark, time, past, found)
                r.steps[time] = node
            others = {p for p in past if (p.module, p.name) != (r.module, r.name)}
            past = frozenset(others | {r})
        if past:
            reached[node] = past
    return found


def _belongs_to(mark: Mark, time: int, past: _Reached, found: list[Recurrence]) -> Recurrence:
    """The recurrence whose step at ``time`` is ``mark``; a new one is added to ``found``."""
    related = [r for r in past if (r.module, r.name) == (mark.scope.module, mark.name)]
    options = [r for r in related if r.steps and r.call == mark.scope.call and time not in r.steps]
    if len(options) > 1:
        raise GraphError(
            f"the state {mark.name!r} at t = {time} goes on from two recurrences of that name"
            + (f" in {mark.scope.module}" if mark.scope.module else "")
            + "; give their states different names in tg.inspect.mark"
        )
    if not options and not related:
        options = [
            r
            for r in found
            if (r.module, r.name, r.call) == (mark.scope.module, mark.name, mark.scope.call)
            and next(reversed(r.steps)) < time  # the last one marked
        ]
    if options:
        return options[0]
    initial = next((r.initial for r in related if not r.steps), None)
    found.append(Recurrence(mark, initial))
    return found[-1]
