"""Whole recurrent layers, forward and backward, beside PyTorch, JAX and the matrix products alone.

``python -m experiments.benchmarks.recurrent [--out DIR] [--threads 2] [--device cuda]``

float32, the cotangent of the output given, interleaved rounds. Ours: compiled loops (extra ``fast``); the
same with every ∂L/∂h_t and ∂L/∂c_t recorded in the one pass that gives the weights their gradients
(``gradient_flow(..., backward=True)``); step by step (``fused=False``); and NumPy's form of the loops.
PyTorch: its layer, which keeps none, and a loop over its cell with ``retain_grad``. JAX: a compiled scan,
the states' gradients by adding zeros to them. The floor: the same matrix products by BLAS, into memory that
is there. What is "of target" is the recorded pass.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

import tinygrad182 as tg
from experiments.benchmarks import peers
from experiments.benchmarks.timing import interleave, ratio, report
from tinygrad182 import kernels

Cell = Literal["LSTM", "RNN"]
Shape = tuple[int, int, int, int]
Run = Callable[[], object]

SHAPES: tuple[Shape, ...] = (
    (100, 64, 32, 128),
    (50, 128, 128, 512),
    (200, 32, 16, 64),
    (1000, 1, 8, 32),
    (20, 32, 1, 200),
    (20, 10, 1, 16),
)
"""T, B, I, H."""

TURN = 0.02
"""Seconds that a contestant runs at a time, at least."""

OURS = ("recorded", "compiled", "NumPy", "unrolled")
TWICE_AS_FAST: tuple[Shape, ...] = ((1000, 1, 8, 32), (20, 10, 1, 16))


@dataclass(frozen=True)
class Options:
    """Measure whole recurrent layers beside PyTorch, JAX and the matrix products alone.

    Parameters
    ----------
    device : str
        cpu or cuda.
    threads : int
        Of every library.
    repeats : int
        Rounds that count.
    cells : tuple of str
        LSTM, RNN.
    clock : str
        wall, or cpu: the time of the process, for one thread on a machine that others use too.
    out : Path, optional
        Folder for the JSON files.
    """

    device: str = "cpu"
    threads: int = 1
    clock: Literal["wall", "cpu"] = "wall"
    repeats: int = 15
    cells: tuple[Cell, ...] = ("LSTM", "RNN")
    out: Path | None = None


@contextmanager
def loops(compiled: bool) -> Iterator[None]:
    """Choose between the compiled loops and NumPy's."""
    before, kernels.COMPILED = kernels.COMPILED, compiled
    try:
        yield
    finally:
        kernels.COMPILED = before


def data(shape: Shape, last: bool = False) -> tuple[Any, Any]:
    """An input, and a cotangent of the output: at every step, or at the last alone."""
    steps, batch, inputs, hidden = shape
    draw = np.random.default_rng(0)
    x = draw.normal(size=(steps, batch, inputs)).astype(np.float32)
    g = draw.normal(size=(steps, batch, hidden)).astype(np.float32) / steps
    if last:
        g[:-1] = 0
    return x, g


def layer(cell: Cell, shape: Shape, fused: bool = True) -> Any:
    """One of our layers."""
    make: Any = tg.nn.LSTM if cell == "LSTM" else tg.nn.RNN
    return make(shape[2], shape[3], fused=fused, rng=0)


def training(module: Any, x: Any, g: Any, compiled: bool = True) -> Run:
    """Forward and ``backward`` of one of our layers."""
    device = next(module.parameters()).device
    sequence, cotangent = tg.tensor(x, device=device), tg.tensor(g, device=device)

    def run() -> None:
        with loops(compiled):
            for parameter in module.parameters():
                parameter.grad = None
            output, _ = module(sequence)
            output.backward(cotangent)

    return run


def recorded(module: Any, x: Any, g: Any) -> Run:
    """Make a run that also finds the gradients of all states."""
    device = next(module.parameters()).device
    sequence, cotangent = tg.tensor(x, device=device), tg.tensor(g, device=device)

    def run() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        output, _ = module(sequence)
        tg.inspect.gradient_flow(output, cotangent, backward=True)

    return run


def contestants(cell: Cell, shape: Shape, device: str) -> dict[str, Run]:
    """Everything that is timed at one shape."""
    x, g = data(shape)
    module = layer(cell, shape)
    runs: dict[str, Run] = {
        "recorded": recorded(module, x, g),
        "compiled": training(module, x, g),
        "NumPy": training(module, x, g, compiled=False),
        "unrolled": training(layer(cell, shape, fused=False), x, g),
        "GEMMs": peers.products(cell, shape, device),
    }
    if find_spec("torch") is not None:
        runs["torch"] = peers.torch_layer(cell, x, g, device)
        runs["torch cells"] = peers.torch_cells(cell, x, g, device)
    if find_spec("jax") is not None and device == "cpu":
        runs["JAX"] = peers.jax_scan(cell, x, g)
    return runs


def timed(runs: dict[str, Run], options: Options) -> dict[str, list[float]]:
    """:func:`interleave` on the chosen device and clock."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    if options.device != "cpu":
        return peers.timed_on_device(runs, options.repeats)
    return interleave(runs, options.repeats, clock=clock, at_least=TURN)


def speed(options: Options) -> list[dict[str, Any]]:
    """One row per cell and shape: milliseconds, and ratios round by round."""
    rows = []
    for cell in options.cells:
        for shape in SHAPES:
            runs = contestants(cell, shape, options.device)
            times = timed(runs, options)
            row: dict[str, Any] = {"layer": cell, "T, B, I, H": str(shape)}
            for name in (*OURS, "torch", "torch cells", "JAX", "GEMMs"):
                row[name] = statistics.median(times[name]) * 1e3 if name in times else None
            for name in ("torch", "torch cells", "JAX", "GEMMs"):
                row[f"/{name}"] = ratio(times, "recorded", name) if name in times else None
            row["of target"] = of_target(times, shape)
            rows.append(row)
    return rows


def of_target(times: dict[str, list[float]], shape: Shape) -> float | None:
    """The recorded pass's time over the most it should take, median over the rounds.

    That is the larger of 1.0 of the faster of the peers' layers and 1.15 of the products; half of the
    peers' where the loop itself is what takes time.
    """
    layers = [times[name] for name in ("torch", "JAX") if name in times]
    if not layers:
        return None
    faster = [min(each) for each in zip(*layers, strict=True)]
    most = [
        0.5 * peer if shape in TWICE_AS_FAST else max(peer, 1.15 * floor)
        for peer, floor in zip(faster, times["GEMMs"], strict=True)
    ]
    return statistics.median(t / m for t, m in zip(times["recorded"], most, strict=True))


# --- the vanishing regime -------------------------------------------------------------------------


def regimes(options: Options) -> list[dict[str, Any]]:
    """The loss at the last step alone: gradients that keep their size, and that leave float32."""
    rows = []
    for cell in options.cells:
        for shape in (SHAPES[0], SHAPES[2], SHAPES[3]):
            healthy, vanishing = (_in_regime(cell, shape, v) for v in (False, True))
            x, g = data(shape, last=True)
            for form in ("compiled", "NumPy"):
                runs = {
                    "healthy": training(healthy, x, g, form == "compiled"),
                    "vanishing": training(vanishing, x, g, form == "compiled"),
                }
                times = timed(runs, options)
                row: dict[str, Any] = {"layer": cell, "T, B, I, H": str(shape), "loops": form}
                row |= {f"{name}, ms": statistics.median(t) * 1e3 for name, t in times.items()}
                row["ratio"] = ratio(times, "vanishing", "healthy")
                row["log10 ‖∂L/∂h‖ at the first step"] = _first(vanishing, x, g)
                rows.append(row)
    return rows


def _in_regime(cell: Cell, shape: Shape, vanishing: bool) -> Any:
    module = layer(cell, shape)
    hidden = shape[3]
    module.weight_hh_l0.data[...] *= 0.5 if vanishing else 1.5
    if cell == "LSTM":
        module.bias_ih_l0.data[hidden : 2 * hidden] += -2 if vanishing else 4
    return module


def _first(module: Any, x: Any, g: Any) -> float:
    output, _ = module(tg.tensor(x))
    (states,) = tg.inspect.gradient_flow((output * tg.tensor(g)).sum()).values()
    return float(states.h.log_grad_norm[0]) / np.log(10)


# --- memory ---------------------------------------------------------------------------------------


def peak(whose: str, cell: Cell, shape: Shape) -> float:
    """Megabytes at the peak of a step above what was there before, in this process (Linux)."""
    short: Shape = (2, *shape[1:])
    if whose == "torch":
        runs = [peers.torch_layer(cell, *data(s), "cpu") for s in (short, shape)]
    else:
        step = recorded if whose == "recorded" else training
        runs = [step(layer(cell, s), *data(s)) for s in (short, shape)]
    runs[0]()  # imports, compiles
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    runs[1]()
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def memory(options: Options) -> list[dict[str, Any]]:
    """One row per cell and shape, each number from a process of its own."""
    rows = []
    for cell in options.cells:
        for shape in SHAPES[:3]:
            row: dict[str, Any] = {"layer": cell, "T, B, I, H": str(shape)}
            peers_too = ("torch",) if find_spec("torch") is not None else ()
            for whose in ("recorded", "compiled", *peers_too):
                code = f"print(peak({whose!r}, {cell!r}, {shape!r}))"
                code = f"from experiments.benchmarks.recurrent import peak; {code}"
                done = subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True
                )
                row[f"{whose}, MB"] = float(done.stdout)
            rows.append(row)
    return rows


def main(options: Options) -> None:
    """Run the measurements."""
    tg.use_device(options.device)
    os.environ["XLA_FLAGS"] = peers.xla_flags(options.threads)
    with peers.threads(options.threads):
        name = f"recurrent-{options.device}-{options.threads}-threads-{options.clock}"
        report(name, speed(options), options.out)
        if options.device == "cpu":
            report(f"{name}-vanishing", regimes(options), options.out)
            if Path("/proc/self/clear_refs").exists():
                report(f"{name}-memory", memory(options), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m experiments.benchmarks.recurrent"))
