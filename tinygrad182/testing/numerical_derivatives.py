"""Numerical derivatives: the complex step, and five points with an error bound."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import TinygradError
from .samples import Array

Function = Callable[[Array], Array]

EPSILON = np.finfo(float).eps
UNKNOWN = 1e300
"""The bound where nothing is known. It is finite, because infinity times 0 is NaN."""
_STEPS = 2.0 ** -np.arange(5, 20)
_CLOSER = 2.0**-14
"""A step this much shorter than the shortest one tells a kink at the point from a kink beside it."""


def complex_step(f: Function, x: Array, v: Array) -> Array | None:
    """Derivative of ``f`` at ``x`` along ``v``: Im f(x + ihv) / h, exact to rounding.

    Nothing is subtracted, so a derivative of 1e-100 has as many right digits as one of 1 [1]_. The result
    is None if the function cannot take complex numbers.

    References
    ----------
    .. [1] Squire and Trapp, "Using complex variables to estimate derivatives of real functions",
       SIAM Review 40 (1998).
    """
    moved = (v != 0) & (x != 0)  # the step stays small relative to each element that it moves
    scale = np.clip(np.abs(x[moved] / v[moved]).min(initial=1.0), 1e-200, 1.0)
    derivative = _complex_step(f, x, v, 1e-20 * scale)
    if derivative is None:
        return None
    tiny = np.abs(derivative) < 1e-280
    if tiny.any():  # h times the derivative may have underflowed: take a longer step
        longer = _complex_step(f, x, v, 1e-10 * scale)
        derivative = derivative if longer is None else np.where(tiny, longer, derivative)
    small = (derivative != 0) & (np.abs(derivative) < 1e-30)
    if small.any():  # it may be 0, and what was found the third derivative times h²
        shorter = _complex_step(f, x, v, 1e-21 * scale)
        if shorter is not None:
            vanishes = small & (np.abs(shorter) < 0.1 * np.abs(derivative)) & ~tiny
            derivative = np.where(vanishes, 0.0, derivative)
    return derivative


def _complex_step(f: Function, x: Array, v: Array, h: float) -> Array | None:
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            y = f(x + 1j * h * v)
    except (TinygradError, TypeError, ValueError, ArithmeticError):
        return None
    return np.asarray(y.imag / h) if y.dtype.kind == "c" else None


def complex_step_agrees(f: Function, x: Array, v: Array, points: FivePoints) -> bool:
    """Whether ``f`` can take complex numbers, and its complex step along ``v`` agrees with five points."""
    exact = complex_step(f, x, v)
    if exact is None:
        return False
    allowed = 1e-6 * np.abs(points.derivative) + 10 * points.bound
    return bool((np.abs(exact - points.derivative) <= allowed).all())


@dataclass(frozen=True)
class FivePoints:
    """Derivatives by five points, for each output.

    Attributes
    ----------
    derivative, bound : (m,)
        The derivative and its error bound.
    left, right : (m,)
        The slopes on either side, over the smallest step.
    kinked : (m,) of bool
        Whether there is no derivative: the two slopes differ however small the step is, or the function
        is finite on one side only.
    """

    derivative: Array
    bound: Array
    left: Array
    right: Array
    kinked: Array


def five_points(f: Function, x: Array, v: Array, noise: Array | float = 0.0) -> FivePoints:
    """Derivative along ``v`` by (f(−2h) − 8f(−h) + 8f(h) − f(2h)) / 12h, with an error bound.

    Each output takes the step with the smallest bound. Fifteen steps are relative to the elements of ``x``
    (so a logarithm stays in its domain), and fifteen are relative to 1. The bound is the sum of two errors:
    truncation, measured by the difference to the estimate with twice the step, and rounding. ``noise``
    says how far the values of ``f`` are off, if that is more than their last places.
    """
    moved = (v != 0) & (x != 0)
    scales = {1 / np.abs(v).max(initial=EPSILON), np.abs(x[moved] / v[moved]).min(initial=np.inf)}
    found = [_five_points(f, x, v, s, noise) for s in sorted(scales) if np.isfinite(s)]
    best = found[0]
    for other in found[1:]:
        better = other.bound < best.bound
        pick = [np.where(better, *pair) for pair in zip(_fields(other), _fields(best), strict=True)]
        best = FivePoints(*pick)
    return best


def _fields(points: FivePoints) -> tuple[Array, ...]:
    return points.derivative, points.bound, points.left, points.right, points.kinked


@np.errstate(all="ignore")
def _five_points(f: Function, x: Array, v: Array, scale: float, noise: Array | float) -> FivePoints:
    steps = scale * _STEPS
    center = f(x)
    plus, minus = (np.array([f(x + sign * h * v) for h in steps]) for sign in (1, -1))
    h = steps[1:, None]
    central = (8 * (plus[1:] - minus[1:]) - (plus[:-1] - minus[:-1])) / (12 * h)
    size = np.maximum(np.maximum(np.abs(plus), np.abs(minus))[:-1], np.abs(center))
    rounding = np.maximum(16 * EPSILON * size, noise) / h
    moved = np.abs(np.diff(central, axis=0))
    bounds = moved + rounding[1:]
    bounds[1:] = np.maximum(bounds[1:], moved[:-1] / 16)  # a bound may be small by chance
    still = np.array([((x + k * v == x) & (v != 0)).any() for k in steps[2:]])
    bounds = np.where(np.isfinite(bounds) & ~still[:, None], bounds, UNKNOWN)
    best = np.argmin(bounds, axis=0)[None]
    derivative = np.take_along_axis(central[1:], best, 0)[0]
    bound = np.take_along_axis(bounds, best, 0)[0]
    right = (4 * plus[1:] - plus[:-1] - 3 * center) / (2 * h)
    left = (3 * center - 4 * minus[1:] + minus[:-1]) / (2 * h)
    kinked = _kinked(right - left, np.abs(right) + np.abs(left), rounding)
    if (
        kinked.any()
    ):  # the kink may be beside the point, or the function steep: take a much shorter step
        near = steps[-1] * _CLOSER
        above, below = f(x + near * v), f(x - near * v)
        gap, blur = (above - 2 * center + below) / near, rounding[-1] * h[-1] / near
        same = [np.abs(right - left)[-1] * grown for grown in (1, 1 / _CLOSER)]  # a kink; a jump
        is_one = [(np.abs(gap) > g / 2 - 4 * blur) & (np.abs(gap) < 2 * g + 4 * blur) for g in same]
        absent = np.abs(gap) + 4 * blur < np.abs(right - left).max(axis=0) / 2
        beside = kinked & (absent | ~np.logical_or(*is_one))
        derivative = np.where(beside, (above - below) / (2 * near), derivative)
        bound = np.where(beside, np.abs(gap) + blur, bound)
        kinked &= ~beside
    outside = ~np.isfinite(central[1:]).any(axis=0)  # at the edge of its domain
    return FivePoints(derivative, bound, left[-1], right[-1], kinked | outside)


def _kinked(gaps: Array, slopes: Array, rounding: Array) -> Array:
    """Whether the two slopes differ by an equal gap at every scale; for a smooth f it shrinks as h³."""
    windows = [slice(k, k + 7, 3) for k in range(len(gaps) - 6)]  # three steps, each an eighth
    return np.logical_or.reduce([_steady(gaps[w], slopes[w], rounding[w]) for w in windows])


def _steady(gaps: Array, slopes: Array, rounding: Array) -> Array:
    clear = np.abs(gaps) > 4 * rounding + 1e-6 * slopes
    steady = np.abs(gaps).max(axis=0) < 2 * np.abs(gaps).min(axis=0)
    jump = (np.abs(gaps[1:]) > 4 * np.abs(gaps[:-1])).all(axis=0)  # a step: slopes grow as 1/h
    same_side = np.abs(np.sign(gaps).sum(axis=0)) == len(gaps)
    return np.asarray(clear.all(axis=0) & same_side & (steady | jump))
