"""``path_split`` and ``gain_split``: the ways by which a gradient came, and its gain in one step."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...display.charts import altair
from ...engine.backpropagation import ancestors
from ...engine.recording import Node
from ...errors import GraphError
from ...kernels.powers import times_rows
from ...tensors.tensor import Tensor
from ..charts.pictures import SLIDE, Drawn, signalled, slide
from ..charts.view_arrays import Shares
from ..charts.view_charts import gain_chart, shares_chart
from ..loops.recurrences import Stack, Wanted
from ..loops.step_rows import Rows
from ..loops.steps import (
    Scaled,
    Steps,
    arriving,
    at_common_powers,
    direct_cotangents,
    next_step_cotangents,
    scans_of,
)
from ..passes.gradients import gradients_in_bands
from ..passes.scaling import NOT_FINITE, Band, row_norms, times_power, zeros_like
from ..table import text_table
from .viewed_recurrence import ViewedRecurrence
from .weight_parts import flat

Step = dict[str, Node]
"""The states of one step by name."""


class _Parts(NamedTuple):
    """One state's parts at some steps, (T, …) each, and powers of two: of steps (T,), or of rows (T, B)."""

    times: Sequence[int]
    parts: dict[str, Array]
    powers: np.ndarray[Any, Any]


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

    time: np.ndarray[Any, Any]
    grad: Array
    parts: dict[str, Array]
    shares: dict[str, np.ndarray[Any, Any]]
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
    return PathSplits({name: _true(name, some, here.device) for name, some in found.items()})


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
    scans = [Steps(node) for node in scans_of(here.stack)]
    wanted = here.times(times, [t for scan in scans for t in scan.times()])
    pieces: list[tuple[dict[str, dict[str, Array]], Array]] = []
    for scan, (given, total) in zip(scans, arriving(here.root, here.seed, scans), strict=True):
        for steps in scan.chunks(scan.among(wanted)):
            back = next_step_cotangents(scan, steps, total)
            (direct, own), powers = at_common_powers(back, given.at(steps))
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


def _true(name: str, found: _Parts, device: str) -> PathSplit:
    """The parts, multiplied by their powers and moved to a device, and their shares."""
    times, parts, powers = found
    grad = sum(parts.values())
    true = {part: _times_powers(array, powers) for part, array in [*parts.items(), ("", grad)]}
    moved = {part: backend.move(array, device) for part, array in true.items()}
    return PathSplit(np.array(times), moved.pop(""), moved, _shares(parts, powers), name)


def _shares(parts: dict[str, Array], powers: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The share of each part in their sum at every step; see :meth:`.step_rows.Rows.share_of`."""
    powers = powers if powers.ndim == 2 else powers[:, None]
    values = {part: flat(array, len(array)) for part, array in parts.items()}
    shape = (*powers.shape, next(iter(values.values())).size // max(powers.size, 1))
    rows = {part: Rows(array.reshape(shape), powers) for part, array in values.items()}
    whole = Rows(sum(some.values for some in rows.values()), powers)  # type: ignore[arg-type]
    return {part: some.share_of(whole) for part, some in rows.items()}


def _times_powers(array: Array, powers: np.ndarray[Any, Any]) -> Array:
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
    held = [p for array, p in bands if p < NOT_FINITE and backend.norm(array) > 0]
    return max(held, default=0)


def at_power(power: int, node: Node, found: dict[Node, list[Band]]) -> Array:
    """The gradient of a node, divided by 2**power; zeros if there is none."""
    total = zeros_like(node.value)
    with backend.on(total):
        for g, p in found.get(node, []):  # the sum of arrays without axes is a number, no array
            total = backend.namespace(total).asarray(total + times_power(g, p - power))
    return total


# --- saturation and weight ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GainSplit(Drawn):
    """The factor by which one step back in time scales the gradient, split into two.

    Attributes
    ----------
    time : ndarray ``(T,)``
        Step t scales ∂L/∂h_t to what arrives at h_{t−1}.
    saturation : ndarray ``(T,)``
        ‖D δ‖ / ‖δ‖: the factor of the nonlinearity's derivative D.
    weight : ndarray ``(T,)``
        ‖W_hᵀ D δ‖ / ‖D δ‖: the factor of the recurrent matrix.
    gain : ndarray ``(T,)``
        ‖J_tᵀ δ‖ / ‖δ‖, the product of the two.
    """

    time: np.ndarray[Any, Any]
    saturation: np.ndarray[Any, Any]
    weight: np.ndarray[Any, Any]

    @property
    def gain(self) -> np.ndarray[Any, Any]:
        return self.saturation * self.weight

    def __repr__(self) -> str:
        rows = zip(
            *(a.tolist() for a in (self.time, self.saturation, self.weight, self.gain)), strict=True
        )
        return text_table(("t", "saturation", "weight", "gain"), list(rows), 20)

    def chart(self) -> Any:
        """Return the factors over time as an Altair chart."""
        return slide(gain_chart({0: self}))


def gain_split(
    loss: Tensor, path: str | None = None, state: str = "h", *, times: Wanted = None
) -> GainSplit:
    """Split the factor by which each step of a vanilla recurrence scales the gradient: saturation · weight.

    For h_t = σ(z_t), z_t = h_{t−1} W_hᵀ + … linear in h_{t−1}: ‖J_tᵀ δ‖/‖δ‖ = (‖Dδ‖/‖δ‖) ·
    (‖W_hᵀDδ‖/‖Dδ‖), with δ = ∂L/∂h_t and D = σ′(z_t). Norms are Frobenius over (B, H). σ may be any
    elementwise function: z_t is the last value that is linear in h_{t−1}, so a constant factor of z_t
    inside σ counts as weight. The factors are right also where δ itself underflows; they are NaN where it
    is exactly 0, and before the first marked state. Past the end of a sequence, D is 0.

    Parameters
    ----------
    loss, path
        As for :func:`path_split`.
    state : str
        The name of the state.
    times : int or sequence of int, optional
        The wanted time steps; by default all.

    Raises
    ------
    GraphError
        No state was marked. Or the state is not a nonlinearity of a sum: that of an LSTM is a product, that
        of a residual block a sum. Or the sum is not linear in the state before: it is normalized, or states
        between were not marked.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((20, 1, 1)))
    >>> split = tg.inspect.gain_split(output[-1].sum())
    >>> bool((split.saturation <= 1).all())  # the slope of tanh is at most 1
    True
    """
    here = ViewedRecurrence.of(loss, path, "gain_split")
    wanted = here.times(times, here.state(state).times())
    gains = _gains_side_by_side if here.is_fused else _gains_one_by_one
    norms = gains(here, state, wanted)
    saturation, weight = (_ratios(norms[:, i + 1], norms[:, i]) for i in range(2))
    return GainSplit(np.array(wanted), saturation, weight)


_Norms = np.ndarray[Any, Any]
"""The norms of δ, of D δ and of W_hᵀ D δ at every step, times a common factor ``(T, 3)``."""


def _gains_one_by_one(here: ViewedRecurrence, state: str, wanted: list[int]) -> _Norms:
    recurrence = here.stack[state]
    steps = recurrence.steps
    before = dict(zip(steps, [recurrence.initial, *steps.values()], strict=False))
    bands = gradients_in_bands(here.root, here.seed, {steps[t] for t in wanted})
    gradients: list[Array] = []
    for t in wanted:
        node, previous = steps[t], before[t]
        delta = at_power(common_power(bands.get(node, [])), node, bands)
        pre = _pre_activation(node, set() if previous is None else {previous})
        gradients += [delta, *[_sent_from(node, delta, end) for end in (pre, previous)]]
    return np.array(backend.norms(gradients)).reshape(-1, 3)


def _gains_side_by_side(here: ViewedRecurrence, state: str, wanted: list[int]) -> _Norms:
    scans = [Steps(node) for node in scans_of(here.stack)]
    found = []
    for scan, (_, total) in zip(scans, arriving(here.root, here.seed, scans), strict=True):
        part = scan.scan.parts.index(state)
        for steps in scan.chunks(scan.among(wanted)):
            whole = total.at(steps)
            own = Scaled(whole.values[part : part + 1], whole.powers)
            (delta,), _ = at_common_powers(own, by_step=True)
            delta = delta.reshape(-1, delta.shape[-1])
            side = scan.at(steps)
            node, previous = side.after[state], side.before[state]
            # the first step has no state before; other parts' initial states do not count
            before = side.before.values() if steps.any() else [previous]
            pre = _pre_activation(node, set(before))
            gradients = delta, *[_sent_from(node, delta, end) for end in (pre, previous)]
            rows = [flat(g, len(steps)) for g in gradients]
            if scan is not scans[0]:  # between windows of truncated backpropagation nothing flows
                rows[2][steps == 0] = 0.0
            found.append(np.stack([row_norms(g) for g in rows], axis=1))
    return np.concatenate(found)


def _sent_from(node: Node, delta: Array, end: Node | None) -> Array:
    """The cotangent of ``end`` from a state's gradient; NaN if there is no such node."""
    if end is None:
        return np.full((), np.nan)
    return delta if end is node else direct_cotangents({node: delta}, {end})[end]


_LINEAR = {
    *("add", "subtract", "negative", "sum", "cumulative_sum", "concat", "stack", "flip", "index"),
    *("mean", "scatter_add", "permute_dims", "reshape", "broadcast_to", "astype", "to_device"),
}
_LINEAR_IN_EACH = {"multiply", "matmul", "einsum"}
"""Products, of which one factor may come from the state before."""


def _pre_activation(node: Node, before: Set[Node]) -> Node | None:
    """The last value on the way to a state that is linear in the state before: z of h = σ(z).

    σ is everything after it, and may consist of several elementwise operations. ``before`` are the state
    before and other values computed from it. If there are none, or the state does not depend on them, z is
    linear in the values with which the elementwise operations begin, or None.
    """
    bends = _bends(node, before)
    if node not in bends:
        before = set()
        bends = _bends(node, _beginnings(node))
    front, last = {node}, node  # the state depends on the past through these alone
    while len(front) > 1 or bends[last]:
        if last in before or not _is_elementwise(last, node):
            if not before:
                return None
            _refuse_split(node, bends[last])
        front.remove(last)
        front |= {x for x in _recorded(last) if x in bends}
        last = max(front, key=lambda x: x.order)
    return last


def _beginnings(node: Node) -> set[Node]:
    """The values with which the elementwise operations up to a state begin; parameters only if all are."""
    found, seen, left = set(), {node}, [node]
    while left:
        x = left.pop()
        if _is_elementwise(x, node):
            left += [y for y in _recorded(x) if y not in seen]
            seen.update(left)
        else:
            found.add(x)
    return {x for x in found if x.primitive is not None} or found


def _is_elementwise(node: Node, like: Node) -> bool:
    elementwise = node.primitive is not None and node.primitive.jvp == "elementwise"
    return elementwise and node.value.shape == like.value.shape


def _refuse_split(node: Node, bend: Node | None) -> NoReturn:
    if bend is None or bend is node:
        raise GraphError(
            f"gain_split: the state {_made(node)} is not a nonlinearity of a sum, so saturation and "
            "weight cannot be told apart; path_split splits any state"
        )
    raise GraphError(
        f"gain_split: the state {_made(node)} depends on the state before through {bend.op}, which "
        "is not linear, so saturation and weight cannot be told apart; mark all states between "
        "them; path_split splits any state"
    )


def _made(node: Node) -> str:
    """The operation that computed a state, and where."""
    place = node.place()
    return f"made by {node.op}{place}," if place else f"made by {node.op}"


def _bends(end: Node, starts: Set[Node]) -> dict[Node, Node | None]:
    """By node between, the first operation up to it that is not linear in ``starts``, or None."""
    found: dict[Node, Node | None] = dict.fromkeys(starts)
    oldest = min([start.order for start in starts], default=end.order)
    for node in ancestors([end], ends=starts, oldest=oldest):
        sources = [x for x in _recorded(node) if x in found]
        if sources and node not in starts:
            first = next((found[x] for x in sources if found[x]), None)
            found[node] = first or (node if _is_bent(node, sources) else None)
    return found


def _is_bent(node: Node, sources: list[Node]) -> bool:
    """Whether an operation is not linear in some of its inputs."""
    inputs: Any = node.inputs
    divided = node.op == "divide" and inputs[1] not in sources
    product = node.op in _LINEAR_IN_EACH and len(sources) == 1
    return not (node.op in _LINEAR or product or divided)


def _recorded(node: Node) -> list[Node]:
    """The inputs that require gradients, as often as they occur."""
    return [x for x in node.inputs or () if isinstance(x, Node) and x.requires_grad]


def _ratios(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)
