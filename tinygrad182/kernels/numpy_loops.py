"""The loops over time in NumPy's functions: a cell's instructions on arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, namespace
from .powers import (
    NOTHING,
    Carry,
    largest_exponent,
    power_of_two,
    times_rows,
)
from .program import Key, Listing, Program, Run, Weights
from .replay import Place, Plan, Replay, writing

CHUNK = 1 << 16
"""Elements of a part at the steps whose factors are computed at once: they should stay in the cache."""


class Deltas(NamedTuple):
    """What backward found, each row beside the power of two it is to be multiplied by.

    Attributes
    ----------
    sums : array (*lead, T, B, columns·H)
        Cotangents of the sums, in the program's order, and behind them what the step sends to further
        weights.
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

    def after(self, start: int) -> Ends:
        """Those of the steps from ``start`` on."""
        if self.lengths is None or not start:
            return self
        return Ends(self.lengths - start, self.shortest - start)


WINDOW = 1 << 20
"""Sums that are worked on at once, about."""

ROWS = 1 << 12
"""Steps times sequences for which at least they are, so that adding up products of windows costs little, as
does changing between BLAS and threads of one's own: those of BLAS look for work for a while."""


def windows(m: Any, shape: tuple[int, ...]) -> list[range]:
    """Spans of time whose sums stay in a processor's cache until they have been used; a device's: one.

    ``shape`` is that of the sums, (T, B, columns·H).
    """
    T, B, N = shape
    if m is not np or T * B <= ROWS:
        return [range(T)]
    return evenly(T, max(1, ROWS // B, WINDOW // (B * N)))


DEVICE = 1 << 24
"""Sums that a device works on at once where nothing is kept: so many that a window costs nothing beside."""


def forward_windows(m: Any, shape: tuple[int, ...]) -> list[range]:
    """Spans of time whose sums nobody needs afterwards: as :func:`windows`, and on a device as well."""
    T, B, N = shape
    return windows(m, shape) if m is np else evenly(T, DEVICE // max(B * N, 1))


def evenly(T: int, length: int) -> list[range]:
    """Spans of about the same length, at most ``length``, or 1."""
    count = -(-T // max(length, 1))
    return [range(T * i // count, T * (i + 1) // count) for i in range(count)]


ALL = Ends(None, 1 << 62)
"""All sequences have all steps."""


def in_blocks(array: Array, H: int) -> Array:
    """A view (…, blocks, H) of an array (…, blocks·H)."""
    return array.reshape((*array.shape[:-1], array.shape[-1] // H if H else 0, H))


def places(
    kind: str, count: int, array: str, first: int = 0, of_parts: bool = False
) -> dict[Key, Place]:
    """Where inputs or outputs of one kind stand: one after the other."""
    return {(kind, i): Place(array, first + i, of_parts) for i in range(count)}


def of_gates(m: Any, weight: Array, gates: tuple[int, ...], H: int) -> Array:
    """The rows of a weight (gates·H, …) that belong to some gates, in their order."""
    if gates == tuple(range(len(weight) // max(H, 1))):
        return weight
    return m.concatenate([weight[k * H : (k + 1) * H] for k in gates])


def biases(m: Any, program: Program, weights: Weights, H: int) -> tuple[Any, Any]:
    """What is added to the sums of the input, (gates·H,), and to those of the state alone; or None."""
    of_x, of_h = weights.bias_ih, weights.bias_hh
    by_x = None if of_x is None else of_gates(m, of_x, program.x_gates, H)
    if of_h is None:
        return by_x, None
    by_h = of_gates(m, of_h, program.h_gates, H)
    n = len(program.shared) * H
    shared, alone = by_h[:n], by_h[n:]
    if n:
        before = m.zeros(len(alone), by_h.dtype)
        both = m.concatenate([before, shared])
        by_x = both if by_x is None else by_x + both
    return by_x, alone if program.h_only else None


# --- forward --------------------------------------------------------------------------------------


def forward(run: Run, x: Array) -> None:
    """Run over all steps of an input x (T, B, I)."""
    program, m, weights, _, saved, states, _ = run
    (T, B, inputs), H = x.shape, states.shape[-1]
    by_x, by_h = biases(m, program, weights, H)
    weight = of_gates(m, weights.weight_ih, program.x_gates, H)
    if by_x is not None:
        weight = m.concatenate([weight, by_x[:, None]], axis=1)
    across = m.ascontiguousarray(of_gates(m, weights.weight_hh, program.h_gates, H).T)
    rows = x.reshape(T * B, inputs)
    replay = _replay_forward(program, m, states, weights)
    for span in windows(m, (T, B, program.sums * H)):
        some = rows[span.start * B : span.stop * B]
        some = some if by_x is None else with_ones(m, some)
        z = m.matmul(some, weight.T).reshape(len(span), B, len(weight))
        here = slice(span.start, span.stop)
        replay.bind(
            z=in_blocks(z, H),
            saved=in_blocks(saved[here], H),
            after=states[:, here].swapaxes(0, 1),
        )
        with np.errstate(over="ignore"):  # e⁻ᶻ of a gate that is shut
            _forward(run, z, (across, by_h), span, replay)


def _replay_forward(program: Program, m: Any, states: Array, weights: Weights) -> Replay:
    replay = Replay(_plan_forward(program, m, states.dtype.kind == "f"), m, states[0, 0])
    if weights.others:
        replay.give("weight", in_blocks(m.concatenate(weights.others), states.shape[-1]))
    return replay


@cache
def _plan_forward(program: Program, m: Any, real: bool) -> Plan:
    parts, G = len(program.parts), len(program.gates)
    at = places("sum", G, "z") | places("saved", program.saved, "saved")
    for i in range(len(program.h_only)):
        at["sum", G + i] = Place("product", len(program.shared) + i)
    at |= places("before", parts, "before", of_parts=True)
    at |= places("after", parts, "after", of_parts=True)
    at |= places("weight", program.columns - program.sums, "weight")
    return Plan(program.forward, at, partial(writing, m, namespace(m.empty(0)), real))


def _forward(run: Run, z: Array, weights: tuple[Array, Any], span: range, replay: Replay) -> None:
    """Run over some steps, from their projected inputs, which are written over."""
    program, m, _, initial, _, states, ends = run
    across, by_h = weights
    H = states.shape[-1]
    product = m.empty(z.shape[1:], z.dtype)
    replay.give("product", in_blocks(product, H))
    of_x, of_h = z[..., len(program.x_only) * H :], product[:, : len(program.shared) * H]
    alone = product[:, len(program.shared) * H :]
    before = list(states[:, span.start - 1]) if span.start else initial
    reads = any(kind == "before" for kind, _ in program.forward.inputs)
    for t, here, *after in zip(span, of_x, *states[:, span.start : span.stop], strict=True):
        m.matmul(before[0], across, out=product)
        if program.shared:
            m.add(here, of_h, out=here)
        if by_h is not None:
            m.add(alone, by_h, out=alone)
        if reads:
            replay.give("before", before)
        replay()
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


# --- backward -------------------------------------------------------------------------------------


@np.errstate(over="ignore")  # of cotangents that cannot be raised, or that explode
def backward(
    run: Run,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
    *,
    kind: Callable[..., Carry] = Carry,
) -> Deltas:
    """Run back over time.

    Parameters
    ----------
    run : Run
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
    kind : callable
        Makes what holds the cotangents on their way.
    """
    program, m, weights, _, _, _, ends = run
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    sums = m.empty((*lead, len(span), B, program.columns * H), g.dtype)
    kept = m.empty((parts, *lead, len(span), B, H), g.dtype) if keep else None
    every: Array | None = None
    here = slice(span.start, span.stop)
    carry = kind(g[..., here, :, :], None if powers is None else powers[..., here, :], later)
    back = _Back(program, m, weights, carry.value, sums, kept)
    step = max(1, CHUNK // max(B * H, 1))
    for stop in range(span.stop, span.start, -step):
        start = max(span.start, stop - step)
        factors = _factors(run, start, stop)
        back.bind(factors, slice(start - span.start, stop - span.start))
        for t in range(stop - 1, start - 1, -1):
            i = t - span.start
            carry.add(i)
            if not isinstance(carry.power, int):
                every = m.full(sums.shape[:-1], carry.start) if every is None else every
                every[..., i, :] = carry.power
            back(i, carry, ends.over(t))
    powers = carry.power if every is None else every
    return Deltas(sums, powers, carry.value, carry.power, kept)


class _Back:
    """Steps back, one after the other.

    Parameters
    ----------
    program, m, weights
        As for :func:`backward`.
    value : array (parts, *lead, B, H)
        Cotangents of a state.
    sums, kept
        Where those of the sums are written, and, if they are wanted, those of the states.
    """

    def __init__(
        self, program: Program, m: Any, weights: Weights, value: Array, sums: Array, kept: Any
    ) -> None:
        self.program, self.m = program, m
        H = value.shape[-1]
        self.weight = m.ascontiguousarray(of_gates(m, weights.weight_hh, program.h_gates, H))
        self.by_state = slice(len(program.x_only) * H, program.sums * H)
        self.sums = _time_first(m, in_blocks(sums, H), 4)
        self.of_state = _time_first(m, sums[..., self.by_state], 3)
        self.kept = None if kept is None else _time_first(m, kept, 3)
        plan = _plan_back(program, m, value.dtype.kind == "f", kept is not None)
        self.replay = Replay(plan, m, value[0])
        found = program.back[1].outputs
        columns = [("sum", s) for s in range(program.sums)]
        columns += [("weight", j) for j in range(program.columns - program.sums)]
        self.unused = [i for i, key in enumerate(columns) if key not in found]
        self.ends = [p for p in range(1, len(value)) if ("before", p) not in found]
        self.past_sums = ("before", 0) in found
        self.product = m.empty(value.shape[1:], value.dtype)

    def bind(self, factors: Array, here: slice) -> None:
        """Take the factors (steps, B, count, H) of some steps, and write to where their results stand."""
        kept = {} if self.kept is None else {"kept": self.kept[here]}
        self.replay.bind(backwards=True, factors=factors, sums=self.sums[here], **kept)
        for column in self.unused:
            self.sums[here][..., column, :] = 0

    def __call__(self, i: int, carry: Carry, over: Array | None) -> None:
        """Go from the cotangents of a state to those of its sums, and of the state before it."""
        m, value = self.m, carry.value
        # where a sequence is over the state stayed as it was, as a constant
        given = value if over is None else m.where(over[:, None], 0, value)
        before = m.empty(value.shape, value.dtype)
        self.replay.give("grad", given)
        self.replay.give("before", before)
        self.replay()
        if over is not None and self.kept is not None:
            self.kept[i] = m.where(over[:, None], value, self.kept[i])
        for p in self.ends:
            before[p] = 0
        product = self.product if self.past_sums else before[0]
        m.matmul(self.of_state[i], self.weight, out=product)
        if self.past_sums:
            before[0] += product
        carry.value = before


def _time_first(m: Any, array: Array, last: int) -> Array:
    """A view whose first axis is time, which is one of the last."""
    return array if array.ndim == last else m.moveaxis(array, -last, 0)


@cache
def _plan_back(program: Program, m: Any, real: bool, keep: bool) -> Plan:
    factors, moving = program.back
    if not keep:
        outputs = moving.outputs.items()
        moving = Listing({key: r for key, r in outputs if key[0] != "kept"})
    parts = len(program.parts)
    at = places("sum", program.sums, "sums") | places("factor", len(factors.outputs), "factors")
    at |= places("weight", program.columns - program.sums, "sums", program.sums)
    for kind in ("grad", "kept", "before"):
        at |= places(kind, parts, kind, of_parts=True)
    return Plan(moving, at, partial(writing, m, namespace(m.empty(0)), real))


def _factors(run: Run, start: int, stop: int) -> Array:
    """What cotangents are multiplied by at steps ``start`` to ``stop``, (steps, B, count, H)."""
    program, m, weights, initial, saved, states, _ = run
    B, H = states.shape[2:]
    before = [
        part[start - 1 : stop - 1] if start else m.concatenate([h[None], part[: stop - 1]])
        for h, part in zip(initial, states, strict=True)
    ]
    factors = m.empty((stop - start, B, len(program.back[0].outputs), H), states.dtype)
    plan = _plan_factors(program, m, states.dtype.kind == "f")
    if not program.back[0].outputs:
        return factors
    replay = Replay(plan, m, factors[..., 0, :])
    replay.give("before", before)
    replay.give("after", states[:, start:stop])
    replay.give("saved", in_blocks(saved[start:stop], H))
    if weights.others:
        replay.give("weight", in_blocks(m.concatenate(weights.others), H))
    replay.give("factors", factors)
    replay()
    return factors


@cache
def _plan_factors(program: Program, m: Any, real: bool) -> Plan:
    factors, parts = program.back[0], len(program.parts)
    at = places("factor", len(factors.outputs), "factors") | places("saved", program.saved, "saved")
    at |= places("weight", program.columns - program.sums, "weight")
    for kind in ("before", "after"):
        at |= places(kind, parts, kind, of_parts=True)
    return Plan(factors, at, partial(writing, m, namespace(m.empty(0)), real))


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


def crossed(m: Any, a: Array, b: Array) -> Array:
    """aᵀ b, of rows a (*lead, R, N) and b (R, K): what a weight gets from all rows."""
    return m.matmul(m.swapaxes(a, -1, -2), b)
