"""Derivatives without a derivative rule: the complex step, and five points with an error bound."""

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
"""The bound where nothing is known: not infinite, which times 0 would be no number."""
_STEPS = 2.0 ** -np.arange(5, 20)
_CLOSER = 2.0**-14
"""Beside the least step: there, what is a kink is still the same kink."""


def complex_step(f: Function, x: Array, v: Array) -> Array | None:
    """The derivative of ``f`` at ``x`` along ``v``: Im f(x + ihv) / h, exact to rounding.

    Nothing is subtracted, so a derivative of 1e-100 comes out as true as one of 1 [1]_. None where
    the function cannot take complex numbers.

    References
    ----------
    .. [1] Squire and Trapp, "Using complex variables to estimate derivatives of real functions",
       SIAM Review 40 (1998).
    """
    moved = (v != 0) & (x != 0)  # no step is long beside the element it moves
    scale = np.clip(np.abs(x[moved] / v[moved]).min(initial=1.0), 1e-200, 1.0)
    derivative = _complex_step(f, x, v, 1e-20 * scale)
    if derivative is None:
        return None
    tiny = np.abs(derivative) < 1e-280
    if tiny.any():  # the step itself would underflow
        longer = _complex_step(f, x, v, 1e-10 * scale)
        derivative = derivative if longer is None else np.where(tiny, longer, derivative)
    small = (derivative != 0) & (np.abs(derivative) < 1e-30)
    if small.any():  # or a derivative of 0, and the third one times h²
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


@dataclass(frozen=True)
class FivePoints:
    """What five points found, for each output.

    Attributes
    ----------
    derivative, bound : (m,)
        The derivative, and how far it may be off.
    left, right : (m,)
        The slopes on either side, over the smallest step.
    kinked : (m,) of bool
        Whether they differ however small the step, or the function is finite on one side only:
        there is no derivative.
    """

    derivative: Array
    bound: Array
    left: Array
    right: Array
    kinked: Array


def five_points(f: Function, x: Array, v: Array, noise: Array | float = 0.0) -> FivePoints:
    """The derivative along ``v`` by (f(−2h) − 8f(−h) + 8f(h) − f(2h)) / 12h, with an error bound.

    Each output takes the step whose bound is least, of fifteen relative to the elements of ``x`` (a
    logarithm stays in its domain) and fifteen relative to 1. The bound is the difference to the
    estimate with twice the step, which holds what truncation costs, plus what rounding costs:
    ``noise`` says how far the values of ``f`` are off, where that is more than their last places.
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
    bounds[1:] = np.maximum(bounds[1:], moved[:-1] / 16)  # not by luck alone
    still = np.array([((x + k * v == x) & (v != 0)).any() for k in steps[2:]])
    bounds = np.where(np.isfinite(bounds) & ~still[:, None], bounds, UNKNOWN)
    best = np.argmin(bounds, axis=0)[None]
    derivative = np.take_along_axis(central[1:], best, 0)[0]
    bound = np.take_along_axis(bounds, best, 0)[0]
    right = (4 * plus[1:] - plus[:-1] - 3 * center) / (2 * h)
    left = (3 * center - 4 * minus[1:] + minus[:-1]) / (2 * h)
    kinked = _kinked(right - left, np.abs(right) + np.abs(left), rounding)
    if kinked.any():  # or there is a kink beside the point, or the function is steep: look closer
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
    outside = ~np.isfinite(central[1:]).any(axis=0)  # at the edge of what it is defined on
    return FivePoints(derivative, bound, left[-1], right[-1], kinked | outside)


def _kinked(gaps: Array, slopes: Array, rounding: Array) -> Array:
    """Whether the two slopes differ by the same at every scale; a smooth gap shrinks as h³."""
    windows = [slice(k, k + 7, 3) for k in range(len(gaps) - 6)]  # three steps, each an eighth
    return np.logical_or.reduce([_steady(gaps[w], slopes[w], rounding[w]) for w in windows])


def _steady(gaps: Array, slopes: Array, rounding: Array) -> Array:
    clear = np.abs(gaps) > 4 * rounding + 1e-6 * slopes
    steady = np.abs(gaps).max(axis=0) < 2 * np.abs(gaps).min(axis=0)
    jump = (np.abs(gaps[1:]) > 4 * np.abs(gaps[:-1])).all(axis=0)  # a step: slopes grow as 1/h
    same_side = np.abs(np.sign(gaps).sum(axis=0)) == len(gaps)
    return np.asarray(clear.all(axis=0) & same_side & (steady | jump))
