"""GRU and GRUCell against PyTorch in float64: values, gradients, lengths, state dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, needs_torch
from tests.tinygrad182.nn import test_lengths_against_torch as with_lengths
from tests.tinygrad182.nn.test_lstm_against_torch import check
from tests.tinygrad182.nn.twins import (
    TOLERANCE,
    arrays,
    assert_equal_gradients,
    assert_equal_results,
    backward,
    host,
    initial_states,
    pair,
    twins,
)

torch = needs_torch()
sides = st.integers(1, 5)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("start", [True, False])
def test_gru(layers: int, bias: bool, batch_first: bool, start: bool) -> None:
    check("GRU", (7, 3, 2, 5), layers, start, bias=bias, batch_first=batch_first)


@given(st.tuples(sides, sides, sides, sides), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_gru_of_any_size(
    sizes: tuple[int, int, int, int], layers: int, start: bool, seed: int
) -> None:
    check("GRU", sizes, layers, start, seed)


@pytest.mark.parametrize("layers", [1, 2])
def test_gru_over_many_steps(layers: int) -> None:
    check("GRU", (300, 2, 3, 8), layers)


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_one_sequence_without_a_batch_axis(start: bool, batch_first: bool) -> None:
    check("GRU", (6, None, 2, 3), 2, start, batch_first=batch_first)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_lengths(layers: int, batch_first: bool, start: bool, bias: bool) -> None:
    options = {"batch_first": batch_first, "bias": bias}
    with_lengths.check("GRU", [3, 8, 1, 5, 8], 9, layers, start, **options)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2), st.booleans())
def test_any_lengths(lengths: list[int], more: int, start: bool) -> None:
    with_lengths.check("GRU", lengths, max(lengths) + more, 2, start)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(4,), ()])
@pytest.mark.parametrize("start", [True, False])
def test_cells(bias: bool, batch: tuple[int, ...], start: bool) -> None:
    ours, theirs = twins(
        tg.nn.GRUCell(2, 3, bias, rng=0, dtype="float64"), torch.nn.GRUCell(2, 3, bias)
    )
    x_1, x_2 = pair(arrays(0, (*batch, 2))[0])
    state_1, state_2, leaves = initial_states("GRUCell", 0, *batch, 3)
    next_1 = ours(x_1, state_1) if start else ours(x_1)
    next_2 = theirs(x_2, state_2) if start else theirs(x_2)
    assert_equal_results(next_1, next_2)
    backward(next_1, next_2, 0)
    if start:
        assert_equal_gradients(ours, theirs)
        for name, (a, b) in zip("xh", [(x_1, x_2), *leaves], strict=True):
            assert_close(a.grad, b.grad.numpy(), TOLERANCE, name)


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
    (x,) = arrays(3, (4, 2) if kind == "GRUCell" else (5, 4, 2))
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
    x, a = arrays(7, (T, 3, 2), (T, 3, 4))
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
