"""The switch between NumPy and CuPy: devices, copies between them, and norms of arrays on any device.

The array itself is the switch. An operation asks :func:`namespace` for the functions of its operands'
library; operands of two libraries or devices raise an error. :class:`~tinygrad182.Tensor` is registered
too, with the framework's own functions as its namespace. A derivative rule that is written once for a
namespace therefore also runs on Tensors, and is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..errors import DeviceError, MissingDependencyError
from .cuda import import_cupy
from .namespaces import (
    ANYWHERE,
    NAMESPACES,
    NUMPY,
    Array,
    Namespace,
    is_array,
    move,
    namespace,
    namespace_on,
)

# the names of tg.backend, from here and from namespaces.py
__all__ = [
    "NAMESPACES", "NUMPY", "Namespace", "check_device", "copy", "cuda_is_available", "fetch",
    "is_array", "move", "namespace", "namespace_on", "norm", "norms", "on", "tops_and_sums",
]  # fmt: skip


def cuda_is_available() -> bool:
    """Whether CuPy is installed, can be used, and finds a CUDA device.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> device = "cuda" if tg.cuda_is_available() else "cpu"
    """
    try:
        return bool(import_cupy().cuda.runtime.getDeviceCount() and namespace_on("cuda:0"))
    except (MissingDependencyError, RuntimeError):
        return False


def check_device(device: Any) -> str:
    """Check that a device exists and return its full name: ``"cuda"`` becomes ``"cuda:0"``.

    A device object of another library, such as PyTorch's, is read by its name.

    Raises
    ------
    DeviceError
        The name is unknown, there is no CUDA driver or device, or the number is beyond the last device.
    MissingDependencyError
        CuPy is not installed, is too old, or cannot load CUDA's libraries.
    """
    name = str(device)
    if name == "cpu":
        return name
    kind, _, ordinal = name.partition(":")
    if kind != "cuda" or (ordinal and not ordinal.isdecimal()):
        raise DeviceError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:N'")
    cupy = import_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        raise DeviceError(
            f"device {device!r}: CuPy is installed but finds no usable CUDA driver or GPU ({error}); "
            "install the NVIDIA driver, or use device 'cpu'"
        ) from error
    if int(ordinal or 0) >= count:
        raise DeviceError(
            f"device {device!r}: this machine has {count} CUDA device(s), numbered from 0"
        )
    namespace_on("cuda")  # raises if this CuPy is too old
    return f"cuda:{int(ordinal or 0)}"


def on(array: Array) -> AbstractContextManager[Any]:
    """Context in which the array's library works on the array's device. On the CPU it does nothing."""
    xp = NAMESPACES[type(array)]
    return xp.on(array) if getattr(xp, "guarded", False) else ANYWHERE


_HOST = {np.ndarray}


def is_away(arrays: Iterable[Array]) -> bool:
    """Whether any array is on a CUDA device, so that the host would wait for its values."""
    kinds = set(map(type, arrays))
    return kinds != _HOST and any(getattr(NAMESPACES.get(kind), "guarded", False) for kind in kinds)


def device_of(array: Array) -> str:
    """Name of the device of an array."""
    device: str = namespace(array).device(array)
    return device


def copy(array: Array) -> Array:
    """A copy on the array's device, with memory of its own."""
    return namespace(array).copy(array)


def is_half(dtype: Any) -> bool:
    """Whether a dtype has half precision: ``float16``, or ``bfloat16`` of another library."""
    if dtype is _SINGLE or dtype is _DOUBLE:  # an optimizer's step asks for every parameter
        return False
    return str(dtype).endswith("float16")


_SINGLE, _DOUBLE = np.dtype("float32"), np.dtype("float64")


def widened(array: Array) -> Array:
    """The array as ``float32`` if it has half precision, which is too narrow for sums; else itself."""
    return namespace(array).astype(array, "float32") if is_half(array.dtype) else array


def fetch(arrays: Sequence[Array]) -> list[np.ndarray[Any, Any]]:
    """Arrays as NumPy arrays. The host waits once for each device, for any number of arrays.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> [x.shape for x in tg.backend.fetch([tg.ones(3).data, tg.zeros((2, 2)).data])]
    [(3,), (2, 2)]
    """
    by_device: dict[tuple[Namespace, str], list[int]] = {}
    for i, x in enumerate(arrays):
        xp = namespace(x)
        by_device.setdefault((xp, xp.device(x)), []).append(i)
    found: dict[int, np.ndarray[Any, Any]] = {}
    for (xp, _), at in by_device.items():
        found.update(zip(at, xp.fetch([arrays[i] for i in at]), strict=True))
    return [found[i] for i in range(len(arrays))]


def norms(arrays: Sequence[Array]) -> list[float]:
    """Frobenius norms in float64, exact where squares of the elements would overflow or underflow.

    The host waits once for each device, for any number of arrays. On CUDA a float32 element below 2^-126
    counts as 0, as in every operation there.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> tg.backend.norms([np.array([3e-200, 4e-200]), np.array([[0.0], [2e200]])])
    [5e-200, 2e+200]
    """
    return [
        top * math.sqrt(squares) if 0 < top < math.inf else top
        for top, squares in tops_and_sums(arrays)
    ]


def tops_and_sums(arrays: Sequence[Array], power: float = 2.0) -> list[tuple[float, float]]:
    """For each array its largest magnitude, and the sum of (magnitude / largest) ** power.

    The sum is not defined where the largest is 0, infinite or NaN. The host waits once for each device.
    """
    pairs = [_top_and_sum(array, power) for array in arrays]
    far = [x for pair in pairs if type(pair[0]) is not float for x in pair]
    fetched = map(float, fetch(far) if far else ())
    found = []
    for top, total in pairs:
        if type(top) is not float:
            top, total = next(fetched), next(fetched)
        found.append((top, float(total)))
    return found


def _top_and_sum(array: Array, power: float) -> tuple[Any, Any]:
    """The pair for one array; for CUDA as two arrays, so that the host need not wait yet."""
    xp = namespace(array)
    if not math.prod(array.shape):
        return 0.0, 0.0
    with xp.on(array):
        wide = xp.astype(xp.abs(array), "float64")
        top = xp.max(wide)
        if xp.guarded:
            return top, xp.sum((wide / xp.where(top > 0, top, 1.0)) ** power)
        top = float(top)
        if not 0 < top < math.inf:
            return top, 0.0
        wide /= top  # in place: it is a copy
        return top, xp.sum(wide**power)


def norm(array: Array) -> float:
    """Frobenius norm of one array, see :func:`norms`."""
    return norms([array])[0]
