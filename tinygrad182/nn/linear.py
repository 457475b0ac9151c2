"""The affine layer, y = x Wᵀ + b: the simplest layer, and an example of how layers are written."""

from __future__ import annotations

import math
from typing import Any

from .._numbers import check_whole
from ..errors import ShapeError
from ..tensors.creation import check_shape
from ..tensors.functions import matmul
from ..tensors.tensor import Tensor
from .init import Rng, generator, new_parameter
from .inputs import as_input
from .module import Module


class Linear(Module):
    """y = x Wᵀ + b over the last axis.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    rng : int or numpy.random.Generator, optional
        Draws the initial values uniformly from ±1/√in_features, as in PyTorch.
    dtype, device
        ``float32`` on the default device.

    Attributes
    ----------
    weight : Parameter ``(out_features, in_features)``
    bias : Parameter ``(out_features,)`` or None

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.Linear(3, 2, rng=0)(tg.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.in_features = check_whole(self, "in_features", in_features, 0)
        self.out_features = check_whole(self, "out_features", out_features, 0)
        rows, columns = check_shape((self.out_features, self.in_features), "Linear")
        draw, bound = generator(rng), 1 / math.sqrt(columns) if columns else 0.0
        self.weight = new_parameter(draw.uniform(-bound, bound, (rows, columns)), dtype, device)
        self.bias = None
        if bias:
            self.bias = new_parameter(draw.uniform(-bound, bound, rows), dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        x = as_input(self, x)
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"Linear: input of shape {x.shape}; its last axis must be {self.in_features}"
            )
        y = matmul(x, self.weight.T)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Return the layer's sizes."""
        bias = ", bias=False" if self.bias is None else ""
        return f"{self.in_features}, {self.out_features}{bias}"
