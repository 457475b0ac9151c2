"""The numerical derivatives of a function: by the complex step if it allows that, else by five points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...errors import NotDifferentiableError
from ..numerical_derivatives import (
    FivePoints,
    Function,
    complex_step,
    complex_step_agrees,
    five_points,
)
from ..samples import Array
from .vector_function import VectorFunction

_ELEMENTS = 10**7
"""The most elements that all unit vectors may have together: a large model is tried at fewer entries."""


def sampled(size: int, most: int, rng: np.random.Generator) -> Array:
    """All unit vectors or ``most`` of them, and behind them a random vector; a row each."""
    most = min(size, most, max(_ELEMENTS // max(size, 1), 1))
    vectors = np.zeros((most + 1, size))
    vectors[np.arange(most), np.sort(rng.permutation(size)[:most])] = 1.0
    vectors[-1] = rng.standard_normal(size)
    return vectors


class Derivatives(NamedTuple):
    """Derivatives along each column and their error bounds, each ``(m, columns)``."""

    values: Array
    bounds: Array


class Reference:
    """Numerical derivatives of a function.

    Attributes
    ----------
    method : str
        ``"complex step"`` if that agrees with five points along a random direction, else ``"five points"``.
    columns : (n + 2, size)
        The directions: unit vectors, a random one, and a random one in proportion to the inputs' sizes.
    units : int
        The number of unit vectors.
    """

    def __init__(
        self, f: VectorFunction, noise: Array, max_entries: int, rng: np.random.Generator
    ) -> None:
        self.f, self.x, self.noise = f, f.point, noise
        columns = sampled(self.x.size, max_entries, rng)
        relative = rng.standard_normal(self.x.size) * np.where(self.x == 0, 1, np.abs(self.x))
        self.columns = np.vstack([columns, relative])
        self.units = len(columns) - 1
        self.method = "five points"
        points = self.five_points(relative)
        if points.kinked.any():
            self._raise_at_kink()
        if complex_step_agrees(f, self.x, relative, points):
            self.method = "complex step"

    def five_points(
        self, v: Array, f: Function | None = None, noise: Array | None = None
    ) -> FivePoints:
        """Derivative along ``v`` by five points: of the function, or of another function at this point."""
        if f is None:
            return five_points(self.f, self.x, v, self.noise)
        return five_points(f, self.x, v, 0.0 if noise is None else noise)

    def derivatives(self) -> Derivatives:
        """Return the derivative of every output along every column."""
        if self.method == "complex step":
            exact = [complex_step(self.f, self.x, v) for v in self.columns]
            found = np.array(exact, dtype=float).T
            return Derivatives(found, np.zeros(found.shape))
        points = [self.five_points(v) for v in self.columns]
        values, bounds = [p.derivative for p in points], [p.bound for p in points]
        return Derivatives(np.array(values).T, np.array(bounds).T)

    def doubtful(self, column: int) -> bool:
        """Look along a direction that shows a fault for a kink or a wrong complex step.

        Raise NotDifferentiableError at a kink. If the complex step disagrees with five points, change the
        method to five points and return True.
        """
        points = self.five_points(self.columns[column])
        if points.kinked.any():
            self._raise_at_kink()
        v = self.columns[column]
        if self.method == "five points" or complex_step_agrees(self.f, self.x, v, points):
            return False
        self.method = "five points"
        return True

    def _raise_at_kink(self) -> None:
        """Raise an error that names the entry at which the function has a kink."""
        for j in range(min(self.x.size, 1000)):
            unit = np.zeros(self.x.size)
            unit[j] = 1.0
            points = self.five_points(unit)
            for i in map(int, np.flatnonzero(points.kinked)):
                raise NotDifferentiableError(
                    f"check_gradients: {self.f.output_entry(i)} has no derivative by "
                    f"{self.f.input_at(j).entry(j)} at {self.x[j]:.6g}: its slope is "
                    f"{points.left[i]:.6g} on the left and {points.right[i]:.6g} on the right; "
                    "check at a point away from the kink"
                )
        raise NotDifferentiableError(
            "check_gradients: the function has a kink at this point: along a random direction its slopes "
            "on the two sides differ; check at a point away from the kink"
        )
