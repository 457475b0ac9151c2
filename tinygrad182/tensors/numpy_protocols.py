"""NumPy's functions on Tensors, such as ``np.tanh(x)``: they call our function of the same name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._suggestions.numpy_names import hint
from .._trees import flatten, rebuild
from ..engine.host import is_host_data, on_host
from ..engine.operands import refuse_subclass
from ..engine.recording import needs_grad
from ..errors import ArgumentError, DTypeError

ALIASES = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "bitwise_and": "logical_and",  # mask & x, as x & mask
    "bitwise_or": "logical_or",
    "concatenate": "concat",
    "row_stack": "vstack",
    "true_divide": "divide",
}
"""NumPy's name → our name, if they differ."""

KEYWORDS = {
    **dict.fromkeys(("a", "arr", "array", "ary", "A", "m"), "x"),
    "a_max": "max",
    "a_min": "min",
    "ddof": "correction",
    "newshape": "shape",
    "tup": "xs",
}
"""NumPy's name of an argument → our name, if they differ."""

METHODS = {
    "add.reduce": "sum",
    "multiply.reduce": "prod",
    "maximum.reduce": "max",
    "minimum.reduce": "min",
    "add.accumulate": "cumulative_sum",
    "multiply.accumulate": "cumulative_prod",
}
"""Method of a ufunc → the function that computes it."""

DEFAULTS = {
    **{method: {"axis": 0} for method in METHODS},
    "linalg.diagonal": {"axis1": -2, "axis2": -1},
    "linalg.trace": {"axis1": -2, "axis2": -1},
}
"""NumPy's name → its defaults of arguments, if our function has other defaults."""

PREDICATES = frozenset(
    """
    allclose argpartition argwhere array2string array_equal array_equiv array_repr array_str can_cast
    count_nonzero digitize einsum_path flatnonzero isclose iscomplex iscomplexobj isneginf isposinf
    isreal isrealobj logical_xor may_share_memory min_scalar_type nanargmax nanargmin ndim nonzero
    result_type searchsorted shape shares_memory signbit size
    """.split()  # noqa: SIM905 - a list of words reads better
)
"""Functions that have no derivative for any arguments."""

UNREAD = frozenset(("iscomplexobj", "isrealobj", "ndim", "result_type", "shape", "size"))
"""Predicates that read only shapes and dtypes: no elements are copied to the host for them."""


def ufunc(
    functions: Any, f: Any, method: str, inputs: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Call our function instead of NumPy's ufunc ``f`` or one of its methods."""
    if method == "__call__":
        return _run(functions, f.__name__, f, inputs, options)
    if method == "at":  # it writes even into read-only arrays
        raise ArgumentError(
            f"np.{f.__name__}.at would overwrite values that backward needs; use x.data of a leaf x"
        )
    if method == "outer":
        a, b = functions.as_operands(inputs)
        columns = functions.reshape(a, (*a.shape, *(1,) * b.ndim))
        return _run(functions, f.__name__, f, (columns, b), options)
    known = f"{f.__name__}.{method}"
    return _run(functions, METHODS.get(known, ""), getattr(f, method), inputs, options, known)


def function(
    functions: Any, f: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Call our function instead of NumPy's function ``f``."""
    module = f.__module__.partition(".")[2]  # such as linalg
    shown = f"{module}.{f.__name__}" if module else f.__name__
    if shown == "pad":
        args, options = _pad(*args, **options)
    return _run(functions, f.__name__, f, args, options, shown)


def _pad(x: Any, pad_width: Any, mode: str = "constant", **options: Any) -> tuple[Any, Any]:
    """Convert the arguments of NumPy's ``pad`` to ours, which only pads with a constant."""
    if mode != "constant":
        raise ArgumentError(
            f"np.pad: mode={mode!r} is not one of tg.pad, which adds a constant; "
            f"write tg.take(x, np.pad(np.arange(n), width, {mode!r}), axis)"
        )
    return (x, pad_width), options


def _by_name(
    original: Callable[..., Any], ours: Callable[..., Any], args: Any, options: Any
) -> tuple[Any, Any]:
    """Pass arguments by name from the position of NumPy's ``dtype`` or ``out``, which ours do not take."""
    if len(args) < 3:  # the first two are never dtype or out
        return args, options
    try:
        known = inspect.signature(original).parameters.values()
    except ValueError:  # a function that is not written in Python
        return args, options
    theirs = [p.name for p in known if p.kind is p.POSITIONAL_OR_KEYWORD]
    taken = inspect.signature(ours).parameters
    start = next((i for i, n in enumerate(theirs) if n in ("dtype", "out") and n not in taken), 99)
    rest = dict(zip(theirs[start:], args[start:], strict=False))
    return args[:start], {**{k: v for k, v in rest.items() if v is not None}, **options}


def _outline(x: Any) -> np.ndarray[Any, Any]:
    """An array with the shape and dtype of a Tensor or of an array of a device; all its elements are 0."""
    return np.broadcast_to(np.zeros((), str(x.dtype).rpartition(".")[2]), x.shape)


def _run(
    functions: Any,
    name: str,
    original: Callable[..., Any],
    args: Sequence[Any],
    options: Mapping[str, Any],
    shown: str = "",
) -> Any:
    known = shown or name
    name = ALIASES.get(known, ALIASES.get(name, name))
    shown = f"np.{known}"
    ours = getattr(functions, name) if name in functions.__all__ else None
    if ours is not None:
        args, options = _by_name(original, ours, args, options)
    if options.get("out") is not None:
        raise ArgumentError(
            f"{shown}: out= would overwrite values that backward needs; use the result"
        )
    given = flatten((args, options))
    for x in given:
        refuse_subclass(x, f"{shown}: ")
    if ours is None:
        if name in PREDICATES or not any(map(needs_grad, given)):
            read = _outline if name in UNREAD else on_host
            plain = (x if is_host_data(x) else read(x) for x in given)
            args, options = rebuild((args, options), plain)
            return original(*args, **options)
        raise DTypeError(
            f"{shown}: tg has no such function with a derivative; {hint(known)}, "
            "or use x.detach() for a result without gradients"
        )
    signature = inspect.signature(ours)
    taken = signature.parameters
    renamed = {k if k in taken else KEYWORDS.get(k, k): v for k, v in options.items()}
    renamed.pop("out", None)
    try:
        present = signature.bind_partial(*args, **renamed).arguments
        renamed |= {k: v for k, v in DEFAULTS.get(known, {}).items() if k not in present}
        signature.bind(*args, **renamed)
    except TypeError as error:
        instead = "; write x.astype(dtype) first" if "dtype" in renamed else ""
        raise ArgumentError(f"{shown} on a Tensor is tg.{name}: {error}{instead}") from None
    return ours(*args, **renamed)
