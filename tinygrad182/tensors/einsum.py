"""``einsum``: NumPy's subscripts are checked and made explicit for the primitive."""

from __future__ import annotations

import operator
import string
from typing import Any

from ..engine.recording import apply
from ..errors import ArgumentError, ShapeError, TinygradError
from ..primitives import PRIMITIVES
from .creation import as_operands
from .shapes import reshape
from .tensor import Tensor

_SPARE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def einsum(subscripts: Any, *operands: Any) -> Tensor:
    """Einstein sum, with NumPy's subscripts, including implicit outputs, repeated letters and ``...``.

    Parameters
    ----------
    subscripts : str
        Such as ``"tbi,ih->tbh"``.
    *operands : Tensor
        One for each term. NumPy's other form works too: each operand is followed by the list of its
        indices, and the output's list is last, as in ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.

    Raises
    ------
    ArgumentError
        Subscripts cannot be read, or there are not as many terms as operands.
    ShapeError
        A letter names two sizes, or a term has too many or too few letters.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.einsum("ij,j->i", tg.ones((2, 3)), tg.ones(3))
    tensor([3., 3.])
    """
    if not isinstance(subscripts, str):
        subscripts, operands = _from_lists((subscripts, *operands))
    tensors = as_operands(operands)
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if any(part.count("...") > 1 for part in [*terms, right]):
        raise ArgumentError(f"einsum: a term of {subscripts!r} holds more than one ...")
    if len(terms) != len(tensors) or not tensors:
        raise ArgumentError(
            f"einsum: {len(terms)} terms in {subscripts!r} for {len(tensors)} operands"
        )
    dots = _letters_of_dots(subscripts, terms, tensors)
    terms = [
        t.replace("...", dots[len(dots) - _hidden(t, x) :])
        for t, x in zip(terms, tensors, strict=True)
    ]
    out = right.replace("...", dots) if arrow else dots + _implicit(terms, dots)
    sizes = _sizes(subscripts, terms, out, tensors)
    for i, (term, x) in enumerate(zip(terms, tensors, strict=True)):
        if any(n == 1 != sizes[c] for n, c in zip(x.shape, term, strict=True)):  # "..." broadcasts
            kept = [(n, c) for n, c in zip(x.shape, term, strict=True) if n == sizes[c]]
            tensors[i] = reshape(x, [n for n, _ in kept])
            terms[i] = "".join(c for _, c in kept)
    return apply(PRIMITIVES["einsum"], *tensors, subscripts=",".join(terms) + "->" + out)


def _from_lists(given: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Subscripts and operands from NumPy's other form, in which a list of indices follows each operand."""
    lists = [*given[1::2], *(given[-1:] if len(given) % 2 else ())]
    try:
        numbers = {operator.index(i) for part in lists for i in part if i is not Ellipsis}
        letters = dict(zip(sorted(numbers), string.ascii_lowercase, strict=False))
        names = ["".join("..." if i is Ellipsis else letters[int(i)] for i in p) for p in lists]
    except (TypeError, KeyError, TinygradError):
        raise ArgumentError(
            'einsum: subscripts come first, as a string such as "ij,jk->ik"; '
            "or each operand is followed by the list of its indices, whole numbers (26 at most)"
        ) from None
    operands = given[: len(given) - len(given) % 2 : 2]
    out = "->" + names[-1] if len(given) % 2 else ""
    return ",".join(names[: len(operands)]) + out, operands


def _hidden(term: str, x: Tensor) -> int:
    """How many axes an ellipsis stands for."""
    return x.ndim - len(term.replace("...", "")) if "..." in term else 0


def _letters_of_dots(subscripts: str, terms: list[str], tensors: list[Tensor]) -> str:
    """Letters for the axes that ``...`` stands for, the last one rightmost."""
    hidden = [_hidden(t, x) for t, x in zip(terms, tensors, strict=True)]
    letters = [c for c in _SPARE if c not in subscripts]
    if min(hidden) < 0 or max(hidden) > len(letters):
        raise ShapeError(f"einsum: {subscripts!r} does not fit shapes {[x.shape for x in tensors]}")
    return "".join(letters[: max(hidden)])


def _implicit(terms: list[str], dots: str) -> str:
    """The output that NumPy assumes: the letters that occur once, in alphabetical order."""
    every = "".join(terms)
    return "".join(sorted(c for c in set(every) - set(dots) if every.count(c) == 1))


def _sizes(subscripts: str, terms: list[str], out: str, tensors: list[Tensor]) -> dict[str, int]:
    """Check and return the size of each letter; an axis of size 1 under ``...`` takes the other's size."""
    sizes: dict[str, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        if len(term) != x.ndim or not all(c.isalpha() and c.isascii() for c in term):
            raise ShapeError(
                f"einsum: term {term!r} of {subscripts!r} does not fit shape {x.shape}"
            )
        for c, n in zip(term, x.shape, strict=True):
            known = sizes.setdefault(c, n)
            if known == 1 and c not in subscripts:
                sizes[c] = n
            elif n != known and not (n == 1 and c not in subscripts):
                raise ShapeError(f"einsum: {c!r} in {subscripts!r} names sizes {known} and {n}")
    if len(set(out)) != len(out) or not set(out) <= set(sizes):
        raise ArgumentError(
            f"einsum: the output of {subscripts!r} must name letters of the inputs, each once"
        )
    return sizes
