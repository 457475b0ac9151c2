"""Functions that make tensors: from data, of constants, and from the operands of an operation."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .._numbers import check_whole
from .._trees import flatten, rebuild
from ..arrays import backend
from ..arrays.backend import check_device
from ..arrays.dlpack import imported
from ..arrays.namespaces import SCALARS, Array, namespace_on, numpy_dtype
from ..engine.host import cast, has_dtype, is_host_data, leaf_of_each_type, numeric, on_host
from ..engine.modes import default_device
from ..engine.operands import as_array, plain_array
from ..engine.recording import apply, is_tensor, needs_grad, wrap
from ..errors import ArgumentError, DTypeError, GraphError, ShapeError, brief
from ..primitives import PRIMITIVES
from .tensor import Tensor

float32, float64, int32, int64 = map(np.dtype, ("float32", "float64", "int32", "int64"))

DEFAULT_DTYPE = "float32"


def tensor(
    data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor with a copy of ``data``.

    Parameters
    ----------
    data : number, array, Tensor or nested sequence of these
        An array keeps its dtype; Python numbers become ``float32`` (Booleans stay Boolean). Arrays of any
        library that speaks DLPack are taken, PyTorch's tensors included.
    dtype : dtype or str, optional
        Such as ``"float64"``; ``"int64"`` for indices given as Python numbers.
    device : str, optional
        By default a Tensor or an array of a device stays where it is. NumPy arrays and Python's numbers,
        which are data of the host, go to the device of :func:`use_device`.
    requires_grad : bool
        Whether gradients are computed for it; only floating tensors can.

    Raises
    ------
    DTypeError
        The data is not numeric, or ``requires_grad`` is set for a dtype that is not floating.
    GraphError
        A list contains a Tensor that requires grad; a copy would lose its gradients.
    ArgumentError
        Nested sequences have unequal lengths.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.tensor([[1, 2], [3, 4]]).sum().item()
    10.0
    >>> tg.tensor([0, 2], dtype="int64").dtype
    dtype('int64')
    """
    given, data = data, stack_nested(data)
    if data is not given and needs_grad(data):
        raise GraphError(
            "tensor: a copy of a list with Tensors that require grad would lose their gradients; use "
            "tg.stack([x, y]), or x.detach() if no gradients are wanted"
        )
    if isinstance(data, Tensor):
        array = data._data
    elif isinstance(data, (np.ndarray, np.generic)):
        array = plain_array(np.asarray(data) if isinstance(data, np.generic) else data)
        if array.size > _MOST:  # a view that repeats its elements
            check_shape(array.shape, "tensor")
        device = default_device(device)
    elif hasattr(data, "dtype"):
        array = data
    else:
        array = _from_numbers(data, dtype)
        device = default_device(device)
    xp = backend.namespace(array)
    place = xp.device(array)
    target = place if device in (None, place) else check_device(device)
    if target != place:
        array, xp = backend.move(array, target), namespace_on(target)
    with xp.on(array):
        array = xp.copy(array if dtype is None else xp.astype(array, xp.dtype(dtype)))
    return _leaf(array, requires_grad)


def _from_numbers(data: Any, dtype: Any) -> Array:
    """Python data as a NumPy array; real numbers get the default dtype unless ``dtype`` is given."""
    try:
        array = numeric(on_host(data))
    except ValueError as error:
        raise ArgumentError(
            f"tensor: nested sequences of unequal lengths ({error}); pad them first"
        ) from error
    except OverflowError as error:
        raise DTypeError(f"tensor: {brief(data)} is beyond all dtypes: {error}") from error
    if array.dtype.kind not in "biufc":
        raise DTypeError(
            f"tensor: data of type {type(data).__name__} is not numeric (found {array.dtype})"
        )
    if dtype is None:
        is_real = array.dtype.kind in "iuf" and not has_dtype(data)
        return _cast("tensor", data, array, float32) if is_real else array
    return _cast("tensor", data, array, numpy_dtype(dtype))


def _cast(
    op: str, data: Any, array: np.ndarray[Any, Any], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """Cast an array made of ``data`` to a dtype; raise if the dtype cannot hold Python's numbers in it."""
    try:
        return cast(data, array, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DTypeError(f"{op}: {brief(data)} cannot be {dtype}: {error}") from error


def _leaf(array: Array, requires_grad: bool) -> Tensor:
    tensor = wrap(array)
    if requires_grad:
        tensor.requires_grad = True
    return tensor


def as_tensor(x: Any) -> Tensor:
    """An operand as a Tensor: itself if it is one, else a copy; a NumPy array stays on the CPU.

    An operand is never moved. An operation on operands of two devices raises DeviceError.
    """
    if isinstance(x, Tensor):
        return x
    x = stack_nested(x)
    if is_tensor(x):
        return x
    return tensor(x, device="cpu" if isinstance(x, (np.ndarray, np.generic)) else None)


def stack_nested(x: Any) -> Any:
    """Nested lists that contain Tensors, or arrays of a device, stacked to one Tensor.

    Gradients flow back to the Tensors. Python's numbers in the lists take the dtype that they have in
    arithmetic with the Tensors. An array of a library that speaks DLPack is read; everything else is
    returned as it is.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor(2.0, requires_grad=True)
    >>> tg.sum([[w, 1], [3, w * w]]).backward()
    >>> w.grad.item()
    5.0
    """
    kind = type(x)
    if kind in backend.NAMESPACES or kind in SCALARS:
        return x
    if not isinstance(x, (list, tuple)):
        return imported(x)
    if all(map(is_host_data, leaf_of_each_type(x))):
        return x
    leaves = [imported(leaf) for leaf in flatten(x)]
    dtypes = {y.dtype for y in leaves if hasattr(y, "dtype")}
    like = first_with_device(leaves)

    def read(leaf: Any) -> Tensor:
        if type(leaf) in SCALARS and all(isinstance(dtype, np.dtype) for dtype in dtypes):
            array = np.asarray(leaf)
            leaf = _cast("stack", leaf, array, np.result_type(*dtypes, leaf))
            return as_tensor_on(leaf, like)
        return as_operand(leaf, like)

    return _stacked(rebuild(x, [read(leaf) for leaf in leaves]))


def _stacked(tree: Any) -> Tensor:
    """Stack the Tensors of nested lists, along a new axis for each level."""
    if is_tensor(tree):
        return tree
    rows = [_stacked(item) for item in tree]
    if not rows:
        raise ShapeError("stack: an empty list beside Tensors")
    return apply(PRIMITIVES["stack"], *rows, axis=-1 - rows[0].ndim)


def as_tensor_on(x: Any, like: Tensor | Array, number_dtype: np.dtype[Any] | None = None) -> Tensor:
    """Data as a Tensor: data of the host is copied to the library and the device of ``like``.

    A Tensor, or an array of a device, stays where it is. If ``number_dtype`` is given, Python's numbers
    take the dtype that they have in arithmetic with an array of that dtype.
    """
    if is_tensor(x):
        return x
    x = stack_nested(x)
    if is_tensor(x):
        return x
    if not is_host_data(x):
        return tensor(x)
    if number_dtype is not None:
        x = _promoted(x, number_dtype)
    made = tensor(x, device="cpu")
    array = like._data if is_tensor(like) else like
    xp = backend.namespace(array)
    return made if xp is backend.NUMPY else wrap(xp.from_numpy(made._data, xp.device(array)))


def _promoted(x: Any, dtype: np.dtype[Any]) -> Any:
    """Python's numbers, or lists of them, in NumPy's result type beside ``dtype``; arrays unchanged."""
    x = as_array(x)
    if has_dtype(x):
        return x
    try:
        array = on_host(x)
    except ValueError:  # rows of unequal lengths: tensor() explains the error
        return x
    if array.dtype.kind not in "iufc":
        return x
    least = {"c": 0j, "f": 0.0}.get(array.dtype.kind, 0.0 if dtype.kind == "f" else 0)
    return _cast("tensor", x, array, np.result_type(dtype, least))


def dtype_of(x: Any) -> np.dtype[Any]:
    """NumPy's dtype with the name of the dtype of ``x``, a Tensor or an array of any library."""
    return np.dtype(str(x.dtype).rpartition(".")[2])


def first_with_device(operands: Iterable[Any]) -> Any:
    """The first operand that has a device, as Tensors and arrays do; None if there is none."""
    return next((x for x in operands if _has_device(x)), None)


def _has_device(x: Any) -> bool:
    return is_tensor(x) or (backend.is_array(x) and x.ndim > 0) or not is_host_data(x)


def as_operand(x: Any, like: Any) -> Tensor:
    """An operand as a Tensor: numbers and lists have no device and go to that of ``like``, if any."""
    if like is None or _has_device(x):
        return as_tensor(x)
    return as_tensor_on(x, like, dtype_of(like))


def as_operands(given: Iterable[Any]) -> list[Tensor]:
    """Operands as Tensors: numbers and lists go to the device of the first operand that has one.

    Operands that have a device are never moved, NumPy's arrays included.
    """
    several = list(given)
    if all(map(is_tensor, several)):
        return several
    several = [stack_nested(x) for x in several]
    like = first_with_device(several)
    return [as_operand(x, like) for x in several]


def lists_as_tensors(operands: Iterable[Any]) -> list[Any]:
    """The operands of an elementwise function, with lists as Tensors and all else unchanged.

    The numbers of a list take the dtype that each would have in arithmetic with the other operands.
    """
    several = [stack_nested(x) for x in operands]
    like = first_with_device(several)
    dtypes = [dtype_of(x) for x in several if _has_device(x)]

    def read(x: Any) -> Tensor:
        return as_tensor(x) if like is None else as_tensor_on(x, like, np.result_type(*dtypes))

    return [read(x) if isinstance(x, (list, tuple)) else x for x in several]


def as_leading_operand(x: Any, *others: Any) -> Tensor:
    """The first operand as a Tensor. A list goes to the device of the first other operand on a device."""
    if is_tensor(x):
        return x
    return as_operand(stack_nested(x), next((y for y in others if not is_host_data(y)), None))


def integers(values: Any, op: str, what: str, lowest: int | None = None) -> tuple[int, ...]:
    """A whole number, or a sequence of them such as a shape, as a tuple of ints."""
    values = imported(values)
    several = on_host(values).tolist() if getattr(values, "ndim", 0) == 1 else values
    try:
        found = tuple(
            map(operator.index, several if isinstance(several, (tuple, list)) else (several,))
        )
    except TypeError:
        raise ArgumentError(
            f"{op}: {what} {brief(values)} must be a whole number or a tuple of them"
        ) from None
    if lowest is not None and found and min(found) < lowest:
        raise ArgumentError(f"{op}: {what} {brief(values)} must hold whole numbers from {lowest}")
    return found


def check_shape(shape: Any, op: str) -> tuple[int, ...]:
    """A shape as a tuple of ints; raise ShapeError if no memory holds an array of it."""
    sizes = integers(shape, op, "shape", 0)
    if math.prod(filter(None, sizes)) > _MOST or len(sizes) > _MOST_AXES:
        raise ShapeError(f"{op}: an array of shape {brief(sizes)} is more than any memory holds")
    return sizes


_MOST = 2**42
_MOST_AXES = 64
"""Bounds on the elements and the axes of a shape: no memory holds more, and NumPy has no more axes."""


def full(
    shape: int | Sequence[int],
    fill_value: complex,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of ``shape`` with ``fill_value`` everywhere.

    By default ``float32``; ``complex64`` for a complex number, Boolean for a Boolean.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.full((2, 2), 0.5)
    tensor([[0.5, 0.5],
            [0.5, 0.5]])
    """
    return _full("full", shape, fill_value, dtype, device, requires_grad)


def _full(
    op: str, shape: Any, fill_value: Any, dtype: Any, device: str | None, requires_grad: bool
) -> Tensor:
    if dtype is None:
        kinds = {bool: "bool", complex: "complex64"}
        dtype = kinds.get(type(as_array(fill_value)), DEFAULT_DTYPE)
    kind = numpy_dtype(dtype)
    value = _constant(op, fill_value, kind)
    sizes = check_shape(shape, op)
    target = check_device(default_device(device))
    if target == "cpu":
        return _leaf(np.full(sizes, value, kind), requires_grad)
    xp = namespace_on(target)
    one = xp.from_numpy(np.full((), value, kind), target)
    with xp.on(one):  # one number is transferred, not the whole array
        return _leaf(xp.copy(xp.broadcast_to(one, sizes)), requires_grad)


def _constant(op: str, given: Any, dtype: Any, what: str = "fill_value") -> Any:
    """Read a constant and check that the dtype holds it. Only NumPy's dtypes are checked."""
    value: Any = as_array(given)
    if type(value) is np.ndarray and not value.ndim:
        value = value[()]  # a long double
    elif type(value) not in SCALARS:
        raise ArgumentError(f"{op}: {what} {brief(given)} must be a number")
    if isinstance(dtype, np.dtype) and (value or type(value) is complex):  # any dtype holds 0
        return _cast(op, value, np.asarray(value), dtype).item()
    return value


def zeros(
    shape: int | Sequence[int],
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of ``shape`` with 0 everywhere; ``float32`` by default."""
    return _full("zeros", shape, 0.0, dtype, device, requires_grad)


def ones(
    shape: int | Sequence[int],
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of ``shape`` with 1 everywhere; ``float32`` by default."""
    return _full("ones", shape, 1.0, dtype, device, requires_grad)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Evenly spaced numbers from ``start`` (or 0) up to but not including ``stop``.

    Whole numbers give ``int64``, so that the result can index; others give ``float32``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.arange(3)
    tensor([0, 1, 2])
    """
    first, last = (0, start) if stop is None else (start, stop)
    ends = [as_array(x) for x in (first, last, step)]
    whole = all(isinstance(x, int) for x in ends)
    try:
        first, last, step = ends if whole else [float(x) for x in ends]
        count = max(0, -((first - last) // step) if whole else math.ceil((last - first) / step))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise ArgumentError(
            f"arange: {ends} must be finite real numbers, and the step not 0"
        ) from None
    check_shape(int(count), "arange")
    kind = numpy_dtype(dtype or ("int64" if whole else DEFAULT_DTYPE))
    near = all(-(2**62) < x < 2**62 for x in ends)
    if whole and not near:  # beyond the range of int64
        numbers = list(range(*ends))
        fitted = _cast("arange", numbers, np.asarray(numbers), kind)
    else:
        array = first + step * np.arange(count)
        fitted = _cast("arange", array, array, kind)
    return tensor(fitted, None, default_device(device), requires_grad)


def full_like(x: Tensor, fill_value: complex, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor of the dtype and device of ``x``, and of its shape unless ``shape`` is given."""
    x = as_tensor(x)
    return filled("full_like", x, fill_value, x.shape if shape is None else tuple(shape))


def filled(
    op: str, x: Tensor, fill_value: Any, shape: tuple[int, ...], what: str = "fill_value"
) -> Tensor:
    """Compute :func:`full_like` with errors that name the operation and its argument ``what``."""
    value = _constant(op, fill_value, x.dtype, what)
    check_shape(shape, op)
    xp = backend.namespace(x._data)
    with xp.on(x._data):
        return wrap(xp.full(shape, value, dtype=x.dtype))


def zeros_like(x: Tensor) -> Tensor:
    """Zeros of the shape, dtype and device of ``x``."""
    return full_like(x, 0)


def ones_like(x: Tensor) -> Tensor:
    """Ones of the shape, dtype and device of ``x``."""
    return full_like(x, 1)


def eye(n: int, dtype: Any = None, device: str | None = None) -> Tensor:
    """The identity matrix ``(n, n)``; ``float32`` by default."""
    size = check_whole("eye", "size", n, 0)
    check_shape((size, size), "eye")
    return tensor(np.eye(size), dtype or DEFAULT_DTYPE, default_device(device))


def eye_like(n: int, x: Tensor) -> Tensor:
    """The identity matrix ``(n, n)`` of the dtype and device of ``x``."""
    xp = backend.namespace(x._data)
    with xp.on(x._data):
        return wrap(xp.eye_like(n, x._data))
