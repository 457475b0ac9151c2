"""Loops over time for recurrent layers: NumPy's, compiled ones, and CUDA kernels.

A cell's step becomes a :class:`.program.Program` (:mod:`..recurrence.tracing`). :func:`loops` returns the
module that runs such a program over time on arrays of a library and type: :mod:`.compiled` (with llvmlite,
the extra ``fast``), :mod:`.numpy_loops` or :mod:`.cuda`. :mod:`.runs` says what these modules have in
common. All of them give equal answers up to rounding; the compiled loops are the fastest on a CPU.
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

CHOICES = 32
"""A step is compiled for at most so many choices of its numbers. Each takes a second, and then 2 MB."""

_TYPES = (np.dtype("float32"), np.dtype("float64"))

_BUILT: dict[Any, ModuleType] = {}
"""The loops of each program and type; NumPy's where compiling failed, so that it is not tried again."""

_BUILDING = threading.Lock()

_ALIKE: dict[Any, set[str]] = {}
"""The texts of compiled programs, grouped by the text without its numbers."""

_FAILED: list[str] = []
"""Why nothing can be compiled, once that is known."""


def loops(program: Program, m: Any, dtype: Any) -> Any:
    """Return the module whose ``forward`` and ``backward`` run a program on arrays of a library and type.

    None on a device for complex numbers, and for an operation that has no CUDA expression.
    """
    if m is not np:
        return cuda if dtype in _TYPES and cuda_c.printable(program) else None
    if COMPILED and dtype in _TYPES:
        key = program, dtype
        if key not in _BUILT:
            with _BUILDING:  # other threads wait: the same loops give their numbers the same bits
                if key not in _BUILT:
                    _BUILT[key] = _built(program, dtype)
        return _BUILT[key]
    return numpy_loops


def _built(program: Program, dtype: Any) -> ModuleType:
    """The compiled loops, made or loaded; NumPy's where llvmlite is missing or does not work."""
    if _FAILED:
        return numpy_loops
    try:
        import llvmlite  # the extra `fast`

        from . import compiled
    except (Exception, SystemExit) as error:  # an llvmlite for another Python, or half installed
        _FAILED.append(repr(error))
        if not (isinstance(error, ModuleNotFoundError) and error.name == "llvmlite"):
            _warn(f"llvmlite does not work, so NumPy runs the loops of recurrent layers: {error!r}")
        return numpy_loops
    if _has_too_many_choices(program, dtype):
        return numpy_loops
    try:
        compiled.ready(program, dtype)
    except (Exception, SystemExit) as error:  # from LLVM; NumPy's loops give the right answer
        _warn(f"LLVM cannot compile the loops of {program.name}, so NumPy runs them: {error!r}")
        return numpy_loops
    return compiled


def _has_too_many_choices(program: Program, dtype: Any) -> bool:
    """Whether a step has been compiled for :data:`CHOICES` choices of its numbers; warn the first time."""
    text = f"{program.forward}\n{program.backward}"
    alike = _ALIKE.setdefault((re.sub(r" -?[0-9][0-9.e+-]*", " #", text), dtype), set())
    if text in alike or len(alike) < CHOICES:
        alike.add(text)
        return False
    if len(alike) == CHOICES:
        alike.add("warned")
        _warn(
            f"the loops of {program.name} were compiled for {CHOICES} choices of the numbers in its step; "
            "NumPy runs it with others. Make a number that changes often a further weight of the cell"
        )
    return True


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _in_child() -> None:
    """Leave the loops to NumPy if another thread was compiling when this process was forked."""
    global _BUILDING
    if _BUILDING.locked():
        _BUILDING = threading.Lock()
        _FAILED.append("another thread was compiling when this process was made")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
