"""What an operation takes beside Tensors: numbers and arrays. What is said of anything else."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cuda import unusable
from .dlpack import imported
from .errors import DeviceError, DTypeError, GraphError, ShapeError, TinygradError, brief
from .modes import MODES
from .namespaces import NAMESPACES, SCALARS, Array


def as_array(x: Any) -> Array:
    """The array behind an operand that is not a Tensor; a NumPy scalar becomes a Python number.

    So does a 0-d array, which NumPy makes of a scalar on the left of a comparison. A list stays one.
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
"""Types of which Python has no numbers."""


def plain_array(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A NumPy array of numbers that has NumPy's own operators."""
    if x.dtype.kind not in "biufc":
        raise DTypeError(f"an array of dtype {x.dtype} is not numeric")
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.matrix) or np.ma.is_masked(x):
        refuse_subclass(x)
    return np.asarray(x)  # subclasses bring operators of their own


_SUBCLASSES = {
    np.matrix: "use np.asarray(m), and @ where its * is meant",
    np.ma.MaskedArray: "its mask would be lost: use m.filled(0), and tg.where with the mask",
}
"""Arrays whose operators mean something else than ours, and what to use."""


def refuse_subclass(x: Any, prefix: str = "") -> None:
    """Raise DTypeError for an array whose operators mean something else than ours."""
    for kind, remedy in _SUBCLASSES.items():
        if isinstance(x, kind):
            raise DTypeError(f"{prefix}a {kind.__name__} beside a Tensor; {remedy}")


REFUSALS = (
    ValueError, TypeError, IndexError, OverflowError, DeviceError, GraphError, ImportError
)  # fmt: skip
"""What a library raises of operands it cannot take, or where one of CUDA's own is missing."""


def explain(op: str, arrays: list[Any], error: Exception, requirement: str = "") -> TinygradError:
    """The framework's error for what ``op`` raised; ``requirement`` says which shapes it takes."""
    place = MODES.get().scope.place()
    if isinstance(error, TinygradError):  # operands of two libraries, or that are no operands
        return type(error)(f"{op}{place}: {error}")
    if isinstance(error, ImportError):  # CuPy loads some of CUDA's libraries when they are needed
        return unusable(error)
    described = " and ".join(
        f"{tuple(a.shape)} {a.dtype}" if hasattr(a, "dtype") else brief(a) for a in arrays[:4]
    )
    taken = f"{op}: cannot take {described}{place}"
    if isinstance(error, (TypeError, OverflowError)) or "Integers to negative" in str(error):
        return DTypeError(f"{taken}: {error}")
    return ShapeError(f"{taken}: {requirement} ({error})" if requirement else f"{taken}: {error}")
