"""Read the user's sequence for ``inspect``, from a CSV file or a NumPy file, as an array over time."""

from __future__ import annotations

import csv
import io
import math
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._files import checked_path
from ..errors import ArgumentError, FileError, brief

HostArray = np.ndarray[Any, Any]

_DELIMITERS = ",;\t"

_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, ArithmeticError, SyntaxError, RecursionError),
    tokenize.TokenError,
)
"""The errors that NumPy raises on a damaged header."""


@dataclass(frozen=True)
class Series:
    """Sequences read from a file.

    Attributes
    ----------
    values : ndarray ``(T, B, I)``
        I numbers for each time step of B sequences.
    columns : tuple of str
        Names of the I numbers.
    notes : tuple of str
        Sentences that name the columns left out.
    """

    values: HostArray
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_series(path: Path, columns: Sequence[str] = (), batch_first: bool = False) -> Series:
    """Read a sequence: a row is a time step, and a column is one of the model's inputs.

    Parameters
    ----------
    path : path
        A CSV file, or a file of ``numpy.save`` with an array ``(T,)``, ``(T, I)`` or ``(T, B, I)``; the
        content decides which. Cells of a CSV file are separated by commas, semicolons or tabs. Its first
        row may have the names of the columns.
    columns : sequence of str
        The columns of a CSV file to use, in this order. By default all that have numbers.
    batch_first : bool
        Whether an array of three axes is ``(B, T, I)``.

    Raises
    ------
    FileError
        The file cannot be read, or a cell is empty or not a finite number. The message names the cell by
        line and column.
    ArgumentError
        There is no such column.
    """
    source = checked_path("data", path)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise FileError(f"data: cannot read {source}: {error.strerror}") from error
    if content.startswith(b"\x93NUMPY"):
        if columns:
            raise ArgumentError(f"data: {source} is an array, whose columns have no names")
        return _from_array(source, batch_first)
    return _from_text(source, content, columns)


# --- arrays -------------------------------------------------------------------------------------


def _from_array(source: Path, batch_first: bool) -> Series:
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"data: {source} is damaged, or holds no numbers: {reason}") from error
    if array.dtype.kind not in "biuf":
        raise FileError(f"data: {source} has dtype {array.dtype}; save real numbers")
    if array.ndim == 3 and batch_first:
        array = array.swapaxes(0, 1)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or 0 in array.shape:
        raise FileError(f"data: {source} has shape {array.shape}; it must be (T, I) or (T, B, I)")
    values = np.array(array)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        t, b, i = (int(k) for k in np.argwhere(~np.isfinite(values))[0])
        raise FileError(
            f"data: {source}: the number of step {t}, sequence {b}, feature {i} is {values[t, b, i]}; "
            "replace it, or remove the step"
        )
    return Series(values, tuple(str(i) for i in range(values.shape[2])))


# --- text ---------------------------------------------------------------------------------------


def _from_text(source: Path, content: bytes, chosen: Sequence[str]) -> Series:
    names, rows, lines, delimiter = _read_table(source, content)
    notes, used = [], []
    for i, name in enumerate(names):
        if chosen and name not in chosen:
            continue
        if not chosen and not any(_is_number(row[i], delimiter) for row in rows):
            notes.append(f"Column {name!r} is not numeric and was left out.")
            continue
        used.append(i)
    missing = [name for name in chosen if name not in names]
    if missing or not used:
        there = ", ".join(map(repr, names))
        problem = f"there is no column {missing[0]!r}" if missing else "no column has numbers"
        raise ArgumentError(f"data: {source}: {problem}; there are {there}")
    if chosen:
        used.sort(key=lambda i: chosen.index(names[i]))
    values = np.empty((len(rows), 1, len(used)))
    for t, row in enumerate(rows):
        for k, i in enumerate(used):
            values[t, 0, k] = number = _number(row[i], delimiter)
            if not math.isfinite(number):
                found = brief(row[i]) if row[i].strip() else "empty"
                raise FileError(
                    f"data: {source}, line {lines[t]}, column {names[i]!r} is {found}; write a finite "
                    "number, remove the row, or choose other columns with --columns"
                )
    return Series(values, tuple(names[i] for i in used), tuple(notes))


class _Table(NamedTuple):
    """The cells of a CSV file: names of columns, rows, their line numbers and the delimiter."""

    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    delimiter: str


def _read_table(source: Path, content: bytes) -> _Table:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"data: {source} is neither text in UTF-8 nor an array of numpy.save; save it as CSV in UTF-8"
        ) from error
    start = list(islice((line for line in text.splitlines() if line.strip()), 2))
    delimiter = max(
        _DELIMITERS, key=lambda mark: min((line.count(mark) for line in start), default=0)
    )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows, lines = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise FileError(f"data: {source}, line {reader.line_num}: {error}") from error
    header = _is_header(rows, delimiter)
    names = [cell.strip() for cell in rows[0]] if header else []
    width = len(rows[0]) if rows else 0
    names = [name or f"column {i}" for i, name in enumerate(names or [""] * width, 1)]
    rows, lines = rows[header:], lines[header:]
    if not rows:
        raise FileError(f"data: {source} has no rows of numbers; each row is a time step")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise FileError(
                f"data: {source}, line {line} has {len(row)} cells, separated by {delimiter!r}; the first "
                f"row has {width}"
            )
    return _Table(names, rows, lines, delimiter)


def _is_header(rows: list[list[str]], delimiter: str) -> bool:
    """Whether the first row has names: no cell is a number, or in some column a text is above a number."""
    if not rows:
        return False
    first, below = rows[0], rows[1] if len(rows) > 1 else []
    is_text = [not _is_number(cell, delimiter) for cell in first]
    return all(is_text) or any(
        text and cell.strip() and _is_number(number, delimiter)
        for text, cell, number in zip(is_text, first, below, strict=False)
    )


def _is_number(cell: str, delimiter: str) -> bool:
    return bool(cell.strip()) and not math.isnan(_number(cell, delimiter))


def _number(cell: str, delimiter: str) -> float:
    """The number in a cell, or NaN. If semicolons separate the cells, 1,5 is 3/2."""
    if "_" in cell:  # Python would accept it between digits
        return math.nan
    try:
        return float(cell.replace(",", ".") if delimiter == ";" else cell)
    except ValueError:
        return math.nan
