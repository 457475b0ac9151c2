"""Checks of arguments that are numbers: one function for real numbers, one for whole numbers."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from .errors import ArgumentError, brief


def real_number(value: Any) -> float:
    """A real number as a float; NaN if the value is not a real number (True is not one).

    A number beyond all floats, such as 10**400, is infinite, so that every check of a range refuses it.
    """
    if type(value) is float:
        return value
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    try:
        return float(value) if is_real else math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_number(
    owner: object,
    name: str,
    value: Any,
    least: float = 0,
    most: float = math.inf,
    infinite: bool = False,
) -> float:
    """Return a number from ``least`` to ``most``, or raise; it must be finite unless ``infinite`` is True.

    Parameters
    ----------
    owner : str or object
        Whose argument it is: a name for the message, or an object whose class has that name.
    name : str
        The argument's name.

    Examples
    --------
    >>> import numpy as np
    >>> check_number("Dropout", "p", np.float32(0.5), most=1)
    0.5
    """
    number = real_number(value)
    if least <= number <= most and (infinite or math.isfinite(number)):
        return number
    limits = f" from {least:g}" if least > -math.inf else ""
    limits += f" to {most:g}" if most < math.inf else ""
    kind = "number" if infinite else "finite number"
    raise ArgumentError(f"{_name_of(owner)}: {name} {brief(value)} must be a {kind}{limits}")


def check_whole(owner: object, name: str, value: Any, least: int) -> int:
    """Return a whole number from ``least``, or raise; arguments as for :func:`check_number`.

    >>> check_whole("Linear", "in_features", 3, least=0)
    3
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ArgumentError(
            f"{_name_of(owner)}: {name} {brief(value)} must be a whole number from {least}"
        )
    return int(value)


def _name_of(owner: object) -> str:
    return owner if isinstance(owner, str) else type(owner).__name__
