"""The loops over time on a CUDA device: those of :mod:`.arrays`, with kernels of their own.

A launch takes longer than the arithmetic of a step. For an LSTM one kernel forward and two back stand for
16 of CuPy's; where powers of two are carried, four for 28.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..backend import Array
from . import arrays
from .arrays import Deltas, at_powers, exponents
from .cells import LongShortTerm
from .powers import NOTHING, Normalized

__all__ = ["at_powers", "backward", "exponents", "forward"]


def forward(cell: Any, *operands: Any) -> None:
    """Do what :func:`.arrays.forward` does."""
    arrays.forward(_with_kernels(cell), *operands)


def backward(cell: Any, *operands: Any) -> Deltas:
    """Do what :func:`.arrays.backward` does."""
    return arrays.backward(_with_kernels(cell), *operands, on_device=NormalizedByKernels)


def _with_kernels(cell: Any) -> Any:
    """Return the cell with kernels; a vanilla one would need as many launches with kernels of its own."""
    return FusedLongShortTerm(cell.m) if type(cell) is LongShortTerm else cell


class FusedLongShortTerm(LongShortTerm):
    """The formulas of :class:`.LongShortTerm`, each method one kernel."""

    def forward(self, z: Array, product: Array, before: list[Array], after: list[Array]) -> None:
        """Do what :meth:`.LongShortTerm.forward` does."""
        h, c = after
        kernels(self.m)["forward"](*_blocks(product), before[1], *_blocks(z), c, h)

    def factors(self, gates: Array, before: list[Array], after: list[Array]) -> tuple[Array, ...]:
        """Return views of what the kernels read at several steps."""
        return gates, before[1], after[1]

    def inside(self, factors: list[Array], deltas: Array) -> None:
        """Do what :meth:`.LongShortTerm.inside` does."""
        gates, _, c = factors
        kernels(self.m)["inside"](deltas[0], _blocks(gates)[3], c, deltas[1])

    def backward(self, factors: list[Array], deltas: Array, dz: Array) -> None:
        """Do what :meth:`.LongShortTerm.backward` does."""
        gates, before, c = factors
        kernels(self.m)["backward"](deltas[0], *_blocks(gates), before, c, *_blocks(dz), deltas[1])


class NormalizedByKernels(Normalized):
    """A :class:`.Normalized` whose step takes four kernels."""

    def add(self, t: int) -> None:
        """Do what :meth:`.Normalized.add` does."""
        made, axes, own = kernels(self.m), (0, -1), self.power
        g, given = self.arriving(t)
        ours, theirs = (made["exponents"](x, axis=axes) for x in (self.value, g))
        self.power, shift, other = made["shifts"](own, ours, given, theirs)
        made["sum"](g, other[..., None], shift[..., None], self.value)


def _blocks(z: Array) -> list[Array]:
    """Views of the gates i, f, g and o."""
    n = z.shape[-1] // 4
    return [z[..., k * n : (k + 1) * n] for k in range(4)]


@cache
def kernels(m: Any) -> dict[str, Any]:
    """The kernels by the name of the method; CuPy compiles each when it is first launched.

    What is given as an output is read as well: the gates are the sums before, ``dc`` is what has arrived.
    """
    return {
        "forward": m.ElementwiseKernel(
            "T by_i, T by_f, T by_g, T by_o, T before",
            "T gate_i, T gate_f, T gate_g, T gate_o, T c, T h",
            """
            gate_i = sigmoid(gate_i + by_i);
            gate_f = sigmoid(gate_f + by_f);
            gate_g = tanh(gate_g + by_g);
            gate_o = sigmoid(gate_o + by_o);
            c = gate_f * before + gate_i * gate_g;
            h = gate_o * tanh(c);
            """,
            "tinygrad182_lstm_forward",
            preamble="""
            template <typename T> __device__ T sigmoid(T z) {  // accurate on both tails
                return T(1) / (T(1) + exp(-z));
            }
            """,
        ),
        "inside": m.ElementwiseKernel(
            "T dh, T gate_o, T c",
            "T dc",
            """
            T y = tanh(c);
            dc += dh * (gate_o * (T(1) - y * y));
            """,
            "tinygrad182_lstm_inside",
        ),
        "backward": m.ElementwiseKernel(
            "T dh, T gate_i, T gate_f, T gate_g, T gate_o, T before, T c",
            "T d_i, T d_f, T d_g, T d_o, T dc",
            """
            d_i = dc * (gate_g * (gate_i * (T(1) - gate_i)));
            d_f = dc * (before * (gate_f * (T(1) - gate_f)));
            d_g = dc * (gate_i * (T(1) - gate_g * gate_g));
            d_o = dh * (tanh(c) * (gate_o * (T(1) - gate_o)));
            dc *= gate_f;
            """,
            "tinygrad182_lstm_backward",
        ),
        "exponents": m.ReductionKernel(
            "T x",
            "int64 exponent",
            "fabs(x)",
            "(b > a || b != b) ? b : a",  # NaN stays
            "exponent = exponent_of(a)",
            "0",
            "tinygrad182_exponents",
            reduce_type="T",
            preamble=f"""
            template <typename T> __device__ long long exponent_of(T size) {{
                int exponent = 0;
                if (isfinite(size)) frexp(size, &exponent);
                return size == T(0) ? {NOTHING}LL : exponent;
            }}
            """,
        ),
        "shifts": m.ElementwiseKernel(
            "int64 own, int64 ours, int64 given, int64 theirs",
            "int64 power, int64 shift, int64 other",
            f"""
            power = max(own + ours, given + theirs);
            if (power < {NOTHING // 2}LL) power = own;
            shift = own - power;
            other = given - power;
            """,
            "tinygrad182_shifts",
        ),
        "sum": m.ElementwiseKernel(
            "T g, int64 other, int64 shift",
            "T value",
            "value = times_two_to(value, shift) + times_two_to(g, other)",
            "tinygrad182_sum",
            preamble="""
            template <typename T> __device__ T times_two_to(T x, long long power) {
                return ldexp(x, (int)max(-4096LL, min(4096LL, power)));  // further out, nothing changes
            }
            """,
        ),
    }
