"""From the cotangents of a scan's sums to those of its inputs: one product over all steps each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from . import loops
from .arrays import Deltas, with_ones
from .powers import NOTHING, largest_exponent, power_of_two, times_rows

Cotangents = tuple[Any, ...]
"""Of all inputs of a scan, in their order; None for what has none."""


class Needs(NamedTuple):
    """Of which inputs the cotangents are wanted; the bias's come with those of ``weight_ih``."""

    x: bool
    weight_ih: bool
    weight_hh: bool


class Setting(NamedTuple):
    """What the products are made of.

    Attributes
    ----------
    m : module
    x : array (T, B, I)
    initial : array (B, H)
        The first part of the state before the first step.
    states : array (T, B, H)
        The first part of the state after each step.
    weight_ih : array (blocks·H, I)
    has_bias, has_lengths : bool
        Which of the last inputs there are.
    needs : Needs
    """

    m: Any
    x: Array
    initial: Array
    states: Array
    weight_ih: Array
    has_bias: bool
    has_lengths: bool
    needs: Needs

    @property
    def before(self) -> Array:
        """The first part of the state before each step, (T, B, H): a copy."""
        return self.m.concatenate([self.initial[None], self.states[:-1]])

    def at(self, steps: range) -> Setting:
        """Of some of the steps."""
        if len(steps) == len(self.x):
            return self
        here = slice(steps.start, steps.stop)
        initial = self.states[steps.start - 1] if steps.start else self.initial
        return self._replace(x=self.x[here], initial=initial, states=self.states[here])


class Sent(NamedTuple):
    """What a scan sends to its inputs, before the powers of two of the rows are put back.

    Attributes
    ----------
    x : array (*lead, T, B, I), or None
        Its rows are at the powers of the sums.
    initial : array (parts, *lead, B, H)
        Its rows are at the powers of the initial state's.
    weights : tuple of array or None
        By ``weight_ih``, ``weight_hh`` and the bias.
    power : int array ()
        The power of ``weights``; 0 where there are none.
    """

    x: Array
    initial: Array
    weights: tuple[Array, Array, Array]
    power: Array


def products(s: Setting, found: Deltas) -> Sent:
    """One product over all steps for each input, without leading axes where rows have powers.

    For weight gradients, rows too small to change the sum in this dtype are skipped.
    """
    m = s.m
    T, B, _ = s.x.shape
    sums = found.sums.reshape((*found.sums.shape[:-3], T * B, found.sums.shape[-1]))
    by_x = None
    if s.needs.x:
        by_x = m.matmul(sums, s.weight_ih.astype(sums.dtype, copy=False))
        by_x = by_x.reshape((*by_x.shape[:-2], *s.x.shape))
    if found.powers is None or not sums.size or not (s.needs.weight_ih or s.needs.weight_hh):
        return Sent(by_x, found.initial, _by_weights(s, sums), 0)
    at = _to_one_power(s, sums, found.powers.reshape(-1))
    weights = _by_weights(s, at.rows, at.first)
    back = power_of_two(m, -at.lift, sums.dtype)
    for w in weights:
        if w is not None:
            w *= back
    return Sent(by_x, found.initial, weights, at.power)


class _AtOnePower(NamedTuple):
    """Rows of several powers of two brought to one.

    Attributes
    ----------
    rows : array
        Times 2**(power - lift) they are what they were.
    first : int
        Of which row these begin; those before do not show.
    power : int array ()
        The highest power of a row.
    lift : int array ()
        How many powers of two above 1 the rows at ``power`` are brought.
    """

    rows: Array
    first: int
    power: Array
    lift: Array


def _to_one_power(s: Setting, rows: Array, powers: Array) -> _AtOnePower:
    """All rows at the power of the largest, then raised as far as no sum over them can overflow.

    A product with states and inputs near 1 then meets no subnormal number on its way: what is kept of the
    rows is as much larger than the smallest normal number as they are raised (about 100 powers of two in
    float32).
    """
    m, limit, run = s.m, largest_exponent(rows.dtype), loops(s.m, rows.dtype)
    first = _first_that_counts(powers, s.x.shape[1], limit) if m is np else 0
    exponents, own = _looked_at(m, run.exponents(m, rows[first:]), powers[first:], limit)
    if first and own.max() < powers.max():  # all rows at the highest power are zeros
        first = 0
        exponents, own = _looked_at(m, run.exponents(m, rows), powers, limit)
    rows, top = rows[first:], own.max()
    own = own - top
    room = limit - 1 - len(rows).bit_length() - (own + exponents).max() - _exponent_of_operands(s)
    lift = m.clip(room, 0, limit - 2)
    return _AtOnePower(run.at_powers(m, rows, own + lift, 2 - limit - own), first, top, lift)


def _first_that_counts(powers: Array, batch: int, limit: int) -> int:
    """The first row, which begins a step, that is not too small to show beside the highest power."""
    return int(np.argmax(powers >= powers.max() + 2 - limit)) // batch * batch


def _looked_at(m: Any, exponents: Array, powers: Array, limit: int) -> tuple[Array, Array]:
    """The exponents with 0 for rows of zeros or of what is not finite, and the powers of the rows.

    The power is :data:`NOTHING` for zeros, and the highest for what is not finite.
    """
    zero, endless = exponents == NOTHING, exponents > limit
    powers = m.where(zero, NOTHING, m.where(endless, powers.max(), powers))
    return m.where(zero | endless, 0, exponents), powers


def _exponent_of_operands(s: Setting) -> Array:
    """The power of two that inputs, states and the ones of the bias are below; too high if not finite."""
    m, top = s.m, 1
    for a in [s.x] * s.needs.weight_ih + [s.states, s.initial] * s.needs.weight_hh:
        if a.size:
            top = m.maximum(top, m.abs(a).max())
    return m.where(m.isfinite(top), m.frexp(top)[1], largest_exponent(s.states.dtype))


def _by_weights(s: Setting, sums: Array, first: int = 0) -> tuple[Array, Array, Array]:
    """The cotangents of the weights and the bias, from those of the sums (*lead, rows, ·).

    These are all from the row ``first`` on, with which a step begins.
    """
    m = s.m
    T, B, _ = s.x.shape
    across = m.swapaxes(sums, -1, -2)
    by_weight_ih = by_weight_hh = by_bias = None
    if s.needs.weight_ih:
        x = s.x.reshape(T * B, s.x.shape[-1])[first:]
        x = with_ones(m, x) if s.has_bias else x
        by_weight_ih = m.matmul(across, x)
        if s.has_bias:
            by_weight_ih, by_bias = by_weight_ih[..., :-1], by_weight_ih[..., -1]
    if s.needs.weight_hh:  # two products, so that the states are not copied
        h = s.states.reshape(T * B, s.states.shape[-1])
        before = h[first - B : first] if first else s.initial
        by_weight_hh = m.matmul(across[..., B:], h[first : T * B - B])
        by_weight_hh += m.matmul(across[..., :B], before)
    return by_weight_ih, by_weight_hh, by_bias


def sent(s: Setting, found: Deltas) -> Cotangents:
    """The cotangents of all inputs, in their own type."""
    leads = found.sums.shape[:-3]
    if found.powers is not None and leads:
        rows = [sent(s, found.at(i)) for i in np.ndindex(*leads)]
        return tuple(
            None if c[0] is None else s.m.stack(c).reshape((*leads, *c[0].shape))
            for c in zip(*rows, strict=True)
        )
    by_x, initial, by_weights, power = products(s, found)
    weights: tuple[Any, ...] = by_weights
    lengths = [None] if s.has_lengths else []
    if found.powers is None:
        return (by_x, *initial, *weights, *lengths)
    by_x = None if by_x is None else times_rows(s.m, by_x, found.powers)
    initial = times_rows(s.m, initial, found.initial_powers)
    if s.m is not np or power:
        weights = tuple(None if w is None else times_rows(s.m, w, power) for w in weights)
    return (by_x, *initial, *weights, *lengths)


def joined(m: Any, windows: list[Cotangents], parts: int) -> Cotangents:
    """The cotangents of all inputs from those by windows of time, the first window first."""
    if len(windows) == 1:
        return windows[0]
    by_x, *others = zip(*windows, strict=True)
    sums = [None if c[0] is None else sum(c[1:], start=c[0]) for c in others[parts:]]
    initial = [c[0] for c in others[:parts]]
    return (None if by_x[0] is None else m.concatenate(by_x, axis=-3), *initial, *sums)
