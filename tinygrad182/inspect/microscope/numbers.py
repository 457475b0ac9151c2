"""How numbers that are given as decadic logarithms are written."""

from __future__ import annotations

import math


def number(log: float) -> str:
    """Write a number that is given as its decadic logarithm.

    One from 0.01 to 1,000 is written out, as in the page's other views.

    >>> [number(x) for x in (-400.3, math.log10(0.834), 2.0, 3.0, -math.inf, math.nan, math.inf)]
    ['5.0e-401', '0.83', '100', '1.0e3', '0', 'NaN', '∞']
    """
    if math.isnan(log):
        return "NaN"
    if math.isinf(log):
        return "∞" if log > 0 else "0"
    if -2 <= log < 3:
        return f"{float(f'{10**log:.2g}'):g}"
    power = math.floor(log)
    digits = f"{10 ** (log - power):.1f}"
    return f"1.0e{power + 1}" if digits == "10.0" else f"{digits}e{power}"
