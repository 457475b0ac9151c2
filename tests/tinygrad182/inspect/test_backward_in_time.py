"""Loops from the end to the start, half of a bidirectional RNN: every view follows the computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles import loops
from tests.oracles.loops import Weights, mark
from tests.support import Array, assert_close, const

T, B, H = 5, 2, 3
inspect = tg.inspect
path_split, by_hops = map(loops.reading, (inspect.path_split, inspect.grad_by_hops))


def both_ways(loop: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[tg.Tensor, Weights]]:
    """One loop twice, its steps numbered from the start, and from the end: loss and weights."""
    runs = []
    for backward in (False, True):

        def renumbered(x: Any, name: str, t: int, backward: bool = backward) -> Any:
            return mark(x, name, T - 1 - t if backward and t >= 0 else t)

        monkeypatch.setattr(loops, "mark", renumbered)
        w = Weights()
        states = loops.LOOPS[loop](w, T, B, H)
        runs.append((loops.loss_of(list(states.values())[-1], "all"), w))
    return runs


@pytest.mark.parametrize("loop", loops.LOOPS)
def test_views_of_states(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (forward, _), (backward, _) = both_ways(loop, monkeypatch)
    assert_mirrored(forward, backward)


def assert_mirrored(forward: tg.Tensor, backward: tg.Tensor, path: str = "") -> None:
    """Check that the views of one loop are those of the other, in the opposite order."""
    splits = path_split(forward, ""), path_split(backward, path)
    assert list(splits[0]) == list(splits[1])
    for name in splits[0]:
        ahead, back = splits[0][name], splits[1][name]
        for part, array in ahead.parts.items():
            assert_close(back.parts[part][::-1], array, 1e-13, part)
        for through in splits[0]:
            hops = [
                by_hops(loss, 3, state=name, through=through, path=p)
                for loss, p in ((forward, ""), (backward, path))
            ]
            np.testing.assert_array_equal(hops[1].time, ahead.time)
            assert hops[0].grad[1].any()
            assert_close(hops[1].grad[:, ::-1], hops[0].grad, 1e-13, through)
            assert_close(hops[1].rest[::-1], hops[0].rest, 1e-13, through)


def test_views_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    (forward, _), (backward, _) = both_ways("rnn_outside", monkeypatch)
    ahead, back = inspect.step_jacobians(forward), inspect.step_jacobians(backward)
    assert np.linalg.norm(ahead.matrices, axis=(1, 2)).min() > 0.1
    np.testing.assert_array_equal(back.time, T - 1 - ahead.time)
    assert_close(back.matrices, ahead.matrices, 1e-13)
    assert_close(back.log_growth, ahead.log_growth, 1e-12)
    gains, mirrored = inspect.gain_split(forward), inspect.gain_split(backward)
    np.testing.assert_array_equal(mirrored.time, range(T))
    assert np.isfinite(gains.gain[1:]).all()
    assert_close(mirrored.saturation[::-1], gains.saturation, 1e-13)
    assert_close(mirrored.weight[::-1], gains.weight, 1e-13)


@pytest.mark.parametrize("loop", loops.LOOPS)
def test_weights_by_time(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (forward, w), (backward, v) = both_ways(loop, monkeypatch)
    for name in w.names():
        expected = inspect.weight_grad_by_time(forward, w.leaves[name, 0])
        found = inspect.weight_grad_by_time(backward, v.leaves[name, 0])
        assert_close(found[::-1], expected, 1e-13, name)


def test_a_state_that_is_handed_on() -> None:
    """Skipped steps share a node: their order is that of their marks."""
    w = Weights()
    h = const(np.ones((B, H)))
    for t in reversed(range(T)):
        if t % 2 == 0:
            h = tg.tanh(h @ w("W", 0, H, H) + 0.1)
        h = mark(h, "h", t)
    found = inspect.step_jacobians(h.sum())
    np.testing.assert_array_equal(found.time, [3, 2, 1, 0])
    for i in (0, 2):
        assert_close(found.matrices[i], np.eye(H), 0.0)
        assert (np.abs(found.matrices[i + 1] - np.eye(H)) > 1e-3).any()


def rnn(x: Array, w: Weights, name: str, times: Any) -> list[tg.Tensor]:
    h, hs = const(np.ones((B, H))), []
    for t in times:
        h = mark(tg.tanh(const(x[t]) + h @ w(name, 0, H, H)), "h", t)
        hs.append(h)
    return hs


def test_a_bidirectional_rnn() -> None:
    """Both halves in one graph: each view says of a half what it says of that half alone."""
    x = loops.inputs(0, T, B, H)
    w = Weights()
    ahead, back = rnn(x, w, "W", range(T)), rnn(x, w, "V", reversed(range(T)))
    loss = loops.loss_of(ahead, "all") + loops.loss_of(back, "all")
    twin = loops.loss_of(rnn(x[::-1], w, "V", range(T)), "all")
    assert list(inspect.gradient_flow(loss)) == ["", "#2"]
    assert_mirrored(twin, loss, "#2")
    assert_mirrored(loops.loss_of(rnn(x, w, "W", range(T)), "all"), flipped(x, w))
    for name, alone in (
        ("W", loops.loss_of(ahead, "all")),
        ("V", loops.loss_of(back, "all")),
    ):
        weight = w.leaves[name, 0]
        expected = inspect.weight_grad_by_time(alone, weight)
        assert_close(inspect.weight_grad_by_time(loss, weight), expected, 1e-13, name)
    matrices = inspect.step_jacobians(loss, "#2").matrices
    assert_close(matrices, inspect.step_jacobians(twin).matrices, 1e-13)


def flipped(x: Array, w: Weights) -> tg.Tensor:
    return loops.loss_of(rnn(x[::-1], w, "W", reversed(range(T))), "all")
