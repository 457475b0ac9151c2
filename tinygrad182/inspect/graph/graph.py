"""``trace``: every node of a graph with its value, its gradient and the shares of its uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from ..._suggestions.calls import explains_calls, nearest
from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors, backpropagate, dense, pull
from ...engine.modes import enable_grad, modes_kept, no_grad
from ...engine.recording import Leaf, Node, is_tensor, tensor_functions, wrap
from ...errors import ArgumentError, FreedGraphError, GraphError, UnknownPathError, brief
from ...primitives import PRIMITIVES
from ...recurrence.scans import Scan, is_scan
from ...recurrence.unrolling import opening, operations
from ...tensors.tensor import Tensor
from ..loops.hosting import copied_to_host
from ..loops.steps import seeds_of_all_steps, seeds_of_one_step
from ..microscope.look import Microscope
from ..microscope.network import network_of
from ..table import TextTable, text_table
from ..views.gate_names import gate_names
from ..views.gradient_flow import gradient_flow
from ..views.through import Through, through
from . import dot, terminal
from .graph_html import graph_html
from .selection import Nodes, fulfils, why_empty
from .traces import Trace, trace_of


def trace(loss: Tensor, gradient: Any = None) -> Graph:
    """Run a backward pass that keeps every node's gradient, and return the graph to look at.

    ``.grad`` of the leaves is left alone and nothing is freed: ``loss.backward()`` still works.

    Parameters
    ----------
    loss : Tensor
        Any recorded tensor; a single element unless ``gradient`` is given.
    gradient : Tensor or array, optional
        The cotangent to start from.

    Raises
    ------
    GraphError
        ``loss`` does not require grad.
    FreedGraphError
        An earlier backward pass freed the graph: trace first, or pass it ``retain_graph=True``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor(3.0, requires_grad=True)
    >>> graph = tg.inspect.trace(w * w)
    >>> [(node.op, float(node.grad)) for node in graph.nodes]
    [('leaf', 6.0), ('multiply', 1.0)]
    >>> [float(edge.cotangent) for edge in graph.nodes[0].edges]  # w is used twice
    [3.0, 3.0]
    """
    return _traced(seeds_of([loss], [gradient], False, "trace"))


@modes_kept
def _traced(seeds: list[tuple[Node, Array]]) -> Graph:
    """The graph behind some nodes, with the gradient of every node; the latest node stands first."""
    nodes, grads = ancestors([node for node, _ in seeds], constants=True), dict[Node, Array]()
    with no_grad():
        backpropagate(seeds, visit=grads.__setitem__, retain_graph=True, nodes=nodes)
    return Graph(seeds, nodes, grads)


@dataclass(frozen=True, slots=True)
class Edge:
    """One use of a node, and the share of its gradient that comes back from it.

    Attributes
    ----------
    consumer : GraphNode
        The operation that used the node.
    position : int
        Which of ``consumer.inputs`` it was.
    cotangent : array
        The share, of the node's shape. The shares of all edges add up to the node's gradient.
    """

    consumer: GraphNode
    position: int
    cotangent: Array

    def __repr__(self) -> str:
        shape, norm = tuple(self.cotangent.shape), backend.norm(self.cotangent)
        return f"<edge into {self.consumer!r} as input {self.position}: {shape}, norm {norm:.3e}>"


class GraphNode:
    """One node of a traced graph.

    Attributes
    ----------
    op : str
        Name of the operation; ``"leaf"`` for a parameter, an input or a constant.
    is_fused : bool
        Whether it is a recurrence over a whole sequence, which :meth:`Graph.expand` opens.
    module : str
        Path of the module it was recorded in; ``""`` outside any.
    time : int or None
        Its time step, counted from 0; −1 for an initial state.
    name : str
        The name a state was marked with, a parameter's dotted path, or the gate of a recurrent cell that it
        is, such as ``"f"``.
    value, grad : array
        The output, and the derivative of the loss by it; None if the loss does not depend on it through
        anything that requires grad.
    inputs, consumers : list of GraphNode
        Its operands, and the operations that used it.
    edges : list of Edge
        Its uses with each one's share of the gradient, computed when asked.
    graph : Graph
        The graph whose node it is: the traced one, or its :meth:`Graph.opened` for an operation inside a
        fused layer.
    """

    __slots__ = ("_graph", "_node")

    def __init__(self, graph: Graph, node: Node) -> None:
        self._graph = graph
        self._node = node

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphNode) and other._node is self._node

    def __hash__(self) -> int:
        return hash(self._node)

    @property
    def graph(self) -> Graph:
        return self._graph

    @property
    def op(self) -> str:
        return self._node.op

    @property
    def is_fused(self) -> bool:
        return is_scan(self._node)

    @property
    def params(self) -> dict[str, Any]:
        return dict(self._node.params)

    @property
    def module(self) -> str:
        marks = self._node.marks
        return marks[-1].scope.module if marks else self._node.scope.module

    @property
    def time(self) -> int | None:
        marks = self._node.marks
        return marks[-1].scope.time if marks else self._node.scope.time

    @property
    def name(self) -> str:
        if self._node.marks:
            return self._node.marks[-1].name
        if isinstance(self._node, Leaf):
            return self._node.name
        return self._graph._gates.get(self._node, "")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._graph._value(self._node).shape)

    @property
    def requires_grad(self) -> bool:
        return self._node.requires_grad

    @property
    def value(self) -> Array:
        value = self._graph._value(self._node)
        return backend.namespace(value).read_only(value)

    @property
    def grad(self) -> Array:
        grad = self._graph._grads.get(self._node)
        if grad is not None:
            return backend.namespace(grad).read_only(grad)
        if self._node.requires_grad:
            return None  # the loss depends on it through nothing that has a derivative
        total = None
        with backend.on(self._graph._value(self._node)):
            for edge in self.edges:  # a constant: summed on demand
                total = edge.cotangent if total is None else total + edge.cotangent
        return total

    @property
    def inputs(self) -> list[GraphNode]:
        inputs = self._graph._inputs(self._node)
        return [self._graph._node(x) for x in inputs if isinstance(x, Node)]

    @property
    def consumers(self) -> list[GraphNode]:
        return [self._graph._node(n) for n in self._graph._uses.get(self._node, ())]

    @property
    def edges(self) -> list[Edge]:
        found = []
        for consumer in self.consumers:
            for position, share in self._graph._shares(consumer._node, self._node):
                whole = dense(self._node, share)
                found.append(Edge(consumer, position, backend.namespace(whole).read_only(whole)))
        return found

    def tensors(self, given: Sequence[Any]) -> list[Any]:
        """Return Tensors of one graph for nodes and Tensors; ``tg.grad`` calls this when it gets nodes.

        All are of the opened graph if one of the nodes is.
        """
        graph = self._graph
        for x in given:
            if isinstance(x, GraphNode) and x._graph._closed is graph._recorded:
                graph = x._graph
        return [graph._tensor(x) for x in given]

    def __repr__(self) -> str:
        label = f" {self.name!r}" if self.name else ""
        return f"<{self.op}{label} {self.shape}{self._node.place()}>"


class Graph:
    """Everything that a loss depends on: read-only, oldest node first. Made by :func:`trace`.

    A fused layer is one node: it ran its whole sequence as one operation. :meth:`opened` is the graph in
    which the operations of every step are nodes, and :meth:`expand` opens one layer alone.
    """

    def __init__(
        self, seeds: list[tuple[Node, Array]], order: list[Node], grads: dict[Node, Array]
    ) -> None:
        self._seeds = seeds
        self._order = order
        self._grads = grads
        # values and inputs stay known when a later backward pass frees the nodes
        self._recorded: dict[Node, tuple[Array, Any]] = {n: (n.value, n.inputs) for n in order}
        self._lazy_opened: Graph | None = None
        # What `opened` and `expand` note about the graph that they open. It is its nodes alone: the graph
        # holds this one, and both are to be freed by reference count.
        self._closed: dict[Node, Any] | None = None
        self._twin: Callable[[Node], Node] | None = None  # `opened` alone: node there → here
        self._joint_shares: dict[Node, dict[Node, list[tuple[int, Any]]]] = {}

    def _node(self, node: Node) -> GraphNode:
        return GraphNode(self, node)

    def _inputs(self, node: Node) -> tuple[Any, ...]:
        inputs: tuple[Any, ...] = self._recorded[node][1]
        return inputs

    def _value(self, node: Node) -> Array:
        return self._recorded[node][0]

    @cached_property
    def _gates(self) -> dict[Node, str]:
        """The names of the gates among the nodes."""
        return gate_names(self._order, self._recorded.__getitem__)

    @cached_property
    def _uses(self) -> dict[Node, list[Node]]:
        """Consumers of each node, each once, oldest first."""
        uses: dict[Node, list[Node]] = {}
        for node in self._order:
            for x in dict.fromkeys(x for x in self._inputs(node) if isinstance(x, Node)):
                uses.setdefault(x, []).append(node)
        return uses

    def _shares(self, consumer: Node, node: Node) -> list[tuple[int, Any]]:
        """Each use of ``node`` by ``consumer``: its position, and the cotangent that goes back over it."""
        if consumer not in self._grads:
            return []
        if not callable(consumer.primitive.vjp):  # type: ignore[union-attr]
            return self._pulled(consumer, {node}).get(node, [])
        if consumer not in self._joint_shares:
            # one rule for all inputs: run once, not once for each
            everything = {x for x in self._inputs(consumer) if isinstance(x, Node)}
            self._joint_shares[consumer] = self._pulled(consumer, everything)
        return self._joint_shares[consumer].get(node, [])

    @modes_kept
    def _pulled(self, consumer: Node, wanted: set[Node]) -> dict[Node, list[tuple[int, Any]]]:
        rules = consumer.primitive.vjp  # type: ignore[union-attr]
        inputs = consumer.inputs
        if inputs is None:
            raise FreedGraphError(
                f"{consumer.op}{consumer.place()}: a backward pass after the trace freed the operation; "
                "look at edges before that, or pass it retain_graph=True"
            )
        # numbers among the operands are not counted: positions are those in GraphNode.inputs
        ranks = list(accumulate((isinstance(x, Node) for x in inputs), initial=0))
        with_rule = (i for i in range(len(inputs)) if callable(rules) or rules[i] is not None)
        with no_grad():
            pulled = pull(consumer, self._grads[consumer], wanted)
        found: dict[Node, list[tuple[int, Any]]] = {}
        for parent, share in pulled:  # in the order of the inputs
            position = next(i for i in with_rule if inputs[i] is parent)
            found.setdefault(parent, []).append((ranks[position], share))
        return found

    @property
    def nodes(self) -> list[GraphNode]:
        """Every node, oldest first: an operation comes after its inputs."""
        return Nodes(self)

    def __iter__(self) -> Iterator[GraphNode]:
        return map(self._node, self._order)

    def __len__(self) -> int:
        return len(self._order)

    @explains_calls
    def select(
        self,
        op: str | None = None,
        module: str | None = None,
        time: int | None = None,
        name: str | None = None,
    ) -> list[GraphNode]:
        """The nodes that match everything given, oldest first.

        A fused layer is one node of this graph, and the operations of its steps are nodes of another, which
        :meth:`opened` returns. So that one call finds a node in either, ``select`` searches

        - ``opened()`` for a time step, for the name of a state or a gate, and for an operation that fused
          layers use inside;
        - this graph for all else, such as a module or a parameter.

        ``node.graph`` is the graph of a node that was found.

        Parameters
        ----------
        op : str, optional
            Name of the operation, such as ``"tanh"``.
        module : str, optional
            Path of a module: the nodes recorded in it or in one inside it.
        time : int, optional
            Time step.
        name : str, optional
            A marked name such as ``"h"``, a gate such as ``"f"``, or a parameter's dotted path.

        Returns
        -------
        list of GraphNode
            An empty one says what there is: when it is printed, and when its first node is asked for.

        Raises
        ------
        UnknownPathError
            No operation is called so, nothing in the graph and no layer's state has the name, or nothing
            was recorded in a module of that path.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> rnn = tg.nn.RNN(1, 4, rng=0)
        >>> graph = tg.inspect.trace(rnn(tg.ones((30, 2, 1)))[0].sum())
        >>> graph.select(op="tanh", time=7)
        [<tanh 'h' (2, 4), in rnn.l0 at t = 7>]
        >>> graph.select(op="tanh", time=99)
        [] (no node has op='tanh' and time=99; with op='tanh', time is 0 to 29)
        """
        graph = self._searched(op, time, name)
        given = {"op": op, "module": module, "time": time, "name": name}
        wanted = {key: value for key, value in given.items() if value is not None}
        found = [node for node in graph if fulfils(node, wanted)]
        if found:
            return Nodes(found)
        graph._check_known(op, name, module)
        return Nodes([], why_empty(graph, wanted))

    def _searched(self, op: str | None, time: int | None, name: str | None) -> Graph:
        """The graph that :meth:`select` searches: this one or the opened one."""
        if op:
            is_inside = op in operations(self._order)
        else:
            parameters = {node.name for node in self._order if isinstance(node, Leaf)}
            is_inside = time is not None or bool(name and name not in parameters)
        return self.opened() if is_inside else self

    def _check_known(self, op: str | None, name: str | None, module: str | None) -> None:
        """Raise for a name that no operation, no state or parameter, or no module has."""
        modules = {node.module for node in self}
        modules |= {".".join(p[:i]) for p in (m.split(".") for m in modules) for i in range(len(p))}
        names = {mark.name for node in self._order for mark in node.marks}
        names |= {node.name for node in self}
        ops = {node.op for node in self._order} | operations(self._order)
        functions = PRIMITIVES.keys() | vars(tensor_functions()).keys()
        parts = {
            part for p in PRIMITIVES.values() if isinstance(p, Scan) for part in p.parts + p.gates
        }
        for what, wanted, here, others in (
            ("operation", op, ops, functions),
            ("mark or parameter", name, names, parts),
            ("module", module, modules, ()),
        ):
            if wanted is not None and wanted not in here and wanted not in others:
                near = nearest(wanted, here) or f"; there are {brief(sorted(here - {''}))[1:-1]}"
                raise UnknownPathError(f"select: this graph has no {what} {wanted!r}{near}")

    def opened(self) -> Graph:
        """Return the graph in which every fused layer is the operations of its steps.

        It is what ``fused=False`` would have recorded. The first call records and traces the steps. A graph
        without fused layers is its own opened graph.
        """
        if not any(node.is_fused for node in self):
            return self
        if self._lazy_opened is None:
            (root, seed), *_ = self._seeds
            twin = opening([root])
            self._lazy_opened = _traced([(twin(root), seed)])
            self._lazy_opened._closed, self._lazy_opened._twin = self._recorded, twin
        return self._lazy_opened

    @explains_calls
    def through(
        self,
        target: GraphNode | str | tuple[str, int],
        time: int | None = None,
        module: str | None = None,
    ) -> Through:
        """The shares of a node's gradient that pass the operations of a step on its way back.

        The part of δ = ∂L/∂u that passes an operation v is Jᵀ ∂L/∂v with J = ∂v/∂u: what would be missing
        from δ if nothing came back from v. Its share is ⟨part, δ⟩ / ‖δ‖², which may be negative. If every
        way from u to the loss passes exactly one of some operations, their shares add up to 1.

        Parameters
        ----------
        target : GraphNode, str or (str, int)
            The node u: itself, or its name, or its name and time step, such as ``("c", 3)``.
        time : int, optional
            The step whose operations are meant.
        module : str, optional
            Only operations that were recorded in the module of this path, or in one inside it.

        Returns
        -------
        Through
            Shares by operation, the largest first.

        Raises
        ------
        ArgumentError
            Several nodes have the name, or no operation of the step is computed from the node.
        UnknownPathError
            Nothing has the name.
        GraphError
            The node is of another graph, or a constant.
        FreedGraphError
            A backward pass after the trace freed the graph.

        Notes
        -----
        The graph that is searched is :meth:`opened`. One backward pass goes to the target, and two go from
        the step to the target, with a cotangent for each of its operations. Shares are right also where the
        gradient is far below what its dtype can hold.

        Examples
        --------
        Which operation at t = 7 contributes most to ∂L/∂c_3?

        >>> import tinygrad182 as tg
        >>> lstm = tg.nn.LSTM(1, 8, forget_bias=2.0, rng=0)
        >>> graph = tg.inspect.trace(lstm(tg.ones((10, 1, 1)))[0][-1].sum())
        >>> found = graph.through(("c", 3), time=7)
        >>> print(found.table(4))
        share  operation            module   t
        0.998  c          add       lstm.l0  7
        0.870  f∘c₋       multiply  lstm.l0  7
        0.131  W_hh h₋    matmul    lstm.l0  7
        0.131  z          add       lstm.l0  7
            …  7 more

        After c itself, the forget path f∘c carries most, 87%. The gradient reaches c_3 by separate ways
        through the two states of the step before:

        >>> [(node.name, node.time, round(share, 2)) for node, share in found.entering.items()]
        [('c', 6, 0.87), ('h', 6, 0.13)]
        >>> (forget,) = graph.select(name="f", time=7)
        >>> round(found.shares[forget], 3)
        0.001
        """
        return through(self.opened(), target, time, module)

    def _tensor(self, x: Any) -> Any:
        """The Tensor of a node, or the Tensor that this graph has for another; anything else unchanged.

        Raises
        ------
        GraphError
            It is of another graph.
        """
        if isinstance(x, GraphNode):
            own = self._own(x)._node
            return wrap(self._value(own), own)
        node: Node | None = x._node if is_tensor(x) else None
        if node is None or self._closed is None or node in self._recorded:
            return x
        if self._twin is None:
            raise GraphError(
                f"grad: {node.op}{node.place()} is not in the graph of expand(), which has one layer; "
                "take the node from graph.select(...) or graph.opened()"
            )
        if node not in self._closed and node.primitive is not None:
            raise GraphError(
                f"grad: {node.op}{node.place()} is not in the traced graph; trace the loss that you "
                "differentiate, and take the node from there"
            )
        return wrap(x._data, self._twin(node))

    def _own(self, x: GraphNode) -> GraphNode:
        """The given node if it is of this graph; for a node of the unopened graph, its node here.

        Raises
        ------
        GraphError
            It is of another graph.
        """
        if not isinstance(x, GraphNode):
            raise ArgumentError(
                f"through: the target {x!r} must be a node of the graph, a name, or a name and a time "
                'step, such as ("c", 3)'
            )
        node = x._node
        if x._graph is not self:
            opens = x._graph._recorded is self._closed
            if opens and self._twin is not None:
                node = self._twin(node)
            if node not in self._recorded or not opens:
                other = f"{x!r} is a node of another graph; take one of graph.select(...)"
                opened = f"{x!r} is a fused layer; take a state, graph.select(name=..., time=...)"
                raise GraphError(opened if opens else other)
        return self._node(node)

    @modes_kept
    def expand(self, node: GraphNode, time: int | None = None) -> Graph:
        """Open one fused layer: return the graph of its steps, with values and gradients.

        Both are computed again from the states and the node's gradient. The layer's inputs are the leaves.

        Parameters
        ----------
        node : GraphNode
            A node with ``is_fused``, such as ``graph.select(op="lstm_scan")[0]``.
        time : int, optional
            Open this step alone, which takes one pass back to it; by default all.

        Raises
        ------
        GraphError
            The node is not a recurrence, or the loss does not depend on it.
        ArgumentError
            No such step.
        InPlaceError
            An input, such as a weight, was changed since.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> lstm = tg.nn.LSTM(1, 4, rng=0)
        >>> graph = tg.inspect.trace(lstm(tg.ones((100, 2, 1)))[0].sum())
        >>> (node,) = graph.select(op="lstm_scan")
        >>> len(graph), len(graph.expand(node)) > 1000
        (9, True)
        >>> step = graph.expand(node, time=30)
        >>> step.select(name="c", time=30)[0].grad.shape
        (2, 4)
        """
        g = self._grads.get(node._node)
        if not node.is_fused or g is None:
            raise GraphError(
                f"expand: {node!r} is not a fused layer that the loss depends on; take a node with is_fused"
            )
        if node._node.inputs is None:
            raise FreedGraphError(
                f"expand: a backward pass after the trace freed {node!r}; expand it before that, or pass "
                "it retain_graph=True"
            )
        with no_grad(), backend.on(g):
            if time is None:
                graph = _traced(seeds_of_all_steps(node._node, g))
            else:
                graph = _traced(seeds_of_one_step(node._node, g, time))
        graph._closed = self._recorded
        return graph

    def table(self, max_rows: int | None = 60) -> TextTable:
        """One line per node: what it is, where, and the norms of its value and gradient."""
        header = ("op", "name", "module", "t", "shape", "‖value‖", "‖grad‖", "uses")
        grads = {node: self._grads[node] for node in self._order if node in self._grads}
        norms = backend.norms([*map(self._value, self._order), *grads.values()])
        slopes = dict(zip(grads, norms[len(self) :], strict=True))
        rows = []
        for node, size in zip(self, norms[: len(self)], strict=True):
            what = (node.op, node.name, node.module, node.time, str(node.shape))
            uses = len(self._uses.get(node._node, ()))
            rows.append((*what, size, slopes.get(node._node), uses))
        return text_table(header, rows, max_rows)

    # --- saved --------------------------------------------------------------------------------------

    def numbers(self) -> Trace:
        """Return all numbers of this graph, without the graph; :meth:`save` writes them.

        Raises
        ------
        FreedGraphError
            A backward pass after the trace freed the graph.
        """
        return trace_of(self._loss())

    def save(self, path: str | os.PathLike[str], values: bool = True) -> None:
        """Save every operation's value and gradient at every step, for :func:`diff` and for later.

        The file is safetensors: one array (n, B, W) for each operation of the n steps that are alike, each
        in the dtype it was computed in, and JSON in the header. A gradient's rows are at powers of two
        of their own, so that those below the dtype's range are kept too. The file is replaced as a whole.

        Parameters
        ----------
        path : str or path
        values : bool
            Whether to keep values beside gradients. Without, the file is half as large, and runs can be
            compared by their gradients alone.

        Raises
        ------
        CheckpointError
            The file cannot be written.
        FreedGraphError
            A backward pass after the trace freed the graph.

        Notes
        -----
        An LSTM of 64 units makes 223 MB of 1,000 steps of 16 sequences in ``float32``, 112 MB without
        values: 27 numbers of each kind for each unit.

        Examples
        --------
        >>> import tempfile
        >>> import tinygrad182 as tg
        >>> lstm = tg.nn.LSTM(1, 8, rng=0)
        >>> path = f"{tempfile.mkdtemp()}/lstm.trace"
        >>> tg.inspect.trace(lstm(tg.ones((20, 1, 1)))[0][-1].sum()).save(path)
        >>> print(tg.inspect.diff(path, path).sentences[1])
        The gradients are the same to the last bit.
        """
        self.numbers().save(path, values)

    # --- drawn --------------------------------------------------------------------------------------

    def look(self, steps: Sequence[int] | None = None, sample: int = 0) -> Microscope:
        """Return the page on which the gradient is followed through this graph; see :func:`look`.

        Raises
        ------
        FreedGraphError
            A backward pass after the trace freed the graph.
        """
        return Microscope(self._loss(), None, steps, sample)

    @modes_kept
    def _loss(self) -> Tensor:
        """A single element whose gradient by the seeds' nodes is their seeds."""
        (node, g), *others = self._seeds
        if any(n.inputs is None for n, _ in self._seeds):
            raise FreedGraphError(
                "a backward pass after the trace freed the graph; look at it before that, or pass it "
                "retain_graph=True"
            )
        if not others and node.value.size == 1 and bool((g == 1).all()):
            return wrap(node.value, node)
        with enable_grad():
            parts = [(wrap(n.value, n) * g).sum() for n, g in self._seeds]
        return sum(parts[1:], start=parts[0])

    def save_html(
        self, path: str | Path, steps: Sequence[int] | None = None, sample: int = 0
    ) -> None:
        """Write the page on which the gradient is followed: one file that needs no network.

        Parameters
        ----------
        path : str or Path
        steps : sequence of int, optional
            The time steps whose values over hidden units are kept; see :func:`look`.
        sample : int
            The sequence of the batch whose units are shown.

        Raises
        ------
        FileError
            The file cannot be written.
        MissingDependencyError
            Altair or vl-convert is not installed.
        FreedGraphError
            A backward pass after the trace freed the graph.

        Examples
        --------
        >>> import tempfile
        >>> import tinygrad182 as tg
        >>> lstm = tg.nn.LSTM(1, 8, rng=0)
        >>> graph = tg.inspect.trace(lstm(tg.ones((20, 1, 1)))[0][-1].sum())
        >>> graph.save_html(tempfile.mkdtemp() + "/lstm.html")
        """
        self.look(steps, sample).save_html(path)

    def save_png(
        self, path: str | Path, view: str | None = None, *, dark: bool = False, **chosen: Any
    ) -> None:
        """Write the page's charts, or one of them, as an image; see :meth:`Microscope.save_png`."""
        self.look().save_png(path, view, dark=dark, **chosen)

    def save_svg(
        self, path: str | Path, view: str | None = None, *, dark: bool = False, **chosen: Any
    ) -> None:
        """Write the page's charts, or one of them, as a drawing; see :meth:`Microscope.save_svg`."""
        self.look().save_svg(path, view, dark=dark, **chosen)

    def to_dot(self, opened: bool = False, most: int = dot.MOST) -> str:
        """Write the graph as text for Graphviz: modules as boxes, or every operation.

        Parameters
        ----------
        opened : bool
            Whether to write every operation, with recurrences step by step.
        most : int
            Operations that are written at most; the first and the last steps are, and the text says what
            is left out.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> rnn = tg.nn.RNN(1, 8, rng=0)
        >>> text = tg.inspect.trace(rnn(tg.ones((20, 1, 1)))[0].sum()).to_dot()
        >>> "RNN 1 → 8" in text
        True
        """
        graph = self.opened() if opened else self
        here = copied_to_host(graph._seeds)
        nodes = ancestors([node for node, _ in here.seeds], constants=True)
        grads = {here.twin(node): g for node, g in graph._grads.items()} if opened else {}
        return dot.to_dot(network_of(nodes, here.seeds), opened, grads, most)

    def show(self, width: int | None = None) -> None:
        """Print the graph as a tree of modules, and the norms of states over time as sparklines.

        Parameters
        ----------
        width : int, optional
            Columns; by default the terminal's, or 80 where there is none.
        """
        loss = self._loss()
        marked = any(node.is_fused or (node.name and node.time is not None) for node in self)
        terminal.show(self, gradient_flow(loss) if marked else None, width)

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            "a traced graph cannot be copied or pickled; keep numbers from it: .table() or .save(path)"
        )

    def __repr__(self) -> str:
        return f"<Graph of {len(self)} nodes; .table() lists them, .select(...) finds some>"

    def _repr_html_(self) -> str:
        return graph_html(list(self), lambda x: (self._value(x._node), self._grads.get(x._node)))
