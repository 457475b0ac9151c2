"""Bounds on a linear RNN's gradient at every lag, from the spectrum of W_h alone.

Going back k steps multiplies a gradient (a row vector) by W^k, W being ``weight_hh``. Everything here
is computed from W and the direction the gradient starts in; the autodiff engine is not used.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experiments.drawing.numbers import Floats, log10

Matrix = Literal["chain", "defective", "stretched rotation"]

CHAIN = 8
"""Units that are linked to a chain in the matrices that break the naive claim."""


def eigenvalues(weight: Floats) -> NDArray[np.complex128]:
    """The largest magnitude first."""
    found = np.linalg.eigvals(weight).astype(np.complex128)
    return found[np.argsort(-np.abs(found), kind="stable")]


def power_norms(weight: Floats, last: int) -> Floats:
    """log10 of the largest singular value of W^k for k = 0 … last, also out of a float's range."""
    power, exponent, found = np.eye(len(weight)), 0, [0.0]
    for _ in range(last):
        power = power @ weight
        top = float(np.abs(power).max())
        if top == 0:
            return np.array(found + [-math.inf] * (last + 1 - len(found)))
        shift = math.frexp(top)[1]  # a power of two rounds nothing
        power, exponent = np.ldexp(power, -shift), exponent + shift
        found.append(float(log10(np.linalg.norm(power, 2))) + exponent * math.log10(2.0))
    return np.array(found)


def slope_bound(weight: Floats, start: Floats, lags: NDArray[np.int64]) -> float:
    """The largest difference from log10 |λ|max that the slope of log10 ‖g W^k‖ over ``lags`` can have.

    In the left eigenvectors, g W^k = Σ_j c_j λ_j^k v_j. The terms of the largest magnitude (one real
    eigenvalue or a complex pair) have a norm of |λ|^k times something between the semi-axes a ≥ b of
    an ellipse; all others are at most r_k = Σ |c_j| |λ_j/λ_1|^k ‖v_j‖ beside it. So the logarithm is
    off the line by at most d = ½ log(a/b) to either side, more log(1 + r/b) or log(1 − r/b), with r
    that of the first lag. n values that are at most d off a line have a fitted slope at most
    d Σ|x − x̄| / Σ(x − x̄)² off it.

    Returns infinity where the others can still outweigh the largest at the first lag.
    """
    values, vectors = np.linalg.eig(weight.T.astype(complex))
    coefficients = np.linalg.solve(vectors, start.astype(complex))
    magnitude = np.abs(values)
    leading = magnitude >= magnitude.max() * (1 - 1e-12)
    if not _one_or_a_pair(values[leading]):
        return math.inf
    index = int(np.flatnonzero(leading)[0])
    one = coefficients[index] * vectors[:, index]
    if leading.sum() == 2:
        # The pair's terms are conjugates: their sum is 2 Re(e^{ikθ} c v), a point of an ellipse.
        a, b = 2 * np.linalg.svd(np.stack([one.real, one.imag]), compute_uv=False)
    else:
        a = b = np.linalg.norm(one)
    sizes = np.abs(coefficients) * np.linalg.norm(vectors, axis=0)
    ratios = (magnitude / magnitude.max()) ** float(lags.min())
    rest = float(np.sum((sizes * ratios)[~leading]))
    if rest >= b:
        return math.inf
    off = 0.5 * (math.log10((a + rest) / (b - rest)))
    spread = lags - lags.mean()
    return off * float(np.abs(spread).sum() / np.square(spread).sum())


def _one_or_a_pair(values: NDArray[Any]) -> bool:
    """Whether these are one real eigenvalue, or one and its conjugate."""
    if len(values) == 1:
        return True
    return len(values) == 2 and bool(np.isclose(values[0], values[1].conj(), rtol=1e-9))


def exponent_bound(weight: Floats) -> float:
    """The largest distance of k times the largest finite-time exponent from k log |λ|max, for any k.

    That exponent is of the QR steps on Wᵀ from the unit vectors: it is log ‖(Wᵀ)^k e_1‖ / k. With
    Wᵀ = V Λ V⁻¹ and c = V⁻¹ e_1 the norm is |λ|max^k times at most σ_max(V) ‖c‖ and at least
    σ_min(V) |c_1|. Infinity where there is no full set of eigenvectors.
    """
    values, vectors = np.linalg.eig(weight.T.astype(complex))
    stretch = np.linalg.svd(vectors, compute_uv=False)
    if stretch[-1] < 1e-12 * stretch[0]:
        return math.inf
    first = np.linalg.inv(vectors)[:, 0]
    leading = float(np.abs(first[np.argmax(np.abs(values))]))
    above = math.log(stretch[0] * np.linalg.norm(first))
    below = math.log(stretch[-1] * leading) if leading > 0 else -math.inf
    return max(above, -below)


def special(kind: Matrix, hidden_size: int, radius: float) -> Floats:
    """A W_h whose largest eigenvalue magnitude says little about short lags.

    Parameters
    ----------
    kind : str
        ``"chain"``: each unit hears itself and the next one as loudly, all eigenvalues are equal to
        ``radius``; ``"defective"``: the same, but heard only half as loudly as itself;
        ``"stretched rotation"``: pairs of units that turn by 0.3 a step, on an ellipse ten times as
        long as wide.
    hidden_size : int
    radius : float
        Magnitude of every eigenvalue.
    """
    weight = np.zeros((hidden_size, hidden_size))
    if kind == "stretched rotation":
        for i in range(0, hidden_size - 1, 2):
            turn = np.array(
                [[math.cos(0.3), -10 * math.sin(0.3)], [math.sin(0.3) / 10, math.cos(0.3)]]
            )
            weight[i : i + 2, i : i + 2] = turn
        if hidden_size % 2:
            weight[-1, -1] = 1.0
    else:
        link = 1.0 if kind == "chain" else 0.5
        weight = np.eye(hidden_size)
        for i in range(hidden_size - 1):
            if (i + 1) % CHAIN:
                weight[i, i + 1] = link
    return radius * weight
