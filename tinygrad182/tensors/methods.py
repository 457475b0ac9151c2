"""Makers of Tensor's operators and methods, which do no more than call the operation of a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..engine.recording import apply
from ..errors import CallError, GraphError
from ..primitives import PRIMITIVES

if TYPE_CHECKING:
    from .tensor import Tensor


def operator_of(name: str, reflected: bool = False) -> Callable[[Any, Any], Tensor]:
    """Make the method of a binary operator, which applies its primitive without a detour."""
    primitive = PRIMITIVES[name]

    def operator(self: Tensor, other: Any) -> Tensor:
        return apply(primitive, self, other)

    def swapped(self: Tensor, other: Any) -> Tensor:
        return apply(primitive, other, self)

    return swapped if reflected else operator


def augmented(name: str) -> Callable[[Any, Any], Tensor]:
    """Make the method of an augmented assignment: it updates a parameter, and rebinds any other name."""
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
    """The place of a method that is a function of tensors; :func:`.functions.join` fills it.

    Parameters
    ----------
    function : str, optional
        The function's name, where it is not the method's own.
    """

    def __init__(self, function: str = "") -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the function has not been put in its place yet."""
        raise NotImplementedError(self.function)


class Count(int):
    """A number of elements. It is an int, and says so where it is called as PyTorch's ``size`` is."""

    __slots__ = ()

    def __call__(self, dim: Any = None) -> NoReturn:
        """Raise: NumPy's ``x.size`` is a number, PyTorch's ``x.size()`` a shape."""
        instead = "x.shape" if dim is None else f"x.shape[{dim}]"
        raise CallError(f"x.size is the number of elements, {self}, as in NumPy; write {instead}")
