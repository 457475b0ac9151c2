"""Plain-text tables, for a terminal or a docstring; nothing to install."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]], max_rows: int | None) -> str:
    """Aligned columns under a header; numbers to the right, long tables cut in the middle."""
    cells = [[_cell(value) for value in row] for row in rows]
    if max_rows is not None and len(cells) > max_rows:
        head, tail = (max_rows + 1) // 2, max_rows // 2
        hidden = [f"… {len(cells) - head - tail} more", *[""] * (len(header) - 1)]
        cells = [*cells[:head], hidden, *cells[len(cells) - tail :]]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    right = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    lines = [list(header), *cells]
    return "\n".join(
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "·"
    return f"{value:.3e}" if isinstance(value, float) else str(value)
