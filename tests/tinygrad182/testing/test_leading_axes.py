"""Rules are called once for each cotangent, unless they promise to take several on leading axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, assert_close, const, host, leaf
from tinygrad182.engine.backpropagation import pull
from tinygrad182.engine.recording import node_of


def lstm_step(**options: Any) -> tg.Primitive:
    """h and c of a step stacked in one array, with a rule as students write it."""

    def forward(xp: Any, z: Any, c: Any) -> Any:
        new = c * xp.tanh(z)
        return xp.stack([xp.tanh(new), new])

    def vjp(xp: Any, g: Any, y: Any, z: Any, c: Any) -> tuple[Any, Any]:
        dh, dc = g[0], g[1]
        total = dc + dh * (1 - y[0] * y[0])
        return total * c * (1 - xp.tanh(z) ** 2), total * xp.tanh(z)

    def jvp(xp: Any, tangents: Any, y: Any, z: Any, c: Any) -> Any:
        dz, dc = (0.0 * z if t is None else t for t in tangents)
        new = dc * xp.tanh(z) + c * dz * (1 - xp.tanh(z) ** 2)
        return xp.stack([new * (1 - y[0] * y[0]), new])

    return tg.Primitive("lstm_step", forward, vjp, jvp, **options)


Z, C = np.random.default_rng(0).normal(size=(2, 2, 3))


def test_a_right_rule_passes_as_students_write_it() -> None:
    step = lstm_step()
    check = tg.testing.check_gradients(lambda z, c: tg.apply(step, z, c), const(Z), const(C))
    assert check.order == 2


def test_a_broken_promise_is_named_with_the_remedy() -> None:
    step = lstm_step(leading_axes=True)
    remedy = r"leading axis(.|\n)*without\s+leading_axes=True"
    with pytest.raises(tg.GradientCheckError, match=remedy):
        tg.testing.check_gradients(lambda z, c: tg.apply(step, z, c), const(Z), const(C))


def test_a_wrong_rule_gets_no_remedy_about_leading_axes() -> None:
    rules = (lambda xp, g, y, x: g[0],)
    wrong = tg.Primitive(
        "wrong", lambda xp, x: xp.stack([x, x]), rules, "linear", leading_axes=True
    )
    with pytest.raises(tg.GradientCheckError) as error:
        tg.testing.check_gradients(lambda x: tg.apply(wrong, x), const(C))
    assert "leading_axes" not in str(error.value)


RULES = {
    "shape": lambda xp, g, y, x: g[0] + 3 * g[1],
    "broadcast": lambda xp, g, y, x: (g[0] + 3 * g[1]) * x,
}


@pytest.mark.parametrize("broadcasts", [False, True])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_views_and_jacobians_name_the_remedy(rule: Any, broadcasts: bool) -> None:
    options: dict[str, Any] = {"broadcasts": broadcasts, "leading_axes": True}
    parts = tg.Primitive("parts", lambda xp, x: xp.stack([x, 3 * x]), (rule,), "linear", **options)
    with pytest.raises(
        tg.ShapeError, match=r"rule of parts .*make the primitive without leading_axes=True"
    ):
        tg.jacobian(lambda x: tg.apply(parts, x), const(C))
    x = tg.inspect.mark(leaf(C) * 1, "h", time=0)
    y = tg.apply(parts, x)
    with pytest.raises(tg.ShapeError, match=r"rule of parts .*without leading_axes=True"):
        tg.inspect.state_grad_matrix([y.sum(), y[0].sum(), y[1].sum()])


def test_a_rule_that_raises_gets_the_remedy_as_a_note() -> None:
    def wrong(xp: Any, g: Any, y: Any, x: Any) -> Any:
        raise IndexError("mine")

    parts = tg.Primitive("parts", lambda xp, x: 3 * x, (wrong,), "linear", leading_axes=True)
    with pytest.raises(IndexError, match="mine") as error:
        tg.jacobian(lambda x: tg.apply(parts, x), const(C))
    (note,) = error.value.__notes__
    assert "rule of parts" in note
    assert "without leading_axes=True" in note


def test_a_rule_that_fails_for_one_cotangent_keeps_its_error() -> None:
    def wrong(xp: Any, g: Any, y: Any, x: Any) -> Any:
        raise ValueError("mine")

    parts = tg.Primitive("parts", lambda xp, x: 3 * x, (wrong,), "linear")

    def f(x: Any) -> Any:
        return tg.apply(parts, x)

    for fails in (lambda x: f(x).sum().backward(), lambda x: tg.jacobian(f, x)):
        with pytest.raises(ValueError, match=r"^mine$") as error:
            fails(leaf(C))
        assert not hasattr(error.value, "__notes__")


@pytest.mark.parametrize("lead", [(0,), (1,), (4,), (2, 3)])
def test_cotangents_at_once_give_the_gradients_of_one_by_one(lead: tuple[int, ...]) -> None:
    z, c = leaf(Z), leaf(C)
    node = node_of(tg.apply(lstm_step(), z, c))
    rows = np.random.default_rng(1).normal(size=(*lead, 2, 2, 3))

    def pulled(g: Any) -> list[Any]:
        return [host(part) for _, part in pull(node, array(g), {node_of(z), node_of(c)})]

    each = [pulled(g) for g in rows.reshape(-1, 2, 2, 3)]
    for i, found in enumerate(pulled(rows)):
        assert_close(found, np.array([one[i] for one in each]).reshape(*lead, 2, 3), 1e-15)


def clipped(xp: Any, g: Any, y: Any, x: Any, b: Any) -> Any:
    """A rule of an elementwise operation that writes into the cotangent, as if there were only one."""
    g = xp.broadcast_to(g, y.shape) * 1.0
    if isinstance(g, np.ndarray):
        g[y == 0] = 0.0
        return g
    return xp.where(y > 0, g, 0.0)


def test_an_elementwise_rule_may_write_where_the_result_is_zero() -> None:
    """With as many cotangents as rows, a mask of the result's shape would pick cotangents."""
    mine = tg.Primitive(
        "mine",
        lambda xp, x, b: xp.maximum(x + b, 0.0),
        (clipped, clipped),
        "elementwise",
        broadcasts=True,
    )
    x, b = np.array([[0.3], [-2.0], [1.0]]), np.array([0.5])
    check = tg.testing.check_gradients(lambda x, b: tg.apply(mine, x, b), x, b)
    assert check.order == 2
    jacobian = tg.jacobian(lambda b: tg.apply(mine, const(x), b)[:, 0], const(b))
    assert_close(jacobian, [[1.0], [0.0], [1.0]], 0.0)


def test_hops_call_an_elementwise_rule_for_each_number_of_hops() -> None:
    """The two sequences fade at different rates; the gradient of the repeated row is their sum."""

    def rule(xp: Any, g: Any, y: Any, h: Any, b: Any) -> Any:
        assert g.shape == y.shape
        return 1.0 * g

    plus = tg.Primitive("plus", lambda xp, h, b: h + b, (rule, rule), "elementwise", True)
    h = tg.inspect.mark(leaf(np.ones((2, 3))) * 1, "h", time=0)
    h = tg.apply(plus, h.sum(axis=0, keepdims=True), const(np.zeros((2, 3))))
    for t in range(1, 40):
        h = tg.inspect.mark(h * const([[1e-5], [0.5]]), "h", time=t)
    hops = tg.inspect.grad_by_hops(h.sum(), 39)
    assert_close(hops.grad_norm[39, 0], np.sqrt(6) * 0.5**39, 1e-13)


def test_jacobians_hessians_and_views() -> None:
    """Compared with the operation whose rule takes leading axes."""
    step = lstm_step()

    def right(z: Any, c: Any) -> Any:
        new = c * tg.tanh(z)
        return tg.stack([tg.tanh(new), new])

    def ours(z: Any, c: Any) -> Any:
        return tg.apply(step, z, c)

    z, c = const(Z), const(C)
    assert_close(tg.jacobian(lambda z: ours(z, c), z), tg.jacobian(lambda z: right(z, c), z), 1e-14)
    assert_close(
        tg.hessian(lambda z: (ours(z, c) ** 2).sum(), z),
        tg.hessian(lambda z: (right(z, c) ** 2).sum(), z),
        1e-13,
    )

    def blocks(f: Any) -> Any:
        w, h, c = leaf(np.eye(3) * 0.7), const(Z), const(C)
        for t in range(4):
            both = f(h @ w, c)
            h, c = tg.inspect.mark(both[0], "h", time=t), tg.inspect.mark(both[1], "c", time=t)
        return tg.inspect.step_jacobians((h * h).sum() + c.sum())

    assert_close(blocks(ours).matrices, blocks(right).matrices, 1e-13)
