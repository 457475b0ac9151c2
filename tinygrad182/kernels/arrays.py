"""The loops over time in NumPy's functions, which CuPy has too: a cell's instructions on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, namespace
from .powers import (
    NOTHING,
    Carry,
    Normalized,
    Rescaled,
    largest_exponent,
    power_of_two,
    times_rows,
)
from .program import MASKS, Key, Listing, Program, Weights, evaluate

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
    length = max(1, ROWS // B, WINDOW // (B * N))
    count = -(-T // length)
    return [range(T * i // count, T * (i + 1) // count) for i in range(count)]


ALL = Ends(None, 1 << 62)
"""All sequences have all steps."""


# --- instructions on arrays -----------------------------------------------------------------------


class Replay:
    """A listing's instructions on arrays, step after step, in memory that is used again.

    Parameters
    ----------
    m : module
    listing : Listing
    like : array
        Of the shape and type that every result has.
    """

    def __init__(self, m: Any, listing: Listing, like: Array) -> None:
        numbers: dict[Any, int] = {}
        self._values: list[Any] = []
        self._inputs: list[tuple[int, Key]] = []
        self._calls: list[tuple[Callable[..., Any], tuple[int, ...], int]] = []
        for r in listing.instructions:
            if r.op == "input":
                self._inputs.append((len(self._values), r.args))  # type: ignore[arg-type]
            else:
                for a in r.args:
                    if isinstance(a, float):
                        numbers[a] = len(self._values)
                        self._values.append(a)
                args = tuple(numbers[a] for a in r.args)
                self._calls.append((_function(m, r.op, like), args, len(self._values)))
            numbers[r] = len(self._values)
            self._values.append(None)
        self._written: dict[int, Key] = {}
        self._copied: list[tuple[Key, int]] = []
        inputs = {i for i, _ in self._inputs}
        for key, r in listing.outputs.items():
            if isinstance(r, float):
                numbers[r] = len(self._values)
                self._values.append(r)
            if isinstance(r, float) or numbers[r] in inputs or numbers[r] in self._written:
                self._copied.append((key, numbers[r]))
            else:
                self._written[numbers[r]] = key
        for r in listing.instructions:
            if r.op != "input" and numbers[r] not in self._written:
                kind = "bool" if r.op in MASKS else like.dtype
                self._values[numbers[r]] = m.empty(like.shape, kind)

    def __call__(self, given: Mapping[Key, Array], outputs: Mapping[Key, Array]) -> None:
        """Compute ``outputs``, which are written over, from what is given."""
        values = self._values
        for i, key in self._inputs:
            values[i] = given[key]
        for i, key in self._written.items():
            values[i] = outputs[key]
        for function, args, out in self._calls:
            function(*[values[i] for i in args], out=values[out])
        for key, i in self._copied:
            outputs[key][...] = values[i]


def _function(m: Any, op: str, like: Array) -> Callable[..., Any]:
    """An operation that writes its result into the memory that it is given."""
    if op in UFUNCS:
        return getattr(m, op)  # type: ignore[no-any-return]
    if op in OF_REAL and like.dtype.kind == "f":
        return partial(OF_REAL[op], m)
    xp = namespace(like)

    def function(*operands: Any, out: Array) -> None:
        out[...] = evaluate(xp, op, *operands)

    return function


UFUNCS = ("add", "subtract", "multiply", "divide", "negative", "tanh", "exp", "sqrt")
"""Operations that the libraries have in that form."""


def _sigmoid(m: Any, z: Array, out: Array) -> None:
    """1 / (1 + e⁻ᶻ) is accurate on both tails."""
    m.negative(z, out=out)
    m.exp(out, out=out)
    m.add(out, 1, out=out)
    m.divide(1, out, out=out)


def _relu(m: Any, z: Array, out: Array) -> None:
    m.maximum(z, 0, out=out)


OF_REAL = {"sigmoid": _sigmoid, "relu": _relu}
"""And those that are made of several, for real numbers."""


def blocks(array: Array, H: int, start: int = 0) -> list[Array]:
    """Views (…, H) of an array (…, blocks·H), from a block on."""
    return [array[..., k : k + H] for k in range(start * H, array.shape[-1], H)]


def keyed(kind: str, arrays: Any) -> dict[Key, Array]:
    """Arrays by the keys of a listing."""
    return {(kind, i): a for i, a in enumerate(arrays)}


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


def forward(
    program: Program,
    m: Any,
    x: Array,
    initial: list[Array],
    weights: Weights,
    saved: Array,
    states: Array,
    ends: Ends,
) -> None:
    """Run over all steps.

    Parameters
    ----------
    program : Program
    m : module
    x : array (T, B, I)
    initial : list of array (B, H)
    weights : Weights
    saved : array (T, B, slots·H)
        Where is written what backward needs.
    states : array (parts, T, B, H)
        Where the states are written.
    ends : Ends
    """
    (T, B, inputs), H = x.shape, states.shape[-1]
    by_x, by_h = biases(m, program, weights, H)
    weight = of_gates(m, weights.weight_ih, program.x_gates, H)
    if by_x is not None:
        weight = m.concatenate([weight, by_x[:, None]], axis=1)
    across = m.ascontiguousarray(of_gates(m, weights.weight_hh, program.h_gates, H).T)
    rows = x.reshape(T * B, inputs)
    replay = Replay(m, program.forward, states[0, 0])
    for span in windows(m, (T, B, program.sums * H)):
        some = rows[span.start * B : span.stop * B]
        some = some if by_x is None else with_ones(m, some)
        z = m.matmul(some, weight.T).reshape(len(span), B, len(weight))
        with np.errstate(over="ignore"):  # e⁻ᶻ of a gate that is shut
            _forward(
                program,
                m,
                z,
                initial,
                (across, by_h, weights.others),
                saved,
                states,
                ends,
                span,
                replay,
            )


def _forward(
    program: Program, m: Any, z: Array, initial: list[Array], weights: tuple[Array, Any, Any],
    saved: Array, states: Array, ends: Ends, span: range, replay: Replay,
) -> None:  # fmt: skip
    """Run over some steps, from their projected inputs, which are written over."""
    across, by_h, others = weights
    H, n = states.shape[-1], len(program.x_only)
    shared, first = len(program.shared) * H, n * H
    product = m.empty(z.shape[1:], z.dtype)
    fixed = keyed("weight", [w for other in others for w in blocks(other, H)])
    before = list(states[:, span.start - 1]) if span.start else initial
    for t in span:
        here = z[t - span.start]
        m.matmul(before[0], across, out=product)
        if shared:
            m.add(here[:, first:], product[:, :shared], out=here[:, first:])
        if by_h is not None:
            m.add(product[:, shared:], by_h, out=product[:, shared:])
        after = list(states[:, t])
        sums = blocks(here, H) + blocks(product, H, len(program.shared))
        given = keyed("sum", sums) | keyed("before", before) | fixed
        replay(given, keyed("after", after) | keyed("saved", blocks(saved[t], H)))
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
    program: Program,
    m: Any,
    saved: Array,
    initial: list[Array],
    weights: Weights,
    states: Array,
    ends: Ends,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
    *,
    on_device: type[Carry] = Normalized,
    kind: Callable[..., Carry] | None = None,
) -> Deltas:
    """Run back over time.

    Parameters
    ----------
    program, m, initial, weights, states, ends
        As for :func:`forward`.
    saved : array (T, B, slots·H)
        What forward left there.
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
    kind : callable, optional
        Makes what holds the cotangents on their way, in the place of one of :mod:`.powers`.
    """
    parts, *lead, T, B, H = g.shape
    span = range(T) if span is None else span
    sums = m.empty((*lead, len(span), B, program.columns * H), g.dtype)
    kept = m.empty((parts, *lead, len(span), B, H), g.dtype) if keep else None
    every: Array | None = None
    looking = keep or powers is not None
    kind = kind or (Rescaled if m is np else on_device if looking else Carry)
    here = slice(span.start, span.stop)
    carry = kind(m, g[..., here, :, :], None if powers is None else powers[..., here, :], later)
    back = _Back(program, m, weights, carry.value, keep)
    step = max(1, CHUNK // max(B * H, 1))
    for stop in range(span.stop, span.start, -step):
        start = max(span.start, stop - step)
        factors = _factors(program, m, saved, initial, weights, states, start, stop)
        for t in range(stop - 1, start - 1, -1):
            i = t - span.start
            carry.add(i)
            if not isinstance(carry.power, int):
                every = m.full(sums.shape[:-1], carry.start) if every is None else every
                every[..., i, :] = carry.power
            here_kept = None if kept is None else kept[..., i, :, :]
            some = {
                key: factor[t - start] if timed else factor
                for key, (factor, timed) in factors.items()
            }
            back(some, carry, sums[..., i, :, :], ends.over(t), here_kept)
    powers = carry.power if every is None else every
    return Deltas(sums, powers, carry.value, carry.power, kept)


class _Back:
    """One step back."""

    def __init__(
        self, program: Program, m: Any, weights: Weights, value: Array, keep: bool
    ) -> None:
        self.program, self.m = program, m
        H = value.shape[-1]
        self.weight = m.ascontiguousarray(of_gates(m, weights.weight_hh, program.h_gates, H))
        self.by_state = slice(len(program.x_only) * H, program.sums * H)
        found = program.back[1].outputs
        self.replay = Replay(
            m, Listing({key: r for key, r in found.items() if keep or key[0] != "kept"}), value[0]
        )
        columns = [("sum", s) for s in range(program.sums)]
        columns += [("weight", j) for j in range(program.columns - program.sums)]
        self.columns = columns
        before = [("before", p) for p in range(1, len(value))]
        self.nothing = [key for key in columns + before if key not in found]
        self.past_sums = ("before", 0) in found
        self.product = m.empty(value.shape[1:], value.dtype)

    def __call__(
        self, factors: dict[Key, Array], carry: Carry, sums: Array, over: Array | None, kept: Any
    ) -> None:
        """Go from the cotangents of a state to those of its sums, and of the state before it."""
        m, value = self.m, carry.value
        given = (
            value if over is None else m.where(over[:, None], 0, value)
        )  # it stayed, as a constant
        before = m.empty(value.shape, value.dtype)
        outputs = keyed("before", before)
        outputs |= zip(self.columns, blocks(sums, value.shape[-1]), strict=True)
        for key in self.nothing:
            outputs[key][...] = 0
        if kept is not None:
            outputs |= keyed("kept", kept)
        self.replay(factors | keyed("grad", given), outputs)
        if over is not None and kept is not None:
            kept[...] = m.where(over[:, None], value, kept)
        product = self.product if self.past_sums else before[0]
        m.matmul(sums[..., self.by_state], self.weight, out=product)
        if self.past_sums:
            before[0] += product
        carry.value = before


def _factors(
    program: Program, m: Any, saved: Array, initial: list[Array], weights: Weights, states: Array,
    start: int, stop: int,
) -> dict[Key, tuple[Array, bool]]:  # fmt: skip
    """What cotangents are multiplied by at steps ``start`` to ``stop``, and whether it has a time axis."""
    H = states.shape[-1]
    before = [
        part[start - 1 : stop - 1] if start else m.concatenate([h[None], part[: stop - 1]])
        for h, part in zip(initial, states, strict=True)
    ]
    given = keyed("before", before) | keyed("after", [part[start:stop] for part in states])
    given |= keyed("saved", blocks(saved[start:stop], H))
    given |= keyed("weight", [w for other in weights.others for w in blocks(other, H)])
    found = program.back[0].run(given, namespace(states))
    return {key: (factor, factor.ndim > 1) for key, factor in found.items()}


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
