"""The rolled network: modules and recurrences as boxes, and the gradients that flow between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ... import backend
from ...backpropagation import ancestors
from ...primitives import PRIMITIVES
from ...recording import Leaf, Node
from ...recurrence import by_definition
from ...unrolling import opening
from ..gradients import Seed, gradients_inside
from ..scaling import Band
from .blocks import INPUT, LOSS, Blocks, Key, blocks_of, has_gradient
from .titles import title_of

Crossing = tuple[Key, Key]
"""Source and target of an arrow."""


@dataclass(frozen=True, slots=True)
class Block:
    """One box of the rolled network.

    Attributes
    ----------
    path : str
        Of the module, or of the recurrence as in :func:`gradient_flow`; ``""`` for what lies outside
        any module.
    title : str
        What a reader calls it: ``"LSTM 8 → 64"``, ``"Linear 64 → 1"``, ``"loss"``, ``"input"``.
    kind : {"input", "recurrence", "module", "loss"}
    states : tuple of str
        Of a recurrence: the names of the states that its loop carries.
    steps : int
        Of a recurrence: T (or the depth); 1 for others.
    log10_grad_norm : float
        The gradient that leaves the box, towards what it was computed from: over all arrows that lead
        into the box. Where none of them carries a gradient (the input; an embedding, which reads whole
        numbers), the gradient that arrives.
    members : tuple of Node
        The nodes of the graph that belong to it, oldest first: operations, with the parameters and
        constants that they read first.
    """

    path: str
    title: str
    kind: str
    states: tuple[str, ...]
    steps: int
    log10_grad_norm: float
    members: tuple[Node, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow between two boxes, by their positions in :attr:`Network.blocks`.

    Attributes
    ----------
    source, target : int
        What is computed goes from ``source`` to ``target``; the gradient goes the other way.
    log10_norm : float
        Of the gradient that goes back over it; −∞ where there is none, as to whole numbers.
    nodes : tuple of Node
        What goes over it: nodes of the source that operations of the target read, oldest first.
    """

    source: int
    target: int
    log10_norm: float
    nodes: tuple[Node, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Network:
    """Boxes in the order their first operation was recorded, and the arrows between them.

    The input stands first and the loss last.
    """

    blocks: tuple[Block, ...]
    links: tuple[Link, ...]


def network_of(nodes: list[Node], seeds: Sequence[Seed]) -> Network:
    """Roll a graph up: modules and recurrences as boxes, and what goes from one to another as arrows.

    A recurrence is one box, whether it was run as one operation or step by step, and so is a state of
    one's own loop that is marked with its time step, or the depth of a residual network. See
    :func:`blocks_of` for what belongs to which box.

    One backward pass gives the gradient over every arrow. Its cotangents carry powers of two, so a norm of
    1e-400 is a number. A value that several boxes read has an arrow to each, with that box's share of
    the gradient.

    Parameters
    ----------
    nodes : list of Node
        The whole graph, oldest first, with its constants.
    seeds : sequence of (Node, array)
        Where the backward pass begins.

    Raises
    ------
    FreedGraphError
        An earlier backward pass freed the graph.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn, head = tg.nn.RNN(1, 8, rng=0), tg.nn.Linear(8, 1, rng=1)
    >>> loss = head(rnn(tg.ones((20, 1, 1)))[0][-1]).sum()
    >>> graph = tg.inspect.trace(loss)
    >>> network = network_of(graph._order, graph._seeds)
    >>> [(block.title, block.steps) for block in network.blocks]
    [('input', 1), ('RNN 1 → 8', 20), ('Linear 8 → 1', 1), ('loss', 1)]
    >>> [(link.source, link.target) for link in network.links]
    [(0, 1), (1, 2), (2, 3)]
    """
    blocks = blocks_of(nodes)
    logs = _gradients(blocks, nodes, seeds)
    place = {key: i for i, key in enumerate(blocks.members)}
    arrows = sorted(blocks.crossings, key=lambda c: (place[c[0]], place[c[1]]))
    links = [Link(place[c[0]], place[c[1]], logs[c], tuple(blocks.crossings[c])) for c in arrows]
    boxes = []
    for key, members in blocks.members.items():
        stack = blocks.stacks.get(key, {})
        steps = max((len(r.times()) for r in stack.values()), default=1)
        title, path, kind = title_of(blocks, key), _path(key, members), _kind(key)
        left = _leaving(blocks, key, logs)
        boxes.append(Block(path, title, kind, tuple(stack), steps, left, tuple(members)))
    return Network(tuple(boxes), tuple(links))


def _kind(key: Key) -> str:
    return str(key[0])


def _path(key: Key, members: list[Node]) -> str:
    return "" if key in (INPUT, LOSS) else str(key[1])


def _leaving(blocks: Blocks, key: Key, logs: dict[Crossing, float]) -> float:
    """The gradient over all arrows into a box that carry one, or else over those out of it."""
    carrying = [c for c, nodes in blocks.crossings.items() if any(map(has_gradient, nodes))]
    inwards = [logs[c] for c in carrying if c[1] == key]
    return together(inwards or [logs[c] for c in carrying if c[0] == key])


def together(logs: Sequence[float]) -> float:
    """The logarithm of the norm of several arrays side by side, from those of their norms.

    >>> round(10 ** together([math.log10(3), math.log10(4)]), 9)
    5.0
    >>> together([-400.0, -math.inf])
    -400.0
    """
    top = max(logs, default=-math.inf)
    if any(math.isnan(log) for log in logs):
        return math.nan
    if not math.isfinite(top):
        return top
    return top + 0.5 * math.log10(sum(10 ** (2 * (log - top)) for log in logs))


# --- gradients ----------------------------------------------------------------------------------


def _gradients(blocks: Blocks, nodes: list[Node], seeds: Sequence[Seed]) -> dict[Crossing, float]:
    """The logarithm of the gradient's norm over every arrow."""
    twin, seeds, nodes = _opened(nodes, seeds)
    ports, seeds, nodes = _apart(blocks, twin, seeds, nodes)
    wanted = {
        crossing: [ports[x, crossing[1]] for x in some if has_gradient(x)]
        for crossing, some in blocks.crossings.items()
    }
    targets = {port for some in wanted.values() for port in some}
    found = gradients_inside(seeds, targets, nodes=nodes) if targets else None
    return {
        crossing: together([_log10_norm(found.of(port)) for port in some if found is not None])
        for crossing, some in wanted.items()
    }


def _opened(nodes: list[Node], seeds: Sequence[Seed]) -> tuple[Any, list[Seed], list[Node]]:
    """The graph with recurrences that have no loops of their own step by step, which the pass needs."""
    if not any(map(by_definition, nodes)):
        return (lambda node: node), list(seeds), nodes
    twin = opening([node for node, _ in seeds], every=False)
    seeds = [(twin(node), g) for node, g in seeds]
    return twin, seeds, ancestors([node for node, _ in seeds], constants=True)


def _apart(
    blocks: Blocks, twin: Any, seeds: list[Seed], nodes: list[Node]
) -> tuple[dict[tuple[Node, Key], Node], list[Seed], list[Node]]:
    """Give each box that reads a node together with others a stand-in of its own for it.

    The gradient by the stand-in is what comes back from that box alone. Returns the node or stand-in for
    every node that goes over an arrow and the box that reads it, and the graph with stand-ins.
    """
    ports: dict[tuple[Node, Key], Node] = {}
    shared: dict[Node, list[Node]] = {}
    for (_, target), some in blocks.crossings.items():
        for x in some:
            ports[x, target] = twin(x)
            if len(blocks.uses[x]) > 1:
                shared.setdefault(x, [])
    return ports, seeds, nodes


def _log10_norm(bands: list[Band]) -> float:
    """The logarithm of the norm of a gradient that is given as bands."""
    logs = []
    for array, power in bands:
        wide = backend.fetch([array])[0].astype("float64")
        if isinstance(power, int):
            logs.append(_log10(backend.norm(wide)) + power * math.log10(2))
        else:
            powers = np.broadcast_to(backend.fetch([power])[0], wide.shape)
            top = int(powers[wide != 0].max(initial=powers.min()))
            with np.errstate(under="ignore"):
                logs.append(
                    _log10(backend.norm(np.ldexp(wide, powers - top))) + top * math.log10(2)
                )
    return together(logs)


def _log10(x: float) -> float:
    return math.log10(x) if x > 0 or math.isnan(x) else -math.inf
