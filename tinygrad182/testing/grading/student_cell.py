"""Call a student's cell with the reference's parameters: a function, a module or an object."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ArgumentError, ShapeError
from ...nn import Module
from ...nn.recurrent import RecurrentLayer
from ...tensors.tensor import Tensor
from ..gradients.recorded_function import standing_in
from .parameter_names import (
    ALL,
    DICTS,
    Parameters,
    Role,
    both_biases,
    data_name,
    meant_by,
    role_of,
    unknown,
)

Given = Mapping[str, Tensor]
"""The input, the parts of the state and the parameters of a step, by the reference's names."""


@dataclass(frozen=True)
class Caller:
    """Calls a student's cell with given numbers, whatever names its arguments have.

    ``gates`` and ``state`` are the reference's names. ``names`` has the reference's names for those of the
    cell that are not recognized.
    """

    cell: Callable[..., Any]
    gates: tuple[str, ...]
    state: tuple[str, ...]
    names: Mapping[str, Any]

    def __call__(self, given: Given) -> Any:
        """Call the cell and return what it returns.

        Raises
        ------
        ArgumentError, ShapeError
            The cell takes an unknown argument or none of the parameters, or a parameter has another shape.
        """
        owner = getattr(self.cell, "__self__", self.cell)
        if isinstance(owner, Module):
            return self._call_module(owner, given)
        with _attributes(owner, self._attributes_of(owner, given)) as replaced:
            return self._call(_signature(self.cell), given, replaced)

    def _call_module(self, module: Module, given: Given) -> Any:
        """Call a module, or a method of one, while its parameters have the given values."""
        own = dict(module.named_parameters())
        tensors = self._matched(own, self._parameters(given))
        for name, parameter in own.items():
            self._check_shape(name, parameter.shape, tensors[name].shape)
        with standing_in(list(own.values()), [tensors[name] for name in own]):
            if isinstance(self.cell, RecurrentLayer):
                return _one_step(self.cell, given["x"], [given[name] for name in self.state])
            called = self.cell.forward if isinstance(self.cell, Module) else self.cell
            return self._call(_signature(called), given, bool(own))

    def _attributes_of(self, owner: Any, given: Given) -> dict[str, Any]:
        """New values for the attributes of an object that are parameters."""
        parameters = self._parameters(given)
        arrays, dicts = {}, {}
        for name, value in getattr(owner, "__dict__", {}).items():
            if isinstance(value, (Tensor, np.ndarray)) and self._role(name, parameters):
                arrays[name] = value
            elif isinstance(value, dict) and any(self._role(str(k), parameters) for k in value):
                dicts[name] = Parameters(parameters, self.names, self.gates)
        tensors = self._matched(arrays, parameters)
        for name, value in arrays.items():
            self._check_shape(name, value.shape, tensors[name].shape)
        return dicts | tensors

    def _call(self, arguments: Sequence[inspect.Parameter], given: Given, has_own: bool) -> Any:
        """Call the cell with the arguments that it has."""
        parameters = self._parameters(given)
        positional = [
            p for p in arguments if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        others = [p.name for p in arguments if data_name(p.name, self.state) is None]
        roles = {name: role for name in others if (role := self._role(name, parameters))}
        if any(p.kind is p.VAR_KEYWORD for p in arguments) and not has_own:
            roles |= {name: name for name in parameters if name not in roles}
        data = [p for p in positional if p.name not in roles]
        dicts = [n for n, role in roles.items() if role == ALL]
        left = [p for p in data if p.default is p.empty and p.name in others]
        if not dicts and len(left) == 1 and left[0].name in DICTS:
            dicts = [left[0].name]
            data.remove(left[0])
        by_name: dict[str, Any] = self._data(data, given, parameters)
        by_name |= self._matched([name for name in roles if name not in dicts], parameters)
        by_name |= dict.fromkeys(dicts, Parameters(parameters, self.names, self.gates))
        if not (has_own or roles or dicts):
            raise ArgumentError(
                "compare_cells: yours takes none of the parameters, so it computes with others than the "
                f"reference; let it take {', '.join(parameters)}, or make them attributes of a module"
            )
        only = [p.name for p in positional if p.kind is p.POSITIONAL_ONLY]
        return self.cell(*[by_name.pop(name) for name in only], **by_name)

    def _data(
        self, data: list[inspect.Parameter], given: Given, parameters: Given
    ) -> dict[str, Any]:
        """Return the input and the state by the names of the arguments for them."""
        meanings = {p.name: data_name(p.name, self.state) for p in data}
        if {"x", *self.state} <= set(meanings.values()):
            extra = [p.name for p in data if meanings[p.name] is None and p.default is p.empty]
            if not extra and len(set(meanings.values()) - {None}) == len(self.state) + 1:
                return {n: given[m] for n, m in meanings.items() if m}
        first = [p for p in data if meanings[p.name] == "x"] or data[:1]
        wanted = ", ".join(self.state)
        if not first:
            raise ArgumentError(
                f"compare_cells: yours has no named argument for x; let it take x, {wanted}, and the "
                f"parameters {', '.join(parameters)}"
            )
        rest = [p for p in data if p is not first[0]]
        if not rest:
            raise ArgumentError(
                f"compare_cells: yours takes {first[0].name!r} and no state; let it take the state "
                f"before the step, too: {wanted}"
            )
        parts = [given[name] for name in self.state]
        if others := [p.name for p in rest[len(self.state) :] if p.default is p.empty]:
            raise ArgumentError(unknown(others, parameters))
        required = [p for p in rest if p.default is p.empty]
        if len(parts) > 1 and (len(rest) < len(parts) or len(required) == 1):
            parts = [tuple(parts)]  # type: ignore[list-item]
        return {first[0].name: given["x"]} | {p.name: x for p, x in zip(rest, parts, strict=False)}

    def _parameters(self, given: Given) -> Given:
        return {name: x for name, x in given.items() if name not in ("x", *self.state)}

    def _role(self, name: str, parameters: Given) -> Role | None:
        return role_of(name, parameters, self.names, self.gates)

    def _matched(self, asked: Collection[str], parameters: Given) -> dict[str, Tensor]:
        """Return the parameters that a cell asks for, by the student's names."""
        roles = {n: role for n in asked if (role := self._role(n, parameters)) is not None}
        if missing := [name for name in asked if name not in roles]:
            raise ArgumentError(unknown(missing, parameters))
        pairs = both_biases(roles).items()
        return {name: meant_by(role, parameters, self.gates) for name, role in pairs}

    def _check_shape(self, name: str, found: Any, wanted: Any) -> None:
        if tuple(found) != tuple(wanted):
            remedy = "use PyTorch's layout"
            if tuple(found) == tuple(wanted)[::-1]:
                remedy += f", or say names={{{name!r}: 'weight_ih.T'}}"
            raise ShapeError(
                f"compare_cells: {name} of yours has shape {tuple(found)}; in the reference it is "
                f"{tuple(wanted)}; {remedy}"
            )


def _signature(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "compare_cells: the arguments of yours cannot be read; pass a function step(x, h, c, ...) "
            "written in Python"
        ) from error


@contextmanager
def _attributes(owner: Any, values: Mapping[str, Any]) -> Iterator[bool]:
    """Give attributes of an object other values while the context lasts."""
    before = {name: vars(owner)[name] for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield bool(values)
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _one_step(layer: RecurrentLayer, x: Tensor, parts: list[Tensor]) -> Any:
    """Run a layer on a sequence of one step, without the compilation of a fused loop."""
    state = [part[None] for part in parts]
    sequence = x[:, None] if layer.batch_first else x[None]
    fused, layer.fused = layer.fused, False
    try:
        last = layer(sequence, state[0] if len(state) == 1 else tuple(state))[1]
    finally:
        layer.fused = fused
    return tuple([part[0] for part in (last if isinstance(last, tuple) else (last,))])
