"""The views beside the curves, against what NumPy makes of the formulas, in float64."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad182 as tg
from models.residual import ResidualNet
from tests.support import Array, const, host, leaf
from tinygrad182.inspect.charts.drawn_steps import spread
from tinygrad182.inspect.charts.view_arrays import Matrix, SingularValues
from tinygrad182.inspect.microscope.linked_views import LinkedViews, linked_views

T, B, H, I = 7, 2, 4, 3  # noqa: E741
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


class Vanilla(NamedTuple):
    """A tanh recurrence, its loss Σ_k ‖h_k‖² over the steps ``read``, and all that is to be found."""

    loss: tg.Tensor
    states: Array  # (T + 1, B, H), h_{-1} first
    x: Array
    W: Array
    read: list[int]

    @property
    def slopes(self) -> Array:
        return 1 - self.states[1:] ** 2

    def back(self, delta: Array, t: int) -> Array:
        """Propagate a gradient by h_t back to h_{t−1}."""
        return (delta * self.slopes[t]) @ self.W

    def local(self, t: int) -> Array:
        return 2 * self.states[t + 1] * (t in self.read)

    def deltas(self) -> list[Array]:
        found = [self.local(T - 1)]
        for t in range(T - 1, 0, -1):
            found.insert(0, self.local(t - 1) + self.back(found[0], t))
        return found


def vanilla(kind: str, read: list[int]) -> Vanilla:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(T, B, I))
    rnn = tg.nn.RNN(I, H, rng=0, dtype="float64", fused=kind != "unfused")
    W, V = (host(w) for w in (rnn.weight_hh_l0, rnn.weight_ih_l0))
    b = host(rnn.bias_ih_l0)
    states = [np.zeros((B, H))]
    for x_t in x:
        states.append(np.tanh(x_t @ V.T + states[-1] @ W.T + b))
    if kind == "own loop":
        w, v = leaf(W), leaf(V)
        h = tg.inspect.mark(const(states[0]), "h", time=-1)
        seen = []
        for t in range(T):
            h = tg.tanh(const(x[t]) @ v.T + h @ w.T + const(b))
            h = tg.inspect.mark(h, "h", time=t)
            seen.append(h)
    else:
        seen, _ = rnn(const(x))
    loss = sum(((seen[t] ** 2).sum() for t in read), start=const(0.0))
    return Vanilla(loss, np.stack(states), x, W, read)


KINDS = ("fused", "unfused", "own loop")


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest) -> Vanilla:
    return vanilla(request.param, [1, 4, 5, 6])


@pytest.fixture
def views(case: Vanilla) -> LinkedViews:
    return linked_views(case.loss, None, range(T), sample=1)


def test_shares_are_those_of_the_formula(case: Vanilla, views: LinkedViews) -> None:
    deltas = case.deltas()
    assert views.shares.state == "h"
    for t, delta in enumerate(deltas):
        direct = case.back(deltas[t + 1], t + 1) if t + 1 < T else 0 * delta
        square = (delta**2).sum()
        found = {name: part[t] for name, part in views.shares.parts.items()}
        np.testing.assert_allclose(found["direct"], (direct * delta).sum() / square, **CLOSE)
        np.testing.assert_allclose(found["local"], (case.local(t) * delta).sum() / square, **CLOSE)


def test_gains_are_those_of_the_formula(case: Vanilla, views: LinkedViews) -> None:
    for t, delta in enumerate(case.deltas()):
        bent = np.linalg.norm(delta * case.slopes[t])
        np.testing.assert_allclose(views.gain.saturation[t], bent / np.linalg.norm(delta), **CLOSE)
        if t:
            weight = np.linalg.norm(case.back(delta, t)) / bent
            np.testing.assert_allclose(views.gain.weight[t], weight, **CLOSE)


def test_the_matrix_is_one_pass_for_each_step_that_the_loss_reads(
    case: Vanilla, views: LinkedViews
) -> None:
    assert views.matrix.rows.tolist() == case.read
    assert views.matrix.time.tolist() == list(range(T))
    for row, k in enumerate(case.read):
        delta = case.local(k)
        for t in range(k, -1, -1):
            log10 = math.log10(np.linalg.norm(delta))
            np.testing.assert_allclose(views.matrix.log10_norm[row, t], log10, **CLOSE)
            delta = case.back(delta, t)
        assert (views.matrix.log10_norm[row, k + 1 :] == -np.inf).all()


def test_singular_values_are_those_of_diagonal_times_weight(
    case: Vanilla, views: LinkedViews
) -> None:
    assert views.singular.time.tolist() == list(range(T))
    for t, found in enumerate(views.singular.values):
        jacobian = case.slopes[t][1][:, None] * case.W
        np.testing.assert_allclose(found, np.linalg.svd(jacobian)[1], **CLOSE)


def test_weights_are_outer_products_of_each_step(case: Vanilla, views: LinkedViews) -> None:
    names = "weight_ih_l0", "weight_hh_l0"
    by_input, by_state = (
        views.weights.log10_norm.get(name, views.weights.log10_norm.get(f"W {H}×{size}"))
        for name, size in zip(names, (I, H), strict=True)
    )
    for t, delta in enumerate(case.deltas()):
        z = delta * case.slopes[t]
        norms = [np.linalg.norm(z.T @ a) for a in (case.x[t], case.states[t])]
        np.testing.assert_allclose(10 ** by_input[t], norms[0], **CLOSE)
        np.testing.assert_allclose(10 ** by_state[t], norms[1], **CLOSE)
    assert by_state[0] == -np.inf  # h_{-1} is 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_at_one_step_has_no_matrix(kind: str) -> None:
    views = linked_views(vanilla(kind, [5]).loss, None, range(6))
    assert views.matrix.startswith("the loss reads one step only, t = 5")


@pytest.mark.parametrize("layer", [tg.nn.LSTM, tg.nn.GRU])
@pytest.mark.parametrize("fused", [True, False])
def test_the_matrix_is_that_of_the_losses_one_by_one(layer: Any, fused: bool) -> None:
    model = layer(I, H, rng=0, dtype="float64", fused=fused)
    output, _ = model(const(np.random.default_rng(0).normal(size=(T, B, I))))
    losses = [(output[k] ** 2).sum() for k in range(T)]
    views = linked_views(sum(losses[1:], start=losses[0]), None, range(T))
    expected = tg.inspect.state_grad_matrix(losses, log=True) / math.log(10)
    np.testing.assert_allclose(views.matrix.log10_norm, expected, **CLOSE)


def _scaled(factor: float, steps: int, dtype: str = "float32") -> tg.Tensor:
    rnn = tg.nn.RNN(1, 2, nonlinearity="identity", bias=False, rng=0, dtype=dtype)
    rnn.weight_hh_l0.data[...] = factor * np.eye(2)
    output, _ = rnn(tg.ones((steps, 1, 1), dtype=dtype))
    return output.sum()


def test_magnitudes_far_below_every_type_are_numbers() -> None:
    views = linked_views(_scaled(1e-3, 150), None, range(150))
    t = views.matrix.time
    expected = -3.0 * (149 - t) + math.log10(math.sqrt(2))
    np.testing.assert_allclose(views.matrix.log10_norm[-1], expected, atol=1e-3)
    assert views.matrix.log10_norm[-1, 0] < -440
    np.testing.assert_allclose(views.singular.values, 1e-3, rtol=1e-6)


def test_an_lstm_shows_its_cell_and_says_why_it_has_no_gain() -> None:
    lstm = tg.nn.LSTM(I, H, rng=0)
    output, _ = lstm(tg.ones((T, B, I)))
    views = linked_views((output**2).sum(), "lstm.l0", range(T))
    assert (views.path, views.shares.state) == ("lstm.l0", "c")
    assert list(views.shares.parts) == ["direct", "via h", "local"]
    assert views.gain.startswith("h is a product of two factors")
    assert views.singular.values.shape == (T, 2 * H)
    assert list(views.weights.log10_norm) == ["weight_ih_l0", "weight_hh_l0"]


def test_a_residual_network_has_skip_branch_and_a_weight_for_each_depth() -> None:
    net = ResidualNet(I, H, depth=5, rng=0, dtype="float64")
    loss = (net(const(np.random.default_rng(0).normal(size=(B, I)))) ** 2).sum()
    views = linked_views(loss, None, range(5))
    split = tg.inspect.path_split(loss)["h"]
    deltas = host(split.grad)
    for t in range(4):  # the skip carries δ of the next block as it is
        skip, square = (deltas[t + 1] * deltas[t]).sum(), (deltas[t] ** 2).sum()
        found = views.shares.parts
        np.testing.assert_allclose(found["direct"][t], skip / square, **CLOSE)
        np.testing.assert_allclose(found["via branch"][t], 1 - skip / square, **CLOSE)
    loss.backward(retain_graph=True)
    (logs,) = views.weights.log10_norm.values()
    norms = [np.linalg.norm(host(block.linear.weight.grad)) for block in net.blocks]
    np.testing.assert_allclose(10**logs, norms, **CLOSE)
    assert list(views.weights.log10_norm) == ["blocks.*.linear.weight"]
    assert views.gain.startswith("h is a sum, and a nonlinearity makes only a part of it")
    assert views.singular.values.shape == (5, H)


@pytest.mark.parametrize("fused", [True, False])
def test_sequences_of_several_lengths(fused: bool) -> None:
    lstm = tg.nn.LSTM(I, H, rng=0, fused=fused)
    output, _ = lstm(tg.ones((T, 3, I)), lengths=[T, 3, 0])
    loss = (output**2).sum()
    found = [linked_views(loss, None, range(T), sample=i).singular for i in range(3)]
    assert [list(x.time) for x in found[:2]] == [list(range(T)), [0, 1, 2]]
    assert found[2] == "sequence 2 has no step with one before it"


def test_nothing_flows_between_windows_of_truncated_backpropagation() -> None:
    rnn = tg.nn.RNN(I, H, rng=0)
    output, _ = rnn(tg.ones((6, B, I)), truncate=3)
    matrix = linked_views((output**2).sum(), None, range(6)).matrix
    assert isinstance(matrix, Matrix)
    reached = np.isfinite(matrix.log10_norm)
    block = np.tril(np.ones((3, 3), bool))
    assert (reached == np.kron(np.eye(2, dtype=bool), block)).all()


def test_every_recurrence_of_an_encoder_and_decoder_and_both_directions() -> None:
    encoder = tg.nn.GRU(I, H, bidirectional=True, rng=0)
    decoder = tg.nn.GRU(I, H, rng=1)
    _, last = encoder(tg.ones((T, B, I)))
    output, _ = decoder(tg.ones((4, B, I)), last[1:])
    loss = (output**2).sum()
    for path, stack in tg.inspect.gradient_flow(loss).items():
        times = stack.h.time.tolist()
        views = linked_views(loss, path, times)
        assert views.shares.time.tolist() == times
        assert isinstance(views.singular, SingularValues)
        assert isinstance(views.matrix, Matrix) == (len(times) == 4)


def test_long_sequences_show_some_steps_the_ends_among_them() -> None:
    rnn = tg.nn.RNN(I, H, rng=0)
    output, _ = rnn(tg.ones((120, B, I)))
    kept = range(0, 120, 2)
    views = linked_views((output**2).sum(), None, kept)
    assert views.shares.time.tolist() == views.gain.time.tolist() == list(kept)
    assert views.matrix.log10_norm.shape == (40, 40)
    assert len(views.singular.time) == 50
    for steps in (views.matrix.rows, views.matrix.time, views.singular.time):
        assert (steps[0], steps[-1]) == (0, 118)
        assert set(steps) <= set(kept)


def test_a_state_that_is_handed_on_counts_once() -> None:
    w = leaf(np.full((2, 2), 0.5))
    h = tg.inspect.mark(const([[1.0, 2.0]]), "h", time=-1)
    h = tg.inspect.mark(tg.tanh(h @ w), "h", time=0)
    h = tg.inspect.mark(h, "h", time=1)
    after = tg.inspect.mark(tg.tanh(h @ w), "h", time=2)
    matrix = linked_views(h.sum() + after.sum(), None, range(3)).matrix
    assert matrix.rows.tolist() == [1, 2]


def test_a_loop_with_fixed_weights_and_one_step_says_what_it_lacks() -> None:
    x = leaf([0.3, 0.1])
    h = tg.inspect.mark(tg.tanh(x * 2.0), "h", time=0)
    views = linked_views(h.sum(), None, [0])
    assert views.singular == "there is a single step"
    assert views.weights == "no step uses a matrix that requires grad"


def test_a_graph_that_was_freed_raises() -> None:
    case = vanilla("fused", [1, 2])
    case.loss.backward()
    with pytest.raises(tg.errors.FreedGraphError):
        linked_views(case.loss, None, range(T))


@pytest.mark.parametrize("fused", [True, False])
def test_a_weight_that_was_changed_since_raises(fused: bool) -> None:
    rnn = tg.nn.RNN(I, H, rng=0, fused=fused)
    output, _ = rnn(tg.ones((T, B, I)))
    rnn.weight_hh_l0.assign(tg.zeros((H, H)))
    with pytest.raises(tg.errors.InPlaceError):
        linked_views((output**2).sum(), None, range(T))


def test_an_unknown_path_raises() -> None:
    with pytest.raises(tg.errors.UnknownPathError, match=r"no states in 'lstm\.l0'"):
        linked_views(vanilla("fused", [1, 2]).loss, "lstm.l0", range(T))


@pytest.mark.parametrize("most", [1, 2, 5, 40])
def test_spread_keeps_order_and_the_first(most: int) -> None:
    found = spread(range(17), most)
    assert len(found) == min(most, 17) == len(set(found))
    assert found == sorted(found)
    assert found[0] == 0


@pytest.mark.parametrize("per_sample", [False, True])
def test_logarithms_of_a_weights_parts_go_on_below_float64(per_sample: bool) -> None:
    rnn_loss = _scaled(1e-3, 150, "float64")
    options: dict[str, Any] = {"norm_only": True, "per_sample": per_sample}
    last = _last(rnn_loss)
    norms = tg.inspect.weight_grad_by_time(last, "weight_hh_l0", **options)
    logs = tg.inspect.weight_grad_by_time(last, "weight_hh_l0", log=True, **options)
    assert norms[5].max() == 0
    assert logs[0].max() == -np.inf  # h_{-1} is 0
    shows = norms > 1e-300
    np.testing.assert_allclose(logs[shows], np.log(norms[shows]), **CLOSE)
    steps = np.diff(logs[2:].reshape(-1)) / math.log(10)
    np.testing.assert_allclose(steps, 3.0, atol=1e-2)


def _last(loss: tg.Tensor) -> tg.Tensor:
    rnn = tg.nn.RNN(1, 2, nonlinearity="identity", bias=False, rng=0, dtype="float64")
    rnn.weight_hh_l0.data[...] = 1e-3 * np.eye(2)
    output, _ = rnn(tg.ones((150, 1, 1), dtype="float64"))
    return output[-1].sum()


def test_logarithms_need_norms() -> None:
    with pytest.raises(tg.errors.ArgumentError, match="pass norm_only=True with it"):
        tg.inspect.weight_grad_by_time(_last(const(0.0)), "weight_hh_l0", log=True)
