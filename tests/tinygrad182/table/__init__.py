"""The table of operations: the name, the PyTorch equivalent, and the operands of each.

The tests run every check on every row. ``test_table.py`` fails when a primitive or a public function
has no row.
"""

from __future__ import annotations

from . import elementwise, indexing, linalg, rearranging, recurrent, reduction
from .row import Row, floating
from .without_derivative import PLAIN, PlainRow

ROWS: list[Row] = [
    *elementwise.ROWS,
    *reduction.ROWS,
    *linalg.ROWS,
    *rearranging.ROWS,
    *indexing.ROWS,
    *recurrent.ROWS,
]

__all__ = ["PLAIN", "ROWS", "PlainRow", "Row", "floating"]
