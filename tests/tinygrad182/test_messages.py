"""What the engine's errors say, word by word: a message is read by someone who is stuck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, leaf
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
BROADCAST = "shapes must broadcast: aligned from the right, each two sizes equal or one of them 1"

# … at the end of a text: what the array library says about it follows.
MESSAGES: list[tuple[Call, str]] = [
    # --- where a backward pass starts ---
    (lambda x: tg.inspect.trace(3.0), "trace: the output is a float, not a Tensor"),  # type: ignore[arg-type]
    (
        lambda x: tg.ones(()).backward(),
        "backward: the output does not require grad; make it from a tensor with requires_grad=True, "
        "outside no_grad()",
    ),
    (
        lambda x: (x * 1j).backward(),
        "backward: the output is complex128; only real floating ones have a gradient",
    ),
    (
        lambda x: tg.grad(x * 2, x),
        "grad: the output has shape (2, 3), not a single element; reduce it first (for example with "
        ".sum()) or pass the cotangent to start from",
    ),
    (lambda x: x.backward("a"), "backward: cannot read 'a' as a cotangent: an array of dtype <U1…"),
    (
        lambda x: x.backward(const(np.ones(4))),
        "backward: the cotangent has shape (4,), the output (2, 3); they must be equal",
    ),
    (
        lambda x: tg.grad(x.sum(), [3.0]),  # type: ignore[list-item]
        "grad: outputs and inputs must be Tensors or nodes of a traced graph, or sequences of them",
    ),
    (
        lambda x: tg.grad(x.sum(), x, [1.0, 2.0]),
        "grad: 1 outputs but 2 cotangents in grad_outputs",
    ),
    # --- on its way ---
    (
        lambda x: tg.apply(TOO_FEW, x, x).sum().backward(),
        "the derivative rule of product returned a tuple of 1, for 2 inputs; return a tuple with a "
        "cotangent for each, None for one that has no derivative, or pass a tuple of rules, one for each: "
        "vjp=(rule,) for one input",
    ),
    (
        lambda x: tg.apply(ONE_RULE, x, x).sum().backward(),
        "the vjp of product is a tuple of 1, for 2 inputs; pass a tuple with a rule for each, None for "
        "one that has no derivative",
    ),
    (
        _freed,
        "the graph through tanh, at t = 3 was freed by an earlier backward pass; if it made a state that "
        "is carried on to a new sequence, pass state.detach(); if two losses share it, add them up, or "
        "call the earlier pass with retain_graph=True",
    ),
    (
        _freed_itself,
        "the graph through multiply was freed by an earlier backward pass; call the earlier one "
        "with retain_graph=True, or record the forward again",
    ),
    (
        _changed,
        "backward of multiply, at t = 3: its input tensor of shape (2, 3) was changed in place after "
        "it was recorded; run backward before the change, or record the forward again",
    ),
    (
        _changed_parameter,
        "backward of add, in 0: its input 0.bias of shape (2,) was changed in place after "
        "it was recorded; run backward before the change, or record the forward again",
    ),
    (
        _changed_view,
        "backward of multiply: its input (a view of a tensor made by index) of shape (3,) was changed in "
        "place after it was recorded; run backward before the change, or record the forward again",
    ),
    (
        _changed_before_it_runs_again,
        "backward of remat: a constant of shape (2, 3) that the function uses was changed in place, so "
        "running it again would give something else; run backward before the change, or give the "
        "function a copy",
    ),
    (
        _changed_argument_before_it_runs_again,
        "backward of remat: a tensor of shape (2, 3) that the function uses was changed in place, so "
        "running it again would give something else; run backward before the change, or give the "
        "function a copy",
    ),
    (
        lambda x: tg.apply(WRONG, x).sum().backward(),
        "the derivative rule of wrong returned shape (1, 3) for an input of shape (2, 3)",
    ),
    # --- derivatives of functions ---
    (lambda x: tg.vjp(lambda x: x, x)[1](), "vjp_fn: 1 outputs but 0 cotangents"),
    (lambda x: tg.jvp(lambda x, y: x, [x, x], [x]), "jvp: 2 points but 1 directions"),
    (
        lambda x: tg.jvp(lambda x: x, x, const(np.ones(4))),
        "jvp: direction of shape (4,) at a point of shape (2, 3)",
    ),
    (
        lambda x: tg.jacobian(lambda x: (x, x), x),
        "jacobian: the function returned several outputs; return one Tensor",
    ),
    (
        lambda x: tg.hessian(lambda x: x, x),
        "hessian: the function must return one Tensor with a single element",
    ),
    (
        lambda x: tg.hessian(lambda x: (x.sum(), x), x),
        "hessian: the function must return one Tensor with a single element",
    ),
    *(
        (call, f"{name}: the function must return a Tensor or a tuple of them, not {got}")
        for name, got, call in (
            ("vjp", "float", lambda x: tg.vjp(lambda x: 3.0, x)),
            ("jvp", "list", lambda x: tg.jvp(lambda x: [x, 3.0], x, x)),
            ("jacobian", "float", lambda x: tg.jacobian(lambda x: 3.0, x)),
            ("hessian", "NoneType", lambda x: tg.hessian(lambda x: None, x)),
        )
    ),
    (
        lambda x: tg.remat(lambda x: [x, 3.0])(x),
        "remat: the function must return a Tensor or a tuple of Tensors",
    ),
    # --- operands an operation cannot take ---
    (lambda x: x * np.array(["a"]), "multiply: an array of dtype <U1 is not numeric"),
    (
        lambda x: x * np.ma.masked_array(X, X > 2),
        "multiply: a MaskedArray beside a Tensor; its mask would be lost: use m.filled(0), and tg.where "
        "with the mask",
    ),
    (
        lambda x: x + None,
        "add: operand of type 'NoneType' is not an array, a Tensor or a number: wrap it with "
        "tg.tensor(...) first",
    ),
    (
        lambda x: tg.where(x > 0, 2.0, const(np.ones(7))),
        f"where: cannot take (2, 3) bool and 2.0 and (7,) float64: {BROADCAST} (operands could not…",
    ),
    (
        lambda x: tg.apply(tg.PRIMITIVES["stack"], *[x] * 4, const(1.0), axis=-1),
        "stack: cannot take (2, 3) float64 and (2, 3) float64 and (2, 3) float64 and (2, 3) float64: "
        "all shapes must be equal (…",
    ),
    (
        lambda x: tg.arange(3) ** -1,
        "power: cannot take (3,) int64 and -1: Integers to negative integer powers…",
    ),
    (
        lambda x: const(np.ones(2, np.int8)) + 1000,
        "add: cannot take (2,) int8 and 1000: Python integer 1000 out of bounds for int8",
    ),
    (
        lambda x: x > const(np.ones(4)),
        "greater: cannot take (2, 3) float64 and (4,) float64: operands could not…",
    ),
    (
        lambda x: tg.apply(tg.PRIMITIVES["flip"], x, axis=(-9,)),
        "flip: cannot take (2, 3) float64: axis -9 is out of bounds…",
    ),
]


@pytest.mark.parametrize(("call", "text"), MESSAGES, ids=[text[:60] for _, text in MESSAGES])
def test_messages(call: Call, text: str) -> None:
    with pytest.raises(tg.TinygradError) as caught:
        call(leaf(X))
    said = str(caught.value)
    if text.endswith("…"):
        said = said[: len(text) - 1] + "…"
    assert said == text


def test_what_raised_an_error_is_kept_as_its_cause() -> None:
    for call in (lambda: leaf(X) + leaf(np.ones(4)), lambda: leaf(X).backward([[1.0], []])):
        with pytest.raises(tg.TinygradError) as caught:
            call()
        assert isinstance(caught.value.__cause__, ValueError)
        assert not isinstance(caught.value.__cause__, tg.TinygradError)


def test_the_place_is_named_at_the_end_of_what_was_given() -> None:
    for call, text in (
        (
            lambda x: x + const(np.ones(4)),
            "add: cannot take (2, 3) float64 and (4,) float64, at t = 7: ",
        ),
        (lambda x: x + None, "add, at t = 7: operand of type"),
    ):
        with at_time(7), pytest.raises(tg.TinygradError) as caught:
            call(leaf(X))
        assert str(caught.value).startswith(text)


def test_a_name_is_defined_once() -> None:
    def tanh(xp: Any, x: Any) -> Any:
        return x

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        tg.define(tanh, None, jvp="linear")
    assert str(caught.value) == "primitive 'tanh' is already defined"


def test_a_trailing_underscore_is_no_part_of_the_name() -> None:
    def maxX_(xp: Any, x: Any) -> Any:  # noqa: N802
        return x

    assert tg.define(maxX_, None, jvp="linear") is tg.PRIMITIVES.pop("maxX")


def test_nodes_and_primitives_say_what_they_are() -> None:
    y = leaf(X) * 2
    assert repr(tg.PRIMITIVES["multiply"]) == "<primitive multiply>"
    assert repr(tg.inspect.trace(y.sum()).select(op="multiply")[0]) == "<multiply (2, 3)>"
