"""``step_jacobians``: the Jacobian of every step, and how their product stretches space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np

from ..._numbers import check_whole
from ...arrays import backend
from ...arrays.backend import device_of
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import backpropagate
from ...engine.memory import in_pass
from ...engine.modes import grad_mode, modes_kept
from ...engine.recording import Node, wrap
from ...errors import GraphError
from ...tensors import functions as tg
from ...tensors.creation import zeros
from ...tensors.tensor import Tensor
from ..charts.pictures import Drawn, slide
from ..charts.view_arrays import SingularValues
from ..charts.view_charts import singular_chart
from ..loops.recurrences import Stack, Wanted, chosen, one_stack, stack_at
from ..loops.steps import Steps, scans_of
from ..passes.scaling import HostArray, zeros_like
from ..table import as_array, text_table
from .path_split import Step, steps_of
from .recorded_flow import opened_graph
from .viewed_recurrence import ViewedRecurrence

Matrices = TypeVar("Matrices", HostArray, Tensor)


MOST_SHOWN = 12
"""Most steps whose singular values are printed; if there are more, the first and the last five."""


@dataclass(frozen=True, slots=True)
class StepJacobians(Drawn, Generic[Matrices]):
    """J_t = ∂s_t/∂s_{t−1} of one sequence, for every step that has one before it.

    Steps are in the order of computation. In a loop that runs from the last step to the first, s_{t+1} is
    the state before s_t, and ``time`` descends.

    Attributes
    ----------
    time : ndarray ``(K,)``
        t of each.
    names : tuple of str
        The parts of the state in the order of rows and columns, H each, as they are marked in a step:
        ``("h",)``, ``("h", "c")``.
    matrices : ndarray or Tensor ``(K, S, S)``
        Row i, column j: the derivative of element i of s_t by element j of s_{t−1}; float64. With
        ``create_graph=True`` a Tensor in the model's dtype, differentiable by all that the states were
        computed from; the properties below are arrays in any case.
    """

    time: HostArray
    names: tuple[str, ...]
    matrices: Matrices

    def __repr__(self) -> str:
        count: int = len(self.time)
        ends = [*range(count)] if count <= MOST_SHOWN else [*range(5), *range(count - 5, count)]
        some: Any = StepJacobians(self.time[ends], self.names, _wide(self.matrices)[ends])
        sizes: Any = some.singular_values[:, [0, -1]]
        rows: list[Any] = [*zip(some.time.tolist(), *sizes.T.tolist(), strict=True)]
        if count > len(ends):
            rows.insert(5, (f"… {count - len(ends)} more", "", ""))
        s, size = ", ".join(self.names), some.matrices.shape[-1]
        said = f"Jacobians ∂({s})_t/∂({s})_t₋₁, {size} × {size}, of {count} steps"
        return f"{said}\n{text_table(('t', 'largest σ', 'smallest σ'), rows, None)}"

    @property
    def singular_values(self) -> HostArray:
        """The singular values of each J_t, largest first ``(K, S)``: the factors of its stretch.

        NaN where a matrix is not finite.
        """
        matrices = _wide(self.matrices)
        finite = np.isfinite(matrices).all(axis=(1, 2))
        values = np.full(matrices.shape[:2], np.nan)
        values[finite] = np.linalg.svd(matrices[finite], compute_uv=False)
        return values

    @property
    def log_growth(self) -> HostArray:
        """Logarithms of the factors by which J_K ⋯ J_k stretches space, from the last step back ``(K, S)``.

        Row k is for a gradient that has gone back from the last step to before step k: the logarithms of
        its growth along S orthogonal directions, as a rule the fastest growing first. Divided by the
        number of steps they are the finite-time Lyapunov exponents. They are accumulated by QR [1]_,
        because rounding in the product of the matrices would hide the small ones. −∞ for a direction that
        is lost.

        References
        ----------
        .. [1] Benettin et al., "Lyapunov characteristic exponents", Meccanica 15 (1980).
        """
        matrices = _wide(self.matrices)
        count, size = matrices.shape[:2]
        growth = np.zeros((count, size))
        q, total = np.eye(size), np.zeros(size)
        for k in range(count - 1, -1, -1):
            q, r = np.linalg.qr(matrices[k].T @ q)
            with np.errstate(divide="ignore"):
                total = total + np.log(np.abs(np.diag(r)))
            growth[k] = total
        return growth

    def chart(self) -> Any:
        """Return the singular values over time as an Altair chart."""
        return slide(singular_chart({0: self.in_order()}))

    def in_order(self) -> SingularValues:
        """The singular values, with ascending time."""
        order = np.argsort(self.time)
        return SingularValues(self.time[order], self.names, self.singular_values[order])


@overload
def step_jacobians(
    loss: Tensor,
    path: str | None = None,
    sample: int = 0,
    *,
    times: Wanted = None,
    create_graph: Literal[False] = False,
) -> StepJacobians[HostArray]: ...
@overload
def step_jacobians(
    loss: Tensor,
    path: str | None = None,
    sample: int = 0,
    *,
    times: Wanted = None,
    create_graph: Literal[True],
) -> StepJacobians[Tensor]: ...
def step_jacobians(
    loss: Tensor,
    path: str | None = None,
    sample: int = 0,
    *,
    times: Wanted = None,
    create_graph: bool = False,
) -> StepJacobians[Any]:
    """The Jacobian ∂s_t/∂s_{t−1} of every step of a recurrence; the gradient goes back by their product.

    A sequence that ends before others of its batch (``lengths``, or a mask that hands its state on as a
    constant) has the steps up to its own end; a sequence of length 0 has no matrices.

    Parameters
    ----------
    loss : Tensor
        Anything computed from the states.
    path : str, optional
        The module that has the states; needed if several have states.
    sample : int
        Which sequence of the batch.
    times : int or sequence of int, optional
        The wanted time steps; by default all.
    create_graph : bool
        Record how the matrices are computed. They are then a Tensor, from which a term of a loss can be
        computed.

    Raises
    ------
    GraphError
        No state was marked, or only one step, or a step lacks a part of the state.
    ShapeError
        The states have different shapes over time.
    UnknownPathError
        No such path, or several and none given.
    ArgumentError
        No such sample, or no such time step.

    Notes
    -----
    The matrices take 8 · K · S² bytes, with S = H for a vanilla RNN and 2 H for an LSTM: 20,000 steps of an
    LSTM of 32 units are 655 MB, a hundred of them 3 MB. Work and memory are linear in the number of wanted
    steps. With ``create_graph`` layers run step by step, and S derivatives of the whole batch are recorded
    for every step, so that is for small states.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 3, nonlinearity="identity", rng=0, dtype="float64")
    >>> output, _ = rnn(tg.ones((5, 1, 1), dtype="float64"))
    >>> jacobians = tg.inspect.step_jacobians(output[-1].sum())
    >>> bool(np.allclose(jacobians.matrices, rnn.weight_hh_l0.numpy()))
    True

    The largest Lyapunov exponent, from how much the steps together stretch a vector, as a term of a loss:

    >>> jacobians = tg.inspect.step_jacobians(output[-1].sum(), create_graph=True)
    >>> v, growth = tg.ones(3, dtype="float64"), 0.0
    >>> for J in jacobians.matrices:
    ...     v = J @ v
    ...     growth, v = growth + tg.log(tg.norm(v)), v / tg.norm(v)
    >>> ((growth / 5) ** 2).backward()
    >>> rnn.weight_hh_l0.grad.shape
    (3, 3)
    """

    def choose(there: Sequence[int]) -> Sequence[int]:
        return chosen(times, there, "step_jacobians")

    if create_graph:
        ((root, _),) = seeds_of([loss], [_ones(loss)], False, "step_jacobians")
        scans = scans_of(one_stack(root, path, "step_jacobians"))
        stack = stack_at(opened_graph(root)[1], path, "step_jacobians")
        return in_pass(_one_by_one, stack, sample, choose, scans, True, grad=True)
    return jacobians_among(loss, path, sample, choose)


Choose = Callable[[Sequence[int]], Sequence[int]]
"""A function that takes the time steps of a sequence and returns the wanted ones, ascending."""


def jacobians_among(
    loss: Tensor, path: str | None, sample: int, choose: Choose
) -> StepJacobians[HostArray]:
    """:func:`step_jacobians` at steps that are chosen when the sequence's steps are known."""
    here = ViewedRecurrence.of(loss, path, "step_jacobians", gradient=_ones(loss))
    run = _side_by_side if here.is_fused else _one_by_one
    return run(here.stack, sample, choose)


def _side_by_side(stack: Stack, sample: int, choose: Choose) -> StepJacobians[HostArray]:
    """Jacobians of a fused layer's steps."""
    names, scans = tuple(stack), [Steps(node) for node in scans_of(stack)]
    batch, H = scans[0].states.shape[2:]
    i = check_whole("step_jacobians", "sample", sample, 0, batch - 1)
    wanted = choose(_times_of(scans, i))
    size = len(names) * H
    matrices, done = np.empty((len(wanted), size, size)), 0
    for scan in scans:
        for steps in scan.chunks(scan.among(wanted), rows=H):
            side = scan.at(steps, slice(i, i + 1))
            found = matrices[done : done + len(steps)]
            found[...] = _jacobians(side.after, side.before, names, slice(None))
            if scan is not scans[0]:  # between windows of truncated backpropagation nothing flows
                found[steps == 0] = 0.0
            done += len(steps)
    return StepJacobians(np.array(wanted, np.int64), names, matrices)


def _times_of(scans: list[Steps], sample: int) -> list[int]:
    """The time steps of a sequence."""
    ends = [len(scan) if (n := scan.lengths()) is None else int(n[sample]) for scan in scans]
    return [t for scan, end in zip(scans, ends, strict=True) for t in scan.times()[:end]]


def _one_by_one(
    stack: Stack,
    sample: int,
    choose: Choose,
    scans: Sequence[Node] = (),
    create_graph: bool = False,
) -> StepJacobians[Any]:
    """Jacobians of steps that were recorded step by step.

    ``scans`` are the fused layers that were opened, if any. They know where each sequence ended. The opened
    graph does not show that in later windows of truncated backpropagation, which begin at a copy of the
    state before.
    """
    names, at = tuple(stack), steps_of(stack)
    _check_parts(stack, at)
    initial = {name: r.initial for name, r in stack.items() if r.initial is not None}
    if len(initial) == len(names):
        at = {-1: initial, **at}
    pairs = list(itertools.pairwise(at.items()))
    _, last = next(reversed(at.items()))
    i = check_whole("step_jacobians", "sample", sample, 0, max(map(_samples, last.values())) - 1)
    ran = [Steps(node) for node in scans]
    over = {t for scan in ran for t in scan.times()}.difference(_times_of(ran, i))
    pairs = [pair for pair in pairs if pair[1][0] not in over]
    while pairs and _is_over(pairs[-1][1][1], pairs[-1][0][1], i):
        pairs.pop()
    if not pairs and -1 not in at:
        raise GraphError("step_jacobians: there is a single step; a Jacobian needs one before it")
    wanted = set(choose([t for _, (t, _) in pairs]))
    pairs = [pair for pair in pairs if pair[1][0] in wanted]
    size = sum(_units(node) for node in last.values())
    matrices = [
        _jacobians(after, before, names, slice(i, i + 1), create_graph)
        for (_, before), (_, after) in pairs
    ]
    times_of = np.array([t for _, (t, _) in pairs], np.int64)
    none: Any = np.empty((0, size, size))
    if create_graph:
        (like, *_) = last.values()
        none = zeros(none.shape, dtype=like.value.dtype, device=device_of(like.value))
    whole = (tg if create_graph else np).concat([none, *matrices])
    return StepJacobians(times_of, names, whole)


def _wide(matrices: Any) -> HostArray:
    """Matrices on the host in float64."""
    return as_array(matrices).astype(np.float64, copy=False)


def _is_over(after: Step, before: Step, sample: int) -> bool:
    """Whether a mask handed a sequence's state on from the step before, as a constant: it has ended."""
    return all(
        _is_frozen(node, sample)
        and np.array_equal(_values(node, sample), _values(before[name], sample), equal_nan=True)
        for name, node in after.items()
    )


def _is_frozen(node: Node, sample: int) -> bool:
    """Whether a mask chose a constant for a sequence's state."""
    if node.op != "where":
        return False
    running, _, other = node.inputs  # type: ignore[misc]
    if not isinstance(running, Node) or getattr(other, "requires_grad", False):
        return False
    mask = np.broadcast_to(
        backend.namespace(running.value).to_numpy(running.value), node.value.shape
    )
    return not mask[sample if _samples(node) > 1 else ...].any()


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


@modes_kept
def _jacobians(
    after: Step, before: Step, names: tuple[str, ...], rows: slice, create_graph: bool = False
) -> Any:
    """∂after/∂before of some rows (rows, S, S), which depend on no other rows; one backward pass for all.

    The result is an array on the host, where the graph is then, or a recorded Tensor.
    """
    xp: Any = tg if create_graph else np
    blocks = []
    for name in names:
        node = after[name]
        picks = _one_each(node, rows)
        with grad_mode(create_graph):
            found = backpropagate(
                [(node, wrap(picks) if create_graph else picks)],
                set(before.values()),
                stop=True,
                retain_graph=True,
            )
        for x in before.values():
            if x not in found:
                zeros = zeros_like(x.value, picks.shape[:1])
                found[x] = wrap(zeros) if create_graph else zeros
        parts = [_block(xp, found[before[other]], before[other], node, rows) for other in names]
        blocks.append(xp.concat(parts, axis=-1))
    return xp.concat(blocks, axis=1)


def _one_each(node: Node, rows: slice) -> Any:
    """Cotangents that pick one element each of some rows of a state, on a leading axis."""
    shape, samples, size = node.value.shape, _samples(node), _units(node)
    picks = np.zeros((size, samples, size))
    picks[:, rows] = np.eye(size)[:, None]
    xp = backend.namespace(node.value)
    array = xp.from_numpy(picks.reshape(size, *shape), xp.device(node.value))
    return xp.astype(array, node.value.dtype)


def _block(xp: Any, g: Any, node: Node, after: Node, rows: slice) -> Any:
    """The block of the Jacobians for one part of the state and one of the state before."""
    samples = _samples(node)
    some = rows if samples > 1 else slice(None)  # an initial state may be one for all
    each = xp.reshape(g, (g.shape[0], samples, -1))[:, some]
    return xp.permute_dims(each, (1, 0, 2))


def _samples(node: Node) -> int:
    """The number of sequences in a state; without a batch axis 1."""
    shape = node.value.shape
    return int(shape[0]) if len(shape) > 1 else 1


def _units(node: Node) -> int:
    """The number of elements that a state has for each sequence."""
    return math.prod(node.value.shape) // _samples(node)
