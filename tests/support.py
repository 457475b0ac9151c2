"""Tensors on the device under test, and how numbers are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg

Array = np.ndarray[Any, Any]

_device = "cpu"


def use(device: str) -> None:
    """Set the device under test (``pytest --device``); one that is missing stops the run here."""
    global _device
    _device = tg.zeros(1, device=device).device


def device() -> str:
    return _device


def const(value: Any) -> tg.Tensor:
    """A tensor on the device under test."""
    return tg.tensor(np.asarray(value), device=_device)


def leaf(value: Any) -> tg.Tensor:
    """A tensor on the device under test; it requires grad if it is floating."""
    array = np.asarray(value)
    return tg.tensor(array, device=_device, requires_grad=array.dtype.kind == "f")


def leaves(values: Sequence[Any]) -> list[tg.Tensor]:
    return [leaf(v) for v in values]


def is_floating(array: Array) -> bool:
    return array.dtype.kind == "f"


def assert_close(
    actual: Any, expected: Any, tolerance: float, what: str = "values", floor: float = 0.0
) -> None:
    """Equal shapes, and the largest difference at most ``tolerance`` of the largest expected size.

    Unlike an absolute tolerance, this says something about gradients of 1e-50 too. ``floor`` is the
    least size that is expected to count, where larger terms cancel.
    """
    a, b = _array(actual), _array(expected)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
    np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b), err_msg=what)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite], err_msg=what)
    if finite.any():
        scale = max(np.abs(b[finite]).max(), floor)
        error = np.abs(a[finite] - b[finite]).max()
        assert error <= tolerance * scale, (
            f"{what}: off by {error:.3g} where the largest is {scale:.3g}"
        )


def assert_same_bits(actual: Any, expected: Any, what: str = "values") -> None:
    a, b = _array(actual), _array(expected)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{what}: {a.dtype} {a.shape}"
    assert a.tobytes() == b.tobytes(), f"{what}: not the same bits"


def _array(value: Any) -> Array:
    return value.numpy() if isinstance(value, tg.Tensor) else np.asarray(value)


def needs_torch() -> Any:
    """The torch module; the test is skipped where it is not installed (the extra ``peers``)."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch
