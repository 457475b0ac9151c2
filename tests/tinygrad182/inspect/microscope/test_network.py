"""The rolled network: its boxes, the operations in each, and the gradient over every arrow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from models.char_lm import CharLM
from models.residual import ResidualNet
from tests.support import const
from tests.tinygrad182.nn.own_cells import MGU
from tinygrad182.inspect.microscope.network import Network, Rolled, network_of

mark = tg.inspect.mark


def rolled(loss: Any) -> Network:
    graph = tg.inspect.trace(loss)
    return network_of(graph._order, graph._seeds)


def titles(network: Network) -> list[str]:
    return [block.title for block in network.blocks]


def arrows(network: Network) -> list[tuple[int, int]]:
    return [(link.source, link.target) for link in network.links]


def data(*shape: int) -> Any:
    return const(np.random.default_rng(0).standard_normal(shape))


def make(kind: Any, *sizes: int, seed: int = 0, **options: Any) -> Any:
    return kind(*sizes, rng=seed, dtype="float64", **options)


class Reads(tg.nn.Module):
    """A layer and a head on its last output."""

    def __init__(self, rnn: Any, units: int) -> None:
        super().__init__()
        self.rnn, self.head = rnn, make(tg.nn.Linear, units, 1)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0][-1])


def read(kind: Any, *sizes: int, **options: Any) -> Any:
    units = sizes[1] * (1 + options.get("bidirectional", False))
    return (Reads(make(kind, *sizes, **options), units)(data(7, 2, sizes[0])) ** 2).mean()


# --- boxes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "title", "states"),
    [
        (tg.nn.RNN, {}, "RNN 3 → 4", ("h",)),
        (tg.nn.LSTM, {}, "LSTM 3 → 4", ("h", "c")),
        (tg.nn.GRU, {}, "GRU 3 → 4", ("h",)),
        (MGU, {}, "MGU 3 → 4", ("h",)),
        (tg.nn.RNN, {"fused": False}, "RNN 3 → 4", ("h",)),
        (tg.nn.LSTM, {"fused": False}, "LSTM 3 → 4", ("h", "c")),
        (tg.nn.GRU, {"fused": False}, "GRU 3 → 4", ("h",)),
    ],
)
def test_a_recurrence_is_one_box_however_it_was_run(
    kind: Any, options: Any, title: str, states: Any
) -> None:
    network = rolled(read(kind, 3, 4, **options))
    assert titles(network) == ["input", title, "Linear 4 → 1", "loss"]
    assert arrows(network) == [(0, 1), (1, 2), (2, 3)]
    box = network.blocks[1]
    assert (box.path, box.kind, box.states, box.steps) == ("rnn.l0", "recurrence", states, 7)
    assert [b.kind for b in network.blocks] == ["input", "recurrence", "module", "loss"]


def test_two_layers_and_two_directions() -> None:
    network = rolled(read(tg.nn.GRU, 3, 4, num_layers=2, bidirectional=True))
    assert [(b.title, b.path) for b in network.blocks] == [
        ("input", ""),
        ("GRU 3 → 4", "rnn.l0"),
        ("GRU 3 → 4", "rnn.l0_reverse"),
        ("concat", "rnn"),
        ("GRU 8 → 4", "rnn.l1"),
        ("GRU 8 → 4", "rnn.l1_reverse"),
        ("concat", "rnn"),
        ("Linear 8 → 1", "head"),
        ("loss", ""),
    ]
    along = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 6), (5, 6), (6, 7), (7, 8)]
    assert arrows(network) == along


def test_paths_of_recurrences_are_those_of_the_flow() -> None:
    model = Reads(make(tg.nn.LSTM, 3, 4, num_layers=2), 4)
    loss = (model(data(5, 2, 3)) - model(data(6, 2, 3))).sum()
    found = [b.path for b in rolled(loss).blocks if b.kind == "recurrence"]
    assert found == list(tg.inspect.gradient_flow(loss))
    assert found == ["rnn.l0", "rnn.l1", "rnn.l0#2", "rnn.l1#2"]


class Translates(tg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = make(tg.nn.LSTM, 3, 4), make(tg.nn.LSTM, 2, 4)
        self.head = make(tg.nn.Linear, 4, 5)

    def forward(self, x: Any, y: Any) -> Any:
        return self.head(self.decoder(y, self.encoder(x)[1])[0])


def test_an_encoder_and_a_decoder() -> None:
    logits = Translates()(data(6, 2, 3), data(4, 2, 2)).reshape((-1, 5))
    network = rolled(tg.nn.functional.cross_entropy(logits, np.arange(8) % 5))
    assert titles(network) == ["input", "LSTM 3 → 4", "LSTM 2 → 4", "Linear 4 → 5", "loss"]
    assert arrows(network) == [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)]
    assert len(network.links[2].nodes) == 2  # h and c
    assert [b.steps for b in network.blocks] == [1, 6, 4, 1, 1]


def looped(T: int = 9, initial: str = "marked") -> Any:
    w = tg.tensor(np.full((4, 4), 0.1), requires_grad=True)
    u = tg.tensor(np.full((2, 4), 0.1), requires_grad=True)
    h = const(np.zeros((3, 4)))
    if initial == "marked":
        mark(h, "h", time=-1)
    x = data(T, 3, 2)
    for t in range(T):
        h = mark(tg.tanh(h @ w + x[t] @ u), "h", time=t)
    return (h**2).sum()


@pytest.mark.parametrize("initial", ["marked", "plain"])
def test_a_loop_of_your_own(initial: str) -> None:
    network = rolled(looped(9, initial))
    assert titles(network) == ["input", "tanh loop, 4 units", "loss"]
    box = network.blocks[1]
    assert (box.path, box.states, box.steps) == ("", ("h",), 9)
    assert len(network.links[0].nodes) == 9  # x at every step, and not the initial state
    assert {n.op for n in box.members} == {"leaf", "matmul", "add", "tanh"}
    assert {n.op for n in network.blocks[2].members} == {"power", "sum"}


@pytest.mark.parametrize("skip", [True, False])
def test_depth_stands_where_time_stands(skip: bool) -> None:
    model = ResidualNet(2, 4, depth=30, skip=skip, rng=0)
    network = rolled(model(tg.ones((3, 2))).sum())
    assert titles(network) == ["input", "Linear 2 → 4", "blocks, 4 units", "Linear 4 → 1", "loss"]
    box = network.blocks[2]
    assert (box.path, box.states, box.steps) == ("residualnet", ("h",), 30)
    names = {getattr(n, "name", "") for n in box.members}
    assert {"blocks.0.linear.weight", "blocks.29.linear.bias"} <= names


def test_a_language_model_reads_whole_numbers() -> None:
    model = CharLM("abcd", 5, 3, num_layers=2, rng=0)
    logits = model(np.arange(12).reshape(6, 2) % 4)[0].reshape((-1, 4))
    network = rolled(tg.nn.functional.cross_entropy(logits, np.arange(12) % 4))
    first, *rest, last = titles(network)
    assert (first, last) == ("input: indices", "loss")
    assert rest == ["Embedding 4 → 3", "LSTM 3 → 5", "LSTM 5 → 5", "Linear 5 → 4"]
    assert network.links[0].log10_norm == -math.inf
    assert math.isfinite(network.links[1].log10_norm)
    assert network.blocks[1].log10_grad_norm == network.links[1].log10_norm  # what arrives


class Steps(tg.nn.Module):
    """A loop that calls modules at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.cell = tg.nn.Embedding(7, 4, rng=0), tg.nn.LSTMCell(4, 8, rng=1)
        self.head = tg.nn.Linear(8, 7, rng=2)

    def forward(self, ids: Any) -> Any:
        h, c, out = tg.zeros((3, 8)), tg.zeros((3, 8)), []
        for t in range(len(ids)):
            h, c = self.cell(self.emb(ids[t]), (h, c))
            mark(h, "h", time=t)
            mark(c, "c", time=t)
            out.append(self.head(h))
        return tg.stack(out)


def test_modules_called_at_every_step_are_one_box_each() -> None:
    network = rolled(Steps()(tg.tensor(np.arange(15).reshape(5, 3) % 7)).sum())
    words = ["input: indices", "Embedding 7 → 4", "LSTM 4 → 8", "Linear 8 → 7", "loss"]
    assert titles(network) == words
    assert [b.calls for b in network.blocks] == [1, 5, 1, 5, 1]
    assert arrows(network) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_a_plain_network_has_its_leaf_modules() -> None:
    Linear, Sequential = tg.nn.Linear, tg.nn.Sequential
    inner = Sequential(Linear(4, 5, rng=0), tg.tanh)
    model = Sequential(Linear(3, 4, rng=0), tg.relu, inner, tg.nn.LayerNorm(5), Linear(5, 1, rng=0))
    network = rolled((model(tg.ones((2, 3))) ** 2).mean())
    layers = ["Linear 3 → 4, relu", "Linear 4 → 5, tanh", "LayerNorm 5", "Linear 5 → 1"]
    assert titles(network) == ["input", *layers, "loss"]
    assert [b.path for b in network.blocks] == ["", "0", "2.0", "3", "4", ""]


def test_a_penalty_and_targets_belong_to_the_loss() -> None:
    head = tg.nn.Linear(3, 1, rng=0)
    loss = ((head(tg.ones((2, 3))) - tg.ones((2, 1))) ** 2).mean()
    loss = loss + 0.1 * ((head.weight - tg.ones((1, 3))) ** 2).sum()
    network = rolled(loss)
    assert titles(network) == ["input", "Linear 3 → 1", "loss"]
    assert arrows(network) == [(0, 1), (1, 2)]


class Scaled(tg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = tg.nn.Linear(3, 3, rng=0), tg.nn.Linear(3, 3, rng=1)
        self.gain = tg.nn.Parameter(tg.zeros(3))

    def forward(self, x: Any) -> Any:
        gain = tg.exp(self.gain)
        return self.b(self.a(x) * gain) * gain


def test_what_is_made_of_parameters_has_no_arrow() -> None:
    network = rolled(Scaled()(tg.ones((2, 3))).sum())
    layers = ["Linear 3 → 3", "exp, multiply", "Linear 3 → 3", "multiply"]
    assert titles(network) == ["input", *layers, "loss"]
    assert arrows(network) == [(i, i + 1) for i in range(5)]


class Round(tg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = tg.nn.Linear(3, 3, rng=0), tg.nn.Linear(3, 3, rng=1)

    def forward(self, x: Any) -> Any:
        return self.a(self.b(self.a(x)))


def test_a_module_that_is_fed_by_one_it_feeds() -> None:
    network = rolled(Round()(tg.ones((2, 3))).sum())
    assert titles(network) == ["input", "Linear 3 → 3", "Linear 3 → 3", "loss"]
    assert arrows(network) == [(0, 1), (1, 2), (1, 3), (2, 1)]
    assert network.blocks[1].calls == 2


class Many(tg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [tg.nn.Linear(2, 2, rng=i) for i in range(20)]

    def forward(self, x: Any) -> Any:
        for part in self.parts:
            x = x + part(x)
        return x


def test_many_operations_between_modules_share_a_box() -> None:
    network = rolled(Many()(tg.ones((1, 2))).sum())
    assert len(network.blocks) == 1 + 20 + 1 + 1
    assert titles(network).count("add") == 1


def test_every_node_belongs_to_one_box() -> None:
    for loss in (looped(), read(tg.nn.LSTM, 3, 4, fused=False), read(tg.nn.GRU, 3, 4)):
        graph = tg.inspect.trace(loss)
        members = [n for b in network_of(graph._order, graph._seeds).blocks for n in b.members]
        assert sorted(n.order for n in members) == [n.order for n in graph._order]


# --- gradients ----------------------------------------------------------------------------------


def test_what_runs_as_one_operation_and_step_by_step_has_the_same_gradients() -> None:
    fused, steps = (rolled(read(tg.nn.LSTM, 3, 4, fused=f)) for f in (True, False))
    for a, b in zip(fused.blocks, steps.blocks, strict=True):
        assert a.log10_grad_norm == pytest.approx(b.log10_grad_norm, abs=1e-12)


def test_functions_alone_are_one_box() -> None:
    w = tg.tensor(np.eye(3), requires_grad=True)
    network = rolled(tg.tanh(const(np.ones((2, 3))) @ w).sum())
    assert titles(network) == ["operations"]
    assert not network.links
    slope = 1 - math.tanh(1) ** 2
    squares = 6 * slope**2 + 9 * (2 * slope) ** 2  # by x and by w
    assert network.blocks[0].log10_grad_norm == pytest.approx(0.5 * math.log10(squares), abs=1e-12)


class Skips(tg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = make(tg.nn.Linear, 3, 4), make(tg.nn.Linear, 4, 4, seed=1)
        self.head = make(tg.nn.Linear, 4, 1)

    def forward(self, x: Any) -> Any:
        a = self.a(x)
        return self.head(tg.tanh(self.b(a)) + a)


def test_what_several_boxes_read_sends_each_its_share() -> None:
    model, x = Skips(), data(5, 3)
    network = rolled(model(x).sum())
    layers = ["Linear 3 → 4", "Linear 4 → 4, tanh", "add", "Linear 4 → 1"]
    assert titles(network) == ["input", *layers, "loss"]
    assert arrows(network) == [(0, 1), (1, 2), (1, 3), (2, 3), (3, 4), (4, 5)]
    # by hand: the head's weight goes straight to a, and through tanh and b's weight
    weights = (model.head.weight, model.b.weight, model.a.weight, model.b.bias, model.a.bias)
    w, v, u, b, c = (p.numpy() for p in weights)
    a = x.numpy() @ u.T + c
    through = (w * (1 - np.tanh(a @ v.T + b) ** 2)) @ v
    straight = np.broadcast_to(w, (5, 4))
    sent = ((through + straight) @ u, through, straight, straight, straight, np.ones((5, 1)))
    logs = [link.log10_norm for link in network.links]
    np.testing.assert_allclose(logs, [np.log10(np.linalg.norm(g)) for g in sent], atol=1e-12)
    both = np.log10(np.sqrt(2) * np.linalg.norm(straight))
    assert network.blocks[3].log10_grad_norm == pytest.approx(both, abs=1e-12)


def test_parameters_alone_are_one_box() -> None:
    w = tg.tensor(np.full(4, 3.0), requires_grad=True)
    (only,) = rolled((w * w).sum()).blocks
    assert only.title == "operations"
    assert 10**only.log10_grad_norm == pytest.approx(12.0, rel=1e-12)


@pytest.mark.parametrize("depth", [10, 300])
def test_a_gradient_far_below_every_float_is_a_number(depth: int) -> None:
    model = ResidualNet(2, 2, depth=depth, nonlinearity="identity", skip=False, rng=0)
    for block in model.blocks:
        block.linear.weight.assign(0.01 * np.eye(2, dtype="float32"))
    network = rolled(model(tg.ones((3, 2))).sum())
    before, after = network.links[1:3]
    assert before.log10_norm == pytest.approx(after.log10_norm - 2 * depth, abs=1e-4)
    assert network.blocks[0].log10_grad_norm < -2 * depth + 2


def test_the_gradient_through_a_long_decoder() -> None:
    encoder, decoder = (make(tg.nn.RNN, 1, 1, nonlinearity="identity") for _ in "ab")
    for layer in (encoder, decoder):
        layer.weight_hh_l0.assign(np.full((1, 1), 0.001))
    last = encoder(data(3, 1, 1))[1]
    network = rolled(decoder(data(200, 1, 1), last)[0][-1].sum())
    (across,) = [k for k in network.links if (k.source, k.target) == (1, 2)]
    assert across.log10_norm == pytest.approx(-3 * 200, abs=1e-9)


@pytest.mark.parametrize(
    ("size", "log"), [(np.nan, math.nan), (np.inf, math.inf), (0.0, -math.inf)]
)
def test_a_gradient_that_is_not_finite_or_is_zero(size: float, log: float) -> None:
    head = tg.nn.Linear(2, 1, rng=0)
    network = rolled(head(tg.ones((1, 2))).sum() * size)
    found = [network.links[1].log10_norm, network.blocks[2].log10_grad_norm]
    np.testing.assert_equal(found, [log, log])


def test_one_pass_serves_other_nodes_too() -> None:
    graph = tg.inspect.trace(Skips()(data(5, 3)).sum())
    rolling = Rolled(graph._order, graph._seeds)
    found = rolling.gradients(set(graph._grads))
    for node, grad in graph._grads.items():
        ((array, power),) = found.of(node)
        np.testing.assert_allclose(array * 2.0**power, grad, atol=1e-14)
    assert rolling.network(found) == network_of(graph._order, graph._seeds)


class Odd(tg.nn.RecurrentLayer):
    """A cell whose step has no loops of its own."""

    gates, state = 1, ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return (xp.cumulative_sum(x + h, axis=-1) * 0.1,)


def test_a_recurrence_without_loops_of_its_own() -> None:
    layer = make(Odd, 2, 3)
    weights = [p for name, p in layer.named_parameters()]
    loss = (tg.apply(Odd.scan, data(5, 2, 2), const(np.zeros((2, 3))), *weights)[-1] ** 2).sum()
    graph = tg.inspect.trace(loss)
    assert [n.residuals for n in graph._order if n.op == "odd_scan"] == [None]
    network, opened = rolled(loss), graph.opened()
    assert titles(network) == ["input", "Odd 2 → 3", "loss"]
    again = network_of(opened._order, opened._seeds)
    for a, b in zip(network.links, again.links, strict=True):
        assert a.log10_norm == pytest.approx(b.log10_norm, abs=1e-12)
