"""``weight_grad_by_time``: the gradient by a weight, split by the time steps that used it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...arrays.backend import device_of
from ...arrays.namespaces import Array
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors
from ...engine.recording import Leaf, Node, is_tensor, node_of
from ...errors import ArgumentError, DTypeError, UnknownPathError
from ...kernels.powers import NOTHING, or_zero, sizes_of, times_rows
from ...kernels.products import ProductOperands, as_declared
from ...recurrence.scans import is_scan, steps_of_scan
from ...tensors.tensor import Tensor
from ..loops.hosting import copied_to_host
from ..loops.recurrences import Wanted, chosen
from ..loops.times import marked_times
from ..passes.gradients import ScanGradients, gradients_inside
from ..passes.scaling import HostArray, sample_norms
from .weight_parts import CheckedParts, Part
from .weight_uses import Uses

CHUNK = 4_000_000
"""About so many elements are carried at once, for some steps together."""

IN_CACHE = 1 << 19
"""So many of them are computed, added up and measured together: they should stay in the cache."""


def weight_grad_by_time(
    loss: Tensor,
    weight: Tensor | str,
    norm_only: bool = False,
    *,
    per_sample: bool = False,
    log: bool = False,
    times: Wanted = None,
) -> Any:
    """∂L/∂W as a sum over time: the contribution of each step's use of W.

    For z_t = x_t Wᵀ + …, part t is G_t = δ_{z_t}ᵀ x_t, and the parts add up to the gradient. If all steps
    were computed in one product, its result is split along the time axis. Uses of W outside any time step,
    such as a penalty on it, belong to no part. In your own loop, mark every part of the state, and the
    initial one with ``time=-1``. :func:`tinygrad182.inspect.loops.times.places` says to which step an
    operation between states belongs.

    Every call checks that the parts, with uses outside any step, add up to the gradient.

    Parameters
    ----------
    loss : Tensor
        A single element.
    weight : Tensor or str
        A leaf that requires grad, such as ``rnn.weight_hh_l0``, or its dotted path in the model.
    norm_only : bool
        Return the norms alone, without holding T matrices.
    per_sample : bool
        Split by the B sequences too: G_t is the sum over b of δ_{z_t}^(b) ⊗ x_t^(b), whose norm is
        ‖δ‖·‖x‖. In your own loop, sequences must lie along the first axis of a result that a step computes
        with W (behind time, if one product computes all steps), as in x @ W and h * w. If the result has no
        axis but the weight's, B is 1.
    log : bool
        With ``norm_only``: return natural logarithms of the norms, which are right also where float64
        cannot hold the norms; −∞ where W was not used.
    times : int or sequence of int, optional
        The wanted time steps; by default all. The others are computed too, for the check.

    Returns
    -------
    array ``(T, *W.shape)`` in W's dtype, or ndarray ``(T,)`` of Frobenius norms in float64
        By time step, from 0 to the last that the loss depends on, or those of ``times`` in the order of
        time; with ``per_sample`` ``(T, B, *W.shape)`` or ``(T, B)``. Zeros where W was not used. Norms
        are right also where the parts under- or overflow in W's dtype.

    Raises
    ------
    GraphError
        No time step uses W; or an operation on several steps uses it that has no known time axis (on
        states that were averaged or reshaped before); or the parts do not add up. With ``per_sample``
        also: uses have different numbers of sequences, or these are not along the first axis.
    UnknownPathError
        No parameter has that path.
    ArgumentError
        No such time step, or ``log`` without ``norm_only``.

    Notes
    -----
    Time is linear in T. The result holds T matrices of W's size (T · B with ``per_sample``), or those of
    ``times``. With ``norm_only``, or for a few steps, about 4 million numbers are worked on at once, in
    about 100 MB for a sequence of any length.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 4, rng=0, dtype="float64")
    >>> output, _ = rnn(tg.ones((10, 1, 1), dtype="float64"))
    >>> loss = output[-1].sum()
    >>> parts = tg.inspect.weight_grad_by_time(loss, rnn.weight_hh_l0)
    >>> parts.shape
    (10, 4, 4)
    >>> tg.inspect.weight_grad_by_time(loss, "weight_hh_l0", times=[8, 9]).shape
    (2, 4, 4)
    >>> tg.inspect.weight_grad_by_time(loss, "weight_hh_l0", norm_only=True, per_sample=True).shape
    (10, 1)
    >>> loss.backward()
    >>> bool(abs(parts.sum(axis=0) - rnn.weight_hh_l0.grad.numpy()).max() < 1e-14)
    True
    """
    if not (isinstance(weight, str) or is_tensor(weight)):
        raise DTypeError(
            f"weight_grad_by_time: the weight is a {type(weight).__name__}; pass the Tensor, such as "
            "rnn.weight_hh_l0, or its path"
        )
    if log and not norm_only:
        raise ArgumentError(
            "weight_grad_by_time: log=True gives logarithms of norms; pass norm_only=True with it"
        )
    root, seed = seeds_of([loss], [None], False, "weight_grad_by_time")[0]
    leaf = _named(root, weight) if isinstance(weight, str) else node_of(weight)
    device = device_of(leaf.value)
    here = copied_to_host([(root, seed)])
    ((root, seed),), leaf = here.seeds, here.twin(leaf)
    parts = _parts(root, seed, leaf, per_sample, norm_only)
    wanted = chosen(times, range(parts.steps), "weight_grad_by_time")
    if norm_only:
        return _norms(parts, wanted, log)
    return backend.move(_gathered(parts, wanted, leaf.value), device)


def _named(root: Node, path: str) -> Node:
    """The parameter of a graph that has a dotted path."""
    leaves = [n for n in ancestors([root]) if isinstance(n, Leaf) and n.name]
    found = [leaf for leaf in leaves if leaf.name == path]
    if len(found) != 1:
        count = "several parameters are" if found else "no parameter is"
        raise UnknownPathError(
            f"weight_grad_by_time: {count} called {path!r}; there is "
            f"{', '.join(sorted({repr(leaf.name) for leaf in leaves})) or 'none with a path'}; "
            "or pass the Tensor itself, such as rnn.weight_hh_l0"
        )
    return found[0]


def _parts(root: Node, seed: Array, leaf: Node, per_sample: bool, norm_only: bool) -> CheckedParts:
    """The contribution of each step, in a graph on the host."""
    scans = _scans_using(root, leaf)
    batches = {node.value.shape[-2] for node in scans}
    if not scans or (per_sample and len(batches) > 1):
        return Uses(root, leaf, per_sample).contributions(seed, CHUNK)
    if not per_sample:
        return _contributions(root, seed, leaf, scans, (), _Rows.summed)
    made = _Rows.sizes_by_sequence if norm_only else _Rows.by_sequence
    return _contributions(root, seed, leaf, scans, (batches.pop(),), made)


# --- as arrays ---------------------------------------------------------------------------------------


def _gathered(parts: CheckedParts, wanted: list[int], like: Array) -> Array:
    """The contributions of the wanted steps in the weight's dtype; zeros where it was not used."""
    xp = backend.namespace(like)
    with xp.on(like), np.errstate(over="ignore", under="ignore"):
        found = xp.zeros((len(wanted), *parts.samples, *like.shape), dtype=like.dtype)
        for part in parts:
            times, values, powers = part.times, part.values, part.powers
            into = [i for i, t in enumerate(wanted) if t in times]
            if into:
                source = [wanted[i] - times.start for i in into]
                if len(source) < len(times):
                    values, powers = values[source], powers[source]
                rows = values.reshape(powers.size, -1)
                if powers.any():
                    rows = times_rows(xp.module, rows, xp.asarray(powers.reshape(-1)))
                found[into[0] : into[-1] + 1] = rows.reshape(len(into), *found.shape[1:])
    return found


def _norms(parts: CheckedParts, wanted: list[int], log: bool) -> HostArray:
    """The norm of every contribution, or its logarithm."""
    found = np.full((parts.steps, *parts.samples), -np.inf if log else 0.0)
    for part in parts:
        found[part.times.start : part.times.stop] = part.norms(log)
    return found[wanted]


# --- from inside fused layers ----------------------------------------------------------------------


def _scans_using(root: Node, weight: Node) -> list[Node]:
    """The fused layers that use a weight.

    Empty if another operation uses it too, or if two of them use it at one step.
    """
    found: list[Node] = []
    taken: set[int] = set()
    for node in ancestors([root]):
        places = [i for i, x in enumerate(node.inputs or ()) if x is weight]
        if not places:
            continue
        if not is_scan(node):
            return []
        steps = steps_of_scan(node)
        if len(places) > 1 or places[0] <= len(node.primitive.parts) or not taken.isdisjoint(steps):  # type: ignore[union-attr]
            return []
        found.append(node)
        taken.update(steps)
    return found


def _last_step(root: Node) -> int:
    """The last time step of the graph."""
    nodes = ancestors([root], constants=True)
    ends = [steps_of_scan(node)[-1] for node in nodes if is_scan(node)]
    return max([*ends, *(t for node in nodes for t in marked_times(node))])


def _contributions(
    root: Node,
    seed: Array,
    weight: Node,
    scans: list[Node],
    samples: tuple[int, ...],
    made: Callable[[_Rows], Part],
) -> CheckedParts:
    """The contribution of each step, about :data:`CHUNK` elements at a time."""
    found = gradients_inside([(root, seed)], {*scans, weight}, sums_too=True)
    size = weight.value.size * (samples[0] if made is _Rows.by_sequence else 1)

    def parts() -> Iterator[Part]:
        for node in scans:
            if node in found.inside:
                yield from map(made, _of_scan(node, weight, found.inside[node], size))

    gradient = found.bands.get(weight, [])
    return CheckedParts(weight, _last_step(root) + 1, parts(), gradient, samples=samples)


class _Use(NamedTuple):
    """The use of a weight by a fused layer.

    Attributes
    ----------
    columns : slice
        The columns of its cotangent among those of the sums and of further weights.
    operand : array (T, B, ·), or None
        The factor of the weight; None for a bias.
    operands : ProductOperands
    gates : tuple of int
        In the order of the columns; empty for a further weight.
    """

    columns: slice
    operand: Array
    operands: ProductOperands
    gates: tuple[int, ...]

    def as_declared(self, rows: Array) -> Array:
        """Rows (…, rows, ·) of the sums, in the order of the weight's rows."""
        if not self.gates:
            return rows
        return as_declared(self.operands.m, rows, self.gates, self.operands.states.shape[-1])


def _use(s: ProductOperands, place: int) -> _Use:
    """The use of the weight at some place among the layer's inputs, after the initial state."""
    program, (of_x, of_h, of_others) = s.program, s.columns
    if place < 4:  # a weight or a bias
        columns, gates = ((of_x, program.x_gates), (of_h, program.h_gates))[place % 2]
        operand = s.x if place == 0 else s.before if place == 1 else None
        return _Use(columns, operand, s, gates)
    H, sizes = s.states.shape[-1], list(program.weights.values())
    start = of_others.start + sum(sizes[: place - 4]) * H
    return _Use(slice(start, start + sizes[place - 4] * H), None, s, ())


class _Rows(NamedTuple):
    """The factors of a weight's gradient at some steps; each row is of one sequence at a step.

    Attributes
    ----------
    times : range
    z : array (steps, B, rows)
        Cotangents of the sums.
    powers : int, or ndarray (steps, B) of int
        Powers of two by which the rows of z are multiplied.
    a : array (steps, B, ·), or None
        The factor of the weight; None for a bias.
    use : _Use
    shape : tuple of int
        The weight's shape.
    """

    times: range
    z: HostArray
    powers: Any
    a: HostArray | None
    use: _Use
    shape: tuple[int, ...]

    def summed(self) -> Part:
        """The contribution of each step: δᵀ a."""
        z, powers, a = self.z, self.powers, self.a
        tops = np.full(len(z), powers if isinstance(powers, int) else 0)
        if not isinstance(powers, int):
            sizes = sizes_of(np, np.max(np.abs(z), axis=-1), powers)
            if a is not None:  # a row that is multiplied by zeros does not count
                sizes[~a.any(axis=-1)] = NOTHING
            tops = or_zero(np, sizes.max(axis=1))
            z = times_rows(np, z, np.where(sizes == NOTHING, NOTHING, powers - tops[:, None]))
        part = z.sum(axis=1)[..., None] if a is None else np.matmul(np.swapaxes(z, 1, 2), a)
        return Part(self.times, self._as_declared(part), tops)

    def by_sequence(self) -> Part:
        """The contribution of each sequence: δ ⊗ a."""
        each = self.z[..., None]
        each = each if self.a is None else each * self.a[:, :, None]
        return Part(self.times, self._as_declared(each), self._every_power())

    def sizes_by_sequence(self) -> Part:
        """The contribution of each step, and ‖δ‖ · ‖a‖ of each sequence."""
        norms = sample_norms(self.z)
        norms = norms if self.a is None else norms * sample_norms(self.a)
        return self.summed()._replace(sizes=(norms, self._every_power()))

    def _every_power(self) -> HostArray:
        return np.broadcast_to(self.powers, self.z.shape[:2])

    def _as_declared(self, part: HostArray) -> HostArray:
        """Rows (…, rows, ·) of the sums as part of the weight's gradient, in its order and shape."""
        return self.use.as_declared(part).reshape(*part.shape[:-2], *self.shape)


def _of_scan(node: Node, weight: Node, inside: ScanGradients, size: int) -> Iterator[_Rows]:
    """The rows of a fused layer, for so many steps at once that they fit into the cache."""
    times, count = steps_of_scan(node), max(1, min(CHUNK, IN_CACHE) // size)
    place = (node.inputs or ()).index(weight) - 1 - len(node.primitive.parts)  # type: ignore[union-attr]
    for window in inside.windows:
        found, use = window.sum_cotangents, _use(window.operands, place)
        for i in range(0, len(window.steps), count):
            here = slice(i, i + count)
            z, powers = found.sums[here, :, use.columns], found.powers
            powers = inside.power + (powers if isinstance(powers, int) else powers[here])
            a = None if use.operand is None else use.operand[here]
            first = times[window.steps[i]]
            yield _Rows(range(first, first + len(z)), z, powers, a, use, weight.value.shape)
