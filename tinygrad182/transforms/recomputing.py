"""``remat``: run a function again in the backward pass instead of keeping what it recorded."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._trees import flatten, rebuild
from ..arrays import backend
from ..engine.backpropagation import ancestors, backpropagate
from ..engine.modes import MODES, Modes, deferred_checks, grad_mode, modes_kept, recording_as
from ..engine.recording import Leaf, Node, is_tensor, needs_grad, node_of, now, record, wrap
from ..errors import ArgumentError, InPlaceError
from ..primitives import Primitive
from ..primitives.primitive import Tangents
from ..tensors.indexing import index
from ..tensors.shapes import astype, concat, reshape
from .derivatives import alias, push_forward
from .random_tape import Tape


def remat(f: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``f`` forget its inside: backward runs it again, and memory holds only its ends.

    A sequence of T steps cut into √T segments needs memory that grows with √T, for one more forward.

    Parameters
    ----------
    f : callable
        Takes anything and returns Tensors, both also in nested tuples, lists and dicts. It may use
        parameters from outside, and must compute the same whenever it is called. Arrays among its
        arguments are copied. A Tensor among them, or one from outside that it records, must not be
        changed in place before the backward pass, which raises. Other changes of what it takes from
        outside are not seen: of an array, of a constant first used here, of a parameter that is only
        compared, or detached for operations that are not recorded.

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
    >>> w.grad.numpy().round(4)
    array([0.105], dtype=float32)
    """

    @functools.wraps(f)
    def rematerialized(*args: Any, **kwargs: Any) -> Any:
        modes = MODES.get()
        if not modes.grad:
            return f(*args, **kwargs)
        given = flatten((args, kwargs))
        differentiable = [x for x in given if needs_grad(x)]
        constants = [node_of(x) for x in given if is_tensor(x) and not x.requires_grad]
        inside = _Inside(f, (args, kwargs), modes, start := now())
        out, flat = inside.run([_stand_in(x) for x in differentiable])
        if flat is None:
            return out
        root = node_of(flat)
        inside.outside, used = _used_from_outside(root, start)
        fixed = dict.fromkeys([*constants, *used])  # each once
        inputs = (*map(node_of, differentiable), *inside.outside, *fixed)
        inside.watched = [x for x in inputs if x.memory is not None]
        # what it returns as it came, or a view of it, must not change with it
        value = flat._data if root.memory is None else backend.copy(flat._data)
        primitive = Primitive("remat", inside.forward, inside.vjp, inside.jvp, leading_axes=True)
        return _parts(record(primitive, inputs, value, {}, modes.scope), out)

    return rematerialized


class _Inside:
    """The function, ready to be run again: the definition that its one node stands for.

    The node's inputs are the arguments that require grad, then what the function used from outside that
    does (``outside``), then the constants among both, which only have to stay as they are.
    """

    def __init__(self, f: Callable[..., Any], arguments: Any, modes: Modes, start: int) -> None:
        self.f = f
        self.modes = modes
        self.start = start
        self.draws = Tape()
        given = flatten(arguments)
        self.differentiable = [needs_grad(x) for x in given]
        self.constants = [
            None if d else _own(x) for x, d in zip(given, self.differentiable, strict=True)
        ]
        self.structure = rebuild(arguments, self.constants)
        self.outside: list[Node] = []
        self.watched: list[Node] = []

    @modes_kept
    def run(self, stand_ins: list[Any]) -> tuple[Any, Any]:
        """Record the function on stand-ins for its arguments, where and as it was first called."""
        remaining = iter(stand_ins)
        given = (
            next(remaining) if d else x
            for x, d in zip(self.constants, self.differentiable, strict=True)
        )
        args, kwargs = rebuild(self.structure, given)
        with recording_as(self.modes), self.draws:
            out = self.f(*args, **kwargs)
            return out, _flat(out)

    def forward(self, xp: Any, *inputs: Any) -> Any:
        """Give the value alone, at any values of the inputs."""
        flat, ends = self._again(inputs)
        values = dict(zip(ends, inputs, strict=False))
        for node in ancestors([node_of(flat)], ends=ends):  # ``f`` knows only its own outside
            if node not in values and not isinstance(node, Leaf):
                xs = [
                    values.get(x, x.value) if isinstance(x, Node) else x for x in node.inputs or ()
                ]
                y = node.primitive.forward(xp, *xs, **node.params)  # type: ignore[union-attr]
                values[node] = xp.asarray(y)
        return values[node_of(flat)]

    @modes_kept
    def _again(self, inputs: tuple[Any, ...]) -> tuple[Any, list[Node]]:
        """Record again; return the output and the nodes at which its derivatives end."""
        for node in self.watched:
            if node.memory.changed_after(self.start):  # type: ignore[union-attr]
                name = node.known_name() or f"a {'tensor' if node.requires_grad else 'constant'}"
                raise InPlaceError(
                    f"backward of remat: {name} of shape {tuple(node.value.shape)} that the function "
                    "uses was changed in place, so running it again would give something else; "
                    "run backward before the change, or give the function a copy"
                )
        stand_ins = [
            alias(x) if is_tensor(x) else wrap(x, Leaf(x, True))
            for x in inputs[: sum(self.differentiable)]
        ]
        # the first run has seen the bounds of indices: the host does not wait for them again
        with deferred_checks([]):
            _, flat = self.run(stand_ins)
        return flat, [*map(node_of, stand_ins), *self.outside]

    @modes_kept
    def vjp(self, xp: Any, g: Any, y: Any, *inputs: Any) -> tuple[Any, ...]:
        """Carry the cotangent through the function, recorded again."""
        flat, ends = self._again(inputs)
        again = is_tensor(g)
        with grad_mode(again):
            found = backpropagate([(node_of(flat), g)], ends, retain_graph=again, stop=True)
        return (*map(found.get, ends), *[None] * (len(inputs) - len(ends)))

    def jvp(self, xp: Any, tangents: Tangents, y: Any, *inputs: Any) -> Any:
        """Push the tangents through the function, recorded again."""
        flat, ends = self._again(inputs)
        known = {end: v for end, v in zip(ends, tangents, strict=False) if v is not None}
        push_forward([node_of(flat)], known)
        return known.get(node_of(flat))  # None: it does not depend on what has a tangent


def _own(x: Any) -> Any:
    """A constant argument; an array is copied, for it may be changed before the second run."""
    if isinstance(x, np.ndarray):
        return x.copy()  # also of a class of its own, or of objects
    return backend.copy(x) if backend.is_array(x) else x


def _stand_in(x: Any) -> Any:
    """An argument at which the record of the function's inside begins, with the memory of its own."""
    stand_in = x.detach()
    stand_in._node.requires_grad = True
    return stand_in


def _used_from_outside(root: Node, start: int) -> tuple[list[Node], list[Leaf]]:
    """Return what the function used that was there before it ran, oldest first.

    What requires grad is given to it too; constants only have to stay as they are.
    """
    found: list[Node] = []
    fixed: dict[Any, Leaf] = {}
    seen = {root}
    stack = [root]
    while stack:
        node = stack.pop()
        if not node.requires_grad:
            if isinstance(node, Leaf) and not node.memory.changed_after(start):
                fixed.setdefault(node.memory, node)  # one of the views of an array speaks for all
        elif node.order < start:
            found.append(node)
        else:
            for x in node.inputs or ():
                if isinstance(x, Node) and x not in seen:
                    seen.add(x)
                    stack.append(x)
    return sorted(found, key=lambda node: node.order), list(fixed.values())


def _flat(out: Any) -> Any:
    """Return one Tensor with the elements of all outputs that require grad; None if none does."""
    tensors = flatten(out)
    if not tensors or not all(map(is_tensor, tensors)):
        raise ArgumentError("remat: the function must return a Tensor or a tuple of Tensors")
    outputs = [o for o in tensors if o.requires_grad]
    if len(outputs) < 2:
        return outputs[0] if outputs else None
    return concat([reshape(o, (-1,)) for o in outputs])  # in a type that holds all of them exactly


def _parts(flat: Any, out: Any) -> Any:
    """Return the outputs, those that require grad cut from the one that was recorded."""
    outputs = flatten(out)
    if sum(map(needs_grad, outputs)) == 1:
        return rebuild(out, [flat if needs_grad(o) else o for o in outputs])
    start = 0
    for i, o in enumerate(outputs):
        if needs_grad(o):
            stop = start + math.prod(o.shape)
            part = reshape(index(flat, slice(start, stop)), o.shape)
            outputs[i] = astype(part, o.dtype)
            start = stop
    return rebuild(out, outputs)
