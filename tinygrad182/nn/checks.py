"""What layers ask of their arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import backend
from ..arrays.dlpack import imported
from ..engine.modes import MODES
from ..errors import ArgumentError, DTypeError, brief
from ..tensors.creation import beside, gathered, tensor
from ..tensors.tensor import Tensor
from .module import Module, Parameter


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

    A list that holds Tensors is the stack of them. A tuple is refused: it may be all that a recurrent
    layer returns.

    Raises
    ------
    DTypeError
        Something else than a Tensor or an array, or elements of another dtype than the layer's
        parameters: whole numbers, or ``float64``, in which a ``float32`` layer would go on computing.
        Complex ones pass, and any into complex parameters, for derivatives by a complex step.
    """
    weight = _first_parameter(layer)
    if type(x) is Tensor and weight is not None and x._data.dtype is weight._data.dtype:
        return x  # what it nearly always is
    name = type(layer).__name__
    x = x if isinstance(x, tuple) else gathered(imported(x))
    if not isinstance(x, Tensor):
        if not hasattr(x, "dtype"):
            hint = "tg.tensor(...)"
            if hasattr(x, "batch_sizes"):  # PyTorch's PackedSequence
                hint = "padded sequences, and lengths="
            elif isinstance(x, tuple):
                hint = "the output alone of what a recurrent layer returns"
            raise DTypeError(f"{name}: {what} is a {type(x).__name__}, not a Tensor; pass {hint}")
        x = tensor(x) if weight is None else beside(x, weight)
    if weight is not None and x._data.dtype is weight._data.dtype:
        return x
    xp = backend.namespace(x._data)
    if xp.is_floating(x._data):
        if weight is None or x.dtype == weight.dtype or xp.is_complex(weight._data):
            return x
        path = MODES.get().scope.module
        where = f", in {path}" if path else ""
        raise DTypeError(
            f"{name}: {what} has dtype {x.dtype}, the parameters {weight.dtype}{where}; "
            f"pass x.astype('{weight.dtype}'), or change the model: model.to(dtype='{x.dtype}')"
        )
    if not xp.is_complex(x._data):
        kind = "float32" if weight is None else weight.dtype
        raise DTypeError(f"{name}: {what} has dtype {x.dtype}; pass x.astype('{kind}')")
    return x


def _first_parameter(layer: Module) -> Parameter | None:
    """The parameter that says where a layer lives and of which dtype it is; None without one."""
    for value in vars(layer).values():
        if type(value) is Parameter:
            return value
    return next(layer.parameters(), None)
