"""``path_split`` and ``gain_split`` against runs whose states are cut from time, and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from models import ResidualNet
from tests.oracles import loops
from tests.oracles.loops import Case, Weights, cases, mark
from tests.support import Array, assert_close, const, host, leaf

path_split = loops.reading(tg.inspect.path_split)
gain_split = tg.inspect.gain_split
flow_of = tg.inspect.gradient_flow


def assert_split(split: tg.inspect.PathSplit, flow: tg.inspect.StateFlow, local: Array) -> None:
    """Parts and shares add up; the local part is that of the run without a past."""
    np.testing.assert_array_equal(split.time, flow.time)
    floor = float(np.abs(host(flow.grad)).max(initial=0.0))
    for part in split.parts.values():
        floor = max(floor, float(np.abs(part).max(initial=0.0)))
    total = sum(split.parts.values())
    assert_close(total, flow.grad, 1e-13, "sum of the parts", floor)
    assert_close(split.grad, flow.grad, 1e-13, "grad", floor)
    assert_close(split.parts["local"], local, 1e-13, "local", floor)
    assert next(iter(split.parts)) == "direct"
    assert list(split.parts)[-1] == "local"
    shares = sum(split.shares.values())
    gone = flow.grad_norm == 0
    np.testing.assert_array_equal(np.isnan(shares), gone)
    size = sum(np.abs(share) for share in split.shares.values())
    np.testing.assert_array_less(np.abs(shares - 1)[~gone], 1e-12 * size[~gone])
    whole = split.grad.reshape(len(split.time), -1)
    for name, part in split.parts.items():
        expected = np.sum(part.reshape(len(whole), -1) * whole, axis=1)[~gone]
        assert_close(split.shares[name][~gone] * flow.grad_norm[~gone] ** 2, expected, 1e-12)


@given(case=cases)
def test_layers(case: Case) -> None:
    flow = flow_of(case.loss)
    for k, (path, stack) in enumerate(flow.items()):
        split = path_split(case.loss, path)
        assert list(split) == list(stack)
        cut, states, _ = case.reference(cut=k)
        for name, state in stack.items():
            local = np.stack([loops.grad(cut, s) for s in states[k][name]])
            assert_split(split[name], state, local)
        if case.name == "lstm":
            assert list(split["c"].parts) == ["direct", "via h", "local"]
        assert list(split["h"].parts) == ["direct", "local"]


@pytest.mark.parametrize("loop", loops.LOOPS)
@pytest.mark.parametrize("where", ["last", "all", "random"])
@pytest.mark.parametrize(("T", "B", "H"), [(6, 2, 3), (2, 1, 1), (1, 2, 2)])
def test_loops_of_your_own(loop: str, where: str, T: int, B: int, H: int) -> None:
    run = loops.LOOPS[loop]
    states = run(Weights(), T, B, H)
    last = list(states)[-1]
    loss = loops.loss_of(states[last], where)
    cut = run(Weights(), T, B, H, cut=True)
    reference = loops.loss_of(cut[last], where)
    split = path_split(loss)
    for name, flow in flow_of(loss)[""].items():
        local = np.stack([loops.grad(reference, s) for s in cut[name]])[: len(flow.time)]
        assert_split(split[name], flow, local)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


@given(
    seed=loops.seeds,
    T=st.integers(2, 5),
    B=loops.sides,
    H=loops.sides,
    where=loops.wheres,
)
def test_lstm_in_closed_form(seed: int, T: int, B: int, H: int, where: str) -> None:
    """direct = f_t ∘ δ_{c_t}; via h = o_{t−1} ∘ (1 − tanh² c_{t−1}) ∘ W_hᵀ δ_{z_t}."""
    case = Case("lstm", T, B, H, 1, where, seed, False, False)
    flow, split = flow_of(case.loss)["lstm.l0"], path_split(case.loss)["c"]
    p = {name: w.numpy() for name, w in case.layer.named_parameters()}
    before = np.concatenate([np.zeros((1, B, H)), host(flow.h.value)[:-1]])
    c_before = np.concatenate([np.zeros((1, B, H)), host(flow.c.value)[:-1]])
    z = case.x @ p["weight_ih_l0"].T + before @ p["weight_hh_l0"].T + p["bias_ih_l0"]
    i, f, o = (sigmoid(z[..., k * H : (k + 1) * H]) for k in (0, 1, 3))
    g = np.tanh(z[..., 2 * H : 3 * H])
    tanh_c = np.tanh(host(flow.c.value))
    dc, dh = host(flow.c.grad), host(flow.h.grad)
    dz = [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g**2)]
    dz.append(dh * tanh_c * o * (1 - o))
    through = np.concatenate([*dz], axis=-1) @ p["weight_hh_l0"]
    assert_close(split.parts["direct"][:-1], (f * dc)[1:], 1e-13)
    via = (o * (1 - tanh_c**2))[:-1] * through[1:]
    assert_close(split.parts["via h"][:-1], via, 1e-13)
    assert not split.parts["direct"][-1].any()
    assert not split.parts["via h"][-1].any()


def test_nothing_local_is_exactly_nothing() -> None:
    case = Case("lstm", 6, 2, 3, 1, "last", 0, False, False)
    for split in path_split(case.loss).values():
        assert not split.parts["local"][:-1].any()
        assert split.parts["local"][-1].any()


def test_a_state_that_is_handed_on() -> None:
    """A skipped step hands its state on, so all of its gradient comes from the next step."""
    w = Weights()
    h, hs = const(np.ones((2, 3))), []
    for t in range(5):
        if t % 2 == 0:
            h = tg.tanh(h @ w("W", t, 3, 3) + 0.1)
        hs.append(mark(h, "h", t))
    loss = loops.loss_of(hs, "all")
    flow, split = flow_of(loss)[""].h, path_split(loss)["h"]
    assert_close(sum(split.parts.values()), flow.grad, 1e-14)
    for t in (0, 2):
        assert_close(split.parts["direct"][t], flow.grad[t], 0.0)
        assert_close(flow.grad[t], flow.grad[t + 1], 0.0)
        assert not split.parts["local"][t].any()
    assert split.parts["local"][1].any()
    gain = gain_split(loss)
    np.testing.assert_array_equal(gain.gain[[1, 3]], 1.0)
    np.testing.assert_array_equal(gain.saturation[[1, 3]], 1.0)
    np.testing.assert_array_less(gain.saturation[[0, 2, 4]], 1.0)


def test_one_state_with_two_names() -> None:
    w = Weights()
    h = const(np.ones((2, 3)))
    for t in range(4):
        h = mark(mark(tg.tanh(h @ w("W", t, 3, 3)), "h", t), "again", t)
    loss = (h * h).sum()
    split = path_split(loss)
    assert list(split) == ["h", "again"]
    for s in split.values():
        assert_close(s.grad, flow_of(loss)[""].h.grad, 1e-14)


def test_a_loop_from_the_end_to_the_start() -> None:
    """Readers of a state are found in the graph, not from the numbers of the steps."""
    w = Weights()
    h, hs = const(np.ones((2, 3))), []
    for t in reversed(range(4)):
        h = mark(tg.tanh(h @ w("W", t, 3, 3) + 0.1 * t), "h", t)
        hs.append(h)
    loss = loops.loss_of(hs, "last")
    split = path_split(loss)["h"]
    np.testing.assert_array_equal(split.time, range(4))
    assert split.parts["local"][0].any()
    assert not split.parts["local"][1:].any()
    assert_close(split.parts["direct"][1:], flow_of(loss)[""].h.grad[1:], 1e-14)


class Translator(tg.nn.Module):
    """Every step of the decoder looks at all the encoder's states."""

    def __init__(self) -> None:
        self.encoder = tg.nn.RNN(2, 3, rng=0, dtype="float64")
        self.cell = tg.nn.RNNCell(3, 3, rng=1, dtype="float64")

    def forward(self, x: Any, T: int) -> list[tg.Tensor]:
        states, _ = self.encoder(x)
        h, hs = const(np.zeros((2, 3))), []
        for t in range(T):
            attention = tg.softmax((states * h).sum(axis=2, keepdims=True), axis=0)
            h = mark(self.cell((attention * states).sum(axis=0), h), "h", t)
            hs.append(h)
        return hs


def test_encoder_and_decoder() -> None:
    hs = Translator()(const(loops.inputs(0, 4, 2, 2)), 3)
    loss = loops.loss_of(hs, "all")
    flow = flow_of(loss)
    assert set(flow) == {"translator", "encoder.l0"}
    for path in flow:
        split = path_split(loss, path)["h"]
        assert_close(sum(split.parts.values()), flow[path].h.grad, 1e-13)
    assert split.parts["local"].any()
    np.testing.assert_allclose(
        path_split(loss, "encoder.l0")["h"].shares["local"][-1], 1.0
    )  # the decoder is not a step
    with pytest.raises(tg.UnknownPathError, match=r"path_split: several.*'encoder\.l0'"):
        path_split(loss)


def test_sequences_of_several_lengths() -> None:
    """One loop after another over the same weight: a recurrence each."""
    w, total = Weights(), const(np.zeros(()))
    hs = []
    for T in (5, 1, 3):
        states = loops.rnn_outside(w, T, 1, 2)["h"]
        total = total + loops.loss_of(states, "all")
        hs.append(states)
    flow = flow_of(total)
    assert {path: len(s.h.time) for path, s in flow.items()} == {"": 5, "#2": 1, "#3": 3}
    for path, states in zip(flow, hs, strict=True):
        split = path_split(total, path)["h"]
        alone = path_split(loops.loss_of(states, "all"))["h"]
        for part, array in alone.parts.items():
            assert_close(split.parts[part], array, 1e-14)


# --- gains --------------------------------------------------------------------------------------

SLOPES = {
    "tanh": lambda h: 1 - h**2,
    "relu": lambda h: (h > 0).astype(float),
    "identity": np.ones_like,
}


@given(
    sizes=st.tuples(loops.steps, loops.sides, loops.sides),
    layers=st.integers(1, 2),
    nonlinearity=st.sampled_from(list(SLOPES)),
    where=loops.wheres,
    seed=loops.seeds,
)
def test_gains_by_dense_jacobians(
    sizes: tuple[int, int, int], layers: int, nonlinearity: str, where: str, seed: int
) -> None:
    case = Case(nonlinearity, *sizes, layers, where, seed, False, False)
    for k, (path, stack) in enumerate(flow_of(case.loss).items()):
        W = getattr(case.layer, f"weight_hh_l{k}").numpy()
        split = gain_split(case.loss, path)
        np.testing.assert_array_equal(split.time, stack.h.time)
        for t, delta in enumerate(host(stack.h.grad)):
            slope = SLOPES[nonlinearity](host(stack.h.value)[t])
            jacobians = slope[:, :, None] * W  # one for each sequence
            arrived = np.linalg.norm(np.einsum("bi,bij->bj", delta, jacobians))
            left, size = np.linalg.norm(slope * delta), np.linalg.norm(delta)
            if size == 0:
                assert np.isnan(split.gain[t])
                assert np.isnan(split.saturation[t])
                continue
            assert split.saturation[t] == pytest.approx(left / size, rel=1e-12)
            if left:
                assert split.weight[t] == pytest.approx(arrived / left, rel=1e-12)
                assert split.gain[t] == pytest.approx(arrived / size, rel=1e-12)


@pytest.mark.parametrize("radius", [0.4, 4.0])
def test_gains_where_float32_under_and_overflows(radius: float) -> None:
    gains = {}
    rnn = tg.nn.RNN(1, 4, nonlinearity="identity", bias=False, rng=0)
    tg.nn.init.scale_to_spectral_radius_(rnn.weight_hh_l0, radius)
    for dtype in ("float64", "float32"):
        twin = tg.nn.RNN(1, 4, nonlinearity="identity", bias=False, dtype=dtype)
        twin.load_state_dict(rnn.state_dict())
        loss = twin(tg.zeros((200, 2, 1), dtype=dtype))[0][-1].sum()
        gains[dtype] = gain_split(loss).gain
    assert abs(np.sum(np.log(gains["float64"]))) > 170  # 1e-74 and beyond
    np.testing.assert_allclose(gains["float32"], gains["float64"], rtol=2e-5)


# --- when it may be used ------------------------------------------------------------------------


def test_nothing_is_freed_and_texts_have_a_header() -> None:
    case = Case("tanh", 30, 2, 3, 1, "last", 0, False, False)
    split, gains = path_split(case.loss)["h"], gain_split(case.loss)
    assert repr(split).splitlines()[0].split() == ["t", "direct", "local"]
    assert repr(gains).splitlines()[0].split() == ["t", "saturation", "weight", "gain"]
    assert all(p.grad is None for p in case.layer.parameters())
    case.loss.backward()


@pytest.mark.parametrize("view", [path_split, gain_split])
def test_what_is_refused(view: Any) -> None:
    w = leaf(np.ones((3, 3)))
    name = view.__name__
    with pytest.raises(tg.GraphError, match=rf"{name}: .*state.*marked.*time=t"):
        view((w * w).sum())
    with pytest.raises(tg.GraphError, match=rf"{name}: .*output.*requires_grad=True"):
        view(const(np.ones(())))
    case = Case("tanh", 3, 2, 3, 2, "all", 0, False, False)
    with pytest.raises(tg.UnknownPathError, match=rf"{name}: several.*path=.*'rnn\.l0', 'rnn\.l1'"):
        view(case.loss)
    with pytest.raises(tg.UnknownPathError, match=rf"{name}: no states in 'rnn'.*'rnn\.l1'"):
        view(case.loss, "rnn")
    with pytest.raises(tg.ShapeError, match=rf"{name}.*single element"):
        view(case.output, "rnn.l0")
    case.loss.backward()
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        view(case.loss, "rnn.l0")


def test_states_without_two_factors_are_refused() -> None:
    """A sum through which a nonlinearity is passed, or a product, has no slope of its own."""
    lstm = Case("lstm", 3, 2, 3, 1, "all", 0, False, False)
    gru = loops.loss_of(loops.gru(Weights(), 4, 2, 3)["h"], "all")
    residual = ResidualNet(2, 3, depth=3, rng=0)(tg.ones((2, 2))).sum()
    for loss in (lstm.loss, gru, residual):
        with pytest.raises(tg.GraphError, match=r"gain_split: the state.*path_split splits any"):
            gain_split(loss)
    with pytest.raises(tg.UnknownPathError, match=r"gain_split: no state 'x'.*'h', 'c'"):
        gain_split(lstm.loss, state="x")


BENT = {
    "a nonlinearity below the product": lambda h, W: 0.1 + tg.tanh(3 * h) @ W,
    "an unmarked step": lambda h, W: tg.tanh(h @ W) @ W,
    "a normalisation": lambda h, W: (h @ W) / tg.std(h @ W, axis=1, keepdims=True),
    "a gate": lambda h, W: (h @ W) * h,
    "a square": lambda h, W: tg.einsum("bh,bh,hk->bk", h, h, W),
}
STRAIGHT = {
    "a scaled product": lambda h, W: 0.5 * (h @ W) / 2.0 - 1.0,
    "a gate of the input": lambda h, W: tg.sigmoid(W[0]) * (h @ W) + tg.exp(W[1]),
    "parts rearranged": lambda h, W: tg.concat([tg.flip(h, axis=1)[:, 1:], h[:, :1]], axis=1) @ W.T,
    "centred": lambda h, W: h @ W - (h @ W).mean(axis=1, keepdims=True),
    "einsum": lambda h, W: tg.einsum("bh,kh->bk", h, W),
}


def looped(pre: Any, outer: Any = tg.tanh) -> tg.Tensor:
    W, h = leaf(np.random.default_rng(0).normal(size=(3, 3))), leaf(np.array([[0.5, 0.1, -0.3]]))
    mark(h, "h", -1)
    for t in range(3):
        h = mark(outer(pre(h, W)), "h", t)
    return (h * h).sum()


@pytest.mark.parametrize("case", BENT)
@pytest.mark.parametrize("outer", [tg.tanh, lambda z: z + 0.0], ids=["tanh", "identity"])
def test_a_term_that_is_not_linear_in_the_previous_state_is_not_a_weight(
    case: str, outer: Any
) -> None:
    with pytest.raises(tg.GraphError, match=r"gain_split: the state.*path_split splits any"):
        gain_split(looped(BENT[case], outer))


def test_states_left_unmarked() -> None:
    w = Weights()
    h = const(np.ones((2, 3)))
    for t in range(6):
        h = tg.tanh(h @ w("W", 0, 3, 3))
        h = mark(h, "h", t // 2) if t % 2 else h
    with pytest.raises(tg.GraphError, match=r"through tanh.*not linear.*mark all states"):
        gain_split(h.sum())


@pytest.mark.parametrize("case", STRAIGHT)
def test_what_is_linear_in_the_state_before_is_weight(case: str) -> None:
    loss = looped(STRAIGHT[case])
    gains, flow = gain_split(loss), flow_of(loss)[""].h
    slopes, deltas = 1 - host(flow.value)[:, 0] ** 2, host(flow.grad)[:, 0]
    before = np.concatenate([host(flow.initial_grad), deltas[:-1]])
    left = np.linalg.norm(slopes * deltas, axis=1)
    assert_close(gains.saturation, left / flow.grad_norm, 1e-13)
    assert_close(gains.weight, np.linalg.norm(before, axis=1) / left, 1e-13)


CURVES = {
    "one over it": lambda z: 1.0 / (3.0 + z),
    "swish": lambda z: z * tg.sigmoid(z),
    "leaky": lambda z: tg.where(z > 0, z, 0.1 * z),
    "softplus": lambda z: tg.log(1 + tg.exp(z)),
    "clip": lambda z: tg.clip(z, -0.4, 5.0),
    "cube": lambda z: z**3 - 0.2 * z,
    "of a trained slope": lambda z: z * tg.sigmoid(leaf(np.full((), 1.7)) * z),
}
"""Functions of each element that are made of several operations."""


@pytest.mark.parametrize("name", CURVES)
def test_any_function_of_a_sum_has_a_slope(name: str) -> None:
    curve = CURVES[name]
    W, h = leaf(np.random.default_rng(0).normal(size=(3, 3))), leaf(np.array([[0.5, 0.1, -0.3]]))
    mark(h, "h", -1)
    slopes = []
    for t in range(3):
        z = h @ W + 0.1
        slopes.append(tg.grad(tg.sum(curve(cut := leaf(host(z)))), cut)[0].numpy()[0])
        h = mark(curve(z), "h", t)
    gains, flow = gain_split(loss := (h * h).sum()), flow_of(loss)[""].h
    deltas = host(flow.grad)[:, 0]
    left = slopes * deltas
    arrived = np.linalg.norm(left @ W.numpy().T, axis=1)
    assert_close(gains.saturation, np.linalg.norm(left, axis=1) / flow.grad_norm, 1e-13)
    assert_close(gains.gain, arrived / flow.grad_norm, 1e-13)


def test_a_first_state_with_none_before_it() -> None:
    """Its saturation is the slope of its function; it has no weight."""
    W, x = leaf(np.random.default_rng(0).normal(size=(3, 3))), const(np.array([[0.5, 0.1, -0.3]]))
    for curve in CURVES.values():
        h = mark(curve(x @ W), "h", 0)
        delta, cut = 2 * host(h), leaf(host(x @ W))
        slope = tg.grad(tg.sum(curve(cut)), cut)[0].numpy()
        gains = gain_split((h * h).sum())
        left = np.linalg.norm(slope * delta)
        assert_close(gains.saturation, [left / np.linalg.norm(delta)], 1e-13)
        assert np.isnan(gains.weight).all()


def test_states_of_different_shapes_are_refused() -> None:
    h = mark(tg.tanh(leaf(np.ones((2, 3)))), "h", 0)
    h = mark(tg.tanh(h[:1]), "h", 1)
    with pytest.raises(tg.ShapeError, match=r"path_split: the states 'h'.*different shapes"):
        path_split(h.sum())


def test_a_state_may_be_a_single_number():
    h, w = (tg.tensor(value, dtype="float64", requires_grad=True) for value in (0.3, 1.5))
    for t in range(4):
        h = tg.inspect.mark(tg.tanh(h * w), "h", time=t)
    split = tg.inspect.path_split(h)["h"]
    assert sum(split.shares.values())[:-1] == pytest.approx(np.ones(3))
    assert tg.inspect.gain_split(h).weight[1:] == pytest.approx(np.full(3, 1.5))
