"""Operands that are not Tensors: numbers and arrays are read, and errors explain what cannot be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.cuda import unusable
from ..arrays.dlpack import imported
from ..arrays.namespaces import NAMESPACES, SCALARS, Array
from ..errors import DeviceError, DTypeError, GraphError, ShapeError, TinygradError, brief
from .modes import MODES


def as_array(x: Any) -> Array:
    """The array behind an operand that is not a Tensor.

    A NumPy scalar becomes a Python number. So does a 0-d array, because NumPy makes one from a scalar on
    the left of a comparison. A list stays a list.
    """
    if isinstance(x, np.ndarray):
        x = plain_array(x)
        return x if x.ndim or x.dtype.char in _LONG else x.item()
    if isinstance(x, np.generic):
        return np.asarray(x) if x.dtype.char in _LONG else x.item()
    if type(x) in SCALARS or type(x) in NAMESPACES:
        return x
    number: Any
    for number in (int, float, complex):
        if isinstance(x, number):  # x.size, an IntEnum
            return number(x)
    array = imported(x)
    return x if array is x else as_array(array)


_LONG = "gG"
"""Codes of NumPy's long types, which Python's numbers cannot hold."""


def plain_array(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A NumPy array of numbers as a plain ``ndarray``; subclasses with other operators are refused."""
    if x.dtype.kind not in "biufc":
        raise DTypeError(f"an array of dtype {x.dtype} is not numeric")
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.matrix) or np.ma.is_masked(x):
        refuse_subclass(x)
    return np.asarray(x)


_SUBCLASSES = {
    np.matrix: "use np.asarray(m), and @ where its * is meant",
    np.ma.MaskedArray: "its mask would be lost: use m.filled(0), and tg.where with the mask",
}
"""Subclasses whose operators mean something else, and what to use instead."""


def refuse_subclass(x: Any, prefix: str = "") -> None:
    """Raise DTypeError for a subclass whose operators mean something else."""
    for kind, remedy in _SUBCLASSES.items():
        if isinstance(x, kind):
            raise DTypeError(f"{prefix}a {kind.__name__} beside a Tensor; {remedy}")


REFUSALS = (
    ValueError, TypeError, IndexError, OverflowError, DeviceError, GraphError, ImportError
)  # fmt: skip
"""The errors that a library raises for operands it cannot take, or if a CUDA library is missing."""


def explain(op: str, arrays: list[Any], error: Exception, requirement: str = "") -> TinygradError:
    """Turn an error of ``op`` into the framework's; ``requirement`` says which operands it takes."""
    place = MODES.get().scope.place()
    if isinstance(error, TinygradError):
        return type(error)(f"{op}{place}: {error}")
    if isinstance(error, ImportError):  # CuPy loads some CUDA libraries late
        return unusable(error)
    described = " and ".join(
        f"{tuple(a.shape)} {a.dtype}" if hasattr(a, "dtype") else brief(a) for a in arrays[:4]
    )
    taken = f"{op}: cannot take {described}{place}"
    if isinstance(error, (TypeError, OverflowError)) or "Integers to negative" in str(error):
        return DTypeError(f"{taken}: {error}")
    return ShapeError(f"{taken}: {requirement} ({error})" if requirement else f"{taken}: {error}")
