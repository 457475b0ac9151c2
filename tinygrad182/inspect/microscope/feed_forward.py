"""A graph without a recurrence: at which operation between its layers the gradient changes most."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...arrays.namespaces import Array
from ...engine.backpropagation import ancestors
from ...engine.recording import Node
from ..loops.hosting import copied_to_host
from ..passes.gradients import gradients_in_bands
from ..passes.scaling import HostArray, log10_norm
from .wording import LEVEL, Sentence, amount, passes


class _Trunk(NamedTuple):
    """The path back from the last operation inside a module, always to the input with the largest gradient.

    Attributes
    ----------
    nodes : list of Node
        Operations and, if it requires grad, the input that they begin with.
    log : ndarray
        Decadic logarithms of the norms of their gradients.
    """

    nodes: list[Node]
    log: HostArray


def of_layers(root: Node, seed: Array) -> list[Sentence]:
    """Say how the gradient changes between the first layer and the last, and where it changes most.

    Norms are over all elements. Operations of the loss behind the last layer, such as a mean, are left out.
    """
    ((root, seed),) = copied_to_host([(root, seed)]).seeds
    trunk = _trunk(root, seed)
    if len(trunk.nodes) < 2:
        return []
    net = float(trunk.log[-1] - trunk.log[0])
    wrong = np.flatnonzero(~np.isfinite(trunk.log)).tolist()
    if wrong:
        return [_broken(trunk, wrong[0])]
    change = "keeps its size" if abs(net) < LEVEL else "shrinks" if net < 0 else "grows"
    becomes = (
        f"{amount(net)} of it is left" if net <= LEVEL else f"it becomes {amount(net)} as large"
    )
    last, first = (
        trunk.nodes[i].scope.module or _place(trunk, i) for i in (0, len(trunk.nodes) - 1)
    )
    text = f"Going back from {last} to {first}, the gradient {change}: {becomes}."
    found = [Sentence(text, "", "regime", numbers={"decades": net})]
    if abs(net) >= LEVEL:
        steps = np.diff(trunk.log)
        most = int(np.argmax(steps * np.sign(net)))
        node, decades = trunk.nodes[most], float(steps[most])
        text = f"It {change} most at {_place(trunk, most)}, which {passes(decades)}."
        numbers = {"op": node.op, "module": node.scope.module, "factor": decades}
        found.append(Sentence(text, "", "place", numbers=numbers))
    return found


def _broken(trunk: _Trunk, at: int) -> Sentence:
    log = float(trunk.log[at])
    what = "NaN" if math.isnan(log) else "exactly 0" if log < 0 else "infinite"
    place = _place(trunk, max(at - 1, 0))
    if not at:
        text = f"The gradient is {what} where {place} gets it."
        return Sentence(text, "", "regime", numbers={"what": what})
    node = trunk.nodes[at - 1]
    text = f"From {place} back, the gradient is {what}: that operation makes it so."
    numbers = {"what": what, "op": node.op, "module": node.scope.module}
    return Sentence(text, "", "regime", numbers=numbers)


def _place(trunk: _Trunk, i: int) -> str:
    """The name of an operation by its module; of a nonlinearity between layers, by the layer before it."""
    node, module = trunk.nodes[i], trunk.nodes[i].scope.module
    if node.primitive is None:
        return "the input"
    before = trunk.nodes[i + 1].scope.module if i + 1 < len(trunk.nodes) else ""
    if before not in ("", module) and node.primitive.jvp == "elementwise":
        return f"{node.op} after {before}"
    return f"{node.op} in {module}" if module else node.op


def _trunk(root: Node, seed: Array) -> _Trunk:
    nodes = ancestors([root])
    bands = gradients_in_bands(root, seed, set(nodes))
    logs = {node: log10_norm(bands.get(node, [])) for node in nodes}
    parameters = {node for node in nodes if node.primitive is None and _is_parameter(node)}
    below = _reaching(nodes, parameters)
    last = max(
        (n for n in nodes if n.scope.module and n.primitive), key=lambda n: n.order, default=root
    )
    way = [last]
    while True:
        inputs = [
            x for x in way[-1].inputs or () if isinstance(x, Node) and x in logs and x in below
        ]
        if not inputs:
            break
        way.append(max(inputs, key=lambda x: (np.nan_to_num(logs[x], nan=math.inf), x.order)))
    return _Trunk(way, np.array([logs[node] for node in way]))


def _is_parameter(node: Node) -> bool:
    return bool(getattr(node, "name", ""))


def _reaching(nodes: list[Node], parameters: set[Node]) -> set[Node]:
    """The nodes that are computed from more than parameters; a transposed weight is left out."""
    found, pure = set[Node](), set(parameters)
    for node in nodes:
        if node in pure:
            continue
        inputs = [x for x in node.inputs or () if isinstance(x, Node)]
        if inputs and pure.issuperset(inputs):
            pure.add(node)
        else:
            found.add(node)
    return found
