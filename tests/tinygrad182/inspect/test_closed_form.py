"""∂L/∂h_t of the linear RNN against its closed form, near 1, at 1e-50 and beyond what floats can hold.

For L = Σ (ŷ_T − y)²: ∂L/∂h_t = 2 (ŷ_T − y) W_fᵀ (W_hᵀ)^{T−t}, where PyTorch's ``weight_hh`` is W_hᵀ and
``head.weight`` is W_fᵀ.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, const, host, write

H, B = 6, 3


class Regressor(tg.nn.Module):
    def __init__(self, radius: float, nonlinearity: str = "identity", layers: int = 1) -> None:
        self.rnn = tg.nn.RNN(2, H, layers, nonlinearity, rng=4, dtype="float64")  # type: ignore[arg-type]
        self.head = tg.nn.Linear(H, 1, rng=5, dtype="float64")
        for k in range(layers):
            tg.nn.init.scale_to_spectral_radius_(getattr(self.rnn, f"weight_hh_l{k}"), radius)

    def forward(self, x: tg.Tensor, h_0: tg.Tensor | None = None) -> tg.Tensor:
        return self.head(self.rnn(x, h_0)[0])


def data(T: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(6)
    return rng.normal(size=(T, B, 2)), rng.normal(size=(T, B, 1))


def in_float32(model: Regressor) -> None:
    """Round every weight of the model to float32, so that it equals a float32 model."""
    for p in model.parameters():
        write(p, p.numpy().astype(np.float32))


def directions(model: Regressor, errors: Array, steps: int) -> tuple[list[Array], list[float]]:
    """2 (ŷ−y) W_fᵀ (W_hᵀ)^k for k = 0 … steps: each as a direction of norm 1 and a logarithm."""
    row = 2 * errors @ model.head.weight.numpy()
    units, logs, log = [], [], 0.0
    for _ in range(steps + 1):
        norm = float(np.linalg.norm(row))
        log += math.log(norm)
        row = row / norm
        units.append(row)
        logs.append(log)
        row = row @ model.rnn.weight_hh_l0.numpy()
    return units[::-1], logs[::-1]  # by t


@pytest.mark.parametrize("radius", [0.3, 0.5, 0.9, 1.0, 1.1, 1.5])
def test_loss_at_the_last_step(radius: float) -> None:
    T = 200
    model = Regressor(radius)
    x, y = data(T)
    predictions = model(const(x))
    loss = tg.square(predictions[-1] - const(y[-1])).sum()
    h = tg.inspect.gradient_flow(loss)["rnn.l0"].h
    units, logs = directions(model, predictions.numpy()[-1] - y[-1], T)
    norms = np.exp(logs)
    if radius == 0.5:
        assert norms[1] < 1e-55  # h_1, 199 steps before the loss
    for t in range(T):
        assert_close(h.grad[t], norms[t + 1] * units[t + 1], 1e-12, f"t = {t}")
    np.testing.assert_allclose(h.grad_norm, norms[1:], rtol=1e-12)
    np.testing.assert_allclose(h.log_grad_norm, logs[1:], rtol=0, atol=1e-12)
    assert_close(h.initial_grad, norms[0] * units[0], 1e-12, "∂L/∂h_0")
    by_sample = norms[1:, None] * [np.linalg.norm(u, axis=1) for u in units[1:]]
    np.testing.assert_allclose(h.sample_grad_norm, by_sample, rtol=1e-12)


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.2])
def test_loss_at_every_step(radius: float) -> None:
    """∂L/∂h_t = Σ_{k ≥ t} 2 (ŷ_k − y_k) W_fᵀ (W_hᵀ)^{k−t}, summed from its definition."""
    T = 40
    model = Regressor(radius)
    x, y = data(T)
    predictions = model(const(x))
    loss = tg.square(predictions - const(y)).sum()
    h = tg.inspect.gradient_flow(loss)["rnn.l0"].h
    sent = 2 * (predictions.numpy() - y) @ model.head.weight.numpy()
    powers = [np.eye(H)]
    for _ in range(T):
        powers.append(powers[-1] @ model.rnn.weight_hh_l0.numpy())
    for t in range(T):
        expected = sum(sent[k] @ powers[k - t] for k in range(t, T))
        assert_close(h.grad[t], expected, 1e-12, f"t = {t}")
    assert_close(h.initial_grad, sum(sent[k] @ powers[k + 1] for k in range(T)), 1e-12)


@pytest.mark.parametrize(("radius", "T"), [(0.5, 1500), (0.01, 300), (3.0, 1000), (1e4, 300)])
def test_norms_beyond_float64(radius: float, T: int) -> None:
    """Down to 1e-600 and up to 1e+1200; zero states, so that the forward stays finite."""
    model = Regressor(radius)
    write(model.rnn.bias_ih_l0, 0.0)
    loss = tg.square(model(tg.zeros((T, B, 2), dtype="float64"))[-1] - 1.0).sum()
    h = tg.inspect.gradient_flow(loss)["rnn.l0"].h
    errors = np.full((B, 1), model.head.bias.numpy()[0] - 1.0)
    _, logs = directions(model, errors, T)
    np.testing.assert_allclose(h.log_grad_norm, logs[1:], rtol=1e-12)
    np.testing.assert_allclose(h.log10_grad_norm, logs[1:] / np.log(10), rtol=1e-12)
    assert abs(logs[1]) > 400 * math.log(10)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(h.grad_norm, np.exp(logs[1:]), rtol=1e-10)
    assert h.grad_norm[0] == (0.0 if radius < 1 else np.inf)


@pytest.mark.parametrize(("radius", "decades"), [(0.4, -79), (0.01, -390), (5.0, 130), (1e3, 590)])
def test_float32_agrees_with_float64_where_it_under_and_overflows(
    radius: float, decades: float
) -> None:
    T = 200
    flows = {}
    model = Regressor(radius)
    write(model.rnn.bias_ih_l0, 0.0)
    in_float32(model)
    for dtype in ("float64", "float32"):
        twin = tg.nn.RNN(2, H, nonlinearity="identity", dtype=dtype)
        twin.load_state_dict(model.rnn.state_dict())
        output, _ = twin(tg.zeros((T, B, 2), dtype=dtype))
        loss = ((output[-1] - 1.0) ** 2).mean()
        flows[dtype] = tg.inspect.gradient_flow(loss)["rnn.l0"].h
    double, single = flows["float64"], flows["float32"]
    assert abs(double.log_grad_norm[0]) > abs(decades) * math.log(10)
    np.testing.assert_allclose(single.log_grad_norm, double.log_grad_norm, rtol=0, atol=2e-5)
    assert single.grad.dtype == np.float32
    held = np.abs(double.log_grad_norm) < 35 * math.log(10)
    for t in np.flatnonzero(held):
        assert_close(single.grad[t], double.grad[t], 2e-5, f"t = {t}")
    first = host(single.grad)[0]
    assert np.all(first == 0.0) if radius < 1 else not np.isfinite(first).any()
    assert single.initial_grad.dtype == np.float32


@pytest.mark.parametrize("radius", [0.3, 3.0])
def test_the_initial_gradient_in_float32(radius: float) -> None:
    """About 1e±30, which float32 holds, though the pass has rescaled on the way there."""
    T = 60
    model = Regressor(radius)
    write(model.rnn.bias_ih_l0, 0.0)
    in_float32(model)
    rnn = tg.nn.RNN(2, H, nonlinearity="identity")
    rnn.load_state_dict(model.rnn.state_dict())
    output, _ = rnn(tg.zeros((T, B, 2)))
    found = tg.inspect.gradient_flow(output[-1].sum())["rnn.l0"].h.initial_grad
    row = np.ones((B, H))
    for _ in range(T):
        row = row @ model.rnn.weight_hh_l0.numpy()
    assert 25 < abs(math.log10(np.abs(row).max())) < 35
    assert_close(found, row, 1e-5)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("layers", [1, 2])
def test_float32_agrees_with_float64_through_a_nonlinearity(nonlinearity: str, layers: int) -> None:
    T = 300
    model = Regressor(0.5, nonlinearity, layers)
    for k in range(layers):  # keeps some units alive under ReLU
        bias = getattr(model.rnn, f"bias_ih_l{k}")
        write(bias, host(bias) + 0.5)
    in_float32(model)
    x, _ = data(T)
    x = x.astype(np.float32)
    flows = {}
    for dtype in ("float64", "float32"):
        twin = tg.nn.RNN(2, H, layers, nonlinearity, dtype=dtype)  # type: ignore[arg-type]
        twin.load_state_dict(model.rnn.state_dict())
        output, _ = twin(const(x.astype(dtype)))
        flows[dtype] = tg.inspect.gradient_flow(output[-1].sum())
    for path, stack in flows["float64"].items():
        single = flows["float32"][path].h
        known = np.isfinite(stack.h.log_grad_norm)
        assert stack.h.log_grad_norm[known].min() < -60 * math.log(10)
        np.testing.assert_array_equal(np.isfinite(single.log_grad_norm), known)
        difference = np.abs(single.log_grad_norm - stack.h.log_grad_norm)[known]
        assert difference.max() < 1e-3  # float32 states, 300 steps
