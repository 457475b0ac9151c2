"""Compiled and array forms of recurrences; never needed for a right answer.

:func:`loops` chooses the loops over time that suit a program and the arrays.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from types import ModuleType
from typing import Any

import numpy as np

from . import cuda, cuda_c, numpy_loops
from .program import Program

COMPILED = True
"""Whether compiled loops are used where llvmlite is installed."""


def loops(program: Program, m: Any, dtype: Any) -> Any:
    """The module whose ``forward`` and ``backward`` run over time on arrays of a library and type.

    None where there is none: complex numbers on a device, or an operation that CUDA does not have.
    """
    if m is not np:
        return cuda if dtype in _TYPES and cuda_c.printable(program) else None
    if COMPILED and dtype in _TYPES:
        key = program, dtype
        if key not in _BUILT:
            with _BUILDING:  # threads that come meanwhile wait: their numbers have the same bits
                if key not in _BUILT:
                    _BUILT[key] = _built(program, dtype)
        return _BUILT[key]
    return numpy_loops


_TYPES = (np.dtype("float32"), np.dtype("float64"))


_BUILT: dict[Any, ModuleType] = {}
"""What runs a program on a type; what could not be compiled is not tried again."""

CHOICES = 32
"""For how many choices of its numbers a step is compiled: each takes a second, and 2 MB from then on."""

_ALIKE: dict[Any, set[str]] = {}
"""Programs that were compiled, by what they are without their numbers."""


def _is_one_too_many(program: Program, dtype: Any) -> bool:
    """Whether a step has been compiled for enough choices of its numbers; the first time, say so."""
    text = f"{program.forward}\n{program.backward}"
    alike = _ALIKE.setdefault((re.sub(r" -?[0-9][0-9.e+-]*", " #", text), dtype), set())
    if text in alike or len(alike) < CHOICES:
        alike.add(text)
        return False
    if len(alike) == CHOICES:
        alike.add("said")
        _warn(
            f"the loops of {program.name} were compiled for {CHOICES} choices of the numbers in its "
            "step; NumPy runs it with others. Make a number that changes often a further weight"
        )
    return True


_BUILDING = threading.Lock()

_FAILED: list[str] = []
"""Why nothing can be compiled, once that is known."""


def _built(program: Program, dtype: Any) -> ModuleType:
    """The compiled loops, made or loaded; without a working llvmlite, NumPy's."""
    if _FAILED:
        return numpy_loops
    try:
        import llvmlite  # the extra `fast`

        from . import compiled
    except (Exception, SystemExit) as error:  # any: it does not suit this Python, or is half there
        _FAILED.append(repr(error))
        if not (isinstance(error, ModuleNotFoundError) and error.name == "llvmlite"):
            _warn(f"llvmlite does not work, so NumPy runs the loops of recurrent layers: {error!r}")
        return numpy_loops
    if _is_one_too_many(program, dtype):
        return numpy_loops
    try:
        compiled.ready(program, dtype)
    except (Exception, SystemExit) as error:  # of LLVM, which is not needed for a right answer
        _warn(f"the loops of {program.name} could not be compiled, NumPy runs them: {error!r}")
        return numpy_loops
    return compiled


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _in_child() -> None:
    """Leave loops to NumPy where another thread was building some: it is not in this process."""
    global _BUILDING
    if _BUILDING.locked():
        _BUILDING = threading.Lock()
        _FAILED.append("another thread was compiling when this process was made")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
