"""Interleaved timing: every contestant in turn, again and again, so that noise meets all alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.worker import Worker
from experiments.app.streams import console_for
from experiments.drawing.terminal import Grid, print_table

Seconds = list[float]

TURN = 0.02
"""Seconds that a contestant's turn takes, at least."""


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    repeats: int,
    synchronize: Callable[[], object] = lambda: None,
    clock: str = "wall",
    at_least: float = 0.0,
) -> dict[str, Seconds]:
    """Time of each contestant in each round, after two rounds that are not counted.

    Parameters
    ----------
    contestants : mapping of str to callable
    repeats : int
        Rounds that count.
    synchronize : callable
        Waits for the device before the clock is read.
    clock : {"wall", "cpu"}
        Time on the wall, or of the process where other programs want the processor.
    at_least : float
        Seconds that a contestant's turn takes: the shorter ones run several times, after once that is not
        counted, so that neither caches nor threads are as the contestant before left them.
    """
    now = CLOCKS[clock]
    times: dict[str, Seconds] = {name: [] for name in contestants}
    counts = dict.fromkeys(contestants, 1)
    for turn in track(range(repeats + 2), description="Timing", transient=True):
        for name, run in contestants.items():
            if at_least:
                run()
            synchronize()
            start = now()
            for _ in range(counts[name]):
                run()
            synchronize()
            taken = (now() - start) / counts[name]
            counts[name] = max(counts[name], round(at_least / max(taken, 1e-6)))
            if turn >= 2:
                times[name].append(taken)
    return times


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds that pass, or that a process works: for one thread on a machine that others use too."""


Contestant = tuple[Worker, str, tuple[Any, ...]]
"""Who measures, the function that makes the run (``"layers.ours"``), and its arguments."""


def in_turns(
    contestants: Mapping[str, Contestant], repeats: int, clock: str
) -> dict[str, list[list[float]]]:
    """Seconds of each stage of each contestant in each round, after two rounds that are not counted."""
    times: dict[str, list[list[float]]] = {name: [] for name in contestants}
    now = CLOCKS[clock].__name__
    for turn in track(range(repeats + 2), description="Timing", transient=True):
        for name, (worker, make, given) in contestants.items():
            taken = worker.ask("turn", function=make, given=given, at_least=TURN, clock=now)
            if turn >= 2:
                times[name].append(taken)
    return times


def milliseconds(seconds: Seconds) -> float:
    """Median over the rounds."""
    return statistics.median(seconds) * 1e3


def ratio(times: dict[str, Seconds], name: str, peer: str) -> float:
    """Median over the rounds of ``name``'s time over ``peer``'s in the same round."""
    pairs = zip(times[name], times[peer], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    packages = (
        "tinygrad182",
        "numpy",
        "torch",
        "transformers",
        "jax",
        "llvmlite",
        "numba",
        "cupy-cuda12x",
        "cupy-cuda13x",
    )
    installed = {d.metadata["Name"] for d in metadata.distributions()}
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load when begun": round(os.getloadavg()[0], 1),
        "BLAS": _blas(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages if name in installed},
    }


def _blas() -> str:
    """The kernels of NumPy's BLAS, which a variable such as OPENBLAS_CORETYPE may have chosen."""
    if find_spec("threadpoolctl") is None:
        return "unknown without threadpoolctl"
    from threadpoolctl import threadpool_info

    found = [
        lib for lib in threadpool_info() if lib["user_api"] == "blas" and "numpy" in lib["filepath"]
    ]
    return ", ".join(
        f"{lib['internal_api']} {lib.get('architecture', '')}".strip() for lib in found
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(name: str, rows: list[dict[str, Any]], out: Path | None) -> None:
    """Print the rows as a table and write them, with the machine, to ``out/NAME.json``."""
    where = machine()
    console = console_for(sys.stdout)
    texts = [[_text(value) for value in row.values()] for row in rows]
    words = [isinstance(value, str) for value in rows[0].values()]
    note = ", ".join(f"{key} {value}" for key, value in where.items())
    print_table(console, name, Grid(list(rows[0]), texts, words), note)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{name}.json"
        path.write_text(json.dumps({"machine": where, "rows": rows}, indent=2) + "\n")
        console.print(f"Written to {path}")


def _text(value: object) -> str:
    if value is None:
        return "·"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
