"""What a pass found about the states of one recurrence: arrays, and figures made of them when asked."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from .. import backend
from ..backend import Array
from ..recording import Node
from ..unrolling import steps_of_scan
from .fused import Found, in_own_type
from .norms import HostArray, sample_norms, step_norms, total_norms
from .recurrences import Recurrence
from .scaling import Band, whole_of, zeros_like
from .table import text_table


class StateFlow:
    """One state of a recurrence over T steps: its values and the loss's derivatives by them.

    The norms are computed when they are first asked for; the arrays are read-only.

    Attributes
    ----------
    time : ndarray ``(T,)``
        The steps, in order; index 0 is the state after the first input.
    grad : array ``(T, B, H)``
        ∂L/∂h_t, time first, in the model's dtype: 0 where that underflows, ±∞ where it overflows.
    grad_norm : ndarray ``(T,)``
        ‖∂L/∂h_t‖, Frobenius over (B, H), float64.
    log_grad_norm : ndarray ``(T,)``
        Its natural logarithm, float64: true also where the norm itself under- or overflows; −∞ for a
        gradient that is exactly 0.
    value_norm : ndarray ``(T,)``
        ‖h_t‖, Frobenius over (B, H), float64.
    sample_grad_norm : ndarray ``(T, B)``
        ‖∂L/∂h_t‖ of each sequence in the batch, float64.
    initial_grad : array ``(B, H)`` or None
        ∂L/∂h_0, by the state before the first input.
    value : array ``(T, B, H)``
    """

    def __init__(self, time: HostArray, states: States, initial: list[Band] | None) -> None:
        self.time = time
        self._states = states
        self._initial = initial

    @cached_property
    def value(self) -> Array:
        return _read_only(self._states.value())

    @cached_property
    def grad(self) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return _read_only(self._states.grad())

    @cached_property
    def _norms(self) -> tuple[HostArray, HostArray]:
        return self._states.norms()

    @cached_property
    def _totals(self) -> tuple[HostArray, HostArray]:
        return total_norms(*self._norms)

    @property
    def grad_norm(self) -> HostArray:
        return self._totals[0]

    @property
    def log_grad_norm(self) -> HostArray:
        return self._totals[1]

    @cached_property
    def value_norm(self) -> HostArray:
        return step_norms(self.value)

    @cached_property
    def sample_grad_norm(self) -> HostArray:
        with np.errstate(over="ignore", under="ignore"):
            return np.hypot.reduce(np.ldexp(*self._norms), axis=0)

    @cached_property
    def initial_grad(self) -> Array | None:
        return None if self._initial is None else whole_of(self._initial)

    def __repr__(self) -> str:
        rows = zip(
            self.time.tolist(), self.value_norm.tolist(), self.grad_norm.tolist(), strict=True
        )
        return text_table(("t", "‖value‖", "‖grad‖"), list(rows), 20)


class States(Protocol):
    """The states of a recurrence, and the gradients by them."""

    def value(self) -> Array:
        """``(T, B, H)``."""

    def grad(self) -> Array:
        """``(T, B, H)`` in the model's dtype."""

    def norms(self) -> tuple[HostArray, HostArray]:
        """Each sample's norm at every step beside its power of two, both (bands, T, B).

        Bands share no element: their norms are the legs of right triangles.
        """


class StepByStep(NamedTuple):
    """States that were each computed by an operation of its own."""

    values: list[Array]
    bands: list[list[Band]]

    def value(self) -> Array:
        return _stack(self.values)

    def grad(self) -> Array:
        return _stack([whole_of(bands) for bands in self.bands])

    def norms(self) -> tuple[HostArray, HostArray]:
        norms, powers = [], []
        for i in range(max(map(len, self.bands))):
            bands = [b[i] if i < len(b) else (zeros_like(b[0][0]), b[0][1]) for b in self.bands]
            norms.append(sample_norms(_stack([array for array, _ in bands])))
            powers.append(np.broadcast_to([[power] for _, power in bands], norms[0].shape))
        return np.stack(norms), np.stack(powers)


class InScans(NamedTuple):
    """States computed by operations on many steps each, in the order of time.

    Attributes
    ----------
    values : list of array (T, B, H)
    grads : list of (array (T, B, H), ndarray (T, B))
        Rows beside their powers of two.
    """

    values: list[Array]
    grads: list[tuple[Array, HostArray]]

    def value(self) -> Array:
        return _joined(self.values)

    def grad(self) -> Array:
        return _joined([in_own_type(*each) for each in self.grads])

    def norms(self) -> tuple[HostArray, HostArray]:
        norms = [sample_norms(states) for states, _ in self.grads]
        return np.concatenate(norms)[None], np.concatenate([p for _, p in self.grads])[None]


def flow_of(r: Recurrence, found: Found, what: str) -> StateFlow:
    """One state over time."""
    if r.fused:
        time = np.concatenate([_numbers(steps_of_scan(node)) for node, _ in r.fused])
        values = [_part(node, part) for node, part in r.fused]
        grads = []
        for (node, part), value in zip(r.fused, values, strict=True):
            if node in found.inside:
                grads += found.inside[node].grads(part)
            else:  # the loss does not depend on it
                grads.append((zeros_like(value), np.zeros(value.shape[:2], int)))
        states: States = InScans(values, grads)
    else:
        r.check_shapes(what)
        time = np.array(r.times())
        nodes = [r.steps[t] for t in r.times()]
        bands = [_bands(node, found.bands) for node in nodes]
        states = StepByStep([_value(node) for node in nodes], bands)
    initial = _bands(r.initial, found.bands) if r.initial else None
    return StateFlow(time, states, initial)


def _read_only(array: Array) -> Array:
    return backend.namespace(array).read_only(array)


def _numbers(steps: range) -> HostArray:
    return np.arange(steps.start, steps.stop)


def _value(node: Node) -> Array:
    """What a node holds, and will: a leaf's array may be written to before someone looks."""
    return node.value if node.memory is None else backend.copy(node.value)


def _part(node: Node, part: int) -> Array:
    """One part of the states of a scan, (T, B, H)."""
    return node.value if node.value.ndim == 3 else node.value[part]


def _bands(node: Node, found: dict[Node, list[Band]]) -> list[Band]:
    """The gradient of a node; zeros if the loss does not depend on it."""
    return found[node] if node in found else [(zeros_like(node.value), 0)]


def _stack(arrays: list[Array]) -> Array:
    return backend.namespace(arrays[0]).stack(arrays)


def _joined(pieces: list[Array]) -> Array:
    return pieces[0] if len(pieces) == 1 else backend.namespace(pieces[0]).concat(pieces, axis=0)
