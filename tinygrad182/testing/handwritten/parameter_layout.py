"""Find the blocks of the gates in the parameters of a student's cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..grading.entry_names import Entry, entry_of_input, entry_of_parameter, entry_of_state


@dataclass(frozen=True)
class Layout:
    """The places of the gates' blocks in the parameters.

    The gates are in the order of their blocks, and empty if they are not known. A block has the width
    ``units``. With ``columns``, sequences are columns of x and h instead of rows.
    """

    gates: tuple[str, ...]
    units: int
    shapes: Mapping[str, tuple[int, ...]]
    columns: bool = False

    @classmethod
    def of(
        cls, gates: tuple[str, ...], x: Any, h: Any, shapes: Mapping[str, tuple[int, ...]]
    ) -> Layout:
        """Return the layout of a step on x and h; the shapes of the weights decide if these are columns."""
        columns = h.ndim == 2 and _are_columns(x.shape, h.shape, shapes.values())
        return cls(gates, h.shape[0 if columns else -1], shapes, columns)

    @property
    def in_rows(self) -> bool:
        """Whether the blocks of weights are rows, as in PyTorch, instead of columns."""
        return all(shape[0] == self._rows for shape in _weights(self.shapes.values()))

    @property
    def _rows(self) -> int:
        if self.gates:
            return len(self.gates) * self.units
        shared = set.intersection(
            *[set(shape) for shape in _weights(self.shapes.values())] or [set()]
        )
        return max((n for n in shared if n % self.units == 0), default=self.units)

    def axis(self, name: str) -> int:
        """The axis of a parameter's blocks."""
        shape = self.shapes[name]
        if self.is_bias(name):
            return int(np.argmax(shape))
        return 0 if self.in_rows else len(shape) - 1

    def is_bias(self, name: str) -> bool:
        """Whether a parameter is a bias: of shape ``(4 H,)``, ``(1, 4 H)`` or ``(4 H, 1)``."""
        return len(self.shapes[name]) == 1 or not _weights([self.shapes[name]])

    def has_blocks(self, name: str) -> bool:
        """Whether a parameter has a block for each gate."""
        shape = self.shapes.get(name, ())
        return len(self.gates) > 1 and bool(shape) and shape[self.axis(name)] == self._rows

    def entry(self, name: str, index: tuple[Any, ...], step: int) -> Entry:
        """Return the place of an entry of the gradient by an input, a state or a parameter."""
        if self.columns and name not in self.shapes:
            index = index[::-1]
        if name == "x":
            return entry_of_input(index, step)
        if name not in self.shapes:
            return entry_of_state(index, step)
        gates = self.gates if self.has_blocks(name) else ()
        if not self.gates and self.shapes[name][self.axis(name)] == self._rows:  # by their numbers
            gates = tuple(str(k) for k in range(self._rows // self.units))
        if self.is_bias(name):
            return entry_of_parameter([max(index)], step, gates, self.units)
        return entry_of_parameter(index, step, gates, self.units, self.axis(name))


def _weights(shapes: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shapes of weights among those of all parameters."""
    return [shape for shape in shapes if len(shape) == 2 and (1 not in shape or shape == (1, 1))]


def _are_columns(x: Any, h: Any, shapes: Iterable[tuple[int, ...]]) -> bool:
    """Whether the weights fit x and h only if these are columns; two weights may be side by side."""
    weights = _weights(shapes)

    def weights_fit(inputs: int, units: int, both: bool) -> bool:
        widths = (inputs, units, inputs + units)[: 2 + both]
        turned = [(shape, shape[::-1]) for shape in weights]
        return all(any(a % units == 0 and b in widths for a, b in pair) for pair in turned)

    for both in (False, True):
        if weights_fit(x[-1], h[-1], both):
            return False
        if weights_fit(x[0], h[0], both):
            return True
    return False
