"""How a norm gets into a chart: as log10, with exact zeros, infinities and NaN kept apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

ZERO, INFINITE, NOT_A_NUMBER = "0", "∞", "NaN"
"""What stands in a chart's data, and on the page, for a logarithm that is −∞, +∞ or NaN."""


def coded(log10: Iterable[float]) -> list[float | str]:
    """Return logarithms for a chart: to 3 decimals, and words where there is no finite one.

    JSON has no infinities, and ``null`` would make an exact zero and a NaN look alike. A word is drawn
    as a mark of its own.

    >>> from tinygrad182.inspect.microscope.magnitudes import coded
    >>> coded([-400.12345, float("-inf"), float("inf"), float("nan")])
    [-400.123, '0', '∞', 'NaN']
    """
    return [round(float(x), 3) if math.isfinite(x) else _word(x) for x in log10]


def _word(x: float) -> str:
    return NOT_A_NUMBER if math.isnan(x) else INFINITE if x > 0 else ZERO


def norm_text(log10: str) -> str:
    """Return the Vega expression that writes the norm whose :func:`coded` logarithm is ``log10``.

    A norm from 0.01 to 1,000 is written out ("0.83"), others as "4.5e-12"; a word stays as it is.
    """
    # 0.00218 = 1 − log10(9.95): from there on the mantissa is rounded up to 10.0, so it is 1.0 of the next.
    power = f"floor({log10} + 0.00218)"
    mantissa = f"format(pow(10, {log10} - {power}), '.1f')"
    plain = f"format(pow(10, {log10}), '.2~r')"
    short = f"{log10} >= -2 && {log10} < 3"
    return f"(!isNumber({log10}) ? {log10} : {short} ? {plain} : {mantissa} + 'e' + {power})"
