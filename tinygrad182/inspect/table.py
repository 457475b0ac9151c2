"""Tables as text, for a terminal or a docstring; a notebook shows them as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..display.reprs import scientific, shown, state_fold, whole_table
from ..engine.recording import is_tensor


class TextTable(str):
    """A string that prompts print as a table and notebooks show as an HTML table."""

    __slots__ = ("_lines", "_right")

    _lines: Sequence[Sequence[str]]
    _right: Sequence[bool]

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head, *rows = self._lines
        return shown(whole_table(head, rows, self._right))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._lines, self._right)


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], max_rows: int | None
) -> TextTable:
    """Aligned columns under a header, numbers to the right; a long table is cut in the middle."""
    cells = [[_cell(value) for value in row] for row in rows]
    if max_rows is not None and len(cells) > max_rows:
        head, tail = (max_rows + 1) // 2, max_rows // 2
        hidden = [f"… {len(cells) - head - tail} more", *[""] * (len(header) - 1)]
        cells = [*cells[:head], hidden, *cells[len(cells) - tail :]]
    right = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    return _made([list(header), *cells], right)


def _made(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> TextTable:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = TextTable(
        "\n".join(
            "  ".join(
                c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in lines
        )
    )
    table._lines, table._right = lines, right
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "·"
    return f"{value:.3e}" if type(value) is float else str(value)


class StateTable:
    """Prints one state of a recurrence: its norms over time, which may be arrays or Tensors."""

    def __repr__(self) -> str:
        return self._table(20)

    def _table(self: Any, most: int) -> str:
        values, grads, logs = (
            as_array(x).tolist() for x in (self.value_norm, self.grad_norm, self.log10_grad_norm)
        )
        norms = [
            norm if 0 < norm < math.inf or not math.isfinite(log10) else scientific(log10, 3)
            for norm, log10 in zip(grads, logs, strict=True)
        ]
        rows = zip(self.time.tolist(), values, norms, strict=True)
        return text_table(("t", "‖value‖", "‖grad‖"), list(rows), most)

    def _fold(self: Any, name: str, opened: bool) -> str:
        norms = as_array(self.value_norm), as_array(self.log10_grad_norm)
        return state_fold(name, self.time, *norms, opened)

    def _repr_html_(self) -> str:
        return shown(self._fold("", opened=True))


def as_array(figures: Any) -> Any:
    """Figures on the host: the numbers of a Tensor, or the array itself."""
    return figures.numpy() if is_tensor(figures) else figures
