"""``gradient_flow(create_graph=True)``: the derivative of a loss by its states, as Tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ...engine.autodiff import add_grads, seeds_of
from ...engine.backpropagation import ancestors, backpropagate
from ...engine.memory import in_pass
from ...engine.modes import enable_grad, modes_kept
from ...engine.recording import Node, wrap
from ...recurrence.scans import is_scan
from ...recurrence.unrolling import opening
from ...tensors import functions as tg
from ...tensors.creation import zeros_like
from ...tensors.norms import vector_norm
from ...tensors.tensor import Tensor
from ..loops.recurrences import Recurrence, stacks_of
from ..passes.scaling import HostArray
from ..table import StateTable

Figure = TypeVar("Figure")


def _recorded(figure: Callable[[RecordedStateFlow], Figure]) -> cached_property[Figure]:
    """A property that is computed when it is first read, and recorded also inside ``no_grad``."""

    @modes_kept
    def made(states: RecordedStateFlow) -> Figure:
        with enable_grad():
            return figure(states)

    made.__doc__ = figure.__doc__
    return cached_property(made)


class RecordedStateFlow(StateTable):
    """One state of a recurrence over T steps: a :class:`StateFlow` of Tensors.

    They are differentiable by all that the loss was computed from, and have the dtype and the device
    of the states. Norms are computed from numbers scaled to about 1, so they are right where the gradient
    itself is. A gradient that has underflowed to 0 has the norm 0, with the derivative 0.

    Attributes
    ----------
    time : ndarray ``(T,)``
        The steps, in order; index 0 is the state after the first input.
    grad : Tensor ``(T, B, H)``
        ∂L/∂h_t, time first.
    grad_norm : Tensor ``(T,)``
        ‖∂L/∂h_t‖, Frobenius over (B, H).
    log_grad_norm : Tensor ``(T,)``
        Its natural logarithm; −∞, with the derivative 0, for a gradient that is 0. Elsewhere the derivative
        is about 1 / ‖∂L/∂h_t‖, which overflows where the norm is a subnormal number.
    log10_grad_norm : Tensor ``(T,)``
        Its decadic logarithm, ``log_grad_norm / ln 10``.
    value_norm : Tensor ``(T,)``
        ‖h_t‖, Frobenius over (B, H).
    sample_grad_norm : Tensor ``(T, B)``
        ‖∂L/∂h_t‖ of each sequence in the batch.
    initial_grad : Tensor ``(B, H)`` or None
        The derivative by the initial state (a layer's argument ``h_0``), the one before the first input.
    value : Tensor ``(T, B, H)``
    """

    def __init__(
        self, time: HostArray, nodes: list[Node], initial: Node | None, found: dict[Node, Tensor]
    ) -> None:
        self.time = time
        self.initial_grad = None if initial is None else _grad_of(initial, found)
        self._values = [wrap(node.value, node) for node in nodes]
        self._grads = [_grad_of(node, found) for node in nodes]

    @_recorded
    def value(self) -> Tensor:
        return tg.stack(self._values)

    @_recorded
    def grad(self) -> Tensor:
        return tg.stack(self._grads)

    @_recorded
    def grad_norm(self) -> Tensor:
        return _norms(self.grad, len(self.time))

    @_recorded
    def log_grad_norm(self) -> Tensor:
        vanished = self.grad_norm == 0
        return tg.where(vanished, -math.inf, tg.log(tg.where(vanished, 1.0, self.grad_norm)))

    @_recorded
    def log10_grad_norm(self) -> Tensor:
        return self.log_grad_norm / math.log(10)

    @_recorded
    def value_norm(self) -> Tensor:
        return _norms(self.value, len(self.time))

    @_recorded
    def sample_grad_norm(self) -> Tensor:
        batch = self.grad.shape[1] if self.grad.ndim > 2 else 1
        return _norms(self.grad, len(self.time), batch)


def _grad_of(node: Node, found: dict[Node, Tensor]) -> Tensor:
    return found[node] if node in found else zeros_like(wrap(node.value))


def _norms(states: Tensor, *rows: int) -> Tensor:
    size = math.prod(states.shape) // max(math.prod(rows), 1)  # a batch may be empty
    return vector_norm(tg.reshape(states, (*rows, size)), axis=-1)


def opened_graph(root: Node) -> tuple[Callable[[Node], Node], list[Node]]:
    """Open the fused layers behind a node, in the node's own graph.

    Returns
    -------
    opened : callable
        Node of the graph → its node where layers are opened.
    nodes : list of Node
        All, oldest first, with the constants and the states that the root does not depend on.
    """
    opened = opening([root])
    scans = filter(is_scan, ancestors([root]))
    return opened, ancestors([opened(node) for node in (root, *scans)], constants=True)


def recorded_flows(
    loss: Tensor, gradient: Any, backward: bool
) -> dict[str, dict[str, RecordedStateFlow]]:
    """The states of every recurrence, by path and name; see :func:`gradient_flow`."""
    root, seed = seeds_of([loss], [gradient], True, "gradient_flow")[0]
    opened, nodes = opened_graph(root)
    stacks = stacks_of(nodes, "gradient_flow")
    leaves = {opened(node): node for node in ancestors([root]) if backward and node.keeps_grad}
    states = {n for stack in stacks.values() for r in stack.values() for n in r.nodes()}
    found = in_pass(_found, (opened(root), seed), states, leaves, grad=True)
    return {
        path: {name: _flow_of(r, found) for name, r in stack.items()}
        for path, stack in stacks.items()
    }


def _found(
    seed: tuple[Node, Tensor], states: set[Node], leaves: dict[Node, Node]
) -> dict[Node, Tensor]:
    """The gradients by states; those by ``leaves``, opened leaf → leaf, are added to ``.grad``."""
    found = backpropagate([seed], states | leaves.keys(), retain_graph=True)
    add_grads((leaves[node], g, False) for node, g in found.items() if node in leaves)
    return found


def _flow_of(r: Recurrence, found: dict[Node, Tensor]) -> RecordedStateFlow:
    r.check_shapes("gradient_flow")
    return RecordedStateFlow(np.array(r.times()), [r.steps[t] for t in r.times()], r.initial, found)
