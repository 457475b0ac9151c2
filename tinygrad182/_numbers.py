"""What is asked of an argument that is a number."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from .errors import ArgumentError, brief


def is_real(value: Any) -> bool:
    """Whether a value is a real number: Python's, NumPy's or another library's, and no Boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


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
    try:
        number = float(value) if is_real(value) else math.nan
    except OverflowError:  # a whole number beyond float
        number = math.inf
    if least <= number <= most and (infinite or number < math.inf):
        return number
    where = owner if isinstance(owner, str) else type(owner).__name__
    limit = f" to {most:g}" if most < math.inf else ""
    kind = "number" if infinite else "finite number"
    raise ArgumentError(f"{where}: {name} {brief(value)} must be a {kind} from {least:g}{limit}")
