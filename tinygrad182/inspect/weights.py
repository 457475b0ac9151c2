"""The gradient by a weight, split by the time step it was used at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import seeds_of
from ..backend import Array
from ..backpropagation import ancestors, backpropagate, gather, pull
from ..errors import DTypeError, GraphError
from ..modes import no_grad
from ..primitives.index import Slice
from ..recording import Node, is_tensor, node_of
from ..unrolling import unrolled
from . import fused_weights
from .hosting import device_of, on_host
from .norms import row_norms
from .scaling import Band, gradients_in_bands, whole_of
from .times import marked_times, node_times, time_axes

CHUNK = 4_000_000
"""How many elements are carried at once, for some steps together."""


def weight_grad_by_time(loss: Tensor, weight: Tensor, norm_only: bool = False) -> Any:
    """∂L/∂W as a sum over time: what each step's use of W contributes.

    For z_t = x_t Wᵀ + …, part t is G_t = δ_{z_t}ᵀ x_t; together they are the gradient. This holds
    also where all steps were computed in one product, whose result is then told apart along its
    time axis. Uses of W outside any time step (a penalty on it) belong to none and are left out. In a
    loop of your own, mark every part of the state, and the initial one with ``time=-1``.

    Parameters
    ----------
    loss : Tensor
        A single element.
    weight : Tensor
        A leaf that requires grad, such as ``rnn.weight_hh_l0``.
    norm_only : bool
        Return the norms alone, without holding T matrices.

    Returns
    -------
    array ``(T, *W.shape)`` in W's dtype, or ndarray ``(T,)`` of Frobenius norms in float64
        By time step, from 0 to the last that the loss depends on; zeros where W was not used. Norms
        are true also where the parts under- or overflow in W's dtype.

    Raises
    ------
    GraphError
        The loss depends on W in no time step, or in an operation on several steps that has no known
        time axis (on states that were averaged or reshaped before).

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 4, rng=0, dtype="float64")
    >>> output, _ = rnn(tg.ones((10, 1, 1), dtype="float64"))
    >>> loss = output[-1].sum()
    >>> parts = tg.inspect.weight_grad_by_time(loss, rnn.weight_hh_l0)
    >>> parts.shape
    (10, 4, 4)
    >>> loss.backward()
    >>> bool(abs(parts.sum(axis=0) - rnn.weight_hh_l0.grad.numpy()).max() < 1e-14)
    True
    """
    if not is_tensor(weight):
        raise DTypeError(f"weight_grad_by_time: the weight is a {type(weight).__name__}, no Tensor")
    root, seed = seeds_of([loss], [None], False, "weight_grad_by_time")[0]
    here = on_host([(root, seed)])
    ((root, seed),), leaf = here.seeds, here.twin(node_of(weight))
    parts = _parts(root, seed, leaf, norm_only)
    return parts if norm_only else backend.move(parts, device_of(weight._data))


def _parts(root: Node, seed: Array, leaf: Node, norm_only: bool) -> Any:
    """What each step contributes, or its norm, in a graph on the host."""
    if scans := fused_weights.scans_using(root, leaf):
        steps = fused_weights.last_step(root) + 1
        found = fused_weights.contributions(root, seed, leaf, scans, CHUNK)
        if norm_only:
            return fused_weights.norms(found, steps)
        return fused_weights.whole(found, steps, leaf.value)
    root = unrolled(root)
    uses = _Uses(root, leaf)
    if not uses.steps:
        raise GraphError(
            f"weight_grad_by_time: the loss depends on {uses.weight.label()} in no time step: uses are "
            "told apart by the steps of tg.nn's recurrent layers, or by tg.inspect.mark in your own loop"
        )
    with no_grad():
        uses.run_backward(seed)
        size = math.prod(leaf.value.shape)
        parts = [_norms(part) if norm_only else whole_of(part) for part in uses.parts(size)]
    return np.concatenate(parts) if norm_only else backend.namespace(seed).concat(parts, axis=0)


def _norms(part: list[Band]) -> np.ndarray[Any, Any]:
    """The norm of every step's sum of bands, which may overlap."""
    hosts = [backend.namespace(array).to_numpy(array).astype(np.float64) for array, _ in part]
    rows = [host.reshape(len(host), math.prod(host.shape[1:])) for host in hosts]
    powers = np.array([power for _, power in part])
    if len(part) == 1:
        return np.ldexp(row_norms(rows[0]), powers[0])
    used = np.array([row.any(axis=1) for row in rows])
    top = np.where(used, powers[:, None], powers.min()).max(axis=0)
    with np.errstate(over="ignore", under="ignore"):
        shifts = (powers[:, None] - top)[..., None]
        whole = sum(np.ldexp(row, shift) for row, shift in zip(rows, shifts, strict=True))
        return np.ldexp(row_norms(whole), top)


class _Uses:
    """The uses of one weight: from what is known to belong to a step, down to the weight.

    Attributes
    ----------
    neck : list of Node
        The weight, and what is computed from it before any step takes part (its transpose), oldest
        first.
    uses : list of Node
        The operations that take one of these into a step, or into something with a time axis.
    steps : int
        T: one more than the last step there is.
    """

    def __init__(self, root: Node, weight: Node) -> None:
        self.root, self.weight = root, weight
        nodes = ancestors([root], constants=True)
        self.times = node_times(nodes)
        self.axes = time_axes(nodes, self.times)
        neck: set[Any] = {weight}
        behind: set[Any] = set()  # what depends on a step
        self.uses: list[Node] = []
        for node in nodes:
            inputs = node.inputs or ()
            if node in self.times or not behind.isdisjoint(inputs):
                behind.add(node)
            if node in neck or neck.isdisjoint(inputs):
                continue
            if node in behind and self._joins_loss(node, neck - behind):
                continue
            if node in self.times or node in self.axes:
                self.uses.append(node)
            else:
                neck.add(node)
        if root in neck:
            self._check_told_apart(neck, behind)
        self.neck = sorted(neck, key=lambda node: node.order)
        last = max((t for node in nodes for t in marked_times(node)), default=-1)
        self.steps = max(last, *self.times.values()) + 1 if self.uses else 0
        self.grads: dict[Node, list[Band]] = {}

    def _joins_loss(self, node: Node, alone: set[Any]) -> bool:
        """Whether a number from the weight ``alone``, a penalty, meets what steps gave in ``node``."""
        numbers = [x for x in node.inputs or () if x in alone]
        if not numbers or self.weight in numbers or any(x.value.ndim for x in numbers):  # type: ignore[union-attr]
            return False
        in_a_step = node in self.times or node in self.axes
        sums_up = node.op in {"add", "subtract"} and not node.value.ndim
        return not in_a_step or sums_up or node.op == "stack"

    def _check_told_apart(self, neck: set[Any], behind: set[Any]) -> None:
        """Raise if the weight acts on the loss through what belongs to several steps at once."""
        seen, stack = {self.root}, [self.root]
        while stack:
            for x in stack.pop().inputs or ():
                if x in neck and x not in seen:
                    seen.add(x)  # type: ignore[arg-type]
                    stack.append(x)  # type: ignore[arg-type]
        mixed = [node for node in seen if node in behind]
        if mixed:
            first = min(mixed, key=lambda node: node.order)
            raise GraphError(
                f"weight_grad_by_time: {first.op} of shape {tuple(first.value.shape)} uses "
                f"{self.weight.label()} for several steps at once, in which no time axis is known: "
                "apply it to every step, or to tg.stack(states), before steps are mixed"
            )

    def run_backward(self, seed: Array) -> None:
        """Find the loss's gradient by the result of every use."""
        self.grads = gradients_in_bands(self.root, seed, set(self.uses))

    def parts(self, size: int) -> Iterator[list[Band]]:
        """∂L/∂W of some steps at a time, ``(steps, *W.shape)``: a sum of bands."""
        largest = max([size, *(n.value.size for n in self.grads if n in self.axes)])
        count = max(1, CHUNK // max(largest, 1))
        for start in range(0, self.steps, count):
            yield self._part(range(start, min(start + count, self.steps)))

    def _part(self, times: range) -> list[Band]:
        """A backward pass through the neck for every power of two, the steps on a leading axis."""
        seeds: dict[int, list[tuple[Node, Any]]] = {}
        for node, bands in self.grads.items():
            if self.times.get(node, times.start) in times:
                for g, power in bands:
                    seeds.setdefault(power, []).extend(self._seeds(node, g, times))
        found = [
            (backpropagate(some, {self.weight}, retain_graph=True).get(self.weight), power)
            for power, some in seeds.items()
        ]
        parts = [(array, power) for array, power in found if array is not None]
        if parts:
            return parts
        weight = self.weight.value
        xp = backend.namespace(weight)
        with xp.on(weight):
            return [(xp.zeros((len(times), *weight.shape), dtype=weight.dtype), 0)]

    def _seeds(self, node: Node, g: Array, times: range) -> list[tuple[Node, Any]]:
        """What a use sends into the neck, the steps on a leading axis."""
        neck, time = set(self.neck), self.times.get(node)
        if time is None:
            spread = pull(node, self._spread(node, g, times), neck)
            return [(p, _whole(p, c)) for p, c in spread]
        one = pull(node, g[None], neck)
        return [(p, _placed(_whole(p, c), time - times.start, len(times))) for p, c in one]

    def _spread(self, node: Node, g: Array, times: range) -> Array:
        """The gradient of a whole sequence, on a leading axis: each step's alone, zeros beside it."""
        xp = backend.namespace(g)
        axis, start = self.axes[node]
        steps = range(start, start + g.shape[axis])
        lead = (slice(None),) * (axis % g.ndim)
        with xp.on(g):
            out = xp.zeros((len(times), *g.shape), dtype=g.dtype)
            for i, t in enumerate(times):
                if t in steps:
                    key = (*lead, t - start)
                    out[(i, *key)] = g[key]
        return out


def _whole(node: Node, cotangent: Any) -> Array:
    return gather(node, [cotangent]) if type(cotangent) is Slice else cotangent


def _placed(cotangent: Array, i: int, count: int) -> Array:
    """A cotangent ``(1, …)`` as step ``i`` of ``count``, zeros beside it."""
    xp = backend.namespace(cotangent)
    with xp.on(cotangent):
        out = xp.zeros((count, *cotangent.shape[1:]), dtype=cotangent.dtype)
        out[i] = cotangent[0]
    return out
