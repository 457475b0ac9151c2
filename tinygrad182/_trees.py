"""Trees: nested tuples, lists and dicts with Tensors anywhere, as functions take and return them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any


def flatten(tree: Any) -> list[Any]:
    """The leaves in order. A leaf is everything that is not a tuple, list or dict.

    >>> flatten((1, [2, {"a": 3}], None))
    [1, 2, 3, None]
    """
    return list(_leaves(tree))


def rebuild(tree: Any, leaves: Iterable[Any]) -> Any:
    """A tree of the same structure with other leaves; the containers are new.

    >>> rebuild((1, [2, {"a": 3}]), "xyz")
    ('x', ['y', {'a': 'z'}])
    """
    return _filled(tree, iter(leaves))


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        yield tree
        return
    for item in tree:
        yield from _leaves(item)


def _filled(tree: Any, leaves: Iterator[Any]) -> Any:
    if isinstance(tree, tuple):
        items = [_filled(item, leaves) for item in tree]
        return tree._make(items) if hasattr(tree, "_make") else tuple(items)
    if isinstance(tree, (list, dict)):
        twin = copy.copy(tree)  # keeps the class, such as OrderedDict
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            twin[key] = _filled(tree[key], leaves)
        return twin
    return next(leaves)
