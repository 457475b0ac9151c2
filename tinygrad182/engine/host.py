"""Data of the host (numbers, lists and NumPy arrays) to and from arrays of any library and device."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np

from .._trees import flatten, rebuild
from ..arrays import backend
from ..arrays.dlpack import imported, is_array_like
from ..arrays.namespaces import SCALARS, Array
from ..errors import DeviceError, DTypeError, brief
from .operands import plain_array
from .recording import is_tensor


def on_host(data: Any) -> np.ndarray[Any, Any]:
    """A Tensor, an array of any library, a number, or nested lists of these, as a NumPy array.

    The host waits once for all arrays on a device. The array of a Tensor is read-only.
    """
    if is_tensor(data):
        return data.numpy()
    data = imported(data)
    if isinstance(data, np.ndarray):
        return plain_array(data)
    if backend.is_array(data):
        return backend.namespace(data).to_numpy(data)
    if isinstance(data, (list, tuple)) and has_dtype(data):
        leaves = [x._data if is_tensor(x) else imported(x) for x in flatten(data)]
        leaves = [plain_array(x) if isinstance(x, np.ndarray) else x for x in leaves]
        far = [i for i, x in enumerate(leaves) if type(x) is not np.ndarray and backend.is_array(x)]
        for i, array in zip(far, backend.fetch([leaves[i] for i in far]), strict=True):
            leaves[i] = array
        data = rebuild(data, leaves)
    return np.asarray(data)


def leaf_of_each_type(several: Sequence[Any]) -> list[Any]:
    """One leaf of each type in nested lists, without Python's numbers."""
    found: dict[type, Any] = {}
    for _ in range(_MOST_AXES):  # level by level: many times faster than leaf by leaf
        kinds = set(map(type, several))
        nested = {kind for kind in kinds if issubclass(kind, (list, tuple))}
        for kind in kinds - nested - SCALARS - found.keys():
            found[kind] = next(x for x in several if type(x) is kind)
        if not nested:
            break
        lists = several if kinds == nested else [x for x in several if type(x) in nested]
        several = list(chain.from_iterable(lists))
    return list(found.values())


_MOST_AXES = 64
"""A bound above NumPy's limit, because a list may contain itself."""


def has_dtype(data: Any) -> bool:
    """Whether data is an array or a Tensor, or nested lists that contain one."""
    if isinstance(data, (list, tuple)):
        return any(map(is_array_like, leaf_of_each_type(data)))
    return is_array_like(data)


_INT64 = np.dtype("int64")


def whole(numbers: Array) -> Array:
    """Whole numbers as int64: all are computed with in this type, because narrower ones wrap around.

    A ``uint64`` number beyond int64 becomes the largest int64, which is outside all bounds too.
    """
    dtype = numbers.dtype
    if dtype is _INT64 or (isinstance(dtype, np.dtype) and dtype == _INT64):
        return numbers
    xp = backend.namespace(numbers)
    with backend.on(numbers):
        if str(numbers.dtype).endswith("uint64"):
            largest = xp.asarray(2**63 - 1, dtype=numbers.dtype)
            numbers = xp.minimum(numbers, largest)
        return xp.astype(numbers, "int64")


def is_host_data(x: Any) -> bool:
    """Whether ``x`` is data of the host, which may be moved freely: a NumPy array, a number or a list.

    An array of another library on the CPU, such as PyTorch's tensors, counts too.
    """
    x = imported(x)
    return not is_tensor(x) and (isinstance(x, np.ndarray) or not backend.is_array(x))


def numbers_as(data: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Data of the host as a NumPy array of a dtype.

    Elements of arrays are cast as NumPy casts them. Python's numbers must fit into an integer type.

    Raises
    ------
    TypeError, ValueError, OverflowError
        Data that cannot be read, complex numbers for a real type, or a number beyond an integer type.
    """
    if type(data) in (bool, int, float):
        return _floats(data, data, dtype) if dtype.kind in "fc" else np.asarray(data, dtype)
    array = plain_array(data if isinstance(data, np.ndarray) else numeric(on_host(data)))
    return cast(None if isinstance(data, np.ndarray) and array.ndim else data, array, dtype)


def numeric(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array of Python numbers that no integer type holds as float64; other arrays stay as they are.

    These are whole numbers beyond int64, and numbers of ``fractions`` and ``decimal``.

    Raises
    ------
    OverflowError
        A number is beyond all floats.
    """
    if array.dtype.kind != "O" or not all(isinstance(x, (Real, Decimal)) for x in array.flat):
        return array
    return array.astype(np.float64)


def cast(data: Any, array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A NumPy array in another dtype; the numbers of ``data``, from which it was made, must fit.

    If ``data`` is None, elements beyond an integer type wrap as NumPy's do.
    """
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError(f"its elements are complex, which {dtype} cannot hold")
    if data is not None and dtype.kind in "iu" and not np.can_cast(array.dtype, dtype):
        if not has_dtype(data):  # NumPy checks each of Python's numbers
            return np.asarray(data, dtype=dtype).reshape(array.shape)
        _check_range(array, np.iinfo(dtype))
    return _floats(data, array, dtype) if dtype.kind in "fc" else np.asarray(array, dtype=dtype)


def _floats(data: Any, numbers: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Numbers in a floating type; Python's whole numbers in ``data`` must stay finite.

    Floats beyond the type become infinite, as in PyTorch.
    """
    try:
        with np.errstate(over="raise"):
            return np.asarray(numbers, dtype=dtype)
    except FloatingPointError:
        pass
    with np.errstate(over="ignore"):
        for x in flatten(data):
            if isinstance(x, int) and np.isinf(dtype.type(x)):
                raise OverflowError(f"{brief(x)} is beyond {dtype}; pass dtype='float64'")
        return np.asarray(numbers, dtype=dtype)


def _check_range(array: np.ndarray[Any, Any], info: np.iinfo[Any]) -> None:
    """Raise OverflowError for an element that would wrap, or is not a number."""
    whole = np.trunc(array) if array.dtype.kind == "f" else array
    fits = (whole >= info.min) & (whole < info.max + 1)
    if not fits.all():
        raise OverflowError(f"{array[~fits][0]} is out of bounds for {info.dtype}")


def convert(value: Any, like: Array, move: bool = False) -> Array:
    """A value as an array of the library, device and dtype of ``like``.

    Data of the host is moved there. Data of another device is moved only if ``move`` is True. The result
    may share memory with ``value``.

    Raises
    ------
    DeviceError
        A Tensor or an array is on another device, and ``move`` is False.
    TypeError, ValueError, OverflowError
        The value cannot be read as numbers of this type, see :func:`numbers_as`.
    """
    if type(value) is type(like) is np.ndarray and value.dtype == like.dtype:
        return value  # the common case in an optimizer's step
    value = imported(value)
    xp = backend.namespace(like)
    array = value._data if move and is_tensor(value) else value
    if is_host_data(array):  # cast before it is moved: a card may not have its dtype
        known = isinstance(like.dtype, np.dtype)
        array = numbers_as(array, like.dtype) if known else plain_array(on_host(array))
        if xp is backend.NUMPY:
            return array
        array = xp.from_numpy(array, xp.device(like))
    else:
        array = array._data if is_tensor(array) else array
        if backend.namespace(array).is_complex(array) and not xp.is_complex(like):
            raise TypeError(f"its elements are complex, which {like.dtype} cannot hold")
        array = backend.move(array, xp.device(like)) if move else array
        backend.namespace(like, array)
    with backend.on(like):
        return xp.astype(xp.asarray(array), like.dtype)


def read_as(value: Any, like: Array, op: str, what: str = "") -> Array:
    """Return ``convert(value, like)``, with errors that name the operation.

    Raises
    ------
    DeviceError, DTypeError
    """
    try:
        return convert(value, like)
    except DeviceError as error:
        raise DeviceError(f"{op}: {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        what = what or str(like.dtype)
        raise DTypeError(f"{op}: cannot read {brief(value)} as {what}: {error}") from error
