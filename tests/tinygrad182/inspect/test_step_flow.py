"""``step_flow`` against the nodes of a traced graph, whose numbers are computed in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

import models
import tinygrad182 as tg
from tinygrad182.errors import ArgumentError, UnknownPathError
from tinygrad182.inspect.loops.step_rows import Rows, plus

RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 3, 2))


class Leaky(tg.nn.RecurrentLayer):
    gates = ("a", "b")
    state = ("h", "m")

    @staticmethod
    def step(xp, x, h, state):
        z = x + h
        n = z.shape[-1] // 2
        a, b = xp.sigmoid(z[..., :n]), xp.tanh(z[..., n:])
        m = 0.5 * state[1] + a * b
        return a * xp.tanh(m) + 0.1 * state[0], m


CELLS = {"RNN": tg.nn.RNN, "LSTM": tg.nn.LSTM, "GRU": tg.nn.GRU, "own": Leaky}


def _loss(cell, fused=True, every=True, **kwargs):
    layer = CELLS[cell](2, 4, rng=0, dtype="float64", fused=fused)
    output, _ = layer(tg.tensor(X), **kwargs)
    return ((output if every else output[-1]) ** 2).sum()


def _log10(array):
    norm = np.linalg.norm(array)
    return math.log10(norm) if norm else -math.inf


def _states(graph, name):
    return {node.time: node for node in graph.select(name=name) if node.op != "leaf"}


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_the_states_of_a_fused_layer_are_those_of_its_opened_graph(cell, every):
    loss = _loss(cell, every=every)
    flow = tg.inspect.step_flow(loss)
    graph = tg.inspect.trace(loss).opened()
    for name in CELLS[cell].state:
        for t, node in _states(graph, name).items():
            assert flow[name].log10_value_norm[t] == pytest.approx(_log10(node.value), abs=1e-9)
            assert flow[name].log10_grad_norm[t] == pytest.approx(_log10(node.grad), abs=1e-9)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "own"])
def test_gates_have_names_and_the_gradients_of_the_opened_graph(cell):
    loss = _loss(cell)
    flow = tg.inspect.step_flow(loss)
    gates = [operation for operation in flow.operations if operation.kind == "gate"]
    assert [gate.name for gate in gates] == list(CELLS[cell].gates)
    graph = tg.inspect.trace(loss).opened()
    for gate in gates:
        for t in range(len(X)):
            (node,) = graph.select(name=gate.name, time=t)
            assert gate.log10_grad_norm[t] == pytest.approx(_log10(node.grad), abs=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_as_one_operation_and_step_by_step_has_one_flow(cell):
    fused, unrolled = (tg.inspect.step_flow(_loss(cell, fused)) for fused in (True, False))
    shared = {operation.label for operation in unrolled.operations}
    assert {"h₋", "h"} <= shared
    for operation in fused.operations:
        if operation.label in shared:
            other = unrolled[operation.label]
            assert other.kind == operation.kind or other.kind == "input"
            for field in ("log10_value_norm", "log10_grad_norm"):
                np.testing.assert_allclose(
                    getattr(other, field),
                    getattr(operation, field),
                    atol=1e-9,
                    err_msg=operation.label,
                )
    pairs = 0
    for edge in fused.edges:
        ends = (fused[edge.source].label, _end(fused, edge))
        if set(ends) <= shared | {"next step", "loss"}:
            other = unrolled.edge(*ends)
            pairs += 1
            np.testing.assert_allclose(other.share, edge.share, atol=1e-9, err_msg=str(ends))
            np.testing.assert_allclose(other.log10_norm, edge.log10_norm, atol=1e-9)
    assert pairs >= 4


def _end(flow, edge):
    return edge.target if isinstance(edge.target, str) else flow[edge.target].label


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_the_shares_of_an_operation_add_up_to_one(cell, fused):
    flow = tg.inspect.step_flow(_loss(cell, fused))
    sums = {}
    for edge in flow.edges:
        sums[edge.source] = sums.get(edge.source, 0.0) + edge.share
    for i, total in sums.items():
        if flow[i].kind != "before":
            expected = np.where(np.isneginf(flow[i].log10_grad_norm), np.nan, 1.0)
            np.testing.assert_allclose(total, expected, atol=1e-9, err_msg=flow[i].label)


def test_what_comes_back_over_an_edge_is_what_the_traced_graph_sends_over_it():
    loss = _loss("LSTM", fused=False)
    flow, graph = tg.inspect.step_flow(loss), tg.inspect.trace(loss)
    for t, node in _states(graph, "c").items():
        total = np.sum(node.grad**2)
        through_h = next(edge for edge in node.edges if edge.consumer.op == "tanh")
        edge = flow.edge("c", "tanh(c)")
        assert edge.share[t] == pytest.approx(
            np.sum(through_h.cotangent * node.grad) / total, abs=1e-9
        )
        assert edge.log10_norm[t] == pytest.approx(_log10(through_h.cotangent), abs=1e-9)


def test_norms_far_below_the_type_follow_the_closed_form():
    rnn = tg.nn.RNN(1, 3, nonlinearity="identity", rng=0)
    rnn.weight_hh_l0.data[...] = 0.25 * np.eye(3)
    flow = tg.inspect.step_flow(rnn(tg.ones((400, 2, 1)))[0][-1].sum())
    expected = math.log10(math.sqrt(6)) + np.arange(-399, 1) * math.log10(4)
    np.testing.assert_allclose(flow["h"].log10_grad_norm, expected, rtol=1e-9)
    np.testing.assert_allclose(flow["W_hh h₋"].log10_grad_norm, expected, rtol=1e-9)
    np.testing.assert_allclose(flow["h₋"].log10_grad_norm, expected - math.log10(4), rtol=1e-9)
    np.testing.assert_allclose(flow.edge("h₋", "W_hh h₋").share, 1.0, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_vectors_are_the_values_and_gradients_of_one_sequence(fused):
    loss = _loss("LSTM", fused)
    flow = tg.inspect.step_flow(loss)
    graph = tg.inspect.trace(loss).opened()
    vectors = flow.vectors("c", [2, 7], sample=1)
    assert vectors.time.tolist() == [2, 7]
    for k, t in enumerate([2, 7]):
        node = _states(graph, "c")[t]
        np.testing.assert_allclose(vectors.value[k], node.value[1], rtol=1e-9)
        assert np.abs(vectors.grad[k]).max() == 1.0
        grad = vectors.grad[k] * 10 ** vectors.log10_scale[k]
        np.testing.assert_allclose(grad, node.grad[1], rtol=1e-9)


def test_a_sequence_that_is_over_hands_its_state_on():
    layer = tg.nn.LSTM(2, 4, rng=0, dtype="float64")
    output, _ = layer(tg.tensor(X), lengths=[9, 4, 0])
    loss = (output**2).sum()
    flow, graph = tg.inspect.step_flow(loss), tg.inspect.gradient_flow(loss)["lstm.l0"]
    for name in "hc":
        np.testing.assert_allclose(
            flow[name].log10_grad_norm, graph[name].log10_grad_norm, atol=1e-9
        )


def test_depth_stands_where_time_stands():
    net = models.ResidualNet(2, 4, depth=5, rng=0, dtype="float64")
    loss = (net(tg.tensor(X[0])) ** 2).sum()
    flow, graph = tg.inspect.step_flow(loss), tg.inspect.trace(loss)
    assert flow["branch"].kind == "state"
    for t, node in _states(graph, "h").items():
        if t >= 0:
            assert flow["h"].log10_grad_norm[t] == pytest.approx(_log10(node.grad), abs=1e-9)
    around = flow.edge("h₋", "h").share + flow.edge("h₋", "W h₋").share
    np.testing.assert_allclose(around, 1.0, atol=1e-9)


def test_a_loop_of_your_own_is_found_by_its_marks():
    w = tg.tensor(RNG.normal(size=(4, 4)) / 2, requires_grad=True)
    v = tg.tensor(RNG.normal(size=(2, 4)), requires_grad=True)
    h, x = tg.zeros((3, 4), dtype="float64"), tg.tensor(X)
    for t in range(len(X)):
        h = tg.inspect.mark(tg.tanh(x[t] @ v + h @ w), "h", time=t)
    loss = (h**2).sum()
    flow, graph = tg.inspect.step_flow(loss), tg.inspect.trace(loss)
    assert [o.label for o in flow.operations if o.kind == "before"] == ["h₋"]
    for t, node in _states(graph, "h").items():
        assert flow["h"].log10_grad_norm[t] == pytest.approx(_log10(node.grad), abs=1e-9)
    assert np.isnan(flow["h₋"].log10_value_norm[0])  # the first step has no state before it
    assert np.isfinite(flow["h₋"].log10_grad_norm[1:]).all()


def test_gradients_that_are_zero_infinite_or_nan_are_reported_unchanged():
    rnn = tg.nn.RNN(1, 2, nonlinearity="relu", rng=0, dtype="float64")
    rnn.weight_hh_l0.data[...] = np.eye(2)
    rnn.weight_ih_l0.data[...] = 1.0
    rnn.bias_ih_l0.data[...] = 0.0
    x = np.ones((6, 1, 1))
    x[3] = -9.0  # all units are dead at this step
    flow = tg.inspect.step_flow(rnn(tg.tensor(x))[0][-1].sum())
    assert np.isneginf(flow["h"].log10_grad_norm[:3]).all()
    assert np.isfinite(flow["h"].log10_grad_norm[3:]).all()
    assert np.isnan(flow.edge("h", "next step").share[:2]).all()
    x[2] = np.nan
    flow = tg.inspect.step_flow(rnn(tg.tensor(x))[0][-1].sum())
    assert np.isnan(flow["h"].log10_value_norm[2:]).all()
    assert np.isfinite(flow["h"].log10_value_norm[:2]).all()


def test_the_sum_of_rows_at_different_powers():
    a = Rows(np.array([[[1.0, 2.0]]]), np.array([[100]]))
    b = Rows(np.array([[[3.0, -8.0]]]), np.array([[98]]))
    total = plus(a, b)
    assert total.log10_norm()[0] == pytest.approx(math.log10(1.75) + 100 * math.log10(2), abs=1e-12)


def test_unknown_operations_and_steps_raise():
    flow = tg.inspect.step_flow(_loss("LSTM"))
    with pytest.raises(UnknownPathError, match=r"no operation 'q' in 'lstm.l0'.*'h₋'"):
        flow["q"]
    with pytest.raises(UnknownPathError, match=r"'f' is not used by 'g'; it is by 'f∘c₋'"):
        flow.edge("f", "g")
    with pytest.raises(ArgumentError, match="the steps are 0 to 8"):
        flow.vectors("f", [12])
    with pytest.raises(ArgumentError, match="the batch has 3 sequences"):
        flow.vectors("f", [2], sample=3)
    with pytest.raises(UnknownPathError, match=r"no states in 'gru'"):
        tg.inspect.step_flow(_loss("LSTM"), path="gru")


def _loop(step, state, steps=6):
    """The last state of a loop of your own, and all of them."""
    states = []
    for t in range(steps):
        state = tg.inspect.mark(step(t, state), "h", time=t)
        states.append(state)
    return state, states


def test_operations_of_steps_that_differ_are_in_order_and_have_labels_of_their_own():
    w, u = (tg.tensor(RNG.normal(size=(4, 4)), requires_grad=True) for _ in range(2))
    x = tg.tensor(RNG.normal(size=(6, 2, 4)))

    def step(t, h):
        return tg.tanh(x[t] @ u) if h is None else (x[t] @ u) * 0.1 + h @ w

    flow = tg.inspect.step_flow(_loop(step, None)[0].sum())
    labels = [operation.label for operation in flow.operations]
    assert len(set(labels)) == len(labels)
    assert labels.count("h") == 1
    assert all(isinstance(e.target, str) or e.source < e.target for e in flow.edges)
    assert np.isfinite(flow["h"].log10_grad_norm).all()
    assert flow.vectors("W h₋", [0, 1]).time.tolist() == [1]


def test_what_the_loss_itself_is_gets_its_gradient_from_the_loss():
    w = tg.tensor(1.5, requires_grad=True)
    loss, _ = _loop(lambda t, h: tg.tanh(h * w), tg.tensor(0.3, requires_grad=True))
    flow = tg.inspect.step_flow(loss)
    assert flow.edge("h", "loss").share[-1] == 1.0


def test_a_batch_without_sequences_has_no_gradient():
    w = tg.tensor(np.eye(4), requires_grad=True)
    loss = _loop(lambda t, h: tg.tanh(h @ w), tg.zeros((0, 4), dtype="float64"))[0].sum()
    assert np.isneginf(tg.inspect.step_flow(loss)["h"].log10_grad_norm).all()


def test_numbers_that_went_wrong_are_shown_without_a_warning(recwarn):
    layer = tg.nn.LSTM(2, 4, rng=0)
    flow = tg.inspect.step_flow(layer(tg.full((6, 3, 2), math.inf))[0].sum())
    assert np.isnan(flow["h"].log10_grad_norm[:-1]).all()
    assert np.isnan(flow.vectors("h", [5]).value).all()
    assert not recwarn.list
