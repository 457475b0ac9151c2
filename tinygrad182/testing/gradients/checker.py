"""The properties that ``check_gradients`` checks, one method each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ...errors import ArgumentError, NotDifferentiableError
from ...tensors.tensor import Tensor
from ..numerical_derivatives import FivePoints
from ..results import CheckedInput, GradientCheck
from ..samples import Array
from .compare_derivatives import SMALLEST, Probes, compare
from .property_error import LEADING_AXES, PropertyError
from .recorded_function import RecordedGradient, Recording
from .reference import Reference, sampled
from .rounding import ULPS, rounding
from .vector_function import VectorFunction


class Checker:
    """The checks of one function, with the arguments of ``check_gradients``.

    A check that fails raises :class:`PropertyError`.
    """

    def __init__(self, f: VectorFunction, rtol: float | None, max_entries: int, seed: int) -> None:
        self.f, self.x = f, f.point
        self.rng = np.random.default_rng(seed)
        value = f(self.x)
        if not np.isfinite(value).all():
            raise ArgumentError("check_gradients: the function is not finite at this point")
        if f(self.x).tobytes() != value.tobytes():
            raise ArgumentError(
                "check_gradients: the function gives another value when it is called again; if it draws "
                "random numbers, seed them inside the function"
            )
        self.recording = f.record(self.x)
        self.steps = self.recording.step_by_step()
        self.nodes = self.steps.nodes()
        floating = {str(n.value.dtype) for n in self.nodes} & {"float16", "float32"}
        self.coarsest = max((float(np.finfo(d).eps) for d in floating), default=0.0)
        noise = rounding(self.nodes, lambda edge: self.steps.value(), self.rng) / ULPS
        self.rows = sampled(value.size, max_entries, self.rng)
        self.reference = Reference(f, noise, max_entries, self.rng)
        self._given_rtol = rtol
        self.second: Array | None = None  # until the second order is checked

    @property
    def rtol(self) -> float:
        """Relative tolerance in addition to rounding."""
        if self._given_rtol is not None:
            return self._given_rtol
        return max(1e-11 if self.reference.method == "complex step" else 1e-9, 8 * self.coarsest)

    def run(self, order: int) -> GradientCheck:
        """Make all checks up to this order."""
        self.error = 0.0
        for name, check in self._checks(order):
            with _rule_errors_as_faults(name):
                check()
        entries = (len(self.rows) - 1) * self.reference.units
        return GradientCheck(self.reference.method, entries, self.error, order, self._by_input())

    def _by_input(self) -> tuple[CheckedInput, ...]:
        """The errors by input: those of the columns that move one of its elements."""
        units = self.reference.columns[: self.reference.units]
        moved = units @ np.arange(units.shape[1])
        checked = []
        for i in self.f.inputs:
            its = (moved >= i.part.start) & (moved < i.part.stop)
            error = float(self.errors[: len(units)][its].max(initial=0.0))
            shape, dtype = tuple(i.array.shape), str(i.array.dtype)
            checked.append(CheckedInput(i.label, shape, dtype, int(its.sum()), error))
        return tuple(checked)

    def _checks(self, order: int) -> Iterator[tuple[str, Any]]:
        """Yield each check with its name; the name is used if a rule raises an error in it."""
        yield "first derivative", self.first_order
        yield "backward pass", lambda: self.recording.check_untouched(self.rows[-1])
        yield "gradient for a multiple of the cotangent", self.linearity
        yield LEADING_AXES, self.leading_axes
        yield "gradient of arrays in another memory layout", self.layouts
        yield "JVP", self.forward_mode
        if order > 1:
            yield "recorded gradient", self.second_order
        if any(not str(i.array.dtype).endswith("float64") for i in self.f.inputs):
            yield "gradient in the dtype given", self.given_dtypes

    # --- first order ----------------------------------------------------------------------------

    def first_order(self) -> None:
        """Compare every row of the Jacobian, computed by its own backward pass."""
        self.jacobian = self._one_by_one(self.recording)
        self.rounding = rounding(self.nodes, partial(self._one_by_one, self.steps), self.rng)
        try:
            self._compare_jacobian()
        except PropertyError as error:
            if not self.reference.doubtful(error.column):
                raise
            self._compare_jacobian()

    def _compare_jacobian(self) -> None:
        columns = self.reference.columns
        numerical = self.reference.derivatives()
        self.tangents = self.rows @ numerical.values
        self.bounds = self.rounding @ np.abs(columns.T) + np.abs(self.rows) @ numerical.bounds
        actual, expected = self.jacobian @ columns.T, self.tangents
        allowed = self._tolerance(expected, self.bounds)
        probes = Probes(self.f, self.rows, columns)
        compare("first derivative", probes, actual, expected, allowed, self.reference.method)
        known = (self.bounds < self.rtol * np.abs(expected)) & (np.abs(expected) > SMALLEST)
        relative = np.abs(actual - expected) / np.where(known, np.abs(expected), 1.0)
        self.errors = np.where(known, relative, 0.0).max(axis=0, initial=0.0)
        self.error = float(self.errors.max(initial=0.0))
        self.resolved = bool((known | (self.bounds == 0)).all())

    def linearity(self) -> None:
        """Scaling a cotangent by a power of two or 0 is exact, and the gradients of a sum add up."""
        pulled = self.recording.pulled
        g, other = self.rows[-1], self.rng.standard_normal(self.rows.shape[1])
        base, added = self.jacobian[-1], pulled(other)
        power = 200 if self.rtol < 1e-7 else 20
        for scale in (1.0, -(2.0**-power), 2.0**power, 0.0):
            expected = scale * base
            exact = (np.abs(expected) > SMALLEST) & (np.abs(expected) < 1 / SMALLEST) | (scale == 0)
            found = np.where(exact, pulled(scale * g), 0.0)
            what = f"gradient for {scale:.3g} × the cotangent"
            what = "gradient in a second pass" if scale == 1 else what
            self._compare_gradient(what, found, np.where(exact, expected, 0.0), np.zeros(1))
        allowed = self._tolerance(np.abs(base) + np.abs(added), 2 * self.rounding[-1])
        what = "gradient for the sum of two cotangents"
        self._compare_gradient(what, pulled(g + other), base + added, allowed)

    def leading_axes(self) -> None:
        """Many cotangents on an axis in front give the gradients that they give one by one."""
        allowed = self._tolerance(self.jacobian, self.rounding)
        together = self.recording.pulled(self.rows)
        compare(
            LEADING_AXES, Probes(self.f, self.rows), together, self.jacobian, allowed, "one by one"
        )

    def layouts(self) -> None:
        """The memory layout of inputs and cotangents does not change the gradient."""
        allowed = self._tolerance(self.jacobian[-1], self.rounding[-1])
        for layout in ("fortran", "reversed", "strided"):
            found = self.f.record(self.x, layout=layout).pulled(self.rows[-1], layout=layout)
            what = f"gradient of {layout} arrays"
            self._compare_gradient(what, found, self.jacobian[-1], allowed, "of contiguous ones")

    def forward_mode(self) -> None:
        """JVPs: along all inputs together, and along single elements with no tangent for other inputs."""
        columns = self.reference.columns
        for j in (*self._some_units(), len(columns) - 2, len(columns) - 1):
            tangents = self._directions(columns[j], alone=j < self.reference.units)
            allowed = self._tolerance(self.tangents[:, [j]], self.bounds[:, [j]])
            self._compare_tangent("JVP", self.recording.pushed(tangents), j, allowed)

    def _some_units(self) -> list[int]:
        """Positions of some unit directions: the first of each input, and a few more."""
        units = self.reference.columns[: self.reference.units]
        inputs = [self.f.input_at(int(np.argmax(v))).label for v in units]
        first = [inputs.index(label) for label in dict.fromkeys(inputs)]
        return list(dict.fromkeys([*first, *range(0, len(units), max(1, len(units) // 8))]))

    def _directions(self, v: Array, alone: bool) -> list[Any]:
        """Cut a direction into tensors; with ``alone``, None stands for an input that does not move."""
        pairs = zip(self.f.tensors(v), self.f.inputs, strict=True)
        return [t if not alone or v[i.part].any() else None for t, i in pairs]

    # --- second order, other dtypes -------------------------------------------------------------

    def second_order(self) -> None:
        """Check a recorded gradient: its value, and its derivatives by the cotangent and the inputs."""
        g, v, size = self.rows[-1], self.reference.columns[-1], self.x.size
        first = self.f.record(self.x).differentiated(g)
        allowed = self._tolerance(self.jacobian[-1], self.rounding[-1])
        self._compare_gradient("recorded gradient", first.value, self.jacobian[-1], allowed)
        directions = self.f.tensors(v)
        self.second = second = first.along(directions)
        self.second_rounding = self._second_rounding(first, directions)
        self._compare_by_cotangent(second[size:], self.second_rounding[size:])
        points = self._points_of_gradient(v)
        expected = points.derivative
        allowed = max(self.rtol, 1e-7) * np.abs(expected) + 10 * points.bound
        allowed = allowed + self.second_rounding[:size]
        found = {
            "second derivative": second[:size],
            "derivative of the JVP": self.f.record(self.x).gradient_of_tangent(g, directions),
        }
        for what, actual in found.items():
            self._compare_gradient(what, actual, expected, allowed, "five points")

    def _second_rounding(self, first: RecordedGradient, directions: list[Tensor]) -> Array:
        return rounding(first.nodes(), lambda edge: first.along(directions, edge), self.rng)

    def _compare_by_cotangent(self, tangent: Array, bound: Array) -> None:
        """The derivative of ⟨gradient, v⟩ by the cotangent is the tangent along v."""
        bound = self.bounds[:, -1:] + (np.abs(self.rows) @ bound)[:, None]
        allowed = self._tolerance(self.tangents[:, -1:], bound)
        self._compare_tangent("derivative of the gradient by the cotangent", tangent, -1, allowed)

    def _points_of_gradient(self, v: Array) -> FivePoints:
        points = self.reference.five_points(
            v, lambda x: self.f.record(x).pulled(self.rows[-1]), self.rounding[-1] / ULPS
        )
        if points.kinked.any():
            j = int(np.flatnonzero(points.kinked)[0])
            raise NotDifferentiableError(
                f"check_gradients: the derivative by {self.f.input_at(j).entry(j)} has a kink at this "
                "point, so there is no second one; pass order=1, or check at a point away from it"
            )
        return points

    def given_dtypes(self) -> None:
        """Derivatives in the given dtypes are those in float64, rounded."""
        narrow = self.f.record(self.x, dtypes=True)
        if not np.isfinite(narrow.value()).all():
            raise ArgumentError(
                "check_gradients: the function is finite in float64, not in the dtype given"
            )
        limits = [np.finfo(str(i.array.dtype).rpartition(".")[2]) for i in self.f.inputs]
        coarse = max(float(limit.eps) for limit in limits) / float(np.finfo(float).eps)
        least = max(float(limit.tiny) for limit in limits)
        g, v = self.rows[-1], self.reference.columns[-1]
        pairs = zip(self.f.tensors(v), narrow.leaves, strict=True)
        directions = [t.astype(x.dtype) for t, x in pairs]

        def allowed(expected: Array, bound: Array) -> Array:
            # a relative 2e-5 in float32; its rounding is coarser, and adds up in sums
            return 4e-14 * coarse * np.abs(expected) + 16 * coarse / ULPS * bound + 10 * least

        gradient = self.jacobian[-1]
        bound = allowed(gradient, self.rounding[-1])
        what = "gradient in the dtype given"
        self._compare_gradient(what, narrow.pulled(g), gradient, bound, "in float64")
        together = narrow.pulled(np.stack([g, g]))[1]
        what += ", with a leading axis,"
        self._compare_gradient(what, together, gradient, bound, "in float64")
        self._narrow_tangent(narrow, directions, allowed)
        if self.second is not None:
            found = narrow.differentiated(g).along(directions)[: self.x.size]
            expected, bound = (a[: self.x.size] for a in (self.second, self.second_rounding))
            what = "second derivative in the dtype given"
            self._compare_gradient(what, found, expected, allowed(expected, bound), "in float64")

    def _narrow_tangent(self, narrow: Recording, directions: list[Tensor], allowed: Any) -> None:
        exact = self.recording.pushed(self.f.tensors(self.reference.columns[-1]))
        tolerance = allowed((np.abs(self.rows) @ np.abs(exact))[:, None], self.bounds[:, -1:])
        what, tangent = "JVP in the dtype given", narrow.pushed(directions)
        self._compare_tangent(what, tangent, -1, tolerance, "in float64")

    # --- how they are compared ------------------------------------------------------------------

    def _one_by_one(self, recording: Recording, edge: Any = None) -> Array:
        return np.array([recording.pulled(g, edge) for g in self.rows])

    def _tolerance(self, expected: Array, bound: Array) -> Array:
        return np.asarray(self.rtol * np.abs(expected) + bound)

    def _compare_gradient(
        self, what: str, actual: Array, expected: Array, allowed: Array, method: str = "expected"
    ) -> None:
        """Compare gradients for the random cotangent."""
        probes = Probes(self.f, self.rows[-1:])
        compare(what, probes, actual[None], expected[None], allowed[None], method)

    def _compare_tangent(
        self, what: str, tangent: Array, j: int, allowed: Array, method: str = ""
    ) -> None:
        """Compare the tangent of the outputs along column ``j`` with the numerical one."""
        probes = Probes(self.f, self.rows, self.reference.columns[[j]])
        actual, expected = (self.rows @ tangent)[:, None], self.tangents[:, [j]]
        compare(what, probes, actual, expected, allowed, method or self.reference.method)


@contextmanager
def _rule_errors_as_faults(what: str) -> Iterator[None]:
    """Turn an error that a rule raises into a fault of this property."""
    try:
        yield
    except (PropertyError, NotDifferentiableError, ArgumentError):
        raise
    except Exception as error:
        raise PropertyError(what, {"raised": f"{type(error).__name__}: {error}"}) from error
