"""Functions of coordinates: differences are taken before they are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, host, leaf

TIMES = 1.7e9 + np.array([0.0, 1.0, 3.0])


@pytest.mark.parametrize("times", [TIMES, TIMES.tolist()])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_coordinates_of_the_host_are_subtracted_before_they_are_rounded(
    times: Any, dtype: str
) -> None:
    x = const(np.array([1.0, 2.0, 6.0], dtype))
    for y, expected in (
        (tg.trapezoid(x, times), [9.5]),
        (tg.gradient(x, times), np.gradient([1.0, 2.0, 6.0], [0.0, 1.0, 3.0])),
        (tg.interp(TIMES[:2] + 0.5, times, x), [1.5, 3.0]),
    ):
        assert y.dtype == dtype
        np.testing.assert_allclose(
            host(y).reshape(-1), expected, rtol=1e-3 if dtype == "float16" else 1e-7
        )


def test_coordinates_have_derivatives() -> None:
    y, x = np.array([1.0, 2.0, 6.0]), np.array([0.0, 1.0, 3.0])
    tg.testing.check_gradients(tg.trapezoid, y, x)
    tg.testing.check_gradients(tg.gradient, y, x)
    tg.testing.check_gradients(tg.interp, np.array([0.4, 1.7, 5.0]), x, y)
    tg.testing.check_gradients(lambda x, q: tg.quantile(x, q), y, np.array([0.2, 0.7]))


def test_data_of_the_host_goes_where_the_tensor_is() -> None:
    x = leaf(np.array([1.0, 2.0, 6.0]))
    points = np.array([0.0, 1.0, 3.0])
    for y in (
        tg.trapezoid(x, points),
        tg.gradient(x, points),
        tg.average(x, weights=points),
        tg.interp(x, points, points),
        tg.interp(points, points, x),
        tg.quantile(x, np.array([0.5])),
        tg.percentile(x, 50),
    ):
        assert y.device == x.device
        assert y.requires_grad
