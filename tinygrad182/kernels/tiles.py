"""The loops over time as LLVM's code: a few sequences at a time, a register of hidden units at a time.

What is a cell's own comes from its program, run on registers; the rest is the same for all cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from llvmlite import ir

from .operations import Operations
from .powers import NOTHING, held, largest_exponent, power, smallest
from .program import Program
from .vectors import BITS, Code, Value

SUMS = 16 if BITS != 256 else 8
"""How many sums are made together: as many as there are registers for."""

DEEP = 256
"""Rows whose products with each other are added up at once: as many as the cache holds."""

WIDE = 4
"""Registers' columns whose products are made together, where a unit has one sum."""

LINE = 64
"""Bytes after which a line of the cache begins, and packed weights do."""


def named(kind: str, count: int) -> list[str]:
    """Names of operands of which a program has several."""
    return [f"{kind}{i}" for i in range(count)]


def described(program: Program) -> str:
    """All that the code of a program depends on."""
    listings = str(program.forward), str(program.backward)
    return repr((program.gates, program.parts, program.weights, program.x_only, *listings))


STEPS = ("forward", "backward")
ROWS = ("exponents", "at_powers", "crossed")
"""The functions of a program's module, and of that for rows."""


def steps(program: Program, dtype: Any) -> ir.Module:
    """The loops over time of a program."""
    module = ir.Module()
    forward(module, program, dtype)
    backward(module, program, dtype)
    return module


def rows(dtype: Any) -> ir.Module:
    """The loops over rows of cotangents, which are the same for all programs."""
    module = ir.Module()
    exponents(module, dtype)
    at_powers(module, dtype)
    crossed(module, dtype)
    return module


def aligned(code: Code, at: Value) -> Value:
    """The first place from a pointer on where a line of the cache begins."""
    b = code.builder
    address = Value(b, b.ptrtoint(at.value, ir.IntType(64)))
    address = (address + (LINE - 1)) & -LINE
    return Value(b, b.inttoptr(address.value, at.value.type))


def pack_across(
    code: Code, weight: Value, to: Value, K: Value, n: Value, blocks: tuple[int, ...], widths: Any
) -> None:
    """Blocks of a weight (·, K), n rows each, as panels: of some units of all blocks, columns side by side."""
    for j, width in code.over(n, widths):
        columns = width * code.count
        for q, block in enumerate(blocks):
            for i in code.loop(0, columns):
                unit = j + i
                inside = unit < n
                source = weight + (n * block + unit).where(~inside, 0) * K
                place = to + (j * K * len(blocks) + i + q * columns)
                for k in code.loop(0, K):
                    x = code.scalar(source + k)
                    code.put(x.where(~inside, 0.0), place + k * (columns * len(blocks)))


def panels(
    code: Code, rows: Value, to: Value, length: Value, n: Value, apart: Value, widths: Any,
    whole: Any = None, offset: Any = 0,
) -> None:  # fmt: skip
    """Rows as panels of columns, whose rows stand behind each other, filled up with 0.

    They may be some of the ``whole`` of a panel's rows, from ``offset`` on.
    """
    for j, width in code.over(n, widths):
        for k in code.loop(0, length):
            start = to + (
                j * (length if whole is None else whole) + (k + offset) * (width * code.count)
            )
            for i in range(width):
                on = code.number(i * code.count)
                code.store(code.load(rows + (k * apart + j + on)), start + on, whole=True)


# --- forward --------------------------------------------------------------------------------------


def forward(module: ir.Module, program: Program, dtype: Any) -> None:
    """Write the function ``forward``: all steps of some sequences."""
    initial, others = named("initial", len(program.parts)), named("other", len(program.weights))
    arrays = ["x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", *initial, *others]
    numbers = ["T", "B", "I", "H", "shortest", "first", "last"]
    arrays += ["saved", "states", "lengths", "scratch"]
    code = Code(module, "forward", dtype, arrays, ["lengths"], numbers)
    widths = (WIDE, 1) if program.sums == 1 else (1,)
    panels = _packed(code, program, widths)
    for t in code.loop(0, code["T"]):
        before = _before(code, program, t)
        for j, width in code.over(code["H"], widths):
            weights = [_weights(code, program, j + q * code.count) for q in range(width)]
            for rows in code.by_rows(
                code["last"] - code["first"], max(1, SUMS // (program.sums * width))
            ):
                rows = [code["first"] + r for r in rows]
                sums = _sums(code, program, panels, before[0], t, j, width, rows)
                for row, its in zip(rows, sums, strict=True):
                    for q in range(width):
                        unit = j + q * code.count
                        _forward(code, program, t, row, unit, before, its[q::width], weights[q])
        with code.when(t >= code["shortest"]):
            _stay(code, before, t)
    code.done()


def _packed(code: Code, program: Program, widths: Any) -> tuple[Value, Value, Value]:
    """Both weights as panels, and where the sums begin, each behind the other, filled up with 0."""
    H, I = code["H"], code["I"]
    padded, size = _padded(code), len(program.gates)
    panel_x = aligned(code, code["scratch"])
    panel_h = panel_x + padded * I * size
    bias = panel_h + padded * H * size
    pack_across(code, code["weight_ih"], panel_x, I, H, program.x_gates, widths)
    pack_across(code, code["weight_hh"], panel_h, H, H, program.h_gates, widths)
    from_x = dict(enumerate(program.x_gates))
    from_h = dict(enumerate(program.h_gates, program.sums - size))
    for s in range(program.sums):
        for j, _ in code.over(H):
            total = code.constant(0.0)
            for name, blocks in (("bias_ih", from_x), ("bias_hh", from_h)):
                if s in blocks:
                    total = total + code.load(code[name] + (H * blocks[s] + j))
            code.store(total, bias + (padded * s + j), whole=True)
    return panel_x, panel_h, bias


def _padded(code: Code) -> Value:
    """The number of hidden units, up to whole registers."""
    return (code["H"] + (code.count - 1)) / code.count * code.count


def _before(code: Code, program: Program, t: Value) -> list[Value]:
    """Pointers to the parts of the state before a step, of all sequences."""
    states, T, size = code["states"], code["T"], code["B"] * code["H"]
    return [
        (states + (T * p + t - 1) * size).where(t == 0, code[f"initial{p}"])
        for p in range(len(program.parts))
    ]


def _weights(code: Code, program: Program, unit: Value) -> dict[Any, Value]:
    """The cell's own weights of a register's hidden units."""
    places = [
        code[f"other{i}"] + (code["H"] * block + unit)
        for i, blocks in enumerate(program.weights.values())
        for block in range(blocks)
    ]
    return {("weight", k): code.load(place) for k, place in enumerate(places)}


def _sums(
    code: Code, program: Program, panels: tuple[Value, Value, Value], h: Value, t: Value, j: Value,
    width: int, rows: list[Value],
) -> list[list[Value]]:  # fmt: skip
    """The sums of some sequences: of each, those of one block of units behind those of another."""
    panel_x, panel_h, bias = panels
    B, I, H, size = code["B"], code["I"], code["H"], len(program.gates)
    starts = [
        _padded(code) * s + j + q * code.count for s in range(program.sums) for q in range(width)
    ]
    sums = [[code.load(bias + start) for start in starts] for _ in rows]
    x = [code["x"] + (t * B + row) * I for row in rows]
    own = size * width
    found = code.products(x, panel_x + j * I * size, [row[:own] for row in sums], I)
    sums = [row + rest[own:] for row, rest in zip(found, sums, strict=True)]
    own = (program.sums - size) * width
    before = [h + row * H for row in rows]
    found = code.products(before, panel_h + j * H * size, [row[own:] for row in sums], H)
    return [row[:own] + rest for row, rest in zip(sums, found, strict=True)]


def _forward(
    code: Code, program: Program, t: Value, row: Value, unit: Value, before: list[Value],
    sums: list[Value], weights: Mapping[Any, Value],
) -> None:  # fmt: skip
    """From sums to the state after a step, and to what backward needs, of a register's units."""
    T, B, H = (code[n] for n in "TBH")
    here = row * H + unit
    values: dict[Any, Value] = {("sum", s): x for s, x in enumerate(sums)} | dict(weights)
    values |= {("before", p): code.load(pointer + here) for p, pointer in enumerate(before)}
    for (kind, k), x in program.forward.run(values, Operations(code)).items():
        if kind == "after":
            code.store(x, code["states"] + ((T * k + t) * B * H + here))
        else:
            code.store(x, code["saved"] + (((t * B + row) * program.saved + k) * H + unit))


def _stay(code: Code, before: list[Value], t: Value) -> None:
    """Let the states of sequences that are over be as those before."""
    T, B, H = (code[n] for n in "TBH")
    for b in code.loop(code["first"], code["last"]):
        with code.when(t >= code.scalar(code["lengths"] + b)):
            for p, pointer in enumerate(before):
                for j, _ in code.over(H):
                    x = code.load(pointer + (b * H + j))
                    code.store(x, code["states"] + (((T * p + t) * B + b) * H + j))


# --- powers of two --------------------------------------------------------------------------------


class Powers:
    """Powers of two of numbers of a type, in the code of a function.

    Parameters
    ----------
    code : Code
    dtype : numpy dtype
    """

    def __init__(self, code: Code, dtype: Any) -> None:
        self.code = code
        self.limit = largest_exponent(dtype) - 2
        self.mantissa = int(np.finfo(dtype).nmant)
        self.held = held(dtype)
        self.tiny = float(smallest(dtype))
        self.low, self.high, self.infinite = (
            int(np.asarray(x, dtype).view(f"i{code.bytes}"))
            for x in (power(dtype, self.held.low), power(dtype, self.held.high), np.inf)
        )

    def two_to(self, exponent: Value) -> Value:
        """2**exponent; 0 where next to what has the power 0 it would not show."""
        bits = (
            exponent.larger(-self.limit - 1).smaller(self.limit + 2) + (self.limit + 1)
        ) << self.mantissa
        return self.code.as_bits(bits).number()

    def exponent(self, bits: Value) -> Value:
        """Which power of two a size is about, by its bits; if it is not finite, such that its row stays."""
        found = bits >> self.mantissa
        usual = (found - self.limit).larger(-self.limit).smaller(self.limit)
        return usual.where(bits >= self.infinite, self.held.middle)

    def flushed(self, x: Value, least: Any = None) -> Value:
        """0 where a size is smaller than the least, so that no product meets a subnormal number."""
        return x.where(abs(x) < (self.tiny if least is None else least), 0.0)

    def over(self, n: Value, parts: int, one: Callable[[int, Value], Value]) -> Value:
        """Do something with the elements of a row in all parts; the bits of the largest size of all results."""
        code = self.code
        most = code.variable(code.constant(0.0).bits())
        for p in range(parts):
            for j, _ in code.over(n):
                most(most().larger(one(p, j).size()))
        return code.as_index(most().largest())

    def largest(self, n: Value, rows: list[Value]) -> Value:
        """The bits of the largest size of an element."""
        return self.over(n, len(rows), lambda p, j: self.code.load(rows[p] + j))

    def added(
        self, n: Value, ours: list[Value], theirs: list[Value], out: list[Value],
        sum_of: Callable[[Value, Value], Value],
    ) -> Value:  # fmt: skip
        """Write a sum of two rows, 0 where it is subnormal; the bits of the largest size."""

        def one(p: int, j: Value) -> Value:
            x = self.flushed(sum_of(self.code.load(ours[p] + j), self.code.load(theirs[p] + j)))
            self.code.store(x, out[p] + j)
            return x

        return self.over(n, len(ours), one)

    def met(
        self, ours: Value, power: Value, theirs: Value, given: Value
    ) -> tuple[Value, Callable[[Value, Value], Value]]:
        """At which power two rows at others are added, and how: each is brought to about 1 first.

        The rows' largest sizes are given as bits. The larger one is then at what rows are held at.
        """
        a, b, nothing = self.exponent(ours), self.exponent(theirs), theirs == 0
        to = given + b - self.held.middle
        to = to.where(ours != 0, to.larger(power + a - self.held.middle)).where(nothing, power)
        first, second = (
            self.two_to((-a).where(nothing, 0)),
            self.two_to((power + a - to).where(nothing, 0)),
        )
        second = second.where(ours == 0, 0.0)
        third, fourth = self.two_to(-b), self.two_to(given + b - to).where(nothing, 0.0)
        return to, lambda x, y: x * first * second + y * third * fourth


# --- backward -------------------------------------------------------------------------------------


def backward(module: ir.Module, program: Program, dtype: Any) -> None:
    """Write the function ``backward``: some steps back of some sequences; whether any power has changed.

    ``g`` (parts, L, T, B, H) are at the powers ``given``; ``value`` and ``power`` are what comes from
    later steps, (parts, L, B, H), and its powers. It writes the cotangents of the sums, the powers at
    every step, and the cotangents of the states, ``held``: of one step only, which is written over, where
    they are not wanted (``keep`` is the number of steps that are kept). Of what is given once for
    all rows, the factor of a row's number is 0: ``ragged`` of ``lengths``, ``various`` of ``given``.
    """
    parts = len(program.parts)
    indices = ["lengths", "given", "power", "every"]
    arrays = [*named("initial", parts), *named("other", len(program.weights))]
    arrays += ["weight_hh", "saved", "states", "g", "value", "sums", "held"]
    arrays += [*indices, "scratch"]
    numbers = ["L", "T", "B", "H", "start", "stop", "keep", "ragged", "various", "first", "last"]
    code = Code(module, "backward", dtype, arrays, indices, numbers)
    L, T, B, H, start, stop, keep = (code[n] for n in numbers[:7])
    panel = aligned(code, code["scratch"])
    for q, gate in enumerate(program.h_gates):
        block, whole = code["weight_hh"] + H * gate * H, H * len(program.gates)
        panels(code, block, panel, H, H, H, (WIDE, 1), whole, H * q)
    carry = _Carry(code, program, dtype)
    for e in code.loop(0, L):
        for back in code.loop(1, stop - start + 1):
            t = stop - back
            i = t - start
            before = _before(code, program, t)
            for b in code.loop(code["first"], code["last"]):
                value = [code["value"] + ((L * p + e) * B + b) * H for p in range(parts)]
                g = [code["g"] + (((L * p + e) * T + t) * B + b) * H for p in range(parts)]
                kept = [
                    code["held"] + (((L * p + e) * keep + i % keep) * B + b) * H
                    for p in range(parts)
                ]
                sums = code["sums"] + ((e * (stop - start) + i) * B + b) * H * program.columns
                given = code.scalar(code["given"] + ((e * T + t) * B + b) * code["various"])
                power = carry.add(value, code["power"] + (e * B + b), g, given, kept)
                code.put(power, code["every"] + ((e * (stop - start) + i) * B + b))
                over = t >= code.scalar(code["lengths"] + b * code["ragged"])
                with code.builder.if_else(over.value) as (stopped, running):
                    with stopped:  # the state stayed as it was, as a constant
                        for j, _ in code.over(H * program.columns):
                            code.store(0.0, sums + j)
                        for row in value:
                            for j, _ in code.over(H):
                                code.store(0.0, row + j)
                    with running:
                        _back(code, program, carry.powers, t, b, before, kept, sums, value)
            sums = (
                code["sums"]
                + (
                    (e * (stop - start) + i) * B * program.columns
                    + program.sums
                    - len(program.gates)
                )
                * H
            )
            _back_product(code, program, sums, panel, code["value"] + e * B * H)
    code.done(carry.moved())


class _Carry:
    """Cotangents on their way back: see :class:`.powers.Rescaled`."""

    def __init__(self, code: Code, program: Program, dtype: Any) -> None:
        self.code = code
        self.powers = Powers(code, dtype)
        self.moved = code.variable(code.number(0))
        # by how much what arrives is raised: mostly as the row before it was
        self.above = code.variable(code.number(0))
        self.up = code.variable(self.powers.two_to(code.number(0)))

    def add(
        self, value: list[Value], place: Value, g: list[Value], given: Value, to: list[Value]
    ) -> Value:
        """Add what arrives to a row, into ``to``, and rescale; the row's power, also at its place."""
        code, powers, n = self.code, self.powers, self.code["H"]
        power = code.variable(code.scalar(place))
        top = code.variable(code.number(powers.infinite))
        above = given - power()
        with code.when((above >= 0) & (above <= powers.limit)):
            with code.when(above != self.above()):
                self.above(above)
                self.up(powers.two_to(above))
            up = self.up()
            top(powers.added(n, value, g, to, lambda x, y: x + y * up))
        with code.when(top() >= powers.infinite):  # what arrives cannot be raised that much
            ours, theirs = powers.largest(n, value), powers.largest(n, g)
            met, sum_of = powers.met(ours, power(), theirs, given)
            power(met)
            top(powers.added(n, value, g, to, sum_of))
        outside = (top() < powers.low) | (top() > powers.high)
        with code.when(outside & (top() > 0) & (top() < powers.infinite)):
            by = (
                (powers.exponent(top()) - powers.held.middle)
                .larger(-powers.limit)
                .smaller(powers.limit)
            )
            factor = powers.two_to(-by)
            power(power() + by)
            for row in to:
                for j, _ in code.over(n):
                    code.store(powers.flushed(code.load(row + j) * factor), row + j)
        code.put(power(), place)
        with code.when(power() != -powers.held.middle):
            self.moved(1)
        return power()


def _back(
    code: Code, program: Program, powers: Powers, t: Value, b: Value, before: list[Value],
    kept: list[Value], sums: Value, on: list[Value],
) -> None:  # fmt: skip
    """From the cotangents of a row's state to those of its sums and weights, and of the state before."""
    T, B, H = (code[n] for n in "TBH")
    saved = code["saved"] + (t * B + b) * H * program.saved
    places = {("before", p): pointer + b * H for p, pointer in enumerate(before)}
    places |= {("after", p): code["states"] + ((T * p + t) * B + b) * H for p in range(len(kept))}
    places |= {("saved", k): saved + H * k for k in range(program.saved)}
    places |= {("grad", p): row for p, row in enumerate(kept)}
    for j, _ in code.over(H):
        values = {
            key: code.load(place + j)
            for key, place in places.items()
            if key in program.backward.inputs
        }
        found = program.backward.run(values | _weights(code, program, j), Operations(code))
        for p, row in enumerate(kept):
            code.store(found.get(("kept", p), 0.0), row + j)
            if p or ("before", 0) in found:
                code.store(found.get(("before", p), 0.0), on[p] + j)
        for s in range(program.columns):
            key = ("sum", s) if s < program.sums else ("weight", s - program.sums)
            code.store(powers.flushed(code.spread(found.get(key, 0.0))), sums + (H * s + j))


def _back_product(code: Code, program: Program, a: Value, weight: Value, out: Value) -> None:
    """Add to ``out`` the product of rows with a packed weight; it begins at 0 where nothing else goes there."""
    H, B = code["H"], code["B"]
    direct = ("before", 0) in program.backward.outputs
    length = H * len(program.gates)
    for j, width in code.over(H, (WIDE, 1)):
        for rows in code.by_rows(code["last"] - code["first"], max(1, SUMS // WIDE)):
            rows = [code["first"] + r for r in rows]
            to = [[out + (row * H + j + q * code.count) for q in range(width)] for row in rows]
            first = [[code.load(x) if direct else code.constant(0.0) for x in row] for row in to]
            factors = [a + row * H * program.columns for row in rows]
            for row, sums in zip(
                to, code.products(factors, weight + j * length, first, length), strict=True
            ):
                for place, x in zip(row, sums, strict=True):
                    code.store(x, place)


# --- rows of the weights' products ----------------------------------------------------------------


def exponents(module: ir.Module, dtype: Any) -> None:
    """Write the function ``exponents``, which does what :func:`.arrays.exponents` does, into ``found``."""
    code = Code(module, "exponents", dtype, ["rows", "found"], ["found"], ["R", "n"])
    powers, n = Powers(code, dtype), code["n"]
    for r in code.loop(0, code["R"]):
        bits = powers.largest(n, [code["rows"] + r * n])
        found = (bits >> powers.mantissa) - powers.limit
        code.put(found.where(bits == 0, NOTHING), code["found"] + r)
    code.done()


def at_powers(module: ir.Module, dtype: Any) -> None:
    """Write the function ``at_powers``, which does what :func:`.arrays.at_powers` does, into ``out``."""
    indices = ["exponents", "sizes"]
    arrays, numbers = ["rows", "out", *indices], ["R", "n", "lift"]
    code = Code(module, "at_powers", dtype, arrays, indices, numbers)
    powers, n = Powers(code, dtype), code["n"]
    for r in code.loop(0, code["R"]):
        exponent, size = (code.scalar(code[name] + r) for name in ("exponents", "sizes"))
        factor, other = powers.two_to(-exponent), powers.two_to(size + code["lift"])
        lowest = powers.two_to(exponent - size - powers.limit)
        for j, _ in code.over(n):
            kept = powers.flushed(code.load(code["rows"] + (r * n + j)), lowest)
            code.store(kept * factor * other, code["out"] + (r * n + j))
    code.done()


def crossed(module: ir.Module, dtype: Any) -> None:
    """Write the function ``crossed``: add aᵀ b to ``out`` (N, K), of rows a (R, N) and b (R, K).

    Rows may be further apart than they are long. Those of ``out`` are written from ``first`` to ``last``.
    """
    numbers = ["R", "N", "K", "a_apart", "b_apart", "first", "last"]
    code = Code(module, "crossed", dtype, ["a", "b", "out", "scratch"], [], numbers)
    R, K, first, last = (code[n] for n in ("R", "K", "first", "last"))
    panels_b = aligned(code, code["scratch"])
    panels_a = panels_b + (K + (code.count - 1)) / code.count * code.count * DEEP
    for start in code.loop(0, R, DEEP):
        deep = (R - start).smaller(DEEP)
        a, b = (code[x] + start * code[f"{x}_apart"] for x in "ab")
        panels(code, b, panels_b, deep, K, code["b_apart"], (WIDE, 1))
        panels(code, a + first, panels_a, deep, last - first, code["a_apart"], (1,))
        for j, width in code.over(K, (WIDE, 1)):
            for rows in code.by_rows(last - first, max(1, SUMS // WIDE)):
                factors = [
                    panels_a + (n / code.count * code.count * deep + n % code.count) for n in rows
                ]
                to = [
                    [code["out"] + ((first + n) * K + j + q * code.count) for q in range(width)]
                    for n in rows
                ]
                sums = [[code.load(place) for place in row] for row in to]
                sums = code.products(factors, panels_b + j * deep, sums, deep, code.count)
                for places, row in zip(to, sums, strict=True):
                    for place, x in zip(places, row, strict=True):
                        code.store(x, place)
    code.done()
