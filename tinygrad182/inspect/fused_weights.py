"""What each step's use of a weight contributes, read from inside recurrences that are one operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backpropagation import ancestors
from ..kernels.powers import NOTHING, exponents_of, times_rows
from ..primitives.recurrent import Scan
from ..recording import Node
from ..unrolling import is_scan, steps_of_scan
from .fused import Inside, gradients_inside
from .norms import row_norms
from .times import marked_times

Part = tuple[range, Array, np.ndarray[Any, Any]]
"""Some steps, what each contributes, and the powers of two these are to be multiplied by."""


def scans_using(root: Node, weight: Node) -> list[Node]:
    """The recurrences that take a weight as it is.

    None if anything else takes it too, or two of them at the same step.
    """
    found: list[Node] = []
    taken: set[int] = set()
    for node in ancestors([root]):
        places = [i for i, x in enumerate(node.inputs or ()) if x is weight]
        if not places:
            continue
        if not is_scan(node) or not getattr(backend.namespace(node.value), "has_loops", False):
            return []
        steps = steps_of_scan(node)
        if len(places) > 1 or places[0] <= len(node.primitive.parts) or not taken.isdisjoint(steps):  # type: ignore[union-attr]
            return []
        found.append(node)
        taken.update(steps)
    return found


def last_step(root: Node) -> int:
    """The last time step there is behind the root."""
    nodes = ancestors([root], constants=True)
    ends = [steps_of_scan(node)[-1] for node in nodes if is_scan(node)]
    return max([*ends, *(t for node in nodes for t in marked_times(node))])


def contributions(
    root: Node, seed: Array, weight: Node, scans: list[Node], chunk: int
) -> Iterator[Part]:
    """Each step's contribution, about ``chunk`` elements at a time."""
    inside = gradients_inside(root, seed, set(scans), sums_too=True).inside
    for node in scans:
        if node in inside:
            yield from _of_scan(node, weight, inside[node], chunk)


def _of_scan(node: Node, weight: Node, inside: Inside, chunk: int) -> Iterator[Part]:
    """δ_{z_t}ᵀ a_t at every step, a_t the input, the state before, or 1."""
    scan: Scan = node.primitive  # type: ignore[assignment]
    xp = backend.namespace(node.value)
    m = xp.module
    xs = tuple(x.value if isinstance(x, Node) else x for x in node.inputs or ())
    whole = scan.setting(xp, node.value, xs, **node.params)
    operand = scan.operands(node.inputs or ())
    times = steps_of_scan(node)
    count = max(1, chunk // weight.value.size)
    for steps, found in inside.windows:
        setting = whole.at(steps)
        others = {operand.weight_ih: setting.x, operand.weight_hh: setting.before}
        a = others.get(weight)
        for i in range(0, len(steps), count):
            here = slice(i, i + count)
            z, tops = found.sums[here], np.full(len(found.sums[here]), inside.power)
            if isinstance(found.powers, int):
                tops += found.powers
            else:
                powers = xp.to_numpy(found.powers[here])
                sizes = powers + xp.to_numpy(exponents_of(m, m.max(m.abs(z), axis=-1)))
                top = np.where((sizes < NOTHING // 2).all(axis=1), 0, sizes.max(axis=1))
                z, tops = times_rows(m, z, xp.asarray(powers - top[:, None])), tops + top
            part = z.sum(axis=1) if a is None else m.matmul(m.swapaxes(z, 1, 2), a[here])
            yield times[steps[i] : steps[i] + len(part)], part, tops


def whole(parts: Iterator[Part], steps: int, like: Array) -> Array:
    """All steps' contributions in the weight's type; zeros where it was not used."""
    xp = backend.namespace(like)
    with xp.on(like), np.errstate(over="ignore", under="ignore"):
        found = xp.zeros((steps, *like.shape), dtype=like.dtype)
        for times, part, tops in parts:
            if tops.any():
                rows = times_rows(xp.module, part.reshape(len(part), -1), xp.asarray(tops))
                part = rows.reshape(part.shape)
            found[times.start : times.stop] = part
    return found


def norms(parts: Iterator[Part], steps: int) -> np.ndarray[Any, Any]:
    """The norm of every step's contribution in float64, true also where its type cannot hold it."""
    found = np.zeros(steps)
    for times, part, tops in parts:
        host = backend.namespace(part).to_numpy(part).astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            found[times.start : times.stop] = np.ldexp(row_norms(host.reshape(len(host), -1)), tops)
    return found
