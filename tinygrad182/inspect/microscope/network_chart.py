"""The picture of a rolled network: boxes from the input at the bottom to the loss at the top."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from ...display import charts
from ...display.charts import DARK_GREY, GREY, ORANGE, SMALLEST, Row, data, encoded, layered
from ..charts.magnitudes import number
from .network import Block, Link, Network
from .network_layout import LINE, LOOP, WIDEST, WIDTH, Box, loop_text, placed, shortened, ways_of

_BRIGHT = 0.43
"""Above this share of viridis's range dark text is easier to read than white text."""


def network_chart(
    network: Network, linked: bool = False, opens: Collection[int] | None = None
) -> Any:
    """Draw a rolled network; the signal ``block`` says which box is chosen.

    The colour of a box, and the number in it, is the norm of the gradient that leaves the box on the way
    back. An arrow points where the computation goes. Its width is the gradient that comes back over it;
    without a gradient it is dashed. A recurrence has a loop with the names of its states and the number of
    its steps.

    Parameters
    ----------
    network : Network
    linked : bool
        Whether a click on a box chooses it, by the point selection ``pick_block``.
    opens : collection of int, optional
        The boxes that can be chosen, by position; by default all.

    Returns
    -------
    altair.LayerChart
        300 pixels wide and as high as the rows of boxes need, at least 250. It refers to the parameter
        ``block``, the position of the chosen box, which the caller adds.
    """
    boxes, height = placed(network)
    opening = [i for i in range(len(network.blocks)) if opens is None or i in opens]
    drawing = _Drawing(network, boxes, height)
    layers = [*drawing.arrows(), drawing.boxes(opening if linked else None), *drawing.texts()]
    title = charts.altair().Title(
        "The network", subtitle=["colour: norm of the gradient that leaves a box"]
    )
    return layered(layers, width=WIDTH, height=height, title=title)


class _Drawing:
    """The layers of the picture."""

    def __init__(self, network: Network, boxes: list[Box], height: int) -> None:
        alt = charts.altair()
        logs = [b.log10_grad_norm for b in network.blocks if math.isfinite(b.log10_grad_norm)]
        self.low, high = math.floor(min(logs, default=0.0)), math.ceil(max(logs, default=1.0))
        self.high = max(high, self.low + 1)
        self.network, self.placed = network, boxes
        self.blocks = list(zip(boxes, network.blocks, strict=True))
        self.encoding = {
            "x": alt.X("x:Q", scale=alt.Scale(domain=[0, WIDTH], nice=False), axis=None),
            "y": alt.Y("y:Q", scale=alt.Scale(domain=[0, height], nice=False), axis=None),
            "tooltip": ["title:N", "path:N", "gradient:N", "loop:N"],
        }

    def _part(self, log: float) -> float:
        """The place of a norm between the least and the largest of the boxes: 0 to 1, 0 if not finite."""
        part = (log - self.low) / (self.high - self.low) if math.isfinite(log) else 0.0
        return min(1.0, max(0.0, part))

    def boxes(self, opening: list[int] | None) -> Any:
        """The boxes; those at the positions ``opening`` take clicks."""
        alt = charts.altair()
        rows = [
            {
                "block": box.block, "x": box.x, "x2": box.x + box.width, "y": box.y, "y2": box.top,
                "usual": math.isfinite(block.log10_grad_norm),
                "log": block.log10_grad_norm if math.isfinite(block.log10_grad_norm) else 0.0,
                "cursor": "pointer" if box.block in (opening or ()) else "default",
                **_tooltip(block),
            }
            for box, block in self.blocks
        ]  # fmt: skip
        scale = alt.Scale(scheme=charts.MAGNITUDE, domain=[self.low, self.high], clamp=True)
        colour = alt.Color("log:Q", scale=scale, legend=None)
        layer = alt.Chart(data(rows)).mark_rect(cornerRadius=6, cursor=alt.ExprRef("datum.cursor"))
        layer = layer.encode(
            x2="x2:Q",
            y2="y2:Q",
            color=alt.condition("datum.usual", colour, alt.value(DARK_GREY)),
            stroke=alt.condition(
                "datum.block == block", alt.value(ORANGE), alt.value("transparent")
            ),
            strokeWidth=alt.value(4),
            **self.encoding,
        )
        if opening is not None:
            on = {
                "type": "click",
                "filter": f"item() && item().datum && indexof({opening}, item().datum.block) >= 0",
            }
            pick = {"fields": ["block"], "on": on, "toggle": False, "empty": False, "clear": False}
            layer = layer.add_params(alt.selection_point(name="pick_block", **pick))
            layer.name = "boxes"
        return layer

    def texts(self) -> list[Any]:
        """Titles and numbers in the boxes, and the states of recurrences beside them."""
        alt = charts.altair()
        titles: list[Row] = []
        others: list[Row] = []
        loops: list[Row] = []
        for box, block in self.blocks:
            ink = "#000000" if self._part(block.log10_grad_norm) > _BRIGHT else "#ffffff"
            free = (box.height - LINE * len(box.lines)) / 2
            for i, line in enumerate(box.lines):
                y = box.top - free - LINE * (i + 0.5)
                row = {"block": box.block, "x": box.middle, "y": y, "text": line, "ink": ink}
                (titles if i < box.titles else others).append({**row, **_tooltip(block)})
            if block.kind == "recurrence" and box.width == WIDEST:
                words = [", ".join(block.states), f"× {block.steps}", "steps"]
                x, most = box.x + box.width + LOOP + 4, WIDTH - box.x - box.width - LOOP - 4
                for i, word in enumerate(words):
                    y = box.y + box.height / 2 + LINE * (1 - i)
                    loops.append({"x": x, "y": y, "text": shortened(word, most), **_tooltip(block)})
        ink = alt.Color("ink:N", scale=None, legend=None)
        given = {"text": "text:N", **self.encoding}
        made = [
            encoded(
                alt.Chart(data(titles)).mark_text(fontSize=12, fontWeight="bold"),
                color=ink,
                **given,
            ),
            encoded(alt.Chart(data(others)).mark_text(fontSize=SMALLEST), color=ink, **given),
        ]
        if loops:
            made.append(
                encoded(alt.Chart(data(loops)).mark_text(align="left", fontSize=SMALLEST), **given)
            )
        return made

    def arrows(self) -> list[Any]:
        """The arrows between boxes, and the loops of recurrences."""
        ways = ways_of(self.network, self.placed)
        lines: list[Row] = []
        heads: list[Row] = []
        for at, (link, points) in enumerate(zip(self.network.links, ways, strict=True)):
            tooltip = _link_tooltip(self.network, link)
            width, end = 1 + 4 * round(self._part(link.log10_norm), 3), points[-1]
            size = 7 + 1.5 * width
            points = [*points[:-1], (end[0], end[1] - size / 2)]  # the head covers the rest
            row = {"arrow": at, "width": width, "dash": link.log10_norm == -math.inf, **tooltip}
            lines += [{**row, "i": i, "x": x, "y": y} for i, (x, y) in enumerate(points)]
            heads.append(
                {**row, "x": end[0], "y": end[1] - size / 2, "head": "triangle-up", "size": size**2}
            )
        for box, block in self.blocks:
            if block.kind == "recurrence":
                row = {"arrow": -1 - box.block, "width": 2, "dash": False, "block": box.block}
                row |= _tooltip(block)
                right, out = box.x + box.width, box.x + box.width + LOOP - 4
                high, low = box.top - 10, box.y + 10
                way = [(right, high), (out, high), (out, low), (right + 4, low)]
                lines += [{**row, "i": i, "x": x, "y": y} for i, (x, y) in enumerate(way)]
                heads.append({**row, "x": right + 4, "y": low, "head": "triangle-left", "size": 80})
        return self._lines_and_heads(lines, heads)

    def _lines_and_heads(self, lines: list[Row], heads: list[Row]) -> list[Any]:
        alt = charts.altair()
        line = alt.Chart(data(lines)).mark_line(color=GREY, strokeJoin="round")
        head = alt.Chart(data(heads)).mark_point(color=GREY, filled=True, opacity=1)
        return [
            encoded(
                line,
                detail="arrow:N",
                order="i:Q",
                strokeWidth=alt.StrokeWidth("width:Q", scale=None, legend=None),
                strokeDash=alt.condition("datum.dash", alt.value([3, 3]), alt.value([1, 0])),
                **self.encoding,
            ),
            encoded(
                head,
                shape=alt.Shape("head:N", scale=None, legend=None),
                size=alt.Size("size:Q", scale=None, legend=None),
                **self.encoding,
            ),
        ]


def _tooltip(block: Block) -> Row:
    loop = loop_text(block)
    return {
        "title": block.title,
        "path": block.path,
        "gradient": f"‖∂L/∂·‖ = {number(block.log10_grad_norm)}",
        "loop": f"{loop} steps" if loop else "",
    }


def _link_tooltip(network: Network, link: Link) -> Row:
    source, target = network.blocks[link.source], network.blocks[link.target]
    return {
        "block": link.target,
        "title": f"{source.title} to {target.title}",
        "path": "",
        "gradient": f"comes back: {number(link.log10_norm)}",
        "loop": "",
    }
