"""The checks of ``detect_anomaly``: what is not finite, and the line of user code that called it."""

from __future__ import annotations

import linecache
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..arrays import backend
from ..arrays.namespaces import SCALARS, Array
from ..errors import AnomalyError

_HERE = str(Path(__file__).parents[1])


def kind_of(array: Array) -> str:
    """``"nan"``, ``"inf"`` or, if every element is finite, ``""``."""
    if not math.prod(array.shape):
        return ""
    xp = backend.namespace(array)
    with backend.on(array):
        top = float(xp.max(xp.abs(array)))  # one wait of the host; NaN if any element is NaN
    return "nan" if math.isnan(top) else "inf" if math.isinf(top) else ""


def is_floating(array: Any) -> bool:
    """Whether the array can hold NaN and infinity."""
    return type(array) not in SCALARS and backend.namespace(array).is_floating(array)


def kinds_among(operands: Iterable[Any]) -> set[str]:
    """The kinds, ``"nan"`` and ``"inf"``, that occur among the elements of arrays and numbers."""
    arrays = (backend.NUMPY.asarray(x) if type(x) in SCALARS else x for x in operands)
    return {kind_of(a) for a in arrays if is_floating(a)} - {""}


def user_place() -> tuple[str, int]:
    """The file and the number of the innermost line of code outside the framework."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def user_line() -> str:
    """The innermost line of code outside the framework, as ``file:line: code``."""
    name, number = user_place()
    return f"{name}:{number}: {linecache.getline(name, number).strip()}"


def check_result(op: str, place: str, source: str, value: Array, operands: list[Any]) -> None:
    """Raise if an operation gives NaN, or infinity from finite operands; the error names the operation."""
    if not is_floating(value) or not (kind := kind_of(value)):
        return
    in_operands = kinds_among(operands)
    if kind == "inf" and in_operands:  # passed on, such as a score of -inf
        return
    whose = f"from {'in' * bool(in_operands)}finite operands"
    whose = "which an operand already held" if kind in in_operands else whose
    shapes = ", ".join(str(tuple(a.shape)) for a in operands if type(a) not in SCALARS)
    raise AnomalyError(
        f"forward of {op}{place}: {kind} in the result of shape {tuple(value.shape)}, {whose} "
        f"(shapes {shapes}); called at {source}"
    )


def check_cotangent(
    op: str, place: str, source: str, name: str, g: Array, cotangent: Array
) -> None:
    """Raise if a rule returns NaN, or infinity from a finite cotangent, as the cotangent of an input."""
    if not (kind := kind_of(cotangent)):
        return
    in_output = kind_of(g)
    if kind == "inf" and in_output:
        return
    whose = (
        "which already held it"
        if kind == in_output
        else f"which was {'in' * bool(in_output)}finite"
    )
    raise AnomalyError(
        f"backward of {op}{place}: {kind} in the cotangent of {name or 'an input'}, of shape "
        f"{tuple(cotangent.shape)}, from that of its output, {whose}"
        + (f"; called at {source}" if source else "; record under detect_anomaly to see its line")
    )
