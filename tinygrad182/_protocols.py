"""NumPy's own functions on Tensors: each is ours of the same name, so results stay differentiable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import ArgumentError, DTypeError
from .recording import is_tensor, needs_grad

ALIASES = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "bitwise_and": "logical_and",  # mask & x, as x & mask
    "bitwise_or": "logical_or",
    "concatenate": "concat",
    "cumsum": "cumulative_sum",
    "dot": "matmul",
    "true_divide": "divide",
}
"""NumPy's name → ours, where they differ."""

KEYWORDS = {"a_max": "max", "a_min": "min", "ddof": "correction", "newshape": "shape"}
"""NumPy's name of an argument → ours, where they differ."""

REDUCTIONS = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min"}
"""Ufunc → the function that its ``reduce`` is."""

PREDICATES = {"allclose", "array_equal", "isclose", "ndim", "shape", "size"}
"""Functions that have no derivative, whatever they are given."""


def ufunc(
    functions: Any, f: Any, method: str, inputs: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Run NumPy's ufunc ``f``, or a method of it, as our function."""
    if method == "__call__":
        return _run(functions, f.__name__, f, inputs, options)
    if method == "at":  # writes even into what is read-only
        raise ArgumentError(
            f"np.{f.__name__}.at would overwrite what may be recorded; use the array x.data of a leaf x"
        )
    name = REDUCTIONS.get(f.__name__, "") if method == "reduce" else ""
    options = {"axis": 0, **options} if method == "reduce" else options
    return _run(functions, name, getattr(f, method), inputs, options, f"{f.__name__}.{method}")


def function(
    functions: Any, f: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Run NumPy's function ``f`` as ours."""
    return _run(functions, f.__name__, f, args, options)


def _run(
    functions: Any,
    name: str,
    original: Callable[..., Any],
    args: Sequence[Any],
    options: Mapping[str, Any],
    shown: str = "",
) -> Any:
    shown, name = f"np.{shown or name}", ALIASES.get(name, name)
    if "out" in options:
        raise ArgumentError(f"{shown}: out= would overwrite what may be recorded; use the result")
    if name not in functions.__all__:
        if name in PREDICATES or not _requires_grad((args, options)):
            return original(*_plain(args), **_plain(options))
        raise DTypeError(
            f"{shown}: tg has no such function with a derivative; compose it from the functions of tg, "
            "or use x.detach() for a result without gradients"
        )
    ours = getattr(functions, name)
    renamed = {KEYWORDS.get(k, k): v for k, v in options.items()}
    try:
        inspect.signature(ours).bind(*args, **renamed)
    except TypeError as error:
        raise ArgumentError(f"{shown} on a Tensor is tg.{name}: {error}") from None
    return ours(*args, **renamed)


def _requires_grad(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_requires_grad(v) for v in value)
    return needs_grad(value)


def _plain(value: Any) -> Any:
    """The arguments with NumPy arrays in the place of Tensors."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value.numpy() if is_tensor(value) else value
