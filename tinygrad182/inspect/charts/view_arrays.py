"""The arrays behind the charts beside the curves, over the steps that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..passes.scaling import HostArray


class Shares(NamedTuple):
    """Signed shares of one state's gradient by the way it came.

    Attributes
    ----------
    time : ndarray ``(K,)``
    state : str
    parts : mapping of str to ndarray ``(K,)``
        As :attr:`PathSplit.shares`: they sum to 1, and are NaN where the gradient is exactly 0.
    """

    time: HostArray
    state: str
    parts: Mapping[str, HostArray]


class Matrix(NamedTuple):
    """Norms of gradients of several losses by a state at several steps.

    Attributes
    ----------
    rows : ndarray ``(K,)``
        k of each loss L_k.
    time : ndarray ``(T,)``
        t of each state.
    state : str
    log10_norm : ndarray ``(K, T)``
        Decadic logarithms of ‖∂L_k/∂h_t‖; −∞ for an exact 0.
    """

    rows: HostArray
    time: HostArray
    state: str
    log10_norm: HostArray


class SingularValues(NamedTuple):
    """Singular values of some step Jacobians.

    Attributes
    ----------
    time : ndarray ``(K,)``
    names : tuple of str
        The parts of the state.
    values : ndarray ``(K, S)``
        Largest first; NaN where a Jacobian is not finite.
    """

    time: HostArray
    names: tuple[str, ...]
    values: HostArray


class StepNorms(NamedTuple):
    """Norms of what each step contributes to the gradients by some weights.

    Attributes
    ----------
    time : ndarray ``(K,)``
    log10_norm : mapping of str to ndarray ``(K,)``
        Norms by the weight's name; −∞ for an exact 0, NaN where a step does not use it.
    """

    time: HostArray
    log10_norm: Mapping[str, HostArray]
