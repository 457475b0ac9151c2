"""Graphs on a device, brought to the host as a whole.

Most views are thousands of operations on small arrays, and look at numbers between them. The host would
wait for a device each time, and starting an operation there takes longer than the operation takes here. So
the whole graph comes over in one transfer, and the views run on NumPy's arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from .. import backend
from .._trees import flatten, rebuild
from ..backend import Array, device_of, is_away
from ..backpropagation import ancestors, dense, pull
from ..primitives import PRIMITIVES
from ..recording import Node
from ..recurrence import is_scan
from ..unrolling import opening
from .gradients import Seed


class Hosted(NamedTuple):
    """A graph whose arrays are on the host.

    Attributes
    ----------
    seeds : list of (Node, array)
        The latest nodes, and what arrives at them.
    twins : dict of Node to Node
        What stands for each node of the graph it was made from; empty if that was on the host already.
    opened : callable
        Gives what stands for a twin where recurrences were opened.
    """

    seeds: list[Seed]
    twins: dict[Node, Node]
    opened: Callable[[Node], Node]

    def twin(self, node: Node) -> Node:
        """Return what stands for a node here."""
        return self.opened(self.twins.get(node, node))


def on_host(seeds: Sequence[Seed]) -> Hosted:
    """Fetch the graph behind some nodes in one transfer; a graph on the host is its own twin.

    Recurrences that run by their definition are opened.
    """
    nodes = ancestors([node for node, _ in seeds], constants=True)
    arrays, twins = [g for _, g in seeds], dict[Node, Node]()
    if is_away([*arrays, *(node.value for node in nodes)]):
        twins, arrays = twins_of([(node, node.value, node.inputs or ()) for node in nodes], arrays)
    roots = [twins.get(node, node) for node, _ in seeds]
    opened = opening(roots, every=False)
    return Hosted([(opened(n), g) for n, g in zip(roots, arrays, strict=True)], twins, opened)


def twins_of(
    given: Sequence[tuple[Node, Array, tuple[Any, ...]]], others: Sequence[Array]
) -> tuple[dict[Node, Node], list[Array]]:
    """Make twins of nodes, around values on the host; bring other arrays with them in the same transfer.

    ``given`` are the nodes of a graph, oldest first, with their values and inputs. A twin has the sequence
    number and the memory's history of its node, so a write in between is noticed here too.
    """
    saved = [list(filter(backend.is_array, flatten(node.saved))) for node, _, _ in given]
    arrays = {id(value): value for _, value, _ in given}  # a detached state's array comes over once
    hosts = iter(backend.fetch([*arrays.values(), *chain.from_iterable(saved), *others]))
    there = {key: next(hosts) for key in arrays}
    values = [there[id(value)] for _, value, _ in given]
    twins: dict[Any, Node] = {}
    for (node, _, inputs), value in zip(given, values, strict=True):
        twin = twins[node] = copy(node)
        twin.value, twin.inputs, twin.grad = value, tuple([twins.get(x, x) for x in inputs]), None
        if node.saved is not None:
            leaves = flatten(node.saved)
            twin.saved = rebuild(
                node.saved, (next(hosts) if backend.is_array(x) else x for x in leaves)
            )
        ours = PRIMITIVES.get(node.op) is node.primitive or is_scan(node)
        if node.primitive is not None and not ours:
            twin.primitive = replace(node.primitive, vjp=_there(node), leading_axes=True)
            if twin.saved is not None:
                twin.saved = None
    return twins, list(hosts)


def _there(node: Node) -> Callable[..., tuple[Array, ...]]:
    """Return a node's derivative rule that runs where the node's arrays are.

    The function inside :func:`tinygrad182.remat`, and primitives that nobody registered, may know the
    arrays of their device only.
    """

    def vjp(xp: Any, g: Array, y: Array, *xs: Array, **params: Any) -> tuple[Array, ...]:
        inputs = node.inputs or ()
        g = backend.move(g, device_of(node.value))
        edges = pull(node, g, {x for x in inputs if isinstance(x, Node)})
        whole = [dense(x, c) for x, c in edges]
        sent: dict[Any, list[Array]] = {}
        for (x, _), c in zip(edges, backend.fetch(whole), strict=True):
            sent.setdefault(x, []).append(c)
        return tuple([sent[x].pop(0) if sent.get(x) else None for x in inputs])

    return vjp
