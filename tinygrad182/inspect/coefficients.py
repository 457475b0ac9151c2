"""Polynomials on their way back through a loop of one's own: all coefficients of a cotangent in one array.

Every row (the elements along the last axis) of every coefficient has a power of two of its own, and the
arithmetic is in float64. So the elements of a cell state, whose gradients drift apart by a factor at every
step, stay one array. What is computed from a row may count as 0 where it is smaller than 2^-800 times the
row's largest element, as in the fused loops (:mod:`tinygrad182.kernels.powers`).
"""

from __future__ import annotations

from collections.abc import Callable, Container
from copy import copy
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backpropagation import Cotangents, ancestors
from ..kernels.powers import or_zero, sizes_of
from ..primitives.index import Slice
from ..recording import Node
from .along import sent
from .scaling import joined

Rows = tuple[Array, Array]
"""Coefficients (K, …), and the powers of their rows, which broadcast against them."""

_REACH = 2.0**200
"""Rows are rescaled where their largest element is beyond that, or below its inverse."""


def in_float64(root: Node) -> dict[Node, Node]:
    """What stands for each node of a graph on the host: the same in float64, as NumPy's arrays."""
    twins: dict[Any, Node] = {}
    for node in ancestors([root], constants=True):
        twin = twins[node] = copy(node)
        value = backend.namespace(node.value).to_numpy(node.value)
        twin.value = value.astype(np.float64) if value.dtype.kind == "f" else value
        twin.inputs = tuple([twins.get(x, x) for x in node.inputs or ()])
        twin.grad = None
    return twins


class Coefficients(Cotangents):
    """Cotangents as polynomials in λ, of which every hop is a factor.

    The last coefficient keeps all that is of a higher degree.

    Parameters
    ----------
    count : int
        How many coefficients there are.
    is_hop : callable
        ``is_hop(consumer, parent)``: whether an edge is one.

    Attributes
    ----------
    powers : array
        Those of the cotangent popped last.
    """

    def __init__(self, count: int, is_hop: Callable[[Node, Node], bool]) -> None:
        super().__init__()
        self.count = count
        self.is_hop = is_hop
        self.powers: Array = np.zeros((), np.int64)
        self._arrays: dict[Node, list[Rows]] = {}
        self._parts: dict[Node, list[tuple[Slice, Array]]] = {}

    def add(self, node: Node, cotangent: Any) -> None:
        """Add a seed: the first coefficient."""
        values = np.zeros((self.count, *node.value.shape))
        values[0] = cotangent
        self.put(node, values, np.zeros((1,) * values.ndim, np.int64))

    def put(self, node: Node, cotangent: Any, powers: Array) -> None:
        """Add coefficients whose rows have powers, or a part of them."""
        if type(cotangent) is Slice:
            self._parts.setdefault(node, []).append((cotangent, powers))
            return
        some = self._arrays.setdefault(node, [])
        for i, (values, p) in enumerate(some):
            if p is powers or np.array_equal(p, powers):
                some[i] = values + cotangent, p
                return
        some.append((cotangent, powers))

    def pop(self, node: Node) -> Any:
        """The complete cotangent without its powers of two, which are then in :attr:`powers`."""
        parts = self._parts.pop(node, [])
        arrived = self._arrays.pop(node, []) + (joined(node, parts) if parts else [])
        if not arrived:
            return None
        values, self.powers = _sum(arrived)
        return values

    def pull(self, node: Node, g: Array, wanted: Container[Any]) -> list[tuple[Node, Any]]:
        """Add what a node sends to its inputs: as it is where rows stay apart, else by powers."""
        for parent, cotangent, powers in sent(node, g, self.powers, wanted):
            self._send(node, parent, cotangent, powers)
        return []

    def _send(self, node: Node, parent: Node, cotangent: Any, powers: Array) -> None:
        """Add over one edge; what goes over a hop is of the next degree, and the last stays the last."""
        if not self.is_hop(node, parent):
            self.put(parent, cotangent, powers)
            return
        powers = np.broadcast_to(powers, (self.count, *powers.shape[1:]))
        value = cotangent.value if type(cotangent) is Slice else cotangent
        higher, last = np.zeros_like(value), np.zeros_like(value)
        higher[1:], last[-1] = value[:-1], value[-1]
        up = np.concatenate([powers[:1], powers[:-1]])
        for moved, p in ((higher, up), (last, powers)):
            if type(cotangent) is Slice:
                moved = Slice(cotangent.key, cotangent.arrays, moved, cotangent.lead)
            self.put(parent, moved, p)


def _sum(terms: list[Rows]) -> Rows:
    """The sum of coefficients; each row at the power of its largest part where one is far from 1."""
    values, powers = terms[0]
    if len(terms) == 1:
        size = np.abs(values).max(axis=-1 if values.ndim > 1 else (), initial=0.0)
        size = size[size > 0]
        if not size.size or 1 / _REACH < size.min() <= size.max() < _REACH:
            return values, powers
    tops = np.maximum.reduce([_tops(g, p) for g, p in terms])
    tops = or_zero(np, tops)
    return sum(shifted(g, p - tops) for g, p in terms), tops


def at_coefficient_powers(values: Array, powers: Array) -> Rows:
    """The coefficients with a power (K,) for each, at which its largest element is about 1."""
    top = or_zero(np, _tops(values, powers).reshape(len(values), -1).max(axis=1))
    return shifted(values, powers - top.reshape(-1, *(1,) * (values.ndim - 1))), top


def _tops(values: Array, powers: Array) -> Array:
    """The power of two that each row's largest element is about; each element's, if these have powers."""
    sizes = np.abs(values)
    if values.ndim > 1 and powers.shape[-1] == 1:
        sizes = sizes.max(axis=-1, keepdims=True, initial=0.0)
    return sizes_of(np, sizes, powers)


def shifted(values: Array, powers: Array) -> Array:
    """Each row times 2 to its power."""
    return np.ldexp(values, np.clip(powers, -4096, 4096).astype(np.int32))
