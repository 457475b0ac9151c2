"""Where the blocks of the gates are in the parameters of a cell that somebody wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .entries import Entry, entry_of_input, entry_of_parameter, entry_of_state


@dataclass(frozen=True)
class Layout:
    """Where the blocks of the gates are in the parameters.

    Attributes
    ----------
    gates : tuple of str
        In the order of their blocks; empty where nothing is known of them.
    units : int
        The width H of a block.
    shapes : dict of str to tuple of int
        Of the parameters.
    """

    gates: tuple[str, ...]
    units: int
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def in_rows(self) -> bool:
        """Whether the blocks of weights are rows, as in PyTorch, and not columns."""
        weights = [shape for shape in self.shapes.values() if len(shape) == 2]
        return all(shape[0] == self._rows for shape in weights)

    @property
    def _rows(self) -> int:
        return max(1, len(self.gates)) * self.units

    def axis(self, name: str) -> int:
        """The axis of a parameter along which the blocks are."""
        return 0 if self.in_rows or len(self.shapes[name]) == 1 else len(self.shapes[name]) - 1

    def has_blocks(self, name: str) -> bool:
        """Whether a parameter has a block for each gate."""
        shape = self.shapes.get(name, ())
        return len(self.gates) > 1 and bool(shape) and shape[self.axis(name)] == self._rows

    def entry(self, name: str, index: tuple[Any, ...], step: int) -> Entry:
        """The place of an entry of the gradient by an input, a state or a parameter."""
        if name == "x":
            return entry_of_input(index, step)
        if name not in self.shapes:
            return entry_of_state(index, step)
        gates = self.gates if self.has_blocks(name) else ()
        return entry_of_parameter(index, step, gates, self.units, self.axis(name))
