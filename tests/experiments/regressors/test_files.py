"""Reading files: what is accepted, and that each bad file is named with its place and a remedy."""

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.errors import DataError
from experiments.regressors.files import read_sequences

GOOD_CSV = {
    "plain": "1,2,3\n4,5,6\n",
    "header": "t1,t2,t3\n1,2,3\n4,5,6\n",
    "dates": "2026-01-01,2026-01-02,12:30\n1,2,3\n4,5,6\n",
    "names with digits": "1st,2nd,3rd\n1,2,3\n4,5,6\n",
    "byte order mark": "\ufefft1,t2,t3\n1,2,3\n4,5,6\n",
    "byte order mark, no header": "\ufeff1,2,3\n4,5,6\n",
    "blank lines": "\n1,2,3\n\n4,5,6\n\n",
    "spaces": " 1, 2 ,3\n4,5 , 6\n",
    "quotes": '"1","2","3"\n4,5,6',
    "windows": "1,2,3\r\n4,5,6\r\n",
    "notations": "1e0,+2.0,3.\n.4e1,5,6E0\n",
}


@pytest.mark.parametrize("text", GOOD_CSV.values(), ids=GOOD_CSV)
def test_good_csv(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode())
    np.testing.assert_array_equal(read_sequences(path)[:, :, 0], [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "int8", "uint64", "bool", ">f8"]
)
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (1, 2, 4)])
def test_good_npy(tmp_path, dtype, shape):
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    for order in ("C", "F"):
        np.save(tmp_path / "data.npy", np.asarray(values, order=order))
        read = read_sequences(tmp_path / "data.npy")
        assert read.dtype == np.float64
        np.testing.assert_array_equal(read, values.reshape(*shape[:2], -1))


BAD_CSV = {
    "empty": ("", "holds no sequence"),
    "blank": ("\n\n", "holds no sequence"),
    "header only": ("a,b,c\n", r"a row of numbers for each$"),
    "one line with tabs": ("1\t2\t3\n", r"holds no sequence; .*; separate the values by commas"),
    "one line with semicolons": ("1.5;2\n", r"holds no sequence; .*; separate the values by"),
    "ragged, short": ("1,2,3\n4,5\n", r"line 2: 2 values, but line 1 has 3"),
    "ragged, long": ("a,b\n\n1,2\n4,5,6\n", r"line 4: 3 values, but line 3 has 2"),
    "text": ("1,2,3\n4,x,6\n", r"line 2, column 2: 'x' is not a number"),
    "text in a first row of numbers": ("1,x,3\n4,5,6\n", r"line 1, column 2: 'x' is not"),
    "names in the first column": ("name,a,b\nx,1,2\n", r"line 2, column 1: 'x' is not"),
    "row numbers of a data frame": (",0,1\n0,5,6\n", r"line 1: the first cell is empty.*index=F"),
    "empty cell": ("1,2\n3,\n", r"line 2, column 2: the cell is empty"),
    "nan": ("1,2\n3,nan\n", r"line 2, column 2: 'nan' is not a finite number"),
    "inf": ("1,2\n-inf,3\n", r"line 2, column 1: '-inf' is not a finite number"),
    "overflow": ("1,2\n3,1e999\n", r"line 2, column 2: '1e999' is not a finite number"),
    "semicolons": ("1;2;3\n4;5;6\n4;5;6\n", r"'4;5;6' is not a number; separate .* by commas"),
    "tabs": ("a,b\n1\t2\n", r"separate the values by commas"),
    "identifiers": ("1_000,2\n3,4\n", r"line 1, column 1: '1_000' is not a number"),
    "marks between digits": ("1_000,2_000\n3,4\n", r"line 1, column 1: '1_000' is not a number"),
    "commas between digits": (
        '"1,000","2,000"\n3,4\n',
        r"line 1, column 1: '1,000' is not a number",
    ),
    "decimal commas": ('"1,5","2,5"\n3,4\n', r"line 1, column 1: '1,5' is not a number"),
    "spaces between digits": ("1 000,2 000\n3,4\n", r"column 1: '1 000' is not a number; separate"),
    "percent": ("10%,20%\n3,4\n", r"line 1, column 1: '10%' is not a number"),
    "units": ("5 kg,6 kg\n7,8\n", r"line 1, column 1: '5 kg' is not a number; leave units out"),
    "units at once": ("5kg,6kg\n7,8\n", r"line 1, column 1: '5kg' is not a number; leave units"),
    "a unit below": ("5,6\n7 s,8\n", r"line 2, column 1: '7 s' is not a number; leave units out"),
    "one odd number": ("a,2_000\n3,4\n", r"line 1, column 1: 'a' is not a number"),
    "comment": ("# 1,2\n3,4\n", r"line 1: comments are not read; delete the line, or its #"),
    "comment below": ("1,2\n# 3\n", r"line 2, column 1: '# 3' is not a number"),
    "one step": ("1\n2\n", r"at least 2 time steps.*each row is a sequence.*side by side"),
    "quote left open": ('1,"2\n3,4\n', r"not valid CSV"),
}


@pytest.mark.parametrize(("text", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv_is_named_with_its_place(tmp_path, text, message):
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_sequences(path)
    assert str(path) in str(caught.value)


def test_csv_that_is_not_text(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xff\xfe1\x00,\x002\x00")  # what a spreadsheet calls Unicode text
    with pytest.raises(DataError, match="not a text file; save it as CSV"):
        read_sequences(path)


BAD_NPY = {
    "one axis": (np.ones(5), r"shape \(5,\).*reshape\(1, -1\)"),
    "four axes": (np.ones((1, 2, 3, 4)), r"\(N, T\) or \(N, T, I\) is needed"),
    "no axis": (np.array(1.0), r"has shape \(\)"),
    "empty": (np.ones((0, 5)), "holds no number"),
    "no steps": (np.ones((5, 0)), "holds no number"),
    "one step": (np.ones((5, 1)), "at least 2 time steps"),
    "nan": (np.array([[1.0, 2.0], [3.0, np.nan]]), r"index \(1, 1\) is nan"),
    "inf": (np.full((1, 2, 1), -np.inf), r"index \(0, 0, 0\) is -inf"),
    "complex": (np.ones((2, 3), complex), "complex128 values; real numbers"),
    "text": (np.array([["1", "2"]]), "real numbers are needed"),
    "times": (np.array([["2026-01-01", "2026-01-02"]], "M8[D]"), "real numbers are needed"),
    "too large": (
        np.full((1, 2), np.longdouble("1e4000")),
        r"\(0, 0\) is .*, too large for float64",
    ),
    "objects": (np.array([[1, 2], [3, 4]], object), r"Python objects.*astype\(float\)"),
}


@pytest.mark.parametrize(("array", "message"), BAD_NPY.values(), ids=BAD_NPY)
def test_bad_npy_is_named_with_its_place(tmp_path, array, message):
    path = tmp_path / "data.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=message) as caught:
        read_sequences(path)
    assert str(path) in str(caught.value)


def npy(header):
    """A file of NumPy's with this header."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1,2,3\n",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00",
        npy("{'descr': '<f8',\n'fortran_order': False, 'shape': (2, 2"),
        npy("{'descr': '<f8'\n  'fortran_order"),
        npy("(" * 9000),
        npy("-" * 9000 + "1"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 9999999999)}"),
        npy("{'descr': '<f8,,', 'fortran_order': False, 'shape': (1, 2)}"),
        npy("\x00"),
    ],
)
def test_npy_that_is_none(tmp_path, content):
    path = tmp_path / "data.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a usable \.npy file"):
        read_sequences(path)


def test_npy_cut_short(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.ones((100, 100)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"not a usable \.npy file"):
        read_sequences(path)


@pytest.mark.parametrize("name", ["data.csv", "data.npy"])
def test_a_missing_file_and_a_folder_are_errors(tmp_path, name):
    with pytest.raises(DataError, match="there is no such file"):
        read_sequences(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_sequences(tmp_path / name)


@pytest.mark.parametrize("name", ["data.xlsx", "data", "data.npz"])
def test_other_formats_are_refused_with_the_known_ones(tmp_path, name):
    (tmp_path / name).write_text("1,2\n")
    with pytest.raises(DataError, match=r"a \.csv file .* or a \.npy file"):
        read_sequences(tmp_path / name)


def test_data_errors_are_the_frameworks_and_value_errors():
    assert issubclass(DataError, tg.TinygradError)
    assert issubclass(DataError, ValueError)
