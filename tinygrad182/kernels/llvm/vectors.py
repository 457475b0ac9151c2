"""Registers of the compiled loops: formulas run on them and write LLVM's code.

LLVM makes vectors of plain loops itself only where it can prove that no two arrays overlap, and keeps sums
in memory then: plain loops took 2 to 5 times as long as these. Here every load of a group of elements comes
before its stores, by construction. No flag is set that would assume NaN and infinity away; only a product
and a sum may become one instruction.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features

from ..operators import Operators

_FEATURES = get_host_cpu_features()
BITS = next((bits for name, bits in (("avx512f", 512), ("avx", 256)) if _FEATURES.get(name)), 128)
"""The width of a register; of another machine's, LLVM uses as many as it takes."""

INT = ir.IntType(64)

FLOATING = {
    "add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv", "negative": "fneg",
}  # fmt: skip
INTEGER = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "sdiv", "remainder": "srem",
    "negative": "neg", "logical_and": "and_", "logical_or": "or_", "logical_not": "not_",
}  # fmt: skip
RELATIONS = {
    "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==",
    "not_equal": "!=",
}  # fmt: skip
"""LLVM's instructions, by the names of operations."""


class Value(Operators):
    """A number or a register in the code that is being written: an operator writes the instruction.

    A number beside a register stands for one in every element.

    Parameters
    ----------
    builder : ir.IRBuilder
    value : ir.Value
        Floating, integer, bool (of one bit) or a vector of such; or a pointer, which can be moved by a
        number of elements.
    """

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    @property
    def element(self) -> ir.Type:
        """The type of its elements."""
        return getattr(self.value.type, "element", self.value.type)

    @property
    def count(self) -> int:
        """How many elements it has; 0: it is one number."""
        return getattr(self.value.type, "count", 0)

    def like(self, x: Any) -> ir.Value:
        """An operand of this type."""
        count, kind = self.count, self.value.type
        if not isinstance(x, Value):
            return ir.Constant(kind, [x] * count if count else x)
        if x.value.type == kind:
            return x.value
        b = self.builder
        empty = ir.Constant(ir.VectorType(x.value.type, count), ir.Undefined)
        one = b.insert_element(empty, x.value, ir.Constant(ir.IntType(32), 0))
        places = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
        return b.shuffle_vector(one, empty, places)

    def apply(self, op: str, *operands: Any) -> Value:
        """Write the instruction of an operation. NaN is in no relation but ``not_equal``."""
        b = self.builder
        if self.value.type.is_pointer:
            return Value(b, b.gep(self.value, [_index(operands[1])]))
        wide = max((x for x in operands if isinstance(x, Value)), key=lambda x: x.count)
        given, whole = [wide.like(x) for x in operands], isinstance(wide.element, ir.IntType)
        if op in RELATIONS:
            compare = b.fcmp_unordered if op == "not_equal" else b.fcmp_ordered
            return Value(b, (b.icmp_signed if whole else compare)(RELATIONS[op], *given))
        if whole:
            return Value(b, getattr(b, INTEGER[op])(*given))
        if op == "abs":
            return self.size().number()
        return Value(b, getattr(b, FLOATING[op])(*given, flags=("contract",)))

    def __lshift__(self, x: Any) -> Value:
        return Value(self.builder, self.builder.shl(self.value, self.like(x)))

    def __rshift__(self, x: Any) -> Value:
        return Value(self.builder, self.builder.ashr(self.value, self.like(x)))

    def where(self, holds: Value, new: Any) -> Value:
        """``new`` where a bool holds, and this elsewhere."""
        return Value(self.builder, self.builder.select(holds.value, self.like(new), self.value))

    def larger(self, x: Any) -> Value:
        """The larger of two each; this where they are not ordered."""
        return self.where(self < x, x)

    def smaller(self, x: Any) -> Value:
        """The smaller of two each; this where they are not ordered."""
        return self.where(self > x, x)

    def shuffled(self, x: Value, places: Sequence[int]) -> Value:
        """Elements of this register and of another, by their numbers in both."""
        numbers = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))
        return Value(self.builder, self.builder.shuffle_vector(self.value, x.value, numbers))

    def _seen_as(self, element: ir.Type) -> Value:
        kind = ir.VectorType(element, self.count) if self.count else element
        return Value(self.builder, self.builder.bitcast(self.value, kind))

    def bits(self) -> Value:
        """The bits of floating numbers as integers."""
        return self._seen_as(ir.IntType(32 if isinstance(self.element, ir.FloatType) else 64))

    def number(self) -> Value:
        """The floating numbers of which these integers are the bits."""
        return self._seen_as(ir.FloatType() if self.element.width == 32 else ir.DoubleType())

    def size(self) -> Value:
        """The bits without the sign: integers in the order of the sizes, NaN above all."""
        bits = self.bits()
        return bits & ((1 << (bits.element.width - 1)) - 1)

    def signed_as(self, x: Value) -> Value:
        """With the sign of ``x``."""
        bits = x.bits()
        return (self.size() | (bits & -(1 << (bits.element.width - 1)))).number()

    def largest(self) -> Value:
        """The largest of the elements, which are integers."""
        name = f"llvm.vector.reduce.smax.v{self.count}i{self.element.width}"
        return Value(self.builder, call(self.builder, name, self.element, [self.value]))


def _index(x: Value | int) -> ir.Value:
    return x.value if isinstance(x, Value) else ir.Constant(INT, x)


def call(b: ir.IRBuilder, name: str, result: ir.Type, operands: list[ir.Value]) -> ir.Value:
    """Call an intrinsic, or a function of the C library."""
    function = b.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [x.type for x in operands])
        function = ir.Function(b.module, kind, name)
    return b.call(function, operands)


class Array:
    """An array in the code that is being written, by its pointer and shape.

    Parameters
    ----------
    pointer : Value
    shape : tuple of Value and int
    """

    def __init__(self, pointer: Value, *shape: Value | int) -> None:
        self.pointer = pointer
        self.shape = shape

    def offset(self, *indices: Any) -> Any:
        """How far it is to an element, or to the first of those that begin with some indices."""
        offset, *others = indices
        for index, size in zip_longest(others, self.shape[1:], fillvalue=0):
            offset = offset * size + index
        return offset

    def at(self, *indices: Any) -> Value:
        """A pointer to it."""
        return self.pointer + self.offset(*indices)


class Code:
    """Writes one function that goes over rows of arrays of one type, a register at a time.

    Its only operand is a record of 64-bit integers: first the addresses of NumPy arrays, whose first field
    is the pointer to their elements, then numbers. It returns an integer.

    Parameters
    ----------
    module : ir.Module
    name : str
    dtype : numpy dtype
        float32 or float64.
    arrays, numbers : sequence of str
        The names of what the record has.
    indices : collection of str
        Which of the arrays have 64-bit integers; the others have numbers of the type.
    """

    HEAD = object.__basicsize__
    """Where the pointer stands in an array, which is not the same in every build of Python."""

    def __init__(
        self, module: ir.Module, name: str, dtype: Any,
        arrays: Sequence[str], indices: Collection[str], numbers: Sequence[str],
    ) -> None:  # fmt: skip
        single = dtype == np.float32
        self.element = ir.FloatType() if single else ir.DoubleType()
        self.bytes = 4 if single else 8
        self.count = BITS // (8 * self.bytes)
        self.type = ir.VectorType(self.element, self.count)
        self.mask: Value | None = None
        function = ir.Function(module, ir.FunctionType(INT, [INT.as_pointer()]), name)
        self.entry = ir.IRBuilder(function.append_basic_block("entry"))
        self.builder = ir.IRBuilder(function.append_basic_block("body"))
        self.given: dict[str, Value] = {}
        b, record = self.builder, function.args[0]
        for i, what in enumerate((*arrays, *numbers)):
            found = b.load(b.gep(record, [ir.Constant(INT, i)]))
            if i < len(arrays):
                kind = INT if what in indices else self.element
                at = b.add(found, ir.Constant(INT, self.HEAD))
                found = b.load(b.inttoptr(at, kind.as_pointer().as_pointer()))
            self.given[what] = Value(b, found)

    def __getitem__(self, name: str) -> Value:
        return self.given[name]

    def array(self, name: str, *shape: Value | int) -> Array:
        """An array of the record."""
        return Array(self.given[name], *shape)

    def done(self, result: Value | int = 0) -> None:
        """End the function."""
        self.builder.ret(self.number(0).like(result))
        self.entry.branch(self.entry.function.blocks[1])

    def constant(self, x: float) -> Value:
        """A number in every element of a register."""
        return Value(self.builder, ir.Constant(self.type, [x] * self.count))

    def number(self, n: int) -> Value:
        """A 64-bit integer."""
        return Value(self.builder, ir.Constant(INT, n))

    def spread(self, x: Any) -> Value:
        """A number in every element of a register."""
        return Value(self.builder, self.constant(0.0).like(x))

    def as_number(self, n: Value) -> Value:
        """The number of the type of which a 64-bit integer is the bits."""
        return Value(self.builder, self.builder.trunc(n.value, ir.IntType(8 * self.bytes))).number()

    def as_index(self, n: Value) -> Value:
        """The bits of a size as a 64-bit integer."""
        return Value(self.builder, self.builder.zext(n.value, INT))

    def scalar(self, at: Value) -> Value:
        """What a pointer points to."""
        return Value(self.builder, self.builder.load(at.value))

    def put(self, x: Any, at: Value) -> None:
        """Write one number."""
        value = x.value if isinstance(x, Value) else ir.Constant(at.value.type.pointee, x)
        self.builder.store(value, at.value)

    def load(self, at: Value) -> Value:
        """The elements from a pointer on; past the end of a row 0."""
        b = self.builder
        place = b.bitcast(at.value, self.type.as_pointer())
        if self.mask is None:
            return Value(b, b.load(place, align=self.bytes))
        zero = ir.Constant(self.type, [0.0] * self.count)
        return Value(
            b, self._masked("load", self.type, [place, self._align, self.mask.value, zero])
        )

    def store(self, x: Any, at: Value, whole: bool = False) -> None:
        """Write the elements, but none past the end of a row, unless ``whole``."""
        b, x = self.builder, self.spread(x)
        place = b.bitcast(at.value, self.type.as_pointer())
        if self.mask is None or whole:
            b.store(x.value, place, align=self.bytes)
        else:
            self._masked("store", ir.VoidType(), [x.value, place, self._align, self.mask.value])

    @property
    def _align(self) -> ir.Value:
        return ir.Constant(ir.IntType(32), self.bytes)

    def _masked(self, what: str, result: ir.Type, operands: list[ir.Value]) -> ir.Value:
        name = f"llvm.masked.{what}.v{self.count}f{8 * self.bytes}.p0"
        return call(self.builder, name, result, operands)

    def variable(self, x: Value) -> Callable[..., Value]:
        """A value that changes in a loop: ``v()`` is it, ``v(x)`` sets it."""
        place = self.entry.alloca(x.value.type)

        def variable(*new: Any) -> Value:
            for y in new:
                self.builder.store(x.like(y), place)
            return Value(self.builder, self.builder.load(place))

        variable(x)
        return variable

    @contextmanager
    def when(self, holds: Value) -> Iterator[None]:
        """Code for the case that a bool holds."""
        with self.builder.if_then(holds.value):
            yield

    def loop(self, start: Any, stop: Any, step: int = 1) -> Iterator[Value]:
        """Integers from ``start`` on, below ``stop``: the caller's loop writes the body once."""
        b = self.builder
        index = self.variable(self.number(0) + start)
        head, body, end = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        b.cbranch((index() < stop).value, body, end)
        b.position_at_end(body)
        here = index()
        yield here
        index(here + step)
        b.branch(head)
        b.position_at_end(end)

    def over(self, n: Value, widths: Sequence[int] = (1,)) -> Iterator[tuple[Value, int]]:
        """The elements of a row by groups of registers: the caller's loop writes each kind of group once.

        Yields where a group begins and how many registers it has: groups of each of ``widths``, the
        widest first, as many as fit, and what is left, for which loads and stores are masked.
        """
        outside, self.mask = self.mask, None
        start = self.number(0)
        for width in widths:
            step = width * self.count
            stop = n - (n - start) % step
            for j in self.loop(start, stop, step):
                yield j, width
            start = stop
        with self.when(start < n):
            lanes = ir.Constant(ir.VectorType(INT, self.count), list(range(self.count)))
            self.mask = Value(self.builder, lanes) < n - start
            yield start, 1
        self.mask = outside

    def by_rows(self, n: Value, height: int) -> Iterator[list[Value]]:
        """The numbers of rows by groups of ``height``, then one by one."""
        stop = n - n % height
        for start, end, step in ((self.number(0), stop, height), (stop, n, 1)):
            for r in self.loop(start, end, step):
                yield [r + i for i in range(step)]
