"""A step and its derivative written by hand in NumPy: how they are called, and what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...errors import ArgumentError, GradientCheckError, brief
from ..grading.parameter_names import data_name
from ..samples import Array

Arrays = dict[str, Array]


class HandWritten:
    """``forward(x, h, c, ...) -> (h, c, cache)`` and ``backward(dh, dc, cache) -> gradients``.

    Parameters
    ----------
    forward, backward : callable
    state : tuple of str
        ``("h", "c")``, or ``("h",)`` for a cell without a cell state.
    parameters : dict of str to ndarray
        In the order in which forward takes them and backward returns their gradients.
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

    def run(self, given: Arrays) -> tuple[list[Array], Any]:
        """Return the parts of the next state, and the cache."""
        data = [given["x"], *(given[part] for part in self.state)]
        parameters = {name: given[name] for name in self._own}
        if self._style == "outside":
            return self._split(self._with_own(parameters, data))
        if self._style == "one dict":
            return self._split(self._called(*data, parameters))
        if self._style == "by name":
            return self._split(self._called(*data, **parameters))
        return self._split(self._called(*data, *parameters.values()))

    def _called(self, *args: Any, **parameters: Any) -> Any:
        try:
            return self._forward(*args, **parameters)
        except Exception as error:
            raise ArgumentError(
                f"check_backward: forward fails: {type(error).__name__}: {error}"
            ) from error

    def _with_own(self, parameters: Arrays, data: list[Array]) -> Any:
        """Run forward while the arrays that it uses from outside hold other numbers."""
        if any(array.dtype.kind == "c" for array in (*parameters.values(), *data)):
            raise TypeError("arrays used from outside keep their type")
        before = {name: array.copy() for name, array in self._own.items()}
        try:
            for name, array in parameters.items():
                self._own[name][...] = array
            return self._called(*data)
        finally:
            for name, array in before.items():
                self._own[name][...] = array

    def _split(self, result: Any) -> tuple[list[Array], Any]:
        *state, cache = result if isinstance(result, tuple) else (result,)
        if len(state) == 1 and isinstance(state[0], (tuple, list)):
            state = list(state[0])
        if len(state) != len(self.state):
            raise ArgumentError(
                f"check_backward: forward returns {brief(result)}; return "
                f"({', '.join([*self.state, 'cache'])})"
            )
        return [np.asarray(part) for part in state], cache

    # --- backward -------------------------------------------------------------------------------

    def gradients(self, cotangents: Arrays, given: Arrays) -> dict[str, Any]:
        """Return what backward gives for each input and parameter, by the name of that."""
        _, cache = self.run(given)
        copies = [cotangents[part].copy() for part in self.state]
        try:
            result = self._backward(*copies, cache)
        except Exception as error:
            raise GradientCheckError(
                f"check_backward: backward fails: {type(error).__name__}: {error}"
            ) from error
        return self._named(result)

    def _named(self, result: Any) -> dict[str, Any]:
        """Gradients by the names of what they belong to, however they were returned."""
        names = ["x", *self.state, *self._own]
        by_name: dict[str, Any] = {}
        in_order: list[Any] = []
        items = [] if result is None else result if isinstance(result, (tuple, list)) else [result]
        for item in items:
            if isinstance(item, Mapping):
                by_name |= {self._plain(key): value for key, value in item.items()}
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
                f"check_backward: backward returns {' and '.join(found) or 'nothing'}{missing}. It has to "
                f"return the {len(names)} gradients {wanted}, as a tuple in this order, or as a dict"
            )
        by_order = dict(zip(left, in_order, strict=True))
        return {name: by_order.get(name, by_name.get(name)) for name in names}

    def _plain(self, key: Any) -> str:
        """The name of an input in the name of its gradient: W_hh of dW_hh, h of dh_prev."""
        name = str(key)
        for start in ("", "grad_", "d_", "d"):
            plain = name.removeprefix(start)
            if plain in self._own or plain in ("x", *self.state):
                return plain
        for start in ("grad_", "d_", "d", ""):
            if name.startswith(start) and (
                meant := data_name(name.removeprefix(start), self.state)
            ):
                return meant
        return name


def _style(forward: Callable[..., Any], data: int, parameters: Mapping[str, Any]) -> str:
    """How forward takes its parameters: from outside, in one dict, by their names, or in order."""
    arguments = list(inspect.signature(forward).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in arguments):
        return "by name"
    if any(p.kind is p.VAR_POSITIONAL for p in arguments):
        return "in order"
    further = [p for p in arguments[data:] if p.default is p.empty or p.name in parameters]
    if len(further) == 0 and parameters:
        for name, array in parameters.items():
            if (
                not isinstance(array, np.ndarray)
                or array.dtype != float
                or not array.flags.writeable
            ):
                raise ArgumentError(
                    f"check_backward: forward takes no parameters, so {name} is used from outside; pass "
                    "the very float64 arrays that it uses, or let forward take them"
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
        f"{', '.join(parameters) or 'nothing'}; name there what it takes behind the state, in this order"
    )
