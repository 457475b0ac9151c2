"""``step_flow``: every operation of every step of a recurrence, its value, its gradient and their shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

HostArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class StepOperation:
    """One operation of a step, over all steps.

    Attributes
    ----------
    label : str
        How it is written on a blackboard: ``"f"``, ``"c"``, ``"f∘c₋"``, ``"tanh(c)"``. ``₋`` behind a
        state means the one before.
    op : str
        The operation, such as ``"sigmoid"``; ``"leaf"`` for what the step begins with.
    kind : {"input", "before", "operation", "gate", "state"}
        ``"before"``: a state of the step before; ``"input"``: anything else the step is given.
    name : str
        The gate's or state's name; ``""`` for others.
    module : str
        The path of the module it was recorded in.
    shape : tuple of int
        At one step, (B, H).
    log10_value_norm, log10_grad_norm : ndarray ``(T,)``
        Decadic logarithms of Frobenius norms, true also where the norm leaves its type; −∞ for what is
        exactly 0, NaN where there is a NaN or no such operation at the step.
    """

    label: str
    op: str
    kind: str
    name: str
    module: str
    shape: tuple[int, ...]
    log10_value_norm: HostArray
    log10_grad_norm: HostArray


@dataclass(frozen=True, slots=True)
class StepEdge:
    """One use of an operation's result: what gradient comes back over it.

    Attributes
    ----------
    source : int
        The operation that is used, by its position in :attr:`StepFlow.operations`.
    target : int or str
        The operation that uses it; ``"next step"``, or ``"loss"`` for all else that reads a state.
    log10_norm : ndarray ``(T,)``
        Of the gradient that arrives at the source over this edge.
    share : ndarray ``(T,)``
        ⟨edge, δ⟩ / ‖δ‖², where δ is the source's whole gradient: those of one source sum to 1. NaN where
        δ is exactly 0.
    """

    source: int
    target: int | str
    log10_norm: HostArray
    share: HostArray


class StepVectors(NamedTuple):
    """One operation over hidden units, of one sequence, at n steps.

    Attributes
    ----------
    time : ndarray (n,)
    value : ndarray (n, H)
    grad : ndarray (n, H)
        At each step divided by a power of ten, so that the largest is about 1.
    log10_scale : ndarray (n,)
        The decadic logarithm of what ``grad`` is to be multiplied by.
    """

    time: HostArray
    value: HostArray
    grad: HostArray
    log10_scale: HostArray


@dataclass(frozen=True)
class StepFlow:
    """The operations of every step of one recurrence; or those of one module, which has one step.

    Attributes
    ----------
    path : str
        As in :func:`gradient_flow`: ``"lstm.l0"``.
    time : ndarray ``(T,)``
    operations : tuple of StepOperation
        In the order they are computed; what the step begins with stands first. Parameters are left out.
    edges : tuple of StepEdge
    """

    path: str
    time: HostArray
    operations: tuple[StepOperation, ...]
    edges: tuple[StepEdge, ...]
    _vectors: Callable[[int, Sequence[int], int], StepVectors] = field(repr=False)

    def vectors(self, operation: int, times: Sequence[int], sample: int = 0) -> StepVectors:
        """Return the value and the gradient of one operation over hidden units, at some steps."""
        return self._vectors(operation, times, sample)
