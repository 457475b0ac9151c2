"""The loops over time as LLVM's code: a few sequences at a time, a register of hidden units at a time.

What is a cell's own comes from its program, run on registers; the rest is the same for all cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llvmlite import ir

from ..program import Program
from .matrices import SUMS, WIDE, aligned, crossed, pack, pack_across, padded, product, products
from .operations import Operations
from .row_powers import RowCarry, at_powers, exponents
from .vectors import Array, Code, Value

STEPS = ("forward", "backward")
ROWS = ("exponents", "at_powers", "crossed")
"""The functions of a program's module, and of that for rows."""


def steps(program: Program, dtype: Any) -> ir.Module:
    """The loops over time of a program."""
    module = ir.Module()
    Forward(module, program, dtype).write()
    Backward(module, program, dtype).write()
    return module


def rows(dtype: Any) -> ir.Module:
    """The loops over rows of cotangents, which are the same for all programs."""
    module = ir.Module()
    exponents(module, dtype)
    at_powers(module, dtype)
    crossed(module, dtype)
    return module


class Steps:
    """A loop over time that is being written.

    Parameters
    ----------
    module : ir.Module
    program : Program
    dtype : numpy dtype
    """

    name: str
    arrays: tuple[str, ...]
    indices: tuple[str, ...]
    numbers: tuple[str, ...]

    def __init__(self, module: ir.Module, program: Program, dtype: Any) -> None:
        self.program = program
        self.parts = range(len(program.parts))
        own = (
            [f"initial{p}" for p in self.parts],
            [f"other{i}" for i in range(len(program.weights))],
        )
        arrays = *own[0], *own[1], *self.arrays, *self.indices, "scratch"
        self.code = code = Code(module, self.name, dtype, arrays, self.indices, self.numbers)
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
        """The cell's own weights of a register's hidden units."""
        places = [
            self.code.array(f"other{i}", blocks, self.H).at(block, unit)
            for i, blocks in enumerate(self.program.weights.values())
            for block in range(blocks)
        ]
        return {("weight", k): self.code.load(place) for k, place in enumerate(places)}


class Forward(Steps):
    """The function ``forward``: all steps of some sequences."""

    name = "forward"
    arrays = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "saved", "states")
    indices = ("lengths",)
    numbers = ("T", "B", "I", "H", "shortest", "first", "last")

    def write(self) -> None:
        """Write it."""
        code, program = self.code, self.program
        widths = (WIDE, 1) if program.sums == 1 else (1,)
        self._pack(widths)
        for t in code.loop(0, self.T):
            before = self.before(t)
            for j, width in code.over(self.H, widths):
                units = [j + q * code.count for q in range(width)]
                weights = [self.weights(unit) for unit in units]
                height = max(1, SUMS // (program.sums * width))
                for numbers in code.by_rows(self.last - self.first, height):
                    rows = [self.first + r for r in numbers]
                    for row, sums in zip(
                        rows, self._sums(t, rows, before[0], j, units), strict=True
                    ):
                        for q, unit in enumerate(units):
                            self._step(t, row, unit, before, sums[q::width], weights[q])
            with code.when(t >= code["shortest"]):
                self._stay(t, before)
        code.done()

    def _pack(self, widths: Any) -> None:
        """Both weights as panels, and where the sums begin, each behind the other."""
        code, H, size, program = self.code, self.H, self.code["I"], self.program
        columns = padded(code, H)
        self.panel_x = aligned(code, code["scratch"])
        self.panel_h = self.panel_x + columns * size * len(program.gates)
        self.bias = Array(self.panel_h + columns * H * len(program.gates), program.sums, columns)
        pack_across(code, code["weight_ih"], self.panel_x, size, H, program.x_gates, widths)
        pack_across(code, code["weight_hh"], self.panel_h, H, H, program.h_gates, widths)
        from_x = dict(enumerate(program.x_gates))
        from_h = dict(enumerate(program.h_gates, program.sums - len(program.gates)))
        for s in range(program.sums):
            for j, _ in code.over(H):
                terms = [
                    code.load(code[name] + (H * gates[s] + j))
                    for name, gates in (("bias_ih", from_x), ("bias_hh", from_h))
                    if s in gates
                ]
                code.store(sum(terms[1:], start=terms[0]), self.bias.at(s, j), whole=True)

    def _sums(
        self, t: Value, rows: list[Value], h: Array, j: Value, units: list[Value]
    ) -> list[list[Value]]:
        """The sums of some sequences: of each, those of all units by one gate after the other."""
        code, size, program = self.code, self.code["I"], self.program
        gates, apart = len(program.gates), (program.sums - len(program.gates)) * len(units)
        x = code.array("x", self.T, self.B, size)
        starts = [code.load(self.bias.at(s, unit)) for s in range(program.sums) for unit in units]
        by_x, rest = starts[: gates * len(units)], starts[gates * len(units) :]
        panel = self.panel_x + j * size * gates
        found = products(code, [x.at(t, row) for row in rows], panel, [by_x] * len(rows), size)
        sums = [row + rest for row in found]
        panel = self.panel_h + j * self.H * gates
        found = products(
            code, [h.at(row) for row in rows], panel, [row[apart:] for row in sums], self.H
        )
        return [row[:apart] + by_h for row, by_h in zip(sums, found, strict=True)]

    def _step(
        self, t: Value, row: Value, unit: Value, before: list[Array], sums: list[Value],
        weights: Mapping[Any, Value],
    ) -> None:  # fmt: skip
        """From sums to the state after a step, and to what backward needs, of a register's units."""
        code = self.code
        values = {("sum", s): x for s, x in enumerate(sums)} | dict(weights)
        values |= {("before", p): code.load(part.at(row, unit)) for p, part in enumerate(before)}
        for (kind, k), x in self.program.forward.run(values, Operations(code)).items():
            place = self.states.at(k, t, row) if kind == "after" else self.saved.at(t, row, k)
            code.store(x, place + unit)

    def _stay(self, t: Value, before: list[Array]) -> None:
        """Let the states of sequences that are over be as those before."""
        code = self.code
        for b in code.loop(self.first, self.last):
            with code.when(t >= code.scalar(code["lengths"] + b)):
                for p, part in enumerate(before):
                    for j, _ in code.over(self.H):
                        code.store(code.load(part.at(b, j)), self.states.at(p, t, b, j))


class Backward(Steps):
    """The function ``backward``: some steps back of some sequences; whether any power has changed.

    ``g`` (parts, L, T, B, H) are at the powers ``given``; ``value`` and ``power`` are what comes from
    later steps, (parts, L, B, H), and its powers. It writes the cotangents of the sums, the powers at
    every step, and the cotangents of the states, ``held``: of one step only, which is written over, where
    they are not wanted (``keep`` is the number of steps that are kept). Of what is given once for
    all rows, the factor of a row's number is 0: ``ragged`` of ``lengths``, ``various`` of ``given``.
    """

    name = "backward"
    arrays = ("weight_hh", "saved", "states", "g", "value", "sums", "held")
    indices = ("lengths", "given", "power", "every")
    numbers = ("L", "T", "B", "H", "start", "stop", "keep", "ragged", "various", "first", "last")

    def __init__(self, module: ir.Module, program: Program, dtype: Any) -> None:
        super().__init__(module, program, dtype)
        code, L, T, B, H = self.code, self.code["L"], self.T, self.B, self.H
        self.steps, parts = code["stop"] - code["start"], len(self.parts)
        self.value = code.array("value", parts, L, B, H)
        self.g = code.array("g", parts, L, T, B, H)
        self.held = code.array("held", parts, L, code["keep"], B, H)
        self.sums = code.array("sums", L, self.steps, B, program.columns, H)
        self.carry = RowCarry(code, dtype)

    def write(self) -> None:
        """Write it."""
        code, program, H = self.code, self.program, self.H
        panel, gates = aligned(code, code["scratch"]), len(program.gates)
        weight = code.array("weight_hh", gates, H, H)
        for q, gate in enumerate(program.h_gates):
            pack(code, weight.at(gate), panel, H, H, H, (WIDE, 1), H * gates, H * q)
        for e in code.loop(0, code["L"]):
            for back in code.loop(1, self.steps + 1):
                i = self.steps - back
                t = code["start"] + i
                before = self.before(t)
                for b in code.loop(self.first, self.last):
                    self._row(e, i, t, b, before)
                product(
                    code, partial(self._sums_by_h, e, i), panel, self.value.at(0, e), H * gates, H,
                    self.first, self.last, start=("before", 0) in program.backward.outputs,
                )  # fmt: skip
        code.done(self.carry.moved())

    def _sums_by_h(self, e: Value, i: Value, b: Value) -> Value:
        """The cotangents of a row's sums that depend on the state before."""
        return self.sums.at(e, i, b, self.program.sums - len(self.program.gates))

    def _row(self, e: Value, i: Value, t: Value, b: Value, before: list[Array]) -> None:
        """Add what arrives at a step of a sequence, and go to the cotangents of its sums."""
        code, L, T, B = self.code, self.code["L"], self.T, self.B
        value = [self.value.at(p, e, b) for p in self.parts]
        held = [self.held.at(p, e, i % code["keep"], b) for p in self.parts]
        g = [self.g.at(p, e, t, b) for p in self.parts]
        given = code.scalar(
            code["given"] + Array(self.g.pointer, L, T, B).offset(e, t, b) * code["various"]
        )
        power = self.carry.add(self.H, value, code.array("power", L, B).at(e, b), g, given, held)
        code.put(power, code.array("every", L, self.steps, B).at(e, i, b))
        over = t >= code.scalar(code["lengths"] + b * code["ragged"])
        with code.builder.if_else(over.value) as (stopped, running):
            with stopped:  # the state stayed as it was, as a constant
                for j, _ in code.over(self.H * self.program.columns):
                    code.store(0.0, self.sums.at(e, i, b) + j)
                for row in value:
                    for j, _ in code.over(self.H):
                        code.store(0.0, row + j)
            with running:
                self._back(t, b, before, held, self.sums.at(e, i, b), value)

    def _back(
        self,
        t: Value,
        b: Value,
        before: list[Array],
        held: list[Value],
        sums: Value,
        on: list[Value],
    ) -> None:
        """From the cotangents of a row's state to those of sums and weights, and of the state before."""
        code, program, powers = self.code, self.program, self.carry.powers
        places = {("before", p): part.at(b) for p, part in enumerate(before)}
        places |= {("after", p): self.states.at(p, t, b) for p in self.parts}
        places |= {("saved", k): self.saved.at(t, b, k) for k in range(program.saved)}
        places |= {("grad", p): row for p, row in enumerate(held)}
        places = {key: place for key, place in places.items() if key in program.backward.inputs}
        for j, _ in code.over(self.H):
            values = {key: code.load(place + j) for key, place in places.items()} | self.weights(j)
            found = program.backward.run(values, Operations(code))
            for p, row in enumerate(held):
                code.store(found.get(("kept", p), 0.0), row + j)
                if p or ("before", 0) in found:
                    code.store(found.get(("before", p), 0.0), on[p] + j)
            for s in range(program.columns):
                key = ("sum", s) if s < program.sums else ("weight", s - program.sums)
                code.store(
                    powers.flushed(code.spread(found.get(key, 0.0))), sums + (self.H * s + j)
                )
