"""Graphs on a device are copied to the host as a whole.

Most views run thousands of operations on small arrays, and look at numbers between them. The host would
wait for the device each time, and starting an operation there takes longer than running it here. So the
whole graph is copied in one transfer, and the views run on NumPy's arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from ..._trees import flatten, rebuild
from ...arrays import backend
from ...arrays.backend import device_of, is_away
from ...arrays.namespaces import Array
from ...engine.backpropagation import ancestors, dense, pull
from ...engine.recording import Node
from ...primitives import PRIMITIVES
from ...recurrence.scans import is_scan
from ...recurrence.unrolling import opening
from ..passes.gradients import Seed


class Hosted(NamedTuple):
    """A graph whose arrays are on the host.

    Attributes
    ----------
    seeds : list of (Node, array)
        The latest nodes, and their cotangents.
    twins : dict of Node to Node
        Node of the original graph → its copy here; empty if the original is on the host.
    opened : callable
        Node of the copy → its node where fused layers were opened.
    """

    seeds: list[Seed]
    twins: dict[Node, Node]
    opened: Callable[[Node], Node]

    def twin(self, node: Node) -> Node:
        """Return the node here of a node of the original graph."""
        return self.opened(self.twins.get(node, node))


def copied_to_host(seeds: Sequence[Seed]) -> Hosted:
    """Copy the graph behind some nodes to the host in one transfer, if it is on a device.

    Recurrences that run by their definition, without a loop of their own, are opened.
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
    """Copy nodes, with values on the host; fetch other arrays in the same transfer.

    ``given`` are the nodes of a graph, oldest first, with their values and inputs. A copy has the sequence
    number of its node and shares the history of its memory, so changes in place are noticed here too.
    """
    saved = [list(filter(backend.is_array, flatten(node.residuals))) for node, _, _ in given]
    arrays = {id(value): value for _, value, _ in given}  # a detached state shares its array
    hosts = iter(backend.fetch([*arrays.values(), *chain.from_iterable(saved), *others]))
    there = {key: next(hosts) for key in arrays}
    values = [there[id(value)] for _, value, _ in given]
    twins: dict[Any, Node] = {}
    for (node, _, inputs), value in zip(given, values, strict=True):
        twin = twins[node] = copy(node)
        twin.value, twin.inputs, twin.grad = value, tuple([twins.get(x, x) for x in inputs]), None
        if node.residuals is not None:
            leaves = flatten(node.residuals)
            twin.residuals = rebuild(
                node.residuals, (next(hosts) if backend.is_array(x) else x for x in leaves)
            )
        ours = PRIMITIVES.get(node.op) is node.primitive or is_scan(node)
        if node.primitive is not None and not ours:
            twin.primitive = replace(node.primitive, vjp=_there(node), leading_axes=True)
            if twin.residuals is not None:
                twin.residuals = None
    return twins, list(hosts)


def _there(node: Node) -> Callable[..., tuple[Array, ...]]:
    """Return a derivative rule that runs the node's own rule on the node's device.

    The function inside :func:`tinygrad182.remat`, and primitives that are not registered, may work on the
    arrays of their device only.
    """

    def vjp(xp: Any, g: Array, y: Array, *xs: Array, **params: Any) -> tuple[Array, ...]:
        inputs = node.inputs or ()
        g = backend.move(g, device_of(node.value))
        edges = pull(node, g, {x for x in inputs if isinstance(x, Node)})
        whole = [dense(x, c) for x, c in edges]
        shares: dict[Any, list[Array]] = {}
        for (x, _), c in zip(edges, backend.fetch(whole), strict=True):
            shares.setdefault(x, []).append(c)
        return tuple([shares[x].pop(0) if shares.get(x) else None for x in inputs])

    return vjp
