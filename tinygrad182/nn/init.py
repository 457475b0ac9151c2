"""Initial values of parameters, as functions that fill a parameter, and the spectral radius.

All are drawn in float64 on the host, so that models on CPU and CUDA start equal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._numbers import check_number
from .._suggestions import calls as _calls
from .._suggestions import torch_names as _torch_names
from ..engine.host import numbers_as, read_as
from ..engine.modes import default_device
from ..errors import ArgumentError, DTypeError, ShapeError, brief
from ..tensors.tensor import Tensor
from .module import Parameter

Rng = int | np.random.Generator | None


def generator(rng: Rng) -> np.random.Generator:
    """Return the generator of an ``rng=`` argument; None gives one that the system seeds."""
    try:
        return np.random.default_rng(rng)  # a Generator comes back as it is
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"rng {rng!r} must be a whole number from 0 or a numpy.random.Generator"
        ) from error


def new_parameter(values: np.ndarray[Any, Any], dtype: Any, device: str | None) -> Parameter:
    """Make a parameter from host values, by default ``float32`` on the default device."""
    return Parameter(values, dtype=dtype or "float32", device=default_device(device))


@_calls.explains_calls
def uniform_(p: Tensor, low: float = 0.0, high: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with numbers drawn uniformly from [low, high)."""
    low, high = _finite("uniform_", "low", low), _finite("uniform_", "high", high)
    return p.assign(generator(rng).uniform(low, high, p.shape))


@_calls.explains_calls
def normal_(p: Tensor, mean: float = 0.0, std: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with normally distributed numbers."""
    mean, std = _finite("normal_", "mean", mean), check_number("normal_", "std", std)
    return p.assign(generator(rng).normal(mean, std, p.shape))


@_calls.explains_calls
def constant_(p: Tensor, value: float) -> Tensor:
    """Fill with one number."""
    return p.assign(np.full(p.shape, read_as(value, np.zeros(()), "constant_")))


@_calls.explains_calls
def orthogonal_(p: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill a matrix with orthonormal rows or columns (whichever are fewer) times ``gain``.

    The Q of the QR decomposition of a normal matrix, signs fixed by R's diagonal, is uniformly
    distributed (Mezzadri 2007). A square one has every eigenvalue of magnitude ``gain``.
    """
    if p.ndim != 2:
        raise ShapeError(
            f"orthogonal_: shape {p.shape} is not a matrix; pass a parameter with two axes"
        )
    gain = _finite("orthogonal_", "gain", gain)
    rows, columns = p.shape
    q, r = np.linalg.qr(generator(rng).normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return p.assign(gain * (q if rows >= columns else q.T))


@_calls.explains_calls
def spectral_radius(matrix: Any) -> float:
    """Largest eigenvalue magnitude of a square matrix, in float64.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.init.spectral_radius([[0.0, 2.0], [0.5, 0.0]])
    1.0
    """
    try:
        values = numbers_as(matrix, np.dtype("float64"))
    except (TypeError, ValueError, OverflowError) as error:
        raise DTypeError(
            f"spectral_radius: cannot read {brief(matrix)} as a matrix: {error}"
        ) from error
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ShapeError(
            f"spectral_radius: shape {values.shape} is not a square matrix; pass (H, H)"
        )
    if not np.isfinite(values).all():
        return math.nan
    return float(np.abs(np.linalg.eigvals(values)).max())


@_calls.explains_calls
def scale_to_spectral_radius_(p: Tensor, radius: float) -> Tensor:
    """Scale a square matrix so that its largest eigenvalue magnitude is ``radius``.

    In a linear recurrence, gradients explode with a radius above 1 and vanish with one below 1.

    Raises
    ------
    ArgumentError
        The radius is negative or infinite, or all eigenvalues of the matrix are 0, so no factor helps.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.nn.init.scale_to_spectral_radius_(tg.eye(2), 3.0)
    >>> tg.nn.init.spectral_radius(w)
    3.0
    """
    number = check_number("scale_to_spectral_radius_", "radius", radius)
    current = spectral_radius(p)
    if not current > 0:
        raise ArgumentError(
            f"scale_to_spectral_radius_: the matrix has spectral radius {current}, which no factor "
            "changes; pass a matrix with another eigenvalue"
        )
    return p.assign(p.numpy().astype(np.float64) * (number / current))


def _finite(op: str, name: str, value: Any) -> float:
    return check_number(op, name, value, least=-math.inf)


if not TYPE_CHECKING:
    __getattr__ = _calls.names_of(__name__, "tg.nn.init", _torch_names.INIT)
