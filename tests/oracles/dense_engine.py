"""A second engine to check the first against: dense, slow, simple, and without shared code.

A :class:`Value` keeps, from the moment it was computed, the whole matrix of its derivatives by each
operand and every second derivative: 2 × 2 elements at most make that cheap. Nothing is shared, pruned,
summed in place or recomputed, so there is nothing to get wrong but the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_CLOCK = count()


class Memory:
    """Time of the last write to the array that a leaf and its views share."""

    def __init__(self) -> None:
        self.written = next(_CLOCK)


class Value:
    """An array, the operands it was computed from, and its derivatives by them as they were then."""

    def __init__(self, array: Any, requires_grad: bool = False, memory: Any = None) -> None:
        self.array: Array = np.asarray(array)
        self.requires_grad = requires_grad
        self.operands: list[Value] = []
        self.first: list[Array] = []  # per operand: (elements of this, of the operand)
        self.second: list[tuple[int, int, Array]] = []  # two operands: (this, the one, the other)
        self.memory = memory or Memory()
        self.born = next(_CLOCK)
        self.grad: Array | None = None
        self.keeps_grad = self.is_leaf = True
        self.freed = False

    def assign(self, array: Array) -> None:
        self.array[...] = array
        self.memory.written = next(_CLOCK)

    def detach(self) -> Value:
        return Value(self.array, memory=self.memory)


# --- operations ---------------------------------------------------------------------------------


def _record(
    array: Any,
    operands: Sequence[Value],
    first: list[Array],
    second: list[tuple[int, int, Array]],
    memory: Memory | None = None,
) -> Value:
    value = Value(array, any(x.requires_grad for x in operands), memory)
    if value.requires_grad:
        value.operands, value.first, value.second = list(operands), first, second
        value.keeps_grad = value.is_leaf = False
    return value


def _basis(x: Value) -> list[Array]:
    return list(np.eye(x.array.size).reshape(-1, *x.array.shape))


def elementwise(f: Any, df: Any, ddf: Any, x: Value) -> Value:
    n = np.arange(x.array.size)
    second = np.zeros((n.size,) * 3)
    second[n, n, n] = ddf(x.array).ravel()
    return _record(f(x.array), [x], [np.diag(df(x.array).ravel())], [(0, 0, second)])


def linear(f: Callable[..., Any], *xs: Value, view: bool = False) -> Value:
    """A value of ``f``, which is linear in its operands: its matrix holds its values at unit arrays."""
    zeros = [np.zeros(x.array.shape) for x in xs]
    columns = [[f(*zeros[:i], e, *zeros[i + 1 :]) for e in _basis(x)] for i, x in enumerate(xs)]
    first = [np.stack([np.ravel(c) for c in column], axis=1) for column in columns]
    return _record(f(*(x.array for x in xs)), xs, first, [], xs[0].memory if view else None)


def bilinear(f: Callable[[Any, Any], Any], a: Value, b: Value) -> Value:
    table = np.array([[np.ravel(f(d, e)) for e in _basis(b)] for d in _basis(a)])  # (a, b, out)
    second = np.moveaxis(table, -1, 0)
    first = [second @ b.array.ravel(), second.swapaxes(1, 2) @ a.array.ravel()]
    both = [(0, 1, second), (1, 0, second.swapaxes(1, 2))]
    return _record(f(a.array, b.array), [a, b], first, both)


# --- derivatives --------------------------------------------------------------------------------


def ancestors(outputs: Sequence[Value]) -> list[Value]:
    """Values that require grad on which the outputs depend, including the outputs, latest first."""
    found: set[Value] = set()
    todo = list(outputs)
    while todo:
        value = todo.pop()
        if value.requires_grad and value not in found:
            found.add(value)
            todo += value.operands
    return sorted(found, key=lambda v: -v.born)


def is_freed(outputs: Sequence[Value]) -> bool:
    return any(v.freed for v in ancestors(outputs))


def is_changed(outputs: Sequence[Value]) -> bool:
    """Whether an operand was written to after an operation on the way had read it."""
    return any(x.memory.written > v.born for v in ancestors(outputs) for x in v.operands)


def derivatives(
    outputs: Sequence[Value], seeds: Sequence[Array], nudges: dict[Value, Array] | None = None
) -> tuple[dict[Value, Array], dict[Value, Array]]:
    """The gradient by everything the outputs depend on, and how it changes along the nudges.

    Returns
    -------
    first : dict
        Value → ∂L/∂value, where L = Σ ⟨seed, output⟩.
    second : dict
        Value → ∂/∂value of Σ ⟨nudge, ∂L/∂nudged⟩, which is a row of the symmetric Hessian.
    """
    order = ancestors(outputs)
    nudges = nudges or {}
    moved = {v: np.ravel(nudges.get(v, np.zeros(v.array.shape))) for v in order}
    for v in reversed(order):
        for x, matrix in zip(v.operands, v.first, strict=True):
            moved[v] = moved[v] + (matrix @ moved[x] if x in moved else 0.0)
    first = {v: np.zeros(v.array.size) for v in order}
    second = {v: np.zeros(v.array.size) for v in order}
    for v, seed in zip(outputs, seeds, strict=True):
        first[v] = first[v] + np.ravel(seed)
    for v in order:
        for x, matrix in zip(v.operands, v.first, strict=True):
            if x in first:
                first[x] = first[x] + matrix.T @ first[v]
                second[x] = second[x] + matrix.T @ second[v]
        for i, j, block in v.second:
            x, other = v.operands[i], v.operands[j]
            if x in first and other in first:
                second[x] = second[x] + np.einsum("oij,o,j->i", block, first[v], moved[other])
    return tuple({v: d[v].reshape(v.array.shape) for v in order} for d in (first, second))  # type: ignore[return-value]


def backward(output: Value, seed: Array) -> None:
    """Add gradients up in ``.grad``."""
    first, _ = derivatives([output], [seed])
    for v, g in first.items():
        if v.keeps_grad:
            v.grad = g if v.grad is None else v.grad + g


def free(outputs: Sequence[Value], targets: Sequence[Value] | None = None) -> None:
    """Free the graph that a pass went through: all of it, or only the paths to the targets."""
    for v in reversed(ancestors(outputs)):
        operands = [x for x in v.operands if x.requires_grad]
        leads = targets is None or any(x in targets or x.freed for x in operands)
        v.freed = v.freed or (leads and not v.is_leaf)
