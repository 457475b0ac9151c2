"""``weight_grad_by_time`` with ``per_sample``: beside losses of one sequence, and weights of one step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

import tinygrad182 as tg
from tests.oracles import loops
from tests.oracles.loops import Case, Weights, cases
from tests.support import Array, assert_close, const, leaf, write
from tests.tinygrad182.inspect.test_weight_grad import HEADS
from tinygrad182.engine.recording import node_of
from tinygrad182.inspect.views import weight_grad as module

by_time = loops.reading(tg.inspect.weight_grad_by_time)
mark = tg.inspect.mark


def assert_parts(loss: tg.Tensor, weight: tg.Tensor, expected: Array, what: str) -> None:
    """Compare each sequence's part and norm with the reference; the parts add up to the whole."""
    parts = by_time(loss, weight, per_sample=True)
    floor = float(np.abs(expected).max(initial=0.0))
    assert parts.dtype == weight.dtype
    assert_close(parts, expected, 1e-12, what, floor)
    assert_close(parts.sum(axis=1), by_time(loss, weight), 1e-12, f"sum of {what}", floor)
    norms = by_time(loss, weight, norm_only=True, per_sample=True)
    assert norms.dtype == np.float64
    of_each = np.linalg.norm(expected.reshape(*expected.shape[:2], -1), axis=2)
    assert_close(norms, of_each, 1e-12, f"norms of {what}", floor)


def by_sequence(hs: list[tg.Tensor]) -> list[tg.Tensor]:
    """A loss of each sequence."""
    shares = np.random.default_rng(4).normal(size=(len(hs), *hs[0].shape))
    losses = []
    for b in range(hs[0].shape[0]):
        each = [(const(a[b]) * h[b] * h[b]).sum() for a, h in zip(shares, hs, strict=True)]
        losses.append(sum(each[1:], start=each[0]))
    return losses


@given(case=cases)
def test_layers(case: Case) -> None:
    """Weights, biases, every layer, as one operation or step by step; padding takes no part."""
    loss = sum(by_sequence([case.output[t] for t in range(case.T)]), start=const(np.zeros(())))
    _, states, copies = case.reference(copies=True)
    alone = by_sequence(states[-1]["h"])
    for name, weight in case.layer.named_parameters():
        expected = np.stack([copies.grads(one, name, case.T) for one in alone], axis=1)
        assert_parts(loss, weight, expected, name)


@pytest.mark.parametrize("loop", loops.LOOPS)
@pytest.mark.parametrize(("T", "B", "H"), [(6, 2, 3), (3, 3, 3), (2, 1, 1)])
def test_loops_of_your_own(loop: str, T: int, B: int, H: int) -> None:
    run, shared, copies = loops.LOOPS[loop], Weights(), Weights(copies=True)
    last = list(run(shared, T, B, H).values())[-1]
    alone = by_sequence(list(run(copies, T, B, H).values())[-1])
    loss = sum(by_sequence(last), start=const(np.zeros(())))
    for name in shared.names():
        expected = np.stack([copies.grads(one, name, T) for one in alone], axis=1)
        assert_parts(loss, shared.leaves[name, 0], expected, f"{loop} {name}")


@pytest.mark.parametrize("head", HEADS)
def test_heads_on_all_steps_at_once(head: str) -> None:
    """Time may be the axis after the sequences; a product with the features first raises an error."""
    values, together, one = HEADS[head]
    hs, v = loops.rnn_outside(Weights(), 4, 2, 3)["h"], leaf(values)
    loss = (together(hs, v) ** 2).sum()
    if head == "features first":
        with pytest.raises(tg.GraphError, match=r"per_sample needs .* write x @ W\.T instead"):
            by_time(loss, v, per_sample=True)
        return
    copies = [leaf(values) for _ in hs]
    outputs = [one(h, c) ** 2 for h, c in zip(hs, copies, strict=True)]
    count = 1 if head == "after a sum" else 2
    alone = [sum((y if count == 1 else y[b]).sum() for y in outputs) for b in range(count)]
    expected = np.stack([np.stack([loops.grad(a, c) for a in alone]) for c in copies])
    assert_parts(loss, v, expected, head)


def test_looked_up_rows() -> None:
    table = leaf(loops.inputs(0, 5, 2))
    tokens = np.array([[0, 1], [2, 2], [0, 4]])
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    copies = [leaf(table.numpy()) for _ in range(3)]
    loss = sum(by_sequence(list(rnn(table[tokens])[0])))
    alone = by_sequence(list(rnn(tg.stack([c[tokens[t]] for t, c in enumerate(copies)]))[0]))
    expected = np.stack([np.stack([loops.grad(one, c) for one in alone]) for c in copies])
    assert_parts(loss, table, expected, "table")


@pytest.mark.parametrize(("shape", "weight_first"), [((3,), False), ((3,), True), ((3, 1), True)])
def test_a_state_that_is_a_vector(shape: tuple[int, ...], weight_first: bool) -> None:
    """There is one sequence, whose contribution is the step's."""
    w, b = leaf(loops.inputs(1, 3, 3)), leaf(loops.inputs(2, *shape))
    h = const(np.ones(shape))
    for t in range(4):
        h = mark(tg.tanh((w @ h if weight_first else h @ w) + b), "h", time=t)
    for weight in (w, b):
        found = by_time(h.sum(), weight, per_sample=True)
        assert_close(found, by_time(h.sum(), weight)[:, None], 1e-13)


def test_a_number_as_a_weight() -> None:
    scale, copies = leaf(np.array(0.7)), [leaf(np.array(0.7)) for _ in range(4)]

    def loop(scales: list[tg.Tensor]) -> list[tg.Tensor]:
        h, hs = const(loops.inputs(1, 2, 3)), []
        for t, a in enumerate(scales):
            h = mark(tg.tanh(a * h), "h", time=t)
            hs.append(h)
        return by_sequence(hs)

    alone = loop(copies)
    expected = np.array([[loops.grad(one, c) for one in alone] for c in copies])
    assert_parts(sum(loop([scale] * 4)), scale, expected, "scale")


def test_uses_without_their_sequences_in_front_are_refused() -> None:
    w = leaf(loops.inputs(1, 3, 3))

    def loop(step: Callable[[tg.Tensor], tg.Tensor], shape: tuple[int, ...]) -> tg.Tensor:
        h = const(np.ones(shape))
        for t in range(3):
            h = mark(step(h), "h", time=t)
        return h.sum()

    transposed = loop(lambda h: tg.tanh(w @ h), (3, 2))
    with pytest.raises(tg.GraphError, match=r"in matmul.*\(3, 2\).* write x @ W"):
        by_time(transposed, w, per_sample=True)
    assert by_time(transposed, w).shape == (3, 3, 3)
    row = leaf(loops.inputs(1, 1, 3))
    with pytest.raises(tg.GraphError, match=r"in matmul.*\(1, 2\).* write x @ W"):
        by_time(loop(lambda h: tg.tanh(h + row @ h), (3, 2)), row, per_sample=True)
    x = const(loops.inputs(2, 3, 2, 3))
    h = const(np.ones((1, 3)))
    for t in range(3):
        h = mark(tg.tanh(x[t] + h @ w), "h", time=t)
    with pytest.raises(
        tg.GraphError,
        match=r"one number of sequences at all uses.*there are 1 in matmul.*2 in matmul",
    ):
        by_time(h.sum(), w, per_sample=True)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_norms_beyond_the_type(fused: bool, factor: float) -> None:
    """A linear recurrence in float32, of which one sequence's gradient is 2^-60 times the other's."""
    T, H = 120, 3
    rnn = tg.nn.RNN(H, H, nonlinearity="identity", rng=0, bias=False, fused=fused)
    write(rnn.weight_hh_l0, factor * np.eye(H))
    write(rnn.weight_ih_l0, np.eye(H))
    x = np.zeros((T, 2, H), "float32")
    x[0] = 2.0**-120
    output, _ = rnn(const(x))
    loss = output[-1, 0].sum() + 2.0**-60 * output[-1, 1].sum()
    deltas = np.sqrt(H) * factor ** (T - 1.0) * np.array([1.0, 2.0**-60])
    norms = by_time(loss, rnn.weight_ih_l0, norm_only=True, per_sample=True)
    np.testing.assert_allclose(norms[0], deltas * np.sqrt(H) * 2.0**-120, rtol=1e-6)
    assert not norms[1:].any()


@pytest.mark.parametrize("chunk", [1, 20, 100])
@pytest.mark.parametrize("fused", [True, False])
def test_a_few_steps_at_a_time(monkeypatch: pytest.MonkeyPatch, chunk: int, fused: bool) -> None:
    lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
    loss = sum(by_sequence(list(lstm(const(loops.inputs(0, 7, 2, 2)))[0])))
    whole = [by_time(loss, w, per_sample=True) for w in lstm.parameters()]
    monkeypatch.setattr(module, "CHUNK", chunk)
    for w, expected in zip(lstm.parameters(), whole, strict=True):
        assert_close(by_time(loss, w, per_sample=True), expected, 1e-13)
        some = by_time(loss, w, per_sample=True, times=[5, 2])
        assert_close(some, expected[[2, 5]], 1e-13)
        norms = by_time(loss, w, norm_only=True, per_sample=True, times=[5, 2])
        assert_close(norms, np.linalg.norm(some.reshape(2, 2, -1), axis=2), 1e-13)


@pytest.mark.parametrize("fused", [True, False])
def test_no_more_numbers_at_once_than_are_said(
    monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    """The limit on numbers at a time is for all sequences together."""
    lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
    loss = sum(by_sequence(list(lstm(const(loops.inputs(0, 7, 2, 2)))[0])))
    size, weight = 2 * lstm.weight_hh_l0.size, node_of(lstm.weight_hh_l0)
    monkeypatch.setattr(module, "CHUNK", 3 * size)
    parts = module._parts(node_of(loss), np.ones(()), weight, per_sample=True, norm_only=False)
    assert [part.values.size for part in parts] == [3 * size, 3 * size, size]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cut", [1, 2])
def test_windows_of_a_single_step(fused: bool, cut: int) -> None:
    """Five steps in windows of two leave one of one step."""
    layer = tg.nn.RNN(2, 3, rng=0, dtype="float64", fused=fused)
    output, _ = layer(const(loops.inputs(0, 5, 4, 2)), truncate=cut)
    alone = by_sequence(list(output))
    for name, weight in layer.named_parameters():
        expected = np.stack([by_time(one, weight) for one in alone], axis=1)
        assert_parts(sum(alone), weight, expected, name)


def test_a_state_with_axes_of_its_own_of_which_one_is_read() -> None:
    """Its first axis stays that of the sequences, here one."""
    w, h, total = leaf(loops.inputs(1, 3, 3)), const(np.ones((1, 2, 3))), const(np.zeros(()))
    for t in range(3):
        h = mark(tg.tanh(h @ w), "h", time=t)
        total = total + (h[0] ** 2).sum()
    assert by_time(total, w, per_sample=True).shape == (3, 1, 3, 3)


def test_a_penalty_belongs_to_no_sequence() -> None:
    w = Weights()
    hs = loops.rnn_outside(w, 4, 2, 3)["h"]
    loss = sum(by_sequence(hs))
    weight = w.leaves["W", 0]
    without = by_time(loss, weight, per_sample=True)
    assert_close(by_time(loss + (weight * weight).sum(), weight, per_sample=True), without, 1e-13)
