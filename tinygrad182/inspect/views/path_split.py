"""``path_split``: the gradient by a state, split by the way it came."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...display.charts import altair
from ...engine.backpropagation import ancestors
from ...engine.recording import Node
from ...kernels.powers import times_rows
from ...tensors.tensor import Tensor
from ..charts.pictures import SLIDE, Drawn, signalled, slide
from ..charts.view_arrays import Shares
from ..charts.view_charts import shares_chart
from ..loops.recurrences import Stack, Wanted
from ..loops.step_rows import Rows
from ..loops.steps import (
    at_common_powers,
    direct_cotangents,
    next_step_cotangents,
    state_cotangents,
)
from ..passes.gradients import gradients_in_bands
from ..passes.scaling import NOT_FINITE, Band, HostArray, host_rows, times_power, zeros_like
from ..table import text_table
from .viewed_recurrence import ViewedRecurrence

Step = dict[str, Node]
"""The states of one step by name."""


class _Parts(NamedTuple):
    """One state's parts at some steps, (T, …) each, and powers of two: of steps (T,), or of rows (T, B)."""

    times: Sequence[int]
    parts: dict[str, Array]
    powers: HostArray


@dataclass(frozen=True, slots=True)
class PathSplit(Drawn):
    """The gradient by one state over time, split by the way it came.

    Attributes
    ----------
    time : ndarray ``(T,)``
    grad : array ``(T, B, H)``
        ∂L/∂s_t: the sum of the parts.
    parts : dict of str to array ``(T, B, H)``
        ``"direct"``: straight from the states of the next step (for an LSTM's ``c``, the cell path),
        or of a later step that reads this state;
        ``"via h"``: from the next step, through another state of this step (for ``c``, the hidden path);
        ``"via branch"``: from the next step, through a value marked ``"branch"``; :class:`ResBlock` marks
        the result of its layer so, and ``"direct"`` is then the skip around it;
        ``"local"``: from the loss, through no other state of this recurrence: by the output at this
        step, and by everything else that reads the state, such as a layer above or a decoder. At the last
        state of an encoder, from which a decoder starts, that is the whole gradient.

        In the model's dtype, as ``grad``: 0 where they underflow, ±∞ where they overflow.
    shares : dict of str to ndarray ``(T,)``
        The signed share ⟨part, δ⟩ / ‖δ‖² of each, float64; at every step they sum to 1. Right also
        where δ under- or overflows; NaN where it is exactly 0.
    state : str
        The state's name.
    """

    time: HostArray
    grad: Array
    parts: dict[str, Array]
    shares: dict[str, HostArray]
    state: str = "s"

    def __repr__(self) -> str:
        return self._table(20)

    def _table(self, most: int) -> str:
        rows = zip(self.time.tolist(), *(s.tolist() for s in self.shares.values()), strict=True)
        return text_table(("t", *self.shares), list(rows), most)

    def chart(self) -> Any:
        """Return the shares over time as an Altair chart."""
        return slide(shares_chart({0: Shares(self.time, self.state, self.shares)}))


class PathSplits(dict[str, PathSplit], Drawn):
    """The splits of a recurrence's states by name; prints their shares as tables."""

    __slots__ = ()

    def __repr__(self) -> str:
        most = 20 // max(len(self), 1)
        return "\n".join(f"shares of ∂L/∂{name}\n{s._table(most)}" for name, s in self.items())

    def chart(self) -> Any:
        """Return the shares of every state over time, side by side, as an Altair chart."""
        alt, (width, height) = altair(), SLIDE
        width, height = max(200, width // max(len(self), 1) - 75), height - 130
        charts = [
            shares_chart(
                {0: Shares(split.time, split.state, split.shares)}, width=width, height=height
            )
            for split in self.values()
        ]
        return signalled(alt.hconcat(*charts).resolve_scale(color="independent")).properties(
            padding=12
        )


def path_split(loss: Tensor, path: str | None = None, *, times: Wanted = None) -> PathSplits:
    """Split the gradient by every state of a recurrence by the way it came.

    ∂L/∂s_t is the sum of two parts: one comes from the states of step t+1, the other from the loss without
    them. If other states of the step are computed from s_t, as ``h`` is from an LSTM's ``c``, there are two
    ways from step t+1: straight, and through ``h``.

    Parameters
    ----------
    loss : Tensor
        A single element.
    path : str, optional
        The module that has the states, as in :func:`gradient_flow`; needed if several have states.
    times : int or sequence of int, optional
        The wanted time steps; by default all. A state that is marked at none of them is left out.

    Returns
    -------
    PathSplits, a dict of str to PathSplit
        By the state's name; ``.save_png(path)`` draws all.

    Raises
    ------
    GraphError
        No state was marked.
    UnknownPathError
        No such path, or several and none given.
    ArgumentError
        No such time step.

    Notes
    -----
    Time and memory are linear in T. For each state, a split holds its parts and their sum: 3 · T · B · H
    numbers for ``h`` and 4 · T · B · H for an LSTM's ``c``. Computing it takes up to 120 · T · B · H
    bytes in float32 and 180 in float64 for a fused LSTM, the split included (for an RNN 80 and 110). With
    ``times`` the other steps are not split, but the backward pass goes over all of them.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> lstm = tg.nn.LSTM(1, 8, forget_bias=5.0, rng=0, dtype="float64")
    >>> output, _ = lstm(tg.ones((20, 1, 1), dtype="float64"))
    >>> split = tg.inspect.path_split(output[-1].sum())["c"]
    >>> list(split.shares)
    ['direct', 'via h', 'local']
    >>> bool(split.shares["direct"][10] > 0.9)  # the forget gates are open
    True
    """
    here = ViewedRecurrence.of(loss, path, "path_split")
    split = _split_side_by_side if here.is_fused else _split_one_by_one
    found = split(here, times)
    return PathSplits({name: _as_split(name, some, here.device) for name, some in found.items()})


def _split_one_by_one(here: ViewedRecurrence, times: Wanted) -> dict[str, _Parts]:
    """Split the gradients of states that were recorded step by step."""
    for recurrence in here.stack.values():
        recurrence.check_shapes(here.view)
    steps = steps_of(here.stack)
    wanted = here.times(times, sorted(steps))
    states = {node for step in steps.values() for node in step.values()}
    after = _next_states(here.root, steps)
    totals = gradients_in_bands(here.root, here.seed, {n for t in wanted for n in after[t]})
    local = gradients_in_bands(here.root, here.seed, states, stop=True)
    found: dict[str, dict[int, dict[str, Array]]] = {name: {} for name in here.stack}
    powers = {}
    for t in wanted:
        step = steps[t]
        power = powers[t] = common_power([*_every(totals, after[t]), *_every(local, step.values())])
        coming = {node: at_power(power, node, totals) for node in after[t]}
        own = {node: at_power(power, node, local) for node in step.values()}
        ways = _ways_back(coming, step)
        for name, parts in _split_step(step, ways, own, after[t]).items():
            found[name][t] = parts
    return {
        name: _Parts(list(at), _stacked(list(at.values())), np.array([powers[t] for t in at]))
        for name, at in found.items()
        if at
    }


def _split_side_by_side(here: ViewedRecurrence, times: Wanted) -> dict[str, _Parts]:
    """Split the gradients of a fused layer's states."""
    windows = state_cotangents(here.root, here.seed, here.stack)
    wanted = here.times(times, [t for scan, *_ in windows for t in scan.times()])
    pieces: list[tuple[dict[str, dict[str, Array]], Array]] = []
    for scan, outside, total in windows:
        for steps in scan.chunks(scan.among(wanted)):
            back = next_step_cotangents(scan, steps, total)
            (direct, own), powers = at_common_powers(back, outside.at(steps))
            after = scan.at(steps).after
            ways = {"direct": scan.by_node(after, direct)}
            parts = _split_step(after, ways, scan.by_node(after, own), ())
            shape = (*powers.shape, -1)
            rows = {n: {p: g.reshape(shape) for p, g in parts[n].items()} for n in here.stack}
            pieces.append((rows, powers))
    powers = np.concatenate([powers for _, powers in pieces])
    found = {}
    for name in here.stack:
        names = pieces[0][0][name]
        joined = {p: np.concatenate([rows[name][p] for rows, _ in pieces]) for p in names}
        found[name] = _Parts(wanted, joined, powers)
    return found


BRANCH = "branch"
"""The mark, without a time step, of a value that a skip goes around."""


def _ways_back(coming: dict[Node, Array], step: Step) -> dict[str, dict[Node, Array]]:
    """The cotangents of a step's states from other steps: straight, and through a branch if any."""
    states, oldest = set(step.values()), min(node.order for node in step.values())
    between = ancestors(coming, ends=states, oldest=oldest)
    branches = {
        n for n in between if any(m.name == BRANCH and m.scope.time is None for m in n.marks)
    }
    whole = direct_cotangents(coming, states)
    if not branches:
        return {"direct": whole}
    around = direct_cotangents(coming, states | branches)
    through = {node: whole[node] - around[node] for node in states}
    return {"direct": {node: around[node] for node in states}, f"via {BRANCH}": through}


def steps_of(stack: Stack) -> dict[int, Step]:
    """The states of a recurrence by time step, in the order they were computed.

    States that a step lacks are left out.
    """
    times = dict.fromkeys(t for r in stack.values() for t in r.steps)
    steps = {t: {name: r.steps[t] for name, r in stack.items() if t in r.steps} for t in times}
    return dict(sorted(steps.items(), key=lambda item: max(n.order for n in item[1].values())))


def _next_states(root: Node, steps: dict[int, Step]) -> dict[int, set[Node]]:
    """By time step, the states of other steps that are computed from its states through no other.

    Mostly these are of the next step. A state that is handed on unchanged belongs to both steps.
    """
    at: dict[Node, list[int]] = {}
    for t, step in steps.items():
        for node in step.values():
            at.setdefault(node, []).append(t)
    nodes = ancestors([root], constants=True)
    leading: set[Any] = set()
    for node in reversed(nodes):
        if node in at or node in leading:
            leading.update(node.inputs or ())
    after: dict[int, set[Node]] = {t: set() for t in steps}
    above: dict[Any, frozenset[Node]] = {}  # the last states before each node
    for node in nodes:
        if node in at:
            for before in _last(node, above):
                for t in set(at[before]) - set(at[node]):
                    after[t].add(node)
            for t in at[node][:-1]:
                after[t].add(node)
            above[node] = frozenset({node})
        elif node in leading:
            above[node] = _last(node, above)
    return after


def _last(node: Node, above: dict[Any, frozenset[Node]]) -> frozenset[Node]:
    found = {above[x] for x in node.inputs or () if x in above}
    return found.pop() if len(found) == 1 else frozenset().union(*found)


def _split_step(
    step: Step, ways: dict[str, dict[Node, Array]], local: dict[Node, Array], after: Container[Node]
) -> dict[str, dict[str, Array]]:
    """Name → part → array for the states of one step.

    ``ways`` are the cotangents from the states of other steps, ``local`` those from the loss, both through
    no other state. The parts through a state of this step are added here, the latest state first. A state
    that is handed on unchanged has its whole gradient from the step it is handed to.
    """
    names = {node: name for name, node in reversed(step.items())}
    both: dict[Node, Array] = {}  # through time and local, on a leading axis
    found: dict[Node, dict[str, Array]] = {}
    for node in sorted(names, key=lambda node: -node.order):
        handed_on = node in after
        parts = {way: gradients[node] for way, gradients in ways.items()}
        own = zeros_like(local[node]) if handed_on else local[node]
        for other, gradient in [] if handed_on else both.items():
            arrived = direct_cotangents({other: gradient}, names.keys() - {other})[node]
            parts[f"via {names[other]}"], own = arrived[0], own + arrived[1]
        xp = backend.namespace(own)
        both[node] = xp.stack([sum(parts.values()), own])
        found[node] = {**parts, "local": own}
    return {name: found[node] for name, node in step.items()}


def _stacked(steps: list[dict[str, Array]]) -> dict[str, Array]:
    """One state's parts over time; a part that a step lacks is 0 there."""
    names = [*dict.fromkeys(n for parts in steps for n in parts if n != "local"), "local"]
    xp = backend.namespace(steps[0]["local"])
    return {
        name: xp.stack([p[name] if name in p else zeros_like(p["local"]) for p in steps])
        for name in names
    }


def _as_split(name: str, found: _Parts, device: str) -> PathSplit:
    """The split of one state on a device: parts without powers of two, and shares."""
    times, parts, powers = found
    grad = sum(parts.values())
    true = {part: _times_powers(array, powers) for part, array in [*parts.items(), ("", grad)]}
    moved = {part: backend.move(array, device) for part, array in true.items()}
    return PathSplit(np.array(times), moved.pop(""), moved, _shares(parts, powers), name)


def _shares(parts: dict[str, Array], powers: HostArray) -> dict[str, Any]:
    """The share of each part in their sum at every step; see :meth:`.step_rows.Rows.share_of`."""
    powers = powers if powers.ndim == 2 else powers[:, None]
    values = {part: host_rows(array, len(array)) for part, array in parts.items()}
    shape = (*powers.shape, next(iter(values.values())).size // max(powers.size, 1))
    rows = {part: Rows(array.reshape(shape), powers) for part, array in values.items()}
    whole = Rows(sum(some.values for some in rows.values()), powers)  # type: ignore[arg-type]
    return {part: some.share_of(whole) for part, some in rows.items()}


def _times_powers(array: Array, powers: HostArray) -> Array:
    """Every step, or each of its rows, times its own power of two."""
    if not powers.any():
        return array
    with np.errstate(over="ignore", under="ignore"):
        if powers.ndim == 2:
            return times_rows(np, array, powers)
        rows = [times_power(array[i, ...], power) for i, power in enumerate(powers.tolist())]
    return backend.namespace(array).stack(rows)


def _every(found: dict[Node, list[Band]], nodes: Iterable[Node]) -> Iterator[Band]:
    for node in nodes:
        yield from found.get(node, [])


def common_power(bands: Iterable[Band]) -> int:
    """The power of two at which the largest of some gradients is about 1; 0 if all are 0."""
    powers = [p for array, p in bands if p < NOT_FINITE and backend.norm(array) > 0]
    return max(powers, default=0)


def at_power(power: int, node: Node, found: dict[Node, list[Band]]) -> Array:
    """The gradient of a node, divided by 2**power; zeros if there is none."""
    total = zeros_like(node.value)
    with backend.on(total):
        for g, p in found.get(node, []):  # the sum of arrays without axes is a number, no array
            total = backend.namespace(total).asarray(total + times_power(g, p - power))
    return total
