"""The numerical derivatives of one function, by the method that it allows."""

from __future__ import annotations

import numpy as np

from ...errors import NotDifferentiableError
from ..numerical_derivatives import FivePoints, Function, complex_step, five_points
from ..samples import Array
from .vector_function import VectorFunction

_ELEMENTS = 10**7
"""At most so many in all unit vectors of one kind: a large model is tried at fewer entries."""


def sampled(size: int, most: int, rng: np.random.Generator) -> Array:
    """Unit vectors, all or a sample, and a random one."""
    most = min(size, most, max(_ELEMENTS // max(size, 1), 1))
    vectors = np.zeros((most + 1, size))
    vectors[np.arange(most), np.sort(rng.permutation(size)[:most])] = 1.0
    vectors[-1] = rng.standard_normal(size)
    return vectors


class Reference:
    """Derivatives without a derivative rule.

    Attributes
    ----------
    method : str
        ``"complex step"``, if that agrees with five points along a random direction;
        ``"five points"`` otherwise.
    columns : (n + 2, size)
        The directions: unit vectors, a random one, and a random one relative to the inputs' sizes.
    units : int
        How many unit vectors.
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
        if self._agrees(relative, points):
            self.method = "complex step"

    def five_points(
        self, v: Array, f: Function | None = None, noise: Array | None = None
    ) -> FivePoints:
        """Five points along ``v``: of the function, or of another one at the same point."""
        if f is None:
            return five_points(self.f, self.x, v, self.noise)
        return five_points(f, self.x, v, 0.0 if noise is None else noise)

    def _agrees(self, v: Array, points: FivePoints) -> bool:
        exact = complex_step(self.f, self.x, v)
        if exact is None:
            return False
        slack = 1e-6 * np.abs(points.derivative) + 10 * points.bound
        return bool((np.abs(exact - points.derivative) <= slack).all())

    def derivatives(self) -> tuple[Array, Array]:
        """∂f along every column, (m, columns), and how far each may be off."""
        if self.method == "complex step":
            exact = [complex_step(self.f, self.x, v) for v in self.columns]
            found = np.array(exact, dtype=float).T
            return found, np.zeros(found.shape)
        points = [self.five_points(v) for v in self.columns]
        return np.array([p.derivative for p in points]).T, np.array([p.bound for p in points]).T

    def doubtful(self, column: int) -> bool:
        """Look again along a direction that shows a fault, for a kink or a wrong complex step.

        Returns
        -------
        bool
            Whether the method was changed to five points, because the two disagree.

        Raises
        ------
        NotDifferentiableError
            There is a kink along it.
        """
        points = self.five_points(self.columns[column])
        if points.kinked.any():
            self._raise_at_kink()
        if self.method == "complex step" and not self._agrees(self.columns[column], points):
            self.method = "five points"
            return True
        return False

    def _raise_at_kink(self) -> None:
        """Name the entry at whose value the function has a kink."""
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
            "check_gradients: the function has a kink at this point: along a random direction its "
            "slopes on the two sides differ; check at a point away from it"
        )
