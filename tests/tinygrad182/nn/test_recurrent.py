"""Recurrent layers against NumPy loops and complex steps, without PyTorch.

The properties come first: every layer of the table, on drawn sizes, options, losses and regimes. What
follows is about the RNN alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles import recurrent
from tests.oracles.derivatives import complex_gradients
from tests.support import Array, array, assert_close, assert_same_bits, const, draw, leaf
from tests.tinygrad182.nn.layers import LAYERS, Extreme, Layer
from tinygrad182.engine.recording import node_of

NONLINEARITIES = list(recurrent.SIGMA)
STEP = 1e-150
"""Size of the complex step: 1e+30 times it is still tiny, and 1e-90 times it is not yet 0."""
STENCIL = {-3: -1, -2: 9, -1: -45, 1: 45, 2: -9, 3: 1}
"""60 h times a first derivative from seven points."""

every_layer = pytest.mark.parametrize("kind", LAYERS, ids=str)


def layer(I: int, H: int, layers: int = 1, **options: object) -> tg.nn.RNN:  # noqa: E741
    return tg.nn.RNN(I, H, layers, rng=3, dtype="float64", **options)  # type: ignore[arg-type]


# --- every layer of the table -------------------------------------------------------------------

REGIMES = {"ordinary": (1.0, 1.0), "vanishing": (1e-15, 1.0), "exploding": (1e6, 1e-40)}
"""Factors on the recurrent weights, and on inputs and biases: near 0 a tanh is at its steepest."""
LOSSES: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "last": lambda rng, a: a * (np.arange(len(a)) == len(a) - 1)[:, None, None],
    "all": lambda rng, a: a,
    "random": lambda rng, a: a * 10.0 ** rng.integers(-6, 6, (len(a), 1, 1)),
}


@dataclass(frozen=True)
class Case:
    """A layer with its weights, its inputs and a loss Σ a (y + y²/2) + Σ b s over final states s."""

    kind: Layer
    options: dict[str, Any]
    module: Any
    at: dict[str, Array]
    a: Array
    b: list[Array]
    stateless: bool = False
    batch_first: bool = False

    def loop(self, at: dict[str, Array]) -> tuple[Array, list[Array]]:
        return self.kind.loop(at, self.options)

    def loss(self, at: dict[str, Array]) -> Array:
        output, final = self.loop(at)
        total = np.sum(self.a * (output + output**2 / 2))
        return total + sum(np.sum(b * s) for b, s in zip(self.b, final, strict=True))

    def inputs(self, make: Callable[[Array], tg.Tensor]) -> dict[str, tg.Tensor]:
        names = ["x"] if self.stateless else ["x", *self.kind.states]
        return {name: make(self.at[name]) for name in names}

    def run(self, inputs: dict[str, tg.Tensor]) -> tuple[tg.Tensor, list[tg.Tensor]]:
        """The module's output (T, B, H) and final states, whichever axis it puts first."""
        x = inputs["x"].swapaxes(0, 1) if self.batch_first else inputs["x"]
        states = None if self.stateless else [inputs[name] for name in self.kind.states]
        output, final = self.kind.run(self.module, x, states)
        return output.swapaxes(0, 1) if self.batch_first else output, final

    def recorded_loss(self, inputs: dict[str, tg.Tensor]) -> tg.Tensor:
        output, final = self.run(inputs)
        total = (const(self.a) * (output + output**2 / 2)).sum()
        for b, s in zip(self.b, final, strict=True):
            total = total + (const(b) * s).sum()
        return total


def make_case(
    kind: Layer,
    sizes: tuple[int, int, int, int],
    layers: int,
    options: dict[str, Any],
    loss: str = "all",
    regime: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
    **how: bool,
) -> Case:
    T, B, I, H = sizes  # noqa: E741
    gain, scale = regime
    module = kind.make(I, H, layers, **options, batch_first=how.get("batch_first", False))
    for name, p in module.named_parameters():
        p.assign(p.numpy() * (gain if "weight_hh" in name else scale if "bias" in name else 1.0))
    x, a, *rest = draw(seed, (T, B, I), (T, B, H), *[(layers, B, H)] * (2 * len(kind.states)))
    states, b = rest[: len(kind.states)], rest[len(kind.states) :]
    if how.get("stateless"):
        states = [0 * s for s in states]
    arrays = dict(zip(("x", *kind.states), (scale * x, *(scale * s for s in states)), strict=True))
    a = LOSSES[loss](np.random.default_rng(seed), a)
    b = [s * (loss == "random") for s in b]
    weights = {n: w for n, w in recurrent.weights_of(module).items() if "bias_hh" not in n}
    return Case(kind, options, module, {**weights, **arrays}, a, b, **how)


@st.composite
def cases(draw: Any, kind: Layer, regimes: list[str], smooth: bool = False) -> Case:
    choices = {**kind.options, **(kind.smooth if smooth else {})}
    return make_case(
        kind,
        draw(st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))),
        draw(st.integers(1, 3)),
        {name: draw(st.sampled_from(values)) for name, values in choices.items()},
        draw(st.sampled_from(sorted(LOSSES))),
        REGIMES[draw(st.sampled_from(regimes))],
        draw(st.integers(0, 999)),
        stateless=draw(st.booleans()),
        batch_first=draw(st.booleans()),
    )


def assert_close_by_step(actual: Any, expected: Array, tolerance: float, what: str) -> None:
    """Close in units of each time step's (or layer's) own largest element, however small that is."""
    assert actual is not None, what
    found = actual.numpy()
    assert found.shape == expected.shape, what
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert_close(a, b, tolerance, f"{what} at {i}")


@every_layer
@given(data=st.data())
def test_values_are_those_of_the_loop(kind: Layer, data: Any) -> None:
    case = data.draw(cases(kind, list(REGIMES)))
    output, final = case.run(case.inputs(const))
    expected, expected_final = case.loop(case.at)
    assert_close_by_step(output, expected, 1e-12, "output")
    for s, e in zip(final, expected_final, strict=True):
        assert_close_by_step(s, e, 1e-12, "final state")


def check_gradients(case: Case, tolerance: float) -> dict[str, Array]:
    """Every gradient against the complex step of the loop; returns what was expected."""
    inputs = case.inputs(leaf)
    case.recorded_loss(inputs).backward()
    asked = {**dict(case.module.named_parameters()), **inputs}
    expected = complex_gradients(
        lambda moved: case.loss({**case.at, **moved}), {n: case.at[n] for n in asked}, STEP
    )
    for name, tensor in asked.items():
        assert tensor.grad is not None, name
        if name in inputs:
            assert_close_by_step(tensor.grad, expected[name], tolerance, name)
        else:
            assert_close(tensor.grad, expected[name], tolerance, name)
    return expected


@every_layer
@pytest.mark.parametrize("regime", REGIMES)
@given(data=st.data())
def test_gradients_are_those_of_the_complex_step(kind: Layer, regime: str, data: Any) -> None:
    check_gradients(data.draw(cases(kind, [regime])), 1e-10)


@every_layer
@pytest.mark.parametrize("regime", ["vanishing", "exploding"])
def test_gradients_over_many_steps(kind: Layer, regime: str) -> None:
    """Each gradient is right, although a central difference reports 0 or only rounding."""
    extreme: Extreme = getattr(kind, regime)
    case = make_case(
        kind,
        (extreme.steps, 1, 1, 2),
        1,
        extreme.options,
        "last",
        (extreme.gain, REGIMES[regime][1]),
        5,
    )
    sizes = np.abs(check_gradients(case, 1e-10)["x"]).max(axis=(1, 2))
    if regime == "vanishing":
        assert 0 < sizes[0] < 1e-50 < 1e-3 < sizes[-1]
    else:
        assert sizes[0] > 1e20 > 1e3 > sizes[-1]


@every_layer
@given(data=st.data())
def test_tangents_are_those_of_the_complex_step(kind: Layer, data: Any) -> None:
    case = data.draw(cases(kind, list(REGIMES)))
    points = case.inputs(const)
    vs = dict(zip(points, draw(1, *(x.shape for x in points.values())), strict=True))

    def f(*xs: tg.Tensor) -> tuple[tg.Tensor, ...]:
        output, final = case.run(dict(zip(points, xs, strict=True)))
        return output, *final

    _, tangents = tg.jvp(f, [*points.values()], [const(v) for v in vs.values()])
    moved = {name: case.at[name] + 1j * STEP * v for name, v in vs.items()}
    output, final = case.loop({**case.at, **moved})
    for tangent, expected in zip(tangents, (output, *final), strict=True):
        assert_close_by_step(tangent, expected.imag / STEP, 1e-10, "tangent")


@every_layer
@given(data=st.data())
def test_second_derivatives_are_those_of_the_loop(kind: Layer, data: Any) -> None:
    """⟨u, Hv⟩ in all inputs and weights together: a complex step along u, seven points along v."""
    case = data.draw(cases(kind, ["ordinary"], smooth=True))
    inputs = case.inputs(leaf)
    tensors = {**dict(case.module.named_parameters()), **inputs}
    shapes = [x.shape for x in tensors.values()]
    v, *us = (dict(zip(tensors, draw(seed, *shapes), strict=True)) for seed in range(4))

    first = tg.grad(case.recorded_loss(inputs), [*tensors.values()], create_graph=True)
    pairs = [(g, const(v[n])) for n, g in zip(tensors, first, strict=True) if g is not None]
    second = tg.grad([g for g, _ in pairs], [*tensors.values()], [w for _, w in pairs])
    products = {n: h.numpy() for n, h in zip(tensors, second, strict=True) if h is not None}

    h = 2e-3
    for u in us:
        slopes = [
            c * case.loss(_moved(case.at, {n: k * h * v[n] + 1j * STEP * u[n] for n in v})).imag
            for k, c in STENCIL.items()
        ]
        expected = sum(slopes) / STEP / (60 * h)
        parts = [np.sum(u[n] * p) for n, p in products.items()]
        assert_close(sum(parts), expected, 1e-9, "⟨u, Hv⟩", floor=sum(map(abs, parts)))


def _moved(at: dict[str, Array], by: dict[str, Array]) -> dict[str, Array]:
    return {name: x + by[name] if name in by else x for name, x in at.items()}


# --- the RNN ------------------------------------------------------------------------------------


def test_every_state_is_that_of_the_loop() -> None:
    rnn = layer(2, 3, 2, return_states=True)
    x, h_0 = draw(5, (6, 4, 2), (2, 4, 3))
    at = recurrent.weights_of(rnn) | {"x": x, "h_0": h_0}
    expected = recurrent.loop(recurrent.vanilla("tanh"), at)
    assert_close(rnn(const(x), const(h_0))[2].h, expected.states[0], 1e-14)


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


def test_fused_by_default_and_the_same_to_rounding() -> None:
    (x,) = draw(7, (5, 2, 2))
    default, fused, unrolled = (
        layer(2, 3, **options)(const(x))[0] for options in ({}, {"fused": True}, {"fused": False})
    )
    assert_same_bits(default, fused.numpy())
    assert [node_of(y).op for y in (default, fused, unrolled)] == ["rnn_scan", "rnn_scan", "stack"]
    assert_close(fused, unrolled.numpy(), 1e-15)


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
    """A model's derivatives can then be checked by complex steps from outside."""
    rnn = layer(2, 3)
    (x,) = draw(11, (4, 2, 2))
    at = recurrent.weights_of(rnn) | {"x": x + 1j, "h_0": np.zeros((1, 2, 3))}
    expected = recurrent.loop(recurrent.vanilla("tanh"), at)
    assert_close(rnn(const(x + 1j))[0], expected.output, 1e-14)


def test_arrays_are_accepted_like_tensors() -> None:
    rnn, cell, linear = layer(2, 3), tg.nn.RNNCell(2, 3, dtype="float64"), tg.nn.Linear(2, 1)
    x, h_0 = draw(12, (4, 2, 2), (1, 2, 3))
    assert_same_bits(rnn(array(x), array(h_0))[0], rnn(const(x), const(h_0))[0].numpy())
    expected = cell(const(x[0]), const(h_0[0])).numpy()
    assert_same_bits(cell(array(x[0]), array(h_0[0])), expected)
    assert linear(array(x, "float32")).shape == (4, 2, 1)
