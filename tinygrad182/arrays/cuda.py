"""CuPy's namespace, and errors that say which part of CUDA or CuPy is missing.

CuPy itself is imported when CUDA is first used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .._suggestions import calls, torch_names
from ..errors import DTypeError, MissingDependencyError
from .namespaces import SHARED, Array, Key, NumPyLike, numpy_dtype


class CuPy(NumPyLike):
    """CuPy: NumPy's functions on a CUDA device."""

    guarded = True

    def __init__(self, cupy: ModuleType | Any) -> None:
        _check_cupy(cupy)
        super().__init__(cupy)

    def dtype(self, dtype: Any) -> Any:
        return None if dtype is None else _on_cuda(numpy_dtype(dtype))

    def device(self, array: Array) -> str:
        return f"cuda:{array.device.id}"

    def on(self, array: Array) -> AbstractContextManager[Any]:
        return array.device

    def copy(self, x: Array) -> Array:
        with x.device:  # CuPy copies to the current device
            return x.copy()

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return self.module.asnumpy(x)

    def fetch(self, arrays: Sequence[Array]) -> list[np.ndarray[Any, Any]]:
        if len(arrays) < 2:
            return [self.to_numpy(x) for x in arrays]
        m = self.module
        with arrays[0].device:
            flat = [m.ascontiguousarray(x).reshape(-1).view(m.uint8) for x in arrays]
            host = self.to_numpy(m.concatenate(flat))
        ends = np.cumsum([x.nbytes for x in arrays])
        return [  # the copy aligns the array for its type
            host[end - x.nbytes : end].copy().view(x.dtype).reshape(x.shape)
            for x, end in zip(arrays, ends, strict=True)
        ]

    def scatter_add(
        self, shape: tuple[int, ...], dtype: Any, items: Iterable[tuple[Key, Array]]
    ) -> Array:
        dtype = np.dtype(dtype)
        if dtype.kind == "c":  # CUDA has no atomic addition of complex numbers
            pairs = list(items)
            re, im = (
                self.scatter_add(shape, dtype.char.lower(), [(k, part(v)) for k, v in pairs])
                for part in (self.real, self.imag)
            )
            return (re + 1j * im).astype(dtype, copy=False)
        if dtype.kind in "biu" and dtype.itemsize < 4:  # or of narrow integers
            wide = ((k, v.astype("int32")) for k, v in items)
            return self.scatter_add(shape, "int32", wide).astype(dtype)
        return super().scatter_add(shape, dtype, items)

    def from_numpy(self, x: np.ndarray[Any, Any], device: str = "cuda:0") -> Array:
        native = _on_cuda(x.dtype).newbyteorder("=")
        with self.module.cuda.Device(int(device.partition(":")[2] or 0)):
            return self.module.array(x.astype(native, copy=False))


def _on_cuda(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype; raise if CUDA does not have it."""
    if dtype.char in "gG":
        raise DTypeError(f"{dtype} exists only on the CPU; use 'float64' (or 'complex128') on CUDA")
    return dtype


_INSTALL = "pip install 'tinygrad182[cuda12]' (CUDA 12) or 'tinygrad182[cuda13]' (CUDA 13)"


def import_cupy() -> Any:
    """Import and return the package ``cupy``.

    Raises
    ------
    MissingDependencyError
        CuPy is not installed, or cannot load CUDA's libraries.
    """
    try:
        import cupy  # heavy and optional
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise unusable(error) from error
        raise MissingDependencyError(
            f"CUDA needs CuPy, which is not installed: {_INSTALL}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise unusable(error) from error
    return cupy


def unusable(error: Exception) -> MissingDependencyError:
    """The error for a CuPy that cannot load one of CUDA's libraries."""
    return MissingDependencyError(
        f"CUDA needs CuPy, which is installed but cannot load what it needs ({error}): {_INSTALL} "
        "brings CUDA's libraries along"
    )


def _check_cupy(cupy: Any) -> None:
    """Raise unless this CuPy has every function that we call, and a compiler for kernels."""
    missing = [name for name in SHARED if not hasattr(cupy, name)]
    if missing:
        raise MissingDependencyError(
            f"CUDA needs CuPy 14.2 or newer; {getattr(cupy, '__version__', 'this one')} has no "
            f"cupy.{missing[0]}: {_INSTALL}, with --upgrade"
        )
    try:  # CuPy without CUDA's libraries has no compiler: say so now, not at the first kernel
        if hasattr(cupy.cuda, "nvrtc"):
            cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise unusable(error) from error


if not TYPE_CHECKING:
    __getattr__ = calls.names_of(__name__, "tg.cuda", torch_names.CUDA)
