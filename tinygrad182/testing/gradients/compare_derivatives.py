"""Compare two matrices of derivatives entry by entry, each entry on its own scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..samples import Array
from .property_error import PropertyError
from .vector_function import VectorFunction

SMALLEST = 1e-290
"""Below this size float64 loses digits, so that a derivative cannot be checked."""


@dataclass(frozen=True)
class Probes:
    """The directions of a matrix of derivatives: rows (r, m) of the outputs, columns (c, n) of the inputs.

    None stands for all unit vectors.
    """

    function: VectorFunction
    rows: Array | None = None
    columns: Array | None = None

    def facts(self, i: int, j: int) -> dict[str, Any]:
        """The input and the name of the entry (i, j), for a message."""
        out = self._unit(self.rows, i)
        into = self._unit(self.columns, j)
        facts = {} if into is None else {"input": self.function.input_at(into).describe()}
        over = (
            "a random combination of the outputs"
            if out is None
            else self.function.output_entry(out)
        )
        by = (
            "a random direction through all inputs"
            if into is None
            else self.function.input_at(into).entry(into)
        )
        return {**facts, "entry": f"{over} by {by}"}

    @staticmethod
    def _unit(vectors: Array | None, i: int) -> int | None:
        """Position of the 1 if row ``i`` is a unit vector, else None."""
        if vectors is None:
            return i
        nonzero = np.flatnonzero(vectors[i])
        return int(nonzero[0]) if len(nonzero) == 1 and vectors[i, nonzero[0]] == 1 else None

    def unit_vectors(self, i: int, j: int) -> int:
        """How many of row i and column j are unit vectors."""
        return (self._unit(self.rows, i) is not None) + (self._unit(self.columns, j) is not None)


def compare(
    what: str,
    probes: Probes,
    actual: Array,
    expected: Array,
    allowed: Array,
    method: str = "expected",
) -> None:
    """Compare every entry on its own scale, all of shape (r, c); raise PropertyError if one is wrong.

    The error names the worst entry, preferably one of a single input and a single output. ``what`` is the
    property, and ``method`` the origin of the expected values, for the message.
    """
    difference = np.abs(actual - expected)
    excess = difference / (allowed + SMALLEST)
    wrong = [tuple(map(int, ij)) for ij in np.argwhere(~(excess <= 1))]
    if wrong:
        excess = np.nan_to_num(excess, nan=np.inf)
        i, j = max(wrong, key=lambda ij: (probes.unit_vectors(*ij), excess[ij]))
        computed, wanted = float(actual[i, j]), float(expected[i, j])
        values = {"computed": f"{computed:.12g}", method: f"{wanted:.12g}"}
        facts = {**probes.facts(i, j), **values, "ratio": ratio(computed, wanted)}
        raise PropertyError(what, facts, column=j)


def ratio(actual: float, expected: float) -> str:
    """The ratio of two values, as a power of ten if they are more than three decades apart."""
    if not (np.isfinite(actual) and actual and expected):
        return "-"
    decades = np.log10(abs(actual / expected))
    return f"10^{decades:+.1f}" if abs(decades) > 3 else f"{actual / expected:.12g}"
