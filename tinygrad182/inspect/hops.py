"""Gradients by the number of hops: how often a path went through a state or a branch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..backend import Array
from ..backpropagation import ancestors
from ..errors import ArgumentError, GraphError
from ..modes import no_grad
from ..primitives.index import Slice
from ..recording import Node
from .hosting import opened
from .norms import row_norms
from .recurrences import one_state, run_backward
from .scaling import Band, gradients_in_bands, whole_of, zeros_like
from .table import text_table
from .times import Times, node_times


@dataclass(frozen=True, slots=True)
class HopSplit:
    """The gradient by one state over time, split by how many hops its paths made.

    Attributes
    ----------
    time : ndarray ``(T,)``
    grad : array ``(J+1, T, B, H)``
        Part j came over exactly j hops.
    rest : array ``(T, B, H)``
        What came over more than J.
    grad_norm : ndarray ``(J+1, T)``
        Frobenius norms of the parts over (B, H), float64: true also where ``grad``, in the model's
        dtype, underflows to 0 or overflows.
    """

    time: np.ndarray[Any, Any]
    grad: Array
    rest: Array
    grad_norm: np.ndarray[Any, Any]

    def __repr__(self) -> str:
        header = ("t", *(f"‖{j} hops‖" for j in range(len(self.grad_norm))))
        rows = zip(self.time.tolist(), *self.grad_norm.tolist(), strict=True)
        return text_table(header, list(rows), 20)


def grad_by_hops(
    loss: Tensor,
    max_hops: int = 4,
    *,
    state: str = "h",
    through: str = "h",
    path: str | None = None,
) -> HopSplit:
    """Split the gradient by a state by the number of hops on the way.

    A hop is one passage through what is marked ``through``: for a state with a time step, from it on
    to a later step (an earlier one, where the loop runs from the end to the start); for a mark without
    one, any use of it. In an LSTM, ``state="c", through="h"`` tells the pure cell path (no hops) from
    what went through hidden states; in a residual network, ``through="branch"`` tells the skips from
    the branches.

    Cotangents are carried as polynomials: each hop multiplies by λ, and the coefficient of λʲ is what
    came over exactly j hops. Hops through states of that name count in whichever module they are.

    Parameters
    ----------
    loss : Tensor
        A single element.
    max_hops : int
        J, from 0. The cost is at most that of J + 2 backward passes.
    state : str
        The state the gradient is by.
    through : str
        What a hop goes through.
    path : str, optional
        The module whose states are meant; not needed for a single one.

    Raises
    ------
    GraphError
        No state was marked, or nothing is marked ``through``.
    ArgumentError
        A negative ``max_hops``.
    UnknownPathError
        No such path or state.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> lstm = tg.nn.LSTM(1, 8, rng=0)
    >>> output, _ = lstm(tg.ones((20, 1, 1)))
    >>> hops = tg.inspect.grad_by_hops(output[-1].sum(), 2, state="c")
    >>> hops.grad.shape
    (3, 20, 1, 8)
    """
    if not isinstance(max_hops, (int, np.integer)) or max_hops < 0:  # type: ignore[redundant-expr]
        raise ArgumentError(f"grad_by_hops: max_hops {max_hops!r} must be a whole number from 0")
    root, seed, stack, device = opened(loss, None, path, "grad_by_hops")
    recurrence = one_state(stack, state, "grad_by_hops")
    times = sorted(recurrence.steps)
    nodes = [recurrence.steps[t] for t in times]
    recurrence.check_shapes("grad_by_hops")
    graph = ancestors([root], constants=True)
    if not any(mark.name == through for node in graph for mark in node.marks):
        raise GraphError(
            f"grad_by_hops: nothing in this graph is marked {through!r}; "
            f'name it where it is computed: tg.inspect.mark(x, "{through}")'
        )
    recorded_at, backward = node_times(graph), run_backward(graph)
    xp = backend.namespace(seed)

    def edge(consumer: Node, parent: Node, cotangent: Any) -> Any:
        if not _is_hop(consumer, parent, through, recorded_at, parent in backward):
            return cotangent
        if type(cotangent) is Slice:
            value = _shifted(xp, cotangent.value, len(cotangent.lead) - 1)
            return Slice(cotangent.key, cotangent.arrays, value, cotangent.lead)
        return _shifted(xp, cotangent, cotangent.ndim - parent.value.ndim - 1)

    with no_grad(), xp.on(seed):
        zeros = [xp.zeros_like(seed)] * (max_hops + 1)
        found = gradients_in_bands(root, xp.stack([seed, *zeros]), set(nodes), edge=edge)
        bands = [found.get(n) or [(_none(xp, n, max_hops), 0)] for n in nodes]
        parts = xp.stack([whole_of(b) for b in bands], axis=1)
    norms = np.stack([_norms(b) for b in bands], axis=1)
    parts = backend.move(parts, device)
    return HopSplit(np.array(times), parts[:-1], parts[-1], norms[:-1])


def _norms(bands: list[Band]) -> np.ndarray[Any, Any]:
    """The norm of every coefficient of a polynomial whose bands share no element."""
    legs = []
    for array, power in bands:
        host = backend.namespace(array).to_numpy(array).astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            size = math.prod(host.shape[1:])
            legs.append(np.ldexp(row_norms(host.reshape(len(host), size)), power))
    return np.hypot.reduce(legs, axis=0)


def _is_hop(consumer: Node, parent: Node, through: str, times: Times, backward: bool) -> bool:
    for mark in parent.marks:
        if mark.name == through:
            before, time = mark.scope.time, times.get(consumer)
            if before is None or time is None:
                return before is None
            return time < before if backward else time > before
    return False


def _shifted(xp: Any, cotangent: Any, axis: int) -> Any:
    """The polynomial times λ; the last coefficient keeps all that is of a higher degree."""
    lead = (slice(None),) * axis
    rest = cotangent[(*lead, slice(-2, -1))] + cotangent[(*lead, slice(-1, None))]
    lower = cotangent[(*lead, slice(0, -2))]
    return xp.concat([xp.zeros_like(rest), lower, rest], axis=axis)


def _none(xp: Any, node: Node, max_hops: int) -> Array:
    return xp.stack([zeros_like(node.value)] * (max_hops + 2))
