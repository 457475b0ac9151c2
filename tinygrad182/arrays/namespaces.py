"""The namespace objects, one for each array library: the Array API's functions, each in its fastest form.

:func:`namespace` finds the object of an operand's library, so that one operation runs on all libraries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeviceError, DTypeError
from . import scaled

SCALARS = frozenset({bool, int, float, complex})
"""Python's own numbers. As operands they take the dtype of the array beside them."""

ANYWHERE = nullcontext()
"""The context for a library without a current device; it does nothing."""

Array = Any
"""An array of any supported library; in a derivative rule it may be a Tensor."""

Key = tuple[Any, ...]
"""A normalized index: integers, slices, None and integer arrays."""

# Functions with one name in all libraries. If a library lacks one, its namespace class defines it.
SHARED = """
    add subtract multiply divide negative square exp log expm1 log1p sqrt sin cos tanh abs maximum
    minimum where sign isfinite isnan isinf real imag atan2 greater greater_equal less less_equal
    equal not_equal logical_not logical_and logical_or sum prod max min cumulative_sum matmul
    permute_dims reshape broadcast_to concat stack flip asarray zeros ones full empty arange
    zeros_like ones_like nonzero argmax argmin any all floor ceil trunc round sort take
    sinh cosh asinh asin acos atan log2 log10 remainder floor_divide
""".split()  # noqa: SIM905 - a list of words reads better


class Namespace:
    """The functions of one Array API library, with gaps filled; the base class of the faster namespaces.

    Parameters
    ----------
    module : module
        The library's main namespace.
    """

    guarded = False
    """Whether operations must run inside :meth:`on`, because the library has a current device."""

    has_loops = False
    """Whether the loops over time in :mod:`.kernels` run on its arrays."""

    def __init__(self, module: ModuleType | Any) -> None:
        self.module = module
        self.name = module.__name__.partition(".")[0]
        for name in SHARED:
            if not hasattr(type(self), name):
                setattr(self, name, getattr(module, name))
        if not hasattr(type(self), "power"):
            self.power = getattr(module, "power", None) or module.pow

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def device(self, array: Array) -> str:
        """Name of the device that the array is on."""
        return "cpu"

    def on(self, array: Array) -> AbstractContextManager[Any]:
        """Context in which new arrays are made on ``array``'s device."""
        return ANYWHERE

    def is_complex(self, x: Array) -> bool:
        if type(x) in SCALARS:
            return isinstance(x, complex)
        return bool(self.module.isdtype(x.dtype, "complex floating"))

    def is_floating(self, x: Array) -> bool:
        return bool(self.module.isdtype(x.dtype, "real floating"))

    def ordered(self, x: Array) -> Array:
        """The values to compare: ``x``, or its real part if it is complex, as in a complex step."""
        return self.real(x) if self.is_complex(x) else x

    def astype(self, x: Array, dtype: Any) -> Array:
        return self.module.astype(x, self.dtype(dtype), copy=False)

    def dtype(self, dtype: Any) -> Any:
        """The library's own object for a dtype given as a name, a NumPy dtype or that object."""
        if dtype is None or (
            hasattr(self.module, "bool") and type(dtype) is type(self.module.float32)
        ):
            return dtype
        return getattr(self.module, numpy_dtype(dtype).name)

    def copy(self, x: Array) -> Array:
        return self.module.asarray(x, copy=True)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def fetch(self, arrays: Sequence[Array]) -> list[np.ndarray[Any, Any]]:
        """Arrays of one device as NumPy arrays; the host waits once, for one transfer."""
        return [self.to_numpy(x) for x in arrays]

    def from_numpy(self, x: np.ndarray[Any, Any], device: str = "cpu") -> Array:
        return self.module.asarray(x, copy=True)

    def read_only(self, x: Array) -> Array:
        """A read-only view of an array, or a copy if the library has no such views."""
        return self.copy(x)

    def eye_like(self, n: int, x: Array) -> Array:
        return self.module.eye(n, dtype=x.dtype)

    def argsort(self, x: Array, axis: int = -1) -> Array:
        return self.module.argsort(x, axis=axis)  # stable, as the standard says

    def to_device(self, x: Array, device: str) -> Array:
        return move(x, device)

    def to_device_of(self, x: Array, like: Array) -> Array:
        return move(x, namespace(like).device(like))

    def unstack(self, x: Array, axis: int = 0) -> Sequence[Array]:
        return tuple(self.module.unstack(x, axis=axis))

    # The standard has no frexp and ldexp, and its older editions have no running products.

    def frexp(self, x: Array) -> tuple[Array, Array]:
        mantissas, exponents = np.frexp(self.to_numpy(x))
        return self.asarray(mantissas), self.asarray(exponents)

    def ldexp(self, mantissas: Array, exponents: Array) -> Array:
        return self.asarray(np.ldexp(self.to_numpy(mantissas), self.to_numpy(exponents)))

    def cumulative_prod(self, x: Array, axis: int) -> Array:
        return self.asarray(np.cumprod(self.to_numpy(x), axis))

    def product_of_others(self, x: Array) -> Array:
        """The product of all other elements along the last axis, for each element."""
        if not x.shape[-1]:
            return self.ones_like(x)
        if self.is_floating(x):
            return scaled.of_others(self, x)
        ones = self.ones_like(x[..., :1])
        before, after = (
            self.cumulative_prod(self.concat([ones, part[..., :-1]], axis=-1), axis=-1)
            for part in (x, self.flip(x, axis=-1))
        )
        return before * self.flip(after, axis=-1)

    # The standard has no scatter-add, and no index that mixes slices and integer arrays. Here the host
    # computes flat positions, which is slow but works for any library.

    def index_checked(self, x: Array, key: Key) -> Array:
        """Select by a key whose bounds were checked; only the namespace of Tensors checks in ``index``."""
        return self.index(x, key)

    def index(self, x: Array, key: Key) -> Array:
        positions = self._positions(x.shape, key)
        flat = self.module.take(self.module.reshape(x, (-1,)), self.asarray(positions.reshape(-1)))
        return self.module.reshape(flat, positions.shape)

    def scatter_add(
        self, shape: tuple[int, ...], dtype: Any, items: Iterable[tuple[Key, Array]]
    ) -> Array:
        """Add each value at its key to zeros of ``shape``; values at repeated positions add up."""
        out = np.zeros(shape, np.dtype(str(dtype).rpartition(".")[2]))
        for key, value in items:
            np.add.at(out, _host_key(key), np.asarray(value))
        return self.asarray(out)

    def _positions(self, shape: tuple[int, ...], key: Key) -> np.ndarray[Any, Any]:
        return np.asarray(np.arange(math.prod(shape)).reshape(shape)[_host_key(key)])

    def einsum(self, subscripts: str, *operands: Array) -> Array:
        """Einstein sum by broadcasting and summing, for libraries without one."""
        terms, _, out = subscripts.partition("->")
        letters = out + "".join(sorted(set(terms) - set(out) - {","}))
        total: Array = None
        for term, x in zip(terms.split(","), operands, strict=True):
            for letter in {c for c in term if term.count(c) > 1}:
                x, term = self._diagonal(x, term, letter)
            order = sorted(range(len(term)), key=lambda i, term=term: letters.index(term[i]))  # type: ignore[misc]
            x = self.permute_dims(x, tuple(order))
            sizes = iter(x.shape)
            x = self.reshape(x, tuple(next(sizes) if c in term else 1 for c in letters))
            total = x if total is None else total * x
        axes = tuple(range(len(out), len(letters)))
        return self.sum(total, axis=axes) if axes else total

    def _diagonal(self, x: Array, term: str, letter: str) -> tuple[Array, str]:
        axes = [i for i, c in enumerate(term) if c == letter]
        steps = np.arange(x.shape[axes[0]])
        front = self.permute_dims(x, (*axes, *(i for i in range(len(term)) if i not in axes)))
        key = (steps,) * len(axes) + (slice(None),) * (len(term) - len(axes))
        return self.index(front, key), letter + term.replace(letter, "")


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """NumPy's dtype for a name or for a dtype of another library, such as ``torch.float64``.

    Raises
    ------
    DTypeError
        The value is not a dtype, or the dtype is not numeric.
    """
    if type(dtype).__name__ == "dtype" and not isinstance(dtype, np.dtype):
        dtype = str(dtype).rpartition(".")[2]
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "biufc":
        raise DTypeError(
            f"{dtype!r} is not a numeric dtype; use a name such as 'float32' (a shape is one tuple)"
        )
    return found


def _host_key(key: Key) -> Key:
    return tuple(k if k is None or isinstance(k, (int, slice)) else np.asarray(k) for k in key)


HALF = np.dtype("float16")

_WIDE = {HALF: np.dtype("float32")}
"""Dtypes that are too narrow for sums, and the dtype in which sums are computed."""


def floating_type(dtype: Any) -> str | None:
    """The floating dtype of ``exp`` of whole numbers in NumPy; None if the dtype is not of whole numbers.

    Formulas convert whole numbers to it, because their differences and squares may wrap around.
    """
    if getattr(dtype, "kind", "f") not in "biu":
        return None
    return {1: "float16", 2: "float32"}.get(dtype.itemsize, "float64")


class NumPyLike(Namespace):
    """The functions that NumPy and CuPy share, beyond the Array API standard."""

    has_loops = True

    def is_complex(self, x: Array) -> bool:
        return isinstance(x, complex) if type(x) in SCALARS else x.dtype.kind == "c"

    def is_floating(self, x: Array) -> bool:
        return bool(x.dtype.kind == "f")

    def dtype(self, dtype: Any) -> Any:
        return None if dtype is None else numpy_dtype(dtype)

    def astype(self, x: Array, dtype: Any) -> Array:
        return x.astype(dtype, copy=False)

    def copy(self, x: Array) -> Array:
        return x.copy()

    def unstack(self, x: Array, axis: int = 0) -> Sequence[Array]:
        if axis:
            x = self.module.moveaxis(x, axis, 0)
        return [x[i, ...] for i in range(x.shape[0])]

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        # faster than the library's stack, which checks every operand again
        key = (
            (slice(None),) * axis + (None,)
            if axis >= 0
            else (Ellipsis, None) + (slice(None),) * (-1 - axis)
        )
        return self.module.concatenate([a[key] for a in arrays], axis=axis)

    def argsort(self, x: Array, axis: int = -1) -> Array:
        return self.module.argsort(x, axis=axis, kind="stable")

    def frexp(self, x: Array) -> tuple[Array, Array]:
        return self.module.frexp(x)

    def ldexp(self, mantissas: Array, exponents: Array) -> Array:
        return self.module.ldexp(mantissas, exponents)

    def cumulative_prod(self, x: Array, axis: int) -> Array:
        return self.module.cumprod(x, axis)

    def index(self, x: Array, key: Key) -> Array:
        return x[(*key, Ellipsis)]  # with the ellipsis a 0-d result is an array

    def scatter_add(
        self, shape: tuple[int, ...], dtype: Any, items: Iterable[tuple[Key, Array]]
    ) -> Array:
        if dtype == HALF:
            wide = ((key, self.astype(value, _WIDE[HALF])) for key, value in items)
            return self.scatter_add(shape, _WIDE[HALF], wide).astype(HALF)
        out = self.module.zeros(shape, dtype)
        for i, (key, value) in enumerate(items):
            if not all(k is None or isinstance(k, (int, slice)) for k in key):
                self.module.add.at(out, key, value)
            elif i:
                out[key] += value
            else:  # the first item needs no sum
                out[key] = value
        return out

    # Sums of halves are computed in float32: in float16 a count would end at 2048 and a sum at 65504.
    # (The libraries compute matrix products of halves in float32 too.)

    def sum(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        wide, narrow = _WIDE.get(x.dtype), x.dtype
        y = self.module.sum(x, axis=axis, dtype=wide, keepdims=keepdims)
        return y.astype(narrow) if wide else y

    def cumulative_sum(self, x: Array, axis: int) -> Array:
        wide, narrow = _WIDE.get(x.dtype), x.dtype
        y = self.module.cumulative_sum(x, axis=axis, dtype=wide)
        return y.astype(narrow) if wide else y

    def einsum(self, subscripts: str, *operands: Array) -> Array:
        if not any([x.dtype is HALF for x in operands]):  # noqa: C419 - a list is faster
            return self.module.einsum(subscripts, *operands)
        narrow = self.module.result_type(*operands)
        wide = [x.astype(_WIDE.get(narrow, narrow)) for x in operands]
        return self.module.einsum(subscripts, *wide).astype(narrow)


class _NumPy(NumPyLike):
    """NumPy, with the form of each function that is fastest on small arrays."""

    def __init__(self) -> None:
        super().__init__(np)

    def sum(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        if x.dtype is HALF:
            return super().sum(x, axis, keepdims)
        return np.add.reduce(x, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    @staticmethod
    def max(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return np.maximum.reduce(x, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    @staticmethod
    def min(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return np.minimum.reduce(x, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    @staticmethod
    def reshape(x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    @staticmethod
    def permute_dims(x: Array, axes: tuple[int, ...]) -> Array:
        return x.transpose(axes)

    @staticmethod
    def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
        if x.size == 1 and x.ndim <= len(shape):  # the derivative of every full reduction
            if math.prod(shape) > FEW:
                repeated = np.ndarray(shape, x.dtype, x, strides=(0,) * len(shape))
                repeated.flags.writeable = False
                return repeated
            filled = np.empty(shape, x.dtype)  # the next operation is quicker on it
            filled.fill(x.item())
            return filled
        return np.broadcast_to(x, shape)

    @staticmethod
    def ones_like(x: Array, dtype: Any = None) -> Array:
        ones = np.empty_like(x, dtype)
        ones.fill(1)
        return ones

    def read_only(self, x: Array) -> Array:
        view = x.view()
        view.flags.writeable = False
        return view


FEW = 1024
"""Up to about this many elements, filling an array takes less time than making it."""

NUMPY = _NumPy()

NAMESPACES: dict[type, Any] = {np.ndarray: NUMPY}
"""Array type → namespace. Tensor's namespace is the module :mod:`tinygrad182.tensors.functions`."""


def register(array_type: type, namespace: Any) -> None:
    """Use ``namespace`` for operands of ``array_type``."""
    NAMESPACES[array_type] = namespace


def _resolve(array: Array) -> Namespace:
    """Find and register the namespace of a new array type."""
    kind = type(array)
    if isinstance(array, np.generic):  # it is not an array, so its type is not registered
        return NUMPY
    library = kind.__module__.partition(".")[0]
    if library == "cupy":
        register(kind, _of_cupy())
    elif hasattr(array, "__array_namespace__"):
        register(kind, Namespace(array.__array_namespace__()))
    else:
        raise DTypeError(
            f"operand of type {kind.__name__!r} is not an array, a Tensor or a number: "
            "wrap it with tg.tensor(...) first"
        )
    return NAMESPACES[kind]


def _of_cupy() -> Namespace:
    """CuPy's namespace, which is made when CUDA is first used."""
    from .cuda import CuPy, import_cupy  # cuda.py imports this file

    cupy = import_cupy()
    if cupy.ndarray not in NAMESPACES:
        register(cupy.ndarray, CuPy(cupy))
    return NAMESPACES[cupy.ndarray]


def is_array(x: Any) -> bool:
    """Whether ``x`` is an array of a registered library or of one with the Array API."""
    if type(x) in NAMESPACES:
        return isinstance(NAMESPACES[type(x)], Namespace)
    if type(x).__module__.partition(".")[0] == "cupy":  # its arrays have no __array_namespace__
        return hasattr(x, "ndim")
    return hasattr(x, "__array_namespace__") and not isinstance(x, (np.generic, type))


def namespace(*operands: Array) -> Any:
    """The namespace of the library that all operands belong to; Python's numbers belong to any library.

    Raises
    ------
    DeviceError
        Two operands belong to different libraries or devices; the message names both.
    """
    found: Any = None
    first: Array = None
    for x in operands:
        if type(x) in SCALARS:
            continue
        xp = NAMESPACES.get(type(x)) or _resolve(x)
        if found is None:
            found, first = xp, x
        elif xp is not found or (found is not NUMPY and _device(found, x) != _device(found, first)):
            if (
                isinstance(odd := x if xp is NUMPY else first, np.ndarray)
                and odd.dtype.char in "gG"
            ):
                raise DTypeError(
                    f"{odd.dtype} exists only on the CPU; use 'float64' (or 'complex128') elsewhere"
                )
            raise DeviceError(
                f"operands are on different devices: {_where(found, first)} and {_where(xp, x)}; "
                "move one of them first with x.to(device)"
            )
    return NUMPY if found is None else found


def _device(xp: Any, x: Array) -> Any:
    return xp.device(x) if isinstance(xp, Namespace) else None


def _where(xp: Any, x: Array) -> str:
    library = xp.name if isinstance(xp, Namespace) else type(x).__name__
    return f"{_device(xp, x)} ({library}, shape {tuple(x.shape)})"


def namespace_on(device: str) -> Namespace:
    """The namespace that makes arrays on ``device``, a name that :func:`check_device` returned."""
    if device == "cpu":
        return NUMPY
    return _of_cupy()


def move(array: Array, device: str) -> Array:
    """The array on ``device``: itself if it is there already, otherwise a copy through the host."""
    xp = namespace(array)
    if xp.device(array) == device:
        return array
    return namespace_on(device).from_numpy(xp.to_numpy(array), device)
