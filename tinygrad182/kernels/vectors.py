"""Vector instructions for compiled loops: formulas run on symbolic registers and write LLVM's code.

Numba's loops are scalar until LLVM proves that no two arrays overlap, which for loops over many arrays it
gives up on. Here every load of a group of elements comes before its stores, by construction. No flag is set
that would assume NaN and infinity away; only a product and a sum may become one instruction.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, untyped-decorator"
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types

_FEATURES = get_host_cpu_features()
BITS = next((bits for name, bits in (("avx512f", 512), ("avx", 256)) if _FEATURES.get(name)), 128)
"""The width of a register; of another machine's, LLVM uses as many as it takes."""

INT = ir.IntType(64)
_FUSED = ("contract",)


class Vector:
    """A register of the code that is being written: an operator writes the instruction.

    Parameters
    ----------
    builder : ir.IRBuilder
    value : ir.Value
        Of a vector type, floating or integer.
    """

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    @property
    def count(self) -> int:
        """Its elements."""
        return int(self.value.type.count)

    @property
    def single(self) -> bool:
        """Whether they have 32 bits."""
        return self.value.type.element in (ir.FloatType(), ir.IntType(32))

    def like(self, x: Any) -> ir.Value:
        """An operand: a vector, or a number in every element."""
        return x.value if isinstance(x, Vector) else ir.Constant(self.value.type, [x] * self.count)

    def _by(self, instruction: str, x: Any, reflected: bool = False) -> Vector:
        operands = (self.like(x), self.value) if reflected else (self.value, self.like(x))
        if isinstance(self.value.type.element, ir.IntType):
            names = {"fadd": "add", "fsub": "sub"}
            return Vector(
                self.builder, getattr(self.builder, names.get(instruction, instruction))(*operands)
            )
        return Vector(self.builder, getattr(self.builder, instruction)(*operands, flags=_FUSED))

    def __add__(self, x: Any) -> Vector:
        return self._by("fadd", x)

    def __radd__(self, x: Any) -> Vector:
        return self._by("fadd", x, reflected=True)

    def __sub__(self, x: Any) -> Vector:
        return self._by("fsub", x)

    def __rsub__(self, x: Any) -> Vector:
        return self._by("fsub", x, reflected=True)

    def __mul__(self, x: Any) -> Vector:
        return self._by("fmul", x)

    def __rmul__(self, x: Any) -> Vector:
        return self._by("fmul", x, reflected=True)

    def __truediv__(self, x: Any) -> Vector:
        return self._by("fdiv", x)

    def __rtruediv__(self, x: Any) -> Vector:
        return self._by("fdiv", x, reflected=True)

    def __neg__(self) -> Vector:
        return Vector(self.builder, self.builder.fneg(self.value))

    def __lshift__(self, n: int) -> Vector:
        return self._by("shl", n)

    def __and__(self, x: Any) -> Vector:
        return self._by("and_", x)

    def __or__(self, x: Any) -> Vector:
        return self._by("or_", x)

    def __abs__(self) -> Vector:
        return self.size().number()

    def bits(self) -> Vector:
        """The bits of floating numbers as integers."""
        element = ir.IntType(32 if self.single else 64)
        return Vector(
            self.builder, self.builder.bitcast(self.value, ir.VectorType(element, self.count))
        )

    def number(self) -> Vector:
        """The floating numbers of which these integers are the bits."""
        element = ir.FloatType() if self.single else ir.DoubleType()
        return Vector(
            self.builder, self.builder.bitcast(self.value, ir.VectorType(element, self.count))
        )

    def size(self) -> Vector:
        """The bits without the sign: integers in the order of the sizes, NaN above all."""
        return self.bits() & (0x7FFFFFFF if self.single else 0x7FFFFFFFFFFFFFFF)

    def signed_as(self, x: Vector) -> Vector:
        """With the sign of ``x``."""
        sign = x.bits() & (-0x80000000 if self.single else -0x8000000000000000)
        return (self.size() | sign).number()

    def where(self, x: Vector, relation: str, y: Any, new: Any) -> Vector:
        """``new`` where elements of ``x`` and ``y`` are in a relation, which NaN never is."""
        holds = self.builder.fcmp_ordered(relation, x.value, self.like(y))
        return Vector(self.builder, self.builder.select(holds, self.like(new), self.value))

    def larger(self, x: Vector, signed: bool = True) -> Vector:
        """The larger of two integers each."""
        return self._choose(">", x, signed)

    def smaller(self, x: Vector, signed: bool = True) -> Vector:
        """The smaller of two integers each."""
        return self._choose("<", x, signed)

    def _choose(self, relation: str, x: Vector, signed: bool) -> Vector:
        compare = self.builder.icmp_signed if signed else self.builder.icmp_unsigned
        holds = compare(relation, self.value, x.value)
        return Vector(self.builder, self.builder.select(holds, self.value, x.value))

    def reduced(self, how: str) -> ir.Value:
        """One number of all, such as ``"smax"``."""
        vector, b = self.value.type, self.builder
        name = f"llvm.vector.reduce.{how}.v{self.count}i{vector.element.width}"
        kind = ir.FunctionType(vector.element, [vector])
        return b.call(cgutils.get_or_insert_function(b.module, kind, name), [self.value])


class Writer:
    """Writes code that goes over rows of arrays of one type, a register at a time.

    Parameters
    ----------
    builder : ir.IRBuilder
    dtype : numba type
        Of the arrays.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: Any) -> None:
        self.builder = builder
        single = dtype == types.float32
        self.element = ir.FloatType() if single else ir.DoubleType()
        self.bytes = 4 if single else 8
        self.count = BITS // (8 * self.bytes)
        self.type = ir.VectorType(self.element, self.count)
        self.mask: ir.Value = None

    def constant(self, x: float) -> Vector:
        """A number in every element."""
        return Vector(self.builder, ir.Constant(self.type, [x] * self.count))

    def number(self, n: int) -> ir.Value:
        """A number of elements."""
        return ir.Constant(INT, n)

    def times(self, n: ir.Value, factor: int) -> ir.Value:
        """A multiple of a number of elements."""
        return self.builder.mul(n, ir.Constant(INT, factor))

    def equal(self, n: ir.Value, number: int) -> ir.Value:
        """Whether an integer is a number."""
        return self.builder.icmp_signed("==", n, ir.Constant(n.type, number))

    def spread(self, x: ir.Value) -> Vector:
        """A number known only when the code runs in every element."""
        b = self.builder
        empty = ir.Constant(ir.VectorType(x.type, self.count), ir.Undefined)
        one = b.insert_element(empty, x, ir.Constant(ir.IntType(32), 0))
        places = ir.Constant(ir.VectorType(ir.IntType(32), self.count), [0] * self.count)
        return Vector(b, b.shuffle_vector(one, empty, places))

    def load(self, pointer: ir.Value) -> Vector:
        """The elements from a pointer on; past the end of a row 0."""
        b = self.builder
        at = b.bitcast(pointer, self.type.as_pointer())
        if self.mask is None:
            return Vector(b, b.load(at, align=self.bytes))
        zero = ir.Constant(self.type, [0.0] * self.count)
        return Vector(b, self._masked("load", self.type, [at, self._align, self.mask, zero]))

    def store(self, x: Vector, pointer: ir.Value, whole: bool = False) -> None:
        """Write the elements, but none past the end of a row, unless ``whole``."""
        b = self.builder
        at = b.bitcast(pointer, self.type.as_pointer())
        if self.mask is None or whole:
            b.store(x.value, at, align=self.bytes)
        else:
            self._masked("store", ir.VoidType(), [x.value, at, self._align, self.mask])

    @property
    def _align(self) -> ir.Value:
        return ir.Constant(ir.IntType(32), self.bytes)

    def _masked(self, what: str, result: ir.Type, operands: list[ir.Value]) -> ir.Value:
        name = f"llvm.masked.{what}.v{self.count}f{8 * self.bytes}.p0"
        kind = ir.FunctionType(result, [x.type for x in operands])
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, name), operands
        )

    def at(self, pointer: ir.Value, *offsets: ir.Value) -> ir.Value:
        """A pointer so many elements further."""
        for offset in offsets:
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def over(self, n: ir.Value, widths: Sequence[int] = (1,)) -> Iterator[tuple[ir.Value, int]]:
        """The elements of a row by groups of registers: the caller's loop writes each kind of group once.

        Yields where a group begins and how many registers it has: groups of each of ``widths``, the
        widest first, as many as fit, and what is left, for which loads and stores are masked.
        """
        b = self.builder
        start = self.number(0)
        for width in widths:
            step = self.number(width * self.count)
            stop = b.sub(n, b.srem(b.sub(n, start), step))
            with cgutils.for_range_slice(b, start, stop, step) as (j, _):
                yield j, width
            start = stop
        with b.if_then(b.icmp_signed("<", start, n)):
            lanes = ir.Constant(ir.VectorType(INT, self.count), list(range(self.count)))
            self.mask = b.icmp_signed("<", lanes, self.spread(b.sub(n, start)).value)
            yield start, 1
        self.mask = None

    def by_rows(self, n: ir.Value, height: int) -> Iterator[list[ir.Value]]:
        """The numbers of rows by groups of ``height``, then one by one."""
        b = self.builder
        stop = b.sub(n, b.srem(n, self.number(height)))
        for start, end, step in ((self.number(0), stop, height), (stop, n, 1)):
            with cgutils.for_range_slice(b, start, end, self.number(step)) as (r, _):
                yield [b.add(r, self.number(i)) for i in range(step)]

    def variable(self, x: Vector) -> Callable[..., Vector]:
        """A vector that changes in a loop: ``v()`` is its value, ``v(x)`` sets it."""
        place = cgutils.alloca_once(self.builder, x.value.type)

        def variable(new: Vector | None = None) -> Vector:
            if new is not None:
                self.builder.store(new.value, place)
                return new
            return Vector(self.builder, self.builder.load(place))

        variable(x)
        return variable

    def products(
        self, rows: list[ir.Value], panel: ir.Value, first: list[list[Vector]], length: ir.Value
    ) -> list[list[Vector]]:
        """A product of rows, each from its pointer on, with some registers' columns of a matrix, and more.

        What is in ``first`` is added. Of the matrix, the rows of these columns stand behind each other.
        Each addition waits for the one before: so of few columns, every fourth product goes to the same
        sum. The order of additions is that of one row, however many there are.
        """
        b = self.builder
        width, zero = len(first[0]), self.constant(0.0)
        split = max(1, 4 // width)
        starts = [first] + [[[zero] * width for _ in rows] for _ in range(split - 1)]
        sums = [[[self.variable(x) for x in row] for row in start] for start in starts]
        mask, self.mask = self.mask, None  # the matrix is filled up with 0

        def add(k: ir.Value, some: list[list[Callable[..., Vector]]]) -> None:
            start = self.at(panel, self.times(k, width * self.count))
            columns = [self.load(self.at(start, self.number(i * self.count))) for i in range(width)]
            for row, totals in zip(rows, some, strict=True):
                factor = self.spread(b.load(self.at(row, k)))
                for total, column in zip(totals, columns, strict=True):
                    total(total() + factor * column)

        whole = b.sub(length, b.srem(length, self.number(split)))
        with cgutils.for_range_slice(b, self.number(0), whole, self.number(split)) as (k, _):
            for i, some in enumerate(sums):
                add(b.add(k, self.number(i)), some)
        if split > 1:
            with cgutils.for_range_slice(b, whole, length, self.number(1)) as (k, _):
                add(k, sums[0])
        self.mask = mask
        return [
            [self.total([some[r][c]() for some in sums]) for c in range(width)]
            for r in range(len(rows))
        ]

    def total(self, terms: list[Vector]) -> Vector:
        """Their sum, in pairs."""
        while len(terms) > 1:
            terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=True)]
        return terms[0]
