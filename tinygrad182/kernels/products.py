"""From the cotangents of a recurrence's sums to those of its inputs, by products over all steps.

The loops over time end at the sums x_t W_xᵀ + b_x and h_{t−1} W_hᵀ + b_h. The rest is linear and needs no
loop: ∂L/∂x = ∂L/∂sums · W_x, and ∂L/∂W_x is the product of all rows of ∂L/∂sums with all rows of x.
:mod:`..recurrence` calls :func:`input_cotangents` for each window of time and :func:`join_windows` for all;
the inspector calls :func:`products`, whose results still have powers of two (:mod:`.powers`). In this file
the *size* of a row is the exponent of its true largest element, that is the exponent in its values plus its
power.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import Array
from . import loops
from .numpy_loops import of_gates, with_ones
from .powers import NOTHING, largest_exponent, or_zero, powers_of_two, times_rows, two_to
from .program import Program
from .runs import StepCotangents


class NeedsGrad(NamedTuple):
    """Which inputs require a gradient."""

    x: bool
    weight_ih: bool
    weight_hh: bool
    bias_ih: bool
    bias_hh: bool
    others: bool

    @property
    def by_x(self) -> bool:
        """Whether the product with the input is needed, which gives weight and bias together."""
        return self.weight_ih or self.bias_ih

    @property
    def by_h(self) -> bool:
        """Whether the product with the states is needed."""
        return self.weight_hh or self.bias_hh


class ProductOperands(NamedTuple):
    """The operands of the products with the cotangents of the sums.

    ``initial`` (B, H) and ``states`` (T, B, H) are the first part of the state, before the first step and
    after each step. A bias counts in ``needs_grad`` only if it needs a gradient: weight and bias have one
    product at one power, in which a large row of the bias may hide what the weight gets.
    """

    m: Any
    program: Program
    x: Array
    initial: Array
    states: Array
    weight_ih: Array
    has_lengths: bool
    needs_grad: NeedsGrad

    @property
    def before(self) -> Array:
        """The first part of the state before each step, (T, B, H): a copy."""
        return self.m.concatenate([self.initial[None], self.states[:-1]])

    @property
    def columns(self) -> tuple[slice, slice, slice]:
        """The columns that depend on the input, those that depend on the state, and those of weights."""
        p, H = self.program, self.states.shape[-1]
        x_only, sums = len(p.x_only) * H, p.sums * H
        return slice(0, sums - x_only), slice(x_only, sums), slice(sums, None)

    def at(self, steps: range) -> ProductOperands:
        """Select some steps."""
        if len(steps) == len(self.x):
            return self
        here = slice(steps.start, steps.stop)
        initial = self.states[steps.start - 1] if steps.start else self.initial
        return self._replace(x=self.x[here], initial=initial, states=self.states[here])


class WithPower(NamedTuple):
    """The cotangent of a weight, or None, and the power of two that it is to be multiplied by."""

    array: Any
    power: Any


class InputCotangents(NamedTuple):
    """The cotangents of a recurrence's inputs, with the powers of two that they are to be multiplied by.

    The rows of ``x`` (*lead, T, B, I), which may be None, have the powers of the sums, and those of
    ``initial`` (parts, *lead, B, H) have the powers of the initial state. ``weights`` has those of
    ``weight_ih`` and ``weight_hh``, each with its bias as a last column and rows in the order of the
    program's sums, and those of the further weights, (*lead, blocks·H).
    """

    x: Array
    initial: Array
    weights: tuple[WithPower, ...]
    operands: ProductOperands

    def by_weights(self) -> list[WithPower]:
        """Return the cotangents of both weights, both biases and each further weight."""
        s, p = self.operands, self.operands.program
        weights: list[WithPower] = []
        biases: list[WithPower] = []
        for (both, power), has_bias, gates in zip(
            self.weights[:2], s.needs_grad[3:5], (p.x_gates, p.h_gates), strict=True
        ):
            if p.separate and both is not None:
                both = as_declared(s.m, both, gates, s.states.shape[-1])
            weight, bias = both, None
            if both is not None and has_bias:
                weight, bias = both[..., :-1], both[..., -1]
            weights.append(WithPower(weight, power))
            biases.append(WithPower(bias, power))
        whole, power = self.weights[2]
        ends = [0, *(n * s.states.shape[-1] for n in accumulate(p.weights.values()))]
        others = [None if whole is None else whole[..., a:b] for a, b in pairwise(ends)]
        return weights + biases + [WithPower(by, power) for by in others]


def as_declared(m: Any, by: Array, gates: tuple[int, ...], H: int) -> Array:
    """The rows (*lead, gates·H, ·) of sums in the order in which the cell declares its gates."""
    if gates == tuple(range(len(gates))):
        return by
    places = [gates.index(k) for k in range(len(gates))]
    return m.concatenate([by[..., i * H : (i + 1) * H, :] for i in places], axis=-2)


def products(s: ProductOperands, found: StepCotangents) -> InputCotangents:
    """One product over all steps for each input. With a power for each row there are no leading axes.

    In the gradient of a weight, rows too small to change the sum are skipped.
    """
    m = s.m
    T, B, _ = s.x.shape
    sums = found.sums.reshape((*found.sums.shape[:-3], T * B, found.sums.shape[-1]))
    by_x = None
    if s.needs_grad.x:
        weight = of_gates(m, s.weight_ih, s.program.x_gates, s.states.shape[-1])
        by_x = m.matmul(sums[..., s.columns[0]], weight.astype(sums.dtype, copy=False))
        by_x = by_x.reshape((*by_x.shape[:-2], *s.x.shape))
    if isinstance(found.powers, int) or not sums.size or not any(s.needs_grad[1:]):
        power = found.powers if isinstance(found.powers, int) else 0
        with np.errstate(over="ignore", invalid="ignore"):  # looked at by _input_cotangents_at_once
            weights = tuple(WithPower(by, power) for by in _weight_products(s, sums))
    else:
        weights = _weight_products_at_powers(s, sums, found.powers.reshape(-1))
    return InputCotangents(by_x, found.initial, weights, s)


def _weight_products(s: ProductOperands, sums: Array, first: int = 0) -> tuple[Array, ...]:
    """The products that ``InputCotangents.weights`` has, from the cotangents of the sums (*lead, rows, ·).

    ``sums`` begins at the row ``first``, which is the first row of a step.
    """
    m, run = s.m, loops(s.program, s.m, sums.dtype)
    T, B, _ = s.x.shape
    of_x, of_h, of_others = s.columns
    by_x = by_h = others = None
    if s.needs_grad.by_x:
        x = s.x.reshape(T * B, s.x.shape[-1])[first:]
        by_x = run.crossed(m, sums[..., of_x], with_ones(m, x) if s.needs_grad.bias_ih else x)
    if s.needs_grad.by_h:  # two products, so that the states are not copied
        h = s.states.reshape(T * B, s.states.shape[-1])
        before = h[first - B : first] if first else s.initial
        later = h[first : T * B - B]
        if s.needs_grad.bias_hh:
            before, later = with_ones(m, before), with_ones(m, later)
        some = sums[..., of_h]
        by_h = run.crossed(m, some[..., B:, :], later)
        by_h += run.crossed(m, some[..., :B, :], before)
    if s.needs_grad.others:
        some = sums[..., of_others]
        others = run.crossed(m, m.ones((some.shape[-2], 1), some.dtype), some)[..., 0, :]
    return by_x, by_h, others


def _weight_products_at_powers(
    s: ProductOperands, rows: Array, powers: Array
) -> tuple[WithPower, ...]:
    """The products of weights from rows of several powers.

    The rows are brought to one power for all weights together, unless the largest row of one weight would
    hide what another weight gets.
    """
    m, limit = s.m, largest_exponent(rows.dtype)
    exponents = loops(s.program, m, rows.dtype).exponents(m, rows)
    not_finite = exponents > limit
    exponents, sizes = _sizes(m, exponents, powers, limit)
    of_x, of_h, of_others = (0, 1, 0, 1, 0, 0), (0, 0, 1, 0, 1, 0), (0, 0, 0, 0, 0, 1)
    each = [NeedsGrad(*map(mul, s.needs_grad, some)) for some in (of_x, of_h, of_others)]
    each = [mask for mask in each if any(mask)]
    tops = [_top_size(s, needs_grad, sizes) for needs_grad in each]
    if len(each) > 1 and m is np and max(tops) - min(tops) <= limit // 5:
        each, tops = [s.needs_grad], [max(tops)]
    found = [WithPower(None, 0)] * 3
    for needs_grad, top in zip(each, tops, strict=True):
        part = s._replace(needs_grad=needs_grad)
        relative = m.minimum(sizes - top, 0)  # rows that are larger than the top meet zeros
        counts = m.where(not_finite, 0, relative)
        first = _first_that_counts(counts, s.x.shape[1], limit) if m is np else 0
        at = _to_one_power(part, rows[first:], exponents[first:], relative[first:])
        back = powers_of_two(m, -at.lift, rows.dtype)
        for i, product in enumerate(_weight_products(part, at.rows, first)):
            if product is not None:
                product *= back
                found[i] = WithPower(product, top + at.power)
    return tuple(found)


def _sizes(m: Any, exponents: Array, powers: Array, limit: int) -> tuple[Array, Array]:
    """The exponents, with 0 for rows of zeros and rows that are not finite; and the sizes of all rows.

    The size is :data:`NOTHING` for zeros, and the power for a row that is not finite.
    """
    usual = (exponents != NOTHING) & (exponents <= limit)
    zero = exponents == NOTHING
    exponents = m.where(usual, m.clip(exponents, 2 - limit, limit - 2), 0)
    return exponents, m.where(zero, NOTHING, powers + exponents)


def _top_size(s: ProductOperands, needs_grad: NeedsGrad, sizes: Array) -> Any:
    """The largest size of a row that a weight does not multiply by zeros alone; 0 if there is none."""
    m = s.m
    meets_ones = needs_grad.others or needs_grad.bias_ih or needs_grad.bias_hh
    if not meets_ones:
        operands = [s.x] if needs_grad.by_x else [s.initial[None], s.states[:-1]]
        if m is np:  # the largest row of all is mostly one of those: then no others are looked at
            t, b = divmod(int(np.argmax(sizes)), s.x.shape[1])
            row = operands[0][t, b] if t < len(operands[0]) else s.states[t - 1, b]
            operands = [] if row.any() else operands
        if operands:
            counts = m.concatenate([a.any(axis=-1) for a in operands])
            sizes = m.where(counts.reshape(-1), sizes, NOTHING)
    return or_zero(m, sizes.max())


def _first_that_counts(sizes: Array, batch: int, limit: int) -> int:
    """The first row of the first step with a row that shows beside the largest, whose size is 0."""
    return int(np.argmax(sizes >= 2 - limit)) // batch * batch


class _AtOnePower(NamedTuple):
    """Rows of several powers brought to one: the true rows are ``rows`` · 2**(``power`` − ``lift``).

    ``lift`` is the exponent that the largest row is brought to. ``power`` is above 0 where operands are so
    large that the rows had to be lowered instead.
    """

    rows: Array
    power: Array
    lift: Array


def _to_one_power(s: ProductOperands, rows: Array, exponents: Array, sizes: Array) -> _AtOnePower:
    """Bring all rows to one power: the largest as far above 1 as no sum over the rows can overflow.

    ``exponents`` are those of the values, and ``sizes`` are relative to the largest row, at most 0. A
    product with states and inputs near 1 then meets no subnormal number: the elements that are kept lie as
    far above the smallest normal number as the rows are lifted (about 100 powers of two in float32).
    Elements smaller than 2^-126 times the largest of all rows count as 0.
    """
    m, limit, run = s.m, largest_exponent(rows.dtype), loops(s.program, s.m, rows.dtype)
    room = limit - 1 - (s.x.shape[0] * s.x.shape[1]).bit_length() - _exponent_of_operands(s, limit)
    lift = m.minimum(room, limit - 2)
    rows = run.at_powers(m, rows, exponents, sizes, lift)
    return _AtOnePower(rows, -m.minimum(lift, 0), m.maximum(lift, 0))


def _exponent_of_operands(s: ProductOperands, limit: int) -> Array:
    """An exponent above all operands and the 1 of a bias; ``limit`` if an operand is not finite."""
    m, top = s.m, 1
    for a in [s.x] * s.needs_grad.by_x + [s.states, s.initial] * s.needs_grad.by_h:
        if a.size:
            top = m.maximum(top, m.abs(a).max())
    return m.where(m.isfinite(top), m.frexp(top)[1], limit)


def input_cotangents(s: ProductOperands, found: StepCotangents) -> tuple[Any, ...]:
    """The cotangents of all inputs in their order, with the powers applied; None where there is none."""
    m, powers = s.m, found.powers
    if isinstance(powers, int):
        return _input_cotangents_at_once(s, found, powers)
    if leads := found.sums.shape[:-3]:
        rows = [input_cotangents(s, found.at(i)) for i in np.ndindex(*leads)]
        return tuple(
            None if c[0] is None else m.stack(c).reshape((*leads, *c[0].shape))
            for c in zip(*rows, strict=True)
        )
    made = products(s, found)
    by_x = None if made.x is None else times_rows(m, made.x, powers)
    initial = times_rows(m, made.initial, found.initial_powers)
    weights = [None if w is None else times_rows(m, w, m.asarray(p)) for w, p in made.by_weights()]
    return (by_x, *initial, *weights, *([None] if s.has_lengths else []))


def _input_cotangents_at_once(
    s: ProductOperands, found: StepCotangents, power: int
) -> tuple[Any, ...]:
    """The cotangents of all inputs where all rows have the same power."""
    made, initial = products(s, found), found.initial
    arrays = [w for w, _ in made.weights if w is not None]
    if power:
        if not all(map(_is_finite, arrays)):
            return input_cotangents(s, found.by_rows())  # perhaps only because the rows were raised
        scale = two_to(found.sums.dtype, power)
        initial = initial * scale  # a copy: the steps before go on from found.initial
        for array in arrays if made.x is None else [made.x, *arrays]:
            array *= scale
    weights = [w for w, _ in made.by_weights()]
    return (made.x, *initial, *weights, *([None] if s.has_lengths else []))


def _is_finite(array: Array) -> bool:
    """Whether all elements are finite; False also where the sum of their squares is not."""
    return math.isfinite(abs(np.vdot(array, array)))


def join_windows(m: Any, windows: list[tuple[Any, ...]], parts: int) -> tuple[Any, ...]:
    """The cotangents of all inputs from those of windows of time, the first window first."""
    if len(windows) == 1:
        return windows[0]
    by_x, *others = zip(*windows, strict=True)
    sums = [None if c[0] is None else sum(c[1:], start=c[0]) for c in others[parts:]]
    initial = [c[0] for c in others[:parts]]
    return (None if by_x[0] is None else m.concatenate(by_x, axis=-3), *initial, *sums)
