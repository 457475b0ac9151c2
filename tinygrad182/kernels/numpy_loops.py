"""The loops over time in the functions of an array library.

:func:`.loops` returns this module for NumPy's arrays where there is no compiled code: without llvmlite, and
for complex numbers and long doubles. It is also the reference that :mod:`.compiled` and :mod:`.cuda` are
tested against. A step is one matrix product, h_{t−1} W_hᵀ forward or ∂L/∂sums · W_h backward, and one
:class:`.replay.Replay` of the cell's listing. Backward first computes the factors, which do not depend on a
cotangent, for many steps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import Array, namespace
from .carry import Carry
from .powers import NOTHING, largest_exponent, powers_of_two, times_rows
from .program import Key, Listing, Program
from .replay import Place, Plan, Replay, writing
from .runs import Run, StepCotangents, Weights, windows

CHUNK = 1 << 16
"""Elements of a part at the steps whose factors are computed at once: they should stay in the cache."""


def in_blocks(array: Array, H: int) -> Array:
    """A view (…, blocks, H) of an array (…, blocks·H)."""
    return array.reshape((*array.shape[:-1], array.shape[-1] // H if H else 0, H))


def places(
    kind: str, count: int, array: str, first: int = 0, of_parts: bool = False
) -> dict[Key, Place]:
    """The places of inputs or outputs of one kind, one after the other."""
    return {(kind, i): Place(array, first + i, of_parts) for i in range(count)}


def of_gates(m: Any, weight: Array, gates: tuple[int, ...], H: int) -> Array:
    """The rows of a weight (gates·H, …) that belong to some gates, in the order of ``gates``."""
    if gates == tuple(range(len(weight) // max(H, 1))):
        return weight
    return m.concatenate([weight[k * H : (k + 1) * H] for k in gates])


def biases(m: Any, program: Program, weights: Weights, H: int) -> tuple[Any, Any]:
    """The bias of the sums that depend on the input, and that of the sums of the state alone; or None.

    In a shared sum b_h is added to b_x.
    """
    bias_ih, bias_hh = weights.bias_ih, weights.bias_hh
    by_x = None if bias_ih is None else of_gates(m, bias_ih, program.x_gates, H)
    if bias_hh is None:
        return by_x, None
    by_h = of_gates(m, bias_hh, program.h_gates, H)
    n = len(program.shared) * H
    shared, alone = by_h[:n], by_h[n:]
    if n:
        shared = m.concatenate([m.zeros(len(alone), by_h.dtype), shared])
        by_x = shared if by_x is None else by_x + shared
    return by_x, alone if program.h_only else None


def with_ones(m: Any, x: Array) -> Array:
    """Rows with a 1 at the end, which multiplies a bias: so the bias needs no pass of its own."""
    wide = m.empty((len(x), x.shape[1] + 1), x.dtype)
    wide[:, :-1] = x
    wide[:, -1] = 1
    return wide


class _Plans(NamedTuple):
    """The plans of a program's listings."""

    forward: Plan
    factors: Plan
    backward: Plan
    backward_with_states: Plan


@cache
def _plans(program: Program, m: Any, real: bool) -> _Plans:
    parts, weights = len(program.parts), program.columns - program.sums
    shared = places("saved", program.saved, "saved") | places("weight", weights, "weight")
    for kind in ("before", "after", "grad", "whole_grad"):
        shared |= places(kind, parts, kind, of_parts=True)
    forward = places("sum", len(program.gates), "z")
    for i in range(len(program.h_only)):
        forward["sum", len(forward)] = Place("product", len(program.shared) + i)
    factors, cotangents = program.split_backward
    backward = places("factor", len(factors.outputs), "factors")
    columns = {key: Place("sums", i) for i, key in enumerate(program.column_keys)}
    plain = {key: r for key, r in cotangents.outputs.items() if key[0] != "whole_grad"}

    def plan(listing: Listing, at: dict[Key, Place]) -> Plan:
        return Plan(listing, shared | at, partial(writing, m, namespace(m.empty(0)), real))

    return _Plans(
        plan(program.forward, forward), plan(factors, backward),
        plan(Listing(plain), backward | columns), plan(cotangents, backward | columns),
    )  # fmt: skip


def _plans_of(run: Run) -> _Plans:
    return _plans(run.program, run.m, run.states.dtype.kind == "f")


def _own_weights(run: Run) -> Array:
    """The cell's further weights, (blocks, H)."""
    return in_blocks(run.m.concatenate(run.weights.others), run.states.shape[-1])


# --- forward --------------------------------------------------------------------------------------


def forward(run: Run, x: Array) -> None:
    """Run over all steps of an input x (T, B, I), and fill ``run.states`` and ``run.saved``."""
    program, m, weights, states = run.program, run.m, run.weights, run.states
    (T, B, inputs), H = x.shape, states.shape[-1]
    bias, bias_of_h = biases(m, program, weights, H)
    weight = of_gates(m, weights.weight_ih, program.x_gates, H)
    if bias is not None:
        weight = m.concatenate([weight, bias[:, None]], axis=1)
    transposed = m.ascontiguousarray(of_gates(m, weights.weight_hh, program.h_gates, H).T)
    rows = x.reshape(T * B, inputs)
    replay = Replay(_plans_of(run).forward, m, states[0, 0])
    if weights.others:
        replay.give("weight", _own_weights(run))
    for span in windows(m, (T, B, program.sums * H)):
        some = rows[span.start * B : span.stop * B]
        some = some if bias is None else with_ones(m, some)
        z = m.matmul(some, weight.T).reshape(len(span), B, len(weight))
        here = slice(span.start, span.stop)
        replay.bind(
            z=in_blocks(z, H),
            saved=in_blocks(run.saved[here], H),
            after=states[:, here].swapaxes(0, 1),
        )
        with np.errstate(over="ignore"):  # e⁻ᶻ of a gate that is shut
            _forward_steps(run, span, z, _Recurrent(transposed, bias_of_h), replay)


class _Recurrent(NamedTuple):
    """What the state before a step is multiplied by, W_hᵀ, and the bias of the sums of the state alone."""

    transposed: Array
    bias: Array | None


def _forward_steps(run: Run, span: range, z: Array, weight: _Recurrent, replay: Replay) -> None:
    """Run over the steps of ``span``, from their projected inputs ``z``, which are overwritten."""
    program, m, states = run.program, run.m, run.states
    H = states.shape[-1]
    product = m.empty(z.shape[1:], z.dtype)
    replay.give("product", in_blocks(product, H))
    n = len(program.shared) * H
    shared_of_x, shared_of_h, alone = z[..., z.shape[-1] - n :], product[:, :n], product[:, n:]
    before = list(states[:, span.start - 1]) if span.start else run.initial
    reads_state = any(kind == "before" for kind, _ in program.forward.inputs)
    for t, shared, *after in zip(
        span, shared_of_x, *states[:, span.start : span.stop], strict=True
    ):
        m.matmul(before[0], weight.transposed, out=product)
        if program.shared:
            m.add(shared, shared_of_h, out=shared)
        if weight.bias is not None:
            m.add(alone, weight.bias, out=alone)
        if reads_state:
            replay.give("before", before)
        replay()
        finished = run.lengths.finished(t)
        if finished is not None:
            for new, old in zip(after, before, strict=True):
                # the state stays as a constant: without the imaginary part of a complex step
                new[...] = m.where(finished[:, None], old.real, new)
        before = after


# --- backward -------------------------------------------------------------------------------------


@np.errstate(over="ignore")  # of cotangents that cannot be raised, or that explode
def backward(
    run: Run,
    g: Array,
    powers: Array | None = None,
    with_states: bool = False,
    span: range | None = None,
    later: StepCotangents | None = None,
    *,
    make_carry: Callable[..., Carry] = Carry,
) -> StepCotangents:
    """Run back over the steps of ``span``, by default all.

    ``g`` has the cotangents that come from the loss itself. It is (parts, *lead, T, B, H), its rows have
    the ``powers`` (*lead, T, B), and ``later`` has the cotangents of the steps after ``span``.
    ``with_states`` asks for the whole cotangents of the states. ``make_carry`` makes the object that holds
    the cotangents on their way.
    """
    program, m = run.program, run.m
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    sums = m.empty((*lead, len(span), B, program.columns * H), g.dtype)
    states = m.empty((parts, *lead, len(span), B, H), g.dtype) if with_states else None
    step_powers: Array | None = None
    here = slice(span.start, span.stop)
    carry = make_carry(g[..., here, :, :], None if powers is None else powers[..., here, :], later)
    step_back = _StepBack(run, carry.value, sums, states)
    chunk = max(1, CHUNK // max(B * H, 1))
    for stop in range(span.stop, span.start, -chunk):
        start = max(span.start, stop - chunk)
        factors = _factors(run, start, stop)
        step_back.bind(factors, slice(start - span.start, stop - span.start))
        for t in range(stop - 1, start - 1, -1):
            i = t - span.start
            carry.add(i)
            if not isinstance(carry.power, int):
                if step_powers is None:
                    step_powers = m.full(sums.shape[:-1], carry.start)
                step_powers[..., i, :] = carry.power
            step_back(i, carry, run.lengths.finished(t))
    powers = carry.power if step_powers is None else step_powers
    return StepCotangents(sums, powers, carry.value, carry.power, states)


class _StepBack:
    """Goes one step back at each call: from the cotangents of a state to those of the state before.

    It fills ``sums`` (*lead, T, B, columns·H) and, if given, ``states`` (parts, *lead, T, B, H).
    """

    def __init__(self, run: Run, value: Array, sums: Array, states: Array | None) -> None:
        self.m = m = run.m
        program, H = run.program, value.shape[-1]
        by_state = slice(len(program.x_only) * H, program.sums * H)
        self.weight = m.ascontiguousarray(of_gates(m, run.weights.weight_hh, program.h_gates, H))
        self.sums = _time_first(m, in_blocks(sums, H), 4)
        self.sums_by_state = _time_first(m, sums[..., by_state], 3)
        self.states = None if states is None else _time_first(m, states, 3)
        plans = _plans_of(run)
        plan = plans.backward if states is None else plans.backward_with_states
        self.replay = Replay(plan, m, value[0])
        outputs = program.split_backward.cotangents.outputs
        self.zero_columns = [i for i, key in enumerate(program.column_keys) if key not in outputs]
        self.zero_parts = [p for p in range(1, len(value)) if ("before", p) not in outputs]
        self.past_sums = ("before", 0) in outputs  # also reaches the state by another way
        self.product = m.empty(value.shape[1:], value.dtype)

    def bind(self, factors: Array, here: slice) -> None:
        """Take the factors (steps, B, count, H) of the steps ``here``."""
        states = {} if self.states is None else {"whole_grad": self.states[here]}
        self.replay.bind(backwards=True, factors=factors, sums=self.sums[here], **states)
        for column in self.zero_columns:
            self.sums[here][..., column, :] = 0

    def __call__(self, i: int, carry: Carry, finished: Array | None) -> None:
        """Go back over step i; ``carry`` then has the cotangents of the state before it."""
        m, value = self.m, carry.value
        # a finished sequence's state stayed as a constant, so no cotangent goes on
        g = value if finished is None else m.where(finished[:, None], 0, value)
        before = m.empty(value.shape, value.dtype)
        self.replay.give("grad", g)
        self.replay.give("before", before)
        self.replay()
        if finished is not None and self.states is not None:
            self.states[i] = m.where(finished[:, None], value, self.states[i])
        for p in self.zero_parts:
            before[p] = 0
        product = self.product if self.past_sums else before[0]
        m.matmul(self.sums_by_state[i], self.weight, out=product)
        if self.past_sums:
            before[0] += product
        carry.value = before


def _time_first(m: Any, array: Array, last: int) -> Array:
    """A view with the time axis first; it is the axis number ``last`` from the end."""
    return array if array.ndim == last else m.moveaxis(array, -last, 0)


def _factors(run: Run, start: int, stop: int) -> Array:
    """The factors of cotangents at steps ``start`` to ``stop``, (steps, B, count, H)."""
    m, states = run.m, run.states
    B, H = states.shape[2:]
    count = len(run.program.split_backward.factors.outputs)
    factors = m.empty((stop - start, B, count, H), states.dtype)
    if not count:
        return factors
    before = [
        part[start - 1 : stop - 1] if start else m.concatenate([h[None], part[: stop - 1]])
        for h, part in zip(run.initial, states, strict=True)
    ]
    replay = Replay(_plans_of(run).factors, m, factors[..., 0, :])
    replay.give("before", before)
    replay.give("after", states[:, start:stop])
    replay.give("saved", in_blocks(run.saved[start:stop], H))
    if run.weights.others:
        replay.give("weight", _own_weights(run))
    replay.give("factors", factors)
    replay()
    return factors


# --- rows of cotangents, for the products over all steps ---------------------------------------------


def exponents(m: Any, rows: Array) -> Array:
    """For each row (R, n) an exponent e with |elements| ≤ 2^e, not much larger than necessary.

    It is :data:`.powers.NOTHING` for a row of zeros, and above :func:`.powers.largest_exponent` for a row
    with an element that is not finite.
    """
    limit, size = largest_exponent(rows.dtype), _sizes(m, m.abs(rows))
    found = m.where(m.isfinite(size), m.minimum(m.frexp(size)[1], limit), limit + 1)
    return m.where(size == 0, NOTHING, found.astype("int64"))


def _sizes(m: Any, rows: Array) -> Array:
    """The sum of each row, which BLAS finds many times as fast as the largest element; or the latter.

    On a device it is the latter: the sum may overflow, and to learn whether it did the host would wait.
    """
    if m is np:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.matmul(rows, np.ones(rows.shape[1], rows.dtype))
        if np.isfinite(total).all():
            return total
    return m.max(rows, axis=-1)


def at_powers(m: Any, rows: Array, exponents: Array, sizes: Array, lift: Array) -> Array:
    """Return rows times 2^(sizes − exponents + lift): each is then about 2^(its size + lift).

    Parameters
    ----------
    rows : array (R, n)
    exponents : int array (R,)
        Those of :func:`exponents`, with 0 for rows of zeros.
    sizes : int array (R,)
        At most 0. A row is set to 0 where 2^size is not a normal number, and an element is where it would
        not be one without ``lift``.
    lift : int array ()
    """
    least = 2 - largest_exponent(rows.dtype) + exponents - sizes
    rows = m.where(m.abs(rows) < powers_of_two(m, least, rows.dtype)[:, None], 0, rows)
    first, second = -exponents, sizes + lift
    if m is not np:
        return times_rows(m, rows, first + second)  # in fewer launches
    if (np.abs(first + second) < largest_exponent(rows.dtype) - 1).all():
        first, second = first + second, None  # one factor for both
    rows *= powers_of_two(m, first, rows.dtype)[:, None]
    if second is not None:
        rows *= powers_of_two(m, second, rows.dtype)[:, None]
    return rows


def crossed(m: Any, a: Array, b: Array) -> Array:
    """Return aᵀ b of rows a (*lead, R, N) and b (R, K): the gradient of a weight from all rows."""
    return m.matmul(m.swapaxes(a, -1, -2), b)
