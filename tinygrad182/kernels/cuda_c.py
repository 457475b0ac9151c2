"""A program in CUDA C: one kernel for a step forwards, and one for a step back.

The printed instructions are the inside of a loop over hidden units. Every row (a sequence, and a place on
the leading axes of cotangents) has a block of threads, and every thread some of its units. The text depends
on nothing but the program, so CuPy finds again what it has compiled and keeps on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from string import Template
from typing import Any

from .powers import NOTHING
from .program import Key, Listing, Program

_SIGNS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
    "logical_and": "&&",
    "logical_or": "||",
}
_FUNCTIONS = (
    "acos asin asinh atan ceil cos cosh exp expm1 floor isfinite isinf isnan log log10 log1p "
    "log2 sin sinh sqrt tanh trunc"
)
EXPRESSIONS = {
    **{op: f"{{}} {sign} {{}}" for op, sign in _SIGNS.items()},
    **{op: f"{op}({{}})" for op in _FUNCTIONS.split()},
    "abs": "fabs({})",
    "atan2": "atan2({}, {})",
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
}
"""Each operation as an expression. In ``step`` is what CUDA has not, or does otherwise than NumPy."""


def printable(program: Program) -> bool:
    """Whether there is an expression for every operation of a program."""
    listings = program.forward, program.backward
    return all(
        r.op == "input" or r.op in EXPRESSIONS for steps in listings for r in steps.instructions
    )


class Writer:
    """The operations by name; each writes a line, ``const auto v3 = v1 * v2;``, and returns its name."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, op: str) -> Callable[..., str]:
        expression = EXPRESSIONS[op]
        return lambda *operands: self.line(expression.format(*map(_text, operands)))

    def line(self, expression: str) -> str:
        """Give a name to what an expression says."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"const auto {name} = {expression};")
        return name


def _text(operand: str | float) -> str:
    """A name as it is, and a number as one of the kernel's type."""
    if isinstance(operand, str):
        return operand
    if math.isfinite(operand):
        return f"real({float(operand)!r})"
    return "step::nan()" if math.isnan(operand) else f"{'-' * (operand < 0)}step::infinity()"


def _printed(
    listing: Listing, inputs: Mapping[str, Callable[[int], str]]
) -> tuple[list[str], dict[Key, str]]:
    """The lines of a listing, and the names of its outputs.

    ``inputs`` has the expression of an input by its kind and number.
    """
    writer = Writer()
    values = {(kind, i): writer.line(inputs[kind](i)) for kind, i in sorted(listing.inputs)}
    outputs: dict[Key, Any] = listing.run(values, writer)
    return writer.lines, {key: _text(output) for key, output in outputs.items()}


def _filled(text: str, name: str, dtype: str, **blanks: Any) -> str:
    """The text of a kernel; lists of lines are indented as its loops are."""
    real = {"float32": "float", "float64": "double"}[dtype]
    lines = {k: "\n        ".join(v) if isinstance(v, list) else v for k, v in blanks.items()}
    return Template(BEGINNING + text).substitute(lines, name=name, real=real, nothing=NOTHING)


def forward(program: Program, name: str, dtype: str) -> str:
    """The kernel of a step forwards, from the products of both sides to the state and what is saved."""
    G, S, parts = len(program.gates), program.sums, range(len(program.parts))

    def summed(s: int) -> str:
        terms = []
        if s < G:
            terms += [("z", "bias_ih", program.x_gates[s])]
        if s >= S - G:
            terms += [("product", "bias_hh", program.h_gates[s - (S - G)])]
        return " + ".join(
            f"{z}[{k} * H + u] + step::at({bias}, {k} * H + u)" for z, bias, k in terms
        )

    body, outputs = _printed(
        program.forward,
        {
            "sum": summed,
            "before": lambda p: f"before[{p} * before_part + u]",
            "weight": lambda j: f"weights[{j} * H + u]",
        },
    )
    after = [
        f"after[{p} * part + u] = over ? before[{p} * before_part + u] : {outputs['after', p]};"
        for p in parts
    ]
    saved = [f"saved[{k} * H + u] = {outputs['saved', k]};" for k in range(program.saved)]
    return _filled(
        FORWARD, name, dtype, gates=G, slots=program.saved, body=body, after=after, saved=saved
    )  # fmt: skip


def backward(program: Program, name: str, dtype: str) -> str:
    """The kernel of a step back, from what arrives at the state to what goes to the step before."""
    G, S, parts = len(program.gates), program.sums, range(len(program.parts))
    body, outputs = _printed(
        program.backward,
        {
            "grad": lambda p: f"grad{p}",
            "before": lambda p: f"before[{p} * before_part + u]",
            "after": lambda p: f"after[{p} * part + u]",
            "saved": lambda k: f"saved[{k} * H + u]",
            "weight": lambda j: f"weights[{j} * H + u]",
        },
    )
    # what came from the step after: by its sums as well, for the part that W_h is applied to
    passed = [f"value[{p} * value_part + u]" for p in parts]
    passed[0] += " + step::at(product, u)"
    given = [f"g[{p} * g_part + u]" for p in parts]
    columns = [("sum", s) for s in range(S)]
    columns += [("weight", j) for j in range(program.columns - S)]

    def unless_over(key: Key) -> str:
        return f"over ? real(0) : {outputs[key]}" if key in outputs else "real(0)"

    return _filled(
        BACKWARD,
        name,
        dtype,
        gates=G,
        slots=program.saved,
        columns=program.columns,
        sizes=[f"ours = step::larger(ours, {x});" for x in passed]
        + [f"theirs = step::larger(theirs, {x});" for x in given],
        grads=[
            f"const real grad{p} = step::scaled({ours}, shift) + step::scaled({theirs}, other);"
            for p, ours, theirs in zip(parts, passed, given, strict=True)
        ],
        body=body,
        kept=[
            f"kept[{p} * g_part + u] = over ? grad{p} : {outputs.get(('kept', p), f'grad{p}')};"
            for p in parts
        ],
        across=[
            f"across[{k} * H + u] = {unless_over(('sum', s))};"
            for s, k in enumerate(program.h_gates, S - G)
        ],
        sums=[
            f"sums[{i} * H + u] = step::scaled({unless_over(key)}, put_back);"
            for i, key in enumerate(columns)
        ],
        value=[f"value[{p} * value_part + u] = {unless_over(('before', p))};" for p in parts],
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
__device__ bool beyond(real rest, real b) {  // a - rest is a multiple of b, but not the one below a
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
__device__ real larger(real top, real x) {  // what is not finite does not count
    return isfinite(x) ? max(top, fabs(x)) : top;
}
__device__ whole size(real top, whole power) {
    int exponent;
    frexp(top, &exponent);
    return top == real(0) ? ${nothing}LL : power + exponent;
}
__device__ real scaled(real x, whole power) {
    return ldexp(x, (int)max(-4096LL, min(4096LL, power)));  // further out, nothing changes
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
    const bool over = lengths && lengths[b] <= t;
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
    const whole* given, real* value, whole* power, real* sums, whole* powers, real* kept, real* across,
    const real* product)
{
    const whole row = blockIdx.x, b = row % B, place = (row / B * span + t - start) * B + b;
    const whole part = steps * B * H, value_part = gridDim.x * H, g_part = value_part * span;
    const bool over = lengths && lengths[b] <= t;
    const real* after = states + (t * B + b) * H;
    const real* before = t ? after - B * H : initial + b * H;
    const whole before_part = t ? part : B * H;
    saved += (t * B + b) * $slots * H;
    g += place * H;
    value += row * H;
    sums += place * $columns * H;
    across += row * $gates * H;
    if (kept) kept += place * H;
    if (product) product += row * H;

    const whole own = power[row], theirs_at = given ? given[place] : 0;
    real ours = 0, theirs = 0;
    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $sizes
    }
    const whole top = step::largest_of_block(max(step::size(ours, own), step::size(theirs, theirs_at)));
    const whole now = top == ${nothing}LL ? own : top, shift = own - now, other = theirs_at - now;
    const whole put_back = powers ? 0 : now;
    if (threadIdx.x == 0) {  // all have read the old power: they have met since
        power[row] = now;
        if (powers) powers[place] = now;
    }

    for (whole u = threadIdx.x; u < H; u += blockDim.x) {
        $grads
        $body
        if (kept) {
            $kept
        }
        $across
        $sums
        $value
    }
}
"""
