"""The layout of one opened step: slots from left to right, lanes from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..views.step_flow import StepEdge, StepFlow, StepOperation


class Place(NamedTuple):
    """A cell of the layout."""

    slot: int
    lane: int


class Layout(NamedTuple):
    """The places of all operations and edges.

    Attributes
    ----------
    places : list of Place
        The place of each operation.
    runs : list of int
        The lane in which each edge crosses the slots between its ends.
    slots, lanes : int
        The numbers of both; one more slot, ``slots``, holds the ends ``"next step"`` and ``"loss"``.
    """

    places: list[Place]
    runs: list[int]
    slots: int
    lanes: int


def laid_out(flow: StepFlow) -> Layout:
    """Place the operations of a step, and lead its edges around the boxes.

    The slot is the length of the longest path from the step's inputs. States, gates and inputs have lanes
    of their own: the gates between the states, with the last state and the inputs below. Any other
    operation takes the free cell nearest to its operands.
    """
    slots = _slots(flow)
    width = max(slots, default=0) + 1
    lanes = _named_lanes(flow, slots)
    return _Grid(flow, slots, width, lanes).layout()


def _slots(flow: StepFlow) -> list[int]:
    slots = [0] * len(flow.operations)
    for _ in slots:  # operations need not be listed behind those they are computed from
        before = list(slots)
        for edge in _inner(flow):
            target = int(edge.target)
            slots[target] = max(slots[target], slots[edge.source] + 1)
        if slots == before:
            break
    return slots


def _inner(flow: StepFlow) -> Iterator[StepEdge]:
    """The edges between two operations."""
    return (edge for edge in flow.edges if isinstance(edge.target, int))


def _named_lanes(flow: StepFlow, slots: Sequence[int]) -> dict[tuple[str, str], int]:
    """(kind, name) → lane, for operations with a lane of their own; inputs are named by label."""
    last = {op.name: slots[k] for k, op in enumerate(flow.operations) if op.kind == "state"}
    states = sorted(last, key=lambda name: last[name])
    keys = [("state", name) for name in states[:-1]]
    keys += [_key(op) for op in flow.operations if op.kind == "gate"]
    keys += [("state", name) for name in states[-1:]]
    keys += [_key(op) for op in flow.operations if op.kind == "before"]
    keys += [_key(op) for op in flow.operations if op.kind == "input"]
    return {key: lane for lane, key in enumerate(dict.fromkeys(keys))}


def _key(op: StepOperation) -> tuple[str, str]:
    """A state and the one before it share a lane."""
    return ("state" if op.kind == "before" else op.kind, op.name or op.label)


class _Grid:
    """The cells of the layout: those with a box, and those that edges cross."""

    def __init__(
        self, flow: StepFlow, slots: list[int], width: int, named: Mapping[tuple[str, str], int]
    ) -> None:
        self.flow, self.slots, self.width = flow, slots, width
        self.boxes: dict[Place, int] = {}
        self.through: dict[Place, set[int]] = {}
        self.places: list[Place | None] = [None] * len(slots)
        self.runs: dict[int, int] = {}
        self.lanes = max(len(named), 1)
        for k, op in enumerate(flow.operations):
            place = Place(slots[k], named.get(_key(op), -1))
            if place.lane >= 0 and place not in self.boxes:
                self._put(k, place)
        self._route_ends()

    def layout(self) -> Layout:
        incoming: dict[int, list[int]] = {}
        for k, edge in enumerate(self.flow.edges):
            if isinstance(edge.target, int):
                incoming.setdefault(edge.target, []).append(k)
        for op in sorted(range(len(self.slots)), key=lambda k: (self.slots[k], k)):
            if self.places[op] is None:
                self._put(op, self._nearest(op, incoming.get(op, [])))
            for k in incoming.get(op, []):
                self._route(k)
        self._route_ends()
        places = [self._place(k) for k in range(len(self.slots))]
        return Layout(places, [self.runs[k] for k in range(len(self.runs))], self.width, self.lanes)

    def _route_ends(self) -> None:
        """Route the edges that leave the step before boxes block their way."""
        for k, edge in enumerate(self.flow.edges):
            known = self.places[edge.source] is not None
            if known and not isinstance(edge.target, int) and k not in self.runs:
                self._route(k)

    def _place(self, op: int) -> Place:
        place = self.places[op]
        assert place is not None
        return place

    def _put(self, op: int, place: Place) -> None:
        self.places[op] = place
        self.boxes[place] = op
        self.lanes = max(self.lanes, place.lane + 1)

    def _nearest(self, op: int, incoming: Sequence[int]) -> Place:
        """The free cell nearest to the sources, if possible one that no edge crosses."""
        sources = [self._place(self.flow.edges[k].source).lane for k in incoming]
        targets = [
            self.places[edge.target]
            for edge in self.flow.edges
            if edge.source == op and isinstance(edge.target, int)
        ]
        towards = [place.lane for place in targets if place is not None]

        def cost(lane: int) -> float:
            far = float(sum(abs(lane - there) for there in sources))
            far += 0.6 * sum(abs(lane - there) for there in towards)
            crossed = 1000 * (Place(self.slots[op], lane) in self.through)
            return far + crossed + 2 * (lane >= self.lanes)

        free = (n for n in range(self.lanes + 1) if Place(self.slots[op], n) not in self.boxes)
        return Place(self.slots[op], min(free, key=cost))

    def _route(self, k: int) -> None:
        """Choose the lane of an edge's run, and note the cells it runs through."""
        edge = self.flow.edges[k]
        start = self._place(edge.source)
        end = (
            self._place(edge.target)
            if isinstance(edge.target, int)
            else Place(self.width, start.lane)
        )
        between = range(start.slot + 1, end.slot)

        def cost(lane: int) -> float:
            cells = [Place(slot, lane) for slot in between]
            boxes = sum(cell in self.boxes for cell in cells)
            others = sum(len(self.through.get(cell, set()) - {edge.source}) for cell in cells)
            away = abs(lane - start.lane) + abs(lane - end.lane)
            return 100 * boxes + 2 * others + away + 0.1 * (lane != start.lane)

        self.runs[k] = min(range(self.lanes + 1), key=cost) if between else end.lane
        if between:
            self.lanes = max(self.lanes, self.runs[k] + 1)
        for slot in between:
            self.through.setdefault(Place(slot, self.runs[k]), set()).add(edge.source)
