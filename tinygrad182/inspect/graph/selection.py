"""The list of nodes that ``Graph.select`` returns, and its explanation if it is empty.

A combination of attributes that no node has gives an empty list, so that programs can count nodes. The
list says why it is empty when it is printed and when an element is read. A name that nothing has is a
mistake, and raises.
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
    """A list of nodes, which prints a line for each; if there are many, for the first and the last.

    Parameters
    ----------
    nodes : iterable of GraphNode
    why_empty : str
        The explanation if there are no nodes.

    Raises
    ------
    IndexOutOfRangeError
        An element of an empty list was read; the message says which nodes there are.
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
    """Explain why no node has all wanted attributes.

    For each attribute, this lists its values among the nodes that have all others. If there are no such
    nodes for any attribute, it lists the values of each attribute that no node has.

    Parameters
    ----------
    nodes : iterable of GraphNode
        All nodes that were searched.
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
    """Whether a node has all wanted attributes; a node inside a module's submodule counts too."""
    return all(
        getattr(node, wish) == value or (wish == "module" and node.module.startswith(f"{value}."))
        for wish, value in wanted.items()
    )


def _any(nodes: list[Any], wanted: Mapping[str, Any]) -> bool:
    return any(fulfils(node, wanted) for node in nodes)


def _both(wanted: Mapping[str, Any]) -> str:
    return " and ".join(f"{wish}={value!r}" for wish, value in wanted.items())


def _values(wish: str, nodes: list[Any]) -> str:
    """The values of an attribute among some nodes, in words."""
    values = list(dict.fromkeys(getattr(node, wish) for node in nodes))
    if wish == "time":
        steps = sorted(value for value in values if value is not None)
        return f"time is {_ranges(steps)}" if steps else "nothing belongs to a time step"
    named = [repr(value) for value in values if value or wish == "module"]
    more = f" and {len(named) - MOST_NAMES} more" if len(named) > MOST_NAMES else ""
    return f"{wish} is {', '.join(named[:MOST_NAMES])}{more}" if named else f"nothing has a {wish}"


def _ranges(steps: list[int]) -> str:
    """Ascending whole numbers in words, with runs as ranges."""
    breaks = [i for i, (a, b) in enumerate(pairwise(steps), 1) if b > a + 1]
    runs = [steps[i:j] for i, j in pairwise([0, *breaks, len(steps)])]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return ", ".join(texts[:MOST_NAMES]) + (" …" if len(texts) > MOST_NAMES else "")
