"""The text of a page as a reader sees it: the place and the size of each piece."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

SEEN = """
() => [...document.querySelectorAll("#chart svg text, h1, p, summary, li, label span")]
  .filter(e => e.textContent.trim())
  .filter(e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
  .map(e => {
    const box = e.getBoundingClientRect();
    return [e.textContent, box.left, box.top + scrollY, box.right, box.bottom + scrollY,
            parseFloat(getComputedStyle(e).fontSize)];
  })
"""

BETWEEN = 2.0
"""Pixels between two texts of one line, at least: fewer make one number of two."""

HIGH = 0.2
"""The part of a line's height that is above and below its letters."""


class Text(NamedTuple):
    """A piece of text, in pixels of the page."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float

    def overlaps(self, other: Text) -> bool:
        """Whether letters of both are in one place; the halo behind a text is that text."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        spare = HIGH * max(self.size, other.size)
        return across > -BETWEEN and down > spare and not self.is_halo_of(other)

    def is_halo_of(self, other: Text) -> bool:
        same = abs(self.left - other.left) + abs(self.top - other.top) < 0.5
        return same and self.text == other.text


def texts(page: Any) -> list[Text]:
    """Every visible piece of text of a page."""
    return [Text(*found) for found in page.evaluate(SEEN)]


def overlapping(found: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that overlap, so that one of them cannot be read."""
    return [(a.text, b.text) for a, b in combinations(found, 2) if a.overlaps(b)]


def clipped(page: Any, found: list[Text]) -> list[str]:
    """Texts that end in an ellipsis, or that leave the drawing or the window."""
    box = page.locator("#chart svg").bounding_box()
    width = page.evaluate("innerWidth")
    top = box["y"] + page.evaluate("scrollY")
    bottom = page.evaluate("document.documentElement.scrollHeight")
    return [
        text.text
        for text in found
        if "…" in text.text
        or text.left < 0
        or text.right > width
        or text.bottom > bottom
        or (text.bottom > top > text.top)
    ]
