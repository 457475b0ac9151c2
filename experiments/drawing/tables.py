"""Tables, their columns and rows, and figures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:  # the catalogue is listed without a plotting library
    import altair as alt

Value: TypeAlias = str | int | float | bool | None
"""Content of a table's cell. None means 'not measured'."""

Row: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    key : str
        Name of the column in the CSV file and in ``results.json``. With ``log10`` in it the values are
        logarithms, and people are shown the numbers they are the logarithms of.
    heading : str
        Heading of the column for people. A column without one is for programs only.
    format : str
        Format of finite numbers, as for :func:`format`.
    get : callable or None
        Returns the cell of an item. By default it is the attribute ``key`` or, of a mapping, the value.
    """

    key: str
    heading: str = ""
    format: str = ""
    get: Callable[[Any], Any] | None = None

    def value(self, item: Any) -> Value:
        """Cell of this column for an item.

        >>> Column("real").value(2 + 1j), Column("x", get=np.sum).value([1, 2]), Column("x").value({})
        (2.0, 3, None)
        """
        if self.get:
            found = self.get(item)
        else:
            found = item.get(self.key) if isinstance(item, Mapping) else getattr(item, self.key)
        value: Value = found.item() if isinstance(found, np.generic) else found
        return value

    def text(self, row: Row) -> str:
        """Cell of this column as text.

        >>> Column("x", "x", ".2f").text({"x": 1.234})
        '1.23'
        >>> Column("x", "x", ".2f").text({"x": float("-inf")})
        '-inf'
        >>> Column("x", "x").text({"x": None}), Column("x_log10", "x").text({"x_log10": -60.0})
        ('–', '1.0e-60')
        """
        value = row.get(self.key)
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, str):
            return value
        if "log10" in self.key:
            return power_text(value)
        return format(value, self.format) if math.isfinite(value) else str(value)

    def is_text(self, table: Table) -> bool:
        """Whether the column holds words, which stand on the left, not numbers."""
        return any(isinstance(row.get(self.key), str) for row in table.rows)


def power_text(log10: float) -> str:
    """Number whose logarithm is given as text, also where it is out of floating point's range.

    >>> power_text(-59.5), power_text(0.0), power_text(-1234.0), power_text(float("-inf"))
    ('3.2e-60', '1', '1.0e-1234', '0')
    """
    if not math.isfinite(log10):
        return "0" if log10 < 0 else str(log10)
    if -2 <= log10 < 2:
        return f"{10.0**log10:.2g}"
    exponent = math.floor(log10)
    mantissa = f"{10.0 ** (log10 - exponent):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return f"{mantissa}e{exponent:+03d}"


def rows_of(items: Iterable[Any], columns: Sequence[Column]) -> list[Row]:
    """Cells of every item by the columns' keys.

    >>> rows_of([1 + 2j], [Column("real"), Column("size", get=abs)])
    [{'real': 1.0, 'size': 2.23606797749979}]
    """
    return [{column.key: column.value(item) for column in columns} for item in items]


def along(keys: Row, index: str, columns: Mapping[str, Iterable[float]]) -> list[Row]:
    """Rows along time or lag: ``keys`` in each, ``index`` counted from 0, a value of each column.

    >>> along({"seed": 0}, "step", {"loss": [0.5, 0.25]})
    [{'seed': 0, 'step': 0, 'loss': 0.5}, {'seed': 0, 'step': 1, 'loss': 0.25}]
    """
    return [
        {**keys, index: place, **dict(zip(columns, map(float, values), strict=True))}
        for place, values in enumerate(zip(*columns.values(), strict=True))
    ]


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Parameters
    ----------
    name : str
        Stem of the CSV file.
    title : str
        What the rows are.
    items : sequence
        What the rows are made from, one row each. Without columns, they are the rows: mappings with the
        same keys, in the order of the CSV file's columns.
    columns : tuple of Column
        What the rows hold. A table without any is data for other programs: it goes to its CSV file only.
    note : str
        How to read it.
    printed : bool
        Whether it is short enough for the terminal, too.
    """

    name: str
    title: str
    items: Sequence[Any]
    columns: tuple[Column, ...] = ()
    note: str = ""
    printed: bool = False

    @cached_property
    def rows(self) -> Sequence[Row]:
        """The cells, by the keys of the columns."""
        if not self.columns:
            return self.items
        return rows_of(self.items, self.columns)

    @property
    def shown(self) -> tuple[Column, ...]:
        """Columns that people read."""
        return tuple(column for column in self.columns if column.heading)


_INDEX = re.compile(r"(?<=[hcLGWuŷ])_([0-9hkst])(?![\w(])")
_LOWERED = str.maketrans("0123456789hkst", "₀₁₂₃₄₅₆₇₈₉ₕₖₛₜ")


def set_titles(spec: Any) -> Any:
    """Return a chart's specification with the indices in its titles set, as in hₜ for ``h_t``."""
    if isinstance(spec, list):
        return [set_titles(each) for each in spec]
    if not isinstance(spec, dict):
        return spec
    return {
        key: _INDEX.sub(lambda found: found[1].translate(_LOWERED), each)
        if key in ("title", "subtitle", "text") and isinstance(each, str)
        else each
        if key in ("data", "datasets")
        else set_titles(each)
        for key, each in spec.items()
    }


@dataclass(frozen=True)
class Figure:
    """A chart: a PNG file, and a place in the report.

    Parameters
    ----------
    name : str
        Stem of the PNG file.
    title : str
        Heading in the report.
    caption : str
        What to look for.
    chart : altair chart
        Carries its own title too, so that the PNG file can stand alone.
    """

    name: str
    title: str
    caption: str
    chart: alt.TopLevelMixin

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart as Vega-Lite reads it, made once for all files and checked against the schema."""
        found: dict[str, Any] = set_titles(self.chart.to_dict())
        return found
