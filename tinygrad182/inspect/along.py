"""How the powers of two of a cotangent's rows go along to the inputs of an operation.

A rule is linear in the cotangent. Where it keeps some axes apart, every element of what it returns comes
from one place along them, and a power of two that belongs to a place can be left out before the rule and
put back after it. So an array whose rows lie far apart goes through as one array, each row at about 1.
Powers stand in an integer array with an axis for each of the cotangent's, of size 1 along those on which
they do not depend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..primitives.index import Slice
from ..recording import Node

Powers = list[Array | None]
"""By input: the powers of the cotangent it gets; None where rows of several powers are mixed."""


def carried(node: Node, powers: Array, wanted: Container[Any]) -> dict[Node, list[Array]]:
    """The powers of what goes over every edge to an input, of those in which no powers are mixed.

    An input that an operation takes several times has as many edges; they come in the order of its inputs.

    Parameters
    ----------
    node : Node
    powers : int array
        Those of its cotangent, which may have leading axes: every rule keeps these apart.
    wanted : container of Node
    """
    inputs = node.inputs or ()
    lead = powers.ndim - node.value.ndim
    if math.prod(powers.shape[lead:]) == 1:
        front = powers.shape[:lead]
        every: Powers = [
            powers if node.op == "index" else powers.reshape(front + (1,) * np.ndim(_value(x)))
            for x in inputs
        ]
    else:
        every = _rule(node)(node, powers, lead)
    found: dict[Node, list[Array]] = {}
    mixed = {x for x, p in zip(inputs, every, strict=True) if p is None}
    for x, p in zip(inputs, every, strict=True):
        if isinstance(x, Node) and x in wanted and x not in mixed:
            found.setdefault(x, []).append(p)
    return found


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Node) else x


def keeps_rows(s: Slice, node: Node) -> bool:
    """Whether a part of a node's cotangent is some of its rows, or pieces of some."""
    key, ndim = s.key, node.value.ndim
    return (
        not s.arrays
        and None not in key
        and (len(key) < ndim or (len(key) == ndim and isinstance(key[-1], slice)))
    )


def is_elementwise(node: Node) -> bool:
    """Whether every element of the result is computed from one of each input."""
    return node.primitive.jvp == "elementwise"  # type: ignore[union-attr]


def _rule(node: Node) -> Callable[[Node, Array, int], Powers]:
    return _aligned if is_elementwise(node) else _RULES.get(node.op, _mixed)


def _mixed(node: Node, powers: Array, lead: int) -> Powers:
    """An operation of which nothing is known."""
    return [None] * len(node.inputs or ())


def _aligned(node: Node, powers: Array, lead: int) -> Powers:
    """Axes belong together from the last on; along those an input was repeated, its cotangent is a sum."""
    return [_fitted(powers, lead, x) for x in node.inputs or ()]


def _fitted(powers: Array, lead: int, x: Any) -> Array | None:
    shape: tuple[int, ...] = x.value.shape if isinstance(x, Node) else ()
    own = powers.shape[lead:]
    extra = len(own) - len(shape)
    summed = extra < 0 or any(n > 1 for n in own[:extra])
    if summed or any(n > 1 == m for n, m in zip(own[extra:], shape, strict=True)):
        return None
    return powers.reshape(powers.shape[:lead] + own[extra:])


def _matmul(node: Node, powers: Array, lead: int) -> Powers:
    """The first operand gets sums over columns, the second over rows."""
    a, b = node.inputs or ()
    if min(a.value.ndim, b.value.ndim) < 2:  # type: ignore[union-attr]
        return [None, None]
    return [
        _fitted(powers, lead, x) if powers.shape[axis] == 1 else None
        for x, axis in ((a, -1), (b, -2))
    ]


def _reduced(node: Node, powers: Array, lead: int) -> Powers:
    """What was reduced gets the cotangent of the result at every place."""
    x, axis = node.inputs[0], node.params["axis"]  # type: ignore[index]
    own = iter(powers.shape[lead:])
    if node.params["keepdims"]:
        return [powers]
    shape = [1 if i - x.value.ndim in axis else next(own) for i in range(x.value.ndim)]  # type: ignore[union-attr]
    return [powers.reshape(powers.shape[:lead] + tuple(shape))]


def _moved(node: Node, powers: Array, lead: int) -> Powers:
    """Elements only change places, and their powers do so by the same rule."""
    xp = backend.namespace(powers)
    xs = [_value(x) for x in node.inputs or ()]
    everywhere = np.broadcast_to(powers, powers.shape[:lead] + node.value.shape)
    rules: Any = node.primitive.vjp  # type: ignore[union-attr]
    if callable(rules):
        found = rules(xp, everywhere, node.value, *xs, **node.params)
    else:
        found = [rules[0](xp, everywhere, node.value, *xs, **node.params)]
    return [None if p is None else _narrow(p) for p in found]


def _narrow(powers: Array) -> Array:
    """Powers with size 1 along the axes on which they do not depend."""
    for axis in reversed(range(powers.ndim)):
        first = powers.take([0], axis) if powers.shape[axis] else powers
        if (powers == first).all():
            powers = first
    return powers


def _indexed(node: Node, powers: Array, lead: int) -> Powers:
    """A part of the input: the powers are those of the part alone."""
    return [powers] + [None] * (len(node.inputs or ()) - 1)


def _contracted(node: Node, powers: Array, lead: int) -> Powers:
    """An operand keeps apart what has its letters; one that lacks a letter gets a sum over it."""
    terms, _, out = node.params["subscripts"].partition("->")
    sizes = dict(zip(out, powers.shape[lead:], strict=True))
    several = {letter for letter, n in sizes.items() if n > 1}
    found: Powers = []
    for term in terms.split(","):
        if several <= set(term) and len(set(term)) == len(term):
            order = sorted(out, key=term.find)
            axes = (*range(lead), *(lead + out.index(letter) for letter in order))
            shape = powers.shape[:lead] + tuple(sizes.get(letter, 1) for letter in term)
            found.append(powers.transpose(axes).reshape(shape))
        else:
            found.append(None)
    return found


def _summed_along(node: Node, powers: Array, lead: int) -> Powers:
    return [powers if powers.shape[node.params["axis"]] == 1 else None]


_RULES: dict[str, Callable[[Node, Array, int], Powers]] = {
    **dict.fromkeys(["broadcast_to", "astype", "to_device"], _aligned),
    **dict.fromkeys(["reshape", "permute_dims", "flip", "concat", "stack", "scatter_add"], _moved),
    **dict.fromkeys(["sum", "max", "min", "logsumexp"], _reduced),
    "cumulative_sum": _summed_along,
    "einsum": _contracted,
    "matmul": _matmul,
    "index": _indexed,
}
