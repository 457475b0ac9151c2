"""Arrays of other libraries, such as PyTorch's tensors, by the DLPack protocol."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..errors import DeviceError, DTypeError, GraphError
from .cuda import import_cupy
from .namespaces import NAMESPACES, SCALARS

_CPU, _CUDA = 1, 2
"""DLPack's numbers for the kinds of device."""


def imported(x: Any) -> Any:
    """Read an array of another library as a NumPy array, or a CuPy array on its device; memory is shared.

    Anything else is returned as it is: arrays of a library that is registered or has the Array API, and
    objects that are not arrays.

    Raises
    ------
    GraphError
        The tensor requires grad in its own library; its gradients would be lost.
    DTypeError
        DLPack or NumPy does not have the dtype, such as bfloat16, or the layout.
    DeviceError
        The array is neither on the CPU nor on a CUDA device.

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


def is_array_like(x: Any) -> bool:
    """Whether an object is an array: it has a dtype or the DLPack protocol."""
    return hasattr(x, "dtype") or hasattr(type(x), "__dlpack__")


def exported(array: Any, like: Any) -> Any:
    """An array in the library of ``like``, if it reads DLPack; the inverse of :func:`imported`."""
    if imported(like) is like:
        return array
    library = sys.modules[type(like).__module__.partition(".")[0]]
    take = getattr(library, "from_dlpack", None)
    return array if take is None else take(array)
