"""What is asked of an argument that is a number."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from .errors import ArgumentError, brief


def real_number(value: Any) -> float:
    """What somebody gave for a real number as a float; NaN if it is none, as True is not.

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
    """A number from ``least`` to ``most``, which is finite unless it may be ``infinite``.

    Parameters
    ----------
    owner : str or object
        Whose argument it is: a name, or what has a class of that name.
    name : str
        The argument's name.

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> check_number("Dropout", "p", np.float32(0.5), most=1)
    0.5
    """
    number = real_number(value)
    if least <= number <= most and (infinite or number < math.inf):
        return number
    where = owner if isinstance(owner, str) else type(owner).__name__
    limit = f" to {most:g}" if most < math.inf else ""
    kind = "number" if infinite else "finite number"
    raise ArgumentError(f"{where}: {name} {brief(value)} must be a {kind} from {least:g}{limit}")
