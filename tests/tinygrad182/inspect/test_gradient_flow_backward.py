"""``gradient_flow(loss, backward=True)``: a training step and every state's gradient in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

import tinygrad182 as tg
from tests.oracles.loops import Case, cases
from tests.support import Array, assert_close, const, host, leaf, write
from tinygrad182.recurrence import scans

flow_of = tg.inspect.gradient_flow


def grads(module: tg.nn.Module) -> dict[str, Array]:
    return {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}


def assert_same_flow(actual: tg.inspect.GradientFlow, expected: tg.inspect.GradientFlow) -> None:
    assert list(actual) == list(expected)
    for path, states in expected.items():
        for name, state in states.items():
            found = actual[path][name]
            for field in ("time", "grad", "log_grad_norm", "initial_grad", "value"):
                np.testing.assert_array_equal(
                    host(getattr(found, field)), host(getattr(state, field)), field
                )


@given(cases)
def test_one_pass_gives_what_two_give(case: Case) -> None:
    expected = flow_of(case.loss)
    case.loss.backward(retain_graph=True)
    wanted = grads(case.layer)
    case.layer.zero_grad()

    assert_same_flow(flow_of(case.loss, backward=True), expected)

    assert wanted.keys() == grads(case.layer).keys()
    for name, g in grads(case.layer).items():
        assert_close(g, wanted[name], 1e-12, name, floor=1e-3)


@pytest.mark.parametrize("kind", ["tanh", "lstm"])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_in_windows_of_time(kind: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows give the flow of a single pass, also where their gradients differ by many decades."""
    case = Case(kind, 40, 3, 4, 2, "all", 0, False, True)
    write(case.layer.weight_hh_l0, host(case.layer.weight_hh_l0) * scale)
    output, _ = case.layer(leaf(case.x), None, case.lengths)
    loss = (output[-1] ** 2).sum()
    expected = flow_of(loss, backward=True)
    whole = grads(case.layer)
    case.layer.zero_grad()

    def windows(m: Any, shape: Any) -> list[range]:
        return [range(i, min(i + 7, shape[0])) for i in range(0, shape[0], 7)]

    monkeypatch.setattr(scans, "windows", windows)
    found = flow_of(loss, backward=True)
    assert_same_flow(found, expected)
    for name, g in grads(case.layer).items():
        assert_close(g, whole[name], 1e-12, name)
    parts = host(tg.inspect.weight_grad_by_time(loss, case.layer.weight_hh_l0))
    assert_close(parts.sum(axis=0), whole["weight_hh_l0"], 1e-12)


def test_gradients_are_added_and_frozen_weights_are_left() -> None:
    rnn, x = tg.nn.RNN(2, 3, rng=0, dtype="float64"), leaf(np.ones((5, 2, 2)))
    rnn.weight_ih_l0.requires_grad = False
    loss = rnn(x)[0].sum()
    flow_of(loss, backward=True)
    once = grads(rnn)
    flow_of(loss, backward=True)
    assert once.keys() == {"weight_hh_l0", "bias_ih_l0"}
    for name, g in grads(rnn).items():
        np.testing.assert_array_equal(g, 2 * once[name])
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_results_in_between_keep_their_gradients_if_told_to() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    output, _ = rnn(tg.ones((5, 2, 2), dtype="float64"))
    output.retain_grad()
    flow_of((output * 3.0).sum(), backward=True)
    np.testing.assert_array_equal(output.grad.numpy(), np.full((5, 2, 3), 3.0))


def test_a_gradient_shares_memory_with_nothing() -> None:
    x = leaf(np.ones((4, 1, 3)))
    seed = np.ones((4, 1, 3))
    rnn = tg.nn.RNN(3, 3, nonlinearity="identity", rng=0, dtype="float64")
    flow = flow_of(rnn(x)[0] + x, seed, backward=True)
    before = host(flow["rnn.l0"].h.grad).copy()
    write(x.grad, 7.0)
    assert (seed == 1).all()
    np.testing.assert_array_equal(host(flow["rnn.l0"].h.grad), before)


def test_gradients_that_the_type_cannot_hold_on_the_way() -> None:
    """10**48 exceeds float32 on the way, but the gradients that come of it do not."""
    x = tg.tensor([3.0], requires_grad=True)
    y = tg.inspect.mark(x * 1.0, "h", 0)
    for factor in (1e-12,) * 4 + (1e12,) * 4:
        y = y * factor
    flow_of(y.sum(), backward=True)
    assert_close(x.grad.numpy(), np.array([1.0], np.float32), 1e-6)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_powers_go_from_layer_to_layer(kind: str, retained: bool, gain: float) -> None:
    """Gradients lie far below 1e-308 and above 1e308 in every layer, with losses at some states between."""
    flows = []
    for fused in (True, False):
        options: dict[str, Any] = {"rng": 0, "dtype": "float64", "fused": fused}
        layer: Any = {"lstm": tg.nn.LSTM, "gru": tg.nn.GRU}.get(kind, tg.nn.RNN)
        if kind == "tanh":
            options["nonlinearity"] = "identity"
        module = layer(2, 3, 3, return_states=True, **options)
        for name, weight in module.named_parameters():
            write(weight, host(weight) * (gain if name.startswith("weight_hh") else 1.0))
            if name.startswith("bias"):  # where it explodes, all states are 0
                write(weight, host(weight) * (gain < 1))
                write(weight, host(weight)[3:6] - 8.0 * (gain < 1), at=slice(3, 6))
        x = np.random.default_rng(1).normal(size=(220, 2, 2)) * (gain < 1)
        output, _, states = module(leaf(x))
        if retained:
            output.retain_grad()
        loss = output[-1].sum() + 1e-200 * (states.h[0, 100] * states.h[1, 50]).sum()
        flows.append(flow_of(loss, backward=True))
    fused, steps = flows
    sizes = []
    for path in steps:
        for name in steps[path]:
            expected = steps[path][name].log_grad_norm
            np.testing.assert_allclose(fused[path][name].log_grad_norm, expected, rtol=1e-9)
            sizes.append(abs(expected[0]))
    assert min(sizes) > 709  # ln 1e308


def test_figures_are_of_the_time_of_the_call() -> None:
    """Norms are computed on demand, but from the values at the time of the call."""
    h = leaf(np.ones((2, 3)))
    marked = tg.inspect.mark(h, "h", 0)
    flow = flow_of((marked * 2.0).sum())[""].h
    write(h, 100.0)
    np.testing.assert_array_equal(host(flow.value), np.ones((1, 2, 3)))

    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    loss = rnn(leaf(np.ones((4, 1, 2))))[0].sum()
    now, later = flow_of(loss), flow_of(loss)
    expected = now["rnn.l0"].h.log_grad_norm
    loss.backward()  # frees the graph
    write(rnn.weight_hh_l0, 9.0)
    np.testing.assert_array_equal(later["rnn.l0"].h.log_grad_norm, expected)
    assert later["rnn.l0"].h.value.shape == (4, 1, 3)


@pytest.mark.parametrize(("dtype", "T"), [("float16", 16), ("float32", 136), ("float64", 1070)])
def test_a_gradient_is_rounded_once_to_a_subnormal_number(dtype: str, T: int) -> None:
    rnn = tg.nn.RNN(1, 1, nonlinearity="identity", bias=False, dtype=dtype)
    write(rnn.weight_hh_l0, 0.5)
    write(rnn.weight_ih_l0, 1.0)
    x = leaf(np.ones((T, 1, 1), dtype))
    flow_of(rnn(x)[0][-1].sum(), backward=True)
    found = host(x.grad)[:, 0, 0]
    expected = np.ldexp(np.ones((), dtype), -np.arange(T)[::-1])
    assert 0 < expected[0] < np.finfo(dtype).smallest_normal
    if x.device != "cpu" and dtype == "float32":  # at those steps they count as 0
        expected[expected < np.finfo(dtype).smallest_normal] = 0
    np.testing.assert_array_equal(found, expected)


def test_half_precision_has_the_gradients_of_backward() -> None:
    lstm = tg.nn.LSTM(2, 6, rng=0, dtype="float16")
    x = np.random.default_rng(0).normal(size=(50, 1, 2)).astype("float16")
    loss = (lstm(const(x))[0] ** 2).mean()
    loss.backward(retain_graph=True)
    expected = grads(lstm)
    lstm.zero_grad()
    flow_of(loss, backward=True)
    for name, g in grads(lstm).items():
        np.testing.assert_array_equal(g != 0, expected[name] != 0)
        assert_close(g, expected[name], 1e-2, name, floor=1e-3)
    parts = host(tg.inspect.weight_grad_by_time(loss * 0.01, lstm.weight_hh_l0))
    assert parts.shape == (50, 24, 6)
