"""Elementwise operations: every one on the same patterns of shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tinygrad182 as tg

from .row import (
    Domain,
    Row,
    Shape,
    above_minus_one,
    apart,
    inside_one,
    mask,
    near_one,
    nonzero,
    positive,
    real,
    row,
)

ONE: dict[str, tuple[Shape, ...]] = {
    "matrix": ((2, 3),),
    "square": ((2, 2),),
    "three-axes": ((2, 3, 1),),
    "0d": ((),),
    "empty": ((0, 3),),
}
TWO: dict[str, tuple[Shape, ...]] = {
    "equal": ((2, 3), (2, 3)),
    "square": ((2, 2), (2, 2)),
    "0d": ((), ()),
    "0d-left": ((), (2, 3)),
    "0d-right": ((2, 3), ()),
    "size-1": ((2, 1), (1, 3)),
    "leading": ((3,), (2, 3)),
    "both-ways": ((2, 1, 2), (3, 1)),
    "one-element": ((1, 1), (3,)),
    "three-axes": ((2, 3, 1), (3, 1)),
    "empty": ((0, 3), (1, 3)),
}
THREE: dict[str, tuple[Shape, ...]] = {
    "equal": ((2, 3), (2, 3), (2, 3)),
    "square": ((2, 2), (2, 2), (2, 2)),
    "0d": ((), (), ()),
    "three-axes": ((2, 3, 1), (1, 1), (2, 1, 1)),
    "all-ways": ((2, 1, 1), (3, 1), (1, 1, 2)),
    "mask-only": ((2, 3), (), ()),
    "empty": ((0, 3), (3,), ()),
}

# name, PyTorch's form, the domain of each input
FUNCTIONS: list[tuple[str, Callable[..., Any], tuple[Domain, ...]]] = [
    ("add", lambda t, a, b: a + b, (real, real)),
    ("subtract", lambda t, a, b: a - b, (real, real)),
    ("multiply", lambda t, a, b: a * b, (real, real)),
    ("divide", lambda t, a, b: a / b, (real, nonzero)),
    ("remainder", lambda t, a, b: t.remainder(a, b), (real, positive)),
    ("power", lambda t, a, b: a**b, (positive, real)),
    ("pow", lambda t, a, b: a**b, (positive, real)),
    ("maximum", lambda t, a, b: t.maximum(a, b), (real, real)),
    ("minimum", lambda t, a, b: t.minimum(a, b), (real, real)),
    ("where", lambda t, c, a, b: t.where(c, a, b), (mask, real, real)),
    ("negative", lambda t, x: -x, (real,)),
    ("square", lambda t, x: x**2, (real,)),
    ("exp", lambda t, x: t.exp(x), (real,)),
    ("expm1", lambda t, x: t.expm1(x), (real,)),
    ("log", lambda t, x: t.log(x), (positive,)),
    ("log1p", lambda t, x: t.log1p(x), (above_minus_one,)),
    ("log2", lambda t, x: t.log2(x), (positive,)),
    ("log10", lambda t, x: t.log10(x), (positive,)),
    ("sqrt", lambda t, x: t.sqrt(x), (positive,)),
    ("sin", lambda t, x: t.sin(x), (real,)),
    ("cos", lambda t, x: t.cos(x), (real,)),
    ("asin", lambda t, x: t.asin(x), (inside_one,)),
    ("acos", lambda t, x: t.acos(x), (inside_one,)),
    ("atan", lambda t, x: t.atan(x), (real,)),
    ("atan2", lambda t, a, b: t.atan2(a, b), (apart, apart)),
    ("sinh", lambda t, x: t.sinh(x), (real,)),
    ("cosh", lambda t, x: t.cosh(x), (real,)),
    ("asinh", lambda t, x: t.asinh(x), (real,)),
    ("tanh", lambda t, x: t.tanh(x), (real,)),
    ("sigmoid", lambda t, x: t.sigmoid(x), (real,)),
    ("relu", lambda t, x: t.relu(x), (nonzero,)),
    ("abs", lambda t, x: t.abs(x), (nonzero,)),
]

_PATTERNS = {1: ONE, 2: TWO, 3: THREE}

# A number beside a tensor is not an input: it has no derivative and takes the tensor's dtype.
_SCALARS: list[Row] = [
    row("add", "number", lambda x: tg.add(2.5, x), lambda t, x: 2.5 + x, (2, 3)),
    row("add", "number-behind", lambda x: x + 2.5, lambda t, x: x + 2.5, (2, 3)),
    row("divide", "number-behind", lambda x: x / 4, lambda t, x: x / 4, (2, 3)),
    row("subtract", "number-behind", lambda x: x - 2.5, lambda t, x: x - 2.5, (2, 3)),
    row("multiply", "number-before", lambda x: tg.multiply(-3, x), lambda t, x: -3 * x, (2, 3)),
    row(
        "maximum", "number-before", lambda x: tg.maximum(0.5, x), lambda t, x: x.clamp(0.5), (2, 3)
    ),
    row(
        "minimum",
        "number-behind",
        lambda x: tg.minimum(x, 0.5),
        lambda t, x: x.clamp(max=0.5),
        (2, 3),
    ),
    row("subtract", "number", lambda x: 2.5 - x, lambda t, x: 2.5 - x, (2, 3)),
    row("multiply", "number", lambda x: x * -3, lambda t, x: x * -3, (2, 3)),
    row("divide", "number", lambda x: 2 / x, lambda t, x: 2 / x, (2, 3), domain=nonzero),
    row("power", "cube", lambda x: x**3, lambda t, x: x**3, (2, 3), domain=nonzero),
    row("power", "inverse", lambda x: x**-2, lambda t, x: x**-2, (2, 3), domain=nonzero),
    row("power", "root", lambda x: x**0.5, lambda t, x: x**0.5, (2, 3), domain=positive),
    row("power", "first", lambda x: x**1, lambda t, x: x**1, (2, 3)),
    row("power", "zeroth", lambda x: x**0, lambda t, x: x**0, (2, 3)),
    row("power", "hundredth", lambda x: x**101, lambda t, x: x**101, (2, 3), domain=near_one),
    row("power", "exponent", lambda x: 2.5**x, lambda t, x: 2.5**x, (2, 3)),
    row("remainder", "number", lambda x: x % 0.7, lambda t, x: t.remainder(x, 0.7), (2, 3)),
    row(
        "remainder",
        "number-before",
        lambda x: 2.5 % x,
        lambda t, x: t.remainder(t.tensor(2.5, dtype=x.dtype), x),
        (2, 3),
        domain=positive,
    ),
    row(
        "atan2",
        "number",
        lambda x: tg.atan2(x, 0.7),
        lambda t, x: t.atan2(x, t.tensor(0.7, dtype=x.dtype)),
        (2, 3),
    ),
    row(
        "atan2",
        "number-before",
        lambda x: tg.atan2(0.7, x),
        lambda t, x: t.atan2(t.tensor(0.7, dtype=x.dtype), x),
        (2, 3),
    ),
    row("atan2", "twice", lambda x: tg.atan2(x, x), lambda t, x: t.atan2(x, x), (2, 3)),
    row("maximum", "number", lambda x: tg.maximum(x, 0.5), lambda t, x: x.clamp(min=0.5), (2, 3)),
    row("minimum", "number", lambda x: tg.minimum(0.5, x), lambda t, x: x.clamp(max=0.5), (2, 3)),
    row(
        "where",
        "number",
        lambda c, x: tg.where(c, x, -1.5),
        lambda t, c, x: t.where(c, x, -1.5),
        (2, 3),
        (2, 3),
        domain=(mask, real),
    ),
    row("clip", "both", lambda x: tg.clip(x, -0.5, 0.5), lambda t, x: x.clamp(-0.5, 0.5), (3, 4)),
    row("clip", "below", lambda x: tg.clip(x, min=-0.5), lambda t, x: x.clamp(min=-0.5), (3, 4)),
    row("clip", "0d", lambda x: tg.clip(x, max=0.5), lambda t, x: x.clamp(max=0.5), ()),
    row("clip", "empty", lambda x: tg.clip(x, -1, 1), lambda t, x: x.clamp(-1, 1), (0, 3)),
    row(
        "clip",
        "tensor-bounds",
        lambda x, low: tg.clip(x, low, 0.9),
        lambda t, x, low: x.clamp(low, t.tensor(0.9, dtype=x.dtype)),
        (3, 4),
        (4,),
    ),
]

ROWS: list[Row] = [
    Row(name, case, getattr(tg, name), torch, shapes, domains)  # defined in tensors/functions.py
    for name, torch, domains in FUNCTIONS
    for case, shapes in _PATTERNS[len(domains)].items()
] + _SCALARS
