"""What each step's use of a weight contributes, read from inside recurrences that are one operation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import backend
from ..backend import Array
from ..backpropagation import ancestors
from ..kernels.powers import NOTHING, or_zero, sizes_of, times_rows
from ..primitives.recurrent import Scan
from ..recording import Node
from ..unrolling import is_scan, steps_of_scan
from .gradients import Inside, gradients_inside
from .parts import CheckedParts, Part
from .times import marked_times


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
) -> CheckedParts:
    """Each step's contribution, about ``chunk`` elements at a time."""
    found = gradients_inside(root, seed, set(scans), {weight}, sums_too=True)

    def parts() -> Iterator[Part]:
        for node in scans:
            if node in found.inside:
                yield from _of_scan(node, weight, found.inside[node], chunk)

    return CheckedParts(weight, last_step(root) + 1, parts(), found.bands.get(weight, []))


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
                sizes = sizes_of(np, xp.to_numpy(m.max(m.abs(z), axis=-1)), powers)
                if a is not None:  # a row that meets zeros must not hide others
                    sizes[~xp.to_numpy(a[here].any(axis=-1))] = NOTHING
                top = or_zero(np, sizes.max(axis=1))
                shifts = np.where(sizes == NOTHING, NOTHING, powers - top[:, None])
                z, tops = times_rows(m, z, xp.asarray(shifts)), tops + top
            part = z.sum(axis=1) if a is None else m.matmul(m.swapaxes(z, 1, 2), a[here])
            yield Part(times[steps[i] : steps[i] + len(part)], part, tops)
