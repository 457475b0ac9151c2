"""How far rounding can have moved a gradient: found by rounding worse, on purpose."""

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
    """How far rounding can have moved what is computed from recorded nodes.

    Every recorded result, and every cotangent that passes an edge, is made wrong by up to 64 units in
    its last place: what moves is what rounding can move.

    Parameters
    ----------
    nodes : sequence of Node
        The graph, oldest first.
    compute : callable
        ``compute(edge)``, with the hook on edges that ``backpropagate`` takes.
    rng : numpy.random.Generator
    """
    exact, moved = compute(None), []
    for _ in range(TRIALS):
        with _perturbed(nodes, rng):
            found = compute(lambda consumer, parent, cotangent: _off_part(cotangent, rng))
        moved.append(np.abs(found - exact))
    return np.asarray(MARGIN * np.fmax.reduce(moved))


@contextmanager
def _perturbed(nodes: Sequence[Node], rng: np.random.Generator) -> Iterator[None]:
    """Let every recorded result be off, for a while.

    The graph is run again from its leaves, so that what follows from a result follows from the one
    that is off. What only selects (a maximum, a view) stays exact.
    """
    made = [n for n in nodes if n.primitive is not None]
    before = [n.value for n in made]
    try:
        for node in made:
            node.value = _again(node, rng)
        yield
    finally:
        for node, value in zip(made, before, strict=True):
            node.value = value


def _again(node: Node, rng: np.random.Generator) -> Any:
    xs = [x.value if isinstance(x, Node) else x for x in node.inputs or ()]
    xp = backend.namespace(node.value)
    with xp.on(node.value):
        value = node.primitive.forward(xp, *xs, **node.params)  # type: ignore[union-attr]
        value = np.asarray(value) if isinstance(value, np.generic) else value
        arrays = [x for x in xs if hasattr(x, "shape")]
        return value if _selects(value, arrays) else _off(value, rng)


def _off_part(cotangent: Any, rng: np.random.Generator) -> Any:
    if type(cotangent) is Slice:
        return replace(cotangent, value=_off(cotangent.value, rng))
    return _off(cotangent, rng)


def _off(array: Any, rng: np.random.Generator) -> Any:
    """The array, every element off by up to 64 units in its last place."""
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
