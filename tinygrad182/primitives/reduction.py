"""Reductions and running sums along axes, and their derivatives.

``axis`` is None or a tuple of negative integers, so that it stays right under extra leading axes.
"""

from __future__ import annotations

import math

from ..arrays.namespaces import Array, Namespace
from .primitive import Tangents, define

Axis = tuple[int, ...] | None


def _spread(xp: Namespace, g: Array, y: Array, x: Array, axis: Axis) -> Array:
    """Insert the reduced axes into ``g`` (or ``y``) with size 1, so that it broadcasts against ``x``."""
    ndim, shape = x.ndim, x.shape
    sizes: tuple[int, ...] = (1,) * ndim
    if axis is not None:
        sizes = tuple([1 if i - ndim in axis else n for i, n in enumerate(shape)])
    return xp.reshape(g, g.shape[: g.ndim - y.ndim] + sizes)


def sum_(xp: Namespace, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    """Sum of the elements along ``axis``."""
    return xp.sum(x, axis=axis, keepdims=keepdims)


def sum_vjp(xp: Namespace, g: Array, y: Array, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    if axis is None and g.ndim == y.ndim:
        return xp.broadcast_to(g, x.shape)
    lead = g.shape[: g.ndim - y.ndim]
    return xp.broadcast_to(_spread(xp, g, y, x, axis), lead + x.shape)


def mean(xp: Namespace, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    """Mean of the elements along ``axis``."""
    return xp.sum(x, axis=axis, keepdims=keepdims) / count_along(x, axis)


def mean_vjp(xp: Namespace, g: Array, y: Array, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    return sum_vjp(xp, g / count_along(x, axis), y, x, axis=axis, keepdims=keepdims)


def count_along(x: Array, axis: Axis) -> int:
    """The number of elements along the axes."""
    return math.prod(x.shape if axis is None else [x.shape[a] for a in axis])


def max_(xp: Namespace, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    """Largest element along ``axis``; ties share the cotangent evenly."""
    if xp.is_complex(x):
        return _pick(xp, x, xp.max(xp.real(x), axis=axis, keepdims=True), axis, keepdims)
    return xp.max(x, axis=axis, keepdims=keepdims)


def min_(xp: Namespace, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    """Smallest element along ``axis``; ties share the cotangent evenly."""
    if xp.is_complex(x):
        return _pick(xp, x, xp.min(xp.real(x), axis=axis, keepdims=True), axis, keepdims)
    return xp.min(x, axis=axis, keepdims=keepdims)


def _pick(xp: Namespace, x: Array, extreme: Array, axis: Axis, keepdims: bool) -> Array:
    """Mean of the elements whose real part is the extreme one, for complex steps."""
    chosen = xp.where(xp.real(x) == extreme, xp.ones_like(x), 0.0)
    total = xp.sum(xp.where(chosen == 1, x, 0.0), axis=axis, keepdims=keepdims)
    return total / xp.sum(chosen, axis=axis, keepdims=keepdims)


def _ties(xp: Namespace, y: Array, x: Array, axis: Axis) -> Array:
    """1/n at each of the n elements equal to the extreme, 0 elsewhere."""
    chosen = xp.where(x == _spread(xp, y, y, x, axis), xp.ones_like(x), 0.0)
    return chosen / xp.sum(chosen, axis=axis, keepdims=True)


def extreme_vjp(
    xp: Namespace, g: Array, y: Array, x: Array, *, axis: Axis, keepdims: bool
) -> Array:
    ties = _ties(xp, y, x, axis)
    return xp.where(ties > 0, _spread(xp, g, y, x, axis), 0.0) * ties


def extreme_jvp(
    xp: Namespace, tangents: Tangents, y: Array, x: Array, *, axis: Axis, keepdims: bool
) -> Array:
    return xp.sum(tangents[0] * _ties(xp, y, x, axis), axis=axis, keepdims=keepdims)


def logsumexp(xp: Namespace, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    """Logarithm of the sum of exponentials along ``axis``, without overflow; −∞ for a row of −∞."""
    top = xp.max(xp.ordered(x), axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0.0)
    total = xp.sum(xp.exp(x - top), axis=axis, keepdims=True)
    empty = total == 0  # every element of the row is −∞
    total = xp.log(xp.where(empty, 1.0, total)) + xp.where(empty, -math.inf, top)
    return total if keepdims else xp.reshape(total, _reduced(x, axis))


def _reduced(x: Array, axis: Axis) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(x.shape) if axis is not None and i - x.ndim not in axis)


def _share(xp: Namespace, y: Array, x: Array, axis: Axis) -> Array:
    """The softmax; 0 everywhere in a row of −∞."""
    total = _spread(xp, y, y, x, axis)
    return xp.exp(x - xp.where(total == -math.inf, 0.0, total))


def logsumexp_vjp(
    xp: Namespace, g: Array, y: Array, x: Array, *, axis: Axis, keepdims: bool
) -> Array:
    return _spread(xp, g, y, x, axis) * _share(xp, y, x, axis)


def logsumexp_jvp(
    xp: Namespace, tangents: Tangents, y: Array, x: Array, *, axis: Axis, keepdims: bool
) -> Array:
    return xp.sum(tangents[0] * _share(xp, y, x, axis), axis=axis, keepdims=keepdims)


def cumulative_sum(xp: Namespace, x: Array, *, axis: int) -> Array:
    """Running sum along ``axis``."""
    return xp.cumulative_sum(x, axis=axis)


def cumulative_sum_vjp(xp: Namespace, g: Array, y: Array, x: Array, *, axis: int) -> Array:
    return xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis)


_REQUIREMENT = "every axis must be one of the operand's, and all but sums need at least one element"
define(sum_, sum_vjp, jvp="linear", requirement=_REQUIREMENT)
define(mean, mean_vjp, jvp="linear", requirement=_REQUIREMENT)
define(max_, extreme_vjp, jvp=extreme_jvp, requirement=_REQUIREMENT)
define(min_, extreme_vjp, jvp=extreme_jvp, requirement=_REQUIREMENT)
define(logsumexp, logsumexp_vjp, jvp=logsumexp_jvp, requirement=_REQUIREMENT)
define(cumulative_sum, cumulative_sum_vjp, jvp="linear", requirement=_REQUIREMENT)
