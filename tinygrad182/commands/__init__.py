"""The command line: ``python -m tinygrad182 NAME``. Each command has a module of its name.

The module has ``Options``, a dataclass with the arguments of the command, and ``run``, a function of them.
It is imported when the command is called.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import ArgumentError, MissingDependencyError, TinygradError

PROGRAM = "python -m tinygrad182"

COMMANDS = {
    "inspect": "The page, a table and JSON of your checkpoint on your data",
    "diff": "Where the gradients and values of two saved traces differ first",
    "first-anomaly": "The first NaN, infinity or underflow in a saved trace",
    "watch": "Gradient flow during a watched training run",
    "playground": "A page with sliders for weights, biases and length, and the gradient",
}
"""The result of each command."""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status: 0, 2 for the user's error, 130 if interrupted.

    Results go to standard output; progress and errors go to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a question mark is better than no result
    name, *rest = arguments or ["--help"]
    try:
        if name in {"-h", "--help"}:
            print(usage())  # noqa: T201
        else:
            run(name, rest)
        sys.stdout.flush()
    except (TinygradError, MemoryError) as error:
        problem = str(error) or "there is not enough memory"
        say(f"error: {' '.join(problem.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has stopped reading
        _drop_output()
        return 0
    except OSError as error:  # a full disk
        _drop_output()
        say(f"error: the results cannot be written: {error}", file=sys.stderr)
        return 2
    return 0


def _drop_output() -> None:
    """Discard the rest of standard output, so that Python does not fail to write it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, safely: names from files may contain sequences that control a terminal."""
    print("\n".join(map(visible, lines)), file=file)


def visible(text: str) -> str:
    """Replace characters that are not printable, such as escapes and line ends, by their codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def usage() -> str:
    """The text of ``--help``: how to call the commands, and the result of each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    options = f"{PROGRAM} NAME --help lists a command's options."
    return "\n".join([f"usage: {PROGRAM} NAME [OPTIONS]", "", *lines, "", options])


def run(name: str, arguments: Sequence[str]) -> None:
    """Run the command called ``name``.

    Raises
    ------
    ArgumentError
        There is no such command; the message has the most similar name.
    MissingDependencyError
        The library ``tyro`` is not installed.
    """
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise ArgumentError(f"there is no command {name!r}; {hint}")
    try:
        import tyro
    except ImportError as error:
        raise MissingDependencyError(
            "the command line needs tyro: pip install 'tinygrad182[viz]'"
        ) from error
    command: Any = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    program, summary = f"{PROGRAM} {name}", f"{COMMANDS[name]}."
    command.run(tyro.cli(command.Options, args=arguments, prog=program, description=summary))


def announce_page(path: Path, browser: bool) -> None:
    """Print the path of a page, and show the page in a browser if asked to."""
    say(f"page: {path}")
    if browser:
        webbrowser.open(path.resolve().as_uri())
