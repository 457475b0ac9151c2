"""Indexing: read an index, check its bounds, select elements, and add values at an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..arrays import backend
from ..arrays.dlpack import imported
from ..arrays.namespaces import Array
from ..engine.host import on_host, whole
from ..engine.modes import MODES, PendingCheck
from ..engine.operands import plain_array
from ..engine.recording import apply, is_tensor, wrap
from ..errors import ArgumentError, DTypeError, IndexOutOfRangeError, ShapeError, brief
from ..primitives import PRIMITIVES
from ..primitives.index import ARRAY
from .creation import as_tensor, as_tensor_on
from .shapes import broadcast_to, expand_dims, negative_axis, permute_dims, reshape
from .tensor import Tensor


def index(x: Any, key: Any) -> Tensor:
    """Select elements by a NumPy index: integers, slices, ``...``, None, integer and Boolean arrays.

    Raises
    ------
    IndexOutOfRangeError
        An index is outside its axis, on any array library.
    ShapeError
        There are more indices than axes, or a mask does not have the shape of the axes it covers.
    DTypeError
        An index array is neither integer nor Boolean.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> tg.index(x, (slice(None), 0))  # the same as x[:, 0]
    tensor([1., 3.])
    """
    x = as_tensor(x)
    if type(key) is int and (shape := x._data.shape):  # the steps of a loop over time
        if not -shape[0] <= key < shape[0]:
            raise _out_of_range(x.shape, 0, key)
        return apply(PRIMITIVES["index"], x, key=(key,))
    entries = _expand(x, key if isinstance(key, tuple) else (key,))
    if any(map(is_tensor, entries)):
        x, entries = _side_by_side(x, entries)
    entries = [e for e in entries if e is not Ellipsis]
    return index_checked(x, tuple(entries))


def scatter_add(
    shape: tuple[int, ...], dtype: Any, items: Iterable[tuple[tuple[Any, ...], Tensor]]
) -> Tensor:
    """Add each value at its key to zeros of ``shape``; this is the derivative of :func:`index`.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype or str
    items : iterable of (key, Tensor)
        A key is a tuple of integers, slices and None, with adjacent integer Tensors. A value is broadcast
        to the shape that its key selects.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.scatter_add((3,), "float32", [((slice(0, 2),), tg.ones(2)), ((1,), tg.ones(()))])
    tensor([1., 2., 0.])
    """
    operands: list[Tensor] = []
    keys = []
    for key, value in items:
        operands += [_spread(value, shape, key), *(k for k in key if is_tensor(k))]
        keys.append(tuple(ARRAY if is_tensor(k) else k for k in key))
    params = {"shape": shape, "dtype": dtype, "keys": tuple(keys)}
    return apply(PRIMITIVES["scatter_add"], *operands, **params)


def _spread(value: Any, shape: tuple[int, ...], key: tuple[Any, ...]) -> Tensor:
    """A value broadcast to the shape that a key selects, if possible."""
    value = as_tensor(value)
    arrays = [np.zeros(k.shape, np.int64) if is_tensor(k) else k for k in key]
    try:
        selected = np.broadcast_to(np.False_, shape)[tuple(arrays)].shape
        fits = np.broadcast_shapes(value.shape, selected) == selected != value.shape
    except (IndexError, ValueError):  # the operation raises the error
        return value
    return broadcast_to(value, selected) if fits else value


def index_checked(x: Tensor, key: tuple[Any, ...]) -> Tensor:
    """``x[key]`` for a key of integers, slices, None and adjacent integer Tensors that are in range."""
    arrays = [k for k in key if is_tensor(k)]
    marked = tuple([ARRAY if is_tensor(k) else k for k in key])
    return apply(PRIMITIVES["index"], x, *arrays, key=marked)


def check_indices(
    checks: Sequence[tuple[Array, int, int]], error: Callable[[int, int, int], Exception]
) -> None:
    """Raise unless integer indices are within their bounds; CuPy would wrap them around.

    All checks of indices are made here. The host waits once for all indices on a device. It does not wait
    for indices on the host, or under :class:`~.modes.deferred_checks`.

    Parameters
    ----------
    checks : sequence of (array, lowest, size)
        Elements of the array must be in [lowest, size).
    error : callable
        Takes the position of a failed check, and the least and the largest element; returns the error.
    """
    tried = [i for i, check in enumerate(checks) if 0 not in check[0].shape]
    ends: list[Any] = []
    for i in tried:
        array = checks[i][0]
        xp = backend.namespace(array)
        with backend.on(array):
            ends += [xp.min(array), xp.max(array)]

    bounds = [(i, *checks[i][1:]) for i in tried]  # without the arrays, which can then be freed

    def judge(ends: Sequence[Any]) -> None:
        for (i, lowest, size), least, largest in zip(bounds, ends[::2], ends[1::2], strict=True):
            if least < lowest or largest >= size:
                raise error(i, int(least), int(largest))

    if not all([isinstance(x, (np.generic, np.ndarray)) for x in ends]):  # noqa: C419 - a list is faster
        ends = [x if backend.is_array(x) else np.asarray(x) for x in ends]
        pending = MODES.get().pending
        if pending is not None:
            pending.append(PendingCheck(ends, judge))
            return
        ends = backend.fetch(ends)
    judge(ends)


def read_indices(values: Any, op: str, what: str) -> Array | Tensor:
    """Indices as int64: a Tensor, an array of a device, or a NumPy array for data of the host.

    Raises
    ------
    DTypeError, ArgumentError
        Values are not whole numbers, or rows have unequal lengths.
    """
    values = imported(values)
    if not is_tensor(values) and not backend.is_array(values):
        array = _from_list(values, op, what)
        if array.dtype.kind not in "biufc":
            raise DTypeError(f"{op}: {what} in a {type(values).__name__} are not integers")
        values = array
    if not _is_whole(values):
        raise DTypeError(
            f"{op}: {what} of dtype {values.dtype}; they must be integers (dtype='int64')"
        )
    return _in_int64(values)


def _in_int64(values: Array | Tensor) -> Array | Tensor:
    """Whole numbers as int64; a Tensor of int64 is returned as it is."""
    if not is_tensor(values):
        return whole(values)
    array = whole(values._data)
    return values if array is values._data else wrap(array)


def place_indices(values: Array | Tensor, x: Tensor, size: int, op: str, what: str) -> Tensor:
    """Check that indices from :func:`read_indices` are in [0, size), and move them to ``x``'s device."""

    def error(_: int, least: int, largest: int) -> Exception:
        return IndexOutOfRangeError(
            f"{op}: {what} from {least} to {largest}; they must lie in [0, {size})"
        )

    check_indices([(values._data if is_tensor(values) else values, 0, size)], error)
    return as_tensor_on(values, x)


def _expand(x: Tensor, key: tuple[Any, ...]) -> list[Any]:
    """Return a checked entry for each axis, and None for each new axis; arrays become integer Tensors."""
    parts = [_part(k) for k in key]
    covered = sum(map(_axes_covered, parts))
    dots = len([p for p in parts if p is Ellipsis])
    if covered > x.ndim or dots > 1:
        raise ShapeError(
            f"index: {covered} indices for {x.ndim} axes of shape {x.shape}, and at most one ..."
        )
    if not dots:
        parts.append(Ellipsis)
    entries: list[Any] = []
    checks: list[tuple[Array, int]] = []
    axis = 0
    for part in parts:
        if part is Ellipsis:
            # an ellipsis without axes stays: it still separates the arrays beside it
            entries += [slice(None)] * (x.ndim - covered) or [Ellipsis]
            axis += x.ndim - covered
            continue
        entries += _entries(x, part, axis, checks)
        axis += _axes_covered(part)
    if checks:
        shape, axes = x.shape, [at for _, at in checks]  # a deferred check must not hold x
        check_indices(
            [(array, -shape[at], shape[at]) for array, at in checks],
            lambda i, low, high: _out_of_range(shape, axes[i], low, high),
        )
    return entries


def _part(k: Any) -> Any:
    """Read an entry of a key: a Python int, a slice, None, Ellipsis, an array or a Tensor."""
    if k is None or k is Ellipsis or isinstance(k, slice):
        return k
    if isinstance(k, (int, np.integer)) and not isinstance(k, bool):
        return int(k)
    k = _from_list(k, "index", f"indices {brief(k)}") if isinstance(k, list) else imported(k)
    if isinstance(k, np.ndarray):
        k = plain_array(k)
    if _has_elements(k):
        if _is_whole(k):
            return int(k) if isinstance(k, np.ndarray) and not k.ndim else _in_int64(k)
        if _is_mask(k) and k.ndim:
            return k
    what = f"an array of dtype {k.dtype}" if _has_elements(k) else brief(k)
    raise DTypeError(
        f"index: {what} is not an index; use integers, slices, ..., None, "
        "or arrays of integers (dtype='int64') or Booleans"
    )


def _from_list(values: Any, op: str, what: str) -> np.ndarray[Any, Any]:
    """Read nested lists of numbers as an index array."""
    try:
        array = on_host(values)
    except ValueError:
        raise ArgumentError(f"{op}: {what} in rows of unequal lengths; pad them") from None
    return array if array.size else array.astype(np.int64)


def _has_elements(part: Any) -> bool:
    return is_tensor(part) or backend.is_array(part)


def _is_mask(x: Any) -> bool:
    return x.dtype.kind == "b" if isinstance(x.dtype, np.dtype) else "bool" in str(x.dtype)


def _is_whole(x: Any) -> bool:
    return x.dtype.kind in "iu" if isinstance(x.dtype, np.dtype) else "int" in str(x.dtype)


def _axes_covered(part: Any) -> int:
    if part is None or part is Ellipsis:
        return 0
    return 1 if isinstance(part, (int, slice)) or not _is_mask(part) else part.ndim


def _entries(x: Tensor, part: Any, axis: int, checks: list[tuple[Array, int]]) -> list[Any]:
    """The entries of one part; a mask becomes integer arrays, and ``checks`` gets arrays to check."""
    if part is None:
        return [part]
    if isinstance(part, slice):
        try:
            part.indices(x.shape[axis])
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"index: {part} cannot be read: {error}") from None
        return [part]
    if isinstance(part, int):
        if not -x.shape[axis] <= part < x.shape[axis]:
            raise _out_of_range(x.shape, axis, part)
        return [part]
    array = part._data if is_tensor(part) else part
    if not _is_mask(part):
        checks.append((array, axis))
        return [as_tensor_on(part, x)]
    if tuple(part.shape) != x.shape[axis : axis + part.ndim]:
        raise ShapeError(
            f"index: a mask of shape {tuple(part.shape)} at axis {axis} of shape {x.shape}"
        )
    with backend.on(array):
        found = backend.namespace(array).nonzero(array)
    return [wrap(a) if is_tensor(part) else as_tensor_on(a, x) for a in found]


def _out_of_range(
    shape: tuple[int, ...], axis: int, least: int, largest: int | None = None
) -> Exception:
    size = shape[axis]
    wrong = least if largest is None or largest < size else largest
    return IndexOutOfRangeError(
        f"index: {wrong} is out of range for axis {axis} of shape {shape} "
        f"(allowed: {-size} to {size - 1})"
    )


def _side_by_side(x: Tensor, entries: list[Any]) -> tuple[Tensor, list[Any]]:
    """Make integer arrays adjacent: they go to the front if they were apart, as in NumPy."""
    entries = [as_tensor_on(np.asarray(e), x) if isinstance(e, int) else e for e in entries]
    arrays = [i for i, e in enumerate(entries) if is_tensor(e)]
    if arrays[-1] - arrays[0] == len(arrays) - 1:
        return x, entries
    entries = [e for e in entries if e is not Ellipsis]
    arrays = [i for i, e in enumerate(entries) if is_tensor(e)]
    for i, entry in enumerate(entries):
        if entry is None:
            x = expand_dims(x, i)
    rest = [i for i in range(len(entries)) if i not in arrays]
    filled = [slice(None) if e is None else e for e in entries]
    return permute_dims(x, arrays + rest), [filled[i] for i in arrays + rest]


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The slices at integer ``indices`` along ``axis``; without an axis, elements of the whole tensor.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.take(tg.tensor([5.0, 6.0, 7.0]), [2, 0])
    tensor([7., 5.])
    """
    x = as_tensor(x)
    if axis is None and x.ndim != 1:
        x = reshape(x, -1)
    at = negative_axis(x.ndim, axis or 0, "take", x.shape) + x.ndim
    return index(x, (*(slice(None),) * at, indices))
