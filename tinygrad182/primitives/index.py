"""Selecting elements (``index``) and adding them back (``scatter_add``): each is the other's derivative.

A key is a tuple of integers, slices and None, with the mark ``ARRAY`` in the place of each integer array.
The arrays themselves are inputs of the primitive, so that their library and device are checked.
``functions.index`` puts all arrays of a key side by side, so a key means the same behind leading axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..arrays.namespaces import Array, Key, Namespace
from .primitive import Tangents, define


class _ArrayMark:
    def __repr__(self) -> str:
        return "ARRAY"


ARRAY = _ArrayMark()


@dataclass(frozen=True, slots=True)
class Slice:
    """The cotangent of a part of an array. The engine adds all of them into one buffer."""

    key: Key
    arrays: tuple[Array, ...]
    value: Array
    lead: tuple[int, ...]


def fill(key: Key, arrays: tuple[Array, ...]) -> Key:
    """Replace the marks in a key by the arrays."""
    if not arrays:
        return key
    remaining = iter(arrays)
    return tuple(next(remaining) if k is ARRAY else k for k in key)


def index(xp: Namespace, x: Array, *arrays: Array, key: Key) -> Array:
    """The elements a NumPy index selects."""
    return xp.index(x, fill(key, arrays) if arrays else key)


def index_vjp(
    xp: Namespace, g: Array, y: Array, x: Array, *arrays: Array, key: Key
) -> tuple[Any, ...]:
    return (Slice(key, arrays, g, g.shape[: g.ndim - y.ndim]), *(None for _ in arrays))


def index_jvp(
    xp: Namespace, tangents: Tangents, y: Array, x: Array, *arrays: Array, key: Key
) -> Array:
    return xp.index_checked(tangents[0], fill(key, arrays))


def scatter_add(
    xp: Namespace, *operands: Array, shape: tuple[int, ...], dtype: Any, keys: tuple[Key, ...]
) -> Array:
    """Zeros to which each value is added at its key; ``operands`` are each value followed by its arrays."""
    items = [(fill(key, arrays), value) for key, value, arrays in _items(operands, keys)]
    return xp.scatter_add(shape, dtype, items)


def _items(
    operands: tuple[Array, ...], keys: tuple[Key, ...]
) -> Iterator[tuple[Key, Array, tuple[Array, ...]]]:
    remaining = iter(operands)
    for key in keys:
        value = next(remaining)
        yield key, value, tuple(next(remaining) for k in key if k is ARRAY)


def scatter_add_vjp(
    xp: Namespace,
    g: Array,
    y: Array,
    *operands: Array,
    shape: tuple[int, ...],
    dtype: Any,
    keys: tuple[Key, ...],
) -> tuple[Any, ...]:
    lead = (slice(None),) * (g.ndim - y.ndim)
    cotangents: list[Any] = []
    for key, _, arrays in _items(operands, keys):
        cotangents += [xp.index_checked(g, lead + fill(key, arrays)), *(None for _ in arrays)]
    return tuple(cotangents)


def scatter_add_jvp(
    xp: Namespace,
    tangents: Tangents,
    y: Array,
    *operands: Array,
    shape: tuple[int, ...],
    dtype: Any,
    keys: tuple[Key, ...],
) -> Array:
    values = [v if v is not None else x for v, x in zip(tangents, operands, strict=True)]
    items = [
        (fill(key, arrays), value)
        for (key, value, arrays), tangent in zip(
            _items(tuple(values), keys), _values(tangents, keys), strict=True
        )
        if tangent is not None
    ]
    return xp.scatter_add(shape, dtype, items)


def _values(tangents: Tangents, keys: tuple[Key, ...]) -> list[Array | None]:
    return [tangent for _, tangent, _ in _items(tangents, keys)]


define(
    index,
    all_inputs=index_vjp,
    jvp=index_jvp,
    view=True,
    requirement="at most one index per axis, and index arrays must broadcast against each other",
)
define(scatter_add, all_inputs=scatter_add_vjp, jvp=scatter_add_jvp)
