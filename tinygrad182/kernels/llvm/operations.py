"""The operations of a program on registers of the compiled loops, accurate to about an ulp.

:mod:`.time_loops` runs a program's listings with an :class:`Operations`. exp, expm1, σ and tanh are
computed here, a register at a time; rarer functions come from the C library, an element at a time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from ..operators import RELATIONS
from .vectors import FLOATING, Code, Value, call

# --- eˣ, σ and tanh -------------------------------------------------------------------------------
# x = n ln 2 + r with |r| ≤ ½ ln 2. To add and subtract 1.5 · 2**(bits of the mantissa) rounds to the
# integer n and leaves it in the lowest bits. ln 2 is a sum of two parts, so that n times the first part is
# exact.


class _Exponential(NamedTuple):
    """The constants of eˣ in a type: the range of x, ln 2 in two parts, and the layout of its bits."""

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
    710.0, -707.0, 1.5 * 2.0**52, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 13, 1022, 52
)  # fmt: skip


def _kind(x: Value) -> _Exponential:
    return _SINGLE if isinstance(x.element, ir.FloatType) else _DOUBLE


def _exp_parts(x: Value) -> tuple[Value, Value]:
    """S and p of eˣ = 2 s (1 + p). Here s is finite, while 2 s may overflow."""
    k = _kind(x)
    x = x.smaller(k.high).larger(k.low)
    y = x * (1 / math.log(2)) + k.rounding
    n = y - k.rounding
    r = (x - n * k.ln2) - n * k.rest
    p = r * (1 / math.factorial(k.degree)) + 1 / math.factorial(k.degree - 1)
    for i in range(k.degree - 2, 1, -1):
        p = p * r + 1 / math.factorial(i)
    return ((y.bits() + k.bias) << k.mantissa).as_float(), r + r * r * p


def exp(x: Value) -> Value:
    """eˣ. Results below 1e-37 (1e-306 in float64) count as 0."""
    s, p = _exp_parts(x)
    e = s * p + s
    return (e + e).where(x < _kind(x).low, 0.0)


def expm1(x: Value) -> Value:
    """eˣ − 1, accurate around 0."""
    s, p = _exp_parts(x)
    half = s * p + (s - 0.5)
    return half + half


def sigmoid(z: Value) -> Value:
    """1 / (1 + e⁻ᶻ), accurate on both tails."""
    s, p = _exp_parts(-z)
    e = s * p + s
    return 1.0 / (1.0 + (e + e))


def tanh(z: Value) -> Value:
    """With x = |z| and E = e⁻²ˣ: (1 − E) / (1 + E) up to x = ½, and 1 − 2 E / (1 + E) beyond.

    The first form is accurate around 0. The second keeps 1 − tanh² accurate: only its last subtraction
    rounds by an amount that matters there.
    """
    x = abs(z)
    s, p = _exp_parts(-(x + x))
    s = s + s
    e = s * p
    whole = e + s
    q = (e + (s - 1.0)).where(x > 0.5, whole + whole) / (whole + 1.0)
    return q.where(x > 0.5, 1.0 - q).signed_as(z)


# --- by name --------------------------------------------------------------------------------------

LOGICAL = ("logical_and", "logical_or", "logical_not")

_CALLED = {name: name for name in (
    "log log2 log10 log1p sin cos sinh cosh asinh asin acos atan atan2 floor ceil trunc".split()  # noqa: SIM905
)} | {"power": "pow", "round": "rint"}  # fmt: skip
"""Functions of the C library, by the names of operations."""


def _first(operands: tuple[Any, ...]) -> Value:
    return next(x for x in operands if isinstance(x, Value))


class Operations:
    """The functions to run a listing with: attributes are operations on registers and numbers."""

    exp, expm1, sigmoid, tanh = map(staticmethod, (exp, expm1, sigmoid, tanh))

    def __init__(self, code: Code) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in FLOATING or name in RELATIONS or name in ("abs", *LOGICAL):
            return lambda *operands: _first(operands).apply(name, *operands)
        if name in _CALLED:
            return lambda *operands: self._by_elements(_CALLED[name], *operands)
        raise AttributeError(name)

    def square(self, x: Value) -> Value:
        """The product with itself."""
        return x * x

    def relu(self, x: Value) -> Value:
        """The larger of x and 0."""
        return self.maximum(x, 0.0)

    def sqrt(self, x: Value) -> Value:
        """The square root."""
        name = f"llvm.sqrt.v{x.count}f{8 * self._code.bytes}"
        return Value(x.builder, call(x.builder, name, x.value.type, [x.value]))

    def where(self, holds: Value, a: Any, b: Any) -> Value:
        """``a`` where a bool holds, and ``b`` elsewhere."""
        return self._code.spread(b).where(holds, self._code.spread(a))

    def maximum(self, a: Any, b: Any) -> Value:
        """The larger operand, or NaN where one is NaN."""
        return self._chosen(operator.gt, a, b)

    def minimum(self, a: Any, b: Any) -> Value:
        """The smaller operand, or NaN where one is NaN."""
        return self._chosen(operator.lt, a, b)

    def isnan(self, x: Value) -> Value:
        """Whether x is NaN."""
        return x != x

    def isinf(self, x: Value) -> Value:
        """Whether x is infinite, of either sign."""
        return abs(x) == math.inf

    def isfinite(self, x: Value) -> Value:
        """Whether x is neither infinite nor NaN."""
        return abs(x) < math.inf

    def sign(self, x: Value) -> Value:
        """1, −1, 0, or NaN."""
        return self.where(x > 0.0, 1.0, self.where(x < 0.0, -1.0, x))

    def remainder(self, a: Any, b: Any) -> Value:
        """The remainder of a / b, with the sign of b."""
        b, r = self._code.spread(b), self._by_elements("fmod", a, b)
        return r.where(((r < 0.0) & (b > 0.0)) | ((r > 0.0) & (b < 0.0)), r + b)

    def floor_divide(self, a: Any, b: Any) -> Value:
        """The quotient a / b rounded down; where b is 0, it is a / b itself."""
        a, b = self._code.spread(a), self._code.spread(b)
        quotient = (a - self.remainder(a, b)) / b
        whole = self._by_elements("floor", quotient)
        whole = whole.where(quotient - whole > 0.5, whole + 1.0)
        return whole.where(b == 0.0, a / b)

    def _chosen(self, relation: Callable[..., Value], a: Any, b: Any) -> Value:
        a, b = (self._code.spread(x) for x in (a, b))
        return b.where(relation(a, b) | (a != a), a)

    def _by_elements(self, name: str, *operands: Any) -> Value:
        """Call a function of the C library on each element."""
        code, b = self._code, self._code.builder
        vectors = [code.spread(x).value for x in operands]
        name += "f" if code.bytes == 4 else ""
        found = ir.Constant(code.type, ir.Undefined)
        for i in range(code.count):
            place = ir.Constant(ir.IntType(32), i)
            x = call(b, name, code.element, [b.extract_element(v, place) for v in vectors])
            found = b.insert_element(found, x, place)
        return Value(b, found)
