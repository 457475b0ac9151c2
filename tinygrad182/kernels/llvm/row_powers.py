"""Powers of two of rows in the code of the compiled loops: :mod:`..powers`, by the bits of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from ..powers import NOTHING, held, largest_exponent, power, smallest
from .vectors import Code, Value


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
        limit = self.limit + 1
        return self.code.as_number(
            (exponent.larger(-limit).smaller(limit + 1) + limit) << self.mantissa
        )

    def clipped(self, exponent: Value) -> Value:
        """An exponent of which the power of two is a normal number."""
        return exponent.larger(-self.limit).smaller(self.limit)

    def exponent(self, bits: Value) -> Value:
        """Which power of two a size is about, by its bits; if it is not finite, such that its row stays."""
        usual = self.clipped((bits >> self.mantissa) - self.limit)
        return usual.where(bits >= self.infinite, self.held.middle)

    def flushed(self, x: Value, least: Any = None) -> Value:
        """0 where a size is smaller than the least, so that no product meets a subnormal number."""
        return x.where(abs(x) < (self.tiny if least is None else least), 0.0)

    def over(self, n: Value, parts: int, one: Callable[[int, Value], Value]) -> Value:
        """Do something with the elements of a row in all parts; return the largest size's bits."""
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
        first = self.two_to((-a).where(nothing, 0))
        second = self.two_to((power + a - to).where(nothing, 0)).where(ours == 0, 0.0)
        third = self.two_to(-b)
        fourth = self.two_to(given + b - to).where(nothing, 0.0)
        return to, lambda x, y: x * first * second + y * third * fourth


class RowCarry:
    """What :class:`..powers.Carry` does with all rows at a step, for one row, in the code of a function.

    Attributes
    ----------
    powers : Powers
    moved : variable
        1 when the power of any row has changed.
    """

    def __init__(self, code: Code, dtype: Any) -> None:
        self.code = code
        self.powers = Powers(code, dtype)
        self.moved = code.variable(code.number(0))
        # by how much what arrives is raised: mostly as the row before it was
        self._above = code.variable(code.number(0))
        self._up = code.variable(self.powers.two_to(code.number(0)))

    def add(
        self,
        n: Value,
        ours: list[Value],
        place: Value,
        theirs: list[Value],
        given: Value,
        to: list[Value],
    ) -> Value:
        """Add what arrives to a row, into ``to``, and rescale it; its power, also at its ``place``."""
        code, powers = self.code, self.powers
        power = code.variable(code.scalar(place))
        top = code.variable(code.number(powers.infinite))
        above = given - power()
        with code.when((above >= 0) & (above <= powers.limit)):
            with code.when(above != self._above()):
                self._above(above)
                self._up(powers.two_to(above))
            up = self._up()
            top(powers.added(n, ours, theirs, to, lambda x, y: x + y * up))
        with code.when(top() >= powers.infinite):  # what arrives cannot be raised that much
            sizes = powers.largest(n, ours), powers.largest(n, theirs)
            met, sum_of = powers.met(sizes[0], power(), sizes[1], given)
            power(met)
            top(powers.added(n, ours, theirs, to, sum_of))
        outside = (top() < powers.low) | (top() > powers.high)
        with code.when(outside & (top() > 0) & (top() < powers.infinite)):
            by = powers.clipped(powers.exponent(top()) - powers.held.middle)
            factor = powers.two_to(-by)
            power(power() + by)
            for row in to:
                for j, _ in code.over(n):
                    code.store(powers.flushed(code.load(row + j) * factor), row + j)
        code.put(power(), place)
        with code.when(power() != -powers.held.middle):
            self.moved(1)
        return power()


# --- rows of a weight's products ------------------------------------------------------------------


def exponents(module: ir.Module, dtype: Any) -> None:
    """Write the function ``exponents``: :func:`..numpy_loops.exponents` into the array ``found``."""
    code = Code(module, "exponents", dtype, ["rows", "found"], ["found"], ["R", "n"])
    powers, n = Powers(code, dtype), code["n"]
    for r in code.loop(0, code["R"]):
        bits = powers.largest(n, [code["rows"] + r * n])
        found = (bits >> powers.mantissa) - powers.limit
        code.put(found.where(bits == 0, NOTHING), code["found"] + r)
    code.done()


def at_powers(module: ir.Module, dtype: Any) -> None:
    """Write the function ``at_powers``: :func:`..numpy_loops.at_powers` into the array ``out``."""
    whole = ["exponents", "sizes"]
    code = Code(module, "at_powers", dtype, ["rows", "out", *whole], whole, ["R", "n", "lift"])
    powers, n = Powers(code, dtype), code["n"]
    for r in code.loop(0, code["R"]):
        exponent, size = (code.scalar(code[name] + r) for name in whole)
        factor, other = powers.two_to(-exponent), powers.two_to(size + code["lift"])
        lowest = powers.two_to(exponent - size - powers.limit)
        for j, _ in code.over(n):
            kept = powers.flushed(code.load(code["rows"] + (r * n + j)), lowest)
            code.store(kept * factor * other, code["out"] + (r * n + j))
    code.done()
