"""What an operation sends back of a cotangent whose rows have powers of two of their own.

Where rows stay apart, an array goes on as it is. Where they meet, the operation's rule runs as often as
it must, and all that arrives at one input is added up in one array whose elements have powers.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backpropagation import gather, pull
from ..kernels.powers import largest_exponent
from ..primitives.index import Slice
from ..recording import Node
from .along import carried, is_elementwise
from .elements import Elements, cumulated
from .rows import as_bands
from .scaling import Power

Sent = tuple[Node, Any, Power]
"""An input, what it gets over one edge, and the powers of that."""


def sent(
    node: Node,
    g: Array,
    power: Power,
    wanted: Container[Any],
    in_own_type: Callable[[Node], bool] = lambda node: False,
) -> Iterator[Sent]:
    """Yield what a node sends to those of its inputs that are wanted.

    Parameters
    ----------
    node : Node
    g : array
        Its cotangent, which may have leading axes.
    power : int or int array
        Those of its rows.
    wanted : container of Node
    in_own_type : callable
        Whether the gradient of an input need be no truer than its type.
    """
    powers = np.full((1,) * g.ndim, power) if isinstance(power, int) else power
    along = carried(node, powers, wanted)
    edges = {x: iter(some) for x, some in along.items()}
    for x, cotangent in pull(node, g, along):
        yield x, cotangent, next(edges[x])
    mixed = {x for x in node.inputs or () if isinstance(x, Node) and x in wanted and x not in along}
    if not mixed:
        return
    if node.op == "cumulative_sum":
        (x,) = mixed
        yield x, *cumulated(g, powers, node.params["axis"])
    elif is_elementwise(node) or node.op == "broadcast_to":
        yield from _summed(node, g, powers, mixed)
    else:
        ends = {x for x in mixed if in_own_type(x)}
        limit = 4 * largest_exponent(g.dtype)  # further out, nothing shows in their type
        yield from _in_bands(node, g, powers, ends, limit)
        yield from _in_bands(node, g, powers, mixed - ends, None)


def _summed(node: Node, g: Array, powers: Array, mixed: set[Node]) -> Iterator[Sent]:
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
        yield x, *total.band()


def _in_bands(
    node: Node, g: Array, powers: Array, mixed: set[Node], limit: int | None
) -> Iterator[Sent]:
    """Yield what an operation of which nothing is known sends; its rule runs once for each power."""
    lead = g.shape[: g.ndim - node.value.ndim]
    sums = {x: Elements(x.value, (*lead, *x.value.shape)) for x in mixed}
    for array, power in as_bands(g, powers, limit) if mixed else []:
        for x, cotangent in pull(node, array, mixed):
            whole = gather(x, [cotangent]) if type(cotangent) is Slice else cotangent
            sums[x].add(whole, power, sums[x].places)
    for x, total in sums.items():
        yield x, *total.band()
