"""Nodes of a traced graph among the outputs and inputs of ``tg.grad``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, const, host, leaf

EXACT = 1e-13


def model(fused: bool = True) -> tuple[Any, tg.Tensor]:
    layer = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
    x = const(np.random.default_rng(0).normal(size=(6, 2, 2)))
    return layer, (layer(x)[0] ** 2).sum()


def test_nodes_of_a_plain_graph() -> None:
    x = leaf([1.0, 2.0])
    y = x * x
    z = tg.exp(y)
    loss = z.sum()
    graph = tg.inspect.trace(loss)
    leaf_node, square, _, total = graph.nodes
    found = tg.grad(loss, [square, x, leaf_node, z], retain_graph=True)
    expected = tg.grad(loss, [y, x, x, z], retain_graph=True)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, EXACT)
    (of_node,) = tg.grad(total, square, retain_graph=True)
    assert_close(of_node, square.grad, EXACT)
    (of_part,) = tg.grad(square, leaf_node, grad_outputs=np.array([1.0, 0.0]), retain_graph=True)
    assert_close(of_part, [2.0, 0.0], EXACT)


@pytest.mark.parametrize("fused", [True, False])
def test_states_and_gates_of_a_layer(fused: bool) -> None:
    """This holds inside a fused layer too, beside its parameters and operations before the layer."""
    layer, loss = model(fused)
    graph = tg.inspect.trace(loss)
    nodes = [*graph.select(name="c", time=2), *graph.select(name="f", time=4)]
    whole = [n for n in graph.nodes if n.op in ("leaf", "power") and n.requires_grad]
    inputs = [nodes[0], layer.weight_hh_l0, nodes[1], *whole, loss]
    found = tg.grad(loss, inputs, retain_graph=True)
    for node, g in zip(nodes, (found[0], found[2]), strict=True):
        assert_close(g, node.grad, EXACT)
    assert_close(found[1], tg.grad(loss, layer.weight_hh_l0, retain_graph=True)[0], EXACT)
    for node, g in zip(whole, found[3:], strict=False):
        assert_close(g, node.grad, EXACT)
    assert host(found[-1]) == 1
    assert_close(tg.grad(graph.nodes[-1], nodes[0], retain_graph=True)[0], nodes[0].grad, EXACT)


def test_a_penalty_on_the_gradient_of_a_state() -> None:
    """Its derivative by a weight, beside that of finite differences."""
    layer, loss = model()
    (c,) = tg.inspect.trace(loss).select(name="c", time=2)
    (g,) = tg.grad(loss, c, create_graph=True)
    assert g is not None
    (found,) = tg.grad((g**2).sum(), layer.weight_hh_l0)

    def penalty() -> float:
        x = const(np.random.default_rng(0).normal(size=(6, 2, 2)))
        graph = tg.inspect.trace((layer(x)[0] ** 2).sum())
        return float((graph.select(name="c", time=2)[0].grad ** 2).sum())

    values, step = host(layer.weight_hh_l0).copy(), 1e-6
    for at in ((0, 0), (5, 1), (11, 2)):
        sides = []
        for sign in (1, -1):
            moved = values.copy()
            moved[at] += sign * step
            layer.weight_hh_l0.assign(moved)
            sides.append(penalty())
        assert host(found)[at] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


def test_what_the_outputs_do_not_depend_on() -> None:
    _, loss = model()
    graph = tg.inspect.trace(loss)
    early, late = graph.select(name="h", time=1)[0], graph.select(name="h", time=4)[0]
    other = leaf([1.0])
    found = tg.grad(early, [late, other], grad_outputs=np.ones((2, 3)), retain_graph=True)
    assert found == [None, None]
    x = next(n for n in graph if n.shape == (6, 2, 2) and not n.requires_grad)
    assert tg.grad(loss, x, retain_graph=True) == [None]


def test_what_is_refused() -> None:
    _, loss = model()
    graph = tg.inspect.trace(loss)
    (c,) = graph.select(name="c", time=2)
    (scan,) = [n for n in graph if n.is_fused]
    alone = graph.expand(scan, time=2).select(name="c", time=2)[0]
    other = tg.inspect.trace(model()[1]).select(name="c", time=2)[0]
    for outputs, inputs, error, words in (
        (loss, alone, tg.GraphError, "has one layer; take the node from graph.select"),
        (
            loss * 2,
            c,
            tg.GraphError,
            "multiply is not in the traced graph; trace the loss",
        ),
        (loss, [c, other], tg.GraphError, "node of another graph"),
        (loss, [c, scan], tg.GraphError, "is a fused layer; take a state"),
        (loss, [c, "h"], tg.ArgumentError, "must be Tensors or nodes of a traced graph"),
        (loss, "h", tg.ArgumentError, "must be Tensors or nodes of a traced graph"),
    ):
        with pytest.raises(error, match=words):
            tg.grad(outputs, inputs, retain_graph=True)  # type: ignore[arg-type]
    tg.grad(loss, c)
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        tg.grad(loss, c)
