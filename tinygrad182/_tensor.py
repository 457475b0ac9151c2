"""The Tensor: an array, its gradient and the node that made it; operators and methods."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from . import autodiff, backend
from .backend import Array
from .errors import DTypeError, GraphError, ShapeError, TinygradError
from .primitives import PRIMITIVES
from .recording import Leaf, Node, apply, node_of, set_tensor_type, wrap

_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _POWER, _NEGATIVE, _MATMUL = (
    PRIMITIVES[name]
    for name in ("add", "subtract", "multiply", "divide", "power", "negative", "matmul")
)


class Tensor:
    """An array that remembers how it was made. Build one with :func:`tinygrad182.tensor`.

    Attributes
    ----------
    shape, ndim, size, dtype, device
        As of the array; ``device`` is ``"cpu"`` or ``"cuda:N"``.
    data : array
        The array itself: writeable for a tensor made by hand, a read-only view for a result.
    grad : Tensor or None
        What backward passes have added up, for leaves and after ``retain_grad()``.
    requires_grad : bool
        Whether gradients flow to or through this tensor.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = ("__weakref__", "_data", "_node")
    __array_ufunc__ = None  # array operators defer to ours
    _data: Array
    _node: Node | None

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TinygradError("a Tensor is built with tg.tensor(data, requires_grad=...)")

    # --- the array ------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._data.shape)

    @property
    def ndim(self) -> int:
        return int(self._data.ndim)

    @property
    def size(self) -> int:
        return int(self._data.size)

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    @property
    def device(self) -> str:
        return str(backend.namespace(self._data).device(self._data))

    @property
    def data(self) -> Array:
        if not self.is_leaf:
            return backend.namespace(self._data).read_only(self._data)
        if isinstance(self._node, Leaf):
            self._node.exposed()
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    def assign(self, value: Any) -> Tensor:
        """Overwrite a leaf's elements in place; a graph that recorded the old ones refuses backward.

        Parameters
        ----------
        value : Tensor, array or number
            Of the same shape, or a number; cast to the tensor's dtype.
        """
        if not self.is_leaf:
            raise GraphError("assign: the result of an operation cannot be overwritten; only leaves can")
        xp = backend.namespace(self._data)
        array = value._data if isinstance(value, Tensor) else value
        array = xp.asarray(array, dtype=self.dtype)
        backend.namespace(self._data, array)
        if array.shape not in ((), self._data.shape):
            raise ShapeError(f"assign: value of shape {tuple(array.shape)} to a tensor of shape {self.shape}")
        self._data[...] = array
        if isinstance(self._node, Leaf):
            self._node.changed()
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        """The elements as a NumPy array: a read-only view on the CPU, a copy from CUDA."""
        array = backend.namespace(self._data).to_numpy(self._data).view()
        array.flags.writeable = False
        return array

    def item(self) -> Any:
        """The single element as a Python number."""
        if self.size != 1:
            raise ShapeError(f"item: the tensor has shape {self.shape}, not a single element")
        return backend.namespace(self._data).to_numpy(self._data).reshape(()).item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self.numpy().tolist()

    def to(self, device: str) -> Tensor:
        """The tensor on ``device``: itself when it is there already; gradients flow back."""
        device = backend.check_device(device)
        return self if device == self.device else apply(PRIMITIVES["to_device"], self, device=device)

    # --- gradients ------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        return self._node is not None and self._node.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise GraphError("requires_grad of a result follows from its inputs; use detach() to stop gradients")
        if value and not backend.namespace(self._data).is_floating(self._data):
            raise DTypeError(f"only floating tensors can require grad, not {self.dtype}; pass dtype='float32'")
        node = node_of(self)
        assert isinstance(node, Leaf)
        node.requires_grad = value

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this tensor."""
        return self._node is None or isinstance(self._node, Leaf)

    @property
    def grad(self) -> Tensor | None:
        return None if self._node is None else self._node.grad

    def retain_grad(self) -> None:
        """Keep the gradient of this result too when a backward pass reaches it."""
        if not self.requires_grad:
            raise GraphError("retain_grad: the tensor does not require grad")
        node_of(self).keeps_grad = True

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        node = node_of(self)
        if not node.keeps_grad:
            raise GraphError("grad: this result keeps no gradient; call retain_grad() on it first")
        if value is not None:
            if not isinstance(value, Tensor):
                raise DTypeError(f"grad must be a Tensor or None, not {type(value).__name__}")
            if value.shape != self.shape:
                raise ShapeError(f"grad: shape {value.shape} for a tensor of shape {self.shape}")
            backend.namespace(self._data, value._data)
        node.grad = value

    def backward(
        self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf it depends on.

        Parameters
        ----------
        gradient : Tensor or array, optional
            The cotangent to start from, of this tensor's shape; 1 for a single element.
        retain_graph : bool
            Keep the graph for another pass; otherwise it is freed as it is consumed.
        create_graph : bool
            Record the pass itself, so that ``.grad`` can be differentiated again.

        Raises
        ------
        GraphError
            Nothing here requires grad, the graph was freed, or a recorded tensor was changed.
        ShapeError
            Several elements and no ``gradient``, or one of another shape.
        """
        autodiff.backward(self, gradient, retain_graph, create_graph)

    def detach(self) -> Tensor:
        """The same array without the graph: gradients stop here."""
        return wrap(self._data)

    def clone(self) -> Tensor:
        """A copy with memory of its own; gradients flow back."""
        if not self.requires_grad:
            return wrap(backend.namespace(self._data).copy(self._data))
        return self * 1

    # --- operators ------------------------------------------------------------------------------

    __hash__ = object.__hash__

    def __add__(self, other: Any) -> Tensor:
        return apply(_ADD, self, other)

    def __radd__(self, other: Any) -> Tensor:
        return apply(_ADD, other, self)

    def __sub__(self, other: Any) -> Tensor:
        return apply(_SUBTRACT, self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return apply(_SUBTRACT, other, self)

    def __mul__(self, other: Any) -> Tensor:
        return apply(_MULTIPLY, self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return apply(_MULTIPLY, other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return apply(_DIVIDE, self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return apply(_DIVIDE, other, self)

    def __pow__(self, other: Any) -> Tensor:
        return apply(_POWER, self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return apply(_POWER, other, self)

    def __neg__(self) -> Tensor:
        return apply(_NEGATIVE, self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return _functions().abs(self)

    def __matmul__(self, other: Any) -> Tensor:
        if self._data.ndim == 2 and isinstance(other, Tensor) and other._data.ndim == 2:
            return apply(_MATMUL, self, other)
        return _functions().matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return _functions().matmul(other, self)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return _functions().equal(self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return _functions().not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return _functions().less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return _functions().less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return _functions().greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return _functions().greater_equal(self, other)

    def __invert__(self) -> Tensor:
        return _functions().logical_not(self)

    def __and__(self, other: Any) -> Tensor:
        return _functions().logical_and(self, other)

    def __or__(self, other: Any) -> Tensor:
        return _functions().logical_or(self, other)

    def __getitem__(self, key: Any) -> Tensor:
        return _functions().index(self, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise GraphError(
            "tensors are not written into by index: build the result with tg.where, tg.concat or tg.stack, "
            "or write to a leaf's elements with x.data[key] = value"
        )

    def __iter__(self) -> Iterator[Tensor]:
        return iter(_functions().unstack(self))

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.requires_grad:
            raise GraphError("converting to a NumPy array would lose the graph; use x.numpy() or x.detach()")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __copy__(self) -> Tensor:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GraphError("only leaves can be copied with deepcopy; use detach() or clone() on a result")
        twin = type(self).__new__(type(self))
        twin._data = backend.namespace(self._data).copy(self._data)
        twin._node = None
        if isinstance(self._node, Leaf):
            node = Leaf(twin._data, self._node.requires_grad)
            node.name = self._node.name
            node.grad = copy.deepcopy(self._node.grad, memo)
            twin._node = node
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> NoReturn:
        raise TinygradError("tensors are not pickled; save arrays with x.numpy(), or a module's state_dict()")

    def __repr__(self) -> str:
        body = np.array2string(self.numpy(), separator=", ", prefix="tensor(", threshold=1000)
        if str(self.dtype) not in ("float32", "bool", "int64"):
            body += f", dtype={self.dtype}"
        if self.device != "cpu":
            body += f", device='{self.device}'"
        if isinstance(self._node, Leaf) and self.requires_grad:
            body += ", requires_grad=True"
        elif self.requires_grad:
            body += f", op={self._node.op}"  # type: ignore[union-attr]
        return f"tensor({body})"

    # --- methods: the functions of the same names -------------------------------------------------

    @property
    def T(self) -> Tensor:  # noqa: N802
        """The axes in reverse order."""
        return _functions().permute_dims(self, tuple(range(self.ndim))[::-1])

    @property
    def mT(self) -> Tensor:  # noqa: N802
        """The last two axes exchanged."""
        return _functions().matrix_transpose(self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _functions().sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _functions().mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _functions().max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _functions().min(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _functions().prod(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return _functions().var(self, axis=axis, correction=correction, keepdims=keepdims)

    def std(self, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return _functions().std(self, axis=axis, correction=correction, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return _functions().argmax(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return _functions().reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in the order given, or reversed."""
        axes = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return _functions().permute_dims(self, tuple(axes) or tuple(range(self.ndim))[::-1])

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return _functions().swapaxes(self, axis1, axis2)

    def squeeze(self, axis: Any = None) -> Tensor:
        return _functions().squeeze(self, axis)

    def flatten(self) -> Tensor:
        return _functions().reshape(self, (-1,))

    def astype(self, dtype: Any) -> Tensor:
        return _functions().astype(self, dtype)

    def exp(self) -> Tensor:
        return _functions().exp(self)

    def log(self) -> Tensor:
        return _functions().log(self)

    def sqrt(self) -> Tensor:
        return _functions().sqrt(self)

    def square(self) -> Tensor:
        return _functions().square(self)

    def abs(self) -> Tensor:
        return _functions().abs(self)

    def tanh(self) -> Tensor:
        return _functions().tanh(self)

    def sigmoid(self) -> Tensor:
        return _functions().sigmoid(self)

    def relu(self) -> Tensor:
        return _functions().relu(self)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return _functions().clip(self, min, max)

    def softmax(self, axis: int = -1) -> Tensor:
        return _functions().softmax(self, axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        return _functions().log_softmax(self, axis)

    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _functions().logsumexp(self, axis=axis, keepdims=keepdims)


def _functions() -> Any:
    """The namespace of Tensors: :mod:`tinygrad182.functions`, which registers itself."""
    return backend.NAMESPACES[Tensor]


set_tensor_type(Tensor)
