"""``gain_split``: the factor by which one step back scales a gradient, split into saturation and weight."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import ancestors
from ...engine.recording import Node
from ...errors import GraphError
from ...tensors.tensor import Tensor
from ..charts.pictures import Drawn, slide
from ..charts.view_charts import gain_chart
from ..loops.recurrences import Wanted
from ..loops.steps import Scaled, at_common_powers, direct_cotangents, state_cotangents
from ..passes.gradients import gradients_in_bands
from ..passes.scaling import HostArray, host_rows, row_norms
from ..table import text_table
from .path_split import at_power, common_power
from .viewed_recurrence import ViewedRecurrence


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

    time: HostArray
    saturation: HostArray
    weight: HostArray

    @property
    def gain(self) -> HostArray:
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


_Norms = HostArray
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
        gradients += [delta, *[_cotangent_of(node, delta, end) for end in (pre, previous)]]
    return np.array(backend.norms(gradients)).reshape(-1, 3)


def _gains_side_by_side(here: ViewedRecurrence, state: str, wanted: list[int]) -> _Norms:
    found = []
    windows = state_cotangents(here.root, here.seed, here.stack)
    for k, (scan, _, total) in enumerate(windows):
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
            gradients = delta, *[_cotangent_of(node, delta, end) for end in (pre, previous)]
            rows = [host_rows(g, len(steps)) for g in gradients]
            if k:  # between windows of truncated backpropagation nothing flows
                rows[2][steps == 0] = 0.0
            found.append(np.stack([row_norms(g) for g in rows], axis=1))
    return np.concatenate(found)


def _cotangent_of(node: Node, delta: Array, end: Node | None) -> Array:
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
            "weight cannot be separated; path_split splits any state"
        )
    raise GraphError(
        f"gain_split: the state {_made(node)} depends on the state before through {bend.op}, which "
        "is not linear, so saturation and weight cannot be separated; mark all states between "
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


def _ratios(a: HostArray, b: HostArray) -> HostArray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)
