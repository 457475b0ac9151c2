"""One step of a few sequences in vector instructions: what the loops in :mod:`.rows` are made of.

In plain loops Numba made a scalar or a row's loop at a time of this: backward through 10 sequences of 20
steps with 16 units took 55 µs, and takes 11 now. LLVM compiles the same code for registers of any width.
Where Numba or LLVM change so that it cannot be compiled, NumPy runs the loops of :mod:`.arrays`.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, untyped-decorator"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from .vectors import BITS, Vector, Writer

LSTM, TANH, RELU, IDENTITY = range(4)
"""Kinds of cell."""

ROWS = 4 if BITS != 256 else 2
"""Sequences whose products are made together: as many sums as there are registers for."""

WIDE = 4
"""Registers' columns whose products are made together."""

# --- eˣ, σ and tanh -------------------------------------------------------------------------------
# x = n ln 2 + r, |r| ≤ ½ ln 2. Adding and taking away 1.5 · 2**(bits of the mantissa) rounds to the
# integer n and leaves it in the lowest bits. ln 2 is a sum, of which n times the first part is exact.


class _Exponential(NamedTuple):
    high: float
    low: float
    rounding: float
    ln2: float
    rest: float
    degree: int
    bias: int
    mantissa: int


_SINGLE = _Exponential(
    89.0, -86.0, 1.5 * 2**23, 0.693145751953125, 1.4286067653301870e-06, 7, 126, 23
)
_DOUBLE = _Exponential(
    710.0,
    -707.0,
    1.5 * 2.0**52,
    6.93147180369123816490e-01,
    1.90821492927058770002e-10,
    13,
    1022,
    52,
)


def _powers(x: Vector) -> tuple[Vector, Vector]:
    """eˣ as 2 s (1 + p); s is infinite where eˣ overflows."""
    k = _SINGLE if x.single else _DOUBLE
    x = x.where(x, ">", k.high, k.high)
    x = x.where(x, "<", k.low, k.low)
    y = x * (1 / math.log(2)) + k.rounding
    n = y - k.rounding
    r = (x - n * k.ln2) - n * k.rest
    p = r * (1 / math.factorial(k.degree)) + 1 / math.factorial(k.degree - 1)
    for i in range(k.degree - 2, 1, -1):
        p = p * r + 1 / math.factorial(i)
    return ((y.bits() + k.bias) << k.mantissa).number(), r + r * r * p


def sigmoid(z: Vector) -> Vector:
    """1 / (1 + e⁻ᶻ), accurate on both tails."""
    s, p = _powers(-z)
    e = s * p + s
    return 1.0 / (1.0 + (e + e))


def tanh(z: Vector) -> Vector:
    """With the sign of z, for x = |z|: (1 − E) / (1 + E), E = e⁻²ˣ, or from ½ on 1 − 2 E / (1 + E).

    The first is accurate around 0; of the second only the last difference is rounded by as much as counts
    in 1 − tanh².
    """
    x = abs(z)
    s, p = _powers(-(x + x))
    s = s + s
    e = s * p
    whole = e + s
    q = (e + (s - 1.0)).where(x, ">", 0.5, whole + whole) / (whole + 1.0)
    return q.where(x, ">", 0.5, 1.0 - q).signed_as(z)


# --- what Numba calls -----------------------------------------------------------------------------


def _pointer(typing: Any, array: Any) -> tuple[Signature, Any]:
    """A pointer to the first element of an array."""

    def code(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return context.make_array(signature.args[0])(context, b, args[0]).data

    return types.CPointer(array.dtype)(array), code


pointer: Any = intrinsic(_pointer)


def tile(result: Callable[[Any], Any], write: Callable[..., Any]) -> Any:
    """A function for Numba of one tuple: pointers, each with an offset, and numbers.

    ``write(writer, *pointers and numbers)`` writes its code; ``result`` says by the type of the
    elements what it returns.
    """

    @intrinsic
    def function(typing: Any, operands: Any) -> tuple[Signature, Any]:
        dtype = next(t.dtype for t in operands.types if isinstance(t, types.CPointer))

        def code(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            given: list[ir.Value] = []
            for i in range(len(operands.types)):
                value = b.extract_value(args[0], i)
                if i and isinstance(operands.types[i - 1], types.CPointer):
                    given[-1] = b.gep(given[-1], [value])
                else:
                    given.append(value)
            found = write(Writer(b, dtype), *given)
            return context.get_dummy_value() if found is None else found

        return result(dtype)(operands), code

    return function


def nothing(dtype: Any) -> Any:
    """The result of a function that only writes."""
    return types.void


class Operands(NamedTuple):
    """What the sums of a step are made of: pointers to its first sequence, and to packed weights."""

    x: Any
    inputs: Any
    weight_ih: Any
    h: Any
    weight_hh: Any
    bias: Any

    def sums(
        self, w: Writer, rows: list[Any], n: Any, panel: Any, starts: list[Any]
    ) -> list[list[Vector]]:
        """Sum for each row the columns that begin at ``starts``; ``panel``: how many come before these."""
        b = w.builder
        first = [[w.load(w.at(self.bias, s)) for s in starts]] * len(rows)
        for values, weight, length in (
            (self.x, self.weight_ih, self.inputs),
            (self.h, self.weight_hh, n),
        ):
            factors = [w.at(values, b.mul(r, length)) for r in rows]
            first = w.products(factors, w.at(weight, b.mul(panel, length)), first, length)
        return first


def _forward_lstm(
    w: Writer, n: Any, rows: Any, z: Any, before: Any, h: Any, c: Any, *given: Any
) -> None:
    """A step of several sequences, whose rows stand behind each other.

    Operands: H; how many sequences; where the gates go; c before; where h and c go; :class:`Operands`.
    """
    b = w.builder
    N = w.times(n, 4)
    for j, _ in w.over(n):
        starts = [b.add(j, w.times(n, q)) for q in range(4)]
        for numbers in w.by_rows(rows, ROWS):
            sums = Operands(*given).sums(w, numbers, n, w.times(j, 4), starts)
            for r, row in zip(numbers, sums, strict=True):
                here = b.add(j, b.mul(r, n))
                i, f, g, o = sigmoid(row[0]), sigmoid(row[1]), tanh(row[2]), sigmoid(row[3])
                new = f * w.load(w.at(before, here)) + i * g
                for s, gate in zip(starts, (i, f, g, o), strict=True):
                    w.store(gate, w.at(z, b.mul(r, N), s))
                w.store(new, w.at(c, here))
                w.store(o * tanh(new), w.at(h, here))


def _forward_vanilla(w: Writer, n: Any, rows: Any, kind: Any, h: Any, *given: Any) -> None:
    """Go a step of a vanilla cell; operands: H; how many; which σ; where h goes; :class:`Operands`."""
    b = w.builder
    for j, width in w.over(n, (WIDE, 1)):
        starts = [b.add(j, w.number(q * w.count)) for q in range(width)]
        for numbers in w.by_rows(rows, ROWS):
            sums = Operands(*given).sums(w, numbers, n, j, starts)
            for r, row in zip(numbers, sums, strict=True):
                for s, x in zip(starts, row, strict=True):
                    new = w.variable(x)
                    with b.if_then(w.equal(kind, TANH)):
                        new(tanh(new()))
                    with b.if_then(w.equal(kind, RELU)):
                        new(new().where(new(), "<=", 0.0, 0.0))  # NaN stays
                    w.store(new(), w.at(h, b.mul(r, n), s))


def _back_lstm(
    w: Writer, z: Any, before: Any, c: Any, dh: Any, dc: Any, dz: Any, on: Any, n: Any, tiny: Any
) -> None:
    """From the cotangents of h and c to those of the sums, ``dz``, and of c before, ``on``.

    ``dc`` is completed by what h sends to c within the step.
    """
    b = w.builder
    for j, _ in w.over(n):
        starts = [b.add(j, w.times(n, q)) for q in range(4)]
        i, f, g, o = (w.load(w.at(z, s)) for s in starts)
        tanh_c = tanh(w.load(w.at(c, j)))
        by_h, old = w.load(w.at(dh, j)), w.load(w.at(before, j))
        by_c = w.load(w.at(dc, j)) + by_h * (o * (1.0 - tanh_c * tanh_c))
        w.store(by_c, w.at(dc, j))
        sums = (
            by_c * (g * (i * (1.0 - i))),
            by_c * (old * (f * (1.0 - f))),
            by_c * (i * (1.0 - g * g)),
            by_h * (tanh_c * (o * (1.0 - o))),
        )
        for s, x in zip(starts, sums, strict=True):
            w.store(_flushed(x, w.spread(tiny)), w.at(dz, s))
        w.store(by_c * f, w.at(on, j))


def _back_vanilla(w: Writer, h: Any, dh: Any, dz: Any, n: Any, tiny: Any, kind: Any) -> None:
    """From the cotangents of h to those of the sums, ``dz``."""
    b = w.builder
    for j, _ in w.over(n):
        y, x = w.load(w.at(h, j)), w.variable(w.load(w.at(dh, j)))
        with b.if_then(w.equal(kind, TANH)):
            x(x() * (1.0 - y * y))
        with b.if_then(w.equal(kind, RELU)):
            x(x().where(y, "<=", 0.0, 0.0))  # 0 also of an infinite cotangent
        w.store(_flushed(x(), w.spread(tiny)), w.at(dz, j))


def _flushed(x: Vector, tiny: Vector) -> Vector:
    """0 where a size is smaller, so that no product meets a subnormal number."""
    return x.where(abs(x), "<", tiny, 0.0)


def _back_product(w: Writer, a: Any, weight: Any, out: Any, length: Any, n: Any, rows: Any) -> None:
    """``out = a @ weight``, of rows that stand behind each other with a packed weight."""
    b = w.builder
    for j, width in w.over(n, (WIDE, 1)):
        panel = w.at(weight, b.mul(j, length))
        for numbers in w.by_rows(rows, ROWS):
            factors = [w.at(a, b.mul(r, length)) for r in numbers]
            products = w.products(
                factors, panel, [[w.constant(0.0)] * width for _ in numbers], length
            )
            for r, row in zip(numbers, products, strict=True):
                for q, x in enumerate(row):
                    w.store(x, w.at(out, b.mul(r, n), j, w.number(q * w.count)))


def _pack(w: Writer, weight: Any, out: Any, length: Any, n: Any) -> None:
    """A matrix (length, n) by panels of columns, whose rows stand behind each other; filled up with 0."""
    b = w.builder
    for j, width in w.over(n, (WIDE, 1)):
        with cgutils.for_range(b, length) as loop:
            start = b.add(b.mul(j, length), w.times(loop.index, width * w.count))
            for q in range(width):
                on = w.number(q * w.count)
                x = w.load(w.at(weight, b.mul(loop.index, n), j, on))
                w.store(x, w.at(out, start, on), whole=True)


def size(dtype: Any) -> Any:
    """An integer, the bits of a size."""
    return types.int32 if dtype == types.float32 else types.int64


def _added(
    w: Writer, value: Any, g: Any, out: Any, value_on: Any, g_on: Any, out_on: Any,
    parts: Any, n: Any, factors: Any, tiny: Any,
) -> ir.Value:  # fmt: skip
    """``out = value · a · b + g · c · d`` in all parts, 0 below ``tiny``; the bits of the largest size.

    Operands: the arrays, how far apart their parts are, the numbers of parts and of elements, and the
    ``factors`` a, b, c and d.
    """
    b = w.builder
    most = w.variable(w.constant(0.0).bits())
    spread = [w.spread(b.extract_value(factors, i)) for i in range(4)]
    with cgutils.for_range(b, parts) as loop:
        here, there, to = (
            w.at(p, b.mul(loop.index, on))
            for p, on in ((value, value_on), (g, g_on), (out, out_on))
        )
        for j, _ in w.over(n):
            ours = w.load(w.at(here, j)) * spread[0] * spread[1]
            theirs = w.load(w.at(there, j)) * spread[2] * spread[3]
            x = _flushed(ours + theirs, w.spread(tiny))
            w.store(x, w.at(to, j))
            most(most().larger(x.size()))
    return most().reduced("smax")


def _largest(w: Writer, x: Any, on: Any, parts: Any, n: Any) -> ir.Value:
    """The bits of the largest size."""
    b = w.builder
    most = w.variable(w.constant(0.0).bits())
    with cgutils.for_range(b, parts) as loop:
        for j, _ in w.over(n):
            most(most().larger(w.load(w.at(x, b.mul(loop.index, on), j)).size()))
    return most().reduced("smax")


def _scaled(w: Writer, x: Any, on: Any, parts: Any, n: Any, factor: Any, tiny: Any) -> None:
    """In place: times a factor; 0 where smaller than ``tiny`` then."""
    b = w.builder
    with cgutils.for_range(b, parts) as loop:
        for j, _ in w.over(n):
            place = w.at(x, b.mul(loop.index, on), j)
            w.store(_flushed(w.load(place) * w.spread(factor), w.spread(tiny)), place)


def _times(w: Writer, x: Any, out: Any, n: Any, factor: Any, other: Any, lowest: Any) -> None:
    """``out`` = x times two factors; 0 where x is smaller than ``lowest``."""
    for j, _ in w.over(n):
        kept = _flushed(w.load(w.at(x, j)), w.spread(lowest))
        w.store(kept * w.spread(factor) * w.spread(other), w.at(out, j))


forward_lstm, forward_vanilla = tile(nothing, _forward_lstm), tile(nothing, _forward_vanilla)
back_lstm, back_vanilla = tile(nothing, _back_lstm), tile(nothing, _back_vanilla)
back_product, pack = tile(nothing, _back_product), tile(nothing, _pack)
added, largest = tile(size, _added), tile(size, _largest)
scaled, times = tile(nothing, _scaled), tile(nothing, _times)
