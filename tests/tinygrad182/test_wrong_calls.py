"""Wrong calls raise the framework's errors, which name the operation and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import leaf
from tinygrad182.engine.modes import at_time
from tinygrad182.errors import ArgumentError, DTypeError, ShapeError

X = np.arange(6.0).reshape(2, 3)

Call = Callable[[tg.Tensor], Any]


def _set(name: str, value: Any) -> Call:
    return lambda x: setattr(x, name, value)


# --- shapes -------------------------------------------------------------------------------------

SHAPES: list[tuple[Call, str]] = [
    (
        lambda x: x + tg.ones(4),
        r"^add: .*\(2, 3\) float64 and \(4,\) float32.*broadcast",
    ),
    (lambda x: tg.where(x > 1, x, tg.ones(4)), "^where: .*broadcast"),
    (lambda x: x > tg.ones(4), r"^greater: .*\(2, 3\).*\(4,\)"),
    (lambda x: x == tg.ones(4), "^equal: "),
    (lambda x: x @ tg.ones((2, 3)), "^matmul: .*last axis"),
    (lambda x: x @ tg.tensor(1.0), r"^matmul: .* \* "),
    (
        lambda x: tg.sum(x, axis=2),
        r"^sum: axis 2 .*\(2, 3\).*-2 to 1",
    ),
    (lambda x: x.mean(axis=(0, 5)), "^mean: axis 5"),
    (lambda x: tg.sum(x, axis=(0, -2)), "^sum: axis .*twice"),
    (lambda x: tg.softmax(x, axis=2), "softmax: axis 2"),
    (lambda x: tg.argmax(x, axis=2), "^argmax: .*axis 2"),
    (lambda x: tg.argsort(x, axis=2), "^argsort: .*axis 2"),
    (lambda x: tg.any(x > 1, axis=2), "^any: .*axis 2"),
    (lambda x: tg.max(tg.zeros(0)), "^max: .*element"),
    (lambda x: tg.argmax(tg.zeros(0)), "^argmax: "),
    (lambda x: tg.mean(tg.zeros((0, 2)), axis=0), "^mean: .*element"),
    (lambda x: tg.var(tg.ones(1), correction=1), "^var: 1 element"),
    (lambda x: tg.cumulative_sum(x), "^cumulative_sum: .*axis"),
    (lambda x: tg.reshape(x, (4,)), r"^reshape: 6 elements.*\(2, 3\).*\(4,\)"),
    (lambda x: x.reshape(5), "^reshape: .* 5"),
    (lambda x: x.reshape(-1, 4), "^reshape: "),
    (lambda x: x.reshape(-1, -1), "^reshape: "),
    (lambda x: tg.permute_dims(x, (0, 0)), "^permute_dims: .*twice"),
    (lambda x: tg.permute_dims(x, (0,)), "^permute_dims: .*once"),
    (lambda x: tg.swapaxes(x, 0, 2), "^swapaxes: axis 2"),
    (lambda x: tg.ones(3).mT, "^matrix_transpose: "),
    (lambda x: tg.expand_dims(x, 4), "^expand_dims: axis 4"),
    (lambda x: tg.squeeze(x, 0), "^squeeze: axis 0"),
    (lambda x: tg.broadcast_to(x, (4, 3)), r"^broadcast_to: .*\(2, 3\)"),
    (
        lambda x: tg.concat([x, tg.ones((2, 2))]),
        r"^concat: .*\(2, 3\).*\(2, 2\).*axis",
    ),
    (lambda x: tg.concat([tg.tensor(1.0)]), "^concat: .*no axes"),
    (lambda x: tg.stack([x, tg.ones((2, 2))]), r"^stack: .*\(2, 3\).*\(2, 2\).*equal"),
    (lambda x: tg.stack([x], axis=4), "^stack: axis 4"),
    (lambda x: tg.unstack(tg.tensor(1.0)), "^unstack: .*0-d"),
    (lambda x: list(tg.tensor(1.0)), "^unstack: .*0-d"),
    (lambda x: tg.flip(x, axis=2), "^flip: axis 2"),
    (lambda x: tg.pad(x, ((1, 1),) * 3), r"^pad: .*\(before, after\)"),
    (lambda x: tg.einsum("ij,jk->ik", x, x), "^einsum: 'j' .*3 and 2"),
    (lambda x: tg.einsum("ijk->i", x), "^einsum: term 'ijk'"),
    (lambda x: tg.einsum("i$->i", x), "^einsum: term"),
    (lambda x: x[0, 0, 0], "^index: 3 .* 2 axes"),
    (lambda x: x[..., ...], r"^index: .*one \.\.\."),
    (lambda x: x[[True, False, True]], r"^index: .*mask.*\(3,\).*axis 0"),
    (lambda x: x[[0, 1], [0, 1, 2]], "^index: .*broadcast"),
    (lambda x: x.item(), r"^item: .*\(2, 3\).*single element"),
    (lambda x: bool(x), "^item: "),
    (lambda x: float(x), "^item: "),
    (lambda x: x.assign(np.ones(4)), r"^assign: .*\(4,\)"),
    (_set("grad", tg.ones(4)), r"^grad: .*\(4,\)"),
    (lambda x: (x * 2).backward(), r"^backward: .*single element.*\.sum\(\)"),
    (lambda x: (x * 2).backward(tg.ones(4)), r"^backward: .*cotangent.*\(4,\)"),
    (lambda x: tg.grad(x * 2, x), "^grad: .*single element"),
    (lambda x: tg.vjp(lambda x: x * 2, x)[1](tg.ones(4)), r"cotangent.*\(4,\)"),
    (lambda x: tg.jvp(lambda x: x * 2, x, tg.ones(4)), r"^jvp: .*direction.*\(4,\)"),
    (lambda x: tg.hessian(lambda x: x * 2, x), "^hessian: .*single element"),
]

# --- types --------------------------------------------------------------------------------------

TYPES: list[tuple[Call, str]] = [
    (lambda x: tg.arange(3) ** -1, "^power: .*negative integer powers"),
    (lambda x: tg.arange(3) + 2**70, "^add: .*int64.*1180591620717411303424"),
    (lambda x: x * {1.0, 2.0}, r"^multiply: .*'set'.*tg\.tensor"),
    (lambda x: x * ["a", "b", "c"], "^multiply: .*list.*numeric"),
    (lambda x: tg.tensor([1], dtype="int8") * [300], "^multiply: .*300.*int8"),
    (lambda x: x + None, "^add: .*'NoneType'"),
    (lambda x: "a" * x, "^multiply: .*'str'"),
    (lambda x: x * np.array(["a", "b", "c"]), "^multiply: .*<U1.*numeric"),
    (lambda x: x * np.array([1, 2, 3], dtype=object), "^multiply: .*object.*numeric"),
    (lambda x: x == None, "^equal: .*'NoneType'"),  # noqa: E711 - the wrong call in question
    (lambda x: tg.isnan("a"), "^isnan: .*'str'"),
    (lambda x: -(x > 1), "^negative: .*~"),
    (lambda x: tg.clip(x, "a"), "'str'"),
    (lambda x: tg.tensor("abc"), "^tensor: .*str.*numeric"),
    (lambda x: tg.tensor(None), "^tensor: .*NoneType"),
    (lambda x: tg.tensor([1, "a"]), "^tensor: .*not numeric"),
    (lambda x: tg.tensor(np.array(["a"])), "not numeric"),
    (lambda x: tg.tensor({}), "^tensor: .*dict"),
    (lambda x: tg.tensor(1.0, dtype="float31"), "'float31'.*numeric dtype"),
    (lambda x: tg.zeros(2, 3), "3 .*numeric dtype.*tuple"),
    (lambda x: x.astype("str"), "'str'.*numeric dtype"),
    (
        lambda x: tg.tensor([1], dtype="int64", requires_grad=True),
        "floating.*require grad.*int64",
    ),
    (
        lambda x: _set("requires_grad", True)(tg.arange(3)),
        "floating.*dtype='float32'",
    ),
    (lambda x: tg.jacobian(lambda x: x, tg.arange(3)), "floating"),
    (lambda x: x[0.5], "^index: 0.5 .*integers"),
    (lambda x: x["a"], "^index: 'a'"),
    (lambda x: x[True], "^index: True"),
    (lambda x: x[tg.ones(2)], r"^index: .*float32.*dtype='int64'"),
    (lambda x: tg.take(x, [0.5], axis=1), "^index: .*float64"),
    (lambda x: x.assign("a"), "^assign: .*'a'"),
    (_set("grad", 3.0), "grad.*Tensor.*None"),
    (lambda x: (x * x).sum().backward("a"), "^backward: .*'a'.*cotangent"),
    (lambda x: (x * 1j).sum().backward(), "^backward: .*output.*complex128"),
    (lambda x: len(tg.tensor(1.0)), "^len: "),
]

# --- arguments ----------------------------------------------------------------------------------

ARGUMENTS: list[tuple[Call, str]] = [
    (lambda x: tg.tensor([[1.0], [1.0, 2.0]]), "^tensor: .*lengths.*pad"),
    (lambda x: tg.zeros((-1, 2)), r"^zeros: shape \(-1, 2\).*whole numbers"),
    (lambda x: tg.ones(1.5), "^ones: shape 1.5.*whole number"),
    (lambda x: tg.full(2, "a"), "^full: fill_value 'a'.*number"),
    (lambda x: tg.arange(0, 1, 0), "^arange: .*step.* 0"),
    (lambda x: tg.arange("a"), "^arange: .*real numbers"),
    (lambda x: tg.eye(-1), "^eye: "),
    (lambda x: tg.reshape(x, "a"), "^reshape: shape 'a'.*whole number"),
    (lambda x: tg.reshape(x, (1.5, 4)), "^reshape: "),
    (lambda x: tg.reshape(x, (-2, -3)), "^reshape: "),
    (lambda x: tg.sum(x, axis="rows"), "^sum: axis 'rows'.*whole number"),
    (lambda x: tg.sum(x, axis=0.5), "^sum: axis 0.5"),
    (lambda x: tg.broadcast_to(x, (-1, 2, 3)), "^broadcast_to: "),
    (lambda x: tg.pad(x, -1), "^pad: "),
    (lambda x: tg.pad(x, "a"), "^pad: "),
    (lambda x: tg.concat([]), "^concat: at least one"),
    (lambda x: tg.stack([]), "^stack: at least one"),
    (lambda x: x[::0], "^index: .*slice step.*zero"),
    (lambda x: x[0.5:], "^index: .*slice.*integers"),
    (lambda x: x[[[0], [0, 1]]], "^index: .*lengths"),
    (lambda x: tg.einsum("ij,jk->ik", x), "^einsum: 2 terms.* 1 operand"),
    (lambda x: tg.einsum(x, x), "^einsum: .*subscripts"),
    (lambda x: tg.einsum("ij->ik", x), "^einsum: the output"),
    (lambda x: tg.einsum("ij->ii", x), "^einsum: the output"),
    (lambda x: tg.einsum("...i...->i", x), r"^einsum: .*\.\.\."),
    (lambda x: tg.grad(3.0, x), "^grad: .*outputs.*inputs.*Tensor"),
    (lambda x: tg.grad(x.sum(), 3.0), "^grad: "),
    (lambda x: tg.grad(x.sum(), x, [1.0, 2.0]), "^grad: 1 output.* 2 cotangents"),
    (lambda x: tg.vjp(lambda x: 3.0, x), "^vjp: .*Tensor.*float"),
    (lambda x: tg.vjp(lambda x: x, x)[1](), "^vjp_fn: 1 output.* 0 cotangents"),
    (lambda x: tg.jvp(lambda x: x, [x, x], [x]), "^jvp: 2 points.* 1 direction"),
    (lambda x: tg.jacobian(lambda x: (x, x), x), "^jacobian: .*one Tensor"),
]

# --- graphs -------------------------------------------------------------------------------------

GRAPHS: list[tuple[Call, str]] = [
    (lambda x: tg.ones(()).backward(), "^backward: .*requires_grad=True"),
    (lambda x: tg.grad(tg.ones(()), x), "^grad: .*output.*requires_grad=True"),
    (lambda x: np.asarray(x), r"x\.numpy\(\) or x\.detach\(\)"),
    (lambda x: x.__setitem__(0, 1.0), r"tg\.where.*x\.data\[key\]"),
    (lambda x: (x * 1).assign(0), "^assign: .*leaves"),
    (lambda x: _set("data", 0)(x * 1), "^assign: .*leaves"),
    (lambda x: _set("requires_grad", False)(x * 1), r"detach\(\)"),
    (lambda x: _set("grad", None)(x * 1), r"retain_grad\(\)"),
    (lambda x: tg.ones(2).retain_grad(), "^retain_grad: "),
    (lambda x: __import__("copy").deepcopy(x * 1), r"detach\(\) or clone\(\)"),
]

CALLS: list[tuple[Call, str]] = [
    (lambda x: tg.exp(), "^exp: .*argument"),
    (lambda x: tg.add(x), "^add: .*argument.*'b'"),
    (lambda x: tg.exp(x, x), "^exp: .*arguments"),
    (lambda x: tg.exp(x=x), "^exp: .*'x'.*by position"),
]

TABLE = [
    pytest.param(error, builtin, call, message, id=f"{error.__name__}-{message[:40]}")
    for error, builtin, calls in (
        (tg.ShapeError, ValueError, SHAPES),
        (tg.DTypeError, TypeError, TYPES),
        (tg.CallError, TypeError, CALLS),
        (tg.ArgumentError, ValueError, ARGUMENTS),
        (tg.GraphError, RuntimeError, GRAPHS),
    )
    for call, message in calls
]


@pytest.mark.parametrize(("error", "builtin", "call", "message"), TABLE)
def test_wrong_calls(
    error: type[tg.TinygradError], builtin: type[Exception], call: Call, message: str
) -> None:
    x = leaf(X)
    with pytest.raises(error, match=message) as caught:
        call(x)
    assert isinstance(caught.value, builtin)  # what a caller would expect to catch
    assert len(str(caught.value)) < 400
    np.testing.assert_array_equal(x.numpy(), X)
    assert x.grad is None


def test_the_place_in_a_model_is_named() -> None:

    class Broken(tg.nn.Module):
        def forward(self, x: tg.Tensor) -> tg.Tensor:
            with at_time(7):
                return x + tg.ones(5)

    model = tg.nn.Sequential(Broken())
    with pytest.raises(tg.ShapeError, match=r"float32, in 0 at t = 7.*broadcast"):
        model(tg.ones((4, 3)))


def test_a_rule_of_the_wrong_shape_is_reported_as_such() -> None:
    """Your own primitive has a mistake: the message blames the rule."""
    wrong = tg.Primitive("wrong", lambda xp, x: x * 2, (lambda xp, g, y, x: g[:1],), "elementwise")
    with pytest.raises(tg.ShapeError, match=r"rule of wrong.*\(1, 3\).*\(2, 3\)"):
        tg.apply(wrong, leaf(X)).sum().backward()


def test_a_name_is_defined_once() -> None:
    def tanh(xp: Any, x: Any) -> Any:
        return x

    with pytest.raises(ValueError, match=r"'tanh'.*already defined"):
        tg.define(tanh, None, jvp="linear")


@pytest.mark.parametrize("axis", [(0, 1), [0], 0.5, "a", True], ids=repr)
@pytest.mark.parametrize("name", ["argsort", "sort", "argmax", "argmin"])
def test_where_one_axis_is_meant_several_or_none_are_refused(name, axis):
    with pytest.raises(ArgumentError, match=rf"^{name}: .*axis .* must be a whole number$"):
        getattr(tg, name)(tg.ones((2, 3)), axis=axis)


def test_all_elements_are_sorted_without_an_axis():
    x = leaf(np.asarray([[3.0, 1.0], [2.0, 0.0]]))
    tg.sum(tg.sort(x, axis=None) ** 2).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[6.0, 2.0], [4.0, 0.0]])
    np.testing.assert_array_equal(tg.argsort(x, axis=None).numpy(), [3, 1, 2, 0])
    np.testing.assert_array_equal(tg.partition(x, 1, axis=None).numpy(), [0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    "call",
    [
        lambda: tg.tensor(2**200),
        lambda: tg.tensor([1.0, 2**130]),
        lambda: tg.tensor(70000, dtype="float16"),
        lambda: tg.full((2,), -(2**130)),
        lambda: tg.full_like(tg.ones(2), 2**130),
        lambda: tg.zeros(2).assign(2**130),
    ],
)
def test_a_whole_number_beyond_the_type_is_refused(call):
    with pytest.raises(DTypeError, match=r"float(16|32).*dtype='float64'"):
        call()


@pytest.mark.filterwarnings("error")
def test_a_float_beyond_the_type_becomes_infinite_without_a_warning():
    made = [tg.tensor(1e39), tg.tensor([1e39]), tg.full(1, 1e39), tg.zeros(1).assign(1e300)]
    assert all(np.isposinf(x.numpy()).all() for x in made)
    assert tg.tensor(2**130, dtype="float64").item() == 2.0**130


@pytest.mark.parametrize(
    "call",
    [
        lambda: tg.zeros(2**45),
        lambda: tg.nn.Linear(2**40, 2**40),
        lambda: tg.nn.RNN(2**40, 2**40),
        lambda: tg.nn.LSTM(2, 2**40),
        lambda: tg.nn.LSTMCell(2**40, 4),
        lambda: tg.nn.Embedding(2**62, 4),
        lambda: tg.nn.LayerNorm(2**62),
        lambda: tg.repeat(tg.ones(2), 2**62),
        lambda: tg.repeat(tg.ones((2, 3)), [2**62, 2**62], axis=0),
        lambda: tg.tile(tg.ones(2), 2**62),
        lambda: tg.broadcast_to(tg.ones(2), (2**62, 2)),
        lambda: tg.zeros_like(np.broadcast_to(np.float32(1), (2**40, 2**6))),
    ],
)
def test_a_size_beyond_all_memory_is_named(call):
    with pytest.raises(ShapeError, match=r"of shape .*memory"):
        call()


@pytest.mark.parametrize("op", [lambda a: a & a, lambda a: a | a, lambda a: ~a])
def test_masks_are_combined_and_numbers_refused(op) -> None:  # type: ignore[no-untyped-def]
    mask = tg.tensor([True, False])
    assert op(mask).tolist() in ([True, False], [False, True])
    for data in ([1.5], [6]):
        with pytest.raises(tg.DTypeError, match="Boolean"):
            op(tg.tensor(np.array(data)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: tg.arange(float("inf")),
        lambda: tg.arange(float("nan")),
        lambda: tg.stack(5),  # type: ignore[arg-type]
        lambda: tg.tensor(np.ones(2, np.int8)) + 1000,
        lambda: tg.optim.clip_grad_norm_(None, 1.0),  # type: ignore[arg-type]
        lambda: tg.optim.clip_grad_norm_([1.0], 1.0),  # type: ignore[list-item]
        lambda: tg.optim.clip_grad_norm_([tg.ones(1)], "a"),  # type: ignore[arg-type]
        lambda: tg.optim.Adam([tg.ones(1, requires_grad=True)], betas=("a", 0.9)),  # type: ignore[arg-type]
    ],
)
def test_bad_input_gives_an_error_of_ours(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(tg.TinygradError):
        call()
