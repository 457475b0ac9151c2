"""The views beside the curves: shares, gains, losses by states, singular values, weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors
from ...engine.recording import Leaf, Node, wrap
from ...errors import FreedGraphError, GraphError, InPlaceError, ShapeError
from ...tensors.tensor import Tensor
from ..charts.drawn_steps import spread
from ..charts.view_arrays import Matrix, Shares, SingularValues, StepNorms
from ..loops.recurrences import Recurrence, Stack, one_stack, recurrences
from ..loops.steps import at_common_powers, state_cotangents
from ..passes.gradients import gradients_in_bands, gradients_inside
from ..passes.scaling import HostArray, log10_norm, zeros_like
from ..views.gain_split import GainSplit, gain_split
from ..views.grad_matrices import norms_of_each
from ..views.path_split import at_power, common_power, path_split, steps_of
from ..views.step_jacobians import jacobians_among
from ..views.viewed_recurrence import ViewedRecurrence
from ..views.weight_grad import weight_grad_by_time

_WHAT = "linked_views"
_View = TypeVar("_View")


@dataclass(frozen=True, slots=True)
class LinkedViews:
    """The views of one recurrence. A str in the place of a view says why the recurrence lacks it.

    Attributes
    ----------
    path : str
    time : ndarray ``(K,)``
        The time steps that are drawn.
    shares : Shares or str
        Shares of the state with the most paths back: an LSTM's ``c``.
    gain : GainSplit or str
    matrix : Matrix or str
        ‖∂L_k/∂h_t‖, where L_k is the part of the loss that reads the states of step k directly.
    singular : SingularValues or str
    weights : StepNorms or str
        ‖∂L/∂W‖ by the step that uses W.
    """

    path: str
    time: HostArray
    shares: Shares | str
    gain: GainSplit | str
    matrix: Matrix | str
    singular: SingularValues | str
    weights: StepNorms | str


def linked_views(
    loss: Tensor, path: str | None, kept: Sequence[int], *, sample: int = 0
) -> LinkedViews:
    """Gather the views beside the curves of one recurrence.

    Parameters
    ----------
    loss : Tensor
        A single element.
    path : str or None
        As in :func:`path_split`.
    kept : sequence of int
        The time steps that are drawn. Expensive views take fewer of them, evenly spread.
    sample : int
        The sequence of the batch whose Jacobians are taken.

    Raises
    ------
    UnknownPathError, ArgumentError
        No such path, or no such time step.
    FreedGraphError, InPlaceError
        The graph was freed, or a Tensor in it was changed.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> from tinygrad182.inspect.microscope.linked_views import linked_views
    >>> lstm = tg.nn.LSTM(1, 8, rng=0)
    >>> output, _ = lstm(tg.ones((20, 1, 1)))
    >>> views = linked_views((output**2).sum(), None, range(20))
    >>> list(views.shares.parts)
    ['direct', 'via h', 'local']
    >>> views.matrix.log10_norm.shape
    (20, 20)
    >>> print(views.gain)
    h is a product of two factors, so saturation and weight cannot be separated; see the shares
    """
    times = sorted(kept)
    here = ViewedRecurrence.of(loss, path, _WHAT)
    state = "h" if "h" in here.stack else next(iter(here.stack))
    return LinkedViews(
        path or "",
        np.array(times),
        _or_reason(lambda: _shares(loss, path, here.stack, times)),
        _gain(loss, path, state, times),
        _or_reason(lambda: _matrix(here, here.stack[state], times)),
        _or_reason(lambda: _singular_values(loss, path, here.stack, times, sample)),
        _or_reason(lambda: _weights(loss, path, times)),
    )


def _or_reason(find: Callable[[], _View]) -> _View | str:
    """A view, or the first clause of the error that says why the recurrence lacks it."""
    try:
        return find()
    except (FreedGraphError, InPlaceError):
        raise
    except (GraphError, ShapeError) as error:
        return re.sub(r"^\w+: ", "", str(error)).partition(", so ")[0].partition("; ")[0]


def _gain(loss: Tensor, path: str | None, state: str, times: list[int]) -> GainSplit | str:
    """The split into saturation and weight, or a sentence about how the state is made instead."""
    found = _or_reason(lambda: gain_split(loss, path, state, times=times))
    if not isinstance(found, str):
        return found
    for what, made in _MADE.items():
        if found.startswith(f"the state made by {what}"):
            return (
                f"{state} is {made}, so saturation and weight cannot be separated; see the shares"
            )
    return found


_MADE = {
    "multiply": "a product of two factors",
    "add": "a sum, and a nonlinearity makes only a part of it",
    "subtract": "a difference, and a nonlinearity makes only a part of it",
}
"""A state that is not a nonlinearity of a sum, by the operation that made it."""


# --- shares, gains, singular values ----------------------------------------------------------------

SPLIT = 500_000
"""Largest number of elements of a state, over all steps, that are split."""


def _shares(loss: Tensor, path: str | None, stack: Stack, times: list[int]) -> Shares:
    """The shares of the state with the most parts, or of the last such state."""
    each = max(math.prod(shape) for shape in _shapes(stack))
    splits = path_split(loss, path, times=spread(times, max(100, SPLIT // max(each, 1))))
    name = max(reversed(splits), key=lambda name: len(splits[name].shares))
    return Shares(splits[name].time, name, splits[name].shares)


def _singular_values(
    loss: Tensor, path: str | None, stack: Stack, times: list[int], sample: int
) -> SingularValues:
    """Singular values of as many steps as take a fraction of a second."""
    size = sum(_units(shape) for shape in _shapes(stack))
    most = max(5, min(50, int(4e9 / max(size, 1) ** 3)))

    def choose(there: Sequence[int]) -> list[int]:
        return spread(sorted(set(times).intersection(there)), most)

    found = jacobians_among(loss, path, sample, choose)
    if not len(found.time):
        raise GraphError(f"{_WHAT}: sequence {sample} has no step with one before it")
    return found.in_order()


def _shapes(stack: Stack) -> list[tuple[int, ...]]:
    """The shape of each part of the state at one step."""
    return [
        tuple(r.fused[0][0].value.shape[-2:])
        if r.fused
        else tuple(next(iter(r.steps.values())).value.shape)
        for r in stack.values()
    ]


def _units(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:] if len(shape) > 1 else shape)


# --- what enters at one step, and what it says about each state -----------------------------------

LOSSES = 40
"""Largest number of rows, and of columns, of the matrix."""

TOGETHER = 1 << 20
"""Elements of all states in one backward pass."""

IN_ALL = 25 * TOGETHER
"""Elements in all backward passes together; a large recurrence gets fewer rows."""


class _Entry(NamedTuple):
    """The gradient that the loss sends straight to the states of one step.

    Attributes
    ----------
    time : int
    parts : list of (Node, key, array)
        The arrays, and the elements of a node's cotangent to which they are added.
    power : int
        The power of two that all arrays are to be multiplied by.
    """

    time: int
    parts: list[tuple[Node, tuple[Any, ...], Array]]
    power: int


def _matrix(here: ViewedRecurrence, recurrence: Recurrence, times: list[int]) -> Matrix:
    """The gradients that enter at some steps, each carried back alone."""
    entries = _entries_whole(here) if here.is_fused else _entries(here)
    wanted = [entry for entry in entries if entry.time in set(times)]
    if len(wanted) < 2:
        if not entries:
            raise GraphError(f"{_WHAT}: the loss reads none of these states")
        where = f"t = {entries[-1].time}"
        raise GraphError(
            f"{_WHAT}: the loss reads one step only, {where}, and the curve shows the only row"
        )
    size = max(len(recurrence.times()) * sum(map(math.prod, _shapes(here.stack))), 1)
    chosen = spread(wanted, max(8, min(LOSSES, IN_ALL // size)))
    columns = spread(times, LOSSES)
    count = max(1, TOGETHER // size)
    logs = [
        _carried(recurrence, chosen[i : i + count], columns) for i in range(0, len(chosen), count)
    ]
    return Matrix(
        np.array([entry.time for entry in chosen]),
        np.array(columns),
        recurrence.name,
        np.concatenate(logs),
    )


def _carried(recurrence: Recurrence, entries: list[_Entry], columns: list[int]) -> HostArray:
    """log10 norms of the gradients of a state, (entries, columns)."""
    seeds: dict[Node, Array] = {}
    for i, entry in enumerate(entries):
        for node, key, value in entry.parts:
            if node not in seeds:
                seeds[node] = zeros_like(node.value, (len(entries),))
            seeds[node][(i, *key)] = value
    states = recurrence.states() if recurrence.fused else [recurrence.steps[t] for t in columns]
    found = gradients_inside(list(seeds.items()), set(states))
    _, logs = norms_of_each(recurrence, found, len(entries), columns)
    powers = np.array([entry.power for entry in entries])
    return (logs.T + powers[:, None] * math.log(2)) / math.log(10)


def _entries_whole(here: ViewedRecurrence) -> list[_Entry]:
    """The gradients that enter a recurrence that was run as one operation."""
    found = []
    for scan, outside, _ in state_cotangents(here.root, here.seed, here.stack):
        read = np.flatnonzero((outside.values != 0).any(axis=(0, 2, 3)))
        (values,), powers = at_common_powers(outside.at(read), by_step=True)
        front = (slice(None),) if scan.node.value.ndim == 4 else ()
        for i, step in enumerate(read.tolist()):
            value = values[:, i] if front else values[0, i]
            part = (scan.node, (*front, step), value)
            found.append(_Entry(scan.start + step, [part], int(powers[i, 0])))
    return found


def _entries(here: ViewedRecurrence) -> list[_Entry]:
    """The gradients that enter a loop. A state that is passed on unchanged counts for its last step."""
    steps = steps_of(here.stack)
    states = {node for step in steps.values() for node in step.values()}
    local = gradients_in_bands(here.root, here.seed, states, stop=True)
    found, left = [], dict(local)
    for t, step in reversed(steps.items()):
        bands = {node: left.pop(node) for node in step.values() if node in left}
        if all(backend.norm(g) == 0 for some in bands.values() for g, _ in some):
            continue
        power = common_power(band for some in bands.values() for band in some)
        found.append(_Entry(t, [(n, (), at_power(power, n, bands)) for n in bands], power))
    return sorted(found, key=lambda entry: entry.time)


# --- weights ---------------------------------------------------------------------------------------

MOST_WEIGHTS = 4
"""Largest number of curves in a small picture."""


def _weights(loss: Tensor, path: str | None, times: list[int]) -> StepNorms:
    """Norms of weights that all steps share, or of weights that each step has for itself."""
    ((root, seed),) = seeds_of([loss], [None], False, _WHAT)
    stack = one_stack(root, path, _WHAT)
    first, *others = _weights_used(root, stack, spread(times[1:] or times, 3)).values()
    shared = [leaf for leaf in first if all(leaf in some for some in others)]
    if shared and len(times) > 1:
        norms = _of_shared(loss, shared, times)
    else:
        norms = _of_each_step(root, seed, _weights_used(root, stack, times), times)
    if not norms:
        raise GraphError(f"{_WHAT}: no step uses a matrix that requires grad")
    return StepNorms(np.array(times), norms)


def _of_shared(loss: Tensor, weights: list[Node], times: list[int]) -> dict[str, HostArray]:
    norms: dict[str, HostArray] = {}
    refused = None
    for leaf in weights[:MOST_WEIGHTS]:
        try:
            logs = weight_grad_by_time(
                loss, wrap(leaf.value, leaf), norm_only=True, log=True, times=times
            )
        except (FreedGraphError, InPlaceError):
            raise
        except GraphError as error:
            refused = error
        else:
            norms[_name(leaf, norms)] = logs / math.log(10)
    if refused is not None and not norms:
        raise refused
    return norms


def _of_each_step(
    root: Node, seed: Array, at: Mapping[int, Iterable[Node]], times: list[int]
) -> dict[str, HostArray]:
    """Norms for weights that belong to one step each, such as the layers of a deep network."""
    roles: dict[str, dict[int, Node]] = {}
    for t in times:
        for leaf in at.get(t, ()):
            role = re.sub(r"(^|\.)\d+(\.|$)", r"\1*\2", getattr(leaf, "name", "")) or "W"
            roles.setdefault(role, {})[t] = leaf
    roles = {role: roles[role] for role in list(roles)[:MOST_WEIGHTS]}
    targets = {leaf for by_time in roles.values() for leaf in by_time.values()}
    bands = gradients_in_bands(root, seed, targets)
    norms = {}
    for role, by_time in roles.items():
        logs = [log10_norm(bands.get(by_time[t], ())) if t in by_time else math.nan for t in times]
        norms[role] = np.array(logs)
    return norms


def _weights_used(root: Node, stack: Stack, times: Sequence[int]) -> dict[int, list[Node]]:
    """The matrices that each of some steps uses."""
    first = next(iter(stack.values()))
    if first.fused:
        scan = first.fused[0][0]
        given: Any = (scan.inputs or ())[1 + len(scan.primitive.parts) :]  # type: ignore[union-attr]
        return {t: [x for x in given if _is_matrix(x)] for t in times}
    graph = ancestors([root], constants=True)
    states = {node for r in recurrences(graph) for node in r.nodes()}
    steps = steps_of(stack)
    behind = {t: ancestors(steps[t].values(), ends=states) for t in times}
    return {t: [x for x in some if _is_matrix(x) and x not in states] for t, some in behind.items()}


def _is_matrix(x: Any) -> bool:
    """Whether a node is a parameter that multiplies inputs or states."""
    leaf = isinstance(x, Leaf) and x.requires_grad
    return leaf and (x.value.ndim == 2 or (bool(x.name) and x.value.ndim > 2))


def _name(leaf: Node, taken: Mapping[str, Any]) -> str:
    name = getattr(leaf, "name", "").rpartition(".")[2] or "W " + "×".join(
        map(str, leaf.value.shape)
    )
    return name if name not in taken else f"{name} ({len(taken) + 1})"
