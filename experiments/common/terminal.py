"""Tables in a terminal of any width, or in a file: no number and no word is broken to make one fit."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from experiments.common.errors import OutputError

UNBOUNDED = 100_000
"""Columns of a file or a pipe: their lines are as long as what is in them."""

SPACE = 2
"""Columns between two columns of a table, and around it."""

FOLDED = 10
"""Columns that a column keeps which is too wide for the terminal even alone."""


class Closed(io.TextIOBase):
    """Standard output where there is none (``>&-``): writing to it is an error, as for a full disk."""

    def write(self, text: str) -> int:
        """Refuse."""
        raise OSError(errno.EBADF, "it is closed")


class Unheard:
    """Standard error that may be closed, full or without a reader: a run goes on all the same."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream or io.StringIO()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError):
            self.stream.flush()


class Printer(Console):
    """Console that raises where its reader has gone, instead of ending the process."""

    def on_broken_pipe(self) -> None:
        """Raise what rich has caught."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console_for(stream: TextIO) -> Console:
    """Console that fits its lines to a terminal and leaves them as they are anywhere else."""
    return Printer(file=stream, highlight=False, width=None if stream.isatty() else UNBOUNDED)


@contextlib.contextmanager
def printing(instead: str = "") -> Iterator[None]:
    """Raise OutputError if standard output cannot be written to, with a sentence that helps then."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:  # noqa: PTH123
            # What is left in the stream would be an error at exit.
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        reason = f"Standard output cannot be written to ({error.strerror})."
        raise OutputError(f"{reason} {instead}") from error


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
    """What to print one below another: the table; the table turned; or a few of its columns at a time.

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
