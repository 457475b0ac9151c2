"""Recurrent layers of this checkout beside those of another one, such as the last release.

``python -m benchmarks.before FOLDER [--out DIR]``

Two processes that take turns, each with the framework of its checkout; ratios round by round. Both need
what their compiled loops are made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.layers import ALL, Form, shape_of
from benchmarks.options import LayerOptions
from benchmarks.peers import Cell, Shape
from benchmarks.timing import Seconds, in_turns, milliseconds, ratio, report
from benchmarks.worker import ROOT, Worker, thread_limits


@dataclass(frozen=True, kw_only=True)
class Options(LayerOptions):
    """Measure the recurrent layers of this checkout beside those of another one."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The other checkout."""

    cells: tuple[Cell, ...] = ("LSTM", "RNN")
    """Layers to measure, which both versions have."""

    shapes: tuple[str, ...] = ALL
    """T,B,I,H each."""

    forms: tuple[Form, ...] = ("recorded", "plain")
    """recorded, plain, NumPy, unrolled."""


def turns(
    workers: dict[str, Worker], given: tuple[Any, ...], options: Options
) -> dict[str, Seconds]:
    """Seconds of each checkout in each round."""
    contestants = {name: (worker, "layers.ours", given) for name, worker in workers.items()}
    times = in_turns(contestants, options.repeats, options.clock)
    return {name: [taken for (taken,) in rounds] for name, rounds in times.items()}


def row(cell: Cell, shape: Shape, form: Form, times: dict[str, Seconds]) -> dict[str, Any]:
    """Milliseconds of both, and how much of the time before is needed now."""
    found: dict[str, Any] = {"layer": cell, "T, B, I, H": str(shape), "form": form}
    found |= {f"{name}, ms": milliseconds(t) for name, t in times.items()}
    return found | {"now/before": ratio(times, "now", "before")}


def main(options: Options) -> None:
    """Run the measurements."""
    limits = thread_limits(options.threads)
    with Worker(options.folder, limits) as before, Worker(ROOT, limits) as now:
        workers = {"before": before, "now": now}
        rows = [
            row(
                cell,
                shape,
                form,
                turns(workers, (cell, shape, form), options),
            )
            for cell in options.cells
            for shape in map(shape_of, options.shapes)
            for form in options.forms
        ]
    report(f"before-{options.threads}-threads-{options.clock}", rows, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.before"))
