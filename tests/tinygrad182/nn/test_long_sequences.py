"""Sequences too long to be saved whole run in segments, which backward runs again."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, host_only


def make(kind: str, dtype: str = "float64") -> Any:
    layer: Any = tg.nn.LSTM if kind == "lstm" else tg.nn.RNN
    return layer(2, 4, rng=0, dtype=dtype)


def loss_in_segments(layer: Any, x: tg.Tensor, length: int, remat: bool) -> tg.Tensor:
    """A loss at every step, gathered segment by segment; the state goes on between them."""

    def segment(x: tg.Tensor, state: Any) -> tuple[tg.Tensor, Any]:
        output, state = layer(x, state)
        return (output**2).sum(), state

    run = tg.remat(segment) if remat else segment
    loss, state = tg.zeros((), dtype=x.dtype), None
    for start in range(0, x.shape[0], length):
        part, state = run(x[start : start + length], state)
        loss = loss + part
    return loss


def inputs(steps: int, dtype: str = "float64") -> tg.Tensor:
    return tg.tensor(np.random.default_rng(0).normal(size=(steps, 1, 2)), dtype=dtype)


@pytest.mark.parametrize("kind", ["tanh", "lstm"])
def test_segments_that_are_run_again_give_the_gradients_of_the_whole(kind: str) -> None:
    layer, x = make(kind), inputs(50)
    output, _ = layer(x)
    weights = list(layer.parameters())
    expected = tg.grad((output**2).sum(), weights)
    found = tg.grad(loss_in_segments(layer, x, 7, remat=True), weights)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b.numpy(), 1e-12)  # type: ignore[union-attr]


def peak(steps: int, length: int) -> int:
    layer, x = make("lstm", "float32"), inputs(steps, "float32")
    tracemalloc.start()
    loss_in_segments(layer, x, length, remat=True).backward()
    _, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return top


@host_only("tracemalloc sees the memory of the host alone")
def test_memory_grows_with_the_root_of_the_length() -> None:
    """25 times as many steps take about 5 times the memory, not 25 times."""
    peak(1_000, 31)  # imports, compiles
    lengths = 2_500, 62_500
    short, long = (peak(steps, math.isqrt(steps)) for steps in lengths)
    assert long / short < 8


def test_of_a_constant_one_view_is_kept() -> None:
    """A loop over a segment takes its steps one by one; saved values must not grow with them."""
    cell, x = tg.nn.RNNCell(2, 4, rng=0), tg.ones((200, 1, 2))

    def segment(h: tg.Tensor) -> tg.Tensor:
        for t in range(200):
            h = cell(x[t], h)
        return h

    h = tg.remat(segment)(tg.zeros((1, 4), requires_grad=True))
    (node,) = tg.inspect.trace(h.sum()).select(op="remat")
    assert len(node.inputs) < 8
