"""Interventions: the gates of a cell's step, and the step with another value in the place of a gate.

A cell names the blocks of its sums. The gate of a block is the value of the nonlinearity that the block
goes through: σ(x_f + h_f) for f of an LSTM, tanh(x_n + r ∘ h_n) for n of a GRU. The gate is found in the
cell's program, and the changed step runs from that program. It is a step like any other: the layer runs it
step by step, and every view of the inspector reads the record.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from ..engine.modes import MODES, Scope
from ..engine.recording import apply
from ..errors import ArgumentError, DTypeError, GraphError, ShapeError, UnknownPathError
from ..kernels.program import Listing, Register, UserPrimitive, evaluate, reachable
from ..tensors import functions
from ..tensors.tensor import Tensor
from .scans import Scan, step_params
from .tracing import listed

Change = Callable[[Tensor], Tensor]
"""A function from a gate's value to the value that is used instead."""

# --- one intervention ---------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Intervention:
    """A gate to be set wherever its layer or cell runs, and a record of where it has run.

    Attributes
    ----------
    path : str
        The module path of the layer; ``"#2"`` at its end means only the second call.
    gate : str or None
        The gate's name; None for the only gate of a cell.
    change : callable
        A function from the gate's value to the Tensor, of the same shape, that is used instead.
    times : container of int, or None
        The time steps at which the gate is set; None for all.
    calls : dict of str to dict
        Path at which a recurrence ran → number of each call → its ordinal.
    reached : set of int or None
        The time steps at which the gate has been set.
    """

    path: str
    gate: str | None
    change: Change
    times: Container[int] | None
    calls: dict[str, dict[int, int]] = field(default_factory=dict)
    reached: set[int | None] = field(default_factory=set)

    def applies_at(self, place: Scope) -> bool:
        """Whether a recurrence that is about to run at a place is meant; the call is counted.

        Raises
        ------
        GraphError
            The path counts calls, but a backward pass runs this call again.
        """
        path, _, ordinal = self.path.partition("#")
        calls = self.calls.setdefault(place.module, {})
        number = calls.setdefault(place.call, len(calls) + 1)
        if path != place.module or not ordinal:
            return path == place.module
        if MODES.get().running:
            raise GraphError(
                f"intervene: {self.path!r} counts calls, and tg.remat calls {path!r} again in the backward "
                f"pass; name all calls, {path!r}, or leave tg.remat away"
            )
        return ordinal == str(number)

    def includes(self, time: int | None) -> bool:
        """Whether the gate is set at a time step.

        Raises
        ------
        ArgumentError
            The intervention is for some steps only, and this step has no number.
        """
        if self.times is None:
            return True
        if time is None:
            raise ArgumentError(
                f"intervene: time= is for layers, and {self.path!r} is a cell whose steps have no number; "
                "enter the context at the steps of your loop that are meant"
            )
        return time in self.times

    def applied(self, gate: Tensor) -> Tensor:
        """The value that is used instead of the gate's.

        Raises
        ------
        ShapeError, DTypeError
            It does not have the shape or dtype of the gate.
        """
        name = f"gate {self.gate!r}" if self.gate else "the gate"
        found = f"intervene: {name} of {self.path!r} is (B, H) = {gate.shape}"
        try:
            new: Any = self.change(gate)
        except ShapeError as error:
            raise ShapeError(f"{found}; {error}") from error
        if not isinstance(new, Tensor):
            raise DTypeError(f"{found}; the function returns a {type(new).__name__}, not a Tensor")
        if new.shape != gate.shape:
            raise ShapeError(f"{found}, and what takes its place has shape {new.shape}")
        if new.dtype != gate.dtype and "c" not in (new.dtype.kind, gate.dtype.kind):
            raise DTypeError(
                f"{found} of {gate.dtype}, and what takes its place is {new.dtype}; "
                f"write .astype({str(gate.dtype)!r})"
            )
        self.reached.add(MODES.get().scope.time)
        return new


# --- the recurrence with gates set ----------------------------------------------------------------


def intervened(scan: Scan, params: dict[str, Any]) -> Scan:
    """The recurrence that runs at this place of the model, with its gates set if there are interventions.

    Raises
    ------
    UnknownPathError
        The cell has no gate of that name; the message lists those that it has.
    ArgumentError
        No value of the step is the gate.
    """
    modes = MODES.get()
    here = [i for i in modes.interventions if i.applies_at(modes.scope)]
    if not here:
        return scan
    options = step_params(params)
    for i in here:
        _check(i, scan, options)
    listing = listed(scan, options)
    gates = [(i, _register(i, scan, listing)) for i in here]

    def step(xp: Any, x: Any, h: Any, state: Any, **given: Any) -> tuple[Any, ...]:
        time, changes = MODES.get().scope.time, dict[Any, list[Change]]()
        for i, gate in gates:
            if i.includes(time):
                changes.setdefault(gate, []).append(i.applied)
        if not changes:
            return scan.step(xp, x, h, state, **given)
        weights = [given[name] for name in scan.weights]
        return _changed(listing, changes, x, h, state, weights)

    return Scan.of(scan.name, step, scan.gates, scan.parts, scan.weights)


def _changed(
    step: Listing,
    changes: Mapping[Register, Sequence[Change]],
    x: Tensor,
    h: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Run a step from its program, where ``changes`` replace some values."""
    units = state[0].shape[-1]
    inputs = _blocks("x", [x], units) | _blocks("h", [h], units)
    inputs |= _blocks("before", state, units) | _blocks("weight", weights, units)
    found: dict[Any, Any] = {}
    for r in step.instructions:
        args = [found.get(a, a) for a in r.args]
        if r.op == "where" and not any(isinstance(a, Tensor) for a in args[1:]):
            args[1] = functions.full_like(state[0], args[1])  # two numbers have no dtype
        if r.op == "input":
            value = inputs[r.args]
        elif r.op == "constant":
            value = args[0].detach()
        elif isinstance(r.op, UserPrimitive):
            value = apply(r.op.primitive, *args[1:], **dict(r.op.params))
        else:
            value = evaluate(functions, r.op, *args)
        for change in changes.get(r, ()):
            value = change(value)
        found[r] = value
    return tuple([_like(found.get(r, r), state[0]) for r in step.outputs.values()])


def _like(part: Any, state: Tensor) -> Tensor:
    """A part of the next state in the state's shape: numbers and values of weights alone have no batch."""
    if not isinstance(part, Tensor):
        return functions.full_like(state, part)
    return part if part.shape == state.shape else functions.broadcast_to(part, state.shape)


def _blocks(kind: str, arrays: Sequence[Tensor], units: int) -> dict[Any, Tensor]:
    """Arrays as blocks of ``units`` columns, by their keys in a program."""
    blocks: list[Tensor] = []
    for a in arrays:
        width = a.shape[-1]
        blocks += [a] if width == units else [a[..., i : i + units] for i in range(0, width, units)]
    return {(kind, k): block for k, block in enumerate(blocks)}


# --- which value is a gate ----------------------------------------------------------------------


def _check(i: Intervention, scan: Scan, options: dict[str, Any]) -> None:
    """Raise if a cell has no such gate, or if its gates cannot be found."""
    names = ", ".join(map(repr, scan.gates))
    if i.gate is None and len(scan.gates) > 1:
        raise UnknownPathError(f"intervene: choose one of the gates of {i.path!r}: {names}")
    if i.gate is not None and i.gate not in scan.gates:
        raise UnknownPathError(f"intervene: {i.path!r} has no gate {i.gate!r}; it has {names}")
    if scan.program(**options) is None:
        raise ArgumentError(
            f"intervene: the gates of {i.path!r} cannot be found in its step: "
            f"{scan.why_unrolled(**options)}; or give the step an option that sets the gate"
        )


def _register(i: Intervention, scan: Scan, step: Listing) -> Register:
    """The register of the gate that an intervention sets."""
    k = scan.gates.index(i.gate) if i.gate else 0
    gate = gate_registers(scan, step)[k]
    if gate is None:
        raise ArgumentError(
            f"intervene: no value in the step of {i.path!r} is that of {scan.gates[k]!r} alone; let the "
            "step compute one from the gate's columns of x and h, and use nothing else of these"
        )
    return gate


def gate_registers(scan: Scan, step: Listing) -> list[Register | None]:
    """The registers of a cell's gates in its step; None for a gate that is not a single value."""
    sums: list[set[Register]] = [set() for _ in scan.gates]
    for r in step.instructions:
        if r.op == "input" and r.args[0] in ("x", "h"):
            sums[r.args[1]].add(r)
    return gates_of(step, sums)


def gate_reader(scan: Scan, options: dict[str, Any]) -> Callable[..., dict[str, Tensor]]:
    """Return a function that computes the gates of a cell that are values of its step, by name.

    Its arguments are the two sums of a step, the state before it, and the further weights of the cell.
    """
    if scan.program(**options) is None:
        return lambda x, h, state, weights: {}
    step = listed(scan, options)
    named = zip(gate_registers(scan, step), scan.gates, strict=True)
    names = {register: gate for register, gate in named if register is not None}

    def gates(
        x: Tensor, h: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def stored(gate: str) -> Change:
            return lambda value: seen.setdefault(gate, value)

        changes = {register: [stored(gate)] for register, gate in names.items()}
        _changed(step, changes, x, h, state, weights)
        return seen

    return gates


def gates_of(step: Listing, sums: Sequence[set[Register]]) -> list[Register | None]:
    """The register of the nonlinearity that each block of the sums goes through; None if there is none.

    Parameters
    ----------
    step : Listing
    sums : sequence of set of Register
        The sums of each block, among the step's instructions.
    """
    gates = [_gate(step, block) for block in sums]
    return [gate if gates.count(gate) == 1 else None for gate in gates]


def _gate(step: Listing, sums: set[Register]) -> Register | None:
    """The register of the nonlinearity that one block of the sums goes through.

    Some values lie on every path from the block to the next state, one after the other. The first of them
    joins the block's two sums. Then terms of the state or of other gates may be added. Functions of the
    result alone follow, and the gate is the value of the last nonlinear one. If the step has no such
    function, the gate is the sum itself.
    """
    every, ends = step.instructions, step.outputs.values()
    path = [r for r in every if _is_on_every_path(r, sums, ends)]
    if not sums or not path or not _dependence(sums, path[0]).linear:
        return None
    added, gate = [path[0]], None
    for before, r in pairwise(path):
        alone, linear = _dependence({before}, r)
        if alone and not linear:
            gate = r
        elif not alone and (gate or r.op not in ("add", "subtract")):
            break
        elif not gate:
            added.append(r)
    if gate or any(_dependence({z}, r) == (True, False) for z in added for r in every):
        return gate
    return path[0]


def _is_on_every_path(r: Register, sums: set[Register], ends: Any) -> bool:
    """Whether every path from the sums to the ends goes through ``r``."""
    reached = sums - {r}
    for other in reachable(ends):
        if other is not r and not reached.isdisjoint(other.args):
            reached.add(other)
    return reached.isdisjoint(ends)


class _Dependence(NamedTuple):
    """Whether a value depends on some others, weights and numbers alone; whether it is linear in them."""

    alone: bool
    linear: bool


def _dependence(before: set[Register], r: Register) -> _Dependence:
    """Find how a value depends on some values before it."""
    alone = linear = True
    moving = {*before}
    for a in reachable([r], before):
        if a in before:
            continue
        if a.op == "input":
            alone = alone and a.args[0] == "weight"
            continue
        of = [x in moving for x in a.args]
        if any(of):
            moving.add(a)
            linear = linear and _is_linear(a.op, of)
    return _Dependence(alone, linear)


def _is_linear(op: str, of: list[bool]) -> bool:
    """Whether an operation is linear, up to a constant, in the operands that ``of`` marks."""
    if op in ("multiply", "divide"):
        return of == [True, False] or (op == "multiply" and of == [False, True])
    return op in ("add", "subtract", "negative", "constant")
