"""Where a state's gradient comes from: the next step's states, or the loss at its own step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import seeds_of
from ..backend import Array
from ..backpropagation import backpropagate
from ..errors import GraphError
from ..modes import no_grad
from ..recording import Node
from .recurrences import Stack, one_stack, one_state
from .scaling import zeros_like
from .table import text_table

Step = dict[str, Node]
"""The states of one step by name."""


@dataclass(frozen=True, slots=True)
class PathSplit:
    """The gradient by one state over time, split by the way it came.

    Attributes
    ----------
    time : ndarray ``(T,)``
    grad : array ``(T, B, H)``
        ∂L/∂s_t: the sum of the parts.
    parts : dict of str to array ``(T, B, H)``
        ``"direct"``: straight from the states of the next step (for an LSTM's ``c``, the cell path);
        ``"via h"``: from them, through another state of the same step (for ``c``, the hidden path);
        ``"local"``: from the loss without another step.
    shares : dict of str to ndarray ``(T,)``
        The signed share ⟨part, δ⟩ / ‖δ‖² of each; at every step they sum to 1. NaN where δ is 0.
    """

    time: np.ndarray[Any, Any]
    grad: Array
    parts: dict[str, Array]
    shares: dict[str, np.ndarray[Any, Any]]

    def __repr__(self) -> str:
        rows = zip(self.time.tolist(), *(s.tolist() for s in self.shares.values()), strict=True)
        return text_table(("t", *self.shares), list(rows), 20)


def path_split(loss: Tensor, path: str | None = None) -> Mapping[str, PathSplit]:
    """Split the gradient by every state of a recurrence by the way it came.

    ∂L/∂s_t is the sum of what comes from the states of step t+1 and what comes from the loss at step
    t. A state that others of its step are computed from (an LSTM's ``c``, from which ``h`` is) gets
    its gradient over both: straight from the next cell state, and through ``h``.

    Parameters
    ----------
    loss : Tensor
        A single element.
    path : str, optional
        The module whose states are meant, as in :func:`gradient_flow`; not needed for a single one.

    Returns
    -------
    mapping of str to PathSplit
        By the state's name.

    Raises
    ------
    GraphError
        No state was marked.
    UnknownPathError
        No such path, or several and none given.

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
    root, seed = seeds_of([loss], [None], False, "path_split")[0]
    steps = steps_of(one_stack(root, path, "path_split"))
    totals = gradients_by(root, seed, steps)
    split: dict[str, dict[str, list[Array]]] = {}
    for step, after in zip(steps, [*steps[1:], {}], strict=True):
        for name, parts in _split_step(step, after, totals).items():
            for part, array in parts.items():
                split.setdefault(name, {}).setdefault(part, []).append(array)
    return {name: _stacked(parts) for name, parts in split.items()}


def steps_of(stack: Stack) -> list[Step]:
    """The states of a recurrence step by step, those that a step lacks left out."""
    times = sorted({t for r in stack.values() for t in r.steps})
    return [{name: r.steps[t] for name, r in stack.items() if t in r.steps} for t in times]


def gradients_by(root: Node, seed: Array, steps: list[Step]) -> dict[Node, Array]:
    """The loss's gradient by every state of every step."""
    nodes = {node for step in steps for node in step.values()}
    with no_grad():
        found = backpropagate([(root, seed)], nodes, retain_graph=True)
    return {node: found[node] if node in found else zeros_like(node.value) for node in nodes}


def sent(sources: dict[Node, Array], targets: Collection[Node]) -> dict[Node, Array]:
    """What given gradients by some nodes send to the targets, not through each other or a target."""

    def edge(consumer: Node, parent: Node, cotangent: Any) -> Any:
        return None if parent in sources else cotangent

    with no_grad():
        found = backpropagate(
            list(sources.items()), set(targets), edge=edge, stop=True, retain_graph=True
        )
    return {node: found[node] if node in found else zeros_like(node.value) for node in targets}


def _split_step(step: Step, after: Step, totals: dict[Node, Array]) -> dict[str, dict[str, Array]]:
    """Name → part → array for the states of one step, given those of the next."""
    direct = sent({node: totals[node] for node in after.values()}, step.values())
    latest_first = sorted(step, key=lambda name: -step[name].order)
    through_time: dict[str, Array] = {}
    found: dict[str, dict[str, Array]] = {}
    for i, name in enumerate(latest_first):
        node = step[name]
        parts = {"direct": direct[node]}
        for other in latest_first[:i]:  # computed after this one, perhaps from it
            below = {n for n in step.values() if n is not step[other]}
            parts[f"via {other}"] = sent({step[other]: through_time[other]}, below)[node]
        through_time[name] = sum(parts.values())
        found[name] = {**parts, "local": totals[node] - through_time[name]}
    return {name: found[name] for name in step}


def _stacked(parts: dict[str, list[Array]]) -> PathSplit:
    stacks = {part: backend.namespace(steps[0]).stack(steps) for part, steps in parts.items()}
    grad = sum(stacks.values())
    whole = _rows(grad)
    top = np.max(np.abs(whole), axis=1, initial=0.0)
    scale = np.where(top > 0, top, 1.0)[:, None]
    squares = np.sum((whole / scale) ** 2, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = {
            part: np.sum((_rows(array) / scale) * (whole / scale), axis=1)
            / np.where(squares > 0, squares, np.nan)
            for part, array in stacks.items()
        }
    return PathSplit(np.arange(len(whole)), grad, stacks, shares)


def _rows(array: Array) -> np.ndarray[Any, Any]:
    """Time × everything else, on the host in float64."""
    host = backend.namespace(array).to_numpy(array).astype(np.float64)
    return host.reshape(len(host), -1)


# --- saturation and weight ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GainSplit:
    """How much one step back in time scales the gradient, split into its two factors.

    Attributes
    ----------
    time : ndarray ``(T,)``
        Step t scales ∂L/∂h_t to what arrives at h_{t−1}.
    saturation : ndarray ``(T,)``
        ‖D δ‖ / ‖δ‖: what the derivative D of the nonlinearity leaves.
    weight : ndarray ``(T,)``
        ‖W_hᵀ D δ‖ / ‖D δ‖: what the recurrent matrix makes of that.
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


def gain_split(loss: Tensor, path: str | None = None, state: str = "h") -> GainSplit:
    """How much each step of a vanilla recurrence scales the gradient: by saturation, and by weight.

    For h_t = σ(z_t), z_t = h_{t−1} W_hᵀ + …: ‖J_tᵀ δ‖/‖δ‖ = (‖Dδ‖/‖δ‖) · (‖W_hᵀDδ‖/‖Dδ‖), with
    δ = ∂L/∂h_t and D = σ′(z_t). Norms are Frobenius over (B, H). NaN where δ is 0.

    Parameters
    ----------
    loss, path
        As for :func:`path_split`.
    state : str
        The name of the state.

    Raises
    ------
    GraphError
        No state was marked, or it is no nonlinearity of a sum (an LSTM's is a product).

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((20, 1, 1)))
    >>> split = tg.inspect.gain_split(output[-1].sum())
    >>> bool((split.saturation <= 1).all())  # the slope of tanh is at most 1
    True
    """
    root, seed = seeds_of([loss], [None], False, "gain_split")[0]
    stack = one_stack(root, path, "gain_split")
    recurrence = one_state(stack, state, "gain_split")
    times = sorted(recurrence.steps)
    nodes = [recurrence.steps[t] for t in times]
    totals = gradients_by(root, seed, [{state: node} for node in nodes])
    before = [recurrence.initial, *nodes[:-1]]
    saturation, weight = [], []
    for node, previous in zip(nodes, before, strict=True):
        delta = totals[node]
        pre = _pre_activation(node)
        through = delta if pre is None else sent({node: delta}, [pre])[pre]
        arrived = None if previous is None else sent({node: delta}, [previous])[previous]
        norms = [np.nan if g is None else backend.norm(g) for g in (delta, through, arrived)]
        saturation.append(_ratio(norms[1], norms[0]))
        weight.append(_ratio(norms[2], norms[1]))
    return GainSplit(np.array(times), np.array(saturation), np.array(weight))


def _pre_activation(node: Node) -> Node | None:
    """What the nonlinearity of a state was applied to; None where there is none."""
    if node.op in {"tanh", "relu", "sigmoid"}:
        return node.inputs[0]  # type: ignore[index,return-value]
    if node.op in {"add", "matmul", "subtract"}:
        return None
    raise GraphError(
        f"gain_split: the state{node.place()} was made by {node.op}, not by a nonlinearity of a sum, so "
        "saturation and weight cannot be told apart; path_split splits any state"
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else np.nan
