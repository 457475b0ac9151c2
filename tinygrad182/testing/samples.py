"""Arrays to test on, made from a seed: values where an operation is smooth, laid out in all ways.

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
"""``domain(rng, shape)``: values where an operation is smooth; any function of your own serves too."""

# --- domains: values where an operation is smooth -----------------------------------------------


def real(rng: np.random.Generator, shape: Shape) -> Array:
    """Any sign, size about 1."""
    return np.asarray(rng.standard_normal(shape))


def positive(rng: np.random.Generator, shape: Shape) -> Array:
    """Between 0.3 and 2.5, for logarithms, roots and powers."""
    return np.asarray(rng.uniform(0.3, 2.5, shape))


def nonzero(rng: np.random.Generator, shape: Shape) -> Array:
    """Either sign, 0.3 to 2.5 away from 0, where divisions blow up and ``abs`` and ``relu`` have a kink."""
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
            f"between: bounds {low} and {high}; they must be finite and in this order"
        )
    return _named(
        f"between({low}, {high})", lambda rng, shape: np.asarray(rng.uniform(low, high, shape))
    )


def away_from(*kinks: float, distance: float = 0.1) -> Domain:
    """Values of any sign at least ``distance`` away from every kink, such as the bounds of ``clip``.

    >>> bool(abs(sample((100,), away_from(-1.0, 1.0)) - 1.0).min() >= 0.1)
    True
    """
    if not (all(map(math.isfinite, kinks)) and 0 <= distance < math.inf):
        raise ArgumentError(
            f"away_from: kinks {kinks} and distance {distance} must be finite, the distance not negative"
        )

    def draw(rng: np.random.Generator, shape: Shape) -> Array:
        x, scale = np.asarray(rng.standard_normal(shape)), 1.0
        while (near := (np.abs(x[..., None] - kinks) < distance).any(axis=-1)).any():
            scale *= 1.5  # wider each time, so that it ends wherever the kinks are
            x[near] = scale * rng.standard_normal(np.count_nonzero(near))
        return x

    return _named(f"away_from({', '.join(map(str, kinks))}, distance={distance})", draw)


def apart(distance: float = 0.3) -> Domain:
    """No two elements closer than ``distance``: no maximum is near a tie, no order about to change.

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
    """Either sign, every decade of sizes from ``low`` to ``high`` as likely as every other.

    >>> sizes = abs(sample((1000,), log_uniform(1e-30, 1e30)))
    >>> bool(sizes.min() < 1e-25 and sizes.max() > 1e25)
    True
    """
    if not 0 < low <= high < math.inf:
        raise ArgumentError(
            f"log_uniform: sizes {low} to {high}; they must be positive, finite and in this order"
        )
    span = math.log(low), math.log(high)
    return _named(
        f"log_uniform({low}, {high})",
        lambda rng, shape: _signs(rng, shape) * np.exp(rng.uniform(*span, shape)),
    )


def _signs(rng: np.random.Generator, shape: Shape) -> Array:
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0)


def _named(name: str, draw: Domain) -> Domain:
    """Give a function the name that hypothesis prints."""
    draw.__name__ = draw.__qualname__ = name
    return draw


# --- layouts: the same values in other memory ---------------------------------------------------


def _along_all(x: Array, step: int) -> tuple[slice | EllipsisType, ...]:
    return (*(slice(None, None, step),) * x.ndim, ...)


def _reversed(x: Array) -> Array:
    key = _along_all(x, -1)
    return x[key].copy()[key]


def _strided(x: Array) -> Array:
    """Every second element; whoever reads those in between reads NaN."""
    wide = np.full([2 * n for n in x.shape], np.nan if x.dtype.kind in "fc" else 1, x.dtype)
    key = _along_all(x, 2)
    wide[key] = x
    return wide[key]


def _read_only(x: Array) -> Array:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def _unaligned(x: Array) -> Array:
    own = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    own[...] = x
    return own


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
"""How each layout is made; all but the last hold any values."""


def laid_out(array: Array, layout: str) -> Array:
    """A copy of an array, laid out in memory in another way.

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
        No such layout.

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


# --- arrays and tensors


def sample(
    shape: Shape,
    domain: Domain = real,
    dtype: Any = None,
    layout: str = "contiguous",
    seed: int | Sequence[int] = 0,
) -> Array:
    """The array that a failing test has printed.

    Parameters
    ----------
    shape : tuple of int
    domain : callable
        ``domain(rng, shape)`` makes the values.
    dtype : dtype, optional
        By default the domain's. Integers are the values rounded, Booleans those above 0.
    layout : str
        As for :func:`laid_out`; for ``"broadcast"`` the values repeat along the first axis.
    seed : int or sequence of int
        The same numbers for the same seed.

    Raises
    ------
    ArgumentError
        A domain that is not a function or gives another shape, an unknown dtype or layout, a seed that is
        negative or not an integer.

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
            f"sample: seed {seed!r}; use an integer that is not negative ({error})"
        ) from None


def _values(domain: Domain, rng: np.random.Generator, shape: Shape) -> Array:
    if not callable(domain):
        raise ArgumentError(
            f"sample: domain {domain!r} is not a function; use one of tinygrad182.testing.strategies, "
            "such as strategies.real, or domain(rng, shape) of your own"
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
        raise ArgumentError(f"sample: dtype {dtype!r} is not a type of numbers, such as 'float32'")
    return found


def leaf(array: Array) -> Tensor:
    """A tensor around this very memory, on a GPU around a copy; it requires grad if it is floating.

    >>> leaf(laid_out(np.ones((2, 2)), "reversed")).data.strides
    (-16, -8)
    """
    device = default_device(None)
    own = array if device == "cpu" else tensor(array, device=device).data
    return wrap(own, Leaf(own, requires_grad=array.dtype.kind == "f"))
