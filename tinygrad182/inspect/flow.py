"""``gradient_flow``: the derivative of a loss by every marked state, over time, however small or large."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import Cotangents, ancestors, backpropagate, gather, seeds_of
from ..backend import Array
from ..errors import GraphError, ShapeError, UnknownPathError
from ..modes import no_grad
from ..primitives.index import Slice
from ..recording import Node
from .table import text_table

_RESCALE = 64
"""Cotangents beyond 2**±64 are brought back to about 1: far from float32's ends, seldom in float64."""


class ScaledCotangents(Cotangents):
    """Cotangents as arrays times powers of two, so that none underflows or overflows.

    Backward is linear in the cotangent and a power of two is exact, so the arrays are those of a plain
    pass wherever that one stays in range, and still right where it does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exponent = 0
        """Of the node popped last: what arrives next over its edges has it too."""
        self._exponents: dict[Node, int] = {}
        self._parts: dict[Node, list[tuple[Slice, int]]] = {}

    def add(self, node: Node, cotangent: Any) -> None:
        """Add what arrives over one edge, at the exponent of the node it comes from."""
        if type(cotangent) is Slice:
            self._parts.setdefault(node, []).append((cotangent, self.exponent))
            return
        known = self._exponents.get(node)
        if known is not None and known < self.exponent:
            self._sums[node] = _times_power(self._sums[node], known - self.exponent)
        elif known is not None and known > self.exponent:
            cotangent = _times_power(cotangent, self.exponent - known)
        self._exponents[node] = self.exponent if known is None else max(known, self.exponent)
        super().add(node, cotangent)

    def pop(self, node: Node) -> Any:
        """The complete cotangent without its power of two, which is then in :attr:`exponent`."""
        parts = self._parts.pop(node, None)
        if parts is not None:
            self.exponent = max(e for _, e in parts)
            aligned = [_scaled(s, e - self.exponent) for s, e in parts]
            self.add(node, gather(node, aligned))
        g = super().pop(node)
        self.exponent = self._exponents.pop(node, 0)
        if g is None:
            return None
        xp = backend.namespace(g)
        top = float(xp.max(xp.abs(g))) if math.prod(g.shape) else 0.0
        if 0 < top < math.inf:
            shift = math.frexp(top)[1]
            if abs(shift) > _RESCALE:
                self.exponent += shift
                g = _times_power(g, -shift)
        return g


def _scaled(part: Slice, power: int) -> Slice:
    return (
        Slice(part.key, part.arrays, _times_power(part.value, power), part.lead) if power else part
    )


def _times_power(array: Array, power: int) -> Array:
    """``array`` · 2**power, in steps that float32 can hold."""
    while power:
        step = max(-100, min(100, power))
        array = array * 2.0**step
        power -= step
        if power < -2000:  # nothing of it would be left
            return array * 0.0
    return array


@dataclass(frozen=True, slots=True)
class StateFlow:
    """One state of a recurrence over T steps: its values and the loss's derivatives by them.

    Attributes
    ----------
    time : ndarray ``(T,)``
        The steps, in order; index 0 is the state after the first input.
    grad : array ``(T, B, H)``
        ∂L/∂h_t, time first, in the model's dtype: 0 where that underflows.
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
    marked = [node for node in ancestors([seeds[0][0]], constants=True) if node.marks]
    if not marked:
        raise GraphError(
            "gradient_flow: no state is marked in this graph; use tg.nn.RNN, "
            'or name the states of a loop: h = tg.inspect.mark(h, "h", time=t)'
        )
    found: dict[Node, tuple[Array, int]] = {}
    sums = ScaledCotangents()

    def keep(node: Node, g: Array) -> None:
        if node.marks:
            found[node] = (g, sums.exponent)

    with no_grad():
        backpropagate(seeds, marked, visit=keep, retain_graph=True, cotangents=sums)
    return GradientFlow(
        {
            path: StackFlow(
                path, {name: _state_flow(path, name, at, found) for name, at in names.items()}
            )
            for path, names in _by_path(marked).items()
        }
    )


def _by_path(marked: list[Node]) -> dict[str, dict[str, dict[int, Node]]]:
    """Path (with an ordinal from the second call on) → name → time → node."""
    calls: dict[tuple[str, int, int], dict[str, dict[int, Node]]] = {}
    for node in marked:
        for m in node.marks:
            again = 0  # a name and time given twice within one call starts another stack
            time = -1 if m.scope.time is None else m.scope.time
            while time in calls.get((m.scope.module, m.scope.call, again), {}).get(m.name, {}):
                again += 1
            stack = calls.setdefault((m.scope.module, m.scope.call, again), {})
            stack.setdefault(m.name, {})[time] = node
    paths: dict[str, dict[str, dict[int, Node]]] = {}
    for module, call, again in sorted(calls):
        ordinal = sum(path.partition("#")[0] == module for path in paths) + 1
        paths[module if ordinal == 1 else f"{module}#{ordinal}"] = calls[module, call, again]
    return paths


def _state_flow(
    path: str, name: str, at: dict[int, Node], found: dict[Node, tuple[Array, int]]
) -> StateFlow:
    """Stack one state over time, its powers of two put back in float64."""
    times = sorted(t for t in at if t >= 0)
    nodes = [at[t] for t in times]
    if len({tuple(node.value.shape) for node in nodes}) > 1:
        raise ShapeError(
            f"gradient_flow: the states {name!r} in {path!r} have different shapes over time"
        )
    steps = [_step(node, found) for node in nodes]
    norms = np.array([backend.norm(g) for g, _ in steps])
    powers = np.array([e for _, e in steps], dtype=np.int64)
    samples = np.array([_sample_norms(g) for g, _ in steps])
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        return StateFlow(
            time=np.array(times),
            value=_stack([node.value for node in nodes]),
            grad=_stack([_times_power(g, e) for g, e in steps]),
            grad_norm=np.ldexp(norms, powers),
            log_grad_norm=np.log(norms) + powers * math.log(2),
            value_norm=np.array([backend.norm(node.value) for node in nodes]),
            sample_grad_norm=np.ldexp(samples, powers[:, None]),
            initial_grad=_times_power(*_step(at[-1], found)) if -1 in at else None,
        )


def _step(node: Node, found: dict[Node, tuple[Array, int]]) -> tuple[Array, int]:
    """The gradient of a node and its power of two; zeros if the loss does not depend on it."""
    if node in found:
        return found[node]
    xp = backend.namespace(node.value)
    with xp.on(node.value):
        return xp.zeros_like(node.value), 0


def _stack(arrays: list[Array]) -> Array:
    return backend.namespace(arrays[0]).stack(arrays) if arrays else np.zeros((0,))


def _sample_norms(g: Array) -> np.ndarray[Any, Any]:
    """Norm over all axes but the first; a state without a batch axis is one sample."""
    host = backend.namespace(g).to_numpy(g).astype(np.float64)
    rows = host.reshape(host.shape[0], -1) if host.ndim > 1 else host.reshape(1, -1)
    return np.sqrt(np.sum(rows * rows, axis=1))
