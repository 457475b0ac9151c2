"""The processor's sticky flags: whether any operation met or made a subnormal number.

Run as a program, for the flags are those of one thread: it prints, as JSON, which of them a backward pass
raises in each case.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

DENORMAL, UNDERFLOW = 1 << 1, 1 << 4
"""An operand was subnormal; a result was, and inexact."""

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

READABLE = platform.machine() in ("x86_64", "AMD64") and platform.libc_ver()[0] == "glibc"

_Environment = ctypes.c_uint32 * 8
"""glibc's ``fenv_t`` on x86-64: seven words of the x87 unit, then MXCSR."""


def _environment() -> Any:
    found = _Environment()
    ctypes.CDLL(None).fegetenv(ctypes.byref(found))
    return found


def raised() -> int:
    """Those of :data:`DENORMAL` and :data:`UNDERFLOW` that were raised since :func:`clear`."""
    return int(_environment()[7]) & (DENORMAL | UNDERFLOW)


def clear() -> None:
    """Take both flags back."""
    found = _environment()
    found[7] &= ~(DENORMAL | UNDERFLOW)
    ctypes.CDLL(None).fesetenv(ctypes.byref(found))


class Watch:
    """Flags from the beginning to the end of a run, also those that NumPy takes back.

    Before each of its functions NumPy clears the underflow flag, but not the denormal one; it reports an
    underflow of its own when asked to.
    """

    def __init__(self) -> None:
        self.flags = 0

    def look(self) -> None:
        """Note what has been raised so far."""
        self.flags |= raised()

    def __call__(self, run: Callable[[], object]) -> int:
        """What a run raises."""
        import numpy as np

        def underflow(*_: Any) -> None:
            self.flags |= UNDERFLOW

        self.flags = 0
        clear()
        with np.errstate(under="call", call=underflow):
            run()
        self.look()
        return self.flags

    @contextmanager
    def after(self, module: Any, name: str) -> Iterator[None]:
        """Look also whenever a function of a module has returned."""
        function = getattr(module, name)

        def watched(*operands: Any) -> Any:
            try:
                return function(*operands)
            finally:
                self.look()

        setattr(module, name, watched)
        try:
            yield
        finally:
            setattr(module, name, function)
