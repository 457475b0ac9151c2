"""Shares of a gradient that pass operations: against removal, forward mode and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from models.residual import ResidualNet
from tests.support import Array, assert_close, const, host, leaf
from tinygrad182.engine.backpropagation import backpropagate, descendants, gather, pull
from tinygrad182.engine.modes import no_grad
from tinygrad182.engine.recording import Node
from tinygrad182.inspect.views import through as module_under_test
from tinygrad182.inspect.views.through import shares_through
from tinygrad182.primitives.index import Slice
from tinygrad182.transforms.derivatives import push_forward

from .test_trace import random_graph

EXACT = 1e-12


def without(graph: Any, target: Node, removed: set[Node]) -> Array:
    """The target's gradient if some nodes passed nothing back."""

    def edge(consumer: Node, parent: Node, cotangent: Any) -> Any:
        return None if parent in removed and parent is not target else cotangent

    seeds = [(node, g) for node, g in graph._seeds if node not in removed]
    with no_grad():
        found = backpropagate(seeds, {target}, edge=edge, retain_graph=True) if seeds else {}
    return host(found[target]) if target in found else np.zeros(target.value.shape)


def removed_shares(graph: Any, target: Node, step: list[Node]) -> tuple[dict[Node, float], float]:
    """The share of each operation by removal, and the share that passes none of them."""
    whole = without(graph, target, set())
    square = float((whole**2).sum())
    shares = {
        v: float(((whole - without(graph, target, {v})) * whole).sum()) / square for v in step
    }
    return shares, float((without(graph, target, set(step)) * whole).sum()) / square


def forward_entering(graph: Any, target: Node, step: list[Node]) -> dict[Node, float]:
    """Forward mode: the target moves along its gradient, and no operation of the step lets that through.

    What then still moves are the inputs of the step, by the first ways to it alone.
    """
    delta = graph._grads[target]
    tangents: dict[Node, Any] = {v: np.zeros_like(v.value) for v in step}
    tangents[target] = delta
    with no_grad():
        for v in step:
            push_forward(
                [x for x in v.inputs or () if isinstance(x, Node) and x.requires_grad], tangents
            )
        shares: dict[Node, float] = {}
        for v in step:
            inputs = {x for x in v.inputs or () if isinstance(x, Node) and x not in step}
            for u, g in pull(v, graph._grads[v], inputs):
                g = gather(u, [g]) if type(g) is Slice else g
                shares[u] = shares.get(u, 0.0) + float((tangents.get(u, 0.0) * g).sum())
    return {u: share / float((delta**2).sum()) for u, share in shares.items()}


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 2**16))
def test_random_graphs(seed: int, steps: int, chosen: int) -> None:
    """A random set of operations, which need be no cut and may be left and entered again."""
    loss, _ = random_graph(seed, steps)
    graph = tg.inspect.trace(loss)
    rng = np.random.default_rng(chosen)
    reached = [n for n in graph._order if n in graph._grads]
    target = reached[rng.integers(len(reached) - 1)]
    every = descendants({target}, graph._order)
    later = [n for n in every if n in graph._grads and n is not target]
    step = [n for n in later if rng.random() < 0.4] or later[:1]
    if not np.abs(graph._grads[target]).max() > 1e-3:
        return  # the gradient cancels, and so would all digits of the comparison
    shares, entering = shares_through(graph._seeds, graph._order, target, step)
    removed, elsewhere = removed_shares(graph, target, step)
    scale = max(1.0, *map(abs, removed.values()))
    assert shares.keys() == removed.keys()
    for v, share in shares.items():
        assert abs(share - removed[v]) < 1e-9 * scale, v.op
    moved = forward_entering(graph, target, step)
    for u, share in entering.items():
        assert abs(share - moved[u]) < 1e-9 * scale, u.op
    assert abs(sum(moved.values()) + elsewhere - 1) < 1e-9 * scale
    assert abs(sum(entering.values()) + elsewhere - 1) < 1e-9 * scale


def traced(kind: str, steps: int = 10, last: bool = True, **options: Any) -> tg.inspect.Graph:
    rng = np.random.default_rng(1)
    layer = getattr(tg.nn, kind)(2, 4, rng=0, dtype="float64", **options)
    output = layer(const(rng.normal(size=(steps, 3, 2))))[0]
    return tg.inspect.trace(((output[-1] if last else output) ** 2).sum())


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("options", [{}, {"fused": False}, {"num_layers": 2}])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_each_share_is_what_removal_takes_away(
    kind: str, options: dict[str, Any], last: bool
) -> None:
    graph = traced(kind, last=last, **options)
    (state,) = graph.select(name="h", time=3, module=f"{kind.lower()}.l0")
    found = graph.through(state, time=7)
    removed, elsewhere = removed_shares(
        graph.opened(), state._node, [n._node for n in found.shares]
    )
    for node, share in found.shares.items():
        assert abs(share - removed[node._node]) < EXACT, node
    assert abs(found.elsewhere - elsewhere) < EXACT
    if last:
        assert abs(sum(found.entering.values()) - 1) < EXACT


def test_cuts_of_a_step_of_an_lstm_add_up_to_one() -> None:
    graph = traced("LSTM", fused=False)
    found = graph.through(("c", 3), time=7)
    (forget_path, write_path, h) = graph.select(op="multiply", time=7)
    (c,), (tanh,) = graph.select(name="c", time=7), graph.select(op="tanh", time=7)[1:]
    (o,) = graph.select(name="o", time=7)
    share = found.shares
    assert tanh.inputs == [c]
    assert forget_path.inputs[0].name == "f"
    assert abs(share[forget_path] + share[write_path] - share[c]) < EXACT
    assert abs(share[tanh] + share[o] - share[h]) < EXACT
    # on to c_8 alone or through h_7: the first is what c sends to its other use
    later = graph.through(("c", 3), time=8)
    assert abs(share[h] + share[c] - share[tanh] - 1) < EXACT
    assert {n.name: s for n, s in later.entering.items()} == pytest.approx(
        {"c": share[c] - share[tanh], "h": share[h]}, abs=EXACT
    )


def test_a_gate_stopped_in_a_loop_takes_its_share_away() -> None:
    """An LSTM by hand, whose forget path at t = 4 is detached."""
    rng = np.random.default_rng(0)
    W, U = (rng.normal(size=(16, n)) for n in (2, 4))
    xs = rng.normal(size=(8, 3, 2))

    def run(stop: bool) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
        h = c = const(np.zeros((3, 4)))
        start = path = c
        for t, x in enumerate(xs):
            z = const(x) @ leaf(W).T + h @ leaf(U).T
            i, f, o = (tg.sigmoid(z[:, 4 * k : 4 * k + 4]) for k in range(3))
            kept = f * c
            if t == 4:
                path = kept
                kept = kept.detach() if stop else kept
            c = tg.inspect.mark(kept + i * tg.tanh(z[:, 12:]), "c", t)
            h = tg.inspect.mark(o * tg.tanh(c), "h", t)
            start = c if t == 1 else start
        return (h**2).sum(), start, path

    loss, _, path = run(stop=False)
    graph = tg.inspect.trace(loss)
    whole, rest = graph.select(name="c", time=1)[0].grad, tg.grad(*run(stop=True)[:2])[0]
    assert rest is not None
    (node,) = [n for n in graph if n._node is path._node]
    share = graph.through(("c", 1), time=4).shares[node]
    assert abs(share - ((whole - host(rest)) * whole).sum() / (whole**2).sum()) < EXACT


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("start", "time"), [(3, 7), (3, 990), (900, 990)])
def test_any_magnitude(dtype: str, factor: float, start: int, time: int) -> None:
    """h' = a h + b h: of every gradient, a / (a + b) goes one way, also where it is 1e-2000."""
    a, b = 3 * factor / 4, factor / 4
    h = tg.tensor([[0.0, -0.0]], dtype=dtype, requires_grad=True)  # and so are all states
    for t in range(1000):
        h = tg.inspect.mark(a * h + b * h, "h", t)
    found = tg.inspect.trace(h.sum()).through(("h", start), time=time)
    close = 1e-5 if dtype == "float32" else EXACT
    assert [*found.shares.values()] == pytest.approx([1, 0.75, 0.25], rel=close)
    assert [*found.entering.values()] == pytest.approx([1], rel=close)


def test_a_fused_layer_far_below_its_type() -> None:
    """float32 beside float64, at a gradient that is 0 in float32."""
    shares = []
    for dtype in ("float32", "float64"):
        layer = tg.nn.LSTM(1, 4, forget_bias=-4.0, rng=0, dtype=dtype)
        graph = tg.inspect.trace(layer(tg.ones((100, 2, 1), dtype=dtype))[0][-1].sum())
        found = graph.through(("c", 5), time=70)
        shares.append([found.shares[n] for n in sorted(found.shares, key=lambda n: n._node.order)])
        (c,) = graph.select(name="c", time=5)
        assert (np.abs(c.grad).max() == 0) == (dtype == "float32")
        assert abs(sum(found.entering.values()) - 1) < 1e-4
    assert_close(shares[0], np.array(shares[1]), 1e-3)


def test_a_gradient_of_exactly_zero_has_no_shares() -> None:
    x = leaf([1.0, 2.0])
    y = x * 0.0
    graph = tg.inspect.trace((y * 0.0).sum())
    found = graph.through(graph.nodes[-3])
    assert all(math.isnan(s) for s in found.shares.values())
    assert math.isnan(found.elsewhere)
    assert "nan" in repr(found)


def test_a_residual_network_by_block() -> None:
    net = ResidualNet(3, 4, 2, depth=3, rng=0)
    graph = tg.inspect.trace((net(tg.ones((2, 3))) ** 2).sum())
    (h,) = graph.select(name="h", time=-1)
    found = graph.through(h, module="blocks.1")
    branch = next(s for n, s in found.shares.items() if n.name == "branch")
    assert abs(branch + found.elsewhere - 1) < 1e-6
    every = graph.through(h)
    for name, share in ((n.name, s) for n, s in every.shares.items() if n.name == "h"):
        assert abs(share - 1) < 1e-5, name


def test_an_encoder_and_a_decoder() -> None:
    """From a state of the encoder through a step of the decoder, which all ways lead through."""
    encoder, decoder = tg.nn.GRU(2, 4, rng=0), tg.nn.GRU(2, 4, rng=1)
    _, state = encoder(tg.ones((5, 3, 2)))
    graph = tg.inspect.trace(decoder(tg.ones((6, 3, 2)), state)[0][-1].sum())
    both = graph.select(name="h", time=2)
    assert len(both) == 2
    found = graph.through(both[0], time=3)
    assert {n.name for n in found.entering} == {"h"}
    assert abs(sum(found.entering.values()) - 1) < 1e-5


def test_how_a_target_is_given() -> None:
    loss = tg.nn.LSTM(2, 4, rng=0)(tg.ones((6, 3, 2)))[0].sum()
    graph = tg.inspect.trace(loss)
    (c,) = graph.select(name="c", time=2)
    by_name = graph.through(("c", 2), time=4)
    assert by_name.target == c
    assert by_name.shares == graph.through(c, time=4).shares
    assert by_name.shares == graph.opened().through(c, time=4).shares
    (weight,) = [n for n in graph if n.name == "weight_hh_l0"]
    assert graph.through("weight_hh_l0", time=4).shares == graph.through(weight, time=4).shares
    (scan,) = [n for n in graph if n.is_fused]
    (x,) = [n for n in graph if n.shape == (6, 3, 2)]
    inside = graph.expand(scan).nodes[0]
    other = tg.inspect.trace(tg.sum(leaf([1.0]) * 2)).nodes[0]
    for target, options, error, words in (
        (scan, {"time": 4}, tg.GraphError, "is a fused layer; take a state"),
        (x, {"time": 4}, tg.GraphError, "no gradient by <leaf"),
        (inside, {"time": 4}, tg.GraphError, "node of another graph"),
        (other, {"time": 4}, tg.GraphError, "node of another graph"),
        ("c", {"time": 4}, tg.ArgumentError, "must be one node, and 7 nodes have this name"),
        (
            ("c", 99),
            {"time": 4},
            tg.ArgumentError,
            r"and no node has this name; give one of graph.select\(name='c'\)",
        ),
        (("cell", 2), {"time": 4}, tg.UnknownPathError, "'cell'"),
        (("c", 2), {"time": 1}, tg.ArgumentError, "no operation at t = 1 .* belong to t = 2 to 5"),
        (
            ("c", 2),
            {"module": "gru"},
            tg.ArgumentError,
            "no operation of 'gru' .* belong to 'lstm.l0'",
        ),
        (graph.nodes[-1], {}, tg.ArgumentError, "take one that the loss is computed from"),
    ):
        with pytest.raises(error, match=words):
            graph.through(target, **options)  # type: ignore[arg-type]


def test_a_graph_that_was_freed() -> None:
    """Fused recurrences that were opened before are not freed: they were recorded for the trace alone."""
    for fused in (False, True):
        loss = tg.nn.LSTM(2, 4, rng=0, fused=fused)(tg.ones((6, 3, 2)))[0].sum()
        graph = tg.inspect.trace(loss)
        before = graph.through(("c", 2), time=4).shares if fused else {}
        loss.backward()
        if fused:
            assert graph.through(("c", 2), time=4).shares == before
        else:
            with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
                graph.through(("c", 2), time=4)


def test_a_recurrence_that_was_opened_alone() -> None:
    graph = traced("LSTM")
    (scan,) = [n for n in graph if n.is_fused]
    whole = graph.through(("c", 3), time=7)
    alone = graph.expand(scan).through(("c", 3), time=7)
    for (a, share), (b, other) in zip(whole.shares.items(), alone.shares.items(), strict=True):
        assert (a.op, a.name) == (b.op, b.name)
        assert abs(share - other) < EXACT


def test_rows_that_do_not_go_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("GRU")
    together = graph.through(("h", 3), time=7)
    monkeypatch.setattr(module_under_test, "ELEMENTS", 1000)
    for node, share in graph.through(("h", 3), time=7).shares.items():
        assert abs(share - together.shares[node]) < EXACT


def test_how_it_prints() -> None:
    graph = traced("LSTM")
    found = graph.through(("c", 3), time=7)
    first, header, *rows = repr(found).splitlines()
    assert first == "∂L/∂c at t = 3 in lstm.l0 through t = 7:"
    assert header.split() == ["share", "operation", "module", "t"]
    assert len(rows) == 12
    assert {"f∘c₋", "i∘g", "f", "c", "z"} <= {row.split()[1] for row in rows}
    sizes = [abs(s) for s in found.shares.values()]
    assert all(a >= b - 1e-5 for a, b in pairwise(sizes))
    assert rows[-1].startswith("From there ")
    assert rows[-1].endswith("0.000 passes elsewhere.")
    assert len(found.table(3).splitlines()) == 5
    assert found.table(3).splitlines()[-1].split() == ["…", "8", "more"]


@pytest.mark.parametrize("target", [5, None, ("c",), ("c", 1, 2)])
def test_a_target_that_is_not_a_node_is_refused(target):
    graph = tg.inspect.trace(tg.nn.LSTM(1, 4, rng=0)(tg.ones((3, 1, 1)))[0][-1].sum())
    with pytest.raises(tg.errors.ArgumentError, match="must be a node of the graph, a name"):
        graph.through(target)


def test_a_module_that_is_not_a_path() -> None:
    graph = tg.inspect.trace(tg.nn.RNN(1, 2, rng=0)(tg.ones((3, 1, 1)))[0].sum())
    with pytest.raises(tg.ArgumentError, match=r"through: module 4.*path"):
        graph.through(("h", 1), module=4)  # type: ignore[arg-type]
