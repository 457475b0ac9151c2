"""The loops over time as LLVM's code.

:mod:`..compiled` has these modules compiled and calls their functions. Each function takes some sequences,
from ``first`` to ``last``, so that threads can share a batch. Hidden units are computed a register at a
time. What differs between cells comes from the program, whose listings are run on registers; the rest is
common to all cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from ..program import Program
from .matrices import (
    SUMS,
    WIDE,
    Factors,
    Matrix,
    aligned,
    crossed,
    pack,
    pack_transposed,
    padded,
    times_packed,
    times_panel,
)  # fmt: skip
from .operations import Operations
from .row_powers import Row, RowCarry, at_powers, exponents
from .vectors import Array, Code, Value

STEP_FUNCTIONS = ("forward", "backward")
"""The functions of :func:`step_module`."""

ROW_FUNCTIONS = ("exponents", "at_powers", "crossed")
"""The functions of :func:`row_module`."""


def step_module(program: Program, dtype: Any) -> ir.Module:
    """The loops over time of a program."""
    module = ir.Module()
    Forward(module, program, dtype).write()
    Backward(module, program, dtype).write()
    return module


def row_module(dtype: Any) -> ir.Module:
    """The loops over rows of cotangents, which do not depend on a program."""
    module = ir.Module()
    for write in (exponents, at_powers, crossed):
        write(module, dtype)
    return module


class TimeLoop:
    """A loop over time that is being written.

    Its function takes ``arrays`` of the type, ``integers``, which are arrays of 64-bit integers, and
    ``numbers``. Before them come the parts of the initial state and the cell's further weights; ``scratch``
    is memory for packed weights.
    """

    name: str
    arrays: tuple[str, ...]
    integers: tuple[str, ...]
    numbers: tuple[str, ...]

    def __init__(self, module: ir.Module, program: Program, dtype: Any) -> None:
        self.program = program
        self.parts = range(len(program.parts))
        arrays = [f"initial{p}" for p in self.parts]
        arrays += [f"other{i}" for i in range(len(program.weights))]
        arrays += [*self.arrays, *self.integers, "scratch"]
        self.code = code = Code(module, self.name, dtype, arrays, self.integers, self.numbers)
        self.T, self.B, self.H, self.first, self.last = (
            code[n] for n in ("T", "B", "H", "first", "last")
        )
        self.states = code.array("states", len(self.parts), self.T, self.B, self.H)
        self.saved = code.array("saved", self.T, self.B, program.saved, self.H)

    def before(self, t: Value) -> list[Array]:
        """The parts of the state before a step, (B, H)."""
        return [
            Array(self.states.at(p, t - 1).where(t == 0, self.code[f"initial{p}"]), self.B, self.H)
            for p in self.parts
        ]

    def weights(self, unit: Value) -> dict[Any, Value]:
        """The cell's further weights of the units in a register."""
        places = [
            self.code.array(f"other{i}", blocks, self.H).at(block, unit)
            for i, blocks in enumerate(self.program.weights.values())
            for block in range(blocks)
        ]
        return {("weight", k): self.code.load(place) for k, place in enumerate(places)}


class _Panels(NamedTuple):
    """The packed weights of a forward loop, and the biases (sums, padded H) that its sums start with."""

    weight_ih: Value
    weight_hh: Value
    bias: Array


class Forward(TimeLoop):
    """The function ``forward``: all steps of some sequences."""

    name = "forward"
    arrays = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "saved", "states")
    integers = ("lengths",)
    numbers = ("T", "B", "I", "H", "shortest", "first", "last")

    def write(self) -> None:
        """Write it."""
        code, program = self.code, self.program
        widths = (WIDE, 1) if program.sums == 1 else (1,)
        panels = self._packed(widths)
        for t in code.loop(0, self.T):
            before = self.before(t)
            for j, width in code.over(self.H, widths):
                units = [j + q * code.count for q in range(width)]
                weights = [self.weights(unit) for unit in units]
                height = max(1, SUMS // (program.sums * width))
                for numbers in code.by_rows(self.last - self.first, height):
                    rows = [self.first + r for r in numbers]
                    every = self._sums(panels, t, rows, before[0], units)
                    for row, sums in zip(rows, every, strict=True):
                        for q, unit in enumerate(units):
                            self._step(t, row, unit, before, sums[q::width], weights[q])
            with code.when(t >= code["shortest"]):
                self._freeze_finished(t, before)
        code.done()

    def _packed(self, widths: Sequence[int]) -> _Panels:
        """Pack both weights, and add the biases of each sum."""
        code, H, size, program = self.code, self.H, self.code["I"], self.program
        columns = padded(code, H)
        panel_x = aligned(code, code["scratch"])
        panel_h = panel_x + columns * size * len(program.gates)
        bias = Array(panel_h + columns * H * len(program.gates), program.sums, columns)
        pack_transposed(code, code["weight_ih"], panel_x, size, H, program.x_gates, widths)
        pack_transposed(code, code["weight_hh"], panel_h, H, H, program.h_gates, widths)
        gates_of_x = dict(enumerate(program.x_gates))
        gates_of_h = dict(enumerate(program.h_gates, program.sums - len(program.gates)))
        for s in range(program.sums):
            for j, _ in code.over(H):
                terms = [
                    code.load(code[name] + (H * gates[s] + j))
                    for name, gates in (("bias_ih", gates_of_x), ("bias_hh", gates_of_h))
                    if s in gates
                ]
                code.store(sum(terms[1:], start=terms[0]), bias.at(s, j), unmasked=True)
        return _Panels(panel_x, panel_h, bias)

    def _sums(
        self, panels: _Panels, t: Value, rows: list[Value], h: Array, units: list[Value]
    ) -> list[list[Value]]:
        """The sums of each row: those of all units by one gate after the other."""
        code, size, program = self.code, self.code["I"], self.program
        gates, apart = len(program.gates), (program.sums - len(program.gates)) * len(units)
        x = code.array("x", self.T, self.B, size)
        starts = [code.load(panels.bias.at(s, unit)) for s in range(program.sums) for unit in units]
        of_x, of_h_only = starts[: gates * len(units)], starts[gates * len(units) :]
        panel = panels.weight_ih + units[0] * size * gates
        factors = Factors([x.at(t, row) for row in rows])
        by_x = times_panel(code, factors, panel, [of_x] * len(rows), size)
        sums = [row + of_h_only for row in by_x]
        panel = panels.weight_hh + units[0] * self.H * gates
        factors = Factors([h.at(row) for row in rows])
        by_h = times_panel(code, factors, panel, [row[apart:] for row in sums], self.H)
        return [row[:apart] + of_h for row, of_h in zip(sums, by_h, strict=True)]

    def _step(
        self, t: Value, row: Value, unit: Value, before: list[Array], sums: list[Value],
        weights: Mapping[Any, Value],
    ) -> None:  # fmt: skip
        """Run the program's forward listing: from sums to the state after the step and the saved values."""
        code = self.code
        values = {("sum", s): x for s, x in enumerate(sums)} | dict(weights)
        values |= {("before", p): code.load(part.at(row, unit)) for p, part in enumerate(before)}
        for (kind, k), x in self.program.forward.run(values, Operations(code)).items():
            place = self.states.at(k, t, row) if kind == "after" else self.saved.at(t, row, k)
            code.store(x, place + unit)

    def _freeze_finished(self, t: Value, before: list[Array]) -> None:
        """Copy the state before the step for sequences that have ended."""
        code = self.code
        for b in code.loop(self.first, self.last):
            with code.when(t >= code.load_scalar(code["lengths"] + b)):
                for p, part in enumerate(before):
                    for j, _ in code.over(self.H):
                        code.store(code.load(part.at(b, j)), self.states.at(p, t, b, j))


class Backward(TimeLoop):
    """The function ``backward``: back over the steps from ``start`` to ``stop``.

    It returns 1 if the power of a row changed. It reads ``g`` (parts, L, T, B, H), whose rows have the
    powers ``g_powers``. ``value`` (parts, L, B, H) and its powers ``power`` are what comes from later
    steps; both are overwritten. It writes the cotangents of the sums, ``step_powers`` of all steps, and
    ``whole_grads``, the cotangents of the states. The last has ``kept_steps`` steps: a single one, which is
    overwritten, where they are not wanted. ``vary_lengths`` and ``vary_powers`` are 0 where one number is
    given for all rows, else 1.
    """

    name = "backward"
    arrays = ("weight_hh", "saved", "states", "g", "value", "sums", "whole_grads")
    integers = ("lengths", "g_powers", "power", "step_powers")
    numbers = ("L", "T", "B", "H", "start", "stop", "kept_steps", "vary_lengths", "vary_powers",
               "first", "last")  # fmt: skip

    def __init__(self, module: ir.Module, program: Program, dtype: Any) -> None:
        super().__init__(module, program, dtype)
        code, L, T, B, H = self.code, self.code["L"], self.T, self.B, self.H
        self.steps, parts = code["stop"] - code["start"], len(self.parts)
        self.value = code.array("value", parts, L, B, H)
        self.g = code.array("g", parts, L, T, B, H)
        self.whole_grads = code.array("whole_grads", parts, L, code["kept_steps"], B, H)
        self.sums = code.array("sums", L, self.steps, B, program.columns, H)
        self.carry = RowCarry(code, dtype)

    def write(self) -> None:
        """Write it."""
        code, program, H = self.code, self.program, self.H
        panel, gates = aligned(code, code["scratch"]), len(program.gates)
        weight = code.array("weight_hh", gates, H, H)
        for q, gate in enumerate(program.h_gates):
            pack(code, Matrix(weight.at(gate), H, H, H), panel, (WIDE, 1), H * gates, H * q)
        by_h = program.sums - gates  # the first sum that depends on the state
        for e in code.loop(0, code["L"]):
            for back in code.loop(1, self.steps + 1):
                i = self.steps - back
                t = code["start"] + i
                before = self.before(t)
                for b in code.loop(self.first, self.last):
                    self._row(e, i, t, b, before)

                def sums_by_h(rows: list[Value], e: Value = e, i: Value = i) -> Factors:
                    return Factors([self.sums.at(e, i, b, by_h) for b in rows])

                times_packed(
                    code, sums_by_h, panel, Matrix(self.value.at(0, e), self.last, H, H), H * gates,
                    self.first, add=("before", 0) in program.backward.outputs,
                )  # fmt: skip
        code.done(self.carry.moved())

    def _row(self, e: Value, i: Value, t: Value, b: Value, before: list[Array]) -> None:
        """Add what arrives at step t of a sequence, and go on to the cotangents of its sums."""
        code, L, T, B = self.code, self.code["L"], self.T, self.B
        value = [self.value.at(p, e, b) for p in self.parts]
        grads = [self.whole_grads.at(p, e, i % code["kept_steps"], b) for p in self.parts]
        g = [self.g.at(p, e, t, b) for p in self.parts]
        offset = Array(self.g.pointer, L, T, B).offset(e, t, b) * code["vary_powers"]
        arriving = Row(self.H, g, code.load_scalar(code["g_powers"] + offset))
        place = code.array("power", L, B).at(e, b)
        carried = Row(self.H, value, code.load_scalar(place))
        power = self.carry.add(carried, place, arriving, grads)
        code.store_scalar(power, code.array("step_powers", L, self.steps, B).at(e, i, b))
        finished = t >= code.load_scalar(code["lengths"] + b * code["vary_lengths"])
        with code.builder.if_else(finished.value) as (stopped, running):
            with stopped:  # the state stayed as a constant: no cotangent goes on
                for j, _ in code.over(self.H * self.program.columns):
                    code.store(0.0, self.sums.at(e, i, b) + j)
                for row in value:
                    for j, _ in code.over(self.H):
                        code.store(0.0, row + j)
            with running:
                self._step_back(t, b, before, grads, self.sums.at(e, i, b), value)

    def _step_back(
        self, t: Value, b: Value, before: list[Array], grads: list[Value], sums: Value,
        value: list[Value],
    ) -> None:  # fmt: skip
        """Run the backward listing for a row: from ``grads`` to the whole ones, ``sums`` and ``value``."""
        code, program, powers = self.code, self.program, self.carry.powers
        places = {("before", p): part.at(b) for p, part in enumerate(before)}
        places |= {("after", p): self.states.at(p, t, b) for p in self.parts}
        places |= {("saved", k): self.saved.at(t, b, k) for k in range(program.saved)}
        places |= {("grad", p): row for p, row in enumerate(grads)}
        places = {key: place for key, place in places.items() if key in program.backward.inputs}
        for j, _ in code.over(self.H):
            values = {key: code.load(place + j) for key, place in places.items()} | self.weights(j)
            found = program.backward.run(values, Operations(code))
            for p, row in enumerate(grads):
                code.store(found.get(("whole_grad", p), 0.0), row + j)
                if p or ("before", 0) in found:
                    code.store(found.get(("before", p), 0.0), value[p] + j)
            for s, key in enumerate(program.column_keys):
                x = powers.flushed(code.spread(found.get(key, 0.0)))
                code.store(x, sums + (self.H * s + j))
