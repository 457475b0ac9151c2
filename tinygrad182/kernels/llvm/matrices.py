"""Products of matrices in the code of the compiled loops: one is packed, so that it is read straight on.

A panel is one register's columns of a matrix, or those of :data:`WIDE`, one row behind the other. It is
filled up to whole registers.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .vectors import BITS, Array, Code, Value

SUMS = 16 if BITS != 256 else 8
"""How many sums are made together: as many as there are registers for."""

WIDE = 4
"""Registers' columns whose products are made together, where rows are many and a unit has one sum."""

DEEP = 256
"""Rows whose products with each other are added up at once: as many as the cache holds."""

LINE = 64
"""Bytes after which a line of the cache begins, and packed matrices do."""


def aligned(code: Code, at: Value) -> Value:
    """The first place from a pointer on where a line of the cache begins."""
    b = code.builder
    address = (Value(b, b.ptrtoint(at.value, ir.IntType(64))) + (LINE - 1)) & -LINE
    return Value(b, b.inttoptr(address.value, at.value.type))


def padded(code: Code, n: Value) -> Value:
    """A number of columns, up to whole registers."""
    return (n + (code.count - 1)) / code.count * code.count


def pack(
    code: Code, rows: Value, to: Value, length: Value, n: Value, apart: Value, widths: Any,
    whole: Any = None, offset: Any = 0,
) -> None:  # fmt: skip
    """A matrix (length, n), rows ``apart`` elements, as panels of columns.

    Its rows may be some of the ``whole`` of a panel's, from ``offset`` on.
    """
    for j, width in code.over(n, widths):
        panel = Array(to + j * (length if whole is None else whole), 0, width, code.count)
        for k in code.loop(0, length):
            for q in range(width):
                x = code.load(rows + (k * apart + j + q * code.count))
                code.store(x, panel.at(offset + k, q), whole=True)


def pack_across(
    code: Code, weight: Value, to: Value, K: Value, n: Value, blocks: tuple[int, ...], widths: Any
) -> None:
    """Blocks of a weight (·, K), of n rows each, as panels of their rows, of all blocks side by side.

    It goes by squares, and writes beyond the last panel, by less than one square for each register of it.
    Columns that are not there are as the first one.
    """
    for j, width in code.over(n, widths):
        panel = Array(to + j * K * len(blocks), 0, len(blocks), width, code.count)
        for q in code.loop(0, len(blocks)):
            block = code.number(blocks[0])
            for number, its in enumerate(blocks):
                block = block.where(q == number, its)
            for c in code.loop(0, width):
                first, rest = j + c * code.count, code.mask
                for k, _ in code.over(K):
                    square = []
                    for i in range(code.count):
                        unit = first + i
                        if rest is not None:  # another panel has all its columns
                            unit = unit.where(unit >= n, 0)
                        square.append(code.load(weight + ((block * n + unit) * K + k)))
                    for i, x in enumerate(_transposed(square)):
                        code.store(x, panel.at(k + i, q, c), whole=True)


def _transposed(rows: list[Value]) -> list[Value]:
    """A square of registers, its rows as columns: halves are exchanged, and halves of these."""
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


def products(
    code: Code,
    rows: list[Value],
    panel: Value,
    first: list[list[Value]],
    length: Value,
    apart: int = 1,
) -> list[list[Value]]:
    """A product of rows, each from its pointer on, with a panel of columns, added to what is in ``first``.

    Elements of a row are ``apart``. Each addition waits for the one before: so of few columns, every fourth
    product goes to the same sum. The order of additions is that of one row, however many there are.
    """
    width, zero = len(first[0]), code.constant(0.0)
    split = max(1, 4 // width)
    starts = [first] + [[[zero] * width for _ in rows] for _ in range(split - 1)]
    sums = [[[code.variable(x) for x in row] for row in start] for start in starts]
    matrix = Array(panel, length, width, code.count)
    mask, code.mask = code.mask, None  # the panel is filled up

    def add(k: Value, some: list[list[Callable[..., Value]]]) -> None:
        columns = [code.load(matrix.at(k, q)) for q in range(width)]
        for row, totals in zip(rows, some, strict=True):
            factor = code.spread(code.scalar(row + k * apart))
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
        [_total([some[r][c]() for some in sums]) for c in range(width)] for r in range(len(rows))
    ]


def _total(terms: list[Value]) -> Value:
    """Their sum, in pairs."""
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


def product(
    code: Code, factors: Callable[[Value], Value], packed: Value, out: Value, length: Value,
    columns: Value, first: Value, last: Value, apart: int = 1, start: bool = True,
) -> None:  # fmt: skip
    """A matrix times a packed one; with ``start``, added to what is in ``out`` (rows, columns).

    The rows are those from ``first`` to ``last``, of which ``factors`` gives the pointers.
    """
    for j, width in code.over(columns, (WIDE, 1)):
        for numbers in code.by_rows(last - first, SUMS // WIDE):
            rows = [first + r for r in numbers]
            places = [
                [out + (r * columns + j + q * code.count) for q in range(width)] for r in rows
            ]
            begun = [[code.load(x) if start else code.constant(0.0) for x in row] for row in places]
            made = products(
                code, [factors(r) for r in rows], packed + j * length, begun, length, apart
            )
            for row, sums in zip(places, made, strict=True):
                for place, x in zip(row, sums, strict=True):
                    code.store(x, place)


def crossed(module: ir.Module, dtype: Any) -> None:
    """Write the function ``crossed``: add aᵀ b to ``out`` (N, K), of rows a (R, N) and b (R, K).

    Rows may be further apart than they are long. Those of ``out`` are written from ``first`` to ``last``.
    """
    numbers = ["R", "K", "a_apart", "b_apart", "first", "last"]
    code = Code(module, "crossed", dtype, ["a", "b", "out", "scratch"], [], numbers)
    R, K, first, last = (code[n] for n in ("R", "K", "first", "last"))
    packed_b = aligned(code, code["scratch"])
    packed_a = packed_b + padded(code, K) * DEEP
    for start in code.loop(0, R, DEEP):
        deep = (R - start).smaller(DEEP)
        a, b = (code[x] + start * code[f"{x}_apart"] for x in "ab")
        pack(code, b, packed_b, deep, K, code["b_apart"], (WIDE, 1))
        pack(code, a + first, packed_a, deep, last - first, code["a_apart"], (1,))

        def factors(r: Value, deep: Value = deep) -> Value:
            n = r - first
            return packed_a + ((n - n % code.count) * deep + n % code.count)

        product(code, factors, packed_b, code["out"], deep, K, first, last, code.count)
    code.done()
