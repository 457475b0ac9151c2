"""How Tensor's operators and methods call the operation of their name; the arguments of ``.to``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..arrays import backend
from ..arrays.dlpack import imported
from ..arrays.namespaces import numpy_dtype
from ..engine.recording import apply, is_tensor
from ..errors import CallError, DTypeError, GraphError
from ..primitives import PRIMITIVES

if TYPE_CHECKING:
    from .tensor import Tensor


def operator_of(name: str, reflected: bool = False) -> Callable[[Any, Any], Tensor]:
    """Make the method of a binary operator; it applies the primitive directly, which is fastest."""
    primitive = PRIMITIVES[name]

    def operator(self: Tensor, other: Any) -> Tensor:
        return apply(primitive, self, other)

    def swapped(self: Tensor, other: Any) -> Tensor:
        return apply(primitive, other, self)

    return swapped if reflected else operator


def augmented(name: str) -> Callable[[Any, Any], Tensor]:
    """Make the method of an augmented assignment, which updates a parameter in place inside no_grad."""
    primitive = PRIMITIVES[name]

    def operator(self: Tensor, other: Any) -> Tensor:
        result = apply(primitive, self, other)
        if not (self.is_leaf and self.requires_grad):
            return result
        if result.requires_grad:
            raise GraphError(
                f"{name}: a leaf that requires grad is updated in place inside tg.no_grad() only; "
                "write x = x + y for a new tensor"
            )
        return self.assign(result)

    return operator


class Method:
    """A method that calls a function of tensors; :func:`.functions.join` replaces it by the function.

    Parameters
    ----------
    function : str, optional
        The function's name, if it differs from the method's.
    """

    def __init__(self, function: str = "") -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise, because the function has not been joined yet."""
        raise NotImplementedError(self.function)


class Count(int):
    """A number of elements: an int whose call, as in PyTorch's ``x.size()``, explains what to write."""

    __slots__ = ()

    def __call__(self, dim: Any = None) -> NoReturn:
        """Raise, because ``x.size`` is a number as in NumPy, and ``x.size()`` a shape in PyTorch."""
        instead = "x.shape" if dim is None else f"x.shape[{dim}]"
        raise CallError(f"x.size is the number of elements, {self}, as in NumPy; write {instead}")


def read_target(target: tuple[Any, ...], device: str | None, dtype: Any) -> tuple[str | None, Any]:
    """Read the arguments of ``.to(...)``: the device and the dtype, None for one that was not given.

    Raises
    ------
    CallError
        Neither was given, or one of them twice.
    DeviceError
        An argument is neither the name of a device nor a dtype.
    """
    found: dict[str, Any] = {}
    given = [("device", device), ("dtype", dtype)]
    for x in target:
        array = x._data if is_tensor(x) else imported(x)
        if backend.is_array(array):
            given += [("device", backend.device_of(array)), ("dtype", array.dtype)]
        else:
            given.append(("dtype" if _is_dtype(x) else "device", x))
    for name, value in given:
        if value is not None and found.setdefault(name, value) is not value:
            raise CallError(f"to: two of {name}, {found[name]!r} and {value!r}; pass one")
    if not found:
        raise CallError("to: pass a device such as 'cuda', a dtype such as 'float64', or both")
    place, kind = found.get("device"), found.get("dtype")
    if kind is not None and _is_dtype(kind):
        kind = numpy_dtype(kind)
    return None if place is None else backend.check_device(place), kind


def _is_dtype(x: Any) -> bool:
    if x is None or (isinstance(x, str) and x.partition(":")[0] in ("cpu", "cuda")):
        return False
    try:
        numpy_dtype(x)
    except DTypeError:
        return False
    return True
