"""LSTM, GRU and their cells, and sequences without a batch axis, against PyTorch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles.torch_layers import (
    TOLERANCE,
    assert_equal_gradients,
    assert_equal_results,
    backward,
    host,
    initial_states,
    layers_of,
    pair,
    twins,
)
from tests.support import assert_close, assert_same_bits, const, draw, needs_torch

torch = needs_torch()
sides = st.integers(1, 5)


def check(
    kind: str,
    sizes: tuple[int, int | None, int, int],
    layers: int = 1,
    start: bool = True,
    seed: int = 0,
    **options: Any,
) -> None:
    """Outputs, last states and all gradients; B None is one sequence without a batch axis."""
    T, B, I, H = sizes  # noqa: E741
    mine, other = layers_of(kind)
    ours, theirs = twins(
        mine(I, H, layers, rng=seed, dtype="float64", **options), other(I, H, layers, **options)
    )
    batch = [] if B is None else [B]
    leading = [*batch, T] if options.get("batch_first") else [T, *batch]
    x_1, x_2 = pair(draw(seed, (*leading, I))[0])
    directions = 2 if options.get("bidirectional") else 1
    state_1, state_2, leaves = initial_states(kind, seed, directions * layers, *batch, H)
    results_1 = ours(x_1, state_1) if start else ours(x_1)
    results_2 = theirs(x_2, state_2) if start else theirs(x_2)
    assert_equal_results(results_1, results_2)
    backward(results_1, results_2, seed)
    dense = (start or T > 1) and options.get("dropout") != 1.0
    assert_equal_gradients(ours, theirs, dense=dense)
    for name, (a, b) in zip("xhc", [(x_1, x_2), *(leaves if start else [])], strict=False):
        assert_close(a.grad, b.grad.numpy(), TOLERANCE, name)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("start", [True, False])
def test_layers(kind: str, layers: int, bias: bool, batch_first: bool, start: bool) -> None:
    check(kind, (7, 3, 2, 5), layers, start, bias=bias, batch_first=batch_first)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_both_directions(kind: str, layers: int, bias: bool, batch_first: bool) -> None:
    check(kind, (7, 3, 2, 5), layers, bias=bias, batch_first=batch_first, bidirectional=True)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@given(
    st.tuples(sides, sides, sides, sides),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_size(
    kind: str,
    sizes: tuple[int, int, int, int],
    layers: int,
    start: bool,
    both: bool,
    seed: int,
) -> None:
    check(kind, sizes, layers, start, seed, bidirectional=both)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2])
def test_many_steps(kind: str, layers: int) -> None:
    check(kind, (300, 2, 3, 8), layers)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_one_sequence_without_a_batch_axis(
    kind: str, layers: int, start: bool, batch_first: bool, both: bool
) -> None:
    options = {"batch_first": batch_first, "bidirectional": both}
    check(kind, (6, None, 2, 3), layers, start, **options)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_dropout_that_leaves_nothing_between_layers(kind: str) -> None:
    """At a rate of 1 nothing is left to chance: the second layer reads zeros."""
    check(kind, (5, 3, 2, 4), 2, dropout=1.0, bidirectional=True)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(4,), ()])
@pytest.mark.parametrize("start", [True, False])
def test_cells(kind: str, bias: bool, batch: tuple[int, ...], start: bool) -> None:
    mine, other = layers_of(kind)
    ours, theirs = twins(mine(2, 3, bias, rng=0, dtype="float64"), other(2, 3, bias))
    x_1, x_2 = pair(draw(0, (*batch, 2))[0])
    state_1, state_2, leaves = initial_states(kind, 0, *batch, 3)
    next_1 = ours(x_1, state_1) if start else ours(x_1)
    next_2 = theirs(x_2, state_2) if start else theirs(x_2)
    assert_equal_results(next_1, next_2)
    backward(next_1, next_2, 0)
    if start:
        assert_equal_gradients(ours, theirs)
        for name, (a, b) in zip("xhc", [(x_1, x_2), *leaves], strict=False):
            assert_close(a.grad, b.grad.numpy(), TOLERANCE, name)


# --- state dicts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "both"),
    [
        ("RNN", False),
        ("LSTM", False),
        ("RNN", True),
        ("LSTM", True),
        ("RNNCell", None),
        ("LSTMCell", None),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_go_both_ways(kind: str, both: bool | None, bias: bool) -> None:
    """Strictly, in the same order, with PyTorch's own two biases, of which neither is 0."""
    mine, other = layers_of(kind)
    size = (2, 3) if both is None else (2, 3, 2)
    options = {"bias": bias} if both is None else {"bias": bias, "bidirectional": both}
    theirs, back = (other(*size, **options).double() for _ in range(2))
    ours = mine(*size, **options, rng=1, dtype="float64")
    state = theirs.state_dict()
    ours.load_state_dict(state, strict=True)
    assert list(ours.state_dict()) == list(state)
    for name, p in ours.named_parameters():
        expected = state[name]
        if "bias" in name:
            second = state[name.replace("_ih", "_hh")]
            assert bool((second != 0).all() and (expected != 0).all())
            expected = expected + second
        assert_same_bits(p, expected.numpy(), name)
    back.load_state_dict({n: torch.tensor(v.numpy()) for n, v in ours.state_dict().items()})
    (x,) = draw(3, (4, 2) if "Cell" in kind else (5, 4, 2))
    with torch.no_grad():
        expected = theirs(torch.tensor(x))
        assert_equal_results(ours(const(x)), expected, 1e-14)
        assert_equal_results(back(torch.tensor(x)), expected, 1e-14)


# --- what the inspector reads -------------------------------------------------------------------


class Model(tg.nn.Module):
    def __init__(self, layers: int) -> None:
        self.rnn = tg.nn.LSTM(2, 4, layers, rng=2, dtype="float64")

    def forward(self, x: tg.Tensor, state: Any) -> tg.Tensor:
        return self.rnn(x, state)[0]


def torch_loop(cells: list[Any], x: Any, state: Any) -> dict[str, list[list[Any]]]:
    """h and c of every layer and step, each keeping its gradient."""
    found: dict[str, list[list[Any]]] = {"h": [[] for _ in cells], "c": [[] for _ in cells]}
    for x_t in x:
        for k, cell in enumerate(cells):
            before = [
                found[n][k][-1] if found[n][k] else s[k] for n, s in zip("hc", state, strict=True)
            ]
            for name, value in zip("hc", cell(x_t, tuple(before)), strict=True):
                value.retain_grad()
                found[name][k].append(value)
            x_t = found["h"][k][-1]
    return found


@pytest.mark.parametrize(("T", "layers", "last_only"), [(12, 2, False), (300, 1, True)])
def test_gradients_of_the_states_of_every_layer_and_step(
    T: int, layers: int, last_only: bool
) -> None:
    """Against ``retain_grad`` on what PyTorch's cells return; each step on its own scale."""
    model = Model(layers)
    cells = [torch.nn.LSTMCell(2 if k == 0 else 4, 4).double() for k in range(layers)]
    for k, cell in enumerate(cells):
        own = {n: v for n, v in model.rnn.state_dict().items() if n.endswith(f"_l{k}")}
        cell.load_state_dict({n.removesuffix(f"_l{k}"): torch.tensor(own[n].numpy()) for n in own})
    x, a = draw(7, (T, 3, 2), (T, 3, 4))
    a[: -1 if last_only else 0] = 0.0
    state_1, state_2, leaves = initial_states("LSTM", 7, layers, 3, 4)
    found = torch_loop(cells, torch.tensor(x), state_2)
    (torch.tensor(a) * torch.stack(found["h"][-1]) ** 2).sum().backward()
    flow = tg.inspect.gradient_flow((const(a) * model(const(x), state_1) ** 2).sum())
    assert list(flow) == [f"rnn.l{k}" for k in range(layers)]
    for k, stack in enumerate(flow.values()):
        assert set(stack) == {"h", "c"}
        for name, (_, start) in zip("hc", leaves, strict=True):
            states = found[name][k]
            assert_close(stack[name].value, np.stack([host(s) for s in states]), 1e-13)
            assert_close(stack[name].initial_grad, start.grad[k].numpy(), 1e-11, f"{name}_0")
            for t, s in enumerate(states):  # c of the last layer at T − 1 has one too, through h
                assert_close(stack[name].grad[t], s.grad.numpy(), 1e-11, f"{name}, l{k}, t = {t}")
    if last_only:
        assert flow["rnn.l0"].h.grad_norm[0] < 1e-30
