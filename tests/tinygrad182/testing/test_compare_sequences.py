"""``compare_cells`` with ``sequence=True``: a student's own loop over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import device

from . import students

X = np.random.default_rng(1).normal(size=(4, 2, 3))


def reference(kind: str) -> Any:
    return getattr(tg.nn, kind)(3, 4, rng=0, device=device())


class Layer(tg.nn.Module):
    """An LSTM with its own loop over time; each argument replaces one part of it."""

    def __init__(self, other: str = "") -> None:
        self.weight_ih = tg.nn.Parameter(tg.zeros((16, 3), device=device()))
        self.weight_hh = tg.nn.Parameter(tg.zeros((16, 4), device=device()))
        self.bias = tg.nn.Parameter(tg.zeros((16,), device=device()))
        self.other = other

    def forward(self, x: Any, state: Any) -> Any:
        other, steps, (h, c) = self.other, x.shape[0], state
        if other == "initial state left out":
            h, c = tg.zeros(h.shape, device=device()), tg.zeros(c.shape, device=device())
        first, before, hs, cs = (h, c), [], [], []
        for t in range(steps):
            x_t = x[{"same input at every step": 0, "time reversed": steps - 1 - t}.get(other, t)]
            before.append(h)
            if other == "state not carried on":
                h, c = first
            if other == "c not carried on":
                c = first[1]
            if other == "gradient cut between steps":
                h, c = h.detach(), c.detach()
            step = students.h_instead_of_c if other == "h instead of c" else students.lstm
            h, c = step(x_t, h, c, self.weight_ih, self.weight_hh, self.bias)
            hs.append(h)
            cs.append(c)
        if other == "output before the step":
            hs = before
        if other == "outputs in reverse order":
            hs = hs[::-1]
        if other == "not the last state":
            h, c = hs[0], cs[0]
        if other == "states of all steps":
            return tg.stack(hs), tg.stack(cs)
        if other == "lists":
            return hs, cs
        return (hs, h, c) if other == "three" else (tg.stack(hs), (h, c))


@pytest.mark.parametrize("style", ["", "states of all steps", "lists", "three"])
def test_a_right_layer_passes_whatever_it_returns(style: str) -> None:
    for x in (X, X[:1], X[:, :1]):
        for kind in ("LSTM", "LSTMCell"):
            comparison = tg.testing.compare_cells(Layer(style), reference(kind), x, sequence=True)
            assert comparison, comparison


def test_our_layer_and_a_layer_around_our_cell() -> None:
    class Around(tg.nn.Module):
        def __init__(self) -> None:
            self.cell = reference("LSTMCell")

        def forward(self, x: Any, state: Any) -> Any:
            found = []
            for x_t in x:
                state = self.cell(x_t, state)
                found.append(state[0])
            return tg.stack(found), state

    for mine in (Around(), reference("LSTM")):
        assert tg.testing.compare_cells(mine, reference("LSTM"), X, sequence=True)


@pytest.mark.parametrize(
    "name",
    [
        "state not carried on",
        "c not carried on",
        "initial state left out",
        "same input at every step",
        "time reversed",
        "output before the step",
        "outputs in reverse order",
        "not the last state",
        "gradient cut between steps",
        "h instead of c",
    ],
)
def test_a_mistake_in_a_loop_is_named(name: str) -> None:
    comparison = tg.testing.compare_cells(Layer(name), reference("LSTM"), X, sequence=True)
    assert not comparison
    assert [mistake.name for mistake in comparison.mistakes] == [name]


def test_a_mistake_is_named_by_its_values_if_the_gradient_differs() -> None:
    def cut(xs: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        return [students.rnn(x, h.detach(), W_ih, W_hh, b) for x in xs]

    comparison = tg.testing.compare_cells(cut, reference("RNN"), X, sequence=True)
    assert comparison.first is not None
    assert comparison.first.phase == "backward", "at the first step"

    def moved(xs: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        found = [students.rnn(xs[0], h, W_ih, W_hh, b)]
        return [*found, *(students.rnn(x, h.detach(), W_ih, W_hh, b) for x in xs[1:])]

    comparison = tg.testing.compare_cells(moved, reference("RNN"), X, sequence=True)
    assert comparison.mistake == "state not carried on"


def test_the_first_step_at_which_a_loop_differs_is_named() -> None:
    comparison = tg.testing.compare_cells(
        Layer("state not carried on"), reference("LSTM"), X, sequence=True
    )
    first = comparison.first
    assert first is not None
    assert (first.phase, first.name, first.step) == ("forward", "output", 1)
    assert repr(comparison).startswith("different: forward, output, step 1, sequence ")


def test_a_function_that_returns_its_outputs_alone() -> None:
    def rnn(xs: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        found = []
        for x in xs:
            h = students.rnn(x, h, W_ih, W_hh, b)
            found.append(h)
        return tg.stack(found)

    def forgetful(xs: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        return [students.rnn(x, h, W_ih, W_hh, b) for x in xs]

    assert tg.testing.compare_cells(rnn, reference("RNN"), X, sequence=True)
    comparison = tg.testing.compare_cells(forgetful, reference("RNN"), X, sequence=True)
    assert comparison.mistake == "state not carried on"


def test_an_error_says_what_a_layer_must_return() -> None:
    def outputs(xs: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        return tg.stack([students.lstm(x, h, c, W_ih, W_hh, b)[0] for x in xs])

    with pytest.raises(
        tg.ArgumentError, match=r"return \(output, \(h, c\)\), with output of shape"
    ):
        tg.testing.compare_cells(outputs, reference("LSTM"), X, sequence=True)
    with pytest.raises(tg.ShapeError, match="pass sequence=True"):
        tg.testing.compare_cells(Layer(), reference("LSTM"), X)
