"""What ``.to(...)`` is asked for, and the type that half precision is computed in."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import backend
from ..arrays.dlpack import imported
from ..arrays.namespaces import Array, numpy_dtype
from ..engine.recording import is_tensor
from ..errors import CallError, DTypeError


def read_target(target: tuple[Any, ...], device: str | None, dtype: Any) -> tuple[str | None, Any]:
    """The device and the dtype that ``.to(...)`` is asked for; None for what stays.

    Raises
    ------
    CallError
        Nothing, or one of the two twice.
    DeviceError
        Something that is neither the name of a device nor a dtype.
    """
    found: dict[str, Any] = {}
    given = [("device", device), ("dtype", dtype)]
    for x in target:
        array = x._data if is_tensor(x) else imported(x)
        if backend.is_array(array):
            given += [
                ("device", backend.namespace(array).device(array)),
                ("dtype", array.dtype),
            ]
        else:
            given.append(("dtype" if _is_dtype(x) else "device", x))
    for name, value in given:
        if value is not None and found.setdefault(name, value) is not value:
            raise CallError(f"to: two of {name}, {found[name]!r} and {value!r}; pass one")
    if not found:
        raise CallError("to: pass a device such as 'cuda', a dtype such as 'float64', or both")
    place, kind = found.get("device"), found.get("dtype")
    if kind is not None and _is_dtype(kind):
        kind = numpy_dtype(kind)
    return None if place is None else backend.check_device(place), kind


def _is_dtype(x: Any) -> bool:
    if x is None or (isinstance(x, str) and x.partition(":")[0] in ("cpu", "cuda")):
        return False
    try:
        numpy_dtype(x)
    except DTypeError:
        return False
    return True


def is_half(dtype: Any) -> bool:
    """Whether a dtype is of half precision, ``float16`` or another library's ``bfloat16``."""
    if dtype is _SINGLE or dtype is _DOUBLE:  # a step of an optimizer asks for every parameter
        return False
    return str(dtype).endswith("float16")


_SINGLE, _DOUBLE = np.dtype("float32"), np.dtype("float64")


def widened(array: Array) -> Array:
    """An array in the type in which sums, moments and counts are kept: ``float32`` for half precision."""
    if not is_half(array.dtype):
        return array
    return backend.namespace(array).astype(array, "float32")
