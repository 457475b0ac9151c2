"""The residual block: a layer whose input is added to its output (He et al. 2016)."""

from __future__ import annotations

from typing import Any

from .._numbers import check_whole
from ..engine.marks import mark
from ..tensors.tensor import Tensor
from .init import Rng
from .linear import Linear
from .module import Module
from .nonlinearity import Nonlinearity, apply_nonlinearity, check_nonlinearity, name_of


class ResBlock(Module):
    """y = σ(x Wᵀ + b) + x: a layer, the branch, with a path around it.

    The branch is marked ``"branch"``, so that ``tg.inspect.grad_by_hops(through="branch")`` can separate
    the paths through it from those around it.

    Parameters
    ----------
    width : int
        Features of input and output.
    nonlinearity : {"tanh", "relu", "identity"}, Primitive or callable
        σ, as in :class:`RNN`.
    bias : bool
    skip : bool
        Whether ``x`` is added. Without it this is an ordinary layer, for comparison.
    rng, dtype, device
        As for :class:`Linear`.

    Attributes
    ----------
    linear : Linear
        W and b.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.ResBlock(4, rng=0)(tg.ones((2, 4))).shape
    (2, 4)
    """

    def __init__(
        self,
        width: int,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        skip: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        width = check_whole(self, "width", width, 1)
        self.nonlinearity = check_nonlinearity(self, nonlinearity, width, device)
        self.skip = skip
        self.linear = Linear(width, width, bias, rng=rng, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., width)`` to an output of that shape."""
        branch = mark(apply_nonlinearity(self.nonlinearity, self.linear(x)), "branch")
        return branch + x if self.skip else branch

    def extra_repr(self) -> str:
        """Return the block's nonlinearity."""
        return name_of(self.nonlinearity) + ("" if self.skip else ", skip=False")
