"""ResidualNet: residual blocks above each other, whose states are recorded like those of time steps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

import tinygrad182 as tg


class ResidualNet(tg.nn.Module):
    """Blocks ``h_{l+1} = σ(h_l W_lᵀ + b_l) + h_l`` between two linear layers.

    The state after block l is marked ``"h"`` at time l, so every view of gradients through time shows them
    through depth. The input of the first block is marked at time −1.

    Parameters
    ----------
    input_size, width, output_size : int
        Features of an input, of a state and of a prediction.
    depth : int
        Number of blocks.
    nonlinearity : {"tanh", "relu", "identity"}
        σ.
    skip : bool
        Whether a block adds its input. Without it, this is an ordinary network of that depth.
    rng : int or numpy.random.Generator, optional
        Draws the initial values.
    dtype, device : optional
        Dtype and device of the parameters.

    Attributes
    ----------
    stem, head : Linear
    blocks : list of ResBlock

    Examples
    --------
    >>> model = ResidualNet(2, 8, depth=6, rng=0)
    >>> prediction = model(tg.ones((5, 2)))
    >>> prediction.shape
    (5, 1)
    >>> tg.inspect.gradient_flow(prediction.sum())["residualnet"].h.grad_norm.shape
    (6,)
    """

    def __init__(
        self,
        input_size: int,
        width: int,
        output_size: int = 1,
        *,
        depth: int,
        nonlinearity: Literal["tanh", "relu", "identity"] = "tanh",
        skip: bool = True,
        rng: int | np.random.Generator | None = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(rng)
        options: dict[str, Any] = {"rng": rng, "dtype": dtype, "device": device}
        self.stem = tg.nn.Linear(input_size, width, **options)
        self.blocks = [
            tg.nn.ResBlock(width, nonlinearity, skip=skip, **options) for _ in range(depth)
        ]
        self.head = tg.nn.Linear(width, output_size, **options)

    def forward(self, x: Any) -> tg.Tensor:
        """Predict from inputs ``(B, I)``; returns ``(B, O)``."""
        h = tg.inspect.mark(self.stem(x), "h", time=-1)
        for depth, block in enumerate(self.blocks):
            h = tg.inspect.mark(block(h), "h", time=depth)
        return self.head(h)
