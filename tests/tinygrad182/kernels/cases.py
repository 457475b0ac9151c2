"""Recurrences on plain arrays, and their gradients by the compiled loops, NumPy's and the definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array
from tinygrad182 import functions, kernels
from tinygrad182.backend import NUMPY
from tinygrad182.kernels import arrays
from tinygrad182.kernels.arrays import Deltas
from tinygrad182.primitives import recurrent
from tinygrad182.primitives.recurrent import LSTM_SCAN, RNN_SCAN, Scan, deltas, run, scan_vjp

KINDS = ("lstm", "tanh", "relu", "identity")
TOLERANCE = {"float32": 3e-6, "float64": 1e-14}


@dataclass
class Case:
    """A scan with its operands, and a cotangent of its result."""

    kind: str
    inputs: list[Any]
    g: Array
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def scan(self) -> Scan:
        return LSTM_SCAN if self.kind == "lstm" else RNN_SCAN

    def states(self) -> Array:
        return run(self.scan, NUMPY, *self.inputs, **self.params)[0]

    def gradients(self) -> list[Array]:
        """Of all inputs but the lengths."""
        y, saved = run(self.scan, NUMPY, *self.inputs, **self.params)
        found = scan_vjp(self.scan, NUMPY, self.g, y, *self.inputs, saved=saved, **self.params)
        return [c for c in found if c is not None]

    def inside(self, powers: Array | None = None) -> Deltas:
        """The cotangents of all sums and states."""
        y, saved = run(self.scan, NUMPY, *self.inputs, **self.params)
        return deltas(
            self.scan, NUMPY, self.g, y, tuple(self.inputs), saved, powers, True, **self.params
        )

    def defined(self) -> list[Array]:
        """The states and gradients by the definition; one cotangent at a time."""
        lead = self.g.shape[: self.g.ndim - (4 if self.kind == "lstm" else 3)]
        one = [self._defined(self.g[i]) for i in np.ndindex(*lead)]
        return [
            one[0][0],
            *(np.stack(c).reshape(*lead, *c[0].shape) for c in list(zip(*one, strict=True))[1:]),
        ]

    def _defined(self, g: Array) -> list[Array]:
        given = [
            tg.tensor(x, requires_grad=x.dtype.kind == "f") if isinstance(x, np.ndarray) else x
            for x in self.inputs
        ]
        y = self.scan.definition(functions, *given, **self.params)  # type: ignore[misc]
        y.backward(tg.tensor(g))
        leaves = [x for x in given if isinstance(x, tg.Tensor) and x.requires_grad]
        return [
            y.numpy(),
            *(np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves),
        ]


def make(
    kind: str,
    sizes: tuple[int, int, int, int],
    dtype: str = "float32",
    seed: int = 0,
    lead: tuple[int, ...] = (),
    bias: bool = True,
    lengths: bool = False,
    gain: float = 1.0,
) -> Case:
    """A random case."""
    steps, batch, inputs, hidden = sizes
    draw = np.random.default_rng(seed)
    parts, blocks = (2, 4) if kind == "lstm" else (1, 1)
    rows = blocks * hidden
    shapes = [(steps, batch, inputs), *[(batch, hidden)] * parts, (rows, inputs), (rows, hidden)]
    scales = [1.0, *[1.0] * parts, 1.0, gain / np.sqrt(hidden)]
    operands: list[Any] = [
        (draw.normal(size=s) * c).astype(dtype) for s, c in zip(shapes, scales, strict=True)
    ]
    operands.append(draw.normal(size=rows).astype(dtype) if bias else 0)
    params: dict[str, Any] = {} if kind == "lstm" else {"nonlinearity": kind}
    if lengths:
        operands.append(draw.integers(1, steps + 1, batch))
        params["shortest"] = int(operands[-1].min())
    shape = (*lead, *([2] if kind == "lstm" else []), steps, batch, hidden)
    return Case(kind, operands, draw.normal(size=shape).astype(dtype), params)


@contextmanager
def loops(form: str, steps: int | None = None) -> Iterator[None]:
    """Use ``"compiled"`` or ``"NumPy"`` loops, in windows of so many steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "COMPILED", form == "compiled")
        if steps is not None:
            for module in (arrays, recurrent):
                patch.setattr(module, "windows", lambda m, shape: _cut(shape[0], steps))
        yield


def _cut(total: int, steps: int) -> list[range]:
    return [range(i, min(i + steps, total)) for i in range(0, total, steps)]


def true_log2(values: Array, powers: Any) -> Array:
    """log2 of the sizes, where a row's power of two may be far outside its type; −∞ of 0."""
    with np.errstate(divide="ignore"):
        logs = np.log2(np.abs(values.astype(np.float64)))
    return logs + np.asarray(powers)[..., None]


def digits(values: Array, powers: Any = 0) -> tuple[Array, Array]:
    """Mantissas in ½ ≤ |m| < 1 and exponents, where a row's power of two may be far outside its type."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    return mantissas, np.where(mantissas == 0, 0, exponents + np.asarray(powers)[..., None])
