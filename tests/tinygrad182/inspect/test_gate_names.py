"""Gates by name: the named nodes hold the values that NumPy computes for the gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, const, host
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.inspect.loops.steps import Steps
from tinygrad182.inspect.views.gate_names import gate_names

from ..nn.own_cells import MGU, LayerNormLSTM, Leaky, Peephole

T, B, I, H = 4, 3, 2, 5  # noqa: E741
CLOSE = 1e-12

sigma: Callable[[Array], Array] = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731


def _norm(z: Array, gain: Array) -> Array:
    centred = z - z.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)


def lstm(x: Array, h: Array, **_: Any) -> dict[str, Array]:
    i, f, g, o = np.split(x + h, 4, -1)
    return {"i": sigma(i), "f": sigma(f), "g": np.tanh(g), "o": sigma(o)}


def gru(x: Array, h: Array, **_: Any) -> dict[str, Array]:
    (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, -1), np.split(h, 3, -1)
    return {"r": sigma(xr + hr), "z": sigma(xz + hz), "n": np.tanh(xn + sigma(xr + hr) * hn)}


def mgu(x: Array, h: Array, **_: Any) -> dict[str, Array]:
    (xf, xn), (hf, hn) = np.split(x, 2, -1), np.split(h, 2, -1)
    return {"forget": sigma(xf + hf), "new": np.tanh(xn + sigma(xf + hf) * hn)}


def peephole(
    x: Array, h: Array, c: Array, peep_i: Array, peep_f: Array, peep_o: Array
) -> dict[str, Array]:
    zi, zf, zg, zo = np.split(x + h, 4, -1)
    i, f, g = sigma(zi + peep_i * c), sigma(zf + peep_f * c), np.tanh(zg)
    return {"i": i, "f": f, "g": g, "o": sigma(zo + peep_o * (f * c + i * g))}


def layer_norm(x: Array, h: Array, gain_x: Array, gain_h: Array, **_: Any) -> dict[str, Array]:
    return lstm(_norm(x, gain_x), _norm(h, gain_h))


CELLS: dict[str, tuple[type[Any], Callable[..., dict[str, Array]]]] = {
    "LSTM": (tg.nn.LSTM, lstm),
    "GRU": (tg.nn.GRU, gru),
    "MGU": (MGU, mgu),
    "Peephole": (Peephole, peephole),
    "LayerNormLSTM": (LayerNormLSTM, layer_norm),
}


def made(kind: str, seed: int = 0, **options: Any) -> tuple[Any, tg.Tensor, dict[str, Array]]:
    """A layer with random weights, an input, and the weights by their names without the layer's."""
    rng = np.random.default_rng(seed)
    layer = CELLS[kind][0](I, H, dtype="float64", return_states=True, **options)
    for parameter in layer.parameters():
        parameter.assign(rng.normal(size=parameter.shape))
    weights = {n.removesuffix("_l0"): host(p) for n, p in layer.named_parameters()}
    return layer, const(rng.normal(size=(T, B, I))), weights


def expected_gates(kind: str, weights: dict[str, Array], x: Array, before: Any) -> dict[str, Array]:
    """The gates of a step in NumPy, from its input and the states before it."""
    from_x = x @ weights["weight_ih"].T + weights["bias_ih"]
    from_h = before[0] @ weights["weight_hh"].T + weights.get("bias_hh", 0.0)
    others = {n: v for n, v in weights.items() if n.split("_")[0] in ("peep", "gain")}
    if kind == "Peephole":
        others["c"] = before[1]
    return CELLS[kind][1](from_x, from_h, **others)


def check(
    kind: str, nodes: list[Any], weights: dict[str, Array], x: Array, states: Any, times: Any
) -> None:
    """Every gate of every step is named, once, and has NumPy's value; nothing else is named."""
    left = {(n.name, n.time): n for n in nodes if n.op != "leaf" and not n._node.marks and n.name}
    assert len(left) == sum(bool(n.name) and n.op != "leaf" and not n._node.marks for n in nodes)
    for t in times:
        before = [s[t - 1] if t else np.zeros((B, H)) for s in states]
        for gate, value in expected_gates(kind, weights, x[t], before).items():
            assert_close(left.pop((gate, t)).value, value, CLOSE, f"{gate} at {t}")
    assert not left


def states_of(layer: Any, result: Any) -> list[Array]:
    states = result[2]
    return [host(getattr(states, part))[0] for part in layer.scan.parts]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_the_gates_of_every_step(kind: str, fused: bool) -> None:
    layer, x, weights = made(kind, fused=fused)
    result = layer(x)
    graph = tg.inspect.trace((result[0] ** 2).sum())
    check(kind, graph.opened().nodes, weights, host(x), states_of(layer, result), range(T))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "MGU", "Peephole"])
def test_steps_that_are_opened_alone(kind: str) -> None:
    layer, x, weights = made(kind)
    result = layer(x)
    graph = tg.inspect.trace((result[0] ** 2).sum())
    (scan,) = [node for node in graph if node.is_fused]
    states = states_of(layer, result)
    check(kind, graph.expand(scan).nodes, weights, host(x), states, range(T))
    check(kind, graph.expand(scan, time=2).nodes, weights, host(x), states, [2])
    found = Steps(scan._node).at(np.array([1, 3]))  # side by side: one step of 2·B rows
    nodes = ancestors(found.after.values(), constants=True)
    names = {name: node for node, name in gate_names(nodes).items()}
    xs, before = host(x)[[1, 3]], [s[[0, 2]] for s in states]
    for gate, value in expected_gates(kind, weights, xs, before).items():
        assert_close(names.pop(gate).value, value.reshape(2 * B, H), CLOSE, gate)
    assert not names


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("batch", [(B,), ()])
def test_cells_in_a_loop(kind: str, batch: tuple[int, ...]) -> None:
    cell = getattr(tg.nn, kind + "Cell")(I, H, rng=0, dtype="float64")
    weights = {n: host(p) for n, p in cell.named_parameters()}
    rng = np.random.default_rng(1)
    state: Any = None
    xs, before = rng.normal(size=(T, *batch, I)), []
    for x in xs:
        state = cell(const(x), state)
        parts = state if isinstance(state, tuple) else (state,)
        before.append([host(p) for p in parts])
    graph = tg.inspect.trace((parts[0] ** 2).sum())
    for gate in cell.scan.gates:
        found = graph.select(name=gate)
        assert len(found) == T
        for t, node in enumerate(found):
            past = before[t - 1] if t else [np.zeros((*batch, H))] * 2
            expected = expected_gates(kind, weights, xs[t], past)
            assert_close(node.value, expected[gate], CLOSE, f"{gate} at {t}")


@pytest.mark.parametrize("fused", [True, False])
def test_both_directions_several_layers_and_lengths(fused: bool) -> None:
    """Each layer's gates are found by its path; past its end a sequence computes them all the same."""
    layer = tg.nn.LSTM(I, H, 2, bidirectional=True, rng=0, fused=fused)
    x = tg.ones((T, B, I))
    graph = tg.inspect.trace(layer(x, lengths=[4, 2, 1])[0].sum())
    for path in ("lstm.l0", "lstm.l0_reverse", "lstm.l1", "lstm.l1_reverse"):
        for gate in "ifgo":
            found = graph.select(name=gate, module=path)
            assert [node.time for node in found] == [*range(T)], (path, gate)
            assert {node.op for node in found} == {"tanh" if gate == "g" else "sigmoid"}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "Peephole"])
def test_one_hidden_unit(kind: str) -> None:
    layer = CELLS[kind][0](1, 1, rng=0)
    graph = tg.inspect.trace(layer(tg.ones((3, 1, 1)))[0].sum())
    for gate in layer.gates:
        assert [node.time for node in graph.select(name=gate)] == [0, 1, 2]


def own(step: Any, gates: Any, state: tuple[str, ...] = ("h",), weights: Any = ()) -> Any:
    """A layer of your own."""
    declared = {"gates": gates, "state": state, "weights": weights, "step": staticmethod(step)}
    return type("Own", (tg.nn.RecurrentLayer,), declared)(I, H, rng=0)


def named(layer: Any) -> list[tuple[str, str]]:
    """The gates of one step, and the operations that they are."""
    graph = tg.inspect.trace((layer(tg.ones((3, 2, I)))[0] ** 2).sum()).opened()
    return [(n.name, n.op) for n in graph if n.time == 1 and n.name and not n._node.marks]


def test_gates_computed_side_by_side() -> None:
    """A gate's name belongs to its part of the result."""

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        n = x.shape[-1] // 3
        both = xp.sigmoid(x[..., : 2 * n] + h[..., : 2 * n])
        keep, new = both[..., :n], xp.tanh(x[..., 2 * n :] + both[..., n:] * h[..., 2 * n :])
        return (keep * state[0] + (1 - keep) * new,)

    layer = own(step, ("keep", "reset", "new"))
    assert sorted(named(layer)) == [("keep", "index"), ("new", "tanh"), ("reset", "index")]


def test_a_gate_computed_twice_is_both_times_the_gate() -> None:
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        n = x.shape[-1] // 2
        z = x + h
        return (
            xp.sigmoid(z[..., :n]) * state[0] + (1 - xp.sigmoid(z[..., :n])) * xp.tanh(z[..., n:]),
        )

    assert sorted(named(own(step, ("a", "b")))) == [
        ("a", "sigmoid"),
        ("a", "sigmoid"),
        ("b", "tanh"),
    ]


def test_gates_that_cannot_be_identified_have_no_name() -> None:
    def halves(z: Any) -> tuple[Any, Any]:
        n = z.shape[-1] // 2
        return z[..., :n], z[..., n:]

    def two(xp: Any, x: Any, h: Any, state: Any) -> Any:
        a, b = halves(x + h)
        return (xp.sigmoid(a) * state[0] + xp.sin(a) * xp.tanh(b),)

    def one_for_both(xp: Any, x: Any, h: Any, state: Any) -> Any:
        a, b = halves(x + h)
        return (state[0] * xp.tanh(a + b),)

    assert named(own(two, ("a", "b"))) == [("b", "tanh")]
    assert named(own(one_for_both, ("a", "b"))) == []


def test_weights_and_means_inside_a_gate() -> None:
    """A value that all sequences or all units share counts as a number, not as an operand of the gate."""

    def step(xp: Any, x: Any, h: Any, state: Any, gain: Any) -> Any:
        n = x.shape[-1] // 2
        z = x + h
        a = z[..., :n] - xp.mean(z[..., :n], axis=-1, keepdims=True)
        a = a / xp.sqrt(xp.mean(a * a, axis=-1, keepdims=True) + 1)
        return (state[0] * xp.sigmoid(a) + xp.tanh(gain * z[..., n:]),)

    assert named(own(step, ("a", "b"), weights=("gain",))) == [("a", "sigmoid"), ("b", "tanh")]


def test_a_gate_is_not_a_function_of_a_state() -> None:
    """The gate ends at the returned state m, so tanh(m) is not a part of the gate."""

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        m = xp.sigmoid(x + h + state[1])
        return xp.tanh(m), m

    layer = own(step, ("a",), ("h", "m"))
    assert named(layer) == []  # the state's own name wins
    cell = type("OwnCell", (tg.nn.RecurrentCell,), {"scan": type(layer).scan})(I, H, rng=0)
    state = cell(tg.ones((2, I)))
    for _ in range(2):
        state = cell(tg.ones((2, I)), state)
    graph = tg.inspect.trace((state[0] + state[1]).sum())
    assert {n.op for n in graph.select(name="a")} == {"sigmoid"}


def test_steps_that_differ_only_in_what_their_sums_are() -> None:
    first = own(lambda xp, x, h, s: (xp.tanh(x) * s[0],), ("a",))
    second = own(lambda xp, x, h, s: (xp.tanh(s[0]) * x,), ("a",))
    x = tg.ones((3, 2, I))
    graph = tg.inspect.trace((first(x)[0] + second(x)[0]).sum()).opened()
    assert len(graph.select(op="tanh")) == 6
    assert len(graph.select(op="tanh", name="a")) == 3


def test_what_a_gate_is_does_not_depend_on_the_step_that_was_read_first() -> None:
    """Two layers have equal steps, but name their blocks in different orders."""

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        n = x.shape[-1] // 2
        z = x + h
        return (xp.sigmoid(z[..., :n]) * state[0] + xp.tanh(z[..., n:]),)

    first, second = own(step, ("a", "b")), own(step, ("b", "a"))
    x = tg.ones((3, 2, I))
    graph = tg.inspect.trace((first(x)[0] + second(x)[0]).sum())
    assert {n.op for n in graph.select(name="a")} == {"sigmoid", "tanh"}
    assert len(graph.select(name="a", op="tanh")) == len(graph.select(name="b", op="tanh")) == 3


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "MGU", "Peephole"])
def test_the_gates_are_those_that_intervene_sets(kind: str) -> None:
    layer, x, _ = made(kind)
    path = f"{kind.lower()}.l0"
    graph = tg.inspect.trace((layer(x)[0] ** 2).sum())
    for gate in layer.gates:
        seen: list[tg.Tensor] = []
        with tg.inspect.intervene(path, gate, function=lambda g, seen=seen: seen.append(g) or g):
            layer(x)
        nodes = graph.select(name=gate)
        assert len(nodes) == T
        for node, value in zip(nodes, seen, strict=True):
            assert_close(node.value, value, CLOSE)


def test_a_mark_wins_and_a_gate_is_found_by_name() -> None:
    rnn = tg.nn.RNN(I, H, rng=0)
    graph = tg.inspect.trace(rnn(tg.ones((T, B, I)))[0].sum())
    assert {n.name for n in graph.select(op="tanh")} == {"h"}
    layer = tg.nn.LSTM(I, H, rng=0)
    graph = tg.inspect.trace(layer(tg.ones((T, B, I)))[0].sum())
    (forget,) = graph.select(name="f", time=3)
    assert repr(forget) == f"<sigmoid 'f' {(B, H)}, in lstm.l0 at t = 3>"
    assert forget.inputs[0].op == "index"
    assert graph.select(name="f", op="tanh") == []
    with pytest.raises(tg.UnknownPathError, match="there are 'bias_ih_l0', 'c', 'f', 'g'"):
        graph.opened().select(name="forget")


def test_gates_keep_their_names_when_the_graph_is_freed() -> None:
    loss = tg.nn.LSTM(I, H, rng=0, fused=False)(tg.ones((T, B, I)))[0].sum()
    graph = tg.inspect.trace(loss)
    loss.backward()
    assert [n.time for n in graph.select(name="f")] == [*range(T)]


@pytest.mark.parametrize("watched", [False, True])
def test_steps_of_a_derivative_that_was_recorded(watched: bool) -> None:
    """Steps that the definition of a fused layer computes again have no number; each is one of its own."""
    layer = tg.nn.LSTM(I, H, rng=0)
    if watched:
        with tg.detect_anomaly():
            output = layer(tg.ones((T, B, I)))[0]
            (g,) = tg.grad((output**2).sum(), layer.weight_hh_l0, create_graph=True)
    else:
        output = layer(tg.ones((T, B, I)))[0]
        (g,) = tg.grad((output**2).sum(), layer.weight_hh_l0, create_graph=True)
    assert g is not None
    graph = tg.inspect.trace((g**2).sum())
    found = [n for n in graph if n.name in "ifgo" and n.name]
    assert len(found) == 4 * T
    assert {n.op for n in found} == {"sigmoid", "tanh"}
    if watched:  # where the derivative of a step's operation is recorded at the same place
        later = [n._node for n in graph if n._node.order > output._node.order]
        assert len(later) > 100
        assert all(node.scope.step is None for node in later)


def test_an_ordinary_graph_has_no_gates() -> None:
    x = tg.tensor([1.0], requires_grad=True)
    assert {n.name for n in tg.inspect.trace(tg.sigmoid(x).sum())} == {""}
    leaky = Leaky(I, H, rng=0)
    assert named(leaky) == [("gate 0", "tanh")]
