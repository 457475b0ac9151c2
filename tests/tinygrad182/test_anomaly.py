"""Anomaly detection: the first NaN, infinity or underflow is named, with its place and its line."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, const, leaf
from tinygrad182.engine import modes
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


def test_an_anomaly_that_an_operand_already_held_is_recognized() -> None:
    with tg.detect_anomaly():
        with pytest.raises(tg.AnomalyError, match=r"nan .* which an operand already held"):
            tg.exp(tg.tensor([np.nan]))
        with pytest.raises(tg.AnomalyError, match=r"nan .* from infinite operands"):
            tg.sin(tg.tensor([np.inf]))
        with pytest.raises(tg.AnomalyError, match=r"inf .* from finite operands"):
            tg.exp(tg.tensor([1e4]))


def test_an_infinity_that_was_given_is_passed_on() -> None:
    """A score of −∞ means "impossible": both searches ignore it, and find a later anomaly."""
    scores = leaf([[0.0, -np.inf], [1.0, 2.0]])
    with tg.detect_anomaly():
        tg.softmax(tg.where(array([True, False]), leaf([1.0, 2.0]), -np.inf))
        loss = (tg.softmax(scores) ** 2).sum()
        loss.backward()
    assert scores.grad is not None
    np.testing.assert_array_equal(scores.grad.numpy()[0], [0.0, 0.0])
    found = first_anomaly(trace((tg.softmax(scores) ** 2).sum()))
    assert found is not None
    assert (found.kind, found.node.op, found.produced) == ("inf", "leaf", False)
    masked = tg.where(array([True, False]), leaf([1.0, 2.0]), -np.inf)
    found = first_anomaly(trace(tg.softmax(masked)[0]))
    assert found is not None
    assert (found.kind, found.node.op, found.produced) == ("inf", "where", False)
    found = first_anomaly(trace(tg.sqrt(tg.softmax(scores))[0, 1]))
    assert found is not None
    assert (found.phase, found.kind, found.node.op) == ("backward", "inf", "sqrt")
    with tg.detect_anomaly():
        y = (leaf([1.0]) * np.inf * leaf([2.0])).sum()
        with pytest.raises(tg.AnomalyError, match=r"backward of multiply: inf .* which was finite"):
            y.backward()
        z = leaf([0.0, 2.0]) * 0.0
        with pytest.raises(tg.AnomalyError, match=r"backward of multiply: nan .* was infinite"):
            z.backward(const([np.inf, 1.0]))
        w = leaf([0.5, 2.0]) * 2.0
        w.backward(const([np.inf, 1.0]))  # given by hand: no complaint


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


def test_after_the_fact_an_anomaly_from_outside_is_recognized() -> None:
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
    assert str(found) == "backward: inf arises in <sqrt (2,)>"


def test_after_the_fact_the_operation_is_named_that_detect_anomaly_names() -> None:
    for f, op in (
        (lambda x: (tg.sqrt(x) * 0.0).sum(), "sqrt"),
        (lambda x: (x**0.5 * 0.0).sum(), "power"),
    ):
        found = first_anomaly(trace(f(leaf([0.0, 4.0]))))
        assert found is not None
        assert (found.phase, found.kind, found.node.op) == ("backward", "nan", op)
        with tg.detect_anomaly(), pytest.raises(tg.AnomalyError, match=f"backward of {op}: nan"):
            f(leaf([0.0, 4.0])).backward()


def test_a_gradient_that_goes_wrong_where_it_is_added_up_or_given() -> None:
    x = leaf([0.5])
    found = first_anomaly(trace(((x * 1e308) + (x * 1e308) * 0.9).sum() * 1.0))
    assert found is not None
    assert (found.phase, found.kind, found.node.op, found.produced) == (
        "backward",
        "inf",
        "leaf",
        True,
    )
    found = first_anomaly(trace(x * 2, const([np.nan])))
    assert found is not None
    assert (found.phase, found.kind, found.produced) == ("backward", "nan", False)


def test_a_result_lost_to_underflow_is_found() -> None:
    for f in (tg.exp, tg.sigmoid):
        found = first_anomaly(trace((f(leaf([-800.0, -900.0])) * 1e300).sum()))
        assert found is not None
        assert (found.phase, found.kind, found.node.op) == ("forward", "underflow", f.__name__)
        assert first_anomaly(trace(f(leaf([-800.0, 1.0])).sum())) is None  # as in a softmax
        assert first_anomaly(trace(f(leaf(np.zeros((0, 2)))).sum())) is None
        found = first_anomaly(trace(f(leaf([-np.inf])).sum()))
        assert found is not None
        assert found.kind == "inf"  # exactly 0


def test_a_gradient_lost_to_underflow_is_found_and_a_true_zero_is_not() -> None:
    """Each step divides by 2**40: float32 holds 2**−149, so the fourth step back is lost."""
    h = tg.ones(1, requires_grad=True)
    for t in range(6):
        h = mark(h * 2.0**-40 if t % 2 else h / 2.0**40, "h", time=t)
    found = first_anomaly(trace(h.sum()))
    assert found is not None
    assert (found.phase, found.kind) == ("backward", "underflow")
    assert found.node.op in ("multiply", "divide")
    dead = tg.tensor([-1.0], requires_grad=True)
    assert first_anomaly(trace(tg.relu(dead).sum())) is None
    cancelled = leaf([2.0])
    assert first_anomaly(trace((cancelled * 3.0 - cancelled * 3.0).sum())) is None
    unused = tg.ones(3, requires_grad=True)
    assert first_anomaly(trace((unused * 0.0).sum())) is None


def test_a_second_backward_pass_names_the_line_that_made_the_operation() -> None:
    x = leaf([0.0, 1.0])
    with tg.detect_anomaly():
        y = tg.abs(x) ** 1.5  # the second derivative at 0 is infinite
        (dx,) = tg.grad(y.sum(), x, create_graph=True)
        with pytest.raises(tg.AnomalyError, match=r"the second derivative at 0 is infinite"):
            tg.grad(dx.sum(), x)
        root = tg.sqrt(x[0])
        with pytest.raises(tg.AnomalyError, match=r"called at .*root = tg\.sqrt"):
            tg.grad(root, x, create_graph=True)
    assert not modes.MODES.get().scope.source


def test_a_parameter_whose_gradient_is_not_finite_is_named() -> None:
    layer = tg.nn.Linear(2, 1, rng=0, dtype="float64")
    with tg.detect_anomaly():
        y = layer(const([[1e200, 0.0]]))
        with pytest.raises(tg.AnomalyError, match=r"inf in the cotangent of weight.*\(2, 1\)"):
            y.backward(const([[1e200]]))


def test_an_input_changed_in_place_is_named_through_its_view() -> None:
    layer = tg.nn.Linear(2, 1, rng=0)
    x = tg.ones((3, 2), requires_grad=True)
    loss = layer(x).sum()
    layer.weight.assign(0)
    with pytest.raises(tg.InPlaceError, match="weight"):
        loss.backward()
