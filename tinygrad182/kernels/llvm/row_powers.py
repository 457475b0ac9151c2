"""The powers of two of rows in the code of the compiled loops.

:mod:`..powers` says what a row's power means. Here exponents are read and set by the bits of floating
numbers. :class:`RowCarry` does for one row what :class:`..carry.Carry` does for all; :mod:`.time_loops`
uses it in the loop back over time. :func:`exponents` and :func:`at_powers` are for the products over all
steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from ..powers import NOTHING, exponent_range, largest_exponent, smallest, two_to
from .vectors import Code, Value


class Row(NamedTuple):
    """One row of all parts: pointers to the n elements of each part, and the row's power."""

    n: Value
    parts: list[Value]
    power: Value


class Powers:
    """Powers of two of numbers of a type, in the code of a function."""

    def __init__(self, code: Code, dtype: Any) -> None:
        self.code = code
        self.limit = largest_exponent(dtype) - 2
        self.mantissa = int(np.finfo(dtype).nmant)
        self.range = exponent_range(dtype)
        self.tiny = float(smallest(dtype))
        self.low, self.high, self.infinite = (
            int(np.asarray(x, dtype).view(f"i{code.bytes}"))
            for x in (two_to(dtype, self.range.low), two_to(dtype, self.range.high), np.inf)
        )

    def two_to(self, exponent: Value) -> Value:
        """2**exponent; 0 where that is too small to show beside a row of the power 0."""
        limit = self.limit + 1
        return self.code.float_of_bits(
            (exponent.larger(-limit).smaller(limit + 1) + limit) << self.mantissa
        )

    def clipped(self, exponent: Value) -> Value:
        """The exponent, clipped so that its power of two is a normal number."""
        return exponent.larger(-self.limit).smaller(self.limit)

    def exponent(self, bits: Value) -> Value:
        """The exponent of a magnitude given by its bits; the middle of the range if it is not finite."""
        usual = self.clipped((bits >> self.mantissa) - self.limit)
        return usual.where(bits >= self.infinite, self.range.middle)

    def flushed(self, x: Value, least: Any = None) -> Value:
        """0 where a magnitude is below ``least``, so that no product meets a subnormal number."""
        return x.where(abs(x) < (self.tiny if least is None else least), 0.0)

    def largest_of(self, n: Value, parts: int, element: Callable[[int, Value], Value]) -> Value:
        """The bits of the largest magnitude of all ``element(part, unit)``."""
        code = self.code
        most = code.variable(code.constant(0.0).bits())
        for p in range(parts):
            for j, _ in code.over(n):
                most(most().larger(element(p, j).magnitude_bits()))
        return code.widened(most().largest())

    def largest(self, n: Value, rows: list[Value]) -> Value:
        """The bits of the largest magnitude in a row of several parts."""
        return self.largest_of(n, len(rows), lambda p, j: self.code.load(rows[p] + j))

    def added(
        self, a: Row, b: Row, out: list[Value], sum_of: Callable[[Value, Value], Value]
    ) -> Value:
        """Write a sum of two rows, with 0 for subnormal elements; return the largest magnitude's bits."""

        def element(p: int, j: Value) -> Value:
            load = self.code.load
            x = self.flushed(sum_of(load(a.parts[p] + j), load(b.parts[p] + j)))
            self.code.store(x, out[p] + j)
            return x

        return self.largest_of(a.n, len(a.parts), element)

    def sum_at_powers(self, row: Row, other: Row) -> tuple[Value, Callable[[Value, Value], Value]]:
        """The power at which two rows of different powers are added, and the function that adds elements.

        Each row is brought to about 1 first, and the larger one then to the middle of the range.
        """
        row_top, other_top = self.largest(row.n, row.parts), self.largest(row.n, other.parts)
        a, b, is_zero = self.exponent(row_top), self.exponent(other_top), other_top == 0
        middle = self.range.middle
        power = other.power + b - middle
        power = power.where(row_top != 0, power.larger(row.power + a - middle))
        power = power.where(is_zero, row.power)
        first = self.two_to((-a).where(is_zero, 0))
        second = self.two_to((row.power + a - power).where(is_zero, 0)).where(row_top == 0, 0.0)
        third = self.two_to(-b)
        fourth = self.two_to(other.power + b - power).where(is_zero, 0.0)
        return power, lambda x, y: x * first * second + y * third * fourth


class RowCarry:
    """The cotangents of one row on their way back, in the code of a function.

    Attributes
    ----------
    powers : Powers
    moved : variable
        1 once the power of any row has changed.
    """

    def __init__(self, code: Code, dtype: Any) -> None:
        self.code = code
        self.powers = Powers(code, dtype)
        self.moved = code.variable(code.integer(0))
        # the factor that raises g, and its exponent: mostly as for the row before
        self._shift = code.variable(code.integer(0))
        self._factor = code.variable(self.powers.two_to(code.integer(0)))

    def add(self, carried: Row, place: Value, arriving: Row, to: list[Value]) -> Value:
        """Add what arrives to a row, rescale it and write it ``to`` its parts.

        Return its power, which is also written to ``place``.
        """
        code, powers = self.code, self.powers
        power = code.variable(carried.power)
        top = code.variable(code.integer(powers.infinite))
        shift = arriving.power - power()
        with code.when((shift >= 0) & (shift <= powers.limit)):
            with code.when(shift != self._shift()):
                self._shift(shift)
                self._factor(powers.two_to(shift))
            factor = self._factor()
            top(powers.added(carried, arriving, to, lambda x, y: x + y * factor))
        with code.when(top() >= powers.infinite):  # g cannot be raised that far
            new, sum_of = powers.sum_at_powers(carried._replace(power=power()), arriving)
            power(new)
            top(powers.added(carried, arriving, to, sum_of))
        outside = (top() < powers.low) | (top() > powers.high)
        with code.when(outside & (top() > 0) & (top() < powers.infinite)):
            by = powers.clipped(powers.exponent(top()) - powers.range.middle)
            factor = powers.two_to(-by)
            power(power() + by)
            for row in to:
                for j, _ in code.over(carried.n):
                    code.store(powers.flushed(code.load(row + j) * factor), row + j)
        code.store_scalar(power(), place)
        with code.when(power() != -powers.range.middle):
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
        code.store_scalar(found.where(bits == 0, NOTHING), code["found"] + r)
    code.done()


def at_powers(module: ir.Module, dtype: Any) -> None:
    """Write the function ``at_powers``: :func:`..numpy_loops.at_powers` into the array ``out``."""
    integers = ["exponents", "sizes"]
    numbers = ["R", "n", "lift"]
    code = Code(module, "at_powers", dtype, ["rows", "out", *integers], integers, numbers)
    powers, n = Powers(code, dtype), code["n"]
    for r in code.loop(0, code["R"]):
        exponent, size = (code.load_scalar(code[name] + r) for name in integers)
        first, second = powers.two_to(-exponent), powers.two_to(size + code["lift"])
        least = powers.two_to(exponent - size - powers.limit)
        for j, _ in code.over(n):
            x = powers.flushed(code.load(code["rows"] + (r * n + j)), least)
            code.store(x * first * second, code["out"] + (r * n + j))
    code.done()
