"""The right gradients of a step that is written by hand: numerical derivatives of its forward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError, NotDifferentiableError, ShapeError
from ..gradients.reference import Derivatives
from ..numerical_derivatives import complex_step, complex_step_agrees, five_points
from ..samples import Array
from .student_step import Arrays, HandWritten


@dataclass(frozen=True)
class RightGradient:
    """The right gradient by one array: the contribution of each part of the state, and the error bound.

    Entries that were not tried are NaN.
    """

    parts: Arrays
    bound: Array

    @property
    def whole(self) -> Array:
        """The gradient: the sum of all contributions."""
        return np.asarray(sum(self.parts.values()))


class StepDerivatives:
    """The derivatives of one step of forward, for random cotangents of the state after the step."""

    def __init__(self, cell: HandWritten, given: Arrays, t: int, rng: np.random.Generator) -> None:
        self.cell, self.given, self.t, self.rng = cell, given, t, rng
        state = cell.run({name: a.copy() for name, a in given.items()}).state
        self.after = dict(zip(cell.state, state, strict=True))
        self._check_after()
        self.cotangents: Arrays = {
            p: np.asarray(rng.standard_normal(given[p].shape)) for p in cell.state
        }
        self.point = np.concatenate([a.ravel() for a in given.values()])
        self.exact = self._takes_complex()
        self.method = "complex step" if self.exact else "five points"

    def _check_after(self) -> None:
        for name, part in self.after.items():
            shape = self.given[name].shape
            if part.shape != shape:
                raise ShapeError(
                    f"check_backward: forward returns {name} of shape {part.shape}; before the step it has "
                    f"shape {shape}, and it must keep that"
                )
            if part.dtype != float or not np.isfinite(part).all():
                found = "numbers that are not finite" if part.dtype == float else str(part.dtype)
                raise ArgumentError(
                    f"check_backward: forward returns {name} as {found} at step {self.t}; it is called "
                    "with float64 and must return float64"
                )

    def _vector(self, point: Array) -> Array:
        """Compute the next state as one vector, from the vector of all arrays."""
        given, start = {}, 0
        for name, array in self.given.items():
            given[name] = point[start : start + array.size].reshape(array.shape).copy()
            start += array.size
        return np.concatenate([part.ravel() for part in self.cell.run(given).state])

    def _takes_complex(self) -> bool:
        """Whether forward takes complex numbers; raise an error at a kink."""
        v = self.rng.standard_normal(self.point.size)
        points = five_points(self._vector, self.point, v)
        if points.kinked.any():
            raise NotDifferentiableError(
                f"check_backward: forward has a kink or a jump at step {self.t}, so there is no derivative "
                "to compare with; check at other inputs"
            )
        return complex_step_agrees(self._vector, self.point, v, points)

    def _column(self, j: int) -> Derivatives:
        """The derivative of the next state by one number, with its error bound."""
        v = np.zeros(self.point.size)
        v[j] = 1.0
        if self.exact and (exact := complex_step(self._vector, self.point, v)) is not None:
            return Derivatives(exact, np.zeros(exact.shape))
        points = five_points(self._vector, self.point, v)
        return Derivatives(points.derivative, 10 * points.bound)

    def gradients(self, max_entries: int) -> Iterator[tuple[str, RightGradient]]:
        """Yield the right gradient by each input, part of the state and parameter."""
        start = 0
        for name, array in self.given.items():
            tried = np.sort(self.rng.permutation(array.size)[:max_entries])
            parts = {part: np.full(array.size, np.nan) for part in self.cell.state}
            bound = np.full(array.size, np.nan)
            for k in tried:
                column = self._column(start + int(k))
                values, bounds = (np.split(a, len(parts)) for a in column)  # h and c have one shape
                cotangents = [c.ravel() for c in self.cotangents.values()]
                for part, c, derivative in zip(parts, cotangents, values, strict=True):
                    parts[part][k] = c @ derivative
                bound[k] = sum(np.abs(c) @ b for c, b in zip(cotangents, bounds, strict=True))
            shaped = {part: a.reshape(array.shape) for part, a in parts.items()}
            yield name, RightGradient(shaped, bound.reshape(array.shape))
            start += array.size
