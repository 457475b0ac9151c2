"""The argument ``nonlinearity`` of layers: a name, a primitive, or any function of a Tensor.

The function must return a Tensor of the shape of its argument. :mod:`.rnn` and :mod:`.residual` use this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

from ..engine.modes import modes_kept, no_grad
from ..engine.recording import apply
from ..errors import ArgumentError, brief
from ..primitives import Primitive
from ..tensors import functions
from ..tensors.creation import check_shape, tensor
from ..tensors.tensor import Tensor

Nonlinearity = Literal["tanh", "relu", "identity"] | Primitive | Callable[[Any], Any]

NAMES = ("tanh", "relu", "identity")


def apply_nonlinearity(nonlinearity: Nonlinearity, x: Tensor) -> Tensor:
    """Apply a nonlinearity."""
    if isinstance(nonlinearity, str):
        return x if nonlinearity == "identity" else getattr(functions, nonlinearity)(x)
    if isinstance(nonlinearity, Primitive):
        return apply(nonlinearity, x)
    return nonlinearity(x)


def sample_of(shape: tuple[int, ...], device: str | None) -> Tensor:
    """A Tensor of small numbers on which a user's function is tried. They differ, so no variance is 0."""
    values = np.linspace(0.1, 0.9, math.prod(shape), dtype=np.float32)
    return tensor(values.reshape(shape), device=device)


@modes_kept
def check_nonlinearity(
    layer: object, nonlinearity: Any, units: int, device: str | None = None
) -> Any:
    """Return a nonlinearity after a check; a function is called once on an array of ``units`` columns."""
    what = f"{type(layer).__name__}: nonlinearity"
    if isinstance(nonlinearity, str) and nonlinearity in NAMES:
        return nonlinearity
    if isinstance(nonlinearity, type) or not isinstance(nonlinearity, (Primitive, Callable)):  # type: ignore[arg-type]
        raise ArgumentError(
            f"{what} {brief(nonlinearity)}; use one of {', '.join(NAMES)}, or pass a function "
            "such as tg.sin, or a tg.Primitive"
        )
    what += f" {name_of(nonlinearity)}"
    shape = check_shape((2, units), type(layer).__name__)
    numbers = sample_of(shape, device)
    try:
        with no_grad():
            y = apply_nonlinearity(nonlinearity, numbers)
    except Exception as error:
        found = f"{what} fails on a Tensor of shape {shape}: {type(error).__name__}: {error}"
        raise ArgumentError(found) from error
    remedy = "return a Tensor of real numbers with the shape of the argument"
    if not isinstance(y, Tensor):
        raise ArgumentError(f"{what} returns a {type(y).__name__}; {remedy}")
    if y.shape != numbers.shape or y.dtype.kind != "f":
        found = f"returns shape {y.shape} and dtype {y.dtype} for shape {numbers.shape}"
        raise ArgumentError(f"{what} {found}; {remedy}")
    return nonlinearity


def name_of(option: Any) -> str:
    """The text of an option in messages and reprs: functions and primitives by their names."""
    if isinstance(option, partial):
        given = [*map(name_of, option.args)]
        given += [f"{name}={name_of(value)}" for name, value in option.keywords.items()]
        return f"partial({', '.join([name_of(option.func), *given])})"
    if isinstance(option, Primitive):
        return option.name
    if callable(option):
        return getattr(option, "__name__", type(option).__name__)
    return repr(option)
