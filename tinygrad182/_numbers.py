"""Checks of arguments that are numbers: one function for real numbers, one for whole numbers."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from .errors import ArgumentError, TinygradError, brief


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
    """Return a number from ``least`` to ``most``; it must be finite unless ``infinite`` is True.

    Parameters
    ----------
    owner : str or object
        Whose argument it is: a name for the message, or an object whose class has that name.
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
    limit = f" to {most:g}" if most < math.inf else ""
    kind = "number" if infinite else "finite number"
    raise ArgumentError(
        f"{_name_of(owner)}: {name} {brief(value)} must be a {kind} from {least:g}{limit}"
    )


def check_whole(
    owner: object, name: str, value: Any, least: int | None = None, most: int | None = None
) -> int:
    """Return a whole number as an int: Python's, NumPy's, or a Tensor of integers with one element.

    ``least`` and ``most`` are the bounds, if there are any; the other arguments are those of
    :func:`check_number`.

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> check_whole("Linear", "in_features", 3, least=0)
    3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, TinygradError):
        number = None
    if number is None or _is_outside(number, least, most):
        limits = "" if least is None else f" from {least}" + ("" if most is None else f" to {most}")
        raise ArgumentError(
            f"{_name_of(owner)}: {name} {brief(value)} must be a whole number{limits}"
        )
    return number


def _is_outside(number: int, least: int | None, most: int | None) -> bool:
    return (least is not None and number < least) or (most is not None and number > most)


def _name_of(owner: object) -> str:
    return owner if isinstance(owner, str) else type(owner).__name__
