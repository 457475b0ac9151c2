"""The engine's errors name the operation, shapes and dtypes, the place, and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, leaf, refused
from tinygrad182.engine.modes import at_time

X = np.arange(6.0).reshape(2, 3)

Call = Callable[[tg.Tensor], Any]


def _freed(x: tg.Tensor) -> None:
    with at_time(3):
        y = tg.tanh(x)
    y.sum().backward()
    y.sum().backward()


def _freed_itself(x: tg.Tensor) -> None:
    y = x[0, 0] * 2
    y.backward()
    y.backward()


def _changed(x: tg.Tensor) -> None:
    with at_time(3):
        y = x * x
    x.assign(0)
    y.sum().backward()


def _changed_parameter(x: tg.Tensor) -> None:
    layer = tg.nn.Linear(3, 2, rng=0, dtype="float64")
    y = tg.nn.Sequential(layer)(x)
    layer.bias.assign(0)  # type: ignore[union-attr]
    y.sum().backward()


def _changed_view(x: tg.Tensor) -> None:
    row = x[0]
    y = row * row
    x.assign(0)
    y.sum().backward()


def _changed_before_it_runs_again(x: tg.Tensor) -> None:
    c = const(X)
    y = tg.remat(lambda x, c: x * c)(x, c)
    c.assign(0)
    y.sum().backward()


def _changed_argument_before_it_runs_again(x: tg.Tensor) -> None:
    y = tg.remat(lambda x: x * x)(x)
    x.assign(0)
    y.sum().backward()


WRONG = tg.Primitive("wrong", lambda xp, x: x * 2, (lambda xp, g, y, x: g[:1],), "linear")
TOO_FEW = tg.Primitive("product", lambda xp, a, b: a * b, lambda xp, g, y, a, b: (g * b,), "linear")
ONE_RULE = tg.Primitive("product", lambda xp, a, b: a * b, (lambda xp, g, y, a, b: g,), "linear")

# The call, and what its message must name.
MESSAGES: list[tuple[Call, tuple[str, ...]]] = [
    # --- where a backward pass starts ---
    (lambda x: tg.inspect.trace(3.0), ("trace", "output", "float", "Tensor")),  # type: ignore[arg-type]
    (lambda x: tg.ones(()).backward(), ("backward", "output", "requires_grad=True", "no_grad()")),
    (lambda x: (x * 1j).backward(), ("backward", "output", "complex128")),
    (lambda x: tg.grad(x * 2, x), ("grad", "output", "(2, 3)", ".sum()", "cotangent")),
    (lambda x: x.backward("a"), ("backward", "'a'", "cotangent", "<U1")),
    (lambda x: x.backward(const(np.ones(4))), ("backward", "cotangent", "(4,)", "(2, 3)")),
    (lambda x: tg.grad(x.sum(), [3.0]), ("grad", "outputs", "inputs", "Tensors")),  # type: ignore[list-item]
    (lambda x: tg.grad(x.sum(), x, [1.0, 2.0]), ("grad", "1", "2", "grad_outputs")),
    # --- on its way ---
    (
        lambda x: tg.apply(TOO_FEW, x, x).sum().backward(),
        ("product", "tuple of 1", "2 inputs", "None", "vjp=(rule,)"),
    ),
    (
        lambda x: tg.apply(ONE_RULE, x, x).sum().backward(),
        ("vjp of product", "tuple of 1", "2 inputs", "None"),
    ),
    (_freed, ("tanh", "at t = 3", "freed", "state.detach()", "retain_graph=True")),
    (_freed_itself, ("multiply", "freed", "retain_graph=True")),
    (_changed, ("backward of multiply", "at t = 3", "(2, 3)", "in place")),
    (_changed_parameter, ("backward of add", "in 0", "0.bias", "(2,)", "in place")),
    (_changed_view, ("backward of multiply", "view", "index", "(3,)", "in place")),
    (
        _changed_before_it_runs_again,
        ("backward of remat", "constant", "(2, 3)", "in place", "copy"),
    ),
    (_changed_argument_before_it_runs_again, ("backward of remat", "(2, 3)", "in place", "copy")),
    (lambda x: tg.apply(WRONG, x).sum().backward(), ("wrong", "(1, 3)", "(2, 3)")),
    # --- derivatives of functions ---
    (lambda x: tg.vjp(lambda x: x, x)[1](), ("vjp_fn", "1", "0", "cotangents")),
    (lambda x: tg.jvp(lambda x, y: x, [x, x], [x]), ("jvp", "2", "1", "directions")),
    (
        lambda x: tg.jvp(lambda x: x, x, const(np.ones(4))),
        ("jvp", "direction", "(4,)", "(2, 3)"),
    ),
    (lambda x: tg.jacobian(lambda x: (x, x), x), ("jacobian", "one Tensor")),
    (lambda x: tg.hessian(lambda x: x, x), ("hessian", "one Tensor", "single element")),
    (lambda x: tg.hessian(lambda x: (x.sum(), x), x), ("hessian", "one Tensor", "single element")),
    (lambda x: tg.vjp(lambda x: 3.0, x), ("vjp", "Tensor", "tuple", "float")),
    (lambda x: tg.jvp(lambda x: [x, 3.0], x, x), ("jvp", "Tensor", "tuple", "list")),
    (lambda x: tg.jacobian(lambda x: 3.0, x), ("jacobian", "Tensor", "tuple", "float")),
    (lambda x: tg.hessian(lambda x: None, x), ("hessian", "Tensor", "tuple", "NoneType")),
    (lambda x: tg.remat(lambda x: [x, 3.0])(x), ("remat", "Tensor", "tuple")),
    # --- operands an operation cannot take ---
    (lambda x: x * np.array(["a"]), ("multiply", "<U1")),
    (
        lambda x: x * np.ma.masked_array(X, X > 2),
        ("multiply", "MaskedArray", "mask", "m.filled(0)", "tg.where"),
    ),
    (lambda x: x + None, ("add", "'NoneType'", "tg.tensor(...)")),
    (
        lambda x: tg.where(x > 0, 2.0, const(np.ones(7))),
        ("where", "(2, 3) bool", "2.0", "(7,) float64", "broadcast"),
    ),
    (
        lambda x: tg.apply(tg.PRIMITIVES["stack"], *[x] * 4, const(1.0), axis=-1),
        ("stack", "(2, 3) float64", "shapes"),
    ),
    (lambda x: tg.arange(3) ** -1, ("power", "(3,) int64", "-1", "negative integer powers")),
    (lambda x: const(np.ones(2, np.int8)) + 1000, ("add", "(2,) int8", "1000", "out of bounds")),
    (lambda x: x > const(np.ones(4)), ("greater", "(2, 3) float64", "(4,) float64")),
    (
        lambda x: tg.apply(tg.PRIMITIVES["flip"], x, axis=(-9,)),
        ("flip", "(2, 3) float64", "axis -9", "out of bounds"),
    ),
]


@pytest.mark.parametrize(("call", "names"), MESSAGES, ids=[", ".join(n) for _, n in MESSAGES])
def test_messages(call: Call, names: tuple[str, ...]) -> None:
    with refused(tg.TinygradError, *names):
        call(leaf(X))


def test_what_raised_an_error_is_kept_as_its_cause() -> None:
    for call in (lambda: leaf(X) + leaf(np.ones(4)), lambda: leaf(X).backward([[1.0], []])):
        with pytest.raises(tg.TinygradError) as caught:
            call()
        assert isinstance(caught.value.__cause__, ValueError)
        assert not isinstance(caught.value.__cause__, tg.TinygradError)


def test_the_place_is_named() -> None:
    for call, names in (
        (lambda x: x + const(np.ones(4)), ("add", "(2, 3) float64", "(4,) float64", "at t = 7")),
        (lambda x: x + None, ("add", "at t = 7", "'NoneType'")),
    ):
        with at_time(7), refused(tg.TinygradError, *names):
            call(leaf(X))


def test_a_name_is_defined_once() -> None:
    def tanh(xp: Any, x: Any) -> Any:
        return x

    with refused(ValueError, "'tanh'", "already defined"):
        tg.define(tanh, None, jvp="linear")


def test_a_trailing_underscore_is_not_part_of_the_name() -> None:
    def maxX_(xp: Any, x: Any) -> Any:  # noqa: N802
        return x

    assert tg.define(maxX_, None, jvp="linear") is tg.PRIMITIVES.pop("maxX")


def test_nodes_and_primitives_say_what_they_are() -> None:
    y = leaf(X) * 2
    assert repr(tg.PRIMITIVES["multiply"]) == "<primitive multiply>"
    assert repr(tg.inspect.trace(y.sum()).select(op="multiply")[0]) == "<multiply (2, 3)>"
