"""``state_grad_matrix``: one loss, one state; against separate passes and closed forms."""

from __future__ import annotations

import cProfile
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import tinygrad182 as tg
from tests.oracles import loops
from tests.oracles.loops import Case, Weights, cases
from tests.support import assert_close, const, host, host_only, leaf, write
from tinygrad182.engine.backpropagation import backpropagate
from tinygrad182.inspect.passes import gradients as fused_module
from tinygrad182.inspect.views import grad_matrices

matrix_of = tg.inspect.state_grad_matrix
flow_of = tg.inspect.gradient_flow


@given(case=cases)
def test_separate_passes(case: Case) -> None:
    """Entry (k, t) is the norm of one pass's ∂L_k/∂h_t, and these add up to ∂L/∂h_t as vectors."""
    losses = [case.loss_of([case.output[t]]) for t in range(case.T)]
    whole = flow_of(sum(losses))
    _, states, _ = case.reference()
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
def test_loops_of_your_own(loop: str) -> None:
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
    loops.check_far_logarithms(matrix_of, output, radius)


class Long:
    """A linear recurrence that goes far beyond its type, and a loss at every seventh step."""

    def __init__(self, radius: float, fused: bool, dtype: str, T: int = 60) -> None:
        rnn = tg.nn.RNN(2, 3, 2, "identity", rng=1, dtype=dtype, fused=fused, bias=False)
        for name in ("weight_hh_l0", "weight_hh_l1"):
            weight = host(getattr(rnn, name))
            write(getattr(rnn, name), weight * radius / np.abs(np.linalg.eigvals(weight)).max())
        x = np.random.default_rng(2).normal(size=(T, 2, 2)) * (radius < 1)
        output, _ = rnn(const(x.astype(dtype)))
        self.losses = [output[t].sum() for t in range(3, T, 7)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("radius", [1e-8, 1e8])
def test_together_as_one_by_one(
    radius: float, fused: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass, in several, and each in its own: over hundreds of decades."""
    losses = Long(radius, fused, dtype).losses
    each = np.concatenate([matrix_of([loss], "rnn.l0", log=True) for loss in losses])
    assert np.abs(each[np.isfinite(each)]).max() > 380 * math.log(10)
    tolerance = 1e-9 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(matrix_of(losses, "rnn.l0", log=True), each, atol=tolerance)
    monkeypatch.setattr(grad_matrices, "MEMORY", 0)
    monkeypatch.setattr(grad_matrices, "FEWEST", 4)
    np.testing.assert_allclose(matrix_of(losses, "rnn.l0", log=True), each, atol=tolerance)


@pytest.mark.parametrize("fused", [True, False])
def test_at_most_20_passes_for_200_losses(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn = tg.nn.RNN(1, 2, rng=0, fused=fused)
    output, _ = rnn(tg.ones((200, 1, 1)))
    passes: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(1)
        return backpropagate(*args, **options)

    monkeypatch.setattr(fused_module, "backpropagate", counted)
    monkeypatch.setattr(grad_matrices, "MEMORY", 0)
    matrix_of((output**2).sum(axis=(1, 2)))
    assert 1 <= len(passes) <= 20


@host_only("calls of the host")
def test_nothing_is_done_for_each_loss_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the losses in one pass: each adds its own operations, and no more."""
    monkeypatch.setattr(grad_matrices, "FEWEST", 100)
    output = list(loops.LOOPS["rnn_outside"](Weights(), 120, 2, 3).values())[-1]
    calls = []
    for count in (15, 60):
        losses = [h.sum() for h in output[-count:]]
        profiler = cProfile.Profile()
        profiler.runcall(matrix_of, losses)
        calls.append(sum(entry.callcount for entry in profiler.getstats()))
    assert calls[1] < 2 * calls[0]


@pytest.mark.parametrize("loop", ["fused", "unrolled", "own"])
def test_some_steps_only(loop: str) -> None:
    if loop == "own":
        output = list(loops.LOOPS["rnn_outside"](Weights(), 8, 2, 3).values())[-1]
        losses = [(h * h).sum() for h in output]
    else:
        rnn = tg.nn.RNN(1, 3, rng=0, dtype="float64", fused=loop == "fused")
        losses = list((rnn(tg.ones((8, 2, 1), dtype="float64"))[0] ** 2).sum(axis=(1, 2)))
    whole = matrix_of(losses)
    for times in ([5], [7, 0, 3], np.arange(8), [2, 2]):
        assert_close(matrix_of(losses, times=times), whole[:, sorted({*times})], 1e-13)
    assert_close(matrix_of(losses, times=3), whole[:, [3]], 1e-13)
    with pytest.raises(tg.ArgumentError, match=r"0 to 7.*8"):
        matrix_of(losses, times=[1, 8])
    with pytest.raises(tg.ArgumentError, match=r"times \[1\.5\].*time step"):
        matrix_of(losses, times=[1.5])


def test_what_is_refused() -> None:
    case = Case("lstm", 4, 2, 3, 2, "all", 0, False, False)
    losses = (case.output**2).sum(axis=(1, 2))
    with pytest.raises(tg.ArgumentError, match="state_grad_matrix: no losses"):
        matrix_of([])
    with pytest.raises(tg.UnknownPathError, match=r"state_grad_matrix: several.*'lstm\.l1'"):
        matrix_of(losses)
    with pytest.raises(tg.UnknownPathError, match="state_grad_matrix: no states in 'rnn'"):
        matrix_of(losses, "rnn")
    with pytest.raises(tg.UnknownPathError, match=r"state_grad_matrix: no state 'x'.*'h', 'c'"):
        matrix_of(losses, "lstm.l0", "x")
    with pytest.raises(tg.ShapeError, match=r"state_grad_matrix.*single element"):
        matrix_of(case.output, "lstm.l0")
    w = leaf(np.ones(3))
    with pytest.raises(tg.GraphError, match=r"state_grad_matrix: .*state.*marked"):
        matrix_of([(w * w).sum()])
    with pytest.raises(tg.GraphError, match=r"state_grad_matrix: .*output.*requires_grad=True"):
        matrix_of([const(np.ones(()))])
    losses.sum().backward()
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        matrix_of(losses, "lstm.l0")
