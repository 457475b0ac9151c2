"""``gradient_flow``: the derivative of a loss by every marked state, over time, however small or large."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import add_grads, seeds_of
from ..backpropagation import ancestors
from ..errors import ArgumentError, UnknownPathError
from ..modes import enable_grad, modes_kept, no_grad
from ..recording import Node, is_tensor
from .fused import Found, gradients_inside, gradients_together, openable
from .hosting import Seed, device_of, is_away, on_host
from .recurrences import Stack, Wanted, chosen, one_stack, one_state, stacks_of
from .rows import TrustedCotangents
from .scaling import whole_of
from .states import Ledger, StateFlow, flow_of, norms_of_each


class StackFlow(Mapping[str, StateFlow]):
    """The states of one module call by name; ``.h`` is short for ``["h"]``."""

    def __init__(self, path: str, states: dict[str, StateFlow]) -> None:
        self.path = path
        self._states = states

    def __getitem__(self, name: str) -> StateFlow:
        try:
            return self._states[name]
        except KeyError:
            raise UnknownPathError(
                f"no state {name!r} in {self.path!r}; it has {', '.join(map(repr, self._states))}"
            ) from None

    def __getattr__(self, name: str) -> StateFlow:
        states = self.__dict__.get("_states", {})
        if name not in states:
            raise AttributeError(f"no state {name!r}; there is {', '.join(map(repr, states))}")
        return states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return "\n".join(f"{self.path} {name}\n{state!r}" for name, state in self._states.items())


class GradientFlow(Mapping[str, StackFlow]):
    """Module path → the states marked in it. A module called again has ``#2`` behind its path."""

    def __init__(self, stacks: dict[str, StackFlow]) -> None:
        self._stacks = stacks

    def __getitem__(self, path: str) -> StackFlow:
        try:
            return self._stacks[path]
        except KeyError:
            raise UnknownPathError(
                f"no states were marked in {path!r}; there are {', '.join(map(repr, self._stacks))}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._stacks)

    def __len__(self) -> int:
        return len(self._stacks)

    def __repr__(self) -> str:
        return "\n".join(repr(stack) for stack in self._stacks.values())


@modes_kept
def gradient_flow(loss: Tensor, gradient: Any = None, backward: bool = False) -> GradientFlow:
    """The derivative of a loss by every state of every recurrence it depends on.

    The framework's recurrent layers mark their states; :func:`mark` does the same for a loop of one's
    own. Nothing is freed, and no ``.grad`` is touched unless asked for. Cotangents carry powers of two
    along, so norms are right far below what the model's dtype can hold, as long as no single operation
    changes a gradient by more than 2^60 (in float32).

    A layer that was run as one operation shows all its steps: 0 where the loss does not depend on one.
    Of a loop, steps that the loss does not depend on are no part of its graph.

    On CUDA the pass does not wait for the device before its end. Where a gradient outside the layers that
    were run as one operation comes near the ends of its type (in a loop that vanishes), the graph is then
    fetched, and the pass made again on the host. The first norm that is read brings those of all states.

    Parameters
    ----------
    loss : Tensor
        A single element, unless ``gradient`` is given.
    gradient : Tensor or array, optional
        The cotangent to start from.
    backward : bool
        Also add the gradient to ``.grad`` of every leaf, in the same pass, as
        ``loss.backward(gradient, retain_graph=True)`` does: a training step that watches its states
        needs no second one.

    Returns
    -------
    GradientFlow
        Path (``"rnn.l0"``) → stack, each with ``.h`` (and ``.c``), a :class:`StateFlow`.

    Raises
    ------
    GraphError
        ``loss`` does not require grad, or no state was marked.
    FreedGraphError
        An earlier backward pass freed the graph.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((20, 1, 1)))
    >>> flow = tg.inspect.gradient_flow(output[-1].sum())
    >>> norms = flow["rnn.l0"].h.grad_norm
    >>> norms.shape, bool(norms[0] < norms[-1])  # vanishes towards the past
    ((20,), True)

    While training:

    >>> flow = tg.inspect.gradient_flow((output**2).mean(), backward=True)
    >>> rnn.weight_hh_l0.grad.shape
    (8, 8)
    """
    root, seed = seeds_of([loss], [gradient], False, "gradient_flow")[0]
    root = openable(root)
    nodes = ancestors([root], constants=True)
    stacks = stacks_of(nodes, "gradient_flow")
    leaves = {node for node in nodes if backward and node.keeps_grad and node.requires_grad}
    found = _gradients((root, seed), nodes, stacks, leaves)
    together = Ledger()
    flows = {
        path: {name: flow_of(r, found, "gradient_flow", together) for name, r in by_name.items()}
        for path, by_name in stacks.items()
    }
    with no_grad():
        add_grads(
            (node, backend.move(whole_of(found.of(node)), device_of(node.value)), False)
            for node in leaves
            if found.twin(node) in found.bands
        )
    return GradientFlow({path: StackFlow(path, states) for path, states in flows.items()})


def _gradients(seed: Seed, nodes: list[Node], stacks: dict[str, Stack], leaves: Set[Node]) -> Found:
    """The gradients by all states, and by the leaves.

    On a device the pass goes through without a look at numbers. Where that was not good enough, it is made
    again on the host.
    """
    recurrences = [r for stack in stacks.values() for r in stack.values()]
    targets = {node for r in recurrences for node in r.nodes()}
    if not is_away(node.value for node in nodes):
        return gradients_inside(*seed, targets, leaves)
    states = {node for r in recurrences for node in r.states()}
    sums = TrustedCotangents(_leading_to(states, nodes))
    found = gradients_inside(*seed, targets, leaves, sums=sums)
    if sums.held():
        return found
    here = on_host([seed])
    twins = [{here.twins[node] for node in nodes} for nodes in (targets, leaves)]
    found = gradients_inside(*here.seeds[0], twins[0], twins[1])
    return found._replace(twins=here.twins)


def _leading_to(targets: set[Node], nodes: list[Node]) -> set[Node]:
    """The targets and all that is computed from them, of ``nodes``, oldest first."""
    found: set[Any] = set(targets)
    for node in nodes:
        if not found.isdisjoint(node.inputs or ()):
            found.add(node)
    return found


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
    return gradients_together(spread, targets)


@modes_kept
def _sum_of(losses: list[Tensor]) -> Seed:
    """A node from which every loss can be reached."""
    with enable_grad():
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
    return seeds_of([total], [None], False, "state_grad_matrix")[0]
