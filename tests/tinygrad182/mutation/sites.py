"""Sites of faults: the rules of a primitive, and a way to replace one for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad182 as tg
from tinygrad182.engine.recording import Leaf, is_tensor, node_of, wrap
from tinygrad182.primitives import Primitive
from tinygrad182.tensors import functions
from tinygrad182.transforms.derivatives import push_forward

from .cases import Call, Rule


@dataclass(frozen=True)
class Site:
    """A rule of a primitive; ``kind`` is "vjp", "jvp", "forward", "definition" or "residuals"."""

    name: str
    kind: str
    rule: Rule
    fields: Callable[[Rule], dict[str, Any]]

    def wrapped(self, call_with: Callable[[Call], Any]) -> Rule:
        """A rule that calls ``call_with``."""
        if self.kind == "vjp":
            return lambda xp, g, y, *xs, **params: call_with(Call(xp, g, y, xs, params))
        if self.kind != "jvp":
            return lambda xp, *xs, **params: call_with(Call(xp, None, None, xs, params))

        def tangent_rule(xp: Any, tangents: Any, y: Any, *xs: Any, **params: Any) -> Any:
            first = next(v for v in tangents if v is not None)
            return call_with(Call(xp, first, y, xs, params, tuple(tangents)))

        return tangent_rule


def sites(primitive: Primitive) -> Iterator[Site]:
    """Each cotangent of each rule, the tangent rule (also one that is derived) and the forward.

    Also the definition of a primitive, and the residuals that its forward saves for its rules.
    """
    rules = primitive.vjp
    if callable(rules):
        yield Site("cotangents", "vjp", rules, lambda new: {"vjp": new})
    else:
        for i, rule in enumerate(rules):
            if rule is not None:
                yield Site(
                    f"input {i}",
                    "vjp",
                    rule,
                    lambda new, i=i: {"vjp": (*rules[:i], new, *rules[i + 1 :])},
                )
    yield Site("tangent", "jvp", _tangent_rule(primitive), lambda new: {"jvp": new})
    yield Site("value", "forward", primitive.forward, lambda new: {"forward": new})
    if primitive.forward_with_residuals is not None:
        yield from _of_residuals(primitive.forward_with_residuals)
    if primitive.definition is not None:
        definition = primitive.definition
        yield Site("definition", "definition", definition, lambda new: {"definition": new})


def _of_residuals(forward: Rule) -> Iterator[Site]:
    """The value where it is recorded, and the residuals beside it, but not the value under another name."""

    def value(xp: Any, *xs: Any, **params: Any) -> Any:
        return forward(xp, *xs, **params)[0]

    def residuals(xp: Any, *xs: Any, **params: Any) -> Any:
        y, found = forward(xp, *xs, **params)
        arrays = {n: x for n, x in found._asdict().items() if isinstance(x, np.ndarray)}
        copies = {
            n: None for n in found._fields if n not in arrays or np.shares_memory(arrays[n], y)
        }
        return found._replace(**copies)

    def with_value(new: Rule) -> dict[str, Any]:
        return {
            "forward_with_residuals": lambda xp, *xs, **params: (
                new(xp, *xs, **params),
                forward(xp, *xs, **params)[1],
            )
        }

    def with_residuals(new: Rule) -> dict[str, Any]:
        def other(xp: Any, *xs: Any, **params: Any) -> Any:
            y, found = forward(xp, *xs, **params)
            changed = new(xp, *xs, **params)._asdict()
            return y, found._replace(**{name: x for name, x in changed.items() if x is not None})

        return {"forward_with_residuals": other}

    yield Site("value, recorded", "forward", value, with_value)
    yield Site("residuals", "residuals", residuals, with_residuals)


def _tangent_rule(primitive: Primitive) -> Rule:
    """The tangent rule, which ``transforms`` derives if the primitive has none of its own."""
    kind = primitive.jvp
    if callable(kind):
        return kind

    def derived(xp: Any, tangents: Any, y: Any, *xs: Any, **params: Any) -> Any:
        if kind == "definition":
            return _along_definition(primitive, tangents, xs, params)
        moved = [(i, v) for i, v in enumerate(tangents) if v is not None]
        if kind == "linear":
            filled = [
                xp.zeros_like(x) if v is None else v for x, v in zip(xs, tangents, strict=True)
            ]
            return primitive.forward(xp, *filled, **params)
        if kind == "multilinear":
            terms = [primitive.forward(xp, *xs[:i], v, *xs[i + 1 :], **params) for i, v in moved]
        else:
            found = [(primitive.vjp[i], xp.broadcast_to(v, y.shape)) for i, v in moved]  # type: ignore[index]
            terms = [rule(xp, v, y, *xs, **params) for rule, v in found if rule is not None]
        return functools.reduce(lambda a, b: a + b, terms) if terms else xp.zeros_like(y)

    return derived


def _along_definition(
    primitive: Primitive, tangents: Any, xs: tuple[Any, ...], params: dict[str, Any]
) -> Any:
    given = [
        x * 1 if is_tensor(x) else wrap(x, Leaf(x, v is not None)) if hasattr(x, "shape") else x
        for x, v in zip(xs, tangents, strict=True)
    ]
    with tg.enable_grad():
        out = node_of(primitive.definition(functions, *given, **params))  # type: ignore[misc]
    known = {node_of(x): v for x, v in zip(given, tangents, strict=True) if v is not None}
    push_forward([out], known)
    return known[out]


@contextmanager
def planted(primitive: Primitive, **fields: Any) -> Iterator[None]:
    """Give the primitive other rules for a while, although it is frozen."""
    before = {name: getattr(primitive, name) for name in fields}
    try:
        for name, value in fields.items():
            object.__setattr__(primitive, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(primitive, name, value)


def on_top(primitive: Primitive, site: Site, new: Rule) -> dict[str, Any]:
    """The fields of a planted rule, beside those planted already."""
    for current in sites(primitive):
        if current.name == site.name:
            return current.fields(new)
    raise KeyError(site.name)
