"""``lengths=`` against PyTorch's packed sequences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.torch_layers import (
    TOLERANCE,
    assert_equal_gradients,
    flat,
    host,
    initial_states,
    layers_of,
    pair,
    twins,
)
from tests.support import assert_close, const, draw, needs_torch

torch = needs_torch()


def check(kind: str, lengths: list[int], T: int, layers: int, start: bool, **options: Any) -> None:
    """Outputs inside the lengths, last states, and the gradients of everything.

    The loss reads the padding too: PyTorch has 0 there and we the last state, both as constants.
    """
    B = len(lengths)
    mine, other = layers_of(kind)
    ours, theirs = twins(
        mine(2, 4, layers, rng=3, dtype="float64", **options), other(2, 4, layers, **options)
    )
    batch_first = options.get("batch_first", False)
    directions = 2 if options.get("bidirectional") else 1
    inside = (np.arange(T)[:, None] < np.array(lengths))[..., None]
    x, a, b = draw(T, (T, B, 2), (T, B, 4 * directions), (layers * directions, B, 4))
    if batch_first:
        x, a, inside = (v.swapaxes(0, 1) for v in (x, a, inside))
    x_1, x_2 = pair(x)
    state_1, state_2, leaves = initial_states(kind, 9, layers * directions, B, 4)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x_2, torch.tensor(lengths), batch_first, enforce_sorted=False
    )
    output_1, last_1 = ours(x_1, state_1 if start else None, lengths)
    output_2, last_2 = theirs(packed, state_2 if start else None)
    output_2, _ = torch.nn.utils.rnn.pad_packed_sequence(output_2, batch_first, total_length=T)
    assert_close(output_1.numpy() * inside, host(output_2), TOLERANCE, "output")
    for name, h_1, h_2 in zip("hc", flat(last_1), flat(last_2), strict=False):
        assert_close(h_1, host(h_2), TOLERANCE, f"{name}_n")
    terms = [(const(b) * h**2).sum() for h in flat(last_1)]
    sum(terms, (const(a) * output_1**2).sum()).backward()
    terms = [(torch.tensor(b) * h**2).sum() for h in flat(last_2)]
    sum(terms, (torch.tensor(a) * output_2**2).sum()).backward()
    assert_equal_gradients(ours, theirs, dense=start or max(lengths) > 1)
    for name, (ours_, theirs_) in zip(
        "xhc", [(x_1, x_2), *(leaves if start else [])], strict=False
    ):
        assert_close(ours_.grad, theirs_.grad.numpy(), TOLERANCE, name)
    assert (x_1.grad.numpy()[~np.broadcast_to(inside, x.shape)] == 0.0).all()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_layers(kind: str, layers: int, batch_first: bool, start: bool, both: bool) -> None:
    options = {"batch_first": batch_first, "bidirectional": both}
    check(kind, [3, 8, 1, 5, 8], 8, layers, start, **options)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("options", [{"bias": False}, {}, {"bidirectional": True}])
def test_no_sequence_reaches_the_last_step(kind: str, options: dict[str, Any]) -> None:
    check(kind, [2, 6, 4], 9, 2, True, **options)


def test_relu() -> None:
    check("RNN", [3, 6, 1], 6, 2, True, nonlinearity="relu")


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_many_steps(kind: str) -> None:
    check(kind, [300, 17, 211], 300, 1, True)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
def test_any_lengths(kind: str, lengths: list[int], more: int, start: bool, both: bool) -> None:
    check(kind, lengths, max(lengths) + more, 2, start, bidirectional=both)
