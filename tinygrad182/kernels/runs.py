"""What the loops over time are given, and what they return.

A recurrence (:mod:`..recurrence`) asks :func:`.loops` for a module of loops: :mod:`.numpy_loops`,
:mod:`.compiled` or :mod:`.cuda`. Each has the same five functions. ``forward`` and ``backward`` run a
cell's program over time; :mod:`.numpy_loops` documents their arguments. ``exponents``, ``at_powers`` and
``crossed`` serve the products over all steps in :mod:`.products`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import Array
from .program import Program


class Weights(NamedTuple):
    """The weights of a recurrence, with rows (gates·H) in the order of the cell's gates.

    ``others`` are further weights of the cell, (blocks·H,) each.
    """

    weight_ih: Any
    weight_hh: Any
    bias_ih: Any = None
    bias_hh: Any = None
    others: tuple[Any, ...] = ()


class Lengths(NamedTuple):
    """The numbers of steps of the sequences (B,), or None for all; and the smallest, known on the host."""

    steps: Array
    shortest: int

    def finished(self, t: int) -> Array | None:
        """Which sequences ended before step ``t``; None where none did."""
        return self.steps <= t if t >= self.shortest else None

    def after(self, start: int) -> Lengths:
        """The lengths counted from step ``start``."""
        if self.steps is None or not start:
            return self
        return Lengths(self.steps - start, self.shortest - start)


FULL_LENGTH = Lengths(None, 1 << 62)
"""All sequences have all steps."""


class Run(NamedTuple):
    """A recurrence over some steps. Forward fills ``saved`` and ``states``.

    ``m`` is the arrays' library, ``initial`` has the parts (B, H) of the state before the first step,
    ``saved`` (T, B, slots·H) is what backward needs, and ``states`` is (parts, T, B, H).
    """

    program: Program
    m: Any
    weights: Weights
    initial: list[Any]
    saved: Any
    states: Any
    lengths: Lengths


class StepCotangents(NamedTuple):
    """The cotangents that backward found at some steps. Each row has a power of two (:mod:`.powers`).

    Attributes
    ----------
    sums : array (*lead, T, B, columns·H)
        Cotangents of the sums in the program's order, then of each step's use of the further weights.
    powers : int array (*lead, T, B), or int
        The powers of ``sums`` and ``states``; an int is the power of all rows.
    initial : array (parts, *lead, B, H)
        Cotangents of the initial state.
    initial_powers : int array (*lead, B), or int
    states : array (parts, *lead, T, B, H), or None
        Whole cotangents of the states, where they were asked for.
    """

    sums: Array
    powers: Any
    initial: Array
    initial_powers: Any
    states: Array

    def by_rows(self) -> StepCotangents:
        """Return the same cotangents with a power for each row."""
        powers = np.broadcast_to(self.powers, self.sums.shape[:-1])
        initial = np.broadcast_to(self.initial_powers, self.initial.shape[1:-1])
        return self._replace(powers=powers, initial_powers=initial)

    def at(self, i: tuple[int, ...]) -> StepCotangents:
        """Select one index of the leading axes."""
        part = (slice(None), *i)
        states = None if self.states is None else self.states[part]
        return StepCotangents(
            self.sums[i], self.powers[i], self.initial[part], self.initial_powers[i], states
        )


WINDOW_SUMS = 1 << 20
"""About how many sums a window has on the host: they should stay in the processor's cache."""

WINDOW_ROWS = 1 << 12
"""How many rows, steps times sequences, a window has at least.

Then it costs little to add up the products of windows and to switch between BLAS and our own threads: those
of BLAS keep looking for work for a while."""

DEVICE_WINDOW_SUMS = 1 << 24
"""About how many sums a window has on a device. With so many, starting another window costs nothing."""


def windows(m: Any, shape: tuple[int, ...]) -> list[range]:
    """Split the time axis so that the sums of a window are used while they are in the cache.

    A device has one window. ``shape`` is that of the sums, (T, B, columns·H).
    """
    T, B, N = shape
    if m is not np or T * B <= WINDOW_ROWS:
        return [range(T)]
    return evenly(T, max(1, WINDOW_ROWS // B, WINDOW_SUMS // (B * N)))


def forward_windows(m: Any, shape: tuple[int, ...]) -> list[range]:
    """Split the time axis where nothing is saved for backward, on a device as well."""
    T, B, N = shape
    return windows(m, shape) if m is np else evenly(T, DEVICE_WINDOW_SUMS // max(B * N, 1))


def evenly(T: int, length: int) -> list[range]:
    """Spans of about equal length, at most ``length`` and at least 1."""
    count = -(-T // max(length, 1))
    return [range(T * i // count, T * (i + 1) // count) for i in range(count)]
