"""The ends of the types: half and long precision, subnormal numbers, gates that are nearly shut."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, array, assert_close, const, device, host_only, leaf, write
from tests.tinygrad182.kernels.cases import KINDS, loops, make
from tinygrad182.kernels import runs
from tinygrad182.tensors import functions

FORMS = pytest.mark.parametrize("form", ["compiled", "NumPy"])


def grads(kind: str, dtype: str, fused: bool) -> list[Array]:
    """The gradients of the mean square, for operands of that type."""
    case = make(kind, (5, 2, 3, 4), dtype, gain=0.5)
    inputs = [leaf(x) if np.ndim(x) else x for x in case.inputs]
    run = partial(tg.apply, case.scan) if fused else partial(case.scan.definition, functions)  # type: ignore[arg-type]
    (run(*inputs, **case.params) ** 2).mean().backward()
    return [x.grad.numpy() for x in inputs if isinstance(x, tg.Tensor)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-3), ("longdouble", 1e-16)])
def test_other_types(kind: str, dtype: str, tolerance: float) -> None:
    if dtype == "longdouble" and device() != "cpu":
        pytest.skip("a card has no long precision")
    for a, b in zip(grads(kind, dtype, True), grads(kind, dtype, False), strict=True):
        assert a.dtype == dtype
        assert_close(a, b, tolerance)


@FORMS
def test_small_elements_may_grow_further_back(form: str) -> None:
    """An element that is small beside another at the end may be the larger one at the start."""
    with loops(form):
        rnn = tg.nn.RNN(1, 2, nonlinearity="identity", bias=False, rng=0)
        write(rnn.weight_hh_l0, np.diag([0.5, 4.0]))
        h_0 = tg.zeros((1, 1, 2), requires_grad=True)
        output, _ = rnn(tg.ones((60, 1, 1)), h_0)
        (output[-1, 0, 0] + 1e-36 * output[-1, 0, 1]).backward()
    assert_close(h_0.grad.numpy()[0, 0], [0.5**60, 1e-36 * 4.0**60], 1e-6)


@FORMS
def test_what_is_small_in_a_sum_may_be_all_of_an_element(form: str) -> None:
    with loops(form):
        rnn = tg.nn.RNN(1, 2, nonlinearity="identity", bias=False, rng=0)
        write(rnn.weight_hh_l0, np.eye(2) * 0.5)
        output, _ = rnn(tg.ones((3, 2, 1)))
        (output[-1] * array([[1, 0], [0, 1e-33]], np.float32)).sum().backward()
    assert_close(rnn.weight_ih_l0.grad.numpy()[:, 0], [1.75, 1.75e-33], 1e-6)


@host_only("the compiled loops' own tanh")
def test_what_is_left_to_saturation() -> None:
    """1 − h² depends on the rounding of h, so little more may be lost than by rounding h once."""
    z = np.linspace(4, 8.5, 1000, dtype=np.float32)
    with loops("compiled"):
        rnn = tg.nn.RNN(1, 1, rng=0)
        rnn.weight_ih_l0.data[...], rnn.bias_ih_l0.data[...] = 1, 0
        h = rnn(z.reshape(1, -1, 1))[0].numpy().ravel()
    error = h.astype(np.float64) - np.tanh(z.astype(np.float64))
    assert np.abs(error).max() < 0.6 * 2.0**-24
    assert abs(error.mean()) < 0.02 * 2.0**-24


@FORMS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [False, True])
def test_without_gradients_the_same_states_window_by_window(
    form: str, kind: str, lengths: bool
) -> None:
    case = make(kind, (60, 2, 3, 4), lengths=lengths)
    inputs = [const(x) if np.ndim(x) else x for x in case.inputs]
    with loops(form):
        expected = case.states()
    with loops(form, steps=7), tg.no_grad():
        found = tg.apply(case.scan, *inputs, **case.params)
    assert_close(found.numpy(), expected, 1e-6)


@host_only("a device has one window, for a launch costs more than memory")
def test_without_gradients_no_gates_are_kept() -> None:
    lstm, x = tg.nn.LSTM(2, 16, rng=0), tg.ones((20_000, 4, 2))
    with tg.no_grad():
        lstm(x[:10])
        tracemalloc.start()
        lstm(x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    states = 2 * 20_000 * 4 * 16 * 4
    assert peak < 1.5 * states + 8 * runs.WINDOW_SUMS
