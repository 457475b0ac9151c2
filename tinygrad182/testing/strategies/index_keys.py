"""A strategy of index expressions that mixes all kinds that NumPy has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import ArgumentError
from ...tensors.creation import integers
from ._hypothesis import st

Shape = tuple[int, ...]

KINDS = ("integer", "slice", "newaxis", "ellipsis", "array", "mask")
"""The kinds of entries of an index expression."""


@st.composite
def index_expressions(
    draw: st.DrawFn,
    shape: Shape,
    *,
    kinds: Sequence[str] = KINDS,
    out_of_range: bool = False,
) -> Any:
    """Keys for ``x[key]`` that mix all kinds of entries; arrays in a key broadcast.

    Parameters
    ----------
    shape : tuple of int
        The shape of the array that is indexed.
    kinds : sequence of str
        Some of ``KINDS``. An axis without elements may get a slice even if slices are not among them.
    out_of_range : bool
        If False, NumPy accepts every key. If True, one integer is outside its axis, so that NumPy raises
        ``IndexError``; each key then has an integer or an array.

    Raises
    ------
    ArgumentError
        The shape is not a shape, a kind is not one of ``KINDS``, or ``out_of_range`` is asked of a shape
        without axes.

    Examples
    --------
    >>> from hypothesis import find
    >>> x = np.arange(6).reshape(2, 3)
    >>> key = find(index_expressions(x.shape, kinds=["slice"]), lambda key: x[key].size == 4)
    >>> x[key].shape
    (2, 2)
    >>> find(index_expressions((4,), out_of_range=True), lambda key: True)
    4
    """
    shape = integers(shape, "index_expressions", "shape", 0)
    if isinstance(kinds, str):
        raise ArgumentError(f"index_expressions: kinds={kinds!r}; give a list, as in [{kinds!r}]")
    if unknown := set(kinds) - set(KINDS):
        raise ArgumentError(f"index_expressions: {unknown} are not among the kinds {KINDS}")
    # where the result has no elements, NumPy does not check indices
    length = draw(st.sampled_from([1, 2, 3] if out_of_range else [1, 2, 3, 0]))
    plan = _plan(draw, shape, kinds, length)
    places = [i for i, (kind, _) in enumerate(plan) if kind in ("integer", "array")]
    if out_of_range and not places:
        if not shape:
            raise ArgumentError("index_expressions: shape () has no axis to be out of range of")
        plan, places = [_Planned("integer", shape[:1])], [0]
    outside = draw(st.sampled_from(places)) if out_of_range else None
    several = out_of_range or sum(kind in ("array", "mask") for kind, _ in plan) > 1
    key = []
    for i, (kind, sides) in enumerate(plan):
        entry = _entry(draw, kind, sides, length, several)
        key.append(_spoilt(draw, entry, sides[0]) if i == outside else entry)
    return key[0] if len(key) == 1 and not draw(st.booleans()) else tuple(key)


class _Planned(NamedTuple):
    """The kind of one entry, and the lengths of the axes that it indexes."""

    kind: str
    sides: Shape


def _plan(draw: st.DrawFn, shape: Shape, kinds: Sequence[str], length: int) -> list[_Planned]:
    """The entries of a key: their kinds and axes."""
    of_axes = [kind for kind in kinds if kind in ("slice", "integer", "array", "mask")]
    head = draw(st.integers(0, len(shape)))
    stretches = [shape[:head]]
    if "ellipsis" in kinds and draw(st.booleans()):
        stretches.append(shape[draw(st.integers(head, len(shape))) :])
    plan: list[_Planned] = []
    for k, stretch in enumerate(stretches):
        plan += [_Planned("ellipsis", ())] * k
        while True:
            if "newaxis" in kinds and draw(st.integers(0, 3)) == 3:
                plan.append(_Planned("newaxis", ()))
            if not (stretch and of_axes):
                break
            # the number keeps hypothesis from copying one kind over another
            _, kind = draw(st.sampled_from([(len(plan), kind) for kind in of_axes]))
            sides = stretch[: draw(st.integers(1, len(stretch))) if kind == "mask" else 1]
            if math.prod(sides) == 0 and (kind == "integer" or length):
                kind, sides = "slice", sides[:1]  # there is no element to choose
            plan.append(_Planned(kind, sides))
            stretch = stretch[len(sides) :]
    return plan


def _entry(draw: st.DrawFn, kind: str, sides: Shape, length: int, several: bool) -> Any:
    """Draw one entry; arrays broadcast by ``length``, and so do masks if there are several."""
    size = math.prod(sides)
    if kind == "ellipsis":
        return ...
    if kind == "newaxis":
        return None
    if kind == "integer":
        return (
            draw(st.integers(-size, size - 1)) if size else 0
        )  # for an axis without elements, which is spoilt next
    if kind == "slice":
        end = st.none() | st.integers(-size - 1, size + 1)
        return slice(draw(end), draw(end), draw(st.sampled_from([None, 1, 2, 3, -1, -2, -3])))
    if kind == "array":
        shape = draw(st.sampled_from([(length,), (2, length), *[(1,), ()] * (size > 0)]))
        count = math.prod(shape)
        flat = [draw(st.integers(-size, size - 1)) for _ in range(count)]
        return np.asarray(flat, dtype=np.int64).reshape(shape)
    counts = {length, 1} if several else {0, 1, size // 2, size}
    count = draw(st.sampled_from(sorted(n for n in counts if n <= size)))
    chosen = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(size) < count
    return chosen.reshape(sides)


def _spoilt(draw: st.DrawFn, entry: Any, side: int) -> Any:
    """Move the integer, or one element of the array, out of its axis of ``side`` elements."""
    bad = draw(st.sampled_from([side, -side - 1, 10**9]))
    if not (isinstance(entry, np.ndarray) and entry.size):
        return bad
    entry.flat[draw(st.integers(0, entry.size - 1))] = bad
    return entry
