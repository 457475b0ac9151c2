"""A program's instructions on arrays, step after step, as NumPy and CuPy run them.

A call of a library costs more than a step's arithmetic on small arrays. So what one operation does to
blocks that lie side by side is done in one call, results are written to where they belong, and memory for
the others is used again at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import Array, Namespace
from .program import MASKS, Key, Listing, Register, evaluate

EVERY = slice(None)


class Place(NamedTuple):
    """Where an input or output of a listing stands.

    Attributes
    ----------
    array : str
        The name of an array.
    number : int
        Of a block on the last axis but one, or of a part on the first.
    of_parts : bool
    """

    array: str
    number: int
    of_parts: bool = False

    def key(self, until: int | None = None) -> tuple[Any, ...]:
        """The index of the place, or of all blocks from there to another."""
        if self.of_parts:
            return (self.number,)
        return (..., self.number if until is None else slice(self.number, until), EVERY)


class _Call(NamedTuple):
    """One call, and what picks its operands and its result's memory from all values."""

    function: Callable[..., Any]
    operands: Callable[[list[Any]], tuple[Any, ...]]


class Plan:
    """How a listing is run: which calls there are, and where each value stands.

    Parameters
    ----------
    listing : Listing
    places : mapping
        Where inputs and outputs stand, by their keys.
    functions : callable
        ``functions(op)``: an operation that writes its result into memory that is given.
    """

    def __init__(
        self, listing: Listing, places: Mapping[Key, Place], functions: Callable[[str], Any]
    ) -> None:
        self._functions = functions
        self._numbers: dict[Any, int] = {}
        self._at: dict[Register, Place] = {}
        self.values: list[Any] = []
        self.made: list[tuple[int, bool]] = []
        """What is used in between: its number, and whether it is a mask."""
        self.constants: list[int] = []
        """Which values are numbers."""
        self.sources: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
        """By the name of an array: the numbers of its parts, and their indices."""
        self.copied: list[tuple[int, int]] = []
        for r in listing.instructions:
            if r.op == "input":
                self._at[r] = place = places[r.args]
                self._numbers[r] = self._source(place.array, place.key())
        self._outputs(listing, places)
        groups = _Groups(listing, self._at)
        self.calls = [self._wide(group) for group in groups.first]
        for r in listing.instructions:
            group = groups.of.get(r)
            if group is not None:
                if group[0] is r and group not in groups.first:
                    self.calls.append(self._wide(group))
            elif r.op != "input":
                operands = itemgetter(*map(self._number, (*r.args, r)))
                self.calls.append(_Call(functions(r.op), operands))

    def _outputs(self, listing: Listing, places: Mapping[Key, Place]) -> None:
        """Give registers the places that they are written to; what has one already is copied."""
        for key, r in listing.outputs.items():
            place = places[key]
            to = self._source(place.array, place.key())
            if isinstance(r, float) or r in self._at:
                self.copied.append((to, self._number(r)))
            else:
                self._at[r] = place
                self._numbers[r] = to

    def _number(self, x: Any) -> int:
        """The number of a value: of a constant and of what is used in between a new one."""
        key = x if isinstance(x, Register) else repr(x)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            if isinstance(x, Register):
                self.made.append((len(self.values), x.op in MASKS))
            else:
                self.constants.append(len(self.values))
            self.values.append(x)
        return self._numbers[key]

    def _source(self, array: str, key: tuple[Any, ...]) -> int:
        """The number of a value that is part of an array, which is given later."""
        self.sources.setdefault(array, []).append((len(self.values), key))
        self.values.append(None)
        return len(self.values) - 1

    def _wide(self, group: list[Register]) -> _Call:
        """One call for several registers."""
        first, last = group[0], group[-1]
        inner = next(a for a in first.args if a in self._at and _in_blocks(self._at[a]))
        numbers = [self._at[r].number for r in (inner, first, last)]
        width = numbers[2] - numbers[1] + 1
        wide = self._source(self._at[inner].array, self._at[inner].key(numbers[0] + width))
        out = self._source(self._at[first].array, self._at[first].key(numbers[1] + width))
        function = self._functions(first.op)
        if len(first.args) == 1:
            return _Call(function, itemgetter(wide, out))
        other = next(a for a in first.args if a is not inner)
        beside = partial(_beside, function, swapped=first.args[0] is inner)
        return _Call(beside, itemgetter(self._number(other), wide, out))


class Replay:
    """Runs a listing at one step after the other.

    Parameters
    ----------
    plan : Plan
    m : module
    like : array
        Of the shape and type that every result has.
    """

    def __init__(self, plan: Plan, m: Any, like: Array) -> None:
        self._plan = plan
        self._values = list(plan.values)
        for i, is_mask in plan.made:
            self._values[i] = m.empty(like.shape, "bool" if is_mask else like.dtype)
        for i in plan.constants:  # arrays are quicker than Python's numbers
            self._values[i] = m.asarray(plan.values[i], like.dtype)
        self._numbers: list[int] = []
        self._steps: Iterator[tuple[Array, ...]] = iter(())

    def bind(self, backwards: bool = False, **arrays: Array) -> None:
        """Give arrays whose first axis is time; each call then takes the next step, or the one before."""
        step = slice(None, None, -1 if backwards else 1)
        bound = [
            (i, array[(step, *key)])
            for name, array in arrays.items()
            for i, key in self._plan.sources.get(name, ())
        ]
        self._numbers = [i for i, _ in bound]
        self._steps = zip(*(array for _, array in bound), strict=True)

    def give(self, array: str, parts: Any) -> None:
        """Give an array without a time axis, or the parts of one."""
        for i, key in self._plan.sources.get(array, ()):
            self._values[i] = parts[key[0]] if len(key) == 1 else parts[key]

    def __call__(self) -> None:
        """Run at the next step."""
        values = self._values
        for i, array in zip(self._numbers, next(self._steps, ()), strict=True):
            values[i] = array
        for function, operands in self._plan.calls:
            function(*operands(values))
        for to, i in self._plan.copied:
            values[to][...] = values[i]


class _Groups:
    """The instructions that one call each can do, on blocks that lie side by side.

    Attributes
    ----------
    of : dict of Register to list of Register
        The group of each, in the order of the blocks.
    first : list of list of Register
        A group that is done before everything else: of inputs alone, and blocks in between that belong
        to others are written over later.
    """

    def __init__(self, listing: Listing, at: Mapping[Register, Place]) -> None:
        found: dict[Any, list[Register]] = {}
        for r in listing.instructions:
            if r.op == "input" or r not in at or not _in_blocks(at[r]):
                continue
            inner = [a for a in r.args if a in at and a.op == "input" and _in_blocks(at[a])]
            if len(inner) == 1 and len(r.args) <= 2:
                a = inner[0]
                others = tuple(x if x is not a else None for x in r.args)
                shift = at[r].number - at[a].number
                found.setdefault((r.op, others, at[a].array, at[r].array, shift), []).append(r)
        self.of: dict[Register, list[Register]] = {}
        self.first: list[list[Register]] = []
        later = {at[r] for r in listing.instructions if r in at}
        for (_, others, *_), rs in sorted(found.items(), key=lambda item: -len(item[1])):
            rs.sort(key=lambda r: at[r].number)
            numbers = [at[r].number for r in rs]
            gaps = set(range(numbers[0], numbers[-1])) - set(numbers)
            fills = {Place(at[rs[0]].array, n) for n in gaps}
            if len(rs) > 1 and others == (None,) and not self.first and fills <= later:
                self.first.append(rs)
                self.of |= dict.fromkeys(rs, rs)
            else:
                for run in _runs(rs, numbers):
                    self.of |= dict.fromkeys(run, run)


def _runs(rs: list[Register], numbers: list[int]) -> list[list[Register]]:
    """Parts of a list whose numbers follow each other, of more than one."""
    runs: list[list[Register]] = []
    for i, r in enumerate(rs):
        if i and numbers[i] == numbers[i - 1] + 1:
            runs[-1].append(r)
        else:
            runs.append([r])
    return [run for run in runs if len(run) > 1]


def _in_blocks(place: Place) -> bool:
    return not place.of_parts


def _beside(function: Callable[..., Any], x: Array, wide: Array, out: Array, swapped: bool) -> None:
    """Apply a function of two to one block, or to a number, beside each of several blocks."""
    x = x[..., None, :] if x.ndim else x
    function(*((wide, x) if swapped else (x, wide)), out)


def writing(m: Any, xp: Namespace, real: bool, op: str) -> Callable[..., Any]:
    """An operation that writes its result into memory that is given."""
    if op in UFUNCS:
        return getattr(m, op)
    if op in OF_REAL and real:
        return partial(OF_REAL[op], m)

    def function(*operands: Any) -> None:
        *operands, out = operands  # type: ignore[assignment]
        out[...] = evaluate(xp, op, *operands)

    return function


UFUNCS = ("add", "subtract", "multiply", "divide", "tanh", "exp", "sqrt")
"""Operations that the libraries have in that form."""


ONE = np.ones((), "float16")
"""An array is quicker than Python's number, and of this type it widens no other."""

MINUS_ONE = -ONE


def _negative(m: Any, z: Array, out: Array) -> None:
    """Without NumPy's ``negative``, which is wrong for some operands 16 or 64 bytes apart (2.4, AVX2)."""
    m.multiply(z, MINUS_ONE, out=out)


def _sigmoid(m: Any, z: Array, out: Array) -> None:
    """1 / (1 + e⁻ᶻ) is accurate on both tails."""
    _negative(m, z, out)
    m.exp(out, out=out)
    m.add(out, ONE, out=out)
    m.reciprocal(out, out=out)


def _relu(m: Any, z: Array, out: Array) -> None:
    m.maximum(z, 0, out=out)


OF_REAL = {"negative": _negative, "sigmoid": _sigmoid, "relu": _relu}
"""And those that are made of several, for real numbers."""
