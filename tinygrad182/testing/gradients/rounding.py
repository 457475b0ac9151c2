"""How far rounding can have moved a gradient, measured by rounding more coarsely on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ...arrays import backend
from ...engine.recording import Node
from ...primitives.index import Slice
from ..samples import Array

ULPS = 64
MARGIN = 4
TRIALS = 3


def rounding(
    nodes: Sequence[Node], compute: Callable[[Any], Array], rng: np.random.Generator
) -> Array:
    """Return how far rounding can have moved a result that is computed from recorded nodes.

    Every recorded value, and every cotangent that passes an edge, is changed by up to 64 units in its last
    place. The result then moves at least as far as rounding can have moved it.

    The nodes are the whole graph, oldest first. ``compute(edge)`` returns the result; ``edge`` is the hook
    that ``backpropagate`` calls on edges.
    """
    exact, moved = compute(None), []
    for _ in range(TRIALS):
        with _perturbed(nodes, rng):
            result = compute(lambda consumer, parent, cotangent: _changed_cotangent(cotangent, rng))
        moved.append(np.abs(result - exact))
    return np.asarray(MARGIN * np.fmax.reduce(moved))


@contextmanager
def _perturbed(nodes: Sequence[Node], rng: np.random.Generator) -> Iterator[None]:
    """Change every recorded value a little while the context lasts.

    The graph runs again from its leaves, so that changes pass on to later values. Operations that only
    select elements (a maximum, a view) stay exact.
    """
    operations = [n for n in nodes if n.primitive is not None]
    before = [n.value for n in operations]
    try:
        for node in operations:
            node.value = _rerun(node, rng)
        yield
    finally:
        for node, value in zip(operations, before, strict=True):
            node.value = value


def _rerun(node: Node, rng: np.random.Generator) -> Any:
    xs = [x.value if isinstance(x, Node) else x for x in node.inputs or ()]
    xp = backend.namespace(node.value)
    with xp.on(node.value):
        value = node.primitive.forward(xp, *xs, **node.params)  # type: ignore[union-attr]
        value = np.asarray(value) if isinstance(value, np.generic) else value
        arrays = [x for x in xs if hasattr(x, "shape")]
        return value if _selects(value, arrays) else _changed(value, rng)


def _changed_cotangent(cotangent: Any, rng: np.random.Generator) -> Any:
    if type(cotangent) is Slice:
        return replace(cotangent, value=_changed(cotangent.value, rng))
    return _changed(cotangent, rng)


def _changed(array: Any, rng: np.random.Generator) -> Any:
    """The array with every element changed by up to 64 units in its last place."""
    xp = backend.namespace(array)
    host = xp.to_numpy(array)
    if host.dtype.kind != "f":
        return array
    off = ULPS * np.finfo(host.dtype).eps * rng.uniform(-1, 1, host.shape)
    return xp.from_numpy(np.asarray(host * (1 + off)).astype(host.dtype), xp.device(array))


def _selects(result: Any, operands: list[Any]) -> bool:
    """Whether every element of the result is one of the operands' elements."""
    hosts = [backend.namespace(x).to_numpy(x).ravel() for x in operands]
    host = backend.namespace(result).to_numpy(result)
    return bool(np.isin(host, np.concatenate(hosts)).all()) if hosts else False
