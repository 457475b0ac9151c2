"""Gradients by states and Jacobians of steps as terms of a loss, against differences and complex steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles import loops
from tests.support import Array, assert_close, const, host, leaf, write
from tinygrad182.inspect import gradient_flow, step_jacobians

FIELDS = (
    "time",
    "value",
    "grad",
    "grad_norm",
    "log_grad_norm",
    "log10_grad_norm",
    "value_norm",
    "sample_grad_norm",
    "initial_grad",
)
T, B, SIZE, H = 6, 3, 2, 3
LENGTHS = np.array([6, 4, 2])


class MGU(tg.nn.RecurrentLayer):
    """A cell of your own: a minimal gated unit."""

    gates = ("forget", "new")
    state = ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        n = x.shape[-1] // 2
        forget = xp.sigmoid(x[..., :n] + h[..., :n])
        return (state[0] + forget * (xp.tanh(x[..., n:] + forget * h[..., n:]) - state[0]),)


class Centred(tg.nn.RecurrentLayer):
    """A cell whose units depend on each other, so that it has no compiled loops."""

    gates, state = 1, ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        z = x + h
        return (xp.tanh(z - z.mean(axis=-1, keepdims=True)),)


KINDS: dict[str, type[Any]] = {
    "rnn": tg.nn.RNN,
    "lstm": tg.nn.LSTM,
    "gru": tg.nn.GRU,
    "mgu": MGU,
    "centred": Centred,
}


def difference(f: Callable[[float], float]) -> float:
    """The derivative of f at 0, by Richardson's extrapolation of five points."""

    def five(h: float) -> float:
        return (f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h)

    return (16 * five(5e-4) - five(1e-3)) / 15


class Case:
    """A layer over random inputs; its loss reads nothing past the ends of the sequences."""

    def __init__(
        self, kind: str, layers: int = 2, fused: bool = True, lengths: Array | None = LENGTHS
    ) -> None:
        self.layer = KINDS[kind](SIZE, H, layers, rng=0, dtype="float64", fused=fused)
        self.lengths = lengths
        ends = np.full(B, T) if lengths is None else lengths
        self.mask = const((np.arange(T)[:, None, None] < ends[:, None]).astype(float))
        draw = np.random.default_rng(1)
        parts = 2 if kind == "lstm" else 1
        states = [leaf(draw.normal(size=(layers, B, H))) for _ in range(parts)]
        self.x, self.states = leaf(draw.normal(size=(T, B, SIZE))), states
        self.inputs = [self.x, *states, *self.layer.parameters()]

    def loss(self) -> tg.Tensor:
        initial = self.states[0] if len(self.states) == 1 else tuple(self.states)
        output, _ = self.layer(self.x, initial, self.lengths)
        return ((output * self.mask) ** 2).sum() + (output[1] ** 3).sum()

    def slope(self, figure: Callable[[Case], Any]) -> float:
        """The derivative of a figure along a direction of all inputs at once, by differences."""
        start = [host(x).copy() for x in self.inputs]
        draw = np.random.default_rng(2)
        self.direction = [draw.normal(size=x.shape) for x in start]

        def at(step: float) -> float:
            for x, value, v in zip(self.inputs, start, self.direction, strict=True):
                write(x, value + step * v)
            return float(figure(self))

        found = difference(at)
        at(0.0)
        return found

    def recorded_slope(self, penalty: tg.Tensor) -> float:
        for x in self.inputs:
            x.grad = None
        penalty.backward()
        grads = [0.0 if x.grad is None else host(x.grad) for x in self.inputs]
        return float(sum((g * v).sum() for g, v in zip(grads, self.direction, strict=True)))


def each(flow: Any) -> list[Any]:
    return [state for stack in flow.values() for state in stack.values()]


def roughness(flow: Any) -> Any:
    """A loss of the changes of norms from step to step, and of every other figure."""
    total: Any = 0.0
    for s in each(flow):
        logs = s.log_grad_norm
        total = total + ((logs[1:] - logs[:-1]) ** 2).sum() + (s.grad**3).sum()
        total = total + (s.sample_grad_norm**2).sum() + s.grad_norm[0] + (s.initial_grad**3).sum()
        total = total + s.value_norm[1] * (s.value[:2] ** 3).sum()  # no sequence has ended yet
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_the_plain_pass_and_may_be_differentiated(kind: str) -> None:
    case = Case(kind)
    plain, recorded = gradient_flow(case.loss()), gradient_flow(case.loss(), create_graph=True)
    assert list(plain) == list(recorded)
    for path, stack in plain.items():
        assert list(stack) == list(recorded[path])
        for name, state in stack.items():
            for field in FIELDS:
                found = getattr(recorded[path][name], field)
                assert isinstance(found, np.ndarray if field == "time" else tg.Tensor)
                assert_close(host(found), host(getattr(state, field)), 1e-12, field)
            assert repr(state) == repr(recorded[path][name])
    expected = case.slope(lambda c: roughness(gradient_flow(c.loss())))
    found = case.recorded_slope(roughness(recorded_flow(case)))
    assert abs(found - expected) <= 1e-8 * abs(expected)


def recorded_flow(case: Case) -> Any:
    return gradient_flow(case.loss(), create_graph=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_fused_and_unrolled_layers_agree(kind: str, lengths: Array | None) -> None:
    grads = []
    for fused in (True, False):
        case = Case(kind, fused=fused, lengths=lengths)
        roughness(recorded_flow(case)).backward()
        grads.append([host(x.grad) for x in case.inputs if x.grad is not None])
    for one, other in zip(*grads, strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("lengths", [None, [6, 0, 3]], ids=["whole", "one is empty"])
def test_two_directions(kind: str, lengths: list[int] | None) -> None:
    layer = KINDS[kind](SIZE, H, 2, rng=0, dtype="float64", bidirectional=True)
    output, _ = layer(const(loops.inputs(0, T, B, SIZE)), lengths=lengths)
    loss = (output[0] ** 2).sum() + (output[2, 0] ** 2).sum()
    plain, recorded = gradient_flow(loss), gradient_flow(loss, create_graph=True)
    assert list(recorded) == list(plain)
    assert f"{kind}.l1_reverse" in recorded
    for path, stack in plain.items():
        for name, state in stack.items():
            for field in FIELDS:
                found, wanted = getattr(recorded[path][name], field), getattr(state, field)
                assert_close(host(found), host(wanted), 1e-12, field)
        for sample in range(B):
            one, other = (step_jacobians(loss, path, sample, create_graph=c) for c in (True, False))
            np.testing.assert_array_equal(one.time, other.time)
            assert_close(host(one.matrices), other.matrices, 1e-14, floor=1e-3)


def rnn_by_hand(W: Array, U: Array, b: Array, x: Array) -> list[Array]:
    """∂L/∂h_t of L = Σ h_T², in formulas that take complex numbers."""
    h, states = np.zeros((B, H)), []
    for x_t in x:
        h = np.tanh(x_t @ U.T + b + h @ W.T)
        states.append(h)
    grads = [2 * h]
    for h in reversed(states[1:]):
        grads.insert(0, (grads[0] * (1 - h * h)) @ W)
    return grads


def omega(norms: Any) -> Any:
    """Pascanu, Mikolov and Bengio 2013, eq. 9, along the whole gradient."""
    return ((norms[:-1] / norms[1:] - 1) ** 2).sum()


@pytest.mark.parametrize("fused", [True, False])
def test_the_regularizer_of_pascanu_against_a_complex_step(fused: bool) -> None:
    rnn = tg.nn.RNN(SIZE, H, rng=0, dtype="float64", fused=fused)
    x = np.random.default_rng(0).normal(size=(T, B, SIZE))
    weights = {n: host(p) for n, p in rnn.named_parameters()}
    names = ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0")

    output, _ = rnn(const(x))
    flow = gradient_flow((output[-1] ** 2).sum(), create_graph=True)["rnn.l0"].h
    omega(flow.grad_norm).backward()
    for name in names:
        found = host(getattr(rnn, name).grad)
        for at in np.ndindex(found.shape):
            moved = {n: w.astype(complex) for n, w in weights.items()}
            moved[name][at] += 1e-30j
            grads = rnn_by_hand(*(moved[n] for n in names), x)
            norms = np.stack([np.sqrt((g * g).sum()) for g in grads])
            assert abs(omega(norms).imag / 1e-30 - found[at]) <= 1e-12 * np.abs(found).max()


def test_a_loop_of_your_own() -> None:
    def penalty(W: tg.Tensor, create_graph: bool) -> Any:
        h = tg.inspect.mark(const(np.full((2, 3), 0.3)), "h", -1)
        for t in range(5):
            h = tg.inspect.mark(tg.tanh(h @ W + 0.1), "h", time=t)
        logs = gradient_flow((h * h).sum(), create_graph=create_graph)[""].h.log_grad_norm
        return ((logs[1:] - logs[:-1]) ** 2).sum()

    values = loops.inputs(0, 3, 3)
    W = leaf(values)
    penalty(W, True).backward()
    for at in np.ndindex(3, 3):
        unit = np.zeros((3, 3))
        unit[at] = 1.0

        def moved(step: float, unit: Array = unit) -> float:
            return float(penalty(leaf(values + step * unit), False))

        assert_close(host(W.grad)[at], difference(moved), 1e-8, floor=1.0)


def test_steps_that_a_loss_does_not_depend_on_have_gradients_of_0() -> None:
    rnn = tg.nn.RNN(SIZE, H, rng=0, dtype="float64")
    output, _ = rnn(const(loops.inputs(0, T, B, SIZE)))
    flow = gradient_flow((output[2] ** 2).sum(), create_graph=True)["rnn.l0"].h
    assert flow.grad.shape == (T, B, H)
    assert (host(flow.grad_norm)[3:] == 0).all()
    assert (host(flow.log_grad_norm)[3:] == -np.inf).all()
    where = tg.where(const(np.arange(T) < 3), flow.log_grad_norm, 0.0)
    (where.sum() + flow.grad_norm.sum() + flow.sample_grad_norm.sum()).backward()
    assert all(np.isfinite(host(p.grad)).all() for p in rnn.parameters())


def test_logarithms_are_right_where_squares_of_float32_underflow() -> None:
    """2^-100 is a float32, its square is not; every step halves the gradient."""
    rnn = tg.nn.RNN(1, 2, nonlinearity="identity", bias=False)
    write(rnn.weight_hh_l0, 0.5 * np.eye(2))
    output, _ = rnn(const(np.ones((101, 1, 1), "float32")))
    logs = gradient_flow(output[-1].sum(), create_graph=True)["rnn.l0"].h.log_grad_norm
    expected = 0.5 * np.log(2) - np.log(2) * np.arange(101)[::-1]
    np.testing.assert_allclose(host(logs), expected, rtol=1e-6, atol=1e-6)
    (g,) = tg.grad(logs[0], rnn.weight_hh_l0)
    np.testing.assert_allclose(host(g), np.full((2, 2), 100.0), rtol=1e-5)  # of 100 log w, w = ½


def test_backward_adds_what_a_recorded_backward_adds() -> None:
    for kind, fused in (("lstm", True), ("rnn", False)):
        one, other = Case(kind, fused=fused), Case(kind, fused=fused)
        one.loss().backward(create_graph=True)
        flow = gradient_flow(other.loss(), backward=True, create_graph=True)
        for x, y in zip(one.inputs, other.inputs, strict=True):
            assert_close(host(y.grad), host(x.grad), 1e-12)
            assert y.grad.requires_grad
        before = [host(x.grad).copy() for x in other.inputs]
        roughness(flow).backward()
        alone = Case(kind, fused=fused)
        roughness(recorded_flow(alone)).backward()
        for x, y, old in zip(alone.inputs, other.inputs, before, strict=True):
            assert_close(host(y.grad), old + (0 if x.grad is None else host(x.grad)), 1e-12)


def test_results_in_between_keep_their_gradients_if_told_to() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    output, _ = rnn(const(np.ones((5, 2, 2))))
    output.retain_grad()
    gradient_flow((output * 3.0).sum(), backward=True, create_graph=True)
    np.testing.assert_array_equal(host(output.grad), np.full((5, 2, 3), 3.0))


def test_nothing_is_added_or_freed_unless_asked_for() -> None:
    case = Case("lstm")
    loss = case.loss()
    with tg.no_grad():  # what is found is recorded wherever it is asked for
        logs = [s.log_grad_norm for s in each(gradient_flow(loss, create_graph=True))]
    assert all(x.grad is None for x in case.inputs)
    (loss + sum(((log[1:] - log[:-1]) ** 2).sum() for log in logs)).backward()
    again = case.loss()
    rough = sum(
        ((s.log_grad_norm[1:] - s.log_grad_norm[:-1]) ** 2).sum()
        for s in each(gradient_flow(again, create_graph=True))
    )
    wanted = tg.grad(again + rough, case.inputs)
    for x, g in zip(case.inputs, wanted, strict=True):
        assert_close(host(x.grad), host(g), 1e-12)


def test_the_last_hidden_state_of_an_lstm_is_there_where_only_c_is_used() -> None:
    lstm = tg.nn.LSTM(SIZE, H, rng=0, dtype="float64")
    _, (_, c_n) = lstm(const(loops.inputs(0, T, B, SIZE)))
    loss = (c_n**2).sum()
    plain, flow = (gradient_flow(loss, create_graph=c)["lstm.l0"] for c in (False, True))
    assert_close(host(flow.h.grad), host(plain.h.grad), 1e-12)
    assert (host(flow.h.grad)[-1] == 0).all()
    np.testing.assert_array_equal(
        step_jacobians(loss, create_graph=True).time, step_jacobians(loss).time
    )


def test_an_empty_batch() -> None:
    W, h = leaf(np.eye(H)), const(np.ones((0, H)))
    for t in range(T):
        h = tg.inspect.mark(tg.tanh(h @ W), "h", time=t)
    flow = gradient_flow((h**2).sum(), create_graph=True)[""].h
    assert flow.sample_grad_norm.shape == (T, 0)
    assert (host(flow.grad_norm) == 0).all()


def test_a_loss_with_a_penalty_shows_what_the_penalty_ran_step_by_step() -> None:
    rnn = tg.nn.RNN(SIZE, H, rng=0, dtype="float64")
    output, _ = rnn(const(loops.inputs(0, T, B, SIZE)))
    loss = (output[-1] ** 2).sum()
    penalty = (gradient_flow(loss, create_graph=True)["rnn.l0"].h.grad ** 2).sum()
    both = gradient_flow(loss + penalty)
    assert list(both) == ["rnn.l0", "rnn.l0#2"]
    assert_close(host(both["rnn.l0"].h.grad), host(gradient_flow(loss)["rnn.l0"].h.grad), 1e-12)
    assert_close(
        host(both["rnn.l0#2"].h.grad), host(gradient_flow(penalty)["rnn.l0"].h.grad), 1e-12
    )


def test_a_cotangent_may_be_differentiated_too() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    output, _ = rnn(const(np.ones((4, 2, 2))))
    seed = leaf(loops.inputs(0, 4, 2, 3))
    flow = gradient_flow(output, seed, create_graph=True)["rnn.l0"].h
    flow.grad.sum().backward()
    step = np.full((4, 2, 3), 1e-3)
    plus, minus = (
        host(gradient_flow(output, host(seed) + s, create_graph=False)["rnn.l0"].h.grad)
        for s in (step, -step)
    )
    assert_close(host(seed.grad).sum(), (plus - minus).sum() / 2e-3, 1e-10)  # linear in the seed


def lyapunov(matrices: Any, v: Any) -> Any:
    """Mean logarithm of how far each step stretches a vector that all have stretched before."""
    total: Any = 0.0
    for k in range(matrices.shape[0]):
        v = matrices[k] @ v
        size = (v * v).sum() ** 0.5
        total, v = total + (np.log(size) if isinstance(v, np.ndarray) else tg.log(size)), v / size
    return total / matrices.shape[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_lyapunov_exponent(kind: str, fused: bool) -> None:
    case = Case(kind, layers=1, fused=fused)
    v = np.random.default_rng(3).normal(size=H * len(case.states))
    for sample in range(B):
        plain = step_jacobians(case.loss(), sample=sample)
        found = step_jacobians(case.loss(), sample=sample, create_graph=True)
        np.testing.assert_array_equal(found.time, plain.time)
        assert found.names == plain.names
        assert_close(host(found.matrices), plain.matrices, 1e-14, floor=1e-3)
        assert_close(found.singular_values, plain.singular_values, 1e-12)
        assert_close(found.log_growth, plain.log_growth, 1e-9, floor=1.0)

    def exponent(c: Case) -> float:
        return lyapunov(step_jacobians(c.loss(), sample=1).matrices, v)

    expected = case.slope(exponent)
    recorded = step_jacobians(case.loss(), sample=1, create_graph=True).matrices
    assert abs(case.recorded_slope(lyapunov(recorded, const(v))) - expected) <= 1e-8 * abs(expected)


def test_jacobians_of_steps_that_a_loss_does_not_depend_on() -> None:
    rnn = tg.nn.RNN(SIZE, H, rng=0)
    output, _ = rnn(const(loops.inputs(0, T, B, SIZE).astype("float32")))
    plain = step_jacobians(output[2].sum(), times=[1, 5])
    found = step_jacobians(output[2].sum(), times=[1, 5], create_graph=True)
    np.testing.assert_array_equal(found.time, [1, 5])
    assert found.matrices.dtype == np.float32
    assert_close(host(found.matrices).astype(float), plain.matrices, 1e-6)


def test_steps_whose_gradient_float32_cannot_hold_are_left_out() -> None:
    """Logarithms above what float32 shows are those of float64, and so are their derivatives."""
    values = 0.03 * np.eye(2) + [[0.0, 0.01], [0.0, 0.0]]
    found = []
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(1, 2, rng=0).to(dtype=dtype)
        write(rnn.weight_hh_l0, values.astype(dtype))
        output, _ = rnn(const(np.ones((60, 1, 1), dtype)))
        logs = gradient_flow((output[-1] ** 2).sum(), create_graph=True)["rnn.l0"].h.log_grad_norm
        assert dtype == "float64" or host(logs)[0] == -np.inf
        shown = logs[logs > -85]
        ((shown[1:] - shown[:-1]) ** 2).mean().backward()
        found.append([host(shown), host(rnn.weight_hh_l0.grad)])
    for single, double in zip(*found, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-4)
