"""Functions without a derivative: their results are plain tensors, compared with NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.support import Array

_INF, _NAN = np.inf, np.nan
_A = np.array([[1.0, -2.0, 0.0], [3.5, 3.5, -0.5]])
_B = np.array([1.0, 3.5, 0.0])
_ODD = np.array([1.0, _INF, -_INF, _NAN, 0.0])
_TRUE = np.array([[True, False], [True, True]])
_ANY = np.array([True, False])


@dataclass(frozen=True)
class PlainRow:
    """A function, the same in NumPy, and what both are called with."""

    name: str
    case: str
    f: Callable[..., tg.Tensor]
    numpy: Callable[..., Any]
    inputs: tuple[Array, ...]

    def __str__(self) -> str:
        return f"{self.name}-{self.case}"


def _each(name: str, cases: dict[str, tuple[Array, ...]]) -> list[PlainRow]:
    return [PlainRow(name, c, getattr(tg, name), getattr(np, name), xs) for c, xs in cases.items()]


def _along(name: str, x: Array, *axes: Any, **options: Any) -> list[PlainRow]:
    return [
        PlainRow(
            name,
            f"axis={axis}{'-kept' if options else ''}",
            lambda x, axis=axis: getattr(tg, name)(x, axis=axis, **options),
            lambda x, axis=axis: getattr(np, name)(x, axis=axis, **options),
            (x,),
        )
        for axis in axes
    ]


_COMPARED = {"broadcast": (_A, _B), "0d": (_B[0], _A), "empty": (_A[:0], _B), "odd": (_ODD, _ODD)}
_LOGICAL = {"broadcast": (_TRUE, _ANY), "0d": (_ANY[0], _TRUE), "empty": (_TRUE[:0], _ANY)}
_COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")

PLAIN: list[PlainRow] = [
    *(r for name in _COMPARISONS for r in _each(name, _COMPARED)),
    *_each("logical_and", _LOGICAL),
    *_each("logical_or", _LOGICAL),
    *_each("logical_not", {"": (_TRUE,), "0d": (_ANY[1],)}),
    *(
        r
        for name in ("isfinite", "isnan", "isinf")
        for r in _each(name, {"": (_ODD,), "0d": (_ODD[1],)})
    ),
    *(
        r
        for name in ("sign", "floor", "ceil", "trunc", "round")
        for r in _each(name, {"": (_A,), "0d": (_B[1],), "empty": (_A[:0],)})
    ),
    *_each("floor_divide", {"": (_A, _B[:2, None] + 0.7), "0d": (_B[1], _B[0])}),
    *(r for name in ("argmax", "argmin") for r in _along(name, _A, None, 0, -1)),
    *_along("argmax", _A, 1, keepdims=True),
    *_along("argsort", _A * [1, 1, 1.5], 0, -1),
    PlainRow("eye", "", lambda: tg.eye(3), lambda: np.eye(3, dtype="float32"), ()),
    PlainRow("eye", "dtype", lambda: tg.eye(0, tg.int64), lambda: np.eye(0, dtype=int), ()),
    PlainRow("eye_like", "", lambda x: tg.eye_like(2, x), lambda x: np.eye(2), (_A,)),
    *_each("zeros_like", {"": (_A,), "bool": (_TRUE,), "0d": (_B[0],)}),
    *_each("ones_like", {"": (_A,), "bool": (_TRUE,), "empty": (_A[:0],)}),
    *(
        PlainRow("full_like", c, lambda x: tg.full_like(x, 2), lambda x: np.full_like(x, 2), (x,))
        for c, x in {"": _A, "bool": _TRUE}.items()
    ),
    *(r for name in ("any", "all") for r in _along(name, _TRUE, None, 0, -1, (0, 1))),
    *_along("any", _TRUE, 1, keepdims=True),
]
