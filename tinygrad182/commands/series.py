"""A person's own sequence, from a CSV file or one of NumPy's, as an array over time."""

from __future__ import annotations

import csv
import io
import math
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .._files import checked_path
from ..errors import ArgumentError, FileError, brief

HostArray = np.ndarray[Any, Any]

_DELIMITERS = ",;\t"

_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, ArithmeticError, SyntaxError, RecursionError),
    tokenize.TokenError,
)
"""What NumPy raises on the header of an array that is not what it should be."""


@dataclass(frozen=True)
class Series:
    """What a file holds.

    Attributes
    ----------
    values : ndarray ``(T, B, I)``
        Numbers, one row a time step.
    columns : tuple of str
        What the I numbers of a step are called.
    notes : tuple of str
        What was left out, in sentences.
    """

    values: HostArray
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_series(path: Path, columns: Sequence[str] = (), batch_first: bool = False) -> Series:
    """Read a sequence: a row is a time step, a column a number that the model reads at each.

    Parameters
    ----------
    path : path
        A CSV file (its cells are parted by commas, semicolons or tabs; a first row without numbers has the
        names of the columns), or a file of ``numpy.save`` with an array ``(T,)``, ``(T, I)`` or
        ``(T, B, I)``. Which of them it is shows in the file itself.
    columns : sequence of str
        The columns of a CSV file that are used, in this order. By default these are all with numbers.
    batch_first : bool
        Whether an array of three axes is ``(B, T, I)``.

    Raises
    ------
    FileError
        The file cannot be read. A cell that is empty or not a finite number is named by line and column.
    ArgumentError
        A column that is not there.
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
        told = " ".join(str(error).split())[:200]
        raise FileError(f"data: {source} is damaged, or holds no numbers: {told}") from error
    if array.dtype.kind not in "biuf":
        raise FileError(f"data: {source} has dtype {array.dtype}; real numbers are read")
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
            "replace it, or leave the step out"
        )
    return Series(values, tuple(str(i) for i in range(values.shape[2])))


# --- text ---------------------------------------------------------------------------------------


def _from_text(source: Path, content: bytes, chosen: Sequence[str]) -> Series:
    names, rows, lines, delimiter = _table(source, content)
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
                    "number, or leave out the row, or name the other columns: --columns"
                )
    return Series(values, tuple(names[i] for i in used), tuple(notes))


def _table(source: Path, content: bytes) -> tuple[list[str], list[list[str]], list[int], str]:
    """The names of the columns, the rows below, the lines they stand in, and what parts the cells."""
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
                f"data: {source}, line {line} has {len(row)} cells, parted by {delimiter!r}; the first row "
                f"has {width}"
            )
    return names, rows, lines, delimiter


def _is_header(rows: list[list[str]], delimiter: str) -> bool:
    """Whether the first row has names: no numbers, or in some column a text above a number."""
    if not rows:
        return False
    first, below = rows[0], rows[1] if len(rows) > 1 else []
    told = [not _is_number(cell, delimiter) for cell in first]
    above = zip(first, told, below, strict=False)
    return all(told) or any(
        text and cell.strip() and _is_number(number, delimiter) for cell, text, number in above
    )


def _is_number(cell: str, delimiter: str) -> bool:
    return bool(cell.strip()) and not math.isnan(_number(cell, delimiter))


def _number(cell: str, delimiter: str) -> float:
    """What a cell says, NaN if that is not a number. Where semicolons part the cells, 1,5 is 3/2."""
    if "_" in cell:  # which Python takes for a thousands separator
        return math.nan
    try:
        return float(cell.replace(",", ".") if delimiter == ";" else cell)
    except ValueError:
        return math.nan
