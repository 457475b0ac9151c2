"""``state_grad_matrix``, ``input_grad_matrix``: norms of the gradients of losses by states or inputs."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from ...arrays import backend
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors
from ...engine.modes import enable_grad, modes_kept
from ...engine.recording import Node, is_tensor
from ...errors import ArgumentError
from ...tensors.tensor import Tensor
from ..loops.hosting import copied_to_host
from ..loops.inputs import StepInput, inputs_of_layer, own_inputs
from ..loops.recurrences import Recurrence, Wanted, chosen, one_stack
from ..passes.gradients import Gradients, Seed, gradients_inside
from ..passes.scaling import HostArray, sample_norms, total_norms
from .gradient_flow import norms_by_step
from .viewed_recurrence import ViewedRecurrence


def state_grad_matrix(
    losses: Tensor | Sequence[Tensor],
    path: str | None = None,
    state: str = "h",
    log: bool = False,
    *,
    times: Wanted = None,
) -> HostArray:
    """‖∂L_k/∂h_t‖ for every loss and every time step.

    Several losses go back in one pass, on a leading axis: as many as fit in about 32 MB, and at least
    ten. A pass takes up to 5 n · size bytes for n losses, where size is that of all states, T · B · H ·
    itemsize (twice that for a fused LSTM, for h and c).

    Parameters
    ----------
    losses : Tensor ``(K,)`` or sequence of K single elements
        For example the loss at each time step; a 0-d Tensor is one loss.
    path : str, optional
        The module that has the state; needed if several have states.
    state : str
        The name of the state.
    log : bool
        Return natural logarithms, which are right also where the norms underflow.
    times : int or sequence of int, optional
        The wanted time steps; by default all. In your own loop and in an unfused layer, the pass goes back
        no further than to the first of them.

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
        No losses, or a time step without a state.

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
    view = "state_grad_matrix"
    ((root, seed), *seeds), *_ = copied_to_host(_seeds(losses, view))
    here = ViewedRecurrence(view, root, seed, one_stack(root, path, view), "cpu")
    recurrence = here.state(state)
    asked = here.times(times, recurrence.times())
    if not recurrence.fused:
        recurrence.check_shapes(view)
    states = recurrence.states() if recurrence.fused else [recurrence.steps[t] for t in asked]
    targets = set(states)
    size = sum(map(_bytes, targets))

    def norms(found: Gradients, count: int) -> Norms:
        return norms_of_each(recurrence, found, count, asked)

    return _by_losses(seeds, targets, size, norms)[log].T


def input_grad_matrix(
    losses: Tensor | Sequence[Tensor],
    path: str | None = None,
    inputs: Tensor | Sequence[Tensor] | None = None,
    log: bool = False,
    *,
    times: Wanted = None,
) -> HostArray:
    """‖∂L_k/∂x_t‖ for every loss and every time step.

    The inputs are those of a recurrent layer, or your own sequence. They need not require grad, and are not
    changed. Passes and memory are as for :func:`state_grad_matrix`.

    Parameters
    ----------
    losses : Tensor ``(K,)`` or sequence of K single elements
        For example the loss at each time step; a 0-d Tensor is one loss.
    path : str, optional
        The layer that reads the inputs; needed if several have states. The inputs of ``"lstm.l0"`` are
        the model's, those of ``"lstm.l1"`` are the hidden states of layer 0. The gradient is the part
        that comes back through this layer, at all its steps, and not around it (over a residual
        connection).
    inputs : Tensor ``(T, …)`` or sequence of T Tensors, optional
        The inputs of your own loop, time first, instead of a layer's. The gradient is then the whole one,
        through everything computed from them. If they do not require grad, computations from them alone
        are not recorded, except steps ``inputs[t]`` and slices ``inputs[::-1]``.
    log : bool
        Return natural logarithms, which are right also where the norms underflow.
    times : int or sequence of int, optional
        The wanted time steps; by default all.

    Returns
    -------
    ndarray ``(K, T)``, or ``(K, len(times))`` in the order of time
        Frobenius norms over all axes but time, float64; 0 where loss k does not depend on x_t.

    Raises
    ------
    GraphError
        The losses require no grad, no state was marked, or none of the inputs is recorded.
    UnknownPathError
        No such path, or several and none given; the message lists them.
    ArgumentError
        No losses, ``path`` beside ``inputs``, one Tensor given as the input of two steps, or a time step
        without an input.
    ShapeError
        Inputs of several shapes.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((10, 1, 1)))
    >>> matrix = tg.inspect.input_grad_matrix((output**2).mean(axis=(1, 2)))
    >>> matrix.shape, bool(matrix[3, 4] == 0)  # no input acts on the losses before it
    ((10, 10), True)

    Your own loop:

    >>> w = tg.tensor([[0.5]], requires_grad=True)
    >>> x, h, losses = tg.ones((5, 2, 1)), tg.zeros((2, 1)), []
    >>> for t in range(5):
    ...     h = tg.tanh(x[t] + h @ w)
    ...     losses.append(h.sum())
    >>> tg.inspect.input_grad_matrix(losses, inputs=x).shape
    (5, 5)
    """
    view = "input_grad_matrix"
    seeds = _seeds(losses, view)
    if inputs is None:
        sources = inputs_of_layer(seeds[0][0], path, view)
    elif path is not None:
        raise ArgumentError(f"{view}: path={path!r} and inputs=; choose one of them")
    else:
        sources = own_inputs(seeds[0][0], inputs, view)
    here = copied_to_host([(sources.twin(node), g) for node, g in seeds[1:]])
    asked = chosen(times, sorted(sources.steps), view)
    steps = [StepInput(here.twin(node), row) for node, row in (sources.steps[t] for t in asked)]
    targets = {step.node for step in steps}
    made = [node for node in ancestors([node for node, _ in here.seeds]) if node.primitive]
    size = max(map(_bytes, [*targets, *made]))

    def norms(found: Gradients, count: int) -> Norms:
        bands = [step.bands(found) for step in steps]
        return total_norms(*norms_by_step(steps[0].value, bands, (count,)))

    return _by_losses(here.seeds, targets, size, norms)[log].T


Norms = tuple[HostArray, HostArray]
"""Norms (T, K), and their logarithms."""


MEMORY = 1 << 25
"""About so many bytes are used by the losses that go back in one pass."""

FEWEST = 10
"""At least so many losses go back in one pass."""


def _seeds(losses: Tensor | Sequence[Tensor], view: str) -> list[Seed]:
    """The seed of a node that all losses lead to, and then the seeds of the losses."""
    each = [losses] if is_tensor(losses) and not losses.ndim else list(losses)
    if not each:
        raise ArgumentError(f"{view}: no losses")
    return seeds_of([_sum_of(each), *each], [None] * (1 + len(each)), False, view)


@modes_kept
def _sum_of(losses: list[Tensor]) -> Tensor:
    with enable_grad():
        return reduce(operator.add, losses)


def _bytes(node: Node) -> int:
    return math.prod(node.value.shape) * int(node.value.itemsize)


def _by_losses(
    seeds: Sequence[Seed], targets: set[Node], size: int, norms: Callable[[Gradients, int], Norms]
) -> Norms:
    """Join the results of ``norms`` for every pass, which takes about 5 · ``size`` bytes for each loss."""
    count = max(FEWEST, MEMORY // max(5 * size, 1))
    found = []
    for start in range(0, len(seeds), count):
        some = seeds[start : start + count]
        found.append(norms(_together(some, targets), len(some)))
    sizes, logs = (np.concatenate(some, axis=1) for some in zip(*found, strict=True))
    return sizes, logs


def _together(seeds: Sequence[Seed], targets: set[Node]) -> Gradients:
    """The gradients of several losses, by one pass."""
    spread = []
    for k, (root, seed) in enumerate(seeds):
        with backend.on(seed):
            g = backend.namespace(seed).zeros((len(seeds), *seed.shape), dtype=seed.dtype)
            g[k] = seed
        spread.append((root, g))
    return gradients_inside(spread, targets)


def norms_of_each(r: Recurrence, found: Gradients, count: int, times: list[int]) -> Norms:
    """The norms of several losses' gradients by a state at some steps, and their logarithms: (T, count).

    The recurrence is on the host, and one pass found the gradients.
    """
    if not r.fused:
        nodes = [r.steps[t] for t in times]
        bands = [found.bands.get(node, []) for node in nodes]
        return total_norms(*norms_by_step(nodes[0].value, bands, (count,)))
    norms, powers = [], []
    for node, part in r.fused:
        for states, rows in found.within(node).grads(part):
            of_each = np.broadcast_to(states, (count, *states.shape[-3:]))
            every = np.stack([sample_norms(one) for one in of_each])  # float64, one at a time
            norms.append(every.swapaxes(0, 1))
            powers.append(np.broadcast_to(rows, every.shape).swapaxes(0, 1))
    at = np.searchsorted(r.times(), times)
    return total_norms(np.concatenate(norms)[None, at], np.concatenate(powers)[None, at])
