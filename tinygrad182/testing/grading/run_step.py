"""Run one step of a cell; return its gates, next state and gradients by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.autodiff import grad
from ...engine.backpropagation import ancestors
from ...engine.modes import enable_grad, modes_kept
from ...engine.recording import node_of, wrap
from ...nn.recurrent import Recurrent
from ...recurrence.intervening import gate_reader
from ...tensors.creation import tensor
from ...tensors.tensor import Tensor
from ..samples import Array
from .return_values import returned_by_loop, returned_by_step
from .student_cell import Caller, Given

Step = Callable[[Given], dict[str, Tensor]]
"""Maps the input, state and parameters to the visible gates and the next state, by their names."""


@dataclass(frozen=True)
class StepResult:
    """The values and gradients of one step.

    Attributes
    ----------
    values : dict of str to ndarray
        The gates and the parts of the next state.
    gradients : dict of str to ndarray
        The gradients by the input, the parts of the state and each parameter.
    epsilon : float
        The machine epsilon of the coarsest dtype in the step.
    """

    values: dict[str, Array]
    gradients: dict[str, Array]
    epsilon: float


@modes_kept
def run_step(
    step: Step, given: Mapping[str, Array], cotangents: Mapping[str, Array], device: str
) -> StepResult:
    """Run a step in float64, and send the cotangents of the next state back through it."""
    leaves = {n: tensor(a, "float64", device, requires_grad=True) for n, a in given.items()}
    with enable_grad():
        # the step gets copies, since c *= f is right in NumPy but cannot write into a leaf
        values = step({n: x * 1 for n, x in leaves.items()})
    seeds = {name: c for name, c in cotangents.items() if values[name].requires_grad}
    outputs = [values[name] for name in seeds]
    dtypes = {values[name].dtype for name in cotangents}
    dtypes |= {np.dtype(str(n.value.dtype)) for n in ancestors(map(node_of, outputs))}
    found: list[Tensor | None] = [None] * len(leaves)
    if seeds:
        step_cotangents = [tensor(c, values[name].dtype, device) for name, c in seeds.items()]
        found = grad(outputs, list(leaves.values()), step_cotangents)
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
    """Return the step of a module or function, whatever names its parameters have.

    ``gates`` are the gates to look for. ``names`` has the reference's names for those of the cell that are
    not recognized. With ``sequence``, the cell takes a whole sequence, and gets one of one step.
    """
    call, declared = Caller(cell, gates, state, names), _declared_gates(cell, state)

    def step(given: Given) -> dict[str, Tensor]:
        if sequence:
            shape = (1, *given[state[0]].shape)
            found = returned_by_loop(call({**given, "x": given["x"][None]}), state, shape)
            parts = {part: found[part] for part in state}
        else:
            parts = returned_by_step(call(given), state, given)
        nodes = ancestors([node_of(y) for y in parts.values()], constants=True)
        marked = {names.get(m.name, m.name): wrap(n.value) for n in nodes for m in n.marks}
        seen = declared(given) | marked
        return {gate: seen[gate] for gate in gates if gate in seen} | parts

    return step


def _declared_gates(cell: Any, state: tuple[str, ...]) -> Callable[[Given], dict[str, Tensor]]:
    """Return a function for the gates that a recurrent layer or cell declares."""
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
