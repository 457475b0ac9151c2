"""Compiled and array forms of the recurrent primitives; never needed for a right answer.

:func:`loops` chooses the loops over time that suit the arrays.
"""

from __future__ import annotations

import os
import threading
import warnings
from types import ModuleType
from typing import Any

import numpy as np

from . import arrays
from .program import Program

COMPILED = True
"""Whether compiled loops are used where Numba is installed."""


def loops(program: Program, m: Any, dtype: Any) -> ModuleType:
    """The module whose ``forward`` and ``backward`` run over time on arrays of a library and type."""
    if dtype == np.float16:
        from . import half  # which asks here for other loops

        return half
    if False and COMPILED and m is np and dtype in _TYPES:
        if dtype not in _BUILT:
            with _BUILDING:  # threads that come meanwhile wait: their numbers have the same bits
                if dtype not in _BUILT:
                    _build(dtype)
        return _BUILT[dtype] or arrays
    return arrays


_TYPES = (np.dtype("float32"), np.dtype("float64"))


_BUILT: dict[Any, ModuleType | None] = {}
"""What was built, by type; None where that failed, which is not tried again."""

_BUILDING = threading.Lock()


def _build(dtype: Any) -> None:
    """Compile the loops for a type, or load them; without a working Numba there are none."""
    try:
        import numba  # the extra `fast`

        config = numba.config
        if getattr(config, "DISABLE_JIT", False):
            _BUILT[dtype] = None
            return
        from . import compiled
    except (Exception, SystemExit) as error:  # any: it does not suit this NumPy, or is half there
        _BUILT.update(dict.fromkeys(_TYPES))
        if not (isinstance(error, ModuleNotFoundError) and error.name == "numba"):
            _warn(f"Numba does not work, so NumPy runs the loops of recurrent layers: {error!r}")
        return
    try:
        compiled.ready(dtype)
    except (Exception, SystemExit) as error:  # of Numba or LLVM, not needed for a right answer
        kept = getattr(config, "CACHE_DIR", "") or f"{__path__[0]}/__pycache__"
        _BUILT[dtype] = None
        _warn(
            f"the loops of recurrent layers could not be compiled, NumPy runs them: {error!r}; if files "
            f"kept by Numba are damaged, delete rows.*.nbi and rows.*.nbc in {kept}"
        )
        return
    _BUILT[dtype] = compiled


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _in_child() -> None:
    """Leave the loops to NumPy where another thread was building them: it is not in this process."""
    global _BUILDING
    if _BUILDING.locked():
        _BUILDING = threading.Lock()
        _BUILT.update({dtype: _BUILT.get(dtype) for dtype in _TYPES})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
