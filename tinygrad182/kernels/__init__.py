"""Compiled and array forms of the recurrent primitives; never needed for a right answer.

:func:`loops` chooses the loops over time that suit the arrays.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np

from . import arrays, cuda

COMPILED = True
"""Whether compiled loops are used where Numba is installed."""


def loops(m: Any, dtype: Any) -> ModuleType:
    """The module whose ``forward`` and ``backward`` run over time on arrays of a library and type."""
    if dtype == np.float16:
        from . import half  # which asks here for other loops

        return half
    if m is not np and dtype in _TYPES and hasattr(m, "ElementwiseKernel"):  # CuPy
        return cuda
    if COMPILED and m is np and dtype in _TYPES:
        if dtype not in _BUILT:
            _BUILT[dtype] = None  # if building fails, it is not tried again
            _BUILT[dtype] = _build(dtype)
        return _BUILT[dtype] or arrays
    return arrays


_TYPES = (np.dtype("float32"), np.dtype("float64"))


_BUILT: dict[Any, ModuleType | None] = {}


def _build(dtype: Any) -> ModuleType | None:
    """The loops for Numba, compiled for a type; None where Numba is not installed or cannot."""
    try:
        import numba  # the extra `fast`
    except ImportError:  # not installed, or does not suit this NumPy
        return None
    if getattr(numba.config, "DISABLE_JIT", False):
        return None
    try:
        from . import compiled

        compiled.ready(dtype)
    except Exception as error:  # of Numba or LLVM, which are not needed for a right answer
        warnings.warn(
            f"the loops of recurrent layers could not be compiled, NumPy runs them: {error!r}; if files "
            f"kept by Numba are damaged, delete rows.*.nbi and rows.*.nbc in {__path__[0]}/__pycache__",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return compiled
