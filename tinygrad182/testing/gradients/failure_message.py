"""The message of a failed check: it names the operation at fault and shows the smallest example."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

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
    """Say what is wrong, in which operation, and how to see it; return an empty text if nothing is wrong.

    ``wrong`` is the fault of the function. It is None if rounding may hide one; then each operation is
    checked alone. ``check(f, arrays, order)`` returns the fault of a smaller function, or None.
    """
    operations = _operations(function)
    nodes = operations.first + operations.repeated
    alone = nodes if wrong is not None else operations.first if len(nodes) > 1 else []
    for order, node in itertools.product((1, 2), alone):  # another rule may fail in second order
        fault = check(*_single_operation(node), order)
        if fault is None:
            continue
        lines = [f"check_gradients: {node.op}{node.place()}: the {fault.what} is wrong"]
        lines += [*_listed(fault), *_remedy(fault)]
        if wrong is not None and len(nodes) > 1:
            lines += [f"so in the function checked the {wrong.what} is wrong", *_listed(wrong)]
        return "\n".join(
            [*lines, "the smallest example that shows it:", *_example(node, order, check)]
        )
    if wrong is None:
        return ""
    return "\n".join(
        [
            f"check_gradients: the {wrong.what} is wrong, though no operation recorded is wrong alone",
            *_listed(wrong),
            "So the function depends on its inputs in a way that the graph does not show: by detach(), "
            "numpy(), no_grad, or a Tensor or array of an earlier call. Or an operation is wrong only for "
            "these dtypes, memory layouts or repeated operands.",
        ]
    )


def _listed(wrong: PropertyError) -> list[str]:
    width = max(map(len, wrong.facts), default=0)
    return [f"    {name:<{width}}  {value}" for name, value in wrong.facts.items()]


def _remedy(fault: PropertyError) -> list[str]:
    """How to mend a rule that is right for one cotangent but not for several at once."""
    if fault.what != LEADING_AXES:
        return []
    return [
        "The rule is right for one cotangent. Several cotangents have extra axes in front of the output's",
        "axes: write the rule for those too (g[..., 0, :] instead of g[0]), or make the primitive without",
        "leading_axes=True; the rule is then called once for each cotangent.",
    ]


class _Operations(NamedTuple):
    """The operations that a function records: the first of each kind, and its repetitions."""

    first: list[Node]
    repeated: list[Node]


def _operations(function: VectorFunction) -> _Operations:
    """The operations of a function, oldest first; recurrences follow the operations of their steps."""
    outputs = [node_of(y) for y in function.record(function.point).outputs]
    steps = [unrolled(node) for node in outputs]
    fused = [node for node in ancestors(outputs) if is_scan(node)]
    operations = _Operations([], [])
    seen = set()
    for node in [*ancestors(steps), *fused]:
        if node.primitive is not None and "shortest" not in node.params:  # past an end: constants
            shapes = tuple(np.shape(x.value) for x in node.inputs or () if isinstance(x, Node))
            kind = (node.op, shapes, repr(node.params))
            (operations.repeated if kind in seen else operations.first).append(node)
            seen.add(kind)
    return operations


class _SingleOperation(NamedTuple):
    """One application of a primitive as a function of its arrays, and these arrays."""

    f: Callable[..., Any]
    arrays: list[Any]


def _single_operation(node: Node) -> _SingleOperation:
    """Return a function that applies the primitive of a node; operands that are numbers stay fixed."""
    arrays = [x.value for x in node.inputs or () if isinstance(x, Node)]

    def f(*xs: Any) -> Any:
        given = iter(xs)
        operands = [next(given) if isinstance(x, Node) else x for x in node.inputs or ()]
        return apply(node.primitive, *operands, **node.params)  # type: ignore[arg-type]

    return _SingleOperation(f, arrays)


def _example(node: Node, order: int, check: Check) -> list[str]:
    """Lines of Python that show the fault, with operands as small and round as possible."""
    f, arrays = _single_operation(node)
    hosts = [backend.namespace(a).to_numpy(a) for a in arrays]
    hosts = _smallest(hosts, lambda xs: check(f, xs, order) is not None)
    names = iter(f"x{i}" for i in range(len(hosts)))
    operands = [next(names) if isinstance(x, Node) else repr(x) for x in node.inputs or ()]
    operands += [f"{key}={_literal(value)}" for key, value in node.params.items()]
    registered = PRIMITIVES.get(node.op) is node.primitive
    primitive = f'tg.PRIMITIVES["{node.op}"]' if registered else node.op
    arguments = ", ".join(f"x{i}" for i in range(len(hosts)))
    return [
        *[
            f"    x{i} = np.array({x.tolist()}, dtype={str(x.dtype)!r})"
            for i, x in enumerate(hosts)
        ],
        "    tg.testing.check_gradients(",
        f"        lambda {arguments}: tg.apply({', '.join([primitive, *operands])}), {arguments}",
        "    )",
    ]


def _literal(value: Any) -> str:
    return repr(str(value)) if isinstance(value, np.dtype) else repr(value)


def _smallest(arrays: list[Array], fails: Callable[[list[Array]], bool]) -> list[Array]:
    """Return arrays with fewer elements, fewer axes and rounder numbers that still show the fault."""

    def change_if_it_still_fails(change: Callable[[Array], Array]) -> None:
        nonlocal arrays
        with suppress(Exception):  # the changed shapes may not fit together
            smaller = [change(x) for x in arrays]
            arrays = smaller if fails(smaller) else arrays

    for size in sorted({n for x in arrays for n in x.shape if n > 1}, reverse=True):
        for fewer in (1, 2):
            change_if_it_still_fails(
                lambda x, n=size, m=fewer: x[tuple(slice(m if k == n else None) for k in x.shape)]  # type: ignore[misc]
            )
    change_if_it_still_fails(lambda x: x.reshape([n for n in x.shape if n > 1]))
    change_if_it_still_fails(lambda x: np.round(x, 1) if x.dtype.kind == "f" else x)
    return arrays
