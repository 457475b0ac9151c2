"""Recurrent layers against NumPy loops and complex steps, without PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, leaf
from tests.tinygrad182.nn import reference

NONLINEARITIES = list(reference.SIGMA)
sides = st.integers(1, 4)


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def layer(I: int, H: int, layers: int = 1, **options: object) -> tg.nn.RNN:  # noqa: E741
    return tg.nn.RNN(I, H, layers, rng=3, dtype="float64", **options)  # type: ignore[arg-type]


@given(
    sizes=st.tuples(sides, sides, sides, sides),
    layers=st.integers(1, 3),
    nonlinearity=st.sampled_from(NONLINEARITIES),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_are_those_of_the_loop(
    sizes: tuple[int, int, int, int], layers: int, nonlinearity: str, bias: bool, seed: int
) -> None:
    T, B, I, H = sizes  # noqa: E741
    rnn = layer(I, H, layers, nonlinearity=nonlinearity, bias=bias, return_states=True)
    x, h_0 = draw(seed, (T, B, I), (layers, B, H))
    output, h_n, states = rnn(const(x), const(h_0))
    expected = reference.rnn(reference.weights_of(rnn), x, h_0, nonlinearity)
    assert_close(output, expected.output, 1e-14, "output")
    assert_close(h_n, expected.h_n, 1e-14, "h_n")
    assert_close(states.h, expected.states, 1e-14, "states")


@given(
    sizes=st.tuples(sides, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    layers=st.integers(1, 3),
    nonlinearity=st.sampled_from(NONLINEARITIES),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gradients_are_those_of_the_complex_step(
    sizes: tuple[int, int, int, int], layers: int, nonlinearity: str, bias: bool, seed: int
) -> None:
    T, B, I, H = sizes  # noqa: E741
    rnn = layer(I, H, layers, nonlinearity=nonlinearity, bias=bias)
    x, h_0, a, b = draw(seed, (T, B, I), (layers, B, H), (T, B, H), (layers, B, H))

    def loss(at: dict[str, Array]) -> Array:
        run = reference.rnn(at, at["x"], at["h_0"], nonlinearity)
        return np.sum(a * run.output**2) + np.sum(b * run.h_n)

    weights = {n: w for n, w in reference.weights_of(rnn).items() if not n.startswith("bias_hh")}
    expected = reference.gradients(loss, {**weights, "x": x, "h_0": h_0})
    inputs = {"x": leaf(x), "h_0": leaf(h_0)}
    output, h_n = rnn(inputs["x"], inputs["h_0"])
    ((const(a) * output**2).sum() + (const(b) * h_n).sum()).backward()
    tensors = {**dict(rnn.named_parameters()), **inputs}
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        assert tensor.grad is not None, name
        assert_close(tensor.grad, expected[name], 1e-12, name)


def test_a_vanished_gradient_is_right() -> None:
    """∂L/∂h_0 of about 1e-60 over 200 steps, where a central difference reports 0."""
    rnn = layer(1, 3)
    rnn.weight_hh_l0.data[...] *= 0.5 / tg.nn.init.spectral_radius(rnn.weight_hh_l0)
    x, h_0, a = draw(5, (200, 1, 1), (1, 1, 3), (1, 3))
    at = {**reference.weights_of(rnn), "x": x, "h_0": h_0}
    steps = []
    for i in range(3):
        moved = h_0.astype(complex)
        moved[0, 0, i] += 1j * 1e-10  # a smaller one would underflow
        steps.append(np.sum(a * reference.rnn(at, x, moved, "tanh").output[-1]).imag / 1e-10)
    start = leaf(h_0)
    output, _ = rnn(const(x), start)
    (gradient,) = tg.grad((const(a) * output[-1]).sum(), start)
    assert gradient is not None
    assert 1e-100 < np.linalg.norm(steps) < 1e-50
    assert_close(gradient, np.reshape(steps, (1, 1, 3)), 1e-12)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_the_cell_in_a_loop_is_the_layer(nonlinearity: str) -> None:
    rnn = layer(2, 3, nonlinearity=nonlinearity)
    cell = tg.nn.RNNCell(2, 3, nonlinearity=nonlinearity, dtype="float64")
    cell.load_state_dict({n.removesuffix("_l0"): w for n, w in rnn.state_dict().items()})
    (x,) = draw(1, (5, 4, 2))
    output, h_n = rnn(const(x))
    h = None
    states = []
    for x_t in const(x):
        h = cell(x_t, h)
        states.append(h)
    assert_close(tg.stack(states), output.numpy(), 1e-14)
    assert_close(states[-1], h_n[0].numpy(), 1e-14)
    (output**2).sum().backward()
    (tg.stack(states) ** 2).sum().backward()
    for name, p in cell.named_parameters():
        twin = getattr(rnn, f"{name}_l0")
        assert_close(p.grad, twin.grad.numpy(), 1e-13, name)


def test_default_initial_states_are_zeros() -> None:
    rnn = layer(2, 3, 2)
    (x,) = draw(2, (4, 5, 2))
    given_, default = rnn(const(x), const(np.zeros((2, 5, 3)))), rnn(const(x))
    assert_same_bits(default[0], given_[0].numpy())
    assert_same_bits(default[1], given_[1].numpy())


def test_batch_first_swaps_input_and_output_but_no_state() -> None:
    plain, swapped = (layer(2, 3, 2, batch_first=b, return_states=True) for b in (False, True))
    x, h_0 = draw(4, (4, 5, 2), (2, 5, 3))
    expected = plain(const(x), const(h_0))
    output, h_n, states = swapped(const(x.swapaxes(0, 1)), const(h_0))
    assert output.shape == (5, 4, 3)
    assert_close(output.swapaxes(0, 1), expected[0].numpy(), 1e-15)
    assert_close(h_n, expected[1].numpy(), 1e-15)
    assert_close(states.h, expected[2].h.numpy(), 1e-15)


def test_a_sequence_may_be_run_in_two_halves() -> None:
    rnn = layer(2, 3, 2)
    (x,) = draw(6, (7, 4, 2))
    whole, h_n = rnn(const(x))
    first, carried = rnn(const(x[:3]))
    second, last = rnn(const(x[3:]), carried)
    assert_close(tg.concat([first, second]), whole.numpy(), 1e-14)
    assert_close(last, h_n.numpy(), 1e-14)


def test_fused_or_not_gives_the_same_bits() -> None:
    (x,) = draw(7, (5, 2, 2))
    runs = [layer(2, 3, fused=fused)(const(x)) for fused in (True, False)]
    assert_same_bits(runs[0][0], runs[1][0].numpy())


def test_a_loss_may_use_any_of_the_results() -> None:
    (x,) = draw(8, (5, 2, 2))
    rnn = layer(2, 3, 2, return_states=True)
    results = rnn(const(x))
    by_result = {
        "h_n": results[1][1].sum(),
        "output": results[0][-1].sum(),
        "states": results[2].h[1, -1].sum(),
    }
    expected = tg.grad(by_result["output"], rnn.weight_hh_l0, retain_graph=True)[0]
    assert expected is not None
    for name in ("h_n", "states"):
        (found,) = tg.grad(by_result[name], rnn.weight_hh_l0, retain_graph=True)
        assert_close(found, expected.numpy(), 1e-15, name)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_second_derivatives(nonlinearity: str) -> None:
    """Hessian–vector products in x: the complex step of the NumPy loop's gradient is not at hand,
    so the gradient itself is stepped, by five points."""
    rnn = layer(2, 3, nonlinearity=nonlinearity)
    x, v = draw(9, (4, 2, 2), (4, 2, 2))

    def gradient(at: Array) -> Array:
        inputs = leaf(at)
        (g,) = tg.grad((rnn(inputs)[0] ** 3).sum(), inputs)
        assert g is not None
        return g.numpy()

    h = 1e-3
    weights = ((1, -2), (-8, -1), (8, 1), (-1, 2))
    expected = sum(w * gradient(x + k * h * v) for w, k in weights) / (12 * h)
    inputs = leaf(x)
    (g,) = tg.grad((rnn(inputs)[0] ** 3).sum(), inputs, create_graph=True)
    assert g is not None
    (found,) = tg.grad((g * const(v)).sum(), inputs)
    assert_close(found, expected, 1e-8)


def test_float32_is_the_rounded_float64() -> None:
    (x,) = draw(10, (6, 3, 2))
    runs = {}
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(2, 4, rng=0, dtype=dtype)
        output, _ = rnn(const(x.astype(dtype)))
        (output**2).mean().backward()
        assert output.dtype == rnn.weight_hh_l0.grad.dtype == np.dtype(dtype)
        runs[dtype] = [output.numpy(), rnn.weight_hh_l0.grad.numpy()]
    for single, double in zip(*runs.values(), strict=True):
        assert_close(single, double, 2e-6)


def test_complex_inputs_pass() -> None:
    """So that a model's derivatives can be checked by complex steps from outside."""
    rnn = layer(2, 3)
    (x,) = draw(11, (4, 2, 2))
    expected = reference.rnn(reference.weights_of(rnn), x + 1j, np.zeros((1, 2, 3)), "tanh")
    assert_close(rnn(const(x + 1j))[0], expected.output, 1e-14)


def test_arrays_are_accepted_like_tensors() -> None:
    rnn, cell, linear = layer(2, 3), tg.nn.RNNCell(2, 3, dtype="float64"), tg.nn.Linear(2, 1)
    x, h_0 = draw(12, (4, 2, 2), (1, 2, 3))
    if const(x).device == "cpu":
        assert_same_bits(rnn(x, h_0)[0], rnn(const(x), const(h_0))[0].numpy())
        assert_same_bits(cell(x[0], h_0[0]), cell(const(x[0]), const(h_0[0])).numpy())
        assert linear(x.astype("float32")).shape == (4, 2, 1)
