"""Run an experiment: ``python -m experiments [NAME [OPTIONS]]``."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("altair", "jinja2", "rich", "tyro", "vl_convert")
MADE = Path(__file__).resolve().parents[1] / ".venv"
"""The environment that the Makefile installs into."""


def remedy() -> str:
    """Say how to run the experiments where this Python lacks what they need."""
    if (MADE / "bin" / "python").exists() and Path(sys.prefix).resolve() != MADE:
        return "The one that 'make run' installs into has it: .venv/bin/python -m experiments"
    return f"Install it with: {sys.executable} -m pip install -e '.[experiments]'"


def open_standard_streams() -> None:
    """Open the null device where there is no standard stream (``<&-``).

    Otherwise the next file that is opened would have its number, and libraries would take that for the
    stream: drawing a picture ends the process.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


if __name__ == "__main__":
    open_standard_streams()
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        names = ", ".join(missing)
        sys.exit(f"The experiments need what this Python does not have: {names}. {remedy()}")
    from experiments.app.command_line import main

    # A run that gets a signal to end, or whose terminal is closed, cleans up as after Ctrl-C.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    status = main(sys.argv[1:])
    # An interrupt that came in exec of a text, as where a dataclass is made, has been caught; Python would
    # end with SIGINT all the same, unless another text was run since.
    exec("")
    sys.exit(status)
