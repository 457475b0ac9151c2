"""From the cotangents of a scan's sums to those of its inputs: one product over all steps each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from .arrays import Deltas, with_ones
from .powers import NOTHING as NOTHING
from .powers import largest_exponent, power_of_two, smallest, times_rows

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

    Of a weight's, rows are left out that no number in the type can be as small as beside the largest.
    """
    m = s.m
    T, B, _ = s.x.shape
    sums = found.sums.reshape((*found.sums.shape[:-3], T * B, found.sums.shape[-1]))
    by_x = None
    if s.needs.x:
        by_x = m.matmul(sums, s.weight_ih.astype(sums.dtype, copy=False))
        by_x = by_x.reshape((*by_x.shape[:-2], *s.x.shape))
    power, first = 0, 0
    if found.powers is not None and (s.needs.weight_ih or s.needs.weight_hh):
        powers = found.powers.reshape(-1)
        if m is np:
            first = _first_that_counts(sums, powers) // max(B, 1) * B
        sums, power = _to_one_power(m, sums[first:], powers[first:])
    return Sent(by_x, found.initial, _by_weights(s, sums, first), power)


def _first_that_counts(rows: Array, powers: Array) -> int:
    """Before which all rows are too small to show, on the host; 0 where that is not easy to say."""
    top = powers.max() if powers.size else 0
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(np.add.reduce(rows, axis=None))
    if not finite or not rows[powers == top].any():
        return 0
    return int(np.argmax(powers >= top + 2 - largest_exponent(rows.dtype)))


def _by_weights(s: Setting, sums: Array, first: int) -> tuple[Array, Array, Array]:
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


def _to_one_power(m: Any, rows: Array, powers: Array) -> tuple[Array, Array]:
    """The rows at the power of the largest; 0 where they are too small to show beside it."""
    if not rows.size:
        return rows, powers.sum()
    size = m.abs(rows).max(axis=-1)
    powers = m.where(size == 0, NOTHING, m.where(m.isfinite(size), powers, powers.max()))
    top = powers.max()
    rows = rows * power_of_two(m, powers - top, rows.dtype)[:, None]
    if m is not np or (powers < top + CLOSE - largest_exponent(rows.dtype)).any():
        rows = m.where(m.abs(rows) < smallest(rows.dtype), 0, rows)  # products would be slow
    return rows, top


CLOSE = 32
"""Powers of two above the smallest normal number, from which on a row has few elements below it."""


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
