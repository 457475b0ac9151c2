"""Norms of vectors and matrices, without overflow: ``tg.norm``, ``tg.vector_norm``, ``tg.matrix_norm``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._numbers import real_number
from ..engine.operands import as_array
from ..errors import ArgumentError, ShapeError, brief
from . import functions as tg
from .shapes import Axis, negative_axes
from .tensor import Tensor


@tg.accumulating
def norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Norm of vectors or matrices, without overflow; where the norm is 0, the gradient is 0.

    Parameters
    ----------
    x : Tensor
    ord : number, ±inf or "fro", optional
        For vectors: p in (Σ |x|ᵖ)^(1/p), by default 2; ±inf gives the largest or smallest |x|. For
        matrices: "fro" (the default) is the root of the sum of squares; ±1 gives the largest or smallest
        sum of |x| over a column, and ±inf over a row.
    axis : int or pair of int, optional
        The axis of vectors, or the two axes of matrices. By default all elements form one vector; if
        ``ord`` is given and x has two axes, they form a matrix.
    keepdims : bool

    Raises
    ------
    ArgumentError
        The norm needs singular values, which have no derivative here.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([3.0, 4.0], requires_grad=True)
    >>> tg.norm(x).backward()
    >>> x.grad
    tensor([0.6, 0.8])
    """
    x = tg.floating(x, "float64")
    ord = as_array(ord) if isinstance(ord, np.generic) else ord
    axes = negative_axes(x, axis, "norm")
    if axes is None and ord is None:
        axes, matrix = tuple(range(-x.ndim, 0)), False
    else:
        axes = tuple(range(-x.ndim, 0)) if axes is None else axes
        matrix = len(axes) == 2
        if len(axes) > 2 or (axis is None and not axes):
            raise ShapeError(
                f"norm: ord={brief(ord)}, axis={axis} for shape {x.shape}; name one axis for vectors, "
                "two for matrices, or use tg.vector_norm for all elements"
            )
    if matrix and ord not in (None, "fro"):
        return _matrix_norm(x, ord, axes, keepdims)
    p = 2.0 if ord is None or ord == "fro" else real_number(ord)
    if math.isnan(p):
        raise ArgumentError(f"norm: ord={brief(ord)} of vectors; pass a number")
    return _vector_norm(x, p, axes, keepdims)


def _vector_norm(x: Tensor, p: float, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    sizes = tg.abs(x)
    if math.isinf(p):
        return (tg.max if p > 0 else tg.min)(sizes, axes, keepdims=keepdims)
    if p == 1:
        return tg.sum(sizes, axes, keepdims)
    if p == 0:
        return tg.sum(tg.astype(sizes != 0, x.dtype), axes, keepdims)
    scale: Any = 1.0
    if x.size:  # the scale cancels; it prevents overflow and underflow
        top = tg.max(sizes.detach(), axes, keepdims=True)
        scale = tg.where(tg.logical_and(top > 0, tg.isfinite(top)), top, 1.0)
    total = tg.sum((x / scale) ** 2 if p == 2 else (sizes / scale) ** p, axes, keepdims=True)
    if p == 2:
        y = tg.root(total) * scale
    else:
        zero = total == 0
        y = tg.where(zero, 0.0, tg.where(zero, 1.0, total) ** (1 / p)) * scale
    return y if keepdims else tg.squeeze(y, axes)


def _matrix_norm(x: Tensor, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    if ord not in (1, -1, math.inf, -math.inf):
        raise ArgumentError(
            f"norm: ord={brief(ord)} of matrices; use 'fro', 1, -1, inf or -inf (2, -2 and 'nuc' need "
            "singular values, which have no derivative here), or tg.vector_norm for one vector"
        )
    summed, other = axes if abs(ord) == 1 else axes[::-1]
    sums = tg.sum(tg.abs(x), summed, keepdims=True)
    y = (tg.max if ord > 0 else tg.min)(sums, other, keepdims=True)
    return y if keepdims else tg.squeeze(y, axes)


@tg.accumulating
def vector_norm(x: Any, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """Norm of the vectors along ``axis``, by default of all elements as one vector; see :func:`norm`."""
    x = tg.floating(x, "float64")
    axes = negative_axes(x, axis, "vector_norm")
    return _vector_norm(x, float(ord), tuple(range(-x.ndim, 0)) if axes is None else axes, keepdims)


def matrix_norm(x: Any, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    """Norm of the matrices in the last two axes; see :func:`norm`."""
    return norm(x, ord, (-2, -1), keepdims)
