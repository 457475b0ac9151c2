"""NumPy's own functions on Tensors: each is ours of the same name, so results stay differentiable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ._hints import HINTS
from ._trees import flatten, rebuild
from .errors import ArgumentError, DTypeError
from .host import is_host_data, on_host
from .recording import needs_grad, refuse_subclass

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

PREDICATES = frozenset(
    """
    allclose argpartition argwhere array2string array_equal array_equiv array_repr array_str can_cast
    count_nonzero digitize einsum_path flatnonzero isclose iscomplex iscomplexobj isneginf isposinf
    isreal isrealobj logical_xor may_share_memory min_scalar_type nanargmax nanargmin ndim nonzero
    result_type searchsorted shape shares_memory signbit size
    """.split()  # noqa: SIM905 - a list of words reads better
)
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
    room = f.__module__.partition(".")[2]  # such as linalg
    shown = f"{room}.{f.__name__}" if room else f.__name__
    return _run(functions, f.__name__, f, args, options, shown)


def _run(
    functions: Any,
    name: str,
    original: Callable[..., Any],
    args: Sequence[Any],
    options: Mapping[str, Any],
    shown: str = "",
) -> Any:
    known, name = shown or name, ALIASES.get(name, name)
    shown = f"np.{known}"
    if "out" in options:
        raise ArgumentError(f"{shown}: out= would overwrite what may be recorded; use the result")
    given = flatten((args, options))
    for x in given:
        refuse_subclass(x, f"{shown}: ")
    if name not in functions.__all__:
        if name in PREDICATES or not any(map(needs_grad, given)):
            plain = (x if is_host_data(x) else on_host(x) for x in given)
            args, options = rebuild((args, options), plain)
            return original(*args, **options)
        hint = f"write {HINTS[known]}" if known in HINTS else "compose it from the functions of tg"
        raise DTypeError(
            f"{shown}: tg has no such function with a derivative; {hint}, "
            "or use x.detach() for a result without gradients"
        )
    ours = partial(_dot, functions) if known == "dot" else getattr(functions, name)
    renamed = {KEYWORDS.get(k, k): v for k, v in options.items()}
    try:
        inspect.signature(ours).bind(*args, **renamed)
    except TypeError as error:
        raise ArgumentError(f"{shown} on a Tensor is tg.{name}: {error}") from None
    return ours(*args, **renamed)


def _dot(functions: Any, a: Any, b: Any) -> Any:
    """NumPy's ``dot``: of all last axes of ``a`` with the last but one of ``b``."""
    a, b = functions.as_operands((a, b))
    if not a.ndim or not b.ndim:
        return functions.multiply(a, b)
    if b.ndim <= 2:
        return functions.matmul(a, b)
    front = functions.permute_dims(b, (b.ndim - 2, *range(b.ndim - 2), b.ndim - 1))
    rows = functions.matmul(a, functions.reshape(front, (b.shape[-2], -1)))
    return functions.reshape(rows, (*a.shape[:-1], *front.shape[1:]))
