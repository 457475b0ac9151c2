"""One check of one function: its numerical derivatives, and everything that is compared with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._tensor import Tensor
from ..autodiff import grad
from ..creation import tensor
from ..errors import ArgumentError, NotDifferentiableError
from ..recording import needs_grad
from ..transforms import jvp
from .comparing import SMALLEST, Probes, compare
from .faults import PropertyError
from .numerical import complex_step, five_points
from .rounding import ULPS, perturbed
from .vectors import Vector, VectorFunction

_ELEMENTS = 10**7
"""At most so many in all unit vectors of one kind: a large model is tried at fewer entries."""


@dataclass(frozen=True)
class GradientCheck:
    """What :func:`check_gradients` found right.

    Attributes
    ----------
    method : str
        ``"complex step"`` or ``"five points"``.
    entries : int
        How many entries of the Jacobian were compared one by one.
    error : float
        The largest difference to the numerical first derivative, relative to each entry, among those
        that rounding leaves all digits.
    order : int
        Up to which order.
    """

    method: str
    entries: int
    error: float
    order: int


class Checker:
    """The checks of one function, each raising :class:`PropertyError` where it fails.

    Parameters
    ----------
    f : VectorFunction
    rtol : float or None
        Relative tolerance beside rounding; None for what the method allows.
    max_entries : int
        How many inputs and outputs are tried one by one.
    seed : int
        Of everything drawn.
    """

    def __init__(self, f: VectorFunction, rtol: float | None, max_entries: int, seed: int) -> None:
        self.f, self.x = f, f.point
        self.rng = np.random.default_rng(seed)
        value = f(self.x)
        if not np.isfinite(value).all():
            raise ArgumentError("check_gradients: the function is not finite at this point")
        if f(self.x).tobytes() != value.tobytes():
            raise ArgumentError(
                "check_gradients: the function gives another value when called again; "
                "if it draws random numbers, seed them inside"
            )
        self.recording = f.record(self.x)
        self.noise = self._rounding(self.recording.outputs, self.recording.value) / ULPS
        self.rows = self._vectors(value.size, max_entries)
        self.columns = self._vectors(self.x.size, max_entries)
        relative = self.rng.standard_normal(self.x.size) * np.where(self.x == 0, 1, np.abs(self.x))
        self.columns = np.vstack([self.columns, relative])
        self.method = self._method()
        exact = self.method == "complex step"
        self.rtol = (1e-11 if exact else 1e-9) if rtol is None else rtol

    def _vectors(self, size: int, most: int) -> Vector:
        """Unit vectors, all or a sample, and a random one."""
        most = min(size, most, max(_ELEMENTS // max(size, 1), 1))
        vectors = np.zeros((most + 1, size))
        vectors[np.arange(most), np.sort(self.rng.permutation(size)[:most])] = 1.0
        vectors[-1] = self.rng.standard_normal(size)
        return vectors

    def run(self, order: int) -> GradientCheck:
        """Make all checks up to this order."""
        with _named("first derivative"):
            error = self.first_order()
            self.linearity()
        with _named("gradient for cotangents with an extra leading axis"):
            self.leading_axes()
        with _named("JVP"):
            self.forward_mode()
        if order > 1:
            with _named("recorded gradient"):
                self.second_order()
        self.given_dtypes()
        entries = (len(self.rows) - 1) * (len(self.columns) - 2)
        return GradientCheck(self.method, entries, error, order)

    # --- numerical derivatives ------------------------------------------------------------------

    def _method(self) -> str:
        """The complex step, if it agrees with five points along a random direction."""
        v = self.columns[-1]
        points = five_points(self.f, self.x, v, self.noise)
        if points.kinked.any():
            self._raise_at_kink()
        exact = complex_step(self.f, self.x, v)
        if exact is None:
            return "five points"
        slack = 1e-6 * np.abs(points.derivative) + 10 * points.bound
        return (
            "complex step" if np.all(np.abs(exact - points.derivative) <= slack) else "five points"
        )

    def _raise_at_kink(self) -> None:
        """Name the entry at whose value the function has a kink."""
        for j in range(min(self.x.size, 1000)):
            unit = np.zeros(self.x.size)
            unit[j] = 1.0
            points = five_points(self.f, self.x, unit, self.noise)
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

    def _directional(self) -> tuple[Vector, Vector]:
        """∂f along every column, (m, columns), and how far each may be off."""
        if self.method == "complex step":
            exact = [complex_step(self.f, self.x, v) for v in self.columns]
            return np.array(exact, dtype=float).T, np.zeros((self.rows.shape[1], len(exact)))
        points = [five_points(self.f, self.x, v, self.noise) for v in self.columns]
        return np.array([p.derivative for p in points]).T, np.array([p.bound for p in points]).T

    # --- checks ---------------------------------------------------------------------------------

    def first_order(self) -> float:
        """Every row of the Jacobian, by a backward pass of its own."""
        derivatives, bound = self._directional()
        self.jacobian = self._one_by_one()
        self.rounding = self._rounding(self.recording.outputs, self._one_by_one)
        self.tangents = self.rows @ derivatives
        self.bounds = self.rounding @ np.abs(self.columns.T) + np.abs(self.rows) @ bound
        actual, expected = self.jacobian @ self.columns.T, self.tangents
        probes = Probes(self.f, self.rows, self.columns)
        allowed = self._tolerance(expected, self.bounds)
        compare("first derivative", probes, actual, expected, allowed, self.method)
        size = np.abs(expected)
        known = (self.bounds < self.rtol * size) & (size > SMALLEST)
        return float((np.abs(actual - expected)[known] / size[known]).max(initial=0.0))

    def linearity(self) -> None:
        """A power of two scales the gradient exactly, 0 gives 0, and sums of cotangents add."""
        g, other = self.rows[-1], self.rng.standard_normal(self.rows.shape[1])
        base, added = self.jacobian[-1], self._pulled(other)
        power = 200 if self.rtol < 1e-7 else 20
        for scale in (1.0, -(2.0**-power), 2.0**power, 0.0):
            expected = scale * base
            exact = (np.abs(expected) > SMALLEST) & (np.abs(expected) < 1 / SMALLEST) | (scale == 0)
            found = np.where(exact, self._pulled(scale * g), 0.0)
            what = (
                "gradient in a second pass"
                if scale == 1
                else f"gradient for {scale:.3g} × the cotangent"
            )
            self._compare_gradient(what, found, np.where(exact, expected, 0.0), np.zeros(1))
        allowed = self._tolerance(np.abs(base) + np.abs(added), 2 * self.rounding[-1])
        both = self._pulled(g + other)
        self._compare_gradient(
            "gradient for the sum of two cotangents", both, base + added, allowed
        )

    def leading_axes(self) -> None:
        """Many cotangents at once, on an axis in front, give the same as one by one."""
        what = "gradient for cotangents with an extra leading axis"
        allowed = self._tolerance(self.jacobian, self.rounding)
        together = self._pulled(self.rows)
        compare(what, Probes(self.f, self.rows), together, self.jacobian, allowed, "one by one")

    def forward_mode(self) -> None:
        """``jvp`` along the random direction."""
        x, v = self.f.tensors(self.x), self.f.tensors(self.columns[-1])
        _, tangents = jvp(self.f.of_inputs, x, v)
        self._compare_tangent("JVP", np.concatenate([t.numpy().ravel() for t in tangents]))

    def second_order(self) -> None:
        """A recorded gradient: its value, and its derivatives by the cotangent and by the inputs."""
        recording = self.f.record(self.x)
        leaves = recording.leaves
        cotangents = [tensor(c, requires_grad=True) for c in recording.cut(self.rows[-1])]
        first = _grad(recording.outputs, leaves, cotangents, create_graph=True)
        allowed = self._tolerance(self.jacobian[-1], self.rounding[-1])
        recorded = recording.joined(first)
        self._compare_gradient("recorded gradient", recorded, self.jacobian[-1], allowed)

        v = self.columns[-1]
        targets, directions = [*leaves, *cotangents], self.f.tensors(v)

        def second() -> Vector:
            found = _grad(first, targets, directions)
            return np.concatenate(
                [
                    np.zeros(x.size) if g is None else g.numpy().ravel()
                    for x, g in zip(targets, found, strict=True)
                ]
            )

        found = second()
        self._compare_tangent("derivative of the gradient by the cotangent", found[self.x.size :])
        points = five_points(self._gradient_at, self.x, v, self.rounding[-1] / ULPS)
        rounding = self._rounding([d for d in first if d is not None], second)[: self.x.size]
        allowed = max(self.rtol, 1e-7) * np.abs(points.derivative) + 10 * points.bound + rounding
        by_inputs = found[: self.x.size]
        self._compare_gradient(
            "second derivative", by_inputs, points.derivative, allowed, "five points"
        )

    def given_dtypes(self) -> None:
        """In the dtypes that were given, the gradient is that in float64, rounded."""
        if all(str(i.array.dtype).endswith("float64") for i in self.f.inputs):
            return
        expected = self.jacobian[-1]
        digits = 2.0**29 / ULPS * 16  # float32 rounds 2²⁹ times as coarsely, and sums add that up
        allowed = 2e-5 * np.abs(expected) + digits * self.rounding[-1] + 1e-37
        found = self.f.record(self.x, dtypes=True).pulled(self.rows[-1])
        self._compare_gradient(
            "gradient in the dtype given", found, expected, allowed, "in float64"
        )

    # --- how they are compared ------------------------------------------------------------------

    def _rounding(self, outputs: list[Tensor], compute: Callable[[], Vector]) -> Vector:
        """How far rounding can have moved what is computed from the graph of ``outputs``."""
        exact, moved = compute(), []
        for _ in range(3):
            with perturbed(outputs, self.rng):
                moved.append(np.abs(compute() - exact))
        return 4 * np.fmax.reduce(moved)

    def _gradient_at(self, x: Vector) -> Vector:
        return self.f.record(x).pulled(self.rows[-1])

    def _pulled(self, g: Vector) -> Vector:
        return self.recording.pulled(g)

    def _one_by_one(self) -> Vector:
        return np.array([self._pulled(g) for g in self.rows])

    def _tolerance(self, expected: Vector, bound: Vector) -> Vector:
        return np.asarray(self.rtol * np.abs(expected) + bound)

    def _compare_gradient(
        self, what: str, actual: Vector, expected: Vector, allowed: Vector, method: str = "expected"
    ) -> None:
        """Compare gradients for the random cotangent."""
        probes = Probes(self.f, self.rows[-1:])
        compare(what, probes, actual[None], expected[None], allowed[None], method)

    def _compare_tangent(self, what: str, tangent: Vector) -> None:
        """Compare a tangent along the random direction with the numerical one."""
        found = self.rows @ tangent
        expected = self.tangents[:, -1:]
        allowed = self._tolerance(expected, self.bounds[:, -1:])
        probes = Probes(self.f, self.rows, self.columns[-1:])
        compare(what, probes, found[:, None], expected, allowed, self.method)


def _grad(
    outputs: Any, inputs: Any, cotangents: Any, create_graph: bool = False
) -> list[Tensor | None]:
    """``grad`` of those outputs that depend on something."""
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if needs_grad(y)]
    if not pairs:
        return [None] * len(inputs)
    return grad(
        [y for y, _ in pairs],
        inputs,
        [g for _, g in pairs],
        retain_graph=True,
        create_graph=create_graph,
    )


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn what a rule raises into a fault of this property."""
    try:
        yield
    except PropertyError:
        raise
    except Exception as error:
        raise PropertyError(what, {"raised": f"{type(error).__name__}: {error}"}) from error
