"""Functions that rearrange, select or convert elements without computing with them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from .._numbers import check_whole
from ..arrays import backend
from ..arrays.backend import check_device
from ..engine.recording import apply
from ..errors import ArgumentError, ShapeError, brief
from ..primitives import PRIMITIVES
from .creation import as_operands, as_tensor, check_shape, filled, integers
from .tensor import Tensor

Axis = int | tuple[int, ...] | None


def negative_axes(x: Tensor, axis: Axis, op: str, keepdims: bool = False) -> tuple[int, ...] | None:
    """Axes as distinct negative integers, which stay right when axes are added in front.

    Raises
    ------
    ShapeError
        An axis does not exist, or is named twice.
    ArgumentError
        ``keepdims`` is not a Boolean, such as a second axis.
    """
    if keepdims is not False and keepdims is not True:
        raise ArgumentError(
            f"{op}: keepdims {brief(keepdims)} must be True or False; several axes are one tuple, "
            f"axis=({brief(axis)}, {brief(keepdims)})"
        )
    if axis is None:
        return None
    several = (axis,) if type(axis) is int else integers(axis, op, "axis")
    shape = x.shape
    if not shape and set(several) <= {0, -1}:
        return ()  # as in NumPy, a 0-d tensor accepts axis 0
    axes = tuple([negative_axis(len(shape), a, op, shape) for a in several])
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{op}: axis {axis} names an axis twice, for a tensor of shape {x.shape}")
    return axes


def negative_axis(ndim: int, axis: int, op: str, shape: tuple[int, ...]) -> int:
    """One axis as a negative integer."""
    number = axis if type(axis) is int else check_whole(op, "axis", axis)
    if not -ndim <= number < ndim:
        allowed = f"allowed: {-ndim} to {ndim - 1}" if ndim else "it has no axes"
        raise ShapeError(f"{op}: axis {axis} is out of range for shape {shape} ({allowed})")
    return number - ndim if number >= 0 else number


def reshape(x: Any, shape: int | Sequence[int]) -> Tensor:
    """The elements in another shape; a size of −1 is computed from the others.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.reshape(tg.arange(6), (2, -1)).shape
    (2, 3)
    """
    x = as_tensor(x)
    sizes = list(integers(shape, "reshape", "shape", -1))
    if sizes.count(-1) == 1:
        rest = math.prod(n for n in sizes if n != -1)
        if rest and x.size % rest == 0:
            sizes[sizes.index(-1)] = x.size // rest
    if -1 in sizes or math.prod(sizes) != x.size:
        raise ShapeError(f"reshape: {x.size} elements of shape {x.shape} do not fit {shape}")
    return apply(PRIMITIVES["reshape"], x, shape=tuple(sizes))


def permute_dims(x: Any, axes: Sequence[int]) -> Tensor:
    """The axes in another order: axis ``axes[i]`` becomes axis i.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.permute_dims(tg.ones((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    x = as_tensor(x)
    given = integers(axes, "permute_dims", "axes")
    order = negative_axes(x, given, "permute_dims") or ()
    if len(given) != x.ndim:
        raise ShapeError(f"permute_dims: axes {axes} for shape {x.shape}; name each axis once")
    return apply(PRIMITIVES["permute_dims"], x, axes=tuple(a % x.ndim for a in order))


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in the given order, by default reversed, as in NumPy."""
    x = as_tensor(x)
    return permute_dims(x, tuple(range(x.ndim))[::-1] if axes is None else axes)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Exchange two axes."""
    x = as_tensor(x)
    order = list(range(x.ndim))
    pair = [check_whole("swapaxes", "axis", a) for a in (axis1, axis2)]
    if not x.ndim and set(pair) <= {0, -1}:
        return permute_dims(x, ())
    i, j = (negative_axis(x.ndim, a, "swapaxes", x.shape) for a in pair)
    order[i], order[j] = order[j], order[i]
    return permute_dims(x, order)


def matrix_transpose(x: Any) -> Tensor:
    """Exchange the last two axes."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose: shape {x.shape} has fewer than two axes")
    return swapaxes(x, -1, -2)


def expand_dims(x: Any, axis: int | tuple[int, ...]) -> Tensor:
    """Add axes of size 1, which are at ``axis`` (one or several) of the result.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.expand_dims(tg.ones((2, 3)), 1).shape
    (2, 1, 3)
    """
    x = as_tensor(x)
    given = integers(axis, "expand_dims", "axis")
    ndim = x.ndim + len(given)
    at = {negative_axis(ndim, a, "expand_dims", x.shape) + ndim for a in given}
    if len(at) != len(given):
        raise ShapeError(f"expand_dims: axis {axis} names an axis twice")
    sizes = iter(x.shape)
    return reshape(x, [1 if i in at else next(sizes) for i in range(ndim)])


def squeeze(x: Any, axis: Axis = None) -> Tensor:
    """Remove axes of size 1: all of them, or those at ``axis``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.squeeze(tg.ones((2, 1, 3))).shape
    (2, 3)
    """
    x = as_tensor(x)
    ones = tuple(i - x.ndim for i, n in enumerate(x.shape) if n == 1)
    axes = ones if axis is None else negative_axes(x, axis, "squeeze") or ()
    if not set(axes) <= set(ones):
        raise ShapeError(f"squeeze: axis {axis} of shape {x.shape} has not size 1")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i - x.ndim not in axes))


def broadcast_to(x: Any, shape: Sequence[int]) -> Tensor:
    """Repeat the elements along new axes in front and along axes of size 1.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.broadcast_to(tg.arange(2), (2, 2))
    tensor([[0, 1],
            [0, 1]])
    """
    sizes = check_shape(shape, "broadcast_to")
    return apply(PRIMITIVES["broadcast_to"], as_tensor(x), shape=sizes)


def _together(arrays: Any, op: str) -> list[Tensor]:
    tensors = as_operands(arrays) if isinstance(arrays, Iterable) else []
    if not tensors:
        raise ArgumentError(f"{op}: at least one tensor is needed, in a sequence")
    return tensors


def concat(arrays: Sequence[Any], axis: int | None = 0) -> Tensor:
    """Join tensors along an existing axis; with None, join all their elements to one vector.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.concat([tg.ones((2, 3)), tg.ones((1, 3))], axis=0).shape
    (3, 3)
    """
    tensors = _together(arrays, "concat")
    if axis is None:
        tensors, axis = [reshape(x, (-1,)) for x in tensors], 0
    first = tensors[0]
    return apply(
        PRIMITIVES["concat"], *tensors, axis=negative_axis(first.ndim, axis, "concat", first.shape)
    )


def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.stack([tg.ones(3), tg.ones(3)]).shape
    (2, 3)
    """
    tensors = _together(arrays, "stack")
    first = tensors[0]
    return apply(
        PRIMITIVES["stack"],
        *tensors,
        axis=negative_axis(first.ndim + 1, axis, "stack", first.shape),
    )


def unstack(x: Any, axis: int = 0) -> list[Tensor]:
    """A list of the slices along ``axis``."""
    x = as_tensor(x)
    if not x.ndim:
        raise ShapeError("unstack: a 0-d tensor has no axis to take apart")
    at = negative_axis(x.ndim, axis, "unstack", x.shape) + x.ndim
    before = (slice(None),) * at
    primitive = PRIMITIVES["index"]
    return [apply(primitive, x, key=(*before, i)) for i in range(x.shape[at])]


def flip(x: Any, axis: Axis = None) -> Tensor:
    """The elements in reverse order along ``axis``, by default along all axes."""
    x = as_tensor(x)
    axes = negative_axes(x, axis, "flip")
    return apply(PRIMITIVES["flip"], x, axis=tuple(range(-x.ndim, 0)) if axes is None else axes)


def pad(x: Any, pad_width: Any, constant_values: float = 0.0) -> Tensor:
    """Add a constant before and after the elements along each axis.

    Parameters
    ----------
    x : Tensor
    pad_width : int, (before, after) or a pair per axis
        How many elements to add, as in NumPy.
    constant_values : float

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.pad(tg.ones(2), (1, 2))
    tensor([0., 1., 1., 0., 0.])
    """
    x = as_tensor(x)
    pairs = _pairs(pad_width, x)
    sizes = [n + before + after for n, (before, after) in zip(x.shape, pairs, strict=True)]
    if math.prod(max(n, 1) for n in sizes) > sys.maxsize // 16:
        raise ShapeError(f"pad: a result of shape {tuple(sizes)} is more than any memory holds")
    for axis, (before, after) in enumerate(pairs):
        edges = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in (before, after)]
        first, last = (
            filled("pad", x, constant_values, shape, "constant_values") for shape in edges
        )
        x = concat([first, x, last], axis=axis) if before or after else x
    return x


def _pairs(pad_width: Any, x: Tensor) -> list[tuple[int, int]]:
    several = pad_width if isinstance(pad_width, (tuple, list)) else (pad_width,)
    nested = bool(several) and isinstance(several[0], (tuple, list))
    pairs = [integers(p, "pad", "pad_width", 0) for p in (several if nested else [several])]
    pairs = [p * 2 if len(p) == 1 else p for p in pairs]
    pairs = pairs * x.ndim if len(pairs) == 1 else pairs
    if len(pairs) != x.ndim or any(len(p) != 2 for p in pairs):
        raise ShapeError(
            f"pad: pad_width {pad_width} for shape {x.shape}; give a pair (before, after) per axis"
        )
    return [(before, after) for before, after in pairs]


def astype(x: Any, dtype: Any) -> Tensor:
    """The elements in another dtype; gradients flow between floating dtypes.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.astype(tg.ones(2), "float64").dtype
    dtype('float64')
    """
    x = as_tensor(x)
    xp = backend.namespace(x._data)
    target = xp.dtype(dtype)
    if x.dtype == target:
        return x
    y = apply(PRIMITIVES["astype"], x, dtype=target)
    return y if xp.is_floating(y._data) else y.detach()  # truncation has derivative 0


def to_device(x: Any, device: str) -> Tensor:
    """The tensor on another device; see ``Tensor.to``."""
    return as_tensor(x).to(check_device(device))


def to_device_of(x: Tensor, like: Tensor) -> Tensor:
    """The tensor on the device of another."""
    return x.to(like.device)
