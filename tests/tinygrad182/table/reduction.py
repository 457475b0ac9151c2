"""Operations along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.support import Array

from .row import Domain, Row, Shape, apart, nonzero, real, row

Axis = int | tuple[int, ...] | None

# what the axis is, the shape it is of, and whether the axes are kept
AXES: dict[str, tuple[Shape, Axis, bool]] = {
    "all": ((2, 3), None, False),
    "all-kept": ((2, 3), None, True),
    "first": ((2, 3), 0, False),
    "square": ((2, 2, 2), 0, False),
    "last-kept": ((2, 3), -1, True),
    "middle": ((2, 3, 2), 1, False),
    "pair": ((2, 3, 2), (0, -1), False),
    "pair-kept": ((2, 3, 2), (2, 1), True),
    "none": ((2, 3), (), False),
    "0d": ((), None, False),
    "size-1": ((1, 3), 0, False),
}
# for those that have a value for no elements
EMPTY: dict[str, tuple[Shape, Axis, bool]] = {
    "empty": ((0, 3), None, False),
    "empty-axis": ((0, 3), 0, False),
}
# for the others: no elements at all, none of them reduced
AROUND: dict[str, tuple[Shape, Axis, bool]] = {"empty-around": ((0, 3), 1, False)}

Reduction = Callable[[Any, Any, tuple[int, ...], bool], Any]


def _torch_prod(t: Any, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    for axis in sorted(axes, reverse=True):  # torch.prod takes one axis
        x = x.prod(dim=axis, keepdim=keep)
    return x


def _var(t: Any, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    if not x.numel():  # PyTorch warns
        return x.square().mean(axes, keepdim=keep)
    return t.var(x, dim=axes, correction=0, keepdim=keep)


def _others(x: Any) -> tg.Tensor:
    return tg.apply(tg.PRIMITIVES["product_of_others"], x)


def _torch_others(t: Any, x: Any) -> Any:
    n = range(x.shape[-1])
    parts = [x[..., [j for j in n if j != i]].prod(-1) for i in n]
    return t.stack(parts, -1) if parts else x


def _few(rng: np.random.Generator, shape: Shape) -> Array:
    """Small whole numbers, some of them 0."""
    return np.asarray(np.resize([2.0, -1.0, 3.0, 0.0, 0.5], shape))


# name, PyTorch's form, domain, whether it takes no elements
FUNCTIONS: list[tuple[str, Reduction, Domain, bool]] = [
    ("sum", lambda t, x, axes, keep: x.sum(dim=axes, keepdim=keep), real, True),
    ("prod", _torch_prod, nonzero, True),
    ("mean", lambda t, x, axes, keep: x.mean(dim=axes, keepdim=keep), real, False),
    ("max", lambda t, x, axes, keep: t.amax(x, dim=axes, keepdim=keep), apart, False),
    ("min", lambda t, x, axes, keep: t.amin(x, dim=axes, keepdim=keep), apart, False),
    ("logsumexp", lambda t, x, axes, keep: t.logsumexp(x, axes, keepdim=keep), real, False),
    ("var", _var, real, False),
]


def _rows(name: str, torch: Reduction, domain: Domain, empty: bool) -> list[Row]:
    function = getattr(tg, name)
    rows = []
    for case, (shape, axis, keep) in (AXES | AROUND | (EMPTY if empty else {})).items():
        axes = tuple(range(len(shape))) if axis is None else axis
        axes = tuple(a % len(shape) for a in (axes if isinstance(axes, tuple) else (axes,)))

        def f(x: Any, axis: Axis = axis, keep: bool = keep) -> tg.Tensor:
            return function(x, axis=axis, keepdims=keep)

        def reference(t: Any, x: Any, axes: Any = axes, keep: bool = keep) -> Any:
            # an empty tuple means every axis to most of PyTorch's reductions
            return torch(t, x, axes, keep) if axes or not x.ndim else torch(t, x[None], (0,), False)

        rows.append(row(name, case, f, reference, shape, domain=domain))
    return rows


ROWS: list[Row] = [r for entry in FUNCTIONS for r in _rows(*entry)] + [
    row(
        "var",
        "correction",
        lambda x: tg.var(x, 1, 1),
        lambda t, x: t.var(x, 1, correction=1),
        (2, 4),
    ),
    row("std", "all", lambda x: tg.std(x), lambda t, x: t.std(x, correction=0), (2, 3)),
    row(
        "std",
        "axis-kept",
        lambda x: tg.std(x, axis=0, correction=1, keepdims=True),
        lambda t, x: t.std(x, 0, correction=1, keepdim=True),
        (4, 3),
    ),
    row(
        "std",
        "method",
        lambda x: x.std(axis=(0, 2)),
        lambda t, x: t.std(x, (0, 2), correction=0),
        (2, 3, 2),
    ),
    row("sum", "method", lambda x: x.sum(1), lambda t, x: x.sum(1), (2, 3)),
    row(
        "prod", "odd", lambda x: tg.prod(x, axis=0), lambda t, x: x.prod(0), (7, 2), domain=nonzero
    ),
    row("cumulative_sum", "1d", lambda x: tg.cumulative_sum(x), lambda t, x: t.cumsum(x, 0), (4,)),
    row(
        "cumulative_sum",
        "axis",
        lambda x: tg.cumulative_sum(x, axis=1),
        lambda t, x: t.cumsum(x, 1),
        (2, 3, 2),
    ),
    row(
        "cumulative_sum",
        "last",
        lambda x: tg.cumulative_sum(x, axis=-1),
        lambda t, x: t.cumsum(x, -1),
        (2, 3),
    ),
    row(
        "cumulative_sum",
        "square",
        lambda x: tg.cumulative_sum(x, axis=0),
        lambda t, x: t.cumsum(x, 0),
        (2, 2),
    ),
    row(
        "cumulative_sum",
        "size-1",
        lambda x: tg.cumulative_sum(x, axis=-1),
        lambda t, x: t.cumsum(x, -1),
        (2, 3, 1),
    ),
    row(
        "cumulative_sum", "empty", lambda x: tg.cumulative_sum(x), lambda t, x: t.cumsum(x, 0), (0,)
    ),
    row(
        "prod",
        "method-last",
        lambda x: x.prod(-1),
        lambda t, x: x.prod(-1),
        (2, 5),
        domain=nonzero,
    ),
    row("prod", "with-0", lambda x: tg.prod(x, -1), lambda t, x: x.prod(-1), (4, 3), domain=_few),
    row("prod", "of-a-row", lambda x: tg.prod(x, -1), lambda t, x: x.prod(-1), (2, 1, 3)),
    row(
        "cumulative_prod",
        "with-0",
        lambda x: tg.cumulative_prod(x, -1),
        lambda t, x: t.cumprod(x, -1),
        (4, 3),
        domain=_few,
    ),
    row("product_of_others", "with-0", _others, _torch_others, (4, 3), domain=_few),
    *(
        row("product_of_others", case, _others, _torch_others, shape, domain=nonzero)
        for case, shape in {
            "even": (2, 4),
            "odd": (5,),
            "one": (3, 1),
            "three-axes": (2, 1, 3),
            "empty": (2, 0),
        }.items()
    ),
    *(
        row(
            "cumulative_prod",
            case,
            lambda x, axis=axis: tg.cumulative_prod(x, axis),
            lambda t, x, axis=axis: t.cumprod(x, axis),
            shape,
            domain=nonzero,
        )
        for case, (shape, axis) in {
            "1d": ((4,), 0),
            "axis": ((2, 3, 2), 1),
            "last": ((2, 3), -1),
            "square": ((2, 2), 0),
            "size-1": ((2, 1), -1),
            "empty": ((0,), 0),
        }.items()
    ),
    row("softmax", "last", lambda x: tg.softmax(x), lambda t, x: t.softmax(x, -1), (2, 3)),
    row("softmax", "axis", lambda x: tg.softmax(x, axis=0), lambda t, x: t.softmax(x, 0), (3, 2)),
    row("softmax", "method", lambda x: x.softmax(1), lambda t, x: t.softmax(x, 1), (2, 3, 2)),
    row("softmax", "one", lambda x: tg.softmax(x), lambda t, x: t.softmax(x, -1), (2, 1)),
    row("softmax", "empty", lambda x: tg.softmax(x), lambda t, x: t.softmax(x, -1), (0, 3)),
    row(
        "log_softmax",
        "last",
        lambda x: tg.log_softmax(x),
        lambda t, x: t.log_softmax(x, -1),
        (2, 3),
    ),
    row(
        "log_softmax",
        "axis",
        lambda x: tg.log_softmax(x, 0),
        lambda t, x: t.log_softmax(x, 0),
        (3, 2),
    ),
    row(
        "log_softmax",
        "empty",
        lambda x: tg.log_softmax(x),
        lambda t, x: t.log_softmax(x, -1),
        (0, 3),
    ),
]
