"""``grad_by_hops``: a gradient by the number of hops, passages through a state or a branch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..._numbers import check_whole
from ...arrays import backend
from ...arrays.namespaces import Array
from ...engine.backpropagation import ancestors, backpropagate
from ...engine.modes import modes_kept, no_grad
from ...engine.recording import Node
from ...errors import GraphError
from ...kernels.powers import times_rows
from ...recurrence.scans import is_scan
from ...tensors.tensor import Tensor
from ..loops.recurrences import Recurrence, Wanted, run_backward
from ..loops.steps import scans_of
from ..loops.times import node_times
from ..passes.scaling import HostArray, row_norms, sample_norms, shifted, total_norms
from ..table import text_table
from .hop_polynomials import (
    Coefficients,
    InsideScans,
    Polynomials,
    WithPowers,
    at_coefficient_powers,
    in_float64,
)
from .viewed_recurrence import ViewedRecurrence

MOST_COLUMNS = 6
"""Most columns that are printed; if there are more, the first ones and the last."""


@dataclass(frozen=True, slots=True)
class HopSplit:
    """The gradient by one state over time, split by the number of hops.

    Attributes
    ----------
    time : ndarray ``(T,)``
    grad : array ``(J+1, T, B, H)``
        Part j came over exactly j hops.
    rest : array ``(T, B, H)``
        The part that came over more than J hops.
    grad_norm : ndarray ``(J+1, T)``
        Frobenius norms of the parts over (B, H), float64: right also where ``grad``, in the model's
        dtype, underflows to 0 or overflows.
    """

    time: HostArray
    grad: Array
    rest: Array
    grad_norm: HostArray

    def __repr__(self) -> str:
        hops = range(len(self.grad_norm))
        shown = [*hops] if len(hops) <= MOST_COLUMNS else [*hops[: MOST_COLUMNS - 1], hops[-1]]
        header = ("t", *(f"‖{j} hops‖" for j in shown))
        rows = zip(self.time.tolist(), *self.grad_norm[shown].tolist(), strict=True)
        return text_table(header, list(rows), 20)


def grad_by_hops(
    loss: Tensor,
    max_hops: int = 4,
    *,
    state: str = "h",
    through: str = "h",
    path: str | None = None,
    times: Wanted = None,
) -> HopSplit:
    """Split the gradient by a state by the number of hops on the way.

    A hop is one passage through something marked ``through``. If the mark has a time step, a hop goes from
    that state to a later step (to an earlier one, if the loop runs from the last step to the first). If it
    has none, any use is a hop. In an LSTM, ``state="c", through="h"`` separates the cell path (no hops)
    from paths through hidden states; in a residual network, ``through="branch"`` separates the skips from
    the branches.

    Cotangents are carried as polynomials: each hop multiplies by λ, and the coefficient of λʲ is the part
    that came over exactly j hops. Hops through states of that name count in every module.

    Parameters
    ----------
    loss : Tensor
        A single element.
    max_hops : int
        J, from 0. The cost is at most that of J + 2 backward passes.
    state : str
        Name of the state by which the gradient is taken.
    through : str
        Name of the marks that hops go through.
    path : str, optional
        The module that has the state; needed if several have states.
    times : int or sequence of int, optional
        The wanted time steps; by default all.

    Raises
    ------
    GraphError
        No state was marked, or nothing is marked ``through``.
    ArgumentError
        A negative ``max_hops``, or no such time step.
    UnknownPathError
        No such path or state.

    Notes
    -----
    Time and memory are linear in T. The result holds (J + 2) · T · B · H numbers. Computing it takes up to
    (25 + 33 · (J + 2)) · T · B · H bytes for a fused layer, the result included (75 to 90 without hops, 170
    to 190 with three), and as much with I in the place of H if the state is in a layer below. If hops go
    through states of your own loop or of an unfused layer, all layers are opened, and the polynomials go
    through every operation of every step, whose values are copied in float64: about 6 s for T = 4,000 and
    H = 32, most of it in Python.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> lstm = tg.nn.LSTM(1, 8, rng=0)
    >>> output, _ = lstm(tg.ones((20, 1, 1)))
    >>> hops = tg.inspect.grad_by_hops(output[-1].sum(), 2, state="c")
    >>> hops.grad.shape
    (3, 20, 1, 8)
    """
    count = check_whole("grad_by_hops", "max_hops", max_hops, 0) + 2
    opens = partial(_are_recorded_steps, through)
    here = ViewedRecurrence.of(loss, path, "grad_by_hops", opens=opens)
    recurrence = here.state(state)
    recurrence.check_shapes(here.view)
    wanted = here.times(times, recurrence.times())
    hops = _Hops(ancestors([here.root], constants=True), through)
    by_hops = _side_by_side if recurrence.fused else _one_by_one
    parts, norms = by_hops(here, recurrence, hops, count, wanted)
    parts = backend.move(parts, here.device)
    return HopSplit(np.array(wanted), parts[:-1], parts[-1], norms[:-1])


def _are_recorded_steps(through: str, root: Node) -> bool:
    """Whether hops go through states that were recorded step by step."""
    return any(
        mark.name == through and mark.scope.time is not None and mark.scope.time >= 0
        for node in ancestors([root], constants=True)
        for mark in node.marks
    )


class _Hops:
    """Says which edges of a graph are hops.

    Raises
    ------
    GraphError
        Nothing is marked ``through``.
    """

    def __init__(self, graph: list[Node], through: str) -> None:
        self.through = through
        self.times, self._backward = node_times(graph), run_backward(graph)
        parts = [p for node in graph if is_scan(node) for p in node.primitive.parts]  # type: ignore[union-attr]
        known = dict.fromkeys(parts + [mark.name for node in graph for mark in node.marks])
        if through not in known:
            there = ", ".join(f"through={name!r}" for name in known)
            raise GraphError(
                f"grad_by_hops: nothing in this graph is marked {through!r}; pass {there}, or name "
                f'it where it is computed: tg.inspect.mark(x, "{through}")'
            )

    def uses(self, parent: Node, time: int | None) -> bool:
        """Whether the use of a node at a time step, or at none, is a hop."""
        for mark in parent.marks:
            if mark.name == self.through:
                before = mark.scope.time
                if before is None or time is None:
                    return before is None
                return time < before if parent in self._backward else time > before
        return False

    def edge(self, consumer: Node, parent: Node) -> bool:
        """Whether an edge is a hop."""
        return self.uses(parent, self.times.get(consumer))


_ByHops = tuple[Array, HostArray]
"""The coefficients (J + 2, T, …) in the model's dtype, and their norms (J + 2, T)."""


def _side_by_side(
    here: ViewedRecurrence, recurrence: Recurrence, hops: _Hops, count: int, wanted: list[int]
) -> _ByHops:
    """Split the gradient by the states of fused layers."""
    sums = Polynomials(count - 1)
    scans = InsideScans(sums, hops.through, hops.uses, hops.times, dict(recurrence.fused))
    _carry(here, set(scans.watched), hops, scans)
    found = [scans.of(node) for node in scans_of(here.stack)]
    at = np.searchsorted(recurrence.times(), wanted)
    values, powers = (np.concatenate(each, axis=1)[:, at] for each in zip(*found, strict=True))
    with np.errstate(over="ignore", under="ignore"):
        whole = times_rows(np, values, powers).astype(here.seed.dtype, copy=False)
    legs = [sample_norms(v)[None] for v in values]
    pairs = zip(legs, powers, strict=True)
    return whole, np.stack([total_norms(leg, power[None])[0] for leg, power in pairs])


@modes_kept
def _one_by_one(
    here: ViewedRecurrence, recurrence: Recurrence, hops: _Hops, count: int, wanted: list[int]
) -> _ByHops:
    """Split the gradient by states that were recorded step by step."""
    twins = in_float64(here.root)
    original = {twin: node for node, twin in twins.items()}
    nodes = [recurrence.steps[t] for t in wanted]
    sums = Coefficients(count, lambda node, parent: hops.edge(original[node], original[parent]))
    found: dict[Node, WithPowers] = {}

    def arrive(node: Node, g: Array) -> None:
        if node in targets:
            found[node] = g, sums.powers

    targets = {twins[node] for node in nodes if node in twins}
    with no_grad():
        backpropagate(
            [(twins[here.root], backend.namespace(here.seed).to_numpy(here.seed))],
            targets,
            visit=arrive,
            retain_graph=True,
            cotangents=sums,
            pull=sums.pull,
        )
    shape = (count, *recurrence.steps[wanted[0]].value.shape)
    nothing = np.zeros(shape), np.zeros((1,) * len(shape), np.int64)
    every = [found.get(twins.get(node, node), nothing) for node in nodes]
    with np.errstate(over="ignore", under="ignore"):
        parts = np.stack([shifted(*each) for each in every], axis=1)
        xp = backend.namespace(here.seed)
        with backend.on(here.seed):
            whole = xp.astype(xp.asarray(parts), here.seed.dtype)
    return whole, np.array([_norms(*each) for each in every]).T


def _norms(values: Array, powers: Array) -> Array:
    """The norm of every coefficient, whose rows have powers."""
    whole, top = at_coefficient_powers(values, powers)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(row_norms(whole.reshape(len(whole), -1)), top)


@modes_kept
def _carry(here: ViewedRecurrence, targets: set[Node], hops: _Hops, scans: InsideScans) -> None:
    """Carry polynomials back to the states of fused layers."""
    sums = scans.sums

    def arrive(node: Node, g: Array) -> None:
        if is_scan(node):
            scans.arrive(node)

    def edge(consumer: Node, parent: Node, cotangent: Any) -> Any:
        sums.hop = hops.edge(consumer, parent)
        return cotangent

    seed = here.seed[None, ...]
    with no_grad(), backend.on(seed):
        backpropagate(
            [(here.root, seed)],
            targets,
            visit=arrive,
            edge=edge,
            retain_graph=True,
            cotangents=sums,
            pull=scans.pull,
        )
        scans.finish()
