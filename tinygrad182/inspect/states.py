"""What a pass found about the states of one recurrence: arrays, and figures made of them when asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np

from .. import backend
from ..backend import Array
from ..recording import Node
from ..unrolling import steps_of_scan
from .fused import Found, in_own_type, part_of
from .hosting import device_of, is_away
from .norms import HostArray, at_sample_powers, sample_norms, step_norms, total_norms
from .recurrences import Recurrence
from .scaling import Band, whole_of
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

    def __init__(
        self, time: HostArray, states: States, initial: list[Band] | None, ledger: Ledger
    ) -> None:
        self.time = time
        self._states = states
        self._initial = initial
        self._norms_at = ledger.note(states.norms)
        self._value_norm_at = ledger.note(states.value_norms)
        self._ledger = ledger

    @cached_property
    def value(self) -> Array:
        return _read_only(self._states.value)

    @cached_property
    def grad(self) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return _read_only(self._at_home(self._states.grad()))

    def _at_home(self, gradient: Array) -> Array:
        """A gradient on the device of the states; it may have been found on the host."""
        return backend.move(gradient, device_of(self._states.value))

    @property
    def _norms(self) -> tuple[HostArray, HostArray]:
        norms, powers = self._ledger.read(self._norms_at)
        return norms, powers

    @cached_property
    def _totals(self) -> tuple[HostArray, HostArray]:
        return total_norms(*self._norms)

    @property
    def grad_norm(self) -> HostArray:
        return self._totals[0]

    @property
    def log_grad_norm(self) -> HostArray:
        return self._totals[1]

    @property
    def value_norm(self) -> HostArray:
        return self._ledger.read(self._value_norm_at)[0]

    @cached_property
    def sample_grad_norm(self) -> HostArray:
        with np.errstate(over="ignore", under="ignore"):
            return np.hypot.reduce(np.ldexp(*self._norms), axis=0)

    @cached_property
    def initial_grad(self) -> Array | None:
        return None if self._initial is None else self._at_home(whole_of(self._initial))

    def __repr__(self) -> str:
        rows = zip(
            self.time.tolist(), self.value_norm.tolist(), self.grad_norm.tolist(), strict=True
        )
        return text_table(("t", "‖value‖", "‖grad‖"), list(rows), 20)


class Ledger:
    """Figures of states. Each is computed where its arrays are, when someone first asks for it.

    The first figure read from a device brings all others with it, so the host waits once.
    """

    def __init__(self) -> None:
        self._figures: list[Callable[[], Sequence[Array]]] = []
        self._found: dict[int, Sequence[HostArray]] = {}

    def note(self, figures: Callable[[], Sequence[Array]]) -> int:
        """Note how to compute some arrays; return the number under which they can be read."""
        self._figures.append(figures)
        return len(self._figures) - 1

    def read(self, number: int) -> Sequence[HostArray]:
        """Return the arrays noted under a number, on the host."""
        if number not in self._found:
            figures = {number: self._figures[number]()}
            if is_away(figures[number]):
                rest = set(range(len(self._figures))) - self._found.keys() - {number}
                figures |= {i: self._figures[i]() for i in rest}
                hosts = iter(backend.fetch([x for arrays in figures.values() for x in arrays]))
                figures = {i: [next(hosts) for _ in arrays] for i, arrays in figures.items()}
            self._found |= figures
        return self._found[number]


class States(ABC):
    """The states of a recurrence, and the gradients by them."""

    @property
    @abstractmethod
    def value(self) -> Array:
        """``(T, B, H)``."""

    @abstractmethod
    def grad(self) -> Array:
        """``(T, B, H)`` in the model's dtype."""

    @abstractmethod
    def norms(self) -> tuple[Array, Array]:
        """Each sample's norm at every step beside its power of two, both (bands, T, B).

        Bands share no element: their norms are the legs of right triangles.
        """

    def value_norms(self) -> tuple[Array]:
        """The norm of the states at every step, ``(T,)``."""
        return (step_norms(self.value),)


class StepByStep(States):
    """States that were each computed by an operation of its own."""

    def __init__(self, values: list[Array], bands: list[list[Band]]) -> None:
        self._values = values
        self._bands = bands

    @cached_property
    def value(self) -> Array:
        return _stack(self._values)

    def grad(self) -> Array:
        return _stack([whole_of(bands) for bands in self._bands])

    def norms(self) -> tuple[Array, Array]:
        return _norms_by_step(self._values[0], self._bands)


def _norms_by_step(
    state: Array, bands: list[list[Band]], lead: tuple[int, ...] = ()
) -> tuple[Array, Array]:
    """Each sample's norm at every step beside its power of two, both (bands, T, *lead, B).

    Parameters
    ----------
    state : array
        Any of them, for its shape and device.
    bands : list of list of Band
        By step; steps without any have gradients of 0.
    lead : tuple of int
        The leading axes of the bands' arrays.
    """
    legs = [leg for i in range(max(map(len, bands))) for leg in _legs(bands, i, state.ndim)]
    samples = state.shape[0] if state.ndim > 1 else 1
    shape = (max(map(len, bands), default=0) or 1, len(bands), *lead, samples)
    like = legs[0][2] if legs else np.zeros(0)
    with backend.on(like):
        m = backend.namespace(like).module
        norms, powers = m.zeros(shape), m.zeros(shape, "int64")
        for i, steps, some, their in legs:
            norms[i, steps], powers[i, steps] = some, their
    return norms, powers


def _legs(
    bands: list[list[Band]], i: int, ndim: int
) -> Iterator[tuple[int, list[int], Array, Array]]:
    """Yield the norms of the i-th band of those steps that have one, and their powers."""
    having = [t for t, some in enumerate(bands) if len(some) > i]
    single = [t for t in having if isinstance(bands[t][i][1], int)]
    if single:
        norms = sample_norms(_stack([bands[t][i][0] for t in single]), ndim)
        powers = np.array([bands[t][i][1] for t in single])
        powers = powers.reshape(-1, *(1,) * (norms.ndim - 1))
        yield i, single, norms, backend.move(powers, device_of(norms))
    by_row = [t for t in having if t not in set(single)]
    if by_row:
        whole = _stack([bands[t][i][0] for t in by_row])
        rows = [np.broadcast_to(bands[t][i][1], whole.shape[1:]) for t in by_row]
        values, tops = at_sample_powers(whole, np.stack(rows), ndim)
        yield i, by_row, sample_norms(values, ndim), tops


class InScans(States):
    """States computed by operations on many steps each, in the order of time.

    Parameters
    ----------
    values : list of array (T, B, H)
    grads : list of (array (T, B, H), int array (T, B))
        Rows beside their powers of two.
    """

    def __init__(self, values: list[Array], grads: list[tuple[Array, Array]]) -> None:
        self._values = values
        self._grads = grads

    @cached_property
    def value(self) -> Array:
        return _joined(self._values)

    def grad(self) -> Array:
        return _joined([in_own_type(*each) for each in self._grads])

    def norms(self) -> tuple[Array, Array]:
        norms = _joined([sample_norms(states) for states, _ in self._grads])
        return norms[None], _joined([powers for _, powers in self._grads])[None]


def flow_of(r: Recurrence, found: Found, what: str, ledger: Ledger) -> StateFlow:
    """One state over time."""
    if r.fused:
        time = np.concatenate([_numbers(steps_of_scan(node)) for node, _ in r.fused])
        grads = [rows for node, part in r.fused for rows in found.rows(node, part)]
        states: States = InScans([part_of(node, part) for node, part in r.fused], grads)
    else:
        r.check_shapes(what)
        time = np.array(r.times())
        nodes = [r.steps[t] for t in r.times()]
        states = StepByStep([_value(node) for node in nodes], [found.of(node) for node in nodes])
    return StateFlow(time, states, found.of(r.initial) if r.initial else None, ledger)


def norms_of_each(
    r: Recurrence, found: Found, count: int, times: list[int]
) -> tuple[HostArray, HostArray]:
    """The norms of the gradients of several losses, found together, and their logarithms: (T, count).

    They are those at some steps, of a recurrence on the host.
    """
    if not r.fused:
        nodes = [r.steps[t] for t in times]
        bands = [found.bands.get(node, []) for node in nodes]
        return total_norms(*_norms_by_step(nodes[0].value, bands, (count,)))
    norms, powers = [], []
    for node, part in r.fused:
        for states, rows in found.rows(node, part):
            of_each = np.broadcast_to(states, (count, *states.shape[-3:]))
            every = np.stack([sample_norms(one) for one in of_each])  # float64 of one at a time
            norms.append(every.swapaxes(0, 1))
            powers.append(np.broadcast_to(rows, every.shape).swapaxes(0, 1))
    at = np.searchsorted(r.times(), times)
    return total_norms(np.concatenate(norms)[None, at], np.concatenate(powers)[None, at])


def _read_only(array: Array) -> Array:
    return backend.namespace(array).read_only(array)


def _numbers(steps: range) -> HostArray:
    return np.arange(steps.start, steps.stop)


def _value(node: Node) -> Array:
    """What a node holds, and will: a leaf's array may be written to before someone looks."""
    return node.value if node.memory is None else backend.copy(node.value)


def _stack(arrays: list[Array]) -> Array:
    with backend.on(arrays[0]):
        return backend.namespace(arrays[0]).stack(arrays)


def _joined(pieces: list[Array]) -> Array:
    with backend.on(pieces[0]):
        xp = backend.namespace(pieces[0])
        return pieces[0] if len(pieces) == 1 else xp.concat(pieces, axis=0)
