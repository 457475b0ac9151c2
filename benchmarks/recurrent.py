"""Whole recurrent layers, forward and backward, beside PyTorch, JAX and the matrix products alone.

``python -m benchmarks.recurrent [--out DIR] [--threads 2] [--device cuda]``

float32, the cotangent of the output given, interleaved rounds. Ours is the recorded pass: the weights'
gradients and every ∂L/∂h_t and ∂L/∂c_t (``gradient_flow(..., backward=True)``). Beside it stand plain
``backward``, the recorded pass on NumPy's form of the loops, and ``backward`` step by step
(``fused=False``). PyTorch: its layer and JAX: a compiled scan, which keep no state's gradient; and a loop
over PyTorch's cell with ``retain_grad``. The products: the same matrix products by BLAS, into memory that
is there. ``Peephole`` is a hand-written cell, for which PyTorch has no layer.

A layer may take as long as the faster of PyTorch's layer and JAX's scan, or 1.15 of the products where
that is more; at the smallest and the largest shape as long as the faster peer.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, get_args

import tyro

import tinygrad182 as tg
from benchmarks import peers
from benchmarks.layers import ALL, Form, data, ours, shape_of
from benchmarks.options import LayerOptions
from benchmarks.peers import CELLS, Cell, Run, Shape
from benchmarks.timing import TURN, Seconds, interleave, milliseconds, ratio, report

BESIDE_PEERS_ALONE: tuple[Shape, ...] = ((50, 128, 128, 512), (20, 10, 1, 16))
"""The shapes at which the products do not count."""

SLOW: tuple[str, ...] = ("NumPy", "unrolled", "torch cells")
"""The contestants that no target of the shapes speaks of."""

Times = dict[str, Seconds]


@dataclass(frozen=True, kw_only=True)
class Options(LayerOptions):
    """Measure whole recurrent layers beside PyTorch, JAX and the matrix products alone."""

    device: str = "cpu"
    """cpu or cuda."""

    cells: tuple[Cell, ...] = CELLS
    """LSTM, GRU, RNN, Peephole."""

    shapes: tuple[str, ...] = ALL
    """T,B,I,H each."""

    quick: bool = False
    """Without what is slow: loops over cells, and NumPy's form."""


def contestants(cell: Cell, shape: Shape, options: Options) -> dict[str, Run]:
    """Everything that is timed at one shape."""
    x, g = data(shape)
    device = options.device
    found: dict[str, Run | None] = {form: ours(cell, shape, form) for form in get_args(Form)}
    found["products"] = peers.products(cell, shape, device)
    if cell == "Peephole":
        found["LSTM"] = ours("LSTM", shape, "recorded")
    if find_spec("torch") is not None:
        found["torch"] = peers.torch_layer(cell, x, g, device)
        found["torch cells"] = peers.torch_loop(cell, x, g, device)
    if find_spec("jax") is not None and device == "cpu":
        found["JAX"] = peers.jax_scan(cell, x, g)
    left_out = SLOW if options.quick else ()
    return {name: run for name, run in found.items() if run is not None and name not in left_out}


def timed(runs: dict[str, Run], options: Options) -> Times:
    """:func:`interleave` on the chosen device and clock."""
    if options.device != "cpu":
        return peers.timed_on_device(runs, options.repeats)
    return interleave(runs, options.repeats, clock=options.clock, at_least=TURN)


def row(cell: Cell, shape: Shape, times: Times) -> dict[str, Any]:
    """Milliseconds, ratios round by round, and whether the target is met."""
    found: dict[str, Any] = {"layer": cell, "T, B, I, H": str(shape)}
    for name in (*get_args(Form), "torch", "torch cells", "JAX", "products"):
        found[name] = milliseconds(times[name]) if name in times else None
    for name in ("torch", "JAX", "products", "LSTM"):
        found[f"/{name}"] = ratio(times, "recorded", name) if name in times else None
    loops = "NumPy" in times and "torch cells" in times
    found["NumPy/torch cells"] = ratio(times, "NumPy", "torch cells") if loops else None
    found["of target"] = of_target(times, shape)
    found["met"] = {None: None, True: "yes", False: "no"}[_within(found["of target"])]
    return found


def _within(share: float | None) -> bool | None:
    return None if share is None else share <= 1


def of_target(times: Times, shape: Shape) -> float | None:
    """The recorded pass's time over the most it should take, median over the rounds."""
    layers = [times[name] for name in ("torch", "JAX") if name in times]
    if not layers:
        return None
    most = [min(each) for each in zip(*layers, strict=True)]
    if shape not in BESIDE_PEERS_ALONE:
        pairs = zip(most, times["products"], strict=True)
        most = [max(peer, 1.15 * products) for peer, products in pairs]
    return statistics.median(t / m for t, m in zip(times["recorded"], most, strict=True))


def main(options: Options) -> None:
    """Run the measurements."""
    tg.use_device(options.device)
    os.environ["XLA_FLAGS"] = peers.xla_flags(options.threads)
    with peers.threads(options.threads):
        rows = [
            row(cell, shape, timed(contestants(cell, shape, options), options))
            for cell in options.cells
            for shape in map(shape_of, options.shapes)
        ]
    report(
        f"recurrent-{options.device}-{options.threads}-threads-{options.clock}", rows, options.out
    )


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.recurrent"))
