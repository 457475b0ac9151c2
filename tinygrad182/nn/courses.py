"""The states of one recurrent layer over a sequence, as one operation gives them or step by step."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .._tensor import Tensor
from ..functions import concat, stack
from ..primitives import PRIMITIVES
from ..recording import apply

State = tuple[Tensor, ...]
"""The parts of a state: (h,) or (h, c)."""

Lengths = np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None
"""How many steps each sequence has; None: all have as many."""


class Course(Protocol):
    """States over time, in parts."""

    def whole(self, part: int) -> Tensor:
        """One part at every step, ``(T, B, H)``."""

    def last_step(self) -> State:
        """The state after the last step."""

    def last(self, part: int) -> Tensor:
        """One part of it, ``(1, B, H)``."""


class Fused:
    """From the result of a scan: ``(T, B, H)``, or ``(parts, T, B, H)``."""

    def __init__(self, states: Tensor, parts: int) -> None:
        self._wholes = [states] if parts == 1 else [_at(states, i) for i in range(parts)]

    def whole(self, part: int) -> Tensor:  # noqa: D102 - documented by the base
        return self._wholes[part]

    def last_step(self) -> State:  # noqa: D102 - documented by the base
        return tuple([_at(whole, -1) for whole in self._wholes])

    def last(self, part: int) -> Tensor:  # noqa: D102 - documented by the base
        return _at(self._wholes[part], _LAST)


_LAST = slice(-1, None)


def _at(x: Tensor, key: int | slice) -> Tensor:
    """``x[key]``, of a key that needs no check."""
    return apply(PRIMITIVES["index"], x, key=(key,))


class Unrolled:
    """From the state of every step."""

    def __init__(self, states: list[State]) -> None:
        self._states = states
        self._wholes: dict[int, Tensor] = {}

    def whole(self, part: int) -> Tensor:  # noqa: D102 - documented by the base
        if part not in self._wholes:
            self._wholes[part] = stack([state[part] for state in self._states])
        return self._wholes[part]

    def last_step(self) -> State:  # noqa: D102 - documented by the base
        return self._states[-1]

    def last(self, part: int) -> Tensor:  # noqa: D102 - documented by the base
        return stack([self._states[-1][part]])


class Joined:
    """Several, one after the other."""

    def __init__(self, courses: list[Course]) -> None:
        self._courses = courses

    def whole(self, part: int) -> Tensor:  # noqa: D102 - documented by the base
        return concat([course.whole(part) for course in self._courses])

    def last_step(self) -> State:  # noqa: D102 - documented by the base
        return self._courses[-1].last_step()

    def last(self, part: int) -> Tensor:  # noqa: D102 - documented by the base
        return self._courses[-1].last(part)


def at_ends(layers: list[Course], part: int, lengths: Lengths) -> Tensor:
    """One part of every layer's state after each sequence's last step, ``(layers, B, H)``."""
    if lengths is not None:
        ends = (lengths - 1, np.arange(len(lengths)))
        return stack([course.whole(part)[ends] for course in layers])
    lasts = [course.last(part) for course in layers]
    return lasts[0] if len(lasts) == 1 else concat(lasts)
