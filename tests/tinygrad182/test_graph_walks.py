"""Walks over a graph: they end at the requested nodes, and visit each node once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, leaf
from tinygrad182.arrays import backend
from tinygrad182.engine import backpropagation
from tinygrad182.engine.backpropagation import ancestors, backpropagate
from tinygrad182.transforms import derivatives, recomputing


def _walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which each walk over a graph appends its number of nodes."""
    walked: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        nodes = ancestors(*args, **kwargs)
        walked.append(len(nodes))
        return nodes

    for module in (backpropagation, derivatives, recomputing):
        monkeypatch.setattr(module, "ancestors", counting)
    return walked


def test_what_runs_again_is_walked_to_its_ends_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise T segments that use one result would each walk the whole graph before it."""
    older = leaf([1.0])
    u = x = leaf([0.5])
    for _ in range(50):
        u = u * 1.01
    y = tg.remat(lambda x: x * u * older * 2.0)(x)
    assert y._node is not None
    walked = _walked(monkeypatch)
    g = array(np.ones(1))
    primitive: Any = y._node.primitive
    xp, inputs = backend.namespace(g), [x.data, older.data, u.data]
    with backend.on(g):
        primitive.forward(xp, *inputs)
        primitive.vjp(xp, g, y.data, *inputs)
        primitive.jvp(xp, (g, g, g), y.data, *inputs)
    assert len(walked) == 3
    assert max(walked) < 10


def test_the_walk_to_chosen_ends_leaves_out_what_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    walked = _walked(monkeypatch)
    u = leaf([0.5])
    for _ in range(50):
        u = u * 1.01
    h = leaf([2.0]) * 1
    y = h * u
    assert h._node is not None
    assert y._node is not None
    backpropagate([(y._node, array(np.ones(1)))], {h._node}, stop=True)
    assert max(walked) < 10


def test_what_is_used_twice_is_walked_once() -> None:
    """2⁶⁰ paths lead through this graph."""

    def doubled(x: tg.Tensor) -> tg.Tensor:
        for _ in range(60):
            x = x + x
        return x

    x = leaf([1.0])
    tg.remat(doubled)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0**60]
    assert tg.jvp(doubled, x, np.ones(1))[1].tolist() == [2.0**60]  # type: ignore[union-attr]
