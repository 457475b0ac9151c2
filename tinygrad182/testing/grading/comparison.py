"""The result of ``compare_cells``: where two cells differ, and the mistakes that explain it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...display.reprs import fold, shown, table, text
from .entry_names import Entry
from .mistakes import Mistake

Phase = Literal["forward", "backward"]


@dataclass(frozen=True)
class Difference:
    """The entry of an array in which two cells differ most.

    Attributes
    ----------
    phase : {"forward", "backward"}
        Whether the entry is a value or a gradient.
    name : str
        Forward, a gate or a part of the next state. Backward, the input, part of the state or parameter
        that the gradient is taken by.
    entry : Entry
        The step, gate, sequence and unit.
    mine, reference : float
        The values of the student's cell and of the reference.
    """

    phase: Phase
    name: str
    entry: Entry
    mine: float
    reference: float

    @property
    def step(self) -> int | None:
        """The step, counted from 0; None for the last state of a sequence."""
        return self.entry.step

    @property
    def gate(self) -> str | None:
        """The gate of the entry; None if it belongs to a state or an input."""
        return self.entry.gate

    def __str__(self) -> str:
        what = "" if self.name == self.gate else f"{self.name}, "
        what = what if self.phase == "forward" else f"gradient by {self.name}, "
        values = f"yours is {self.mine:.9g}, the reference's {self.reference:.9g}"
        return f"{self.phase}, {what}{self.entry}: {values}"


@dataclass(frozen=True)
class CellComparison:
    """The result of :func:`compare_cells`. It is true if the cells are equal.

    Attributes
    ----------
    steps : int
        The number of steps that were compared.
    differences : tuple of Difference
        One for each array that differs: first the values of all steps, then the gradients.
    mistakes : tuple of Mistake
        The known mistakes that give the student's numbers. Different mistakes may give equal numbers.
    """

    steps: int
    differences: tuple[Difference, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether all values and gradients are equal up to rounding."""
        return not self.differences

    @property
    def first(self) -> Difference | None:
        """The first difference, if there is one."""
        return self.differences[0] if self.differences else None

    @property
    def mistake(self) -> str | None:
        """The name of the first mistake that was recognized, if there is one."""
        return self.mistakes[0].name if self.mistakes else None

    def __bool__(self) -> bool:
        return self.equal

    def __repr__(self) -> str:
        if self.first is None:
            return f"equal in {self.steps} steps, forward and backward"
        lines = [f"different: {self.first}"]
        lines += [f"mistake: {mistake}" for mistake in self.mistakes]
        return "\n".join(lines if self.mistakes else [*lines, "mistake: none that is known"])

    def _repr_html_(self) -> str:
        rows = [(d.phase, d.name, str(d.entry), d.mine, d.reference) for d in self.differences]
        header = ("phase", "of", "entry", "yours", "reference")
        head = "<br>".join(map(text, repr(self).splitlines()))
        return shown(fold(head, table(header, rows) if rows else "", opened=True))
