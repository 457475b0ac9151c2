"""Functions with a floating result take whole numbers of every type, and nothing wraps around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, const, host

TYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]

ELEMENTWISE = """
    exp expm1 log log1p log2 log10 sqrt sin cos sinh cosh tanh asin acos atan asinh sigmoid
    acosh atanh cbrt exp2 sinc tan deg2rad rad2deg
""".split()  # noqa: SIM905

ALONG: dict[str, Callable[[Any], Any]] = {
    "mean": tg.mean,
    "var": tg.var,
    "std": tg.std,
    "logsumexp": tg.logsumexp,
    "softmax": tg.softmax,
    "log_softmax": tg.log_softmax,
    "norm": tg.norm,
    "norm-1": lambda x: tg.norm(x, 1),
    "norm-3": lambda x: tg.norm(x, 3),
    "norm-inf": lambda x: tg.norm(x, np.inf),
    "norm-0": lambda x: tg.norm(x, 0),
    "vector_norm": tg.vector_norm,
    "vector_norm-1": lambda x: tg.vector_norm(x, ord=1),
    "matrix_norm": lambda x: tg.matrix_norm(tg.reshape(x, (-1, 1)), ord=1),
    "nanmean": tg.nanmean,
    "nanvar": tg.nanvar,
    "nanstd": tg.nanstd,
    "logaddexp": lambda x: tg.logaddexp(x, tg.flip(x)),
    "logaddexp2": lambda x: tg.logaddexp2(x, tg.flip(x)),
    "hypot": lambda x: tg.hypot(x, tg.flip(x)),
    "atan2": lambda x: tg.atan2(x, tg.flip(x)),
    "divide": lambda x: x / 3,
    "cross_entropy": lambda x: tg.nn.cross_entropy(x[None], tg.tensor([1], dtype="int64")),
    "mse_loss": lambda x: tg.nn.mse_loss(x, tg.flip(x)),
}


def _numbers(dtype: str) -> Array:
    """The least and the largest of a type, and some between."""
    if dtype == "bool":
        return np.array([False, True, True, False])
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1, 2, 3, info.max // 2 + 1], dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [*ELEMENTWISE, *ALONG])
def test_whole_numbers_are_taken_for_what_they_are(name: str, dtype: str) -> None:
    f = ALONG[name] if name in ALONG else getattr(tg, name)
    x = _numbers(dtype)
    with np.errstate(all="ignore"):
        found = host(f(const(x)))
        exact = np.asarray(host(f(const(x.astype(float)))), float)
        expected = exact.astype(found.dtype)
        assert found.dtype.kind == "f"
        # of a type that holds the numbers, so that rounding is all there is
        info = np.finfo(found.dtype)
        np.testing.assert_allclose(
            found.astype(float),
            expected.astype(float),
            rtol=2 * info.eps,
            atol=info.eps if name in ("sinc", "tan", "logaddexp2") else info.tiny,
        )


@pytest.mark.parametrize("dtype", TYPES)
def test_their_types_are_numpys(dtype: str) -> None:
    x = const(_numbers(dtype))
    with np.errstate(all="ignore"):
        expected = np.exp(_numbers(dtype)).dtype
        for f in (tg.sigmoid, tg.softmax, tg.log_softmax, tg.logsumexp, tg.acosh, tg.atanh):
            assert f(x).dtype == expected
        for f in (tg.mean, tg.std, tg.norm, tg.vector_norm):
            assert f(x).dtype == np.float64
    assert tg.nn.mse_loss(x, x).dtype == np.float64


@pytest.mark.parametrize("f", [tg.softmax, tg.log_softmax, tg.logsumexp])
def test_small_whole_numbers_are_computed_as_halves_are(f: Callable[[Any], tg.Tensor]) -> None:
    x = np.arange(-10, 10, dtype=np.int8)
    np.testing.assert_array_equal(host(f(const(x))), host(f(const(x.astype(np.float16)))))


@pytest.mark.parametrize("a", [t for t in TYPES if t != "bool"])
@pytest.mark.parametrize("b", ["int8", "uint8", "int64", "float32"])
def test_the_remainder_with_the_sign_of_a_is_numpys(a: str, b: str) -> None:
    x = _numbers(a)[:, None]
    y = _numbers(b) if b != "float32" else np.array([0.75, -3.0, 7.0], b)
    y = y[y != 0]
    found = host(tg.fmod(const(x), const(y)))
    assert found.dtype == np.fmod(x, y).dtype
    np.testing.assert_array_equal(found, np.fmod(x, y))
