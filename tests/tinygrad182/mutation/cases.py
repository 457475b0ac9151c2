"""A call of a derivative rule, and the cases in which a rule may be wrong though it is right in others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tinygrad182.arrays.namespaces import SCALARS
from tinygrad182.engine.recording import is_tensor

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """The arguments of a rule; ``g`` is the cotangent, and None for a forward.

    For a tangent rule ``g`` is the first tangent that is not None, and ``tangents`` are all.
    """

    xp: Any
    g: Any
    y: Any
    xs: tuple[Any, ...]
    params: dict[str, Any]
    tangents: tuple[Any, ...] | None = None

    def by(self, rule: Rule) -> Any:
        """Make the call."""
        if self.g is None:
            return rule(self.xp, *self.xs, **self.params)
        given = self.g if self.tangents is None else self.tangents
        return rule(self.xp, given, self.y, *self.xs, **self.params)

    @cached_property
    def lead(self) -> int:
        """The number of leading axes of the cotangent."""
        return 0 if self.g is None else self.g.ndim - self.y.ndim

    @cached_property
    def recorded(self) -> bool:
        return is_tensor(self.g)

    @cached_property
    def arrays(self) -> list[Any]:
        """The operands that are not numbers."""
        return [x for x in self.xs if type(x) not in SCALARS]

    @cached_property
    def numbers(self) -> list[np.ndarray[Any, Any]]:
        """The values of the floating operands."""
        found = [x.numpy() if is_tensor(x) else np.asarray(x) for x in self.arrays]
        return [x for x in found if x.dtype.kind in "fc"]

    @cached_property
    def values(self) -> np.ndarray[Any, Any]:
        """The elements of all floating operands in one array, which is quicker to look through."""
        return np.concatenate([np.zeros(0), *(x.ravel() for x in self.numbers)])


def alike(call: Call) -> bool:
    return getattr(call.xs[0], "shape", None) == call.y.shape


def _any(holds: Callable[[Any], Any]) -> Callable[[Call], bool]:
    """Whether the condition holds for any element of a floating operand."""
    return lambda c: bool(np.any(holds(c.values)))


def _in_cotangent(holds: Callable[[Any], Any]) -> Callable[[Call], bool]:
    def condition(c: Call) -> bool:
        g = c.g.numpy() if c.recorded else c.g
        return g is not None and bool(np.any(holds(np.asarray(g))))

    return condition


def _contiguous(x: Any) -> bool:
    return not isinstance(x, np.ndarray) or x.flags.c_contiguous


def _repeats(x: Any) -> bool:
    return x.size > len(set(x.real.ravel().tolist()))


def _node(x: Any) -> Any:
    return id(x._node if is_tensor(x) else x)


CONDITIONS: dict[str, Callable[[Call], bool]] = {
    "leading axes": lambda c: c.lead > 0,
    "no leading axes": lambda c: c.g is not None and c.lead == 0,
    "two leading axes": lambda c: c.lead > 1,
    "a leading axis of 1": lambda c: c.lead > 0 and 1 in c.g.shape[: c.lead],
    "leading axes, recorded": lambda c: c.lead > 0 and c.recorded,
    "an axis of 1": lambda c: any(1 in x.shape for x in c.arrays),
    "an output axis of 1": lambda c: c.y is not None and 1 in c.y.shape,
    "an output whose last axis is 1": lambda c: c.y is not None and c.y.shape[-1:] == (1,),
    "an output shaped like the input": lambda c: c.y is not None and alike(c),
    "0-d inputs": lambda c: any(x.ndim == 0 for x in c.arrays),
    "three axes": lambda c: any(x.ndim > 2 for x in c.arrays),
    "inputs of one shape": lambda c: len(c.arrays) > 1 and len({x.shape for x in c.arrays}) == 1,
    "inputs of two shapes": lambda c: len({x.shape for x in c.arrays}) > 1,
    "numbers beside": lambda c: len(c.arrays) < len(c.xs),
    "the same input twice": lambda c: len({_node(x) for x in c.arrays}) < len(c.arrays),
    "strided inputs": lambda c: not all(map(_contiguous, c.arrays)),
    "a strided cotangent": lambda c: not _contiguous(c.g),
    "a cotangent of stride 0": lambda c: isinstance(c.g, np.ndarray) and 0 in c.g.strides,
    "read-only inputs": lambda c: any(
        isinstance(x, np.ndarray) and not x.flags.writeable for x in c.arrays
    ),
    "negative inputs": _any(lambda x: x.real < 0),
    "large inputs": _any(lambda x: abs(x) > 40),
    "tiny inputs": _any(lambda x: (x != 0) & (abs(x) < 1e-10)),
    "zeros": _any(lambda x: x == 0),
    "ones": _any(lambda x: abs(x) == 1),
    "whole numbers": lambda c: all(x.size and np.all(x == np.rint(x.real)) for x in c.numbers),
    "equal elements": lambda c: any(map(_repeats, c.numbers)),
    "float32": lambda c: any(x.dtype == np.float32 for x in c.numbers),
    "negative cotangents": _in_cotangent(lambda g: g < 0),
    "large cotangents": _in_cotangent(lambda g: abs(g) > 1e30),
    "tiny cotangents": _in_cotangent(lambda g: (g != 0) & (abs(g) < 1e-30)),
    "cotangents with zeros": _in_cotangent(lambda g: g == 0),
    "cotangents of ones": lambda c: (
        c.g is not None and bool(np.all((c.g.numpy() if c.recorded else c.g) == 1))
    ),
    "one tangent of several": lambda c: (
        c.tangents is not None and any(v is None for v in c.tangents)
    ),
}
