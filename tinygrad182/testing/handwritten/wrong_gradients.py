"""How a wrong gradient relates to the right one: its negative, its transpose, a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import NamedTuple

import numpy as np

from ..samples import Array

Close = Callable[[Array, Array], bool]


class Blocks(NamedTuple):
    """The gates that an array has blocks for, and the axis of the blocks."""

    gates: tuple[str, ...]
    axis: int


class _Known(NamedTuple):
    """A wrong gradient, and the sentence about it."""

    sentence: str
    array: Array


def relations(
    found: Array,
    right: Array,
    parts: Mapping[str, Array],
    batch: int,
    blocks: Blocks,
    close: Close,
) -> list[str]:
    """Return sentences that say what a wrong gradient is in terms of the right one.

    ``parts`` has, for each part of the state, the contribution of its cotangent to the right gradient.
    ``batch`` is the number of sequences, and ``close`` compares two arrays of one shape.
    """
    if not right.any():
        return []
    known = _of_one_shape(right, parts, batch, blocks) if found.shape == right.shape else []
    known = [*known, *_of_other_shapes(right, found)]
    return [k.sentence for k in known if found.shape == k.array.shape and close(found, k.array)]


def _of_one_shape(
    right: Array, parts: Mapping[str, Array], batch: int, blocks: Blocks
) -> Iterator[_Known]:
    yield _Known("it is 0 everywhere", 0 * right)
    yield _Known("its sign is wrong", -right)
    yield _Known("it is twice as large as it should be", 2 * right)
    yield _Known("it is half as large as it should be", right / 2)
    if batch > 1:
        yield _Known("it is the mean over the batch; take the sum", right / batch)
    if right.ndim == 2 and right.shape[0] == right.shape[1]:
        yield _Known("it is transposed", right.T)
    if len(parts) > 1:
        for name, part in parts.items():
            others = ", ".join(f"d{other}" for other in parts if other != name)
            yield _Known(f"only d{name} has been used; {others} is not in it", part)
    gates, axis = blocks
    cut = np.split(right, len(gates), axis) if gates else []
    for order in permutations(range(len(gates))):
        if list(order) != sorted(order):
            names = ", ".join(gates[k] for k in order)
            moved = np.concatenate([cut[k] for k in order], axis)
            yield _Known(f"its blocks are those of {names}", moved)


def _of_other_shapes(right: Array, found: Array) -> Iterator[_Known]:
    if found.ndim == right.ndim == 2:
        yield _Known("it is transposed", right.T)
    if found.ndim == right.ndim + 1 and found.shape[1:] == right.shape:
        same = _adds_up(found, right)
        yield _Known("the sum over the batch is missing", found if same else right)
    if found.ndim == right.ndim == 2 and 1 in right.shape:
        axis = right.shape.index(1)
        if found.shape[1 - axis] == right.shape[1 - axis] and found.shape != right.shape:
            same = _adds_up(found, right.sum(axis=axis), axis)
            yield _Known("the sum over the batch is missing", found if same else right)
    if found.size == right.size:
        yield _Known("its numbers are right, and its shape is not", right.reshape(found.shape))


def _adds_up(found: Array, right: Array, axis: int = 0) -> bool:
    return bool(np.allclose(found.sum(axis=axis), right, rtol=1e-7, atol=1e-12))
