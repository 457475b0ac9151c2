"""Freed graphs: the values that backward frees and keeps, and the error of a second pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import (
    assert_close,
    assert_same_bits,
    const,
    host,
    leaf,
)


def test_grad_frees_the_graph_unless_requested_otherwise() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    tg.grad(y, x, retain_graph=True)
    tg.grad(y, x)
    with pytest.raises(tg.FreedGraphError):
        tg.grad(y, x)


def test_a_trace_shows_what_it_showed_after_a_pass_that_frees() -> None:
    x, w = leaf([[1.0, 2.0]]), leaf([[3.0], [4.0]])
    loss = tg.tanh(x @ w * 0.1).sum()
    graph = tg.inspect.trace(loss)
    before = [(n.op, host(n.value), host(n.grad), [i.op for i in n.inputs]) for n in graph]
    loss.backward()
    after = [(n.op, host(n.value), host(n.grad), [i.op for i in n.inputs]) for n in graph]
    assert repr(before) == repr(after)


def _grad_of(x: tg.Tensor) -> Any:
    assert x.grad is not None
    return x.grad.numpy()


def test_a_second_backward_says_what_to_do() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(tg.FreedGraphError, match=r"sum was freed .* retain_graph=True"):
        y.backward()
    assert_same_bits(_grad_of(x), [2.0, 4.0])  # nothing was added


def test_retain_graph_keeps_it() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x * x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert_same_bits(_grad_of(x), np.array([3.0, 12.0]) * 3)
    with pytest.raises(tg.FreedGraphError):
        y.backward()


def test_two_losses_over_one_trunk() -> None:
    x = leaf([1.0, 2.0])
    trunk = tg.exp(x)
    a, b = (trunk * 2).sum(), (trunk * trunk).sum()
    a.backward(retain_graph=True)
    b.backward()
    assert_close(x.grad, 2 * np.exp(x.numpy()) + 2 * np.exp(2 * x.numpy()), 1e-15)

    trunk = tg.exp(x)
    a, b = (trunk * 2).sum(), (trunk * trunk).sum()
    a.backward()
    with pytest.raises(tg.FreedGraphError, match="the graph through exp was freed"):
        b.backward()


def test_several_losses_in_one_pass() -> None:
    x = leaf([1.0, 2.0])
    trunk = tg.exp(x)
    (g,) = tg.grad([(trunk * 2).sum(), trunk], x, [None, const([1.0, 10.0])])
    assert_close(g, np.exp(x.numpy()) * [3.0, 12.0], 1e-15)


def test_pruning_leaves_the_trunk_below_unfreed() -> None:
    x = leaf([1.0, 2.0])
    h = tg.exp(x)
    y = (h * h).sum()
    (dh,) = tg.grad(y, h)
    assert_close(dh, 2 * h.numpy(), 1e-15)
    h.sum().backward()  # exp(x) was not passed, so it is there
    assert_close(x.grad, np.exp(x.numpy()), 1e-15)


def test_rules_off_the_way_do_not_run() -> None:
    """Only rules between the output and the input run: an inf elsewhere has no effect."""
    x, w = leaf([1.0]), leaf([0.0])
    y = (x * 2 + tg.sqrt(w)).sum()
    with np.errstate(all="raise"):
        (dx,) = tg.grad(y, x)
    assert dx is not None
    assert dx.tolist() == [2.0]


def test_unused_outputs() -> None:
    x = leaf(np.arange(6.0).reshape(3, 2))
    _, middle, _ = tg.unstack(x)
    _unused = middle * 7
    (middle * middle).sum().backward()
    assert _grad_of(x).tolist() == [[0.0, 0.0], [4.0, 6.0], [0.0, 0.0]]
