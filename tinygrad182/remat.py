"""``remat``: run a function again in the backward pass instead of keeping what it recorded."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from .backpropagation import backpropagate
from .errors import ArgumentError, InPlaceError
from .modes import MODES, Modes, grad_mode, recording_as
from .primitives import Primitive
from .primitives.primitive import Tangents
from .rearranging import concat, index, reshape
from .recording import Leaf, Node, is_tensor, needs_grad, node_of, now, record, wrap
from .transforms import alias, push_forward


def remat(f: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``f`` forget its inside: backward runs it again, and memory holds only its ends.

    A sequence of T steps cut into √T segments needs memory that grows with √T, for one more forward.

    Parameters
    ----------
    f : callable
        Takes Tensors and returns a Tensor or a tuple of them. It may use parameters from outside, and
        must compute the same whenever it is called: a constant it was given must not be changed before
        the backward pass, which is noticed, nor one it takes from elsewhere, which may not be.

    Returns
    -------
    callable
        The same function with the same derivatives, to every order.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([2.0], requires_grad=True)
    >>> y = tg.remat(lambda x: tg.tanh(x * w) * x)(tg.tensor([0.5]))
    >>> y.sum().backward()
    >>> round(w.grad.item(), 4)
    0.105
    """

    @functools.wraps(f)
    def rematerialized(*xs: Any) -> Any:
        modes = MODES.get()
        if not modes.grad:
            return f(*xs)
        for x in xs:
            if is_tensor(x):
                node_of(x)  # there before the function runs: also what is constant is watched
        inside = _Inside(f, xs, modes, start := now())
        given = [x for x in xs if needs_grad(x)]
        out, flat = inside.run([wrap(x._data, Leaf(x._data, True)) for x in given])
        if not flat.requires_grad:
            return out
        inside.outside, inside.fixed = _used_from_outside(node_of(flat), start)
        primitive = Primitive("remat", inside.forward, inside.vjp, inside.jvp)
        inputs = (*map(node_of, given), *inside.outside)
        return _parts(record(primitive, inputs, flat._data, {}, modes.scope), out)

    return rematerialized


class _Inside:
    """The function, ready to be run again: the definition that its one node stands for."""

    def __init__(
        self, f: Callable[..., Any], xs: tuple[Any, ...], modes: Modes, start: int
    ) -> None:
        self.f = f
        self.start = start
        self.differentiable = [needs_grad(x) for x in xs]
        self.constants = [None if d else x for x, d in zip(xs, self.differentiable, strict=True)]
        self.modes = modes
        self.outside: list[Node] = []
        self.fixed: list[Leaf] = []

    def run(self, stand_ins: list[Any]) -> tuple[Any, Any]:
        """Record the function on stand-ins for its arguments, where and as it was first called."""
        remaining = iter(stand_ins)
        with recording_as(self.modes):
            out = self.f(
                *(
                    next(remaining) if d else x
                    for x, d in zip(self.constants, self.differentiable, strict=True)
                )
            )
            return out, _flat(out)

    def forward(self, xp: Any, *inputs: Any) -> Any:
        """Give the value alone."""
        _, flat = self.run([wrap(x) for x in inputs[: sum(self.differentiable)]])
        return flat._data

    def _again(self, inputs: tuple[Any, ...]) -> tuple[Any, list[Node]]:
        """Record again; return the output and the nodes at which its derivatives end."""
        for leaf in self.fixed:
            if leaf.memory.changed_after(self.start):
                raise InPlaceError(
                    f"backward of remat: a constant of shape {tuple(leaf.value.shape)} that the function "
                    "uses was changed in place, so running it again would give something else; "
                    "run backward before the change, or give the function a copy"
                )
        stand_ins = [
            alias(x) if is_tensor(x) else wrap(x, Leaf(x, True))
            for x in inputs[: sum(self.differentiable)]
        ]
        _, flat = self.run(stand_ins)
        return flat, [*map(node_of, stand_ins), *self.outside]

    def vjp(self, xp: Any, g: Any, y: Any, *inputs: Any) -> tuple[Any, ...]:
        """Carry the cotangent through the function, recorded again."""
        flat, ends = self._again(inputs)
        again = is_tensor(g)
        with grad_mode(again):
            found = backpropagate([(node_of(flat), g)], ends, retain_graph=again, stop=True)
        return tuple(found.get(end) for end in ends)

    def jvp(self, xp: Any, tangents: Tangents, y: Any, *inputs: Any) -> Any:
        """Push the tangents through the function, recorded again."""
        flat, ends = self._again(inputs)
        known = {end: v for end, v in zip(ends, tangents, strict=True) if v is not None}
        push_forward([node_of(flat)], known)
        return known[node_of(flat)]


def _used_from_outside(root: Node, start: int) -> tuple[list[Node], list[Leaf]]:
    """Return what the function used that was there before it ran, oldest first.

    What requires grad is given to it too; constants only have to stay as they are.
    """
    found: set[Node] = set()
    fixed: list[Leaf] = []
    seen = {root}
    stack = [root]
    while stack:
        for x in stack.pop().inputs or ():
            if not isinstance(x, Node) or x in seen:
                continue
            seen.add(x)
            if x.requires_grad:
                (found.add if x.order < start else stack.append)(x)
            elif isinstance(x, Leaf) and x.order < start:
                fixed.append(x)
    return sorted(found, key=lambda node: node.order), fixed


def _flat(out: Any) -> Any:
    """Return one Tensor with the elements of all outputs."""
    if is_tensor(out):
        return out
    if not isinstance(out, (tuple, list)) or not all(is_tensor(o) for o in out):
        raise ArgumentError("remat: the function must return a Tensor or a tuple of Tensors")
    return concat([reshape(o, (-1,)) for o in out])


def _parts(flat: Any, out: Any) -> Any:
    """Return the outputs, cut from the one that was recorded."""
    if is_tensor(out):
        return flat
    parts, start = [], 0
    for o in out:
        stop = start + math.prod(o.shape)
        parts.append(reshape(index(flat, slice(start, stop)), o.shape))
        start = stop
    return tuple(parts)
