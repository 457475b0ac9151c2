"""The cotangents that an operation sends to its inputs, where rows have powers of two of their own.

A derivative rule is linear in the cotangent. If it does not mix places along some axes, a power of two that
belongs to a place can be left out before the rule and put back after it. So an array whose rows differ much
in size goes through as one array, with each row at about 1. The powers are an integer array with as many
axes as the cotangent; it has size 1 along the axes on which the powers do not depend.

If the rule mixes rows, it runs as often as needed. Everything that arrives at one input is then added up in
one array whose elements have powers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import dense, pull
from ...engine.recording import Node
from ...kernels.powers import largest_exponent
from .scaling import Elements, Power, as_bands, cumulated


class InputCotangent(NamedTuple):
    """The cotangent that an input gets over one edge, and the powers of two of its rows."""

    node: Node
    cotangent: Any
    powers: Power


def input_cotangents(
    node: Node,
    g: Array,
    power: Power,
    wanted: Container[Any],
    in_own_type: Callable[[Node], bool] = lambda node: False,
) -> Iterator[InputCotangent]:
    """Yield the cotangents that a node sends to its wanted inputs.

    Parameters
    ----------
    node : Node
    g : array
        Its cotangent, which may have leading axes.
    power : int or int array
        The power of all its rows, or one for each.
    wanted : container of Node
    in_own_type : callable
        Whether an input's gradient may be 0 or infinite where its dtype cannot hold it.
    """
    powers = np.full((1,) * g.ndim, power) if isinstance(power, int) else power
    along = carried(node, powers, wanted)
    edges = {x: iter(some) for x, some in along.items()}
    for x, cotangent in pull(node, g, along):
        yield InputCotangent(x, cotangent, next(edges[x]))
    mixed = {x for x in node.inputs or () if isinstance(x, Node) and x in wanted and x not in along}
    if not mixed:
        return
    if node.op == "cumulative_sum":
        (x,) = mixed
        yield InputCotangent(x, *cumulated(g, powers, node.params["axis"]))
    elif _takes_one_call(node, g) or node.op == "broadcast_to":
        yield from _summed(node, g, powers, mixed)
    else:
        ends = {x for x in mixed if in_own_type(x)}
        limit = 4 * largest_exponent(g.dtype)  # beyond that, their dtype shows no difference
        yield from _in_bands(node, g, powers, ends, limit)
        yield from _in_bands(node, g, powers, mixed - ends, None)


def _takes_one_call(node: Node, g: Array) -> bool:
    """Whether one call of a rule gives the shares of all elements of one or several cotangents."""
    primitive: Any = node.primitive
    by_elements = is_elementwise(node) and not callable(primitive.vjp)
    return by_elements and (primitive.leading_axes or g.ndim == node.value.ndim)


def _summed(node: Node, g: Array, powers: Array, mixed: set[Node]) -> Iterator[InputCotangent]:
    """Yield sums over the axes along which inputs were repeated."""
    xp, lead = backend.namespace(g), g.ndim - node.value.ndim
    inputs = node.inputs or ()
    xs = [x.value if isinstance(x, Node) else x for x in inputs]
    rules: Any = node.primitive.vjp  # type: ignore[union-attr]
    sums: dict[Node, Elements] = {}
    for i, x in enumerate(inputs):
        if isinstance(x, Node) and x in mixed:
            x.check_unchanged(node)
            total = sums.setdefault(x, Elements(x.value, (*g.shape[:lead], *x.value.shape)))
            rest = (1,) * (node.value.ndim - x.value.ndim)
            places = total.places.reshape(*g.shape[:lead], *rest, *x.value.shape)
            cotangent = np.broadcast_to(rules[i](xp, g, node.value, *xs, **node.params), g.shape)
            total.add(cotangent, powers, places)
    for x, total in sums.items():
        yield InputCotangent(x, *total.band())


def _in_bands(
    node: Node, g: Array, powers: Array, mixed: set[Node], limit: int | None
) -> Iterator[InputCotangent]:
    """Yield the cotangents of any other operation; its rule runs once for each power."""
    lead = g.shape[: g.ndim - node.value.ndim]
    sums = {x: Elements(x.value, (*lead, *x.value.shape)) for x in mixed}
    for array, power in as_bands(g, powers, limit) if mixed else []:
        for x, cotangent in pull(node, array, mixed):
            whole = dense(x, cotangent)
            sums[x].add(whole, power, sums[x].places)
    for x, total in sums.items():
        yield InputCotangent(x, *total.band())


# --- where rows stay apart ----------------------------------------------------------------------

Powers = list[Array | None]
"""For each input, the powers of the cotangent it gets; None if rows of several powers are mixed."""


def carried(node: Node, powers: Array, wanted: Container[Any]) -> dict[Node, list[Array]]:
    """The powers of the cotangents by input, for the inputs that get no mixture of powers.

    An input that an operation takes several times has several edges, in the order of the inputs.

    Parameters
    ----------
    node : Node
    powers : int array
        The powers of its cotangent, which may have leading axes: no rule mixes places along these.
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


def is_elementwise(node: Node) -> bool:
    """Whether every element of the result is computed from one of each input."""
    return node.primitive.jvp == "elementwise"  # type: ignore[union-attr]


def _rule(node: Node) -> Callable[[Node, Array, int], Powers]:
    return _aligned if is_elementwise(node) else _RULES.get(node.op, _mixed)


def _mixed(node: Node, powers: Array, lead: int) -> Powers:
    """Any other operation may mix all rows."""
    return [None] * len(node.inputs or ())


def _aligned(node: Node, powers: Array, lead: int) -> Powers:
    """Axes correspond from the last one on. Where an input was repeated, its cotangent is a sum."""
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
    """The first operand gets sums over columns, the second one sums over rows."""
    a, b = node.inputs or ()
    if min(a.value.ndim, b.value.ndim) < 2:  # type: ignore[union-attr]
        return [None, None]
    return [
        _fitted(powers, lead, x) if powers.shape[axis] == 1 else None
        for x, axis in ((a, -1), (b, -2))
    ]


def _reduced(node: Node, powers: Array, lead: int) -> Powers:
    """A reduction's operand gets the cotangent of the result at every place."""
    x, axis = node.inputs[0], node.params["axis"]  # type: ignore[index]
    own = iter(powers.shape[lead:])
    if node.params["keepdims"]:
        return [powers]
    shape = [1 if i - x.value.ndim in axis else next(own) for i in range(x.value.ndim)]  # type: ignore[union-attr]
    return [powers.reshape(powers.shape[:lead] + tuple(shape))]


def _moved(node: Node, powers: Array, lead: int) -> Powers:
    """Elements only move, and their powers move by the same rule."""
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
    """The powers are those of the part that was taken."""
    return [powers] + [None] * (len(node.inputs or ()) - 1)


def _contracted(node: Node, powers: Array, lead: int) -> Powers:
    """An operand that lacks a letter of the result gets a sum over it."""
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
    **dict.fromkeys(["sum", "mean", "max", "min", "logsumexp"], _reduced),
    "cumulative_sum": _summed_along,
    "einsum": _contracted,
    "matmul": _matmul,
    "index": _indexed,
}
