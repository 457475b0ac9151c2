"""The loops over time on a CUDA device: a step is one product and one kernel, written from the cell's program.

Printed, a listing of instructions is the body of a kernel: every thread has one hidden unit, or some, of a
row, and every row (a sequence, beside the leading axes) has a block of threads. The block of the way back also
finds the largest element of its row and brings it to about 1, as :class:`.powers.Normalized` does. A launch
takes longer than the arithmetic of a step, so nothing is left for other kernels, and the host never waits.

A program with an operation that :data:`EXPRESSIONS` does not have runs by :mod:`.arrays`.
"""

from __future__ import annotations

import math
import re
from functools import cache, partial
from string import Template
from typing import Any, NamedTuple

from ..backend import Array
from . import arrays
from .arrays import Deltas, Ends, at_powers, exponents
from .powers import NOTHING
from .program import Listing, Program, Weights

__all__ = ["at_powers", "backward", "exponents", "forward"]

THREADS = 256
"""Threads of a block at most, so that each may have all the registers there are for a thread. With more hidden
units than that, each has several."""

WHOLE = "int64"


def forward(
    program: Program,
    m: Any,
    x: Array,
    initial: list[Array],
    weights: Weights,
    saved: Array,
    states: Array,
    ends: Ends,
) -> None:
    """Do what :func:`.arrays.forward` does."""
    dtype = states.dtype
    made = kernels(m, program, str(dtype))
    if made is None:
        arrays.forward(program, m, x, initial, weights, saved, states, ends)
        return
    T, B, size = x.shape
    N, H = weights.weight_hh.shape
    # what is projected may lie where a thread then puts what it saves
    z = saved if saved.shape[-1] == N else m.empty((T, B, N), dtype)
    m.matmul(x.reshape(T * B, size), weights.weight_ih.T, out=z.reshape(T * B, N))
    across, product, h = weights.weight_hh.T, m.empty((B, N), dtype), initial[0]
    operands = (
        *(T, B, H, z, product, *(_dense(m, b, dtype) for b in (weights.bias_ih, weights.bias_hh))),
        *(_joined(m, weights.others), m.stack(initial), _dense(m, ends.lengths, WHOLE)),
        *(states, saved if saved.size else None),
    )
    for t in range(T):
        m.matmul(h, across, out=product)
        _launch(made.forward, B, H, t, *operands)
        h = states[0, t]


def backward(
    program: Program,
    m: Any,
    saved: Array,
    initial: list[Array],
    weights: Weights,
    states: Array,
    ends: Ends,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
) -> Deltas:
    """Do what :func:`.arrays.backward` does."""
    dtype = states.dtype
    made = kernels(m, program, str(dtype))
    if made is None:
        return arrays.backward(
            program, m, saved, initial, weights, states, ends, g, powers, keep, span, later
        )
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    here, rows, steps = slice(span.start, span.stop), math.prod(lead) * B, (*lead, len(span), B)
    sums = m.empty((*steps, program.columns * H), dtype)
    found = m.empty(steps, WHOLE)
    kept = m.empty((parts, *steps, H), dtype) if keep else None
    if later is None:
        value, power = m.zeros((parts, *lead, B, H), dtype), m.zeros((*lead, B), WHOLE)
    else:
        value, power = later.initial.copy(), m.zeros((*lead, B), WHOLE) + later.initial_powers
    across, product = (m.empty((rows, n), dtype) for n in (len(weights.weight_hh), H))
    given = None if powers is None else _dense(m, powers[..., here, :], WHOLE)
    operands = (
        *(T, B, H, span.start, len(span), _dense(m, saved, dtype), m.stack(initial)),
        *(_dense(m, states, dtype), _joined(m, weights.others), _dense(m, ends.lengths, WHOLE)),
        *(_dense(m, g[..., here, :, :], dtype), given),
        *(value, power, sums, found, kept, across),
    )
    arrived = None  # by the sums of the step after
    for t in reversed(span):
        _launch(made.backward, rows, H, t, *operands, arrived)
        arrived = m.matmul(across, weights.weight_hh, out=product)
    value[0] += product.reshape(value[0].shape)
    return Deltas(sums, found, value, power, kept)


def _launch(kernel: Any, rows: int, units: int, *operands: Any) -> None:
    if rows:
        kernel((rows,), (min(THREADS, -(-max(units, 1) // 32) * 32),), operands)


def _joined(m: Any, vectors: tuple[Array, ...]) -> Array | None:
    return m.concatenate(vectors) if vectors else None


def _dense(m: Any, array: Array | None, dtype: Any) -> Array | None:
    """The array as a kernel reads it, from its first element on."""
    return None if array is None else m.ascontiguousarray(array, dtype)


# --- text -----------------------------------------------------------------------------------------

EXPRESSIONS = {
    **{op: f"{{}} {sign} {{}}" for op, sign in {
        "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "less": "<", "less_equal": "<=",
        "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=", "logical_and": "&&",
        "logical_or": "||",
    }.items()},
    **{op: f"{op}({{}})" for op in (
        "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "exp", "expm1", "floor",
        "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2", "sin", "sinh", "sqrt", "tan", "tanh",
        "trunc",
    )},
    **{op: f"{op}({{}}, {{}})" for op in ("atan2", "copysign", "hypot")},
    "abs": "fabs({})",
    "floor_divide": "step::floor_divide({}, {})",
    "logical_not": "!{}",
    "maximum": "step::maximum({}, {})",
    "minimum": "step::minimum({}, {})",
    "negative": "-{}",
    "power": "pow({}, {})",
    "relu": "step::maximum({}, real(0))",
    "remainder": "step::remainder({}, {})",
    "round": "rint({})",
    "sigmoid": "step::sigmoid({})",
    "sign": "step::sign({})",
    "square": "{0} * {0}",
    "where": "{} ? {} : {}",
}  # fmt: skip
"""Each operation in CUDA C."""


class UnprintableError(Exception):
    """An operation is not one of :data:`EXPRESSIONS`."""


class Writer:
    """Operations by name that each write a line, ``const auto v3 = v1 * v2;``, and return the name in it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, op: str) -> Any:
        if op not in EXPRESSIONS:
            raise UnprintableError(op)
        return lambda *operands: self.line(EXPRESSIONS[op].format(*map(_text, operands)))

    def line(self, expression: str) -> str:
        """Give a name to what an expression says."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"const auto {name} = {expression};")
        return name


def _text(operand: Any) -> str:
    """A name as it is, and a number as one of the type of the kernel."""
    if isinstance(operand, str):
        return operand
    number = float(operand)
    if math.isfinite(number):
        return f"real({number!r})"
    return "step::nan()" if math.isnan(number) else f"{'-' * (number < 0)}step::infinity()"


def _printed(listing: Listing, inputs: dict[str, Any]) -> tuple[str, dict[tuple[str, int], str]]:
    """The lines of a listing, and the names of its outputs.

    ``inputs`` has for each kind a function from the number to an expression.
    """
    writer = Writer()
    values = {(kind, i): writer.line(inputs[kind](i)) for kind, i in sorted(listing.inputs)}
    found = {key: _text(name) for key, name in listing.run(values, writer).items()}
    return "\n        ".join(writer.lines), found


class Kernels(NamedTuple):
    """A step forwards and backwards."""

    forward: Any
    backward: Any


@cache
def kernels(m: Any, program: Program, dtype: str) -> Kernels | None:
    """The kernels of a program, or None; CuPy compiles each when it is first launched."""
    cell = "tinygrad182_" + re.sub(r"\W", "_", program.name)
    try:
        texts = forward_text(program), backward_text(program)
    except UnprintableError:
        return None
    names = f"{cell}_forward", f"{cell}_backward"
    real = {"float32": "float", "float64": "double"}[dtype]
    return Kernels(
        *(
            m.RawKernel(Template(START).substitute(real=real) + text.replace("NAME", name), name)
            for text, name in zip(texts, names, strict=True)
        )
    )


START = """
typedef $real real;
typedef long long whole;

namespace step {
__device__ real infinity() { return real(__longlong_as_double(0x7ff0000000000000LL)); }
__device__ real nan() { return real(__longlong_as_double(0x7ff8000000000000LL)); }
__device__ real at(const real* given, whole i) { return given ? given[i] : real(0); }
__device__ real sigmoid(real z) { return real(1) / (real(1) + exp(-z)); }  // accurate on both tails
__device__ real sign(real x) { return x > real(0) ? real(1) : x < real(0) ? real(-1) : x; }
__device__ real maximum(real a, real b) { return a >= b || a != a ? a : b; }  // NaN wins
__device__ real minimum(real a, real b) { return a <= b || a != a ? a : b; }
__device__ real remainder(real a, real b) {  // with the sign of b
    const real rest = fmod(a, b);
    return rest != real(0) && (rest < real(0)) != (b < real(0)) ? rest + b : rest;
}
__device__ real floor_divide(real a, real b) {
    return b == real(0) ? a / b : rint((a - remainder(a, b)) / b);
}
}  // namespace step
"""


def forward_text(program: Program) -> str:
    """The kernel of a step forwards: all operands beside its number ``t``, a block for each sequence."""
    gates, slots, parts = len(program.gates), program.saved, len(program.parts)
    x_side = dict(enumerate(program.x_gates))
    h_side = dict(enumerate(program.h_gates, program.sums - gates))

    def summed(s: int) -> str:
        terms = []
        for side, array, bias in ((x_side, "z", "bias_ih"), (h_side, "product", "bias_hh")):
            if s in side:
                terms += [
                    f"{array}[{side[s]} * H + u]",
                    f"step::at({bias}, {side[s]} * H + u)",
                ]
        return " + ".join(terms)

    body, found = _printed(
        program.forward,
        {
            "sum": summed,
            "before": lambda p: f"before[{p} * across + u]",
            "weight": lambda j: f"weights[{j} * H + u]",
        },
    )
    stores = [
        f"after[{p} * part + u] = over ? before[{p} * across + u] : {found['after', p]};"
        for p in range(parts)
    ]
    stores += [f"if (saved) saved[{k} * H + u] = {found['saved', k]};" for k in range(slots)]
    return Template(FORWARD).safe_substitute(
        gates=gates, slots=slots, body=body, stores="\n        ".join(stores)
    )


FORWARD = """
extern "C" __global__ void NAME(
    whole t, whole steps, whole B, whole H, const real* z, const real* product, const real* bias_ih,
    const real* bias_hh, const real* weights, const real* initial, const whole* lengths, real* states,
    real* saved)
{
    const whole b = blockIdx.x, row = t * B + b, part = steps * B * H;
    const bool over = lengths && lengths[b] <= t;
    const real* before = (t ? states + (row - B) * H : initial + b * H);
    const whole across = t ? part : B * H;
    real* after = states + row * H;
    z += row * $gates * H;
    product += b * $gates * H;
    if (saved) saved += row * $slots * H;
    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $body
        $stores
    }
}
"""


def backward_text(program: Program) -> str:
    """The kernel of a step back, a block for each row: it is brought to about 1, and then the rule runs."""
    gates, slots, parts, S = len(program.gates), program.saved, len(program.parts), program.sums
    body, found = _printed(
        program.backward,
        {
            "grad": lambda p: f"g{p}",
            "before": lambda p: f"before[{p} * apart + u]",
            "after": lambda p: f"after[{p} * part + u]",
            "saved": lambda k: f"saved[{k} * H + u]",
            "weight": lambda j: f"weights[{j} * H + u]",
        },
    )
    h_side = enumerate(program.h_gates, S - gates)
    zero = "real(0)"
    columns = [found.get(("sum", s), zero) for s in range(S)]
    columns += [found.get(("weight", j), zero) for j in range(program.columns - S)]
    stores = [
        f"if (kept) kept[{p} * kept_part + u] = over ? g{p} : {found.get(('kept', p), f'g{p}')};"
        for p in range(parts)
    ]
    stores += [f"sums[{s} * H + u] = over ? {zero} : {name};" for s, name in enumerate(columns)]
    stores += [f"across[{k} * H + u] = over ? {zero} : {columns[s]};" for s, k in h_side]
    stores += [
        f"value[{p} * value_part + u] = over ? {zero} : {found.get(('before', p), zero)};"
        for p in range(parts)
    ]
    arrived = [
        f"const real g{p} = step::scaled({_arrived(p)}, shift)"
        f" + step::scaled(g[{p} * kept_part + u], other);"
        for p in range(parts)
    ]
    sizes = [
        f"step::larger(ours, {_arrived(p)}); step::larger(theirs, g[{p} * kept_part + u]);"
        for p in range(parts)
    ]
    indent = "\n        "
    return Template(BACKWARD).safe_substitute(
        gates=gates,
        slots=slots,
        columns=program.columns,
        sizes=indent.join(sizes),
        arrived=indent.join(arrived),
        body=body,
        stores=indent.join(stores),
    )


def _arrived(part: int) -> str:
    """What came from the step after: by its sums as well, for the part that W_h is applied to."""
    return f"value[{part} * value_part + u]" + (" + step::at(product, u)" if part == 0 else "")


BACKWARD = f"""
#define NOTHING {NOTHING}LL
""" + """
namespace step {
__device__ void larger(real& top, real x) {  // what is not finite does not count
    if (isfinite(x)) top = max(top, fabs(x));
}
__device__ whole size(real top, whole power) {
    int exponent;
    frexp(top, &exponent);
    return top == real(0) ? NOTHING : power + exponent;
}
__device__ real scaled(real x, whole power) {
    return ldexp(x, (int)max(-4096LL, min(4096LL, power)));  // further out, nothing changes
}
__device__ whole largest_of_block(whole mine) {
    __shared__ whole of_warps[32];
    for (int lanes = 16; lanes; lanes /= 2) mine = max(mine, __shfl_xor_sync(0xffffffffu, mine, lanes));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) mine = max(mine, of_warps[warp]);
    return mine;
}
}  // namespace step

extern "C" __global__ void NAME(
    whole t, whole steps, whole B, whole H, whole start, whole span, const real* saved,
    const real* initial, const real* states, const real* weights, const whole* lengths, const real* g,
    const whole* given, real* value, whole* power, real* sums, whole* found, real* kept, real* across,
    const real* product)
{
    const whole row = blockIdx.x, b = row % B, place = (row / B * span + t - start) * B + b;
    const whole part = steps * B * H, value_part = gridDim.x * H, kept_part = value_part * span;
    const whole apart = t ? part : B * H;
    const bool over = lengths && lengths[b] <= t;
    const real* after = states + (t * B + b) * H;
    const real* before = t ? after - B * H : initial + b * H;
    saved += (t * B + b) * $slots * H;
    g += place * H;
    if (kept) kept += place * H;
    sums += place * $columns * H;
    across += row * $gates * H;
    value += row * H;
    if (product) product += row * H;

    const whole own = power[row], by = given ? given[place] : 0;
    real ours = 0, theirs = 0;
    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $sizes
    }
    const whole top = step::largest_of_block(max(step::size(ours, own), step::size(theirs, by)));
    const whole now = top == NOTHING ? own : top, shift = own - now, other = by - now;
    if (threadIdx.x == 0) power[row] = found[place] = now;  // all have read it: they met above

    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $arrived
        $body
        $stores
    }
}
"""
