"""Recurrences on arrays, and their gradients by compiled loops, NumPy's loops and the definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array
from tests.tinygrad182.cells import KINDS as CELLS
from tinygrad182 import kernels
from tinygrad182.arrays.namespaces import NUMPY
from tinygrad182.kernels import numpy_loops, runs
from tinygrad182.kernels.program import Program
from tinygrad182.kernels.runs import StepCotangents
from tinygrad182.recurrence import scans
from tinygrad182.recurrence.scans import Operands, Scan
from tinygrad182.tensors import functions

KINDS = tuple(CELLS)
TOLERANCE = {"float32": 3e-6, "float64": 1e-14}


@dataclass
class Case:
    """A recurrence with its operands, and a cotangent of its result."""

    kind: str
    inputs: list[Any]
    g: Array
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def scan(self) -> Scan:
        return CELLS[self.kind].scan

    @property
    def program(self) -> Program:
        found = self.scan.program(**CELLS[self.kind].params)
        assert found is not None
        return found

    @property
    def operands(self) -> Operands:
        """The inputs by name, to be written to."""
        return self.scan.operands(tuple(self.inputs))

    def states(self) -> Array:
        return self.run()[0]

    def run(self, xp: Any = NUMPY) -> tuple[Any, Any]:
        """The states, and the residuals."""
        assert self.scan.forward_with_residuals is not None
        y, residuals = self.scan.forward_with_residuals(xp, *self.inputs, **self.params)
        assert residuals is not None  # else it has no program
        return y, residuals

    def pulled(self, y: Any, residuals: Any, xp: Any = NUMPY) -> list[Any]:
        """The gradients of all inputs that have one."""
        found = self.scan.vjp(xp, self.g, y, *self.inputs, residuals=residuals, **self.params)  # type: ignore[operator]
        return [c for c in found if c is not None]

    def gradients(self) -> list[Array]:
        """The gradients of all inputs but the lengths."""
        return self.pulled(*self.run())

    def inside(self, powers: Array | None = None, xp: Any = NUMPY) -> StepCotangents:
        """The cotangents of all sums and states."""
        y, residuals = self.run(xp)
        given = xp, self.g, y, tuple(self.inputs), residuals, powers, True
        windows = [window.sum_cotangents for window in self.scan.inside(*given, **self.params)]
        return windows[0] if len(windows) == 1 else joined(windows[::-1])

    def defined(self) -> list[Array]:
        """The states and gradients by the definition; one cotangent at a time."""
        lead = self.g.shape[: self.g.ndim - (4 if len(self.scan.parts) > 1 else 3)]
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


def joined(windows: list[StepCotangents]) -> StepCotangents:
    """The cotangents of all windows together; the first window comes first."""
    each = [window.by_rows() for window in windows]
    sums, states = (
        np.concatenate([getattr(found, name) for found in each], axis=-3)
        for name in ("sums", "states")
    )
    powers = np.concatenate([found.powers for found in each], axis=-2)
    return each[0]._replace(sums=sums, states=states, powers=powers)


def make(
    kind: str,
    sizes: tuple[int, int, int, int],
    dtype: str = "float32",
    seed: int = 0,
    lead: tuple[int, ...] = (),
    bias: bool | str = True,
    lengths: bool = False,
    gain: float = 1.0,
) -> Case:
    """A random case.

    Parameters
    ----------
    bias : bool or {"x", "h", "both"}
        The biases that there are; True means those of a layer.
    """
    steps, batch, inputs, hidden = sizes
    draw = np.random.default_rng(seed)
    scan, params = CELLS[kind]
    parts, rows = len(scan.parts), len(scan.gates) * hidden
    shapes = [(steps, batch, inputs), *[(batch, hidden)] * parts, (rows, inputs), (rows, hidden)]
    scales = [1.0, *[1.0] * parts, 1.0, gain / np.sqrt(hidden)]
    operands: list[Any] = [
        (draw.normal(size=s) * c).astype(dtype) for s, c in zip(shapes, scales, strict=True)
    ]
    if bias is True:
        bias = "both" if scan.separate else "x"
    for side in ("x", "h"):
        there = bias in (side, "both")
        operands.append(draw.normal(size=rows).astype(dtype) if there else 0)
    operands += [draw.normal(size=n * hidden).astype(dtype) for n in scan.weights.values()]
    params = dict(params)
    if lengths:
        operands.append(draw.integers(0, steps + 1, batch))
        params["shortest"] = int(operands[-1].min())
    shape = (*lead, *([parts] if parts > 1 else []), steps, batch, hidden)
    return Case(kind, operands, draw.normal(size=shape).astype(dtype), params)


@contextmanager
def loops(form: str, steps: int | None = None) -> Iterator[None]:
    """Use ``"compiled"`` or ``"NumPy"`` loops, in windows of so many steps.

    A test of compiled loops is skipped where there are none.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "COMPILED", form == "compiled")
        if form == "compiled" and not are_compiled():
            pytest.skip("no compiled loops here")
        if steps is not None:
            for module in (numpy_loops, runs, scans):
                patch.setattr(module, "windows", lambda m, shape: _cut(shape[0], steps))
        yield


def are_compiled() -> bool:
    """Whether loops are compiled on this machine."""
    program = CELLS["identity"].scan.program(**CELLS["identity"].params)
    return kernels.loops(program, np, np.dtype("float32")) is not numpy_loops  # type: ignore[arg-type]


def _cut(total: int, steps: int) -> list[range]:
    return [range(i, min(i + steps, total)) for i in range(0, total, steps)]


def true_log2(values: Array, powers: Any) -> Array:
    """log2 of the true magnitudes, which may lie far outside the type; −∞ for 0."""
    with np.errstate(divide="ignore"):
        logs = np.log2(np.abs(values.astype(np.float64)))
    return logs + np.asarray(powers)[..., None]


def digits(values: Array, powers: Any = 0) -> tuple[Array, Array]:
    """Mantissas in ½ ≤ |m| < 1 and the true exponents, which may lie far outside the type."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    return mantissas, np.where(mantissas == 0, 0, exponents + np.asarray(powers)[..., None])
