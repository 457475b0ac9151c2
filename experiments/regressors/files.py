"""Read the user's own sequences, and say exactly what is wrong with a file that cannot be read."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.app.errors import DataError

FORMATS = "a .csv file with a sequence in each row, or a .npy file of shape (N, T) or (N, T, I)"


def read_sequences(path: Path) -> NDArray[np.float64]:
    """Read sequences ``(N, T, I)`` from a .csv or .npy file, every number finite.

    Raises
    ------
    DataError
        For a file that cannot be used; it names the file, the place and the remedy.
    """
    readers = {".csv": _read_csv, ".npy": _read_npy}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: the data must be {FORMATS}")
    try:
        sequences = readers[path.suffix.lower()](path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if sequences.shape[1] < 2:
        raise DataError(
            f"{path}: a sequence needs at least 2 time steps, these have 1; each row is a sequence of "
            "its own: write the values of one sequence side by side"
        )
    return sequences


def _read_csv(path: Path) -> NDArray[np.float64]:
    """Rows of numbers, with or without a row of names above them."""
    rows: list[list[float]] = []
    first_line = 0
    header: Sequence[str] = ()
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first cell.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for position, cells in enumerate(row for row in reader if any(map(str.strip, row))):
                if position == 0 and _is_header(f"{path}, line {reader.line_num}", cells):
                    header = cells
                    continue
                numbers = _numbers(path, reader.line_num, cells)
                if not rows:
                    first_line = reader.line_num
                elif len(numbers) != len(rows[0]):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(numbers)} values, but line "
                        f"{first_line} has {len(rows[0])}; every sequence needs the same length"
                    )
                rows.append(numbers)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; save it as CSV (UTF-8)") from None
    except csv.Error as error:
        raise DataError(f"{path}: not valid CSV ({error})") from None
    if not rows:
        # With another separator, the only line is one cell and so looks like a header.
        hint = _separator_hint(header[0]) if len(header) == 1 else ""
        raise DataError(f"{path}: holds no sequence; it needs a row of numbers for each{hint}")
    return np.array(rows)[:, :, None]


def _is_header(place: str, cells: Sequence[str]) -> bool:
    """Whether a first row holds names; a nameless first column is a mistake worth stopping at."""
    if not cells[0].strip():
        # What tables look like when they are saved with their row numbers: as a header, it would
        # make the row numbers the first time step.
        raise DataError(
            f"{place}: the first cell is empty; if the first column numbers the rows, "
            "save the file without it (pandas: to_csv(..., index=False))"
        )
    if cells[0].lstrip().startswith("#"):
        raise DataError(
            f"{place}: comments are not read; delete the line, or its # if it holds the columns' names"
        )
    return not any(MEANT_AS_NUMBER.fullmatch(cell) or _is_number(cell) for cell in cells)


UNIT = r"(?!(?:st|nd|rd|th)\b)(?P<unit>%|[^\W\d_]+)"
"""Unit that can follow a number; "1st" is a name."""

MEANT_AS_NUMBER = re.compile(
    rf"\s*[+-]?\d[\d_., '\u00a0\u202f]*(e[+-]?\d+)?(?:{UNIT})?\s*", re.IGNORECASE
)
"""Numbers as people write them, with marks between the digits or a unit behind."""


def _is_number(cell: str) -> bool:
    """Whether a reader takes a cell for a number, too: Python's float() also takes 1_000."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _hint(cell: str) -> str:
    """Words for a cell that looks like a number with its unit, or like several values."""
    number = MEANT_AS_NUMBER.fullmatch(cell)
    if number and number["unit"]:
        return "; leave units out, and begin the name of a column with a letter"
    return _separator_hint(cell)


def _separator_hint(cell: str) -> str:
    """Words for a cell that looks like several values."""
    return "; separate the values by commas" if any(s in cell.strip() for s in ";\t| ") else ""


def _numbers(path: Path, line: int, cells: Sequence[str]) -> list[float]:
    """Return a row's finite numbers."""
    numbers = []
    for column, cell in enumerate(cells, start=1):
        place = f"{path}, line {line}, column {column}"
        if not cell.strip():
            raise DataError(f"{place}: the cell is empty; fill it or leave the sequence out")
        if not _is_number(cell):
            # A long cell is mostly a whole line of a file with another separator.
            shown = cell if len(cell) <= 40 else cell[:40] + "..."
            raise DataError(f"{place}: {shown!r} is not a number{_hint(cell)}")
        number = float(cell)
        if not math.isfinite(number):
            raise DataError(f"{place}: {cell.strip()!r} is not a finite number")
        numbers.append(number)
    return numbers


def _read_npy(path: Path) -> NDArray[np.float64]:
    """Array of any real dtype, (N, T) or (N, T, I)."""
    try:
        with path.open("rb") as file:
            # Not np.load: it would also take archives and pickles for what they are.
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # any: NumPy has Python's own parser read the header
        reason = str(error) or type(error).__name__
        if "Object arrays" in reason:
            reason = "it holds Python objects; convert them with array.astype(float) before saving"
        raise DataError(f"{path}: not a usable .npy file ({reason})") from None
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: holds {array.dtype} values; real numbers are needed")
    if array.ndim not in (2, 3):
        hint = "; for one sequence save array.reshape(1, -1)" if array.ndim == 1 else ""
        raise DataError(f"{path}: has shape {array.shape}, (N, T) or (N, T, I) is needed{hint}")
    if 0 in array.shape:
        raise DataError(f"{path}: has shape {array.shape}, so it holds no number")
    with np.errstate(over="ignore"):
        found = array.astype(np.float64)
    if bad := np.argwhere(~np.isfinite(found)).tolist():
        place = tuple(bad[0])
        value = array[place]
        what = "too large for float64" if np.isfinite(value) else "not a finite number"
        raise DataError(f"{path}: the value at index {place} is {value}, {what}")
    return found.reshape(*found.shape[:2], -1)
