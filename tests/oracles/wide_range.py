"""Numbers of unlimited range, and a recurrence's gradients in them with bounds of their errors.

That is the statement at the top of :mod:`tinygrad182.kernels.powers`, and rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support import Array
from tests.tinygrad182.kernels.cases import Case
from tinygrad182.kernels.program import Key

COUNTS = {"float16": -100, "float32": -100, "float64": -800}
"""A value computed from a row may count as 0 below 2 to this times the row's largest element."""

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
    """A number or array as a :class:`Wide`."""
    return x if isinstance(x, Wide) else Wide(x)


def total(x: Wide, axis: int) -> Wide:
    """The sum over an axis."""
    top = x.e.max(axis=axis, keepdims=True)
    m = np.ldexp(x.m, np.maximum(x.e - top, -2000)).sum(axis=axis)
    return Wide(m, np.squeeze(top, axis))


def stack(xs: list[Wide]) -> Wide:
    """Stack arrays along a new first axis."""
    shape = np.broadcast_shapes(*[x.m.shape for x in xs])
    m = np.stack([np.broadcast_to(x.m, shape) for x in xs])
    return Wide(m, np.stack([np.broadcast_to(x.e, shape) for x in xs]))


def blocks(array: Array, H: int) -> list[Array]:
    """Views (…, H) of an array (…, blocks·H)."""
    return [array[..., k : k + H] for k in range(0, array.shape[-1], H)]


def keyed(kind: str, arrays: Any) -> dict[Key, Any]:
    """The arrays under the keys of a listing."""
    return {(kind, i): a for i, a in enumerate(arrays)}


# --- gradients ------------------------------------------------------------------------------------


@dataclass
class Bounded:
    """Values, and how far a result may be from them."""

    value: Wide
    off: Wide
    eps: float

    def __add__(self, other: Bounded) -> Bounded:
        return self._rounded(self.value + other.value, self.off + other.off)

    def __mul__(self, other: Bounded) -> Bounded:
        off = abs(self.value) * other.off + (abs(other.value) + other.off) * self.off
        return self._rounded(self.value * other.value, off)

    def __matmul__(self, weight: Any) -> Bounded:
        size = abs(wide(weight))
        off = self.off @ size + abs(self.value) @ size * (4 * len(size.m) * self.eps)
        return Bounded(self.value @ weight, off, self.eps)

    def __getitem__(self, key: Any) -> Bounded:
        return Bounded(self.value[key], self.off[key], self.eps)

    def _rounded(self, value: Wide, off: Wide) -> Bounded:
        return Bounded(value, off + abs(value) * (4 * self.eps), self.eps)

    def where(self, condition: Array) -> Bounded:
        """These values, or 0 where the condition does not hold."""
        return Bounded(self.value * (condition * 1.0), self.off * (condition * 1.0), self.eps)

    def lost(self, top: Wide, counts: int) -> Bounded:
        """These values, with bounds that let them count as 0 below 2 to ``counts`` times ``top``."""
        return Bounded(self.value, self.off + Wide(top.m, top.e + counts), self.eps)


class Functions:
    """The operations of a step's backward listing on :class:`Bounded` numbers."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def exact(self, x: Any) -> Bounded:
        """A number without an error."""
        if isinstance(x, Bounded):
            return x
        return Bounded(wide(x), Wide(np.zeros(np.shape(x))), self.eps)

    def add(self, a: Any, b: Any) -> Bounded:
        return self.exact(a) + self.exact(b)

    def multiply(self, a: Any, b: Any) -> Bounded:
        return self.exact(a) * self.exact(b)

    def negative(self, x: Bounded) -> Bounded:
        return Bounded(x.value * -1.0, x.off, self.eps)

    def subtract(self, a: Any, b: Any) -> Bounded:
        return self.add(a, self.negative(self.exact(b)))

    def tanh(self, x: Bounded) -> Bounded:
        assert not x.off.m.any()
        found = self.exact(np.tanh(np.ldexp(x.value.m, x.value.e.clip(-2000, 2000))))
        return found * self.exact(1.0)

    def less_equal(self, a: Any, b: Any) -> Array:
        return self.exact(a).value <= self.exact(b).value

    def where(self, condition: Array, a: Any, b: Any) -> Bounded:
        return self.exact(a).where(condition) + self.exact(b).where(~condition)


def joined(terms: list[Bounded], axis: int | None = None) -> Bounded:
    """Join along an axis, by default a new first one."""
    value, off = stack([x.value for x in terms]), stack([x.off for x in terms])
    if axis is not None:
        value, off = (
            Wide(np.concatenate(list(x.m), axis), np.concatenate(list(x.e), axis))
            for x in (value, off)
        )
    return Bounded(value, off, terms[0].eps)


class Reference:
    """The gradients of a case, from the states and saved values of its own forward pass.

    Attributes
    ----------
    states, sums, initial : Bounded
        Those of :class:`.StepCotangents`.
    inputs : list of Bounded
        By x, the initial state, both weights, the biases that there are and further weights.
    """

    def __init__(self, case: Case, powers: Array | None = None) -> None:
        y, saved = case.run()
        self.dtype = case.g.dtype.name
        self.counts = COUNTS[self.dtype]
        self.eps = float(np.finfo("float32" if self.dtype == "float16" else self.dtype).eps)
        self.functions = Functions(self.eps)
        self.program = case.program
        parts, G = len(case.scan.parts), len(case.scan.gates)
        y = y.reshape(parts, *y.shape[-3:]).astype(np.float64)
        g = case.g.reshape(y.shape)
        g = Wide(g, 0 if powers is None else powers[..., None])
        operands = case.operands
        T, B, H = y.shape[1:]
        before = [
            np.concatenate([h[None], s[:-1]]) for h, s in zip(operands.initial, y, strict=True)
        ]
        weight = operands.weight_hh.astype(np.float64)
        p, first = self.program, self.program.sums - G
        self.of_x = self._columns([p.x_gates.index(k) for k in range(G)], H)
        self.of_h = self._columns([first + p.h_gates.index(k) for k in range(G)], H)
        self.of_others = slice(p.sums * H, None)
        fixed = keyed("weight", [w for other in operands.others for w in blocks(other, H)])
        zero = self.functions.exact(np.zeros((B, H)))
        state, states, sums = [zero] * parts, [], []
        for t in reversed(range(T)):
            here = [Bounded(g[k, t], zero.off, self.eps) for k in range(parts)]
            top = self._top([*state, *here])
            state = [(a + b).lost(top, self.counts) for a, b in zip(state, here, strict=True)]
            over = None if operands.lengths is None else operands.lengths <= t
            top = self._top(state)
            given = keyed("before", [b[t] for b in before]) | keyed("after", y[:, t]) | fixed
            given |= keyed("saved", blocks(saved.values[t].astype(np.float64), H))
            found = self._back(given, [self._going(x, over) for x in state])
            kept = [found["whole_grad", k] for k in range(parts)]
            if over is not None:  # it stayed, as a constant
                kept = [
                    a.where(~over[:, None]) + b.where(over[:, None])
                    for a, b in zip(kept, state, strict=True)
                ]
            states.insert(0, joined(kept))
            columns = [found.get(("sum", k), zero) for k in range(p.sums)]
            columns += [found.get(("weight", k), zero) for k in range(p.columns - p.sums)]
            dz = joined(columns, axis=-1).lost(top, self.counts)
            sums.insert(0, dz)
            state = [found.get(("before", k), zero) for k in range(parts)]
            state[0] += dz[..., self.of_h] @ weight
            state = [x.lost(top, self.counts) for x in state]
        self.states, self.sums, self.initial = joined(states), joined(sums), joined(state)
        self.inputs = [*self._by_inputs(operands, before[0], parts)]

    def _columns(self, places: list[int], H: int) -> Array:
        return np.concatenate([np.arange(k * H, (k + 1) * H) for k in places])

    def _back(self, given: dict[Key, Array], state: list[Bounded]) -> dict[Key, Bounded]:
        """One step's backward listing."""
        exact = {key: self.functions.exact(np.float64(x)) for key, x in given.items()}
        return self.program.backward.run(exact | keyed("grad", state), self.functions)

    def _top(self, rows: list[Bounded]) -> Wide:
        """The largest size in each row of all parts."""
        every = stack([x.value for x in rows])
        flat = Wide(
            np.moveaxis(every.m, 0, -1).reshape(*every.m.shape[1:-1], -1),
            np.moveaxis(every.e, 0, -1).reshape(*every.e.shape[1:-1], -1),
        )
        return flat.top()

    def _going(self, x: Bounded, over: Any) -> Bounded:
        return x if over is None else x.where(~over[:, None])

    def _by_inputs(self, operands: Any, before: Any, parts: int) -> Any:
        states = self._top([self.states[:, k] for k in range(parts)])
        yield (self.sums[..., self.of_x] @ operands.weight_ih).lost(states, self.counts)
        for k in range(parts):
            yield self.initial[k]
        top = Wide(states.m.reshape(1, -1), states.e.reshape(1, -1)).top()
        ones = np.ones((states.m.size, 1))

        def rows(columns: Any) -> Bounded:
            some = self.sums[..., columns]
            value, off = (
                Wide(x.m.reshape(-1, x.m.shape[-1]).T, x.e.reshape(-1, x.e.shape[-1]).T)
                for x in (some.value, some.off)
            )
            return Bounded(value, off, self.eps).lost(top, self.counts)

        for columns, a in ((self.of_x, operands.x), (self.of_h, before)):
            yield rows(columns) @ a.reshape(len(ones), -1)
        for columns, bias in ((self.of_x, operands.bias_ih), (self.of_h, operands.bias_hh)):
            if hasattr(bias, "shape"):
                yield rows(columns) @ ones
        H = self.states.value.m.shape[-1]
        by_others, start = rows(self.of_others) @ ones if operands.others else None, 0
        for blocks_ in self.program.weights.values():
            assert by_others is not None
            yield by_others[start : start + blocks_ * H]
            start += blocks_ * H

    def check(self, found: Any) -> None:
        """Compare with the cotangents of sums and states that a pass found."""
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
    """Raise where a result is further off than its bound."""
    fits = abs(found - true.value) <= true.off
    assert fits.all(), f"{what} at {np.argwhere(~fits)[:5].tolist()}"
