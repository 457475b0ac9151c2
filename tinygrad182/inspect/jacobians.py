"""Jacobians of single steps, and how their product stretches space."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import seeds_of
from ..backpropagation import backpropagate
from ..errors import ArgumentError, GraphError
from ..modes import no_grad
from ..recording import Node
from .paths import Step, steps_of
from .recurrences import one_stack


@dataclass(frozen=True, slots=True)
class StepJacobians:
    """J_t = ∂s_t/∂s_{t−1} of one sequence, for every step that has one before it.

    Attributes
    ----------
    time : ndarray ``(K,)``
        t of each.
    names : tuple of str
        The parts of the state in the order of rows and columns, H each: ``("h",)``, ``("h", "c")``.
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
        exponents, fastest growing first. Accumulated by QR [1]_; the plain product would lose the small
        ones to rounding. −∞ for a direction that is lost.

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
        No state was marked, or only one step.
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
    root, _ = seeds_of([loss], [_ones(loss)], False, "step_jacobians")[0]
    stack = one_stack(root, path, "step_jacobians")
    names = tuple(stack)
    steps = steps_of(stack)
    times = sorted({t for r in stack.values() for t in r.steps})
    initial = {name: r.initial for name, r in stack.items() if r.initial is not None}
    if len(initial) == len(names):
        steps, times = [initial, *steps], [-1, *times]
    if len(steps) < 2:
        raise GraphError("step_jacobians: there is a single step; a Jacobian needs one before it")
    batch = next(iter(steps[0].values())).value.shape[0]
    if not isinstance(sample, (int, np.integer)) or not 0 <= sample < batch:  # type: ignore[redundant-expr]
        raise ArgumentError(
            f"step_jacobians: sample {sample!r} must be a whole number from 0 to {batch - 1}"
        )
    matrices = [
        _jacobian(after, before, names, int(sample)) for before, after in itertools.pairwise(steps)
    ]
    return StepJacobians(np.array(times[1:]), names, np.array(matrices))


def _ones(loss: Tensor) -> Any:
    return backend.namespace(loss._data).ones_like(loss._data)


def _jacobian(after: Step, before: Step, names: tuple[str, ...], sample: int) -> Any:
    """∂after/∂before of one sequence, the rows carried together."""
    blocks = []
    for name in names:
        node = after[name]
        size = int(np.prod(node.value.shape[1:]))
        xp = backend.namespace(node.value)
        rows = np.zeros((size, *node.value.shape))
        rows[:, sample] = np.eye(size).reshape(size, *node.value.shape[1:])
        seed = xp.astype(xp.from_numpy(rows, xp.device(node.value)), node.value.dtype)
        with no_grad():
            found = backpropagate(
                [(node, seed)], set(before.values()), stop=True, retain_graph=True
            )
        blocks.append([_block(found, before[other], size, sample) for other in names])
    return np.block(blocks)


def _block(found: dict[Node, Any], node: Node, size: int, sample: int) -> Any:
    width = int(np.prod(node.value.shape[1:]))
    if node not in found:
        return np.zeros((size, width))
    host = backend.namespace(found[node]).to_numpy(found[node]).astype(np.float64)
    return host[:, sample].reshape(size, width)
