"""A module in a notebook: a tree that unfolds, with its parameters and their norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import backend
from .._reprs import fold, shown, table, text, times

if TYPE_CHECKING:
    from .module import Module, Parameter

Parts = tuple[str, str, "Module", "list[tuple[str, Parameter]]"]


def module_html(parts: Iterable[Parts]) -> str:
    """The tree of a module, whose inner modules are folded.

    Norms of all parameters, and of the gradients there are, are read from a device together.

    Parameters
    ----------
    parts : iterable of (path, parent, module, parameters)
        The module itself first, with the path ``""``; a module stands behind its parent.
    """
    tree = list(parts)
    norms = _norms({id(p): p for *_, own in tree for _, p in own})
    inside: dict[str, list[str]] = {path: [] for path, *_ in tree}
    for path, parent, module, own in reversed(tree):  # so that what is inside is there already
        line = _line(path[len(parent) :].lstrip("."), module)
        children = inside[path][::-1]
        drawn = fold(line, _parameters(own, norms), *children, opened=not path)
        inside[parent].append(drawn)
    return shown(drawn)


def _norms(parameters: dict[int, Parameter]) -> dict[int, tuple[float, float | None]]:
    """The norm of each parameter, and of its gradient if it has one."""
    grads = {key: p.grad for key, p in parameters.items() if p.grad is not None}
    arrays: list[Any] = [p._data for p in parameters.values()]
    found = backend.norms(arrays + [grad._data for grad in grads.values()])
    slopes = dict(zip(grads, found[len(arrays) :], strict=True))
    return {key: (norm, slopes.get(key)) for key, norm in zip(parameters, found, strict=False)}


def _line(label: str, module: Module) -> str:
    size = sum(p.size for p in module.parameters())
    of_what = f"{type(module).__name__}({module.extra_repr()})"
    name = f"{text(label)}: " if label else ""
    return f"{name}<b>{text(of_what)}</b> · {size:,} parameters"


def _parameters(
    own: list[tuple[str, Parameter]], norms: dict[int, tuple[float, float | None]]
) -> str:
    if not own:
        return ""
    header: tuple[str, ...] = ("parameter", "shape", "dtype", "numbers", "‖value‖", "‖gradient‖")
    rows: list[tuple[Any, ...]] = [
        (name, times(p.shape), p.dtype, int(p.size), *norms[id(p)]) for name, p in own
    ]
    if all(row[-1] is None for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table(header, rows)
