"""Matrix products in the code of the compiled loops.

:mod:`.time_loops` multiplies by the weights with these, and :func:`crossed` gives the gradients of weights.
One matrix of a product is *packed* first, so that it is read from memory in order: it becomes panels, each
of which has the columns of one register, or of :data:`WIDE` registers, row after row. A panel is padded to
whole registers.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from .vectors import BITS, Array, Code, Value

SUMS = 16 if BITS != 256 else 8
"""How many sums are made together: as many as there are registers for."""

WIDE = 4
"""Registers' columns whose products are made together, where rows are many and a unit has one sum."""

DEEP = 256
"""Rows whose products with each other are added up at once: as many as the cache holds."""

LINE = 64
"""Bytes of a line of the cache. Packed matrices begin with a line."""


def aligned(code: Code, at: Value) -> Value:
    """The first place from a pointer on where a line of the cache begins."""
    b = code.builder
    address = (Value(b, b.ptrtoint(at.value, ir.IntType(64))) + (LINE - 1)) & -LINE
    return Value(b, b.inttoptr(address.value, at.value.type))


def padded(code: Code, n: Value) -> Value:
    """A number of columns, rounded up to whole registers."""
    return (n + (code.count - 1)) / code.count * code.count


class Matrix(NamedTuple):
    """A matrix in memory whose rows begin ``stride`` elements apart."""

    pointer: Value
    rows: Value
    columns: Value
    stride: Value


def pack(
    code: Code,
    matrix: Matrix,
    to: Value,
    widths: Sequence[int],
    height: Any = None,
    offset: Any = 0,
) -> None:
    """Pack a matrix as panels of its columns, of ``widths`` registers.

    The panels may be those of a higher matrix: they then have ``height`` rows, and the matrix fills those
    from ``offset`` on.
    """
    height = matrix.rows if height is None else height
    for j, width in code.over(matrix.columns, widths):
        panel = Array(to + j * height, 0, width, code.count)
        for k in code.loop(0, matrix.rows):
            for q in range(width):
                x = code.load(matrix.pointer + (k * matrix.stride + j + q * code.count))
                code.store(x, panel.at(offset + k, q), unmasked=True)


def pack_transposed(
    code: Code, weight: Value, to: Value, K: Value, n: Value, blocks: tuple[int, ...],
    widths: Sequence[int],
) -> None:  # fmt: skip
    """Pack the transpose of some blocks of a weight (·, K), of n rows each, with the blocks side by side.

    The last square of registers may write beyond the last panel, by less than a square for each register.
    """
    for j, width in code.over(n, widths):
        panel = Array(to + j * K * len(blocks), 0, len(blocks), width, code.count)
        for q in code.loop(0, len(blocks)):
            block = code.integer(blocks[0])
            for number, of_weight in enumerate(blocks):
                block = block.where(q == number, of_weight)
            for c in code.loop(0, width):
                first, is_last = j + c * code.count, code.mask is not None
                for k, _ in code.over(K):
                    square = []
                    for i in range(code.count):
                        unit = first + i
                        if is_last:
                            unit = unit.where(unit >= n, 0)
                        square.append(code.load(weight + ((block * n + unit) * K + k)))
                    for i, x in enumerate(_transposed(square)):
                        code.store(x, panel.at(k + i, q, c), unmasked=True)


def _transposed(rows: list[Value]) -> list[Value]:
    """Transpose a square of registers: exchange halves, then the halves of these, and so on."""
    step = len(rows) // 2
    lanes = range(len(rows))
    while step:
        for i in lanes:
            if not i & step:
                a, b = rows[i], rows[i + step]
                first = [lane if not lane & step else len(rows) + lane - step for lane in lanes]
                second = [lane + step if not lane & step else len(rows) + lane for lane in lanes]
                rows[i], rows[i + step] = a.shuffled(b, first), a.shuffled(b, second)
        step //= 2
    return rows


class Factors(NamedTuple):
    """The left factor of a product: pointers to its rows, whose elements are ``stride`` apart."""

    rows: list[Value]
    stride: int = 1


def times_panel(
    code: Code, factors: Factors, panel: Value, start: list[list[Value]], length: Value
) -> list[list[Value]]:
    """Multiply rows of ``length`` elements with a panel of columns, and add that to the sums in ``start``.

    An addition waits for the one before it. Where there are few columns, every fourth product therefore
    goes to the same sum. A row's additions have the same order however many rows there are.
    """
    width, zero = len(start[0]), code.constant(0.0)
    split = max(1, 4 // width)
    starts = [start] + [[[zero] * width for _ in factors.rows] for _ in range(split - 1)]
    sums = [[[code.variable(x) for x in row] for row in some] for some in starts]
    matrix = Array(panel, length, width, code.count)
    mask, code.mask = code.mask, None  # the panel is padded

    def add(k: Value, some: list[list[Callable[..., Value]]]) -> None:
        columns = [code.load(matrix.at(k, q)) for q in range(width)]
        for row, totals in zip(factors.rows, some, strict=True):
            factor = code.spread(code.load_scalar(row + k * factors.stride))
            for total, column in zip(totals, columns, strict=True):
                total(total() + factor * column)

    whole = length - length % split
    for k in code.loop(0, whole, split):
        for i, some in enumerate(sums):
            add(k + i, some)
    if split > 1:
        for k in code.loop(whole, length):
            add(k, sums[0])
    code.mask = mask
    return [
        [_in_pairs([some[r][c]() for some in sums]) for c in range(width)]
        for r in range(len(factors.rows))
    ]


def _in_pairs(terms: list[Value]) -> Value:
    """The sum of the terms, added in pairs."""
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


def times_packed(
    code: Code, factors: Callable[[list[Value]], Factors], packed: Value, out: Matrix, length: Value,
    first: Value, add: bool = True,
) -> None:  # fmt: skip
    """Multiply rows of ``length`` elements with a packed matrix, and write or ``add`` that to ``out``.

    The rows of ``out`` have the numbers from ``first`` up to ``out.rows``; ``factors`` gives the left
    factor of some of them.
    """
    for j, width in code.over(out.columns, (WIDE, 1)):
        for numbers in code.by_rows(out.rows - first, SUMS // WIDE):
            rows = [first + r for r in numbers]
            places = [
                [out.pointer + (r * out.stride + j + q * code.count) for q in range(width)]
                for r in rows
            ]
            start = [[code.load(x) if add else code.constant(0.0) for x in row] for row in places]
            made = times_panel(code, factors(rows), packed + j * length, start, length)
            for row, sums in zip(places, made, strict=True):
                for place, x in zip(row, sums, strict=True):
                    code.store(x, place)


def crossed(module: ir.Module, dtype: Any) -> None:
    """Write the function ``crossed``: add aᵀ b to ``out`` (N, K), of rows a (R, N) and b (R, K).

    The rows of a and b begin ``a_stride`` and ``b_stride`` elements apart. The rows of ``out`` are written
    from ``first`` to ``last``.
    """
    numbers = ["R", "K", "a_stride", "b_stride", "first", "last"]
    code = Code(module, "crossed", dtype, ["a", "b", "out", "scratch"], [], numbers)
    R, K, first, last = (code[n] for n in ("R", "K", "first", "last"))
    packed_b = aligned(code, code["scratch"])
    packed_a = packed_b + padded(code, K) * DEEP
    for start in code.loop(0, R, DEEP):
        deep = (R - start).smaller(DEEP)
        a, b = (code[x] + start * code[f"{x}_stride"] for x in "ab")
        pack(code, Matrix(b, deep, K, code["b_stride"]), packed_b, (WIDE, 1))
        pack(code, Matrix(a + first, deep, last - first, code["a_stride"]), packed_a, (1,))

        def factors(rows: list[Value], deep: Value = deep) -> Factors:
            columns = [r - first for r in rows]
            panels = [(n - n % code.count) * deep + n % code.count for n in columns]
            return Factors([packed_a + panel for panel in panels], code.count)

        times_packed(code, factors, packed_b, Matrix(code["out"], last, K, K), deep, first)
    code.done()
