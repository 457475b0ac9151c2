"""A program printed in CUDA C: one kernel for a step forward, and one for a step back.

:func:`.cuda.kernels` has the texts compiled by CuPy. The printed instructions are the body of a loop over
hidden units. Each row, a sequence and one index of the cotangents' leading axes, has a block of threads,
and each thread computes some of its units. The text depends on nothing but the program, so CuPy finds
kernels that it has compiled before and keeps on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from string import Template
from typing import Any

from .operators import RELATIONS
from .powers import NOTHING
from .program import Key, Listing, Program

_SIGNS = RELATIONS | {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "logical_and": "&&", "logical_or": "||",
}  # fmt: skip
_FUNCTIONS = (
    "acos asin asinh atan ceil cos cosh exp expm1 floor isfinite isinf isnan log log10 log1p "
    "log2 sin sinh sqrt tanh trunc"
)
EXPRESSIONS = {
    **{op: f"{{}} {sign} {{}}" for op, sign in _SIGNS.items()},
    **{op: f"{op}({{}})" for op in _FUNCTIONS.split()},
    **{op: f"step::{op}({{}}, {{}})" for op in ("floor_divide", "maximum", "minimum", "remainder")},
    **{op: f"step::{op}({{}})" for op in ("sigmoid", "sign")},
    "abs": "fabs({})",
    "atan2": "atan2({}, {})",
    "logical_not": "!{}",
    "negative": "-{}",
    "power": "pow({}, {})",
    "relu": "step::maximum({}, real(0))",
    "round": "rint({})",
    "square": "{0} * {0}",
    "where": "{} ? {} : {}",
}
"""Each operation as an expression. ``step`` has what CUDA lacks, or does differently from NumPy."""


def printable(program: Program) -> bool:
    """Whether every operation of a program has an expression."""
    listings = program.forward, program.backward
    return all(
        r.op == "input" or r.op in EXPRESSIONS for steps in listings for r in steps.instructions
    )


class Writer:
    """The operations as attributes. Each writes a line, ``const auto v3 = v1 * v2;``, and returns v3."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, op: str) -> Callable[..., str]:
        expression = EXPRESSIONS[op]
        return lambda *operands: self.line(expression.format(*map(_text, operands)))

    def line(self, expression: str) -> str:
        """Write a line that gives an expression a name."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"const auto {name} = {expression};")
        return name


def _text(operand: str | float) -> str:
    """A name unchanged, or a number in the kernel's type."""
    if isinstance(operand, str):
        return operand
    if math.isfinite(operand):
        return f"real({float(operand)!r})"
    return "step::nan()" if math.isnan(operand) else f"{'-' * (operand < 0)}step::infinity()"


INPUTS = {
    "before": "before[{} * before_part + u]",
    "after": "after[{} * part + u]",
    "saved": "saved[{} * H + u]",
    "weight": "weights[{} * H + u]",
    "grad": "grad{}",
}
"""The expression of an input of a listing, by its kind; that of a sum depends on the program."""


def _printed(listing: Listing, sums: Sequence[str] = ()) -> tuple[list[str], dict[Key, str]]:
    """The lines of a listing, and the names of its outputs; ``sums`` has the expression of each sum."""
    writer = Writer()
    values = {
        (kind, i): writer.line(sums[i] if kind == "sum" else INPUTS[kind].format(i))
        for kind, i in sorted(listing.inputs)
    }
    outputs: dict[Key, Any] = listing.run(values, writer)
    return writer.lines, {key: _text(output) for key, output in outputs.items()}


def _filled(text: str, name: str, dtype: str, **blanks: Any) -> str:
    """The text of a kernel with its blanks filled in. Lists of lines are indented like a loop's body."""
    real = {"float32": "float", "float64": "double"}[dtype]
    lines = {k: "\n        ".join(v) if isinstance(v, list) else v for k, v in blanks.items()}
    return Template(BEGINNING + text).substitute(lines, name=name, real=real, nothing=NOTHING)


def forward(program: Program, name: str, dtype: str) -> str:
    """The kernel of a step forward: from the products with x and h to the state and the saved values."""
    G, S, parts = len(program.gates), program.sums, range(len(program.parts))
    of_x = [f"z[{k} * H + u] + step::at(bias_ih, {k} * H + u)" for k in program.x_gates]
    of_h = [f"product[{k} * H + u] + step::at(bias_hh, {k} * H + u)" for k in program.h_gates]
    apart = S - G  # gates with two sums
    shared = [f"{x} + {h}" for x, h in zip(of_x[apart:], of_h, strict=False)]
    body, outputs = _printed(program.forward, [*of_x[:apart], *shared, *of_h[G - apart :]])
    after = [
        f"after[{p} * part + u] = finished ? before[{p} * before_part + u] : {outputs['after', p]};"
        for p in parts
    ]
    saved = [f"saved[{k} * H + u] = {outputs['saved', k]};" for k in range(program.saved)]
    return _filled(
        FORWARD, name, dtype, gates=G, slots=program.saved, body=body, after=after, saved=saved
    )  # fmt: skip


def backward(program: Program, name: str, dtype: str) -> str:
    """The kernel of a step back: from a state's cotangents to those of the sums and the state before."""
    parts = range(len(program.parts))
    body, outputs = _printed(program.backward)
    # what comes from the step after; for the first part that includes the product of W_h with its sums
    carried = [f"value[{p} * value_part + u]" for p in parts]
    carried[0] += " + step::at(product, u)"
    arriving = [f"g[{p} * g_part + u]" for p in parts]

    def unless_finished(key: Key) -> str:
        return f"finished ? real(0) : {outputs[key]}" if key in outputs else "real(0)"

    return _filled(
        BACKWARD,
        name,
        dtype,
        gates=len(program.gates),
        slots=program.saved,
        columns=program.columns,
        tops=[f"carried = step::larger(carried, {x});" for x in carried]
        + [f"arriving = step::larger(arriving, {x});" for x in arriving],
        grads=[
            f"const real grad{p} = step::scaled({a}, shift) + step::scaled({b}, g_shift);"
            for p, a, b in zip(parts, carried, arriving, strict=True)
        ],
        body=body,
        whole_grads=[
            f"whole_grads[{p} * g_part + u] = finished ? grad{p} : "
            f"{outputs.get(('whole_grad', p), f'grad{p}')};"
            for p in parts
        ],
        sums_by_h=[
            f"sums_by_h[{k} * H + u] = {unless_finished(('sum', s))};"
            for s, k in enumerate(program.h_gates, program.sums - len(program.gates))
        ],
        sums=[
            f"sums[{i} * H + u] = step::scaled({unless_finished(key)}, put_back);"
            for i, key in enumerate(program.column_keys)
        ],
        value=[f"value[{p} * value_part + u] = {unless_finished(('before', p))};" for p in parts],
    )


BEGINNING = """
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
__device__ bool beyond(real rest, real b) {  // whether the whole number (a - rest) / b is above a / b
    return rest != real(0) && (rest < real(0)) != (b < real(0));
}
__device__ real remainder(real a, real b) {  // with the sign of b
    const real rest = fmod(a, b);
    return beyond(rest, b) ? rest + b : rest;
}
__device__ real floor_divide(real a, real b) {
    const real rest = fmod(a, b);
    return b == real(0) ? a / b : rint((a - rest) / b) - (beyond(rest, b) ? real(1) : real(0));
}
__device__ real larger(real top, real x) {  // an x that is not finite does not count
    return isfinite(x) ? max(top, fabs(x)) : top;
}
__device__ whole size(real top, whole power) {
    int exponent;
    frexp(top, &exponent);
    return top == real(0) ? ${nothing}LL : power + exponent;
}
__device__ real scaled(real x, whole power) {
    return ldexp(x, (int)max(-4096LL, min(4096LL, power)));  // beyond it the result no longer changes
}
__device__ whole largest_of_block(whole mine) {  // the number of threads is a multiple of 32
    __shared__ whole of_warps[32];
    for (int lanes = 16; lanes; lanes /= 2) mine = max(mine, __shfl_xor_sync(0xffffffffu, mine, lanes));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) mine = max(mine, of_warps[warp]);
    return mine;
}
}  // namespace step
"""

FORWARD = """
extern "C" __global__ void $name(
    whole t, whole steps, whole B, whole H, const real* z, const real* product, const real* bias_ih,
    const real* bias_hh, const real* weights, const real* initial, const whole* lengths, real* states,
    real* saved)
{
    const whole b = blockIdx.x, row = t * B + b, part = steps * B * H;
    const bool finished = lengths && lengths[b] <= t;
    const real* before = t ? states + (row - B) * H : initial + b * H;
    const whole before_part = t ? part : B * H;
    real* after = states + row * H;
    z += row * $gates * H;
    product += b * $gates * H;
    saved += row * $slots * H;
    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $body
        $after
        $saved
    }
}
"""

BACKWARD = """
extern "C" __global__ void $name(
    whole t, whole steps, whole B, whole H, whole start, whole span, const real* saved,
    const real* initial, const real* states, const real* weights, const whole* lengths, const real* g,
    const whole* g_powers, real* value, whole* power, real* sums, whole* step_powers, real* whole_grads,
    real* sums_by_h, const real* product)
{
    const whole row = blockIdx.x, b = row % B, place = (row / B * span + t - start) * B + b;
    const whole part = steps * B * H, value_part = gridDim.x * H, g_part = value_part * span;
    const bool finished = lengths && lengths[b] <= t;
    const real* after = states + (t * B + b) * H;
    const real* before = t ? after - B * H : initial + b * H;
    const whole before_part = t ? part : B * H;
    saved += (t * B + b) * $slots * H;
    g += place * H;
    value += row * H;
    sums += place * $columns * H;
    sums_by_h += row * $gates * H;
    if (whole_grads) whole_grads += place * H;
    if (product) product += row * H;

    // the largest elements of what comes from the step after, and of what arrives from the loss
    const whole old = power[row], g_power = g_powers ? g_powers[place] : 0;
    real carried = 0, arriving = 0;
    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $tops
    }
    const whole top = step::largest_of_block(max(step::size(carried, old), step::size(arriving, g_power)));
    const whole now = top == ${nothing}LL ? old : top, shift = old - now, g_shift = g_power - now;
    const whole put_back = step_powers ? 0 : now;
    if (threadIdx.x == 0) {  // all threads have read the old power: they were synchronized since
        power[row] = now;
        if (step_powers) step_powers[place] = now;
    }

    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $grads
        $body
        if (whole_grads) {
            $whole_grads
        }
        $sums_by_h
        $sums
        $value
    }
}
"""
