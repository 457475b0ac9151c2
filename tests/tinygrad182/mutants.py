"""Faults planted in derivative rules: each a mistake somebody could make.

A mutator takes what a rule returned for one input, the cotangent and what else the rule saw, and
returns something wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

import tinygrad182 as tg
from tinygrad182.primitives import Primitive
from tinygrad182.primitives.index import Slice
from tinygrad182.recording import is_tensor

Mutator = Callable[[Any, Any, tuple[Any, ...]], Any]


def _flipped(r: Any, axis: int) -> Any:
    return tg.flip(r, axis=axis) if is_tensor(r) else np.flip(r, axis=axis)


def _in_place(r: Any, array: Any) -> Any:
    """Write into an array the rule was given."""
    if not is_tensor(array) and getattr(array, "flags", None) is not None and array.flags.writeable:
        array *= 1.5
    return r


def _where(r: Any, condition: Any) -> Any:
    return tg.where(condition, r, 0.0) if is_tensor(r) else np.where(condition, r, 0.0)


def _narrowed(r: Any) -> Any:
    if is_tensor(r):
        return tg.astype(tg.astype(r, "float32"), r.dtype)
    return r.astype("float32").astype(r.dtype)


def _clipped(r: Any) -> Any:
    return tg.clip(r, -1.0, 1.0) if is_tensor(r) else np.clip(r, -1.0, 1.0)


MUTATORS: dict[str, Mutator] = {
    "zero": lambda r, g, xs: r * 0.0,
    "negated": lambda r, g, xs: -r,
    "doubled": lambda r, g, xs: r * 2,
    "off by 1e-3": lambda r, g, xs: r * (1 + 1e-3),
    "off by 1e-6": lambda r, g, xs: r * (1 + 1e-6),
    "off by 1e-10": lambda r, g, xs: r * (1 + 1e-10),
    "shifted by 1e-6": lambda r, g, xs: r + 1e-6,
    "float32 inside": lambda r, g, xs: _narrowed(r),
    "dropped": lambda r, g, xs: None,
    "absolute": lambda r, g, xs: abs(r),
    "averaged": lambda r, g, xs: r * 0.0 + r.mean(),
    "non-linear": lambda r, g, xs: r + 1e-4 * r * r,
    "clipped": lambda r, g, xs: _clipped(r),
    "small ones lost": lambda r, g, xs: _where(r, abs(r) > 1e-30),
    "first axis flipped": lambda r, g, xs: _flipped(r, 0) if r.ndim else r,
    "last axis flipped": lambda r, g, xs: _flipped(r, -1) if r.ndim else r,
    "first element lost": lambda r, g, xs: _where(r, np.arange(r.size).reshape(r.shape) > 0),
    "writes to the cotangent": lambda r, g, xs: _in_place(r, g),
    "writes to the output": lambda r, g, xs: _in_place(r, xs[0]),
    "writes to an input": lambda r, g, xs: _in_place(r, xs[-1]),
    "not recorded": lambda r, g, xs: r.detach() if is_tensor(r) else r,
    "cotangent detached": lambda r, g, xs: (
        r if not is_tensor(r) else r - g.sum() + g.detach().sum()
    ),
}


class Planted:
    """A rule with a fault; ``fired`` says whether it ever returned something else than before."""

    def __init__(self, rule: Callable[..., Any], mutator: Mutator) -> None:
        self.rule = rule
        self.mutator = mutator
        self.fired = False

    def __call__(self, xp: Any, g: Any, y: Any, *xs: Any, **params: Any) -> Any:
        found = self.rule(xp, g, y, *xs, **params)
        before = [_bits(a) for a in (g, y, *xs)]
        if isinstance(found, tuple):
            changed: Any = tuple(self._changed(r, g, (y, *xs)) for r in found)
        else:
            changed = self._changed(found, g, (y, *xs))
        self.fired |= before != [_bits(a) for a in (g, y, *xs)] or _bits(found) != _bits(changed)
        return changed

    def _changed(self, r: Any, g: Any, xs: tuple[Any, ...]) -> Any:
        if r is None:
            return None
        if isinstance(r, Slice):
            value = self._changed(r.value, g, xs)
            return None if value is None else replace(r, value=value)
        return self.mutator(np.asarray(r) if isinstance(r, np.generic) else r, g, xs)


def _bits(value: Any) -> Any:
    """What two values are compared by: bytes, and whether they are on a graph."""
    if isinstance(value, tuple):
        return tuple(map(_bits, value))
    if isinstance(value, Slice):
        return _bits(value.value)
    if is_tensor(value):
        return value.numpy().tobytes(), value.requires_grad
    return np.asarray(value).tobytes()


@contextmanager
def planted(primitive: Primitive, **fields: Any) -> Iterator[None]:
    """The primitive with other rules, for a while (it is frozen against anybody less determined)."""
    before = {name: getattr(primitive, name) for name in fields}
    try:
        for name, value in fields.items():
            object.__setattr__(primitive, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(primitive, name, value)


def vjp_mutants(primitive: Primitive) -> Iterator[tuple[str, dict[str, Any], Planted | None]]:
    """Name, replaced fields and the planted rule of every mutant of the primitive's derivative."""
    for name, mutator in MUTATORS.items():
        if callable(primitive.vjp):
            fault = Planted(primitive.vjp, mutator)
            yield name, {"vjp": fault}, fault
            continue
        for i, rule in enumerate(primitive.vjp):
            if rule is not None:
                fault = Planted(rule, mutator)
                rules = (*primitive.vjp[:i], fault, *primitive.vjp[i + 1 :])
                yield f"{name}, input {i}", {"vjp": rules}, fault
    if not callable(primitive.vjp) and len(set(primitive.vjp) - {None}) > 1:
        yield "swapped", {"vjp": primitive.vjp[::-1]}, None


def jvp_mutants(primitive: Primitive) -> Iterator[tuple[str, dict[str, Any], Planted | None]]:
    """The same for a tangent rule that is written by hand."""
    if not callable(primitive.jvp):
        return
    for name in ("zero", "negated", "doubled", "off by 1e-6", "shifted by 1e-6", "float32 inside"):
        fault = Planted(primitive.jvp, MUTATORS[name])
        yield f"{name}, tangent", {"jvp": fault}, fault


def forward_mutants(primitive: Primitive) -> Iterator[tuple[str, dict[str, Any]]]:
    """Faults in the value itself."""

    def shifted(xp: Any, *xs: Any, **params: Any) -> Any:
        return primitive_forward(xp, *xs, **params) + 1e-6

    def scaled(xp: Any, *xs: Any, **params: Any) -> Any:
        return primitive_forward(xp, *xs, **params) * (1 + 1e-6)

    def flipped(xp: Any, *xs: Any, **params: Any) -> Any:
        return np.flip(primitive_forward(xp, *xs, **params))

    primitive_forward = primitive.forward
    for fault in (shifted, scaled, flipped):
        yield fault.__name__, {"forward": fault}
