"""Operations that act on each element by itself, and their derivatives.

The decorator of each operation has its derivative rules, one for each operand; ``g`` is the cotangent of
the output ``y``. Where a derivative is not unique, the docstring states the convention: ties are split
evenly, ``relu`` and ``abs`` have derivative 0 at 0. Masks pass the cotangent where the operand is NaN, so
that NaN in a forward shows in the gradients.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays.namespaces import SCALARS, Array, Namespace, floating_type
from .primitive import elementwise

# --- arithmetic ---------------------------------------------------------------------------------


@elementwise(lambda xp, g, y, a, b: g, lambda xp, g, y, a, b: g)
def add(xp: Namespace, a: Array, b: Array) -> Array:
    """``a + b``"""
    return a + b


@elementwise(lambda xp, g, y, a, b: g, lambda xp, g, y, a, b: -g)
def subtract(xp: Namespace, a: Array, b: Array) -> Array:
    """``a - b``"""
    return a - b


@elementwise(lambda xp, g, y, a, b: g * b, lambda xp, g, y, a, b: g * a)
def multiply(xp: Namespace, a: Array, b: Array) -> Array:
    """``a * b``"""
    return a * b


@elementwise(lambda xp, g, y, a, b: g / b, lambda xp, g, y, a, b: -(g * y / b))
def divide(xp: Namespace, a: Array, b: Array) -> Array:
    """``a / b``"""
    return a / b


@elementwise(lambda xp, g, y, x: -g)
def negative(xp: Namespace, x: Array) -> Array:
    """``-x``"""
    return -x


@elementwise(lambda xp, g, y, x: g * (x + x))
def square(xp: Namespace, x: Array) -> Array:
    """``x * x``"""
    return x * x


NEAR_0 = 2.0**-10
"""Exponents below this are near 0: a**b is about 1, so b/a overflows only if the derivative does."""


def power_vjp_a(xp: Namespace, g: Array, y: Array, a: Array, b: Array) -> Array:
    if type(b) in SCALARS:
        if b == 2:  # the most common power; a product with a number costs as much as the whole rule
            return g * (a + a)
        return g * (b * a ** (b - 1)) if b != 0 else xp.zeros_like(g)
    # a**0 is constant also at a = 0, where a**(b − 1) would be infinite
    constant = xp.logical_and(a == 0, b == 0)
    exponent = xp.where(constant, xp.ones_like(b), b - 1)
    # with b near 0 and subnormal a, a**(b − 1) is infinite, but b·a**(b − 1) = b/a·a**b is not
    near = xp.logical_and(a != 0, xp.logical_and(b < NEAR_0, b > -NEAR_0))
    divisor = xp.where(near, a, xp.ones_like(a))
    return g * (b / divisor * a ** xp.where(near, b, exponent))


def power_vjp_b(xp: Namespace, g: Array, y: Array, a: Array, b: Array) -> Array:
    if type(a) in SCALARS:
        a = xp.ones_like(b) * a
    constant = xp.logical_and(a == 0, b >= 0)
    return g * (y * xp.log(xp.where(constant, xp.ones_like(a), a)))


@elementwise(power_vjp_a, power_vjp_b)
def power(xp: Namespace, a: Array, b: Array) -> Array:
    """``a ** b``; where a is 0 the derivative by b is 0 for b ≥ 0, else −∞"""
    if _is_whole(xp, a) and _is_whole(xp, b) and _any_negative(xp, b):
        raise TypeError(
            "Integers to negative integer powers are not allowed; use x.astype('float64') ** b"
        )
    if xp.is_complex(a) or xp.is_complex(b):
        # at negative a a polar power loses a tiny imaginary part, so the sign is multiplied in separately
        sign = xp.where(xp.ordered(a) < 0, -1.0, 1.0) if _is_integral(b) else 1.0
        return (sign * a) ** b * sign**b
    return a**b


@elementwise(lambda xp, g, y, a, b: g, lambda xp, g, y, a, b: -(g * xp.floor_divide(a, b)))
def remainder(xp: Namespace, a: Array, b: Array) -> Array:
    """Remainder of ``a / b``, with the sign of b; the derivative by b is −⌊a / b⌋"""
    if xp.is_complex(a) or xp.is_complex(b):
        return a - b * xp.floor_divide(xp.ordered(a), xp.ordered(b))
    return xp.remainder(a, b)


def _is_whole(xp: Namespace, x: Array) -> bool:
    if type(x) in SCALARS:
        return isinstance(x, int)
    return not xp.is_floating(x) and not xp.is_complex(x)


def _any_negative(xp: Namespace, b: Array) -> bool:
    """Whether any exponent is negative. NumPy raises then; other libraries silently return 0."""
    return bool(b < 0 if type(b) in SCALARS else xp.any(b < 0))


def _is_integral(b: Array) -> bool:
    return type(b) in SCALARS and not isinstance(b, complex) and float(b).is_integer()


# --- exponentials and roots ---------------------------------------------------------------------


@elementwise(lambda xp, g, y, x: g * y)
def exp(xp: Namespace, x: Array) -> Array:
    """``e ** x``"""
    return xp.exp(x)


@elementwise(lambda xp, g, y, x: g * (y + 1))
def expm1(xp: Namespace, x: Array) -> Array:
    """``e ** x - 1``, accurate for small x"""
    return xp.expm1(x)


@elementwise(lambda xp, g, y, x: g / x)
def log(xp: Namespace, x: Array) -> Array:
    """Natural logarithm of x"""
    return xp.log(x)


@elementwise(lambda xp, g, y, x: g / (1 + x))
def log1p(xp: Namespace, x: Array) -> Array:
    """Natural logarithm of 1 + x, accurate for small x"""
    if xp.is_complex(x):  # libraries lose tiny arguments in their complex log1p
        re, im = xp.real(x), xp.imag(x)
        return xp.log1p(2 * re + re * re + im * im) / 2 + 1j * xp.atan2(im, 1 + re)
    return xp.log1p(x)


@elementwise(lambda xp, g, y, x: g / math.log(2) / x)
def log2(xp: Namespace, x: Array) -> Array:
    """Logarithm of x to the base 2"""
    return xp.log2(x)


@elementwise(lambda xp, g, y, x: g / math.log(10) / x)
def log10(xp: Namespace, x: Array) -> Array:
    """Logarithm of x to the base 10"""
    return xp.log10(x)


@elementwise(lambda xp, g, y, x: g / (2 * y))
def sqrt(xp: Namespace, x: Array) -> Array:
    """Square root of x; the derivative at 0 is infinite"""
    return xp.sqrt(x)


# --- trigonometry and activations ---------------------------------------------------------------


@elementwise(lambda xp, g, y, x: g * xp.cos(x))
def sin(xp: Namespace, x: Array) -> Array:
    """Sine of x, in radians"""
    return xp.sin(x)


@elementwise(lambda xp, g, y, x: -(g * xp.sin(x)))
def cos(xp: Namespace, x: Array) -> Array:
    """Cosine of x, in radians"""
    return xp.cos(x)


@elementwise(lambda xp, g, y, x: g * (1 - y * y))
def tanh(xp: Namespace, x: Array) -> Array:
    """Hyperbolic tangent of x"""
    return xp.tanh(x)


@elementwise(lambda xp, g, y, x: g * xp.cosh(x))
def sinh(xp: Namespace, x: Array) -> Array:
    """Hyperbolic sine of x"""
    return xp.sinh(x)


@elementwise(lambda xp, g, y, x: g * xp.sinh(x))
def cosh(xp: Namespace, x: Array) -> Array:
    """Hyperbolic cosine of x"""
    return xp.cosh(x)


@elementwise(lambda xp, g, y, x: g / xp.cosh(y))
def asinh(xp: Namespace, x: Array) -> Array:
    """Inverse hyperbolic sine of x"""
    return xp.asinh(x)


@elementwise(lambda xp, g, y, x: g / xp.sqrt((1 - x) * (1 + x)))
def asin(xp: Namespace, x: Array) -> Array:
    """Inverse sine of x, in [−π/2, π/2]; the derivative at ±1 is infinite"""
    return xp.asin(x)


@elementwise(lambda xp, g, y, x: -(g / xp.sqrt((1 - x) * (1 + x))))
def acos(xp: Namespace, x: Array) -> Array:
    """Inverse cosine of x, in [0, π]; the derivative at ±1 is infinite"""
    return xp.acos(x)


@elementwise(lambda xp, g, y, x: g / (1 + x * x))
def atan(xp: Namespace, x: Array) -> Array:
    """Inverse tangent of x, in [−π/2, π/2]"""
    return xp.atan(x)


@elementwise(
    lambda xp, g, y, a, b: g * _over_square(xp, b, a),
    lambda xp, g, y, a, b: -(g * _over_square(xp, a, b)),
)
def atan2(xp: Namespace, a: Array, b: Array) -> Array:
    """Angle of the point (b, a), in [−π, π]; the derivatives at the origin are 0"""
    if not (xp.is_complex(a) or xp.is_complex(b)):
        return xp.atan2(a, b)
    re_a, re_b = xp.ordered(a), xp.ordered(b)  # libraries define it for real numbers only
    square = a * re_a + b * re_b
    turn = ((a - re_a) * re_b - (b - re_b) * re_a) / xp.where(square == 0, 1.0, square)
    return xp.atan2(re_a, re_b) + xp.atan(turn)


def _over_square(xp: Namespace, a: Array, b: Array) -> Array:
    """``a / (a² + b²)`` without overflow; 0 where both are 0."""
    size = xp.maximum(abs(a), abs(b))
    size = xp.where(size == 0, 1.0, size)
    a, b = a / size, b / size
    square = a * a + b * b
    return a / xp.where(square == 0, 1.0, square) / size


@elementwise(lambda xp, g, y, x: g * (y * (1 - y)))
def sigmoid(xp: Namespace, x: Array) -> Array:
    """Logistic function 1 / (1 + e⁻ˣ), to full relative accuracy on both tails"""
    if type(x) not in SCALARS and (dtype := floating_type(x.dtype)) is not None:
        x = xp.astype(x, dtype)
    e = xp.exp(-abs_(xp, x))  # at most 1: cannot overflow
    return xp.where(xp.ordered(x) >= 0, xp.ones_like(e), e) / (1 + e)


@elementwise(lambda xp, g, y, x: xp.where(y <= 0, 0.0, g))  # y is stored anyway, x may not be
def relu(xp: Namespace, x: Array) -> Array:
    """``max(x, 0)``; the derivative at 0 is 0"""
    return xp.where(xp.ordered(x) > 0, x, 0.0) if xp.is_complex(x) else xp.maximum(x, 0)


# --- selection ----------------------------------------------------------------------------------


@elementwise(lambda xp, g, y, x: xp.where(x == 0, 0.0, xp.where(x < 0, -g, g)))
def abs_(xp: Namespace, x: Array) -> Array:
    """Absolute value of x; the derivative at 0 is 0"""
    return xp.where(xp.ordered(x) < 0, -x, x) if xp.is_complex(x) else xp.abs(x)


@elementwise(
    lambda xp, g, y, a, b: _winner(xp, g, a, b), lambda xp, g, y, a, b: _winner(xp, g, b, a)
)
def maximum(xp: Namespace, a: Array, b: Array) -> Array:
    """The larger of a and b; a tie sends half of the cotangent to each; NaN wins"""
    return _select(xp, xp.maximum, a, b, a, b)


@elementwise(
    lambda xp, g, y, a, b: _winner(xp, g, b, a), lambda xp, g, y, a, b: _winner(xp, g, a, b)
)
def minimum(xp: Namespace, a: Array, b: Array) -> Array:
    """The smaller of a and b; a tie sends half of the cotangent to each; NaN wins"""
    return _select(xp, xp.minimum, a, b, b, a)


def _select(xp: Namespace, real: Array, a: Array, b: Array, larger: Array, smaller: Array) -> Array:
    if xp.is_complex(a) or xp.is_complex(b):
        return xp.where(xp.ordered(larger) >= xp.ordered(smaller), a, b)
    return real(a, b)


def _winner(xp: Namespace, g: Array, mine: Array, other: Array) -> Array:
    # where neither comparison is true there is a tie or a NaN
    return xp.where(mine > other, g, xp.where(mine < other, 0.0, g / 2))


def where_vjp_a(xp: Namespace, g: Array, y: Array, condition: Array, a: Array, b: Array) -> Array:
    if type(condition) in SCALARS:
        return g if condition else xp.zeros_like(g)
    return xp.where(condition, g, 0.0)


def where_vjp_b(xp: Namespace, g: Array, y: Array, condition: Array, a: Array, b: Array) -> Array:
    if type(condition) in SCALARS:
        return xp.zeros_like(g) if condition else g
    return xp.where(condition, 0.0, g)


@elementwise(None, where_vjp_a, where_vjp_b)
def where(xp: Namespace, condition: Array, a: Array, b: Array) -> Array:
    """``a`` where the condition holds, else ``b``"""
    if type(condition) in SCALARS:  # CuPy takes arrays only
        condition = xp.asarray(bool(condition))
    _check_in_range(a, b)
    _check_in_range(b, a)
    return xp.where(condition, a, b)


def _check_in_range(number: Array, other: Array) -> None:
    """Raise OverflowError for a Python integer that the result cannot hold; NumPy's ``where`` wraps it."""
    if type(number) is not int:
        return
    dtype: Any = getattr(other, "dtype", None)
    kind = getattr(dtype, "kind", None)
    if kind in ("i", "u"):
        dtype.type(number)
    elif (kind == "b" or type(other) in (bool, int)) and not -(2**63) <= number < 2**63:
        raise OverflowError(f"Python integer {number} out of bounds for int64")
