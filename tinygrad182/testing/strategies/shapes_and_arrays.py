"""Strategies of shapes, memory layouts, dtypes, arrays and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...errors import ArgumentError
from ...tensors.creation import integers
from ...tensors.tensor import Tensor
from ..samples import LAYOUTS, Array, Domain, Shape, leaf, real, sample
from ._hypothesis import note, st

T = TypeVar("T")

SEEDS = st.integers(0, 2**32 - 1)
"""What values are made from."""


def _pick(draw: st.DrawFn, what: str, values: Iterable[T]) -> T:
    """One of the values, each as likely.

    Hypothesis makes most of its examples from others by copying one draw over another from an equal
    strategy, so that some choices are hardly seen. A choice that bears a name is equal to no other.
    """
    return draw(st.sampled_from([(what, value) for value in values]))[1]


# --- shapes -------------------------------------------------------------------------------------


@st.composite
def shapes(
    draw: st.DrawFn,
    min_dims: int = 0,
    max_dims: int = 3,
    min_side: int = 1,
    max_side: int = 3,
    *,
    empty: bool = True,
) -> Shape:
    """Shapes; about one in six has no elements, however long its sides.

    Parameters
    ----------
    min_dims, max_dims : int
        How many axes.
    min_side, max_side : int
        How long each of them, at least 1.
    empty : bool
        Whether some shapes get axes of length 0 all the same.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(shapes(min_dims=2), lambda shape: 0 in shape)
    (0, 1)
    """
    ndim = _pick(draw, "dims", _range("dims", min_dims, max_dims, 0))
    lengths = _range("side", min_side, max_side, 1)
    sides = tuple(_pick(draw, f"side {axis}", lengths) for axis in range(ndim))
    if empty and ndim and _pick(draw, "empty", [False] * 5 + [True]):
        emptied = draw(st.sets(st.integers(0, ndim - 1), min_size=1))
        sides = tuple(0 if axis in emptied else n for axis, n in enumerate(sides))
    return sides


def _range(what: str, low: Any, high: Any, least: int) -> range:
    whole = isinstance(low, Integral) and isinstance(high, Integral)
    if not (whole and least <= low <= high):
        raise ArgumentError(
            f"shapes: min_{what}={low} and max_{what}={high} must be whole numbers from {least} on, "
            "the larger one last"
        )
    return range(low, high + 1)


PATTERNS: dict[str, Callable[[Shape], Shape]] = {
    "whole": lambda n: n,
    "0-d": lambda n: (),
    "one element": lambda n: (1,),
    "trailing axes": lambda n: n[1:],
    "last axis": lambda n: n[-1:],
    "first axis kept": lambda n: tuple(k if i == 0 else 1 for i, k in enumerate(n)),
    "middle axis kept": lambda n: tuple(k if i == len(n) // 2 else 1 for i, k in enumerate(n)),
    "middle axis repeated": lambda n: tuple(1 if i == len(n) // 2 else k for i, k in enumerate(n)),
    "middle axis kept, short": lambda n: PATTERNS["middle axis kept"](n)[1:],
    "last axis kept": lambda n: tuple(k if i == len(n) - 1 else 1 for i, k in enumerate(n)),
    "last axis repeated": lambda n: (*n[:-1], 1)[: len(n)],
    "all ones": lambda n: (1,) * len(n),
}
"""The part of a whole shape that one operand has; broadcasting repeats it along the rest."""


WHOLE = shapes(min_dims=2)
"""Shapes of two and three axes; operands with fewer are parts of them."""


class BroadcastableShapes(NamedTuple):
    """What :func:`broadcastable_shapes` draws.

    Attributes
    ----------
    patterns : tuple of str
        The name of each operand's pattern, one of ``PATTERNS``.
    input_shapes : tuple of tuple of int
        The shape of each operand.
    result_shape : tuple of int
        What they broadcast to.
    """

    patterns: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    result_shape: Shape


@st.composite
def broadcastable_shapes(
    draw: st.DrawFn,
    n: int = 2,
    *,
    whole: Shape | st.SearchStrategy[Shape] = WHOLE,
) -> BroadcastableShapes:
    """Shapes of n operands that broadcast, each by a pattern with a name.

    Parameters
    ----------
    n : int
        How many operands.
    whole : tuple of int or strategy
        The shape that all patterns are parts of.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(broadcastable_shapes(2, whole=(2, 3)), lambda s: s.patterns[1] == "last axis")
    BroadcastableShapes(patterns=('whole', 'last axis'),
                        input_shapes=((2, 3), (3,)), result_shape=(2, 3))
    """
    if n < 1:
        raise ArgumentError(f"broadcastable_shapes: {n} operands; at least one is needed")
    patterns = tuple(_pick(draw, f"pattern {i}", PATTERNS) for i in range(n))
    size = integers(draw(_strategy(whole)), "broadcastable_shapes", "whole", 0)
    parts = tuple(PATTERNS[name](size) for name in patterns)
    return BroadcastableShapes(patterns, parts, np.broadcast_shapes(*parts))


# --- layouts, dtypes, arrays and tensors --------------------------------------------------------


def layouts(*, broadcast: bool = False) -> st.SearchStrategy[str]:
    """Names of layouts.

    Parameters
    ----------
    broadcast : bool
        Whether stride 0 is one of them: not every array has elements that repeat.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(layouts(), lambda layout: not sample((2, 2), layout=layout).flags.c_contiguous)
    'fortran'
    """
    return st.sampled_from(list(LAYOUTS) if broadcast else _ANY_VALUES)


_ANY_VALUES = [name for name in LAYOUTS if name != "broadcast"]


def dtypes(*, integers: bool = False, booleans: bool = False) -> st.SearchStrategy[Any]:
    """The floating dtypes, float64 and float32, and on demand those that have no derivative.

    >>> from hypothesis import find
    >>> find(dtypes(integers=True), lambda dtype: dtype.kind == "i")
    dtype('int64')
    """
    names = ["float64", "float32", *["int64", "int32"] * integers, *["bool"] * booleans]
    return st.sampled_from([np.dtype(name) for name in names])


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: Shape | st.SearchStrategy[Shape] = shapes(),  # noqa: B008 - immutable
    *,
    domain: Domain | st.SearchStrategy[Domain] = real,
    dtype: Any = None,
    layout: str | st.SearchStrategy[str] = layouts(),  # noqa: B008
    seed: int | Sequence[int] | st.SearchStrategy[int] = SEEDS,
) -> Array:
    """Arrays, each made by :func:`sample`; every parameter is a value or a strategy.

    The call that makes it again is among the notes of a failing test.

    Arrays drawn one after another may be equal, since hypothesis likes repeats: where a tie between two
    operands matters, as in ``maximum``, use :func:`broadcastable_arrays`.

    Examples
    --------
    >>> from hypothesis import find
    >>> x = find(arrays(shapes(min_dims=1), layout="strided"), lambda x: x.size > 1)
    >>> x.shape, x.strides
    ((2,), (16,))
    """
    size, values, kind, form, number = (
        draw(_strategy(option)) for option in (shape, domain, dtype, layout, seed)
    )
    return _sample_and_note(size, values, kind, form, number)


def _sample_and_note(
    shape: Shape, domain: Domain, dtype: Any, layout: str, seed: int | Sequence[int]
) -> Array:
    x = sample(shape, domain, dtype, layout, seed)
    name = getattr(domain, "__name__", repr(domain))
    typed = "" if dtype is None else f", {x.dtype.name!r}"
    note(f"sample({shape}, {name}{typed}, layout={layout!r}, seed={seed})")
    return x


@st.composite
def broadcastable_arrays(
    draw: st.DrawFn,
    *domains: Domain,
    whole: Shape | st.SearchStrategy[Shape] = WHOLE,
    dtype: Any = None,
    layout: str | st.SearchStrategy[str] | None = None,
) -> tuple[Array, ...]:
    """One array for each domain, whose shapes broadcast; never two with the same values.

    Parameters
    ----------
    *domains : callable
        As in :func:`sample`.
    whole : tuple of int or strategy
        As in :func:`broadcastable_shapes`; its names are among the notes of a failing test.
    dtype, layout
        As in :func:`arrays`.

    Examples
    --------
    >>> from hypothesis import find
    >>> a, b = find(broadcastable_arrays(real, real, whole=(2,)), lambda xs: xs[0].ndim == 0)
    >>> a.shape, b.shape
    ((), (2,))
    """
    if not domains:
        raise ArgumentError(
            "broadcastable_arrays: give a domain for each array, as in (real, real)"
        )
    found = draw(broadcastable_shapes(len(domains), whole=whole))
    note(f"broadcast patterns: {', '.join(found.patterns)}")
    seed = draw(SEEDS)
    xs = []
    for i, (shape, domain) in enumerate(zip(found.input_shapes, domains, strict=True)):
        own = _pick(draw, f"layout {i}", _ANY_VALUES) if layout is None else draw(_strategy(layout))
        xs.append(_sample_and_note(shape, domain, draw(_strategy(dtype)), own, (seed, i)))
    return tuple(xs)


def tensors(
    shape: Shape | st.SearchStrategy[Shape] = shapes(),  # noqa: B008
    **options: Any,
) -> st.SearchStrategy[Tensor]:
    """Tensors around :func:`arrays`, with the same parameters; the floating ones require grad.

    >>> from hypothesis import find
    >>> find(tensors((), seed=0), lambda x: x.requires_grad).shape
    ()
    """
    return arrays(shape, **options).map(leaf)


def _strategy(value: T | st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return value if isinstance(value, st.SearchStrategy) else st.just(value)
