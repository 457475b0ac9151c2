"""Data of the host, that is numbers, lists and NumPy arrays: it goes where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np

from .._trees import flatten, rebuild
from ..arrays import backend
from ..arrays.backend import Array
from ..arrays.dlpack import imported, speaks
from ..errors import DeviceError, DTypeError, brief
from .operands import plain_array
from .recording import is_tensor


def on_host(data: Any) -> np.ndarray[Any, Any]:
    """Data as a NumPy array: a Tensor, an array of any library, a number, or nested lists of these.

    For what lies on a device the host waits, once for all of it. A Tensor's array is read-only.
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
    """One leaf of each type but those of Python's numbers that is in nested lists."""
    found: dict[type, Any] = {}
    for _ in range(_MOST_AXES):  # by levels, which is many times as fast as by leaves
        kinds = set(map(type, several))
        nested = {kind for kind in kinds if issubclass(kind, (list, tuple))}
        for kind in kinds - nested - backend.SCALARS - found.keys():
            found[kind] = next(x for x in several if type(x) is kind)
        if not nested:
            break
        lists = several if kinds == nested else [x for x in several if type(x) in nested]
        several = list(chain.from_iterable(lists))
    return list(found.values())


_MOST_AXES = 64
"""More than NumPy has: a list may hold itself."""


def has_dtype(data: Any) -> bool:
    """Whether data is an array or a Tensor, or something inside nested sequences is."""
    if isinstance(data, (list, tuple)):
        return any(map(speaks, leaf_of_each_type(data)))
    return speaks(data)


_INT64 = np.dtype("int64")


def whole(numbers: Array) -> Array:
    """Whole numbers as int64, the one type they are computed with: a narrower one would wrap around.

    Numbers of a ``uint64`` beyond it become its largest, which lies outside all bounds as they do.
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
    """Whether ``x`` comes from the host: a NumPy array, a number, a list. Such data is moved freely.

    So is an array of another library that is on the CPU, such as PyTorch's tensors.
    """
    x = imported(x)
    return not is_tensor(x) and (isinstance(x, np.ndarray) or not backend.is_array(x))


def numbers_as(data: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Data of the host as a NumPy array of a dtype; nothing is lost but digits and fractions.

    The elements of arrays are cast as NumPy casts them. Python's numbers must fit an integer type.

    Raises
    ------
    TypeError, ValueError, OverflowError
        Data that cannot be read, complex numbers for a real type, a number beyond an integer type.
    """
    if type(data) in (bool, int, float):
        return _floats(data, data, dtype) if dtype.kind in "fc" else np.asarray(data, dtype)
    array = plain_array(data if isinstance(data, np.ndarray) else numeric(on_host(data)))
    return cast(None if isinstance(data, np.ndarray) and array.ndim else data, array, dtype)


def numeric(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Python's numbers that no type of NumPy's holds, as float64; what is not a number stays as it is.

    Such are whole numbers beyond int64, and those of ``fractions`` and ``decimal``.

    Raises
    ------
    OverflowError
        A number beyond all floats.
    """
    if array.dtype.kind != "O" or not all(isinstance(x, (Real, Decimal)) for x in array.flat):
        return array
    return array.astype(np.float64)


def cast(data: Any, array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A NumPy array in another dtype, where numbers of ``data``, which it holds, must fit.

    Nothing need fit if that is None: elements beyond an integer type wrap then, as NumPy's do.
    """
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError(f"its elements are complex, which {dtype} cannot hold")
    if data is not None and dtype.kind in "iu" and not np.can_cast(array.dtype, dtype):
        if not has_dtype(data):  # NumPy looks at each of Python's numbers
            return np.asarray(data, dtype=dtype).reshape(array.shape)
        _check_range(array, np.iinfo(dtype))
    return _floats(data, array, dtype) if dtype.kind in "fc" else np.asarray(array, dtype=dtype)


def _floats(data: Any, numbers: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Numbers in a floating type, where Python's whole numbers in ``data`` must be finite.

    Its floats become infinite beyond the type, as in PyTorch.
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
    """A value as an array of the library, device and dtype of ``like``: the one reader of values.

    Data of the host goes there; what lives elsewhere goes only if told to ``move``. The memory may be
    that of ``value``.

    Raises
    ------
    DeviceError
        A Tensor, or an array of a device, that lives elsewhere and is not to be moved.
    TypeError, ValueError, OverflowError
        Something that cannot be read as numbers of this type, see :func:`numbers_as`.
    """
    if type(value) is type(like) is np.ndarray and value.dtype == like.dtype:
        return value  # the step of an optimizer
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
    """What :func:`convert` gives; its errors as ours, which name the operation.

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
