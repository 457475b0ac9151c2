"""``remat``: run a function again in the backward pass instead of storing what it recorded."""

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
    """Return ``f`` with less memory for backward: inputs and outputs are stored, and ``f`` runs again.

    A sequence of T steps in √T segments needs memory that grows with √T, at the cost of one more forward.

    Parameters
    ----------
    f : callable
        Takes any arguments and returns Tensors; both may be in nested tuples, lists and dicts. It may use
        parameters from outside, and must compute the same result at every call. Arrays among its
        arguments are copied. If a Tensor argument, or a Tensor from outside that it records, is changed
        in place before the backward pass, that pass raises. These changes are not noticed: of an array
        from outside, of a constant that is first used here, and of a parameter that is only compared or
        detached for operations that are not recorded.

    Returns
    -------
    callable
        A function with the values and derivatives of ``f``, to every order.

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
        function = _RerunFunction(f, (args, kwargs), modes, start := now())
        out, flat = function.run([_stand_in(x) for x in differentiable])
        if flat is None:
            return out
        root = node_of(flat)
        function.outside, used = _used_from_outside(root, start)
        fixed = dict.fromkeys([*constants, *used])  # each once
        inputs = (*map(node_of, differentiable), *function.outside, *fixed)
        function.watched = [x for x in inputs if x.memory is not None]
        # a result that is an argument, or a view of one, must not change when that changes
        value = flat._data if root.memory is None else backend.copy(flat._data)
        primitive = Primitive(
            "remat", function.forward, function.vjp, function.jvp, leading_axes=True
        )
        return _parts(record(primitive, inputs, value, {}, modes.scope), out)

    return rematerialized


class _RerunFunction:
    """A function and its arguments, to be run again; its methods are the rules of its one node.

    The node's inputs are the arguments that require grad, then ``outside`` (tensors from outside that
    require grad), then the constants of both kinds, which must not change.
    """

    def __init__(self, f: Callable[..., Any], arguments: Any, modes: Modes, start: int) -> None:
        self.f = f
        self.modes = modes
        self.start = start
        self.draws = Tape()
        given = flatten(arguments)
        self.differentiable = [needs_grad(x) for x in given]
        self.constants = [
            None if d else _copied(x) for x, d in zip(given, self.differentiable, strict=True)
        ]
        self.structure = rebuild(arguments, self.constants)
        self.outside: list[Node] = []
        self.watched: list[Node] = []

    @modes_kept
    def run(self, stand_ins: list[Any]) -> tuple[Any, Any]:
        """Record the function on stand-ins for its arguments, under the modes of the first call."""
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
        """Compute the value at any values of the inputs."""
        flat, ends = self._record_again(inputs)
        values = dict(zip(ends, inputs, strict=False))
        # f itself would use the old values of tensors from outside
        for node in ancestors([node_of(flat)], ends=ends):
            if node not in values and not isinstance(node, Leaf):
                xs = [
                    values.get(x, x.value) if isinstance(x, Node) else x for x in node.inputs or ()
                ]
                y = node.primitive.forward(xp, *xs, **node.params)  # type: ignore[union-attr]
                values[node] = xp.asarray(y)
        return values[node_of(flat)]

    @modes_kept
    def _record_again(self, inputs: tuple[Any, ...]) -> tuple[Any, list[Node]]:
        """Record the function again; return the output and the nodes at which derivatives end."""
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
        # the first run has checked the bounds of indices: the host need not wait again
        with deferred_checks([]):
            _, flat = self.run(stand_ins)
        return flat, [*map(node_of, stand_ins), *self.outside]

    @modes_kept
    def vjp(self, xp: Any, g: Any, y: Any, *inputs: Any) -> tuple[Any, ...]:
        """Record the function again and pull the cotangent through it."""
        flat, ends = self._record_again(inputs)
        again = is_tensor(g)
        with grad_mode(again):
            found = backpropagate([(node_of(flat), g)], ends, retain_graph=again, stop=True)
        return (*map(found.get, ends), *[None] * (len(inputs) - len(ends)))

    def jvp(self, xp: Any, tangents: Tangents, y: Any, *inputs: Any) -> Any:
        """Record the function again and push the tangents through it."""
        flat, ends = self._record_again(inputs)
        known = {end: v for end, v in zip(ends, tangents, strict=False) if v is not None}
        push_forward([node_of(flat)], known)
        return known.get(node_of(flat))  # None if it depends on no input with a tangent


def _copied(x: Any) -> Any:
    """A constant argument; an array is copied, because it may change before the second run."""
    if isinstance(x, np.ndarray):
        return x.copy()  # also subclasses and arrays of objects
    return backend.copy(x) if backend.is_array(x) else x


def _stand_in(x: Any) -> Any:
    """A leaf in the place of an argument, which shares the argument's memory."""
    stand_in = x.detach()
    stand_in._node.requires_grad = True
    return stand_in


def _used_from_outside(root: Node, start: int) -> tuple[list[Node], list[Leaf]]:
    """Return the nodes that the function used and that existed before it ran, oldest first.

    The first list has those that require grad. The second has constants, which must not change.
    """
    found: list[Node] = []
    fixed: dict[Any, Leaf] = {}
    seen = {root}
    stack = [root]
    while stack:
        node = stack.pop()
        if not node.requires_grad:
            if isinstance(node, Leaf) and not node.memory.changed_after(start):
                fixed.setdefault(node.memory, node)  # one leaf for each array is enough
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
    """Return the outputs; those that require grad are parts of the recorded one."""
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
