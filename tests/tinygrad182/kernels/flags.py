"""The processor's sticky flags: whether any operation met or made a subnormal number.

Run as a program with one thread, whose flags these are, it writes as JSON what backward passes raise.
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product as product_of
from typing import Any

import numpy as np

import tinygrad182 as tg
from tinygrad182 import kernels
from tinygrad182.kernels import products

DENORMAL, UNDERFLOW = 1 << 1, 1 << 4
"""Bits of MXCSR: an operand was subnormal; a result was, and inexact."""

KINDS = ("tanh", "relu", "identity", "lstm")
DTYPES = ("float32", "float64")
REGIMES = ("healthy", "vanishing", "not raised", "rounded to 0")
"""Two, and the second without the one or the other of the mends."""

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

READABLE = platform.machine() in ("x86_64", "AMD64") and platform.libc_ver()[0] == "glibc"

_Environment = ctypes.c_uint32 * 8
"""glibc's ``fenv_t`` on x86-64: seven words of the x87 unit, then MXCSR."""


def _environment() -> Any:
    found = _Environment()
    ctypes.CDLL(None).fegetenv(ctypes.byref(found))
    return found


def raised() -> int:
    """Read which of :data:`DENORMAL` and :data:`UNDERFLOW` were raised since :func:`clear`."""
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
        """Return the flags that a run raises."""

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


# --- what is watched ------------------------------------------------------------------------------


def layer(kind: str, dtype: str) -> Any:
    """A layer whose gradients halve at every step; in float64 they shrink to 1/256 or less."""
    radius = 0.5 if dtype == "float32" else 2.0**-8
    if kind == "lstm":
        module: Any = tg.nn.LSTM(8, 32, rng=0, dtype=dtype)
        module.bias_ih_l0.data[32:64] = 0 if dtype == "float32" else -6  # of the forget gate
    else:
        module = tg.nn.RNN(8, 32, nonlinearity=kind, rng=0, dtype=dtype)
    for block in np.split(module.weight_hh_l0.data, 4 if kind == "lstm" else 1):
        block *= radius / np.abs(np.linalg.eigvals(block.astype("float64"))).max()
    return module


def backward(kind: str, dtype: str, last: bool, look: bool) -> Callable[[], object]:
    """A pass through a layer from a loss at the last step, or at all; ``look``: with all states."""
    batch = 16 if dtype == "float32" else 13  # one window: sums of windows are brought to one power
    x = np.random.default_rng(0).normal(size=(300, batch, 8)).astype(dtype)
    output, _ = layer(kind, dtype)(tg.tensor(x))
    loss = (output[-1] if last else output).sum()
    if look:
        return lambda: tg.inspect.gradient_flow(loss, backward=True)
    return loss.backward


@contextmanager
def planted(regime: str) -> Iterator[None]:
    """Take one of the mends out."""
    names = {"not raised": "_exponent_of_operands", "rounded to 0": "times_rows"}
    replacements = {
        "_exponent_of_operands": lambda s, limit: limit - 1 - (s.x[..., 0].size).bit_length(),
        "times_rows": lambda m, array, powers: m.ldexp(array, powers[..., None].clip(-4096)),
    }
    name = names.get(regime)
    if name is None:
        yield
        return
    function = getattr(products, name)
    setattr(products, name, replacements[name])
    try:
        yield
    finally:
        setattr(products, name, function)


def product(size: float) -> Callable[[], object]:
    """A product of matrices whose elements are about ``size``."""
    a = np.full((4, 4), size, np.float32) / 3
    return lambda: a @ a


def main() -> None:
    """Write the flags of every case."""
    watch = Watch()
    found = {"product": [watch(product(1.0)), watch(product(1e-20))], "passes": []}
    tg.nn.LSTM(1, 1)(tg.ones((1, 1, 1)))  # loops are compiled, where they are
    forms = ["NumPy"]
    with ExitStack() as stack:
        if kernels.loops(np, np.dtype("float32")) is not kernels.arrays:
            forms.append("compiled")
            for name in ("_over_batch", "at_powers"):  # not NumPy's: it does not report their flags
                stack.enter_context(watch.after(kernels.compiled, name))
        for form, dtype, kind, look, regime in product_of(
            forms, DTYPES, KINDS, (False, True), REGIMES
        ):
            kernels.COMPILED = form == "compiled"
            run = backward(kind, dtype, regime != "healthy", look)
            with planted(regime):
                found["passes"].append([form, dtype, kind, look, regime, watch(run)])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
