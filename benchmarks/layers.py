"""Our recurrent layers as they are measured: forward and backward with the output's cotangent given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

import numpy as np

import tinygrad182 as tg
from benchmarks.options import sizes
from benchmarks.peers import Cell, Run, Shape
from tinygrad182 import kernels

SHAPES: tuple[Shape, ...] = (
    (100, 64, 32, 128),
    (50, 128, 128, 512),
    (200, 32, 16, 64),
    (1000, 1, 8, 32),
    (20, 32, 1, 200),
    (20, 10, 1, 16),
)


def shape_of(text: str) -> Shape:
    """A shape from "T,B,I,H"."""
    steps, batch, inputs, hidden = sizes(text)
    return steps, batch, inputs, hidden


ALL = tuple(",".join(map(str, shape)) for shape in SHAPES)

Form = Literal["recorded", "plain", "NumPy", "unrolled"]
"""How a layer is run.

``recorded``: with every ∂L/∂h_t and ∂L/∂c_t, in the one pass that gives the weights their gradients;
``plain``: ``output.backward``; ``NumPy``: recorded, without compiled loops; ``unrolled``: plain, with
``fused=False``.
"""


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
    # Imported here because another checkout, which is measured too, may have no such layer.
    module: Any = import_module("benchmarks.own") if cell == "Peephole" else tg.nn
    return getattr(module, cell)(shape[2], shape[3], fused=fused, rng=0)


def run(module: Any, x: Any, g: Any, form: Form) -> Run:
    """Forward and backward of a layer."""
    device = next(module.parameters()).device
    sequence, cotangent = tg.tensor(x, device=device), tg.tensor(g, device=device)
    parameters = list(module.parameters())
    gradient_flow = tg.inspect.gradient_flow

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        output, _ = module(sequence)
        if form in ("recorded", "NumPy"):
            gradient_flow(output, cotangent, backward=True)
        else:
            output.backward(cotangent)

    def with_numpy() -> None:
        with loops(compiled=False):
            step()

    return with_numpy if form == "NumPy" else step


def ours(cell: Cell, shape: Shape, form: Form) -> Run:
    """Forward and backward of one of our layers, on data of its own."""
    return run(layer(cell, shape, fused=form != "unrolled"), *data(shape), form)
