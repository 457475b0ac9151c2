"""A cell's step as two lists of instructions, one forward and one backward.

:mod:`..tracing` derives the lists from the step that a cell declares. Nothing in them depends on how they
are run: :mod:`.replay` runs them on NumPy's arrays, :mod:`.llvm.time_loops` on a processor's vectors, and
:mod:`.cuda_c` prints them as a CUDA kernel. A :class:`Register` is one value of one hidden unit of one
sequence, a :class:`Listing` computes some registers from others, and a :class:`Program` is a cell's pair of
listings. In a listing an input or output has a :data:`Key`, a kind and a number:

- ``("sum", s)``: a sum that goes into a gate, x_t W_xᵀ + b_x, h_{t−1} W_hᵀ + b_h, or both;
- ``("before", part)`` and ``("after", part)``: a part of the state before and after the step, such as h or
  c;
- ``("weight", block)``: H elements of the cell's further weights, such as a peephole;
- ``("saved", slot)``: a value that forward saves for backward;
- ``("grad", part)``: the cotangent that arrives at a part after the step;
- ``("whole_grad", part)``: that cotangent with what the step itself adds to it, as an LSTM's h does to c;
- ``("factor", i)``: see :func:`split`. ``("x", gate)`` and ``("h", gate)`` occur before sums are formed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ..arrays.namespaces import NUMPY
from ..primitives import PRIMITIVES, Primitive

Key = tuple[str, int]
"""The kind of an input or output, and its number within that kind."""

CHEAP = frozenset(
    ("add", "subtract", "multiply", "negative", "square", "abs", "maximum", "minimum", "where")
)
"""Operations that backward repeats. It costs less than to save their results."""

# fmt: off
MASKS = frozenset((
    "less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "logical_not", "logical_and",
    "logical_or", "isfinite", "isnan", "isinf",
))
"""Operations with a Boolean result, which is never saved."""
# fmt: on


class Register:
    """One value: an operation and its operands. A :class:`Tape` makes registers.

    Attributes
    ----------
    op : str or UserPrimitive
        The name of an elementwise primitive or array function, or ``"input"``.
    args : tuple of Register and float
        The operands; the :data:`Key` of an input.
    is_cotangent : bool
        Whether the value depends on a cotangent. All other values of a step are the same for every
        cotangent.
    """

    __slots__ = ("args", "is_cotangent", "op", "order")

    def __init__(self, op: Any, args: tuple[Any, ...], is_cotangent: bool, order: int) -> None:
        self.op = op
        self.args = args
        self.is_cotangent = is_cotangent
        self.order = order


Operand = Register | float


class UserPrimitive(NamedTuple):
    """The operation of a primitive that a user made. Its operands are its value, then its own operands."""

    primitive: Primitive
    params: tuple[tuple[str, Any], ...]
    rows: tuple[int, ...]
    """The rows, units and type of a block of the result, which the primitive's rules may look at."""
    units: int
    dtype: Any


def is_identity(r: Register) -> bool:
    """Whether the value is that of the first operand, and only the cotangent is treated differently."""
    return r.op == "constant" or isinstance(r.op, UserPrimitive)


class Tape:
    """Makes registers. The same operation on the same operands is made only once."""

    def __init__(self) -> None:
        self._made: dict[Any, Register] = {}

    def input(self, kind: str, index: int) -> Register:
        """Make an input."""
        return self._register("input", (kind, index), kind == "grad")

    def make(self, op: Any, *args: Operand) -> Operand:
        """Apply an operation; the result is a number where all operands are numbers.

        Factors of a cotangent are multiplied with each other first, (g·a)·b = g·(a·b), because the product
        a·b can be computed for many steps in one call.
        """
        if not any(isinstance(a, Register) for a in args):
            return float(evaluate(NUMPY, op, *args))
        if op in ("where", "logical_and", "logical_or"):
            selected = _selected(op, *args)
            if selected is not None:
                return selected
        if op == "multiply":
            a, b = args
            if _is_cotangent(b):
                a, b = b, a
            if _is_scaled(a) and not _is_cotangent(b):
                a, factor = a.args  # type: ignore[union-attr]
                return self.make("multiply", a, self.make("multiply", factor, b))
            args = a, b
        return self._register(op, args, any(map(_is_cotangent, args)))

    def _register(self, op: Any, args: tuple[Any, ...], is_cotangent: bool) -> Register:
        key = (op, *(a if isinstance(a, Register) else repr(a) for a in args))
        if key not in self._made:
            self._made[key] = Register(op, args, is_cotangent, len(self._made))
        return self._made[key]


def _selected(op: str, *args: Operand) -> Operand | None:
    """The result of a condition one operand of which is a number; None where no operand decides it."""
    if op == "where":
        holds, a, b = args
        return None if isinstance(holds, Register) else a if holds else b
    holds, other = args[::-1] if isinstance(args[0], Register) else args
    if isinstance(holds, Register):
        return None
    return other if bool(holds) == (op == "logical_and") else holds


def _is_cotangent(a: Operand) -> bool:
    return isinstance(a, Register) and a.is_cotangent


def _is_scaled(a: Operand) -> bool:
    """Whether an operand is a cotangent times a factor that does not depend on a cotangent."""
    is_product = isinstance(a, Register) and a.is_cotangent and a.op == "multiply"
    return is_product and not _is_cotangent(a.args[1])  # type: ignore[union-attr]


def evaluate(functions: Any, op: str, *args: Any) -> Any:
    """Apply an operation with the function of that name, or else with the primitive's forward rule."""
    function = getattr(functions, op, None)
    if function is not None:
        return function(*args)
    return PRIMITIVES[op].forward(functions, *args)


@dataclass(frozen=True)
class Listing:
    """Instructions that compute outputs, in an order in which they can be run."""

    outputs: dict[Key, Operand]

    @cached_property
    def instructions(self) -> list[Register]:
        """All registers that an output needs, including inputs. Operands come before their use."""
        return reachable(self.outputs.values())

    @cached_property
    def inputs(self) -> set[Key]:
        """The keys of the inputs."""
        return {r.args for r in self.instructions if r.op == "input"}

    def run(self, values: Mapping[Key, Any], functions: Any) -> dict[Key, Any]:
        """Return the outputs, from a value for each input; ``functions`` has the operations."""
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
        for (kind, i), r in self.outputs.items():
            lines.append(f"{kind} {i} = {names.get(r, r)}")  # type: ignore[arg-type]
        return "\n".join(lines)


class Split(NamedTuple):
    """A backward listing in two parts."""

    factors: Listing
    """Computes all values without cotangents that meet one: of many steps at once, if need be."""
    cotangents: Listing
    """Computes the outputs from cotangents and ``("factor", i)``, one step after the other."""


def split(listing: Listing) -> Split:
    """Split a backward listing into the part without cotangents and the part with them."""
    on_cotangents = [r for r in listing.instructions if r.is_cotangent]
    used: list[Operand] = [a for r in on_cotangents if r.op != "input" for a in r.args]
    border = [
        r
        for r in [*used, *listing.outputs.values()]
        if isinstance(r, Register) and not r.is_cotangent
    ]
    columns = {id(r): i for (kind, i), r in listing.outputs.items() if kind == "sum"}
    uses = {a: columns.get(id(r), len(columns)) for r in reversed(on_cotangents) for a in r.args}
    # in the order of the sums, so that one call can multiply several sums by their factors
    factors = sorted(dict.fromkeys(border), key=lambda r: uses.get(r, -1))
    tape = Tape()
    given = {r: tape.input("factor", i) for i, r in enumerate(factors)}
    outputs = rebuilt(listing.outputs, tape, given)
    return Split(Listing({("factor", i): r for i, r in enumerate(factors)}), Listing(outputs))


def rebuilt(outputs: dict[Key, Operand], tape: Tape, given: dict[Any, Any]) -> dict[Key, Operand]:
    """Make outputs again on another tape, with the values of ``given`` in the place of its keys.

    Identities such as ``"constant"`` are dropped, since their cotangents are known by now.
    """
    found = dict(given)
    for r in reachable(outputs.values(), given):
        if r in found:
            continue
        if is_identity(r):
            found[r] = found.get(r.args[0], r.args[0])
        elif r.op == "input":
            found[r] = tape.input(*r.args)
        else:
            found[r] = tape.make(r.op, *(found.get(a, a) for a in r.args))
    return {key: found.get(r, r) for key, r in outputs.items()}


def reachable(ends: Iterable[Operand], given: Container[Any] = ()) -> list[Register]:
    """All registers that ``ends`` need, including these, in the order they were made.

    The operands of registers in ``given`` are left out.
    """
    found: set[Register] = set()
    left = [r for r in ends if isinstance(r, Register)]
    while left:
        r = left.pop()
        if r not in found:
            found.add(r)
            left += [a for a in r.args if isinstance(a, Register) and r not in given]
    return sorted(found, key=lambda r: r.order)


@dataclass(frozen=True, eq=False)
class Program:
    """A cell's step as listings, with the order of its sums.

    A gate is *shared* if the step uses x and h of this gate only as x + h; it then has one sum. Each other
    gate has two sums, one of x and one of h. The sums are ordered ``x_only``, ``shared``, ``h_only``: the
    first ones depend on the input, the last ones on the state.

    Attributes
    ----------
    name : str
    gates : tuple of str
    parts : tuple of str
        The parts of the state.
    weights : dict of str to int
        Further weights of the cell, and how many blocks of H elements each has.
    x_only, shared, h_only : tuple of int
        Numbers of gates.
    forward : Listing
        From ``sum``, ``before`` and ``weight`` to ``after`` and ``saved``.
    backward : Listing
        From ``before``, ``after``, ``saved``, ``weight`` and ``grad`` to ``whole_grad`` and to the
        cotangents of ``sum``, ``weight`` and ``before``; the last without the part that goes through the
        sums. An output that is missing is 0.
    sums, saved : int
        How many sums and saved values there are.
    columns : int
        How many cotangents of H elements a step back gives: of the sums, then of the weights' blocks.
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
        """Everything that compiled code depends on."""
        listings = str(self.forward), str(self.backward)
        return repr((self.name, self.gates, self.parts, self.weights, self.x_only, *listings))

    @property
    def h_only(self) -> tuple[int, ...]:
        """The gates whose second sum, that of the state, is among the last."""
        return self.x_only

    @property
    def x_gates(self) -> tuple[int, ...]:
        """The gates of the sums that depend on the input, in the order of the sums."""
        return self.x_only + self.shared

    @property
    def h_gates(self) -> tuple[int, ...]:
        """The gates of the sums that depend on the state, in the order of the sums."""
        return self.shared + self.h_only

    @property
    def column_keys(self) -> list[Key]:
        """The keys of the columns in the backward listing."""
        weights = range(self.columns - self.sums)
        return [("sum", s) for s in range(self.sums)] + [("weight", j) for j in weights]

    @cached_property
    def split_backward(self) -> Split:
        """The backward listing without cotangents and with them."""
        return split(self.backward)

    @property
    def separate(self) -> bool:
        """Whether the bias of the state has an effect of its own, and is not just added to the input's."""
        return bool(self.x_only)
