"""Numbers of unlimited range, and gradients through a recurrence in them beside what they may be off by.

That is the statement at the top of :mod:`tinygrad182.kernels.powers`, and rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support import Array
from tests.tinygrad182.kernels.cases import Case
from tinygrad182.backend import NUMPY
from tinygrad182.primitives.recurrent import run

COUNTS = {"float16": -100, "float32": -100, "float64": -800}
"""What is computed from a row may count as 0 if it is smaller than 2 to this times the row's largest."""

ZERO = -(1 << 50)
"""The exponent of 0."""


class Wide:
    """An array m · 2**e of float64 mantissas, ½ ≤ |m| < 1 or 0, and int64 exponents."""

    __array_ufunc__ = None

    def __init__(self, values: Any, powers: Any = 0) -> None:
        self.m, e = np.frexp(np.asarray(values, np.float64))
        self.e = np.where(self.m == 0, ZERO, e + np.asarray(powers))

    def __mul__(self, other: Any) -> Wide:
        other = wide(other)
        return Wide(self.m * other.m, self.e + other.e)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Wide:
        return total(stack([self, wide(other)]), 0)

    def __sub__(self, other: Wide) -> Wide:
        return self + other * -1.0

    def __abs__(self) -> Wide:
        return Wide(np.abs(self.m), self.e)

    def __getitem__(self, key: Any) -> Wide:
        return Wide(self.m[key], self.e[key])

    def __le__(self, other: Wide) -> Array:
        return (other - self).m >= 0

    def __matmul__(self, other: Any) -> Wide:
        return total(self[..., :, None] * wide(other), -2)

    def top(self) -> Wide:
        """The largest size of each row."""
        e = self.e.max(axis=-1, keepdims=True)
        m = np.where(self.e == e, np.abs(self.m), 0).max(axis=-1, keepdims=True)
        return Wide(m, e)


def wide(x: Any) -> Wide:
    """A number or an array as one of unlimited range."""
    return x if isinstance(x, Wide) else Wide(x)


def total(x: Wide, axis: int) -> Wide:
    """The sum over an axis."""
    top = x.e.max(axis=axis, keepdims=True)
    m = np.ldexp(x.m, np.maximum(x.e - top, -2000)).sum(axis=axis)
    return Wide(m, np.squeeze(top, axis))


def stack(xs: list[Wide]) -> Wide:
    """Arrays along a new first axis."""
    shape = np.broadcast_shapes(*[x.m.shape for x in xs])
    m = np.stack([np.broadcast_to(x.m, shape) for x in xs])
    return Wide(m, np.stack([np.broadcast_to(x.e, shape) for x in xs]))


# --- gradients ------------------------------------------------------------------------------------


@dataclass
class Bounded:
    """Values, and how much what is found for them may differ."""

    value: Wide
    off: Wide
    eps: float

    def __add__(self, other: Bounded) -> Bounded:
        value = self.value + other.value
        return Bounded(value, self.off + other.off + abs(value) * self.eps, self.eps)

    def __matmul__(self, weight: Any) -> Bounded:
        size = abs(wide(weight))
        off = self.off @ size + abs(self.value) @ size * (4 * len(size.m) * self.eps)
        return Bounded(self.value @ weight, off, self.eps)

    def __getitem__(self, key: Any) -> Bounded:
        return Bounded(self.value[key], self.off[key], self.eps)

    def times(self, factor: Array, about: Any = 0) -> Bounded:
        """Times a factor of which one part, ``about``, is rounded before another is taken from it."""
        size = np.abs(factor)
        off = self.off * size + abs(self.value) * ((size + np.abs(about)) * (8 * self.eps))
        return Bounded(self.value * factor, off, self.eps)

    def lost(self, top: Wide, counts: int) -> Bounded:
        """This number, which may be 0 where it is smaller than 2 to ``counts`` times ``top``."""
        return Bounded(self.value, self.off + Wide(top.m, top.e + counts), self.eps)


def joined(terms: list[Bounded], axis: int | None = None) -> Bounded:
    """Along an axis, by default a new first one."""
    value, off = stack([x.value for x in terms]), stack([x.off for x in terms])
    if axis is not None:
        value, off = (
            Wide(np.concatenate(list(x.m), axis), np.concatenate(list(x.e), axis))
            for x in (value, off)
        )
    return Bounded(value, off, terms[0].eps)


class Reference:
    """The gradients of a case by the states and gates that its own forward pass leaves.

    Attributes
    ----------
    states, sums, initial : Bounded
        Those of :class:`.Deltas`.
    inputs : list of Bounded
        By x, the initial state, both weights and the bias.
    """

    def __init__(self, case: Case, powers: Array | None = None) -> None:
        y, saved = run(case.scan, NUMPY, *case.inputs, **case.params)
        self.dtype = case.g.dtype.name
        self.counts = COUNTS[self.dtype]
        self.eps = float(np.finfo("float32" if self.dtype == "float16" else self.dtype).eps)
        parts = len(case.scan.parts)
        y = y.reshape(parts, *y.shape[-3:]).astype(np.float64)
        g = case.g.reshape(y.shape)
        g = Wide(g, 0 if powers is None else powers[..., None])
        operands = case.scan.operands(case.inputs)
        before = [
            np.concatenate([h[None], s[:-1]]) for h, s in zip(operands.initial, y, strict=True)
        ]
        gates, weight = saved.gates.astype(np.float64), operands.weight_hh.astype(np.float64)
        T, B, H = y.shape[1:]
        zero = Bounded(Wide(np.zeros((B, H))), Wide(np.zeros((B, H))), self.eps)
        state, states, sums = [zero] * parts, [], []
        for t in reversed(range(T)):
            here = [Bounded(g[k, t], zero.off, self.eps) for k in range(parts)]
            top = self._top([*state, *here])
            state = [(a + b).lost(top, self.counts) for a, b in zip(state, here, strict=True)]
            over = None if operands.lengths is None else operands.lengths <= t
            top = self._top(state)
            back = self._lstm if parts == 2 else self._vanilla
            state, dz, sent = back(case, state, gates[t], y[:, t], [b[t] for b in before], over)
            states.insert(0, joined(state))
            dz = dz.lost(top, self.counts)
            sums.insert(0, dz)
            state = [x.lost(top, self.counts) for x in (dz @ weight, *sent)]
        self.states, self.sums, self.initial = joined(states), joined(sums), joined(state)
        self.inputs = [*self._by_inputs(operands, before[0], parts)]

    def _top(self, rows: list[Bounded]) -> Wide:
        """The largest size in each row of all parts."""
        every = stack([x.value for x in rows])
        flat = Wide(
            np.moveaxis(every.m, 0, -1).reshape(*every.m.shape[1:-1], -1),
            np.moveaxis(every.e, 0, -1).reshape(*every.e.shape[1:-1], -1),
        )
        return flat.top()

    def _going(self, x: Bounded, over: Any) -> Bounded:
        return (
            x if over is None else Bounded(x.value * ~over[:, None], x.off * ~over[:, None], x.eps)
        )

    def _vanilla(self, case: Case, state: Any, _: Any, y: Any, before: Any, over: Any) -> Any:
        (dh,), (h,) = state, y
        kind = case.params["nonlinearity"]
        factor = {"tanh": 1 - h * h, "relu": h > 0, "identity": np.ones_like(h)}[kind]
        return [dh], self._going(dh, over).times(factor * 1.0, float(kind == "tanh")), []

    def _lstm(self, case: Case, state: Any, gates: Any, y: Any, before: Any, over: Any) -> Any:
        dh, dc = state
        i, f, g, o = np.split(gates, 4, axis=-1)
        tanh_c = np.tanh(y[1])
        going = self._going(dh, over)
        dc = dc + going.times(o * (1 - tanh_c**2), o)
        by_c = self._going(dc, over)
        dz = [
            by_c.times(g * i * (1 - i), g * i),
            by_c.times(before[1] * f * (1 - f), before[1] * f),
            by_c.times(i * (1 - g * g), i),
            going.times(tanh_c * o * (1 - o), tanh_c * o),
        ]
        return [dh, dc], joined(dz, axis=-1), [by_c.times(f)]

    def _by_inputs(self, operands: Any, before: Any, parts: int) -> Any:
        states = self._top([self.states[:, k] for k in range(parts)])
        yield (self.sums @ operands.weight_ih).lost(states, self.counts)
        for k in range(parts):
            yield self.initial[k]
        value, off = (
            Wide(x.m.reshape(-1, x.m.shape[-1]).T, x.e.reshape(-1, x.e.shape[-1]).T)
            for x in (self.sums.value, self.sums.off)
        )
        top = Wide(states.m.reshape(1, -1), states.e.reshape(1, -1)).top()
        rows = Bounded(value, off, self.eps).lost(top, self.counts)
        ones = np.ones((value.m.shape[1], 1))
        for a in (operands.x, before, ones):
            yield rows @ a.reshape(len(ones), -1)

    def check(self, found: Any) -> None:
        """Compare with the insides of a pass."""
        found = found.by_rows()
        agree(Wide(found.sums, found.powers[..., None]), self.sums, "sums")
        states = Wide(np.moveaxis(found.states, 0, 1), found.powers[:, None, :, None])
        agree(states, self.states, "states")
        agree(Wide(found.initial, found.initial_powers[..., None]), self.initial, "initial")

    def check_inputs(self, found: list[Array]) -> None:
        """Compare with gradients in the model's type."""
        info = np.finfo(self.dtype)
        for i, (mine, true) in enumerate(zip(found, self.inputs, strict=False)):
            mine = mine.reshape(true.value.m.shape).astype(self.dtype)
            true.off = true.off + abs(true.value) * float(info.eps) + float(info.smallest_subnormal)
            endless = ~np.isfinite(mine)  # NaN: terms of both signs overflow
            most = Wide(np.where(endless, 1 - 2 * float(info.eps), 0), info.maxexp)
            terms = true.off * np.where(np.isnan(mine), 1 / float(info.eps), 1)
            assert (most <= abs(true.value) + terms).all(), f"input {i} overflows"
            true.off = true.off + Wide(np.where(endless, 0.5, 0), 1 << 40)
            agree(Wide(np.where(endless, 0, mine)), true, f"input {i}")


def agree(found: Wide, true: Bounded, what: str) -> None:
    """Raise where what was found differs by more than it may."""
    fits = abs(found - true.value) <= true.off
    assert fits.all(), f"{what} at {np.argwhere(~fits)[:5].tolist()}"
