"""The two ways to ask for gradients: ``Tensor.backward`` and ``grad``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..arrays import backend
from ..errors import ArgumentError, DTypeError, GraphError, ShapeError
from ..primitives import PRIMITIVES
from .backpropagation import Cotangents, backpropagate
from .host import read_as
from .memory import in_pass, locked
from .recording import Node, apply, is_tensor, tensor_functions, wrap

if TYPE_CHECKING:
    from ..tensors.tensor import Tensor


def _seed(output: Tensor, gradient: Any, what: str) -> tuple[Node, Any]:
    """Check an output and its cotangent (1 by default, for a single element)."""
    if not is_tensor(output):
        raise DTypeError(f"{what}: the output is a {type(output).__name__}, not a Tensor")
    node = output._node
    if node is None or not node.requires_grad:
        raise GraphError(
            f"{what}: the output does not require grad; "
            "make it from a tensor with requires_grad=True, outside no_grad()"
        )
    xp = backend.namespace(output._data)
    if not xp.is_floating(output._data):
        raise DTypeError(
            f"{what}: the output is {output.dtype}; only real floating ones have a gradient"
        )
    if gradient is None:
        if output.size != 1:
            raise ShapeError(
                f"{what}: the output has shape {output.shape}, not a single element; "
                "reduce it first (for example with .sum()) or pass the cotangent to start from"
            )
        with xp.on(output._data):
            return node, xp.ones_like(output._data)
    gradient = tensor_functions().stack_nested(gradient)
    value = read_as(gradient, output._data, what, "a cotangent")
    if tuple(value.shape) != output.shape:
        raise ShapeError(
            f"{what}: the cotangent has shape {tuple(value.shape)}, "
            f"the output {output.shape}; they must be equal"
        )
    if not is_tensor(gradient):
        return node, value
    same = gradient.dtype == output.dtype
    return node, gradient if same else apply(PRIMITIVES["astype"], gradient, dtype=output.dtype)


def seeds_of(
    outputs: Sequence[Tensor], gradients: Sequence[Any], create_graph: bool, what: str
) -> list[tuple[Node, Any]]:
    """Outputs and their cotangents, checked, as :func:`backpropagate` takes them."""
    seeds = []
    for output, gradient in zip(outputs, gradients, strict=True):
        node, seed = _seed(output, gradient, what)
        if create_graph:
            seed = seed if is_tensor(seed) else wrap(backend.copy(seed))
        elif is_tensor(seed):
            seed = seed._data
        seeds.append((node, seed))
    return seeds


def backward(output: Tensor, gradient: Any, retain_graph: bool, create_graph: bool) -> None:
    """Add the gradient of ``output`` to ``.grad`` of every leaf it depends on; see ``Tensor.backward``."""
    seeds = seeds_of([output], [gradient], create_graph, "backward")
    if _OBSERVERS:
        _notify_observers(output, gradient)
    in_pass(_backward, seeds, retain_graph or create_graph, grad=create_graph)


class Observer(Protocol):
    """An object that is notified of backward passes, see :func:`observe`."""

    def before_backward(self, output: Tensor, gradient: Any) -> None:
        """Called before a pass, which may free the graph."""


_OBSERVERS: dict[object, weakref.ref[Observer]] = {}


def observe(observer: Observer) -> Callable[[], None]:
    """Notify an observer before every ``Tensor.backward``, as long as the observer is alive.

    Returns
    -------
    callable
        It ends the observation, and may be called more than once.
    """
    key = object()

    def end(_: object = None) -> None:
        _OBSERVERS.pop(key, None)

    _OBSERVERS[key] = weakref.ref(observer, end)
    return end


def _notify_observers(output: Tensor, gradient: Any) -> None:
    for observed in list(_OBSERVERS.values()):  # a copy: other threads may add and remove observers
        observer = observed()
        if observer is not None:
            observer.before_backward(output, gradient)


def _backward(seeds: list[tuple[Node, Any]], retain_graph: bool) -> None:
    sums = Cotangents()
    found = backpropagate(seeds, retain_graph=retain_graph, cotangents=sums)
    add_grads((node, g, sums.owns(node)) for node, g in found.items())


@locked
def add_grads(found: Iterable[tuple[Node, Any, bool]]) -> None:
    """Add to ``.grad`` of all nodes or, after an error or interrupt, of none.

    The third item says whether a gradient has memory of its own; otherwise it is copied before it becomes
    ``.grad``. Other threads may add to the same nodes at the same time.
    """
    sums = [
        (node, old := node.grad, own(g, owned) if old is None else _plus(old, g))
        for node, g, owned in found
    ]
    try:
        for node, _, total in sums:
            node.grad = total
    except BaseException:
        for node, old, _ in sums:
            node.grad = old
        raise


@locked  # otherwise a pass that has read the old sum would restore it
def set_grads(values: Iterable[tuple[Node, Tensor | None]]) -> None:
    """Replace the sums of backward passes."""
    for node, value in values:
        node.grad = value


def own(g: Any, owned: bool = False) -> Tensor:
    """A gradient as a Tensor with memory of its own; ``owned`` says that it has that already."""
    if is_tensor(g):
        return g if g._node is not None and g._node.primitive is not None else g.clone()
    return wrap(g if owned else backend.copy(g))


def _plus(old: Tensor, g: Any) -> Tensor:
    """The sum of two gradients, recorded if one of them is."""
    if old._node is None and type(g) is type(old._data) is np.ndarray:
        return wrap(np.asarray(old._data + g))  # the common case, without dispatch
    return old + (g if is_tensor(g) else wrap(g))


class TracedNode(Protocol):
    """A node of a traced graph, see ``tg.inspect.trace``, in the place of a Tensor."""

    def tensors(self, given: Sequence[Any]) -> list[Tensor]:
        """The Tensors of this node's graph for some Tensors and traced nodes."""


def grad(
    outputs: Tensor | TracedNode | Sequence[Tensor | TracedNode],
    inputs: Tensor | TracedNode | Sequence[Tensor | TracedNode],
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> list[Tensor | None]:
    """Gradients of the sum of ``outputs`` with respect to ``inputs``; ``.grad`` is left alone.

    Parameters
    ----------
    outputs : Tensor or sequence of Tensor
        Single elements, unless ``grad_outputs`` gives their cotangents.
    inputs : Tensor or sequence of Tensor
        Leaves or intermediate results. Here and among the outputs there may be nodes of a traced graph,
        also nodes inside a recurrence that ran as one operation, which is then unrolled.
    grad_outputs : Tensor, array or sequence of these, optional
        The cotangent of each output, of its shape. Data of the host is moved to the output's device.
    retain_graph : bool
        Whether to keep the graph for another pass.
    create_graph : bool
        Whether to record the pass itself, so that its results can be differentiated again.

    Returns
    -------
    list of Tensor or None
        One per input, of its shape and dtype; None for an input the outputs do not depend on.

    Raises
    ------
    GraphError
        An output does not require grad, or the graph was freed.
    ShapeError
        An output has several elements and no cotangent, or a cotangent has another shape.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor(3.0, requires_grad=True)
    >>> (dx,) = tg.grad(x**2, x, create_graph=True)
    >>> dx.item(), tg.grad(dx, x)[0].item()
    (6.0, 2.0)
    """
    outputs, inputs = _tensors(outputs, inputs)
    if grad_outputs is None:
        grad_outputs = [None] * len(outputs)
    elif not isinstance(grad_outputs, (list, tuple)):
        grad_outputs = [grad_outputs]
    if len(grad_outputs) != len(outputs):
        raise ArgumentError(
            f"grad: {len(outputs)} outputs but {len(grad_outputs)} cotangents in grad_outputs"
        )
    seeds = seeds_of(outputs, grad_outputs, create_graph, "grad")
    targets = {x._node for x in inputs if x._node is not None and x._node.requires_grad}
    nodes = [x._node for x in inputs]
    return in_pass(_grad, seeds, nodes, targets, retain_graph or create_graph, grad=create_graph)


def _tensors(outputs: Any, inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and inputs as lists of Tensors, in the graph of the traced nodes among them if any."""
    outputs, inputs = (
        [x] if is_tensor(x) or not isinstance(x, Iterable) else list(x) for x in (outputs, inputs)
    )
    every = [*outputs, *inputs]
    traced = next((x for x in every if not is_tensor(x) and hasattr(x, "tensors")), None)
    if traced is not None:
        every = traced.tensors(every)
    if not all(map(is_tensor, every)):
        raise ArgumentError(
            "grad: outputs and inputs must be Tensors or nodes of a traced graph, or sequences of them"
        )
    return every[: len(outputs)], every[len(outputs) :]


def _grad(
    seeds: list[tuple[Node, Any]], nodes: list[Any], targets: set[Any], retain_graph: bool
) -> list[Tensor | None]:
    found = backpropagate(seeds, targets, retain_graph=retain_graph)
    return [own(found[node]) if node in found else None for node in nodes]
