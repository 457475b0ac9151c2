"""Arrays of measurements: their sizes, shares and logarithms, where squares underflow too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg

Floats = NDArray[np.float64]

LN_10 = float(np.log(10.0))

ROUNDING = 1e-12
"""4,500 roundings of float64: the products through time and the sums over a batch that lie between
two ways to compute the same numbers leave them no further apart, relative to what is added or in
decades."""


def to_numpy(value: Any) -> NDArray[Any]:
    """Return a Tensor or an array of any library as a NumPy array."""
    if isinstance(value, tg.Tensor):
        return value.numpy()
    return np.asarray(value.get() if hasattr(value, "get") else value)


def in_decades(logs: Any) -> Floats:
    """Natural logarithms, such as the inspector gives, as powers of ten."""
    found: Floats = to_numpy(logs).astype(np.float64) / LN_10
    return found


def norms(values: Any) -> Floats:
    """Frobenius norm of each entry along the first axis, also where its squares underflow."""
    rows = to_numpy(values).astype(np.float64)
    rows = rows.reshape(len(rows), -1)
    top = np.abs(rows).max(axis=1, initial=0.0)
    scale = np.where(top > 0, top, 1.0)
    found: Floats = scale * np.linalg.norm(rows / scale[:, None], axis=1)
    return found


def relative(difference: Floats, reference: Floats) -> Floats:
    """‖difference[t]‖ / ‖reference[t]‖ along the first axis; 0 where both are 0."""
    apart = norms(difference)
    size = norms(reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.where(apart == 0, 0.0, apart / size)
    return ratio


def signed_share(parts: Floats, whole: Floats) -> Floats:
    """⟨part, δ⟩/‖δ‖² along the first axis, also where the squares underflow; NaN where δ is 0.

    Parameters
    ----------
    parts : array (n, …)
    whole : array (n, …) or (…)
        A δ for each part, or the one of all.
    """
    rows = parts.reshape(len(parts), -1)
    wholes = whole.reshape(-1, rows.shape[1])
    top = np.abs(wholes).max(axis=1, initial=0.0, keepdims=True)
    scale = np.where(top > 0, top, np.nan)
    share: Floats = np.sum((rows / scale) * (wholes / scale), axis=1) / np.sum(
        (wholes / scale) ** 2, axis=1
    )
    return share


def making_up(shares: Floats) -> int:
    """The number of first shares that make up the whole, which is 1, to 10%.

    Shares can be negative: counted are the fewest from which on their sum stays within 10%.

    >>> making_up(np.array([0.95, 0.25, -0.2])), making_up(np.array([1.0, 0.0]))
    (3, 1)
    """
    outside = np.flatnonzero(np.abs(np.cumsum(shares) - 1.0) > 0.1)
    return int(outside[-1]) + 2 if len(outside) else 1


def log10(values: Any) -> Floats:
    """log10 with -inf for 0, without a warning."""
    with np.errstate(divide="ignore"):
        found: Floats = np.log10(np.asarray(values, dtype=np.float64))
    return found


def worst(errors: np.ndarray | None) -> float | None:
    """Largest of the errors that were measured; None where none was."""
    if errors is None or np.isnan(errors).all():
        return None
    return float(np.nanmax(errors))
