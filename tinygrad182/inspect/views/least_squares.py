"""Minimizes ½‖r(s)‖² from many starts at once; ``fixed_points`` searches with it.

The method is that of Levenberg and Marquardt (Marquardt, "An algorithm for least-squares estimation of
nonlinear parameters", SIAM Journal 11, 1963), with a damping for every start. Where r does not vanish it
converges slowly or not at all without the second derivatives of r. They are then added, which makes it
Newton's method.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from ..passes.scaling import HostArray

SLOW = 0.9
"""A step that leaves more than this part of ½‖r‖² is slow: r may not vanish at the minimum."""

NOTHING = 1e-13
"""A decrease of ½‖r‖² by less than this part is lost in rounding."""

MINIMUM = 1e-9
"""At a minimum a Newton step is expected to lower ½‖r‖² by at most this part."""

ROUNDING = 1e-15
"""The rounding error of r in units of max(1, ‖s‖), which makes ½‖r‖² uncertain."""

START, LEAST = 1e-3, 1e-15
"""The first and the least damping, in units of the mean of a matrix's diagonal."""


class Problem(Protocol):
    """Residuals r of S numbers in as many unknowns, of N states at once, and their derivatives."""

    def residuals(self, states: HostArray) -> HostArray:
        """The residuals of each state, (N, S)."""

    def jacobians(self, states: HostArray) -> HostArray:
        """∂r/∂s, (N, S, S)."""

    def curvatures(self, states: HostArray, weights: HostArray) -> HostArray:
        """The second derivatives of Σ_i w_i r_i, (N, S, S)."""


class EndPoints(NamedTuple):
    """The ends of the searches from all starts.

    Attributes
    ----------
    states, residuals : ndarray ``(N, S)``
    jacobians : ndarray ``(N, S, S)``
    is_root : ndarray of bool ``(N,)``
        Whether r is 0 to the tolerance.
    is_minimum : ndarray of bool ``(N,)``
        Whether ½‖r‖² has a minimum there; every root is one.
    """

    states: HostArray
    residuals: HostArray
    jacobians: HostArray
    is_root: HostArray
    is_minimum: HostArray


@np.errstate(all="ignore")  # a trial step may lead far away
def minimized(problem: Problem, starts: HostArray, tolerance: float, most: int) -> EndPoints:
    """Minimize ½‖r(s)‖² from every start, up to rounding, in at most ``most`` steps.

    A root is where ‖r‖ ≤ ``tolerance`` · max(1, ‖s‖).
    """
    s, count = starts.copy(), len(starts)
    r = problem.residuals(s)
    damping, is_slow = np.full(count, START), np.zeros(count, bool)
    gradients, matrices = np.zeros_like(s), np.zeros((*s.shape, s.shape[1]))
    going = np.flatnonzero(np.isfinite(r).all(axis=1))
    moved = going
    for _ in range(most):
        gradients[moved], matrices[moved] = _models(problem, s[moved], r[moved], is_slow[moved])
        going = going[np.isfinite(matrices[going]).all(axis=(1, 2))]
        if not len(going):
            break
        here, g = s[going], gradients[going]
        sizes = damping[going] * np.trace(matrices[going], axis1=1, axis2=2) / s.shape[1]
        step = _damped_steps(matrices[going], g, sizes)
        expected = (sizes * _squares(step) - (g * step).sum(axis=1)) / 2
        trial = problem.residuals(here + step)
        before, after = _squares(r[going]) / 2, _squares(trial) / 2
        stuck = expected <= NOTHING * before
        better = (after < before) | (stuck & (after <= (1 + NOTHING) * before))
        damping[going] *= _factors((before - after) / expected, better)
        damping = np.maximum(damping, LEAST)
        moved = going[better]
        s[moved], r[moved] = (here + step)[better], trial[better]
        is_slow[moved] = (after > SLOW * before)[better]
        small = _are_roots(r[going], s[going], tolerance)
        turned = stuck & ~small & ~is_slow[going]  # then second derivatives are tried
        is_slow[going[turned]], damping[going[turned]] = True, START
        ended = (small & ~(after < before / 4)) | (stuck & ~turned)
        moved, going = going[(better | turned) & ~ended], going[~ended]
    return _judged(problem, s, r, tolerance)


def _models(
    problem: Problem, s: HostArray, r: HostArray, is_slow: HostArray
) -> tuple[HostArray, HostArray]:
    """Return the gradients of ½‖r‖², and matrices that approximate its second derivatives.

    The matrices are JᵀJ; where that was slow, they are the second derivatives, with the absolute values of
    their eigenvalues, so that a step goes down.
    """
    jacobians = problem.jacobians(s)
    matrices = jacobians.mT @ jacobians
    if is_slow.any():
        bent = matrices[is_slow] + problem.curvatures(s[is_slow], r[is_slow])
        usable = np.isfinite(bent).all(axis=(1, 2))
        values, vectors = np.linalg.eigh(bent[usable])
        bent[usable] = (vectors * np.abs(values)[:, None]) @ vectors.mT
        matrices[is_slow] = bent
    return np.einsum("nij,ni->nj", jacobians, r), matrices


def _damped_steps(matrices: HostArray, gradients: HostArray, sizes: HostArray) -> HostArray:
    """−(M + μ)⁻¹ g. No eigenvalue of M is negative, and along an eigenvector of 0 the gradient is 0."""
    damped = np.where(sizes > 0, sizes, 1.0)[:, None, None] * np.eye(matrices.shape[1]) + matrices
    step: HostArray = -np.linalg.solve(damped, gradients[..., None])[..., 0]
    return step


def _factors(gains: HostArray, better: HostArray) -> HostArray:
    """The factors of the damping, from the decreases divided by the expected ones."""
    accepted = np.select([gains > 0.75, gains > 0.25], [0.1, 0.5], 2.0)
    return np.where(better, accepted, 8.0)


def _squares(rows: HostArray) -> HostArray:
    total: HostArray = (rows * rows).sum(axis=-1)
    return total


def _are_roots(r: HostArray, s: HostArray, tolerance: float) -> HostArray:
    small: HostArray = np.linalg.norm(r, axis=1) <= tolerance * _sizes(s)
    return small


def _sizes(s: HostArray) -> HostArray:
    """max(1, ‖s‖) of each state."""
    sizes: HostArray = np.maximum(1.0, np.linalg.norm(s, axis=1))
    return sizes


def _judged(problem: Problem, s: HostArray, r: HostArray, tolerance: float) -> EndPoints:
    """Say which ends of the searches are roots, and which are minima."""
    jacobians = problem.jacobians(s)
    is_root = _are_roots(r, s, tolerance)
    is_minimum = is_root.copy()
    left = np.flatnonzero(~is_root & np.isfinite(r).all(axis=1))
    left = left[np.isfinite(jacobians[left]).all(axis=(1, 2))]
    if len(left):
        some = jacobians[left]
        matrices = some.mT @ some + problem.curvatures(s[left], r[left])
        gradients = np.einsum("nij,ni->nj", some, r[left])
        values = _squares(r[left]) / 2
        rounding = ROUNDING * _sizes(s[left]) / np.linalg.norm(r[left], axis=1)
        is_minimum[left] = _are_minima(matrices, gradients, (MINIMUM + rounding) * values)
    return EndPoints(s, r, jacobians, is_root, is_minimum)


def _are_minima(matrices: HostArray, gradients: HostArray, least: HostArray) -> HostArray:
    """Whether a Newton step would lower ½‖r‖² by at most ``least``, and no curvature is negative."""
    usable = np.isfinite(matrices).all(axis=(1, 2))
    found = np.zeros(len(matrices), bool)
    eigenvalues, vectors = np.linalg.eigh(matrices[usable])
    along = np.einsum("nij,ni->nj", vectors, gradients[usable])
    flat = 1e-12 * np.abs(eigenvalues).max(axis=1, keepdims=True)
    floor = np.maximum(np.maximum(eigenvalues, flat), np.finfo(float).tiny)
    expected = (along * along / floor).sum(axis=1) / 2
    found[usable] = (eigenvalues >= -1e3 * flat).all(axis=1) & (expected <= least[usable])
    return found
