"""Call a step and its derivative that are written by hand in NumPy, and read what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...errors import ArgumentError, GradientCheckError, brief
from ..grading.parameter_names import data_name
from ..samples import Array

Arrays = dict[str, Array]


class StepOutput(NamedTuple):
    """The parts of the next state, and the cache for backward."""

    state: list[Array]
    cache: Any


class HandWritten:
    """``forward(x, h, c, ...) -> (h, c, cache)`` and ``backward(dh, dc, cache) -> gradients``.

    ``parameters`` are in the order that forward takes them in and backward returns their gradients.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        state: tuple[str, ...],
        parameters: Mapping[str, Any],
    ) -> None:
        for what, function in (("forward", forward), ("backward", backward)):
            if not callable(function):
                raise ArgumentError(f"check_backward: {what} is {brief(function)}, not a function")
        self._forward, self._backward = forward, backward
        self.state = state
        self._own = dict(parameters)
        self._style = _style(forward, 1 + len(state), self._own)

    # --- forward --------------------------------------------------------------------------------

    def run(self, given: Arrays) -> StepOutput:
        """Run forward on the given arrays."""
        data = [given["x"], *(given[part] for part in self.state)]
        parameters = {name: given[name] for name in self._own}
        if self._style == "outside":
            result = self._call_with_outside(parameters, data)
        elif self._style == "one dict":
            result = self._call(*data, parameters)
        elif self._style == "by name":
            result = self._call(*data, **parameters)
        else:
            result = self._call(*data, *parameters.values())
        return self._split(result)

    def _call(self, *args: Any, **parameters: Any) -> Any:
        try:
            return self._forward(*args, **parameters)
        except Exception as error:
            raise ArgumentError(
                f"check_backward: forward fails: {type(error).__name__}: {error}"
            ) from error

    def _call_with_outside(self, parameters: Arrays, data: list[Array]) -> Any:
        """Run forward while the arrays that it uses from outside have other numbers."""
        if any(array.dtype.kind == "c" for array in (*parameters.values(), *data)):
            raise TypeError("arrays used from outside keep their dtype")
        before = {name: array.copy() for name, array in self._own.items()}
        try:
            for name, array in parameters.items():
                self._own[name][...] = array
            return self._call(*data)
        finally:
            for name, array in before.items():
                self._own[name][...] = array

    def _split(self, result: Any) -> StepOutput:
        *state, cache = result if isinstance(result, tuple) else (result,)
        if len(state) == 1 and isinstance(state[0], (tuple, list)):
            state = list(state[0])
        if len(state) != len(self.state):
            raise ArgumentError(
                f"check_backward: forward returns {brief(result)}; return "
                f"({', '.join([*self.state, 'cache'])})"
            )
        return StepOutput([np.asarray(part) for part in state], cache)

    # --- backward -------------------------------------------------------------------------------

    def gradients(self, cotangents: Arrays, given: Arrays) -> dict[str, Any]:
        """Run forward and backward; return the gradient by each input and parameter."""
        cache = self.run(given).cache
        copies = [cotangents[part].copy() for part in self.state]
        try:
            result = self._backward(*copies, cache)
        except Exception as error:
            raise GradientCheckError(
                f"check_backward: backward fails: {type(error).__name__}: {error}"
            ) from error
        return self._named(result)

    def _named(self, result: Any) -> dict[str, Any]:
        """Return the gradients by the names of the arrays, whether they come in order or in a dict."""
        names = ["x", *self.state, *self._own]
        by_name: dict[str, Any] = {}
        in_order: list[Any] = []
        items = [] if result is None else result if isinstance(result, (tuple, list)) else [result]
        for item in items:
            if isinstance(item, Mapping):
                by_name |= {self._array_of(key): value for key, value in item.items()}
            else:
                in_order.append(item)
        left = [name for name in names if name not in by_name]
        if len(in_order) != len(left):
            count = f"{len(in_order)} gradient{'s' * (len(in_order) != 1)}"
            known = [f"d{name}" for name in names if name in by_name]
            found = [count] * bool(in_order) + known
            missing = (
                f"; {', '.join(f'd{n}' for n in left)} missing" if by_name and not in_order else ""
            )
            wanted = ", ".join(f"d{name}" for name in names)
            raise GradientCheckError(
                f"check_backward: backward returns {' and '.join(found) or 'nothing'}{missing}. It must "
                f"return the {len(names)} gradients {wanted}, as a tuple in this order, or as a dict"
            )
        by_order = dict(zip(left, in_order, strict=True))
        return {name: by_order.get(name, by_name.get(name)) for name in names}

    def _array_of(self, key: Any) -> str:
        """The array that a gradient belongs to: W_hh for dW_hh, h for dh_prev."""
        name = str(key)
        for start in ("", "grad_", "d_", "d"):
            array = name.removeprefix(start)
            if array in self._own or array in ("x", *self.state):
                return array
        for start in ("grad_", "d_", "d", ""):
            if name.startswith(start) and (
                meant := data_name(name.removeprefix(start), self.state)
            ):
                return meant
        return name


def _style(forward: Callable[..., Any], data: int, parameters: Mapping[str, Any]) -> str:
    """How forward takes its parameters: from outside, in one dict, by name, or in order."""
    arguments = list(inspect.signature(forward).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in arguments):
        return "by name"
    if any(p.kind is p.VAR_POSITIONAL for p in arguments):
        return "in order"
    further = [p for p in arguments[data:] if p.default is p.empty or p.name in parameters]
    if len(further) == 0 and parameters:
        for name, array in parameters.items():
            is_float64 = isinstance(array, np.ndarray) and array.dtype == float
            if not (is_float64 and array.flags.writeable):
                raise ArgumentError(
                    f"check_backward: forward takes no parameters, so {name} is used from outside; pass "
                    "the float64 arrays themselves that it uses, or let forward take them"
                )
        return "outside"
    names = {p.name for p in further}
    if names == set(parameters):
        return "by name"
    if len(further) == 1 and (len(parameters) > 1 or not parameters):
        return "one dict"
    if len(further) == len(parameters):
        return "in order"
    takes = ", ".join(p.name for p in arguments)
    raise ArgumentError(
        f"check_backward: forward takes ({takes}), and parameters= has "
        f"{', '.join(parameters) or 'nothing'}; name there what it takes after the state, in this order"
    )
