"""The step of a cell as lines of a formula, any of which can be replaced by a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from ...nn import GRU, LSTM, RNN
from ...nn.nonlinearity import apply_nonlinearity
from ...recurrence.scans import Scan
from ...tensors import functions
from ...tensors.functions import concat, sigmoid, tanh

Line = Callable[..., Any]
"""A function whose arguments are named after what it reads: other lines, inputs, or blocks of them."""


@dataclass(frozen=True)
class Reading:
    """A line whose arguments are named by text, where they are not written out.

    Attributes
    ----------
    reads : tuple of str
    compute : callable
    """

    reads: tuple[str, ...]
    compute: Callable[..., Any]

    def __call__(self, *values: Any) -> Any:
        """Compute the line."""
        return self.compute(*values)


@dataclass(frozen=True)
class Bend(Reading):
    """A line that is a nonlinearity of one other line.

    Attributes
    ----------
    kind : str
        ``"sigmoid"``, ``"tanh"``, or what it is called in a message.
    """

    kind: str


@dataclass(frozen=True)
class Formula:
    """The lines of a step.

    A line reads the inputs x, h and c (the state before the step), the parameters by PyTorch's names, and
    other lines by their names. A gate's name at the end asks for one block: ``from_x_i`` for the columns of
    ``from_x`` that belong to gate i, ``weight_hh_n`` for the rows of ``weight_hh`` that belong to gate n.

    Attributes
    ----------
    gates : tuple of str
        In the order of their blocks; a single block has no name.
    state : tuple of str
        The parts of the state; the line ``h_t`` computes the part ``h`` after the step.
    lines : dict of str to callable
    detached : str
        The line or input that no gradient goes through; empty for none.
    """

    gates: tuple[str, ...]
    state: tuple[str, ...]
    lines: Mapping[str, Line] = field(repr=False)
    detached: str = ""

    def __call__(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the gates and the next state, by their names."""
        values = _Values(self, given)
        found = {gate: values[gate] for gate in self.gates if gate in self.lines}
        return found | {part: values[f"{part}_t"] for part in self.state}

    def changed(self, lines: Mapping[str, Line], **changes: Any) -> Formula:
        """Return a formula with some lines in the place of others."""
        return replace(self, lines={**self.lines, **lines}, **changes)


class _Values(dict[str, Any]):
    """What was computed so far; the rest is computed when it is asked for."""

    def __init__(self, formula: Formula, given: Mapping[str, Any]) -> None:
        self._formula = formula
        super().__init__({name: self._passed(name, value) for name, value in given.items()})

    def __missing__(self, name: str) -> Any:
        line = self._formula.lines.get(name)
        value = self._block(name) if line is None else line(*[self[read] for read in _reads(line)])
        self[name] = self._passed(name, value)
        return self[name]

    def _block(self, name: str) -> Any:
        """One gate's rows of a parameter, or its columns of anything else."""
        whole, _, gate = name.rpartition("_")
        gates, x = self._formula.gates, self[whole]
        axis = 0 if whole.startswith(("weight", "bias")) else -1
        units, k = x.shape[axis] // len(gates), gates.index(gate)
        part = slice(k * units, (k + 1) * units)
        return x[part] if axis == 0 else x[..., part]

    def _passed(self, name: str, value: Any) -> Any:
        return value.detach() if name == self._formula.detached else value


def _reads(line: Line) -> tuple[str, ...]:
    if isinstance(line, Reading):
        return line.reads
    code = line.__code__
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    return names


def _bend(kind: str, reads: str) -> Bend:
    return Bend((reads,), sigmoid if kind == "sigmoid" else tanh, kind)


SUMS: dict[str, Line] = {
    "from_x": lambda x, weight_ih, bias_ih: x @ weight_ih.T + bias_ih,
    "from_h": lambda h, weight_hh, bias_hh: h @ weight_hh.T + bias_hh,
}
"""The two sums that every cell begins with."""


def _added(gates: str) -> dict[str, Line]:
    """The lines a_i = from_x_i + from_h_i."""
    return {f"a_{g}": Reading((f"from_x_{g}", f"from_h_{g}"), lambda x, h: x + h) for g in gates}


LSTM_FORMULA = Formula(
    ("i", "f", "g", "o"),
    ("h", "c"),
    {
        **SUMS,
        **_added("ifgo"),
        "i": _bend("sigmoid", "a_i"),
        "f": _bend("sigmoid", "a_f"),
        "g": _bend("tanh", "a_g"),
        "o": _bend("sigmoid", "a_o"),
        "c_t": lambda f, c, i, g: f * c + i * g,
        "tanh(c_t)": _bend("tanh", "c_t"),
        "h_t": Reading(("o", "tanh(c_t)"), lambda o, y: o * y),
    },
)

GRU_FORMULA = Formula(
    ("r", "z", "n"),
    ("h",),
    {
        **SUMS,
        **_added("rz"),
        "r": _bend("sigmoid", "a_r"),
        "z": _bend("sigmoid", "a_z"),
        "a_n": lambda from_x_n, r, from_h_n: from_x_n + r * from_h_n,
        "n": _bend("tanh", "a_n"),
        "h_t": lambda n, z, h: (1 - z) * n + z * h,
    },
)

RNN_FORMULA = Formula(
    ("",),
    ("h",),
    {**SUMS, "a": lambda from_x, from_h: from_x + from_h, "h_t": _bend("tanh", "a")},
)
"""A vanilla RNN with tanh."""


def formula_of(scan: Scan, options: Mapping[str, Any]) -> Formula:
    """Return the formula of a cell: line by line for those of ours, else with its step in one line."""
    if scan is RNN.scan:
        sigma = options["nonlinearity"]
        bend = Bend(
            ("a",), lambda a: apply_nonlinearity(sigma, a), str(getattr(sigma, "__name__", sigma))
        )
        return RNN_FORMULA.changed({"h_t": bend})
    for layer, formula in ((LSTM, LSTM_FORMULA), (GRU, GRU_FORMULA)):
        if scan is layer.scan:
            return formula
    return _in_one_line(scan, options)


def _in_one_line(scan: Scan, options: Mapping[str, Any]) -> Formula:
    """The formula of a cell of which only the step is known."""

    def step(from_x: Any, from_h: Any, *values: Any) -> Any:
        state, weights = values[: len(scan.parts)], values[len(scan.parts) :]
        given = dict(zip(scan.weights, weights, strict=True))
        return scan.step(functions, from_x, from_h, state, **given, **options)

    def in_order(*blocks: Any) -> Any:
        return concat(blocks, axis=-1)

    return Formula(
        scan.gates,
        scan.parts,
        {
            **SUMS,
            **({} if "h" in scan.parts else {"h": Reading(scan.parts[:1], lambda h: h)}),
            "x in order": Reading(tuple(f"from_x_{gate}" for gate in scan.gates), in_order),
            "h in order": Reading(tuple(f"from_h_{gate}" for gate in scan.gates), in_order),
            "state": Reading(("x in order", "h in order", *scan.parts, *scan.weights), step),
            **{f"{p}_t": Reading(("state",), itemgetter(k)) for k, p in enumerate(scan.parts)},
        },
    )
