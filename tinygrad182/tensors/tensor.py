"""The Tensor: an array, its gradient and the node that made it; operators and methods."""

from __future__ import annotations

import builtins
import copy
import math
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .._suggestions.calls import explain_calls_of, unknown_name
from .._suggestions.torch_names import TENSOR
from ..arrays import backend
from ..arrays.namespaces import Array
from ..display.reprs import array_body, fold, shown, text, times
from ..engine import autodiff
from ..engine.host import read_as
from ..engine.recording import (
    Leaf,
    Node,
    apply,
    node_of,
    set_tensor_type,
    share,
    tensor_functions,
    wrap,
)
from ..errors import CallError, DTypeError, GraphError, ShapeError, TinygradError
from ..primitives import PRIMITIVES
from . import numpy_protocols
from .methods import Count, Method, augmented, operator_of, read_target

_NEGATIVE, _MATMUL = PRIMITIVES["negative"], PRIMITIVES["matmul"]


class Tensor:
    """An array that remembers how it was made. Build one with :func:`tinygrad182.tensor`.

    Attributes
    ----------
    shape, ndim, size, dtype, device
        Properties of the array; ``device`` is ``"cpu"`` or ``"cuda:N"``.
    data : array
        The array. That of a leaf may be written to. That of a result is a read-only view (on CUDA a
        copy, because CuPy has no read-only views). ``x.data = value`` calls :meth:`assign`.
    grad : Tensor or None
        The accumulated gradient of a leaf, or of a result after ``retain_grad()``.
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
        return Count(self._data.size)

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
        """Overwrite a leaf's elements in place; backward through a graph that recorded the old ones raises.

        Parameters
        ----------
        value : Tensor, array, nested list or number
            A number, or values of the tensor's shape; they are cast to its dtype. Data of the host (NumPy
            arrays, lists, numbers) goes to the tensor's device; a Tensor must be there already.
        """
        if not self.is_leaf:
            raise GraphError(
                "assign: the result of an operation cannot be overwritten; only leaves can"
            )
        array = read_as(value, self._data, "assign")
        if array.shape != self._data.shape and tuple(array.shape) not in ((), self.shape):
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

    def to(self, *target: Any, device: str | None = None, dtype: Any = None) -> Tensor:
        """The tensor on a device, in a dtype, or both: itself if nothing changes. Gradients flow back.

        Parameters
        ----------
        *target : str, dtype, Tensor or array
            A device such as ``"cuda"``, a dtype, both, or a Tensor or an array with the wanted ones.
            PyTorch's dtypes and devices are read by their names.
        device, dtype
            The device and the dtype as keyword arguments.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> tg.ones(2).to("float64").dtype
        dtype('float64')
        """
        device, dtype = read_target(target, device, dtype)
        moved = (
            self
            if device in (None, self.device)
            else apply(PRIMITIVES["to_device"], self, device=device)
        )
        return moved if dtype is None else tensor_functions().astype(moved, dtype)

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
                raise DTypeError(
                    f"grad must be a Tensor or None, not {type(value).__module__}."
                    f"{type(value).__name__}; write w.grad = tg.tensor(values)"
                )
            if value.shape != self.shape:
                raise ShapeError(f"grad: shape {value.shape} for a tensor of shape {self.shape}")
            backend.namespace(self._data, value._data)
        autodiff.set_grads([(node, value)])

    def retain_grad(self) -> None:
        """Keep the gradient of this result when a backward pass reaches it."""
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
            Record the pass itself, so that ``.grad`` can be differentiated.

        Raises
        ------
        GraphError
            The tensor does not require grad, the graph was freed, or a recorded tensor was changed.
        ShapeError
            The tensor has several elements and ``gradient`` is missing or of another shape.
        """
        autodiff.backward(self, gradient, retain_graph, create_graph)

    def detach(self) -> Tensor:
        """Return a tensor with the same array and no graph: gradients stop here.

        The array of a result stays read-only, because the graph uses it; see :meth:`clone`.
        """
        return share(self._data, self)

    def clone(self) -> Tensor:
        """A copy that shares no memory; gradients flow back."""
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
    __floordiv__ = Method("floor_divide")
    __round__ = Method("round")
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

    def __rfloordiv__(self, other: Any) -> Tensor:
        return tensor_functions().floor_divide(other, self)

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __matmul__(self, other: Any) -> Tensor:
        if self._data.ndim == 2 and isinstance(other, Tensor) and other._data.ndim == 2:
            return apply(_MATMUL, self, other)
        return tensor_functions().matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return tensor_functions().matmul(other, self)

    __eq__ = Method("equal")
    __ne__ = Method("not_equal")
    __lt__ = Method("less")
    __le__ = Method("less_equal")
    __gt__ = Method("greater")
    __ge__ = Method("greater_equal")
    __invert__ = Method("logical_not")
    __and__ = Method("logical_and")
    __or__ = Method("logical_or")
    __rand__ = Method("logical_and")
    __ror__ = Method("logical_or")
    __abs__ = Method("abs")

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

    def __float__(self) -> builtins.float:
        return builtins.float(self.item())

    def __index__(self) -> int:
        if self.size != 1:  # a TypeError, so that the caller's message names the argument
            raise CallError(f"a tensor of shape {self.shape} is not one whole number")
        return operator.index(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return numpy_protocols.ufunc(tensor_functions(), ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return numpy_protocols.function(tensor_functions(), function, args, options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.requires_grad:
            raise GraphError(
                "converting to a NumPy array would lose the graph; use x.numpy() or x.detach(). For a "
                "list, where NumPy does not ask us, write tg.mean([x, y]) in place of np.mean([x, y]), and "
                "tg.stack([x, y]) in place of np.array([x, y])"
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

    def __format__(self, spec: str) -> str:
        if spec and self.size != 1:
            raise ShapeError(f"format: {spec!r} of shape {self.shape}, not of a single element")
        return format(self.item() if spec else str(self), spec)

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

    def _repr_html_(self) -> str:
        """The tensor in a notebook: a grid of its numbers, or the figures of a large one."""
        gradient = [] if self.grad is None else [self.grad._data]
        here, *its_gradient = backend.fetch([self._data, *gradient])
        facts = [times(self.shape), str(here.dtype), self.device]
        if self.requires_grad:
            facts.append("requires grad" if self.is_leaf else f"requires grad, by {self._node.op}")  # type: ignore[union-attr]
        name = getattr(self._node, "name", "")
        line = f"<b>{text(name or 'tensor')}</b> {text(' · '.join(facts))}"
        folds = [fold("gradient", array_body(array)) for array in its_gradient]
        return shown(fold(line, array_body(here), *folds, opened=True))

    # --- methods that call the function of their name ---------------------------------------------

    sum = mean = max = min = prod = var = std = norm = logsumexp = softmax = log_softmax = Method()
    argmax = argmin = argsort = any = all = cumulative_sum = cumprod = Method()
    exp = expm1 = log = log1p = sqrt = square = sin = cos = tanh = sigmoid = relu = abs = Method()
    clip = round = floor = ceil = trunc = sign = astype = Method()
    expand_dims = squeeze = swapaxes = permute_dims = broadcast_to = ravel = unstack = Method()
    take = flip = roll = tile = diagonal = trace = tril = triu = dot = Method()

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The tensor with its axes in reverse order."""
        return tensor_functions().transpose(self)

    @property
    def mT(self) -> Tensor:  # noqa: N802 - the Array API's name
        """The tensor with its last two axes exchanged."""
        return tensor_functions().matrix_transpose(self)

    def reshape(self, *shape: Any) -> Tensor:
        """Return the elements in another shape, given as one tuple or as several numbers."""
        return tensor_functions().reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """Return the axes in the given order (one tuple or several numbers), by default reversed.

        Raises
        ------
        CallError
            Two numbers were given for a matrix: NumPy would change nothing, PyTorch would swap the axes.
        """
        order = _unpacked(axes)
        if len(axes) == self.ndim == 2 and axes in _BOTH_IN_ORDER:
            raise CallError(
                f"transpose: {axes[0]}, {axes[1]} keeps the order of the axes in NumPy and swaps them in "
                "PyTorch; write x.T or x.swapaxes(0, 1) to swap them"
            )
        if len(order) == 2 and self.ndim > 2:
            raise ShapeError(
                f"transpose: {self.ndim} axes are needed for shape {self.shape}, as in NumPy; "
                f"write x.swapaxes({order[0]}, {order[1]}) to swap two"
            )
        return tensor_functions().transpose(self, tuple(order) or None)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Return the tensor with the axes from ``start_dim`` to ``end_dim`` (by default all) joined."""
        if not self.ndim:
            return self.reshape(1)
        first, last = (axis + self.ndim if axis < 0 else axis for axis in (start_dim, end_dim))
        if not 0 <= first <= last < self.ndim:
            raise ShapeError(
                f"flatten: there are no axes from {start_dim} to {end_dim} in shape {self.shape}"
            )
        joint = math.prod(self.shape[first : last + 1])
        return self.reshape(*self.shape[:first], joint, *self.shape[last + 1 :])

    # --- PyTorch's names --------------------------------------------------------------------------

    unsqueeze = Method("expand_dims")
    pow = Method("power")
    clamp = Method("clip")
    matmul = mm = bmm = Method("matmul")
    cumsum = Method("cumulative_sum")

    def view(self, *shape: Any) -> Tensor:
        """Return the elements in another shape; see :meth:`reshape`."""
        return self.reshape(*shape)

    def view_as(self, other: Tensor) -> Tensor:
        """Return the elements in the shape of another."""
        return self.reshape(other.shape)

    reshape_as = view_as

    def permute(self, *axes: Any) -> Tensor:
        """Return the axes in another order, given as one tuple or as several numbers."""
        return tensor_functions().permute_dims(self, tuple(_unpacked(axes)))

    def t(self) -> Tensor:
        """Return the transpose of a matrix."""
        if self.ndim > 2:
            raise ShapeError(f"t: shape {self.shape} has more than two axes; write x.mT")
        return self.T

    def expand(self, *sizes: Any) -> Tensor:
        """Return the elements repeated along axes of size 1 and new ones; −1 keeps a size."""
        shape = tuple(_unpacked(sizes))
        kept = (1,) * (len(shape) - self.ndim) + self.shape
        return tensor_functions().broadcast_to(
            self, tuple(k if n == -1 else n for n, k in zip(shape, kept, strict=False))
        )

    def expand_as(self, other: Tensor) -> Tensor:
        """Return the elements repeated to the shape of another."""
        return tensor_functions().broadcast_to(self, other.shape)

    def masked_fill(self, mask: Any, value: Any) -> Tensor:
        """Return ``value`` where the mask holds, and this tensor's elements elsewhere."""
        return tensor_functions().where(mask, value, self)

    def numel(self) -> int:
        """Return the number of elements."""
        return int(self.size)

    def dim(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def contiguous(self) -> Tensor:
        """Return the tensor itself: here a tensor has no layout in memory to change."""
        return self

    def cpu(self) -> Tensor:
        """Return the tensor on the CPU."""
        return self.to("cpu")

    def cuda(self, ordinal: int = 0) -> Tensor:
        """Return the tensor on a CUDA device, by default the first."""
        return self.to(f"cuda:{ordinal}")

    def double(self) -> Tensor:
        """Return the elements as ``float64``."""
        return tensor_functions().astype(self, "float64")

    def float(self) -> Tensor:
        """Return the elements as ``float32``."""
        return tensor_functions().astype(self, "float32")

    def half(self) -> Tensor:
        """Return the elements as ``float16``."""
        return tensor_functions().astype(self, "float16")

    def type_as(self, other: Tensor) -> Tensor:
        """Return the elements in the dtype of another."""
        return tensor_functions().astype(self, other.dtype)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` of a leaf and return it."""
        self.requires_grad = requires_grad
        return self

    if not TYPE_CHECKING:  # a type checker must not accept unknown names

        def __getattr__(self, name: str) -> NoReturn:
            if name in tensor_functions().__all__ and name not in TENSOR:
                unknown_name(self, name, {name: f"write tg.{name}(x, ...)"}, "a Tensor")
            unknown_name(self, name, TENSOR, "a Tensor")


_BOTH_IN_ORDER = [(i, j) for i in (0, -2) for j in (1, -1)]
"""The axes of a matrix in their order, written in every way."""


def _unpacked(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The numbers given, or those in the one tuple that was given."""
    one = len(given) == 1 and isinstance(given[0], (tuple, list))
    return tuple(given[0]) if one else given


explain_calls_of(Tensor)
set_tensor_type(Tensor)
