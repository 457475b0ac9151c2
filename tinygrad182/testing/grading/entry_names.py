"""Names of entries of arrays in messages: gate g, unit 2, sequence 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The place of an entry by step, gate, sequence and unit. None stands for one that does not apply.

    Attributes
    ----------
    step : int
        Counted from 0.
    gate : str
    sequence : int
        The number of the sequence in the batch.
    unit : int
        The number of the hidden unit.
    input : int
        The number of the element of the input, or of the vector that a weight is multiplied with.
    """

    step: int | None = None
    gate: str | None = None
    sequence: int | None = None
    unit: int | None = None
    input: int | None = None

    def __str__(self) -> str:
        return ", ".join(f"{k} {v}" for k, v in vars(self).items() if v is not None)


def entry_of_state(index: Sequence[int], step: int | None, gate: str | None = None) -> Entry:
    """Return the place of an entry of a gate or a state of shape ``(B, H)`` or ``(H,)``."""
    *sequence, unit = map(int, index)
    return Entry(step=step, gate=gate, sequence=sequence[0] if sequence else None, unit=unit)


def entry_of_input(index: Sequence[int], step: int | None) -> Entry:
    """Return the place of an entry of x of shape ``(B, I)`` or ``(I,)``."""
    *sequence, column = map(int, index)
    return Entry(step=step, sequence=sequence[0] if sequence else None, input=column)


def entry_of_parameter(
    index: Sequence[int], step: int | None, gates: Sequence[str], units: int, axis: int = 0
) -> Entry:
    """Return the place of an entry of a weight or bias; its ``axis`` has a block of H for each gate."""
    places = list(map(int, index))
    row = places.pop(axis)
    gate = gates[row // units] if len(gates) > 1 and row // units < len(gates) else None
    unit = row % units if gate else row
    return Entry(step=step, gate=gate, unit=unit, input=places[0] if places else None)
