"""Numbers, and names of files, as they stand in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.drawing.tables import power_text
from tinygrad182.display.pages import legible


def counted(number: int, what: str) -> str:
    """Number of things, with their name in the singular or the plural.

    >>> counted(1, "seed"), counted(3, "branch")
    ('1 seed', '3 branches')
    """
    ending = "es" if what.endswith("ch") else "s"
    return f"{number} {what}{ending * (number != 1)}"


def spread(logs: Iterable[float]) -> str:
    """Range of numbers whose logarithms are given, such as one number of each seed.

    >>> spread([-2.0, -6.5]), spread([0.0, 0.0])
    ('3.2e-07 to 0.01', '1')
    """
    return _range([power_text(log) for log in sorted(logs)])


def counts(numbers: Iterable[int]) -> str:
    """Range of whole numbers.

    >>> counts([4, 1]), counts([2, 2])
    ('1 to 4', '2')
    """
    return _range([str(number) for number in sorted(numbers)])


def between(numbers: Iterable[float], form: str = ".2g") -> str:
    """Range of numbers, in a format of :func:`format`.

    >>> between([0.123, 0.1]), between([0.1, 0.1001])
    ('0.1 to 0.12', '0.1')
    """
    return _range([format(number, form) for number in sorted(numbers)])


def per_step(slopes: Iterable[float]) -> str:
    """Say what so many decades a step do to a size.

    >>> per_step([-0.0706])
    'loses 0.071 decades a step: each step keeps 85%'
    >>> per_step([0.021, 0.016])
    'gains 0.016 to 0.021 decades a step: each step multiplies it by 1.04 to 1.05'
    """
    rates = list(slopes)
    if max(rates) < 0:
        lost = between((-rate for rate in rates), ".2g")
        kept = between((10**rate for rate in rates), ".0%" if max(rates) < -0.005 else ".1%")
        return f"loses {lost} decades a step: each step keeps {kept}"
    factors = between((10**rate for rate in rates), ".3g")
    return f"gains {between(rates, '.2g')} decades a step: each step multiplies it by {factors}"


def _range(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def short(number: float) -> str:
    """Write a number in three digits, or as a whole number.

    >>> short(0.4641), short(15606.2)
    ('0.464', '15,606')
    """
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def percent(share: float) -> str:
    """Signed share in words.

    >>> percent(0.8), percent(-0.0241), percent(-8e-12), percent(14.38), percent(np.nan)
    ('80%', '−2.4%', 'almost 0', '1438%', 'unmeasured size')
    """
    if not np.isfinite(share):
        return "unmeasured size"
    if abs(share) < 5e-4:
        return "almost 0"
    text = f"{share:.0%}" if abs(share) >= 0.1 else f"{100 * share:.2g}%"
    return text.replace("-", "−")


def typed(line: str) -> str:
    """A line with its formulas, which stand between dollar signs, as they can be typed.

    Pages set the formulas (:func:`tinygrad182.display.pages.prose`); terminals and files cannot.

    >>> typed("It is $‖∂L/∂h_{t−1}‖ ≤ λ_{max}^{T−1} W_h^T$.")
    'It is ‖∂L/∂h_(t−1)‖ ≤ λ_max^(T−1) W_hᵀ.'
    """

    def formula(found: re.Match[str]) -> str:
        plain = re.sub(r"(?<=[_^])\{(\w+)\}", r"\1", found[1].replace("^T", "ᵀ"))
        return re.sub(r"(?<=[_^])\{([^}]*)\}", r"(\1)", plain)

    return re.sub(r"(?<!\\)\$([^$]*)(?<!\\)\$", formula, line).replace(r"\$", "$")


def literal(text: str) -> str:
    r"""Text as it stands in a line with formulas: its dollar signs begin none.

    >>> literal("$5 or $6"), typed(literal("$5 or $6"))
    ('\\$5 or \\$6', '$5 or $6')
    """
    return text.replace("$", r"\$")


def printable(path: Path) -> str:
    r"""Name of a file or a folder as text that every file and page can hold.

    A system may have names that are not UTF-8; the bytes that are not are spelt out. Control characters
    become their pictures.

    >>> printable(Path("runs/für")), printable(Path("f\udcfcr")), printable(Path("\x0c"))
    ('runs/für', 'f\\udcfcr', '␌')
    """
    return str(legible(str(path).encode("utf-8", "backslashreplace").decode()))
