"""check_gradients where it is hard: faults that hide, functions that look wrong and are right."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, host_only

check_gradients = tg.testing.check_gradients
RNG = np.random.default_rng(0)
X = np.array([0.3, -1.2, 2.0])


def _tanh(vjp: Callable[..., Any], jvp: Any = "elementwise") -> tg.Primitive:
    """A user's own tanh, with a derivative rule that promises leading axes."""

    def forward(xp: Any, x: Any) -> Any:
        return xp.tanh(x)

    return tg.Primitive("mine", forward, vjp=(vjp,), jvp=jvp, leading_axes=True)


def _right(xp: Any, g: Any, y: Any, x: Any) -> Any:
    return g * (1 - y * y)


def _fails(f: Callable[..., Any], *xs: Any, **options: Any) -> str:
    with pytest.raises(tg.GradientCheckError) as caught:
        check_gradients(f, *xs, **options)
    return str(caught.value)


# --- faults that hide ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outer",
    [
        lambda y: tg.tanh(y + 17.0),  # 1 − y² has hardly a digit left
        lambda y: tg.square((y + 1e14) - 1e14),
    ],
)
def test_a_fault_that_rounding_hides_in_the_whole(outer: Callable[[Any], Any]) -> None:
    mine = _tanh(lambda xp, g, y, x: 1.5 * g * (1 - y * y))
    assert "check_gradients: mine: " in _fails(lambda x: outer(tg.apply(mine, x)), const([0.3]))


def test_a_jvp_that_needs_every_input_to_move() -> None:
    product = tg.Primitive(
        "product",
        forward=lambda xp, a, b: a * b,
        vjp=(lambda xp, g, y, a, b: g * b, lambda xp, g, y, a, b: g * a),
        jvp=lambda xp, vs, y, a, b: vs[0] * b + a * vs[1],
    )
    assert "JVP" in _fails(lambda a, b: tg.apply(product, a, b), const(X), const(X + 1))


def test_a_jvp_that_is_not_recorded() -> None:
    def jvp(xp: Any, vs: Any, y: Any, x: Any) -> Any:
        y = y.detach() if isinstance(y, tg.Tensor) else y
        return vs[0] * (1 - y * y)

    assert "derivative of the JVP" in _fails(lambda x: tg.apply(_tanh(_right, jvp), x), const(X))


def test_a_jvp_that_is_wrong_where_the_derivative_is_tiny() -> None:
    scale = const([1.0, 1e-60])
    mine = tg.Primitive(
        "mine",
        forward=lambda xp, x, s: x * s,
        vjp=(lambda xp, g, y, x, s: g * s, lambda xp, g, y, x, s: g * x),
        jvp=lambda xp, vs, y, x, s: (
            (0 if vs[0] is None else vs[0] * xp.where(s < 1e-50, 2 * s, s))
            + (0 if vs[1] is None else vs[1] * x)
        ),
    )
    assert "JVP" in _fails(lambda x: tg.apply(mine, x, scale), const([0.5, 0.7]))


def _narrow(array: Any) -> bool:
    return str(array.dtype).endswith("float32")


@pytest.mark.parametrize(
    ("rule", "jvp", "what"),
    [
        (
            lambda xp, g, y, x: g * (1 - y * y) * (1.01 if _narrow(x) else 1),
            "elementwise",
            "gradient in the dtype given",
        ),
        (
            lambda xp, g, y, x: (
                g * (1 - (y.detach() ** 2 if isinstance(y, tg.Tensor) and _narrow(y) else y * y))
            ),
            "elementwise",
            "second derivative in the dtype given",
        ),
        (
            _right,
            lambda xp, vs, y, x: vs[0] * (1 - y * y) * (2 if _narrow(x) else 1),
            "JVP in the dtype given",
        ),
        (
            lambda xp, g, y, x: g * (1 - y * y) * (1.01 if _narrow(x) and g.ndim > 1 else 1),
            "elementwise",
            "with a leading axis",
        ),
    ],
)
def test_a_fault_in_float32_alone(rule: Any, jvp: Any, what: str) -> None:
    mine = _tanh(rule, jvp)
    assert what in _fails(lambda x: tg.apply(mine, x), const(X.astype("float32")))


@host_only("looks at NumPy's strides")
def test_a_fault_for_some_memory_layouts() -> None:
    def rule(xp: Any, g: Any, y: Any, x: Any) -> Any:
        plain = isinstance(x, tg.Tensor) or x.flags.c_contiguous
        return g * (1 - y * y) if plain else 2 * g * (1 - y * y)

    f = _tanh(rule)
    assert "arrays is wrong" in _fails(lambda x: tg.apply(f, x), RNG.standard_normal((2, 3)))


def test_a_rule_that_writes_into_what_is_between() -> None:
    def rule(xp: Any, g: Any, y: Any, x: Any) -> Any:
        result = g * (1 - y * y)
        if not isinstance(g, tg.Tensor):
            x *= 1.0000001
        return result

    mine = _tanh(rule)
    message = _fails(lambda x: tg.apply(mine, x * x) + tg.exp(x), const(X))
    assert "mine: " in message or "it writes into the result of multiply" in message


# --- functions that are right -------------------------------------------------------------------


class _Recomputed(tg.nn.Module):
    def __init__(self) -> None:
        self.a = tg.nn.Linear(3, 3, rng=0, dtype="float64")

    def forward(self, x: Any) -> Any:
        return tg.remat(lambda h: tg.tanh(self.a(h)))(x)


Q = np.linalg.qr(RNG.standard_normal((5, 5)))[0]
CENTERED = RNG.standard_normal(7)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (_Recomputed(), RNG.standard_normal((2, 3))),
        (lambda x: (x - tg.mean(x)).sum(), CENTERED),
        (lambda x: (x - tg.mean(x)).mean(), CENTERED),
        (lambda x: const(Q.T) @ (const(Q) @ x), CENTERED[:5]),
        (lambda x: x * (1e8 / 3) + x / 3 - x * (1e8 / 3), CENTERED),
        (lambda x: tg.grad(tg.tanh(x * x).sum(), x, create_graph=True)[0], CENTERED),
        (lambda x: tg.tanh(x * x).sum(), CENTERED.astype("float16")),
        (lambda x: tg.astype(tg.tanh(x), "float32") * 2, CENTERED),
        (lambda x: tg.sin(1e9 * x), np.array([0.3])),
        (lambda x: tg.relu(x[0] + x[1]), np.array([1.0, -1 + 1e-7])),
        (lambda x: x * x, np.array([1e150, 1e-150])),
        (lambda x: x**3, np.zeros(3)),
        (lambda x: tg.log(x), np.array([1e-300, 1.0])),
        (lambda x: tg.softmax(x), np.array([1e300, -1e300, 0.0])),
    ],
)  # fmt: skip
def test_no_false_alarm(f: Any, x: np.ndarray[Any, Any]) -> None:
    assert check_gradients(f, const(x))


def test_a_forward_that_is_not_complex_safe_in_a_small_part() -> None:
    size = tg.Primitive(
        "size",
        forward=lambda xp, x: abs(x),
        vjp=(lambda xp, g, y, x: g * xp.sign(x),),
        jvp="elementwise",
    )
    check = check_gradients(lambda x: x[0] + 1e-9 * tg.apply(size, x[1]), const([1.0, -2.0]))
    assert check.method == "five points"


# --- points without a derivative ----------------------------------------------------------------


def test_a_kink_behind_a_large_value() -> None:
    with pytest.raises(tg.NotDifferentiableError, match=r"input 0\[1\] at 0"):
        check_gradients(lambda x: 1e7 * x[0] + tg.abs(x[1]), const([1.0, 0.0]))


def test_a_kink_of_the_derivative() -> None:
    with pytest.raises(tg.NotDifferentiableError, match="order=1"):
        check_gradients(lambda x: tg.square(tg.relu(x)), const([0.0, 1.0]))
    assert check_gradients(lambda x: tg.square(tg.relu(x)), const([0.0, 1.0]), order=1)


def test_what_overflows_in_its_own_dtype_is_told() -> None:
    with pytest.raises(tg.ArgumentError, match="finite in float64, not in the dtype given"):
        check_gradients(tg.exp, const(np.array([100.0], "float32")))


# --- bad input, and what stays behind -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rtol": -1}, "rtol is -1"),
        ({"rtol": "x"}, "rtol is 'x'"),
        ({"rtol": float("nan")}, "rtol is nan"),
        ({"max_entries": 0}, "max_entries 0"),
        ({"max_entries": 1.5}, "max_entries 1.5"),
        ({"seed": -1}, "seed -1"),
        ({"parameters": [3]}, "parameters must be"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(tg.ArgumentError, match=f"check_gradients: {words}"):
        check_gradients(tg.exp, const([1.0]), **options)
    with pytest.raises(tg.ArgumentError, match=r"int.*function"):
        check_gradients(3, const([1.0]))  # type: ignore[arg-type]


def test_a_fault_of_an_empty_array_is_told() -> None:
    def rule(xp: Any, g: Any, y: Any, x: Any) -> Any:
        if g.size == 0:
            raise ZeroDivisionError("nothing")
        return g * (1 - y * y)

    mine = _tanh(rule)
    message = _fails(lambda x: tg.apply(mine, x), const(np.zeros((0, 3))))
    assert "raised  ZeroDivisionError: nothing" in message


def test_a_failed_check_leaves_nothing_for_the_collector() -> None:
    mine = _tanh(lambda xp, g, y, x: g)
    f = lambda x: tg.apply(mine, x)  # noqa: E731
    for _ in range(2):
        with pytest.raises(tg.GradientCheckError):
            check_gradients(f, const(X))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with contextlib.suppress(tg.GradientCheckError):
                check_gradients(f, const(X))
        assert gc.collect() == 0
    finally:
        gc.enable()
