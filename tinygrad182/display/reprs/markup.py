"""The HTML elements of all reprs: escaped text, folds, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..pages import text

MOST_ROWS = 40
"""Longer tables are cut in the middle."""

_BOX = "font:12px/1.5 system-ui,sans-serif;color:inherit;background:transparent"
_BODY = "margin:2px 0 6px 16px"
_CELL = "padding:1px 14px 1px 0;border:0;vertical-align:top"


def shown(*parts: str) -> str:
    """The whole repr. It takes its colours from the page, so it can be read on white and on dark."""
    return f'<div class="tinygrad182" style="{_BOX}">{"".join(parts)}</div>'


def fold(summary: str, *body: str, opened: bool = False) -> str:
    """A line of HTML that folds a body, or the line alone without a body."""
    if not any(body):
        return f"<div>{summary}</div>"
    state = " open" if opened else ""
    inside = f'<div style="{_BODY}">{"".join(body)}</div>'
    return f"<details{state}><summary>{summary}</summary>{inside}</details>"


def preformatted(value: Any) -> str:
    """Lines of plain text, as they are."""
    style = "margin:2px 0;color:inherit;background:transparent;font-size:12px"
    return f'<pre style="{style}">{text(value)}</pre>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], count: int | None = None) -> str:
    """Rows under a header, with numbers to the right; a long table is cut in the middle.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences
        A cell is text, a number, or None where there is nothing to tell.
    count : int, optional
        How many rows there are, where only those of both ends are given.
    """
    count = len(rows) if count is None else count
    right = [any(_is_number(row[i]) for row in rows) for i in range(len(header))]
    if count > MOST_ROWS:
        half = MOST_ROWS // 2
        left_out = [f"… {count - 2 * half:,} more", *[""] * (len(header) - 1)]
        rows = [*rows[:half], left_out, *rows[-half:]]
    return whole_table(header, rows, right)


def whole_table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[bool]) -> str:
    """Rows under a header, none left out; ``right`` says which columns are aligned to the right."""
    lines = [_line("th", header, right), *(_line("td", row, right) for row in rows)]
    style = "border-collapse:collapse;color:inherit;font:inherit"
    return f'<table style="{style}">{"".join(lines)}</table>'


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _line(tag: str, cells: Sequence[Any], right: Sequence[bool]) -> str:
    sides = ["right" if number else "left" for number in right]
    drawn = (
        f'<{tag} style="{_CELL};text-align:{side}">{_cell(cell)}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    )
    return f'<tr style="background:transparent">{"".join(drawn)}</tr>'


def _cell(cell: Any) -> str:
    return "·" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else text(cell)


def times(shape: Sequence[int]) -> str:
    """A shape as it is read aloud.

    >>> times((3, 4)), times((7,)), times(())
    ('3 × 4', '7', 'a single number')
    """
    return " × ".join(map(str, shape)) or "a single number"


def scientific(log10: float, digits: int = 1) -> str:
    """A magnitude by its decadic logarithm, also where no float can hold it.

    >>> scientific(-400.0), scientific(1.4, digits=3), scientific(-0.001), scientific(-math.inf)
    ('1.0e-400', '2.512e+01', '1.0e+00', '0')
    """
    if not math.isfinite(log10):
        return "NaN" if math.isnan(log10) else "∞" if log10 > 0 else "0"
    mantissa, exponent = mantissa_and_exponent(log10, digits)
    return f"{mantissa}e{exponent:+03d}"


def mantissa_and_exponent(log10: float, digits: int) -> tuple[str, int]:
    """A magnitude by its finite decadic logarithm, rounded to so many digits behind the point.

    >>> mantissa_and_exponent(-400.3, 1), mantissa_and_exponent(2.9999, 0)
    (('5.0', -401), ('1', 3))
    """
    exponent = math.floor(log10)
    mantissa = f"{10 ** (log10 - exponent):.{digits}f}"
    if mantissa.startswith("10"):
        mantissa, exponent = f"{1:.{digits}f}", exponent + 1
    return mantissa, exponent
