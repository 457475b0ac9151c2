"""``gradient_flow``: the derivative of a loss by every marked state, over time, however small or large."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import seeds_of
from ..backend import Array
from ..backpropagation import backpropagate
from ..errors import ArgumentError, UnknownPathError
from ..modes import enable_grad, no_grad
from ..recording import Node, is_tensor
from .recurrences import Recurrence, one_stack, one_state, stacks_of
from .scaling import Band, ScaledCotangents, times_power, zeros_like
from .table import text_table


@dataclass(frozen=True, slots=True)
class StateFlow:
    """One state of a recurrence over T steps: its values and the loss's derivatives by them.

    Attributes
    ----------
    time : ndarray ``(T,)``
        The steps, in order; index 0 is the state after the first input.
    grad : array ``(T, B, H)``
        ∂L/∂h_t, time first, in the model's dtype: 0 where that underflows, ±∞ where it overflows.
    grad_norm : ndarray ``(T,)``
        ‖∂L/∂h_t‖, Frobenius over (B, H), float64.
    log_grad_norm : ndarray ``(T,)``
        Its natural logarithm, float64: true also where the norm itself under- or overflows; −∞ for a
        gradient that is exactly 0.
    value_norm : ndarray ``(T,)``
        ‖h_t‖, Frobenius over (B, H), float64.
    sample_grad_norm : ndarray ``(T, B)``
        ‖∂L/∂h_t‖ of each sequence in the batch, float64.
    initial_grad : array ``(B, H)`` or None
        ∂L/∂h_0, by the state before the first input.
    value : array ``(T, B, H)``
    """

    time: np.ndarray[Any, Any]
    value: Array
    grad: Array
    grad_norm: np.ndarray[Any, Any]
    log_grad_norm: np.ndarray[Any, Any]
    value_norm: np.ndarray[Any, Any]
    sample_grad_norm: np.ndarray[Any, Any]
    initial_grad: Array | None

    def __repr__(self) -> str:
        rows = zip(
            self.time.tolist(), self.value_norm.tolist(), self.grad_norm.tolist(), strict=True
        )
        return text_table(("t", "‖value‖", "‖grad‖"), list(rows), 20)


class StackFlow(Mapping[str, StateFlow]):
    """The states of one module call by name; ``.h`` is short for ``["h"]``."""

    def __init__(self, path: str, states: dict[str, StateFlow]) -> None:
        self.path = path
        self._states = states

    def __getitem__(self, name: str) -> StateFlow:
        try:
            return self._states[name]
        except KeyError:
            raise UnknownPathError(
                f"no state {name!r} in {self.path!r}; it has {', '.join(map(repr, self._states))}"
            ) from None

    def __getattr__(self, name: str) -> StateFlow:
        states = self.__dict__.get("_states", {})
        if name not in states:
            raise AttributeError(f"no state {name!r}; there is {', '.join(map(repr, states))}")
        return states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return "\n".join(f"{self.path} {name}\n{state!r}" for name, state in self._states.items())


class GradientFlow(Mapping[str, StackFlow]):
    """Module path → the states marked in it. A module called again has ``#2`` behind its path."""

    def __init__(self, stacks: dict[str, StackFlow]) -> None:
        self._stacks = stacks

    def __getitem__(self, path: str) -> StackFlow:
        try:
            return self._stacks[path]
        except KeyError:
            raise UnknownPathError(
                f"no states were marked in {path!r}; there are {', '.join(map(repr, self._stacks))}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._stacks)

    def __len__(self) -> int:
        return len(self._stacks)

    def __repr__(self) -> str:
        return "\n".join(repr(stack) for stack in self._stacks.values())


def gradient_flow(loss: Tensor, gradient: Any = None) -> GradientFlow:
    """The derivative of a loss by every state of every recurrence it depends on.

    The framework's recurrent layers mark their states; :func:`mark` does the same for a loop of one's
    own. Nothing is freed and no ``.grad`` is touched. Cotangents carry powers of two along, so norms
    are right far below what the model's dtype can hold.

    Parameters
    ----------
    loss : Tensor
        A single element, unless ``gradient`` is given.
    gradient : Tensor or array, optional
        The cotangent to start from.

    Returns
    -------
    GradientFlow
        Path (``"rnn.l0"``) → stack, each with ``.h`` (and ``.c``), a :class:`StateFlow`.

    Raises
    ------
    GraphError
        ``loss`` does not require grad, or no state was marked.
    FreedGraphError
        An earlier backward pass freed the graph.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((20, 1, 1)))
    >>> flow = tg.inspect.gradient_flow(output[-1].sum())
    >>> norms = flow["rnn.l0"].h.grad_norm
    >>> norms.shape, bool(norms[0] < norms[-1])  # vanishes towards the past
    ((20,), True)
    """
    seeds = seeds_of([loss], [gradient], False, "gradient_flow")
    stacks = stacks_of(seeds[0][0], "gradient_flow")
    targets = {node for stack in stacks.values() for r in stack.values() for node in r.nodes()}
    found = gradients_in_bands(*seeds[0], targets)
    return GradientFlow(
        {
            path: StackFlow(path, {name: _state_flow(r, found) for name, r in by_name.items()})
            for path, by_name in stacks.items()
        }
    )


def state_grad_matrix(
    losses: Tensor | Sequence[Tensor], path: str | None = None, state: str = "h", log: bool = False
) -> np.ndarray[Any, Any]:
    """‖∂L_k/∂h_t‖ for every loss and every time step: what each loss says about each state.

    Parameters
    ----------
    losses : Tensor ``(K,)`` or sequence of K single elements
        For example the loss at each time step; a 0-d Tensor is one loss.
    path : str, optional
        The module whose states are meant; not needed for a single one.
    state : str
        The name of the state.
    log : bool
        Return natural logarithms, true also where the norms underflow.

    Returns
    -------
    ndarray ``(K, T)``
        Frobenius norms over (B, H), float64; 0 where loss k does not depend on step t.

    Raises
    ------
    GraphError
        The losses require no grad, or no state was marked.
    UnknownPathError
        No such path or state, or several paths and none given; the message lists them.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((10, 1, 1)))
    >>> losses = (output**2).mean(axis=(1, 2))
    >>> matrix = tg.inspect.state_grad_matrix(losses)
    >>> matrix.shape, bool(matrix[3, 4] == 0)  # no state acts on the losses before it
    ((10, 10), True)
    """
    losses = [losses] if is_tensor(losses) and not losses.ndim else list(losses)
    if not losses:
        raise ArgumentError("state_grad_matrix: no losses")
    whole = _sum_of(losses)
    recurrence = one_state(one_stack(whole, path, "state_grad_matrix"), state, "state_grad_matrix")
    nodes = [recurrence.steps[t] for t in sorted(recurrence.steps)]
    rows = []
    for loss in losses:
        seeds = seeds_of([loss], [None], False, "state_grad_matrix")
        found = gradients_in_bands(*seeds[0], set(nodes))
        norms, powers = _sample_norms([_bands(node, found) for node in nodes])
        rows.append(_total(norms, powers)[int(log)])
    return np.array(rows)


def _sum_of(losses: list[Tensor]) -> Node:
    """A node from which every loss can be reached."""
    with enable_grad():
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
    return seeds_of([total], [None], False, "state_grad_matrix")[0][0]


def gradients_in_bands(
    root: Node,
    seed: Array,
    targets: set[Node],
    stop: bool = False,
    edge: Callable[[Node, Node, Any], Any] | None = None,
) -> dict[Node, list[Band]]:
    """The gradient by every target, as bands: true however small or large it is.

    ``stop`` and ``edge`` are those of :func:`backpropagate`.
    """
    found: dict[Node, list[Band]] = {}
    sums = ScaledCotangents()

    def keep(node: Node, g: Array) -> None:
        if node in targets:
            found[node] = sums.bands(g)

    with no_grad():
        backpropagate(
            [(root, seed)],
            targets,
            visit=keep,
            edge=edge,
            stop=stop,
            retain_graph=True,
            cotangents=sums,
        )
    return found


def _state_flow(r: Recurrence, found: dict[Node, list[Band]]) -> StateFlow:
    """Stack one state over time, its powers of two put back in float64."""
    times = sorted(r.steps)
    nodes = [r.steps[t] for t in times]
    r.check_shapes("gradient_flow")
    steps = [_bands(node, found) for node in nodes]
    norms, powers = _sample_norms(steps)
    total, log_total = _total(norms, powers)
    with np.errstate(over="ignore", under="ignore"):
        return StateFlow(
            time=np.array(times),
            value=_stack([node.value for node in nodes]),
            grad=_stack([whole_of(bands) for bands in steps]),
            grad_norm=total,
            log_grad_norm=log_total,
            value_norm=row_norms(_host([node.value for node in nodes], sample_axis=False)),
            sample_grad_norm=np.hypot.reduce(np.ldexp(norms, powers[..., None]), axis=0),
            initial_grad=whole_of(_bands(r.initial, found)) if r.initial else None,
        )


def _bands(node: Node, found: dict[Node, list[Band]]) -> list[Band]:
    """The gradient of a node; zeros if the loss does not depend on it."""
    return found[node] if node in found else [(zeros_like(node.value), 0)]


def whole_of(bands: list[Band]) -> Array:
    """The sum of the bands in the model's dtype."""
    with np.errstate(over="ignore", under="ignore"):
        total = times_power(*bands[0])
        for band in bands[1:]:
            total = total + times_power(*band)
    return total


def _sample_norms(steps: list[list[Band]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Of every step's first bands, second bands …: each sample's norm, and the powers of two.

    Bands share no element, so their norms are the legs of right triangles.

    Returns
    -------
    norms : ndarray (bands, T, B)
        Beside their powers of two; 0 where a step has no such band.
    powers : ndarray (bands, T)
    """
    norms, powers = [], []
    for i in range(max(map(len, steps))):
        bands = [b[i] if i < len(b) else (zeros_like(b[0][0]), b[0][1]) for b in steps]
        norms.append(row_norms(_host([array for array, _ in bands], sample_axis=True)))
        powers.append([power for _, power in bands])
    return np.stack(norms), np.array(powers)


def _total(
    norms: np.ndarray[Any, Any], powers: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The norm over all samples and bands at every step, and its logarithm, which does not underflow."""
    top = powers[0]  # of each step's first band, the highest
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        total = row_norms(np.hypot.reduce(np.ldexp(norms, (powers - top)[..., None]), axis=0))
        return np.ldexp(total, top), np.log(total) + top * math.log(2)


def _host(arrays: list[Array], sample_axis: bool) -> np.ndarray[Any, Any]:
    """The steps of a state on the host in float64, ``(T, H)`` or, with a sample axis, ``(T, B, H)``.

    A state without a batch axis is one sample.
    """
    stack = _stack(arrays)
    host = backend.namespace(stack).to_numpy(stack).astype(np.float64)
    if not sample_axis:
        return host.reshape(len(host), math.prod(host.shape[1:]))
    samples = host.shape[1] if host.ndim > 2 else 1
    return host.reshape(len(host), samples, math.prod(host.shape[1:]) // max(samples, 1))


def row_norms(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """2-norms along the last axis, right where the squares would under- or overflow."""
    top = np.max(np.abs(rows), axis=-1, initial=0.0)
    scale = np.where((top > 0) & (top < math.inf), top, 1.0)
    return scale * np.sqrt(np.sum((rows / scale[..., None]) ** 2, axis=-1))


def _stack(arrays: list[Array]) -> Array:
    return backend.namespace(arrays[0]).stack(arrays)
