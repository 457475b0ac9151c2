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

WIDE = np.dtype("float32")


def forward(
    cell: Any,
    x: Array,
    initial: list[Array],
    weights: tuple[Array, Array, Any],
    gates: Array,
    states: Array,
    ends: Ends,
) -> None:
    """Do what :func:`.arrays.forward` does."""
    m = cell.m
    wide = m.empty(states.shape, WIDE)
    inside = m.empty(gates.shape, WIDE) if cell.keeps_gates else wide[0]
    weight_ih, weight_hh, bias = weights
    bias = None if bias is None else bias.astype(WIDE)
    loops(m, WIDE).forward(
        cell,
        x.astype(WIDE),
        [h.astype(WIDE) for h in initial],
        (weight_ih.astype(WIDE), weight_hh.astype(WIDE), bias),
        inside,
        wide,
        ends,
    )
    with np.errstate(over="ignore"):  # infinite is what it is in its type
        states[...] = wide
        if cell.keeps_gates:
            gates[...] = inside


def backward(
    cell: Any,
    gates: Array,
    initial: list[Array],
    weight: Array,
    states: Array,
    ends: Ends,
    g: Array,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
) -> Deltas:
    """Do what :func:`.arrays.backward` does; what it returns is in float32."""
    span = range(len(gates)) if span is None else span
    here = slice(span.start, span.stop)
    before = states[:, span.start - 1] if span.start else initial
    if ends.lengths is not None:
        ends = Ends(ends.lengths - span.start, ends.shortest - span.start)
    return loops(cell.m, WIDE).backward(
        cell,
        gates[here].astype(WIDE),
        [h.astype(WIDE) for h in before],
        weight.astype(WIDE),
        states[:, here].astype(WIDE),
        ends,
        g[..., here, :, :].astype(WIDE),
        None if powers is None else powers[..., here, :],
        keep,
        None,
        later,
    )
