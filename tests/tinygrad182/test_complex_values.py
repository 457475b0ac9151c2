"""Functions at complex numbers, as the complex step needs them, also at the kinks of their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const

H = 1e-20


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (tg.sigmoid, H * 1j, 0.5 + 0.25j * H),
        (tg.relu, H * 1j, 0.0),
        (tg.relu, -1 + H * 1j, 0.0),
        (tg.relu, 1 + H * 1j, 1 + H * 1j),
        (tg.abs, -1 + H * 1j, 1 - H * 1j),
        (tg.abs, H * 1j, H * 1j),
        (lambda x: tg.maximum(x, 1.0), 1 - H * 1j, 1 - H * 1j),
        (lambda x: tg.minimum(x, 1.0), 1 + H * 1j, 1 + H * 1j),
        (lambda x: tg.maximum(1.0, x), 1 + H * 1j, 1.0),
        (lambda x: x**3, -2 + H * 1j, -8 + 12j * H),
        (lambda x: x**2, -2 + H * 1j, 4 - 4j * H),
        (lambda x: 2.0**x, 3 + H * 1j, 8 + 8j * np.log(2) * H),
        (lambda x: x**0.5, -4 + 1j, (-4 + 1j) ** 0.5),
        (tg.log1p, 0.5 + 2j, np.log(1.5 + 2j)),
        (tg.log1p, H + H * 1j, H + H * 1j),
    ],
)
def test_values_at_complex_numbers(f: Any, x: complex, expected: complex) -> None:
    found = f(const([x])).numpy()
    np.testing.assert_allclose(found.real, [np.real(expected)], rtol=1e-15)
    np.testing.assert_allclose(found.imag, [np.imag(expected)], rtol=1e-15)


def test_the_size_of_negative_zero_is_positive() -> None:
    assert not np.signbit(tg.abs(const([-0.0])).numpy())
