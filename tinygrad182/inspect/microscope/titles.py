"""The titles of the network's boxes, from their operations and shapes."""

from __future__ import annotations

from collections import Counter

from ...engine.recording import Leaf, Node
from ...recurrence.scans import Scan, is_scan
from ..loops.recurrences import Stack
from .blocks import EVERYTHING, INPUT, LOSS, Blocks, Key, has_gradient

_LAYOUT = frozenset({"stack", "concat", "index", "reshape", "permute_dims", "flip", "broadcast_to"})
"""Operations that pass values on unchanged."""

_ABBREVIATIONS = frozenset({"rnn", "lstm", "gru", "mgu"})

_STEPS: dict[tuple[object, ...], str] = {
    # states, gates, and the sigmoids and tanhs of one step
    (("h",), 1, 0, 1): "RNN",
    (("h", "c"), 4, 3, 2): "LSTM",
    (("h",), 3, 2, 1): "GRU",
}
"""Layers that were run step by step, by what a step does."""


def title_of(blocks: Blocks, key: Key) -> str:
    """The title of a box: ``"LSTM 8 → 64"``, ``"Linear 64 → 1, tanh"``, ``"loss"``."""
    if key == INPUT:
        return "input" if any(map(has_gradient, blocks.members[key])) else "input: indices"
    if key == LOSS:
        return "loss"
    if key == EVERYTHING:
        return "operations"
    members = blocks.members[key]
    if key in blocks.stacks:
        return _recurrence(members, blocks.stacks[key])
    inside = [n for n in members if n.scope.module == key[1] and not isinstance(n, Leaf)]
    if len(key) > 2:  # operations outside modules
        names = [n.op for n in inside if n.op not in _LAYOUT] or [n.op for n in inside]
        return ", ".join(_few(names))
    behind = [n.op for n in members if n.scope.module != key[1] and n.op not in _LAYOUT]
    names = _few([op for op in behind if op != "leaf"])
    return ", ".join([_module(str(key[1]), members, inside), *names])


def _few(names: list[str]) -> list[str]:
    """At most two different names, and that there are more."""
    some = list(dict.fromkeys(names))
    return [*some[:2], "…"] if len(some) > 2 else some


def _module(path: str, members: list[Node], inside: list[Node]) -> str:
    """A module's class and sizes if its parameters and operations show them, or else its path."""
    shapes = _shapes(members, path)
    ops = {n.op for n in inside}
    weight = shapes.get("weight", ())
    if len(weight) == 2 and "matmul" in ops and ops <= {"permute_dims", "matmul", "add"}:
        return f"Linear {weight[1]} → {weight[0]}"
    if len(weight) == 2 and ops == {"index"}:
        return f"Embedding {weight[0]} → {weight[1]}"
    if weight and {"mean", "sqrt", "divide"} <= ops:
        return f"LayerNorm {weight[-1]}"
    return path


def _shapes(members: list[Node], path: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of a module, by their names in it."""
    return {
        n.name.removeprefix(path + "."): tuple(n.value.shape)
        for n in members
        if isinstance(n, Leaf) and n.name and (n.name.startswith(path + ".") or "." not in n.name)
    }


def _recurrence(members: list[Node], stack: Stack) -> str:
    """A recurrence's layer and sizes.

    For your own loop: the modules that a step calls, or the operation that makes its state; and the
    state's size.
    """
    for node in members:
        if is_scan(node):
            scan: Scan = node.primitive  # type: ignore[assignment]
            x = (node.inputs or ())[0]
            name = scan.name.removesuffix("_scan")
            name = name.upper() if name in _ABBREVIATIONS else name.capitalize()
            return f"{name} {x.value.shape[-1]} → {node.value.shape[-1]}"  # type: ignore[union-attr]
    first = next(iter(stack.values()))
    state = next(first.states())
    size = state.value.shape[-1] if state.value.ndim else 1
    weights = [
        n.value.shape for n in members if isinstance(n, Leaf) and ".weight_ih" in "." + n.name
    ]
    steps = len(first.steps)
    ops = Counter(n.op for n in members)
    each = ops["sigmoid"] / steps, ops["tanh"] / steps
    layer = _STEPS.get((tuple(stack), weights[0][0] // size if weights else 0, *each))
    if layer:
        return f"{layer} {weights[0][1]} → {size}"
    parts = {n.scope.module.split(".")[0] for n in members} - {"", first.module}
    name = parts.pop() if len(parts) == 1 else f"{state.op} loop"
    return f"{name}, {size} unit{'s' if size > 1 else ''}"
