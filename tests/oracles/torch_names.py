"""PyTorch's names on NumPy's arrays, as far as the table's references use them.

So every row has a reference for its value that is always installed. Functions of numbers are Python's own
(``math``), which owe nothing to NumPy's loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

Axes = int | tuple[int, ...] | None


class Tensor(np.ndarray[Any, Any]):
    """An array whose methods are called as PyTorch's are."""

    def numpy(self) -> np.ndarray[Any, Any]:
        return np.asarray(self)

    def detach(self) -> Tensor:
        return self

    def clone(self) -> Tensor:
        return tensor(self.numpy().copy())

    def float(self) -> Tensor:
        return self.astype(np.float32)

    def numel(self) -> int:
        return self.size

    # reductions

    def sum(self, dim: Axes = None, keepdim: bool = False) -> Tensor:  # type: ignore[override]
        return tensor(np.sum(self.numpy(), axis=dim, keepdims=keepdim))

    def mean(self, dim: Axes = None, keepdim: bool = False) -> Tensor:  # type: ignore[override]
        return tensor(np.mean(self.numpy(), axis=dim, keepdims=keepdim))

    def prod(self, dim: Axes = None, keepdim: bool = False) -> Tensor:  # type: ignore[override]
        return tensor(np.prod(self.numpy(), axis=dim, keepdims=keepdim))

    # numbers

    def square(self) -> Tensor:
        return self * self

    def clamp(self, min: Any = None, max: Any = None) -> Tensor:
        return tensor(np.clip(self.numpy(), min, max))

    # shapes

    def permute(self, *axes: int) -> Tensor:
        return self.transpose(axes)

    def expand(self, *shape: int) -> Tensor:
        return tensor(np.broadcast_to(self.numpy(), shape))

    def flip(self, *axes: int) -> Tensor:
        return tensor(np.flip(self.numpy(), axes))

    def split(self, size: int, dim: int) -> list[Tensor]:
        return list(map(tensor, np.split(self.numpy(), self.shape[dim] // size, axis=dim)))

    def diagonal(self, dim1: int, dim2: int) -> Tensor:  # type: ignore[override]
        return tensor(np.diagonal(self.numpy(), axis1=dim1, axis2=dim2))

    def index_add(self, dim: int, index: Tensor, source: Tensor) -> Tensor:
        assert dim == 0
        total = self.numpy().copy()
        for i, row in zip(index, source, strict=True):
            total[i] += row
        return tensor(total)


def tensor(x: Any, dtype: Any = None) -> Tensor:
    return np.asarray(x, dtype).view(Tensor)


int64 = np.int64

# --- functions of numbers -----------------------------------------------------------------------


def _each(function: Callable[[float], float]) -> Callable[[Any], Tensor]:
    return lambda x: tensor(np.vectorize(function, otypes=[float])(np.asarray(x)))


exp, expm1, log, log1p, sqrt, sin, cos, tanh = map(
    _each,
    (math.exp, math.expm1, math.log, math.log1p, math.sqrt, math.sin, math.cos, math.tanh),
)
log2, log10, asin, acos, atan, sinh, cosh, asinh = map(
    _each,
    (
        math.log2,
        math.log10,
        math.asin,
        math.acos,
        math.atan,
        math.sinh,
        math.cosh,
        math.asinh,
    ),
)
abs = _each(math.fabs)
relu = _each(lambda x: max(x, 0.0))
sigmoid = _each(lambda x: math.exp(min(x, 0.0)) / (1.0 + math.exp(-math.fabs(x))))


def where(condition: Any, a: Any, b: Any) -> Tensor:
    return tensor(np.where(condition, a, b))


def atan2(a: Any, b: Any) -> Tensor:
    return tensor(np.vectorize(math.atan2, otypes=[float])(a, b))


def remainder(a: Any, b: Any) -> Tensor:
    return tensor(np.vectorize(lambda a, b: float(a) % float(b), otypes=[float])(a, b))


def maximum(a: Any, b: Any) -> Tensor:
    return where(a > b, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    return where(a < b, a, b)


# --- along axes ---------------------------------------------------------------------------------


def amax(x: Tensor, dim: Axes, keepdim: bool = False) -> Tensor:
    return tensor(np.max(x.numpy(), axis=dim, keepdims=keepdim))


def amin(x: Tensor, dim: Axes, keepdim: bool = False) -> Tensor:
    return tensor(np.min(x.numpy(), axis=dim, keepdims=keepdim))


def logsumexp(x: Tensor, dim: Axes, keepdim: bool = False) -> Tensor:
    largest = amax(x, dim, keepdim=True)
    total = largest + log(exp(x - largest).sum(dim, keepdim=True))
    return total if keepdim else tensor(np.squeeze(total.numpy(), axis=dim))


def log_softmax(x: Tensor, dim: int) -> Tensor:
    shifted = x - amax(x, dim, keepdim=True)
    return shifted - log(exp(shifted).sum(dim, keepdim=True))


def softmax(x: Tensor, dim: int) -> Tensor:
    weights = exp(x - amax(x, dim, keepdim=True))
    return weights / weights.sum(dim, keepdim=True)


def var(x: Tensor, dim: Axes = None, correction: int = 0, keepdim: bool = False) -> Tensor:
    off = (x - x.mean(dim, keepdim=True)).square()
    total = off.sum(dim, keepdim)
    return total / (off.size / total.size - correction)


def std(x: Tensor, dim: Axes = None, correction: int = 0, keepdim: bool = False) -> Tensor:
    return sqrt(var(x, dim, correction, keepdim))


def cumsum(x: Tensor, dim: int) -> Tensor:
    parts = np.moveaxis(x.numpy(), dim, 0)
    sums = [parts[: i + 1].sum(0) for i in range(len(parts))]
    return tensor(np.moveaxis(np.reshape(sums, parts.shape), 0, dim))


def cumprod(x: Tensor, dim: int) -> Tensor:
    parts = np.moveaxis(x.numpy(), dim, 0)
    products = [parts[: i + 1].prod(0) for i in range(len(parts))]
    return tensor(np.moveaxis(np.reshape(products, parts.shape), 0, dim))


# --- several arrays -----------------------------------------------------------------------------


def cat(xs: Sequence[Tensor], dim: int = 0) -> Tensor:
    return tensor(np.concatenate([x.numpy() for x in xs], axis=dim))


concat = cat


def stack(xs: Sequence[Tensor], dim: int = 0) -> Tensor:
    return tensor(np.stack([x.numpy() for x in xs], axis=dim))


def zeros(*shape: int, dtype: Any) -> Tensor:
    return tensor(np.zeros(shape, dtype))


def zeros_like(x: Tensor) -> Tensor:
    return tensor(np.zeros(x.shape, x.dtype))


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[:, None] * b


def einsum(subscripts: str, *xs: Tensor) -> Tensor:
    return tensor(np.einsum(subscripts, *(x.numpy() for x in xs)))


def _pad(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """The last axis comes first in ``pads``."""
    pairs = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    return tensor(np.pad(x.numpy(), pairs, constant_values=value))


nn = SimpleNamespace(functional=SimpleNamespace(pad=_pad))
