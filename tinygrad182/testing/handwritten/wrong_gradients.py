"""What a wrong gradient has to do with the right one: its negative, its transpose, a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np

from ..samples import Array

Close = Callable[[Array, Array], bool]


def relations(
    found: Array,
    right: Array,
    parts: Mapping[str, Array],
    batch: int,
    blocks: tuple[tuple[str, ...], int],
    close: Close,
) -> list[str]:
    """Say what a wrong gradient is in terms of the right one.

    Parameters
    ----------
    found, right : ndarray
        They may have different shapes.
    parts : dict of str to ndarray
        For each part of the state, what its cotangent alone contributes to the right gradient.
    batch : int
        How many sequences there are.
    blocks : (tuple of str, int)
        The gates that the gradient has a block for, along which axis.
    close : callable
        Whether two arrays of one shape are equal to rounding.
    """
    if not right.any():
        return []
    told = _of_one_shape(right, parts, batch, blocks) if found.shape == right.shape else []
    told = [*told, *_of_other_shapes(right, found)]
    return [
        sentence for sentence, wrong in told if found.shape == wrong.shape and close(found, wrong)
    ]


def _of_one_shape(
    right: Array, parts: Mapping[str, Array], batch: int, blocks: tuple[tuple[str, ...], int]
) -> Iterator[tuple[str, Array]]:
    yield "it is 0 everywhere", 0 * right
    yield "its sign is wrong", -right
    yield "it is twice as large as it should be", 2 * right
    yield "it is half as large as it should be", right / 2
    if batch > 1:
        yield "it is the mean over the batch; take the sum", right / batch
    if right.ndim == 2 and right.shape[0] == right.shape[1]:
        yield "it is transposed", right.T
    if len(parts) > 1:
        for name, part in parts.items():
            others = ", ".join(f"d{other}" for other in parts if other != name)
            yield f"only d{name} has been used; {others} is not in it", part
    gates, axis = blocks
    cut = np.split(right, len(gates), axis) if gates else []
    for order in permutations(range(len(gates))):
        if list(order) != sorted(order):
            names = ", ".join(gates[k] for k in order)
            yield f"its blocks are those of {names}", np.concatenate([cut[k] for k in order], axis)


def _of_other_shapes(right: Array, found: Array) -> Iterator[tuple[str, Array]]:
    if found.ndim == right.ndim == 2:
        yield "it is transposed", right.T
    if found.ndim == right.ndim + 1 and found.shape[1:] == right.shape:
        yield "the sum over the batch is missing", found if _adds_up(found, right) else right
    if found.ndim == right.ndim == 2 and 1 in right.shape:
        axis = right.shape.index(1)
        if found.shape[1 - axis] == right.shape[1 - axis] and found.shape != right.shape:
            same = _adds_up(found, right.sum(axis=axis), axis)
            yield "the sum over the batch is missing", found if same else right
    if found.size == right.size:
        yield "its numbers are right, and its shape is not", right.reshape(found.shape)


def _adds_up(found: Array, right: Array, axis: int = 0) -> bool:
    return bool(np.allclose(found.sum(axis=axis), right, rtol=1e-7, atol=1e-12))


def ratio(found: float, right: float) -> str:
    """Their quotient, where there is one."""
    value: Any = found / right if right else np.nan
    return f"{value:.9g}" if np.isfinite(value) else "-"
