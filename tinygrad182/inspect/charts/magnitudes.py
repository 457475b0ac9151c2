"""Norms as decadic logarithms, in a chart's data and as text; words and marks for 0, ∞ and NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...display.charts import ORANGE, PALE_GREY, PINK
from ...display.reprs import mantissa_and_exponent

ZERO, INFINITE, NOT_A_NUMBER = "0", "∞", "NaN"
"""Words in a chart's data, and on the page, for a logarithm that is −∞, +∞ or NaN."""


class Look(NamedTuple):
    """The look of a number without a finite logarithm: its name in a legend, its mark, its colour."""

    name: str
    shape: str
    colour: str


LOOKS: Mapping[str, Look] = {
    ZERO: Look("exactly 0", "triangle-down", PALE_GREY),
    INFINITE: Look("infinite", "triangle-up", ORANGE),
    NOT_A_NUMBER: Look("NaN", "cross", PINK),
}


def coded(log10: Iterable[float], decimals: int = 3) -> list[float | str]:
    """Return logarithms for a chart, rounded, and words where there is no finite one.

    JSON has no infinities, and ``null`` would make an exact zero and a NaN look alike. A word is drawn
    as a mark of its own.

    >>> from tinygrad182.inspect.charts.magnitudes import coded
    >>> coded([-400.12345, float("-inf"), float("inf"), float("nan")])
    [-400.123, '0', '∞', 'NaN']
    """
    logs = np.array(list(log10), dtype=np.float64)
    rounded: list[float | str] = np.round(logs, decimals).tolist()
    if np.isfinite(logs).all():
        return rounded
    return [x if math.isfinite(x) else _word(x) for x in rounded]  # type: ignore[arg-type]


class Extent(NamedTuple):
    """The range of some logarithms, as far as they are finite, and the words for all others."""

    low: float
    high: float
    words: list[str]

    @classmethod
    def of(cls, logs: Iterable[Any]) -> Extent:
        """Return the extent of several arrays; without a finite number, the range is one decade."""
        every = np.concatenate([*map(np.ravel, logs), np.zeros(0)])
        finite = every[np.isfinite(every)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 0.0)
        there = set(map(str, coded(every[~np.isfinite(every)])))
        return cls(low, high, [word for word in LOOKS if word in there])


def decoded(values: Iterable[float | str]) -> list[float]:
    """Return the logarithms that :func:`coded` wrote.

    >>> decoded(coded([-400.0, float("-inf"), float("inf"), float("nan")]))
    [-400.0, -inf, inf, nan]
    """
    return [x if isinstance(x, (int, float)) else _LOGARITHMS[x] for x in values]


_LOGARITHMS = {ZERO: -math.inf, INFINITE: math.inf, NOT_A_NUMBER: math.nan}


def _word(x: float) -> str:
    return NOT_A_NUMBER if math.isnan(x) else INFINITE if x > 0 else ZERO


def number(log10: float) -> str:
    """Write a norm: from 0.01 to 1,000 written out ("0.83"), others as "4.5e-12".

    >>> [number(x) for x in (-400.3, math.log10(0.834), 2.0, 3.0, -math.inf, math.nan, math.inf)]
    ['5.0e-401', '0.83', '100', '1.0e3', '0', 'NaN', '∞']
    """
    if not math.isfinite(log10):
        return _word(log10)
    if -2 <= log10 < 3:
        return f"{float(f'{10**log10:.2g}'):g}"
    mantissa, exponent = mantissa_and_exponent(log10, 1)
    return f"{mantissa}e{exponent}"


def norm_text(log10: str) -> str:
    """Return the Vega expression that does as :func:`number` for a :func:`coded` logarithm."""
    # 0.00218 = 1 − log10(9.95): from there on the mantissa is rounded up to 10.0, so it is 1.0 of the next.
    power = f"floor({log10} + 0.00218)"
    mantissa = f"format(pow(10, {log10} - {power}), '.1f')"
    written = f"format(pow(10, {log10}), '.2~r')"
    short = f"{log10} >= -2 && {log10} < 3"
    return f"(!isNumber({log10}) ? {log10} : {short} ? {written} : {mantissa} + 'e' + {power})"
