"""The loops over time in half precision: computed in float32, rounded once at the end.

float16 has 30 powers of two from its smallest normal number to its largest, too few for a recurrence to be
carried in it, and too few digits for sums over many steps. What is kept between forward and backward has
its own type, and so have results. NumPy's arithmetic in float16 is also many times as slow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from . import loops
from .arrays import Deltas, Ends
from .program import Program, Weights

WIDE = np.dtype("float32")


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
    """Do what :func:`.arrays.forward` does."""
    wide, inside = m.empty(states.shape, WIDE), m.empty(saved.shape, WIDE)
    loops(program, m, WIDE).forward(
        program,
        m,
        x.astype(WIDE),
        [h.astype(WIDE) for h in initial],
        _wide(weights),
        inside,
        wide,
        ends,
    )
    with np.errstate(over="ignore"):  # infinite is what it is in its type
        states[...] = wide
        saved[...] = inside


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
) -> Deltas:
    """Do what :func:`.arrays.backward` does; what it returns is in float32."""
    span = range(len(saved)) if span is None else span
    here = slice(span.start, span.stop)
    before = states[:, span.start - 1] if span.start else initial
    return loops(program, m, WIDE).backward(
        program,
        m,
        saved[here].astype(WIDE),
        [h.astype(WIDE) for h in before],
        _wide(weights),
        states[:, here].astype(WIDE),
        ends.after(span.start),
        g[..., here, :, :].astype(WIDE),
        None if powers is None else powers[..., here, :],
        keep,
        None,
        later,
    )


def _wide(weights: Weights) -> Weights:
    def wide(array: Any) -> Any:
        return None if array is None else array.astype(WIDE)

    return Weights(*map(wide, weights[:4]), tuple(map(wide, weights.others)))  # type: ignore[call-arg]
