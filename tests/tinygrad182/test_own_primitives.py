"""Primitives of your own: their declarations, and valid and invalid results of their rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, const, host, leaf
from tinygrad182.arrays import backend


def test_an_elementwise_primitive_may_have_parameters() -> None:
    scaled = tg.Primitive(
        "scaled",
        forward=lambda xp, x, *, by: x * by,
        vjp=(lambda xp, g, y, x, *, by: g * by,),
        jvp="elementwise",
    )
    _, tangent = tg.jvp(lambda x: tg.apply(scaled, x, by=3.0), const([1.0]), const([2.0]))
    assert tangent.tolist() == [6.0]  # type: ignore[union-attr]


def test_primitives_say_how_they_push_tangents() -> None:
    kinds = {p.name: p.jvp for p in tg.PRIMITIVES.values() if not callable(p.jvp)}
    assert set(kinds.values()) == {"elementwise", "linear", "multilinear", "definition"}
    assert (kinds["exp"], kinds["reshape"], kinds["matmul"]) == (
        "elementwise",
        "linear",
        "multilinear",
    )


def test_primitives_say_what_they_broadcast_and_what_is_a_view() -> None:
    table = tg.PRIMITIVES
    assert not any(table[name].broadcasts for name in ("sum", "index", "concat", "einsum"))
    assert all(table[name].broadcasts for name in ("add", "matmul", "broadcast_to"))
    assert not any(table[name].view for name in ("exp", "add", "sum", "concat", "stack"))
    assert all(table[name].view for name in ("reshape", "index", "flip", "broadcast_to"))


def _with_rule(rule: Any, broadcasts: bool = False, together: bool = False) -> tg.Primitive:
    """Twice its input, by a derivative rule of your own that promises leading axes."""
    return tg.Primitive(
        "wrong",
        forward=lambda xp, x: 2.0 * x,
        vjp=(lambda *args: (rule(*args),)) if together else (rule,),
        jvp="linear",
        broadcasts=broadcasts,
        leading_axes=True,
    )


WRONG = {
    "another size": lambda xp, g, y, x: xp.concat([g, g], axis=-1),
    "the first axis lost": lambda xp, g, y, x: g[0],
    "the first axis summed": lambda xp, g, y, x: xp.sum(g, axis=0, keepdims=True),
    "an axis more behind, of one": lambda xp, g, y, x: g[..., None],
    "as many elements": lambda xp, g, y, x: xp.permute_dims(
        g, (*range(g.ndim - 2), g.ndim - 1, g.ndim - 2)
    ),
}


@pytest.mark.parametrize(("together", "broadcasts"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("rule", WRONG)
def test_a_rule_that_returns_a_wrong_shape_raises(
    rule: str, together: bool, broadcasts: bool
) -> None:
    """A rule gets one cotangent, or several that come at once."""
    wrong, x = _with_rule(WRONG[rule], broadcasts, together), leaf(np.ones((3, 4)))
    with pytest.raises(tg.ShapeError, match="the derivative rule of wrong returned shape"):
        tg.apply(wrong, x).sum().backward()
    with pytest.raises(tg.ShapeError, match=r"returned shape .*several cotangents come at once"):
        tg.jacobian(lambda x: tg.apply(wrong, x), x)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("rule", [lambda *_: 2.0, lambda xp, g, y, x: [g]])
def test_a_rule_that_returns_no_array_raises(rule: Any, together: bool) -> None:
    with pytest.raises(tg.DTypeError, match=r"rule of wrong returned a .*array .*\(3,\)"):
        tg.apply(_with_rule(rule, together=together), leaf(np.ones(3))).sum().backward()


def _product(vjp: Any, **options: Any) -> Any:
    """The product of two Tensors by a primitive of your own, as a function."""
    product = tg.Primitive("product", lambda xp, a, b: a * b, vjp, "elementwise", **options)
    return lambda a, b: tg.apply(product, a, b)


def _backward(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    f(a, b).sum().backward()


def _twice_backward(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    tg.grad(f(a, b).sum(), (a, b), create_graph=True)


def _jacobian(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    tg.jacobian(lambda b: f(a, b), b)


def _jvp(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    tg.jvp(f, (a, b), (a, b))


DERIVED = [_backward, _twice_backward, _jacobian, _jvp]


RETURNED: dict[str, tuple[Any, type[Exception], str]] = {
    "too few": (lambda xp, g, y, a, b: (g * b,), tg.ShapeError, "a tuple of 1"),
    "none": (lambda xp, g, y, a, b: (), tg.ShapeError, "a tuple of 0"),
    "too many": (lambda xp, g, y, a, b: [g * b, g * a, g], tg.ShapeError, "a list of 3"),
    "nothing": (lambda xp, g, y, a, b: None, tg.DTypeError, "a NoneType"),
    "a function": (lambda xp, g, y, a, b: len, tg.DTypeError, "a builtin_function_or_method"),
    "an array": (
        lambda xp, g, y, a, b: xp.stack([g * b, g * a]),
        tg.DTypeError,
        "a (ndarray|Tensor)",
    ),
}


@pytest.mark.parametrize("derived", DERIVED)
@pytest.mark.parametrize("leading_axes", [False, True])
@pytest.mark.parametrize("name", RETURNED)
def test_a_rule_for_all_inputs_returns_a_cotangent_for_each(
    name: str, leading_axes: bool, derived: Any
) -> None:
    rule, kind, returned = RETURNED[name]
    f = _product(rule, leading_axes=leading_axes)
    message = f"^the derivative rule of product returned {returned}, for 2 inputs; return a tuple "
    with pytest.raises(kind, match=message):
        derived(f, leaf([0.5, 2.0]), leaf([1.0, 3.0]))


@pytest.mark.parametrize("derived", DERIVED)
@pytest.mark.parametrize("leading_axes", [False, True])
@pytest.mark.parametrize(
    ("vjp", "told"),
    [
        ((lambda xp, g, y, a, b: g * b,), "a tuple of 1"),
        ((), "a tuple of 0"),
        (None, "a NoneType"),
    ],
)
def test_there_is_a_rule_for_each_input(
    vjp: Any, told: str, leading_axes: bool, derived: Any
) -> None:
    f = _product(vjp, leading_axes=leading_axes)
    message = f"^the vjp of product is {told}, for 2 inputs; pass a tuple with a rule for each"
    with pytest.raises((tg.ShapeError, tg.DTypeError), match=message):
        derived(f, leaf([0.5, 2.0]), leaf([1.0, 3.0]))


@pytest.mark.parametrize("kind", [tuple, list])
def test_an_elementwise_rule_may_be_one_for_all_inputs(kind: Any) -> None:
    f = _product(lambda xp, g, y, a, b: kind([g * b, g * a]))
    a, b = const([0.5, 2.0]), const([1.0, 3.0])
    tg.testing.check_gradients(f, a, b)
    _, tangent = tg.jvp(f, (a, b), (const([1.0, 0.0]), const([10.0, 1.0])))
    assert host(tangent).tolist() == [6.0, 2.0]


@pytest.mark.parametrize("found", [1.0, None, [1.0], tg.ones(3)])
def test_a_forward_that_returns_no_array_raises(found: Any) -> None:
    primitive = tg.Primitive("wrong", lambda xp, x: found, (lambda xp, g, y, x: g,), "linear")
    for x in (leaf(np.ones(3)), tg.ones(3)):
        with pytest.raises(tg.DTypeError, match=r"^wrong: the forward returned a .*array"):
            tg.apply(primitive, x)


def test_only_a_primitive_that_broadcasts_may_leave_repeated_axes_to_the_engine() -> None:
    x = leaf(np.ones((3, 1)))
    (g,) = tg.grad(tg.apply(_with_rule(WRONG["another size"], broadcasts=True), x).sum(), x)
    assert g is not None
    assert g.tolist() == [[2.0]] * 3
    with pytest.raises(tg.ShapeError, match=r"wrong returned shape \(3, 2\)"):
        tg.apply(_with_rule(WRONG["another size"]), x).sum().backward()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rule_may_return_a_wider_type_or_a_scalar(shape: tuple[int, ...], dtype: str) -> None:
    """An input's gradient has the input's own type, and is an array."""

    def rule(xp: Any, g: Any, y: Any, x: Any) -> Any:
        return 2.0 * xp.astype(g, dtype)[()]

    x = leaf(np.ones(shape, np.float32))
    for create_graph in (False, True):
        (g,) = tg.grad(tg.apply(_with_rule(rule), x).sum(), x, create_graph=create_graph)
        assert g is not None
        assert g.dtype == tg.float32
        assert_close(g, np.full(shape, 2.0), 0.0)
        assert backend.is_array(g._data)
