"""The gradient by a weight, split by the time step it was used at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..autodiff import seeds_of
from ..backend import Array, device_of
from ..backpropagation import ancestors, backpropagate, gather, pull
from ..errors import DTypeError, GraphError, UnknownPathError
from ..kernels.powers import NOTHING, largest_exponent, or_zero, sizes_of, times_rows
from ..kernels.products import Setting, as_declared
from ..modes import modes_kept, no_grad
from ..primitives.index import Slice
from ..recording import Leaf, Node, is_tensor, node_of
from ..recurrence import is_scan, steps_of_scan
from ..unrolling import unrolled
from .axes import is_told_apart, operand_axes
from .gradients import Inside, gradients_in_bands, gradients_inside
from .hosting import on_host
from .recurrences import Wanted, chosen
from .scaling import NOT_FINITE, Band, HostArray, row_norms, times_power
from .times import marked_times, places

CHUNK = 4_000_000
"""How many elements are carried at once, for some steps together."""

IN_CACHE = 1 << 19
"""How many of them are found, added up and measured one after the other: they should stay in the cache."""


def weight_grad_by_time(
    loss: Tensor,
    weight: Tensor | str,
    norm_only: bool = False,
    *,
    times: Wanted = None,
) -> Any:
    """∂L/∂W as a sum over time: what each step's use of W contributes.

    For z_t = x_t Wᵀ + …, part t is G_t = δ_{z_t}ᵀ x_t; together they are the gradient. This holds
    also where all steps were computed in one product, whose result is then told apart along its
    time axis. Uses of W outside any time step (a penalty on it) belong to none and are left out. In a
    loop of your own, mark every part of the state, and the initial one with ``time=-1``. To which step
    an operation between states belongs is said in :func:`tinygrad182.inspect.times.places`.

    That the parts and what is left out add up to the gradient is checked in every call.

    Parameters
    ----------
    loss : Tensor
        A single element.
    weight : Tensor or str
        A leaf that requires grad, such as ``rnn.weight_hh_l0``, or the dotted path that its module has
        it under.
    norm_only : bool
        Return the norms alone, without holding T matrices.
    times : int or sequence of int, optional
        The time steps that are asked for; by default all. The others are computed too, for the check,
        and not kept.

    Returns
    -------
    array ``(T, *W.shape)`` in W's dtype, or ndarray ``(T,)`` of Frobenius norms in float64
        By time step, from 0 to the last that the loss depends on, or those of ``times`` in the order of
        time; zeros where W was not used. Norms are true also where the parts under- or overflow in W's
        dtype.

    Raises
    ------
    GraphError
        The loss depends on W in no time step, or in an operation on several steps that has no known
        time axis (on states that were averaged or reshaped before); or the parts do not add up.
    UnknownPathError
        No parameter of that path.
    ArgumentError
        A step that there is not.

    Notes
    -----
    Time is linear in T. Beside the graph and its gradients, T matrices of W's size are held, or those
    of ``times``. With ``norm_only``, or a few steps, some 4 million numbers are worked on at once, in
    about 100 MB, however long the sequence is.

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
    >>> loss.backward()
    >>> bool(abs(parts.sum(axis=0) - rnn.weight_hh_l0.grad.numpy()).max() < 1e-14)
    True
    """
    if not (isinstance(weight, str) or is_tensor(weight)):
        raise DTypeError(
            f"weight_grad_by_time: the weight is a {type(weight).__name__}; pass the Tensor, such as "
            "rnn.weight_hh_l0, or its path"
        )
    root, seed = seeds_of([loss], [None], False, "weight_grad_by_time")[0]
    leaf = _named(root, weight) if isinstance(weight, str) else node_of(weight)
    device = device_of(leaf.value)
    here = on_host([(root, seed)])
    ((root, seed),), leaf = here.seeds, here.twin(leaf)
    parts = _parts(root, seed, leaf)
    wanted = chosen(times, range(parts.steps), "weight_grad_by_time")
    if norm_only:
        return _norms(parts, wanted)
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


def _parts(root: Node, seed: Array, leaf: Node) -> CheckedParts:
    """What each step contributes, in a graph on the host."""
    if scans := _scans_using(root, leaf):
        return _contributions(root, seed, leaf, scans)
    return Uses(root, leaf).contributions(seed, CHUNK)


# --- parts that add up -----------------------------------------------------------------------------


class Part(NamedTuple):
    """What some steps contribute.

    Attributes
    ----------
    times : range
    values : array (steps, *W.shape)
    powers : ndarray (steps,) of int
        Powers of two that the values are to be multiplied by.
    """

    times: range
    values: Array
    powers: HostArray


class CheckedParts:
    """The parts of one weight's gradient, some steps at a time; raises at the end if they fall short.

    Parameters
    ----------
    weight : Node
    steps : int
        T.
    parts : iterator of Part
    gradient : list of Band
        The whole, from the same backward pass.
    outside : array or None
        What uses outside any step contribute.
    """

    def __init__(
        self,
        weight: Node,
        steps: int,
        parts: Iterator[Part],
        gradient: list[Band],
        outside: Part | None = None,
    ) -> None:
        self.weight = weight
        self.steps = steps
        self._parts = parts
        self._gradient = gradient
        self._outside = outside

    def __iter__(self) -> Iterator[Part]:
        total = _Sum()
        for part in self._parts:
            total.add(part.values, part.powers)
            yield part
        if self._outside is not None:
            total.add(self._outside.values, self._outside.powers)
        for array, power in self._gradient:
            total.add(-array[None], np.array([0 if power == NOT_FINITE else power]))
        if total.is_off(self.weight.value.dtype):
            raise GraphError(
                f"weight_grad_by_time: the parts of {self.weight.label()} of shape "
                f"{tuple(self.weight.value.shape)} do not add up to its gradient: they are off by "
                f"{total.off():.2g} of it. It is used in an operation on several steps that could not be "
                "told apart; apply it to every step, or to tg.stack(states), before steps are mixed"
            )


class _Sum:
    """A sum of arrays at powers of two, in float64, beside the sum of their sizes."""

    def __init__(self) -> None:
        self.value: Any = 0.0
        self.size = 0.0
        self.power = NOTHING

    def add(self, values: Array, powers: HostArray) -> None:
        """Add all rows of an array, each at its power."""
        rows = _flat(values)
        with np.errstate(all="ignore"):
            sizes = row_norms(rows)
            counts = sizes != 0
            if not counts.any():
                return
            exponents = powers + np.frexp(sizes)[1]
            top = max(self.power, int(exponents[counts].max()))
            kept = math.ldexp(1.0, max(self.power - top, -2000)) if self.power > NOTHING else 0.0
            shifts = np.where(counts, np.clip(powers - top, -4000, 4000), 0)
            if shifts.max() > 1000:  # of the smallest numbers, for which no factor is large enough
                rows, scales = np.ldexp(rows, shifts[:, None]), np.ones(len(rows))
            else:
                scales = np.ldexp(1.0, shifts)
            self.value = self.value * kept + scales @ rows
            self.size = self.size * kept + float(np.ldexp(sizes, shifts).sum())
        self.power = top

    def off(self) -> float:
        """How much is left of it, relative to all that was added."""
        return float(row_norms(np.atleast_1d(self.value))) / self.size

    def is_off(self, dtype: Any) -> bool:
        """Whether more is left than rounding leaves: the root of the type's ε.

        Rounding in a product of n terms leaves about √n ε of their sizes. The root of ε leaves room for
        terms that cancel, inside a part, to less than a thousandth. Where anything is infinite or NaN,
        nothing can be said.
        """
        if not (self.size and np.isfinite(self.size)):
            return False
        eps = float(np.finfo(str(dtype).rpartition(".")[2]).eps)
        return not self.off() <= math.sqrt(eps)


def _flat(values: Array) -> HostArray:
    """Rows in float64 on the host."""
    host = backend.namespace(values).to_numpy(values).astype(np.float64, copy=False)
    return host.reshape(len(host), math.prod(host.shape[1:]))


def _gathered(parts: CheckedParts, wanted: list[int], like: Array) -> Array:
    """The contributions of the steps asked for, in the weight's type; zeros where it was not used."""
    xp = backend.namespace(like)
    with xp.on(like), np.errstate(over="ignore", under="ignore"):
        found = xp.zeros((len(wanted), *like.shape), dtype=like.dtype)
        for times, values, powers in parts:
            into = [i for i, t in enumerate(wanted) if t in times]
            if into:
                source = [wanted[i] - times.start for i in into]
                if len(source) < len(times):
                    values, powers = values[source], powers[source]
                rows = values.reshape(len(into), -1)
                if powers.any():
                    rows = times_rows(xp.module, rows, xp.asarray(powers))
                found[into[0] : into[-1] + 1] = rows.reshape(len(into), *like.shape)
    return found


def _norms(parts: CheckedParts, wanted: list[int]) -> HostArray:
    """The norm of every step's contribution in float64, true also where its type cannot hold it."""
    found = np.zeros(parts.steps)
    for times, values, powers in parts:
        with np.errstate(over="ignore", under="ignore"):
            found[times.start : times.stop] = np.ldexp(row_norms(_flat(values)), powers)
    return found[wanted]


# --- from inside recurrences that are one operation ------------------------------------------------


def _scans_using(root: Node, weight: Node) -> list[Node]:
    """The recurrences that take a weight as it is.

    None if anything else takes it too, or two of them at the same step.
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
    """The last time step there is behind the root."""
    nodes = ancestors([root], constants=True)
    ends = [steps_of_scan(node)[-1] for node in nodes if is_scan(node)]
    return max([*ends, *(t for node in nodes for t in marked_times(node))])


def _contributions(root: Node, seed: Array, weight: Node, scans: list[Node]) -> CheckedParts:
    """Each step's contribution, about :data:`CHUNK` elements at a time."""
    found = gradients_inside([(root, seed)], set(scans), {weight}, sums_too=True)

    def parts() -> Iterator[Part]:
        for node in scans:
            if node in found.inside:
                yield from _of_scan(node, weight, found.inside[node])

    return CheckedParts(weight, _last_step(root) + 1, parts(), found.bands.get(weight, []))


class _Use(NamedTuple):
    """How a recurrence uses a weight.

    Attributes
    ----------
    columns : slice
        Which of the sums' cotangents, and of further weights', are by it.
    operand : array (T, B, ·), or None
        What it is multiplied by; None: 1.
    setting : Setting
    gates : tuple of int
        In the order of the columns; none for a further weight.
    """

    columns: slice
    operand: Array
    setting: Setting
    gates: tuple[int, ...]

    def as_declared(self, part: Array) -> Array:
        """What some steps contribute, (steps, rows[, ·]), in the order of the weight's rows."""
        if not self.gates:
            return part
        s, rows = self.setting, part if part.ndim > 2 else part[..., None]
        return as_declared(s.m, rows, self.gates, s.states.shape[-1]).reshape(part.shape)


def _use(s: Setting, place: int) -> _Use:
    """How a weight is used that stands at some place behind the parts of the initial state."""
    program, (of_x, of_h, of_others) = s.program, s.columns
    if place < 4:  # both weights, and both biases
        columns, gates = ((of_x, program.x_gates), (of_h, program.h_gates))[place % 2]
        operand = s.x if place == 0 else s.before if place == 1 else None
        return _Use(columns, operand, s, gates)
    H, sizes = s.states.shape[-1], list(program.weights.values())
    start = of_others.start + sum(sizes[: place - 4]) * H
    return _Use(slice(start, start + sizes[place - 4] * H), None, s, ())


def _of_scan(node: Node, weight: Node, inside: Inside) -> Iterator[Part]:
    """δ_{z_t}ᵀ a_t at every step, a_t the input, the state before, or 1."""
    xp = backend.namespace(node.value)
    m, times = xp.module, steps_of_scan(node)
    count = max(1, min(CHUNK, IN_CACHE) // weight.value.size)
    place = (node.inputs or ()).index(weight) - 1 - len(node.primitive.parts)  # type: ignore[union-attr]
    for window in inside.windows:
        found = window.deltas
        use = _use(window.setting, place)
        a = use.operand
        for i in range(0, len(window.steps), count):
            here = slice(i, i + count)
            z, tops = found.sums[here, :, use.columns], np.full(len(found.sums[here]), inside.power)
            if isinstance(found.powers, int):
                tops += found.powers
            else:
                powers = xp.to_numpy(found.powers[here])
                sizes = sizes_of(np, xp.to_numpy(m.max(m.abs(z), axis=-1)), powers)
                if a is not None:  # a row that meets zeros must not hide others
                    sizes[~xp.to_numpy(a[here].any(axis=-1))] = NOTHING
                top = or_zero(np, sizes.max(axis=1))
                shifts = np.where(sizes == NOTHING, NOTHING, powers - top[:, None])
                z, tops = times_rows(m, z, xp.asarray(shifts)), tops + top
            part = z.sum(axis=1) if a is None else m.matmul(m.swapaxes(z, 1, 2), a[here])
            first = times[window.steps[i]]
            yield Part(range(first, first + len(part)), use.as_declared(part), tops)


# --- step by step ----------------------------------------------------------------------------------


class _Sent(NamedTuple):
    """What one step's use sends into the neck: to ``node[key]``, times 2**power."""

    time: int
    node: Node
    key: tuple[Any, ...]
    value: Array
    power: int


class Uses:
    """The uses of one weight: from what is known to belong to a step, down to the weight.

    Every way from the loss to the weight ends in the neck, and leaves it over the edge of one use: so
    what uses send into the neck is the gradient.

    Attributes
    ----------
    neck : set of Node
        The weight, and what is computed from it before any step takes part (its transpose).
    uses : list of Node
        The operations that take one of these into a step, or into something with a time axis.
    outside : list of Node
        Those that take one of these to the loss alone: a penalty.
    steps : int
        T: one more than the last step there is.

    Raises
    ------
    GraphError
        No step uses the weight, or an operation uses it for several that cannot be told apart.
    """

    def __init__(self, root: Node, weight: Node) -> None:
        self.root, self.weight = unrolled(root), weight
        nodes = ancestors([self.root], constants=True)
        self.times, self.axes = places(nodes)
        self.uses: list[Node] = []
        self.outside: list[Node] = []
        neck: set[Any] = {weight}
        behind: set[Any] = set()  # what depends on a step
        for node in nodes:
            inputs = node.inputs or ()
            if node in self.times or node in self.axes or not behind.isdisjoint(inputs):
                behind.add(node)
            if node in neck or neck.isdisjoint(inputs):
                continue
            if node in behind and self._joins_loss(node, neck):
                self.outside.append(node)
            elif node in self.times or node in self.axes:
                self.uses.append(node)
            elif node in behind:
                self._refuse(node)
            else:
                neck.add(node)
        self.neck = neck
        if not self.uses:
            raise GraphError(
                f"weight_grad_by_time: the loss depends on {weight.label()} in no time step: uses are "
                "told apart by the steps of tg.nn's recurrent layers, or by tg.inspect.mark in a loop of "
                "your own"
            )
        last = max((t for node in nodes for t in marked_times(node)), default=-1)
        self.steps = max(last, *self.times.values()) + 1

    def _joins_loss(self, node: Node, neck: set[Any]) -> bool:
        """Whether a number from the weight alone, a penalty, meets what steps gave in ``node``."""
        numbers = [x for x in node.inputs or () if x in neck]
        if self.weight in numbers or any(x.value.ndim for x in numbers):  # type: ignore[union-attr]
            return False
        in_a_step = node in self.times or node in self.axes
        sums_up = node.op in {"add", "subtract"} and not node.value.ndim
        return not in_a_step or sums_up or node.op == "stack"

    def _refuse(self, node: Node) -> None:
        raise GraphError(
            f"weight_grad_by_time: {node.op} of shape {tuple(node.value.shape)}{node.place()} uses "
            f"{self.weight.label()} for several steps at once, in which no time axis is known: apply it "
            "to every step, or to tg.stack(states), before steps are mixed; or name the step that "
            "computes it: tg.inspect.mark(x, name, time=t)"
        )

    def contributions(self, seed: Array, chunk: int) -> CheckedParts:
        """What each step contributes, about ``chunk`` elements at a time."""
        found = gradients_in_bands(self.root, seed, {*self.uses, *self.outside, self.weight})
        outside = [
            sent for node in self.outside for sent in self._sent(node, found.get(node, ()), 0)
        ]
        return CheckedParts(
            self.weight,
            self.steps,
            self._by_chunks(found, chunk),
            found.get(self.weight, []),
            self._combined(outside, range(1)),
        )

    def _by_chunks(self, grads: dict[Node, list[Band]], chunk: int) -> Iterator[Part]:
        largest = max(node.value.size for node in self.neck)
        count = max(1, chunk // max(largest, 1))
        uses: dict[int, list[Node]] = {}
        for node in self.uses:
            for i in {t // count for t in self._steps_of(node)}:
                uses.setdefault(i, []).append(node)
        for i, start in enumerate(range(0, self.steps, count)):
            times = range(start, min(start + count, self.steps))
            sent = [s for node in uses.get(i, ()) for s in self._in_steps(node, grads, times)]
            yield self._combined(sent, times)

    def _steps_of(self, node: Node) -> range:
        if node in self.times:
            return range(self.times[node], self.times[node] + 1)
        axis, start = self.axes[node]
        return range(start, start + node.value.shape[axis])

    def _in_steps(self, node: Node, grads: dict[Node, list[Band]], times: range) -> Iterator[_Sent]:
        """What a use sends into the neck for some of its steps."""
        bands = grads.get(node, ())
        if node in self.times:
            yield from self._sent(node, bands, self.times[node])
            return
        axis, start = self.axes[node]
        for t in self._steps_of(node):
            if t in times and any(g[_at(axis, t - start)].any() for g, _ in bands):
                yield from self._sent_by_step(node, bands, axis, t - start, t)

    def _sent(self, node: Node, bands: Iterable[Band], time: int) -> Iterator[_Sent]:
        for g, power in bands:
            for p, c in pull(node, g, self.neck):
                yield _Sent(time, p, (), _whole(p, c), power)

    def _sent_by_step(
        self, node: Node, bands: Iterable[Band], axis: int, i: int, time: int
    ) -> Iterator[_Sent]:
        """What element ``i`` along the time axis of a use sends: from that step of its operands."""
        if not is_told_apart(node):
            for g, power in bands:
                alone = np.zeros_like(g)
                alone[_at(axis, i)] = g[_at(axis, i)]
                yield from self._sent(node, [(alone, power)], time)
            return
        twin, parts = _at_step(node, axis, i)
        wanted = {x for x, (source, _) in parts.items() if source in self.neck}
        for g, power in bands:
            for x, c in pull(twin, g[_at(axis, i)], wanted):
                source, key = parts[x]
                yield _Sent(time, source, key, _whole(x, c), power)

    @modes_kept
    def _combined(self, sent: list[_Sent], times: range) -> Part:
        """Carry what was sent down to the weight, the steps on a leading axis."""
        weight = self.weight.value
        tops = _tops(sent, times, weight.dtype)
        seeds: dict[Node, Array] = {}
        for s in sent:
            if s.node not in seeds:
                seeds[s.node] = np.zeros((len(times), *s.node.value.shape), s.node.value.dtype)
            i = s.time - times.start
            power = 0 if s.power == NOT_FINITE else s.power
            seeds[s.node][(i, *s.key)] += times_power(s.value, int(power - tops[i]))
        with no_grad():
            found = backpropagate(list(seeds.items()), {self.weight}, retain_graph=True)
        zeros = np.zeros((len(times), *weight.shape), weight.dtype)
        return Part(times, found.get(self.weight, zeros), tops)


def _at(axis: int, i: int) -> tuple[Any, ...]:
    """The key of element ``i`` along an axis counted from the end, which is kept."""
    return (..., slice(i, i + 1), *[slice(None)] * (-axis - 1))


def _at_step(
    node: Node, axis: int, i: int
) -> tuple[Node, dict[Node, tuple[Node, tuple[Any, ...]]]]:
    """An operation at one step; for each of its inputs, of what it is a part, and which."""
    places = iter(operand_axes(node, axis))
    parts: dict[Node, tuple[Node, tuple[Any, ...]]] = {}
    inputs: list[Any] = []
    for x in node.inputs or ():
        if isinstance(x, Node):
            place = next(places)
            key = () if place is None else _at(place, i)
            part = x if place is None else Leaf(x.value[key], x.requires_grad)
            parts[part] = x, key
            x = part
        inputs.append(x)
    value = node.value[_at(axis, i)]
    return Node(node.primitive, tuple(inputs), value, node.params, node.scope), parts


def _tops(sent: list[_Sent], times: range, dtype: Any) -> np.ndarray[Any, Any]:
    """The power of two of every step: 0 where its type holds what arrives well."""
    tops = np.full(len(times), NOTHING)
    for s in sent:
        size = float(np.abs(s.value).max(initial=0.0))
        if 0 < size < math.inf and s.power != NOT_FINITE:
            i = s.time - times.start
            tops[i] = max(tops[i], s.power + math.frexp(size)[1])
    limit = largest_exponent(dtype) // 2
    return np.where((np.abs(tops) < limit) | (tops == NOTHING), 0, tops)


def _whole(node: Node, cotangent: Any) -> Array:
    return gather(node, [cotangent]) if type(cotangent) is Slice else cotangent
