"""Layer normalization (Ba, Kiros and Hinton 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._numbers import check_number
from ..arrays.backend import is_half
from ..errors import ArgumentError, ShapeError
from ..tensors.creation import check_shape, integers
from ..tensors.functions import mean, sqrt, square
from ..tensors.tensor import Tensor
from .init import new_parameter
from .inputs import as_input
from .module import Module


class LayerNorm(Module):
    """y = (x − mean) / √(variance + eps) · weight + bias, over the last axes.

    For inputs in half precision, mean and variance are computed in ``float32``.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Sizes of the last axes.
    eps : float
        Keeps the quotient finite where all elements are equal.
    elementwise_affine : bool
        Whether there are a weight and a bias.
    bias : bool
        Whether there is a bias.
    dtype, device
        ``float32`` on the default device.

    Attributes
    ----------
    weight, bias : Parameter of ``normalized_shape``, or None
        They start at 1 and at 0.

    Raises
    ------
    ArgumentError
        Sizes are missing or not whole numbers from 1, or ``eps`` is negative.
    ShapeError
        The last axes of an input are not ``normalized_shape``.
    DTypeError
        An input has another dtype than the weight.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.LayerNorm(2, eps=0.0)(tg.tensor([[1.0, 3.0], [2.0, 6.0]])).detach()
    tensor([[-1.,  1.],
            [-1.,  1.]])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.normalized_shape = shape = integers(
            normalized_shape, "LayerNorm", "normalized_shape", 1
        )
        if not shape:
            raise ArgumentError(
                "LayerNorm: normalized_shape () has no axes; pass the sizes of the last"
            )
        self.eps = check_number(self, "eps", eps)
        check_shape(shape, "LayerNorm")
        ones, zeros = np.ones(shape), np.zeros(shape)
        self.weight = new_parameter(ones, dtype, device) if elementwise_affine else None
        self.bias = new_parameter(zeros, dtype, device) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., *normalized_shape)`` to an output of that shape."""
        x = as_input(self, x)
        count = len(self.normalized_shape)
        if x.shape[-count:] != self.normalized_shape:
            raise ShapeError(
                f"LayerNorm: input of shape {x.shape}; its last axes must be {self.normalized_shape}"
            )
        axes = tuple(range(-count, 0))
        wide = x.astype("float32") if is_half(x.dtype) else x
        centred = wide - mean(wide, axes, keepdims=True)
        y = centred / sqrt(mean(square(centred), axes, keepdims=True) + self.eps)
        y = y if self.weight is None else y * self.weight
        y = y if self.bias is None else y + self.bias
        return y.astype(x.dtype) if wide is not x else y

    def extra_repr(self) -> str:
        """Return the sizes and eps."""
        sizes = self.normalized_shape
        shown = sizes[0] if len(sizes) == 1 else sizes
        options = "" if self.weight is not None else ", elementwise_affine=False"
        options += ", bias=False" if self.weight is not None and self.bias is None else ""
        return f"{shown}, eps={self.eps:g}{options}"
