"""How far rounding can have moved a gradient: found by rounding worse, on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..backpropagation import ancestors
from ..recording import Node, node_of

ULPS = 64


@contextmanager
def perturbed(outputs: Sequence[Tensor], rng: np.random.Generator) -> Iterator[None]:
    """Let every recorded result be off by up to 64 units in its last place, for a while.

    The graph is run again from its leaves, so that what follows from a result follows from the one
    that is off. What only selects (a maximum, a view) stays exact.
    """
    nodes = [n for n in ancestors(map(node_of, outputs)) if n.primitive is not None]
    before = [n.value for n in nodes]
    try:
        for node in nodes:
            node.value = _again(node, rng)
        yield
    finally:
        for node, value in zip(nodes, before, strict=True):
            node.value = value


def _again(node: Node, rng: np.random.Generator) -> Any:
    xs = [x.value if isinstance(x, Node) else x for x in node.inputs or ()]
    xp = backend.namespace(node.value)
    with xp.on(node.value):
        value = node.primitive.forward(xp, *xs, **node.params)  # type: ignore[union-attr]
        host = xp.to_numpy(np.asarray(value) if isinstance(value, np.generic) else value)
        if host.dtype.kind != "f" or _selects(host, [x for x in xs if hasattr(x, "shape")]):
            return value if hasattr(value, "shape") else np.asarray(value)
        off = ULPS * np.finfo(host.dtype).eps * rng.uniform(-1, 1, host.shape)
        return xp.from_numpy((host * (1 + off)).astype(host.dtype), xp.device(node.value))


def _selects(result: Any, operands: list[Any]) -> bool:
    """Whether every element of the result is one of the operands' elements."""
    hosts = [backend.namespace(x).to_numpy(x).ravel() for x in operands]
    return bool(np.isin(result, np.concatenate(hosts)).all()) if hosts else False
