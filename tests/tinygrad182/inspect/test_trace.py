"""``trace``: every node's value, gradient and edges, against engines that know nothing of them."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, host, leaf, write

trace = tg.inspect.trace
GraphNode = tg.inspect.GraphNode

UNARY = [
    tg.tanh,
    tg.sigmoid,
    tg.exp,
    tg.square,
    lambda x: x.T,
    lambda x: x[1],
    lambda x: x[:, ::-1],
]
BINARY = [tg.add, tg.multiply, tg.matmul, lambda a, b: tg.stack([a, b])[0], tg.subtract]


def random_graph(seed: int, steps: int) -> tuple[tg.Tensor, list[tg.Tensor]]:
    """A graph of 3×3 matrices with much fan-out, from two parameters and one constant."""
    rng = np.random.default_rng(seed)
    pool = [leaf(rng.normal(size=(3, 3))) for _ in range(2)] + [const(rng.normal(size=(3, 3)))]
    for _ in range(steps):
        if rng.random() < 0.5:
            x = UNARY[rng.integers(len(UNARY))](tg.tanh(pool[rng.integers(len(pool))]))
        else:
            a, b = (pool[i] for i in rng.integers(len(pool), size=2))  # sometimes the same twice
            x = BINARY[rng.integers(len(BINARY))](a, b)
        pool.append(x if x.ndim == 2 else x + tg.zeros((3, 3), dtype="float64"))
    loss = sum(((tg.tanh(x) ** 2).sum() for x in pool[3:]), start=tg.square(pool[0]).sum())
    return loss, pool


def node_of(graph: tg.inspect.Graph, x: tg.Tensor) -> GraphNode:
    (node,) = [n for n in graph if n._node is x._node]
    return node


@given(st.integers(0, 10_000), st.integers(0, 12))
def test_gradients_are_those_of_tg_grad(seed: int, steps: int) -> None:
    loss, pool = random_graph(seed, steps)
    graph = trace(loss)
    traced = [x for x in pool if x.requires_grad and x._node in {n._node for n in graph}]
    for x, expected in zip(traced, tg.grad(loss, traced, retain_graph=True), strict=True):
        assert expected is not None
        node = node_of(graph, x)
        assert_same_bits(node.value, x.numpy())
        assert_close(node.grad, expected.numpy(), 1e-15)


@given(st.integers(0, 10_000), st.integers(0, 12))
def test_edges_add_up_and_belong_to_their_consumers(seed: int, steps: int) -> None:
    loss, _ = random_graph(seed, steps)
    graph = trace(loss)
    for node in graph.nodes[:-1]:
        assert_close(sum(host(e.cotangent) for e in node.edges), node.grad, 1e-13, repr(node))
        for edge in node.edges:
            assert edge.consumer in node.consumers
            assert node in edge.consumer.inputs
            assert edge.consumer.inputs[edge.position] == node
            assert edge.cotangent.shape == node.shape
        uses = [c._node.inputs.count(node._node) for c in node.consumers]
        assert len(node.edges) == sum(uses)
    assert graph.nodes[-1].edges == []


@given(st.integers(0, 10_000), st.integers(0, 12))
def test_every_node_is_the_adjoint_of_its_operation(seed: int, steps: int) -> None:
    """⟨δ_out, J v⟩ = Σ ⟨cotangent of the edge, v⟩, with J v from a complex step of the forward.

    Sums of edges are true by construction; this would find a wrong rule, and where it is.
    """
    loss, _ = random_graph(seed, steps)
    graph = trace(loss)
    assert adjoint_faults(graph) == []


def adjoint_faults(graph: tg.inspect.Graph) -> list[GraphNode]:
    rng = np.random.default_rng(0)
    faults = []
    for node in graph:
        if not node.inputs or node.grad is None:
            continue
        raw = node._node.inputs
        xs = [host(x.value) if hasattr(x, "value") else x for x in raw]
        sent = [
            [e for e in x.edges if e.consumer == node and e.position == i]
            for i, x in enumerate(node.inputs)
        ]
        vs = [rng.normal(size=np.shape(x)) for x in xs]
        moved = [x + 1e-20j * v if hasattr(x, "shape") else x for x, v in zip(xs, vs, strict=True)]
        stepped = tg.apply(node._node.primitive, *map(const, moved), **node.params)
        left = np.sum(host(node.grad) * stepped.numpy().imag / 1e-20)
        arrays = [v for x, v in zip(xs, vs, strict=True) if hasattr(x, "shape")]
        terms = [host(e[0].cotangent) * v for e, v in zip(sent, arrays, strict=True)]
        scale = sum(np.abs(t).sum() for t in terms)
        if abs(left - sum(t.sum() for t in terms)) > 1e-12 * max(scale, 1e-300):
            faults.append(node)
    return faults


def test_a_planted_fault_is_found_at_its_step_alone() -> None:
    """A transpose is missing at t = 9 of 20, which changes every earlier gradient."""
    w = leaf(np.random.default_rng(0).normal(size=(3, 3)))
    h = const(np.ones((2, 3)))
    for t in range(20):
        h = tg.inspect.mark(tg.tanh(tg.inspect.mark(h @ w, "z", t)), "h", t)
    right = trace(h.sum())
    assert adjoint_faults(right) == []
    node = right.select(name="z", time=9)[0]._node

    def broken(xp: Any, g: Array, y: Array, a: Array, b: Array) -> Array:
        return xp.matmul(g, b)

    node.primitive = dataclasses.replace(node.primitive, vjp=(broken, node.primitive.vjp[1]))
    wrong = trace(h.sum())
    assert [(n.name, n.time) for n in adjoint_faults(wrong)] == [("z", 9)]
    for t in range(20):
        (a,), (b,) = (g.select(name="h", time=t) for g in (right, wrong))
        assert (host(a.grad) == host(b.grad)).all() == (t >= 9)


def test_uses_of_a_weight_add_up_over_time() -> None:
    """∂L/∂W_h = Σ_t (contribution of its use at step t) = Σ_t δ_{z_t}ᵀ h_{t−1}."""
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    x = np.random.default_rng(0).normal(size=(7, 4, 2))
    loss = (rnn(const(x))[0] ** 2).sum()
    graph = trace(loss).opened()
    (leaf_node,) = graph.select(name="weight_hh_l0")
    (transposed,) = leaf_node.consumers
    assert leaf_node.consumers == [transposed]
    by_step = {e.consumer.time: host(e.cotangent) for e in transposed.edges}
    assert sorted(by_step) == list(range(7))
    (expected,) = tg.grad(loss, rnn.weight_hh_l0, retain_graph=True)
    assert expected is not None
    assert_close(sum(by_step.values()).T, expected.numpy(), 1e-14)
    assert_close(leaf_node.grad, expected.numpy(), 1e-15)
    states = {n.time: n for n in graph.select(name="h")}
    for t in range(7):
        h, before = host(states[t].value), host(states[t - 1].value)
        delta = host(states[t].grad) * (1 - h**2)
        assert_close(by_step[t], before.T @ delta, 1e-13, f"t = {t}", floor=1e-300)


def test_gradients_of_constants_are_found_on_demand() -> None:
    w, c = leaf(np.array([2.0, 3.0])), const(np.array([5.0, 7.0]))
    loss = (w * c * c).sum()
    node = node_of(trace(loss), c)
    assert not node.requires_grad
    assert_same_bits(node.grad, np.array([20.0, 42.0]))
    assert [e.position for e in node.edges] == [1, 1]
    rnn = tg.nn.RNN(1, 2, rng=0)
    x = leaf(np.float32(np.random.default_rng(0).normal(size=(3, 2, 1))))
    (expected,) = tg.grad(rnn(x)[0].sum(), x)
    assert expected is not None
    constant = const(x.numpy())
    assert_same_bits(node_of(trace(rnn(constant)[0].sum()), constant).grad, expected.numpy())


def test_what_the_loss_does_not_depend_on_has_no_gradient() -> None:
    w, indices = leaf(np.ones((3, 2))), const(np.array([0, 2]))
    mask = w * 1.0
    loss = (tg.where(mask, w, 0.0)[indices]).sum()
    graph = trace(loss)
    assert node_of(graph, indices).grad is None
    assert node_of(graph, mask).grad is None
    assert node_of(graph, mask).edges == []
    assert_same_bits(node_of(graph, w).grad, np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))


def test_an_operand_used_twice_has_its_positions() -> None:
    x, y = leaf(np.ones(2)), leaf(np.ones(2))
    (edge,) = node_of(trace(tg.where(x, x, y).sum()), x).edges
    assert edge.position == 1  # as the condition it has no derivative
    edges = node_of(trace(tg.concat([x, y, x]).sum()), x).edges
    assert [e.position for e in edges] == [0, 2]


def test_parts_of_an_array_are_edges_of_its_whole_shape() -> None:
    x = leaf(np.arange(3.0))
    edges = node_of(trace(x[0] * 2 + x[2] * 3), x).edges
    np.testing.assert_array_equal(host([e.cotangent for e in edges]), [[2, 0, 0], [0, 0, 3]])


# --- finding nodes ------------------------------------------------------------------------------


class Model(tg.nn.Module):
    def __init__(self) -> None:
        self.rnn = tg.nn.RNN(1, 3, 2, rng=0, fused=False)
        self.head = tg.nn.Linear(3, 1, rng=1)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return self.head(self.rnn(x)[0])


@pytest.fixture
def graph() -> tg.inspect.Graph:
    return trace(tg.square(Model()(tg.ones((4, 2, 1)))).sum())


def test_select(graph: tg.inspect.Graph) -> None:
    assert [n.module for n in graph.select(op="tanh")] == ["rnn.l0"] * 4 + ["rnn.l1"] * 4
    assert [n.time for n in graph.select(op="tanh", module="rnn.l1")] == [0, 1, 2, 3]
    assert {n.module for n in graph.select(module="rnn")} == {"rnn.l0", "rnn.l1"}
    assert [n.time for n in graph.select(name="h", module="rnn.l0")] == [-1, 0, 1, 2, 3]
    assert {n.module for n in graph.select(time=2)} == {"rnn.l0", "rnn.l1"}
    (weight,) = graph.select(name="head.weight", op="leaf")
    assert (weight.op, weight.shape) == ("leaf", (1, 3))
    assert graph.select(op="tanh", name="h", time=2, module="rnn.l0")[0].shape == (2, 3)
    assert graph.select(op="cosh") == graph.select(time=99) == []
    assert len(graph.select()) == len(graph) == len(graph.nodes)


def test_select_tells_names_that_nothing_has(graph: tg.inspect.Graph) -> None:
    assert graph.select(op="sigmoid") == graph.select(name="h", time=99) == []
    fused = trace(tg.nn.LSTM(1, 2, rng=0)(tg.ones((3, 1, 1)))[0].sum())
    for of, options, words in (
        (fused, {"op": "lstm"}, "operation 'lstm'; did you mean 'lstm_scan'"),
        (graph, {"op": "tahn"}, "operation 'tahn'; did you mean 'tanh'"),
        (graph, {"name": "cell"}, r"mark or parameter 'cell'; there are 'h', 'head\.bias'"),
        (fused, {"op": "tahn"}, "operation 'tahn'; did you mean 'tanh'"),
        (graph, {"module": "rnn.l00"}, r"module 'rnn\.l00'; did you mean 'rnn\.l0'"),
        (graph, {"module": "rn"}, "module 'rn'; did you mean 'rnn'"),
        (graph, {"module": "decoder"}, r"module 'decoder'; there are 'head', 'rnn', 'rnn\.l0'"),
        (graph, {"name": "head.wieght"}, r".*'head\.wieght'; did you mean 'head\.weight'"),
    ):
        with pytest.raises(tg.UnknownPathError, match=f"^select: this graph has no {words}"):
            of.select(**options)  # type: ignore[arg-type]


def test_nodes_stand_after_their_inputs(graph: tg.inspect.Graph) -> None:
    place = {node: i for i, node in enumerate(graph)}
    for node in graph:
        assert all(place[x] < place[node] for x in node.inputs)
        assert all(place[node] < place[c] for c in node.consumers)
        assert node in place


def test_nodes_cannot_be_written_to(graph: tg.inspect.Graph) -> None:
    node = graph.select(op="tanh")[0]
    for array in (node.value, node.grad, node.edges[0].cotangent):
        if isinstance(array, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0.0


def test_texts(graph: tg.inspect.Graph) -> None:
    assert repr(graph).startswith(f"<Graph of {len(graph)} nodes")
    assert repr(graph.select(name="h", time=2)[0]) == "<tanh 'h' (2, 3), in rnn.l0 at t = 2>"
    table = graph.table(max_rows=None).splitlines()
    assert table[0].split() == ["op", "name", "module", "t", "shape", "‖value‖", "‖grad‖", "uses"]
    assert len(table) == len(graph) + 1
    assert len({len(line) for line in table}) <= 2  # aligned, but for names at the end
    node = graph.select(name="h", time=2)[0]
    row = table[1 + graph.nodes.index(node)].split()
    value, grad = (float(np.linalg.norm(host(x))) for x in (node.value, node.grad))
    assert row == ["tanh", "h", "rnn.l0", "2", "(2,", "3)", f"{value:.3e}", f"{grad:.3e}", "2"]
    short = graph.table(max_rows=5).splitlines()
    assert len(short) == 7
    assert f"… {len(graph) - 5} more" in short[4]
    assert graph.table(max_rows=len(graph)) == graph.table(max_rows=None)


# --- when it may be used ------------------------------------------------------------------------


def test_nothing_is_freed_and_no_gradient_is_touched() -> None:
    model = Model()
    loss = model(tg.ones((4, 2, 1))).sum()
    trace(loss)
    graph = trace(loss)
    assert all(p.grad is None for p in model.parameters())
    expected = {n: n.grad.copy() for n in graph.nodes if n.requires_grad}
    loss.backward()
    for name, p in model.named_parameters():
        assert_same_bits(p.grad, expected[graph.select(name=name, op="leaf")[0]], name)
    for node, grad in expected.items():  # values, gradients and structure outlive the graph
        assert_same_bits(node.grad, grad)
        assert node.value.shape == node.shape
        assert len(node.inputs) == len({id(x._node) for x in node.inputs})
    assert graph.table().count("\n") == len(graph)
    with pytest.raises(tg.FreedGraphError, match=r"tanh, in rnn.l0 at t = 0.*retain_graph=True"):
        _ = graph.select(op="add", time=0, module="rnn.l0")[0].edges
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        trace(loss)


def test_retaining_the_graph_keeps_everything() -> None:
    loss = Model()(tg.ones((4, 2, 1))).sum()
    loss.backward(retain_graph=True)
    graph = trace(loss)
    loss.backward()
    assert len(graph.nodes) > 20


def test_a_cotangent_to_start_from() -> None:
    w = leaf(np.array([1.0, 2.0]))
    graph = trace(w * w, np.array([10.0, 1.0]))
    assert_same_bits(node_of(graph, w).grad, np.array([20.0, 4.0]))
    with pytest.raises(tg.ShapeError, match=r"trace: the output.*\(2,\)"):
        trace(w * w)
    with pytest.raises(tg.ShapeError, match=r"cotangent.*\(3,\)"):
        trace(w * w, np.ones(3))
    with pytest.raises(tg.GraphError, match=r"trace: .*output.*requires_grad=True"):
        trace(const(np.ones(())))
    with pytest.raises(tg.DTypeError, match=r"trace: .*output.*float"):
        trace(2.0)  # type: ignore[arg-type]


def test_a_parameter_is_a_graph_of_one_node() -> None:
    w = leaf(np.array(3.0))
    (node,) = trace(w).nodes
    assert (node.op, float(node.grad), node.edges, node.inputs) == ("leaf", 1.0, [], [])


def test_values_changed_in_place_are_refused() -> None:
    w = leaf(np.ones(2))
    loss = (w * w).sum()
    write(w, 5.0)
    with pytest.raises(tg.InPlaceError):
        trace(loss)


def test_deep_graphs_take_linear_time() -> None:
    def seconds(T: int) -> float:
        rnn = tg.nn.RNN(1, 2, rng=0)
        loss = rnn(tg.ones((T, 1, 1)))[0].sum()
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            graph = trace(loss)
            graph.table()
            for node in graph.select(name="h"):
                _ = node.edges
            best = min(best, time.process_time() - start)
        return best

    assert seconds(2000) < 30 * seconds(250)  # 8 times the steps


def test_graphs_deeper_than_the_recursion_limit() -> None:
    T = 5000
    assert sys.getrecursionlimit() < T
    graph = trace(tg.nn.RNN(1, 2, rng=0)(tg.ones((T, 1, 1)))[0].sum())
    assert len(graph.select(name="h")) == T + 1
    assert graph.table(max_rows=None).count("\n") == len(graph)


def test_a_node_costs_a_few_microseconds() -> None:
    """The time is compared with a plain backward pass over one graph, in one run."""
    loss = tg.nn.RNN(1, 4, rng=0)(tg.ones((2000, 1, 1)))[0].sum()

    def seconds(run: Any) -> float:
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            run()
            best = min(best, time.process_time() - start)
        return best

    plain = seconds(lambda: loss.backward(retain_graph=True))
    assert seconds(lambda: trace(loss)) < 4 * plain
