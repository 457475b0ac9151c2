"""Definitions of fused operations: compositions of simpler ones, for some rows of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.tinygrad182.table import Row
from tests.tinygrad182.table.recurrent import DEFINITIONS

Function = Callable[..., tg.Tensor]

ELEMENTWISE: dict[str, Function] = {
    "subtract": lambda a, b: a + -1 * b,
    "divide": lambda a, b: a * b**-1,
    "power": lambda a, b: tg.exp(b * tg.log(a)),
    "maximum": lambda a, b: tg.where(a > b, a, b),
    "minimum": lambda a, b: tg.where(a < b, a, b),
    "negative": lambda x: -1 * x,
    "square": lambda x: x * x,
    "expm1": lambda x: tg.exp(x) - 1,
    "log1p": lambda x: tg.log(1 + x),
    "log2": lambda x: tg.log(x) / np.log(2),
    "log10": lambda x: tg.log(x) / np.log(10),
    "sqrt": lambda x: tg.exp(tg.log(x) / 2),
    "asinh": lambda x: tg.log(x + tg.sqrt(x * x + 1)),
    "sinh": lambda x: (tg.exp(x) - tg.exp(-x)) / 2,
    "cosh": lambda x: (tg.exp(x) + tg.exp(-x)) / 2,
    "acos": lambda x: np.pi / 2 - tg.asin(x),
    "asin": lambda x: tg.atan(x / tg.sqrt(1 - x * x)),
    "remainder": lambda a, b: a - b * tg.floor(a / b),
    "cos": lambda x: tg.sin(x + np.pi / 2),
    "tanh": lambda x: (tg.exp(2 * x) - 1) / (tg.exp(2 * x) + 1),
    "sigmoid": lambda x: 1 / (1 + tg.exp(-x)),
    "relu": lambda x: tg.where(x > 0, x, 0.0),
    "abs": lambda x: tg.where(x > 0, x, -1 * x),
}
PATTERNS = ("matrix", "0d", "equal", "size-1", "leading", "both-ways", "empty")

OTHERS: dict[str, Function] = {
    "max-all": lambda x: _folded(x, lambda a, b: tg.where(a > b, a, b)),
    "min-all": lambda x: _folded(x, lambda a, b: tg.where(a < b, a, b)),
    "prod-all": lambda x: _folded(x, lambda a, b: a * b),
    "sum-all": lambda x: _folded(x, lambda a, b: a + b),
    "var-all": lambda x: tg.mean(x * x) - tg.mean(x) ** 2,
    "std-all": lambda x: (tg.mean(x * x) - tg.mean(x) ** 2) ** 0.5,
    "logsumexp-all": lambda x: tg.log(tg.sum(tg.exp(x))),
    "logsumexp-middle": lambda x: tg.log(tg.sum(tg.exp(x), axis=1)),
    "softmax-last": lambda x: tg.exp(x) / tg.sum(tg.exp(x), axis=-1, keepdims=True),
    "log_softmax-last": lambda x: x - tg.log(tg.sum(tg.exp(x), axis=-1, keepdims=True)),
    "cumulative_sum-1d": lambda x: tg.stack([x[: i + 1].sum() for i in range(len(x))]),
    "matmul-matrices": lambda a, b: _sum_of_products(a, b),
    "matmul-batch-broadcast": lambda a, b: _sum_of_products(a, b),
    "einsum-matmul": lambda a, b: _sum_of_products(a, b),
    "einsum-trace": lambda x: x[0, 0] + x[1, 1] + x[2, 2],
    "outer": lambda a, b: tg.expand_dims(a, 1) @ tg.expand_dims(b, 0),
}


def definition_of(row: Row) -> Function | None:
    """The definition of a row's operation, or None if it is not a composition."""
    if row.name in ELEMENTWISE and row.case in PATTERNS:
        return ELEMENTWISE[row.name]
    return OTHERS.get(str(row)) or DEFINITIONS.get(str(row))


def _sum_of_products(a: Any, b: Any) -> tg.Tensor:
    return tg.sum(tg.expand_dims(a, -1) * tg.expand_dims(b, -3), axis=-2)


def _folded(x: Any, f: Function) -> tg.Tensor:
    """A reduction as a loop over the elements."""
    first, *rest = tg.reshape(x, (-1,))
    for element in rest:
        first = f(first, element)
    return first
