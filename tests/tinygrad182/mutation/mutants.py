"""Faults for derivative rules: plausible mistakes.

A fault is ``fault(rule, call)``: it makes the call, or one like it, and returns something wrong. Given
arrays or Tensors it does the same, with the call's own namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad182.arrays.namespaces import SCALARS
from tinygrad182.engine.recording import is_tensor
from tinygrad182.primitives.index import Slice

from .cases import Call, Rule, alike

Fault = Callable[[Rule, Call], Any]
Change = Callable[[Any, Call], Any]

# --- how a fault is made ------------------------------------------------------------------------


def _each(found: Any, change: Callable[[Any], Any]) -> Any:
    """Change every cotangent among what a rule returned."""
    if found is None:
        return None
    if isinstance(found, tuple):
        changed = (_each(r, change) for r in found)
        return type(found)(*changed) if hasattr(found, "_fields") else tuple(changed)
    if isinstance(found, Slice):
        value = change(found.value)
        return None if value is None else replace(found, value=value)
    return change(np.asarray(found) if isinstance(found, np.generic) else found)


def returns(change: Change) -> Fault:
    """The fault of returning something else."""
    return lambda rule, call: _each(call.by(rule), lambda r: change(r, call))


def asks(change: Callable[[Call], Call]) -> Fault:
    """The fault of reading something else."""
    return lambda rule, call: change(call).by(rule)


def alone(i: int, change: Change) -> Fault:
    """The fault of returning something else for one input, where a rule returns all cotangents."""

    def fault(rule: Rule, call: Call) -> Any:
        found = call.by(rule)
        if not isinstance(found, tuple) or i >= len(found):
            return found
        return (*found[:i], _each(found[i], lambda r: change(r, call)), *found[i + 1 :])

    return fault


def only_when(condition: Callable[[Call], bool]) -> Fault:
    """The fault of being wrong in some cases only."""
    return returns(lambda r, call: r * 1.5 if condition(call) else r)


# --- wrong results ------------------------------------------------------------------------------


def _where(r: Any, condition: Any, call: Call) -> Any:
    return call.xp.where(condition, r, 0.0)


def _through(r: Any, dtype: str, call: Call) -> Any:
    return call.xp.astype(call.xp.astype(r, dtype), r.dtype)


def _keep(r: Any, count: Callable[[Any], Any], call: Call) -> Any:
    return _where(r, count(np.arange(r.size).reshape(r.shape)), call)


def _squeezed(r: Any, call: Call) -> Any:
    return call.xp.reshape(r, tuple(n for n in r.shape if n != 1))


def _each_alike(r: Any, call: Call) -> Any:
    """Every entry is replaced by the sum over the leading axis."""
    return r if not call.lead else r * 0.0 + call.xp.sum(r, axis=0, keepdims=True)


def _transposed(r: Any, call: Call) -> Any:
    return call.xp.permute_dims(r, (*range(r.ndim - 2), r.ndim - 1, r.ndim - 2))


def _noisy(r: Any, call: Call) -> Any:
    return r * (1 + 1e-12 * np.random.default_rng().standard_normal(r.shape))


def _detached(x: Any) -> Any:
    return x.detach() if is_tensor(x) else x


RESULTS: dict[str, Change] = {
    "zero": lambda r, c: r * 0.0,
    "negated": lambda r, c: -r,
    "doubled": lambda r, c: r * 2,
    "off by 1e-3": lambda r, c: r * (1 + 1e-3),
    "off by 1e-6": lambda r, c: r * (1 + 1e-6),
    "off by 1e-9": lambda r, c: r * (1 + 1e-9),
    "off by 1e-12": lambda r, c: r * (1 + 1e-12),
    "shifted by 1e-6": lambda r, c: r + 1e-6,
    "shifted by 1e-12": lambda r, c: r + 1e-12,
    "shifted by 1e-100": lambda r, c: r + 1e-100,
    "random": _noisy,
    "float32 inside": lambda r, c: _through(r, "float32", c),
    "float16 inside": lambda r, c: _through(r, "float16", c),
    "float32 returned": lambda r, c: c.xp.astype(r, "float32"),
    "wrong in float32": lambda r, c: r * (1 + 1e-4) if str(r.dtype) == "float32" else r,
    "dropped": lambda r, c: None,
    "absolute": lambda r, c: abs(r),
    "sign alone": lambda r, c: _where(r * 0 + 1, r > 0, c) - _where(r * 0 + 1, r < 0, c),
    "rounded": lambda r, c: r - r % 1.0 if not c.recorded else r,
    "averaged": lambda r, c: r * 0.0 + r.mean() if r.size else r,
    "non-linear": lambda r, c: r + 1e-4 * r * r,
    "clipped": lambda r, c: c.xp.where(r > 1.0, 1.0, c.xp.where(r < -1.0, -1.0, r)),
    "large ones lost": lambda r, c: _where(r, abs(r) < 1e30, c),
    "small ones lost": lambda r, c: _where(r, abs(r) > 1e-30, c),
    "negative ones lost": lambda r, c: _where(r, r > 0, c),
    "first axis flipped": lambda r, c: c.xp.flip(r, axis=0) if r.ndim else r,
    "last axis flipped": lambda r, c: c.xp.flip(r, axis=-1) if r.ndim else r,
    "last two axes transposed": lambda r, c: _transposed(r, c) if r.ndim > 1 else r,
    "transposed where square": lambda r, c: (
        _transposed(r, c) if r.ndim - c.lead > 1 and r.shape[-1] == r.shape[-2] else r
    ),
    "first element lost": lambda r, c: _keep(r, lambda k: k > 0, c),
    "last element lost": lambda r, c: _keep(r, lambda k: k < r.size - 1, c),
    "squeezed": _squeezed,
    "flattened": lambda r, c: c.xp.reshape(r, (*r.shape[: c.lead], -1)) if r.size else r,
    "an axis in front": lambda r, c: c.xp.reshape(r, (1, *r.shape)),
    "an axis behind": lambda r, c: c.xp.reshape(r, (*r.shape, 1)),
    "leading axis summed": _each_alike,
    "leading axis flipped": lambda r, c: c.xp.flip(r, axis=0) if c.lead else r,
    "second leading axis flipped": lambda r, c: c.xp.flip(r, axis=1) if c.lead > 1 else r,
    "leading axes swapped": lambda r, c: (
        c.xp.permute_dims(r, (1, 0, *range(2, r.ndim)))
        if c.lead == 2 and r.shape[0] == r.shape[1]
        else r
    ),
    "not recorded": lambda r, c: _detached(r),
    "recorded twice": lambda r, c: r * 2 - r.detach() if is_tensor(r) else r,
    "wrong where recorded": lambda r, c: r * (1 + 1e-6) if c.recorded else r,
    "wrong where not recorded": lambda r, c: r if c.recorded else r * (1 + 1e-6),
}


ALONE = {
    f"cotangent {i} {name}": alone(i, RESULTS[name])
    for i in range(6)
    for name in ("dropped", "off by 1e-9", "first axis flipped")
}
"""Wrong for one input, where one rule returns the cotangents of all."""


# --- wrong arguments ----------------------------------------------------------------------------


def _of_cotangent(change: Callable[[Any, Any], Any]) -> Fault:
    def other(call: Call) -> Call:
        if call.tangents is None:
            return replace(call, g=change(call.g, call.xp))
        moved = tuple(None if v is None else change(v, call.xp) for v in call.tangents)
        return replace(call, tangents=moved)

    return asks(other)


def _of_inputs(change: Callable[[Any, Any], Any]) -> Fault:
    def changed(x: Any, call: Call) -> Any:
        return change(x, call.xp) if type(x) in SCALARS or "float" in str(x.dtype) else x

    return asks(lambda c: replace(c, xs=tuple(changed(x, c) for x in c.xs)))


def _moved_axis(call: Call) -> Call:
    """``axis``, or each of it, one further to the front (from the first, back to the last)."""
    axis = call.params.get("axis")
    if axis is None or not call.xs[0].ndim:
        return call
    n = call.xs[0].ndim

    def further(a: int) -> int:
        return (a - 1) % n - n

    moved = tuple(map(further, axis)) if isinstance(axis, tuple) else further(axis)
    return replace(call, params=call.params | {"axis": moved})


def _inverse_axes(call: Call) -> Call:
    axes = call.params.get("axes")
    if axes is None:
        return call
    n = len(axes)
    inverse = tuple(sorted(range(-n, 0), key=lambda i: axes[i] % n))
    return replace(call, params=call.params | {"axes": inverse})


def _other_keepdims(call: Call) -> Call:
    if "keepdims" not in call.params:
        return call
    return replace(call, params=call.params | {"keepdims": not call.params["keepdims"]})


def _float32(x: Any, xp: Any) -> Any:
    if type(x) in SCALARS:
        return float(np.float32(x))
    return xp.astype(xp.astype(x, "float32"), x.dtype)


QUESTIONS: dict[str, Fault] = {
    "cotangent absolute": _of_cotangent(lambda g, xp: abs(g)),
    "cotangent averaged": _of_cotangent(lambda g, xp: g * 0.0 + g.mean() if g.size else g),
    "cotangent of ones": _of_cotangent(lambda g, xp: g * 0.0 + 1.0),
    "cotangent in float32": _of_cotangent(_float32),
    "cotangent shifted": _of_cotangent(lambda g, xp: g + 1e-9),
    "cotangent detached": _of_cotangent(lambda g, xp: _detached(g)),
    "output detached": asks(lambda c: replace(c, y=_detached(c.y))),
    "inputs detached": asks(lambda c: replace(c, xs=tuple(map(_detached, c.xs)))),
    "first input detached": asks(lambda c: replace(c, xs=(_detached(c.xs[0]), *c.xs[1:]))),
    "last input detached": asks(lambda c: replace(c, xs=(*c.xs[:-1], _detached(c.xs[-1])))),
    "inputs in float32": _of_inputs(_float32),
    "inputs absolute": _of_inputs(lambda x, xp: abs(x)),
    "inputs off by 1e-9": _of_inputs(lambda x, xp: x * (1 + 1e-9)),
    "inputs swapped": asks(lambda c: replace(c, xs=c.xs[::-1])),
    "inputs rotated": asks(lambda c: replace(c, xs=(*c.xs[1:], c.xs[0]))),
    "first input twice": asks(lambda c: replace(c, xs=(c.xs[0],) * len(c.xs))),
    "output off by 1e-9": asks(lambda c: replace(c, y=c.y * (1 + 1e-9))),
    "output for input": asks(lambda c: replace(c, xs=(c.y, *c.xs[1:])) if alike(c) else c),
    "input for output": asks(lambda c: replace(c, y=c.xs[0]) if alike(c) else c),
    "axis off by one": asks(_moved_axis),
    "axes inverted": asks(_inverse_axes),
    "keepdims ignored": asks(_other_keepdims),
}


# --- side effects -------------------------------------------------------------------------------


def _writes(what: Callable[[Call], Any], result: bool = False) -> Fault:
    """Write into an array the rule was given: other numbers, or the result itself."""

    def fault(rule: Rule, call: Call) -> Any:
        found = call.by(rule)
        array = what(call)
        if isinstance(array, np.ndarray) and array.flags.writeable and array.dtype.kind == "f":
            if not result:
                array *= 1.5
            elif isinstance(found, np.ndarray) and found.shape == array.shape:
                array[...] = found
                return array
        return found

    return fault


def _remembers() -> Fault:
    """Return the first result of each shape forever."""
    known: dict[Any, Any] = {}

    def first(r: Any, call: Call) -> Any:
        return known.setdefault((r.shape, str(r.dtype), is_tensor(r)), r)

    return returns(first)


def _stale() -> Fault:
    """Use the first output of each shape forever."""
    known: dict[Any, Any] = {}

    def earlier(call: Call) -> Call:
        key = (call.y.shape, str(call.y.dtype), call.recorded)
        return replace(call, y=known.setdefault(key, call.y))

    return asks(earlier)


def _reuses() -> Fault:
    """One buffer of each shape for the results of all calls."""
    buffers: dict[Any, Any] = {}

    def same_memory(r: Any, call: Call) -> Any:
        if is_tensor(r):
            return r
        buffer = buffers.setdefault((r.shape, str(r.dtype)), np.empty(r.shape, r.dtype))
        buffer[...] = r
        return buffer

    return returns(same_memory)


def _tires() -> Fault:
    """Right at first, wrong from the third call on."""
    calls = iter((1.0, 1.0))
    return returns(lambda r, call: r * next(calls, 1.5))


WRITES: dict[str, Fault] = {
    "writes to the cotangent": _writes(lambda c: c.g),
    "writes to the output": _writes(lambda c: c.y),
    "writes to the first input": _writes(lambda c: c.xs[0]),
    "writes to the last input": _writes(lambda c: c.xs[-1]),
    "over the cotangent": _writes(lambda c: c.g, result=True),
    "over the output": _writes(lambda c: c.y, result=True),
    "over the first input": _writes(lambda c: c.xs[0], result=True),
}

WITH_STATE: dict[str, Callable[[], Fault]] = {
    "remembers its result": _remembers,
    "remembers the output": _stale,
    "reuses its buffer": _reuses,
    "wrong from the third call on": _tires,
}
"""Made anew for each mutant."""

# --- the faults of each kind of rule ----------------------------------------------------------

STRANGE_TO: dict[str, tuple[str, ...]] = {
    "vjp": ("tangent of",),
    "jvp": ("leading", "read-only", "stride 0"),
    "forward": (
        *("leading", "tangent", "output", "record", "detached"),
        *("dropped", "shifted by 1e-100"),
    ),
    "definition": (
        *("leading", "tangent", "output", "wrong where", "recorded, "),
        *("dropped", "shifted by 1e-100", "strided", "read-only", "buffer", "over the", "writes"),
    ),
    "residuals": (
        *("leading", "tangent", "output", "record", "detached"),
        *("dropped", "shifted by 1e-100", "over the", "writes"),
    ),
}
"""Words in the names of faults that do not apply to a rule of that kind."""
