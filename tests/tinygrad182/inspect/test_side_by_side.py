"""Steps of fused layers side by side: every figure is that of the same network step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles import loops
from tests.support import assert_close, const, host, leaf, write

inspect = tg.inspect
path_split, by_hops = (loops.reading(v) for v in (inspect.path_split, inspect.grad_by_hops))

Net = Callable[[Any, tg.Tensor], tg.Tensor]
"""From a maker of layers, ``make(inputs)``, and inputs (T, B, 3) to a loss."""


def alone(make: Any, x: tg.Tensor) -> tg.Tensor:
    output, _ = make(3)(x)
    return (output**2).sum()


def residual(make: Any, x: tg.Tensor) -> tg.Tensor:
    """Two recurrences with another operation in between; the input also goes around the first."""
    below, above = make(3), make(3)
    middle = 0.5 * below(x)[0] + x
    return above(tg.where(const(np.abs(host(x)) > 0.1), middle, 0.0))[0][-1].sum()


def decoder(make: Any, x: tg.Tensor) -> tg.Tensor:
    """A decoder begins with an encoder's last state, and attends to all states of the encoder."""
    one, other = make(3), make(3)
    states, last = one(x)
    output, _ = other(tg.flip(states, axis=0), last)
    weights = tg.softmax((states * output[-1]).sum(axis=2, keepdims=True), axis=0)
    return (weights * states).sum() + (output[1:] ** 2).sum()


def called_twice(make: Any, x: tg.Tensor) -> tg.Tensor:
    layer = make(3)
    first, state = layer(x)
    second, _ = layer(first * x, state)
    return (first * second).sum()


def every_state(make: Any, x: tg.Tensor) -> tg.Tensor:
    _, last, states = make(3, num_layers=2, return_states=True)(x)
    tails = last if isinstance(last, tuple) else (last,)
    return sum(((s**2).sum() for s in (*states, *tails)), start=const(np.zeros(())))


def of_several_lengths(make: Any, x: tg.Tensor) -> tg.Tensor:
    lengths = np.random.default_rng(x.shape[0]).integers(0, x.shape[0] + 1, size=x.shape[1])
    output, last = make(3, num_layers=2)(x, lengths=lengths)
    return (output**2).sum() + sum(h.sum() for h in (last if isinstance(last, tuple) else (last,)))


def truncated(make: Any, x: tg.Tensor) -> tg.Tensor:
    return (make(3, num_layers=2)(x, truncate=2)[0] ** 2).sum()


def by_hand(make: Any, x: tg.Tensor) -> tg.Tensor:
    """A loop of your own after a layer."""
    states, _ = make(3)(x)
    h = const(np.zeros(states.shape[1:]))
    for t in range(states.shape[0]):
        h = inspect.mark(tg.tanh(0.9 * h + states[t]), "own", t)
    return (h**2).sum()


NETS: list[Net] = [
    alone,
    residual,
    decoder,
    called_twice,
    every_state,
    of_several_lengths,
    truncated,
    by_hand,
]


def losses(net: Net, kind: str, T: int, B: int, seed: int) -> list[tg.Tensor]:
    """The losses of the network with fused layers, and with layers run step by step."""
    found = []
    for fused in (True, False):

        def make(inputs: int, fused: bool = fused, **options: Any) -> Any:
            options |= {"rng": seed + inputs, "dtype": "float64", "fused": fused}
            if kind == "lstm":
                return tg.nn.LSTM(inputs, 3, **options)
            return tg.nn.RNN(inputs, 3, nonlinearity=kind, **options)

        found.append(net(make, leaf(loops.inputs(seed, T, B, 3))))
    return found


def assert_same(a: Any, b: Any, what: str) -> None:
    assert a.time.tolist() == b.time.tolist()
    assert_close(a.grad, b.grad, 1e-11, what, floor=1e-6)


nets = st.builds(
    lambda net, kind, T, B, seed: (kind, losses(net, kind, T, B, seed)),
    st.sampled_from(NETS),
    st.sampled_from(["tanh", "relu", "identity", "lstm"]),
    st.integers(2, 6),
    st.integers(1, 3),
    st.integers(0, 99),
)


@settings(max_examples=25)
@given(nets)
def test_path_split(case: tuple[str, list[tg.Tensor]]) -> None:
    fused, steps = case[1]
    for path in inspect.gradient_flow(fused):
        found, expected = path_split(fused, path), path_split(steps, path)
        assert list(found) == list(expected)
        for name, split in expected.items():
            assert_same(found[name], split, name)
            assert list(found[name].parts) == list(split.parts)
            for part, array in split.parts.items():
                assert_close(found[name].parts[part], array, 1e-11, part, floor=1e-6)
                assert_close(found[name].shares[part], split.shares[part], 1e-9, part, floor=1.0)
            some = path_split(fused, path, times=[1])[name]
            assert some.time.tolist() == [1]
            assert_close(some.grad, found[name].grad[1:2], 1e-13)


@settings(max_examples=25)
@given(nets, st.integers(0, 4), st.sampled_from(["h", "c"]), st.sampled_from(["h", "c"]))
def test_grad_by_hops(
    case: tuple[str, list[tg.Tensor]], max_hops: int, state: str, through: str
) -> None:
    kind, (fused, steps) = case
    if kind != "lstm":
        state = through = "h"
    for path, stack in inspect.gradient_flow(fused).items():
        options = {"state": state if state in stack else "own", "through": through, "path": path}
        found, expected = by_hops(fused, max_hops, **options), by_hops(steps, max_hops, **options)
        assert_same(found, expected, path)
        assert_close(found.rest, expected.rest, 1e-11, "rest", floor=1e-6)
        assert_close(found.grad_norm, expected.grad_norm, 1e-11, "norms", floor=1e-6)
        some = by_hops(fused, max_hops, times=(0, 1), **options)
        assert_close(some.grad, found.grad[:, :2], 0.0)  # the same pass


@settings(max_examples=25)
@given(nets)
def test_step_jacobians(case: tuple[str, list[tg.Tensor]]) -> None:
    fused, steps = case[1]
    for path, stack in inspect.gradient_flow(fused).items():
        for sample in range(next(iter(stack.values())).value.shape[1]):
            found = inspect.step_jacobians(fused, path, sample)
            expected = inspect.step_jacobians(steps, path, sample)
            assert found.names == expected.names == tuple(stack)
            assert found.time.tolist() == expected.time.tolist()
            assert_close(found.matrices, expected.matrices, 1e-13, floor=1e-3)
            last = int(found.time[-1])
            one = inspect.step_jacobians(fused, path, sample, times=last)
            assert_close(one.matrices, found.matrices[-1:], 1e-14, floor=1e-3)


@pytest.mark.parametrize("kind", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("net", [n for n in NETS if n is not of_several_lengths])
def test_gain_split(net: Net, kind: str) -> None:
    fused, steps = losses(net, kind, 5, 2, 0)
    for path in inspect.gradient_flow(fused):
        state = "own" if path == "" else "h"
        found = inspect.gain_split(fused, path, state)
        expected = inspect.gain_split(steps, path, state)
        for name in ("time", "saturation", "weight"):
            assert_close(getattr(found, name), getattr(expected, name), 1e-11, name)
        some = inspect.gain_split(fused, path, state, times=[0, 3])
        assert_close(some.gain, found.gain[[0, 3]], 1e-13)


# --- far from what a type can hold ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "tanh"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("layers", [1, 2])
def test_what_vanishes_and_explodes(kind: str, scale: float, layers: int) -> None:
    """Float32 holds none of it; the same network step by step in float64 does, or has powers of its own."""
    found = []
    for fused, dtype in ((True, "float32"), (True, "float64"), (False, "float64")):
        options: Any = {"num_layers": layers, "rng": 0, "dtype": dtype, "fused": fused}
        layer: Any = tg.nn.LSTM(2, 3, **options) if kind == "lstm" else tg.nn.RNN(2, 3, **options)
        for k in range(layers):
            weight = getattr(layer, f"weight_hh_l{k}")
            write(weight, scale * host(weight))
        x = const((0.01 * loops.inputs(0, 60, 2, 2)).astype(dtype))
        loss = layer(x)[0][-1].sum()
        path = f"{kind if kind == 'lstm' else 'rnn'}.l0"
        norms = by_hops(loss, 3, path=path, state="h").grad_norm
        found.append((norms, path_split(loss, path)["h"].shares))
    single, double, steps = found
    with np.errstate(divide="ignore"):
        logs = [np.log(norms) for norms, _ in found]
    assert_close(logs[1], logs[2], 1e-9)
    assert_close(logs[0], logs[2], 1e-4)
    for part, shares in steps[1].items():
        assert_close(double[1][part], shares, 1e-9, part, floor=1.0)
        assert_close(single[1][part], shares, 1e-3, part, floor=1.0)


@pytest.mark.parametrize("kind", [tg.nn.LSTM, tg.nn.RNN])
@pytest.mark.parametrize("between", ["a mask and a residual", "a linear layer", "a sum over time"])
def test_what_vanishes_on_its_way_to_another_layer(kind: Any, between: str) -> None:
    """Rows have powers of their own unless an operation mixes them."""
    logs = []
    for fused, dtype in ((True, "float32"), (True, "float64"), (False, "float64")):
        options: Any = {"dtype": dtype, "fused": fused}
        below, above = kind(2, 2, rng=0, **options), kind(2, 2, rng=1, **options)
        linear = tg.nn.Linear(2, 2, rng=2, dtype=dtype)
        for layer in (below, above):
            write(layer.weight_hh_l0, 0.01 * host(layer.weight_hh_l0))
        x = const((0.1 * loops.inputs(0, 60, 2, 2)).astype(dtype))
        middle = below(x)[0]
        if between == "a mask and a residual":
            middle = tg.where(const(np.arange(60)[:, None, None] % 7 != 3), 0.5 * middle + x, 0.0)
        elif between == "a linear layer":
            middle = linear(middle)
        else:
            middle = tg.cumulative_sum(middle, axis=0) / 60
        loss = above(middle)[0][-1].sum()
        path = f"{kind.__name__.lower()}.l0"
        with np.errstate(divide="ignore"):
            logs.append(np.log(by_hops(loss, 3, path=path).grad_norm))
    assert_close(logs[1], logs[2], 1e-9)
    assert_close(logs[0], logs[2], 1e-4)


def test_coefficients_far_from_each_other() -> None:
    """A hop adds a large coefficient to one that is 1e-330 as large."""
    found = []
    for fused in (True, False):
        below, above = (tg.nn.RNN(2, 2, rng=k, dtype="float64", fused=fused) for k in range(2))
        write(above.weight_hh_l0, 1e-140 * host(above.weight_hh_l0))
        states, _ = below(const(loops.inputs(0, 6, 2, 2)))
        seen = states * const(np.arange(6.0)[:, None, None] < 4)  # at least two hops away
        loss = states[3].sum() + 1e-60 * above(seen)[0][-1].sum()
        found.append(by_hops(loss, 4, path="rnn.l0"))
    assert_close(found[0].grad, found[1].grad, 1e-12)
    with np.errstate(divide="ignore"):
        logs = [np.log(hops.grad_norm) for hops in found]
    assert_close(logs[0], logs[1], 1e-12)


# --- linear in the number of steps ----------------------------------------------------------------


class Counted:
    """Counts the nodes that backward passes and walks visit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tinygrad182.engine import backpropagation
        from tinygrad182.inspect.passes import gradients

        self.nodes = 0
        ancestors, pop = backpropagation.ancestors, gradients.Cotangents.pop

        def walk(*args: Any, **options: Any) -> Any:
            found = ancestors(*args, **options)
            self.nodes += len(found)
            return found

        def count(sums: Any, node: Any) -> Any:
            self.nodes += 1
            return pop(sums, node)

        monkeypatch.setattr(backpropagation, "ancestors", walk)
        monkeypatch.setattr(gradients.Cotangents, "pop", count)


LINEAR: dict[str, Callable[[tg.Tensor], Any]] = {
    "path_split": inspect.path_split,
    "gain_split": inspect.gain_split,
    "no hops": lambda loss: inspect.grad_by_hops(loss, 0),
    "3 hops": lambda loss: inspect.grad_by_hops(loss, 3),
    "step_jacobians": inspect.step_jacobians,
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("view", LINEAR)
def test_twice_the_steps_are_twice_the_work(
    view: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequence vanishes, and its gradients are held at ever more powers of two."""
    work = []
    for T in (150, 300):
        rnn = tg.nn.RNN(2, 3, rng=0, fused=fused)
        write(rnn.weight_hh_l0, 1e-6 * host(rnn.weight_hh_l0))
        loss = rnn(const(loops.inputs(0, T, 1, 2).astype("float32")))[0][-1].sum()
        with monkeypatch.context() as patched:
            counted = Counted(patched)
            LINEAR[view](loss)
        work.append(counted.nodes)
    assert work[1] < 2.2 * work[0]


# --- steps that are asked for ---------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("view", LINEAR)
def test_steps_that_there_are_not(view: str, fused: bool) -> None:
    rnn = tg.nn.RNN(2, 3, rng=0, fused=fused)
    loss = rnn(tg.ones((4, 1, 2)))[0].sum()
    name = "grad_by_hops" if "hops" in view else view
    call = getattr(inspect, name)
    for wrong in ([4], -1, [0, 7]):
        with pytest.raises(tg.ArgumentError, match=rf"{name}: times .*; the steps are 0 to 3, and"):
            call(loss, times=wrong)
    with pytest.raises(tg.ArgumentError, match=rf"{name}: times .*choose at least one"):
        call(loss, times=[])
    for wrong in (1.5, "1", [0.5]):
        with pytest.raises(tg.ArgumentError, match=rf"{name}: times .*pass a time step"):
            call(loss, times=wrong)
    assert call(loss, times=np.array([3, 1], "uint8"))  # in any order, of any integer type


@pytest.mark.parametrize("state", ["h", "c"])
@pytest.mark.parametrize("truncate", [None, 3])
def test_a_state_that_another_part_was_computed_from_has_no_two_factors(
    state: str, truncate: int | None
) -> None:
    """An LSTM's c is linear in the previous c, but not in the h that was computed from it."""
    for fused in (True, False):
        lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
        loss = lstm(const(np.ones((5, 2, 2))), truncate=truncate)[0].sum()
        with pytest.raises(
            tg.GraphError,
            match=r"^gain_split: the state made by \w+, in lstm\.l0( at t = \d)?, (is|depends)",
        ):
            inspect.gain_split(loss, state=state)


def test_the_first_step_of_a_memory_is_linear_in_the_state_before() -> None:
    """The initial c and h are given, so h is not computed from c."""
    found = []
    for fused in (True, False):
        lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
        start = tuple(leaf(np.full((1, 2, 3), a)) for a in (0.3, 0.7))
        loss = lstm(const(np.ones((5, 2, 2))), start)[0].sum()
        found.append(inspect.gain_split(loss, state="c", times=0).gain)
    assert 0 < found[1] < 1
    assert_close(found[0], found[1], 1e-12)
