"""One step of anybody's cell, with its gates and its gradients, by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._tensor import Tensor
from ..autodiff import grad
from ..backpropagation import ancestors
from ..creation import tensor
from ..errors import ArgumentError, ShapeError, brief
from ..intervening import gate_reader
from ..modes import enable_grad, modes_kept
from ..nn import Module
from ..nn.recurrent import Recurrent, RecurrentLayer
from ..recording import node_of, wrap
from .recordings import Vector, standing_in

Given = Mapping[str, Tensor]
"""The input, the parts of the state and the parameters of a step, by their names."""

Step = Callable[[Given], dict[str, Tensor]]
"""Maps what is given to the gates that can be seen and the parts of the next state, by their names."""

# fmt: off
ALIASES = {
    "weight_ih": ("weight_ih", "w_ih", "wih", "w_x", "wx", "w_xh", "wxh"),
    "weight_hh": ("weight_hh", "w_hh", "whh", "w_h", "wh"),
    "bias_ih": ("bias_ih", "b_ih", "bih", "b_x", "bx"),
    "bias_hh": ("bias_hh", "b_hh", "bhh", "b_h", "bh"),
    "bias": ("bias", "b"),
}
# fmt: on
"""What people call the parameters of a cell, in small letters; one bias alone is the sum of both."""


def role_of(name: str, known: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """Return which parameter of the reference a name means; None for any other name."""
    name = names.get(name, name)
    plain = name.rpartition(".")[2].removesuffix("_l0")
    if plain in known:
        return plain
    roles = (role for role, others in ALIASES.items() if plain.lower() in others)
    return next(roles, None)


@dataclass(frozen=True)
class StepResult:
    """What one step gave.

    Attributes
    ----------
    values : dict of str to ndarray
        Gates and the parts of the next state.
    gradients : dict of str to ndarray
        ∂L/∂ of the input, of the parts of the state and of each parameter.
    epsilon : float
        The coarsest rounding of what was computed.
    """

    values: dict[str, Vector]
    gradients: dict[str, Vector]
    epsilon: float


@modes_kept
def run_step(
    step: Step, given: Mapping[str, Vector], cotangents: Mapping[str, Vector], device: str
) -> StepResult:
    """Run a step in float64 on leaves of its own, and send the cotangents of the next state back."""
    leaves = {n: tensor(a, "float64", device, requires_grad=True) for n, a in given.items()}
    with enable_grad():
        values = step(leaves)
    ends = [(values[name], c) for name, c in cotangents.items() if values[name].requires_grad]
    dtypes = {values[name].dtype for name in cotangents}
    dtypes |= {np.dtype(str(n.value.dtype)) for n in ancestors([node_of(y) for y, _ in ends])}
    found: list[Tensor | None] = [None] * len(leaves)
    if ends:
        seeds = [tensor(c, y.dtype, device) for y, c in ends]
        found = grad([y for y, _ in ends], list(leaves.values()), seeds)
    gradients = {
        name: np.zeros(np.shape(given[name])) if g is None else g.numpy()
        for name, g in zip(leaves, found, strict=True)
    }
    epsilon = max(float(np.finfo(d).eps) for d in dtypes if d.kind == "f")
    return StepResult({n: v.detach().numpy() for n, v in values.items()}, gradients, epsilon)


# --- cells as steps -------------------------------------------------------------------------------


def step_of(
    cell: Callable[..., Any],
    gates: tuple[str, ...],
    state: tuple[str, ...],
    names: Mapping[str, str],
) -> Step:
    """Return the step of a module or function, whatever it calls its parameters.

    Parameters
    ----------
    cell : Module or callable
    gates, state : tuple of str
        The gates that are looked for, and the parts of the state.
    names : dict of str to str
        The reference's names for those of the cell, where they are not found by themselves.
    """
    run = _of_module if isinstance(cell, Module) else _of_function

    declared = _declared_gates(cell)

    def step(given: Given) -> dict[str, Tensor]:
        parts = _parts(run(cell, given, state, names), state, given)
        nodes = ancestors([node_of(y) for y in parts.values()], constants=True)
        marked = {names.get(m.name, m.name): wrap(n.value) for n in nodes for m in n.marks}
        found = declared(given) | marked
        return {gate: found[gate] for gate in gates if gate in found} | parts

    return step


def _of_module(cell: Any, given: Given, state: tuple[str, ...], names: Mapping[str, str]) -> Any:
    """Run a module on the parameters that are given, in the place of its own."""
    own = dict(cell.named_parameters())
    tensors = _matched(own, _parameters(given, state), names)
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise ShapeError(
                f"compare_cells: {name} of yours has shape {parameter.shape}, and that of the reference "
                f"{tensors[name].shape}; keep parameters in PyTorch's layout"
            )
    parts = [given[name] for name in state]
    with standing_in(list(own.values()), [tensors[name] for name in own]):
        if isinstance(cell, RecurrentLayer):
            return _one_step(cell, given["x"], parts)
        return cell(given["x"], *_packed(_positional(cell.forward), parts))


def _one_step(layer: RecurrentLayer, x: Tensor, parts: list[Tensor]) -> Any:
    """Run a layer on a sequence of one step, step by step: loops are not worth compiling for one."""
    whole = [part[None] for part in parts]
    sequence = x[:, None] if layer.batch_first else x[None]
    fused, layer.fused = layer.fused, False
    try:
        last = layer(sequence, whole[0] if len(whole) == 1 else tuple(whole))[1]
    finally:
        layer.fused = fused
    return tuple([part[0] for part in (last if isinstance(last, tuple) else (last,))])


def _of_function(
    cell: Callable[..., Any], given: Given, state: tuple[str, ...], names: Mapping[str, str]
) -> Any:
    """Run a function ``step(x, h, c, **parameters)`` or ``step(x, state, **parameters)``."""
    arguments = inspect.signature(cell).parameters.values()
    parameters = _parameters(given, state)
    asked = [p.name for p in arguments if role_of(p.name, parameters, names)]
    if any(p.kind is p.VAR_KEYWORD for p in arguments):
        asked += [name for name in parameters if name not in asked]
    data = [p for p in _positional(cell) if p.name not in asked]
    others = [p.name for p in data[1 + len(state) :] if p.default is p.empty]
    if others or not data:
        raise ArgumentError(_unknown(others or ["nothing"], parameters))
    packed = _packed(data, [given[name] for name in state])
    first = [given["x"], *packed]
    by_name = {p.name: x for p, x in zip(data, first, strict=False)}
    by_name |= _matched(asked, parameters, names)
    only = [p.name for p in arguments if p.kind is p.POSITIONAL_ONLY]
    return cell(*[by_name.pop(name) for name in only], **by_name)


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def _packed(data: list[inspect.Parameter], parts: list[Tensor]) -> list[Any]:
    """The parts of a state as a cell takes them: one by one, or in a tuple."""
    needed = [p for p in data if p.default is p.empty]
    if len(parts) > 1 and (len(data) <= len(parts) or len(needed) == 2):
        return [tuple(parts)]
    return parts


def _parameters(given: Given, state: tuple[str, ...]) -> Given:
    return {name: x for name, x in given.items() if name not in ("x", *state)}


def _matched(
    asked: Iterable[str], parameters: Given, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The parameters that a cell asks for, by its own names."""
    roles = {name: role_of(name, parameters, names) for name in asked}
    unknown = [name for name, role in roles.items() if role is None]
    if unknown:
        raise ArgumentError(_unknown(unknown, parameters))
    found = {}
    for name, role in roles.items():
        other = {"bias_ih": "bias_hh", "bias_hh": "bias_ih"}.get(str(role))
        if role == "bias" or (other and other not in roles.values()):  # one bias is the sum of both
            found[name] = parameters["bias_ih"] + parameters["bias_hh"]
        elif role:
            found[name] = parameters[role]
    return found


def _unknown(names: list[str], parameters: Mapping[str, Any]) -> str:
    found, known = ", ".join(map(repr, names)), ", ".join(parameters)
    return (
        f"compare_cells: yours takes {found}; a cell takes x, its state, and the parameters {known}. Say "
        f"which of them is meant: names={{{names[0]!r}: 'weight_ih'}}"
    )


def _parts(result: Any, state: tuple[str, ...], given: Given) -> dict[str, Tensor]:
    """The parts of the next state, in whatever a cell returns beside them."""
    items = list(result) if isinstance(result, (tuple, list)) else [result]
    for item in reversed(items[:2]):  # (output, (h, c)) and ((h, c), cache)
        if len(state) > 1 and isinstance(item, (tuple, list)) and len(item) == len(state):
            items = list(item)
    wanted = ", ".join(state)
    if len(items) < len(state):
        raise ArgumentError(
            f"compare_cells: a step of yours returns {brief(result)}; return the next state, {wanted}"
        )
    parts = {}
    for name, item in zip(state, items, strict=False):
        try:
            part = item if isinstance(item, Tensor) else tensor(item)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"compare_cells: a step of yours returns {brief(item)} as {name}; return Tensors, {wanted}"
            ) from error
        if part.shape != given[name].shape:
            raise ShapeError(
                f"compare_cells: a step of yours returns {name} of shape {part.shape}; "
                f"(B, H) is {given[name].shape} here"
            )
        parts[name] = part
    return parts


def _declared_gates(cell: Any) -> Callable[[Given], dict[str, Tensor]]:
    """The gates that a class of recurrent layers or cells declares."""
    if not isinstance(cell, Recurrent):
        return lambda given: {}
    scan = cell.scan
    read = gate_reader(scan, cell._params())

    def gates(given: Given) -> dict[str, Tensor]:
        before = [given[part] for part in scan.parts]
        x = given["x"] @ given["weight_ih"].T + given["bias_ih"]
        h = before[0] @ given["weight_hh"].T + given["bias_hh"]
        return read(x, h, before, [given[name] for name in scan.weights])

    return gates
