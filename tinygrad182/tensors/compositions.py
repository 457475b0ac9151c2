"""NumPy's functions as compositions of the functions in :mod:`.functions`, such as ``tan`` and ``sort``.

A composition has no derivative rules of its own: the derivatives of the functions in it are used. Its
name is added to the namespace of Tensors at the end of this file. ``tg.tan(x)``, ``np.tan(x)`` of a Tensor
and ``xp.tan(x)`` in a derivative rule are therefore the same function.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._numbers import check_whole
from .._suggestions.calls import explain_call
from ..arrays import backend
from ..arrays.dlpack import imported
from ..arrays.namespaces import HALF, floating_type
from ..engine.host import is_host_data, on_host
from ..engine.operands import REFUSALS, explain
from ..engine.recording import apply, is_tensor, wrap
from ..errors import (
    ArgumentError,
    DTypeError,
    IndexOutOfRangeError,
    ShapeError,
    TinygradError,
    brief,
)
from ..primitives import PRIMITIVES
from . import functions as tg
from .creation import (
    as_leading_operand,
    as_operands,
    as_tensor,
    as_tensor_on,
    check_shape,
    dtype_of,
    full_like,
    integers,
    lists_as_tensors,
    stack_nested,
    zeros_like,
)
from .norms import matrix_norm, norm, vector_norm
from .shapes import Axis, negative_axes, negative_axis
from .tensor import Tensor

Function = Callable[..., Any]


def widening(f: Function) -> Function:
    """Make a function compute with halves in float32 and return halves; wider operands give wider results.

    In half precision, sums and squares overflow and intermediate results lose digits.
    """

    @functools.wraps(f)
    def widened(*args: Any, **options: Any) -> Any:
        dtypes = [x.dtype for x in (*args, *options.values()) if hasattr(x, "dtype")]
        if not any(dtype is HALF for dtype in dtypes):
            return f(*args, **options)
        y = f(*map(_wide, args), **{name: _wide(x) for name, x in options.items()})
        if any(dtype == np.float32 for dtype in dtypes):
            return y
        return [_narrow(part) for part in y] if isinstance(y, list) else _narrow(y)

    return widened


def _wide(x: Any) -> Any:
    return x.astype("float32") if getattr(x, "dtype", None) is HALF else x


def _narrow(y: Tensor) -> Tensor:
    return tg.astype(y, HALF) if y.dtype == np.float32 else y


def _is_whole(x: Tensor) -> bool:
    """Whether elements are integers or Booleans, so that none of them is NaN."""
    return not any(kind in str(x.dtype) for kind in ("float", "complex"))


def _points(x: Any) -> Any:
    """Coordinates: a float64 array if they are on the host, for exact differences; else a Tensor."""
    x = stack_nested(x)
    return on_host(x).astype(np.float64) if is_host_data(x) else tg.floating(x, "float64")


def _elementwise(doc: str, formula: Function) -> Function:
    """Make a function of Tensors, arrays and numbers from a formula; ``doc`` says the formula."""
    wide = widening(formula)

    @functools.wraps(formula)
    def function(*operands: Any) -> Tensor:
        return wide(*as_operands(operands))

    function.__doc__ = f"Elementwise: {doc}."
    return function


# --- elementwise --------------------------------------------------------------------------------

tan = _elementwise("sin x / cos x", lambda x: tg.sin(x) / tg.cos(x))
acosh = _elementwise(
    "asinh(√(x − 1) √(x + 1))",
    tg.of_floating(lambda x: tg.asinh(tg.sqrt(x - 1) * tg.sqrt(x + 1))),
)
atanh = _elementwise(
    "(log1p(x) − log1p(−x)) / 2", tg.of_floating(lambda x: (tg.log1p(x) - tg.log1p(-x)) / 2)
)
exp2 = _elementwise("2 to the power of x", lambda x: 2.0**x)
cbrt = _elementwise(
    "the cube root; its derivative at 0 is infinite",
    tg.of_floating(lambda x: _signed(x, _cube_root(tg.where(x < 0, -x, x)))),
)
sinc = _elementwise("sin(πx) / (πx), 1 at 0", lambda x: _sine_over(x * math.pi))
reciprocal = _elementwise("1 / x", lambda x: 1 / x)
positive = _elementwise("x itself", lambda x: x)
fabs = _elementwise("|x|; the derivative at 0 is 0", lambda x: tg.abs(x))
deg2rad = _elementwise("x π / 180", lambda x: x * (math.pi / 180))
rad2deg = _elementwise("x 180 / π", lambda x: x * (180 / math.pi))
float_power = _elementwise("a ** b in float64", lambda a, b: tg.astype(a, "float64") ** b)
fmod = _elementwise(
    "the remainder of a / b with the sign of a; the derivative by b is −trunc(a / b)",
    lambda a, b: _fmod(a, b),
)
fmax = _elementwise(
    "the larger of a and b; a number wins over NaN",
    lambda a, b: tg.where(tg.isnan(a), b, tg.where(tg.isnan(b), a, tg.maximum(a, b))),
)
fmin = _elementwise(
    "the smaller of a and b; a number wins over NaN",
    lambda a, b: tg.where(tg.isnan(a), b, tg.where(tg.isnan(b), a, tg.minimum(a, b))),
)
hypot = _elementwise(
    "√(a² + b²) without overflow; the derivatives at the origin are 0",
    lambda a, b: norm(tg.stack(broadcast_arrays(a, b)), axis=0),
)
logaddexp = _elementwise(
    "log(eᵃ + eᵇ) without overflow",
    lambda a, b: tg.logsumexp(tg.stack(broadcast_arrays(a, b)), axis=0),
)
logaddexp2 = _elementwise(
    "log₂(2ᵃ + 2ᵇ) without overflow",
    lambda a, b: logaddexp(a * math.log(2), b * math.log(2)) / math.log(2),
)
heaviside = _elementwise(
    "0 where a is negative, b where it is 0, else 1",
    lambda a, b: tg.where(a == 0, b, (tg.sign(a) + 1) / 2),
)
real = _elementwise("the real part: x itself, unless it is complex", lambda x: _part(x, "real", x))
imag = _elementwise(
    "the imaginary part: 0, unless x is complex", lambda x: _part(x, "imag", zeros_like(x))
)
conj = _elementwise(
    "the conjugate: x itself, unless it is complex",
    lambda x: x if real(x) is x else real(x) - 1j * imag(x),
)
angle = _elementwise(
    "atan2(imag x, real x): 0, or π where x is negative", lambda x: tg.atan2(imag(x), real(x))
)


def _cube_root(x: Tensor) -> Tensor:
    """The power, corrected by a step of Newton's method; the derivative is that of the power."""
    power = x ** (1 / 3)
    usual = tg.logical_and(x > 0, tg.isfinite(x))
    y = tg.where(usual, power.detach(), 1.0)
    return power + tg.where(usual, (x.detach() - y * y * y) / (3 * y * y), 0.0)


def _signed(x: Any, size: Tensor) -> Tensor:
    """``size`` with the sign of x."""
    return tg.where(x < 0, -size, size)


def _fmod(a: Tensor, b: Tensor) -> Tensor:
    y = tg.remainder(a, b)
    if floating_type(y.dtype):  # whole numbers: the least has no absolute value in its type
        turned = tg.logical_and(y != 0, tg.not_equal(a < 0, b < 0))
        return tg.where(turned, y - b, y)
    a, b = tg.floating(a), tg.floating(b)
    return _signed(a, tg.remainder(tg.where(a < 0, -a, a), tg.where(b < 0, -b, b)))


def _sine_over(x: Tensor) -> Tensor:
    """sin(x) / x, near 0 by its series, because the derivatives of the quotient cancel there."""
    small = tg.abs(x.detach()) < 0.5
    square = tg.where(small, x, 0.0) ** 2
    series = functools.reduce(
        lambda s, k: 1 - s * square / (2 * k * (2 * k + 1)), range(8, 0, -1), tg.ones_like(square)
    )
    far = tg.where(small, 1.0, x)
    return tg.where(small, series, tg.sin(far) / far)


def _part(x: Tensor, name: str, of_real: Tensor) -> Tensor:
    """Return a part of a complex tensor, which has no gradient, or ``of_real`` for a real one."""
    xp = backend.namespace(x._data)
    if not xp.is_complex(x._data):
        return of_real
    with xp.on(x._data):
        return wrap(xp.asarray(getattr(xp, name)(x._data)))


def nan_to_num(
    x: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """Replace NaN, ∞ and −∞, by default with 0, the largest and the smallest number of the dtype.

    The derivative is 0 where an element was replaced.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nan_to_num(tg.tensor([1.0, float("nan"), float("-inf")]), neginf=-9.0)
    tensor([ 1.,  0., -9.])
    """
    x = as_tensor(x)
    if _is_whole(x):
        return x
    largest = float(np.finfo(dtype_of(x)).max)
    x = tg.where(tg.isnan(x), nan, x)
    x = tg.where(x == math.inf, largest if posinf is None else posinf, x)
    return tg.where(x == -math.inf, -largest if neginf is None else neginf, x)


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Tensor:
    """At each place, the element of the first choice whose condition holds; otherwise of ``default``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([-2.0, 0.5, 3.0])
    >>> tg.select([x < 0, x > 1], [-x, x * x])
    tensor([2., 0., 9.])
    """
    if len(condlist) != len(choicelist) or not len(condlist):
        raise ArgumentError("select: give as many choices as conditions, at least one")
    for condition in condlist:
        mask = condition if hasattr(condition, "dtype") else on_host(condition)
        if "bool" not in str(mask.dtype):
            raise DTypeError("select: conditions must be Boolean; compare first, as in x != 0")
    chosen, *choices = lists_as_tensors([default, *choicelist[::-1]])
    for condition, choice in zip(condlist[::-1], choices, strict=True):
        chosen = tg.where(condition, choice, chosen)
    return chosen


# --- the order of axes and elements -------------------------------------------------------------


def ravel(x: Any) -> Tensor:
    """All elements as a vector, in row-major order."""
    return tg.reshape(x, (-1,))


def copy(x: Any) -> Tensor:
    """A copy with memory of its own; gradients flow back."""
    return as_tensor(x).clone()


def fliplr(x: Any) -> Tensor:
    """The columns (the second axis) in reverse order."""
    return tg.flip(x, axis=1)


def flipud(x: Any) -> Tensor:
    """The rows (the first axis) in reverse order."""
    return tg.flip(x, axis=0)


def rollaxis(x: Any, axis: int, start: int = 0) -> Tensor:
    """Move ``axis`` in front of the axis that is at ``start``."""
    x = as_tensor(x)
    at = negative_axis(x.ndim, axis, "rollaxis", x.shape) + x.ndim
    to = check_whole("rollaxis", "start", start)
    to = to + x.ndim if to < 0 else to
    if not 0 <= to <= x.ndim:
        raise ShapeError(f"rollaxis: start {start} is out of range for shape {x.shape}")
    return moveaxis(x, at, to - (at < to))


def sort(x: Any, axis: int | None = -1) -> Tensor:
    """The elements in ascending order along ``axis``, or all elements if it is None.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([3.0, 1.0, 2.0], requires_grad=True)
    >>> y = tg.sort(x)
    >>> y.detach()
    tensor([1., 2., 3.])
    >>> y[0].backward()
    >>> x.grad
    tensor([0., 1., 0.])
    """
    x, axis = (ravel(x), 0) if axis is None else (x, axis)
    return tg.take_along_axis(x, tg.argsort(x, axis=axis), axis)


def partition(x: Any, kth: Any, axis: int | None = -1) -> Tensor:
    """The elements along ``axis`` with the smaller ones before element ``kth``: here all are sorted.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.partition(tg.tensor([4.0, 1.0, 3.0, 2.0]), 1)
    tensor([1., 2., 3., 4.])
    """
    x, at = (ravel(x), -1) if axis is None else (as_tensor(x), axis)
    size = x.shape[negative_axis(x.ndim, at, "partition", x.shape)]
    if not all(-size <= k < size for k in integers(kth, "partition", "kth")):
        raise IndexOutOfRangeError(f"partition: kth {brief(kth)} is out of range for size {size}")
    return sort(x, at)


def compress(condition: Any, x: Any, axis: int | None = None) -> Tensor:
    """The slices along ``axis`` (by default the elements) at which a condition holds.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.compress([True, False, True], tg.arange(6).reshape(2, 3), axis=1)
    tensor([[0, 2],
            [3, 5]])
    """
    return _slices(x, np.flatnonzero(on_host(condition)), axis)


def extract(condition: Any, x: Any) -> Tensor:
    """The elements at which a condition holds, as a vector."""
    return compress(ravel(condition), x)


def delete(x: Any, obj: Any, axis: int | None = None) -> Tensor:
    """The slices along ``axis`` except those at ``obj``, which is an index, several of them, or a slice.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.delete(tg.arange(5), [1, 3])
    tensor([0, 2, 4])
    """
    obj = obj if isinstance(obj, slice) else on_host(obj)

    def others(size: int) -> Any:
        try:
            return np.delete(np.arange(size), obj)
        except (IndexError, ValueError) as error:
            raise IndexOutOfRangeError(f"delete: {error}") from None

    return _slices(x, others, axis)


def append(x: Any, values: Any, axis: int | None = None) -> Tensor:
    """Join ``values`` to the end of x along ``axis``; by default the elements of both form a vector.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.append(tg.arange(2), [7, 8])
    tensor([0, 1, 7, 8])
    """
    return tg.concat([x, values], axis)


def tril(x: Any, k: int = 0) -> Tensor:
    """The matrices with 0 above diagonal ``k``; diagonal 0 is the main one, and 1 is above it.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.tril(tg.ones((3, 3)))
    tensor([[1., 0., 0.],
            [1., 1., 0.],
            [1., 1., 1.]])
    """
    return _masked(as_tensor(x), _below(x, check_whole("tril", "k", k)))


def triu(x: Any, k: int = 0) -> Tensor:
    """The matrices with 0 below diagonal ``k``; diagonal 0 is the main one, and 1 is above it.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.triu(tg.ones((3, 3)), 1)
    tensor([[0., 1., 1.],
            [0., 0., 1.],
            [0., 0., 0.]])
    """
    return _masked(as_tensor(x), ~_below(x, check_whole("triu", "k", k) - 1))


def diagflat(v: Any, k: int = 0) -> Tensor:
    """The matrix with all elements of a tensor on diagonal ``k``; see :func:`diag`."""
    return diag(ravel(v), k)


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """Sum of the elements on a diagonal; see :func:`diagonal`."""
    return tg.sum(diagonal(x, offset, axis1, axis2), axis=-1)


def _below(x: Any, k: int) -> Any:
    """Mask of the elements on diagonal k and below."""
    shape = atleast_1d(x).shape
    return np.tri(shape[-2:][0], shape[-1], k, bool)


def _masked(x: Tensor, mask: Any) -> Tensor:
    """The elements where a mask holds, and 0 of their dtype elsewhere."""
    return tg.where(mask, x, False if "bool" in str(x.dtype) else 0)


def _slices(x: Any, indices: Any, axis: int | None) -> Tensor:
    """The slices along an axis (by default the elements) at indices, or at a function of the size."""
    x = ravel(x) if axis is None else as_tensor(x)
    at = negative_axis(x.ndim, axis or 0, "take", x.shape)
    return tg.take(x, indices(x.shape[at]) if callable(indices) else indices, at)


def moveaxis(x: Any, source: Axis, destination: Axis) -> Tensor:
    """Move the axes at ``source`` to ``destination``; the others stay in order.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.moveaxis(tg.ones((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    x = as_tensor(x)
    pairs = [negative_axes(x, a, "moveaxis") or () for a in (source, destination)]
    if len(pairs[0]) != len(pairs[1]):
        raise ShapeError(f"moveaxis: {source} to {destination}: as many axes to as from")
    order = [a for a in range(-x.ndim, 0) if a not in pairs[0]]
    for to, at in sorted(zip(pairs[1], pairs[0], strict=True)):
        order.insert(to + x.ndim, at)
    return tg.permute_dims(x, order)


def rot90(x: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """Turn the tensor by ``k`` quarters, from the first of two axes towards the second.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.rot90(tg.arange(4).reshape(2, 2))
    tensor([[1, 3],
            [0, 2]])
    """
    k = check_whole("rot90", "k", k)
    if len(integers(axes, "rot90", "axes")) != 2:
        raise ArgumentError(f"rot90: axes {brief(axes)} must be two")
    x = tg.flip(x, axis=axes) if k % 4 in (2, 3) else as_tensor(x)
    return tg.flip(tg.swapaxes(x, *axes), axis=axes[0]) if k % 2 else x


def roll(x: Any, shift: Any, axis: Axis = None) -> Tensor:
    """Shift the elements along ``axis``; those that leave at one end come in at the other.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.roll(tg.arange(5), 2)
    tensor([3, 4, 0, 1, 2])
    """
    x = as_tensor(x)
    if axis is None:
        return tg.reshape(roll(ravel(x), sum(integers(shift, "roll", "shift")), 0), x.shape)
    axes, shifts = integers(axis, "roll", "axis"), integers(shift, "roll", "shift")
    if len(axes) != len(shifts) and 1 not in (len(axes), len(shifts)):
        raise ArgumentError(
            f"roll: shift {brief(shift)} for axis {brief(axis)}; give one, or as many"
        )
    for a, n in np.broadcast(axes, shifts):
        size = x.shape[negative_axis(x.ndim, int(a), "roll", x.shape)]
        x = tg.take(x, (np.arange(size) - n) % max(size, 1), axis=int(a))
    return x


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Repeat each slice along ``axis`` (by default each element) ``repeats`` times, as in NumPy.

    PyTorch's ``x.repeat`` is :func:`tile`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.repeat(tg.arange(3), [2, 0, 1])
    tensor([0, 0, 2])
    """
    counts = integers(repeats, "repeat", "repeats", 0)
    check_shape(sum(counts), "repeat")
    return _slices(x, lambda n: np.repeat(np.arange(n), counts), axis)


def tile(x: Any, reps: Any) -> Tensor:
    """Repeat the whole tensor ``reps`` times along each axis; extra numbers add axes in front.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.tile(tg.arange(2), 3)
    tensor([0, 1, 0, 1, 0, 1])
    >>> tg.tile(tg.arange(2), (2, 2))
    tensor([[0, 1, 0, 1],
            [0, 1, 0, 1]])
    """
    x = as_tensor(x)
    times = integers(reps, "tile", "reps", 0)
    ndim = max(x.ndim, len(times))
    sizes = (1,) * (ndim - x.ndim) + x.shape
    times = (1,) * (ndim - len(times)) + times
    cells = tg.reshape(x, [m for n in sizes for m in (1, n)])
    cells = tg.broadcast_to(cells, [m for pair in zip(times, sizes, strict=True) for m in pair])
    return tg.reshape(cells, [n * m for n, m in zip(times, sizes, strict=True)])


def diag(v: Any, k: int = 0) -> Tensor:
    """Diagonal ``k`` of a matrix, or the matrix whose diagonal ``k`` is a vector.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.diag(tg.tensor([1.0, 2.0]))
    tensor([[1., 0.],
            [0., 2.]])
    >>> tg.diag(tg.arange(9).reshape(3, 3), 1)
    tensor([1, 5])
    """
    v = as_tensor(v)
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ShapeError(f"diag: a vector or a matrix is needed, not shape {v.shape}")
    k = check_whole("diag", "k", k)
    rows = _masked(tg.expand_dims(v, 1), np.eye(v.shape[0], dtype=bool))
    return tg.pad(rows, ((max(-k, 0), max(k, 0)), (max(k, 0), max(-k, 0))))


def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The elements with index i along ``axis1`` and i + ``offset`` along ``axis2``, as the last axis.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.diagonal(tg.arange(6).reshape(2, 3))
    tensor([0, 4])
    """
    x = moveaxis(x, (axis1, axis2), (-2, -1))
    offset = check_whole("diagonal", "offset", offset)
    i = np.arange(max(0, min(x.shape[-2] + min(offset, 0), x.shape[-1] - max(offset, 0))))
    return tg.index(x, (..., i - min(offset, 0), i + max(offset, 0)))


def _lifted(doc: str, lift: Callable[[Tensor], Tensor]) -> Function:
    """Make a function of one tensor, or of several, for which it returns a tuple."""

    def function(*xs: Any) -> Any:
        lifted = tuple(map(lift, as_operands(xs)))
        return lifted[0] if len(lifted) == 1 else lifted

    function.__doc__ = f"{doc} Several tensors give a tuple."
    return function


atleast_1d = _lifted(
    "The tensor, or a vector of the one element of a 0-d tensor.",
    lambda x: x if x.ndim else tg.reshape(x, (1,)),
)
atleast_2d = _lifted(
    "The tensor, or a matrix of one row if it has fewer than two axes.",
    lambda x: x if x.ndim > 1 else tg.reshape(x, (1, -1)),
)
atleast_3d = _lifted(
    "The tensor, or its matrix with a third axis of size 1 if it has fewer than three axes.",
    lambda x: x if x.ndim > 2 else tg.reshape(x, (*atleast_2d(x).shape, 1)),
)


def broadcast_arrays(*xs: Any) -> list[Tensor]:
    """Broadcast the tensors against each other: a list of tensors of one shape.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> [x.shape for x in tg.broadcast_arrays(tg.ones((2, 1)), tg.ones(3))]
    [(2, 3), (2, 3)]
    """
    tensors = as_operands(xs)
    try:
        shape = np.broadcast_shapes(*(x.shape for x in tensors))
    except ValueError as error:
        raise ShapeError(f"broadcast_arrays: {error}") from None
    return [x if x.shape == shape else tg.broadcast_to(x, shape) for x in tensors]


# --- joining and splitting ----------------------------------------------------------------------


def vstack(xs: Sequence[Any]) -> Tensor:
    """Join the tensors along the first axis; a vector is a row."""
    return tg.concat([atleast_2d(x) for x in as_operands(xs)], axis=0)


def dstack(xs: Sequence[Any]) -> Tensor:
    """Join the tensors along the third axis."""
    return tg.concat([atleast_3d(x) for x in as_operands(xs)], axis=2)


def column_stack(xs: Sequence[Any]) -> Tensor:
    """Join the tensors along the second axis; a vector is a column.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.column_stack([tg.arange(2), tg.arange(2) + 5])
    tensor([[0, 5],
            [1, 6]])
    """
    return tg.concat([x if x.ndim > 1 else atleast_2d(x).T for x in as_operands(xs)], axis=1)


def vsplit(x: Any, parts: Any) -> list[Tensor]:
    """Parts along the first axis; see :func:`split`."""
    return split(x, parts, 0)


def hsplit(x: Any, parts: Any) -> list[Tensor]:
    """Parts along the second axis, or along the only axis of a vector; see :func:`split`."""
    return split(x, parts, min(1, as_tensor(x).ndim - 1))


def dsplit(x: Any, parts: Any) -> list[Tensor]:
    """Parts along the third axis; see :func:`split`."""
    return split(x, parts, 2)


def hstack(xs: Sequence[Any]) -> Tensor:
    """Join the tensors along the second axis, or vectors along their only one."""
    xs = [atleast_1d(x) for x in as_operands(xs)]
    return tg.concat(xs, axis=1 if xs and xs[0].ndim > 1 else 0)


def array_split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Parts along ``axis``: a number of parts whose sizes differ by at most 1, or cut at indices.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.array_split(tg.arange(5), 2)
    [tensor([0, 1, 2]), tensor([3, 4])]
    """
    x = as_tensor(x)
    at = negative_axis(x.ndim, axis, "split", x.shape) + x.ndim
    size = x.shape[at]
    indices_or_sections = imported(indices_or_sections)
    if np.ndim(indices_or_sections):
        cuts = [0, *integers(indices_or_sections, "split", "indices"), size]
    else:
        (parts,) = integers(indices_or_sections, "split", "sections", 1)
        cuts = [size // parts * i + min(i, size % parts) for i in range(parts + 1)]
    before = (slice(None),) * at
    return [tg.index(x, (*before, slice(a, b))) for a, b in itertools.pairwise(cuts)]


def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Parts along ``axis``: a number of parts of one size, or cut at indices.

    PyTorch's ``split`` takes the size of a part instead.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.split(tg.arange(6), 2)
    [tensor([0, 1, 2]), tensor([3, 4, 5])]
    >>> tg.split(tg.arange(4), [1])
    [tensor([0]), tensor([1, 2, 3])]
    """
    indices_or_sections = imported(indices_or_sections)
    parts = array_split(x, indices_or_sections, axis)
    if not np.ndim(indices_or_sections) and len({y.shape for y in parts}) > 1:
        raise ShapeError(
            f"split: axis {axis} of shape {as_tensor(x).shape} has no {indices_or_sections} equal parts; "
            "use tg.array_split"
        )
    return parts


# --- sums and differences -----------------------------------------------------------------------


def cumsum(x: Any, axis: int | None = None) -> Tensor:
    """Running sum along ``axis``, by default of all elements.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.cumsum(tg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([[1., 2.],
            [4., 6.]])
    """
    return tg.cumulative_sum(ravel(x) if axis is None else atleast_1d(x), axis or 0)


def cumprod(x: Any, axis: int | None = None) -> Tensor:
    """Running product along ``axis``, by default of all elements."""
    return cumulative_prod(ravel(x) if axis is None else atleast_1d(x), axis or 0)


def ptp(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest minus the smallest element along ``axis``."""
    return tg.max(x, axis, keepdims) - tg.min(x, axis, keepdims)


def nansum(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum of the elements that are not NaN; 0 if all are NaN."""
    return tg.sum(_without_nan(x, 0), axis, keepdims)


def nanprod(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Product of the elements that are not NaN; 1 if all are NaN."""
    return tg.prod(_without_nan(x, 1), axis, keepdims)


def nanmax(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Largest of the elements that are not NaN; NaN if all are NaN."""
    return _extreme(tg.max, x, -math.inf, axis, keepdims)


def nanmin(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Smallest of the elements that are not NaN; NaN if all are NaN."""
    return _extreme(tg.min, x, math.inf, axis, keepdims)


@tg.accumulating
def nanstd(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Standard deviation of the elements that are not NaN."""
    return tg.root(nanvar(x, axis, correction, keepdims))


def median(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The middle element along ``axis``, or the mean of the two in the middle; NaN if one is NaN.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.median(tg.tensor([[3.0, 1.0, 2.0], [9.0, 7.0, 8.0]]), axis=1)
    tensor([2., 8.])
    >>> tg.median(tg.tensor([4.0, 1.0, 3.0, 2.0]))
    tensor(2.5)
    """
    return quantile(x, 0.5, axis, keepdims)


def percentile(x: Any, q: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The number below which ``q`` percent of the elements lie; see :func:`quantile`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.percentile(tg.tensor([1.0, 2.0, 3.0]), [0, 75])
    tensor([1. , 2.5])
    """
    return quantile(x, _points(q) / 100, axis, keepdims)


def _without_nan(x: Any, number: float) -> Tensor:
    x = as_tensor(x)
    return x if _is_whole(x) else tg.where(tg.isnan(x), number, x)


def _extreme(f: Function, x: Any, least: float, axis: Axis, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    y = f(_without_nan(x, least), axis, keepdims)
    if _is_whole(x):
        return y
    return tg.where(tg.all(tg.isnan(x), axis, keepdims), math.nan, y)


def _numbers(x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """Count the elements that are not NaN, in the dtype of x."""
    return tg.sum(tg.astype(tg.logical_not(tg.isnan(x)), x.dtype), axis, keepdims)


@tg.accumulating
def nanmean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean of the elements that are not NaN; NaN if all are NaN.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nanmean(tg.tensor([1.0, float('nan'), 3.0]))
    tensor(2.)
    """
    x = tg.floating(x, "float64")
    return nansum(x, axis, keepdims) / _numbers(x, axis, keepdims)


@tg.accumulating
def nanvar(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Variance of the elements that are not NaN: squared deviations over n − ``correction``."""
    off = tg.where(tg.isnan(x), 0.0, x - nanmean(x, axis, True))
    return tg.sum(off * off, axis, keepdims) / (_numbers(x, axis, keepdims) - correction)


@widening
def average(x: Any, axis: Axis = None, weights: Any = None, *, keepdims: bool = False) -> Tensor:
    """Weighted mean along ``axis``, Σ wx / Σ w. Weights have the shape of x, or the size of the axis.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.average(tg.tensor([1.0, 5.0]), weights=[3, 1])
    tensor(2.)
    """
    x = as_leading_operand(x, weights)
    if weights is None:
        return tg.mean(x, axis, keepdims=keepdims)
    w = as_tensor_on(weights, x, dtype_of(x))
    if w.shape != x.shape:
        if axis is None or isinstance(axis, (tuple, list)) or w.ndim != 1:
            raise ShapeError(
                f"average: weights of shape {w.shape} for shape {x.shape}; give one for each element, "
                "or name the one axis that they are for"
            )
        at = negative_axis(x.ndim, axis, "average", x.shape)
        if w.size != x.shape[at]:
            raise ShapeError(f"average: {w.size} weights for the {x.shape[at]} of axis {axis}")
        w = moveaxis(tg.reshape(w, (-1,) + (1,) * (x.ndim - 1)), 0, at)
        w = tg.broadcast_to(w, x.shape)
    return tg.sum(x * w, axis, keepdims) / tg.sum(w, axis, keepdims)


@tg.accumulating
def cumulative_prod(x: Any, axis: int | None = None) -> Tensor:
    """Running product along ``axis``; the gradient is right also where elements are 0.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> x = tg.tensor([2.0, 0.0, 3.0], requires_grad=True)
    >>> tg.cumulative_prod(x).sum().backward()
    >>> x.grad
    tensor([1., 8., 0.])
    """
    x = as_tensor(x)
    at = tg.running_axis("cumulative_prod", x, axis)
    if at is None:
        return x * 1
    running = apply(PRIMITIVES["cumulative_prod"], x if at == -1 else moveaxis(x, at, -1))
    return running if at == -1 else moveaxis(running, -1, at)


@widening
def quantile(x: Any, q: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The number below which a share ``q`` of the elements lies, linear between two; NaN if one is NaN.

    Raises
    ------
    ArgumentError
        A share is not between 0 and 1, or there are no elements.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.quantile(tg.tensor([3.0, 1.0, 2.0]), [0.0, 0.75])
    tensor([1. , 2.5])
    """
    x, q = tg.floating(as_leading_operand(x, q), "float64"), _points(q)
    shares = np.asarray(on_host(q), np.float64)
    rows, kept_sizes = tg.rows_along(x, negative_axes(x, axis, "quantile"))
    last = rows.shape[-1] - 1
    if last < 0:
        raise ArgumentError(f"quantile: no elements along axis {axis} of shape {x.shape}")
    if not np.all((shares >= 0) & (shares <= 1)):
        raise ArgumentError("quantile: shares must be from 0 to 1 (percentiles from 0 to 100)")
    ordered = sort(rows)
    low, high = np.floor(shares * last), np.ceil(shares * last)
    first, second = (tg.index(ordered, (..., i.astype(np.int64))) for i in (low, high))
    if is_tensor(q):
        between: Any = q * last - as_tensor_on(low.astype(dtype_of(q)), q)
    else:
        between = as_tensor_on((shares * last - low).astype(dtype_of(x)), x)
    endless = tg.logical_and(tg.isinf(first), first == second)  # ∞ − ∞ would be NaN
    gap = tg.where(endless, 0.0, tg.where(endless, 0.0, second) - first)
    y = first + gap * between
    has_nan = tg.reshape(tg.isnan(ordered[..., -1]), (*rows.shape[:-1], *(1,) * shares.ndim))
    y = tg.where(has_nan, math.nan, y)
    y = moveaxis(y, tuple(range(-shares.ndim, 0)), tuple(range(shares.ndim)))
    return tg.reshape(y, (*shares.shape, *kept_sizes)) if keepdims else y


def diff(x: Any, n: int = 1, axis: int = -1) -> Tensor:
    """Differences of neighbouring elements along ``axis``, taken ``n`` times.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.diff(tg.tensor([1.0, 4.0, 9.0, 16.0]), n=2)
    tensor([2., 2.])
    """
    x = as_tensor(x)
    at = negative_axis(x.ndim, axis, "diff", x.shape)
    x = moveaxis(x, at, -1)
    for _ in range(check_whole("diff", "n", n, 0)):
        x = x[..., 1:] - x[..., :-1]
    return moveaxis(x, -1, at)


def _gaps(x: Any, like: Tensor) -> Tensor:
    """Distances of neighbouring coordinates; coordinates on the host are subtracted in float64."""
    if is_tensor(x):
        return diff(x)
    return as_tensor_on(np.diff(x).astype(dtype_of(like)), like)


@widening
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Tensor:
    """Integral along ``axis``: the sum of (y₀ + y₁) / 2 times ``dx``, or times the distances of ``x``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.trapezoid(tg.tensor([0.0, 1.0, 4.0]), x=[0.0, 1.0, 3.0])
    tensor(5.5)
    """
    y = tg.floating(as_leading_operand(y, x, dx), "float64")
    at = negative_axis(y.ndim, axis, "trapezoid", y.shape)
    width = dx
    if x is not None:
        x = _points(x)
        spread = x.ndim == y.ndim and all(
            n in (1, m) for n, m in zip(x.shape, y.shape, strict=True)
        )
        size = x.shape[0] if x.ndim == 1 else x.shape[at] if spread else None
        if size != y.shape[at]:
            raise ShapeError(
                f"trapezoid: points of shape {x.shape} for axis {axis} of shape {y.shape}; "
                "give one for each element, or for each along the axis"
            )
        width = _gaps(x if x.ndim == 1 else np.moveaxis(x, at, -1), y)
    y = moveaxis(y, at, -1)
    return tg.sum((y[..., 1:] + y[..., :-1]) * width, axis=-1) / 2


@widening
def gradient(f: Any, *varargs: Any, axis: Axis = None, edge_order: int = 1) -> Any:
    """Slopes along each axis by central differences, as in NumPy; several axes give a list.

    Parameters
    ----------
    f : Tensor
    *varargs : number or 1-d array
        The distance of neighbours, or their coordinates: one for all axes, or one for each axis.
    axis : int or tuple of int, optional
    edge_order : {1, 2}
        How many neighbours the slopes at both ends use.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.gradient(tg.tensor([0.0, 1.0, 4.0, 9.0]))
    tensor([1., 2., 4., 5.])
    """
    varargs = tuple(map(imported, varargs))
    f = tg.floating(as_leading_operand(f, *varargs), "float64")
    axes = negative_axes(f, tuple(range(f.ndim)) if axis is None else axis, "gradient") or ()
    spacings = varargs * len(axes) if len(varargs) == 1 else varargs or (1.0,) * len(axes)
    if len(spacings) != len(axes) or edge_order not in (1, 2):
        raise ArgumentError("gradient: give one spacing, or one for each axis; edge_order 1 or 2")
    slopes = [_slopes(f, a, h, edge_order) for a, h in zip(axes, spacings, strict=True)]
    return slopes[0] if len(slopes) == 1 else slopes


def _slopes(f: Tensor, axis: int, spacing: Any, edge_order: int) -> Tensor:
    y = moveaxis(f, axis, -1)
    size = y.shape[-1]
    if size <= edge_order:
        raise ShapeError(f"gradient: shape {f.shape} has too few elements along axis {axis}")
    if np.ndim(spacing):
        at = _points(spacing)
        if at.shape != (size,):
            raise ShapeError(f"gradient: points of shape {at.shape} for the {size} of axis {axis}")
        h = _gaps(at, y)
    else:
        h = full_like(y, 1.0, shape=(size - 1,)) * spacing
    slope = diff(y) / h
    inner = (slope[..., :-1] * h[1:] + slope[..., 1:] * h[:-1]) / (h[1:] + h[:-1])
    first, last = slope[..., :1], slope[..., -1:]
    if edge_order == 2:  # extrapolate the slopes between neighbours
        first = first + (first - slope[..., 1:2]) * (h[:1] / (h[:1] + h[1:2]))
        last = last + (last - slope[..., -2:-1]) * (h[-1:] / (h[-1:] + h[-2:-1]))
    return moveaxis(tg.concat([first, inner, last], axis=-1), -1, axis)


@widening
def linspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, axis: int = 0) -> Tensor:
    """``num`` numbers from ``start`` to ``stop`` in equal steps along a new axis.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.linspace(tg.tensor(0.0), 1.0, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    count = check_whole("linspace", "num", num, 0)
    first, last = (tg.floating(x, "float64") for x in broadcast_arrays(start, stop))
    kind = np.result_type(dtype_of(first), dtype_of(last))
    steps = np.arange(count).reshape(-1, *(1,) * first.ndim) / max(count - endpoint, 1)
    back, share = (as_tensor_on(s.astype(kind), first) for s in (1 - steps, steps))
    return moveaxis(first * back + last * share, 0, axis)


@widening
def interp(x: Any, xp: Any, fp: Any) -> Tensor:
    """Interpolate linearly: values at ``x`` between the points (xp, fp). xp must rise; constant outside.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.interp(tg.tensor([0.5, 3.0]), [0.0, 1.0, 2.0], [0.0, 10.0, 30.0])
    tensor([ 5., 30.])
    """
    tensors = [y for y in map(stack_nested, (x, xp, fp)) if not is_host_data(y)]
    like = as_tensor(tensors[0] if tensors else x)
    kind = np.result_type(*(dtype_of(tg.floating(y, "float64")) for y in tensors or [like]))
    values, x, xp = (
        tg.floating(as_tensor_on(fp, like, dtype_of(like)), "float64"),
        _points(x),
        _points(xp),
    )
    at, grid = (np.asarray(on_host(y), np.float64) for y in (x, xp))
    if grid.ndim != 1 or not grid.size or values.shape != grid.shape:
        raise ShapeError(
            f"interp: points xp of shape {grid.shape} and fp of shape {values.shape}; "
            "give two vectors of one length"
        )
    low = np.clip(np.searchsorted(grid, at, "right") - 1, 0, max(grid.size - 2, 0))
    high = np.minimum(low + 1, grid.size - 1)
    x, xp = as_tensor_on(x, like), as_tensor_on(xp, like)
    step = xp[high] - xp[low]
    jump = grid[high] == grid[low]  # only at the ends: no point lies between them
    share = (tg.clip(x, xp[0], xp[-1]) - xp[low]) / tg.where(jump, 1.0, step)
    share = tg.where(jump, as_tensor_on((at >= grid[low]).astype(np.float64), like), share)
    first = values[low]
    return first + (values[high] - first) * tg.astype(share, kind)


# --- products -----------------------------------------------------------------------------------


def inner(a: Any, b: Any) -> Tensor:
    """Sum of products along the last axis of both; a number multiplies every element."""
    a, b = as_operands((a, b))
    return tensordot(a, b, (-1, -1)) if a.ndim and b.ndim else tg.multiply(a, b)


@widening
def vecdot(a: Any, b: Any, axis: int = -1) -> Tensor:
    """Sum of products along ``axis``; the other axes broadcast."""
    a, b = as_operands((a, b))
    n, m = (x.shape[negative_axis(x.ndim, axis, "vecdot", x.shape)] for x in (a, b))
    if n != m:
        raise ShapeError(f"vecdot: {n} and {m} elements along axis {axis} of {a.shape}, {b.shape}")
    return tg.sum(a * b, axis=axis)


def vdot(a: Any, b: Any) -> Tensor:
    """Sum of the products of all elements; the shapes may differ."""
    return vecdot(*map(ravel, as_operands((a, b))))


def matvec(a: Any, b: Any) -> Tensor:
    """Products Σⱼ aᵢⱼ bⱼ of matrices and vectors."""
    return tg.einsum("...ij,...j->...i", a, b)


def vecmat(a: Any, b: Any) -> Tensor:
    """Products Σᵢ aᵢ bᵢⱼ of vectors and matrices."""
    return tg.einsum("...i,...ij->...j", a, b)


def multi_dot(xs: Sequence[Any]) -> Tensor:
    """Product of two matrices or more, from left to right."""
    if len(xs) < 2:
        raise ArgumentError(f"multi_dot: at least two matrices are needed, not {len(xs)}")
    return functools.reduce(tg.matmul, xs)


def dot(a: Any, b: Any) -> Tensor:
    """Sum of products along the last axis of ``a`` and the last but one of ``b``, as in NumPy.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.dot(tg.tensor([1.0, 2.0]), tg.tensor([3.0, 4.0]))
    tensor(11.)
    """
    a, b = as_operands((a, b))
    if not a.ndim or not b.ndim:
        return tg.multiply(a, b)
    return tg.matmul(a, b) if b.ndim <= 2 else tensordot(a, b, (-1, -2))


def tensordot(a: Any, b: Any, axes: Any = 2) -> Tensor:
    """Sum of products along pairs of axes: the last n of ``a`` and first n of ``b``, or the axes listed.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.tensordot(tg.ones((2, 3)), tg.ones((4, 3)), axes=(1, 1)).shape
    (2, 4)
    """
    a, b = as_operands((a, b))
    if not isinstance(axes, (tuple, list)) and not np.ndim(axes):
        n = check_whole("tensordot", "axes", axes, 0)
        axes = tuple(range(a.ndim - n, a.ndim)), tuple(range(n))
    if len(axes) != 2:
        raise ArgumentError(f"tensordot: axes {brief(axes)}; give a number, or axes of each tensor")
    pairs = [
        negative_axes(x, integers(p, "tensordot", "axes"), "tensordot") or ()
        for x, p in zip((a, b), axes, strict=True)
    ]
    if [a.shape[i] for i in pairs[0]] != [b.shape[i] for i in pairs[1]]:
        raise ShapeError(f"tensordot: axes {axes} of shapes {a.shape} and {b.shape} differ in size")
    left, right = (
        [i for i in range(-x.ndim, 0) if i not in p] for x, p in zip((a, b), pairs, strict=True)
    )
    shape = [*(a.shape[i] for i in left), *(b.shape[i] for i in right)]
    size = math.prod(a.shape[i] for i in pairs[0])
    rows = tg.reshape(tg.permute_dims(a, (*left, *pairs[0])), (math.prod(shape[: len(left)]), size))
    columns = tg.reshape(
        tg.permute_dims(b, (*pairs[1], *right)), (size, math.prod(shape[len(left) :]))
    )
    return tg.reshape(rows @ columns, shape)


def kron(a: Any, b: Any) -> Tensor:
    """Kronecker product: a block for each element of ``a``, which is that element times ``b``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.kron(tg.tensor([1.0, 10.0]), tg.tensor([1.0, 2.0]))
    tensor([ 1.,  2., 10., 20.])
    """
    a, b = as_operands((a, b))
    ndim = max(a.ndim, b.ndim)
    m, n = ((1,) * (ndim - x.ndim) + x.shape for x in (a, b))
    blocks = tg.reshape(a, [k for i in m for k in (i, 1)]) * tg.reshape(
        b, [k for i in n for k in (1, i)]
    )
    return tg.reshape(blocks, [i * j for i, j in zip(m, n, strict=True)])


@widening
def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Tensor:
    """Cross product a × b of vectors of three elements along the axes given.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.cross(tg.tensor([1.0, 0.0, 0.0]), tg.tensor([0.0, 1.0, 0.0]))
    tensor([0., 0., 1.])
    """
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = as_operands((a, b))
    a, b = moveaxis(a, axisa, -1), moveaxis(b, axisb, -1)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise ShapeError(f"cross: vectors of three elements are needed, not {a.shape}, {b.shape}")
    y = tg.take(a, [1, 2, 0], -1) * tg.take(b, [2, 0, 1], -1)
    return moveaxis(y - tg.take(a, [2, 0, 1], -1) * tg.take(b, [1, 2, 0], -1), -1, axisc)


@widening
def matrix_power(m: Any, n: int) -> Tensor:
    """The square matrix ``m`` to the power of ``n``, by repeated squaring.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.matrix_power(tg.tensor([[1.0, 1.0], [0.0, 1.0]]), 5)
    tensor([[1., 5.],
            [0., 1.]])
    """
    m = as_tensor(m)
    count = check_whole("matrix_power", "power", n, 0)
    if m.ndim < 2 or m.shape[-1] != m.shape[-2]:
        raise ShapeError(f"matrix_power: square matrices are needed, not shape {m.shape}")
    y = tg.eye_like(m.shape[-1], m) if not count else None
    while count:
        y = (m if y is None else y @ m) if count % 2 else y
        count //= 2
        m = m @ m if count else m
    return tg.broadcast_to(y, m.shape)


def correlate(a: Any, v: Any, mode: str = "valid") -> Tensor:
    """Cross-correlation: cₖ = Σᵢ aₖ₊ᵢ vᵢ of two vectors, of which ``a`` is at least as long as ``v``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.correlate(tg.tensor([1.0, 2.0, 3.0]), tg.tensor([-1.0, 1.0]))
    tensor([1., 1.])
    """
    a, v = as_operands((a, v))
    n, m = a.size, v.size
    if mode not in ("valid", "same", "full"):
        raise ArgumentError(f"correlate: mode {brief(mode)}; give 'valid', 'same' or 'full'")
    if a.ndim != 1 or v.ndim != 1 or not 0 < m <= n:
        raise ShapeError(
            f"correlate: shapes {a.shape} and {v.shape}; give two vectors, the longer first, "
            "none of them empty"
        )
    before = {"valid": 0, "same": m // 2, "full": m - 1}[mode]
    count = {"valid": n - m + 1, "same": n, "full": n + m - 1}[mode]
    padded = tg.pad(a, (before, m)) if before else a
    return tg.index(padded, np.arange(count)[:, None] + np.arange(m)) @ v


def convolve(a: Any, v: Any, mode: str = "full") -> Tensor:
    """Convolution: cₖ = Σᵢ aᵢ vₖ₋ᵢ of two vectors.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.convolve(tg.tensor([1.0, 2.0]), tg.tensor([1.0, 3.0]))  # (1 + 2 z) (1 + 3 z)
    tensor([1., 5., 6.])
    """
    a, v = as_operands((a, v))
    a, v = (a, v) if a.size >= v.size else (v, a)
    if mode == "same" and v.size % 2 == 0:  # the middle of an even number is the earlier one
        return correlate(a, tg.flip(v), "full")[(v.size - 1) // 2 :][: a.size]
    return correlate(a, tg.flip(v), mode)


# --- second names ---------------------------------------------------------------------------------

arcsin, arccos, arctan, arctan2 = tg.asin, tg.acos, tg.atan, tg.atan2
arcsinh, arccosh, arctanh = tg.asinh, acosh, atanh
absolute, true_divide = tg.abs, tg.divide
mod, fix, rint = tg.remainder, tg.trunc, tg.round
radians, degrees, conjugate, real_if_close = deg2rad, rad2deg, conj, real

# fmt: off
__all__ = [
    "absolute", "acosh", "angle", "append", "arccos", "arccosh", "arcsin", "arcsinh", "arctan",
    "arctan2", "arctanh", "array_split", "atanh", "atleast_1d", "atleast_2d", "atleast_3d", "average",
    "broadcast_arrays", "cbrt", "column_stack", "compress", "conj", "conjugate", "convolve", "copy",
    "correlate", "cross", "cumprod", "cumsum", "cumulative_prod", "deg2rad", "degrees", "delete",
    "diag", "diagflat", "diagonal", "diff", "dot", "dsplit", "dstack", "exp2", "extract", "fabs",
    "fix", "fliplr", "flipud", "float_power", "fmax", "fmin", "fmod", "gradient", "heaviside",
    "hsplit", "hstack", "hypot", "imag", "inner", "interp", "kron", "linspace", "logaddexp",
    "logaddexp2", "matrix_norm", "matrix_power", "matvec", "median", "mod", "moveaxis", "multi_dot",
    "nan_to_num", "nanmax", "nanmean", "nanmin", "nanprod", "nanstd", "nansum", "nanvar", "norm",
    "partition", "percentile", "positive", "ptp", "quantile", "rad2deg", "radians", "ravel", "real",
    "real_if_close", "reciprocal", "repeat", "rint", "roll", "rollaxis", "rot90", "select", "sinc",
    "sort", "split", "tan", "tensordot", "tile", "trace", "trapezoid", "tril", "triu", "true_divide",
    "vdot", "vecdot", "vecmat", "vector_norm", "vsplit", "vstack",
]
# fmt: on


def _named(name: str, f: Function) -> Function:
    """Give a function its name, and errors that begin with it, not with a composition inside it."""
    f.__name__ = f.__qualname__ = name

    @functools.wraps(f)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return f(*args, **options)
        except REFUSALS as error:
            if str(error).startswith((f"{name}:", f"{name},")):
                raise
            raise _explained(name, f, args, options, error) from error

    return call


def _explained(name: str, f: Function, args: Any, options: Any, error: Exception) -> TinygradError:
    if isinstance(error, TinygradError):
        inner, colon, rest = str(error).partition(": ")
        return type(error)(f"{name}: {rest if colon and inner in __all__ else error}")
    if isinstance(error, TypeError):
        explain_call(f, args, options, error)
    return explain(name, list(args), error)


_named_functions: dict[Function, Function] = {}
for _name, _f in list(globals().items()):
    if _name in __all__ and _f.__module__ != tg.__name__:  # a second name is the same function
        globals()[_name] = _named_functions[_f] = _named_functions.get(_f) or _named(_name, _f)
tg.join({name: globals()[name] for name in __all__})
tg.__all__ += __all__
