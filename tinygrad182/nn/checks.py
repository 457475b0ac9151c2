"""What layers ask of their arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..creation import beside
from ..errors import ArgumentError, DTypeError, brief
from .module import Module


def check_size(layer: object, name: str, value: Any, least: int) -> int:
    """A number of features, units or layers.

    Raises
    ------
    ArgumentError
        No whole number, or one below ``least``.
    """
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(
            f"{type(layer).__name__}: {name} {brief(value)} must be a whole number from {least}"
        )
    return int(value)


def as_input(layer: Module, x: Any, what: str = "the input") -> Tensor:
    """An input or state as a Tensor; arrays are wrapped, and those of the host go to the layer's device.

    Raises
    ------
    DTypeError
        Something else than a Tensor or an array, or elements that are whole numbers or Booleans:
        they would turn a float32 layer's results into float64.
    """
    name = type(layer).__name__
    if not isinstance(x, Tensor):
        if not hasattr(x, "dtype"):
            hint = (
                "the output alone of what a recurrent layer returns"
                if type(x) is tuple
                else "tg.tensor(...)"
            )
            raise DTypeError(f"{name}: {what} is a {type(x).__name__}, not a Tensor; pass {hint}")
        x = beside(x, next(layer.parameters()))
    xp = backend.namespace(x._data)
    if not (xp.is_floating(x._data) or xp.is_complex(x._data)):
        raise DTypeError(f"{name}: {what} has dtype {x.dtype}; pass x.astype('float32')")
    return x
