"""``check_gradients``: a function's derivatives against numerical ones, so that no wrong rule passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..._numbers import check_whole
from ...engine.recording import Leaf
from ...errors import ArgumentError, GradientCheckError, TinygradError
from ...nn import Module
from ...tensors.tensor import Tensor
from ..results import GradientCheck
from .checker import Checker
from .failure_message import explain
from .property_error import PropertyError
from .vector_function import VectorFunction


def check_gradients(
    f: Callable[..., Any],
    *xs: Any,
    parameters: Module | Mapping[str, Tensor] | Iterable[Tensor] | None = None,
    order: int = 2,
    rtol: float | None = None,
    max_entries: int = 100,
    seed: int = 0,
) -> GradientCheck:
    """Check every derivative of ``f`` at ``xs`` against numerical ones; raise where one is wrong.

    The numbers come from the complex step where ``f`` can take complex arguments: as exact for a
    gradient of 1e-100 as for one of 1. Otherwise they come from five points, with an error bound
    found as they are computed. Each entry is compared on its own scale (a relative difference is a
    difference of logarithms), so that a wrong entry of 1e-50 does not hide behind right ones of 1.
    What rounding may have done to an entry is measured: the graph is run again with every result
    off by some last places.

    Checked are the gradient entry by entry; that backward passes are linear in the cotangent, give
    the same bits twice and write into nothing; several cotangents at once; the JVP; the
    derivatives of the gradient by the inputs and by the cotangent. Inputs of float32 are checked in
    float64, and then float32 against that.

    Parameters
    ----------
    f : callable
        A function of Tensors, or a Module; returns a floating Tensor, or a nested tuple with some.
    *xs : array, Tensor, number or tuple of them
        Where to check. All floating ones are differentiated; what is not an array is passed on.
    parameters : Module, mapping or iterable of Tensor, optional
        Tensors that ``f`` uses from outside, to be checked too; by default those of ``f``, if it is a
        Module.
    order : {1, 2}
        Whether to check second derivatives.
    rtol : float, optional
        Relative tolerance, beside rounding: by default 1e-11 for the complex step, 1e-9 for five
        points, and 1e-7 for second derivatives.
    max_entries : int
        At most so many inputs and outputs are tried one by one, drawn at random; all of them
        together are tried along random directions in any case.
    seed : int
        Of everything drawn.

    Returns
    -------
    GradientCheck
        How it was checked, and the largest difference.

    Raises
    ------
    GradientCheckError
        A derivative is wrong; it is an AssertionError too. The message names the operation, the
        input, the entry, both values and the least example.
    NotDifferentiableError
        ``f`` has a kink or a jump at ``xs``: there is no derivative to compare with.
    ArgumentError
        ``f`` is not finite at ``xs``, gives another value when called again, or has no floating input.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> check = tg.testing.check_gradients(lambda x: tg.tanh(x * x), np.array([0.5, -2.0]))
    >>> check.method, check.error < 1e-12
    ('complex step', True)

    A model is checked by its parameters too:

    >>> check = tg.testing.check_gradients(tg.nn.RNN(2, 3, rng=0, dtype="float64"), np.ones((4, 1, 2)))

    A rule that is off by one part in a million does not pass:

    >>> swish = tg.Primitive(
    ...     "swish",
    ...     forward=lambda xp, x: x / (1 + xp.exp(-x)),
    ...     vjp=(lambda xp, g, y, x: 1.000001 * g * (y + (1 - y) / (1 + xp.exp(-x))),),
    ...     jvp="elementwise",
    ... )
    >>> tg.testing.check_gradients(lambda x: tg.apply(swish, x * x).sum(), np.array([0.3, 1.5]))
    Traceback (most recent call last):
        ...
    tinygrad182.errors.GradientCheckError: check_gradients: swish: the first derivative is wrong
        input         input 0 of shape (2,), float64
        entry         output... by input...
        computed      ...
        complex step  ...
        ratio         1.000001
    so in the function checked the first derivative is wrong
        ...
    the least example that shows it:
        x0 = np.array(0.1, dtype='float64')
        tg.testing.check_gradients(
            lambda x0: tg.apply(swish, x0), x0
        )
    """
    _check_options(f, order, rtol, max_entries, seed)
    function = VectorFunction(f, xs, _named(f if parameters is None else parameters))
    fault: PropertyError | None = None
    try:
        with np.errstate(all="ignore"):
            checker = Checker(function, rtol, max_entries, seed)
            check = checker.run(order)
            if checker.resolved:
                return check
    except PropertyError as error:
        fault = error.with_traceback(None)  # which would hold this frame, and it the error
    with np.errstate(all="ignore"):  # rounding may hide an operation's fault in the whole
        message = explain(function, fault, _fault)
    if message:
        raise GradientCheckError(message) from (fault.__cause__ if fault else None)
    return check


def _check_options(f: Any, order: Any, rtol: Any, max_entries: Any, seed: Any) -> None:
    if not callable(f):
        raise ArgumentError(f"check_gradients: {type(f).__name__} is not a function of Tensors")
    if order not in (1, 2):
        raise ArgumentError(f"check_gradients: order is {order}; it must be 1 or 2")
    if rtol is not None and not (isinstance(rtol, (int, float)) and 0 <= rtol < np.inf):
        raise ArgumentError(f"check_gradients: rtol is {rtol!r}; it must be a number from 0")
    for name, value, least in (("max_entries", max_entries, 1), ("seed", seed, 0)):
        check_whole("check_gradients", name, value, least)


def _fault(f: Callable[..., Any], xs: list[Any], order: int) -> PropertyError | None:
    """What is wrong with a small function, if anything can be said about it."""
    try:
        Checker(VectorFunction(f, xs, {}), None, max_entries=12, seed=1).run(order)
    except PropertyError as wrong:
        return wrong.with_traceback(None)
    except TinygradError:  # at a kink, not finite, nothing to differentiate by
        return None
    return None


def _named(parameters: Any) -> dict[str, Tensor]:
    """The parameters by the names they have in messages."""
    if isinstance(parameters, Module):
        return dict(parameters.named_parameters())
    if isinstance(parameters, Mapping):
        return dict(parameters)
    if callable(parameters):  # a function has none
        return {}
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not all(isinstance(p, Tensor) for p in tensors):
        raise ArgumentError(
            "check_gradients: parameters must be a Module, Tensors, or a mapping to Tensors"
        )
    return {_name(p, i): p for i, p in enumerate(tensors)}


def _name(parameter: Tensor, i: int) -> str:
    node = parameter._node
    return (isinstance(node, Leaf) and node.name) or f"parameter {i}"
