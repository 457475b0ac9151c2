"""Registers of the compiled loops: a formula that runs on them writes LLVM's code.

A :class:`Value` is a number or register in the code that is being written, and :class:`Code` writes one
function: its arguments, loads and stores, and loops. All files of this folder write with these two.

LLVM can vectorize scalar loops itself, but only where it can prove that no two arrays overlap, and it then
keeps sums in memory: such loops took 2 to 5 times as long as these. Here the loads of a group of elements
always come before its stores. No flag lets LLVM assume that there is no NaN or infinity; a product and a
sum may become one instruction.
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

from ..operators import RELATIONS, Operators

_FEATURES = get_host_cpu_features()
BITS = next((bits for name, bits in (("avx512f", 512), ("avx", 256)) if _FEATURES.get(name)), 128)
"""Bits of a register. Where a machine's own are narrower, LLVM uses several."""

INT = ir.IntType(64)

FLOATING = {
    "add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv", "negative": "fneg",
}  # fmt: skip
INTEGER = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "sdiv", "remainder": "srem",
    "negative": "neg", "logical_and": "and_", "logical_or": "or_", "logical_not": "not_",
}  # fmt: skip
"""LLVM's instructions, by the names of operations."""


class Value(Operators):
    """A number or a register in the code that is being written. An operator writes its instruction.

    A number beside a register is used for every element.

    Parameters
    ----------
    builder : ir.IRBuilder
    value : ir.Value
        A floating number, an integer, a bool of one bit, or a vector of these; or a pointer, which can be
        moved by a number of elements.
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
        """The number of elements; 0 for a single number."""
        return getattr(self.value.type, "count", 0)

    def like(self, x: Any) -> ir.Value:
        """Bring an operand to this type."""
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
        """Write the instruction of an operation. With NaN only ``not_equal`` holds."""
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
            return self.magnitude_bits().as_float()
        return Value(b, getattr(b, FLOATING[op])(*given, flags=("contract",)))

    def __lshift__(self, x: Any) -> Value:
        return Value(self.builder, self.builder.shl(self.value, self.like(x)))

    def __rshift__(self, x: Any) -> Value:
        return Value(self.builder, self.builder.ashr(self.value, self.like(x)))

    def where(self, holds: Value, new: Any) -> Value:
        """``new`` where a bool holds, and this elsewhere."""
        return Value(self.builder, self.builder.select(holds.value, self.like(new), self.value))

    def larger(self, x: Any) -> Value:
        """The larger of two elements; this one where they are not ordered (NaN)."""
        return self.where(self < x, x)

    def smaller(self, x: Any) -> Value:
        """The smaller of two elements; this one where they are not ordered (NaN)."""
        return self.where(self > x, x)

    def shuffled(self, x: Value, places: Sequence[int]) -> Value:
        """Elements of this register and of another, by their numbers in both."""
        numbers = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))
        return Value(self.builder, self.builder.shuffle_vector(self.value, x.value, numbers))

    def _bitcast(self, element: ir.Type) -> Value:
        kind = ir.VectorType(element, self.count) if self.count else element
        return Value(self.builder, self.builder.bitcast(self.value, kind))

    def bits(self) -> Value:
        """The bits of floating numbers as integers."""
        return self._bitcast(ir.IntType(32 if isinstance(self.element, ir.FloatType) else 64))

    def as_float(self) -> Value:
        """The floating numbers that have these integers as bits."""
        return self._bitcast(ir.FloatType() if self.element.width == 32 else ir.DoubleType())

    def magnitude_bits(self) -> Value:
        """The bits without the sign: integers ordered like the magnitudes, with NaN above all."""
        bits = self.bits()
        return bits & ((1 << (bits.element.width - 1)) - 1)

    def signed_as(self, x: Value) -> Value:
        """With the sign of ``x``."""
        bits = x.bits()
        return (self.magnitude_bits() | (bits & -(1 << (bits.element.width - 1)))).as_float()

    def largest(self) -> Value:
        """The largest of the elements, for integers."""
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
    """An array in the code that is being written, by its pointer and shape."""

    def __init__(self, pointer: Value, *shape: Value | int) -> None:
        self.pointer = pointer
        self.shape = shape

    def offset(self, *indices: Any) -> Any:
        """The offset of an element; with fewer indices than axes, of the first such element."""
        offset, *others = indices
        for index, size in zip_longest(others, self.shape[1:], fillvalue=0):
            offset = offset * size + index
        return offset

    def at(self, *indices: Any) -> Value:
        """A pointer to an element, or to the first such element."""
        return self.pointer + self.offset(*indices)


class Code:
    """Writes one function that goes over rows of arrays of one type, a register at a time.

    The function's only argument is a record of 64-bit integers: first the addresses of NumPy arrays, whose
    first field is the pointer to their elements, then numbers. It returns an integer.

    Parameters
    ----------
    dtype : numpy dtype
        float32 or float64.
    arrays, numbers : sequence of str
        The names of the record's entries.
    integers : collection of str
        The arrays of 64-bit integers. All others have the type ``dtype``.
    """

    HEAD = object.__basicsize__
    """The offset of the pointer in an array object, which differs between builds of Python."""

    def __init__(
        self, module: ir.Module, name: str, dtype: Any,
        arrays: Sequence[str], integers: Collection[str], numbers: Sequence[str],
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
                kind = INT if what in integers else self.element
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
        self.builder.ret(self.integer(0).like(result))
        self.entry.branch(self.entry.function.blocks[1])

    def constant(self, x: float) -> Value:
        """A number in every element of a register."""
        return Value(self.builder, ir.Constant(self.type, [x] * self.count))

    def integer(self, n: int) -> Value:
        """A 64-bit integer."""
        return Value(self.builder, ir.Constant(INT, n))

    def spread(self, x: Any) -> Value:
        """A number in every element of a register."""
        return Value(self.builder, self.constant(0.0).like(x))

    def float_of_bits(self, n: Value) -> Value:
        """The number of the type whose bits are given as a 64-bit integer."""
        return Value(
            self.builder, self.builder.trunc(n.value, ir.IntType(8 * self.bytes))
        ).as_float()

    def widened(self, n: Value) -> Value:
        """An integer of the type's width as a 64-bit integer."""
        return Value(self.builder, self.builder.zext(n.value, INT))

    def load_scalar(self, at: Value) -> Value:
        """Read one number."""
        return Value(self.builder, self.builder.load(at.value))

    def store_scalar(self, x: Any, at: Value) -> None:
        """Write one number."""
        value = x.value if isinstance(x, Value) else ir.Constant(at.value.type.pointee, x)
        self.builder.store(value, at.value)

    def load(self, at: Value) -> Value:
        """Read the elements from a pointer on; past the end of a row they are 0."""
        b = self.builder
        place = b.bitcast(at.value, self.type.as_pointer())
        if self.mask is None:
            return Value(b, b.load(place, align=self.bytes))
        zero = ir.Constant(self.type, [0.0] * self.count)
        return Value(
            b, self._masked("load", self.type, [place, self._align, self.mask.value, zero])
        )

    def store(self, x: Any, at: Value, unmasked: bool = False) -> None:
        """Write the elements, but none past the end of a row, unless ``unmasked``."""
        b, x = self.builder, self.spread(x)
        place = b.bitcast(at.value, self.type.as_pointer())
        if self.mask is None or unmasked:
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
        """A value that changes in a loop: ``v()`` reads it, ``v(x)`` sets it."""
        place = self.entry.alloca(x.value.type)

        def variable(*new: Any) -> Value:
            for y in new:
                self.builder.store(x.like(y), place)
            return Value(self.builder, self.builder.load(place))

        variable(x)
        return variable

    @contextmanager
    def when(self, holds: Value) -> Iterator[None]:
        """Code that runs only where a bool holds."""
        with self.builder.if_then(holds.value):
            yield

    def loop(self, start: Any, stop: Any, step: int = 1) -> Iterator[Value]:
        """A loop over integers from ``start`` to ``stop``. The caller's ``for`` writes the body once."""
        b = self.builder
        index = self.variable(self.integer(0) + start)
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
        """A loop over the n elements of a row in groups of registers.

        Yields where a group begins and how many registers it has: as many groups as fit of each of
        ``widths``, the widest first, and one for the rest, in which loads and stores are masked. The
        caller's ``for`` writes the body once for each kind of group.
        """
        outside, self.mask = self.mask, None
        start = self.integer(0)
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
        """A loop over the numbers of rows in groups of ``height``, then one by one."""
        stop = n - n % height
        for start, end, step in ((self.integer(0), stop, height), (stop, n, 1)):
            for r in self.loop(start, end, step):
                yield [r + i for i in range(step)]
