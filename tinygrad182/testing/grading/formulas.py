"""The steps of our cells as lines of formulas. A mistake replaces some lines by wrong ones."""

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

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

Line = Callable[..., Any]
"""A function; its arguments have the names of the lines, inputs or blocks that it reads."""


@dataclass(frozen=True)
class Reading:
    """A line with the names of its arguments as text."""

    reads: tuple[str, ...]
    compute: Callable[..., Any]

    def __call__(self, *values: Any) -> Any:
        """Compute the line."""
        return self.compute(*values)


@dataclass(frozen=True)
class Bend(Reading):
    """A line that applies a nonlinearity to one other line; ``kind`` is its name in messages."""

    kind: str


@dataclass(frozen=True)
class Formula:
    """A step as a formula of several lines.

    A line reads x, the state before the step (h and c), the parameters by PyTorch's names, and other lines
    by their names. A gate's name at the end selects one block: ``from_x_i`` is the columns of ``from_x``
    for gate i, ``weight_hh_n`` the rows of ``weight_hh`` for gate n.

    Attributes
    ----------
    gates : tuple of str
        The gates in the order of their blocks; a single block has an empty name.
    state : tuple of str
        The parts of the state; the line ``h_t`` computes the part ``h`` after the step.
    lines : dict of str to callable
    detached : str
        The line or input that no gradient goes through; empty if there is none.
    """

    gates: tuple[str, ...]
    state: tuple[str, ...]
    lines: Mapping[str, Line] = field(repr=False)
    detached: str = ""

    def __call__(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the gates and the next state, by their names."""
        values = _Values(self, given)
        gates = {gate: values[gate] for gate in self.gates if gate in self.lines}
        return gates | {part: values[f"{part}_t"] for part in self.state}

    def changed(self, lines: Mapping[str, Line], **changes: Any) -> Formula:
        """Return the formula with some lines replaced."""
        return replace(self, lines={**self.lines, **lines}, **changes)


class _Values(dict[str, Any]):
    """The values of the lines; each line is computed when it is first read."""

    def __init__(self, formula: Formula, given: Mapping[str, Any]) -> None:
        self._formula = formula
        super().__init__({name: self._passed(name, value) for name, value in given.items()})

    def __missing__(self, name: str) -> Any:
        line = self._formula.lines.get(name)
        value = self._block(name) if line is None else line(*[self[read] for read in _reads(line)])
        self[name] = self._passed(name, value)
        return self[name]

    def _block(self, name: str) -> Any:
        """The rows of a parameter for one gate, or the columns of another array."""
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
"""The two sums at the beginning of every cell."""


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
"""A simple RNN with tanh."""


def formula_of(scan: Scan, options: Mapping[str, Any]) -> Formula:
    """Return the formula of a cell: line by line for our cells, else with its whole step in one line."""
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
    """The formula of a cell whose step is not known line by line."""

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
