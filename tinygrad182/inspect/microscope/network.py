"""The rolled network: modules and recurrences as boxes, and the gradients between them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from ...engine.backpropagation import ancestors
from ...engine.recording import Leaf, Node
from ...primitives import PRIMITIVES
from ...recurrence.scans import by_definition
from ...recurrence.unrolling import opening
from ..passes.gradients import Gradients, Seed, gradients_inside
from ..passes.scaling import log10_norm, log10_together
from .blocks import Key, blocks_of, has_gradient
from .titles import title_of

Crossing = tuple[Key, Key]
"""Source and target of an arrow."""


@dataclass(frozen=True, slots=True)
class Block:
    """One box of the rolled network.

    Attributes
    ----------
    path : str
        The path of the module, or of the recurrence as in :func:`gradient_flow`; ``""`` outside any module.
    title : str
        Its name for readers: ``"LSTM 8 → 64"``, ``"Linear 64 → 1"``, ``"loss"``, ``"input"``.
    kind : {"input", "recurrence", "module", "loss"}
    states : tuple of str
        The names of the states that the loop of a recurrence carries.
    steps : int
        The steps of a recurrence, or its depth; 1 for others.
    log10_grad_norm : float
        The gradient that leaves the box, towards what it was computed from: over all arrows that lead
        into the box. Where none of them carries a gradient (the input; an embedding, which reads whole
        numbers), the gradient that arrives; of a lone box, the gradient by its parameters and inputs.
    calls : int
        How often a module was called.
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
    calls: int = 1
    members: tuple[Node, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow between two boxes, by their positions in :attr:`Network.blocks`.

    Attributes
    ----------
    source, target : int
        Values go from ``source`` to ``target``; the gradient goes the other way.
    log10_norm : float
        The norm of the gradient that goes back over it; −∞ without one, as for whole numbers.
    nodes : tuple of Node
        The nodes of the source that operations of the target read, oldest first.
    """

    source: int
    target: int
    log10_norm: float
    nodes: tuple[Node, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Network:
    """Boxes in the order their first operation was recorded, and the arrows between them.

    The input is first and the loss last.
    """

    blocks: tuple[Block, ...]
    links: tuple[Link, ...]


def network_of(nodes: list[Node], seeds: Sequence[Seed]) -> Network:
    """Roll a graph up: modules and recurrences as boxes, and what goes from one to another as arrows.

    A recurrence is one box, whether it was run as one operation or step by step; so is your own loop whose
    state is marked with its time step, and the depth of a residual network. See
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
    rolled = Rolled(nodes, seeds)
    return rolled.network(rolled.gradients())


class Rolled:
    """A graph sorted into boxes, and the backward pass that gives the gradients over its arrows.

    Parameters
    ----------
    nodes, seeds
        As for :func:`network_of`.

    Attributes
    ----------
    blocks : Blocks
    """

    def __init__(self, nodes: list[Node], seeds: Sequence[Seed]) -> None:
        self.blocks = blocks_of(nodes)
        self._seeds = list(seeds)
        self._twins: dict[Node, Node] = {}
        self._ports: dict[tuple[Node, Key], Node] = {}
        if shared := self._shared():
            self._separate(nodes, shared)
            self._seeds = [(self._twins.get(node, node), g) for node, g in seeds]

    def _shared(self) -> set[Node]:
        """Values that go over arrows to more than one box.

        Recurrences that will be opened are among them: their states are then several nodes.
        """
        crossing = {x for some in self.blocks.crossings.values() for x in some}
        several = {x for x in crossing if len(self.blocks.uses[x]) > 1 or by_definition(x)}
        return {x for x in several if has_gradient(x)}

    def _separate(self, nodes: list[Node], shared: set[Node]) -> None:
        """Give each box a stand-in for a node that it reads together with others.

        The gradient by the stand-in is what comes back from that box alone. What lies behind is recorded
        again, around the same values.
        """
        for node in nodes:
            key, inputs = self.blocks.key[node], node.inputs or ()
            read = tuple([self._read(x, key, shared) if isinstance(x, Node) else x for x in inputs])
            if any(x is not y for x, y in zip(read, inputs, strict=True)):
                self._twins[node] = node.again(read)

    def _read(self, x: Node, key: Key, shared: set[Node]) -> Node:
        """The node that operations of a box read in the place of another."""
        source = self._twins.get(x, x)
        if x not in shared or self.blocks.key[x] == key:
            return source
        if (x, key) not in self._ports:
            same = Node(PRIMITIVES["multiply"], (source, 1.0), x.value, {}, x.scope)
            self._ports[x, key] = same
        return self._ports[x, key]

    def _port(self, x: Node, target: Key) -> Node:
        """The node by which the gradient is what a box sends back to what it reads."""
        return self._ports.get((x, target)) or self._twins.get(x, x)

    def gradients(self, others: Set[Node] = frozenset()) -> Gradients:
        """Make one backward pass for all arrows, and for other nodes whose gradients are wanted."""
        wanted = [(x, c[1]) for c, some in self.blocks.crossings.items() for x in some]
        ports = {self._port(x, key) for x, key in wanted if has_gradient(x)}
        if len(self.blocks.members) == 1:
            ports |= set(self._leaves())
        targets = ports | {self._twins.get(node, node) for node in others}
        seeds, twins = self._seeds, dict(self._twins)
        nodes = ancestors([node for node, _ in seeds], constants=True)
        if any(map(by_definition, nodes)):  # these have no loops of their own, which the pass needs
            opened = opening([node for node, _ in seeds], every=False)
            twins = {node: opened(twins.get(node, node)) for node in [*targets, *twins]}
            seeds = [(opened(node), g) for node, g in seeds]
            targets = {opened(node) for node in targets}
            nodes = ancestors([node for node, _ in seeds], constants=True)
        return gradients_inside(seeds, targets, nodes=nodes)._replace(twins=twins)

    def _leaves(self) -> list[Node]:
        (members,) = self.blocks.members.values()
        return [x for x in members if isinstance(x, Leaf) and has_gradient(x)]

    def network(self, found: Gradients) -> Network:
        """The boxes and arrows, with the gradients that :meth:`gradients` found."""
        blocks = self.blocks
        logs = {
            c: log10_together(
                [log10_norm(found.of(self._port(x, c[1]))) for x in some if has_gradient(x)]
            )
            for c, some in blocks.crossings.items()
        }
        place = {key: i for i, key in enumerate(blocks.members)}
        arrows = sorted(blocks.crossings, key=lambda c: (place[c[0]], place[c[1]]))
        links = [
            Link(place[c[0]], place[c[1]], logs[c], tuple(blocks.crossings[c])) for c in arrows
        ]
        boxes = [self._box(key, logs, found) for key in blocks.members]
        return Network(tuple(boxes), tuple(links))

    def _box(self, key: Key, logs: dict[Crossing, float], found: Gradients) -> Block:
        stack = self.blocks.stacks.get(key, {})
        steps = max((len(r.times()) for r in stack.values()), default=1)
        left = log10_together(self._leaving(key, logs, found))
        path, title = str(key[1]), title_of(self.blocks, key)
        members = tuple(self.blocks.members[key])
        made = {n.scope.call for n in members if n.scope.module == path and not isinstance(n, Leaf)}
        calls = 1 if stack or not path else max(1, len(made))
        return Block(path, title, str(key[0]), tuple(stack), steps, left, calls, members)

    def _leaving(self, key: Key, logs: dict[Crossing, float], found: Gradients) -> list[float]:
        """The gradients over all arrows into a box that carry one, or else over those out of it."""
        if len(self.blocks.members) == 1:
            return [log10_norm(found.of(x)) for x in self._leaves()]
        carrying = [c for c, some in self.blocks.crossings.items() if any(map(has_gradient, some))]
        inwards = [logs[c] for c in carrying if c[1] == key]
        return inwards or [logs[c] for c in carrying if c[0] == key]
