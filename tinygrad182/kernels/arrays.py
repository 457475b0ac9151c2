"""The loops over time in NumPy's functions, which CuPy has too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from .powers import (
    NOTHING,
    Carry,
    Normalized,
    Rescaled,
    largest_exponent,
    power_of_two,
    times_rows,
)

CHUNK = 1 << 16
"""Elements of a part at the steps whose factors are computed at once: they should stay in the cache."""


class Deltas(NamedTuple):
    """What backward found, each row beside the power of two it is to be multiplied by.

    Attributes
    ----------
    sums : array (*lead, T, B, blocks·H)
        Cotangents of the sums z_t, in the order of the cell's gates.
    powers : int array (*lead, T, B), or int
        A number is the power of all rows.
    initial : array (parts, *lead, B, H)
        Cotangents of the initial state.
    initial_powers : int array (*lead, B), or int
    states : array (parts, *lead, T, B, H), or None
        Cotangents of the states, where they were asked for; their powers are ``powers``.
    """

    sums: Array
    powers: Any
    initial: Array
    initial_powers: Any
    states: Array

    def by_rows(self) -> Deltas:
        """With a power for every row."""
        powers = np.broadcast_to(self.powers, self.sums.shape[:-1])
        initial = np.broadcast_to(self.initial_powers, self.initial.shape[1:-1])
        return self._replace(powers=powers, initial_powers=initial)

    def at(self, i: tuple[int, ...]) -> Deltas:
        """One of the leading axes."""
        part = (slice(None), *i)
        states = None if self.states is None else self.states[part]
        return Deltas(
            self.sums[i], self.powers[i], self.initial[part], self.initial_powers[i], states
        )


class Ends(NamedTuple):
    """Sequences of several lengths: their numbers of steps (B,), and the smallest, on the host."""

    lengths: Array
    shortest: int

    def over(self, t: int) -> Array | None:
        """Which sequences were over before step t; None: none."""
        return self.lengths <= t if t >= self.shortest else None


WINDOW = 1 << 20
"""Sums that are worked on at once, about."""

ROWS = 1 << 12
"""Steps times sequences for which at least they are, so that adding up products of windows costs little, as
does changing between BLAS and threads of one's own: those of BLAS look for work for a while."""


def windows(m: Any, shape: tuple[int, ...]) -> list[range]:
    """Spans of time whose sums stay in a processor's cache until they have been used; a device's: one.

    ``shape`` is that of the gates, (T, B, blocks·H).
    """
    T, B, N = shape
    if m is not np or T * B <= ROWS:
        return [range(T)]
    length = max(1, ROWS // B, WINDOW // (B * N))
    count = -(-T // length)
    return [range(T * i // count, T * (i + 1) // count) for i in range(count)]


ALL = Ends(None, 1 << 62)
"""All sequences have all steps."""


def forward(
    cell: Any,
    x: Array,
    initial: list[Array],
    weights: tuple[Array, Array, Any],
    gates: Array,
    states: Array,
    ends: Ends,
) -> None:
    """Run over all steps.

    Parameters
    ----------
    cell
        Of :mod:`.cells`.
    x : array (T, B, I)
    initial : list of array (B, H)
    weights : array (blocks·H, I), array (blocks·H, H), array (blocks·H,) or None
        W_x, W_h and b.
    gates : array (T, B, blocks·H)
        Where the gates are written. For a cell that keeps none, part of ``states``.
    states : array (parts, T, B, H)
        Where the states are written.
    ends : Ends
    """
    m = cell.m
    weight_ih, weight_hh, bias = weights
    B, N = x.shape[1], len(weight_hh)
    rows = x.reshape(len(x) * B, x.shape[2])
    if bias is not None:
        weight_ih = m.concatenate([weight_ih, bias[:, None]], axis=1)
    across = m.ascontiguousarray(weight_hh.T)
    for span in windows(m, gates.shape):
        z = gates[span.start : span.stop]
        some = rows[span.start * B : span.stop * B]
        some = some if bias is None else with_ones(m, some)
        m.matmul(some, weight_ih.T, out=z.reshape(len(span) * B, N))
        with np.errstate(over="ignore"):  # e⁻ᶻ of a gate that is shut
            _forward(cell, z, initial, across, states, ends, span)


def _forward(
    cell: Any,
    z: Array,
    initial: list[Array],
    weight: Array,
    states: Array,
    ends: Ends,
    span: range,
) -> None:
    """Run over some steps, from their projected inputs; these are written over with the gates."""
    m = cell.m
    product = m.empty(z.shape[1:], z.dtype)
    before = list(states[:, span.start - 1]) if span.start else initial
    for t in span:
        here = z[t - span.start]
        m.matmul(before[0], weight, out=product)
        after = list(states[:, t])
        cell.forward(here, product, before, after)
        over = ends.over(t)
        if over is not None:
            for new, old in zip(after, before, strict=True):
                # a constant, also for a complex step
                new[...] = m.where(over[:, None], old.real, new)
        before = after


def with_ones(m: Any, x: Array) -> Array:
    """Rows with a 1 at the end, which a bias is multiplied by: so it needs no pass of its own."""
    wide = m.empty((len(x), x.shape[1] + 1), x.dtype)
    wide[:, :-1] = x
    wide[:, -1] = 1
    return wide


@np.errstate(over="ignore")  # of cotangents that cannot be raised, or that explode
def backward(
    cell: Any,
    gates: Array,
    initial: list[Array],
    weight: Array,
    states: Array,
    ends: Ends,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
    *,
    on_device: type[Carry] = Normalized,
    carry: Callable[..., Carry] | None = None,
) -> Deltas:
    """Run back over time.

    Parameters
    ----------
    cell, initial, states, ends
        As for :func:`forward`.
    gates : array (T, B, blocks·H)
        What forward left in ``z``.
    weight : array (blocks·H, H)
        W_h, contiguous.
    g : array (parts, *lead, T, B, H)
        Cotangents of the states by what the loss makes of each itself.
    powers : int array (*lead, T, B), optional
        Powers of two that the rows of ``g`` are to be multiplied by.
    keep : bool
        Whether to return the whole cotangents of the states.
    span : range, optional
        The steps to run back over, and which the result is of; all by default. What it calls the
        initial state is then the one before these.
    later : Deltas, optional
        What was found for the steps after these.
    on_device : type
        How powers of two are carried on a device, where they are: with ``keep``, or with ``powers``.
        Otherwise none are, for they would be most of a step's kernels.
    carry : callable, optional
        Makes what holds the cotangents on their way, in the place of one of :mod:`.powers`.
    """
    m = cell.m
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    sums = m.empty((*lead, len(span), B, gates.shape[-1]), g.dtype)
    kept = m.empty((parts, *lead, len(span), B, H), g.dtype) if keep else None
    every: Array | None = None
    looking = keep or powers is not None
    kind = carry or (Rescaled if m is np else on_device if looking else Carry)
    here = slice(span.start, span.stop)
    held = kind(m, g[..., here, :, :], None if powers is None else powers[..., here, :], later)
    step = max(1, CHUNK // max(B * H, 1))
    for stop in range(span.stop, span.start, -step):
        start = max(span.start, stop - step)
        several = _factors(cell, gates, initial, states, start, stop)
        for t in range(stop - 1, start - 1, -1):
            i = t - span.start
            held.add(i)
            if not isinstance(held.power, int):
                every = m.full(sums.shape[:-1], held.start) if every is None else every
                every[..., i, :] = held.power
            factors = [factor[t - start] for factor in several]
            _step_back(cell, factors, held, sums[..., i, :, :], ends.over(t), kept, i)
            m.matmul(sums[..., i, :, :], weight, out=held.value[0])
    powers = held.power if every is None else every
    return Deltas(sums, powers, held.value, held.power, kept)


def _step_back(
    cell: Any, factors: list[Array], carry: Carry, dz: Array, over: Array | None, kept: Any, t: int
) -> None:
    """Go from the cotangents of a state to those of its sum."""
    if kept is not None:
        kept[0, ..., t, :, :] = carry.value[0]
    if over is not None:  # the state stayed as it was, as a constant
        carry.stop(over, 0)
    cell.inside(factors, carry.value)
    for part in range(1, len(carry.value)):
        if kept is not None:
            kept[part, ..., t, :, :] = carry.value[part]
        if over is not None:
            carry.stop(over, part)
    cell.backward(factors, carry.value, dz)


def _factors(
    cell: Any, gates: Array, initial: list[Array], states: Array, start: int, stop: int
) -> tuple[Array, ...]:
    """The cell's factors at steps ``start`` to ``stop``."""
    m = cell.m
    before = [
        part[start - 1 : stop - 1] if start else m.concatenate([h[None], part[: stop - 1]])
        for h, part in zip(initial, states, strict=True)
    ]
    factors: tuple[Array, ...] = cell.factors(
        gates[start:stop], before, [part[start:stop] for part in states]
    )
    return factors


def exponents(m: Any, rows: Array) -> Array:
    """A power of two that the elements of each row (R, n) are below, but not by many.

    It is :data:`.powers.NOTHING` for zeros, and above :func:`.powers.largest_exponent` for what is not
    finite.
    """
    limit, size = largest_exponent(rows.dtype), _sizes(m, m.abs(rows))
    found = m.where(m.isfinite(size), m.minimum(m.frexp(size)[1], limit), limit + 1)
    return m.where(size == 0, NOTHING, found.astype("int64"))


def _sizes(m: Any, rows: Array) -> Array:
    """The sum of each row's elements, which BLAS finds many times as fast as the largest; or that one.

    A sum may overflow where no element is infinite, and a device is not asked whether it did.
    """
    if m is np:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.matmul(rows, np.ones(rows.shape[1], rows.dtype))
        if np.isfinite(total).all():
            return total
    return m.max(rows, axis=-1)


def at_powers(m: Any, rows: Array, exponents: Array, sizes: Array, lift: Array) -> Array:
    """Return each row as one that is about 2 to its size, and all of them times 2 to ``lift``.

    Parameters
    ----------
    rows : array (R, n)
    exponents : int array (R,)
        What :func:`exponents` found, 0 for rows of zeros.
    sizes : int array (R,)
        At most 0. A row is 0 where 2**sizes is not a normal number, and an element where it would be none
        without ``lift``.
    lift : int array ()
    """
    least = 2 - largest_exponent(rows.dtype) + exponents - sizes
    rows = m.where(m.abs(rows) < power_of_two(m, least, rows.dtype)[:, None], 0, rows)
    first, second = -exponents, sizes + lift
    if m is not np:
        return times_rows(m, rows, first + second)  # in fewer launches
    if (np.abs(first + second) < largest_exponent(rows.dtype) - 1).all():
        first, second = first + second, None  # one factor for both
    rows *= power_of_two(m, first, rows.dtype)[:, None]
    if second is not None:
        rows *= power_of_two(m, second, rows.dtype)[:, None]
    return rows
