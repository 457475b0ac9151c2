"""``check_gradients``: right functions pass, and every fault is found."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import const, device, host, write
from tests.tinygrad182.table import ROWS, Row
from tests.tinygrad182.test_random_graphs import STEPS, Step, _program

check_gradients = tg.testing.check_gradients


def _identity(rule: Callable[..., Any], jvp: Any = "linear") -> tg.Primitive:
    """A user's own primitive, y = x, with a derivative rule that promises leading axes."""

    def forward(xp: Any, x: Any) -> Any:
        return x * 1.0

    return tg.Primitive("mine", forward, vjp=(rule,), jvp=jvp, leading_axes=True)


def _message(f: Callable[..., Any], *xs: Any, **options: Any) -> str:
    with pytest.raises(tg.GradientCheckError) as caught:
        check_gradients(f, *xs, **options)
    return str(caught.value)


# --- right functions pass -----------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_row_of_the_table_passes(row: Row) -> None:
    check = check_gradients(
        row.f, *map(const, row.draw()), rtol=1e-5 if row.through_float32 else None
    )
    assert check.method == "complex step"
    assert row.through_float32 or check.error < 1e-12


def test_rounding_inside_a_fused_layer_raises_no_false_alarm() -> None:
    """Each step rounds, and a chaotic recurrence magnifies it; so the layer is not one operation."""
    lstm = tg.nn.LSTM(1, 2, rng=2, dtype="float64")
    write(lstm.weight_hh_l0, host(lstm.weight_hh_l0) * 30)
    x = np.random.default_rng(2).standard_normal((20, 1, 1))
    check_gradients(lambda x: lstm(x)[0][-1], const(x), max_entries=3, order=1)


@given(steps=STEPS, seed=st.integers(0, 2**32 - 1))
def test_random_programs_pass(steps: list[Step], seed: int) -> None:
    x, y = (const(np.random.default_rng(seed + i).uniform(-1, 1, (3, 3))) for i in range(2))
    check_gradients(_program(steps), x, y, max_entries=5)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (tg.log, [1e-9, 1.0, 1e9]),
        (lambda x: 1 / x, [1e-8, 1e8, -1e-3]),
        (tg.sin, [1e8, 1e3, 1e-20]),
        (lambda x: x**2.5, [1e-8, 1.0]),
        (tg.tanh, [15.0, 0.1, 18.0, 25.0]),  # 1 − y² has lost its digits
        (lambda x: tg.softmax(x).sum(), [1.0, 2.0, 3.0]),  # the derivative is 0
        (tg.softmax, [1000.0, 0.0, -1000.0]),
        (tg.std, [1e5, 1e5 + 1, 1e5 + 2.5]),  # from 1e6 on, the seed decides
        (lambda x: (x * x + 1e12) - 1e12, [1.0, 2.0]),
        (tg.exp, [-500.0, 690.0, -600.0]),
        (tg.relu, [1e-4, -1e-5, 1e-7]),  # near a kink
        (lambda x: x * 0 + 1, [1.0]),
        (lambda x: x[:0], [1.0]),
    ],
)  # fmt: skip
def test_ill_conditioned_functions_raise_no_false_alarm(f: Any, x: list[float]) -> None:
    assert check_gradients(f, const(x)).method == "complex step"


def test_the_result_has_the_method_and_the_error() -> None:
    check = check_gradients(lambda a, b: a @ b, const(np.eye(2)), const(np.ones((2, 3))))
    assert check == tg.testing.GradientCheck("complex step", 60, check.error, 2)
    assert 0 <= check.error < 1e-14
    assert check_gradients(tg.exp, const([1.0]), order=1).order == 1


def test_float32_is_checked_in_float64() -> None:
    check = check_gradients(tg.tanh, const(np.array([0.5, 3.0], "float32")))
    assert check.error < 1e-14


def test_models_are_checked_by_their_parameters() -> None:
    rnn = tg.nn.RNN(2, 3, num_layers=2, rng=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((4, 1, 2))
    sizes = 4 * 2 + sum(p.size for p in rnn.parameters())
    before = {name: p.numpy().copy() for name, p in rnn.named_parameters()}
    assert check_gradients(rnn, const(x)).entries == sizes * (4 * 3 + 2 * 3)

    def loss(x: Any) -> tg.Tensor:
        return (rnn(x)[0] ** 2).mean()

    assert check_gradients(loss, const(x), parameters=rnn).entries == sizes
    assert check_gradients(loss, const(x), parameters=[rnn.weight_hh_l0]).entries == 8 + 9
    assert check_gradients(loss, const(x), parameters={"w": rnn.weight_hh_l0}).entries == 8 + 9
    for name, p in rnn.named_parameters():
        np.testing.assert_array_equal(p.numpy(), before[name])
        assert p.requires_grad
        assert p.grad is None


def test_tuples_of_states_are_inputs() -> None:
    def step(x: Any, states: Any) -> Any:
        h, c = states
        return x * h, {"not": "a tensor"}, (h, [tg.tanh(c)])

    check = check_gradients(step, const([1.0, 2.0]), (const([0.5, 0.1]), const([0.3, 0.2])))
    assert check.entries == 6 * 6


def test_gradients_of_gradients_inside() -> None:
    assert check_gradients(lambda x: tg.jacobian(lambda z: z**3, x), const([1.0, -2.0]))
    assert check_gradients(tg.remat(lambda x: tg.tanh(x * x)), const([1.0, -2.0]))


def test_gradients_of_1e_minus_100() -> None:
    rnn = tg.nn.RNN(1, 4, rng=0, dtype="float64")
    tg.nn.init.scale_to_spectral_radius_(rnn.weight_hh_l0, 0.05)
    x = const(np.random.default_rng(0).standard_normal((80, 1, 1)))
    log = tg.inspect.gradient_flow(rnn(x)[0][-1].sum())["rnn.l0"].h.log_grad_norm
    assert log[0] < np.log(1e-95)
    entries = 20 if device() == "cpu" else 5  # each runs 80 steps one by one
    check = check_gradients(lambda x: rnn(x)[0][-1], x, order=1, max_entries=entries)
    assert check.method == "complex step"
    assert check.error < 1e-10


# --- wrong functions fail -----------------------------------------------------------------------

RULES: dict[str, Callable[..., Any]] = {
    "scaled": lambda xp, g, y, x: g * (1 + 5e-4),
    "scaled a little": lambda xp, g, y, x: g * (1 + 1e-10),
    "shifted": lambda xp, g, y, x: g + 1e-9,
    "zero": lambda xp, g, y, x: xp.zeros_like(g),
    "float32 inside": lambda xp, g, y, x: xp.astype(xp.astype(g, "float32"), "float64"),
    "quadratic": lambda xp, g, y, x: g + 1e-6 * g * g,
    "no sign": lambda xp, g, y, x: xp.abs(g),
    "clipped": lambda xp, g, y, x: xp.minimum(xp.maximum(g, -1.0), 1.0),
    "small ones lost": lambda xp, g, y, x: xp.where(xp.abs(g) > 1e-40, g, 0.0),
    "spread": lambda xp, g, y, x: g * 0 + xp.mean(g),
    "only for negative x": lambda xp, g, y, x: xp.where(x < 0, 1.0001 * g, g),
    "not with leading axes": lambda xp, g, y, x: g if g.ndim == y.ndim else g * 2,
    "transposed": lambda xp, g, y, x: xp.permute_dims(g, (*range(g.ndim - 2), g.ndim - 1, g.ndim - 2)),
    "not recorded": lambda xp, g, y, x: g.detach() if isinstance(g, tg.Tensor) else g,
    "recorded otherwise": lambda xp, g, y, x: g * 2 if isinstance(g, tg.Tensor) else g,
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_faulty_rule_is_named(name: str) -> None:
    mine = _identity(RULES[name])
    x = const(np.random.default_rng(0).standard_normal((3, 3)))
    message = _message(lambda x: tg.tanh(tg.apply(mine, x * 2)), x)
    assert message.startswith("check_gradients: mine: the ")


def _writes(array: Any) -> None:
    if not isinstance(array, tg.Tensor):
        array *= 2


@pytest.mark.parametrize(
    ("which", "name"), [(0, "the cotangent"), (1, "the result"), (2, "an input")]
)
def test_a_rule_that_writes_is_named(which: int, name: str) -> None:
    def rule(xp: Any, *given: Any) -> Any:
        result = given[0] * 1.0
        _writes(given[which])
        return result

    message = _message(lambda x: tg.apply(_identity(rule), x), const([1.0, 2.0]))
    assert "check_gradients: mine: the backward pass is wrong" in message
    assert f"writes into {name}" in message


def test_a_rule_with_a_memory_is_caught() -> None:
    calls = itertools.count(1)
    message = _message(
        lambda x: tg.apply(_identity(lambda xp, g, y, x: g * (1 + 1e-9 * next(calls))), x),
        const([1.0, 2.0]),
    )
    assert "gradient in a second pass" in message


def test_a_wrong_jvp_is_caught() -> None:
    mine = _identity(lambda xp, g, y, x: g, jvp=lambda xp, vs, y, x: vs[0] * 1.001)
    assert "mine: the JVP is wrong" in _message(lambda x: tg.apply(mine, x), const([1.0]))


def test_a_rule_that_raises_is_named_with_its_error() -> None:
    def rule(xp: Any, g: Any, y: Any, x: Any) -> Any:
        if g.ndim != y.ndim:
            raise TypeError("no such axes")
        return g

    with pytest.raises(
        tg.GradientCheckError, match=r"(?s)mine: .*extra leading.*no such axes"
    ) as e:
        check_gradients(lambda x: tg.apply(_identity(rule), x), const([1.0]))
    assert isinstance(e.value.__cause__, TypeError)


@pytest.mark.parametrize("name", ["tanh", "matmul", "sum", "stack", "concat"])
def test_a_fault_planted_in_our_own_rules_is_named(name: str) -> None:
    primitive = tg.PRIMITIVES[name]
    rule = primitive.vjp if callable(primitive.vjp) else primitive.vjp[0]
    assert rule is not None

    def fault(*args: Any, **params: Any) -> Any:
        found = rule(*args, **params)
        return (
            (found[0] * (1 + 1e-6), *found[1:]) if callable(primitive.vjp) else found * (1 + 1e-6)
        )

    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")

    def f(x: Any) -> tg.Tensor:
        return tg.concat([tg.softmax(rnn(x)[0].sum(axis=0)), x[0]], axis=1).sum(axis=0)

    x = const(np.random.default_rng(0).standard_normal((3, 2, 2)))
    before = primitive.vjp
    object.__setattr__(primitive, "vjp", fault if callable(before) else (fault, *before[1:]))
    try:
        message = _message(f, x)
    finally:
        object.__setattr__(primitive, "vjp", before)
    assert message.startswith(f"check_gradients: {name}")


class _Loop(tg.nn.Module):
    """A vanishing recurrence with a primitive of the user's own at some steps."""

    def __init__(self, mine: tg.Primitive, at: int | None = None) -> None:
        self.mine, self.at = mine, at
        self.cell = tg.nn.RNNCell(1, 3, rng=0, dtype="float64")
        tg.nn.init.scale_to_spectral_radius_(self.cell.weight_hh, 0.3)

    def forward(self, x: Any) -> Any:
        h = const(np.zeros((1, 3)))
        for t in range(len(x)):
            h = self.cell(x[t], h)
            if self.at in (None, t):
                h = tg.inspect.mark(tg.apply(self.mine, h), "h", time=t)
        return h


@pytest.mark.parametrize(
    ("cell", "sizes"), [(tg.nn.RNNCell, (3, 3)), (tg.nn.Linear, (3, 3)), (tg.nn.LayerNorm, (3,))]
)
def test_complex_parameters_take_a_real_state(cell: Any, sizes: tuple[int, ...]) -> None:
    """A model whose loop begins with zeros of float64 can be checked by the complex step."""
    layer = cell(*sizes, dtype="float64")
    start = const(np.arange(6.0).reshape(2, 3))
    check = check_gradients(lambda x: layer(start) * x, start, parameters=layer)
    assert check.method == "complex step"


def test_a_fault_far_down_a_vanishing_gradient_is_found() -> None:
    """The gradient is below 1e-30 and wrong by 1%; a central difference gives 0."""
    mine = _identity(lambda xp, g, y, x: xp.where(xp.abs(g) < 1e-30, 1.01 * g, g))
    x = const(np.random.default_rng(0).standard_normal((80, 1, 1)))
    message = _message(_Loop(mine), x, order=1)
    assert message.startswith("check_gradients: mine, in _loop")


def test_a_fault_at_one_step_of_many_is_found() -> None:
    mine = _identity(lambda xp, g, y, x: g * (1 + 1e-9))
    message = _message(_Loop(mine, at=9), const(np.ones((20, 1, 1))))
    assert "check_gradients: mine" in message


# --- the message --------------------------------------------------------------------------------


def test_the_message_names_everything() -> None:
    product = tg.Primitive(
        "product",
        forward=lambda xp, a, b: xp.matmul(a, b),
        vjp=(
            lambda xp, g, y, a, b: xp.matmul(g, xp.permute_dims(b, (1, 0))),
            lambda xp, g, y, a, b: 1.5 * xp.matmul(xp.permute_dims(a, (1, 0)), g),
        ),
        jvp="multilinear",
    )
    message = _message(
        lambda a, b: tg.tanh(tg.apply(product, a, b)), const(np.ones((3, 4))), const(np.eye(4) / 9)
    )
    lines = message.splitlines()
    assert lines[0] == "check_gradients: product: the first derivative is wrong"
    assert "input         input 1 of shape (4, 4), float64" in lines[1]
    assert "entry         output[" in lines[2]
    assert "computed      1.5" in lines[3]
    assert "complex step  1" in lines[4]
    assert "ratio         1.5" in lines[5]
    assert "so in the function checked the first derivative is wrong" in lines
    example = "\n".join(
        line.strip() for line in lines[lines.index("the smallest example that shows it:") + 1 :]
    )
    assert "x0 = np.array(1.0" not in example  # a product needs its axes
    with pytest.raises(tg.GradientCheckError, match=r"product: .*") as again:
        exec(example, {"np": np, "tg": tg, "product": product})
    assert str(again.value).startswith(lines[0])


def test_a_large_ratio_is_a_power_of_ten() -> None:
    mine = _identity(lambda xp, g, y, x: g * 1e-9)
    assert "10^-9.0" in _message(lambda x: tg.apply(mine, x), const([1.0]))


def test_a_dependence_that_the_graph_does_not_show() -> None:
    for f in (lambda x: x * x.detach(), lambda x: x * float(x.numpy().real[0])):
        message = _message(f, const([1.0, 2.0]))
        assert "no operation recorded is wrong alone" in message
        assert "detach()" in message


# --- where the complex step does not serve ------------------------------------------------------


def _cubed(factor: float) -> tg.Primitive:
    """|x|³, by a forward with another meaning for complex numbers."""
    return tg.Primitive(
        "cubed",
        forward=lambda xp, x: np.abs(x) ** 3,
        vjp=(lambda xp, g, y, x: factor * g * x * xp.abs(x),),
        jvp="elementwise",
    )


def test_five_points_replace_a_wrong_complex_step() -> None:
    x = np.array([1.0, -2.0, 1e-3, 1e3])
    with tg.use_device("cpu"):
        check = check_gradients(lambda x: tg.apply(_cubed(3.0), x), x)
        assert check.method == "five points"
        assert check.error < 1e-9
        message = _message(lambda x: tg.apply(_cubed(3 + 1e-6), x), x)
    assert "five points   " not in message.splitlines()[1]
    assert any(line.strip().startswith("five points  3") for line in message.splitlines())


@pytest.mark.parametrize(
    ("f", "x", "slopes"),
    [
        (tg.relu, [1.0, 0.0], "0 on the left and 1 on the right"),
        (tg.abs, [0.0], "-1 on the left and 1 on the right"),
        (tg.max, [1.0, 2.0, 2.0], "0 on the left and 1 on the right"),
        (lambda x: tg.clip(x, 0.0, 1.0), [1.0], "1 on the left and 0 on the right"),
        (tg.floor, [0.5, 2.0], "on the left"),
        (tg.sqrt, [1.0, 0.0], "nan on the left"),
    ],
)
def test_kinks_and_jumps_are_named(f: Any, x: list[float], slopes: str) -> None:
    with pytest.raises(tg.NotDifferentiableError, match=slopes):
        check_gradients(f, const(x))


_COUNT = itertools.count()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: check_gradients(tg.log, const([-1.0])), "not finite at this point"),
        (lambda: check_gradients(tg.abs, const([1])), "no floating input"),
        (lambda: check_gradients(tg.abs, const([1.0 + 1j])), "input 0 is complex"),
        (lambda: check_gradients(tg.abs), "no floating input"),
        (lambda: check_gradients(lambda x: None, const([1.0])), "not NoneType"),
        (lambda: check_gradients(lambda x: x > 0, const([1.0])), "return a floating Tensor"),
        (lambda: check_gradients(tg.abs, const([1.0]), order=3), "order is 3"),
        (lambda: check_gradients(lambda x: x * next(_COUNT), const([1.0])), "another value"),
    ],
)  # fmt: skip
def test_wrong_calls(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(tg.TinygradError, match=f"check_gradients: .*{words}"):
        call()


def test_parameters_are_put_back_after_an_error() -> None:
    w = tg.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    data, node = w._data, w._node

    def f(x: Any) -> Any:
        if w.numpy().dtype.kind == "c":
            raise KeyError("inside")
        return x * w

    with pytest.raises(KeyError):
        check_gradients(f, const([1.0, 2.0]), parameters=[w])
    assert w._data is data
    assert w._node is node


@pytest.mark.parametrize(
    ("rule", "returned"),
    [
        (lambda xp, g, y, a, b: (g * b,), "a tuple of 1"),
        (lambda xp, g, y, a, b: g * b, "a ndarray"),
        (lambda xp, g, y, a, b: None, "a NoneType"),
        (lambda xp, g, y, a, b: (g * b, g * a, g), "a tuple of 3"),
    ],
)
def test_a_rule_that_returns_too_few_or_too_many_cotangents_is_named(
    rule: Any, returned: str
) -> None:
    product = tg.Primitive("product", lambda xp, a, b: a * b, rule, "elementwise")
    with pytest.raises(
        tg.GradientCheckError, match="product: the first derivative is wrong"
    ) as error:
        tg.testing.check_gradients(lambda a, b: tg.apply(product, a, b), [0.5, 2.0], [1.0, 3.0])
    assert f"the derivative rule of product returned {returned}, for 2 inputs" in str(error.value)
