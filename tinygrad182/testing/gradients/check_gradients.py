"""``check_gradients``: compare a function's derivatives with numerical ones."""

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

    The numerical derivatives come from the complex step if ``f`` can take complex arguments: that is as
    exact for a gradient of 1e-100 as for one of 1. Otherwise they come from five points, with an error
    bound. Each entry is compared on its own scale, so that a wrong entry of 1e-50 does not hide behind
    right entries of 1. The effect of rounding is measured: the graph runs again with every result changed
    in its last places.

    The check covers

    - the gradient, entry by entry, and the JVP;
    - backward passes: they are linear in the cotangent, give equal bits twice and write into no array;
    - several cotangents at once, on an axis in front;
    - second derivatives: of the gradient by the inputs and by the cotangent;
    - other dtypes: float32 inputs are checked in float64, and then the float32 results against those.

    Parameters
    ----------
    f : callable
        A function of Tensors, or a Module; returns a floating Tensor, or a nested tuple with some.
    *xs : array, Tensor, number or tuple of them
        The arguments of ``f``. All floating ones are differentiated; others are passed on.
    parameters : Module, mapping or iterable of Tensor, optional
        Tensors that ``f`` uses from outside; they are checked too. By default they are the parameters of
        ``f``, if it is a Module.
    order : {1, 2}
        Whether to check second derivatives.
    rtol : float, optional
        Relative tolerance in addition to rounding: by default 1e-11 for the complex step, 1e-9 for five
        points, and 1e-7 for second derivatives.
    max_entries : int
        The most inputs and outputs that are tried one by one; they are drawn at random. All inputs
        together are always tried along random directions, too.
    seed : int
        The seed of all random numbers.

    Returns
    -------
    GradientCheck
        The method and the largest error.

    Raises
    ------
    GradientCheckError
        A derivative is wrong. The error is an AssertionError too. Its message names the operation, the
        input, the entry and both values, and shows the smallest example.
    NotDifferentiableError
        ``f`` has a kink or a jump at ``xs``, so there is no derivative to compare with.
    ArgumentError
        ``f`` is not finite at ``xs``, gives another value when called again, or has no floating input.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> check = tg.testing.check_gradients(lambda x: tg.tanh(x * x), np.array([0.5, -2.0]))
    >>> check.method, check.error < 1e-12
    ('complex step', True)

    A model is checked with its parameters:

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
    the smallest example that shows it:
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
        fault = error.with_traceback(None)  # a traceback would keep this frame alive
    with np.errstate(all="ignore"):  # rounding in f may hide a fault of one operation
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
    """Return the fault of a small function; None if there is none, or it cannot be checked."""
    try:
        Checker(VectorFunction(f, xs, {}), None, max_entries=12, seed=1).run(order)
    except PropertyError as wrong:
        return wrong.with_traceback(None)
    except TinygradError:  # a kink, numbers that are not finite, or no floating input
        pass
    return None


def _named(parameters: Any) -> dict[str, Tensor]:
    """Return the parameters by their names in messages."""
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
