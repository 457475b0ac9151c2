"""Arrays of libraries of which we only know that they speak DLPack, such as PyTorch's tensors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..errors import DeviceError, DTypeError, GraphError
from .cuda import import_cupy
from .namespaces import NAMESPACES, SCALARS

_CPU, _CUDA = 1, 2
"""Kinds of device, as DLPack numbers them."""


def imported(x: Any) -> Any:
    """An array of NumPy, or of CuPy on its device, that shares memory with an array of another library.

    Anything else is returned as it is: what belongs to a library that is known or speaks the Array API,
    and what is not an array.

    Raises
    ------
    GraphError
        A tensor that requires grad in its own library, whose gradients would be lost.
    DTypeError
        A dtype or layout that DLPack or NumPy do not have, such as bfloat16.
    DeviceError
        A device that is neither the CPU nor CUDA's.

    Examples
    --------
    >>> import numpy as np
    >>> class Foreign:
    ...     def __dlpack__(self, **options):
    ...         return np.arange(3).__dlpack__()
    ...     def __dlpack_device__(self):
    ...         return (1, 0)
    >>> imported(Foreign())
    array([0, 1, 2])
    """
    kind = type(x)
    if kind in NAMESPACES or kind in SCALARS or not hasattr(kind, "__dlpack__"):
        return x
    if hasattr(x, "__array_namespace__") or issubclass(kind, tuple(NAMESPACES)):
        return x
    library = kind.__module__.partition(".")[0]
    if library == "cupy":
        return x
    name = f"{library}.{kind.__name__}"
    if getattr(x, "requires_grad", False):
        raise GraphError(
            f"a {name} requires grad, and its gradients would be lost; pass x.detach()"
        )
    try:
        place = x.__dlpack_device__()[0]
        if place not in (_CPU, _CUDA):
            raise DeviceError(f"a {name} is on a device that cannot be read; move it: x.cpu()")
        return np.from_dlpack(x) if place == _CPU else import_cupy().from_dlpack(x)
    except DeviceError:
        raise
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DTypeError(
            f"a {name} of dtype {getattr(x, 'dtype', 'unknown')} cannot be read: {error}; "
            "convert it first, as in x.float()"
        ) from error


def speaks(x: Any) -> bool:
    """Whether something is an array: it has a dtype, or hands its elements over by DLPack."""
    return hasattr(x, "dtype") or hasattr(type(x), "__dlpack__")


def exported(array: Any, like: Any) -> Any:
    """An array in the library of ``like``, which :func:`imported` may have read, if that takes it back."""
    if imported(like) is like:
        return array
    library = sys.modules[type(like).__module__.partition(".")[0]]
    take = getattr(library, "from_dlpack", None)
    return array if take is None else take(array)
