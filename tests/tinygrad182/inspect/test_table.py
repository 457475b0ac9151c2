"""``graph.table()`` and all other tables: shown as tables, and strings in every other way."""

from __future__ import annotations

import copy
import pickle
from xml.etree import ElementTree

import pytest

import tinygrad182 as tg
from tinygrad182.inspect.table import TextTable, text_table

HEADER = ("op", "t", "norm")
ROWS = [("add", 0, 1.5e-12), ("<leaf> & co", None, float("nan")), ("sum", 12, float("inf"))]


@pytest.fixture
def table() -> TextTable:
    return text_table(HEADER, ROWS, None)


def test_a_table_shows_as_its_text(table: TextTable) -> None:
    assert repr(table) == str(table) == "\n".join(
        [
            "op            t       norm",
            "add           0  1.500e-12",
            "<leaf> & co   ·        nan",
            "sum          12        inf",
        ]
    )  # fmt: skip


def test_a_table_is_a_string(table: TextTable) -> None:
    assert isinstance(table, str)
    assert table.splitlines()[1] == "add           0  1.500e-12"
    assert table + "!" == str(table) + "!"
    assert f"{table}" == str(table)
    assert table == str(table)
    assert hash(table) == hash(str(table))
    assert type(str(table)) is str


def test_a_notebook_gets_rows_and_cells(table: TextTable) -> None:
    root = ElementTree.fromstring(table._repr_html_())
    assert [cell.text for cell in root.iter("th")] == list(HEADER)
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert rows[1:] == [
        ["add", "0", "1.500e-12"],
        ["<leaf> & co", "·", "nan"],
        ["sum", "12", "inf"],
    ]
    for row in root.iter("tr"):
        sides = [cell.attrib["style"].rpartition("text-align:")[2] for cell in row]
        assert sides == ["left", "right", "right"]


def test_names_in_a_notebook_hold_nothing_that_cannot_be_shown() -> None:
    html = text_table(("name",), [("a\x00<script>",)], None)._repr_html_()
    assert "a␀&lt;script&gt;" in html


def test_long_tables_are_cut_in_the_notebook_too() -> None:
    table = text_table(("t",), [(t,) for t in range(100)], 4)
    assert table.split() == ["t", "0", "1", "…", "96", "more", "98", "99"]
    rows = ElementTree.fromstring(table._repr_html_()).iter("tr")
    assert len(list(rows)) == 6


@pytest.mark.parametrize(
    "same", [copy.copy, copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))]
)
def test_a_copy_is_the_same_table(table: TextTable, same) -> None:  # type: ignore[no-untyped-def]
    other = same(table)
    assert type(other) is TextTable
    assert repr(other) == repr(table)
    assert other._repr_html_() == table._repr_html_()


def test_the_table_of_a_graph() -> None:
    w = tg.tensor([3.0], requires_grad=True)
    table = tg.inspect.trace((w * w).sum()).table()
    assert repr(table) == str(table)
    assert table.splitlines()[2].split() == ["multiply", "·", "(1,)", "9.000e+00", "1.000e+00", "1"]
    assert "<th" in table._repr_html_()
