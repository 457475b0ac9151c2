"""Tables at any width: lines fit, and every number and word is there, in one piece."""

import io
import itertools

import pytest
from rich.cells import cell_len
from rich.console import Console

from experiments.app.streams import console_for
from experiments.drawing.terminal import Grid, pieces, print_table

NAMES = ("identity", "tanh", "relu")
HEADINGS = (
    *("nonlinearity", "|λ|max", "seed", "largest |h|", "saturation"),
    *("‖∂L/∂h_1‖ / ‖∂L/∂h_T‖", "decades per step", "the gradient"),
)
WORDS = [True, *[False] * 6, True]
LONG = Grid(
    HEADINGS,
    [
        [name, radius, seed, "6.4e+08", "0.85", f"{seed}.9e-09", f"+0.{i}01", "is stable"]
        for i, (name, radius, seed) in enumerate(itertools.product(NAMES, ("0.5", "2"), "01"))
    ],
    WORDS,
)
FEW = Grid(HEADINGS, LONG.rows[:2], WORDS)


def printed(grid, width):
    console = Console(file=io.StringIO(), width=width)
    print_table(console, "What becomes of it", grid, "At most: nothing.")
    return console.file.getvalue()


@pytest.mark.parametrize("width", [*range(50, 130, 3), 200])
@pytest.mark.parametrize("grid", [LONG, FEW], ids=["long", "few"])
def test_lines_fit_and_nothing_is_broken_or_lost(grid, width):
    text = printed(grid, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    words = text.split()
    for row in grid.rows:
        for cell in row:
            assert set(cell.split()) <= set(words)
    for heading in grid.headings:
        assert set(heading.split()) <= set(words)
    shown = sum(len(p.headings) - 3 for p in pieces(grid, width)) if grid is LONG else 5
    assert shown == 5, "each column once, beside those that tell the rows apart"


def test_a_table_that_fits_is_printed_as_it_is():
    lines = printed(LONG, 200).splitlines()
    assert lines[1] == "What becomes of it"
    assert lines[2].split() == " ".join(HEADINGS).split()
    assert len(lines) == 4 + len(LONG.rows)


def test_a_few_rows_become_columns():
    (piece,) = pieces(FEW, 50)
    assert piece.headings == ("nonlinearity", "identity", "identity")
    assert [row[0] for row in piece.rows] == list(HEADINGS[1:])


def test_pieces_begin_with_what_tells_the_rows_apart():
    for width in (50, 60, 70):
        found = pieces(LONG, width)
        assert len(found) > 1
        assert {tuple(piece.headings[:3]) for piece in found} == {HEADINGS[:3]}


def test_a_cell_wider_than_the_terminal_is_folded_alone():
    grid = Grid(["method", "loss", "text"], [["greedy", "1.5", "a" * 70]], [True, False, True])
    *others, last = pieces(grid, 40)
    assert [piece.headings for piece in others] == [["method", "loss"]]
    assert last.headings == ["method", "text"]
    text = printed(grid, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("a") == 70 + "What becomes of it".count("a")


def test_a_file_that_is_not_a_terminal_gets_whole_lines():
    stream = io.StringIO()
    console = console_for(stream)
    print_table(
        console, "title", Grid([f"a heading {i}" for i in range(99)], [["1"] * 99], [0] * 99)
    )
    console.print("word " * 500)
    assert len(stream.getvalue().splitlines()) == 5
