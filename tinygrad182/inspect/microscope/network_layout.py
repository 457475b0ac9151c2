"""The layout of the rolled network: boxes with their texts, and arrows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...display.charts import SMALLEST
from ..charts.magnitudes import number
from .network import Block, Link, Network

WIDTH = 300
LINE, PADDING, GAP, MARGIN = 14, 6, 34, 16
"""Pixels of a line of text, around the lines of a box, between two rows of boxes, and at both ends."""

WIDEST, LOOP, LANE, ENTRY = 164, 16, 9, 14
"""Pixels of the widest box, of the loop beside a recurrence, and between arrows beside and below boxes."""

MOST_IN_A_ROW = 3
LOWEST = 250
"""Pixels of the lowest picture."""


@dataclass(frozen=True)
class Box:
    """The place of a box, y upwards, and its lines of text; the first lines are its title."""

    block: int
    x: float
    y: float
    width: float
    height: float
    row: int
    lines: list[str]
    titles: int

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        return self.y + self.height


def placed(network: Network) -> tuple[list[Box], int]:
    """The boxes, by their position in the network, and the height of the picture."""
    found: list[Box] = []
    y = float(MARGIN)
    for at, row in enumerate(_rows(network)):
        left = LOOP if len(row) > 1 else 0  # the lane of arrows that pass by
        cell = (WIDTH - left) / len(row)
        loop = LOOP if any(network.blocks[i].kind == "recurrence" for i in row) else 0
        width = min(WIDEST, cell - loop - 2 * PADDING)
        texts = [_lines(network.blocks[i], width, len(row)) for i in row]
        height = LINE * max(len(lines) for lines, _ in texts) + 2 * PADDING
        for place, (i, (lines, titles)) in enumerate(zip(row, texts, strict=True)):
            x = left + cell * (place + 0.5) - width / 2
            x -= loop / 2 if len(row) > 1 else 0
            found.append(Box(i, x, y, width, height, at, lines, titles))
        y += height + GAP
    used = round(y - GAP + MARGIN)
    free = max(0, LOWEST - used) / 2
    found.sort(key=lambda box: box.block)
    return [replace(box, y=box.y + free) for box in found], max(used, LOWEST)


def _rows(network: Network) -> list[list[int]]:
    """Boxes by row, from the input up: a box is above everything it was computed from.

    Its row is the length of the longest path to it, over arrows from earlier boxes to later ones.
    """
    row = [0] * len(network.blocks)
    for link in sorted(network.links, key=lambda link: link.target):
        if link.source < link.target:
            row[link.target] = max(row[link.target], row[link.source] + 1)
    found: list[list[int]] = []
    for level in range(max(row, default=-1) + 1):
        some = [i for i, r in enumerate(row) if r == level]
        found += [some[k : k + MOST_IN_A_ROW] for k in range(0, len(some), MOST_IN_A_ROW)]
    return found


def _lines(block: Block, width: float, beside: int) -> tuple[list[str], int]:
    """The lines of a box: title, path, the loop if there is no room beside it, and a number.

    Also the number of lines of the title, which is broken if the box is narrow.
    """
    words = block.title.split(" ", 1) if width < 100 else [block.title]
    title = [shortened(word, width - 8, 12, bold=True) for word in words]
    calls = f", {block.calls} calls" if block.calls > 1 else ""
    path = shortened(block.path + calls, width - 8)
    loop = shortened(loop_text(block), width - 8) if beside > 1 else ""
    size = number(block.log10_grad_norm)
    named = f"‖∂L/∂·‖ {size}"
    below = path, loop, named if width > 100 else size
    return [*title, *filter(None, below)], len(title)


def loop_text(block: Block) -> str:
    """The states of a recurrence and the number of its steps; nothing for other boxes."""
    return f"{', '.join(block.states)} × {block.steps}" if block.kind == "recurrence" else ""


def shortened(text: str, width: float, size: int = SMALLEST, bold: bool = False) -> str:
    """A text that fits so many pixels, with an ellipsis in the middle where it is too long.

    >>> shortened("encoder.blocks.17.attention.out", 90)
    'encoder…on.out'
    """
    most = max(3, int(width / (size * (0.62 if bold else 0.56))))
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


# --- arrows -------------------------------------------------------------------------------------


def ways_of(network: Network, boxes: list[Box]) -> list[list[tuple[float, float]]]:
    """The points of every arrow: out of the top of a box, and into the bottom of another.

    An arrow past the next row runs on the left, in a lane of its own if it would meet another.
    """
    lanes: list[list[tuple[int, int]]] = []
    ways = []
    for link in network.links:
        source, target = boxes[link.source], boxes[link.target]
        if target.row == source.row + 1:
            out, into, bend = source.middle, _entry(network, boxes, link), target.y - GAP / 2
            between = [(out, bend), (into, bend)]
        else:
            span = min(source.row, target.row), max(source.row, target.row)
            lane = _free_lane(lanes, span)
            out = max(source.x + 8, source.middle - 12 - LANE * lane)
            into = max(target.x + 8, target.middle - 4 - ENTRY * (lane + 1))
            left = min(box.x for box in boxes if span[0] <= box.row <= span[1])
            x = max(4, left - 12 - LANE * lane)
            low, high = source.top + 6 + 2 * min(lane, 4), target.y - 13 - min(lane, 3)
            between = [(out, low), (x, low), (x, high), (into, high)]
        ways.append([(out, source.top), *between, (into, target.y)])
    return ways


def _free_lane(lanes: list[list[tuple[int, int]]], span: tuple[int, int]) -> int:
    """The innermost lane in which no arrow passes the same rows yet; it is taken."""
    for i, taken in enumerate(lanes):
        if all(span[1] <= low or span[0] >= high for low, high in taken):
            taken.append(span)
            return i
    lanes.append([span])
    return len(lanes) - 1


def _entry(network: Network, boxes: list[Box], link: Link) -> float:
    """The abscissa at which an arrow from the row below enters a box, in the order of the sources."""
    target = boxes[link.target]
    from_below = [
        boxes[k.source].middle
        for k in network.links
        if k.target == link.target and boxes[k.source].row == target.row - 1
    ]
    place = sorted(from_below).index(boxes[link.source].middle)
    return target.middle + 28 * (place - (len(from_below) - 1) / 2)
