"""``step_jacobians`` against the complex step of NumPy loops, and its growth against exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from models import ResidualNet
from tests.oracles import loops, recurrent
from tests.oracles.loops import Case, Weights, mark
from tests.support import Array, assert_close, const, host, leaf, write

jacobians_of = tg.inspect.step_jacobians
flow_of = tg.inspect.gradient_flow
STEP = 1e-30


def complex_step(f: Callable[[Array], Array], s: Array) -> Array:
    """∂f/∂s, column by column."""
    columns = []
    for j in range(len(s)):
        moved = s.astype(complex)
        moved[j] += 1j * STEP
        columns.append(f(moved).imag / STEP)
    return np.stack(columns, axis=1)


def lstm_step(p: dict[str, Array], x: Array, state: Array) -> Array:
    """[h, c] to the next [h, c], of one sequence."""
    H = len(state) // 2
    z = p["weight_ih_l0"] @ x + p["weight_hh_l0"] @ state[:H] + p["bias_ih_l0"]
    i, f, o = (recurrent.sigmoid(z[k * H : (k + 1) * H]) for k in (0, 1, 3))
    c = f * state[H:] + i * np.tanh(z[2 * H : 3 * H])
    return np.concatenate([o * np.tanh(c), c])


@given(
    sizes=st.tuples(loops.steps, loops.sides, loops.sides),
    nonlinearity=st.sampled_from(["tanh", "relu", "identity"]),
    where=loops.wheres,
    seed=loops.seeds,
)
def test_rnn(sizes: tuple[int, int, int], nonlinearity: str, where: str, seed: int) -> None:
    case = Case(nonlinearity, *sizes, 1, where, seed, False, False)
    p, sigma = recurrent.weights_of(case.layer), recurrent.SIGMA[nonlinearity]
    for sample in range(case.B):
        found = jacobians_of(case.loss, sample=sample)
        assert found.names == ("h",)
        np.testing.assert_array_equal(found.time, range(case.T))
        h = np.zeros(case.H)
        for t in range(case.T):

            def step(s: Array, x: Array = case.x[t, sample]) -> Array:
                return sigma(p["weight_ih_l0"] @ x + p["bias_ih_l0"] + p["weight_hh_l0"] @ s)

            assert_close(found.matrices[t], complex_step(step, h), 1e-14, f"t = {t}", floor=1e-3)
            h = step(h)
        values = np.linalg.svd(found.matrices, compute_uv=False)
        assert_close(found.singular_values, values, 0.0)


@given(
    sizes=st.tuples(loops.steps, loops.sides, loops.sides),
    where=loops.wheres,
    seed=loops.seeds,
)
def test_lstm_has_a_state_of_two_parts(sizes: tuple[int, int, int], where: str, seed: int) -> None:
    case = Case("lstm", *sizes, 1, where, seed, False, False)
    p = recurrent.weights_of(case.layer)
    for sample in range(case.B):
        found = jacobians_of(case.loss, sample=sample)
        assert found.names == ("h", "c")
        state = np.zeros(2 * case.H)
        for t in range(case.T):

            def step(s: Array, x: Array = case.x[t, sample]) -> Array:
                return lstm_step(p, x, s)

            assert_close(found.matrices[t], complex_step(step, state), 1e-14, f"t = {t}")
            state = step(state)


@given(
    kind=st.sampled_from(["tanh", "identity", "lstm"]),
    sizes=st.tuples(loops.steps, loops.sides, loops.sides),
    layers=st.integers(1, 2),
    seed=loops.seeds,
)
def test_their_product_is_the_gradient(
    kind: str, sizes: tuple[int, int, int], layers: int, seed: int
) -> None:
    """In the top layer, with a loss at the last step, δ_{t−1} = J_tᵀ δ_t; sequences do not mix."""
    case = Case(kind, *sizes, layers, "last", seed, False, False)
    path = f"{case.name}.l{layers - 1}"
    stack = flow_of(case.loss)[path]
    names = ("h", "c") if kind == "lstm" else ("h",)
    for sample in range(case.B):
        found = jacobians_of(case.loss, path, sample)
        grads = {n: host(stack[n].grad) for n in names}
        at = [np.concatenate([grads[n][t, sample] for n in names]) for t in range(case.T)]
        if kind == "lstm":  # the gradient by c_t holds what goes through h_t: take that out again
            h, c = (
                np.concatenate([np.zeros_like(value[:1]), value])[:, sample]
                for value in (host(stack[n].value) for n in names)
            )
            p = {k: w.numpy() for k, w in case.layer.named_parameters()}
            below = case.x if layers == 1 else host(flow_of(case.loss)[f"{case.name}.l0"].h.value)
            H = case.H
            for t in range(case.T):
                z = p[f"weight_ih_l{layers - 1}"] @ below[t, sample]
                z = z + p[f"weight_hh_l{layers - 1}"] @ h[t] + p[f"bias_ih_l{layers - 1}"]
                at[t][H:] -= (
                    recurrent.sigmoid(z[3 * H :]) * (1 - np.tanh(c[t + 1]) ** 2) * at[t][:H]
                )
        for t in range(case.T - 1, 0, -1):
            assert_close(found.matrices[t].T @ at[t], at[t - 1], 1e-12, f"t = {t}", floor=1e-3)


def test_a_gru() -> None:
    w = Weights()
    T, B, H = 4, 2, 3
    hs = loops.gru(w, T, B, H)["h"]
    x, p = loops.inputs(0, T, B, H), w.given
    loss = loops.loss_of(hs, "all")
    for sample in range(B):
        found = jacobians_of(loss, sample=sample)
        np.testing.assert_array_equal(found.time, range(1, T))  # the zeros before were not marked
        for t, matrix in zip(found.time, found.matrices, strict=True):

            def step(h: Array, x: Array = x[t, sample]) -> Array:
                r = recurrent.sigmoid(x @ p["U_r"] + h @ p["W_r"])
                z = recurrent.sigmoid(x @ p["U_z"] + h @ p["W_z"])
                return (1 - z) * np.tanh(x @ p["U_n"] + r * (h @ p["W_n"])) + z * h

            assert_close(matrix, complex_step(step, hs[t - 1].numpy()[sample]), 1e-14)


def test_depth_in_the_place_of_time() -> None:
    net = ResidualNet(2, 3, depth=4, rng=0, dtype="float64")
    loss = net(const(loops.inputs(0, 2, 2))).sum()
    found, flow = jacobians_of(loss), flow_of(loss)["residualnet"].h
    np.testing.assert_array_equal(found.time, range(4))
    for t, block in enumerate(net.blocks):
        W = block.linear.weight.numpy()
        before = (
            host(flow.value)[t - 1, 0] if t else net.stem(const(loops.inputs(0, 2, 2))).numpy()[0]
        )
        slope = 1 - np.tanh(W @ before + block.linear.bias.numpy()) ** 2
        assert_close(found.matrices[t], np.eye(3) + slope[:, None] * W, 1e-14)


# --- growth -------------------------------------------------------------------------------------


def exact(matrix: Array) -> list[list[Fraction]]:
    return [[Fraction(float(x)) for x in row] for row in matrix]


def product(a: list[list[Fraction]], b: list[list[Fraction]]) -> list[list[Fraction]]:
    return [
        [sum(x * y for x, y in zip(row, col, strict=True)) for col in zip(*b, strict=True)]
        for row in a
    ]  # type: ignore[misc]


def determinant(m: list[list[Fraction]]) -> Fraction:
    if not m:
        return Fraction(1)
    minors = ([row[:j] + row[j + 1 :] for row in m[1:]] for j in range(len(m)))
    return sum(
        ((-1) ** j * m[0][j] * determinant(minor) for j, minor in enumerate(minors)), Fraction(0)
    )


def log(x: Fraction) -> float:
    return math.log(x.numerator) - math.log(x.denominator)


def exact_growth(matrices: Array) -> Array:
    """log r_ii of the QR of J_kᵀ ⋯ J_Kᵀ: ratios of Gram determinants of the exact product's columns."""
    size = matrices.shape[1]
    total, found = exact(np.eye(size)), []
    for matrix in matrices[::-1]:
        total = product(exact(matrix.T), total)
        gram = product([list(c) for c in zip(*total, strict=True)], total)
        dets = [log(determinant([row[:n] for row in gram[:n]])) for n in range(size + 1)]
        found.append(np.diff(dets) / 2)
    return np.array(found[::-1])


def test_growth_where_the_plain_product_fails() -> None:
    """T = 30 and a determinant that the product of the matrices has lost to rounding."""
    T, H = 30, 4
    rnn = tg.nn.RNN(2, H, rng=3, dtype="float64")
    loss = rnn(const(loops.inputs(3, T, 1, 2)))[0][-1].sum()
    found = jacobians_of(loss)
    growth = found.log_growth
    expected = exact_growth(found.matrices)
    np.testing.assert_allclose(growth, expected, rtol=1e-11)
    dets = np.linalg.slogdet(found.matrices)[1]
    np.testing.assert_allclose(growth.sum(axis=1), np.cumsum(dets[::-1])[::-1], rtol=1e-11)
    plain = np.linalg.multi_dot(list(found.matrices[::-1]))
    with np.errstate(divide="ignore"):
        lost = np.log(np.linalg.svd(plain, compute_uv=False)).sum()
    assert abs(lost - growth[0].sum()) > 1.0  # so a plain product would have failed above


@given(
    sizes=st.tuples(loops.steps, st.just(1), loops.sides),
    kind=st.sampled_from(["tanh", "identity"]),
    seed=loops.seeds,
)
def test_growth_of_random_recurrences(sizes: tuple[int, int, int], kind: str, seed: int) -> None:
    case = Case(kind, *sizes, 1, "all", seed, False, False)
    found = jacobians_of(case.loss)
    expected = exact_growth(found.matrices)
    np.testing.assert_allclose(found.log_growth, expected, rtol=1e-9, atol=1e-9)


def test_exponents_of_a_linear_recurrence() -> None:
    """Upper triangular: one exponent for each element of the diagonal."""
    rnn = tg.nn.RNN(1, 3, nonlinearity="identity", rng=0, dtype="float64")
    diagonal = np.array([0.9, 0.5, 0.1])
    write(rnn.weight_hh_l0, np.diag(diagonal) + np.triu(rnn.weight_hh_l0.numpy(), 1))
    growth = jacobians_of(rnn(tg.ones((200, 1, 1), dtype="float64"))[0].sum()).log_growth
    np.testing.assert_allclose(np.sort(growth[0] / 200)[::-1], np.log(diagonal), atol=0.02)


def test_a_direction_that_is_lost() -> None:
    rnn = tg.nn.RNN(1, 2, nonlinearity="relu", rng=0, dtype="float64")
    write(rnn.bias_ih_l0, [-99.0, 99.0])  # the first unit is dead
    found = jacobians_of(rnn(tg.ones((4, 1, 1), dtype="float64"))[0].sum())
    assert not found.matrices[:, 0].any()
    assert (found.log_growth == -np.inf).any(axis=1).all()
    assert np.isfinite(found.singular_values).all()


# --- shapes, and when it may be used ------------------------------------------------------------


def test_a_state_without_a_batch_axis_is_one_sequence() -> None:
    w, h = Weights(), const(np.ones(3))
    for t in range(3):
        h = mark(tg.tanh(h @ w("W", t, 3, 3)), "h", t)
    found = jacobians_of(h.sum())
    value = h.numpy()
    expected = (1 - value**2)[:, None] * w.given["W"].T
    assert_close(found.matrices[-1], expected, 1e-14)
    with pytest.raises(tg.ArgumentError, match=r"sample 1.*whole number from 0 to 0"):
        jacobians_of(h.sum(), sample=1)
    scalar = mark(tg.tanh(leaf(np.array(0.5))), "h", 0)
    scalar = mark(tg.tanh(2.0 * scalar), "h", 1)
    expected = 2.0 * (1 - scalar.numpy() ** 2)
    assert_close(jacobians_of(scalar).matrices, expected.reshape(1, 1, 1), 1e-14)


def test_an_initial_state_for_all_sequences() -> None:
    w, x = Weights(), loops.inputs(0, 2, 3)
    h = mark(leaf(np.full((1, 3), 0.3)), "h", -1)
    for t in range(2):
        h = mark(tg.tanh(h @ w("W", t, 3, 3) + const(x)), "h", t)
    for sample in range(2):
        found = jacobians_of(h.sum(), sample=sample)
        np.testing.assert_array_equal(found.time, [0, 1])
        h_1 = np.tanh(np.full(3, 0.3) @ w.given["W"] + x[sample])
        assert_close(found.matrices[0], (1 - h_1**2)[:, None] * w.given["W"].T, 1e-14)


def test_a_state_that_is_handed_on() -> None:
    w, h = Weights(), const(np.ones((2, 3)))
    for t in range(4):
        h = mark(h if t % 2 else tg.tanh(h @ w("W", t, 3, 3)), "h", t)
    found = jacobians_of(h.sum())
    np.testing.assert_array_equal(found.time, [1, 2, 3])
    assert_close(found.matrices[0], np.eye(3), 0.0)
    assert_close(found.matrices[2], np.eye(3), 0.0)
    assert (found.matrices[1] != np.eye(3)).all()


@pytest.mark.parametrize("kind", [tg.nn.RNN, tg.nn.LSTM])
def test_a_sequence_has_its_own_last_step(kind: Any) -> None:
    """Each sequence has the Jacobians of a run alone, and no step past its end."""
    layer = kind(2, 3, rng=0, dtype="float64")
    x = loops.inputs(0, 6, 4, 2)
    lengths = [6, 4, 1, 2]
    output, _ = layer(const(x), None, lengths)
    for sample, length in enumerate(lengths):
        found = jacobians_of(output.sum(), sample=sample)
        alone, _ = layer(const(x[:length, sample : sample + 1]))
        expected = jacobians_of(alone.sum())
        np.testing.assert_array_equal(found.time, range(length))
        assert_close(found.matrices, expected.matrices, 1e-14)
        assert np.isfinite(found.log_growth).all()
        assert_close(found.log_growth, expected.log_growth, 1e-12)


def test_a_last_step_that_loses_everything_is_not_the_end() -> None:
    """All units are off at the last step; or a mask hands the state on."""
    W, h = leaf(np.eye(2)), const(np.ones((1, 2)))
    for t in range(4):
        h = mark(tg.relu(h @ W - (5.0 if t == 3 else 0.0)), "h", t)
    found = jacobians_of(h.sum())
    np.testing.assert_array_equal(found.time, [1, 2, 3])
    assert np.isneginf(found.log_growth).all()
    h = const(np.ones((1, 2)))
    for t in range(4):
        h = mark(tg.where(const(np.array([[t < 2]])), h @ W, h), "h", t)
    np.testing.assert_array_equal(jacobians_of(h.sum()).time, [1, 2, 3])


@pytest.mark.parametrize("fused", [True, False])
def test_units_that_die_do_not_end_a_sequence(fused: bool) -> None:
    """From t = 4 on, one sequence's state is constant, but it has all 8 steps; the other has 3."""
    rnn = tg.nn.RNN(1, 2, nonlinearity="relu", rng=0, dtype="float64", fused=fused)
    write(rnn.weight_ih_l0, 1.0)
    write(rnn.weight_hh_l0, 0.5)
    x = np.ones((8, 2, 1))
    x[4:, 0] = -100.0
    output, _ = rnn(const(x), lengths=[8, 3])
    for sample, length in enumerate((8, 3)):
        found = jacobians_of(output.sum(), sample=sample)
        np.testing.assert_array_equal(found.time, range(length))
        assert bool(found.matrices[-1].any()) == (sample == 1)
    with pytest.raises(tg.ArgumentError, match=r"times 5.*0 to 2.*5"):
        jacobians_of(output.sum(), sample=1, times=5)


def test_a_mask_that_hands_a_state_on_as_a_constant_ends_a_sequence() -> None:
    """It ends where the mask stays off; after a pause the sequence goes on."""
    W, h = leaf(np.eye(2)), const(np.ones((2, 2)))
    for t, going in enumerate([(1, 1), (0, 1), (1, 1), (1, 0), (1, 0)]):
        mask = const(np.array(going, bool)[:, None])
        h = mark(tg.where(mask, tg.tanh(h @ W), h.detach()), "h", t)
    np.testing.assert_array_equal(jacobians_of(h.sum(), sample=0).time, [1, 2, 3, 4])
    np.testing.assert_array_equal(jacobians_of(h.sum(), sample=1).time, [1, 2])
    h = mark(tg.tanh(leaf(np.ones((2, 2)))), "h", 0)
    h = mark(tg.where(const(np.array([[True], [False]])), h @ W, h.detach()), "h", 1)
    with pytest.raises(tg.GraphError, match="single step"):
        jacobians_of(h.sum(), sample=1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("given", ["h first", "c first", "none"])
def test_the_order_of_the_parts_is_the_layers(fused: bool, given: str) -> None:
    """The order does not depend on the initial states."""
    lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
    x = leaf(loops.inputs(0, 4, 1, 3))
    encoder = tg.nn.RNN(3, 3, rng=1, dtype="float64")  # opened where the other is step by step
    _, last = encoder(x)
    h, c = (last, tg.zeros_like(last)) if given == "h first" else (tg.zeros_like(last), last)
    output, _ = lstm(x[:, :, :2], None if given == "none" else (h, c))
    loss = (output**2).sum()
    found = jacobians_of(loss, "lstm.l0")
    assert found.names == ("h", "c")
    assert list(flow_of(loss)["lstm.l0"]) == list(tg.inspect.path_split(loss, "lstm.l0"))
    assert list(flow_of(loss)["lstm.l0"]) == ["h", "c"]
    p = recurrent.weights_of(lstm)
    state = np.concatenate([host(output)[1, 0], host(flow_of(loss)["lstm.l0"].c.value)[1, 0]])
    expected = complex_step(lambda s: lstm_step(p, host(x)[2, 0, :2], s), state)
    assert_close(found.matrices[2], expected, 1e-13)


def test_matrices_that_are_not_finite_have_no_singular_values() -> None:
    W, h = leaf(np.eye(2)), leaf(np.ones((1, 2)))
    for t, factor in enumerate([1.0, 2.0, np.nan, 1.0]):
        h = mark(h @ W * factor, "h", t)
    values = jacobians_of(h.sum()).singular_values
    assert_close(values[0], [2.0, 2.0], 1e-14)
    assert np.isnan(values[1]).all()
    assert_close(values[2], [1.0, 1.0], 1e-14)


def test_float32_models() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0)
    found = jacobians_of(rnn(tg.ones((4, 2, 2)))[0].sum())
    assert found.matrices.dtype == np.float64
    twin = tg.nn.RNN(2, 3, dtype="float64")
    twin.load_state_dict(rnn.state_dict())
    expected = jacobians_of(twin(tg.ones((4, 2, 2), dtype="float64"))[0].sum())
    assert_close(found.matrices, expected.matrices, 2e-6)


def test_the_loss_may_be_anything_and_nothing_is_freed() -> None:
    case = Case("tanh", 4, 2, 3, 1, "all", 0, False, False)
    found, expected = jacobians_of(case.output), jacobians_of(case.loss)
    assert_close(found.matrices, expected.matrices, 0.0)
    case.loss.backward()


def test_what_is_refused() -> None:
    case = Case("tanh", 4, 2, 3, 2, "all", 0, False, False)
    path: Any = "rnn.l0"
    for wrong in (2, -1, 0.0, None, "0"):
        with pytest.raises(tg.ArgumentError, match=r"sample .* from 0 to 1"):
            jacobians_of(case.loss, path, wrong)  # type: ignore[arg-type]
    with pytest.raises(tg.UnknownPathError, match="step_jacobians: several"):
        jacobians_of(case.loss)
    with pytest.raises(tg.UnknownPathError, match="no states in 'gru'"):
        jacobians_of(case.loss, "gru")
    with pytest.raises(tg.GraphError, match=r"step_jacobians: .*state.*marked"):
        jacobians_of(leaf(np.ones(3)) * 2.0)
    h = mark(tg.tanh(leaf(np.ones((2, 3)))), "h", 0)
    with pytest.raises(tg.GraphError, match="single step"):
        jacobians_of(h)
    sparse = loops.sparse(Weights(), 5, 2, 3)
    with pytest.raises(tg.GraphError, match=r"'slow' is not marked at t = 1.*every part"):
        jacobians_of(loops.loss_of(sparse["h"], "last"))
    h = mark(h[:1] * 2.0, "h", 1)
    with pytest.raises(tg.ShapeError, match=r"step_jacobians: the states 'h'.*different shapes"):
        jacobians_of(h)
    case.loss.backward()
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        jacobians_of(case.loss, path)
