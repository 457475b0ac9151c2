"""Kernels that a training step launches on a CUDA device, and how often the host waits.

``PYTHONPATH=FOLDER python -m benchmarks.launches [--before FOLDER] [--out DIR]``

It is counted on a stand-in for CuPy, which needs no card: the folder is the stand-in's. On a card the same
is timed beside cuDNN: ``python -m benchmarks.recurrent --device cuda``.
"""

from __future__ import annotations

import sys
from typing import Any

import tyro

from benchmarks.first_use import CELLS
from benchmarks.options import ComparisonOptions
from benchmarks.timing import report
from benchmarks.worker import ROOT, Worker
from tinygrad182.arrays.cuda import import_cupy

STEPS = 100
FORMS = ("forward", "plain", "recorded")
"""Forward alone; forward and backward; the same with every state's gradient."""


def row(name: str, worker: Worker, cell: str, form: str) -> dict[str, Any]:
    """Launches of all steps, of one, and which they are."""
    found = worker.ask("launches", cell=cell, form=form, steps=STEPS)
    often = sorted(found["kernels"].items(), key=lambda item: -item[1])
    return {
        "checkout": name,
        "layer": cell,
        "form": form,
        "launches": found["launches"],
        "a step": found["launches"] / STEPS,
        "waits": found["waits"],
        "at every step": ", ".join(f"{n // STEPS} {k}" for k, n in often if n >= STEPS),
    }


def main(options: ComparisonOptions) -> None:
    """Run the measurements."""
    if not getattr(import_cupy(), "__fake__", False):
        sys.exit(
            "launches are counted on the stand-in; on a card, run benchmarks.recurrent --device cuda"
        )
    rows = []
    for name, folder in {"before": options.before, "now": ROOT}.items():
        if folder is not None:
            with Worker(folder) as worker:
                rows += [row(name, worker, c, form) for c in CELLS[name] for form in FORMS]
    report("launches-on-the-stand-in", rows, options.out)


if __name__ == "__main__":
    main(tyro.cli(ComparisonOptions, prog="python -m benchmarks.launches", description=__doc__))
