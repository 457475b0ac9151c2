"""Products of matrices and tensors."""

from __future__ import annotations

from typing import Any

import tinygrad182 as tg

from .row import Row, Shape, row

MATMUL: dict[str, tuple[Shape, Shape]] = {
    "matrices": ((2, 3), (3, 4)),
    "square": ((3, 3), (3, 3)),
    "row": ((3,), (3, 2)),
    "column": ((2, 3), (3,)),
    "vectors": ((3,), (3,)),
    "batch": ((2, 2, 3), (2, 3, 2)),
    "batch-shared-right": ((2, 2, 3), (3, 2)),
    "batch-shared-left": ((2, 3), (2, 3, 2)),
    "batch-broadcast": ((2, 1, 2, 3), (3, 3, 1)),
    "batch-of-one": ((1, 2, 3), (2, 3, 2)),
    "batch-column": ((2, 2, 3), (3,)),
    "row-batch": ((3,), (2, 3, 2)),
    "thin": ((1, 1), (1, 1)),
    "no-rows": ((0, 3), (3, 2)),
    "no-inner": ((2, 0), (0, 3)),
    "no-batch": ((0, 2, 3), (3, 2)),
}

EINSUM: dict[str, tuple[str, tuple[Shape, ...]]] = {
    "matmul": ("ij,jk->ik", ((2, 3), (3, 4))),
    "implicit": ("ba,cb", ((2, 3), (4, 2))),
    "layer": ("tbi,ih->tbh", ((2, 2, 3), (3, 2))),
    "outer": ("i,j->ij", ((2,), (3,))),
    "inner": ("i,i->", ((3,), (3,))),
    "transpose": ("ijk->kij", ((2, 3, 2),)),
    "trace": ("ii->", ((3, 3),)),
    "diagonal": ("ii->i", ((3, 3),)),
    "batch-diagonal": ("bij,bii->bi", ((2, 3, 2), (2, 3, 3))),
    "triple-diagonal": ("iii->i", ((2, 2, 2),)),
    "sum": ("ij->i", ((2, 3),)),
    "sum-all": ("ij->", ((2, 3),)),
    "sum-within": ("ij,kl->jl", ((2, 3), (2, 2))),
    "three": ("ij,jk,kl->il", ((2, 3), (3, 2), (2, 4))),
    "shared-by-three": ("i,i,i->i", ((3,), (3,), (3,))),
    "dots": ("...ij,...jk->...ik", ((2, 2, 3), (3, 2))),
    "dots-broadcast": ("...ij,...jk->...ik", ((2, 1, 2, 3), (3, 3, 2))),
    "dots-implicit": ("...i,i", ((2, 3), (3,))),
    "dots-sum": ("i...->...", ((3, 2, 2),)),
    "dots-none": ("i...,i...->i...", ((3,), (3,))),
    "0d": (",->", ((), ())),
    "scale": (",ij->ji", ((), (2, 3))),
    "size-1": ("ij,jk->ik", ((1, 3), (3, 1))),
    "empty": ("ij,jk->ik", ((2, 0), (0, 3))),
    "quadratic": ("bi,ij,bj->b", ((2, 3), (3, 3), (2, 3))),
}


def _matmul(t: Any, a: Any, b: Any) -> Any:
    return a @ b


def _einsum(case: str, subscripts: str, shapes: tuple[Shape, ...]) -> Row:
    return row(
        "einsum",
        case,
        lambda *xs: tg.einsum(subscripts, *xs),
        lambda t, *xs: _torch_einsum(t, subscripts, xs),
        *shapes,
    )


def _torch_einsum(t: Any, subscripts: str, xs: tuple[Any, ...]) -> Any:
    if subscripts == "iii->i":  # one of the few that PyTorch cannot read
        return xs[0].diagonal(dim1=0, dim2=1).diagonal(dim1=0, dim2=1)
    return t.einsum(subscripts, *xs)


ROWS: list[Row] = [
    *(row("matmul", case, tg.matmul, _matmul, *shapes) for case, shapes in MATMUL.items()),
    row("matmul", "operator", lambda a, b: a @ b, _matmul, (2, 3), (3, 2)),
    *(_einsum(case, *entry) for case, entry in EINSUM.items()),
    row("outer", "", tg.outer, lambda t, a, b: t.outer(a, b), (2,), (3,)),
    row("outer", "equal", tg.outer, lambda t, a, b: t.outer(a, b), (3,), (3,)),
    row("outer", "empty", tg.outer, lambda t, a, b: t.outer(a, b), (0,), (3,)),
]
