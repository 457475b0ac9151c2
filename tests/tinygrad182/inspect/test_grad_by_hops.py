"""``grad_by_hops`` against sums over paths, products of gates, and polynomials measured at several λ."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from models import ResidualNet
from tests.oracles import loops
from tests.oracles.loops import Case, Weights, cases, mark
from tests.support import Array, assert_close, const, host, leaf
from tinygrad182.engine.recording import apply

by_hops = loops.reading(tg.inspect.grad_by_hops)
flow_of = tg.inspect.gradient_flow


def assert_adds_up(hops: tg.inspect.HopSplit, flow: tg.inspect.StateFlow, max_hops: int) -> None:
    T = len(flow.time)
    assert hops.grad.shape == (max_hops + 1, *flow.grad.shape)
    assert hops.grad_norm.shape == (max_hops + 1, T)
    np.testing.assert_array_equal(hops.time, flow.time)
    floor = float(np.abs(hops.grad).max())
    assert_close(hops.grad.sum(axis=0) + hops.rest, flow.grad, 1e-13, "sum", floor)
    norms = np.linalg.norm(hops.grad.reshape(max_hops + 1, T, -1), axis=2)
    assert_close(hops.grad_norm, norms, 1e-14)


@given(case=cases, max_hops=st.integers(0, 7))
def test_parts_and_rest_are_the_gradient(case: Case, max_hops: int) -> None:
    for path, stack in flow_of(case.loss).items():
        for name, flow in stack.items():
            hops = by_hops(case.loss, max_hops, state=name, path=path)
            assert_adds_up(hops, flow, max_hops)
            if max_hops >= case.T:
                assert not hops.rest.any()  # a path has at most that many steps


@pytest.mark.parametrize("loop", loops.LOOPS)
@pytest.mark.parametrize("max_hops", [0, 2, 9])
def test_loops_of_your_own(loop: str, max_hops: int) -> None:
    states = loops.LOOPS[loop](Weights(), 5, 2, 3)
    last = list(states)[-1]
    loss = loops.loss_of(states[last], "all")
    for name, flow in flow_of(loss)[""].items():
        for through in states:
            hops = by_hops(loss, max_hops, state=name, through=through)
            assert_adds_up(hops, flow, max_hops)
            if max_hops == 9:
                assert not hops.rest.any()


@given(
    sizes=st.tuples(loops.steps, loops.sides, loops.sides),
    nonlinearity=st.sampled_from(["tanh", "relu", "identity"]),
    where=loops.wheres,
    seed=loops.seeds,
)
def test_j_hops_in_one_layer_reach_the_loss_j_steps_later(
    sizes: tuple[int, int, int], nonlinearity: str, where: str, seed: int
) -> None:
    """Every path from h_t to the loss at step k makes k − t hops."""
    case = Case(nonlinearity, *sizes, 1, where, seed, False, False)
    hops = by_hops(case.loss, case.T)
    states = case.reference()[1][0]["h"]
    for k in range(case.T):
        alone = case.loss_of([h if i == k else h.detach() for i, h in enumerate(states)])
        for t, state in enumerate(states[: k + 1]):
            expected = loops.grad(alone, state)
            assert_close(hops.grad[k - t, t], expected, 1e-13, f"t = {t}, loss {k}", floor=1e-3)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


@given(seed=loops.seeds, T=loops.steps, B=loops.sides, H=loops.sides)
def test_the_pure_cell_path(seed: int, T: int, B: int, H: int) -> None:
    """Paths of no hop in an LSTM give (∏ f_s) ∘ δ_{c_T} for a loss at the last step."""
    case = Case("lstm", T, B, H, 1, "last", seed, False, False)
    flow = flow_of(case.loss)["lstm.l0"]
    p = {name: w.numpy() for name, w in case.layer.named_parameters()}
    before = np.concatenate([np.zeros((1, B, H)), host(flow.h.value)[:-1]])
    z = case.x @ p["weight_ih_l0"].T + before @ p["weight_hh_l0"].T + p["bias_ih_l0"]
    f = sigmoid(z[..., H : 2 * H])
    pure = by_hops(case.loss, 0, state="c").grad[0]
    expected = host(flow.c.grad)[-1]
    for t in reversed(range(T)):
        assert_close(pure[t], expected, 1e-13, f"t = {t}")
        expected = f[t] * expected


class Dial(tg.nn.LSTMCell):
    """An LSTM step whose gradient through the hidden state before it is multiplied by λ."""

    def steps(self, x: Array, factor: float) -> tuple[list[tg.Tensor], list[tg.Tensor]]:
        h = c = const(np.zeros((x.shape[1], self.hidden_size)))
        hs, cs = [], []
        for x_t in x:
            turned = h.detach() + factor * (h - h.detach())
            h, c = self(const(x_t), (turned, c))
            hs.append(h)
            cs.append(c)
        return hs, cs


@pytest.mark.parametrize("where", ["last", "all"])
@pytest.mark.parametrize("state", ["c", "h"])
def test_coefficients_of_a_measured_polynomial(where: str, state: str) -> None:
    """The gradient with every hop scaled by λ is Σ λ^j part_j: measured at T points and solved for."""
    T, cell = 5, Dial(2, 3, rng=0, dtype="float64")
    x = loops.inputs(0, T, 2, 2)
    points = np.cos(np.pi * (np.arange(T) + 0.5) / T)
    measured = []
    for factor in points:
        hs, cs = cell.steps(x, float(factor))
        loss = loops.loss_of(hs, where)
        measured.append([loops.grad(loss, s) for s in (cs if state == "c" else hs)])
    solved = np.linalg.solve(np.vander(points, increasing=True), np.array(measured).reshape(T, -1))
    hs, cs = cell.steps(x, 1.0)
    for t in range(T):
        mark(cs[t], "c", t)
        mark(hs[t], "h", t)
    found = by_hops(loops.loss_of(hs, where), T - 1, state=state)
    assert_close(found.grad, solved.reshape(found.grad.shape), 1e-12)
    assert not found.rest.any()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("max_hops", [0, 3, 6, 8])
def test_all_paths_of_a_residual_network(nonlinearity: Any, max_hops: int) -> None:
    """Six blocks: every one of the 2⁶ ways through branches and around them, one by one."""
    B, H, depth = 2, 3, 6
    net = ResidualNet(2, H, depth=depth, nonlinearity=nonlinearity, rng=0, dtype="float64")
    loss = net(const(loops.inputs(0, B, 2))).sum()
    flow = flow_of(loss)["residualnet"].h
    hops = by_hops(loss, max_hops, through="branch")
    assert_adds_up(hops, flow, max_hops)
    start = net.stem(const(loops.inputs(0, B, 2)))
    before = np.concatenate([[host(start)], host(flow.value)[:-1]])
    branches = []
    for h, block in zip(before, net.blocks, strict=True):
        W, b = (p.numpy() for p in block.linear.parameters())
        z = h @ W.T + b
        slope = 1 - np.tanh(z) ** 2 if nonlinearity == "tanh" else (z > 0).astype(float)
        branches.append((slope, W))
    start = np.tile(net.head.weight.numpy(), (B, 1))
    for t in range(depth):
        expected = np.zeros((max_hops + 1, B, H))
        rest = np.zeros((B, H))
        for path in itertools.product([False, True], repeat=depth - 1 - t):
            g = start
            for (slope, W), taken in zip(reversed(branches[t + 1 :]), reversed(path), strict=True):
                g = (slope * g) @ W if taken else g
            if sum(path) <= max_hops:
                expected[sum(path)] += g
            else:
                rest += g
        assert_close(hops.grad[:, t], expected, 1e-13, f"block {t}")
        assert_close(hops.rest[t], rest, 1e-13, f"rest at block {t}", floor=1.0)


def test_uses_of_one_mark_by_two_steps() -> None:
    """A state that later steps read directly: each use is one hop."""
    w = Weights()
    hs = loops.two_back(w, 4, 2, 3)["h"]
    loss = (hs[-1] ** 2).sum()
    hops = by_hops(loss, 3)
    (slope2, slope3) = (1 - hs[t].numpy() ** 2 for t in (2, 3))
    W, U = w.given["W"], w.given["U"]
    delta = 2 * hs[3].numpy() * slope3
    assert_close(hops.grad[1, 1], delta @ U.T, 1e-13)
    assert_close(hops.grad[2, 1], ((delta @ W.T) * slope2) @ W.T, 1e-13)


def test_what_is_refused() -> None:
    case = Case("lstm", 4, 2, 3, 1, "all", 0, False, False)
    for wrong in (-1, 1.5, "2", None):
        with pytest.raises(tg.ArgumentError, match=r"grad_by_hops: max_hops .* whole number"):
            by_hops(case.loss, wrong)  # type: ignore[arg-type]
    assert by_hops(case.loss, np.int64(2)).grad.shape[0] == 3
    with pytest.raises(
        tg.GraphError,
        match=r"marked 'branch'.*through='h', .*tg\.inspect\.mark\(x, \"branch\"\)",
    ):
        by_hops(case.loss, through="branch")
    with pytest.raises(tg.UnknownPathError, match=r"grad_by_hops: no state 'x'.*'h', 'c'"):
        by_hops(case.loss, state="x")
    with pytest.raises(tg.UnknownPathError, match="grad_by_hops: no states in 'rnn'"):
        by_hops(case.loss, path="rnn")
    with pytest.raises(tg.ShapeError, match=r"grad_by_hops.*single element"):
        by_hops(case.output)
    w = leaf(np.ones(3))
    with pytest.raises(tg.GraphError, match=r"grad_by_hops: .*state.*marked"):
        by_hops((w * w).sum())
    several = Case("tanh", 4, 2, 3, 2, "all", 0, False, False)
    with pytest.raises(tg.UnknownPathError, match=r"several.*'rnn\.l0', 'rnn\.l1'"):
        by_hops(several.loss)
    text = repr(by_hops(case.loss, 2))
    assert text.splitlines()[0].split("  ")[0].strip() == "t"
    case.loss.backward()
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        by_hops(case.loss)


def test_a_mark_that_no_path_takes() -> None:
    """With one step there are no hops, but the mark exists."""
    h = mark(tg.tanh(leaf(np.ones((2, 3)))), "h", 0)
    hops = by_hops(h.sum(), 2)
    assert not hops.grad[1:].any()
    assert_close(hops.grad[0, 0], np.ones((2, 3)), 0.0)
    with pytest.raises(tg.GraphError, match="marked 'g'"):
        by_hops(h.sum(), through="g")


def drifting(f: Array, T: int) -> tuple[tg.Tensor, list[int]]:
    """The loss of a cell state whose elements fade at rates of their own, and the sizes its rule meets."""
    sizes: list[int] = []

    def vjp(xp: Any, g: Array, y: Array, c: Array, f: Array) -> Array:
        sizes.append(g.size)
        return g * f

    fade = tg.Primitive("fade", lambda xp, c, f: c * f, (vjp, None), "elementwise", broadcasts=True)
    gates, c = const(f), leaf(np.ones((1, len(f))))
    for t in range(T):
        c = mark(apply(fade, c, gates), "c", t)
        h = mark(c * 0.5, "h", t)
    return (c + h).sum(), sizes


def test_elements_that_drift_apart_stay_one_array() -> None:
    f = np.linspace(0.1, 1.0, 24)
    met = []
    for T in (200, 800):
        loss, sizes = drifting(f, T)
        hops = by_hops(loss, 1, state="c")
        met.append(max(sizes))
        with np.errstate(divide="ignore"):
            logs = np.log10(f) * np.arange(T)[::-1, None]
        assert_close(hops.grad_norm[0], np.linalg.norm(1.5 * 10.0**logs, axis=1), 1e-11)
        assert_close(hops.grad[0, :, 0], 1.5 * 10.0**logs, 1e-11, floor=1e-300)
    assert met[0] == met[1]  # not more bands where they lie further apart


def test_one_s_own_loop_beyond_the_range_is_the_fused_layer() -> None:
    x = np.random.default_rng(0).normal(size=(300, 2, 1))
    found = []
    for fused in (True, False):
        lstm = tg.nn.LSTM(1, 6, rng=0, dtype="float64", forget_bias=-5.0, fused=fused)
        loss = lstm(const(x))[0][-1].sum()
        found.append([by_hops(loss, 2, state=state).grad_norm for state in ("c", "h")])
    for ours, theirs in zip(*found, strict=True):
        assert theirs[0, 0] < 1e-300
        assert_close(ours, theirs, 1e-11)


def test_half_precision_of_a_loop() -> None:
    f = np.float16([0.5, 0.25, 0.0625])
    c = w = tg.tensor(np.ones((1, 3), np.float16), requires_grad=True)
    for t in range(40):
        c = mark(c * const(f), "c", t)
    hops = by_hops((c + w).sum(), 1, state="c", through="c")
    assert hops.grad.dtype == np.float16
    total = hops.grad_norm[0, -1:], hops.grad_norm[1, -2:-1]
    assert_close(total[0], np.sqrt([3.0]), 1e-9)
    assert_close(total[1], [np.linalg.norm(np.float64(f))], 1e-9)
