"""The Tensor: an array, its gradient and the node that made it; operators and methods."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from . import _protocols, autodiff, backend
from ._methods import augmented, method_of, operator_of
from .backend import Array
from .errors import DTypeError, GraphError, ShapeError, TinygradError
from .host import read_as
from .primitives import PRIMITIVES
from .recording import (
    Leaf,
    Node,
    apply,
    node_of,
    set_tensor_type,
    share,
    tensor_functions,
    wrap,
)

_NEGATIVE, _MATMUL = PRIMITIVES["negative"], PRIMITIVES["matmul"]


class Tensor:
    """An array that remembers how it was made. Build one with :func:`tinygrad182.tensor`.

    Attributes
    ----------
    shape, ndim, size, dtype, device
        As of the array; ``device`` is ``"cpu"`` or ``"cuda:N"``.
    data : array
        The array itself for a tensor made by hand, which may be written to. For a result, a view
        that is read-only (on CUDA: a copy, as CuPy has no such views). Assigning to it is
        :meth:`assign`.
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
        node = self._node
        if node is None:
            return self._data
        if not isinstance(node, Leaf) or node.frozen:
            return backend.namespace(self._data).read_only(self._data)
        node.memory.exposed()
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    def assign(self, value: Any) -> Tensor:
        """Overwrite a leaf's elements in place; a graph that recorded the old ones refuses backward.

        Parameters
        ----------
        value : Tensor, array, nested list or number
            Of the same shape, or a number; cast to the tensor's dtype. Data of the host (NumPy
            arrays, lists, numbers) goes to the tensor's device; a Tensor must be there already.
        """
        if not self.is_leaf:
            raise GraphError(
                "assign: the result of an operation cannot be overwritten; only leaves can"
            )
        array = read_as(value, self._data, "assign")
        if tuple(array.shape) not in ((), self.shape):
            raise ShapeError(
                f"assign: value of shape {tuple(array.shape)} to a tensor of shape {self.shape}"
            )
        node = self._node
        frozen = isinstance(node, Leaf) and node.frozen
        if frozen or (isinstance(self._data, np.ndarray) and not self._data.flags.writeable):
            raise GraphError("assign: a graph still uses this array; clone() the tensor first")
        with backend.on(self._data):
            self._data[...] = array
        if isinstance(node, Leaf):
            node.memory.changed()
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
        return (
            self if device == self.device else apply(PRIMITIVES["to_device"], self, device=device)
        )

    # --- gradients ------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        return self._node is not None and self._node.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise GraphError(
                "requires_grad of a result follows from its inputs; use detach() to stop gradients"
            )
        if value and not backend.namespace(self._data).is_floating(self._data):
            raise DTypeError(
                f"only floating tensors can require grad, not {self.dtype}; pass dtype='float32'"
            )
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
        autodiff.set_grad(node, value)

    def retain_grad(self) -> None:
        """Keep the gradient of this result too when a backward pass reaches it."""
        if not self.requires_grad:
            raise GraphError("retain_grad: the tensor does not require grad")
        node_of(self).keeps_grad = True

    def backward(
        self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf it depends on.

        Parameters
        ----------
        gradient : Tensor, array or nested list, optional
            The cotangent to start from, of this tensor's shape; 1 for a single element. Data of the
            host goes to this tensor's device.
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
        """The same array without the graph: gradients stop here.

        The array of a result stays read-only, for the graph still uses it; see :meth:`clone`.
        """
        return share(self._data, self)

    def clone(self) -> Tensor:
        """A copy with memory of its own; gradients flow back."""
        if not self.requires_grad:
            return wrap(backend.copy(self._data))
        return self * 1

    # --- operators ------------------------------------------------------------------------------

    __hash__ = object.__hash__

    __add__ = operator_of("add")
    __radd__ = operator_of("add", reflected=True)
    __sub__ = operator_of("subtract")
    __rsub__ = operator_of("subtract", reflected=True)
    __mul__ = operator_of("multiply")
    __rmul__ = operator_of("multiply", reflected=True)
    __truediv__ = operator_of("divide")
    __rtruediv__ = operator_of("divide", reflected=True)
    __mod__ = operator_of("remainder")
    __rmod__ = operator_of("remainder", reflected=True)
    __pow__ = operator_of("power")
    __rpow__ = operator_of("power", reflected=True)
    __iadd__ = augmented("add")
    __isub__ = augmented("subtract")
    __imul__ = augmented("multiply")
    __itruediv__ = augmented("divide")

    def __neg__(self) -> Tensor:
        return apply(_NEGATIVE, self)

    def __pos__(self) -> Tensor:
        return self

    def __matmul__(self, other: Any) -> Tensor:
        if self._data.ndim == 2 and isinstance(other, Tensor) and other._data.ndim == 2:
            return apply(_MATMUL, self, other)
        return tensor_functions().matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return tensor_functions().matmul(other, self)

    __eq__ = method_of("equal")
    __ne__ = method_of("not_equal")
    __lt__ = method_of("less")
    __le__ = method_of("less_equal")
    __gt__ = method_of("greater")
    __ge__ = method_of("greater_equal")
    __invert__ = method_of("logical_not")
    __and__ = method_of("logical_and")
    __or__ = method_of("logical_or")
    __rand__ = method_of("logical_and")
    __ror__ = method_of("logical_or")
    __abs__ = method_of("abs")

    def __getitem__(self, key: Any) -> Tensor:
        return tensor_functions().index(self, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise GraphError(
            "tensors are not written into by index: build the result with tg.where, tg.concat or tg.stack, "
            "or write to a leaf's elements with x.data[key] = value (of the same device, or a number)"
        )

    def __iter__(self) -> Iterator[Tensor]:
        return iter(tensor_functions().unstack(self))

    def __len__(self) -> int:
        if self.ndim == 0:
            raise DTypeError("len: a 0-d tensor has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _protocols.ufunc(tensor_functions(), ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return _protocols.function(tensor_functions(), function, args, options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.requires_grad:
            raise GraphError(
                "converting to a NumPy array would lose the graph; use x.numpy() or x.detach(), "
                "and tg.stack([x, y]) for a list of tensors"
            )
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """A copy of the elements for another library, such as ``torch.as_tensor(x)``."""
        if self.requires_grad:
            raise GraphError("another library would lose the graph; use x.detach() or x.numpy()")
        return backend.copy(self._data).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._data.__dlpack_device__()
        return device

    def __copy__(self) -> Tensor:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GraphError(
                "only leaves can be copied with deepcopy; use detach() or clone() on a result"
            )
        twin = type(self).__new__(type(self))
        twin._data = backend.copy(self._data)
        twin._node = None
        if isinstance(self._node, Leaf):
            node = Leaf(twin._data, self._node.requires_grad)
            node.name = self._node.name
            node.grad = copy.deepcopy(self._node.grad, memo)
            twin._node = node
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> NoReturn:
        raise TinygradError(
            "tensors are not pickled; save arrays with x.numpy(), or a module's state_dict()"
        )

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

    sum = method_of("sum")
    mean = method_of("mean")
    max = method_of("max")
    min = method_of("min")
    prod = method_of("prod")
    var = method_of("var")
    std = method_of("std")
    logsumexp = method_of("logsumexp")
    cumulative_sum = method_of("cumulative_sum")
    softmax = method_of("softmax")
    log_softmax = method_of("log_softmax")
    argmax = method_of("argmax")
    argmin = method_of("argmin")
    any = method_of("any")
    all = method_of("all")
    swapaxes = method_of("swapaxes")
    permute_dims = method_of("permute_dims")
    expand_dims = method_of("expand_dims")
    squeeze = method_of("squeeze")
    broadcast_to = method_of("broadcast_to")
    flip = method_of("flip")
    take = method_of("take")
    unstack = method_of("unstack")
    ravel = method_of("ravel")
    astype = method_of("astype")
    exp = method_of("exp")
    expm1 = method_of("expm1")
    log = method_of("log")
    log1p = method_of("log1p")
    sqrt = method_of("sqrt")
    square = method_of("square")
    sin = method_of("sin")
    cos = method_of("cos")
    abs = method_of("abs")
    tanh = method_of("tanh")
    sigmoid = method_of("sigmoid")
    relu = method_of("relu")
    clip = method_of("clip")

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The axes in reverse order."""
        return self.transpose()

    @property
    def mT(self) -> Tensor:  # noqa: N802 - the Array API's name
        """The last two axes exchanged."""
        return tensor_functions().matrix_transpose(self)

    def reshape(self, *shape: Any) -> Tensor:
        """Return the same elements in another shape, given as one tuple or as several numbers."""
        return tensor_functions().reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """Return the axes in the order given (one tuple or several numbers), or reversed."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return tensor_functions().transpose(self, tuple(order) or None)

    def flatten(self) -> Tensor:
        """Return the elements along one axis."""
        return tensor_functions().reshape(self, (-1,))


set_tensor_type(Tensor)
