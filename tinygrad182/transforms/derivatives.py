"""Derivatives of functions: ``vjp``, ``jvp``, ``jacobian``, ``hessian``.

Each calls the function once on aliases of its arguments and follows the recorded graph. A function may
therefore use tensors from outside, and its arguments may depend on one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays import backend
from ..engine.autodiff import grad
from ..engine.backpropagation import ancestors, backpropagate, record_definition
from ..engine.modes import MODES, enable_grad, grad_mode, modes_kept
from ..engine.recording import Leaf, Node, apply, is_tensor, needs_grad, node_of, wrap
from ..errors import ArgumentError, ShapeError
from ..primitives import PRIMITIVES, Primitive
from ..tensors.creation import as_tensor_on, full_like, stack_nested, tensor, zeros_like
from ..tensors.shapes import astype
from ..tensors.tensor import Tensor

Outputs = Tensor | tuple[Tensor, ...]


@modes_kept
def vjp(f: Callable[..., Any], *xs: Any) -> tuple[Outputs, Callable[..., tuple[Tensor, ...]]]:
    """Vector–Jacobian product: the value of ``f``, and a function that pulls cotangents back.

    Parameters
    ----------
    f : callable
        Takes Tensors, returns a Tensor or a tuple of them.
    *xs : Tensor or array
        Where to differentiate.

    Returns
    -------
    out : Tensor or tuple of Tensor
        ``f(*xs)``.
    vjp_fn : callable
        Takes one cotangent for each output, of its shape. Returns a tuple with gᵀJ for each x, zeros for
        an x that ``f`` does not depend on. It may be called several times. Its results are recorded if an
        x, a cotangent or a tensor that ``f`` uses requires grad.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> out, pull = tg.vjp(lambda a, b: a * b, tg.tensor([2.0]), tg.tensor([5.0]))
    >>> pull(tg.ones(1))
    (tensor([5.]), tensor([2.]))
    """
    aliases, out, outputs, outer = _call(f, xs, "vjp")

    def vjp_fn(*cotangents: Any) -> tuple[Tensor, ...]:
        gs = [stack_nested(g) for g in cotangents]
        if len(gs) != len(outputs):
            raise ArgumentError(f"vjp_fn: {len(outputs)} outputs but {len(gs)} cotangents")
        recorded = [i for i, o in enumerate(outputs) if o.requires_grad]
        found: list[Tensor | None] = [None] * len(aliases)
        if recorded:
            ends, seeds = [outputs[i] for i in recorded], [gs[i] for i in recorded]
            again = outer or any(map(needs_grad, gs))
            found = grad(ends, aliases, seeds, retain_graph=True, create_graph=again)
        return tuple(zeros_like(x) if g is None else g for g, x in zip(found, aliases, strict=True))

    return out, vjp_fn


@modes_kept
def jvp(f: Callable[..., Any], xs: Any, vs: Any) -> tuple[Outputs, Outputs]:
    """Jacobian–vector product: the value of ``f`` at ``xs`` and its directional derivative along ``vs``.

    Parameters
    ----------
    f : callable
        Takes Tensors, returns a Tensor or a tuple of them.
    xs, vs : Tensor, array or sequence of these
        The point and the direction, of equal shapes. A direction on the host is moved to the point's
        device.

    Returns
    -------
    out, tangent : Tensor or tuple of Tensor
        ``f(*xs)`` and J v. The tangent is recorded if an x, a v or a tensor that ``f`` uses
        requires grad.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> out, tangent = tg.jvp(lambda x: x**3, tg.tensor([2.0]), tg.tensor([1.0]))
    >>> tangent
    tensor([12.])
    """
    xs = list(xs) if isinstance(xs, (list, tuple)) else [xs]
    vs = list(vs) if isinstance(vs, (list, tuple)) else [vs]
    vs = [stack_nested(v) for v in vs]
    if len(xs) != len(vs):
        raise ArgumentError(f"jvp: {len(xs)} points but {len(vs)} directions")
    aliases, out, outputs, outer = _call(f, xs, "jvp")
    record = outer or any(map(needs_grad, vs))
    with grad_mode(record):
        tangents: dict[Node, Any] = {}
        for x, v in zip(aliases, vs, strict=True):
            v = astype(as_tensor_on(v, x), x.dtype)
            backend.namespace(x._data, v._data)
            if v.shape != x.shape:
                raise ShapeError(f"jvp: direction of shape {v.shape} at a point of shape {x.shape}")
            tangents[node_of(x)] = v if record else v._data
        push_forward([o._node for o in outputs if o.requires_grad], tangents)  # type: ignore[misc]
    found = [tangents.get(o._node) for o in outputs]  # type: ignore[arg-type]
    results = tuple(
        zeros_like(o) if v is None else v if is_tensor(v) else wrap(v)
        for o, v in zip(outputs, found, strict=True)
    )
    return out, results if isinstance(out, tuple) else results[0]


def push_forward(outputs: list[Node], tangents: dict[Node, Any]) -> None:
    """Compute the tangents of all nodes from those in ``tangents`` to ``outputs``, and add them there."""
    for node in ancestors(outputs, ends=set(tangents)):
        if node in tangents or isinstance(node, Leaf):
            continue
        incoming = tuple(
            tangents.get(x) if isinstance(x, Node) else None for x in node.inputs or ()
        )
        if any(v is not None for v in incoming):
            with backend.on(node.value):
                tangents[node] = _push(node, incoming)


def _push(node: Node, tangents: tuple[Any, ...]) -> Any:
    """Return the tangent of a node's output, given those of its inputs (None for zeros)."""
    primitive: Primitive = node.primitive  # type: ignore[assignment]
    like = next(v for v in tangents if v is not None)
    xp = backend.NAMESPACES[type(like)]
    lift = (lambda x: wrap(x.value, x)) if is_tensor(like) else (lambda x: x.value)
    y = lift(node)
    xs = [lift(x) if isinstance(x, Node) else x for x in node.inputs or ()]
    present = [(i, v) for i, v in enumerate(tangents) if v is not None]
    if callable(primitive.jvp):
        total = primitive.jvp(xp, tangents, y, *xs, **node.params)
    elif primitive.jvp == "definition":
        out, stand_ins = record_definition(node, xs)
        known = {x: v for x, v in zip(stand_ins, tangents, strict=True) if v is not None}
        push_forward([out], known)
        total = known.get(out)
    elif primitive.jvp == "linear":
        filled = [xp.zeros_like(x) if v is None else v for x, v in zip(xs, tangents, strict=True)]
        total = primitive.forward(xp, *filled, **node.params)
    elif primitive.jvp == "multilinear":
        total = _sum(
            primitive.forward(xp, *xs[:i], v, *xs[i + 1 :], **node.params) for i, v in present
        )
    else:
        rules = [(primitive.rule(i, len(xs)), v) for i, v in present]
        total = _sum(
            rule(xp, xp.broadcast_to(v, y.shape), y, *xs, **node.params)
            for rule, v in rules
            if rule is not None  # a mask has no derivative
        )
    total = xp.zeros_like(y) if total is None else total
    total = np.asarray(total) if isinstance(total, np.generic) else total
    return total if total.dtype == y.dtype else xp.astype(total, y.dtype)


def _sum(terms: Any) -> Any:
    total = None
    for term in terms:
        total = term if total is None else total + term
    return total


@modes_kept
def jacobian(f: Callable[[Any], Tensor], x: Any) -> Tensor:
    """All derivatives of ``f(x)`` with respect to ``x``, computed in one backward pass for all rows.

    Parameters
    ----------
    f : callable
        Takes one Tensor, returns one Tensor.
    x : Tensor or array
        Where to differentiate. The result is recorded if x, or a tensor that ``f`` uses, requires grad.
        Inside :func:`no_grad` it is not recorded, which is faster.

    Returns
    -------
    Tensor
        The Jacobian, of shape ``(*f(x).shape, *x.shape)``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.jacobian(lambda x: x**2, tg.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    (point,), out, _, record = _call(f, [x], "jacobian")
    if isinstance(out, tuple):
        raise ArgumentError("jacobian: the function returned several outputs; return one Tensor")
    shape = (*out.shape, *point.shape)
    if not out.requires_grad:
        return full_like(out, 0, shape)
    xp = backend.namespace(out._data)
    with xp.on(out._data):
        rows = xp.reshape(xp.eye_like(out.size, out._data), (out.size, *out.shape))
    target = node_of(point)
    seeds = [(node_of(out), wrap(rows) if record else rows)]
    with grad_mode(record):
        found = backpropagate(seeds, {target}, retain_graph=record).get(target)
        if found is None:
            return full_like(out, 0, shape)
        return apply(PRIMITIVES["reshape"], found, shape=shape)


def hessian(f: Callable[[Any], Tensor], x: Any) -> Tensor:
    """All second derivatives of a function whose result has a single element.

    Returns
    -------
    Tensor
        The Hessian, of shape ``(*x.shape, *x.shape)``. It is symmetric up to rounding.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.hessian(lambda x: (x**3).sum(), tg.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """

    def gradient(x: Tensor) -> Tensor:
        y = _tensors(f(x), "hessian")
        if isinstance(y, tuple) or y.size != 1:
            raise ShapeError("hessian: the function must return one Tensor with a single element")
        (g,) = grad(y, x, create_graph=True) if y.requires_grad else [None]
        return zeros_like(x) if g is None else g

    return jacobian(gradient, x)


def alias(x: Any) -> Tensor:
    """Return a copy of ``x`` at which derivatives end; ``x`` is its input in the graph if it requires grad.

    A later write to ``x`` does not change the copy, and so not the recorded function.
    """
    x = stack_nested(x)
    return x.clone() if needs_grad(x) else tensor(x, requires_grad=True)


class _Call(NamedTuple):
    """A call of the function on aliases of its arguments: its result, also as a tuple of tensors.

    ``recorded`` says whether the derivative must be recorded, because a leaf that is not an alias requires
    grad: an x whose alias was used, or a tensor that the function used from outside.
    """

    aliases: list[Tensor]
    out: Outputs
    outputs: tuple[Tensor, ...]
    recorded: bool


@modes_kept
def _call(f: Callable[..., Any], xs: Sequence[Any], op: str) -> _Call:
    with enable_grad():
        aliases = [alias(x) for x in xs]
        out = _tensors(f(*aliases), op)
    outputs = out if isinstance(out, tuple) else (out,)
    own = {node_of(x) for x in aliases}
    used = ancestors(node_of(o) for o in outputs if o.requires_grad)
    recorded = MODES.get().grad and any(isinstance(n, Leaf) and n not in own for n in used)
    return _Call(aliases, out, outputs, recorded)


def _tensors(out: Any, what: str) -> Outputs:
    if is_tensor(out):
        return out
    if isinstance(out, (list, tuple)) and all(is_tensor(o) for o in out):
        return tuple(out)
    raise ArgumentError(
        f"{what}: the function must return a Tensor or a tuple of them, not {type(out).__name__}"
    )
