"""``rescore``: a hypothesis's log-probability, recorded, and its gradient through time."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from models import CharLM
from tests.support import assert_close

DOUBLE: dict[str, Any] = {"dtype": "float64"}
Pair = namedtuple("Pair", "hidden memory")


def zeros(*shape: int) -> tg.Tensor:
    return tg.zeros(shape, dtype="float64")


def language_model(layers: int) -> tuple[CharLM, Any]:
    model = CharLM("abcde", hidden_size=6, num_layers=layers, rng=0, dtype="float64")
    return model, (zeros(layers, 1, 6), zeros(layers, 1, 6))


@pytest.mark.parametrize("layers", [1, 2])
def test_it_is_the_whole_sequence_at_once(layers: int) -> None:
    """Values, and the gradient by every state, against one call over the teacher-forced sequence."""
    model, state = language_model(layers)
    best = tg.decode.beam_search(model.step, state, 1, 3, 7, state_axis=1).best  # type: ignore[union-attr]
    each = tg.decode.rescore(model.step, state, 1, best.tokens, state_axis=1)
    assert each.dtype == np.float64
    assert each.sum().item() == pytest.approx(best.log_probability, abs=1e-10)
    logits, _ = model(np.array([1, *best.tokens[:-1]])[:, None])
    at_once = tg.log_softmax(logits, axis=-1)[np.arange(7), 0, np.array(best.tokens)]
    assert_close(each, at_once.numpy(), 1e-13)
    expected = tg.inspect.gradient_flow(at_once.sum())
    found = tg.inspect.gradient_flow(each.sum())
    assert list(found) == list(expected)
    for path, states in expected.items():
        for name, state_flow in states.items():
            actual = found[path][name]
            assert_close(actual.grad, state_flow.grad, 1e-12, f"{path} {name}", floor=1e-9)
            assert actual.initial_grad is not None
    path = list(expected)[-1]
    matrices = [tg.inspect.state_grad_matrix(list(x), path) for x in (each, at_once)]
    assert_close(*matrices, 1e-12, floor=1e-9)


def test_states_of_a_loop_of_ones_own_get_names() -> None:
    cell, head = tg.nn.LSTMCell(5, 4, rng=0, **DOUBLE), tg.nn.Linear(4, 5, rng=1, **DOUBLE)
    letters = tg.eye(5, dtype="float64")

    def of_pair(tokens: Any, state: Any) -> Any:
        h, c = cell(letters[tokens], tuple(state))
        return tg.log_softmax(head(h), axis=-1), type(state)(*(h, c)) if hasattr(
            state, "_fields"
        ) else (h, c)

    def of_dict(tokens: Any, state: Any) -> Any:
        h, c = cell(letters[tokens], (state["u"], state["v"]))
        return tg.log_softmax(head(h), axis=-1), {"u": h, "v": c}

    start = zeros(1, 4), zeros(1, 4)
    cases: list[tuple[Any, Any, list[str]]] = [
        (of_pair, start, ["h", "c"]),
        (of_pair, Pair(zeros(1, 4), zeros(1, 4)), ["hidden", "memory"]),
        (of_dict, {"u": zeros(1, 4), "v": zeros(1, 4)}, ["u", "v"]),
    ]
    flows = []
    for step, state, names in cases:
        flow = tg.inspect.gradient_flow(tg.decode.rescore(step, state, 0, [3, 1, 4]).sum())[""]
        assert list(flow) == names
        flows.append([flow[name].grad for name in names])
    for other in flows[1:]:
        for a, b in zip(other, flows[0], strict=True):
            assert_close(a, b, 1e-14)
    assert np.abs(flows[0][0]).min() > 0


def test_a_state_that_is_handed_on_in_another_shape_is_found() -> None:
    """The gradient is that of the state itself, not of the copy for the next step alone."""
    w, head = tg.tensor(np.eye(3) * 0.7, requires_grad=True), tg.nn.Linear(3, 4, rng=1, **DOUBLE)

    def step(tokens: Any, state: Any) -> Any:
        h = tg.tanh(state[0] @ w + tokens[:, None] * 0.1)
        return tg.log_softmax(head(h), axis=-1), tg.stack([h])

    flow = tg.inspect.gradient_flow(tg.decode.rescore(step, zeros(1, 1, 3), 1, [2, 0], 1).sum())
    assert np.abs(flow[""].h.grad[-1]).min() > 0  # the last state acts on the last token


def test_arrays_have_values_and_no_gradient() -> None:
    def step(tokens: Any, state: Any) -> Any:
        return np.log(np.tile([0.25, 0.75], (len(tokens), 1))), state

    each = tg.decode.rescore(step, None, 0, [1, 0])
    assert_close(each, np.log([0.75, 0.25]), 1e-15)
    assert not each.requires_grad


def test_wrong_calls() -> None:
    model, state = language_model(1)
    cases: list[tuple[Any, type[Exception], str]] = [
        ((model.step, state, 0, []), tg.ArgumentError, "no tokens"),
        (
            (model.step, state, 0, [7]),
            tg.ArgumentError,
            "token 7 at t = 0 is not in a vocabulary of 5",
        ),
        ((model.step, state, [0, 1], [1]), tg.TinygradError, "one"),
        ((3, state, 0, [1]), tg.ArgumentError, "no function"),
        ((lambda t, s: (np.zeros((1, 2)) + 1, s), None, 0, [1]), tg.DecodingError, "log_softmax"),
        ((lambda t, s: (np.full((1, 2), np.nan), s), None, 0, [1]), tg.DecodingError, "nan"),
    ]
    for (step, given, start, tokens), error, message in cases:
        with pytest.raises(error, match=message):
            tg.decode.rescore(step, given, start, tokens, state_axis=1)
