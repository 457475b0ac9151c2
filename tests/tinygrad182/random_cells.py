"""Random steps of recurrent cells, elementwise in their gates: expressions for any array library.

Values stay modest, and kinks and jumps stand at numbers that nothing random meets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.support import Array
from tinygrad182.recurrence.scans import Scan

Step = Callable[..., Any]
Expression = tuple[Any, ...]
"""``(name, …)`` with further expressions inside."""

# --- operations -----------------------------------------------------------------------------------


def _positive(xp: Any, x: Any) -> Any:
    return 1.5 + xp.sin(x)


UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda xp, x: xp.tanh(x),
    "sigmoid": lambda xp, x: xp.sigmoid(x),
    "sin": lambda xp, x: xp.sin(x),
    "cos": lambda xp, x: xp.cos(x),
    "atan": lambda xp, x: xp.atan(x),
    "asinh": lambda xp, x: xp.asinh(x),
    "negative": lambda xp, x: -x,
    "exp": lambda xp, x: xp.exp(xp.tanh(x)),
    "expm1": lambda xp, x: xp.expm1(xp.sin(x)),
    "log": lambda xp, x: xp.log(_positive(xp, x)),
    "log1p": lambda xp, x: xp.log1p(x * x),
    "log2": lambda xp, x: xp.log2(_positive(xp, x)),
    "log10": lambda xp, x: xp.log10(_positive(xp, x)),
    "sqrt": lambda xp, x: xp.sqrt(_positive(xp, x)),
    "square": lambda xp, x: xp.square(xp.tanh(x)),
    "sinh": lambda xp, x: xp.sinh(xp.tanh(x)),
    "cosh": lambda xp, x: xp.cosh(xp.sin(x)),
    "asin": lambda xp, x: xp.asin(0.8 * xp.sin(x)),
    "acos": lambda xp, x: xp.acos(0.8 * xp.sin(x)),
    "twice": lambda xp, x: x + x,
    "cube": lambda xp, x: xp.tanh(x) ** 3,
    "inverse": lambda xp, x: _positive(xp, x) ** -1,
    "root": lambda xp, x: _positive(xp, x) ** 0.3,
    "two to it": lambda xp, x: 2.0 ** xp.sin(x),
    "relu": lambda xp, x: xp.relu(x - 0.1234),
    "abs": lambda xp, x: abs(x + 0.2345),
    "clip": lambda xp, x: xp.clip(x, -0.7531, 0.8642),
    "hard sigmoid": lambda xp, x: xp.clip(0.2 * x + 0.5, 0.0, 1.0),
    "floor": lambda xp, x: xp.floor(1.7 * x + 0.1357),
    "round": lambda xp, x: xp.round(1.3 * x + 0.0975),
    "sign": lambda xp, x: xp.sign(x + 0.1975),
    "remainder": lambda xp, x: xp.remainder(x + 0.0531, 0.77),
    "mask": lambda xp, x: (x > 0.0864) * xp.tanh(x),
    "constant": lambda xp, x: x.detach(),
}
BOUNDED = (
    "tanh",
    "sigmoid",
    "sin",
    "cos",
    "atan",
    "square",
    "asin",
    "hard sigmoid",
    "clip",
    "sqrt",
)
BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda xp, a, b: a + b,
    "subtract": lambda xp, a, b: a - b,
    "multiply": lambda xp, a, b: a * xp.sin(b),
    "gate": lambda xp, a, b: a * xp.sigmoid(b),
    "divide": lambda xp, a, b: a / _positive(xp, b),
    "maximum": lambda xp, a, b: xp.maximum(a, b + 0.1357),
    "minimum": lambda xp, a, b: xp.minimum(a - 0.2468, b),
    "atan2": lambda xp, a, b: xp.atan2(a, _positive(xp, b)),
    "power": lambda xp, a, b: _positive(xp, a) ** xp.sin(b),
    "remainder": lambda xp, a, b: xp.remainder(a + 0.0531, _positive(xp, b)),
}
NUMBER: dict[str, Callable[[Any, Any, float], Any]] = {
    "1 - x": lambda xp, x, c: 1 - x,
    "c x": lambda xp, x, c: c * x,
    "x / c": lambda xp, x, c: x / (c + 2.5),
    "c / x": lambda xp, x, c: c / _positive(xp, x),
    "x - c": lambda xp, x, c: x - c,
}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "greater": lambda a, b: a > b + 0.0753,
    "less": lambda a, b: a < b - 0.0951,
    "both": lambda a, b: (a >= b + 0.0753) & (a > 0.1234),
    "not": lambda a, b: ~(a <= b - 0.1478),
}

# --- expressions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A cell made of an expression for each part of its state, which may use the parts before it."""

    gates: int
    weights: tuple[int, ...]
    expressions: tuple[Expression, ...]

    @property
    def parts(self) -> int:
        return len(self.expressions)

    @cached_property
    def scan(self) -> Scan:
        weights = {f"w{i}": blocks for i, blocks in enumerate(self.weights)}
        gates = tuple(f"g{i}" for i in range(self.gates))
        parts = tuple(f"s{i}" for i in range(self.parts))
        return Scan.of("random", self.step, gates, parts, weights)

    def step(self, xp: Any, x: Any, h: Any, state: Any, **weights: Any) -> Any:
        given = {"x": x, "h": h, "state": state, "new": [], **weights, "units": state[0].shape[-1]}
        for expression in self.expressions:
            given["new"].append(_wide(xp, evaluated(expression, xp, given), given))
        return tuple(given["new"])

    def operands(self, T: int, B: int, I: int, H: int, seed: int = 0) -> list[Array]:  # noqa: E741
        """All but lengths."""
        draw, rows = np.random.default_rng(seed), self.gates * H
        shapes = [(T, B, I), *[(B, H)] * self.parts, (rows, I), (rows, H), (rows,), (rows,)]
        shapes += [(n * H,) for n in self.weights]
        found = [draw.normal(size=shape) for shape in shapes]
        found[2 + self.parts] *= 0.7 / np.sqrt(H)
        return found


def evaluated(e: Expression, xp: Any, given: dict[str, Any]) -> Any:
    """The value of an expression."""
    name, *rest = e
    inner = [evaluated(x, xp, given) if isinstance(x, tuple) else x for x in rest]
    n = given["units"]
    if name == "z":
        return (given["x"] + given["h"])[..., inner[0] * n : inner[1] * n]
    if name in given and name not in ("state", "new"):
        return given[name][..., inner[0] * n : inner[1] * n]
    if name in ("state", "new"):
        return given[name][inner[0]]
    if name == "unary":
        return UNARY[inner[0]](xp, inner[1])
    if name == "binary":
        return BINARY[inner[0]](xp, inner[1], inner[2])
    if name == "number":
        return NUMBER[inner[0]](xp, inner[1], inner[2])
    if name == "where":
        compare, a, b, x, y = inner
        return xp.where(COMPARE[compare](a, b), x, y)
    if name == "slice":
        return inner[0][..., inner[1] * n : inner[2] * n]
    assert name == "concat"
    return xp.concat([_wide(xp, x, given) for x in inner], axis=-1)


def _wide(xp: Any, x: Any, given: dict[str, Any]) -> Any:
    """A weight with the axes of the others."""
    like = given["state"][0]
    return x if x.ndim == like.ndim else xp.broadcast_to(x, (*like.shape[:-1], x.shape[-1]))


class _Draws:
    """Expressions of some width, from what hypothesis draws."""

    def __init__(self, draw: Any, gates: int, parts: int, weights: tuple[int, ...]) -> None:
        self.draw, self.gates, self.parts, self.weights = draw, gates, parts, weights
        self.new = 0

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def window(self, whole: int, width: int) -> tuple[int, int]:
        start = self.draw(st.integers(0, whole - width))
        return start, start + width

    def leaf(self, width: int, bounded: bool) -> Expression:
        options: list[Expression] = []
        if width == 1:
            options += [("state", p) for p in range(self.parts)]
            options += [("new", p) for p in range(self.new)]
        options += [(f"w{i}", w) for i, w in enumerate(self.weights) if w >= width]
        if width <= self.gates and (not bounded or not options):
            options += [(name, self.gates) for name in ("z", "x", "h", "z")]
        name, at = self.pick(*options)
        return (name, at) if name in ("state", "new") else (name, *self.window(at, width))

    def widest(self) -> int:
        return max(self.gates, *self.weights, 1)

    def any(self, width: int, depth: int) -> Expression:
        if not depth:
            return self.leaf(width, bounded=False)
        kind = self.pick("leaf", "unary", "unary", "binary", "binary", "number", "where", "shape")
        if kind == "leaf":
            return self.leaf(width, bounded=False)
        if kind == "unary":
            return ("unary", self.pick(*UNARY), self.any(width, depth - 1))
        if kind == "binary":
            return ("binary", self.pick(*BINARY), *(self.any(width, depth - 1) for _ in "ab"))
        if kind == "number":
            return self.number(self.any(width, depth - 1))
        if kind == "where":
            return self.where(lambda: self.any(width, depth - 1))
        if width > 1:
            first = self.draw(st.integers(1, width - 1))
            return ("concat", self.any(first, depth - 1), self.any(width - first, depth - 1))
        if self.gates > 1:
            return ("slice", self.any(self.gates, depth - 1), *self.window(self.gates, width))
        return self.leaf(width, bounded=False)

    def number(self, e: Expression) -> Expression:
        return ("number", self.pick(*NUMBER), e, self.pick(0.5, -1.5, 2, 1))

    def where(self, some: Callable[[], Expression]) -> Expression:
        a = some()
        b = self.pick(some(), 0.0, 1)
        x, y = some(), self.pick(some(), 0.0, 0.25)
        return ("where", self.pick(*COMPARE), a, b, x, y)

    def root(self, depth: int) -> Expression:
        """Return one block with modest values, whatever the state before was."""
        kind = self.pick("unary", "unary", "mix", "mix", "where", "state", "leaf")
        if kind == "leaf" or (kind != "state" and not depth):
            return self.leaf(1, bounded=False)
        if kind == "state":
            return self.leaf(1, bounded=True)
        if kind == "unary":
            return ("unary", self.pick(*BOUNDED), self.any(1, depth))
        if kind == "where":
            return self.where(lambda: self.root(depth - 1))
        name = self.pick("add", "multiply", "gate", "subtract", "maximum", "minimum", "divide")
        return ("binary", name, self.root(depth - 1), self.root(depth - 1))


@st.composite
def cells(draw: Any, depth: int = 3) -> Cell:
    """Cells of up to three gates, three parts and two further weights."""
    gates, parts = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    weights = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    draws, expressions = _Draws(draw, gates, parts, weights), []
    for _ in range(parts):
        expressions.append(draws.root(depth))
        draws.new += 1
    return Cell(gates, weights, tuple(expressions))
