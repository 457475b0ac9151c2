"""Paths and loops: the marked states of one stack, and its name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, host, leaf

flow_of = tg.inspect.gradient_flow
mark = tg.inspect.mark
X = np.ones((5, 2, 1), np.float32)


def lengths(loss: tg.Tensor) -> dict[str, dict[str, int]]:
    return {
        path: {name: len(s.time) for name, s in stack.items()}
        for path, stack in flow_of(loss).items()
    }


def loop(w: tg.Tensor, h: tg.Tensor, T: int, name: str = "h", first: int = 0) -> tg.Tensor:
    for t in range(first, first + T):
        h = mark(tg.tanh(h @ w), name, t)
    return h


def weight(seed: int = 0) -> tg.Tensor:
    return tg.tensor(np.random.default_rng(seed).normal(size=(3, 3)), requires_grad=True)


H0 = np.ones((2, 3))


# --- modules ------------------------------------------------------------------------------------


def test_a_layer_by_itself_is_named_after_its_class() -> None:
    assert lengths(tg.nn.RNN(1, 3, rng=0)(X)[0].sum()) == {"rnn.l0": {"h": 5}}


def test_layers_are_in_order_beyond_ten() -> None:
    output, _ = tg.nn.RNN(1, 2, 12, rng=0)(X)
    assert list(flow_of(output.sum())) == [f"rnn.l{k}" for k in range(12)]


class Model(tg.nn.Module):
    def __init__(self) -> None:
        self.rnn = tg.nn.RNN(1, 3, 2, rng=0)
        self.head = tg.nn.Linear(3, 1, rng=0)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return self.head(self.rnn(x)[0])


class Outer(tg.nn.Module):
    def __init__(self) -> None:
        self.encoder = Model()
        self.branches = [tg.nn.RNN(1, 2, rng=1), tg.nn.RNN(1, 2, rng=2)]

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        y = self.encoder(x)
        return sum((branch(y)[0] for branch in self.branches), start=tg.tensor(0.0))


def test_attributes_give_the_path() -> None:
    assert list(lengths(Model()(X).sum())) == ["rnn.l0", "rnn.l1"]
    assert list(lengths(Outer()(X).sum())) == [
        "encoder.rnn.l0",
        "encoder.rnn.l1",
        "branches.0.l0",
        "branches.1.l0",
    ]


def test_a_module_called_again_has_an_ordinal() -> None:
    model = Model()
    x = tg.tensor(X)
    assert list(lengths((model(x) + model(x[:3]).sum() + model(x)).sum())) == [
        "rnn.l0",
        "rnn.l1",
        "rnn.l0#2",
        "rnn.l1#2",
        "rnn.l0#3",
        "rnn.l1#3",
    ]
    rnn = tg.nn.RNN(1, 3, rng=0)
    _, state = rnn(X[:3])
    second, _ = rnn(X[3:], state)
    flow = flow_of(second.sum())
    assert {path: len(s.h.time) for path, s in flow.items()} == {"rnn.l0": 3, "rnn.l0#2": 2}
    assert_same_bits(flow["rnn.l0"].h.grad[-1], flow["rnn.l0#2"].h.initial_grad)
    whole = flow_of(rnn(X)[0][3:].sum())["rnn.l0"].h
    parts = np.concatenate([host(flow[path].h.grad) for path in ("rnn.l0", "rnn.l0#2")])
    assert_close(parts, whole.grad, 1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_each_call_of_a_module_has_its_own_initial_state(fused: bool) -> None:
    for _ in range(10):  # which one a set gives first is up to addresses
        first = tg.nn.LSTM(3, 3, rng=0, dtype="float64", fused=fused)
        second = tg.nn.LSTM(3, 3, rng=1, dtype="float64", fused=False)
        given = [tg.zeros((1, 2, 3), dtype="float64", requires_grad=True) for _ in range(4)]
        output, _ = first(tg.ones((4, 2, 3), dtype="float64"), (given[0], given[1]))
        loss = second(output, (given[2], given[3]))[0][-1].sum()
        flow = flow_of(loss)
        found = [flow[path][name] for path in ("lstm.l0", "lstm.l0#2") for name in ("h", "c")]
        for state, expected in zip(found, tg.grad(loss, given), strict=True):
            assert_close(state.initial_grad, expected[0], 1e-12)


def test_two_layers_of_one_class_are_distinguished_by_an_ordinal() -> None:
    a, b = tg.nn.RNN(1, 3, rng=0), tg.nn.RNN(3, 2, rng=1)
    flow = flow_of(b(a(X)[0])[0].sum())
    assert {p: s.h.grad.shape for p, s in flow.items()} == {
        "rnn.l0": (5, 2, 3),
        "rnn.l0#2": (5, 2, 2),
    }


def test_only_what_the_loss_reads_is_found() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    rnn(X)
    assert list(lengths(rnn(X)[0].sum())) == ["rnn.l0"]


class OwnLoop(tg.nn.Module):
    def __init__(self) -> None:
        self.cell = tg.nn.RNNCell(1, 3, rng=0)
        self.start = tg.nn.Parameter(np.zeros((1, 3), np.float32))

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        h = mark(self.start, "h", time=-1) + tg.zeros((2, 3))
        for t, x_t in enumerate(x):
            h = mark(self.cell(x_t, h), "h", time=t)
        return h


def test_a_loop_in_a_module_and_its_learned_first_state() -> None:
    """The state is marked again in every training step; these marks neither pile up nor mix."""
    model = OwnLoop()
    optimizer = tg.optim.SGD(model.parameters(), 0.1)
    for _ in range(4):
        loss = (model(tg.tensor(X)) ** 2).sum()
        flow = flow_of(loss)
        assert list(flow) == ["ownloop"]
        assert flow["ownloop"].h.grad.shape == (5, 2, 3)
        (expected,) = tg.grad(loss, model.start, retain_graph=True)
        assert expected is not None
        assert_same_bits(flow["ownloop"].h.initial_grad, expected.numpy())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(model.start._node.marks) == 1
    twice = flow_of((model(tg.tensor(X)) + model(tg.tensor(X[:3]))).sum())
    assert {p: len(s.h.time) for p, s in twice.items()} == {"ownloop": 5, "ownloop#2": 3}
    for stack in twice.values():
        assert stack.h.initial_grad is not None


# --- loops of your own -------------------------------------------------------------------------


def by_hand(loss: tg.Tensor, states: list[tg.Tensor]) -> np.ndarray:
    return np.stack([g.numpy() for g in tg.grad(loss, states, retain_graph=True)])


@pytest.mark.parametrize(("first", "second"), [(4, 8), (8, 4), (5, 5), (1, 1), (1, 3)])
@pytest.mark.parametrize("shared_start", [True, False])
def test_loops_one_after_the_other(first: int, second: int, shared_start: bool) -> None:
    w, start = weight(), tg.tensor(H0)
    ends = []
    for T in (first, second):
        if not shared_start:
            start = tg.tensor(H0)
        ends.append(loop(w, mark(start, "h", -1), T).sum())
    flow = flow_of(ends[0] + ends[1])
    assert list(flow) == ["", "#2"]
    for stack, T, end in zip(flow.values(), (first, second), ends, strict=True):
        alone = flow_of(end)[""].h
        np.testing.assert_array_equal(stack.h.time, np.arange(T))
        assert_same_bits(stack.h.grad, alone.grad)
        assert stack.h.initial_grad is not None


def test_loops_at_other_times() -> None:
    """A loop with a start of its own, or with earlier steps, is another one."""
    w = weight()
    late = loop(w, tg.tensor(H0), 3, first=5)
    early = loop(w, tg.tensor(H0), 4)
    own_start = loop(w, mark(tg.tensor(H0), "h", -1), 2, first=20)
    flow = flow_of((late + early + own_start).sum())
    assert [s.h.time.tolist() for s in flow.values()] == [[5, 6, 7], [0, 1, 2, 3], [20, 21]]
    assert [s.h.initial_grad is None for s in flow.values()] == [True, True, False]


def test_calls_that_continue_each_other_stay_apart() -> None:
    class Steps(tg.nn.Module):
        def __init__(self) -> None:
            self.w = tg.nn.Parameter(np.eye(3))

        def forward(self, h: tg.Tensor, first: int) -> tg.Tensor:
            return loop(self.w, h, 2, first=first)

    steps = Steps()
    flow = flow_of(steps(steps(tg.tensor(H0), 0), 2).sum())
    assert {p: s.h.time.tolist() for p, s in flow.items()} == {"steps": [0, 1], "steps#2": [2, 3]}


def test_loops_that_take_turns() -> None:
    """Two states of one name advance in the same iteration, as two layers in your own loop do."""
    v, w = weight(0), weight(1)
    a = b = tg.tensor(H0)
    states: tuple[list[tg.Tensor], list[tg.Tensor]] = ([], [])
    for t in range(5):
        a = mark(tg.tanh(a @ v), "h", t)
        b = mark(tg.tanh(b @ w + a), "h", t)
        states[0].append(a)
        states[1].append(b)
    loss = b.sum()
    flow = flow_of(loss)
    assert_same_bits(flow[""].h.grad, by_hand(loss, states[0]))
    assert_same_bits(flow["#2"].h.grad, by_hand(loss, states[1]))


def test_an_encoder_and_a_longer_decoder_that_reads_all_its_states() -> None:
    w = weight()
    h = tg.tensor(H0)
    encoded = []
    for t in range(3):
        h = mark(tg.tanh(h @ w), "h", t)
        encoded.append(h)
    decoded = []
    context = tg.stack(encoded).mean(axis=0)
    for t in range(3):
        h = mark(tg.tanh(h @ w + context), "h", t)
        decoded.append(h)
    loss = h.sum()
    flow = flow_of(loss)
    assert_same_bits(flow[""].h.grad, by_hand(loss, encoded))
    assert_same_bits(flow["#2"].h.grad, by_hand(loss, decoded))
    h = mark(tg.tanh(h @ w + context), "h", 3)  # free in the encoder too, so the name is ambiguous
    with pytest.raises(tg.GraphError, match=r"'h' at t = 3 continues two.*different names"):
        flow_of(h.sum())


def test_a_loop_that_runs_backwards_in_time() -> None:
    w, h = weight(), tg.tensor(H0)
    states = []
    for t in reversed(range(4)):
        h = mark(tg.tanh(h @ w), "h", t)
        states.insert(0, h)
    flow = flow_of(h.sum())
    np.testing.assert_array_equal(flow[""].h.time, np.arange(4))
    assert_same_bits(flow[""].h.grad, by_hand(h.sum(), states))


def test_steps_may_be_left_out() -> None:
    w, h = weight(), tg.tensor(H0)
    states = []
    for t in range(10):
        h = tg.tanh(h @ w)
        if t % 3 == 0:
            states.append(mark(h, "h", t))
    flow = flow_of(h.sum())
    np.testing.assert_array_equal(flow[""].h.time, [0, 3, 6, 9])
    assert_same_bits(flow[""].h.grad, by_hand(h.sum(), states))


def test_truncated_backpropagation_is_one_recurrence() -> None:
    w = weight()
    middle = loop(w, tg.tensor(H0), 3)
    end = loop(w, middle.detach(), 3, first=3)
    assert lengths(middle.sum() + end.sum()) == {"": {"h": 6}}


def test_states_that_do_not_depend_on_each_other() -> None:
    w = weight()
    states = [mark(tg.tensor(H0 * (t + 1)) @ w, "features", t) for t in range(4)]
    assert lengths(tg.stack(states).sum()) == {"": {"features": 4}}


def test_several_names_in_one_stack() -> None:
    w = weight()
    h = c = tg.tensor(H0)
    lists: dict[str, list[tg.Tensor]] = {"h": [], "c": []}
    for t in range(4):
        c = mark(c * 0.5 + tg.tanh(h @ w), "c", t)
        h = mark(tg.tanh(c), "h", t)
        lists["c"].append(c)
        lists["h"].append(h)
    loss = h.sum()
    flow = flow_of(loss)
    assert list(flow) == [""]
    assert sorted(flow[""]) == ["c", "h"]
    assert_same_bits(flow[""].c.grad, by_hand(loss, lists["c"]))
    assert_same_bits(flow[""].h.grad, by_hand(loss, lists["h"]))


def test_several_names_in_two_loops_keep_together() -> None:
    w = weight()
    total = tg.tensor(0.0)
    for T in (2, 4):
        h = c = tg.tensor(H0)
        for t in range(T):
            c = mark(c * 0.5 + tg.tanh(h @ w), "c", t)
            h = mark(tg.tanh(c), "h", t)
        total = total + h.sum()
    assert lengths(total) == {"": {"c": 2, "h": 2}, "#2": {"c": 4, "h": 4}}


def test_a_state_may_have_two_names() -> None:
    w = weight()
    h = mark(mark(tg.tensor(H0) @ w, "h", 0), "output", 0)
    flow = flow_of(h.sum())[""]
    assert_same_bits(flow.h.grad, flow.output.grad)


def test_a_mark_without_a_time_only_names() -> None:
    w = weight()
    h = loop(w, tg.tensor(H0), 3)
    logits = mark(h @ w, "logits")
    assert lengths(logits.sum()) == {"": {"h": 3}}
    (node,) = tg.inspect.trace(logits.sum()).select(name="logits")
    assert node.time is None
    with pytest.raises(tg.GraphError, match="time=t"):
        flow_of(mark(tg.tensor(H0) @ w, "h").sum())


def test_marks_inside_a_layers_time_are_of_that_time() -> None:
    """A name given where a time step is being recorded takes that step."""

    class Cell(tg.nn.RNNCell):
        def forward(self, x: tg.Tensor, h: tg.Tensor | None = None) -> tg.Tensor:
            return mark(super().forward(x, h), "inner")

    cell = Cell(1, 3, rng=0)
    h = cell(tg.ones((2, 1)))
    assert tg.inspect.trace(h.sum()).select(name="inner")[0].module == "cell"


def test_states_of_different_shapes() -> None:
    w = weight()
    h = mark(tg.tensor(H0) @ w, "h", 0)
    h = mark(h[:1], "h", 1)
    with pytest.raises(
        tg.ShapeError, match=r"gradient_flow: the states 'h' in ''.*different shapes"
    ):
        flow_of(h.sum())


def test_states_of_any_number_of_axes() -> None:
    w = tg.tensor(0.5, requires_grad=True)
    for shape in ((), (3,), (2, 3), (2, 3, 4)):
        h = tg.ones(shape)
        for t in range(4):
            h = mark(h * w, "h", t)
        flow = flow_of(h.sum())[""].h
        assert flow.grad.shape == (4, *shape)
        samples = shape[0] if len(shape) > 1 else 1
        assert flow.sample_grad_norm.shape == (4, samples)
        per_sample = np.sqrt(np.prod(shape) / samples) * 0.5 ** np.arange(4)[::-1]
        assert_close(flow.sample_grad_norm, np.tile(per_sample[:, None], samples), 1e-6)
        assert_close(flow.grad_norm, per_sample * np.sqrt(samples), 1e-6)


BAD_MARKS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "an array": (
        lambda: mark(np.ones(3), "h", 0),
        tg.DTypeError,
        "mark: ndarray 'h' is not a Tensor",
    ),
    "half a step": (lambda: mark(tg.ones(1), "h", 1.5), tg.ArgumentError, r"'h': time 1\.5"),
    "time as text": (lambda: mark(tg.ones(1), "h", "0"), tg.ArgumentError, "time '0'"),
    "before the first state": (lambda: mark(tg.ones(1), "h", -2), tg.ArgumentError, "from -1"),
}


@pytest.mark.parametrize("name", BAD_MARKS)
def test_what_cannot_be_marked(name: str) -> None:
    call, error, message = BAD_MARKS[name]
    with pytest.raises(error, match=message):
        call()


def test_a_time_of_numpys() -> None:
    w = weight()
    h = tg.tensor(H0)
    for t in np.arange(3):
        h = mark(h @ w, "h", t)
    assert lengths(h.sum()) == {"": {"h": 3}}


def test_each_of_many_calls_is_a_stack() -> None:
    """One step at a time, as in generation: every call is a stack of its own."""
    rnn = tg.nn.RNN(1, 2, rng=0)
    state = None
    for _ in range(300):
        output, state = rnn(X[:1], state)
    flow = flow_of(output.sum())
    assert len(flow) == 300
    assert flow["rnn.l0#300"].h.grad.shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([[4, 3, 2, 1, 0]], [[0, 1, 2, 3, 4]]),
        ([[0, 2, 4]], [[0, 2, 4]]),
        ([[2, 1, 0], [4, 3, 2, 1, 0]], [[0, 1, 2], [0, 1, 2, 3, 4]]),
        ([[0, 1, 2], [0, 1, 2, 3]], [[0, 1, 2], [0, 1, 2, 3]]),
        ([[3, 2], [3, 2, 1]], [[2, 3], [1, 2, 3]]),
    ],
)
@pytest.mark.parametrize("window", [1, 2, 9])
def test_a_detached_past_goes_on_in_the_direction_of_the_loop(
    runs: list[list[int]], expected: list[list[int]], window: int
) -> None:
    """Truncated loops, also from the end of time to its start, one after another."""
    W, total = leaf(np.eye(2)), const(np.zeros(()))
    for times in runs:
        h = const(np.ones((1, 2)))
        for i, t in enumerate(times):
            h = tg.inspect.mark(tg.tanh((h.detach() if i % window == 0 else h) @ W), "h", t)
            total = total + h.sum()
    flow = tg.inspect.gradient_flow(total)
    assert [stack.h.time.tolist() for stack in flow.values()] == expected
