"""``tg.nn.functional``: functions of layers and losses under the names of PyTorch's ``functional``.

The functions themselves are in ``functions.py`` and :mod:`.losses`. Classes are on the last axis;
PyTorch's ``cross_entropy`` has them on axis 1.

>>> import tinygrad182 as tg
>>> tg.nn.functional.softmax(tg.tensor([0.0, 0.0]), dim=-1)
tensor([0.5, 0.5])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._suggestions.calls import explains_calls, names_of
from .._suggestions.torch_names import FUNCTIONAL
from ..tensors import functions
from ..tensors.tensor import Tensor
from .losses import cross_entropy, mse_loss

log_softmax = explains_calls(functions.log_softmax)
relu = explains_calls(functions.relu)
sigmoid = explains_calls(functions.sigmoid)
softmax = explains_calls(functions.softmax)
tanh = explains_calls(functions.tanh)


@explains_calls
def linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map ``(..., in)`` to ``(..., out)``: x Wᵀ + b, with ``weight`` of shape ``(out, in)``."""
    y = functions.matmul(x, functions.transpose(weight))
    return y if bias is None else y + bias


__all__ = [
    "cross_entropy",
    "linear",
    "log_softmax",
    "mse_loss",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__, "tg.nn.functional", FUNCTIONAL)
