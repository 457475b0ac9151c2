"""Recurrences that are one node: every view shows what it shows of the steps, and they can be opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import assert_close, const, host, host_only, leaf, write

inspect = tg.inspect

kinds = st.sampled_from(["tanh", "relu", "identity", "lstm", "gru"])
sides = st.integers(1, 4)
LAYERS: dict[str, Any] = {"lstm": tg.nn.LSTM, "gru": tg.nn.GRU}


class Twins:
    """One model, fused and unrolled, with the same loss."""

    def __init__(
        self, kind: str, T: int, B: int, H: int, layers: int, seed: int, lengths: bool, window: Any
    ) -> None:
        rng = np.random.default_rng(seed)
        ends = rng.integers(0, T + 1, size=B) if lengths else None
        x, weights = rng.normal(size=(T, B, 2)), rng.normal(size=(T, B, H))
        self.layers, self.losses, self.parts = [], [], []
        self.x = [leaf(x), leaf(x)]
        for fused, given_x in zip((True, False), self.x, strict=True):
            options: dict[str, Any] = {"rng": seed, "dtype": "float64", "fused": fused}
            if kind not in LAYERS:
                options["nonlinearity"] = kind
            layer: Any = LAYERS.get(kind, tg.nn.RNN)(2, H, layers, **options)
            output, last = layer(given_x, None, ends, window)
            each = (output * const(weights)).sum(axis=(1, 2))
            tails = last if isinstance(last, tuple) else (last,)
            self.layers.append(layer)
            self.parts.append([each[t] for t in range(T)])
            self.losses.append(each.sum() + sum((tg.square(h).sum() for h in tails), start=0.0))


twins = st.builds(
    Twins,
    kind=kinds,
    T=st.integers(1, 6),
    B=sides,
    H=sides,
    layers=st.integers(1, 2),
    seed=st.integers(0, 10_000),
    lengths=st.booleans(),
    window=st.none() | st.integers(1, 4),
)


@given(twins)
def test_gradients_of_everything(case: Twins) -> None:
    targets = [[x, *layer.parameters()] for x, layer in zip(case.x, case.layers, strict=True)]
    found = [tg.grad(loss, xs) for loss, xs in zip(case.losses, targets, strict=True)]
    for a, b in zip(*found, strict=True):
        assert_close(a, b.numpy(), 1e-12, floor=1e-3)  # type: ignore[union-attr]


@given(twins)
def test_gradient_flow(case: Twins) -> None:
    fused, steps = map(inspect.gradient_flow, case.losses)
    assert list(fused) == list(steps)
    for path, stack in steps.items():
        assert list(fused[path]) == list(stack)
        for name, expected in stack.items():
            actual = fused[path][name]
            assert actual.time.tolist() == expected.time.tolist()
            for field in ("value", "grad", "grad_norm", "value_norm", "sample_grad_norm"):
                a, b = getattr(actual, field), getattr(expected, field)
                assert_close(a, b, 1e-12, f"{path} {name} {field}", floor=1e-3)
            assert_close(actual.initial_grad, expected.initial_grad, 1e-12, floor=1e-3)


@given(twins)
def test_the_other_views(case: Twins) -> None:
    path = list(inspect.gradient_flow(case.losses[1]))[-1]
    views: list[Any] = [
        lambda loss: {n: s.grad for n, s in inspect.path_split(loss, path).items()},
        lambda loss: inspect.grad_by_hops(loss, 2, path=path).grad,
    ]
    for view in views:
        a, b = map(view, case.losses)
        pairs = zip(a.values(), b.values(), strict=True) if isinstance(a, dict) else [(a, b)]
        for x, y in pairs:
            assert_close(x, y, 1e-12, floor=1e-3)
    matrices = [inspect.state_grad_matrix(parts, path) for parts in case.parts]
    assert_close(*matrices, 1e-12, floor=1e-3)
    for name in dict(case.layers[0].named_parameters()):
        both = [
            inspect.weight_grad_by_time(loss, getattr(layer, name))
            for loss, layer in zip(case.losses, case.layers, strict=True)
        ]
        assert_close(*both, 1e-12, name, floor=1e-3)


@given(twins)
def test_opened_it_is_the_unrolled_graph(case: Twins) -> None:
    fused, steps = map(inspect.trace, case.losses)
    for name in ("h", "c"):
        found = (
            sorted(graph.select(name=name), key=lambda n: (n.module, n.time or 0))
            for graph in (fused, steps)
        )
        pairs = list(zip(*found, strict=True))
        assert pairs or name == "c"
        for a, b in pairs:
            assert (a.op, a.module, a.time) == (b.op, b.module, b.time)
            assert_close(a.value, b.value, 1e-13, floor=1e-3)
            if b.grad is not None:
                assert_close(a.grad, b.grad, 1e-12, floor=1e-3)


@given(twins, st.data())
def test_expanding_a_node_shows_its_steps(case: Twins, data: st.DataObject) -> None:
    fused, steps = map(inspect.trace, case.losses)
    nodes = [node for node in fused if node.is_fused]
    node = data.draw(st.sampled_from(nodes))
    inside = fused.expand(node)
    states = [n for n in inside if n.name and n.time is not None and n.time >= 0]
    assert states
    time = data.draw(st.sampled_from([n.time for n in states]))
    step = fused.expand(node, time)
    for graph in (inside, step):
        found = [n for n in graph if n.module == node.module and n.time == time and n.op != "leaf"]
        expected = [
            n for n in steps if n.module == node.module and n.time == time and n.op != "leaf"
        ]
        by_op: dict[tuple[str, str], list[Any]] = {}
        for n in expected:
            by_op.setdefault((n.op, n.name), []).append(n)
        assert {(n.op, n.name) for n in found} == set(by_op)
        for (op, name), ours in by_op.items():
            theirs = [n for n in found if (n.op, n.name) == (op, name)]
            for a, b in zip(theirs, ours, strict=True):
                assert_close(a.value.reshape(b.shape), b.value, 1e-13, floor=1e-3)
                if b.grad is not None:
                    assert_close(a.grad.reshape(b.shape), b.grad, 1e-12, f"{op} {name}", floor=1e-3)


def test_what_cannot_be_expanded() -> None:
    rnn = tg.nn.RNN(1, 2, rng=0)
    loss = rnn(tg.ones((3, 1, 1)))[0].sum()
    graph = inspect.trace(loss)
    (node,) = graph.select(op="rnn_scan")
    with pytest.raises(tg.ArgumentError, match="time 3; the steps are 0 to 2"):
        graph.expand(node, 3)
    with pytest.raises(tg.GraphError, match="is not a fused layer"):
        graph.expand(graph.nodes[0])
    loss.backward()
    with pytest.raises(tg.FreedGraphError, match="expand it before"):
        graph.expand(node)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("radius", [0.01, 30.0])
def test_norms_that_no_type_can_hold(dtype: str, radius: float) -> None:
    """A linear net's gradient in closed form, down to 1e-600 and up to 1e+440."""
    T, H = 300, 3
    rnn = tg.nn.RNN(1, H, nonlinearity="identity", rng=0, dtype=dtype, bias=False)
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(H, H)))
    write(rnn.weight_hh_l0, radius * q)  # ‖(W_hᵀ)ᵏ δ‖ = radiusᵏ ‖δ‖
    x = np.zeros((T, 2, 1), dtype)
    output, _ = rnn(const(x))
    h = inspect.gradient_flow(output[-1].sum())["rnn.l0"].h
    lags = T - 1 - h.time
    expected = lags * np.log(radius) + np.log(np.sqrt(2 * H))
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    assert np.abs(h.log_grad_norm - expected).max() < tolerance


def test_a_sample_that_vanishes_beside_one_that_does_not() -> None:
    """Every sequence has powers of two of its own."""
    T, H = 400, 4
    x = np.zeros((T, 2, 1), "float32")
    x[:, 1] = 2.0  # far up the slope of tanh
    logs = []
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(1, H, rng=0, dtype=dtype, bias=False)
        write(rnn.weight_hh_l0, 0.99 * np.eye(H))
        write(rnn.weight_ih_l0, 1.0)
        output, _ = rnn(const(x.astype(dtype)))
        each = [inspect.gradient_flow(output[-1, i].sum()) for i in range(2)]
        logs.append(np.array([flow[path].h.log_grad_norm for flow in each for path in flow]))
        both = next(iter(inspect.gradient_flow(output[-1].sum()).values())).h
        with np.errstate(under="ignore"):
            assert_close(both.sample_grad_norm.T, np.exp(logs[-1]), 1e-3, floor=1e-200)
    assert logs[1][1][0] < -1000 < -10 < logs[1][0][0]
    assert_close(logs[0], logs[1], 2e-4)


@pytest.mark.parametrize("time", [None, 1, 3])
def test_what_has_changed_since_is_not_expanded(time: int | None) -> None:
    lstm = tg.nn.LSTM(2, 3, rng=0)
    graph = inspect.trace(lstm(tg.ones((4, 1, 2)))[0].sum())
    (node,) = graph.select(op="lstm_scan")
    graph.expand(node, time)
    write(lstm.weight_hh_l0, host(lstm.weight_hh_l0) * 2.0)
    with pytest.raises(tg.errors.InPlaceError, match="weight_hh_l0"):
        graph.expand(node, time)


@pytest.mark.parametrize("steps", [5, 40])
def test_a_step_of_many_windows(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one path back to the step, whichever window it is in."""
    lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64")
    graph = inspect.trace((lstm(leaf(np.ones((steps, 2, 2))))[0] ** 2).sum())
    (node,) = graph.select(op="lstm_scan")
    cut = [range(i, min(i + 7, steps)) for i in range(0, steps, 7)]
    monkeypatch.setattr("tinygrad182.recurrence.scans.windows", lambda m, shape: cut)
    for time in range(steps):
        for name in ("h", "c"):
            (here,) = graph.expand(node, time).select(name=name, time=time)
            (there,) = graph.opened().select(name=name, time=time)
            assert_close(here.grad, there.grad, 1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int8", "int64"])
def test_a_step_after_a_sequences_end(dtype: str) -> None:
    """Lengths of any integer type: what is left of a sequence does not wrap around."""
    x, weights = tg.tensor(np.ones((6, 2, 2))), leaf(np.full((4, 3), 0.2))
    zeros = tg.zeros((2, 1), dtype="float64")
    lengths = tg.tensor(np.array([6, 2], dtype))
    scan = tg.PRIMITIVES["lstm_scan"]
    states = tg.apply(
        scan, x, zeros, zeros, weights[:, :2], weights[:, 2:], 0, 0, lengths, shortest=2
    )
    graph = inspect.trace((states**2).sum())
    (node,) = graph.select(op="lstm_scan")
    for time in range(6):
        (here,) = graph.expand(node, time).select(name="h", time=time)
        assert_close(here.value, host(states)[0, time], 1e-14)


def test_operations_outside_are_found_without_opening() -> None:
    lstm = tg.nn.LSTM(2, 3, rng=0)
    graph = inspect.trace(lstm(tg.ones((4, 1, 2)))[0].sum())
    (total,) = graph.select(op="sum")
    assert total in graph.nodes
    assert len(graph.select(op="sigmoid")) == 12


def test_what_is_opened_belongs_to_the_layers_as_it_would_step_by_step() -> None:
    graphs = []
    for fused in (True, False):
        lstm = tg.nn.LSTM(2, 3, 2, rng=0, fused=fused)
        graphs.append(inspect.trace((lstm(tg.ones((4, 1, 2)))[0] ** 2).sum()))
    opened, steps = graphs[0].opened(), graphs[1]
    for op in ("stack", "tanh", "matmul"):
        found = [sorted(n.module for n in g.select(op=op)) for g in (opened, steps)]
        assert found[0] == found[1]


def test_no_view_is_made_of_what_has_changed_since() -> None:
    lstm, x = tg.nn.LSTM(2, 3, rng=0, dtype="float64"), leaf(np.ones((4, 1, 2)))
    loss = lstm(x)[0].sum()
    for weight in (lstm.weight_hh_l0, lstm.weight_ih_l0, x):
        kept = host(weight).copy()
        write(weight, 0.0)
        for view in (
            inspect.gradient_flow,
            lambda loss: inspect.weight_grad_by_time(loss, lstm.weight_hh_l0),
            inspect.state_grad_matrix,
            inspect.path_split,
            inspect.step_jacobians,
            lambda loss: inspect.grad_by_hops(loss, 1),
        ):
            with pytest.raises(tg.errors.InPlaceError):
                view(loss)
        loss = lstm(x)[0].sum()
        write(weight, kept)
        loss = lstm(x)[0].sum()


@pytest.mark.parametrize("vanishing", [False, True])
def test_leaves_before_a_layer_get_their_gradient_in_the_same_pass(vanishing: bool) -> None:
    """An embedding and a linear layer get the gradients of backward, however far the states vanish."""
    draw = np.random.default_rng(0)
    table, linear = tg.nn.Embedding(5, 3, rng=0), tg.nn.Linear(3, 3, rng=1)
    rnn = tg.nn.RNN(3, 4, rng=2)
    write(rnn.weight_hh_l0, host(rnn.weight_hh_l0) * (1e-3 if vanishing else 1.0))
    x = linear(table(draw.integers(0, 5, size=(300, 2))))
    loss = (rnn(x)[0][-1] ** 2).sum()
    loss.backward(retain_graph=True)
    modules = (table, linear, rnn)
    expected = [p.grad.numpy() for m in modules for p in m.parameters()]
    for m in modules:
        m.zero_grad()
    flow = inspect.gradient_flow(loss, backward=True)["rnn.l0"].h
    found = [p.grad.numpy() for m in modules for p in m.parameters()]
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-6)
    assert (flow.log_grad_norm[0] < -1500) == vanishing


@host_only("what CUDA shows are copies")
@pytest.mark.parametrize("fused", [True, False])
def test_what_is_shown_cannot_be_written_to(fused: bool) -> None:
    """The arrays may be the layer's own memory."""
    lstm = tg.nn.LSTM(2, 3, rng=0, fused=fused)
    flow = inspect.gradient_flow(lstm(tg.ones((4, 1, 2)))[0].sum())["lstm.l0"]
    for array in (flow.h.value, flow.c.value, flow.h.grad, flow.c.grad):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0


def test_a_spread_cotangent_is_not_copied_for_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    require = np.require

    def counting(a: Any, *args: Any, **kwargs: Any) -> Any:
        found = require(a, *args, **kwargs)
        copied.append(0 if found is a else found.size)
        return found

    rnn, steps = tg.nn.RNN(2, 3, rng=0), 20_000
    loss = rnn(tg.ones((steps, 2, 2)))[0].sum()
    monkeypatch.setattr(np, "require", counting)
    loss.backward(retain_graph=True)
    inspect.gradient_flow(loss)
    assert sum(copied) < 3 * steps * 2 * 3


def test_a_node_says_which_graph_it_is_of() -> None:
    lstm = tg.nn.LSTM(1, 3, rng=0)
    graph = tg.inspect.trace(lstm(tg.ones((4, 1, 1)))[0].sum())
    (layer,) = graph.select(op="lstm_scan")
    (gate,) = graph.select(name="f", time=2)
    assert layer.graph is graph
    assert gate.graph is graph.opened()
    assert gate.graph.select(name="f", time=2) == [gate]
    assert graph.opened().opened() is graph.opened()
