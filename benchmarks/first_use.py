"""How long the first step of training takes: loops are compiled then, and kept for other processes.

``python -m benchmarks.first_use [--before FOLDER] [--out DIR]``

A process with empty caches, then another one with what the first has kept.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import tyro

from benchmarks.options import ComparisonOptions
from benchmarks.timing import report
from benchmarks.worker import ROOT, Worker

CELLS = {"before": ("LSTM", "RNN"), "now": ("LSTM", "GRU", "RNN")}
"""The layers that a checkout has."""


def row(name: str, folder: Path, cell: str, dtype: str) -> dict[str, Any]:
    """Seconds of the first step of one cell and type, in two processes."""
    found: dict[str, Any] = {"checkout": name, "layer": cell, "dtype": dtype}
    with tempfile.TemporaryDirectory() as empty:
        # machine code is kept beside the modules: a copy has none yet
        package, nothing = "tinygrad182", shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder / package, Path(empty, package), ignore=nothing)
        caches = dict.fromkeys(("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"), str(Path(empty, "cache")))
        for what in ("compiled, s", "kept, s"):
            with Worker(Path(empty), caches) as worker:
                found[what] = worker.ask("first", cell=cell, dtype=dtype)["step"]
    return found


def main(options: ComparisonOptions) -> None:
    """Run the measurements."""
    folders = {"before": options.before, "now": ROOT}
    rows = [
        row(name, folder, cell, dtype)
        for name, folder in folders.items()
        if folder is not None
        for cell in CELLS[name]
        for dtype in ("float32", "float64")
    ]
    report("first-use", rows, options.out)


if __name__ == "__main__":
    main(tyro.cli(ComparisonOptions, prog="python -m benchmarks.first_use", description=__doc__))
