"""Anomaly detection: the first NaN, infinity or underflow is named, with its place and its line."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import leaf
from tinygrad182.inspect import first_anomaly, mark, trace


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def poisoned(t_bad: int, steps: int = 6) -> tg.Tensor:
    """A loop whose state becomes NaN at one step, from a finite one."""
    w = leaf([[0.5]])
    h = tg.ones((1, 1), dtype="float64")
    for t in range(steps):
        h = mark(tg.tanh(h @ w), "h", time=t)
        if t == t_bad:
            h = tg.log(h - 2)
    return h.sum()


def test_the_first_result_that_is_not_finite_raises_where_it_arises() -> None:
    with tg.detect_anomaly(), pytest.raises(tg.AnomalyError) as caught:
        poisoned(3)
    message = str(caught.value)
    assert message.startswith("forward of log: nan in the result of shape (1, 1), from finite")
    assert "test_anomaly.py" in message
    assert "h = tg.log(h - 2)" in message
    assert poisoned(3).requires_grad  # nothing is looked at outside


def test_what_an_operand_already_held_is_told_apart() -> None:
    with tg.detect_anomaly(), pytest.raises(tg.AnomalyError, match="which an operand already held"):
        tg.exp(tg.tensor([np.inf]))


def test_the_module_and_the_step_are_named() -> None:
    rnn = tg.nn.RNN(1, 2, nonlinearity="identity", rng=0)
    tg.nn.init.scale_to_spectral_radius_(rnn.weight_hh_l0, 1e30)  # type: ignore[attr-defined]
    with (
        tg.detect_anomaly(),
        pytest.raises(tg.AnomalyError, match=r"matmul, in rnn\.l0 at t = 2: (inf|nan)"),
    ):
        rnn(tg.ones((6, 1, 1)))


def test_a_backward_that_is_not_finite_names_the_line_of_the_forward() -> None:
    x = leaf([0.0, 4.0])
    with tg.detect_anomaly():
        y = tg.sqrt(x)
        loss = y.sum()
        with pytest.raises(tg.AnomalyError) as caught:
            loss.backward()
    assert str(caught.value).startswith("backward of sqrt: inf in the cotangent")
    assert "y = tg.sqrt(x)" in str(caught.value)
    loss = tg.sqrt(x).sum()
    with tg.detect_anomaly(), pytest.raises(tg.AnomalyError, match="record under detect_anomaly"):
        loss.backward()


def test_a_recorded_backward_is_watched_too() -> None:
    x = leaf([0.0])
    with tg.detect_anomaly(), pytest.raises(tg.AnomalyError, match=r"backward of sqrt|forward of"):
        tg.grad(tg.sqrt(x).sum(), x, create_graph=True)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    with tg.detect_anomaly():
        loss = (rnn(tg.ones((5, 2, 1)))[0] ** 2).sum()
        loss.backward(retain_graph=True)
    assert first_anomaly(trace(loss)) is None


@pytest.mark.parametrize("t_bad", [0, 3, 5])
def test_after_the_fact_the_producer_is_found(t_bad: int) -> None:
    found = first_anomaly(trace(poisoned(t_bad)))
    assert found is not None
    assert (found.phase, found.kind, found.produced) == ("forward", "nan", True)
    assert found.node.op == "log"
    assert found.node.inputs[0].inputs[0].time == t_bad


def test_after_the_fact_what_came_from_outside_is_told_apart() -> None:
    x = leaf([1.0, np.inf])
    found = first_anomaly(trace((x * 2).sum()))
    assert found is not None
    assert (found.kind, found.node.op, found.produced) == ("inf", "leaf", False)
    assert "comes in through" in str(found)


def test_after_the_fact_an_infinite_gradient_is_found() -> None:
    x = leaf([0.0, 4.0])
    found = first_anomaly(trace(tg.sqrt(x).sum()))
    assert found is not None
    assert (found.phase, found.kind, found.produced) == ("backward", "inf", True)


def test_a_gradient_lost_to_underflow_is_found_and_a_true_zero_is_not() -> None:
    """Each step divides by 2**40: float32 holds 2**−149, so the fourth step back is lost."""
    h = tg.ones(1, requires_grad=True)
    for t in range(6):
        h = mark(h * 2.0**-40 if t % 2 else h / 2.0**40, "h", time=t)
    found = first_anomaly(trace(h.sum()))
    assert found is not None
    assert (found.phase, found.kind) == ("backward", "underflow")
    dead = tg.tensor([-1.0], requires_grad=True)
    assert first_anomaly(trace(tg.relu(dead).sum())) is None
    unused = tg.ones(3, requires_grad=True)
    assert first_anomaly(trace((unused * 0.0).sum())) is None
