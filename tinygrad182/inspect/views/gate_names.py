"""The names of gates: which operations of a recorded step are the gates of its cell.

A cell names the blocks of H columns of its sums. The gate of a block is the value of the nonlinearity
that is applied to the block. The operations of a recorded step are read as the instructions of a program,
with one register for each block of H columns; :mod:`..intervening` finds the gates of such a program.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from ...arrays.namespaces import Array
from ...engine.recording import Leaf, Node
from ...kernels.program import Listing, Register, Tape
from ...recurrence.intervening import gates_of

Recorded = tuple[Array, tuple[Any, ...]]
"""A node's value and inputs."""

Blocks = tuple[Any, ...]
"""The registers of a value's blocks of H columns; one register if all columns have one value."""

SAME = frozenset(("astype", "broadcast_to", "copy"))
"""Operations that do not change the numbers of a block."""


def gate_names(
    nodes: Iterable[Node],
    recorded: Callable[[Node], Recorded] = operator.attrgetter("value", "inputs"),
) -> dict[Node, str]:
    """Name the nodes of recorded steps that are gates: i, f, g and o of an LSTM, r, z and n of a GRU.

    Parameters
    ----------
    nodes : iterable of Node
        The nodes of any steps, layers and cells, and others; an operation comes after its inputs.
    recorded : callable
        Returns a node's value and inputs, also if the node was freed since.

    Returns
    -------
    dict of Node to str
        A gate that is not the value of a single node is left out.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> lstm = tg.nn.LSTM(1, 4, rng=0)
    >>> graph = tg.inspect.trace(lstm(tg.ones((100, 2, 1)))[0].sum())
    >>> graph.select(name="f", time=7)
    [<sigmoid 'f' (2, 4), in lstm.l0 at t = 7>]
    """
    steps: dict[Any, list[Node]] = {}
    # nodes that their own step reads, and nodes that others read
    inner, outer = set[Node](), set[Node]()
    for node in nodes:
        step = _step_of(node)
        for x in recorded(node)[1]:
            if isinstance(x, Node) and _step_of(x) is not None:
                (inner if step == _step_of(x) else outer).add(x)
        if step is not None:
            steps.setdefault(step, []).append(node)
    names: dict[Node, str] = {}
    known: dict[Any, list[int | None]] = {}
    for each in steps.values():
        ends = [n for n in each if n.marks or n in outer or n not in inner]
        names |= _Step(each, ends, recorded).names(known)
    return names


def _step_of(node: Node) -> Any:
    """The step of a recurrence to which an operation belongs; None for any other node."""
    return None if node.primitive is None else node.scope.step


class _Step:
    """The nodes of one step as the registers of a program.

    Parameters
    ----------
    nodes, ends : list of Node
        All nodes, and those that the step returns.
    recorded : callable
        As in :func:`gate_names`.
    """

    def __init__(
        self, nodes: list[Node], ends: list[Node], recorded: Callable[[Node], Recorded]
    ) -> None:
        self.nodes = nodes
        self.recorded = recorded
        self.scope = nodes[0].scope
        recurrence = self.scope.step.recurrence  # type: ignore[union-attr]
        self.gates: tuple[str, ...] = recurrence.gates
        self.parts: tuple[str, ...] = recurrence.parts
        shape = recorded(ends[0])[0].shape
        self.ndim, self.units = len(shape), shape[-1]
        self.tape, self.given = Tape(), 0
        self.sums: list[set[Register]] = [set() for _ in self.gates]
        self.blocks: dict[Node, Blocks] = {}
        for node in nodes:
            self.blocks[node] = self._computed(node)
        outputs = [r for end in ends for r in self.blocks[end]]
        self.listing = Listing({("after", i): r for i, r in enumerate(outputs)})

    def names(self, known: dict[Any, list[int | None]]) -> dict[Node, str]:
        """The gates among the nodes; ``known`` has those of steps with equal operations."""
        key = self._text()
        if key not in known:
            found = gates_of(self.listing, self.sums)
            known[key] = [None if r is None else r.order for r in found]
        gates = dict(zip(known[key], self.gates, strict=True))
        return {
            node: gates[blocks[0].order]
            for node, blocks in self.blocks.items()
            if len(blocks) == 1
            and blocks[0].order in gates
            and gates[blocks[0].order] not in self.parts  # a state keeps its own name
            # not a node that only hands the gate on, such as an index into several gates
            and not any(self.blocks.get(x) == blocks for x in self.recorded(node)[1])
        }

    def _text(self) -> Any:
        """A description of the step, equal for steps with the same gates."""
        order = operator.attrgetter("order")
        lines = [
            (r.op, *[a.order if isinstance(a, Register) else repr(a) for a in r.args])
            for r in self.listing.instructions
        ]
        sums = tuple(tuple(sorted(map(order, block))) for block in self.sums)
        ends = tuple(map(order, self.listing.outputs.values()))
        return self.gates, tuple(lines), sums, ends

    # --- registers ---------------------------------------------------------------------------------

    def _blocks_of(self, x: Any) -> Blocks:
        """The blocks of an input: a node of the step, an operand from outside, or a number."""
        if not isinstance(x, Node):
            return (x,)
        if x not in self.blocks:
            self.blocks[x] = self._given(x)
        return self.blocks[x]

    def _given(self, x: Node) -> Blocks:
        """Registers for an operand from outside the step: a sum, a weight, or anything else."""
        value, at = self.recorded(x)[0], self.scope
        blocks = self._inputs(self._width(value), _is_shared(x, value.ndim < self.ndim))
        # the layer itself computed the sums before the step, with H columns for each gate
        made_here = x.primitive is not None and (x.scope.module, x.scope.call) == (
            at.module,
            at.call,
        )
        is_state = _step_of(x) is not None or bool(x.marks)
        if made_here and not is_state and value.ndim == self.ndim and len(blocks) == len(self.sums):
            for block, r in zip(self.sums, blocks, strict=True):
                block.add(r)
        return blocks

    def _inputs(self, width: int, is_weight: bool) -> Blocks:
        kind = "weight" if is_weight else "given"
        self.given += width
        return tuple([self.tape.input(kind, self.given - k) for k in range(width)])

    def _width(self, value: Array) -> int:
        """The number of blocks of H columns in a value; at least 1."""
        return max(1, value.shape[-1] // self.units) if value.ndim else 1

    def _computed(self, node: Node) -> Blocks:
        """Registers for a node of the step."""
        value, inputs = self.recorded(node)
        given, op = [self._blocks_of(x) for x in inputs], node.op
        if op in SAME and self._width(value) == len(given[0]):
            return given[0]
        if op == "concat" and node.params["axis"] in (-1, value.ndim - 1):
            return tuple([r for blocks in given for r in blocks])
        if op == "index" and (found := self._part(node, given[0])):
            return found
        width = max(map(len, given))
        if node.primitive.jvp == "elementwise" and {len(b) for b in given} <= {1, width}:  # type: ignore[union-attr]
            columns = [blocks * (width // len(blocks)) for blocks in given]
            return tuple([self.tape.make(op, *column) for column in zip(*columns, strict=True)])
        if value.ndim and value.shape[-1] == 1 < self.units:
            return self._inputs(1, is_weight=True)  # one value for all columns, as a mean
        every = [r for blocks in given for r in blocks]
        return tuple([self.tape.make(f"{op} {k}", *every) for k in range(self._width(value))])

    def _part(self, node: Node, whole: Blocks) -> Blocks:
        """The blocks that an index takes; empty if it takes anything but whole blocks."""
        *others, last = node.params["key"]
        x = self.recorded(node)[1][0]
        columns = self.recorded(x)[0].shape[-1]
        if any(k != slice(None) for k in others) or not isinstance(last, slice):
            return ()
        start, stop, step = last.indices(columns)
        if step != 1 or start % self.units or stop % self.units:
            return ()
        return whole[start // self.units : stop // self.units]


def _is_shared(x: Node, is_small: bool) -> bool:
    """Whether a node is a parameter, or a number or vector for all sequences of a batch."""
    return is_small or (isinstance(x, Leaf) and bool(x.name))
