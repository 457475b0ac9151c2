"""The command line: ``python -m tinygrad182 NAME``, a file for each command.

A command is a module with ``Options``, a dataclass whose fields are its arguments, and ``run``, which does
what they say. It is imported when it is called.
"""

from __future__ import annotations

import difflib
import importlib
import io
import math
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import ArgumentError, MissingDependencyError, TinygradError

PROGRAM = "python -m tinygrad182"

COMMANDS = {
    "inspect": ("inspecting", "The page, a table and JSON of a checkpoint on data of yours"),
    "diff": ("diffing", "Where the gradients of two saved traces part, and their values"),
    "first-anomaly": ("first_anomaly", "Where the numbers of a saved trace first went wrong"),
    "watch": ("watching", "Gradient flow during a training run that was watched"),
    "playground": ("playing", "A page with sliders: weights, biases, length, and the gradient"),
}
"""Name → the module that runs it, and what it shows."""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status: 0, 2 for an error of the user's, 130 if interrupted.

    What was asked for goes to standard output; progress and errors go to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # better a question mark than no result
    name, *rest = arguments or ["--help"]
    try:
        if name in {"-h", "--help"}:
            print(usage())  # noqa: T201
        else:
            run(name, rest)
        sys.stdout.flush()
    except (TinygradError, MemoryError) as error:
        problem = str(error) or "there is not enough memory for this"
        say(f"error: {' '.join(problem.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has seen enough
        _drop_output()
        return 0
    except OSError as error:  # a full disk
        _drop_output()
        say(f"error: this cannot be written: {error}", file=sys.stderr)
        return 2
    return 0


def _drop_output() -> None:
    """Send the rest of standard output nowhere, or Python itself would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines. Names in them come from other people's files, so nothing in them steers a terminal."""
    print("\n".join(map(visible, lines)), file=file)


def visible(text: str) -> str:
    """A text with the characters that cannot be seen, such as escapes and ends of lines, spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def in_json(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: they become "nan", "inf" and "-inf"."""
    if isinstance(value, dict):
        return {name: in_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def usage() -> str:
    """How to call the commands, and what each shows."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    told = f"{PROGRAM} NAME --help lists a command's options."
    return "\n".join([f"usage: {PROGRAM} NAME [OPTIONS]", "", *lines, "", told])


def run(name: str, arguments: Sequence[str]) -> None:
    """Run the command called ``name``.

    Raises
    ------
    ArgumentError
        With the name that comes near.
    MissingDependencyError
        The library that reads arguments is not installed.
    """
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise ArgumentError(f"there is no command {name!r}; {hint}")
    module, summary = COMMANDS[name]
    try:
        import tyro
    except ImportError as error:
        raise MissingDependencyError(
            "the command line needs tyro: pip install 'tinygrad182[viz]'"
        ) from error
    command: Any = importlib.import_module(f".{module}", __name__)  # its Options may use tyro
    command.run(
        tyro.cli(
            command.Options, args=arguments, prog=f"{PROGRAM} {name}", description=summary + "."
        )
    )


def written(path: Path, opened: bool = False) -> None:
    """Say where a page is, and show it in a browser if that was asked for."""
    say(f"page: {path}")
    if opened:
        webbrowser.open(path.resolve().as_uri())
