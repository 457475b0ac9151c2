"""HTML and SVG for notebooks, as text, without JavaScript and without a library."""

from __future__ import annotations

from ..pages import text
from .grids import array_body
from .lines import sparkline
from .markup import (
    MOST_ROWS,
    fold,
    mantissa_and_exponent,
    preformatted,
    scientific,
    shown,
    table,
    times,
    whole_table,
)
from .states import state_fold

__all__ = [
    "MOST_ROWS",
    "array_body",
    "fold",
    "mantissa_and_exponent",
    "preformatted",
    "scientific",
    "shown",
    "sparkline",
    "state_fold",
    "table",
    "text",
    "times",
    "whole_table",
]
