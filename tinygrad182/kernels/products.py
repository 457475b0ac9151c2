"""From the cotangents of a scan's sums to those of its inputs: one product over all steps each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from . import loops
from .arrays import Deltas, with_ones
from .powers import NOTHING, largest_exponent, or_zero, power, power_of_two, times_rows

Cotangents = tuple[Any, ...]
"""The cotangents of all inputs of a scan, in their order; None for what has none."""


Weighted = tuple[Any, Any]
"""The cotangent of a weight, or None, and the power of two it is to be multiplied by."""


class Needs(NamedTuple):
    """The inputs whose cotangents are wanted; the bias's come with those of ``weight_ih``."""

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
        """The setting of some of the steps."""
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
    weights : tuple of (array or None, int or int array ())
        By ``weight_ih``, with the bias's as a last column, and by ``weight_hh``; each beside its power.
    has_bias : bool
    """

    x: Array
    initial: Array
    weights: tuple[Weighted, Weighted]
    has_bias: bool

    def by_weights(self) -> tuple[Weighted, Weighted, Weighted]:
        """Return views of the cotangents of ``weight_ih``, ``weight_hh`` and the bias, and their powers."""
        (by_weight_ih, power), by_weight_hh = self.weights
        if by_weight_ih is None or not self.has_bias:
            return (by_weight_ih, power), by_weight_hh, (None, 0)
        return (by_weight_ih[..., :-1], power), by_weight_hh, (by_weight_ih[..., -1], power)


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
    if (
        isinstance(found.powers, int)
        or not sums.size
        or not (s.needs.weight_ih or s.needs.weight_hh)
    ):
        power = found.powers if isinstance(found.powers, int) else 0
        with np.errstate(over="ignore", invalid="ignore"):  # sent() looks at what is raised too far
            by_weight_ih, by_weight_hh = _by_weights(s, sums)
        weights = (by_weight_ih, power), (by_weight_hh, power)
    else:
        weights = _at_powers(s, sums, found.powers.reshape(-1))
    return Sent(by_x, found.initial, weights, s.has_bias)


def _at_powers(s: Setting, rows: Array, powers: Array) -> tuple[Weighted, Weighted]:
    """What :class:`Sent` has of the weights, from rows of several powers.

    For both weights the rows are brought to one power together, unless the largest row of one would hide
    what the other is made of.
    """
    m, limit = s.m, largest_exponent(rows.dtype)
    exponents = loops(m, rows.dtype).exponents(m, rows)
    endless = exponents > limit
    exponents, sizes = _sized(m, exponents, powers, limit)
    each = [Needs(False, True, False)] * s.needs.weight_ih
    each += [Needs(False, False, True)] * s.needs.weight_hh
    tops = [_top(s, needs, sizes) for needs in each]
    if len(each) > 1 and m is np and abs(tops[0] - tops[1]) <= limit // 5:
        each, tops = [s.needs], [max(tops)]
    found: list[Weighted] = [(None, 0), (None, 0)]
    for needs, top in zip(each, tops, strict=True):
        part, shown = s._replace(needs=needs), m.minimum(sizes - top, 0)  # larger ones meet zeros
        counts = m.where(endless, 0, shown)
        first = _first_that_counts(counts, s.x.shape[1], limit) if m is np else 0
        at = _to_one_power(part, rows[first:], exponents[first:], shown[first:])
        back = power_of_two(m, -at.lift, rows.dtype)
        for i, w in enumerate(_by_weights(part, at.rows, first)):
            if w is not None:
                w *= back
                found[i] = w, top + at.power
    return found[0], found[1]


def _top(s: Setting, needs: Needs, sizes: Array) -> Any:
    """The largest size of a row that is not multiplied by zeros alone for a weight; 0 if there is none."""
    m = s.m
    if not (needs.weight_ih and s.has_bias):  # which is multiplied by 1
        operands = [s.x] if needs.weight_ih else [s.initial[None], s.states[:-1]]
        if m is np:  # mostly the largest is one of those
            t, b = divmod(int(np.argmax(sizes)), s.x.shape[1])
            row = operands[0][t, b] if t < len(operands[0]) else s.states[t - 1, b]
            operands = [] if row.any() else operands
        if operands:
            counts = m.concatenate([a.any(axis=-1) for a in operands])
            sizes = m.where(counts.reshape(-1), sizes, NOTHING)
    return or_zero(m, sizes.max())


class _AtOnePower(NamedTuple):
    """Rows of several powers of two brought to one.

    Attributes
    ----------
    rows : array
        Times 2**(power - lift) they are what they were.
    power : int array ()
        0, or what is left of lowering them.
    lift : int array ()
        How many powers of two above 1 that row is brought.
    """

    rows: Array
    power: Array
    lift: Array


def _to_one_power(s: Setting, rows: Array, exponents: Array, sizes: Array) -> _AtOnePower:
    """All rows at one power, at which the largest is as far above 1 as no sum over them can overflow.

    ``exponents`` are those of the rows, and ``sizes`` those they are to have beside the largest, at most 0.

    A product with states and inputs near 1 then meets no subnormal number on its way: what is kept of the
    rows is as much larger than the smallest normal number as they are raised (about 100 powers of two in
    float32). Elements smaller than 2^-126 times the largest of all rows count as 0.
    """
    m, limit, run = s.m, largest_exponent(rows.dtype), loops(s.m, rows.dtype)
    room = limit - 1 - (s.x.shape[0] * s.x.shape[1]).bit_length() - _exponent_of_operands(s, limit)
    lift = m.minimum(room, limit - 2)
    rows = run.at_powers(m, rows, exponents, sizes, lift)
    # where operands are so large that the sum is below, the power has the rest
    return _AtOnePower(rows, -m.minimum(lift, 0), m.maximum(lift, 0))


def _first_that_counts(sizes: Array, batch: int, limit: int) -> int:
    """The first row, which begins a step, that is not too small to show beside the largest, of size 0."""
    return int(np.argmax(sizes >= 2 - limit)) // batch * batch


def _sized(m: Any, exponents: Array, powers: Array, limit: int) -> tuple[Array, Array]:
    """The exponents with 0 for rows of zeros or of what is not finite, and the sizes of all rows.

    The size is :data:`NOTHING` for zeros, and the power for what is not finite.
    """
    usual = (exponents != NOTHING) & (exponents <= limit)
    zero = exponents == NOTHING
    exponents = m.where(usual, m.clip(exponents, 2 - limit, limit - 2), 0)
    return exponents, m.where(zero, NOTHING, powers + exponents)


def _exponent_of_operands(s: Setting, limit: int) -> Array:
    """The power of two that inputs, states and the ones of the bias are below; ``limit`` if not finite."""
    m, top = s.m, 1
    for a in [s.x] * s.needs.weight_ih + [s.states, s.initial] * s.needs.weight_hh:
        if a.size:
            top = m.maximum(top, m.abs(a).max())
    return m.where(m.isfinite(top), m.frexp(top)[1], limit)


def _by_weights(s: Setting, sums: Array, first: int = 0) -> tuple[Array, Array]:
    """What :class:`Sent` has of the weights, from the cotangents of the sums (*lead, rows, ·).

    These are all from the row ``first`` on, with which a step begins.
    """
    m = s.m
    T, B, _ = s.x.shape
    across = m.swapaxes(sums, -1, -2)
    by_weight_ih = by_weight_hh = None
    if s.needs.weight_ih:
        x = s.x.reshape(T * B, s.x.shape[-1])[first:]
        by_weight_ih = m.matmul(across, with_ones(m, x) if s.has_bias else x)
    if s.needs.weight_hh:  # two products, so that the states are not copied
        h = s.states.reshape(T * B, s.states.shape[-1])
        before = h[first - B : first] if first else s.initial
        by_weight_hh = m.matmul(across[..., B:], h[first : T * B - B])
        by_weight_hh += m.matmul(across[..., :B], before)
    return by_weight_ih, by_weight_hh


def sent(s: Setting, found: Deltas) -> Cotangents:
    """The cotangents of all inputs, with the powers of two of the rows put back."""
    m, powers = s.m, found.powers
    leads = found.sums.shape[:-3]
    if leads and not isinstance(powers, int):
        rows = [sent(s, found.at(i)) for i in np.ndindex(*leads)]
        return tuple(
            None if c[0] is None else m.stack(c).reshape((*leads, *c[0].shape))
            for c in zip(*rows, strict=True)
        )
    made = products(s, found)
    by_x, initial = made.x, made.initial
    weights = tuple(w for w, _ in made.by_weights())
    if not isinstance(powers, int):
        by_x = None if by_x is None else times_rows(m, by_x, powers)
        initial = times_rows(m, initial, found.initial_powers)
        weights = tuple(
            None if w is None else times_rows(m, w, m.asarray(p)) for w, p in made.by_weights()
        )
    elif powers:
        arrays = [w for w, _ in made.weights]
        if not all(map(_finite, arrays)):
            return sent(s, found.by_rows())  # lowered: it may have been their raising
        scale = power(found.sums.dtype, powers)
        initial = initial * scale  # another array, for the steps before go on from this one
        for array in (by_x, *arrays):
            if array is not None:
                m.multiply(array, scale, out=array)
    return (by_x, *initial, *weights, *([None] if s.has_lengths else []))


def _finite(array: Array) -> bool:
    """Whether all elements are finite; False also where the sum of their squares is not."""
    return array is None or math.isfinite(abs(np.vdot(array, array)))


def joined(m: Any, windows: list[Cotangents], parts: int) -> Cotangents:
    """The cotangents of all inputs from those by windows of time, the first window first."""
    if len(windows) == 1:
        return windows[0]
    by_x, *others = zip(*windows, strict=True)
    sums = [None if c[0] is None else sum(c[1:], start=c[0]) for c in others[parts:]]
    initial = [c[0] for c in others[:parts]]
    return (None if by_x[0] is None else m.concatenate(by_x, axis=-3), *initial, *sums)
