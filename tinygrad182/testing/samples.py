"""Test arrays made from a seed, with values where an operation is smooth and any memory layout.

>>> sample((2, 2), domain=away_from(0.0), layout="reversed", seed=3).strides
(-16, -8)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from ..engine.modes import default_device
from ..engine.recording import Leaf, wrap
from ..errors import ArgumentError
from ..tensors.creation import integers, tensor
from ..tensors.tensor import Tensor

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Domain = Callable[[np.random.Generator, Shape], Array]
"""``domain(rng, shape)`` returns values where an operation is smooth; it may be your own function."""

# --- domains: values where an operation is smooth -----------------------------------------------


def real(rng: np.random.Generator, shape: Shape) -> Array:
    """Values of either sign and size about 1."""
    return np.asarray(rng.standard_normal(shape))


def positive(rng: np.random.Generator, shape: Shape) -> Array:
    """Values between 0.3 and 2.5, for logarithms, roots and powers."""
    return np.asarray(rng.uniform(0.3, 2.5, shape))


def nonzero(rng: np.random.Generator, shape: Shape) -> Array:
    """Values of either sign with sizes from 0.3 to 2.5: at 0 divisions overflow and ``abs`` has a kink."""
    return _signs(rng, shape) * positive(rng, shape)


def mask(rng: np.random.Generator, shape: Shape) -> Array:
    """Booleans, half of them True."""
    return np.asarray(rng.random(shape) < 0.5)


def between(low: float, high: float) -> Domain:
    """Values in a bounded interval.

    >>> bool(sample((5,), between(-0.7, 2.0)).min() >= -0.7)
    True
    """
    if not -math.inf < low <= high < math.inf:
        raise ArgumentError(
            f"between: bounds {low} and {high} must be finite numbers, the smaller one first"
        )
    return _named(
        f"between({low}, {high})", lambda rng, shape: np.asarray(rng.uniform(low, high, shape))
    )


def away_from(*kinks: float, distance: float = 0.1) -> Domain:
    """Values at least ``distance`` away from every kink, such as the bounds of ``clip``.

    >>> bool(abs(sample((100,), away_from(-1.0, 1.0)) - 1.0).min() >= 0.1)
    True
    """
    if not (all(map(math.isfinite, kinks)) and 0 <= distance < math.inf):
        raise ArgumentError(
            f"away_from: kinks {kinks} and distance {distance} must be finite, and the distance at least 0"
        )

    def draw(rng: np.random.Generator, shape: Shape) -> Array:
        x, scale = np.asarray(rng.standard_normal(shape)), 1.0
        while (near := (np.abs(x[..., None] - kinks) < distance).any(axis=-1)).any():
            scale *= 1.5  # wider each time, so that it ends wherever the kinks are
            x[near] = scale * rng.standard_normal(np.count_nonzero(near))
        return x

    return _named(f"away_from({', '.join(map(str, kinks))}, distance={distance})", draw)


def apart(distance: float = 0.3) -> Domain:
    """Values at least ``distance`` apart, so that no maximum is near a tie.

    >>> bool(np.diff(np.sort(sample((100,), apart(0.3)))).min() >= 0.3)
    True
    """
    if not 0 < distance < math.inf:
        raise ArgumentError(f"apart: distance {distance}; it must be positive and finite")

    def draw(rng: np.random.Generator, shape: Shape) -> Array:
        size = math.prod(shape)
        places = rng.permutation(size) + rng.uniform(0.0, 0.4, size) - size / 2
        return places.reshape(shape) * (distance / 0.6)

    return _named(f"apart({distance})", draw)


def log_uniform(low: float = 1e-30, high: float = 1e30) -> Domain:
    """Values of either sign whose sizes are spread evenly over the decades from ``low`` to ``high``.

    >>> sizes = abs(sample((1000,), log_uniform(1e-30, 1e30)))
    >>> bool(sizes.min() < 1e-25 and sizes.max() > 1e25)
    True
    """
    if not 0 < low <= high < math.inf:
        raise ArgumentError(
            f"log_uniform: sizes {low} and {high} must be positive and finite, the smaller one first"
        )
    span = math.log(low), math.log(high)
    return _named(
        f"log_uniform({low}, {high})",
        lambda rng, shape: _signs(rng, shape) * np.exp(rng.uniform(*span, shape)),
    )


def _signs(rng: np.random.Generator, shape: Shape) -> Array:
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0)


def _named(name: str, draw: Domain) -> Domain:
    """Give a domain the name that hypothesis prints."""
    draw.__name__ = draw.__qualname__ = name
    return draw


# --- memory layouts ------------------------------------------------------------------------------


def _along_all(x: Array, step: int) -> tuple[slice | EllipsisType, ...]:
    return (*(slice(None, None, step),) * x.ndim, ...)


def _reversed(x: Array) -> Array:
    key = _along_all(x, -1)
    return x[key].copy()[key]


def _strided(x: Array) -> Array:
    """Every second element of a larger array; the elements in between are NaN."""
    wide = np.full([2 * n for n in x.shape], np.nan if x.dtype.kind in "fc" else 1, x.dtype)
    key = _along_all(x, 2)
    wide[key] = x
    return wide[key]


def _read_only(x: Array) -> Array:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def _unaligned(x: Array) -> Array:
    copy = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def _broadcast(x: Array) -> Array:
    part = x
    for axis in range(x.ndim):
        first = part.take([0] if x.shape[axis] else [], axis)
        part = first if (part == first).all() else part
    return np.broadcast_to(part.copy(), x.shape)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda x: x.copy(order="C"),
    "fortran": lambda x: x.T.copy(order="C").T,
    "reversed": _reversed,
    "strided": _strided,
    "read-only": _read_only,
    "unaligned": _unaligned,
    "broadcast": _broadcast,
}
"""The function that makes each layout. All but ``broadcast`` can have any values."""


def laid_out(array: Array, layout: str) -> Array:
    """Copy an array into another memory layout.

    Parameters
    ----------
    array : ndarray
    layout : str
        ``"contiguous"``; ``"fortran"``: transposed in memory; ``"reversed"``: negative strides;
        ``"strided"``: NaN between the elements; ``"read-only"``; ``"unaligned"``: at an odd address;
        ``"broadcast"``: stride 0 along the axes where all elements are equal.

    Raises
    ------
    ArgumentError
        The layout is unknown.

    Examples
    --------
    >>> laid_out(np.ones((2, 3)), "reversed").strides
    (-24, -8)
    >>> laid_out(np.ones((2, 3)), "broadcast").strides
    (0, 0)
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"laid_out: layout {layout!r} must be one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](np.asarray(array))


# --- arrays and tensors -------------------------------------------------------------------------


def sample(
    shape: Shape,
    domain: Domain = real,
    dtype: Any = None,
    layout: str = "contiguous",
    seed: int | Sequence[int] = 0,
) -> Array:
    """Make an array from a seed. A failing test prints the call that makes its array again.

    Parameters
    ----------
    shape : tuple of int
    domain : callable
        ``domain(rng, shape)`` returns the values.
    dtype : dtype, optional
        By default the dtype of the values. For integers they are rounded; for Booleans, those above 0 are
        True.
    layout : str
        As for :func:`laid_out`; for ``"broadcast"`` the values repeat along the first axis.
    seed : int or sequence of int

    Raises
    ------
    ArgumentError
        The domain is not a function or returns another shape, the dtype or layout is unknown, or the seed
        is negative or not an integer.

    Examples
    --------
    >>> sample((2, 2), between(0.0, 1.0), "float32", "fortran", seed=1).round(2)
    array([[0.51, 0.95],
           [0.14, 0.95]], dtype=float32)
    """
    shape = integers(shape, "sample", "shape", 0)
    drawn = (1, *shape[1:]) if shape and layout == "broadcast" else shape
    x = np.broadcast_to(_values(domain, _generator(seed), drawn), shape)
    target = x.dtype if dtype is None else _dtype(dtype)
    if x.dtype.kind == "f" and target.kind in "bi":
        x = x > 0 if target.kind == "b" else np.rint(x)
    return laid_out(x.astype(target), layout)


def _generator(seed: int | Sequence[int]) -> np.random.Generator:
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"sample: seed {seed!r}; pass an integer that is not negative ({error})"
        ) from None


def _values(domain: Domain, rng: np.random.Generator, shape: Shape) -> Array:
    if not callable(domain):
        raise ArgumentError(
            f"sample: domain {domain!r} is not a function; use one of tinygrad182.testing.strategies, "
            "such as strategies.real, or your own domain(rng, shape)"
        )
    x = np.asarray(domain(rng, shape))
    try:
        return np.broadcast_to(x, shape)
    except ValueError:
        raise ArgumentError(
            f"sample: the domain returned shape {x.shape} when asked for {shape}"
        ) from None


def _dtype(dtype: Any) -> np.dtype[Any]:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.kind not in "biufc":
        raise ArgumentError(f"sample: dtype {dtype!r} is not a dtype of numbers, such as 'float32'")
    return found


def leaf(array: Array) -> Tensor:
    """Return a tensor that shares the array's memory (on a GPU, a copy); it requires grad if floating.

    >>> leaf(laid_out(np.ones((2, 2)), "reversed")).data.strides
    (-16, -8)
    """
    device = default_device(None)
    data = array if device == "cpu" else tensor(array, device=device).data
    return wrap(data, Leaf(data, requires_grad=array.dtype.kind == "f"))
