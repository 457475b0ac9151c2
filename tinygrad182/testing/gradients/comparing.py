"""The comparison of two matrices of derivatives, entry by entry, each on its own scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..samples import Array
from .property_error import PropertyError
from .vector_function import VectorFunction

SMALLEST = 1e-290
"""Below it float64 loses digits, and a derivative cannot be certified."""


@dataclass(frozen=True)
class Probes:
    """The directions that a matrix of derivatives was taken along: unit vectors, and others.

    Attributes
    ----------
    rows, columns : (r, m) and (c, n), or None
        Of the outputs and of the inputs.
    """

    function: VectorFunction
    rows: Array | None = None
    columns: Array | None = None

    def facts(self, i: int, j: int) -> dict[str, Any]:
        """Names of the entry (i, j)."""
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
        """Which unit vector row ``i`` is; ``None`` vectors are all unit vectors."""
        if vectors is None:
            return i
        places = np.flatnonzero(vectors[i])
        return int(places[0]) if len(places) == 1 and vectors[i, places[0]] == 1 else None

    def single(self, i: int, j: int) -> int:
        """How many of the two are unit vectors."""
        return (self._unit(self.rows, i) is not None) + (self._unit(self.columns, j) is not None)


def compare(
    what: str,
    probes: Probes,
    actual: Array,
    expected: Array,
    allowed: Array,
    method: str = "expected",
) -> None:
    """Compare every entry on its own scale.

    Parameters
    ----------
    what : str
        The property, for the message.
    probes : Probes
        What the entries are.
    actual, expected, allowed : (r, c)
        Both values, and how far they may be apart.
    method : str
        Where the expected values come from, for the message.

    Raises
    ------
    PropertyError
        For the entry that is worst off, one input by one output if there is such a one.
    """
    difference = np.abs(actual - expected)
    excess = difference / (allowed + SMALLEST)
    wrong = [tuple(map(int, ij)) for ij in np.argwhere(~(excess <= 1))]
    if wrong:
        i, j = max(
            wrong, key=lambda ij: (probes.single(*ij), np.nan_to_num(excess[ij], nan=np.inf))
        )
        computed, wanted = float(actual[i, j]), float(expected[i, j])
        values = {"computed": _number(computed), method: _number(wanted)}
        facts = {**probes.facts(i, j), **values, "ratio": _ratio(computed, wanted)}
        raise PropertyError(what, facts, column=j)


def _number(value: float) -> str:
    return f"{value:.12g}"


def _ratio(actual: float, expected: float) -> str:
    """Their ratio, or by how many decades they are apart."""
    if not (np.isfinite(actual) and actual and expected):
        return "-"
    decades = np.log10(abs(actual / expected))
    return f"10^{decades:+.1f}" if abs(decades) > 3 else f"{actual / expected:.12g}"
