"""Standard output and standard error, which may be closed, full or without a reader."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console

from experiments.app.errors import OutputError

UNBOUNDED = 100_000
"""Columns of a file or a pipe: their lines are as long as what is in them."""


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
