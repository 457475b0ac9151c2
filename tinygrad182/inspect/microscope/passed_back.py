"""The gradient that a step passes back over the path of the state alone, and the factors on that path."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors
from ...engine.memory import in_pass
from ...engine.modes import enable_grad, modes_kept
from ...engine.recording import Node, wrap
from ...recurrence.scans import is_scan
from ...tensors.tensor import Tensor
from ..loops.recurrences import Recurrence, Stack, stacks_of
from ..loops.steps import Steps, scans_of, state_cotangents
from ..passes.gradients import gradients_in_bands
from ..passes.scaling import NOT_FINITE, Band, HostArray, shifted, times_power, zeros_like
from ..views.gate_names import gate_names
from ..views.viewed_recurrence import ViewedRecurrence

# --- the last step that the loss reads ------------------------------------------------------------


class Far(NamedTuple):
    """A loss that reads one step only: the last one that the original loss reads.

    Attributes
    ----------
    loss : Tensor
        A sum over states with the original loss's gradient at its last step; or that loss itself if it
        reads one step only.
    reads : dict of str to list of int
        The steps at which the loss reads a recurrence's states directly.
    last : dict of str to set of str
        The names of the states that it reads at the last of them.
    """

    loss: Tensor
    reads: dict[str, list[int]]
    last: dict[str, set[str]]


def far(loss: Tensor) -> Far:
    """Reduce a loss to the last step that it reads of each recurrence.

    A loss over all steps sends a new gradient to every state. That hides what becomes of the gradient that
    comes from far away.
    """
    ((root, seed),) = seeds_of([loss], [None], False, "story")
    stacks = stacks_of(ancestors([root], constants=True), "story")
    states = {node for stack in stacks.values() for r in stack.values() for node in r.states()}
    bands = gradients_in_bands(root, seed, states, stop=True)
    own = {path: _own(stack, bands) for path, stack in stacks.items()}
    reads = {path: sorted(steps) for path, steps in own.items()}
    last = {path: steps[max(steps)] if steps else [] for path, steps in own.items()}
    names = {path: {g.state for g in some} for path, some in last.items()}
    every = [g for some in last.values() for g in some]
    powers = [g.power for g in every]
    if not every or all(len(steps) < 2 for steps in reads.values()) or max(powers) >= NOT_FINITE:
        return Far(loss, reads, names)
    return Far(in_pass(_sum_of, every, max(powers), grad=True), reads, names)


class _Own(NamedTuple):
    """The gradient that the loss sends straight to one state, and the state's place in its node."""

    state: str
    node: Node
    at: tuple[Any, ...]
    grad: Any
    power: int


def _own(stack: Stack, bands: dict[Node, list[Band]]) -> dict[int, list[_Own]]:
    """Gradients that the loss sends straight to states, by step in the order of the run, without zeros.

    A gradient past the end of a sequence goes nowhere and is left out.
    """
    found: dict[int, list[_Own]] = {}
    for name, r in stack.items():
        for node, part in r.fused:
            start = node.params.get("start", 0)
            for g, power in bands.get(node, []):
                whole = _going(node, g.reshape(-1, *g.shape[-3:])[part])
                xp = backend.namespace(g)
                for i in np.flatnonzero(xp.to_numpy(xp.any(whole != 0, axis=(1, 2)))).tolist():
                    at = (part, i) if node.value.ndim == 4 else (i,)
                    found.setdefault(start + i, []).append(
                        _Own(name, node, at, whole[i], int(power))
                    )
        for t, node in r.steps.items():
            for g, power in bands.get(node, []):
                some = _going(node, g)
                if bool(backend.namespace(g).any(some != 0)):
                    found.setdefault(t, []).append(_Own(name, node, (), some, int(power)))
    return found


def _going(node: Node, g: Any) -> Any:
    """A gradient by states, with zeros for sequences that have ended, whose states are frozen."""
    inputs: tuple[Any, ...] = node.inputs or ()
    xp = backend.namespace(g)
    with backend.on(g):
        if is_scan(node):
            lengths = node.primitive.operands(inputs).lengths  # type: ignore[union-attr]
            if lengths is None:
                return g
            steps = xp.reshape(xp.arange(len(g)), (-1, 1, 1))
            return xp.where(xp.reshape(_value(lengths), (-1, 1)) > steps, g, xp.zeros_like(g))
        if node.op == "where" and not getattr(inputs[2], "requires_grad", False):
            return xp.where(_value(inputs[0]), g, xp.zeros_like(g))
    return g


@modes_kept
def _sum_of(states: list[_Own], top: int) -> Tensor:
    with enable_grad():
        terms = []
        for _, node, at, grad, power in states:
            state = wrap(node.value, node)
            weights = wrap(times_power(grad, power - top))
            terms.append(((state[at] if at else state) * weights).sum())
        return reduce(operator.add, terms)


# --- the path of the state alone ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Carried:
    """The gradient that some steps pass back by sums and gates alone, from a state to the one before.

    Attributes
    ----------
    time : ndarray ``(n,)``
    value : ndarray ``(n,)``
        The mean of m, the factor that the state before is multiplied by.
    straight : ndarray ``(n,)``
        ‖m ∘ δ_t‖ / ‖δ_t‖, where δ_t is the gradient by the state.
    around : ndarray ``(n,)``
        ‖δ_{t−1} − m ∘ δ_t‖ / ‖δ_t‖: the part over all other paths.
    share : ndarray ``(n,)``
        ⟨m ∘ δ_t, δ_{t−1}⟩ / ‖δ_{t−1}‖²: the share of the gradient by the state before.
    """

    time: HostArray
    value: HostArray
    straight: HostArray
    around: HostArray
    share: HostArray


class _Delta(NamedTuple):
    """A gradient, divided by 2**power."""

    value: HostArray
    power: int


class _Step(NamedTuple):
    """One step: the factor of the state before (None if there is no such path), and both gradients."""

    time: int
    factor: HostArray | None
    after: _Delta
    before: _Delta


class Path:
    """The path of the state alone through a recurrence, if a state has one.

    Attributes
    ----------
    state : str
        The state with such a path, or else the first.
    gate : str
        The name of the gate that multiplies the state before; ``""`` for none, or several.
    exists : bool
        Whether a state has such a path; a vanilla RNN has none.
    """

    def __init__(self, loss: Tensor, path: str) -> None:
        self._here = ViewedRecurrence.of(loss, path, "story")
        self.state, self.gate, self.exists = next(iter(self._here.stack)), "", False
        after, before = self._any_step()
        for name in reversed(after):
            if name in before:
                factor, gates = _factor(after[name], before[name])
                if factor is not None:
                    self.state, self.exists = name, True
                    self.gate = _gate(factor, gates, after, before)
                    return

    def _any_step(self) -> tuple[dict[str, Node], dict[str, Node]]:
        """The states of a step, and those of the step before."""
        if self._here.is_fused:
            side = Steps(scans_of(self._here.stack)[0]).at(np.array([0]))
            return side.after, side.before
        runs = {name: list(r.steps.values()) for name, r in self._here.stack.items()}
        after = {name: run[-1] for name, run in runs.items()}
        return after, {name: run[-2] for name, run in runs.items() if len(run) > 1}

    def at(self, times: Sequence[int]) -> Carried:
        """Measure some steps. The first step of all has no step before it and is left out."""
        steps = list(self._side_by_side(times) if self._here.is_fused else self._one_by_one(times))
        figures = np.array([_figures(step) for step in steps]).reshape(-1, 4)
        return Carried(np.array([step.time for step in steps]), *figures.T)

    def _side_by_side(self, times: Sequence[int]) -> Iterator[_Step]:
        here = self._here
        for scan, _, total in state_cotangents(here.root, here.seed, here.stack):
            part = scan.scan.parts.index(self.state)
            steps = scan.among(times)
            for i in steps[steps > 0].tolist():
                side = scan.at(np.array([i]))
                factor, _ = _factor(side.after[self.state], side.before[self.state])
                deltas = [_delta(total.values[part, k], total.powers[k]) for k in (i, i - 1)]
                yield _Step(scan.start + i, factor, *deltas)

    def _one_by_one(self, times: Sequence[int]) -> Iterator[_Step]:
        run, wanted = list(self._here.stack[self.state].steps.items()), set(times)
        pairs = [(t, a, b) for (_, b), (t, a) in pairwise(run) if t in wanted]
        targets = {node for _, *both in pairs for node in both}
        bands = gradients_in_bands(self._here.root, self._here.seed, targets)
        for t, *both in pairs:
            factor, _ = _factor(*both)
            yield _Step(t, factor, *[_whole(node, bands.get(node, [])) for node in both])


def _figures(step: _Step) -> tuple[float, float, float, float]:
    factor = np.zeros(1) if step.factor is None else step.factor
    straight = factor * step.after.value
    size = float(np.linalg.norm(step.after.value))
    arrives = float(np.vdot(step.before.value, step.before.value))
    share = float(np.vdot(straight, step.before.value)) / arrives if arrives else math.nan
    with np.errstate(over="ignore"):
        share = float(np.ldexp(share, step.after.power - step.before.power))
    whole = float(np.linalg.norm(straight))
    before = shifted(step.before.value, step.before.power - step.after.power)
    other = float(np.linalg.norm(before - straight))
    rates = (whole / size, other / size) if size else (math.nan, math.nan)
    return float(np.mean(factor)), *rates, share


def _delta(rows: HostArray, powers: HostArray) -> _Delta:
    """Rows (B, H), each with a power of its own, at the largest power."""
    some = np.abs(rows).max(axis=-1, initial=0.0) > 0
    top = int(powers[some].max(initial=-(1 << 40))) if some.any() else 0
    with np.errstate(under="ignore"):
        value = np.ldexp(rows.astype(np.float64), np.where(some, powers - top, 0)[:, None])
    return _Delta(value, top)


def _whole(node: Node, bands: list[Band]) -> _Delta:
    some = [(g, int(p)) for g, p in bands if backend.norm(g) > 0]
    top = max((p for _, p in some), default=0)
    g = sum((times_power(g, p - top) for g, p in some), start=zeros_like(node.value))
    return _Delta(backend.namespace(g).to_numpy(g).astype(np.float64), top)


# --- what a state is multiplied by ----------------------------------------------------------------


def _factor(after: Node, before: Node) -> tuple[HostArray | None, list[Node]]:
    """Return ∂after/∂before over elementwise sums and products, and the factors on the way.

    The derivative is None if no such path exists.
    """
    found: dict[Any, Any] = {before: np.ones(before.value.shape)}
    gates: list[Node] = []
    shape = after.value.shape
    for node in ancestors([after], ends={before}, oldest=before.order):
        if node is before or node.value.shape != shape or not node.inputs:
            continue
        xs = node.inputs
        if node.op in ("add", "subtract"):
            signs = (1.0, -1.0 if node.op == "subtract" else 1.0)
            terms = [s * found[x] for s, x in zip(signs, xs, strict=True) if x in found]
        elif node.op == "where":  # a sequence that has ended keeps its state
            given = _number(xs[0]), *[found.get(x, 0.0) for x in xs[1:]]
            terms = [np.where(*given)] if any(x in found for x in xs[1:]) else []
        elif node.op == "negative":
            terms = [-found[x] for x in xs if x in found]
        elif node.op == "multiply":
            pairs = ((xs[0], xs[1]), (xs[1], xs[0]))
            terms = [found[x] * _number(other) for x, other in pairs if x in found]
            gates += [y for x, y in pairs if x in found and isinstance(y, Node)]
        else:
            continue
        if terms:
            found[node] = sum(terms)
    return found.get(after), gates


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Node) else x


def _number(x: Any) -> Any:
    return backend.namespace(x.value).to_numpy(x.value) if isinstance(x, Node) else x


def _gate(
    factor: HostArray, gates: list[Node], after: dict[str, Node], before: dict[str, Node]
) -> str:
    """The name of the gate that is the whole factor: its mark's, or its cell's; ``""`` for no such gate."""
    if len(gates) != 1 or not np.array_equal(_number(gates[0]), factor):
        return ""
    (gate,) = gates
    if gate.marks:
        return gate.marks[-1].name
    nodes = ancestors([*after.values()], ends={*before.values()})
    of_own = "f" if gate.op == "sigmoid" and len(after) > 1 else ""
    return gate_names(nodes).get(gate, of_own)


def runs_in_depth(r: Recurrence) -> bool:
    """Whether the steps were recorded in different modules: blocks of a network, not time steps."""
    modules = {node.scope.module for node in r.steps.values()}
    return len(modules) > 1
