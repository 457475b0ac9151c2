"""Features of the GRU alone against PyTorch in float64: two biases, and the states of its cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles.torch_layers import (
    assert_equal_results,
    host,
    initial_states,
)
from tests.support import assert_close, assert_same_bits, const, draw, needs_torch
from tests.tinygrad182.nn import test_lengths_against_torch as with_lengths

torch = needs_torch()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_lengths(layers: int, batch_first: bool, start: bool, bias: bool) -> None:
    options = {"batch_first": batch_first, "bias": bias}
    with_lengths.check("GRU", [3, 8, 1, 5, 8], 9, layers, start, **options)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_go_both_ways(kind: str, bias: bool) -> None:
    """Strictly, in the same order, bit by bit: no bias is added to another."""
    mine, other = getattr(tg.nn, kind), getattr(torch.nn, kind)
    size = (2, 3) if kind == "GRUCell" else (2, 3, 2)
    theirs, back = (other(*size, bias=bias).double() for _ in range(2))
    ours = mine(*size, bias=bias, rng=1, dtype="float64")
    state = theirs.state_dict()
    ours.load_state_dict(state, strict=True)
    assert list(ours.state_dict()) == list(state) == [name for name, _ in ours.named_parameters()]
    for name, p in ours.named_parameters():
        assert_same_bits(p, state[name].numpy(), name)
    back.load_state_dict({n: torch.tensor(v.numpy()) for n, v in ours.state_dict().items()})
    (x,) = draw(3, (4, 2) if kind == "GRUCell" else (5, 4, 2))
    with torch.no_grad():
        expected = theirs(torch.tensor(x))
        assert_equal_results(ours(const(x)), expected, 1e-14)
        assert_equal_results(back(torch.tensor(x)), expected, 1e-14)


@pytest.mark.parametrize(("T", "layers", "last_only"), [(12, 2, False), (300, 1, True)])
def test_gradients_of_the_states_of_every_layer_and_step(
    T: int, layers: int, last_only: bool
) -> None:
    """Against ``retain_grad`` on what PyTorch's cells return; each step on its own scale."""
    gru = tg.nn.GRU(2, 4, layers, rng=2, dtype="float64")
    cells = [torch.nn.GRUCell(2 if k == 0 else 4, 4).double() for k in range(layers)]
    for k, cell in enumerate(cells):
        own = {n: v for n, v in gru.state_dict().items() if n.endswith(f"_l{k}")}
        cell.load_state_dict({n.removesuffix(f"_l{k}"): torch.tensor(own[n].numpy()) for n in own})
    x, a = draw(7, (T, 3, 2), (T, 3, 4))
    a[: -1 if last_only else 0] = 0.0
    state_1, state_2, ((_, start),) = initial_states("GRU", 7, layers, 3, 4)
    states: list[list[Any]] = [[] for _ in cells]
    for x_t in torch.tensor(x):
        for k, cell in enumerate(cells):
            x_t = cell(x_t, states[k][-1] if states[k] else state_2[k])
            x_t.retain_grad()
            states[k].append(x_t)
    (torch.tensor(a) * torch.stack(states[-1]) ** 2).sum().backward()
    flow = tg.inspect.gradient_flow((const(a) * gru(const(x), state_1)[0] ** 2).sum())
    assert list(flow) == [f"gru.l{k}" for k in range(layers)]
    for k, stack in enumerate(flow.values()):
        assert_close(stack.h.value, np.stack([host(s) for s in states[k]]), 1e-13)
        assert_close(stack.h.initial_grad, start.grad[k].numpy(), 1e-11, "h_0")
        for t, s in enumerate(states[k]):
            assert_close(stack.h.grad[t], s.grad.numpy(), 1e-11, f"l{k}, t = {t}")
    if last_only:
        assert flow["gru.l0"].h.grad_norm[0] < 1e-12
