"""Nodes of the recorded graph: what they hold, and the edges between them."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.support import array, const, host, leaf
from tinygrad182.engine.backpropagation import ancestors, backpropagate


def test_what_a_new_node_holds() -> None:
    x = leaf([1.0])
    y = x * 2
    assert x._node is not None
    assert y._node is not None
    assert (x._node.keeps_grad, y._node.keeps_grad) == (True, False)
    assert (x._node.params, y._node.params) == ({}, {})
    assert (x._node.inputs, x._node.marks, x._node.grad) == ((), (), None)


def test_a_recorded_gradient_is_the_one_that_was_computed() -> None:
    x = leaf([1.0, 2.0])
    (g,) = tg.grad((x * x).sum(), x, create_graph=True)
    assert g is not None
    assert g._node is not None
    assert g._node.op == "add"  # of the two edges: nothing was added to the graph for a copy


def test_what_lies_behind_the_targets_stays() -> None:
    x = leaf([1.0, 2.0])
    h = x * x
    assert tg.grad((h * h).sum(), h)[0] is not None
    h.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 4.0]


def test_constants_among_the_nodes_a_caller_knows_get_nothing() -> None:
    x, c = leaf([1.0, 2.0]), const([3.0, 4.0])
    y = (x * c + c).sum()
    assert y._node is not None
    nodes = ancestors([y._node], constants=True)
    assert c._node in nodes
    passed: list[Any] = []
    backpropagate([(y._node, array(1.0))], visit=lambda node, g: passed.append(node), nodes=nodes)
    assert passed == [node for node in reversed(nodes) if node is not c._node]


def test_an_edge_names_its_place_among_the_inputs() -> None:
    x = tg.tensor(3.0, requires_grad=True)
    graph = tg.inspect.trace((2 - x * x) * 5)
    for node in graph:
        for edge in node.edges:
            assert edge.consumer.inputs[edge.position] == node


def test_the_uses_of_a_weight_are_found_by_its_name() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0, dtype="float64", fused=False)
    output, _ = rnn(tg.ones((5, 2, 1), dtype="float64"))
    graph = tg.inspect.trace(output[-1].sum())
    (weight,) = graph.select(name="weight_hh_l0")
    (transposed,) = weight.consumers  # taken once, used at every step
    assert [edge.consumer.time for edge in transposed.edges] == [0, 1, 2, 3, 4]
    total = sum(host(edge.cotangent) for edge in transposed.edges)
    np.testing.assert_allclose(total.T, host(weight.grad), rtol=1e-13)
