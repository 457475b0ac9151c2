"""``remat``: the same derivatives to every order, from a function that is run again."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, leaf

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 2))


def cell(x: tg.Tensor, w: tg.Tensor) -> tg.Tensor:
    return tg.tanh(x @ w) * x


def gradients(wrap: Any) -> list[np.ndarray[Any, Any]]:
    """First and second derivatives of two cells in a row, by x and by a weight from outside."""
    x, w = leaf(X), leaf(W)
    outside = tg.tanh(w)  # depends on w, which the function uses too
    step = wrap(lambda x: cell(x, w) + x @ outside)
    loss = (step(step(x)) ** 2).sum()
    first = tg.grad(loss, [x, w], create_graph=True)
    penalty = sum((g * g).sum() for g in first if g is not None)
    assert isinstance(penalty, tg.Tensor)
    return [g.numpy() for g in [*first, *tg.grad(penalty, [x, w])] if g is not None]


def test_derivatives_are_those_of_the_function() -> None:
    for plain, again in zip(gradients(lambda f: f), gradients(tg.remat), strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-12)


def test_tangents_are_those_of_the_function() -> None:
    v = RNG.normal(size=X.shape)
    w = tg.tensor(W)
    for f in (lambda x: cell(x, w), lambda x: (cell(x, w) ** 2).sum()):
        _, plain = tg.jvp(f, tg.tensor(X), v)
        _, again = tg.jvp(tg.remat(f), tg.tensor(X), v)
        np.testing.assert_allclose(again.numpy(), plain.numpy(), rtol=1e-13)  # type: ignore[union-attr]


def test_jacobians_carry_all_rows_through() -> None:
    w = tg.tensor(W)
    plain = tg.jacobian(lambda x: cell(x, w), tg.tensor(X))
    again = tg.jacobian(tg.remat(lambda x: cell(x, w)), tg.tensor(X))
    np.testing.assert_allclose(again.numpy(), plain.numpy(), rtol=1e-13)


def test_several_outputs_and_constants_among_the_arguments() -> None:
    def f(x: tg.Tensor, n: int, c: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        return (x * c) ** n, x.sum()

    results = []
    for g in (f, tg.remat(f)):
        x = leaf(X)
        a, b = g(x, 3, tg.tensor(X + 1))
        assert a.shape == X.shape
        assert b.shape == ()
        (a.sum() * b).backward()
        assert x.grad is not None
        results.append(x.grad.numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-13)


def test_a_recomputed_state_keeps_its_place() -> None:
    """What is recorded again has the scope it was first recorded under: no other call's names."""
    seen: list[int | None] = []

    def f(x: tg.Tensor) -> tg.Tensor:
        y = tg.tanh(x)
        assert y._node is not None
        seen.append(y._node.scope.time)
        return y

    from tinygrad182.modes import at_time

    x = leaf(X)
    with at_time(7):
        y = tg.remat(f)(x)
    y.sum().backward()
    assert seen == [7, 7]


def test_a_weight_changed_in_between_is_noticed() -> None:
    x, w = leaf(X), leaf(W)
    loss = tg.remat(lambda x: cell(x, w))(x).sum()
    w.assign(0)
    with pytest.raises(tg.InPlaceError):
        loss.backward()


def test_nothing_is_recorded_without_grad_or_need() -> None:
    f = tg.remat(lambda x: x * 2)
    assert not f(tg.ones(2)).requires_grad
    with tg.no_grad():
        assert not f(leaf(X)).requires_grad
    with pytest.raises(tg.ArgumentError, match="remat"):
        tg.remat(lambda x: 3.0)(leaf(X))


def peak(segment: int, steps: int = 400) -> int:
    """Bytes at the peak of a forward and backward pass in segments (0: nothing is recomputed)."""
    w = leaf(np.eye(64) * 0.9)

    def run(h: tg.Tensor, count: int) -> tg.Tensor:
        for _ in range(count):
            h = tg.tanh(h @ w)
        return h

    tracemalloc.start()
    h = leaf(np.ones((16, 64)))
    if segment:
        for _ in range(steps // segment):
            h = tg.remat(lambda h: run(h, segment))(h)
    else:
        h = run(h, steps)
    h.sum().backward()
    _, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return top


def test_memory_grows_with_the_root_of_the_length() -> None:
    """√T segments of √T steps hold 2 √T states instead of 2 T."""
    assert peak(20) < peak(0) / 5


def test_a_constant_changed_before_the_second_run_is_noticed() -> None:
    for through in ("argument", "closure"):
        x, c = leaf([2.0]), const([3.0])
        assert (x * c).requires_grad  # c has been recorded before
        f = (
            tg.remat(lambda x, c: x * c)
            if through == "argument"
            else tg.remat(lambda x, _, c=c: x * c)
        )
        y = f(x, c).sum()
        c.assign(100.0)
        with pytest.raises(tg.InPlaceError, match=r"remat: a constant of shape \(1,\)"):
            y.backward()
