"""What compositions have in common: their names, their errors, halves, and data beside Tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .._suggestions.calls import explain_call
from ..arrays.namespaces import HALF
from ..engine.host import is_host_data, on_host
from ..engine.operands import REFUSALS, explain
from ..errors import TinygradError
from .creation import stack_nested
from .functions import floating
from .shapes import astype
from .tensor import Tensor

Function = Callable[..., Any]

_SINGLE = np.dtype("float32")


def named(functions: dict[str, Function]) -> dict[str, Function]:
    """Give functions their names, and errors that begin with them.

    Whatever is raised inside becomes an error of ours. A function with two names stays one function,
    called by the first of them.
    """
    made: dict[Function, Function] = {}
    _NAMES.update(functions)
    for name, f in functions.items():
        if f not in made:
            made[f] = _named(name, f)
    return {name: made[f] for name, f in functions.items()}


_NAMES: set[str] = set()
"""Names that are not repeated in an error: of the functions that the one called is made of."""


def _named(name: str, f: Function) -> Function:
    f.__name__ = f.__qualname__ = name

    @functools.wraps(f)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return f(*args, **options)
        except REFUSALS as error:
            if str(error).startswith((f"{name}:", f"{name},")):
                raise
            raise _explained(name, f, args, options, error) from error

    return call


def _explained(name: str, f: Function, args: Any, options: Any, error: Exception) -> TinygradError:
    if isinstance(error, TinygradError):
        inner, colon, said = str(error).partition(": ")
        return type(error)(f"{name}: {said if colon and inner in _NAMES else error}")
    if isinstance(error, TypeError):
        explain_call(f, args, options, error)
    return explain(name, list(args), error)


def widening(f: Function) -> Function:
    """Make a function compute with halves in float32, and give its result back as halves.

    Sums and squares of halves leave their range, and intermediate results lose digits, long before the
    result does. Beside a wider array the result is as wide.
    """

    @functools.wraps(f)
    def widened(*args: Any, **options: Any) -> Any:
        given = [x for x in (*args, *options.values()) if hasattr(x, "dtype")]
        if not any(x.dtype is HALF for x in given):
            return f(*args, **options)
        args = tuple(map(_wide, args))
        y = f(*args, **{name: _wide(x) for name, x in options.items()})
        if any(x.dtype == _SINGLE for x in given):
            return y
        return [_narrow(part) for part in y] if isinstance(y, list) else _narrow(y)

    return widened


def _wide(x: Any) -> Any:
    return x.astype("float32") if getattr(x, "dtype", None) is HALF else x


def _narrow(y: Tensor) -> Tensor:
    return astype(y, HALF) if y.dtype == _SINGLE else y


def is_whole(x: Tensor) -> bool:
    """Whether elements are integers or Booleans, among which there is no NaN."""
    return not any(kind in str(x.dtype) for kind in ("float", "complex"))


def points(x: Any) -> Any:
    """Coordinates: of the host as an array of ``float64``, for their differences; else a Tensor."""
    x = stack_nested(x)
    return on_host(x).astype(np.float64) if is_host_data(x) else floating(x, "float64")
