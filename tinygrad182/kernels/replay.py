"""A listing on arrays, step after step, in the functions of NumPy or CuPy.

:mod:`.numpy_loops` makes a :class:`Plan` for each listing of a program and keeps it. A :class:`Replay` is a
plan with memory and the arrays of one run; each call of it runs one step. On small arrays a call of the
library costs more than the arithmetic. So one call does an operation for all blocks that lie side by side,
results are written to where they belong, and the memory of other values is reused at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import Array, Namespace
from .program import MASKS, Key, Listing, Register, evaluate


class Place(NamedTuple):
    """Where an input or output of a listing lies: block ``number`` of an array's last axis but one.

    With ``of_parts`` it is part ``number`` of the first axis.
    """

    array: str
    number: int
    of_parts: bool = False

    def key(self, until: int | None = None) -> tuple[Any, ...]:
        """The index of the place, or of all blocks from this one up to ``until``."""
        if self.of_parts:
            return (self.number,)
        return (..., self.number if until is None else slice(self.number, until), slice(None))


class _View(NamedTuple):
    """The value number ``value`` is the part ``key`` of an array that is given later."""

    value: int
    key: tuple[Any, ...]


class _Call(NamedTuple):
    """A function, and what picks its operands and the memory of its result from all values."""

    function: Callable[..., Any]
    operands: Callable[[list[Any]], tuple[Any, ...]]


class Plan:
    """Which calls run a listing, and where each of its values lies. Values are numbered.

    ``places`` has the places of inputs and outputs, and ``functions(op)`` is the operation as a function
    that writes its result into given memory.
    """

    def __init__(
        self, listing: Listing, places: Mapping[Key, Place], functions: Callable[[str], Any]
    ) -> None:
        self._functions = functions
        self._numbers: dict[Any, int] = {}
        self._at: dict[Register, Place] = {}
        self.values: list[Any] = []
        """A number for each constant; a :class:`Replay` fills in the others."""
        self.temporaries: list[tuple[int, bool]] = []
        """The numbers of intermediate values, and whether they are masks."""
        self.constants: list[int] = []
        self.views: dict[str, list[_View]] = {}
        """The values that are parts of an array, by its name."""
        self.copies: list[tuple[int, int]] = []
        """The numbers of an output, and of the value that is copied to it."""
        for r in listing.instructions:
            if r.op == "input":
                self._at[r] = place = places[r.args]
                self._numbers[r] = self._view(place.array, place.key())
        self._place_outputs(listing, places)
        groups = _grouped(listing, self._at)
        self.calls = [] if groups.first is None else [self._wide_call(groups.first)]
        for r in listing.instructions:
            group = groups.of.get(r)
            if group is not None:
                if group[0] is r and group is not groups.first:
                    self.calls.append(self._wide_call(group))
            elif r.op != "input":
                operands = itemgetter(*map(self._number, (*r.args, r)))
                self.calls.append(_Call(functions(r.op), operands))

    def _place_outputs(self, listing: Listing, places: Mapping[Key, Place]) -> None:
        """Let outputs be computed in their places. A number, or a register with a place, is copied."""
        for key, r in listing.outputs.items():
            place = places[key]
            to = self._view(place.array, place.key())
            if isinstance(r, float) or r in self._at:
                self.copies.append((to, self._number(r)))
            else:
                self._at[r] = place
                self._numbers[r] = to

    def _number(self, x: Any) -> int:
        """The number of a register or constant; a new one for constants and temporaries."""
        key = x if isinstance(x, Register) else repr(x)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            if isinstance(x, Register):
                self.temporaries.append((len(self.values), x.op in MASKS))
            else:
                self.constants.append(len(self.values))
            self.values.append(x)
        return self._numbers[key]

    def _view(self, array: str, key: tuple[Any, ...]) -> int:
        """A new number for a part of an array."""
        self.views.setdefault(array, []).append(_View(len(self.values), key))
        self.values.append(None)
        return len(self.values) - 1

    def _wide_call(self, group: list[Register]) -> _Call:
        """One call for several registers, whose blocks lie side by side."""
        first, last = group[0], group[-1]
        blocks = next(a for a in first.args if a in self._at and not self._at[a].of_parts)
        source, target = self._at[blocks], self._at[first]
        width = self._at[last].number - target.number + 1
        wide = self._view(source.array, source.key(source.number + width))
        out = self._view(target.array, target.key(target.number + width))
        function = self._functions(first.op)
        if len(first.args) == 1:
            return _Call(function, itemgetter(wide, out))
        other = next(a for a in first.args if a is not blocks)
        broadcast = partial(_with_one_block, function, swapped=first.args[0] is blocks)
        return _Call(broadcast, itemgetter(self._number(other), wide, out))


class Replay:
    """Runs a plan at one step after the other. Every result has the shape and type of ``like``."""

    def __init__(self, plan: Plan, m: Any, like: Array) -> None:
        self._plan = plan
        self._values = list(plan.values)
        for i, is_mask in plan.temporaries:
            self._values[i] = m.empty(like.shape, "bool" if is_mask else like.dtype)
        for i in plan.constants:  # arrays are faster than Python's numbers
            self._values[i] = m.asarray(plan.values[i], like.dtype)
        self._numbers: list[int] = []
        self._steps: Iterator[tuple[Array, ...]] = iter(())

    def bind(self, backwards: bool = False, **arrays: Array) -> None:
        """Give arrays whose first axis is time. Each call then takes the next step, or the step before."""
        step = slice(None, None, -1 if backwards else 1)
        bound = [
            (view.value, array[(step, *view.key)])
            for name, array in arrays.items()
            for view in self._plan.views.get(name, ())
        ]
        self._numbers = [i for i, _ in bound]
        self._steps = zip(*(array for _, array in bound), strict=True)

    def give(self, array: str, parts: Any) -> None:
        """Give an array without a time axis, or a sequence of its parts."""
        for i, key in self._plan.views.get(array, ()):
            self._values[i] = parts[key[0]] if len(key) == 1 else parts[key]

    def __call__(self) -> None:
        """Run the next step."""
        values = self._values
        for i, array in zip(self._numbers, next(self._steps, ()), strict=True):
            values[i] = array
        for function, operands in self._plan.calls:
            function(*operands(values))
        for to, i in self._plan.copies:
            values[to][...] = values[i]


class _Groups(NamedTuple):
    """Registers that one call can compute together, in the order of their blocks.

    ``first`` is computed before everything else, from inputs alone. It may have gaps: its call also writes
    the blocks between, which others overwrite later.
    """

    of: dict[Register, list[Register]]
    first: list[Register] | None


def _grouped(listing: Listing, at: Mapping[Register, Place]) -> _Groups:
    """Find the groups: the same operation on blocks of one array, with results in blocks of one array."""
    alike: dict[Any, list[Register]] = {}
    for r in listing.instructions:
        if r.op == "input" or r not in at or at[r].of_parts:
            continue
        blocks = [a for a in r.args if a in at and a.op == "input" and not at[a].of_parts]
        if len(blocks) == 1 and len(r.args) <= 2:
            a = blocks[0]
            others = tuple(x if x is not a else None for x in r.args)
            shift = at[r].number - at[a].number
            alike.setdefault((r.op, others, at[a].array, at[r].array, shift), []).append(r)
    groups = _Groups({}, None)
    written = {at[r] for r in listing.instructions if r in at}
    for (_, others, *_), rs in sorted(alike.items(), key=lambda item: -len(item[1])):
        rs.sort(key=lambda r: at[r].number)
        numbers = [at[r].number for r in rs]
        gaps = set(range(numbers[0], numbers[-1])) - set(numbers)
        array = at[rs[0]].array
        if (
            groups.first is None
            and len(rs) > 1
            and others == (None,)
            and {Place(array, n) for n in gaps} <= written
        ):
            groups = _Groups(groups.of | dict.fromkeys(rs, rs), rs)
        else:
            for run in _consecutive(rs, numbers):
                groups.of.update(dict.fromkeys(run, run))
    return groups


def _consecutive(rs: list[Register], numbers: list[int]) -> list[list[Register]]:
    """Parts of a list, of two or more, whose numbers follow each other."""
    runs: list[list[Register]] = []
    for i, r in enumerate(rs):
        if i and numbers[i] == numbers[i - 1] + 1:
            runs[-1].append(r)
        else:
            runs.append([r])
    return [run for run in runs if len(run) > 1]


def _with_one_block(
    function: Callable[..., Any], x: Array, wide: Array, out: Array, swapped: bool
) -> None:
    """Apply a function of two operands to several blocks, each with the same block or number ``x``."""
    x = x[..., None, :] if x.ndim else x
    function(*((wide, x) if swapped else (x, wide)), out)


def writing(m: Any, xp: Namespace, real: bool, op: str) -> Callable[..., Any]:
    """Return an operation as a function whose last operand is the memory of the result."""
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
"""An array is faster than Python's number, and this type widens no other."""

MINUS_ONE = -ONE


def _negative(m: Any, z: Array, out: Array) -> None:
    """Avoid NumPy's ``negative``: it is wrong for some operands 16 or 64 bytes apart (2.4, AVX2)."""
    m.multiply(z, MINUS_ONE, out=out)


def _sigmoid(m: Any, z: Array, out: Array) -> None:
    """1 / (1 + e⁻ᶻ), which is accurate on both tails."""
    _negative(m, z, out)
    m.exp(out, out=out)
    m.add(out, ONE, out=out)
    m.reciprocal(out, out=out)


def _relu(m: Any, z: Array, out: Array) -> None:
    m.maximum(z, 0, out=out)


OF_REAL = {"negative": _negative, "sigmoid": _sigmoid, "relu": _relu}
"""Operations on real numbers that take several calls."""
