"""``rescore``: a hypothesis's log-probability, recorded, and its gradient through time."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from models import CharLM
from tests.support import array, assert_close, host, in_numpy, leaf

DOUBLE: dict[str, Any] = {"dtype": "float64"}
Pair = namedtuple("Pair", "hidden memory")


def zeros(*shape: int) -> tg.Tensor:
    return tg.zeros(shape, dtype="float64")


def language_model(layers: int) -> tuple[CharLM, Any]:
    model = CharLM("abcde", hidden_size=6, num_layers=layers, rng=0, dtype="float64")
    return model, (zeros(layers, 1, 6), zeros(layers, 1, 6))


@pytest.mark.parametrize("layers", [1, 2])
def test_it_is_the_whole_sequence_at_once(layers: int) -> None:
    """Compare values, and gradients by every state, with one call over the teacher-forced sequence."""
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


def test_states_of_a_loop_of_your_own_get_names() -> None:
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
    assert np.abs(host(flows[0][0])).min() > 0


def test_a_state_that_is_handed_on_in_another_shape_is_found() -> None:
    """The gradient is that of the state itself, not of the copy for the next step alone."""
    w, head = leaf(np.eye(3) * 0.7), tg.nn.Linear(3, 4, rng=1, **DOUBLE)

    def step(tokens: Any, state: Any) -> Any:
        h = tg.tanh(state[0] @ w + tokens[:, None] * 0.1)
        return tg.log_softmax(head(h), axis=-1), tg.stack([h])

    flow = tg.inspect.gradient_flow(tg.decode.rescore(step, zeros(1, 1, 3), 1, [2, 0], 1).sum())
    assert np.abs(host(flow[""].h.grad)[-1]).min() > 0  # the last state acts on the last token


def test_arrays_have_values_and_no_gradient() -> None:
    @in_numpy
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
        ((3, state, 0, [1]), tg.ArgumentError, "step is a int; pass a function"),
        (
            (lambda t, s: (array([[1.0, 1.0]]), s), None, 0, [1]),
            tg.DecodingError,
            "token 1 .*log_softmax",
        ),
        (
            (lambda t, s: (array([[np.nan] * 2]), s), None, 0, [1]),
            tg.DecodingError,
            "token 1 .* NaN",
        ),
    ]
    for (step, given, start, tokens), error, message in cases:
        with pytest.raises(error, match=message):
            tg.decode.rescore(step, given, start, tokens, state_axis=1)


# --- states of all kinds, against the same loop with its states named by hand --------------------

_RNG = np.random.default_rng(0)
X, U, V, HEAD = (
    leaf(0.5 * _RNG.standard_normal(shape)) for shape in [(5, 4), (4, 4), (4, 4), (4, 5)]
)
TOKENS = [3, 1, 4, 0]


def two_layers(tokens: Any, h: tg.Tensor, above: tg.Tensor) -> tuple[tg.Tensor, ...]:
    h = tg.tanh(X[tokens] + h @ U)
    above = tg.tanh(h @ V + above @ U)
    return tg.log_softmax(above @ HEAD, axis=-1), h, above


def by_hand() -> list[Any]:
    """∂ log p / ∂h_t of both layers."""
    h, above, found = zeros(1, 4), zeros(1, 4), []
    for t, (last, token) in enumerate(zip([0, *TOKENS], TOKENS, strict=False)):
        values, h, above = two_layers(np.array([last]), h, above)
        tg.inspect.mark(h, "below", time=t)
        tg.inspect.mark(above, "above", time=t)
        found.append(values[0, token])
    flow = tg.inspect.gradient_flow(tg.stack(found).sum())[""]
    return [flow["below"].grad, flow["above"].grad]


def in_tuple(tokens: Any, state: Any) -> Any:
    values, *states = two_layers(tokens, *state)
    return values, tuple(states)


def stacked(tokens: Any, state: Any) -> Any:
    values, *states = two_layers(tokens, state[0], state[1])
    return values, tg.stack(states)


def reshaped(tokens: Any, state: Any) -> Any:
    values, *states = two_layers(tokens, state[0], state[1])
    return values, tg.stack([h.reshape((1, 4)) for h in states])


def beside_what_is_no_state(tokens: Any, state: Any) -> Any:
    values, h, above = two_layers(tokens, state["h"], state["above"])
    values = values - (state["encoder"] @ U[:2, :2] * X[:1, :2]).sum() ** 2
    rest = {"n": state["n"] + 1, "encoder": state["encoder"], "no": None}
    return values, {"h": h, "above": above, **rest}


@pytest.mark.parametrize(
    ("step", "state", "axis", "names"),
    [
        (in_tuple, (zeros(1, 4), zeros(1, 4)), 0, [("0", "h"), ("1", "h")]),
        (stacked, zeros(2, 1, 4), 1, [("l0", "h"), ("l1", "h")]),
        (reshaped, zeros(2, 1, 4), 1, [("l0", "h"), ("l1", "h")]),
        (
            beside_what_is_no_state,
            {"h": zeros(1, 4), "above": zeros(1, 4), "n": array([[0.0]])}
            | {"encoder": zeros(1, 2), "no": None},
            0,
            [("", "h"), ("", "above")],
        ),
    ],
)
def test_every_state_is_found_under_a_name_of_its_own(
    step: Any, state: Any, axis: int, names: list[tuple[str, str]]
) -> None:
    flow = tg.inspect.gradient_flow(tg.decode.rescore(step, state, 0, TOKENS, axis).sum())
    assert [(path, name) for path, states in flow.items() for name in states] == names
    for (path, name), expected in zip(names, by_hand(), strict=True):
        assert flow[path][name].time.tolist() == [0, 1, 2, 3]
        assert_close(flow[path][name].grad, expected, 1e-12, f"{path} {name}")


def test_halves_of_one_array_are_two_states() -> None:
    def step(tokens: Any, state: Any) -> Any:
        h, c = state
        both = tg.tanh(tg.concat([X[tokens] + h @ U, c @ V + h @ U], axis=1)) + c[:, [0] * 8]
        h, c = both[:, :4], both[:, 4:]
        return tg.log_softmax(h @ HEAD, axis=-1), (h, c)

    each = tg.decode.rescore(step, (zeros(1, 4), zeros(1, 4)), 0, TOKENS)
    flow = tg.inspect.gradient_flow(each.sum())
    assert [states.h.grad.shape for states in flow.values()] == [(4, 1, 4), (3, 1, 4)]
    assert not np.allclose(flow["0"].h.grad[:3], flow["1"].h.grad)


def test_a_state_beside_those_of_a_layer_is_shown() -> None:
    rnn = tg.nn.RNN(4, 4, rng=0, **DOUBLE)

    def step(tokens: Any, state: Any) -> Any:
        output, h = rnn(X[tokens][None], state[0])
        g = tg.tanh(output[0] + state[1][0] @ U)
        return tg.log_softmax(g @ HEAD, axis=-1), (h, g[None])

    each = tg.decode.rescore(step, (zeros(1, 1, 4), zeros(1, 1, 4)), 0, TOKENS, state_axis=1)
    flow = tg.inspect.gradient_flow(each.sum())
    assert list(flow) == ["rnn.l0", "1"]
    assert {states.h.grad.shape for states in flow.values()} == {(4, 1, 4)}


def test_a_mark_of_the_step_needs_no_time() -> None:
    def step(tokens: Any, h: Any) -> Any:
        h = tg.inspect.mark(tg.tanh(X[tokens] + h @ U), "mine")
        return tg.log_softmax(h @ HEAD, axis=-1), h

    flow = tg.inspect.gradient_flow(tg.decode.rescore(step, zeros(1, 4), 0, TOKENS).sum())
    assert [(path, *states) for path, states in flow.items()] == [("", "mine")]
    assert flow[""]["mine"].time.tolist() == [0, 1, 2, 3]


def test_a_layer_called_twice_in_a_step_is_two_recurrences() -> None:
    rnn = tg.nn.RNN(4, 4, rng=0, **DOUBLE)

    def step(tokens: Any, state: Any) -> Any:
        one, h = rnn(X[tokens][None], state[0])
        two, g = rnn(-X[tokens][None], state[1])
        return tg.log_softmax((one + two)[0] @ HEAD, axis=-1), (h, g)

    each = tg.decode.rescore(step, (zeros(1, 1, 4), zeros(1, 1, 4)), 0, TOKENS, state_axis=1)
    flow = tg.inspect.gradient_flow(each.sum())
    assert {path: states.h.grad.shape for path, states in flow.items()} == {
        "rnn.l0": (4, 1, 4),
        "rnn.l0#2": (4, 1, 4),
    }


def test_a_state_that_gathers_vectors_is_split_by_step() -> None:
    """A memory that grows by one vector a step: each step's own vector is its state."""

    def step(tokens: Any, memory: Any) -> Any:
        new = tg.tanh(X[tokens] + memory.mean(axis=1) @ U)
        memory = tg.concat([memory, new[:, None]], axis=1)
        return tg.log_softmax(memory.mean(axis=1) @ HEAD, axis=-1), memory

    flow = tg.inspect.gradient_flow(tg.decode.rescore(step, zeros(1, 1, 4), 0, TOKENS).sum())
    assert {path: states.h.grad.shape for path, states in flow.items()} == {"": (4, 1, 4)}


def test_a_layer_over_a_sequence_inside_the_step_keeps_its_times() -> None:
    encoder = tg.nn.RNN(4, 4, rng=0, **DOUBLE)

    def step(tokens: Any, state: Any) -> Any:
        memory, _ = encoder(X[np.array([0, 1, 2])][:, None])
        h = tg.tanh(X[tokens] + state @ U + memory[-1])
        return tg.log_softmax(h @ HEAD, axis=-1), h

    flow = tg.inspect.gradient_flow(tg.decode.rescore(step, zeros(1, 4), 0, TOKENS).sum())
    assert flow[""].h.grad.shape == (4, 1, 4)
    assert {p: f.h.grad.shape for p, f in flow.items() if p} == {
        f"rnn.l0{n}": (3, 1, 4) for n in ("", "#2", "#3", "#4")
    }


def test_operations_and_parts_of_a_weights_gradient_belong_to_their_steps() -> None:
    """This includes operations that a layer, called for one step, records as its time 0."""
    model, state = language_model(1)
    each = tg.decode.rescore(model.step, state, 0, TOKENS, state_axis=1)
    lstm, head = model.lstm, model.head

    def step(tokens: Any, state: Any) -> Any:
        output, state = lstm(model.embedding(tokens)[None], state)
        return tg.log_softmax(head(output[0]), axis=-1), state

    again = tg.decode.rescore(step, state, 0, TOKENS, state_axis=1)
    parts = [tg.inspect.weight_grad_by_time(x.sum(), lstm.weight_hh_l0) for x in (each, again)]
    graph = tg.inspect.trace(again.sum())
    assert [len(graph.select(op="tanh", time=t)) for t in range(5)] == [2, 2, 2, 2, 0]
    assert parts[1].shape == (4, 24, 6)
    assert_close(parts[0], parts[1], 1e-12)


def test_the_state_that_is_given_is_left_alone() -> None:
    @in_numpy
    def step(tokens: Any, state: Any) -> Any:
        state += 1
        return np.log(np.full((len(tokens), 2), 0.5)), state

    state = array(np.zeros((1, 2)))
    tg.decode.rescore(step, state, 0, [1, 0])
    assert not host(state).any()
    with pytest.raises(tg.ArgumentError, match="5 is neither a sequence of tokens"):
        tg.decode.rescore(step, state, 0, 5)  # type: ignore[arg-type]
