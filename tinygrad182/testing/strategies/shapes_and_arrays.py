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
"""Seeds, from which values are made."""


def _pick(draw: st.DrawFn, what: str, values: Iterable[T]) -> T:
    """Draw one of the values, all equally likely.

    Hypothesis makes most examples from others: it copies one draw over another that comes from an equal
    strategy. Some choices would hardly be seen. The name makes each choice a different strategy.
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
    """Shapes; about one in six has no elements.

    Parameters
    ----------
    min_dims, max_dims : int
        The number of axes.
    min_side, max_side : int
        The length of each axis, at least 1.
    empty : bool
        Whether some shapes get axes of length 0.

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
            f"shapes: min_{what}={low} and max_{what}={high} must be whole numbers of at least {least}, "
            "the smaller one first"
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
"""The shape that one operand has, given the whole shape; broadcasting repeats it along the rest."""

WHOLE = shapes(min_dims=2)
"""Whole shapes have two or three axes; the patterns make shapes with fewer of them."""


class BroadcastableShapes(NamedTuple):
    """Shapes that broadcast, as :func:`broadcastable_shapes` draws them.

    Attributes
    ----------
    patterns : tuple of str
        The name of each operand's pattern, one of ``PATTERNS``.
    input_shapes : tuple of tuple of int
        The shape of each operand.
    result_shape : tuple of int
        The shape that they broadcast to.
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
    """Shapes of n operands that broadcast; each follows a pattern with a name.

    Parameters
    ----------
    n : int
        The number of operands.
    whole : tuple of int or strategy
        The shape that the patterns are applied to.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(broadcastable_shapes(2, whole=(2, 3)), lambda s: s.patterns[1] == "last axis")
    BroadcastableShapes(patterns=('whole', 'last axis'),
                        input_shapes=((2, 3), (3,)), result_shape=(2, 3))
    """
    if n < 1:
        raise ArgumentError(f"broadcastable_shapes: {n} operands; pass n of at least 1")
    patterns = tuple(_pick(draw, f"pattern {i}", PATTERNS) for i in range(n))
    size = integers(draw(_strategy(whole)), "broadcastable_shapes", "whole", 0)
    parts = tuple(PATTERNS[name](size) for name in patterns)
    return BroadcastableShapes(patterns, parts, np.broadcast_shapes(*parts))


# --- layouts, dtypes, arrays and tensors --------------------------------------------------------


def layouts(*, broadcast: bool = False) -> st.SearchStrategy[str]:
    """Names of memory layouts.

    Parameters
    ----------
    broadcast : bool
        Whether ``"broadcast"``, with stride 0, is among them: its elements repeat.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(layouts(), lambda layout: not sample((2, 2), layout=layout).flags.c_contiguous)
    'fortran'
    """
    return st.sampled_from(list(LAYOUTS) if broadcast else _ANY_VALUES)


_ANY_VALUES = [name for name in LAYOUTS if name != "broadcast"]


def dtypes(*, integers: bool = False, booleans: bool = False) -> st.SearchStrategy[Any]:
    """The floating dtypes float64 and float32, and if asked for, dtypes without a derivative.

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
    """Arrays made by :func:`sample`; every parameter is a value or a strategy.

    A failing test prints the call that makes the array again. Two arrays drawn one after the other may be
    equal, because hypothesis repeats draws. If a tie between two operands matters, as in ``maximum``, use
    :func:`broadcastable_arrays`.

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
    """One array for each domain. Their shapes broadcast, and their values differ.

    Parameters
    ----------
    *domains : callable
        As in :func:`sample`.
    whole : tuple of int or strategy
        As in :func:`broadcastable_shapes`. A failing test prints the names of the patterns.
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
            "broadcastable_arrays: pass a domain for each array, as in (real, real)"
        )
    found = draw(broadcastable_shapes(len(domains), whole=whole))
    note(f"broadcast patterns: {', '.join(found.patterns)}")
    seed = draw(SEEDS)
    xs = []
    for i, (shape, domain) in enumerate(zip(found.input_shapes, domains, strict=True)):
        lies = (
            _pick(draw, f"layout {i}", _ANY_VALUES) if layout is None else draw(_strategy(layout))
        )
        xs.append(_sample_and_note(shape, domain, draw(_strategy(dtype)), lies, (seed, i)))
    return tuple(xs)


def tensors(
    shape: Shape | st.SearchStrategy[Shape] = shapes(),  # noqa: B008
    **options: Any,
) -> st.SearchStrategy[Tensor]:
    """Tensors of :func:`arrays`, which takes these parameters; floating ones require grad.

    >>> from hypothesis import find
    >>> find(tensors((), seed=0), lambda x: x.requires_grad).shape
    ()
    """
    return arrays(shape, **options).map(leaf)


def _strategy(value: T | st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return value if isinstance(value, st.SearchStrategy) else st.just(value)
