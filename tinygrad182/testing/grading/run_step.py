"""One step of anybody's cell, with its gates and its gradients, by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.autodiff import grad
from ...engine.backpropagation import ancestors
from ...engine.modes import enable_grad, modes_kept
from ...engine.recording import node_of, wrap
from ...errors import ArgumentError, ShapeError, brief
from ...nn.recurrent import Recurrent
from ...recurrence.intervening import gate_reader
from ...tensors.creation import tensor
from ...tensors.tensor import Tensor
from ..samples import Array
from .calling import Caller, Given
from .mistakes_in_loops import read

Step = Callable[[Given], dict[str, Tensor]]
"""Maps what is given to the gates that can be seen and the parts of the next state, by their names."""


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

    values: dict[str, Array]
    gradients: dict[str, Array]
    epsilon: float


@modes_kept
def run_step(
    step: Step, given: Mapping[str, Array], cotangents: Mapping[str, Array], device: str
) -> StepResult:
    """Run a step in float64 on leaves of its own, and send the cotangents of the next state back."""
    leaves = {n: tensor(a, "float64", device, requires_grad=True) for n, a in given.items()}
    with (
        enable_grad()
    ):  # not the leaves themselves: c *= f is right in NumPy, and no leaf can be written
        values = step({n: x * 1 for n, x in leaves.items()})
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
    names: Mapping[str, Any],
    sequence: bool = False,
) -> Step:
    """Return the step of a module or function, whatever it calls its parameters.

    Parameters
    ----------
    cell : Module or callable
    gates, state : tuple of str
        The gates that are looked for, and the parts of the state.
    names : dict of str to str
        The reference's names for those of the cell, where they are not found by themselves.
    sequence : bool
        Whether the cell takes a whole sequence: it is then given one of one step.
    """
    call, declared = Caller(cell, gates, state, names), _declared_gates(cell, state)

    def step(given: Given) -> dict[str, Tensor]:
        if sequence:
            shape = (1, *given[state[0]].shape)
            found = read(call({**given, "x": given["x"][None]}), state, shape)
            parts = {part: found[part] for part in state}
        else:
            parts = _parts(call(given), state, given)
        nodes = ancestors([node_of(y) for y in parts.values()], constants=True)
        marked = {names.get(m.name, m.name): wrap(n.value) for n in nodes for m in n.marks}
        seen = declared(given) | marked
        return {gate: seen[gate] for gate in gates if gate in seen} | parts

    return step


def _parts(result: Any, state: tuple[str, ...], given: Given) -> dict[str, Tensor]:
    """The parts of the next state, in whatever a cell returns beside them."""
    items = list(result) if isinstance(result, (tuple, list)) else [result]
    if items and isinstance(items[0], Tensor) and items[0].ndim > given[state[0]].ndim:
        raise ShapeError(
            f"compare_cells: a step of yours returns an array of shape {items[0].shape}, with one axis too "
            "many; where yours takes whole sequences (T, B, I), pass sequence=True"
        )
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


def _declared_gates(cell: Any, state: tuple[str, ...]) -> Callable[[Given], dict[str, Tensor]]:
    """The gates that a class of recurrent layers or cells declares."""
    if not isinstance(cell, Recurrent):
        return lambda given: {}
    scan = cell.scan
    read = gate_reader(scan, cell._params())

    def gates(given: Given) -> dict[str, Tensor]:
        before = [given[part] for part in state]
        x = given["x"] @ given["weight_ih"].T + given["bias_ih"]
        h = before[0] @ given["weight_hh"].T + given["bias_hh"]
        return read(x, h, before, [given[name] for name in scan.weights])

    return gates
