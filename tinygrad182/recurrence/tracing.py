"""Derive a cell's program: run its step on symbols, then the derivative rules on what was recorded.

A :class:`Symbol` is an array of one more library, whose elements are registers (:mod:`.kernels.program`).
The engine records the step on Tensors of symbols as on any others, so a step may use whatever Tensors have:
functions, methods, masks, ``detach``. From the record, :class:`_Reverse` builds the forward and backward
listings with the rules of the primitives. A symbol has no numbers, so a step that looks at numbers has no
program, and neither has one in which hidden units depend on each other. Such a step is run by its
definition. :mod:`.recurrence` calls :func:`derive`, and :mod:`.intervening` calls :func:`listed`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespaces import NAMESPACES, SCALARS, SHARED, Array, Key, Namespace, numpy_dtype
from ..engine.backpropagation import ancestors
from ..engine.modes import Modes, Scope, modes_kept, recording_as, unwatched
from ..engine.recording import Leaf, Node, node_of, wrap
from ..errors import DeviceError
from ..kernels.operators import Operators
from ..kernels.program import (
    CHEAP,
    MASKS,
    Listing,
    Operand,
    Program,
    Register,
    Tape,
    UserPrimitive,
    is_identity,
    reachable,
    rebuilt,
)  # fmt: skip
from ..primitives import PRIMITIVES, Primitive
from ..tensors import functions

# fmt: off
KNOWN = CHEAP | MASKS | frozenset((
    "divide", "exp", "log", "expm1", "log1p", "log2", "log10", "sqrt", "power", "sin", "cos", "sinh",
    "cosh", "tanh", "asin", "acos", "atan", "asinh", "atan2", "sign", "floor", "ceil", "trunc", "round",
    "remainder", "floor_divide",
))
"""The functions that symbols have."""
# fmt: on

_FLOAT, _BOOL = np.dtype("float64"), np.dtype("bool")


class NotByUnitsError(TypeError):
    """A step does something that cannot be done for each hidden unit by itself."""


class UnknownFunctionError(NotByUnitsError):
    """Symbols do not have this function of arrays; the message is its name."""


OWN_ARRAYS = "step uses arrays of its own; declare them as weights"


class Symbol(Operators):
    """An array ``(*rows, blocks·units)`` with a register for each block, for all its units."""

    __slots__ = ("dtype", "registers", "rows", "tape", "units")

    def __init__(
        self, tape: Tape, registers: tuple[Operand, ...], rows: tuple[int, ...], units: int,
        dtype: Any = _FLOAT,
    ) -> None:  # fmt: skip
        self.tape = tape
        self.registers = registers
        self.rows = rows
        self.units = units
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return (*self.rows, len(self.registers) * self.units)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.rows) + 1

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    def like(self, registers: tuple[Operand, ...]) -> Symbol:
        """Make a symbol with the rows, units and type of this one."""
        return Symbol(self.tape, registers, self.rows, self.units, self.dtype)

    def __getitem__(self, key: Key) -> Symbol:
        """Whole blocks along the last axis."""
        entries = [k for k in key if k is not Ellipsis]
        entries += [slice(None)] * (self.ndim - len(entries))
        *others, last = entries
        if len(entries) != self.ndim or any(k != slice(None) for k in others):
            raise NotByUnitsError("step indexes another axis than the last")
        start, stop, step = last.indices(self.shape[-1])
        if step != 1 or start % self.units or stop % self.units:
            raise NotByUnitsError("step takes a part of a gate, not whole gates")
        return self.like(self.registers[start // self.units : stop // self.units])

    def apply(self, op: str, *operands: Any) -> Symbol:
        """Apply an operation to each block."""
        return _elementwise(op, *operands)

    def __bool__(self) -> bool:
        raise NotByUnitsError("step looks at numbers, as if, float() and print do")

    __float__ = __int__ = __index__ = __len__ = __iter__ = __array__ = __bool__


def _elementwise(op: str, *operands: Any) -> Symbol:
    """Apply an operation to symbols and numbers."""
    symbols = [x for x in operands if isinstance(x, Symbol)]
    like = max(symbols, key=lambda s: s.ndim)
    blocks = len(like.registers)
    if any(type(x) not in SCALARS for x in operands if not isinstance(x, Symbol)):
        raise NotByUnitsError(OWN_ARRAYS)
    if any(len(s.registers) != blocks or s.units != like.units for s in symbols):
        raise NotByUnitsError(f"step applies {op} to different numbers of gates")
    op, operands = _with_masks(op, operands)
    registers = tuple(
        like.tape.make(op, *(x.registers[i] if isinstance(x, Symbol) else float(x) for x in operands))
        for i in range(blocks)
    )  # fmt: skip
    dtype = next((s.dtype for s in symbols if s.dtype != _BOOL), _FLOAT)
    return Symbol(like.tape, registers, like.rows, like.units, _BOOL if op in MASKS else dtype)


OF_MASKS = {
    "add": "logical_or", "maximum": "logical_or", "multiply": "logical_and", "minimum": "logical_and",
}  # fmt: skip
"""The logical operations that these are on masks."""


def _with_masks(op: str, operands: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The operation and operands that kernels use, which calculate with numbers and not with masks."""
    masks = [type(x) is bool or (isinstance(x, Symbol) and x.dtype == _BOOL) for x in operands]
    if op in OF_MASKS and all(masks):
        return OF_MASKS[op], operands
    if op.startswith("logical"):
        return op, operands
    first = 1 if op == "where" else 0  # its condition stays a mask
    if all(masks[first:]) and op not in MASKS:
        raise NotByUnitsError(f"step applies {op} to masks")
    numbers = [
        _elementwise("where", x, 1.0, 0.0) if is_mask and isinstance(x, Symbol) else x
        for x, is_mask in [*zip(operands, masks, strict=True)][first:]
    ]
    return op, (*operands[:first], *numbers)


class _Symbols(Namespace):
    """The functions of symbols: elementwise ones, and those that put blocks side by side."""

    def __init__(self) -> None:
        names = {name: _function(name) for name in (*SHARED, "argsort")}
        isdtype = lambda dtype, kind: kind == "real floating" and dtype.kind == "f"  # noqa: E731
        super().__init__(SimpleNamespace(__name__="symbols", power=None, pow=_function("power"),
                                         isdtype=isdtype, **names))  # fmt: skip

    def is_complex(self, x: Array) -> bool:
        return isinstance(x, complex)

    def astype(self, x: Symbol, dtype: Any) -> Symbol:
        return x

    def dtype(self, dtype: Any) -> Any:
        raise NotByUnitsError(f"step changes a dtype, to {numpy_dtype(dtype)}")

    def asarray(self, x: Symbol) -> Symbol:
        return x

    copy = asarray

    def index(self, x: Symbol, key: Key) -> Symbol:
        return x[key]

    def concat(self, symbols: Any, axis: int = 0) -> Symbol:
        first = symbols[0]
        if axis not in (-1, first.ndim - 1) or len({s.rows for s in symbols}) > 1:
            raise NotByUnitsError("step applies concat along another axis than the last")
        return first.like(tuple(r for s in symbols for r in s.registers))

    def broadcast_to(self, x: Symbol, shape: tuple[int, ...]) -> Symbol:
        if tuple(shape)[x.ndim - 2 :] != x.shape[x.ndim - 2 :]:
            raise NotByUnitsError("step applies broadcast_to along the units")
        return Symbol(x.tape, x.registers, tuple(shape[:-1]), x.units, x.dtype)

    def zeros_like(self, x: Symbol, dtype: Any = None) -> Symbol:
        return x.like((0.0,) * len(x.registers))

    def ones_like(self, x: Symbol, dtype: Any = None) -> Symbol:
        return x.like((1.0,) * len(x.registers))


def _function(name: str) -> Callable[..., Any]:
    def function(*operands: Any, **options: Any) -> Any:
        if name not in KNOWN or options:
            raise UnknownFunctionError(name)
        return _elementwise(name, *operands)

    return function


_SYMBOLS = _Symbols()
NAMESPACES[Symbol] = _SYMBOLS


class Sizes(NamedTuple):
    """Batch, hidden units and type of the symbols on which a step is recorded."""

    batch: int
    units: int
    dtype: Any


SMALL, LARGE = Sizes(2, 3, np.dtype("float32")), Sizes(1001, 4096, np.dtype("float64"))
"""A program must not depend on these, so a step is recorded with both. They differ in remainders, too."""


class Derived(NamedTuple):
    """The program of a step; or None, and the reason why the step has none."""

    program: Program | None
    reason: str = ""


def derive(cell: Any, params: dict[str, Any]) -> Derived:
    """Derive the program of the step of a ``Scan``, if hidden units can be computed one by one."""
    try:
        found = [_derive(cell, params, sizes) for sizes in (SMALL, LARGE)]
    except Exception as error:  # a step may raise anything, and it may do so on Tensors as well
        return Derived(None, _reason(error))
    different = {(str(p.forward), str(p.backward), p.x_only) for p in found}
    if len(different) > 1:
        return Derived(None, "step depends on a shape, a dtype or random numbers")
    return Derived(found[0])


def _reason(error: BaseException) -> str:
    """Why a step has no program: what a symbol said, perhaps wrapped by the engine, or the error."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    if isinstance(error, DeviceError):
        return OWN_ARRAYS
    if isinstance(first, UnknownFunctionError):
        return (
            f"step applies {_applied(error) or first}, which is not done for each hidden unit by itself; "
            "use elementwise functions and slices of whole gates"
        )
    if isinstance(first, NotByUnitsError):
        return str(first)
    return f"step cannot be followed: {type(error).__name__}: {error}"


def _applied(error: BaseException) -> str | None:
    """The function that a step called when it failed: ``mean``, though a ``sum`` inside it failed."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        decorated = frame.f_locals.get("f")
        name = getattr(decorated, "__name__", frame.f_code.co_name)
        if name in functions.__all__:
            return name
    return None


def listed(cell: Any, params: dict[str, Any]) -> Listing:
    """The step of a cell that has a program, as it was declared.

    It goes from ``("x", gate)``, ``("h", gate)``, ``("before", part)`` and ``("weight", block)`` to
    ``("after", part)``. Its ``"constant"`` stops cotangents.
    """
    return Listing({("after", p): r for p, r in enumerate(_recorded(cell, params, SMALL))})


def _derive(cell: Any, params: dict[str, Any], sizes: Sizes) -> Program:
    after = _recorded(cell, params, sizes)
    x_only, shared = _shared(after, len(cell.gates))
    places = {("x", k): i for i, k in enumerate(x_only + shared)}
    places |= {("h", k): len(x_only) + i for i, k in enumerate(shared + x_only)}
    tape = Tape()
    listings = _Reverse(_with_sums(after, tape, places), tape).listings()
    return Program(cell.name, cell.gates, cell.parts, cell.weights, x_only, shared, *listings)


@modes_kept
def _recorded(cell: Any, params: dict[str, Any], sizes: Sizes) -> list[Operand]:
    """Run a step on symbols; return a register for each part of the state after it."""
    tape = Tape()

    def inputs(kind: str, numbers: range, rows: tuple[int, ...] = (sizes.batch,)) -> Any:
        registers = tuple(tape.input(kind, i) for i in numbers)
        symbol = Symbol(tape, registers, rows, sizes.units, sizes.dtype)
        return wrap(symbol, Leaf(symbol, requires_grad=True))

    others, start = {}, 0
    for weight, blocks in cell.weights.items():
        others[weight] = inputs("weight", range(start, start + blocks), rows=())
        start += blocks
    with recording_as(Modes(True, "cpu", Scope("", None, 0, {}))), unwatched():
        x, h = (inputs(kind, range(len(cell.gates))) for kind in "xh")
        state = tuple(inputs("before", range(p, p + 1)) for p in range(len(cell.parts)))
        new = cell.step(functions, x, h, state, **others, **params)
    if not isinstance(new, (tuple, list)) or len(new) != len(cell.parts):
        raise NotByUnitsError("step returns something else than the parts of the state")
    symbols = _parts_after([node_of(part) for part in new])
    if any(s.shape != (sizes.batch, sizes.units) for s in symbols):
        raise NotByUnitsError("step returns parts of another shape than the state has")
    after: list[Operand] = []
    for k, s in enumerate(symbols):
        r = s.registers[0]
        before = isinstance(r, Register) and r.op == "input" and r.args[0] == "before"
        after.append(_own(s, k).registers[0] if before or r in after else r)
    return after


def _parts_after(roots: list[Node]) -> list[Symbol]:
    """The values of the parts of the new state."""
    found = _values(roots)
    apart = [root for root in dict.fromkeys(roots) if _equals_another(root, found)]
    found = _values(roots, apart) if apart else found
    return [found[root] if root in found else _as_constant(root.value) for root in roots]


def _as_constant(x: Symbol) -> Symbol:
    """The values of a symbol as constants, through which no cotangent goes."""
    return x.like(
        tuple(x.tape.make("constant", r) if isinstance(r, Register) else r for r in x.registers)
    )


def _own(x: Symbol, k: int) -> Symbol:
    """The values in registers that only part ``k`` of the state has, so that its cotangent is its own."""
    for _ in range(k):
        x = _elementwise("subtract", x, 0.0)
    return _elementwise("multiply", x, 1.0)


def _equals_another(part: Node, found: dict[Node, Symbol]) -> bool:
    """Whether a part has the register of a node that is not computed from the part."""
    if part.primitive is None or part not in found:
        return False
    r = found[part].registers[0]
    others = [node for node, symbol in found.items() if node is not part and r in symbol.registers]
    return any(part not in ancestors([node]) for node in others)


def _values(roots: list[Node], apart: Sequence[Node] = ()) -> dict[Node, Symbol]:
    """Each node's value, with one register for one operation: a library chooses how it computes it.

    A node in ``apart`` gets registers of its own, even where another node has an equal value.
    """
    found: dict[Node, Any] = {}
    for node in ancestors(roots, constants=True):
        if node.primitive is None:
            if not isinstance(node.value, Symbol):
                raise NotByUnitsError(OWN_ARRAYS)
            found[node] = node.value if node.requires_grad else _as_constant(node.value)
            continue
        operands = [found[x] if isinstance(x, Node) else x for x in node.inputs or ()]
        if PRIMITIVES.get(node.op) is not node.primitive:
            found[node] = _by_user_primitive(node.primitive, operands, node.params)
        elif node.primitive.jvp == "elementwise":
            found[node] = _elementwise(node.op, *operands)
        else:
            found[node] = node.primitive.forward(_SYMBOLS, *operands, **node.params)
        if node in apart:
            found[node] = _own(found[node], roots.index(node))
    return found


def _by_user_primitive(primitive: Primitive, operands: list[Any], params: dict[str, Any]) -> Symbol:
    """The result of a user's primitive, with a :class:`UserPrimitive` for each block.

    Its value is what forward computes; its cotangents go to the operands by the primitive's own rules.
    """
    if primitive.jvp != "elementwise":
        raise NotByUnitsError(
            f"step applies {primitive.name}, which does not say that it is elementwise; "
            'make it with jvp="elementwise"'
        )
    result = primitive.forward(_SYMBOLS, *operands, **params)
    symbols = [x for x in operands if isinstance(x, Symbol)]
    like = max(symbols, key=lambda s: s.ndim)
    if any(s.shape[-1] != like.shape[-1] for s in symbols) or result.shape != like.shape:
        raise NotByUnitsError(f"step applies {primitive.name}, which is not elementwise")
    op = UserPrimitive(primitive, tuple(params.items()), like.rows, like.units, like.dtype)
    blocks = (
        like.tape.make(op, r, *(x.registers[i] if isinstance(x, Symbol) else x for x in operands))
        for i, r in enumerate(result.registers)
    )
    return like.like(tuple(blocks))


def _shared(after: list[Operand], gates: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The gates that have two sums, and those of which only x + h is used."""
    uses: dict[Any, list[Register]] = {}
    for r in reachable(after):
        for a in r.args:
            if isinstance(a, Register) and a.op == "input":
                uses.setdefault(a.args, []).append(r)
    ends = {r.args for r in after if isinstance(r, Register) and r.op == "input"}
    apart = []
    for k in range(gates):
        x, h = ("x", k), ("h", k)
        together = [
            r.op == "add" and {a.args for a in r.args if isinstance(a, Register)} == {x, h}
            for r in uses.get(x, []) + uses.get(h, [])
        ]
        if not all(together) or {x, h} & ends:
            apart.append(k)
    return tuple(apart), tuple(k for k in range(gates) if k not in apart)


def _with_sums(after: list[Operand], tape: Tape, places: dict[Any, int]) -> list[Operand]:
    """The values computed from sums instead of x and h. ``places`` has the number of each sum."""
    found: dict[Any, Operand] = {}
    for r in reachable(after):
        inputs = [a.args if isinstance(a, Register) else None for a in r.args]
        if r.op == "input":
            found[r] = tape.input(*(("sum", places[r.args]) if r.args in places else r.args))
        elif r.op == "add" and _is_whole_sum(inputs, places):
            found[r] = tape.input("sum", places[inputs[0]])
        else:
            found[r] = tape.make(r.op, *(found.get(a, a) for a in r.args))
    return [found.get(r, r) for r in after]


def _is_whole_sum(inputs: list[Any], places: dict[Any, int]) -> bool:
    """Whether two operands are the x and the h of a gate with one sum, and not one of them twice."""
    a, b = inputs
    return a != b and a in places and places[a] == places.get(b)


class _Reverse:
    """Builds a program's listings from the state after a step and the tape that its registers are on."""

    def __init__(self, after: list[Operand], tape: Tape) -> None:
        self.after = after
        self.tape = tape
        self.steps = reachable(after)
        self.slots: list[Register] = []
        self._of_sums: dict[Register, bool] = {}

    def listings(self) -> tuple[Listing, Listing]:
        """The forward listing, with the values that it saves for backward, and the backward listing."""
        outputs = self._cotangents()
        self.slots = sorted(self._saved(list(outputs.values())), key=self._first_sum)
        forward: dict[Any, Operand] = {("after", p): r for p, r in enumerate(self.after)}
        forward |= {("saved", k): r for k, r in enumerate(self.slots)}
        tape = Tape()
        given: dict[Any, Any] = {r: tape.input("after", p) for p, r in enumerate(self.after)}
        given |= {r: tape.input("saved", k) for k, r in enumerate(self.slots)}
        return Listing(rebuilt(forward, Tape(), {})), Listing(rebuilt(outputs, tape, given))

    def _cotangents(self) -> dict[Any, Operand]:
        """The outputs of backward, made from the step's own values."""
        found: dict[Register, Operand] = {}

        def add(r: Operand, g: Operand) -> None:
            if isinstance(r, Register) and isinstance(g, Register):
                found[r] = self.tape.make("add", found[r], g) if r in found else g

        for p, r in enumerate(self.after):
            add(r, self.tape.input("grad", p))
        for r in reversed(self.steps):
            if r not in found:
                continue
            if isinstance(r.op, UserPrimitive):
                for a, g in zip(r.args[1:], self._by_user_rules(r.op, found[r], r), strict=True):
                    add(a, g)
            elif r.op in PRIMITIVES:
                rules: Any = PRIMITIVES[r.op].vjp
                for rule, a in zip(rules, r.args, strict=True):
                    if rule is not None and isinstance(a, Register):
                        add(a, self._by_rule(rule, found[r], r))
        whole = {("whole_grad", p): found[r] for p, r in enumerate(self.after) if r in found}
        return whole | {r.args: g for r, g in found.items() if r.op == "input"}

    def _by_rule(self, rule: Callable[..., Any], g: Operand, r: Register) -> Operand:
        found = rule(_SYMBOLS, *self._symbols(g, r, *r.args))
        return found.registers[0] if isinstance(found, Symbol) else float(found)

    def _symbols(self, *args: Operand, like: Sequence[Any] = ((), 1)) -> list[Any]:
        """Registers as symbols of some rows, units and type, and numbers as they are."""
        return [Symbol(self.tape, (a,), *like) if isinstance(a, Register) else a for a in args]

    def _by_user_rules(self, op: UserPrimitive, g: Operand, r: Register) -> list[Operand]:
        """The cotangents of the operands. A user's rules may look at shapes and types."""
        given = self._symbols(g, r, *r.args[1:], like=op[2:])
        rules, params = op.primitive.vjp, dict(op.params)
        mixing = f"step applies {op.primitive.name}, a rule of which is not elementwise"
        try:
            if callable(rules):
                found = rules(_SYMBOLS, *given, **params)
            else:
                found = [None if f is None else f(_SYMBOLS, *given, **params) for f in rules]
        except UnknownFunctionError:
            raise NotByUnitsError(mixing) from None
        if any(x is not None and x.shape != given[1].shape for x in found):
            raise NotByUnitsError(mixing)
        return [0.0 if x is None else x.registers[0] for x in found]

    def _saved(self, outputs: list[Operand]) -> set[Register]:
        """The values to save: those that do not follow from states and others by cheap operations."""
        saved: set[Register] = set()
        left, seen = outputs, set(self.after)
        while left:
            r = left.pop()
            if not isinstance(r, Register) or r in seen:
                continue
            seen.add(r)
            if self._is_saved(r):
                saved.add(r)
            elif is_identity(r):
                left.append(r.args[0])
            elif r.op != "input":
                left += r.args
        return saved

    def _is_saved(self, r: Register) -> bool:
        if _is_sum(r):
            return True
        if r not in self.steps or r.op in MASKS or is_identity(r) or not self._depends_on_sums(r):
            return False
        return r.op not in CHEAP or any(map(_is_sum, r.args))

    def _first_sum(self, r: Register) -> tuple[int, int]:
        """The sort key of a saved value: the first sum that it comes from, then the order of registers."""
        left, numbers = [r], [len(self.steps)]
        while left:
            a = left.pop()
            if _is_sum(a):
                numbers.append(a.args[1])
            elif a.op != "input" and a not in self.after:
                left += [x for x in a.args if isinstance(x, Register)]
        return min(numbers), r.order

    def _depends_on_sums(self, r: Operand) -> bool:
        """Whether a value depends on sums by another way than through the state after the step."""
        if not isinstance(r, Register) or r.op == "input" or r in self.after:
            return _is_sum(r) and r not in self.after
        if r not in self._of_sums:
            self._of_sums[r] = any(map(self._depends_on_sums, r.args))
        return self._of_sums[r]


def _is_sum(r: Operand) -> bool:
    return isinstance(r, Register) and r.op == "input" and r.args[0] == "sum"
