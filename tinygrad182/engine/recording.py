"""The nodes of a graph, and ``apply``, which runs a primitive and records it.

A :class:`Node` is one application of a primitive. It points to the nodes of its inputs and never to the
Tensor of its own output. Graphs therefore have no reference cycles, and are freed with their last Tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy import ndarray

from ..arrays import backend
from ..arrays.namespaces import NUMPY, SCALARS, Array
from ..errors import DTypeError, InPlaceError
from ..primitives import Primitive
from . import anomaly
from .memory import ORDER, Memory, locked
from .modes import MODES, Scope
from .operands import REFUSALS, as_array, explain

if TYPE_CHECKING:
    from ..tensors.tensor import Tensor
    from .marks import Mark

# --- nodes --------------------------------------------------------------------------------------


class Node:
    """One application of a primitive.

    Attributes
    ----------
    primitive : Primitive or None
        The operation; None for a :class:`Leaf`.
    inputs : tuple of Node and number, or None
        The operands. None once the graph was freed.
    value : array or None
        The result. None once the graph was freed.
    params : dict
        The operation's parameters, such as ``axis``.
    order : int
        Sequence number: larger than that of every input.
    scope : Scope
        The module path and time step it was made under.
    marks : tuple of Mark
        The names it was given.
    keeps_grad : bool
        Whether backward passes add the gradient to ``grad``. It is True for every leaf.
    grad : Tensor or None
        The sum of these gradients.
    memory : Memory or None
        The history of writes to the array, for a leaf and for its views.
    residuals : object
        What the forward saved for the derivative rules; None for most primitives.
    """

    __slots__ = (
        "grad",
        "inputs",
        "keeps_grad",
        "marks",
        "order",
        "params",
        "primitive",
        "scope",
        "value",
    )
    requires_grad = True
    memory: Memory | None = None
    residuals: Any = None

    def __init__(
        self,
        primitive: Primitive | None,
        inputs: tuple[Node | complex, ...],
        value: Array,
        params: dict[str, Any],
        scope: Scope,
    ) -> None:
        self.primitive = primitive
        self.inputs: tuple[Node | complex, ...] | None = inputs
        self.value = value
        self.params = params
        self.order = next(ORDER)
        self.scope = scope
        self.marks: tuple[Mark, ...] = ()
        self.grad: Tensor | None = None
        self.keeps_grad = False

    def again(self, inputs: tuple[Node | complex, ...]) -> Node:
        """Return a node of the same operation and value with other inputs."""
        self.check_inputs()
        twin = type(self)(self.primitive, inputs, self.value, self.params, self.scope)
        twin.marks = self.marks
        return twin

    def free(self) -> None:
        """Drop the arrays; a later backward pass through this node raises an error."""
        self.inputs = self.value = None

    @property
    def op(self) -> str:
        """Name of the operation; ``"leaf"`` for a tensor that no operation made."""
        return self.primitive.name if self.primitive is not None else "leaf"

    def place(self) -> str:
        """The place in the model for messages: ``", in rnn.l0 at t = 3"``."""
        return self.scope.place()

    def check_inputs(self) -> None:
        """Raise if the array of an input may have changed since this was recorded."""
        for x in self.inputs or ():
            if isinstance(x, Node) and x.memory is not None:
                x.check_unchanged(self)

    def check_unchanged(self, consumer: Node) -> None:
        """Raise if the array may have changed since ``consumer`` was recorded."""
        if self.memory is not None and self.memory.changed_after(consumer.order):
            raise InPlaceError(
                f"backward of {consumer.op}{consumer.place()}: its input {self.label()} of shape "
                f"{tuple(self.value.shape)} was changed in place after it was recorded; "
                "run backward before the change, or record the forward again"
            )

    def label(self) -> str:
        """Its name for messages."""
        return f"(a view of {self.known_name() or 'a tensor'} made by {self.op})"

    def known_name(self) -> str:
        """The name of the parameter that the node is, or is a view of; empty if there is none."""
        node = self
        while node.memory is not None and node.inputs:
            node = node.inputs[0]  # type: ignore[assignment]
        return node.name if isinstance(node, Leaf) else ""


class ExtendedNode(Node):
    """A node with two more fields, for views and for primitives that save residuals.

    Most nodes need neither, so that they stay small and quick to make.
    """

    __slots__ = ("memory", "residuals")

    def again(self, inputs: tuple[Node | complex, ...]) -> Node:
        """Return a node of the same operation and value with other inputs."""
        twin: Any = super().again(inputs)
        twin.memory, twin.residuals = self.memory, self.residuals
        return twin

    def free(self) -> None:
        """Drop the arrays; a later backward pass through this node raises an error."""
        super().free()
        self.residuals = None


class Leaf(Node):
    """A tensor that no recorded operation made: a parameter, an input or a constant.

    Attributes
    ----------
    requires_grad : bool
        Whether gradients are computed for it.
    name : str
        The dotted path of the parameter in the module that last used it.
    frozen : bool
        Whether the array is a recorded result, which must not be written to.
    """

    __slots__ = ("frozen", "memory", "name", "requires_grad")
    memory: Memory

    def __init__(
        self,
        value: Array,
        requires_grad: bool = False,
        memory: Memory | None = None,
        frozen: bool = False,
    ) -> None:
        Node.__init__(self, None, (), value, _NO_PARAMS, MODES.get().scope)
        self.requires_grad = requires_grad
        self.keeps_grad = True
        self.frozen = frozen
        self.name = ""
        self.memory = Memory(value) if memory is None else memory

    def label(self) -> str:
        """Its name for messages."""
        return self.name or "tensor"


_NO_PARAMS: dict[str, Any] = {}


# --- applying a primitive -----------------------------------------------------------------------

_tensor_type: type[Tensor]


def set_tensor_type(kind: type[Tensor]) -> None:
    """Set the class of results. The module that defines the class calls it once."""
    global _tensor_type
    _tensor_type = kind


def tensor_functions() -> Any:
    """The namespace of Tensors: the module :mod:`tinygrad182.tensors.functions`, which registers itself."""
    return backend.NAMESPACES[_tensor_type]


def is_tensor(x: Any) -> TypeGuard[Tensor]:
    """Whether ``x`` is a Tensor."""
    return isinstance(x, _tensor_type)


def needs_grad(x: Any) -> TypeGuard[Tensor]:
    """Whether ``x`` is a Tensor that requires grad."""
    return is_tensor(x) and x.requires_grad


def wrap(value: Array, node: Node | None = None) -> Tensor:
    """A Tensor that shares the memory of an array."""
    tensor = _new(_tensor_type)
    tensor._data, tensor._node = value, node
    return tensor


_new: Any = object.__new__  # calling Tensor(...) raises: users call tg.tensor


def apply(primitive: Primitive, *operands: Any, **params: Any) -> Tensor:
    """Run a primitive, and record it if any operand requires grad.

    Parameters
    ----------
    primitive : Primitive
    *operands : Tensor, array or number
        A number takes the dtype of the other operands. A list becomes an array on their device; its
        numbers take their dtype too. Arrays are copied when they are recorded.
    **params
        The primitive's parameters.

    Raises
    ------
    ShapeError, DTypeError
        The operation cannot take the operands; the message names it, their shapes and the place.
    DeviceError
        The operands are on different devices.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.apply(tg.PRIMITIVES["square"], tg.tensor([3.0]))
    tensor([9.])
    """
    modes = MODES.get()
    arrays: list[Any] = []
    inputs: list[Any] = []
    requires_grad = without_node = away = False
    for x in operands:
        if isinstance(x, _tensor_type):
            array, node = x._data, x._node
            if node is None:
                without_node = True
            elif node.requires_grad:
                requires_grad = True
            if type(array) is not ndarray:
                away = True
        elif type(x) in SCALARS:
            array = node = x
        elif isinstance(x, (list, tuple)):
            operands = _explained(
                primitive, tensor_functions().lists_as_tensors, operands, operands
            )
            return apply(primitive, *operands, **params)
        else:
            array = _explained(primitive, as_array, x, operands)
            node = array if type(array) in SCALARS else None
            without_node = away = True
        arrays.append(array)
        inputs.append(node)
    recorded = requires_grad and modes.grad
    saves = recorded and primitive.forward_with_residuals is not None
    forward: Any = primitive.forward_with_residuals if saves else primitive.forward
    try:
        if away:
            value = _run_away(forward, arrays, params)
        else:
            value = forward(NUMPY, *arrays, **params) if params else forward(NUMPY, *arrays)
    except REFUSALS as error:
        raise explain(primitive.name, arrays, error, primitive.requirement) from error
    residuals = None
    if type(value) is not ndarray:
        if saves:
            value, residuals = value
        if isinstance(value, np.generic):  # NumPy's 0-d results
            value = np.asarray(value)
        elif not backend.is_array(value):
            found = f"returned a {type(value).__name__}; return an array"
            raise DTypeError(f"{primitive.name}{modes.scope.place()}: the forward {found}")
    scope = modes.scope
    if modes.anomaly:
        if not scope.source:  # in a backward pass it is the line of the forward
            scope = scope.called_from(anomaly.user_line())
        anomaly.check_result(primitive.name, scope.place(), scope.source, value, arrays)
    if not recorded:
        return share(value, operands[0]) if primitive.view else wrap(value)
    if without_node:  # constants get a node when they are first recorded
        for i, x in enumerate(operands):
            if inputs[i] is None:
                inputs[i] = node_of(x if is_tensor(x) else arrays[i])
    return record(primitive, tuple(inputs), value, params, scope, residuals)


def _run_away(forward: Any, arrays: list[Any], params: dict[str, Any]) -> Any:
    """The result of a forward where an operand may belong to another library than NumPy."""
    xp = backend.namespace(*arrays)
    with xp.on(next((a for a in arrays if type(a) not in SCALARS), None)):
        return forward(xp, *arrays, **params)


def _explained(primitive: Primitive, read: Any, x: Any, operands: Any) -> Any:
    """Return ``read(x)`` for an operand ``x``; an error names the operation."""
    try:
        return read(x)
    except REFUSALS as error:
        shown = [x._data if is_tensor(x) else x for x in operands]
        raise explain(primitive.name, shown, error, primitive.requirement) from error


def record(
    primitive: Primitive,
    inputs: tuple[Any, ...],
    value: Array,
    params: dict[str, Any],
    scope: Scope,
    residuals: Any = None,
) -> Tensor:
    """Make the node of a result, and the Tensor around both."""
    if primitive.view or residuals is not None:
        node: Any = ExtendedNode(primitive, inputs, value, params or _NO_PARAMS, scope)
        node.memory = inputs[0].memory if primitive.view else None
        node.residuals = residuals
    else:
        node = Node(primitive, inputs, value, params or _NO_PARAMS, scope)
    for x in inputs:
        # type Node itself never has a memory
        if type(x) is not Node and isinstance(x, Node) and x.memory is not None:
            x.memory.used = node.order
    tensor = _new(_tensor_type)
    tensor._data, tensor._node = value, node
    return tensor


def now() -> int:
    """A new sequence number, larger than those of all nodes."""
    return next(ORDER)


def share(value: Array, source: Any) -> Tensor:
    """A tensor around memory that it shares with ``source``: a write to one is noticed for both.

    The memory of a recorded result must not be written to.
    """
    if not isinstance(source, _tensor_type):
        return wrap(value)
    node = node_of(source)
    frozen = not isinstance(node, Leaf) or node.frozen
    return wrap(value, Leaf(value, memory=node.memory, frozen=frozen))


def node_of(x: Any) -> Node:
    """The node of a Tensor, which is made now if it has none; an array is copied into a new leaf."""
    if not isinstance(x, _tensor_type):
        return Leaf(backend.copy(x))
    if x._node is None:
        _make_leaf(x)
    return x._node  # type: ignore[return-value]


@locked
def _make_leaf(x: Tensor) -> None:
    if x._node is None:  # another thread may have made it meanwhile
        x._node = Leaf(x._data)
