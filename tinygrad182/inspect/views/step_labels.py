"""The labels of a step's operations, written as formulas: ``f∘c₋``, ``W_hh h₋``, ``tanh(c)``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar

from ...engine.recording import Leaf, Node
from ..loops.step_rows import VIEWS, is_weight, seen_in

_Key = TypeVar("_Key")

LONGEST = 16
"""The longest label; a longer formula is replaced by the name of its operation."""

_BETWEEN = {
    "add": " + ", "subtract": " − ", "multiply": "∘", "divide": " / ", "matmul": " ", "maximum": " ∨ ",
}  # fmt: skip
_FUNCTION = re.compile(r"\w+\((?:[^()]|\([^()]*\))*\)")
_SMALL = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_TIGHT = {"multiply", "matmul", "divide"}


def labels_of(
    nodes: Sequence[Node], given: Mapping[Node, str], names: Mapping[Node, str]
) -> dict[Node, str]:
    """Return the label of every operation of a step.

    Parameters
    ----------
    nodes : sequence of Node
        The operations and the operands from outside the step, oldest first.
    given : mapping of Node to str
        The operands from outside the step: ``"before"`` or ``"input"``.
    names : mapping of Node to str
        The names of gates and of states, those before included.
    """
    found: dict[Node, str] = {}
    inputs = [node for node in nodes if given.get(node) == "input"]
    counts: Counter[str] = Counter()
    for node in nodes:
        if node in names:
            found[node] = names[node] + ("₋" if given.get(node) == "before" else "")
        elif node in given:
            letter = "x" if len(inputs) == 1 else f"x{inputs.index(node) + 1}"
            found[node] = _made_before(node, letter)
        else:
            found[node] = _label(node, found)
            if found[node] == node.op:  # labels of later operations refer to it
                found[node] = _numbered(node.op, counts)
    own = {node for node in names if node not in given}
    return distinct_labels(found | _sums(nodes, found, names), own)


def distinct_labels(labels: dict[_Key, str], own: Container[_Key]) -> dict[_Key, str]:
    """Return labels that are all different: a second one gets a small 2.

    The states and gates of the step itself, ``own``, keep their names.
    """
    found, taken, counts = dict(labels), set[str](), Counter[str]()
    for key in sorted(labels, key=lambda key: key not in own):
        while found[key] in taken:
            found[key] = _numbered(labels[key], counts)
        taken.add(found[key])
    return found


def _numbered(label: str, counts: Counter[str]) -> str:
    """A label with a number if it is not the first of its kind: ``tanh₂(z)``, ``(W h + b)₃``."""
    counts[label] += 1
    if counts[label] == 1:
        return label
    number = str(counts[label]).translate(_SMALL)
    if _FUNCTION.fullmatch(label):
        return label.replace("(", f"{number}(", 1)
    return f"({label}){number}" if " " in label or "∘" in label else f"{label}{number}"


def _sums(
    nodes: Sequence[Node], found: Mapping[Node, str], names: Mapping[Node, str]
) -> dict[Node, str]:
    """Labels for several sums z, whose formulas are too long: z_f leads to gate f alone."""
    users: dict[Node, dict[str, None]] = {}
    for node in nodes:
        for x in node.inputs or ():
            if isinstance(x, Node):
                users.setdefault(_source(x), {})[names.get(node, "")] = None
    long = [n for n in nodes if found[n] == "z" and n not in names]
    if len(long) < 2:
        return {}
    return {n: "z" + "".join(f"_{name}" for name in users.get(n, ()) if name) for n in long}


def _made_before(node: Node, letter: str) -> str:
    """The label of an operand that the layer computed for all steps at once: ``W_ih x + b``."""
    source, front = _source(node), list[Node]()
    while source.primitive is not None and source.scope.module and len(front) < 3:
        if source.scope.module != node.scope.module:
            break
        front.append(source)
        (source, *_) = [_source(x) for x in source.inputs or () if isinstance(x, Node)]
    found = {source: letter}
    for each in reversed(front):
        found[each] = _label(each, found)
    return found[front[0]] if front else letter


def _source(node: Node) -> Node:
    """The node behind views."""
    while node.op in VIEWS:
        node = seen_in(node)
    return node


def _label(node: Node, found: Mapping[Node, str]) -> str:
    known = [part for x in node.inputs or () if (part := _operand(x, found))]
    if node.op in VIEWS and known:
        return known[0]
    between = _BETWEEN.get(node.op)
    if between and len(known) > 1:
        if node.op in _TIGHT:
            known = [f"({part})" if " + " in part or " − " in part else part for part in known]
        text = between.join(_weight_first(node, known))
    elif between:
        text = node.op  # an operand is not shown
    else:
        function = {"sigmoid": "σ"}.get(node.op, node.op)
        text = f"{function}({', '.join(known)})" if known else node.op
    if len(text) <= LONGEST:
        return text
    return "z" if node.op == "add" else node.op


def _weight_first(node: Node, known: list[str]) -> list[str]:
    """Products as in formulas: the weight before the vector."""
    second = (node.inputs or ())[-1]
    turned = node.op == "matmul" and isinstance(second, Node) and is_weight(second)
    return known[::-1] if turned else known


def _operand(node: Any, found: Mapping[Node, str]) -> str:
    if isinstance(node, (int, float)):
        return f"{node:g}"
    if not isinstance(node, Node):
        return ""
    while node not in found and node.op in VIEWS:
        node = seen_in(node)
    if node in found:
        return found[node]
    if isinstance(node, Leaf) and node.name:
        return _weight(node.name)
    if is_weight(node):
        return "W" if node.value.ndim > 1 else "b"
    return f"{node.value.item():g}" if node.primitive is None and not node.value.ndim else ""


def _weight(name: str) -> str:
    """A parameter's name as in formulas.

    >>> _weight("rnn.weight_hh_l0"), _weight("head.weight"), _weight("lstm.bias_ih_l1")
    ('W_hh', 'W', 'b')
    """
    last = name.rpartition(".")[2]
    kind, _, rest = last.partition("_")
    if kind == "weight":
        part = rest.partition("_")[0]
        return f"W_{part}" if part else "W"
    return "b" if kind == "bias" else last
