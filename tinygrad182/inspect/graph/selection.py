"""The list of nodes that a selection found: how it prints, and what it says where it is empty.

A combination that finds nothing is an answer, which programs count on: how many tanh are there at t = 4? So
it stays an empty list. It says why it is empty where a person sees that: when it is printed, and when its
first node is asked for. A name that nothing has is a mistake, and raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeVar, overload

from ...errors import IndexOutOfRangeError

Node = TypeVar("Node")

MOST_SHOWN = 20
MOST_NAMES = 8


class Nodes(list[Node]):
    """A list of nodes, which prints a line for each, of many the first and the last.

    Parameters
    ----------
    nodes : iterable of GraphNode
    why_empty : str
        What is said where there are none.

    Raises
    ------
    IndexOutOfRangeError
        A node asked for where there are none; the message says what there is.
    """

    def __init__(self, nodes: Iterable[Node], why_empty: str = "") -> None:
        super().__init__(nodes)
        self._why_empty = why_empty

    @overload  # type: ignore[override]
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> list[Node]: ...
    def __getitem__(self, index: Any) -> Any:
        if not self and self._why_empty and not isinstance(index, slice):
            raise IndexOutOfRangeError(f"select: {self._why_empty}")
        return super().__getitem__(index)

    def __repr__(self) -> str:
        if not self:
            return f"[] ({self._why_empty})" if self._why_empty else "[]"
        half = MOST_SHOWN // 2
        hidden = len(self) - MOST_SHOWN
        shown = [*map(repr, self if hidden <= 0 else self[:half])]
        if hidden > 0:
            shown += [f"… {hidden:,} more …", *map(repr, self[-half:])]
        return f"[{f',{chr(10)} '.join(shown)}]"


def why_empty(nodes: Iterable[Any], wanted: Mapping[str, Any]) -> str:
    """Say what there is where no node is all that was wanted.

    Each wish that the others leave something for is told with what they leave; if there is none, each that
    no node fulfils.

    Parameters
    ----------
    nodes : iterable of GraphNode
        All that were looked through.
    wanted : mapping
        Attributes and their values, not None.
    """
    every, said = list(nodes), f"no node has {_both(wanted)}"
    alone = {wish: {other: wanted[other] for other in wanted if other != wish} for wish in wanted}
    left = {wish: [node for node in every if fulfils(node, alone[wish])] for wish in wanted}
    if not any(left.values()):
        alone = {wish: {} for wish in wanted if not _any(every, {wish: wanted[wish]})}
        left = dict.fromkeys(alone, every)
    for wish, others in alone.items():
        if left[wish]:
            where = f"with {_both(others)}" if others else "in this graph"
            said += f"; {where}, {_values(wish, left[wish])}"
    return said


def fulfils(node: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether a node has all attributes that are wanted; a module has what is recorded inside it."""
    return all(
        getattr(node, wish) == value or (wish == "module" and node.module.startswith(f"{value}."))
        for wish, value in wanted.items()
    )


def _any(nodes: list[Any], wanted: Mapping[str, Any]) -> bool:
    return any(fulfils(node, wanted) for node in nodes)


def _both(wanted: Mapping[str, Any]) -> str:
    return " and ".join(f"{wish}={value!r}" for wish, value in wanted.items())


def _values(wish: str, nodes: list[Any]) -> str:
    """The values that nodes have of an attribute, in words."""
    values = list(dict.fromkeys(getattr(node, wish) for node in nodes))
    if wish == "time":
        steps = sorted(value for value in values if value is not None)
        return f"time is {_ranges(steps)}" if steps else "nothing belongs to a time step"
    named = [repr(value) for value in values if value or wish == "module"]
    more = f" and {len(named) - MOST_NAMES} more" if len(named) > MOST_NAMES else ""
    return f"{wish} is {', '.join(named[:MOST_NAMES])}{more}" if named else f"nothing has a {wish}"


def _ranges(steps: list[int]) -> str:
    """Whole numbers in ascending order, runs of them by their ends."""
    breaks = [i for i, (a, b) in enumerate(pairwise(steps), 1) if b > a + 1]
    runs = [steps[i:j] for i, j in pairwise([0, *breaks, len(steps)])]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return ", ".join(texts[:MOST_NAMES]) + (" …" if len(texts) > MOST_NAMES else "")
