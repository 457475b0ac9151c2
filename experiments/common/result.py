"""What an experiment hands back: words, claims, figures and tables.

The common layer turns it into ``results.json``, CSV files, PNG files, the report and the table in
the terminal, so an experiment writes no file and prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from experiments.common.options import Options

if TYPE_CHECKING:  # a chart is made before it gets here: this module needs no plotting library
    import altair as alt

Value: TypeAlias = str | int | float | bool | None
"""What a table's cell may hold. None is 'not measured'."""

Row: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True)
class Column:
    """A column of a table as people read it.

    Parameters
    ----------
    key : str
        The rows' key.
    heading : str
        What stands above the column.
    format : str
        Format of finite numbers, as for :func:`format`.
    log10 : bool
        The values are logarithms, shown as the numbers they are the logarithms of.
    """

    key: str
    heading: str
    format: str = ""
    log10: bool = False

    def text(self, row: Row) -> str:
        """Cell of this column as text.

        >>> Column("x", "x", ".2f").text({"x": 1.234})
        '1.23'
        >>> Column("x", "x", ".2f").text({"x": float("-inf")})
        '-inf'
        >>> Column("x", "x").text({"x": None})
        '–'
        """
        value = row.get(self.key)
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, str):
            return value
        if self.log10:
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


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Parameters
    ----------
    name : str
        Stem of the CSV file.
    title : str
        What the rows are.
    rows : sequence of mappings
        All have the same keys, in the order of the CSV file's columns.
    columns : tuple of Column
        Those people read. A table without any is data for other programs: it goes to its CSV
        file only.
    note : str
        How to read it.
    printed : bool
        Whether it is short enough for the terminal, too.
    """

    name: str
    title: str
    rows: Sequence[Row]
    columns: tuple[Column, ...] = ()
    note: str = ""
    printed: bool = False


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
        """What Vega-Lite draws: made once for all files, and checked as a whole against the schema."""
        found: dict[str, Any] = self.chart.to_dict()
        return found


@dataclass(frozen=True)
class Attachment:
    """A file of its own kind in the run's folder, such as a trained model.

    Parameters
    ----------
    name : str
        Of the file.
    title : str
        What it holds.
    write : callable
        Writes it to the path it is given.
    """

    name: str
    title: str
    write: Callable[[Path], object]


@dataclass(frozen=True)
class Claim:
    """A statement that a number decides, with a threshold chosen before the number was seen.

    Parameters
    ----------
    statement : str
        What is claimed.
    measured, threshold : float
        The claim holds where ``measured`` is ``relation`` ``threshold``; NaN never holds.
    relation : {"at most", "at least"}
    why : str
        Where the threshold comes from.
    """

    statement: str
    measured: float
    threshold: float
    relation: Literal["at most", "at least"] = "at most"
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the measured number is on the claimed side of the threshold."""
        if self.relation == "at most":
            return self.measured <= self.threshold
        return self.measured >= self.threshold

    @property
    def verdict(self) -> str:
        """The number and the threshold in words.

        >>> Claim("it is small", 0.5, 1.0).verdict
        'holds: measured 0.5, at most 1'
        """
        outcome = "holds" if self.holds else "does not hold"
        return f"{outcome}: measured {self.measured:.3g}, {self.relation} {self.threshold:.3g}"


@dataclass(frozen=True)
class Result:
    """Everything one run found.

    Parameters
    ----------
    options : Options
        What was asked for, with what was left open filled in.
    headline : str
        The answer in one sentence, made from the numbers of this run.
    reading : tuple of str
        More sentences, each made from numbers too.
    figures, tables, claims, attachments : tuples
        In the order of the report; the first figure is its first screen.
    """

    options: Options
    headline: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    reading: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    attachments: tuple[Attachment, ...] = ()
