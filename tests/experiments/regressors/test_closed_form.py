"""The closed form against brute force, and the framework's gradients against the closed form."""

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.regressors.closed_form import Scaled, linear_flow
from experiments.regressors.data import running_average
from experiments.regressors.flow import compare, measure_flow, mse_gradient
from experiments.regressors.networks import Network

TOLERANCE = 1e-12


def weights(rng, layers, hidden, radius):
    """Parameters with non-normal W_h of a given spectral radius."""
    state = {"head.weight": rng.normal(size=(2, hidden))}
    for layer in range(layers):
        w = rng.normal(size=(hidden, hidden))
        state[f"rnn.weight_hh_l{layer}"] = w * radius / np.abs(np.linalg.eigvals(w)).max()
        state[f"rnn.weight_ih_l{layer}"] = rng.normal(size=(hidden, hidden if layer else 1))
    return state


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5])
def test_one_layer_is_the_double_sum_of_the_formula(radius):
    rng = np.random.default_rng(0)
    state = weights(rng, 1, 4, radius)
    output_grad = rng.normal(size=(9, 3, 2))
    (flow,) = linear_flow(state, output_grad, layers=1)
    w_f, w_h = state["head.weight"].T, state["rnn.weight_hh_l0"].T  # as in the formula
    for t in range(9):
        expected = sum(
            output_grad[k] @ w_f.T @ np.linalg.matrix_power(w_h.T, k - t) for k in range(t, 9)
        )
        measured = np.ldexp(flow.mantissa[t], flow.exponent[t])
        np.testing.assert_allclose(measured, expected, rtol=1e-12, atol=1e-14)


def test_far_below_and_above_floating_point_the_slope_is_exact():
    rng = np.random.default_rng(1)
    q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    for radius in (0.01, 0.5, 40.0):
        state = weights(rng, 1, 4, 1.0) | {"rnn.weight_hh_l0": radius * q}
        output_grad = np.zeros((2000, 3, 2))
        output_grad[-1] = rng.normal(size=(3, 2))
        (flow,) = linear_flow(state, output_grad, layers=1)
        last = np.log(np.linalg.norm(output_grad[-1] @ state["head.weight"]))
        lags = np.arange(1999, -1, -1)
        np.testing.assert_allclose(flow.norm_log(), last + lags * np.log(radius), rtol=1e-12)


def test_zero_stays_zero_at_any_scale():
    state = weights(np.random.default_rng(2), 2, 4, 1.0)
    for flow in linear_flow(state, np.zeros((5, 3, 2)), layers=2):
        assert np.isneginf(flow.norm_log()).all()
    output_grad = np.zeros((5, 3, 2))
    output_grad[2] = 1.0
    for flow in linear_flow(state, output_grad, layers=2):
        np.testing.assert_array_equal(np.isneginf(flow.norm_log()), [0, 0, 0, 1, 1])


def test_mse_gradient_is_the_derivative_of_the_loss_that_is_trained():
    rng = np.random.default_rng(3)
    values, labels = rng.normal(size=(2, 5, 3, 2))
    for target in ("last", "all"):
        predictions = tg.tensor(values, requires_grad=True)
        if target == "last":
            loss = tg.nn.mse_loss(predictions[-1], tg.tensor(labels[-1]))
        else:
            loss = tg.nn.mse_loss(predictions, tg.tensor(labels))
        loss.backward()
        written = mse_gradient(values, labels, target)
        np.testing.assert_allclose(written, predictions.grad.numpy(), rtol=1e-14)


@pytest.mark.parametrize("weights_kind", ["orthogonal", "gaussian"])
@pytest.mark.parametrize("target", ["last", "all"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("radius", "length"), [(0.5, 30), (1.0, 100), (1.5, 100), (0.56, 200)])
def test_measured_gradients_are_the_closed_form(radius, length, layers, target, weights_kind):
    network = Network("identity", radius, target, 8, layers, initial_weights=weights_kind)
    batch = running_average(np.random.default_rng(0), 4, length)
    flows, _ = measure_flow(network.build(1, seed=0), "identity", *batch, target)
    assert len(flows) == layers
    for flow in flows:
        assert flow.closed_form_error.max() <= TOLERANCE
        np.testing.assert_allclose(flow.gradient, flow.closed_form, rtol=1e-12, atol=1e-12)
    if (target, radius, weights_kind) == ("last", 0.56, "orthogonal"):
        assert flows[-1].gradient[0] < -50


def test_norms_below_the_dtype_are_compared_by_their_logarithms():
    network = Network("identity", 0.5, "last", 4, dtype="float32")
    batch = running_average(np.random.default_rng(0), 4, 300, "float32")
    (flow,), _ = measure_flow(network.build(1, seed=0), "identity", *batch, "last")
    assert flow.gradient[0] < np.log10(np.finfo("float32").smallest_subnormal) - 40
    assert np.nanmax(flow.closed_form_error) < 1e-4


def test_a_wrong_step_shows_in_its_error_alone():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(6, 3, 4)) * 1e-200
    exact = Scaled.of(values)
    log_norm = exact.norm_log()
    assert compare(exact, values, log_norm).max() == 0.0
    wrong = values.copy()
    wrong[2, 1, 3] *= 1 + 1e-6
    error = compare(exact, wrong, log_norm)
    assert error[2] > 1e-8
    assert np.delete(error, 2).max() == 0.0
    shrunk = log_norm - [0, 0, 1e-3, 0, 0, 0]
    error = compare(exact, np.zeros((6, 3, 4), "float32"), shrunk)
    np.testing.assert_allclose(error, [0, 0, 1e-3, 0, 0, 0], rtol=1e-2, atol=1e-12)


def test_norms_above_the_dtype_are_compared_by_their_logarithms():
    values = np.random.default_rng(5).normal(size=(2, 3, 4))
    exact = Scaled(values, np.array([2000, -2000]))
    log_norm = exact.norm_log()
    assert log_norm[0] > np.log(np.finfo("float64").max)
    measured = np.stack([np.full((3, 4), np.inf), np.zeros((3, 4))])
    np.testing.assert_array_equal(compare(exact, measured, log_norm), [0.0, 0.0])
    np.testing.assert_allclose(compare(exact, measured, log_norm + 1e-6), 1e-6, rtol=1e-4)


def test_a_gradient_lost_on_the_way_is_an_error_and_not_a_gap():
    exact = Scaled.of(np.ones((2, 3, 4)))
    with np.errstate(divide="ignore"):
        error = compare(exact, np.zeros((2, 3, 4)), np.log(np.zeros(2)))
    np.testing.assert_array_equal(error, [1.0, 1.0])
    exploded = compare(exact, np.full((2, 3, 4), np.inf), np.full(2, np.inf))
    assert np.isposinf(exploded).all()
