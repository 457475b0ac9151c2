"""Whether gradients that vanish make a layer slower: subnormal numbers may cost a processor dearly.

``python -m benchmarks.vanishing [--out DIR]``

The loss at the last step alone; weights for which gradients keep their size, and for which they leave
float32 on the way to the first step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tyro

import tinygrad182 as tg
from benchmarks import peers
from benchmarks.layers import SHAPES, Form, data, layer, run
from benchmarks.options import LayerOptions
from benchmarks.peers import Cell, Shape
from benchmarks.timing import TURN, interleave, milliseconds, ratio, report


def regimes(options: LayerOptions) -> list[dict[str, Any]]:
    """One row per cell, shape and form of the loops."""
    cells: tuple[Cell, ...] = ("LSTM", "GRU", "RNN")
    forms: tuple[Form, ...] = ("plain", "NumPy")
    return [
        _row(cell, shape, form, options)
        for cell in cells
        for shape in (SHAPES[0], SHAPES[2], SHAPES[3])
        for form in forms
    ]


def _row(cell: Cell, shape: Shape, form: Form, options: LayerOptions) -> dict[str, Any]:
    x, g = data(shape, last=True)
    modules = {name: _in_regime(cell, shape, name) for name in ("healthy", "vanishing")}
    runs = {name: run(module, x, g, form) for name, module in modules.items()}
    times = interleave(runs, options.repeats, clock=options.clock, at_least=TURN)
    row: dict[str, Any] = {"layer": cell, "T, B, I, H": str(shape), "form": form}
    row |= {f"{name}, ms": milliseconds(t) for name, t in times.items()}
    row["ratio"] = ratio(times, "vanishing", "healthy")
    row["log10 ‖∂L/∂h‖ at the first step"] = _first(modules["vanishing"], x, g)
    return row


def _in_regime(cell: Cell, shape: Shape, regime: str) -> Any:
    """A layer whose gates are moved to where its gradients vanish, or keep their size."""
    module = layer(cell, shape)
    hidden = shape[3]
    vanishing = regime == "vanishing"
    module.weight_hh_l0.data[...] *= 0.5 if vanishing else 1.5
    if cell in ("LSTM", "GRU"):  # the forget gate, or the update gate, which keeps
        module.bias_ih_l0.data[hidden : 2 * hidden] += -2 if vanishing else 4
    return module


def _first(module: Any, x: Any, g: Any) -> float:
    output, _ = module(tg.tensor(x))
    (states,) = tg.inspect.gradient_flow((output * tg.tensor(g)).sum()).values()
    return float(states.h.log_grad_norm[0]) / np.log(10)


def main(options: LayerOptions) -> None:
    """Run the measurements."""
    with peers.threads(options.threads):
        report(
            f"vanishing-{options.threads}-threads-{options.clock}", regimes(options), options.out
        )


if __name__ == "__main__":
    main(tyro.cli(LayerOptions, prog="python -m benchmarks.vanishing", description=__doc__))
