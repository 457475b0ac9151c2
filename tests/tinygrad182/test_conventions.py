"""The promises of docs/conventions.md about kinks, ties and extreme numbers.

The rows are those of ``docs/conventions.md``, which is read: what the page says is what is tested.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, const, leaf, needs_torch

INF, NAN = math.inf, math.nan
PAGE = Path(__file__).parents[2] / "docs" / "conventions.md"
LINES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("| `")
]
NUMBERS = {
    "inf": INF,
    "nan": NAN,
    "zeros": np.zeros,
    "log": math.log,
    "exp": math.exp,
    "pi": math.pi,
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's warnings about inputs for which it returns NaN
        yield


# --- the page -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convention:
    """One row: an expression, its inputs, and each framework's result (a str for an error)."""

    expression: str
    at: dict[str, Array]
    value: Any
    gradient: tuple[Any, ...]
    torch_value: Any
    torch_gradient: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.expression} at { ({k: v.tolist() for k, v in self.at.items()}) }"

    def run(self, names: dict[str, Any], inputs: dict[str, Any]) -> Any:
        return eval(self.expression, {**names, "nan": NAN}, dict(inputs))


def _numbers(code: str) -> Any:
    return eval(code, dict(NUMBERS))


def _gradients(code: str, inputs: int) -> tuple[Any, ...]:
    return _numbers(code) if inputs > 1 else (_numbers(code),)


def _convention(expression: str, at: str, value: str, gradient: str, torch: str) -> Convention:
    inputs: dict[str, Any] = {}
    exec(at.strip("`"), dict(NUMBERS), inputs)
    inputs = {name: np.asarray(x, float) for name, x in inputs.items()}
    error = value.strip("`") if "Error" in value else ""
    ours = (
        error or _numbers(value.strip("`")),
        () if error else _gradients(gradient.strip("`"), len(inputs)),
    )
    theirs = list(ours) if torch != "error" else ["error", ()]
    for what, code in re.findall(r"(value|gradient) `([^`]*)`", torch):
        theirs[what == "gradient"] = (
            _numbers(code) if what == "value" else _gradients(code, len(inputs))
        )
    assert torch in ("same", "error") or "`" in torch, expression
    return Convention(expression.strip("`"), inputs, *ours, *theirs)


CONVENTIONS = [_convention(*cells) for cells in LINES if len(cells) == 5]
VALUES = [c for c in CONVENTIONS if not isinstance(c.value, str)]
DTYPES = [[cell.strip("`") for cell in cells] for cells in LINES if len(cells) == 3]
OURS = {name: getattr(tg, name) for name in tg.functions.__all__}

conventions = pytest.mark.parametrize("row", CONVENTIONS, ids=str)
values = pytest.mark.parametrize("row", VALUES, ids=str)


def test_every_line_of_the_page_is_read() -> None:
    assert len(CONVENTIONS) + len(DTYPES) == len(LINES)
    assert len(CONVENTIONS) > 90
    assert len(DTYPES) > 20


def _agrees(actual: Any, expected: Any, rtol: float, what: str) -> None:
    expected = np.asarray(expected)
    assert np.shape(actual) == (expected.shape if expected.size else np.shape(actual)), what
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0, err_msg=what)


def _check(row: Convention, dtype: str, rtol: float) -> None:
    inputs = {name: leaf(x.astype(dtype)) for name, x in row.at.items()}
    if isinstance(row.value, str):
        with pytest.raises(getattr(tg, row.value)):
            row.run(OURS, inputs)
        return
    y = row.run(OURS, inputs)
    assert y.dtype == dtype
    _agrees(y.numpy(), np.asarray(row.value).astype(dtype), rtol, "value")
    y.sum().backward()
    for (name, x), expected in zip(inputs.items(), row.gradient, strict=True):
        assert x.grad is not None
        assert x.grad.dtype == dtype
        _agrees(x.grad.numpy(), np.asarray(expected).astype(dtype), rtol, f"gradient by {name}")


@conventions
def test_the_convention(row: Convention) -> None:
    _check(row, "float64", 1e-13)


def _fits_float32(row: Convention) -> bool:
    numbers = [*row.at.values(), *row.gradient]
    numbers += [] if isinstance(row.value, str) else [row.value]
    sizes = np.abs(np.concatenate([np.ravel(n) for n in numbers]))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return not sizes.size or bool(sizes.max() < 1e38 and sizes.min() > 1e-37)


@pytest.mark.parametrize("row", [*filter(_fits_float32, CONVENTIONS)], ids=str)
def test_the_convention_in_float32(row: Convention) -> None:
    _check(row, "float32", 1e-6)


@values
def test_tangents_agree_with_cotangents(row: Convention) -> None:
    """⟨g, Jv⟩ = ⟨gJ, v⟩; of an elementwise function also where they are infinite or NaN."""
    names = list(row.at)

    def f(*xs: tg.Tensor) -> tg.Tensor:
        return row.run(OURS, dict(zip(names, xs, strict=True)))

    rng = np.random.default_rng(0)
    points = [const(x) for x in row.at.values()]
    vs = [rng.uniform(0.5, 1.5, x.shape) for x in row.at.values()]
    y, tangent = tg.jvp(f, points, [const(v) for v in vs])
    assert isinstance(tangent, tg.Tensor)
    g = rng.uniform(0.5, 1.5, y.shape)  # type: ignore[union-attr]
    cotangents = [c.numpy() for c in tg.vjp(f, *points)[1](const(g))]
    parts = [c * v for c, v in zip(cotangents, vs, strict=True)]
    if all(np.isfinite(c).all() for c in cotangents):
        scale = sum(np.abs(p).sum() for p in parts)
        assert abs((g * tangent.numpy()).sum() - sum(p.sum() for p in parts)) <= 1e-13 * scale
    elif all(c.shape == tangent.shape for c in cotangents):
        np.testing.assert_allclose(g * tangent.numpy(), sum(parts), rtol=1e-13)


# --- the page's last column ---------------------------------------------------------------------


def _theirs(t: Any) -> dict[str, Any]:
    """PyTorch's functions under our names."""
    same = """
        relu abs sign floor ceil trunc round remainder sqrt log log1p log2 log10 exp expm1 sigmoid tanh sin
        square where mean hypot atan2 sinc asin acos acosh atanh sinh cosh asinh atan logaddexp
    """.split()  # noqa: SIM905

    def along(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, axis=None: f(x) if axis is None else f(x, dim=axis)

    return {
        **{name: getattr(t, name) for name in same},
        **{name: along(f) for name, f in {"max": t.amax, "min": t.amin}.items()},
        **{name: along(getattr(t, name)) for name in ("sum", "prod")},
        "cumulative_prod": lambda x: t.cumprod(x, 0),
        "norm": t.linalg.vector_norm,
        "clip": t.clamp,
        "maximum": lambda a, b: t.maximum(a, t.as_tensor(b, dtype=a.dtype)),
        "minimum": lambda a, b: t.minimum(a, t.as_tensor(b, dtype=a.dtype)),
        "logsumexp": lambda x: t.logsumexp(x, tuple(range(x.ndim))),
        "softmax": lambda x: t.softmax(x, -1),
        "log_softmax": lambda x: t.log_softmax(x, -1),
        "var": lambda x, correction=0: t.var(x, correction=correction),
        "std": lambda x, correction=0: t.std(x, correction=correction),
    }


@conventions
def test_pytorch_does_what_the_page_says(row: Convention) -> None:
    t = needs_torch()
    inputs = {name: t.tensor(x, requires_grad=True) for name, x in row.at.items()}
    if isinstance(row.torch_value, str):
        with pytest.raises((RuntimeError, IndexError)):
            row.run(_theirs(t), inputs)
        return
    y = row.run(_theirs(t), inputs)
    _agrees(y.detach().numpy(), row.torch_value, 1e-13, "value")
    y.sum().backward()
    for x, expected in zip(inputs.values(), row.torch_gradient, strict=False):
        assert x.grad is not None
        _agrees(x.grad.numpy(force=True), expected, 1e-13, "gradient")


@pytest.mark.parametrize("row", [c for c in VALUES if len(c.at) == 1], ids=str)
def test_second_derivatives_agree_with_pytorch(row: Convention) -> None:
    """They agree where all of PyTorch's are numbers."""
    t = needs_torch()
    ((name, at),) = row.at.items()
    if not at.size or row.torch_gradient is not row.gradient:
        return
    mine = tg.hessian(lambda x: row.run(OURS, {name: x}).sum(), const(at)).numpy()
    x = t.tensor(at, requires_grad=True)
    (g,) = t.autograd.grad(row.run(_theirs(t), {name: x}).sum(), x, create_graph=True)
    rows = [
        t.autograd.grad(e, x, retain_graph=True, materialize_grads=True)[0].numpy(force=True)
        if e.requires_grad
        else np.zeros(at.shape)
        for e in g.reshape(-1)
    ]
    theirs = np.array(rows).reshape(mine.shape)
    if np.isfinite(theirs).all():
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-15)


OPERANDS: dict[str, Array] = {
    "f16": np.ones(2, "float16"),
    "f32": np.ones(2, "float32"),
    "f64": np.ones(2),
    "i32": np.ones(2, "int32"),
    "i64": np.ones(2, "int64"),
    "mask": np.array([True, False]),
}


@pytest.mark.parametrize(("expression", "dtype", "torch"), DTYPES, ids=[d[0] for d in DTYPES])
def test_data_types(expression: str, dtype: str, torch: str) -> None:
    inputs = {name: const(x) for name, x in OPERANDS.items()}
    assert eval(expression, dict(OURS), inputs).dtype == dtype
    t = needs_torch()
    theirs = {name: t.tensor(x) for name, x in OPERANDS.items()}
    if torch == "error":
        with pytest.raises(RuntimeError):
            eval(expression, _theirs(t), theirs)
    else:
        expected = dtype if torch == "same" else torch
        assert str(eval(expression, _theirs(t), theirs).dtype) == f"torch.{expected}"


def test_what_the_page_says_of_pytorch_in_words() -> None:
    t = needs_torch()

    def gradient(f: Callable[..., Any], *values: float) -> list[float]:
        x = t.tensor(values, dtype=t.float64, requires_grad=True)
        f(x).sum().backward()
        return x.grad.tolist()

    assert gradient(lambda x: t.max(x, dim=0).values, 1, 2, 2) == [0, 1, 0]
    assert gradient(t.linalg.norm, 0, 0) == [0, 0]
    assert gradient(t.sign, 1) == gradient(t.floor, 1) == [0]
    assert gradient(lambda x: x**0.5, -0.0) == [-INF]
    assert math.copysign(1, t.relu(t.tensor(-0.0)).item()) == -1
    assert math.copysign(1, tg.relu(const(-0.0)).item()) == 1
    a, b = (t.tensor(v, requires_grad=True) for v in (2.0, 0.0))
    (by_a,) = t.autograd.grad(a**b, a, create_graph=True)
    assert t.autograd.grad(by_a, b)[0].item() == 0  # 1/a is right


# --- kinks and ties -----------------------------------------------------------------------------


@pytest.mark.parametrize(("f", "expected"), [(tg.relu, 0), (tg.abs, 0), (tg.square, 0)])
def test_minus_zero_is_zero(f: Callable[..., tg.Tensor], expected: float) -> None:
    x = leaf([-0.0])
    f(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [expected]


@pytest.mark.parametrize("f", [tg.maximum, tg.minimum])
@given(data=st.data())
def test_the_cotangent_is_shared_out_whole(f: Callable[..., tg.Tensor], data: Any) -> None:
    """For all pairs of operands, NaN included, the two gradients add up to the cotangent."""
    numbers = st.lists(st.sampled_from([-INF, -1.0, 0.0, 1.0, INF, NAN]), min_size=8, max_size=8)
    a, b = (leaf(data.draw(numbers)) for _ in range(2))
    g = np.arange(1.0, 9.0)
    by_a, by_b = tg.grad(f(a, b), [a, b], const(g))
    assert by_a is not None
    assert by_b is not None
    np.testing.assert_array_equal(by_a.numpy() + by_b.numpy(), g)


@pytest.mark.parametrize("f", [tg.max, tg.min])
@given(data=st.data())
def test_ties_conserve_the_cotangent(f: Callable[..., tg.Tensor], data: Any) -> None:
    values = data.draw(st.lists(st.integers(-1, 1), min_size=12, max_size=12))
    axis = data.draw(st.sampled_from([None, 0, 1, -1, (0, 2), (0, 1, 2)]))
    x = leaf(np.array(values, dtype=float).reshape(2, 3, 2))
    y = f(x, axis=axis)
    y.backward(tg.ones_like(y))
    assert x.grad is not None
    sums = x.grad.numpy().sum(axis=axis)
    assert_close(sums, np.ones(y.shape), 1e-15)
    _, tangent = tg.jvp(lambda x: f(x, axis=axis), x.detach(), const(np.ones(x.shape)))
    assert_close(tangent, np.ones(y.shape), 1e-15)


def test_the_fused_tie_rule_differentiates_again() -> None:
    hessian = tg.hessian(lambda x: tg.max(x) ** 3, const([2.0, 2.0, 1.0]))
    assert hessian.tolist() == [[3.0, 3.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
