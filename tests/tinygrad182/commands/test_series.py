"""Sequences from files: their values, reports of what is left out, and the cell that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182.commands.series import Series, read_series


def read(folder: Path, text: str | bytes, *columns: str) -> Series:
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "series.csv").write_bytes(content)
    return read_series(folder / "series.csv", columns)


TEXTS: dict[str, tuple[str, list[list[float]], list[str], int]] = {
    "a header": ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]], ["a", "b"], 0),
    "no header": ("1,2\n3,4.5\n", [[1, 2], [3, 4.5]], ["column 1", "column 2"], 0),
    "one column": ("x\n1\n-2e-3\n", [[1], [-2e-3]], ["x"], 0),
    "a date": ("day,x\n2026-01-01,1\n2026-01-02,2\n", [[1], [2]], ["x"], 1),
    "names that are numbers": (
        "day,0,1\n5,1,2\n6,3,4\n",
        [[5, 1, 2], [6, 3, 4]],
        ["day", "0", "1"],
        0,
    ),
    "semicolons and decimal commas": ("a;b\n1,5;2\n", [[1.5, 2]], ["a", "b"], 0),
    "a comma in a name": ("Temp, C;x\n1;2\n", [[1, 2]], ["Temp, C", "x"], 0),
    "tabs": ("a\tb\n1\t2\n", [[1, 2]], ["a", "b"], 0),
    "quotes, blanks and blank lines": ('"a, b" , c\n\n 1 ,"2"\n,\n', [[1, 2]], ["a, b", "c"], 0),
    "a byte order mark": ("\ufeffa\r\n1\r\n", [[1]], ["a"], 0),
    "an empty column": ("a,b\n,1\n,2\n", [[1], [2]], ["b"], 1),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, tmp_path: Path) -> None:
    text, values, columns, notes = TEXTS[name]
    found = read(tmp_path, text)
    assert found.values.tolist() == [[row] for row in values]
    assert list(found.columns) == columns
    assert len(found.notes) == notes
    assert all("is not numeric and was left out" in note for note in found.notes)


def test_columns_are_chosen_in_the_order_asked_for(tmp_path: Path) -> None:
    found = read(tmp_path, "a,b,c\n1,x,3\n4,,6\n", "c", "a")
    assert found.values.tolist() == [[[3, 1]], [[6, 4]]]
    assert found.columns == ("c", "a")
    assert found.notes == ()


ERRORS: dict[str, tuple[str | bytes, tuple[str, ...], str]] = {
    "an empty cell": ("a,b\n1,2\n3,\n", (), "line 3, column 'b' is empty; write a finite number"),
    "a word": ("a,b\n1,2\n3,n/a\n", (), "line 3, column 'b' is 'n/a'"),
    "NaN": ("a\n1\n\nnan\n", (), "line 4, column 'a' is 'nan'"),
    "infinity": ("a\n1\n-inf\n", (), "line 3, column 'a' is '-inf'"),
    "too large": ("a\n1\n1e999\n", (), "line 3, column 'a' is '1e999'"),
    "an underscore": ("a\n1\n1_000\n", (), "line 3, column 'a' is '1_000'"),
    "a row that is too long": (
        "a,b\n1,2\n3,4,5\n",
        (),
        "line 3 has 3 cells, separated by ','; the first row has 2",
    ),
    "only words": ("a,b\nx,y\n", (), "no column has numbers; there are 'a', 'b'"),
    "only a header": ("a,b\n", (), "no rows of numbers"),
    "nothing": ("", (), "no rows of numbers"),
    "no such column": ("a,b\n1,2\n", ("c",), "no column 'c'; there are 'a', 'b'"),
    "a column of words": ("a,b\n1,x\n", ("b",), "line 2, column 'b' is 'x'"),
    "bytes": (b"\xff\xfe\x00", (), "neither text in UTF-8 nor an array"),
    "a long cell": ("a\n" + "1" * 200_000, (), "line 2: field larger than"),
    "a damaged array": (b"\x93NUMPY\x01\x00", (), "damaged, or holds no numbers"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    text, columns, message = ERRORS[name]
    with pytest.raises(tg.TinygradError, match=message) as caught:
        read(tmp_path, text, *columns)
    assert str(caught.value).startswith("data: ")


HUGE = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**20},)}}"


def saved(folder: Path, array: Any, **options: Any) -> Series:
    np.save(folder / "f.npy", array, allow_pickle=True)
    return read_series(folder / "f.npy", **options)


def test_arrays(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 3, 2)
    assert (saved(tmp_path, array).values == array).all()
    assert (saved(tmp_path, array, batch_first=True).values == array.swapaxes(0, 1)).all()
    assert (saved(tmp_path, array[0]).values == array[0][:, None]).all()
    assert saved(tmp_path, np.arange(3)).values.tolist() == [[[0]], [[1]], [[2]]]


@pytest.mark.parametrize(
    "header", ["{'descr': '<f8', ((((", "{[]: 1}", "{'a'\n\t2", "(" * 300, HUGE]
)
def test_a_damaged_header_of_an_array(header: str, tmp_path: Path) -> None:
    """NumPy raises what Python's own parser raises."""
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "f.npy").write_bytes(content + bytes(64))
    with pytest.raises(tg.FileError, match=r"damaged, or holds no numbers: \S"):
        read_series(tmp_path / "f.npy")


def test_arrays_that_are_refused(tmp_path: Path) -> None:
    array = np.ones((2, 3, 4))
    array[1, 2, 3] = np.nan
    cases: list[tuple[Any, str]] = [
        (array, "step 1, sequence 2, feature 3 is nan"),
        (np.array([print]), "damaged, or holds no numbers"),
        (np.array(["a"]), "has dtype <U1; save real numbers"),
        (np.array([1j]), "has dtype complex128"),
        (np.ones((1, 1, 1, 1)), r"has shape \(1, 1, 1, 1\); it must be \(T, I\) or \(T, B, I\)"),
        (np.ones((0, 2)), r"has shape \(0, 1, 2\)"),
    ]
    for content, message in cases:
        with pytest.raises(tg.FileError, match=message):
            saved(tmp_path, content)
    with pytest.raises(tg.ArgumentError, match="an array, whose columns have no names"):
        saved(tmp_path, np.ones(2), columns=("a",))
    with pytest.raises(tg.FileError, match=r"data: cannot read .*No such file"):
        read_series(tmp_path / "missing")
    with pytest.raises(tg.FileError, match="is a folder"):
        read_series(tmp_path)
