"""The HTML of a module in a notebook: a tree that unfolds, with its parameters and their norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import backend
from ..display.reprs import fold, shown, table, text, times

if TYPE_CHECKING:
    from .module import Branch, Parameter


class _Norms(NamedTuple):
    value: float
    gradient: float | None  # None without a gradient


def module_html(branches: Iterable[Branch]) -> str:
    """Draw the tree of a module, with inner modules folded; every branch comes after its parent.

    The norms of all parameters and gradients are read from the device together.
    """
    tree = list(branches)
    norms = _norms({id(p): p for branch in tree for _, p in branch.parameters})
    inside: dict[str, list[str]] = {branch.path: [] for branch in tree}
    for branch in reversed(tree):  # children before their parents
        children = inside[branch.path][::-1]
        rows = _parameters(branch.parameters, norms)
        drawn = fold(_line(branch), rows, *children, opened=not branch.path)
        inside[branch.parent].append(drawn)
    return shown(drawn)


def _norms(parameters: dict[int, Parameter]) -> dict[int, _Norms]:
    """The norms of each parameter and of its gradient."""
    grads = {key: p.grad for key, p in parameters.items() if p.grad is not None}
    arrays: list[Any] = [p._data for p in parameters.values()]
    found = backend.norms(arrays + [grad._data for grad in grads.values()])
    of_grads = dict(zip(grads, found[len(arrays) :], strict=True))
    return {k: _Norms(norm, of_grads.get(k)) for k, norm in zip(parameters, found, strict=False)}


def _line(branch: Branch) -> str:
    module = branch.module
    size = sum(p.size for p in module.parameters())
    name = f"{text(branch.label)}: " if branch.label else ""
    kind = text(f"{type(module).__name__}({module.extra_repr()})")
    return f"{name}<b>{kind}</b> · {size:,} parameters"


def _parameters(own: list[tuple[str, Parameter]], norms: dict[int, _Norms]) -> str:
    """A table of the parameters directly in a module."""
    if not own:
        return ""
    header: tuple[str, ...] = ("parameter", "shape", "dtype", "numbers", "‖value‖", "‖gradient‖")
    rows: list[tuple[Any, ...]] = [
        (name, times(p.shape), p.dtype, int(p.size), *norms[id(p)]) for name, p in own
    ]
    if all(row[-1] is None for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table(header, rows)
