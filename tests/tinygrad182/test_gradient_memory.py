"""Gradients have memory of their own: the copies and in-place sums of the backward pass."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, leaf, share_memory
from tinygrad182.arrays import backend
from tinygrad182.engine.backpropagation import Cotangents


def _copies(monkeypatch: pytest.MonkeyPatch, y: tg.Tensor) -> int:
    made = []
    copy = backend.copy
    monkeypatch.setattr(backend, "copy", lambda x: made.append(x) or copy(x))
    y.backward(array(np.ones(y.shape)))
    monkeypatch.undo()
    return len(made)


def test_a_gradient_that_shares_memory_is_copied_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = leaf([1.0, 2.0])
    assert _copies(monkeypatch, x + 1) == 1  # the cotangent of the output itself
    assert _copies(monkeypatch, x * x) == 0  # a sum of two edges, in a buffer of its own
    x.grad = None
    assert _copies(monkeypatch, x * x) == 0
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 4.0]


def test_three_contributions_are_added_into_one_buffer() -> None:
    x = leaf([1.0, 2.0])
    assert x._node is not None
    sums = Cotangents()
    for g in ([1.0, 1.0], [2.0, 2.0], [4.0, 4.0]):
        sums.add(x._node, array(g))
        if g[0] == 2.0:
            assert sums.owns(x._node)
            buffer = sums._sums[x._node]
    assert sums.pop(x._node) is buffer
    assert buffer.tolist() == [7.0, 7.0]
    assert sums.pop(x._node) is None


def test_a_gradient_is_never_the_cotangent_it_was_started_from() -> None:
    x = tg.ones(2, requires_grad=True)
    g = tg.ones(2, requires_grad=True)
    x.backward(g, create_graph=True)
    assert x.grad is not g
    assert x.grad is not None
    assert not share_memory(x.grad, g)
