"""A cell's step as lists of instructions, forwards and backwards: what every kernel is made of.

A register is one value of one hidden unit of one sequence. The listings say what is computed of what; they
are run on whatever stands for a register: arrays, a processor's vectors, or the text of a CUDA kernel.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ..arrays.namespaces import NUMPY
from ..primitives import PRIMITIVES, Primitive

Key = tuple[str, int]
"""What an input or an output is, and its number among those: ``("sum", 2)``."""


CHEAP = frozenset(
    ("add", "subtract", "multiply", "negative", "square", "abs", "maximum", "minimum", "where")
)
"""Operations that backward rather does again than has their results kept."""

# fmt: off
MASKS = frozenset((
    "less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "logical_not", "logical_and",
    "logical_or", "isfinite", "isnan", "isinf",
))
"""Operations whose results are Boolean; these are never kept."""
# fmt: on


class Register:
    """One value: an operation and what it is applied to. It is made by a :class:`Tape`.

    Attributes
    ----------
    op : str or OwnRules
        The name of an elementwise primitive or array function; ``"input"`` for what is given.
    args : tuple of Register and float
        Of an input: its :data:`Key`.
    moving : bool
        Whether it depends on a cotangent. The others are the same for all cotangents of a step.
    """

    __slots__ = ("args", "moving", "op", "order")

    def __init__(self, op: Any, args: tuple[Any, ...], moving: bool, order: int) -> None:
        self.op = op
        self.args = args
        self.moving = moving
        self.order = order


Operand = Register | float


class OwnRules(NamedTuple):
    """An operation of a primitive that is not ours: what it is applied to are its value, and its operands.

    Attributes
    ----------
    primitive : Primitive
        By whose rules the operands get their cotangents.
    params : tuple of (str, object)
        Its parameters.
    rows, units, dtype
        The shape of a block of the result, and its type.
    """

    primitive: Primitive
    params: tuple[tuple[str, Any], ...]
    rows: tuple[int, ...]
    units: int
    dtype: Any


def stands_for_its_first(r: Register) -> bool:
    """Whether an operation leaves its first operand as it is, and changes what becomes of cotangents."""
    return r.op == "constant" or isinstance(r.op, OwnRules)


class Tape:
    """Makes registers, each once however often it is asked for."""

    def __init__(self) -> None:
        self._made: dict[Any, Register] = {}

    def input(self, kind: str, index: int) -> Register:
        """What is given."""
        return self._register("input", (kind, index), kind == "grad")

    def make(self, op: Any, *args: Operand) -> Operand:
        """Apply an operation; to numbers alone it gives a number.

        A cotangent is multiplied by factors that have been multiplied with each other: these are then
        found for many steps at once.
        """
        if not any(isinstance(a, Register) for a in args):
            return float(evaluate(NUMPY, op, *args))
        if (
            op in ("where", "logical_and", "logical_or")
            and (chosen := _chosen(op, *args)) is not None
        ):
            return chosen
        if op == "multiply":
            a, b = args
            if isinstance(b, Register) and b.moving:
                a, b = b, a
            if _is_scaled(a) and not (isinstance(b, Register) and b.moving):
                a, factor = a.args  # type: ignore[union-attr]
                return self.make("multiply", a, self.make("multiply", factor, b))
            args = a, b
        moving = any(isinstance(a, Register) and a.moving for a in args)
        return self._register(op, args, moving)

    def _register(self, op: Any, args: tuple[Any, ...], moving: bool) -> Register:
        key = (op, *(a if isinstance(a, Register) else repr(a) for a in args))
        if key not in self._made:
            self._made[key] = Register(op, args, moving, len(self._made))
        return self._made[key]


def _chosen(op: str, *args: Operand) -> Operand | None:
    """The operand that a condition leaves which is a number; None where it is none."""
    if op == "where":
        holds, a, b = args
        return None if isinstance(holds, Register) else a if holds else b
    holds, other = args[::-1] if isinstance(args[0], Register) else args
    if isinstance(holds, Register):
        return None
    return other if bool(holds) == (op == "logical_and") else holds


def _is_scaled(a: Operand) -> bool:
    """Whether a register is a cotangent times a factor that is none."""
    if not (isinstance(a, Register) and a.moving and a.op == "multiply"):
        return False
    return not (isinstance(a.args[1], Register) and a.args[1].moving)


def evaluate(functions: Any, op: str, *args: Any) -> Any:
    """Apply an operation as ``functions`` has it, or else by the primitive's own rule."""
    function = getattr(functions, op, None)
    if function is not None:
        return function(*args)
    return PRIMITIVES[op].forward(functions, *args)


@dataclass(frozen=True)
class Listing:
    """Instructions in an order in which they can be run.

    Attributes
    ----------
    outputs : dict of (str, int) to Register or float
    """

    outputs: dict[Key, Operand]

    @cached_property
    def instructions(self) -> list[Register]:
        """Every register that an output needs, inputs included, each behind those that it needs."""
        return reachable(self.outputs.values())

    @cached_property
    def inputs(self) -> set[Key]:
        """What it needs to be given."""
        return {r.args for r in self.instructions if r.op == "input"}

    def run(self, values: Mapping[Key, Any], functions: Any) -> dict[Key, Any]:
        """The outputs.

        Parameters
        ----------
        values : mapping
            What stands for each input.
        functions : object
            With the operations by name.
        """
        found: dict[Register, Any] = {}
        for r in self.instructions:
            if r.op == "input":
                found[r] = values[r.args]
            else:
                args = (found[a] if isinstance(a, Register) else a for a in r.args)
                found[r] = evaluate(functions, r.op, *args)
        return {key: found[r] if isinstance(r, Register) else r for key, r in self.outputs.items()}

    def __str__(self) -> str:
        names = {r: f"t{i}" for i, r in enumerate(self.instructions)}
        lines = [
            f"{names[r]} = {r.op} {' '.join(str(names.get(a, a)) for a in r.args)}"
            for r in self.instructions
        ]
        ends = [f"{kind} {i} = {names.get(r, r)}" for (kind, i), r in self.outputs.items()]  # type: ignore[arg-type]
        return "\n".join([*lines, *ends])


def split(listing: Listing) -> tuple[Listing, Listing]:
    """A listing as two: what is the same for all cotangents, and what is made of cotangents and that.

    The outputs ``("factor", i)`` of the first are inputs of the second.
    """
    moving = [r for r in listing.instructions if r.moving]
    used: list[Operand] = [a for r in moving if r.op != "input" for a in r.args]
    border = [
        r for r in [*used, *listing.outputs.values()] if isinstance(r, Register) and not r.moving
    ]
    columns = {id(r): i for (kind, i), r in listing.outputs.items() if kind == "sum"}
    uses = {a: columns.get(id(r), len(columns)) for r in reversed(moving) for a in r.args}
    factors = sorted(
        dict.fromkeys(border), key=lambda r: uses.get(r, -1)
    )  # side by side, as the sums
    tape = Tape()
    given = {r: tape.input("factor", i) for i, r in enumerate(factors)}
    again = rebuilt(listing.outputs, tape, given)
    return Listing({("factor", i): r for i, r in enumerate(factors)}), Listing(again)


def rebuilt(outputs: dict[Key, Operand], tape: Tape, given: dict[Any, Any]) -> dict[Key, Operand]:
    """Make outputs again, from what is given in the place of some registers; a constant is its value."""
    found = dict(given)
    for r in reachable(outputs.values(), given):
        if r in found:
            continue
        if stands_for_its_first(r):
            found[r] = found.get(r.args[0], r.args[0])
        elif r.op == "input":
            found[r] = tape.input(*r.args)
        else:
            found[r] = tape.make(r.op, *(found.get(a, a) for a in r.args))
    return {key: found.get(r, r) for key, r in outputs.items()}


def reachable(ends: Iterable[Operand], given: Container[Any] = ()) -> list[Register]:
    """The registers that some need, these included, in the order they were made; none behind ``given``."""
    found: set[Register] = set()
    left = [r for r in ends if isinstance(r, Register)]
    while left:
        r = left.pop()
        if r not in found:
            found.add(r)
            left += [a for a in r.args if isinstance(a, Register) and r not in given]
    return sorted(found, key=lambda r: r.order)


class Weights(NamedTuple):
    """The weights of a recurrence, rows by gates in the order that the cell declares.

    Attributes
    ----------
    weight_ih, weight_hh : array (gates·H, I), (gates·H, H)
    bias_ih, bias_hh : array (gates·H,), or None
    others : tuple of array (blocks·H,)
        Further weights of the cell.
    """

    weight_ih: Any
    weight_hh: Any
    bias_ih: Any = None
    bias_hh: Any = None
    others: tuple[Any, ...] = ()


class Run(NamedTuple):
    """A recurrence over some steps: what it is computed from, and what it leaves.

    Attributes
    ----------
    program : Program
    m : module
        The arrays' library.
    weights : Weights
    initial : list of array (B, H)
        The parts of the state before the first step.
    saved : array (T, B, slots·H)
        What backward needs. Forward writes there.
    states : array (parts, T, B, H)
        The states after each step. Forward writes there.
    ends : Ends
        Where sequences end.
    """

    program: Program
    m: Any
    weights: Weights
    initial: list[Any]
    saved: Any
    states: Any
    ends: Any


@dataclass(frozen=True, eq=False)
class Program:
    """A cell, ready to be run.

    A gate of which the step uses only the sum x + h is *shared*: there is one sum. Of another there are
    two. The sums stand in the order ``x_only``, ``shared``, ``h_only``: those by which the input has an
    effect come first, and those by which the state has one come last.

    Attributes
    ----------
    name : str
    gates : tuple of str
    parts : tuple of str
        The parts of the state.
    weights : dict of str to int
        Further weights, and how many blocks of H each has.
    x_only, shared, h_only : tuple of int
        Numbers of gates.
    forward : Listing
        From ``("sum", s)``, ``("before", part)`` and ``("weight", block)`` to ``("after", part)`` and to
        what backward needs, ``("saved", slot)``.
    backward : Listing
        From ``("before", part)``, ``("after", part)``, ``("saved", slot)``, ``("weight", block)`` and the
        cotangents that arrive at the state after the step, ``("grad", part)``, to the whole cotangents
        of that state, ``("kept", part)``, and to those of the sums, of the weights, and of the state
        before, ``("before", part)``, as far as that goes past the sums. What is missing is 0.
    """

    name: str
    gates: tuple[str, ...]
    parts: tuple[str, ...]
    weights: dict[str, int]
    x_only: tuple[int, ...]
    shared: tuple[int, ...]
    forward: Listing
    backward: Listing
    sums: int = field(init=False)
    saved: int = field(init=False)
    columns: int = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "sums", 2 * len(self.x_only) + len(self.shared))
        put(self, "saved", sum(kind == "saved" for kind, _ in self.forward.outputs))
        put(self, "columns", self.sums + sum(self.weights.values()))

    @cached_property
    def text(self) -> str:
        """All that its code depends on."""
        listings = str(self.forward), str(self.backward)
        return repr((self.name, self.gates, self.parts, self.weights, self.x_only, *listings))

    @property
    def h_only(self) -> tuple[int, ...]:
        """The gates whose second sum stands last."""
        return self.x_only

    @property
    def x_gates(self) -> tuple[int, ...]:
        """The gates in the order of the sums that the input has an effect on."""
        return self.x_only + self.shared

    @property
    def h_gates(self) -> tuple[int, ...]:
        """The gates in the order of the sums that the state has an effect on."""
        return self.shared + self.h_only

    @cached_property
    def back(self) -> tuple[Listing, Listing]:
        """The backward listing, :func:`split`."""
        return split(self.backward)

    @property
    def separate(self) -> bool:
        """Whether a bias of the state's own matters: not where it is only added to the input's."""
        return bool(self.x_only)
