"""Helpers for tests, which run on the device that ``pytest --device`` names.

Modes have the device under test as the default before the first test module is imported: layers and
tensors are made on it, wherever a test makes them. What else a test does with arrays:

| to | write |
|---|---|
| make a tensor | ``const(values)``, or ``leaf(values)``, which requires grad |
| make a raw array, as an operand or a cotangent | ``array(values)`` |
| move all that a test is given, in any nesting | ``moved(tree)`` |
| draw standard normal arrays of the host | ``draw(seed, (2, 3), (4,))`` |
| read any array or Tensor with NumPy | ``host(x)``; ``assert_close`` and ``assert_same_bits`` do it alone |
| write into a tensor or an array | ``write(x, values)`` or ``write(x, values, at=(0, 1))`` |
| hand over a function that is written in NumPy | ``in_numpy(f)`` |
| see that a result cannot be written to | ``assert_unwritable(y)`` |
| ask for common memory | ``share_memory(x, y)`` |
| call a primitive or a rule | ``xp()``, the namespace of the device under test |
| see an error and what its message names | ``refused(tg.ShapeError, "add", "(2, 3)")`` |
| say that a property is one of the host | ``@host_only("CuPy has no read-only arrays")`` |

Values to expect are NumPy's, always. ``np.asarray(x)`` of an array on a card raises, and so does every
function of NumPy's on one.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182 import _trees
from tinygrad182.arrays import backend

Array = np.ndarray[Any, Any]

_device = "cpu"


def use(device: str) -> None:
    """Set the device under test (``pytest --device``); one that is missing stops the run here."""
    global _device
    _device = tg.zeros(1, device=device).device
    tg.use_device(_device)


def device() -> str:
    return _device


def host_only(reason: str) -> pytest.MarkDecorator:
    """Skip a test except on the CPU, because it checks a property of NumPy's arrays."""
    return pytest.mark.skipif(_device != "cpu", reason=f"on the CPU only: {reason}")


def const(value: Any) -> tg.Tensor:
    """A tensor on the device under test."""
    return tg.tensor(host(value), device=_device)


def leaf(value: Any) -> tg.Tensor:
    """A tensor on the device under test; it requires grad if it is floating."""
    values = host(value)
    return tg.tensor(values, device=_device, requires_grad=is_floating(values))


def leaves(values: Sequence[Any]) -> list[tg.Tensor]:
    return [leaf(v) for v in values]


def array(value: Any, dtype: Any = None) -> Any:
    """A raw array on the device under test; on the CPU an array of NumPy's is itself."""
    return backend.move(np.asarray(host(value), dtype), _device)


def moved(tree: Any, device: str | None = None) -> Any:
    """Arrays and Tensors in any nesting on one device, the one under test by default."""
    return _trees.rebuild(tree, [_moved(x, device or _device) for x in _trees.flatten(tree)])


def _moved(x: Any, device: str) -> Any:
    if isinstance(x, tg.Tensor):
        return x.to(device)
    return backend.move(x, device) if backend.is_array(x) else x


def host(value: Any) -> Array:
    """A Tensor or an array of any device as NumPy's array; numbers and lists too."""
    if isinstance(value, tg.Tensor):
        return value.numpy()
    if backend.is_array(value):
        return backend.namespace(value).to_numpy(value)
    if isinstance(value, (list, tuple)):
        return np.asarray([host(v) for v in value])
    return np.asarray(value)


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    """Standard normal arrays on the host, float64."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def write(x: Any, values: Any, at: Any = ...) -> None:
    """Set ``x.data[at]``, or ``x[at]`` of an array, to values of the host or of any device."""
    data = x.data if isinstance(x, tg.Tensor) else x
    device = backend.namespace(data).device(data)
    with backend.on(data):
        data[at] = backend.move(host(values).astype(data.dtype), device)


def share_memory(a: Any, b: Any) -> bool:
    """Whether two Tensors or arrays share memory."""
    a, b = (x._data if isinstance(x, tg.Tensor) else x for x in (a, b))  # .data may be a copy
    return bool(backend.namespace(a, b).module.shares_memory(a, b))


def in_numpy(f: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPy function, made to take arrays of the device under test; on the CPU it is ``f``."""
    if _device == "cpu":
        return f

    @functools.wraps(f)
    def elsewhere(*args: Any, **options: Any) -> Any:
        return moved(f(*moved(args, "cpu"), **moved(options, "cpu")))

    return elsewhere


def xp() -> backend.Namespace:
    """The functions of the library whose arrays live on the device under test."""
    return backend.namespace_on(_device)


def is_floating(array: Array) -> bool:
    return array.dtype.kind == "f"


def assert_close(
    actual: Any, expected: Any, tolerance: float, what: str = "values", floor: float = 0.0
) -> None:
    """Check for equal shapes, and differences of at most ``tolerance`` of the largest expected size.

    Unlike an absolute tolerance, this says something about gradients of 1e-50 too. ``floor`` is the
    least size that is expected to count, where larger terms cancel.
    """
    a, b = host(actual), host(expected)
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
    a, b = host(actual), host(expected)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{what}: {a.dtype} {a.shape}"
    assert a.tobytes() == b.tobytes(), f"{what}: not the same bits"


def assert_unwritable(x: tg.Tensor) -> None:
    """Check that a write through ``.data`` raises; on a card, whose arrays are never read-only, it
    goes to a copy."""
    before = host(x).copy()
    refused = pytest.raises(ValueError, match="read-only")
    with refused if x.device == "cpu" else contextlib.nullcontext():
        write(x, 5.0)
    assert_same_bits(x, before, "what was written to")


def says(error: object, *names: str) -> None:
    """Check that a message names each of these, as whole words: operation, shape, dtype, remedy.

    The English around the names is free.
    """
    message = str(error)
    for name in names:
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message), (
            f"{name!r} is not in: {message}"
        )


@contextlib.contextmanager
def refused(error: type[Exception], *names: str) -> Iterator[None]:
    """Check that the block raises this error, with a message that names these words."""
    with pytest.raises(error) as caught:
        yield
    says(caught.value, *names)


def needs_torch() -> Any:
    """The torch module; the test is skipped where it is not installed (the extra ``peers``)."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch
