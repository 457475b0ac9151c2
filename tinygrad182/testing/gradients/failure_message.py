"""The message of a failed check: which operation is at fault, and the least example that shows it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from ...arrays import backend
from ...engine.backpropagation import ancestors
from ...engine.recording import Node, apply, node_of
from ...primitives import PRIMITIVES
from ...recurrence.scans import is_scan
from ...recurrence.unrolling import unrolled
from ..samples import Array
from .property_error import LEADING_AXES, PropertyError
from .vector_function import VectorFunction

Check = Callable[[Callable[..., Any], list[Any], int], PropertyError | None]


def explain(function: VectorFunction, wrong: PropertyError | None, check: Check) -> str:
    """What is wrong, in which operation, and how to see it; nothing, if nothing is.

    Parameters
    ----------
    function : VectorFunction
        What was checked.
    wrong : PropertyError or None
        What was found; None if rounding leaves it open, and each operation is to be looked at alone.
    check : callable
        Returns what is wrong with a smaller function at some arrays up to an order, or None.
    """
    first, others = _operations(function)
    nodes = first + others
    alone = nodes if wrong is not None else first if len(nodes) > 1 else []
    for order, node in itertools.product((1, 2), alone):  # a rule may use another in second order
        fault = check(*_alone(node), order)
        if fault is None:
            continue
        lines = [f"check_gradients: {node.op}{node.place()}: the {fault.what} is wrong"]
        lines += [*_listed(fault), *_remedy(fault)]
        if wrong is not None and len(nodes) > 1:
            lines += [f"so in the function checked the {wrong.what} is wrong", *_listed(wrong)]
        return "\n".join(
            [*lines, "the least example that shows it:", *_example(node, order, check)]
        )
    if wrong is None:
        return ""
    return "\n".join(
        [
            f"check_gradients: the {wrong.what} is wrong, though no operation recorded is wrong alone",
            *_listed(wrong),
            "so the function depends on its inputs in a way that the graph does not show: detach(), "
            "numpy(), no_grad, a Tensor or array kept from an earlier call; or an operation is wrong "
            "for these dtypes, layouts or repeated operands only",
        ]
    )


def _listed(wrong: PropertyError) -> list[str]:
    width = max(map(len, wrong.facts), default=0)
    return [f"    {name:<{width}}  {value}" for name, value in wrong.facts.items()]


def _remedy(fault: PropertyError) -> list[str]:
    """What to do about a rule that is right for one cotangent, and not for several at once."""
    if fault.what != LEADING_AXES:
        return []
    return [
        "the rule is right for one cotangent. Several come on axes in front of the output's own: write it",
        "for those too (g[..., 0, :] in the place of g[0]), or make the primitive without",
        "leading_axes=True: it is then called for each",
    ]


def _operations(function: VectorFunction) -> tuple[list[Node], list[Node]]:
    """What the function records: the first of each kind, and all others, oldest first.

    Recurrences stand behind the operations of their steps.
    """
    outputs = [node_of(y) for y in function.record(function.point).outputs]
    steps = [unrolled(node) for node in outputs]
    fused = [node for node in ancestors(outputs) if is_scan(node)]
    first: list[Node] = []
    others: list[Node] = []
    seen = set()
    for node in [*ancestors(steps), *fused]:
        if node.primitive is not None and "shortest" not in node.params:  # past an end: constants
            shapes = tuple(np.shape(x.value) for x in node.inputs or () if isinstance(x, Node))
            kind = (node.op, shapes, repr(node.params))
            (others if kind in seen else first).append(node)
            seen.add(kind)
    return first, others


def _alone(node: Node) -> tuple[Callable[..., Any], list[Any]]:
    """One application of a primitive as a function of its arrays; numbers stay in their places."""
    arrays = [x.value for x in node.inputs or () if isinstance(x, Node)]

    def f(*xs: Any) -> Any:
        given = iter(xs)
        operands = [next(given) if isinstance(x, Node) else x for x in node.inputs or ()]
        return apply(node.primitive, *operands, **node.params)  # type: ignore[arg-type]

    return f, arrays


def _example(node: Node, order: int, check: Check) -> list[str]:
    """Lines of Python that show the fault, with operands as small and round as they can be."""
    f, arrays = _alone(node)
    hosts = [backend.namespace(a).to_numpy(a) for a in arrays]
    hosts = _smallest(hosts, lambda xs: check(f, xs, order) is not None)
    names = iter(f"x{i}" for i in range(len(hosts)))
    operands = [next(names) if isinstance(x, Node) else repr(x) for x in node.inputs or ()]
    operands += [f"{key}={_literal(value)}" for key, value in node.params.items()]
    registered = PRIMITIVES.get(node.op) is node.primitive
    primitive = f'tg.PRIMITIVES["{node.op}"]' if registered else node.op
    arguments = ", ".join(f"x{i}" for i in range(len(hosts)))
    return [
        *(
            f"    x{i} = np.array({x.tolist()}, dtype={str(x.dtype)!r})"
            for i, x in enumerate(hosts)
        ),
        "    tg.testing.check_gradients(",
        f"        lambda {arguments}: tg.apply({', '.join([primitive, *operands])}), {arguments}",
        "    )",
    ]


def _literal(value: Any) -> str:
    return repr(str(value)) if isinstance(value, np.dtype) else repr(value)


def _smallest(arrays: list[Array], fails: Callable[[list[Array]], bool]) -> list[Array]:
    """The arrays with fewer elements, fewer axes and rounder numbers, as long as the fault stays."""

    def keep(change: Callable[[Array], Array]) -> None:
        nonlocal arrays
        with suppress(Exception):  # shapes that no longer fit each other or the parameters
            smaller = [change(x) for x in arrays]
            arrays = smaller if fails(smaller) else arrays

    for size in sorted({n for x in arrays for n in x.shape if n > 1}, reverse=True):
        for fewer in (1, 2):
            keep(lambda x, n=size, m=fewer: x[tuple(slice(m if k == n else None) for k in x.shape)])  # type: ignore[misc]
    keep(lambda x: x.reshape([n for n in x.shape if n > 1]))
    keep(lambda x: np.round(x, 1) if x.dtype.kind == "f" else x)
    return arrays
