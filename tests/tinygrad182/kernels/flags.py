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
from tests.tinygrad182.cells import KINDS as CELLS
from tests.tinygrad182.kernels.cases import are_compiled
from tinygrad182 import kernels
from tinygrad182.kernels import products, runs

DENORMAL, UNDERFLOW = 1 << 1, 1 << 4
"""Bits of MXCSR: an operand was subnormal; a result was subnormal and inexact."""

KINDS = tuple(CELLS)
DTYPES = ("float32", "float64")
REGIMES = ("healthy", "vanishing", "not raised", "rounded to 0")
"""Two kinds of gradients, and the second one without one of the two remedies."""

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
    """Clear both flags."""
    found = _environment()
    found[7] &= ~(DENORMAL | UNDERFLOW)
    ctypes.CDLL(None).fesetenv(ctypes.byref(found))


class Watch:
    """Collects the flags raised during a run, including those that NumPy clears.

    Before each of its functions NumPy clears the underflow flag, but not the denormal one; it reports an
    underflow of its own when asked to.
    """

    def __init__(self) -> None:
        self.flags = 0

    def look(self) -> None:
        """Add the flags raised so far."""
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
        """Read the flags also whenever a function of a module has returned."""
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


CARRYING = {"lstm": (1, -6), "peephole": (1, -6), "gru": (1, -6), "minimal": (0, 6)}
"""The gate that carries the state on, and the bias that shuts it."""


def operands(kind: str, dtype: str, steps: int, batch: int) -> list[Any]:
    """Operands of a scan whose gradients halve at every step; in float64 they shrink to 1/256 or less."""
    radius, H, inputs = 0.5 if dtype == "float32" else 2.0**-8, 32, 8
    scan, draw = CELLS[kind].scan, np.random.default_rng(0)
    G, bound = len(scan.gates), H**-0.5
    weights = [
        draw.uniform(-bound, bound, shape) for shape in ((G * H, inputs), (G * H, H), (G * H,))
    ]
    weights.append(draw.uniform(-bound, bound, G * H) if scan.separate else 0)
    for block in np.split(weights[1], G):
        block *= radius / np.abs(np.linalg.eigvals(block)).max()
    if kind in CARRYING:
        gate, shut = CARRYING[kind]
        weights[2][gate * H : gate * H + H] = 0 if dtype == "float32" else shut
    weights += [draw.uniform(-bound, bound, n * H) * radius for n in scan.weights.values()]
    x, state = draw.normal(size=(steps, batch, inputs)), [np.zeros((batch, H))] * len(scan.parts)
    return [x.astype(dtype) if np.ndim(x) else x for x in (x, *state, *weights)]


def backward(kind: str, dtype: str, last: bool, look: bool) -> Callable[[], object]:
    """A backward pass from a loss at the last step or at all; with ``look``, through the inspector."""
    scan, params = CELLS[kind]
    batch = 15 if dtype == "float32" else 13  # one window: sums of windows are brought to one power
    given = [tg.tensor(a) if np.ndim(a) else a for a in operands(kind, dtype, 300, batch)]
    for weight in given[1 + len(scan.parts) :]:
        if np.ndim(weight):
            weight.requires_grad_()
    states = tg.apply(scan, *given, **params)
    columns = scan.program(**params).columns * 32  # type: ignore[union-attr]
    assert len(runs.windows(np, (300, batch, columns))) == 1
    output = states[0] if len(scan.parts) > 1 else states
    loss = (output[-1] if last else output).sum()
    if look:
        return lambda: tg.inspect.gradient_flow(loss, backward=True)
    return loss.backward


@contextmanager
def planted(regime: str) -> Iterator[None]:
    """Remove one of the remedies."""
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
    forms = ["NumPy"]
    with ExitStack() as stack:
        if are_compiled():
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
