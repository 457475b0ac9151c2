"""``remat``: the same derivatives to every order, from a function that runs again."""

from __future__ import annotations

import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import array_api_strict
import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import (
    array,
    assert_same_bits,
    assert_unwritable,
    const,
    host_only,
    leaf,
    write,
)
from tinygrad182.arrays import backend
from tinygrad182.engine.modes import at_time

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
    """Nodes of the second run have the scope of the first, and no names of another call."""
    seen: list[int | None] = []

    def f(x: tg.Tensor) -> tg.Tensor:
        y = tg.tanh(x)
        assert y._node is not None
        seen.append(y._node.scope.time)
        return y

    from tinygrad182.engine.modes import at_time

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


@host_only("tracemalloc sees the memory of the host alone")
def test_memory_grows_with_the_root_of_the_length() -> None:
    """√T segments of √T steps hold 2 √T states instead of 2 T."""
    assert peak(20) < peak(0) / 5


CHANGED: dict[str, Callable[[tg.Tensor, tg.Tensor], tg.Tensor]] = {
    "argument": lambda x, c: tg.remat(lambda x, c: x * c)(x, c),
    "from outside": lambda x, c: tg.remat(lambda x: x * c)(x),
    "in a tuple": lambda x, c: tg.remat(lambda x, s: x * s[0])(x, (c, 2.0)),
    "in a dict, by name": lambda x, c: tg.remat(lambda x, *, s: x * s["c"][0])(x, s={"c": [c]}),
    "compared": lambda x, c: tg.remat(lambda x, c: tg.where(c > 0, x * x, x))(x, c),
    "not recorded": lambda x, c: tg.remat(lambda x, c: x * tg.exp(c))(x, c),
    "a view": lambda x, c: tg.remat(lambda x, c: x * c)(x, c[0:1]),
    "a view, from outside": lambda x, c: tg.remat(lambda x: x * c[0:1])(x),
    "detached, from outside": lambda x, c: tg.remat(lambda x: x * c.detach())(x),
}


@pytest.mark.parametrize("by", ["assign", "data"])
@pytest.mark.parametrize("use", CHANGED)
def test_a_constant_changed_before_the_second_run_is_noticed(use: str, by: str) -> None:
    x, c = leaf([2.0]), const([3.0])
    assert (x * c).requires_grad  # c has been recorded before
    y = CHANGED[use](x, c).sum()
    if by == "assign":
        c.assign(-100.0)
    else:
        write(c, -100.0)
    with pytest.raises(tg.InPlaceError, match=r"remat: a constant.*\(1,\)"):
        y.backward()


def test_arrays_among_the_arguments_are_copied() -> None:
    x, factors, places = leaf([1.0, 2.0, 3.0]), array([10.0, 20.0]), array([2, 0])
    f = tg.remat(lambda x, a, *, at: x[at["places"]] * a)
    y = f(x, factors, at={"places": places}).sum()
    write(factors, 7.0)
    write(places, 1)
    y.backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [20.0, 0.0, 10.0])


def test_outputs_keep_type_and_kind() -> None:
    def f(q: tg.Tensor) -> tuple[tg.Tensor, ...]:
        return q * q, tg.astype(q, "float32"), tg.argmax(q), q > 0, q.detach()

    q = leaf([0.1, 0.3, -0.2])
    plain, again = f(q), tg.remat(f)(q)
    for a, b in zip(plain, again, strict=True):
        assert (b.dtype, b.requires_grad) == (a.dtype, a.requires_grad)
        np.testing.assert_array_equal(b.numpy(), a.numpy())
    (found,) = tg.grad((again[0].sum() + tg.astype(again[1], "float64").sum()), q)
    np.testing.assert_allclose(found.numpy(), 2 * q.numpy() + 1, rtol=1e-15)  # type: ignore[union-attr]


def test_arguments_and_results_may_be_nested() -> None:
    def f(state: tuple[tg.Tensor, dict[str, tg.Tensor]], *, a: tg.Tensor) -> dict[str, Any]:
        h, extra = state
        return {"h": h * a, "c": [tg.tanh(extra["c"] * h), (a * a,)]}

    found = []
    for g in (f, tg.remat(f)):
        h, c, a = leaf([0.5, 2.0]), leaf([1.0, -1.0]), leaf([3.0, 0.2])
        out = g((h, {"c": c}), a=a)
        loss = (out["h"] * out["c"][0] + out["c"][1][0]).sum()
        found.append([d.numpy() for d in tg.grad(loss, [h, c, a]) if d is not None])
    assert len(found[1]) == 3
    np.testing.assert_allclose(found[1], found[0], rtol=1e-14)


def test_what_is_returned_as_it_came_keeps_its_gradient_and_its_value() -> None:
    x, w = leaf([2.0, 3.0]), leaf([5.0, 7.0])
    for f, by_x, by_w in (
        (lambda x: w, None, 1.0),
        (lambda x: x[::-1], 1.0, None),
        (lambda x: (w, x)[0] * 1, None, 1.0),
    ):
        y = tg.remat(f)(x)
        for found, expected in zip(tg.grad(y.sum(), [x, w]), (by_x, by_w), strict=True):
            assert (found is None) == (expected is None)
            if found is not None:
                np.testing.assert_array_equal(found.numpy(), [expected] * 2)
    y = tg.remat(lambda x: x[::-1])(x)
    x.assign(0.0)
    np.testing.assert_array_equal(y.numpy(), [3.0, 2.0])
    inner = tg.remat(lambda x: (x * x, x.detach()))(x * 1)[1]
    assert_unwritable(inner)  # a result that the graph holds


def test_the_definition_can_be_run_at_other_values() -> None:
    """A replay of the graph calls it with arrays, also in place of the outside tensors that it used."""
    x, w, c = leaf(X), leaf(W), const(np.array([0.5, 2.0]))
    outside = tg.tanh(w)
    node = tg.remat(lambda x, c: tg.tanh(x @ outside) * c + outside[0])(x, c)._node
    assert node is not None
    assert node.primitive is not None
    xp = backend.namespace(node.value)
    others = [RNG.normal(size=v.shape) for v in (X, W)]
    a, b = (xp.from_numpy(v, xp.device(node.value)) for v in others)
    with backend.on(a):
        found = node.primitive.forward(xp, a, b, c._data)
    expected = np.tanh(others[0] @ others[1]) * [0.5, 2.0] + others[1][0]
    np.testing.assert_allclose(xp.to_numpy(found), expected, rtol=1e-14)


def test_containers_are_kept_as_they_were_and_as_what_they_were() -> None:
    class Pair(NamedTuple):
        a: tg.Tensor
        rest: list[Any]

    def f(pair: Pair, others: OrderedDict[str, tg.Tensor]) -> Pair:
        others.move_to_end("first")
        return Pair(pair.a * sum(pair.rest), [next(iter(others.values())) * 2])

    x, rest, others = leaf([2.0]), [1.0, 2.0], OrderedDict(first=leaf([5.0]), last=leaf([7.0]))
    out = tg.remat(f)(Pair(x, rest), others)
    assert isinstance(out, Pair)
    assert list(others) == ["first", "last"]  # the function was given a copy
    last = others["last"]
    rest.append(100.0)
    del others["last"]
    a, b = tg.grad((out.a + out.rest[0]).sum(), [x, last])
    assert (a.item(), b.item()) == (3.0, 2.0)  # type: ignore[union-attr]


def test_a_direction_in_which_nothing_changes() -> None:
    """A result that does not depend on the argument has tangent 0, with and without remat."""
    x, w = leaf(X), leaf(W)

    def unused(s: tg.Tensor) -> tg.Tensor:
        return tg.remat(lambda x, s: (x @ w).sum())(x, s)

    def half_used(s: tg.Tensor) -> tg.Tensor:
        return tg.remat(lambda x, s: (x @ w, s * 2))(x, s)[0]

    for f in (unused, half_used):
        out, tangent = tg.jvp(f, leaf(W), const(np.ones_like(W)))
        assert_same_bits(tangent, tg.zeros_like(out))
        assert_same_bits(tg.jvp(f, leaf(W), leaf(np.ones_like(W)))[1], tg.zeros_like(out))


def test_a_function_that_runs_again_is_one_node_of_that_name() -> None:
    with at_time(3):
        y = tg.remat(lambda x: x * x)(leaf([1.0]))
    assert y._node is not None
    assert (y._node.op, y._node.place()) == ("remat", ", at t = 3")


def test_what_runs_again_returns_what_the_function_returned() -> None:
    x = leaf([1.0, 2.0])

    def f(x: tg.Tensor, times: int) -> Any:
        return {"y": x * times, "n": (tg.ones(1), [])}

    for context in (tg.enable_grad(), tg.no_grad()):
        with context:
            found = tg.remat(f)(x, times=3)
        assert found["y"].tolist() == [3.0, 6.0]
        assert found["n"][0].tolist() == [1.0]
        assert found["n"][1] == []


def test_an_array_given_to_what_runs_again_is_kept_as_it_was() -> None:
    x = tg.tensor(array_api_strict.asarray([2.0]), requires_grad=True)
    c = array_api_strict.asarray([3.0])
    y = tg.remat(lambda x, c: x * c)(x, c)
    c[...] = 100.0
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3.0]
