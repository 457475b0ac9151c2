"""``gradient_flow``: the gradient of every state, for any layer, loop and loss."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles import recurrent
from tests.oracles.derivatives import complex_gradients
from tests.support import Array, assert_close, assert_same_bits, const, draw, host, leaf, write

flow_of = tg.inspect.gradient_flow
mark = tg.inspect.mark
sides = st.integers(1, 4)


def assert_views_agree(flow: tg.inspect.StateFlow) -> None:
    """The norms are those of the arrays."""
    T, B = flow.grad.shape[:2]
    assert flow.value.shape == flow.grad.shape
    assert flow.time.shape == flow.grad_norm.shape == flow.value_norm.shape == (T,)
    grad, value = (host(a).astype(np.float64).reshape(T, B, -1) for a in (flow.grad, flow.value))
    assert_close(flow.grad_norm, np.linalg.norm(grad, axis=(1, 2)), 1e-14)
    assert_close(flow.value_norm, np.linalg.norm(value, axis=(1, 2)), 1e-14)
    assert_close(flow.sample_grad_norm, np.linalg.norm(grad, axis=2), 1e-14)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(flow.log_grad_norm, np.log(flow.grad_norm), atol=1e-13)
        np.testing.assert_allclose(flow.log10_grad_norm, np.log10(flow.grad_norm), atol=1e-13)
    logs = flow.log_grad_norm, flow.log10_grad_norm
    for norms in (flow.grad_norm, *logs, flow.value_norm, flow.sample_grad_norm):
        assert norms.dtype == np.float64


@given(
    sizes=st.tuples(sides, sides, st.integers(1, 2), st.integers(1, 3)),
    layers=st.integers(1, 3),
    nonlinearity=st.sampled_from(["tanh", "relu", "identity"]),
    seed=st.integers(0, 99),
)
def test_states_of_a_layer_against_the_complex_step(
    sizes: tuple[int, int, int, int], layers: int, nonlinearity: str, seed: int
) -> None:
    """∂L/∂h_t is the derivative by a kick to h_t, in loops that know nothing of the framework."""
    T, B, I, H = sizes  # noqa: E741
    rnn = tg.nn.RNN(I, H, layers, nonlinearity, rng=seed, dtype="float64")  # type: ignore[arg-type]
    weights, step = recurrent.weights_of(rnn), recurrent.vanilla(nonlinearity)
    x, h_0, a, b = draw(seed, (T, B, I), (layers, B, H), (T, B, H), (layers, B, H))

    def loss(at: dict[str, Array]) -> Array:
        run = recurrent.loop(step, weights | {"x": x} | at, kicks={"h": at["kicks"]})
        return np.sum(a * run.output**2) + np.sum(b * run.last[0])

    kicks = np.zeros((layers, T, B, H))
    expected = complex_gradients(loss, {"kicks": kicks, "h_0": h_0})
    states = recurrent.loop(step, weights | {"x": x, "h_0": h_0}).states[0]
    output, h_n = rnn(const(x), const(h_0))
    flow = flow_of((const(a) * output**2).sum() + (const(b) * h_n).sum())
    assert list(flow) == [f"rnn.l{k}" for k in range(layers)]
    for k, stack in enumerate(flow.values()):
        assert_close(stack.h.grad, expected["kicks"][k], 1e-13, f"layer {k}")
        assert_close(stack.h.value, states[k], 1e-14, f"values of layer {k}")
        assert_close(stack.h.initial_grad, expected["h_0"][k], 1e-13, f"h_0 of layer {k}")
        np.testing.assert_array_equal(stack.h.time, np.arange(T))
        assert_views_agree(stack.h)


def test_initial_gradients_are_those_of_tg_grad() -> None:
    rnn = tg.nn.RNN(2, 3, 2, rng=0, dtype="float64")
    x, h = draw(0, (5, 4, 2), (2, 4, 3))
    h_0 = leaf(h)
    loss = (rnn(const(x), h_0)[0] ** 2).sum()
    flow = flow_of(loss)
    (expected,) = tg.grad(loss, h_0)
    assert expected is not None
    for k in range(2):
        assert_same_bits(flow[f"rnn.l{k}"].h.initial_grad, expected.numpy()[k])
    h_0 = leaf(np.zeros_like(h))  # the default, which nobody holds
    (expected,) = tg.grad((rnn(const(x), h_0)[0] ** 2).sum(), h_0)
    assert expected is not None
    flow = flow_of((rnn(const(x))[0] ** 2).sum())
    for k in range(2):
        assert_same_bits(flow[f"rnn.l{k}"].h.initial_grad, expected.numpy()[k])


def test_an_own_loop_against_tg_grad() -> None:
    cell = tg.nn.RNNCell(2, 3, rng=0, dtype="float64")
    (x,) = draw(1, (6, 4, 2))
    h_0 = leaf(np.zeros((4, 3)))
    h = mark(h_0, "h", time=-1)
    states = []
    for t, x_t in enumerate(const(x)):
        h = mark(cell(x_t, h), "h", time=t)
        states.append(h)
    loss = sum((s**2).sum() for s in states)
    flow = flow_of(loss)
    assert list(flow) == [""]
    assert list(flow[""]) == ["h"]
    expected = tg.grad(loss, [h_0, *states])
    assert_same_bits(flow[""].h.initial_grad, expected[0].numpy())
    assert_same_bits(flow[""]["h"].grad, np.stack([g.numpy() for g in expected[1:]]))
    assert_views_agree(flow[""].h)


def test_marking_changes_no_number() -> None:
    def gradient(marked: bool) -> Array:
        w = leaf(draw(3, (3, 3))[0])
        h = const(np.ones((2, 3)))
        for t in range(5):
            h = tg.tanh(h @ w)
            if marked:
                assert mark(h, "h", t) is h
        h.sum().backward()
        return w.grad.numpy()

    assert_same_bits(gradient(True), gradient(False))


def test_states_the_loss_does_not_depend_on() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0)
    output, _ = rnn(tg.ones((6, 2, 2)))
    h = flow_of(output[2].sum())["rnn.l0"].h
    assert h.grad.shape == (6, 2, 3)
    assert (host(h.grad)[3:] == 0).all()
    np.testing.assert_array_equal(h.grad_norm[3:], 0.0)
    np.testing.assert_array_equal(h.log_grad_norm[3:], -np.inf)
    assert (h.grad_norm[:3] > 0).all()
    (alive,) = tg.grad(output[2].sum(), rnn.weight_hh_l0)  # the graph of another loss still works
    assert alive is not None


def test_one_sample_of_a_batch() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    output, _ = rnn(tg.ones((4, 3, 1)))
    h = flow_of(output[:, 1].sum())["rnn.l0"].h
    assert (h.sample_grad_norm[:, 1] > 0).all()
    assert (h.sample_grad_norm[:, [0, 2]] == 0).all()


def test_a_cotangent_to_start_from() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    output, _ = rnn(tg.ones((4, 2, 1)))
    (g,) = draw(0, (4, 2, 3))
    g = g.astype(np.float32)
    given_ = flow_of(output, const(g))["rnn.l0"].h
    expected = flow_of((output * const(g)).sum())["rnn.l0"].h
    assert_same_bits(given_.grad, expected.grad)


def test_nothing_is_freed_and_no_gradient_is_touched() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    x = leaf(np.float32(draw(0, (4, 2, 1))[0]))
    loss = rnn(x)[0].sum()
    kept = tg.ones((3, 3))
    rnn.weight_hh_l0.grad = kept
    first = flow_of(loss)["rnn.l0"].h
    second = flow_of(loss)["rnn.l0"].h
    assert_same_bits(first.grad, second.grad)
    assert rnn.weight_hh_l0.grad is kept
    assert rnn.bias_ih_l0.grad is None
    assert x.grad is None
    loss.backward()
    assert x.grad is not None
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        flow_of(loss)


def test_gradients_kept_by_request_are_left_alone() -> None:
    w = leaf(np.ones((2, 2)))
    h = mark(tg.tanh(w @ w), "h", 0)
    h.retain_grad()
    flow_of(h.sum())
    assert h.grad is None


def test_it_works_inside_no_grad_once_recorded() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    loss = rnn(tg.ones((4, 2, 1)))[0].sum()
    with tg.no_grad():
        inside = flow_of(loss)["rnn.l0"].h
        silent = rnn(tg.ones((4, 2, 1)))[0].sum()
    assert_same_bits(inside.grad, flow_of(loss)["rnn.l0"].h.grad)
    with pytest.raises(tg.GraphError, match=r"gradient_flow.*no_grad\(\)"):
        flow_of(silent)


@pytest.mark.parametrize("start", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("nonlinearity", ["relu", "identity", "tanh"])
def test_states_that_are_not_finite_do_not_crash(start: float, nonlinearity: str) -> None:
    rnn = tg.nn.RNN(1, 3, nonlinearity=nonlinearity, rng=0)  # type: ignore[arg-type]
    write(rnn.weight_hh_l0, 1e10)
    with np.errstate(all="ignore"):
        output, _ = rnn(tg.full((6, 2, 1), start))
        flow = flow_of((output**2).sum())
    assert flow["rnn.l0"].h.grad.shape == (6, 2, 3)
    assert "rnn.l0 h" in repr(flow)


def test_time_grows_with_the_steps_not_with_their_square() -> None:
    def seconds(T: int) -> float:
        loss = tg.nn.RNN(1, 2, rng=0)(tg.ones((T, 1, 1)))[0].sum()
        best = math.inf
        for _ in range(3):
            start = time.process_time()  # of this process alone: the machine may be busy
            flow_of(loss)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(8000) < 40 * seconds(500)  # 16 times the steps


def test_texts() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    flow = flow_of(rnn(tg.ones((50, 1, 1)))[0].sum())
    text = repr(flow)
    assert text.startswith("rnn.l0 h\n")
    header, *rows = text.splitlines()[1:]
    assert header.split() == ["t", "‖value‖", "‖grad‖"]
    assert len(rows) == 21
    assert "… 30 more" in rows[10]
    h = flow["rnn.l0"].h
    assert rows[0].split() == ["0", f"{h.value_norm[0]:.3e}", f"{h.grad_norm[0]:.3e}"]
    assert rows[-1].split()[0] == "49"
    assert repr(flow["rnn.l0"]) == text


def test_what_is_refused() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    output, _ = rnn(tg.ones((4, 2, 1)))
    w = tg.ones(2, requires_grad=True)
    with pytest.raises(tg.ShapeError, match=r"gradient_flow: the output.*\(4, 2, 3\)"):
        flow_of(output)
    with pytest.raises(tg.GraphError, match=r"state.*marked.*time=t"):
        flow_of((w * w).sum())
    with pytest.raises(tg.DTypeError, match=r"gradient_flow: .*output.*float"):
        flow_of(1.0)  # type: ignore[arg-type]
    flow = flow_of(output.sum())
    with pytest.raises(tg.UnknownPathError, match=r"'lstm'.*'rnn\.l0'"):
        flow["lstm"]
    with pytest.raises(tg.UnknownPathError, match=r"no state 'c' in 'rnn\.l0'.*'h'"):
        flow["rnn.l0"]["c"]
    with pytest.raises(AttributeError, match="no state 'c'"):
        _ = flow["rnn.l0"].c
    assert not hasattr(flow["rnn.l0"], "c")
    with pytest.raises(KeyError):
        flow["#2"]
