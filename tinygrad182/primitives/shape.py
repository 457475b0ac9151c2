"""Operations that rearrange elements or change their type, and their derivatives.

Axes are negative integers, so that they stay right under extra leading axes. All operations are linear:
their JVP is their forward.
"""

from __future__ import annotations

from typing import Any

from ..arrays.namespaces import Array, Namespace
from .primitive import define


def reshape(xp: Namespace, x: Array, *, shape: tuple[int, ...]) -> Array:
    """The elements in another shape; the last axis varies fastest."""
    return xp.reshape(x, shape)


def reshape_vjp(xp: Namespace, g: Array, y: Array, x: Array, *, shape: tuple[int, ...]) -> Array:
    return xp.reshape(g, g.shape[: g.ndim - y.ndim] + x.shape)


def permute_dims(xp: Namespace, x: Array, *, axes: tuple[int, ...]) -> Array:
    """The axes in another order."""
    return xp.permute_dims(x, axes)


def permute_dims_vjp(
    xp: Namespace, g: Array, y: Array, x: Array, *, axes: tuple[int, ...]
) -> Array:
    lead = g.ndim - y.ndim
    inverse = sorted(range(x.ndim), key=lambda i: axes[i] % x.ndim)
    return xp.permute_dims(g, (*range(lead), *(lead + i for i in inverse)))


def broadcast_to(xp: Namespace, x: Array, *, shape: tuple[int, ...]) -> Array:
    """The elements repeated along new axes and axes of size 1, without a copy."""
    return xp.broadcast_to(x, shape)


def broadcast_to_vjp(
    xp: Namespace, g: Array, y: Array, x: Array, *, shape: tuple[int, ...]
) -> Array:
    return g  # the engine sums what was broadcast


def concat(xp: Namespace, *arrays: Array, axis: int) -> Array:
    """The arrays one after the other along an existing axis."""
    return xp.concat(arrays, axis=axis)


def concat_vjp(xp: Namespace, g: Array, y: Array, *arrays: Array, axis: int) -> tuple[Array, ...]:
    parts, start = [], 0
    for x in arrays:
        stop = start + x.shape[axis]
        key = (*[slice(None)] * (g.ndim + axis), slice(start, stop))
        parts.append(xp.index_checked(g, key))
        start = stop
    return tuple(parts)


def stack(xp: Namespace, *arrays: Array, axis: int) -> Array:
    """The arrays, which have one shape, along a new axis."""
    return xp.stack(arrays, axis=axis)


def stack_vjp(xp: Namespace, g: Array, y: Array, *arrays: Array, axis: int) -> tuple[Array, ...]:
    return tuple(xp.unstack(g, axis=g.ndim + axis))


def flip(xp: Namespace, x: Array, *, axis: tuple[int, ...]) -> Array:
    """The elements in reverse order along ``axis``."""
    return xp.flip(x, axis=axis)


def flip_vjp(xp: Namespace, g: Array, y: Array, x: Array, *, axis: tuple[int, ...]) -> Array:
    return xp.flip(g, axis=axis)


def astype(xp: Namespace, x: Array, *, dtype: Any) -> Array:
    """The elements in another data type."""
    return xp.astype(x, dtype)


def astype_vjp(xp: Namespace, g: Array, y: Array, x: Array, *, dtype: Any) -> Array:
    return g  # the engine casts to the input's dtype


def to_device(xp: Namespace, x: Array, *, device: str) -> Array:
    """A copy on another device."""
    return xp.to_device(x, device)


def to_device_vjp(xp: Namespace, g: Array, y: Array, x: Array, *, device: str) -> Array:
    return xp.to_device_of(g, x)


define(
    reshape,
    reshape_vjp,
    jvp="linear",
    view=True,
    requirement="the number of elements must not change",
)
define(permute_dims, permute_dims_vjp, jvp="linear", view=True, requirement="name every axis once")
_BROADCAST = "aligned from the right, each size must equal the new one or be 1"
define(
    broadcast_to, broadcast_to_vjp, jvp="linear", broadcasts=True, view=True, requirement=_BROADCAST
)
_CONCAT = "sizes must agree except along the axis"
define(concat, jvp="linear", all_inputs=concat_vjp, requirement=_CONCAT)
define(stack, jvp="linear", all_inputs=stack_vjp, requirement="all shapes must be equal")
define(flip, flip_vjp, jvp="linear", view=True)
define(astype, astype_vjp, jvp="linear", view=True)
define(to_device, to_device_vjp, jvp="linear", view=True)
