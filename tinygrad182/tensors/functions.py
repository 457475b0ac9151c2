"""Functions of tensors, under the Array API's names; this module is the namespace of Tensors.

An elementwise function applies the primitive of its name. The other functions check their arguments
and apply one primitive, or are compositions of other functions.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .._numbers import check_whole
from .._suggestions.calls import explains_calls, names_of
from .._suggestions.torch_names import TG
from ..arrays import backend
from ..arrays.dlpack import imported
from ..arrays.namespaces import HALF, SCALARS, floating_type, register
from ..engine.operands import REFUSALS, as_array, explain
from ..engine.recording import apply, is_tensor, wrap
from ..errors import ArgumentError, ShapeError, brief
from ..primitives import PRIMITIVES
from ..primitives.reduction import count_along
from .creation import (
    as_operand,
    as_operands,
    as_tensor,
    as_tensor_on,
    eye,
    eye_like,
    first_with_device,
    full_like,
    integers,
    lists_as_tensors,
    ones_like,
    stack_nested,  # noqa: F401 - the engine calls it for its operands
    zeros_like,
)
from .einsum import einsum
from .indexing import (
    index,
    index_checked,  # noqa: F401 - rules call it
    scatter_add,
    take,
)
from .methods import Method
from .shapes import (
    Axis,
    astype,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    matrix_transpose,
    negative_axes,
    negative_axis,
    pad,
    permute_dims,
    reshape,
    squeeze,
    stack,
    swapaxes,
    to_device,
    to_device_of,
    transpose,
    unstack,
)
from .tensor import Tensor

# --- elementwise --------------------------------------------------------------------------------


class Unary(Protocol):
    """A function of one tensor, array or number, given by position."""

    def __call__(self, x: Any, /) -> Tensor: ...


class Binary(Protocol):
    """A function of two tensors, arrays or numbers, given by position."""

    def __call__(self, a: Any, b: Any, /) -> Tensor: ...


def _elementwise(name: str) -> Any:
    """Make the function of an elementwise primitive, with the operands and docstring of its forward."""
    primitive = PRIMITIVES[name]

    def function(*operands: Any) -> Tensor:
        if (
            operands
            and type(operands[0]) is not Tensor
            and builtins.all(type(as_array(x)) in SCALARS for x in operands)
        ):
            operands = (as_tensor(operands[0]), *operands[1:])
        return apply(primitive, *operands)

    doc = (
        f"Elementwise: {primitive.forward.__doc__}.\n\n"
        "Operands are Tensors, arrays or numbers, broadcast against each other."
    )
    _, *operands = inspect.signature(primitive.forward).parameters  # the first is xp
    return _described(function, name, doc, operands)


def _described(
    function: Callable[..., Tensor],
    name: str,
    doc: str,
    operands: Iterable[str],
    options: Iterable[str] = (),
) -> Callable[..., Tensor]:
    """Give a generated function the name, docstring and signature that ``help`` shows."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    kind = inspect.Parameter
    parameters = [kind(n, kind.POSITIONAL_ONLY) for n in operands]
    parameters += [kind(n, kind.POSITIONAL_OR_KEYWORD, default=None) for n in options]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


add: Binary = _elementwise("add")
subtract: Binary = _elementwise("subtract")
multiply: Binary = _elementwise("multiply")
divide: Binary = _elementwise("divide")
negative: Unary = _elementwise("negative")
square: Unary = _elementwise("square")
power: Binary = _elementwise("power")
pow = power
remainder: Binary = _elementwise("remainder")
exp: Unary = _elementwise("exp")
expm1: Unary = _elementwise("expm1")
log: Unary = _elementwise("log")
log1p: Unary = _elementwise("log1p")
log2: Unary = _elementwise("log2")
log10: Unary = _elementwise("log10")
sqrt: Unary = _elementwise("sqrt")
sin: Unary = _elementwise("sin")
cos: Unary = _elementwise("cos")
sinh: Unary = _elementwise("sinh")
cosh: Unary = _elementwise("cosh")
tanh: Unary = _elementwise("tanh")
asin: Unary = _elementwise("asin")
acos: Unary = _elementwise("acos")
atan: Unary = _elementwise("atan")
atan2: Binary = _elementwise("atan2")
asinh: Unary = _elementwise("asinh")
sigmoid: Unary = _elementwise("sigmoid")
relu: Unary = _elementwise("relu")
abs: Unary = _elementwise("abs")
maximum: Binary = _elementwise("maximum")
minimum: Binary = _elementwise("minimum")


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Elementwise: ``a`` where the condition holds, else ``b``.

    Operands are Tensors, arrays or numbers, broadcast against each other. A condition on the host, such
    as a NumPy mask, goes to the device of ``a`` and ``b``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.where([True, False], tg.tensor([1.0, 2.0]), 0.0)
    tensor([1., 0.])
    """
    condition = imported(condition)
    if isinstance(condition, np.ndarray) and condition.ndim:
        like = first_with_device((a, b))
        condition = condition if like is None else as_tensor_on(condition, like)
    elif builtins.all(type(as_array(x)) in SCALARS for x in (condition, a, b)):
        condition = as_tensor(condition)
    return apply(PRIMITIVES["where"], condition, a, b)


def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """Limit elements to [min, max]; the derivative is 1 inside and at the bounds, 0 outside.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.clip(tg.tensor([-2.0, 0.5, 2.0]), -1, 1)
    tensor([-1. ,  0.5,  1. ])
    """
    if not is_tensor(x):
        x = as_operand(x, first_with_device((x, min, max)))
    lowest, highest = _range_of(x.dtype)
    # whole numbers outside the dtype's range bound nothing
    if min is not None and not (type(min) is int and min < lowest):
        x = where(less(x, min), min, x)
    if max is not None and not (type(max) is int and max > highest):
        x = where(greater(x, max), max, x)
    return x


def _range_of(dtype: Any) -> tuple[float, float]:
    """The least and the largest number of an integer dtype; −∞ and ∞ for other dtypes."""
    if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        info = np.iinfo(dtype)
        return info.min, info.max
    return -math.inf, math.inf


# --- functions without a derivative ---------------------------------------------------------------


def _plain(
    name: str,
    doc: str,
    operands: str = "x",
    ordered: bool = False,
    masks: bool = False,
    options: tuple[str, ...] = (),
) -> Any:
    """Make a function that calls the array library and returns a tensor that does not require grad.

    Parameters
    ----------
    operands : str
        The operands' names, one letter each.
    ordered : bool
        Whether real parts are compared, so that masks work in a complex step.
    masks : bool
        Whether operands must be Boolean.
    options : tuple of str
        Keyword arguments that every library has.
    """

    def function(*operands: Any, **given: Any) -> Tensor:
        for option in given:
            if option not in options:  # the libraries' own messages differ
                raise TypeError(f"{name}() got an unexpected keyword argument {option!r}")
        arrays: list[Any] = []
        try:
            for x in operands:
                if isinstance(x, (list, tuple)):
                    operands = tuple(lists_as_tensors(operands))
                    break
            arrays += [x._data if is_tensor(x) else as_array(x) for x in operands]
            first = next((a for a in arrays if type(a) not in SCALARS), None)
            if first is None and operands and operands[0] is not None:  # only numbers
                first = arrays[0] = np.asarray(operands[0])  # a 0-d array has a dtype
            xp = backend.namespace(*arrays)
            with xp.on(first):
                if masks and not builtins.all(_is_mask(a) for a in arrays):
                    raise TypeError("operands must be Boolean; compare first, as in x != 0")
                if ordered:
                    arrays = [xp.ordered(a) for a in arrays]
                return wrap(xp.asarray(getattr(xp, name)(*arrays, **given)))
        except REFUSALS as error:
            raise explain(name, arrays, error) from error

    doc = f"{doc}.\n\nThe result does not require grad: no gradient flows through this function."
    return _described(function, name, doc, operands, options)


def _is_mask(x: Any) -> bool:
    return isinstance(x, bool) if type(x) in SCALARS else "bool" in str(x.dtype)


equal: Binary = _plain("equal", "Boolean: a = b", "ab", ordered=True)
not_equal: Binary = _plain("not_equal", "Boolean: a ≠ b", "ab", ordered=True)
less: Binary = _plain("less", "Boolean: a < b", "ab", ordered=True)
less_equal: Binary = _plain("less_equal", "Boolean: a ≤ b", "ab", ordered=True)
greater: Binary = _plain("greater", "Boolean: a > b", "ab", ordered=True)
greater_equal: Binary = _plain("greater_equal", "Boolean: a ≥ b", "ab", ordered=True)
logical_not: Unary = _plain("logical_not", "Boolean: not x, for a Boolean x", masks=True)
logical_and: Binary = _plain("logical_and", "Boolean: a and b, for Boolean a, b", "ab", masks=True)
logical_or: Binary = _plain("logical_or", "Boolean: a or b, for Boolean a, b", "ab", masks=True)
isfinite: Unary = _plain("isfinite", "Boolean: x is neither infinite nor NaN")
isnan: Unary = _plain("isnan", "Boolean: x is NaN")
isinf: Unary = _plain("isinf", "Boolean: x is infinite")
sign: Unary = _plain("sign", "Sign of each element: −1, 0 or 1")
floor: Unary = _plain("floor", "Largest whole number not above each element")
ceil: Unary = _plain("ceil", "Least whole number not below each element")
trunc: Unary = _plain("trunc", "Each element without its fraction")
round = _plain(
    "round",
    "The whole number (or number of ``decimals``) nearest each element, ties to even",
    options=("decimals",),
)
floor_divide: Binary = _plain("floor_divide", "Largest whole number not above a / b", "ab")


def _plain_reduction(name: str, doc: str, index: bool = False) -> Callable[..., Tensor]:
    """Make a plain reduction. One that returns an ``index`` takes a single axis and compares elements."""
    reduce = _plain(name, doc, ordered=index, options=("axis", "keepdims"))

    def function(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
        given = {} if axis is None else {"axis": _axis_of(axis, name, several=not index)}
        return reduce(x, **given, **({"keepdims": True} if keepdims else {}))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = reduce.__doc__
    return function


def _axis_of(axis: Any, op: str, several: bool) -> Any:
    """Read one axis, or a tuple of axes if ``several`` are allowed."""
    if several and isinstance(axis, (tuple, list)):
        return integers(axis, op, "axis")
    return check_whole(op, "axis", axis)


argmax = _plain_reduction("argmax", "Index of the largest element along ``axis``", index=True)
argmin = _plain_reduction("argmin", "Index of the smallest element along ``axis``", index=True)
any = _plain_reduction("any", "Whether any element along ``axis`` is true")
all = _plain_reduction("all", "Whether all elements along ``axis`` are true")
_argsort = _plain("argsort", "Indices that sort along ``axis``", ordered=True, options=("axis",))


def argsort(x: Any, axis: int | None = -1) -> Tensor:
    """Indices that sort along ``axis``, or that sort all elements if it is None.

    The result does not require grad: no gradient flows through this function.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.argsort(tg.tensor([3.0, 1.0, 2.0]))
    tensor([1, 2, 0])
    """
    if axis is None:
        x, axis = reshape(x, -1), 0
    return _argsort(x, axis=_axis_of(axis, "argsort", several=False))


# --- reductions ---------------------------------------------------------------------------------


def accumulating(reduction: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a reduction compute with halves in float32 and return halves.

    In half precision, counts, sums and squares overflow although the result does not. (For plain and
    cumulative sums and for products, the namespaces of the array libraries do this.)
    """

    @functools.wraps(reduction)
    def widened(x: Any, *args: Any, **options: Any) -> Tensor:
        if type(x) is not Tensor:
            x = as_tensor(x)
        if x._data.dtype is not HALF:
            return reduction(x, *args, **options)
        return astype(reduction(astype(x, "float32"), *args, **options), HALF)

    return widened


def of_floating(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a function convert whole numbers by :func:`floating`, so that no result wraps around."""

    @functools.wraps(function)
    def called(x: Any, *args: Any, **options: Any) -> Tensor:
        return function(floating(x), *args, **options)

    return called


def floating(x: Any, dtype: Any = None) -> Tensor:
    """Return a Tensor; whole numbers become ``dtype``, by default the dtype that their ``exp`` has."""
    if type(x) is not Tensor:
        x = as_tensor(x)
    found = floating_type(x._data.dtype)
    return x if found is None else astype(x, dtype or found)


def _reduce(op: str, x: Any, axis: Axis, keepdims: bool) -> Tensor:
    if type(x) is not Tensor:
        x = as_tensor(x)
    axes = negative_axes(x, axis, op, keepdims)
    return apply(PRIMITIVES[op], x, axis=axes, keepdims=keepdims)


def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum of the elements along ``axis`` (all axes by default).

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.sum(tg.ones((2, 3)), axis=0)
    tensor([2., 2., 2.])
    """
    return _reduce("sum", x, axis, keepdims)


@accumulating
def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Largest element along ``axis``; ties share the gradient evenly."""
    return _reduce("max", x, axis, keepdims)


@accumulating
def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Smallest element along ``axis``; ties share the gradient evenly."""
    return _reduce("min", x, axis, keepdims)


@of_floating
@accumulating
def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials along ``axis``, without overflow.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.logsumexp(tg.tensor([1000.0, 1000.0], dtype="float64"))  # 1000 + ln 2
    tensor(1000.69314718, dtype=float64)
    """
    return _reduce("logsumexp", x, axis, keepdims)


def cumulative_sum(x: Any, axis: int | None = None) -> Tensor:
    """Running sum along ``axis``, which may be left out for a 1-d tensor."""
    x = as_tensor(x)
    at = running_axis("cumulative_sum", x, axis)
    return x * 1 if at is None else apply(PRIMITIVES["cumulative_sum"], x, axis=at)


def running_axis(op: str, x: Tensor, axis: int | None) -> int | None:
    """The axis of a running sum or product as a negative integer; None for a 0-d tensor."""
    if axis is None and x.ndim != 1:
        raise ShapeError(f"{op}: name the axis for a tensor of shape {x.shape}")
    at = 0 if axis is None else check_whole(op, "axis", axis)
    return negative_axis(x.ndim, at, op, x.shape) if x.ndim or at not in (0, -1) else None


@accumulating
def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean of the elements along ``axis``."""
    x = floating(x, "float64")  # the sum of float64 does not wrap around
    axes = negative_axes(x, axis, "mean", keepdims)
    if not x._data.size and not count_along(x, axes):
        raise ShapeError(f"mean: no elements along axis {axis} of shape {x.shape}")
    return apply(PRIMITIVES["mean"], x, axis=axes, keepdims=keepdims)


@accumulating
def var(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Variance along ``axis``: squared deviations over n − ``correction`` (0, as in NumPy)."""
    x = as_tensor(x)
    count = count_along(x, negative_axes(x, axis, "var", keepdims))
    if isinstance(correction, bool) or not isinstance(correction, (int, float, np.number)):
        raise ArgumentError(f"var: correction {brief(correction)} must be a number")
    if count <= correction:
        raise ShapeError(
            f"var: {count} elements along axis {axis} are too few for correction {correction}"
        )
    deviation = x - mean(x, axis, keepdims=True)
    return sum(square(deviation), axis, keepdims) / (count - correction)


@accumulating
def std(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Standard deviation along ``axis``: the square root of :func:`var`; derivative 0 where it is 0."""
    return root(var(x, axis, correction, keepdims))


def root(x: Tensor) -> Tensor:
    """Square root of a sum of squares; the derivative at 0 is 0, because there is a kink as in abs."""
    zero = equal(x, 0)
    return where(zero, 0.0, sqrt(where(zero, 1.0, x)))


@accumulating
def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Product of the elements along ``axis``; the gradient is right also where elements are 0.

    Intermediate results neither overflow nor underflow, in the gradient too: only a result that does
    not fit its type is infinite or 0.
    """
    x = as_tensor(x)
    rows, kept_sizes = rows_along(x, negative_axes(x, axis, "prod", keepdims))
    y = apply(PRIMITIVES["prod"], rows)
    return reshape(y, kept_sizes) if keepdims else y


def rows_along(x: Tensor, axes: tuple[int, ...] | None) -> tuple[Tensor, list[int]]:
    """Return x with ``axes`` (by default all) joined to one last axis, and the shape for keepdims."""
    last = tuple(range(-x.ndim, 0)) if axes is None else axes
    kept = [a for a in range(-x.ndim, 0) if a not in last]
    sizes = [*(x.shape[a] for a in kept), math.prod(x.shape[a] for a in last)]
    kept_sizes = [1 if a in last else x.shape[a] for a in range(-x.ndim, 0)]
    if [*kept, *last] != list(range(-x.ndim, 0)):
        x = permute_dims(x, (*kept, *last))
    return (x if x.shape == tuple(sizes) else reshape(x, sizes)), kept_sizes


def product_of_others(x: Tensor) -> Tensor:
    """For each element along the last axis, the product of all others: the gradient of :func:`prod`."""
    return apply(PRIMITIVES["product_of_others"], x)


@of_floating
@accumulating
def softmax(x: Any, axis: int = -1) -> Tensor:
    """Exponentials along ``axis`` divided by their sum, without overflow.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.softmax(tg.tensor([0.0, 0.0]))
    tensor([0.5, 0.5])
    """
    return exp(log_softmax(x, axis))


@of_floating
@accumulating
def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """Logarithm of :func:`softmax`, accurate for small probabilities."""
    x = as_tensor(x)
    axes = negative_axes(x, axis, "log_softmax")
    if not x.size:
        return x * 1  # there is no maximum to subtract
    # only rounding depends on the shift: without it, logits near 1000 would cost three digits
    x = x - max(x, axes, keepdims=True).detach()
    return x - logsumexp(x, axes, keepdims=True)


# --- order --------------------------------------------------------------------------------------


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Tensor:
    """Select elements along ``axis`` by an array of indices with as many axes, such as argsort returns.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([[3.0, 1.0], [2.0, 4.0]])
    >>> tg.take_along_axis(x, tg.argsort(x), axis=-1)
    tensor([[1., 3.],
            [2., 4.]])
    """
    x, indices = as_tensor(x), imported(indices)
    at = negative_axis(x.ndim, axis, "take_along_axis", x.shape) + x.ndim
    if np.ndim(indices) != x.ndim:
        raise ShapeError(
            f"take_along_axis: indices of shape {np.shape(indices)} for shape {x.shape}; "
            "they must have as many axes"
        )
    steps = np.ogrid[tuple(slice(n) for n in x.shape)]
    return index(x, (*steps[:at], indices, *steps[at + 1 :]))


# --- products -----------------------------------------------------------------------------------


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product over the last two axes; the others broadcast. A vector is a row or a column.

    Raises
    ------
    ShapeError
        An operand is 0-d, or the inner sizes differ.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.matmul(tg.ones((2, 3)), tg.ones(3))
    tensor([3., 3.])
    """
    a, b = as_operands((a, b))
    if not a.ndim or not b.ndim:
        raise ShapeError(
            f"matmul: operands of shape {a.shape} and {b.shape}; a 0-d operand needs * instead"
        )
    rows = expand_dims(a, 0) if a.ndim == 1 else a
    columns = expand_dims(b, 1) if b.ndim == 1 else b
    y = apply(PRIMITIVES["matmul"], rows, columns)
    if b.ndim == 1:
        y = squeeze(y, -1)
    return squeeze(y, -1 if b.ndim == 1 else -2) if a.ndim == 1 else y


def outer(a: Any, b: Any) -> Tensor:
    """Products of each element of ``a`` with each element of ``b``, shape ``(a.size, b.size)``."""
    a, b = as_operands((a, b))
    return reshape(a, (-1, 1)) * reshape(b, -1)


# fmt: off
__all__ = [
    "abs", "acos", "add", "all", "any", "argmax", "argmin", "argsort", "asin", "asinh", "astype",
    "atan", "atan2", "broadcast_to", "ceil", "clip", "concat", "cos", "cosh", "cumulative_sum",
    "divide", "einsum", "equal", "exp", "expand_dims", "expm1", "eye", "eye_like", "flip", "floor",
    "floor_divide", "full_like", "greater", "greater_equal", "index", "isfinite", "isinf", "isnan",
    "less", "less_equal", "log", "log1p", "log2", "log10", "log_softmax", "logical_and",
    "logical_not", "logical_or", "logsumexp", "matmul", "matrix_transpose", "max", "maximum",
    "mean", "min", "minimum", "multiply", "negative", "not_equal", "ones_like", "outer", "pad",
    "permute_dims", "pow", "power", "prod", "relu", "remainder", "reshape", "round", "scatter_add",
    "sigmoid", "sign", "sin", "sinh", "softmax", "sqrt", "square", "squeeze", "stack", "std",
    "subtract", "sum", "swapaxes", "take", "take_along_axis", "tanh", "to_device", "to_device_of",
    "transpose", "trunc", "unstack", "var", "where", "zeros_like",
]
# fmt: on


def join(functions: dict[str, Callable[..., Any]]) -> None:
    """Add functions to this namespace, and set the methods that Tensor declares for them."""
    globals().update(functions)
    for attribute, place in list(vars(Tensor).items()):
        if isinstance(place, Method) and (place.function or attribute) in functions:
            setattr(Tensor, attribute, explains_calls(functions[place.function or attribute]))


join({name: globals()[name] for name in __all__})
register(Tensor, sys.modules[__name__])

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__, "xp", TG)  # derivative rules and steps of cells call it xp
