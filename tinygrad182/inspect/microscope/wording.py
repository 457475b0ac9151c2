"""A computed sentence, and its words for factors, rates and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ...display.reprs import mantissa_and_exponent

LEVEL = 0.1
"""Decades: a smaller change, less than about 25%, is called none."""

GATES: Mapping[str, str] = {"f": "the forget gates", "z": "the update gates"}


Kind = Literal["regime", "place", "cause", "note"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a story.

    Attributes
    ----------
    text : str
        Plain English, ends with a full stop.
    path : str
        Its recurrence; ``""`` for a graph without one.
    kind : {"regime", "place", "cause", "note"}
        What becomes of the gradient, where, why, or a note on how to read the page.
    folded : bool
        Whether the page shows it behind a fold.
    numbers : dict
        The numbers in the text, unrounded; norms and factors are decadic logarithms. ``"step"`` is the
        time of the step to look at first, if the text names one.
    """

    text: str
    path: str
    kind: Kind
    folded: bool = False
    numbers: dict[str, Any] = field(default_factory=dict)


class Words(NamedTuple):
    """Words for the steps, the gradient and the paths of a recurrence.

    Attributes
    ----------
    state : str
    unit : {"step", "block"}
        The unit of time: steps of a sequence, or blocks of a network.
    gate : str
        The gate that multiplies the state before; ``""`` for none, or several.
    varies : bool
        Whether the rate differs between stretches of the way.
    """

    state: str
    unit: str
    gate: str
    varies: bool = False

    @property
    def each(self) -> str:
        """The subject of a sentence about a factor; it says if the factor is an average."""
        return f"on average each {self.unit}" if self.varies else f"each {self.unit}"

    @property
    def several(self) -> bool:
        """Whether :attr:`keeper` is plural."""
        return bool(self.gate) or self.unit == "block"

    @property
    def grad(self) -> str:
        """The gradient: ``"∂L/∂h"``."""
        return f"∂L/∂{self.state}"

    @property
    def matrix(self) -> str:
        """The recurrent weights."""
        return "the weight matrix" if self.unit == "step" else "the weight matrices"

    @property
    def straight(self) -> str:
        """The path of the state alone."""
        if self.unit == "block":
            return "the skips"
        return (
            "the cell path"
            if self.state == "c"
            else f"the straight path {self.state} → {self.state}"
        )

    @property
    def around(self) -> str:
        """All other paths from a state to the one before."""
        if self.unit == "block":
            return "the branches"
        return "the hidden path" if self.state == "c" else "the weight matrices"

    @property
    def keeper(self) -> str:
        """The gates, or the path, that decide how much comes back over the path of the state alone."""
        if not self.gate:
            return self.straight
        return GATES.get(self.gate, f"the gates {self.gate}")

    def at(self, time: int) -> str:
        """Write a step."""
        return f"t = {time}" if self.unit == "step" else f"block {time}"


def amount(decades: float) -> str:
    """Write a factor as a part or as a multiple.

    >>> [amount(x) for x in (-0.15, -2.0, -15.5, -400.2, 0.0, 0.5, 7.7)]
    ['71%', '1%', '3e-16', '6e-401', '100%', '3.2 times', '5e7 times']
    """
    if not math.isfinite(decades):
        return {-math.inf: "nothing", math.inf: "∞ times"}.get(decades, "NaN")
    if decades < -2:
        return _power_of_ten(decades)
    if decades < LEVEL / 4:
        return f"{100 * 10**decades:.0f}%"
    return f"{10**decades:.2g} times" if decades < 1.99 else f"{_power_of_ten(decades)} times"


def factor(decades: float) -> str:
    """Write a factor.

    >>> [factor(x) for x in (-0.15, -5.7, 0.0086, 0.5, 7.7, -math.inf)]
    ['0.71', '2e-6', '1.02', '3.2', '5e7', '0']
    """
    if not -math.inf < decades < math.inf:
        return {-math.inf: "0", math.inf: "∞"}.get(decades, "NaN")
    if not -2 <= decades < 1.99:
        return _power_of_ten(decades)
    return f"{10**decades:.2f}" if decades < LEVEL else f"{10**decades:.2g}"


def _power_of_ten(decades: float) -> str:
    """Write a power of ten with a one-digit mantissa, of any exponent."""
    mantissa, exponent = mantissa_and_exponent(decades, 0)
    return f"{mantissa}e{exponent}"


def passes(decades: float, many: bool = False) -> str:
    """Write what a step, or ``many`` steps together, do with the gradient.

    >>> passes(-5.7), passes(1.2)
    ('passes back 2e-6 of what it gets', 'makes it 16 times as large')
    """
    if decades > LEVEL / 4:
        return f"{'make' if many else 'makes'} it {amount(decades)} as large"
    part = amount(decades)
    return f"pass back {part} of what they get" if many else f"passes back {part} of what it gets"


def pace(decades: float, steps: int, unit: str) -> str:
    """Write how a gradient changes that gains some decades over some steps.

    >>> pace(-0.05, 9, "step"), pace(-29 * 0.1584, 29, "step"), pace(-0.82, 1, "step")
    ('keeps its size', 'halves every 1.9 steps (each keeps 69%)', 'shrinks to 15% with every step')
    >>> pace(1.51, 10, "step"), pace(7.0, 10, "step")
    ('doubles every 2 steps (each makes it 1.42 times as large)', 'grows 5-fold with every step')
    >>> pace(-0.2, 100, "step")
    'shrinks slowly (each step keeps 99.5%)'
    """
    if abs(decades) < LEVEL:
        return "keeps its size"
    many = steps * math.log10(2) / abs(decades)
    each = _each(decades / steps)
    if many > steps > 1:
        return f"{'shrinks' if decades < 0 else 'grows'} slowly ({each.format(f'each {unit}')})"
    if many >= 1.05 and steps > 1:
        every = f"every {many:.2g} {unit}s"
        return f"{'halves' if decades < 0 else 'doubles'} {every} ({each.format('each')})"
    if 0.95 < many < 1.05:
        return f"{'halves' if decades < 0 else 'doubles'} with every {unit}"
    if decades < 0:
        return f"shrinks to {amount(decades / steps)} with every {unit}"
    return f"grows {10 ** (decades / steps):.2g}-fold with every {unit}"


def _each(decades: float) -> str:
    """The effect of one step, with enough digits to differ from no effect; ``{}`` is its subject."""
    rate = 10**decades
    digits = math.ceil(-math.log10(abs(rate - 1)))
    return (
        f"{{}} keeps {rate:.{max(digits - 2, 0)}%}"
        if rate < 1
        else f"{{}} makes it {rate:.{max(digits, 2)}f} times as large"
    )


def and_(names: Sequence[str]) -> str:
    """Write several names as one: ``"a, b and c"``.

    >>> and_(["a"]), and_(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
