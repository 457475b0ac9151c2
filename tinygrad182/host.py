"""Data of the host, that is numbers, lists and NumPy arrays: it goes where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backend
from ._trees import flatten, rebuild
from .backend import Array
from .errors import DeviceError, DTypeError
from .recording import is_tensor, plain_array


def on_host(data: Any) -> np.ndarray[Any, Any]:
    """Data as a NumPy array: a Tensor, an array of any library, a number, or nested lists of these.

    For what lies on a device the host waits, once for all of it. A Tensor's array is read-only.
    """
    if is_tensor(data):
        return data.numpy()
    if backend.is_array(data):
        return backend.namespace(data).to_numpy(data)
    if isinstance(data, (list, tuple)) and has_dtype(data):
        leaves = [x._data if is_tensor(x) else x for x in flatten(data)]
        far = [i for i, x in enumerate(leaves) if type(x) is not np.ndarray and backend.is_array(x)]
        for i, array in zip(far, backend.fetch([leaves[i] for i in far]), strict=True):
            leaves[i] = array
        data = rebuild(data, leaves)
    return np.asarray(data)


def has_dtype(data: Any) -> bool:
    """Whether data is an array or a Tensor, or something inside nested sequences is."""
    if isinstance(data, (list, tuple)):
        return any(has_dtype(x) for x in data)
    return hasattr(data, "dtype")


def is_host_data(x: Any) -> bool:
    """Whether ``x`` comes from the host: a NumPy array, a number, a list. Such data is moved freely."""
    return not is_tensor(x) and (isinstance(x, np.ndarray) or not backend.is_array(x))


def read_as(value: Any, like: Array, op: str, what: str = "") -> Array:
    """A value as an array of the library, device and dtype of ``like``; data of the host is moved.

    Raises
    ------
    DeviceError
        A Tensor, or an array of a device, that lives elsewhere.
    DTypeError
        Something that cannot be read as numbers of this type.
    """
    xp = backend.namespace(like)
    try:
        if is_host_data(value):
            array = plain_array(value if isinstance(value, np.ndarray) else on_host(value))
            if isinstance(like.dtype, np.dtype):  # what is not needed is not transferred
                array = np.asarray(array, dtype=like.dtype)
            if xp is backend.NUMPY:
                return array
            array = xp.from_numpy(array, xp.device(like))
        else:
            array = value._data if is_tensor(value) else value
            backend.namespace(like, array)
        with backend.on(like):
            return xp.asarray(array, dtype=like.dtype)
    except DeviceError as error:
        raise DeviceError(f"{op}: {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        what = what or str(like.dtype)
        raise DTypeError(f"{op}: cannot read {value!r} as {what}: {error}") from error
