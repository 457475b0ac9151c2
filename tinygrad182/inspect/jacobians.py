"""Jacobians of single steps, and how their product stretches space."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..backpropagation import backpropagate
from ..errors import ArgumentError, GraphError
from ..modes import no_grad
from ..recording import Node
from .hosting import opened
from .paths import Step, steps_of
from .recurrences import Stack


@dataclass(frozen=True, slots=True)
class StepJacobians:
    """J_t = ∂s_t/∂s_{t−1} of one sequence, for every step that has one before it.

    Steps stand in the order they were computed; in a loop that runs from the end to the start, s_{t+1}
    is the state before s_t, and ``time`` descends.

    Attributes
    ----------
    time : ndarray ``(K,)``
        t of each.
    names : tuple of str
        The parts of the state in the order of rows and columns, H each, as they are computed in a
        step: ``("h",)``, ``("h", "c")``.
    matrices : ndarray ``(K, S, S)``
        Row i, column j: the derivative of element i of s_t by element j of s_{t−1}; float64.
    """

    time: np.ndarray[Any, Any]
    names: tuple[str, ...]
    matrices: np.ndarray[Any, Any]

    @property
    def singular_values(self) -> np.ndarray[Any, Any]:
        """Those of each J_t, largest first ``(K, S)``: how far one step can stretch a gradient."""
        return np.linalg.svd(self.matrices, compute_uv=False)

    @property
    def log_growth(self) -> np.ndarray[Any, Any]:
        """Logarithms of how far J_K ⋯ J_k stretches space, from the last step back ``(K, S)``.

        Row k holds the growth along S orthogonal directions of a gradient that has gone back from
        the last step to before step k: divided by the number of steps, the finite-time Lyapunov
        exponents, as a rule fastest growing first. Accumulated by QR [1]_; the plain product would
        lose the small ones to rounding. −∞ for a direction that is lost.

        References
        ----------
        .. [1] Benettin et al., "Lyapunov characteristic exponents", Meccanica 15 (1980).
        """
        count, size = self.matrices.shape[:2]
        growth = np.zeros((count, size))
        q, total = np.eye(size), np.zeros(size)
        for k in range(count - 1, -1, -1):
            q, r = np.linalg.qr(self.matrices[k].T @ q)
            with np.errstate(divide="ignore"):
                total = total + np.log(np.abs(np.diag(r)))
            growth[k] = total
        return growth


def step_jacobians(loss: Tensor, path: str | None = None, sample: int = 0) -> StepJacobians:
    """The Jacobian of every single step of a recurrence: its gradient is their product.

    Of a sequence that ended before others of its batch (``lengths``), the steps up to its own end.

    Parameters
    ----------
    loss : Tensor
        Anything computed from the states.
    path : str, optional
        The module whose states are meant; not needed for a single one.
    sample : int
        Which sequence of the batch.

    Raises
    ------
    GraphError
        No state was marked, or only one step, or a step lacks a part of the state.
    ShapeError
        The states have different shapes over time.
    UnknownPathError
        No such path, or several and none given.
    ArgumentError
        No such sample.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 3, nonlinearity="identity", rng=0, dtype="float64")
    >>> output, _ = rnn(tg.ones((5, 1, 1), dtype="float64"))
    >>> jacobians = tg.inspect.step_jacobians(output[-1].sum())
    >>> bool(np.allclose(jacobians.matrices, rnn.weight_hh_l0.numpy()))
    True
    """
    _, _, stack, _ = opened(loss, _ones(loss), path, "step_jacobians")
    names = tuple(stack)
    at = steps_of(stack)
    _check_parts(stack, at)
    initial = {name: r.initial for name, r in stack.items() if r.initial is not None}
    if len(initial) == len(names):
        at = {-1: initial, **at}
    times, steps = list(at), list(at.values())
    if len(steps) < 2:
        raise GraphError("step_jacobians: there is a single step; a Jacobian needs one before it")
    batch = max(_samples(node) for node in at[times[-1]].values())
    if not isinstance(sample, (int, np.integer)) or not 0 <= sample < batch:  # type: ignore[redundant-expr]
        raise ArgumentError(
            f"step_jacobians: sample {sample!r} must be a whole number from 0 to {batch - 1}"
        )
    matrices = [
        _jacobian(after, before, names, int(sample)) for before, after in itertools.pairwise(steps)
    ]
    while len(matrices) > 1 and _is_over(steps[len(matrices)], steps[len(matrices) - 1], sample):
        if matrices[-1].any():
            break
        matrices.pop()
    return StepJacobians(np.array(times[1 : len(matrices) + 1]), names, np.array(matrices))


def _is_over(after: Step, before: Step, sample: int) -> bool:
    """Whether a sequence's state was chosen by a mask, and is that of the step before."""
    return all(
        node.op == "where" and np.array_equal(_values(node, sample), _values(before[name], sample))
        for name, node in after.items()
    )


def _values(node: Node, sample: int) -> Any:
    host = backend.namespace(node.value).to_numpy(node.value)
    return host[sample if _samples(node) > 1 else 0] if host.ndim > 1 else host


def _check_parts(stack: Stack, steps: dict[int, Step]) -> None:
    """Raise unless every step has every part of the state, in one shape."""
    for name, recurrence in stack.items():
        recurrence.check_shapes("step_jacobians")
        missing = [t for t in steps if t not in recurrence.steps]
        if missing:
            raise GraphError(
                f"step_jacobians: the state {name!r} is not marked at t = {missing[0]}, where others "
                "are; mark every part at every step, also one that is handed on as it is"
            )


def _ones(loss: Tensor) -> Any:
    with backend.on(loss._data):
        return backend.namespace(loss._data).ones_like(loss._data)


def _jacobian(after: Step, before: Step, names: tuple[str, ...], sample: int) -> Any:
    """∂after/∂before of one sequence, the rows carried together."""
    blocks = []
    for name in names:
        node = after[name]
        rows = _rows_of(node, sample)
        with no_grad():
            found = backpropagate(
                [(node, rows)], set(before.values()), stop=True, retain_graph=True
            )
        blocks.append([_block(found, before[other], len(rows), sample) for other in names])
    return np.block(blocks)


def _rows_of(node: Node, sample: int) -> Any:
    """Cotangents that pick one element each of a sequence's state, on a leading axis."""
    shape, samples = node.value.shape, _samples(node)
    size = math.prod(shape) // samples
    rows = np.zeros((size, samples, size))
    rows[:, sample] = np.eye(size)
    xp = backend.namespace(node.value)
    array = xp.from_numpy(rows.reshape(size, *shape), xp.device(node.value))
    return xp.astype(array, node.value.dtype)


def _block(found: dict[Node, Any], node: Node, size: int, sample: int) -> Any:
    samples = _samples(node)
    width = math.prod(node.value.shape) // samples
    if node not in found:
        return np.zeros((size, width))
    host = backend.namespace(found[node]).to_numpy(found[node]).astype(np.float64)
    one = sample if samples > 1 else 0  # an initial state may be one for all
    return host.reshape(size, samples, width)[:, one]


def _samples(node: Node) -> int:
    """How many sequences a state has; one without a batch axis is that of one."""
    shape = node.value.shape
    return int(shape[0]) if len(shape) > 1 else 1
