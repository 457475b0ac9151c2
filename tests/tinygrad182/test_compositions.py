"""NumPy's formulas on Tensors: their values are NumPy's, their derivatives those of check_gradients."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, host, leaf
from tinygrad182 import compositions

from .table.compositions import ARRAYS, CALLS

INF = math.inf

calls = pytest.mark.parametrize("call", CALLS)


def _evaluated(call: str, names: dict[str, Any], module: Any = np) -> list[Any]:
    found = eval(call, {"np": module, **names})
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _used(call: str) -> list[str]:
    """The arrays that a call names."""
    return [x for x in ARRAYS if re.search(rf"\b{x}\b(?!\.\w*\()", call)]


def test_every_composition_is_called() -> None:
    called = set(re.findall(r"np\.(?:linalg\.)?(\w+)", " ".join(CALLS)))
    same = {getattr(tg, name) for name in called if hasattr(tg, name)}
    missing = {n for n in compositions.__all__ if getattr(tg, n) not in same}
    assert not missing


def test_every_composition_says_what_it_is() -> None:
    for name in compositions.__all__:
        f = getattr(tg, name)
        assert getattr(tg.functions, name) is f
        assert f.__doc__, name
        assert f.__doc__.splitlines()[0].endswith("."), name
        assert f.__name__.isidentifier(), name


@calls
def test_numpy_of_tensors_is_numpy_of_arrays(call: str) -> None:
    expected = _evaluated(call, ARRAYS)
    for module in (
        [np] if "np.linalg" in call or "accumulate" in call or "outer" in call else [np, tg]
    ):
        if module is tg and "'constant'" in call:
            continue  # whose mode is NumPy's alone
        found = _evaluated(call, {name: leaf(x) for name, x in ARRAYS.items()}, module)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert isinstance(a, tg.Tensor)
            np.testing.assert_allclose(host(a), np.asarray(b), rtol=1e-14, atol=1e-15)
            assert a.requires_grad


@calls
def test_derivatives_are_right(call: str) -> None:
    names = _used(call)
    assert names

    def f(*xs: tg.Tensor) -> Any:
        given: dict[str, Any] = dict(zip(names, xs, strict=True))
        if "n" in given:
            given["n"] = tg.where(np.isnan(ARRAYS["n"]), np.nan, given["n"])
        return tuple(_evaluated(call, {k: const(x) for k, x in ARRAYS.items()} | given))

    tg.testing.check_gradients(f, *(np.nan_to_num(ARRAYS[name]) for name in names), max_entries=3)


@calls
def test_float32_stays_float32(call: str) -> None:
    if "float_power" in call:
        return  # float64 by definition
    narrow = {name: leaf(x.astype(np.float32)) for name, x in ARRAYS.items()}
    for y in _evaluated(call, narrow):
        assert y.dtype == np.float32
