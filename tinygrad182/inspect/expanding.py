"""The inside of a recurrence that was run as one operation: all its steps, or a single one."""

from __future__ import annotations

from typing import Any

from .. import backend
from ..backend import Array
from ..errors import ArgumentError
from ..kernels.arrays import windows
from ..marks import mark
from ..modes import Modes, modes_kept, recording_as
from ..primitives.recurrent import Scan, deltas, plain
from ..recording import Leaf, Node, node_of, wrap
from ..unrolling import State, run_steps, steps_of_scan
from .gradients import Inside
from .paths import sent
from .scaling import in_own_type

Seeds = list[tuple[Node, Array]]
"""The latest nodes, and what arrives at them."""


def inside(node: Node, g: Array) -> Seeds:
    """All steps, recorded again, and the gradients that the scan's own ``g`` gives the states."""
    scan: Scan = node.primitive  # type: ignore[assignment]
    states = _recorded(node, _stand_ins(node))
    parts = [g] if len(scan.parts) == 1 else [g[i] for i in range(len(scan.parts))]
    seeds = [
        (node_of(state[i]), part[t])
        for t, state in enumerate(states)
        for i, part in enumerate(parts)
    ]
    return sorted(seeds, key=lambda seed: -seed[0].order)


def step(node: Node, g: Array, time: int) -> Seeds:
    """One step, recorded again, and what arrives at its states from the loss and the next step."""
    times = steps_of_scan(node)
    if time not in times:
        raise ArgumentError(f"expand: time {time!r}; the steps are {times[0]} to {times[-1]}")
    scan: Scan = node.primitive  # type: ignore[assignment]
    i = times.index(time)  # of Python's int, whatever type the time has
    here = _one(node, i)
    parts = [g] if len(scan.parts) == 1 else [g[k] for k in range(len(scan.parts))]
    arriving = [part[i] for part in parts]
    if i + 1 < len(times):
        after = _one(node, i + 1)
        totals = _totals(node, g, i + 1)
        given = {node_of(s): totals[k] for k, s in enumerate(after.state)}
        back = sent(given, {node_of(x) for x in after.before})
        arriving = [a + back[node_of(x)] for a, x in zip(arriving, after.before, strict=True)]
    seeds = [(node_of(s), a) for s, a in zip(here.state, arriving, strict=True)]
    return sorted(seeds, key=lambda seed: -seed[0].order)


class _Step:
    """One step: the state before, as leaves, and the state after it."""

    def __init__(self, before: list[Any], state: State) -> None:
        self.before = before
        self.state = state


@modes_kept
def _one(node: Node, i: int) -> _Step:
    """Record step ``i`` of a scan from the state before it."""
    scan: Scan = node.primitive  # type: ignore[assignment]
    x, *others = _stand_ins(node)
    n = len(scan.parts)
    values = [node.value] if n == 1 else [node.value[k] for k in range(n)]
    before = others[:n] if i == 0 else [wrap(v[i - 1], Leaf(v[i - 1], True)) for v in values]
    params = {**node.params, "start": node.params.get("start", 0) + i}
    if "shortest" in params:
        lengths = others[-1]._data
        others[-1] = wrap(backend.namespace(lengths).astype(lengths, "int64") - i)
        params["shortest"] = max(0, params["shortest"] - i)
    part = wrap(x._data[i : i + 1], Leaf(x._data[i : i + 1], x.requires_grad))
    with recording_as(Modes(True, x.device, node.scope)):
        for name, value in zip(scan.parts, before, strict=True):
            mark(value, name, params["start"] - 1)
    (state,) = _recorded(node, [part, *before, *others[n:]], params)
    return _Step(before, state)


@modes_kept
def _recorded(node: Node, operands: list[Any], params: dict[str, Any] | None = None) -> list[State]:
    with recording_as(Modes(True, operands[0].device, node.scope)):
        return run_steps(node.primitive, operands, node.params if params is None else params)  # type: ignore[arg-type]


def _stand_ins(node: Node) -> list[Any]:
    """Leaves in the place of its inputs, which must be what they were."""
    for x in node.inputs or ():
        if isinstance(x, Node):
            x.check_unchanged(node)
    return [_stand_in(x) for x in node.inputs or ()]


def _stand_in(x: Any) -> Any:
    """A leaf in the place of an input."""
    if not isinstance(x, Node):
        return x
    leaf = Leaf(x.value, x.requires_grad)
    leaf.name = x.name if isinstance(x, Leaf) else ""
    leaf.marks = x.marks
    return wrap(x.value, leaf)


def _totals(node: Node, g: Array, i: int) -> list[Array]:
    """The whole gradient of every part of the state at step ``i``: one way back to it."""
    scan: Scan = node.primitive  # type: ignore[assignment]
    xp = backend.namespace(node.value)
    xs = tuple(x.value if isinstance(x, Node) else x for x in node.inputs or ())
    later = None
    g = plain(xp.module, g)
    with xp.on(node.value):
        for window in reversed(windows(xp.module, node.saved.gates.shape)):
            span = range(max(window.start, i), window.stop)
            later = deltas(
                scan, xp, g, node.value, xs, node.saved, None, True, span, later, **node.params
            )
            if span.start == i:
                break
    whole = Inside([(range(i, len(node.value)), later)], 0)  # type: ignore[list-item]
    return [in_own_type(*whole.grads(k)[0])[0] for k in range(len(scan.parts))]
