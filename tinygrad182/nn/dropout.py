"""Dropout: elements are left out at random while a model is trained (Srivastava et al. 2014)."""

from __future__ import annotations

import numpy as np

from .._draws import drawing_from
from .._numbers import check_number
from .._tensor import Tensor
from ..creation import beside
from ..functions import where
from .init import Rng, generator
from .inputs import as_input
from .module import Module


class Dropout(Module):
    """Each element is 0 with probability p, and divided by 1 − p otherwise, while ``training``.

    After :meth:`eval` the input comes back as it is. The mask is drawn on the host: the same seed gives
    the same elements on every device. Each call draws another one; where :func:`tinygrad182.remat` runs a
    call again, it draws the same.

    Parameters
    ----------
    p : float
        Probability of 0, in [0, 1].
    rng : int or numpy.random.Generator, optional
        Draws the masks; the generator goes on from call to call.

    Raises
    ------
    ArgumentError
        A ``p`` that is not a number in [0, 1].
    DTypeError
        In a call, something that is not an array of floating numbers.

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
        """Map any shape to the same shape."""
        x = as_input(self, x)
        return dropped(x, self.p, self._generator) if self.training and self.p else x

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p:g}"


def dropped(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
    """Each element of ``x`` is 0 with probability p, and divided by 1 − p otherwise."""
    kept = drawing_from(rng).random(x.shape) >= p
    scale = 1 / (1 - p) if p < 1 else 1.0
    return where(beside(kept, x), x * scale, 0.0)
