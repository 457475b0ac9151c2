"""Tables in a terminal of any width, or in a file: no number and no word is broken to make one fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

SPACE = 2
"""Columns between two columns of a table, and around it."""

FOLDED = 10
"""Columns that a column keeps which is too wide for the terminal even alone."""


@dataclass(frozen=True)
class Grid:
    """A table as text.

    Parameters
    ----------
    headings : sequence of str
    rows : sequence of sequences of str
        A cell for each heading.
    words : sequence of bool
        Whether a column holds words, which stand on the left, not numbers.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[bool]

    def least(self) -> list[int]:
        """Width of each column where its heading is broken between any two words."""
        return [
            max(map(cell_len, [*heading.split(), *(row[i] for row in self.rows)]), default=0)
            for i, heading in enumerate(self.headings)
        ]

    def fits(self, width: int) -> bool:
        """Whether it can be drawn in ``width`` columns with every cell on one line."""
        return sum(self.least()) + SPACE * len(self.headings) <= width

    def keys(self) -> int:
        """Number of columns, from the first on, that tell all rows apart."""
        for count in range(1, len(self.headings)):
            if len({tuple(row[:count]) for row in self.rows}) == len(self.rows):
                return count
        return 1

    def turned(self) -> Grid:
        """The table with a column for each row."""
        first, *others = zip(self.headings, *self.rows, strict=True)
        return Grid(first, others, [True] + [False] * len(self.rows))

    def chosen(self, columns: Sequence[int]) -> Grid:
        """Some of the columns."""
        rows = [[row[i] for i in columns] for row in self.rows]
        return Grid([self.headings[i] for i in columns], rows, [self.words[i] for i in columns])


def print_table(console: Console, title: str, grid: Grid, note: str = "") -> None:
    """Print a table below its title and above its note, in as many pieces as the width asks for."""
    console.print(f"\n[bold]{escape(title)}[/]")
    for i, piece in enumerate(pieces(grid, console.width)):
        if i:
            console.print()
        console.print(_drawn(piece, console.width))
    if note:
        console.print(f"[dim]{escape(note)}[/]")


def pieces(grid: Grid, width: int) -> list[Grid]:
    """Pieces to print one below another: the table; the table turned; or a few columns at a time.

    >>> grid = Grid(["network", "seed", "loss", "slope"], [["RNN", "0", "0.25", "-0.125"]], [True] * 4)
    >>> [piece.headings for piece in pieces(grid, 32)]
    [['network', 'seed', 'loss', 'slope']]
    >>> [(piece.headings, piece.rows[0]) for piece in pieces(grid, 20)]
    [(('network', 'RNN'), ('seed', '0'))]
    >>> [piece.headings for piece in pieces(grid, 16)]
    [['network', 'seed'], ['network', 'loss'], ['network', 'slope']]
    """
    if grid.fits(width):
        return [grid]
    if grid.turned().fits(width):
        return [grid.turned()]
    return _split(grid, width)


def _split(grid: Grid, width: int) -> list[Grid]:
    """The columns that tell the rows apart, each time with as many others as there is room for."""
    keys, *others = range(grid.keys()), *range(grid.keys(), len(grid.headings))
    groups: list[list[int]] = [[]]
    for i in others:
        if groups[-1] and not grid.chosen([*keys, *groups[-1], i]).fits(width):
            groups.append([])
        groups[-1].append(i)
    cuts = [len(others) * i // len(groups) for i in range(len(groups) + 1)]
    even = [grid.chosen([*keys, *others[a:b]]) for a, b in pairwise(cuts)]
    if all(piece.fits(width) for piece in even):  # better than a last piece of one column
        return even
    return [grid.chosen([*keys, *group]) for group in groups]


def _drawn(grid: Grid, width: int) -> RichTable:
    drawn = RichTable(box=None)
    for heading, words, size in zip(grid.headings, grid.words, _sizes(grid, width), strict=True):
        justify: Literal["left", "right"] = "left" if words else "right"
        drawn.add_column(escape(heading), justify=justify, width=size, overflow="fold")
    for row in grid.rows:
        drawn.add_row(*map(escape, row))
    return drawn


def _sizes(grid: Grid, width: int) -> list[int]:
    """Width of each column: room for its heading on one line where the table leaves it."""
    least = grid.least()
    sizes = [max(pair) for pair in zip(least, map(cell_len, grid.headings), strict=True)]
    over = sum(sizes) + SPACE * len(sizes) - width
    for floor in (least, [FOLDED] * len(sizes)):
        while over > 0 and (wide := [i for i, size in enumerate(sizes) if size > floor[i]]):
            widest = max(wide, key=lambda i: (sizes[i] - floor[i], i))
            sizes[widest] -= 1
            over -= 1
    return sizes
