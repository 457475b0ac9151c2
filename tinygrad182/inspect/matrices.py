"""Matrices of norms: what each loss says about each state, and about each input, over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import seeds_of
from ..errors import ArgumentError
from ..modes import enable_grad, modes_kept
from ..recording import Node, is_tensor
from .flow import norms_by_step
from .gradients import Found, Seed, gradients_inside
from .hosting import on_host
from .recurrences import Recurrence, Wanted, chosen, one_stack, one_state
from .scaling import HostArray, sample_norms, total_norms


def state_grad_matrix(
    losses: Tensor | Sequence[Tensor],
    path: str | None = None,
    state: str = "h",
    log: bool = False,
    *,
    times: Wanted = None,
) -> np.ndarray[Any, Any]:
    """‖∂L_k/∂h_t‖ for every loss and every time step: what each loss says about each state.

    Several losses go back in one pass, on a leading axis: as many as fit in about 32 MB, and at least
    ten. A pass takes up to 5 n · size bytes for n losses, where size is that of all states (of an LSTM
    that was run as one operation, of h and c): T · B · H · itemsize each.

    Parameters
    ----------
    losses : Tensor ``(K,)`` or sequence of K single elements
        For example the loss at each time step; a 0-d Tensor is one loss.
    path : str, optional
        The module whose states are meant; not needed for a single one.
    state : str
        The name of the state.
    log : bool
        Return natural logarithms, true also where the norms underflow.
    times : int or sequence of int, optional
        The time steps that are asked for; all by default. In a loop of your own, and in an unrolled
        layer, the pass goes back no further than to the first of them.

    Returns
    -------
    ndarray ``(K, T)``, or ``(K, len(times))`` in the order of time
        Frobenius norms over (B, H), float64; 0 where loss k does not depend on step t.

    Raises
    ------
    GraphError
        The losses require no grad, or no state was marked.
    UnknownPathError
        No such path or state, or several paths and none given; the message lists them.
    ArgumentError
        No losses, or a time step that there is no state of.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((10, 1, 1)))
    >>> losses = (output**2).mean(axis=(1, 2))
    >>> matrix = tg.inspect.state_grad_matrix(losses)
    >>> matrix.shape, bool(matrix[3, 4] == 0)  # no state acts on the losses before it
    ((10, 10), True)
    """
    losses = [losses] if is_tensor(losses) and not losses.ndim else list(losses)
    if not losses:
        raise ArgumentError("state_grad_matrix: no losses")
    whole = _sum_of(losses)
    seeds = seeds_of(losses, [None] * len(losses), False, "state_grad_matrix")
    (whole, *seeds), _ = on_host([whole, *seeds])
    recurrence = one_state(
        one_stack(whole[0], path, "state_grad_matrix"), state, "state_grad_matrix"
    )
    asked = chosen(times, recurrence.times(), "state_grad_matrix")
    if not recurrence.fused:
        recurrence.check_shapes("state_grad_matrix")
    states = recurrence.states() if recurrence.fused else [recurrence.steps[t] for t in asked]
    targets = set(states)
    size = sum(math.prod(node.value.shape) * node.value.itemsize for node in targets)
    count = max(FEWEST, MEMORY // max(5 * size, 1))
    columns = []
    for start in range(0, len(seeds), count):
        some = seeds[start : start + count]
        norms, logs = norms_of_each(recurrence, _together(some, targets), len(some), asked)
        columns.append(logs if log else norms)
    return np.concatenate(columns, axis=1).T


MEMORY = 1 << 25
"""Bytes that the losses which go back in one pass take, about."""

FEWEST = 10
"""The number of losses that go back in one pass in any case."""


def _together(seeds: Sequence[Seed], targets: set[Node]) -> Found:
    """The gradients of several losses, found in one pass."""
    spread = []
    for k, (root, seed) in enumerate(seeds):
        with backend.on(seed):
            g = backend.namespace(seed).zeros((len(seeds), *seed.shape), dtype=seed.dtype)
            g[k] = seed
        spread.append((root, g))
    return gradients_inside(spread, targets)


@modes_kept
def _sum_of(losses: list[Tensor]) -> Seed:
    """A node from which every loss can be reached."""
    with enable_grad():
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
    return seeds_of([total], [None], False, "state_grad_matrix")[0]


def norms_of_each(
    r: Recurrence, found: Found, count: int, times: list[int]
) -> tuple[HostArray, HostArray]:
    """The norms of the gradients of several losses, found together, and their logarithms: (T, count).

    They are those at some steps, of a recurrence on the host.
    """
    if not r.fused:
        nodes = [r.steps[t] for t in times]
        bands = [found.bands.get(node, []) for node in nodes]
        return total_norms(*norms_by_step(nodes[0].value, bands, (count,)))
    norms, powers = [], []
    for node, part in r.fused:
        for states, rows in found.within(node).grads(part):
            of_each = np.broadcast_to(states, (count, *states.shape[-3:]))
            every = np.stack([sample_norms(one) for one in of_each])  # float64 of one at a time
            norms.append(every.swapaxes(0, 1))
            powers.append(np.broadcast_to(rows, every.shape).swapaxes(0, 1))
    at = np.searchsorted(r.times(), times)
    return total_norms(np.concatenate(norms)[None, at], np.concatenate(powers)[None, at])
