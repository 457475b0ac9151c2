"""Dropout: elements are set to 0 at random while a model is trained (Srivastava et al. 2014)."""

from __future__ import annotations

import numpy as np

from .._numbers import check_number
from ..tensors.creation import as_tensor_on
from ..tensors.functions import where
from ..tensors.tensor import Tensor
from ..transforms.random_tape import drawing_from
from .init import Rng, generator
from .inputs import as_input
from .module import Module


class Dropout(Module):
    """In training, each element is set to 0 with probability p and divided by 1 − p otherwise.

    After :meth:`eval` the input is returned unchanged. Each call draws a new mask; only when
    :func:`tinygrad182.remat` repeats a call does it repeat the mask. Masks are drawn on the host, so a seed
    gives the same mask on every device.

    Parameters
    ----------
    p : float
        Probability of 0, in [0, 1].
    rng : int or numpy.random.Generator, optional
        Draws the masks of all calls, one after the other.

    Raises
    ------
    ArgumentError
        ``p`` is not a number in [0, 1].
    DTypeError
        The input of a call is not an array of floating numbers.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> dropout = tg.nn.Dropout(0.5, rng=0)
    >>> dropout(tg.ones(6))
    tensor([2., 0., 0., 0., 2., 2.])
    >>> dropout.eval()(tg.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, *, rng: Rng = None) -> None:
        self.p = check_number(self, "p", p, most=1)
        self._generator = generator(rng)

    def forward(self, x: Tensor) -> Tensor:
        """Map an input of any shape to an output of that shape."""
        x = as_input(self, x)
        return dropped(x, self.p, self._generator) if self.training and self.p else x

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p:g}"


def dropped(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
    """Return ``x`` with each element set to 0 with probability p, and divided by 1 − p otherwise."""
    mask = drawing_from(rng).random(x.shape) >= p
    scale = 1 / (1 - p) if p < 1 else 1.0
    return where(as_tensor_on(mask, x), x * scale, 0.0)
