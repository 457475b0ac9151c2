"""backward and grad: accumulation, freeing, pruning, cotangents, higher derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import (
    assert_close,
    assert_same_bits,
    const,
    device,
    leaf,
    write,
)
from tinygrad182.arrays import backend

Run = Callable[..., Any]


def _grad_of(x: tg.Tensor) -> Any:
    assert x.grad is not None
    return x.grad.numpy()


# --- accumulation -------------------------------------------------------------------------------


def test_gradients_add_up_over_backward_passes() -> None:
    x = leaf([1.0, 2.0])
    for times in (1, 2, 3):
        (x * x).sum().backward()
        assert_same_bits(_grad_of(x), np.array([2.0, 4.0]) * times)


def test_a_gradient_is_copied_only_where_there_is_none_to_add_it_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, copies = leaf([1.0, 2.0]), []
    copy = backend.copy
    monkeypatch.setattr(backend, "copy", lambda array: copies.append(0) or copy(array))
    for passes in range(3):
        y = x * 1.0
        y.backward(const([3.0, 4.0]))
        assert len(copies) == 1
        assert_same_bits(_grad_of(x), np.array([3.0, 4.0]) * (passes + 1))


def test_a_gradient_that_was_set_is_added_to_and_not_written_into() -> None:
    x, given = leaf([1.0, 2.0]), const([10.0, 10.0])
    x.grad = given
    before = x.grad.numpy().copy()
    (x * x).sum().backward()
    assert_same_bits(_grad_of(x), before + np.array([2.0, 4.0]))
    assert_same_bits(given, before)


def test_an_earlier_gradient_is_not_written_into() -> None:
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert first is not None
    assert first.tolist() == [2.0, 4.0]


def test_gradients_of_several_leaves_share_no_memory() -> None:
    a, b, g = leaf([1.0, 2.0]), leaf([3.0, 4.0]), const([5.0, 6.0])
    (a + b).backward(g)  # one cotangent for both
    assert a.grad is not None
    assert b.grad is not None
    write(a.grad, 0)
    assert b.grad.tolist() == g.tolist() == [5.0, 6.0]
    write(b.grad, 0)
    assert g.tolist() == [5.0, 6.0]
    c = leaf(np.zeros((2, 2)))
    c.sum().backward()  # a stride-0 view inside
    assert c.grad is not None
    write(c.grad, 5.0, at=(0, 0))
    assert c.grad.tolist() == [[5.0, 1.0], [1.0, 1.0]]


def test_grad_leaves_the_leaves_alone() -> None:
    x = leaf([1.0, 2.0])
    tg.grad((x * x).sum(), x)
    assert x.grad is None


def test_only_leaves_keep_gradients_unless_requested() -> None:
    x = leaf([1.0, 2.0])
    y, z = x * 3, x * 5
    z.retain_grad()
    ((y + z) * z).sum().backward()
    assert y.grad is None
    assert_same_bits(_grad_of(z), y.numpy() + 2 * z.numpy())


def test_constants_get_no_gradient() -> None:
    x, c = leaf([1.0]), const([2.0])
    (x * c).sum().backward()
    assert c.grad is None


# --- what grad returns --------------------------------------------------------------------------


def test_none_for_what_was_not_reached() -> None:
    x, other, plain = leaf([1.0]), leaf([2.0]), const([3.0])
    y = (x * plain).sum()
    dx, nothing, constant = tg.grad(y, [x, other, plain])
    assert dx is not None
    assert nothing is None
    assert constant is None


def test_inputs_may_be_intermediate_repeated_or_the_output() -> None:
    x = leaf([1.0, 2.0])
    h = x * 3
    y = (h * h).sum()
    dy, dh, dx, again = tg.grad(y, [y, h, x, x])
    assert dy is not None
    assert again is not None
    assert dy.item() == 1.0
    assert_close(dh, 2 * h.numpy(), 1e-15)
    assert_close(dx, 18 * x.numpy(), 1e-15)
    assert_same_bits(again, dx)
    assert dx is not None
    write(again, 0)
    assert_close(dx, 18 * x.numpy(), 1e-15)


def test_generators_of_tensors_are_taken() -> None:
    xs = [leaf([1.0]), leaf([2.0])]
    found = tg.grad((xs[0] * xs[1]).sum(), (x for x in xs))
    assert [g.item() for g in found if g is not None] == [2.0, 1.0]


@pytest.mark.parametrize("kind", ["tensor", "array", "float32", "list", "recorded"])
def test_cotangents_of_every_kind(kind: str) -> None:
    x = leaf([1.0, 2.0])
    g: Any = {
        "tensor": lambda: const([3.0, 4.0]),
        "array": lambda: const([3.0, 4.0]).data,
        "float32": lambda: const(np.array([3.0, 4.0], "float32")),
        "list": lambda: [3.0, 4.0],
        "recorded": lambda: leaf([3.0, 4.0]),
    }[kind]()
    (x * x).backward(g)
    assert_same_bits(_grad_of(x), [6.0, 16.0])
    assert _grad_of(x).dtype == np.float64


def test_a_number_is_the_cotangent_of_a_0d_output() -> None:
    x = leaf([1.0, 2.0])
    (x * x).sum().backward(3)
    assert_same_bits(_grad_of(x), [6.0, 12.0])


def test_a_single_element_needs_no_cotangent() -> None:
    for shape in ((), (1,), (1, 1)):
        x = leaf(np.full(shape, 3.0))
        (x * x).backward()
        assert_same_bits(_grad_of(x), np.full(shape, 6.0))


def test_a_leaf_is_its_own_output() -> None:
    x = leaf(3.0)
    x.backward()
    assert _grad_of(x) == 1.0


# --- higher derivatives -------------------------------------------------------------------------


def test_create_graph_to_any_order() -> None:
    x = leaf(1.3)
    y = tg.sin(x)
    for k in range(1, 7):
        (y,) = tg.grad(y, x, create_graph=True)  # type: ignore[assignment]
        expected = [np.sin, np.cos, lambda t: -np.sin(t), lambda t: -np.cos(t)][k % 4](1.3)
        assert y.item() == pytest.approx(expected, rel=1e-14)


def test_backward_with_create_graph_leaves_recorded_gradients() -> None:
    x = leaf([1.0, 2.0])
    (x**3).sum().backward(create_graph=True)
    assert x.grad is not None
    first = x.grad
    assert first.requires_grad
    x.grad = None
    (first * first).sum().backward()
    assert_close(x.grad, 36 * x.numpy() ** 3, 1e-15)


def test_a_penalty_on_the_gradient() -> None:
    """d/dw of ‖∂L/∂x‖²: what gradient penalties and double backpropagation need."""
    w, x = leaf([[0.3, -0.2], [0.5, 0.4]]), leaf([0.7, -1.1])
    (dx,) = tg.grad(tg.tanh(x @ w).sum(), x, create_graph=True)
    assert dx is not None
    (found,) = tg.grad((dx * dx).sum(), w)
    moved = w.numpy().astype(complex)
    expected = np.zeros((2, 2))
    for index in np.ndindex(2, 2):
        step = moved.copy()
        step[index] += 1e-20j
        slope = step @ (1 - np.tanh(x.numpy() @ step) ** 2)
        expected[index] = (slope**2).sum().imag / 1e-20
    assert_close(found, expected, 1e-14)


def test_the_cotangent_may_be_differentiated_too() -> None:
    """This holds also if a rule passes the cotangent on unchanged."""
    x, g = leaf([1.0, 2.0]), leaf([3.0, 5.0])
    for f, slope in ((lambda x: x + 1, [1.0, 1.0]), (lambda x: x * x, [2.0, 4.0])):
        (dx,) = tg.grad(f(x), x, g, create_graph=True)
        assert dx is not None
        (dg,) = tg.grad(dx.sum(), g)
        assert dg is not None
        assert dg.tolist() == slope


def test_a_raw_cotangent_is_copied_when_recorded() -> None:
    x = leaf([1.0, 2.0])
    g = const([1.0, 1.0]).data
    (dx,) = tg.grad(x**3, x, g, create_graph=True)
    g[...] = 100.0
    assert dx is not None
    (second,) = tg.grad(dx.sum(), x)
    assert_close(second, 6 * x.numpy(), 1e-15)


# --- linear in the number of uses ---------------------------------------------------------------


def test_a_step_of_a_sequence_at_a_time() -> None:
    """Dense zeros per step would take 10,000 · 10,000 additions."""
    x = leaf(np.linspace(-1, 1, 10_000))
    total: Any = 0.0
    for t in range(10_000):
        total = total + x[t] * x[t]
    total.backward()
    assert_same_bits(_grad_of(x), 2 * x.numpy())


def test_a_wide_fan_out_is_added_in_one_buffer() -> None:
    x = leaf(np.ones(100))
    y = tg.stack([x * k for k in range(2000)]).sum()
    y.backward()
    assert_same_bits(_grad_of(x), np.full(100, 2000 * 1999 / 2))


def test_two_runs_give_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((5, 5)) for _ in range(3)]

    def run() -> list[Any]:
        xs = [leaf(v) for v in values]
        h = xs[0]
        for _ in range(10):
            h = tg.tanh(h @ xs[1] + h * xs[2]) + h[::-1] + tg.softmax(h)
        h.sum().backward()
        return [_grad_of(x).copy() for x in xs]

    for a, b in zip(run(), run(), strict=True):
        assert_same_bits(a, b)


def test_gradients_stay_on_their_device() -> None:
    x = leaf([1.0])
    (x * x).sum().backward()
    assert x.grad is not None
    assert x.grad.device == device()


def test_a_condition_that_requires_grad_gets_none() -> None:
    x = leaf([1.0, 0.0])
    tg.where(x, x * 2, 0.0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 0.0]
    c = leaf([1.0, 0.0])
    assert tg.grad(tg.where(c, x, 0.0).sum(), c) == [None]


def test_gradients_add_up_whether_recorded_or_not() -> None:
    x = tg.tensor([3.0], requires_grad=True)
    (x * x).sum().backward()
    (x * 5).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [11.0]
    assert not x.grad.requires_grad
    (x * x * x).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    assert x.grad.tolist() == [38.0]
