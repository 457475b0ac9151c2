"""Memory of whole recurrent layers: the peak of one step above what was there before (Linux with glibc).

``python -m benchmarks.resident [--out DIR]``

Resident memory, each number from a process of its own.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro

from benchmarks import peers
from benchmarks.layers import SHAPES, data, ours
from benchmarks.options import OutputOptions
from benchmarks.peers import Cell, Shape
from benchmarks.timing import report
from benchmarks.worker import in_a_process


def peak_resident(whose: Any, cell: Cell, shape: Shape) -> float:
    """Megabytes at the peak of a step above what was there before, in this process."""
    short: Shape = (2, *shape[1:])
    runs: list[Any] = [
        peers.torch_layer(cell, *data(s), "cpu") if whose == "torch" else ours(cell, s, whose)
        for s in (short, shape)
    ]
    runs[0]()  # imports, compiles
    ctypes.CDLL(None).malloc_trim(0)  # what is freed but kept would hide what a step takes
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    runs[1]()
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def of_layers() -> list[dict[str, Any]]:
    """One row per cell and shape."""
    cells: tuple[Cell, ...] = ("LSTM", "GRU", "RNN")
    contestants = ("recorded", "plain", *(("torch",) if find_spec("torch") else ()))
    return [
        {"layer": cell, "T, B, I, H": str(shape)}
        | {
            f"{whose}, MB": in_a_process("resident.peak_resident", whose, cell, shape)
            for whose in contestants
        }
        for cell in cells
        for shape in SHAPES[:3]
    ]


def main(options: OutputOptions) -> None:
    """Run the measurements."""
    report("resident-memory", of_layers(), options.out)


if __name__ == "__main__":
    main(tyro.cli(OutputOptions, prog="python -m benchmarks.resident", description=__doc__))
