"""``state_grad_matrix``: one loss, one state; against separate passes and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

import tinygrad182 as tg
from tests.support import assert_close, const, leaf, write
from tests.tinygrad182.inspect import loops
from tests.tinygrad182.inspect.loops import Case, Weights, cases

matrix_of = tg.inspect.state_grad_matrix
flow_of = tg.inspect.gradient_flow


@given(case=cases)
def test_separate_passes(case: Case) -> None:
    """Entry (k, t) is the norm of one pass's ∂L_k/∂h_t, and these add up to ∂L/∂h_t as vectors."""
    losses = [case.loss_of([case.output[t]]) for t in range(case.T)]
    whole = flow_of(sum(losses))
    _, states, _ = case.witness()
    again = [case.loss_of([h]) for h in states[-1]["h"]]
    for k, (path, stack) in enumerate(whole.items()):
        for name, flow in stack.items():
            found = matrix_of(losses, path, name)
            assert found.shape == (case.T, case.T)
            assert found.dtype == np.float64
            vectors = np.array([[loops.grad(loss, s) for s in states[k][name]] for loss in again])
            norms = np.linalg.norm(vectors.reshape(case.T, case.T, -1), axis=2)
            assert_close(found, norms, 1e-12)
            assert_close(vectors.sum(axis=0), flow.grad, 1e-12, floor=norms.max())
            assert not found[np.triu_indices(case.T, 1)].any()  # no state acts on a loss before it
            with np.errstate(divide="ignore"):
                logs = np.log(found)
            np.testing.assert_allclose(matrix_of(losses, path, name, log=True), logs, atol=1e-12)


@pytest.mark.parametrize("loop", loops.LOOPS)
def test_loops_of_ones_own(loop: str) -> None:
    states = loops.LOOPS[loop](Weights(), 5, 2, 3)
    losses = [loops.loss_of([h], "all", t) for t, h in enumerate(list(states.values())[-1])]
    for name, hs in states.items():
        expected = [[np.linalg.norm(loops.grad(loss, h)) for h in hs] for loss in losses]
        assert_close(matrix_of(losses, state=name), np.array(expected), 1e-13)


def test_a_tensor_of_losses() -> None:
    case = Case("tanh", 4, 2, 3, 1, "all", 0, False, False)
    losses = (case.output**2).sum(axis=(1, 2))
    as_list = matrix_of([losses[k] for k in range(4)])
    assert_close(matrix_of(losses), as_list, 0.0)
    assert_close(matrix_of(losses[2]), as_list[2:3], 0.0)  # a single one
    assert_close(matrix_of(tuple(losses[k] for k in (3, 0))), as_list[[3, 0]], 0.0)
    losses.sum().backward()  # nothing was freed


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_logarithms_down_to_1e_400(dtype: str) -> None:
    """A linear recurrence W = r I: ‖∂L_k/∂h_t‖ = √(B H) r^(k − t)."""
    T, H, B, radius = 210, 3, 2, 0.0098
    rnn = tg.nn.RNN(1, H, nonlinearity="identity", bias=False, dtype=dtype)
    write(rnn.weight_hh_l0, radius * np.eye(H))
    radius = float(rnn.weight_hh_l0.numpy()[0, 0])
    output, _ = rnn(tg.zeros((T, B, 1), dtype=dtype))
    ends = np.array([T - 1, 100, 0])
    found = matrix_of([output[int(k)].sum() for k in ends], log=True)
    lags = ends[:, None] - np.arange(T)
    expected = math.log(B * H) / 2 + lags * math.log(radius)
    assert found[0, 0] < -400 * math.log(10)
    inside = lags >= 0
    np.testing.assert_allclose(
        found[inside], expected[inside], rtol=1e-12 if dtype == "float64" else 1e-6
    )
    np.testing.assert_array_equal(found[~inside], -np.inf)
    plain = matrix_of([output[-1].sum()])
    assert plain[0, 0] == 0.0
    np.testing.assert_allclose(plain[0, -20:], np.exp(expected[0, -20:]), rtol=1e-5)


def test_what_is_refused() -> None:
    case = Case("lstm", 4, 2, 3, 2, "all", 0, False, False)
    losses = (case.output**2).sum(axis=(1, 2))
    with pytest.raises(tg.ArgumentError, match="state_grad_matrix: no losses"):
        matrix_of([])
    with pytest.raises(tg.UnknownPathError, match=r"state_grad_matrix: several.*'lstm\.l1'"):
        matrix_of(losses)
    with pytest.raises(tg.UnknownPathError, match="state_grad_matrix: no states in 'rnn'"):
        matrix_of(losses, "rnn")
    with pytest.raises(
        tg.UnknownPathError, match="state_grad_matrix: no state 'x'; there is 'h', 'c'"
    ):
        matrix_of(losses, "lstm.l0", "x")
    with pytest.raises(tg.ShapeError, match=r"state_grad_matrix.*not a single element"):
        matrix_of(case.output, "lstm.l0")
    w = leaf(np.ones(3))
    with pytest.raises(tg.GraphError, match="state_grad_matrix: no state is marked"):
        matrix_of([(w * w).sum()])
    with pytest.raises(tg.GraphError, match="state_grad_matrix: the output does not require grad"):
        matrix_of([const(np.ones(()))])
    losses.sum().backward()
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        matrix_of(losses, "lstm.l0")
