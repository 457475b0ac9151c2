"""Inputs and states that a user gives to a layer, as Tensors of the layer's dtype and device.

Every layer's ``forward`` begins here; :mod:`.module` says what a layer is.
"""

from __future__ import annotations

from typing import Any

from ..arrays import backend
from ..arrays.dlpack import imported
from ..engine.modes import MODES
from ..errors import DTypeError
from ..tensors.creation import as_tensor_on, stack_nested, tensor
from ..tensors.tensor import Tensor
from .module import Module, Parameter


def as_input(layer: Module, x: Any, what: str = "the input") -> Tensor:
    """Return an input or state as a Tensor; arrays of the host go to the layer's device.

    A list that holds Tensors becomes their stack. A tuple is refused, because it may be everything that a
    recurrent layer returned. Complex inputs pass, and complex parameters take any floating input: both are
    needed for derivatives by a complex step. Any other dtype raises: ``float64``, for example, would make a
    ``float32`` layer compute in ``float64``.
    """
    weight = _first_parameter(layer)
    if type(x) is Tensor and weight is not None and x._data.dtype is weight._data.dtype:
        return x  # the usual case, kept quick
    name = type(layer).__name__
    x = x if isinstance(x, tuple) else stack_nested(imported(x))
    if not isinstance(x, Tensor):
        if not hasattr(x, "dtype"):
            remedy = "tg.tensor(...)"
            if hasattr(x, "batch_sizes"):  # PyTorch's PackedSequence
                remedy = "padded sequences, and lengths="
            elif isinstance(x, tuple):
                remedy = "the output alone, not everything that a recurrent layer returns"
            raise DTypeError(f"{name}: {what} is a {type(x).__name__}, not a Tensor; pass {remedy}")
        x = tensor(x) if weight is None else as_tensor_on(x, weight)
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
    """The parameter that tells a layer's device and dtype; None if the layer has none."""
    for value in vars(layer).values():
        if type(value) is Parameter:
            return value
    return next(layer.parameters(), None)
