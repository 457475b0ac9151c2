"""Recurrent layers of this checkout beside those of another one, such as the last release.

``python -m experiments.benchmarks.before FOLDER [--out DIR]``

Two processes that take turns, each with the framework of its checkout; ratios round by round. Both need
what their compiled loops are made with.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.benchmarks.layers import ALL, Form, shape_of
from experiments.benchmarks.peers import Cell, Shape
from experiments.benchmarks.timing import Seconds, in_turns, ratio, report
from experiments.benchmarks.worker import ROOT, Worker, thread_limits


@dataclass(frozen=True)
class Options:
    """Measure the recurrent layers of this checkout beside those of another one.

    Parameters
    ----------
    folder : Path
        The other checkout.
    threads : int
        Of every library.
    clock : str
        wall, or cpu: the time of a process, for one thread on a machine that others use too.
    repeats : int
        Rounds that count.
    cells : tuple of str
        Those that both have.
    shapes : tuple of str
        T,B,I,H each.
    forms : tuple of str
        recorded, plain, NumPy, unrolled.
    out : Path, optional
        Folder for the JSON file.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    threads: int = 1
    clock: Literal["wall", "cpu"] = "wall"
    repeats: int = 25
    cells: tuple[Cell, ...] = ("LSTM", "RNN")
    shapes: tuple[str, ...] = ALL
    forms: tuple[Form, ...] = ("recorded", "plain")
    out: Path | None = None


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
    found |= {f"{name}, ms": statistics.median(t) * 1e3 for name, t in times.items()}
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
    main(tyro.cli(Options, prog="python -m experiments.benchmarks.before"))
