"""From the cotangents of a scan's sums to those of its inputs: one product over all steps each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from . import loops
from .numpy_loops import Deltas, of_gates, with_ones
from .powers import NOTHING, largest_exponent, or_zero, power, power_of_two, times_rows
from .program import Program

Cotangents = tuple[Any, ...]
"""The cotangents of all inputs of a scan, in their order; None for what has none."""


Weighted = tuple[Any, Any]
"""The cotangent of a weight, or None, and the power of two it is to be multiplied by."""


class Needs(NamedTuple):
    """The inputs whose cotangents are wanted, the biases' with those of the weights beside them."""

    x: bool
    by_x: bool
    by_h: bool
    others: bool


class Setting(NamedTuple):
    """What the products are made of.

    Attributes
    ----------
    m : module
    program : Program
    x : array (T, B, I)
    initial : array (B, H)
        The first part of the state before the first step.
    states : array (T, B, H)
        The first part of the state after each step.
    weight_ih : array (gates·H, I)
    biases : tuple of bool
        Whether the cotangent of one beside ``weight_ih``, and beside ``weight_hh``, is wanted. Weight and
        bias have one product, at one power, in which what only the bias gets may hide what the weight gets.
    has_lengths : bool
    needs : Needs
    """

    m: Any
    program: Program
    x: Array
    initial: Array
    states: Array
    weight_ih: Array
    biases: tuple[bool, bool]
    has_lengths: bool
    needs: Needs

    @property
    def before(self) -> Array:
        """The first part of the state before each step, (T, B, H): a copy."""
        return self.m.concatenate([self.initial[None], self.states[:-1]])

    @property
    def columns(self) -> tuple[slice, slice, slice]:
        """Which columns the input has an effect on, the state, and further weights."""
        p, H = self.program, self.states.shape[-1]
        alone, sums = len(p.x_only) * H, p.sums * H
        return slice(0, sums - alone), slice(alone, sums), slice(sums, None)

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
        By ``weight_ih``, by ``weight_hh``, each with its bias's as a last column and rows in the order of
        the program's sums, and by the further weights, (*lead, blocks·H); each beside its power.
    setting : Setting
    """

    x: Array
    initial: Array
    weights: tuple[Weighted, ...]
    setting: Setting

    def by_weights(self) -> list[Weighted]:
        """Return the cotangents of both weights, both biases and further weights, and their powers."""
        s = self.setting
        weights: list[Weighted] = []
        biases: list[Weighted] = []
        gates = s.program.x_gates, s.program.h_gates
        for (by, at), has_bias, order in zip(self.weights[:2], s.biases, gates, strict=True):
            if s.program.separate and by is not None:
                by = as_declared(s.m, by, order, s.states.shape[-1])
            split = by is not None and has_bias
            of_weight, of_bias = (by[..., :-1], by[..., -1]) if split else (by, None)
            weights.append((of_weight, at))
            biases.append((of_bias, at))
        return weights + biases + (self._of_others() if s.program.weights else [])

    def _of_others(self) -> list[Weighted]:
        (whole, at), H = self.weights[2], self.setting.states.shape[-1]
        found: list[Weighted] = []
        start = 0
        for blocks in self.setting.program.weights.values():
            end = start + blocks * H
            found.append((None if whole is None else whole[..., start:end], at))
            start = end
        return found


def as_declared(m: Any, by: Array, gates: tuple[int, ...], H: int) -> Array:
    """The rows (*lead, gates·H, ·) of sums in the order in which the cell declares its gates."""
    if gates == tuple(range(len(gates))):
        return by
    places = [gates.index(k) for k in range(len(gates))]
    return m.concatenate([by[..., i * H : (i + 1) * H, :] for i in places], axis=-2)


def products(s: Setting, found: Deltas) -> Sent:
    """One product over all steps for each input, without leading axes where rows have powers.

    For weight gradients, rows too small to change the sum in this dtype are skipped.
    """
    m = s.m
    T, B, _ = s.x.shape
    sums = found.sums.reshape((*found.sums.shape[:-3], T * B, found.sums.shape[-1]))
    by_x = None
    if s.needs.x:
        weight = of_gates(m, s.weight_ih, s.program.x_gates, s.states.shape[-1])
        by_x = m.matmul(sums[..., s.columns[0]], weight.astype(sums.dtype, copy=False))
        by_x = by_x.reshape((*by_x.shape[:-2], *s.x.shape))
    if isinstance(found.powers, int) or not sums.size or not any(s.needs[1:]):
        power = found.powers if isinstance(found.powers, int) else 0
        with np.errstate(over="ignore", invalid="ignore"):  # sent() looks at what is raised too far
            weights = tuple((by, power) for by in _by_weights(s, sums))
    else:
        weights = _at_powers(s, sums, found.powers.reshape(-1))
    return Sent(by_x, found.initial, weights, s)


def _at_powers(s: Setting, rows: Array, powers: Array) -> tuple[Weighted, ...]:
    """What :class:`Sent` has of the weights, from rows of several powers.

    For all weights the rows are brought to one power together, unless the largest row of one would hide
    what another is made of.
    """
    m, limit = s.m, largest_exponent(rows.dtype)
    exponents = loops(s.program, m, rows.dtype).exponents(m, rows)
    endless = exponents > limit
    exponents, sizes = _sized(m, exponents, powers, limit)
    nothing = Needs(False, False, False, False)
    each = [
        nothing._replace(**{name: True}) for name in Needs._fields[1:] if getattr(s.needs, name)
    ]
    tops = [_top(s, needs, sizes) for needs in each]
    if len(each) > 1 and m is np and max(tops) - min(tops) <= limit // 5:
        each, tops = [s.needs], [max(tops)]
    found: list[Weighted] = [(None, 0)] * 3
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
    return tuple(found)


def _top(s: Setting, needs: Needs, sizes: Array) -> Any:
    """The largest size of a row that is not multiplied by zeros alone for a weight; 0 if there is none."""
    m = s.m
    ones = needs.others or (needs.by_x and s.biases[0]) or (needs.by_h and s.biases[1])
    if not ones:  # a bias and what has no product are multiplied by 1
        operands = [s.x] if needs.by_x else [s.initial[None], s.states[:-1]]
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
    m, limit, run = s.m, largest_exponent(rows.dtype), loops(s.program, s.m, rows.dtype)
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
    for a in [s.x] * s.needs.by_x + [s.states, s.initial] * s.needs.by_h:
        if a.size:
            top = m.maximum(top, m.abs(a).max())
    return m.where(m.isfinite(top), m.frexp(top)[1], limit)


def _by_weights(s: Setting, sums: Array, first: int = 0) -> tuple[Array, Array, Array]:
    """What :class:`Sent` has of the weights, from the cotangents of the sums (*lead, rows, ·).

    These are all from the row ``first`` on, with which a step begins.
    """
    m, run = s.m, loops(s.program, s.m, sums.dtype)
    T, B, _ = s.x.shape
    of_x, of_h, of_others = s.columns
    by_x = by_h = others = None
    if s.needs.by_x:
        x = s.x.reshape(T * B, s.x.shape[-1])[first:]
        by_x = run.crossed(m, sums[..., of_x], with_ones(m, x) if s.biases[0] else x)
    if s.needs.by_h:  # two products, so that the states are not copied
        h = s.states.reshape(T * B, s.states.shape[-1])
        before = h[first - B : first] if first else s.initial
        later = h[first : T * B - B]
        if s.biases[1]:
            before, later = with_ones(m, before), with_ones(m, later)
        some = sums[..., of_h]
        by_h = run.crossed(m, some[..., B:, :], later)
        by_h += run.crossed(m, some[..., :B, :], before)
    if s.needs.others:
        some = sums[..., of_others]
        others = run.crossed(m, m.ones((some.shape[-2], 1), some.dtype), some)[..., 0, :]
    return by_x, by_h, others


def sent(s: Setting, found: Deltas) -> Cotangents:
    """The cotangents of all inputs, with the powers of two of the rows put back."""
    m, powers = s.m, found.powers
    if isinstance(powers, int):
        return _sent_at_once(s, found, powers)
    if leads := found.sums.shape[:-3]:
        rows = [sent(s, found.at(i)) for i in np.ndindex(*leads)]
        return tuple(
            None if c[0] is None else m.stack(c).reshape((*leads, *c[0].shape))
            for c in zip(*rows, strict=True)
        )
    made = products(s, found)
    by_x = None if made.x is None else times_rows(m, made.x, powers)
    initial = times_rows(m, made.initial, found.initial_powers)
    weights = [None if w is None else times_rows(m, w, m.asarray(p)) for w, p in made.by_weights()]
    return (by_x, *initial, *weights, *([None] if s.has_lengths else []))


def _sent_at_once(s: Setting, found: Deltas, by: int) -> Cotangents:
    """The cotangents of all inputs where all rows have one power."""
    made, initial = products(s, found), found.initial
    arrays = [w for w, _ in made.weights if w is not None]
    if by:
        if not all(map(_finite, arrays)):
            return sent(s, found.by_rows())  # lowered: it may have been their raising
        scale = power(found.sums.dtype, by)
        initial = initial * scale  # another array, for the steps before go on from this one
        for array in arrays if made.x is None else [made.x, *arrays]:
            array *= scale
    weights = [w for w, _ in made.by_weights()]
    return (made.x, *initial, *weights, *([None] if s.has_lengths else []))


def _finite(array: Array) -> bool:
    """Whether all elements are finite; False also where the sum of their squares is not."""
    return math.isfinite(abs(np.vdot(array, array)))


def joined(m: Any, windows: list[Cotangents], parts: int) -> Cotangents:
    """The cotangents of all inputs from those by windows of time, the first window first."""
    if len(windows) == 1:
        return windows[0]
    by_x, *others = zip(*windows, strict=True)
    sums = [None if c[0] is None else sum(c[1:], start=c[0]) for c in others[parts:]]
    initial = [c[0] for c in others[:parts]]
    return (None if by_x[0] is None else m.concatenate(by_x, axis=-3), *initial, *sums)
