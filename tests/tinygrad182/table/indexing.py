"""Indexing: a few fixed keys; ``test_indexing.py`` draws many more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tinygrad182 as tg

from .row import Row, Shape, row

KEYS: dict[str, tuple[Shape, Any]] = {
    "step": ((3, 2), 1),
    "negative": ((3, 2), -1),
    "element": ((3, 2), (2, 0)),
    "slice": ((4, 2), slice(1, 3)),
    "every-second": ((5, 2), slice(None, None, 2)),
    "backwards": ((4, 2), slice(None, None, -1)),
    "column": ((3, 2), (slice(None), 1)),
    "ellipsis": ((2, 3, 2), (..., 0)),
    "new-axis": ((3,), (None, slice(None), None)),
    "square": ((2, 3, 3), (1, slice(0, 2), slice(1, 3))),
    "size-1": ((2, 1, 3), (1, slice(None), slice(0, 2))),
    "everything": ((3, 2), ()),
    "nothing": ((3, 2), slice(0, 0)),
    "array": ((3, 2), [0, 2, 0]),
    "array-2d": ((3, 2), [[0, 2], [1, 1]]),
    "arrays": ((3, 2), ([0, 2, 0], [1, 1, 1])),
    "arrays-behind-slice": ((2, 3, 2), (slice(None), [0, 2], [1, 1])),
    "arrays-apart": ((2, 3, 2), ([0, 1, 0], slice(None), [1, 1, 0])),
    "array-and-new-axis": ((2, 3), (None, [1, 0], slice(1, None))),
    "arrays-broadcast": ((2, 3), ([[0], [1]], [0, 2])),
    "mask": ((3,), [True, False, True]),
    "mask-2d": ((2, 3), [[True, False, True], [False, True, False]]),
    "mask-behind": ((2, 3), (slice(None), [True, False, True])),
    "mask-none": ((3,), [False, False, False]),
    "no-indices": ((3, 2), []),
    "empty": ((0, 2), slice(None)),
    "empty-behind": ((2, 0), 1),
    "0d": ((), ()),
    "0d-new-axis": ((), None),
}


def _index(key: Any) -> Callable[..., tg.Tensor]:
    return lambda x: tg.index(x, key)


def _torch_index(key: Any) -> Callable[..., Any]:
    def reference(t: Any, x: Any) -> Any:
        if key == slice(None, None, -1):  # PyTorch has no negative steps
            return x.flip(0)
        parts = key if isinstance(key, tuple) else (key,)
        tensors = [
            t.tensor(k, dtype=None if k else t.int64) if isinstance(k, list) else k for k in parts
        ]
        return x[tuple(tensors)]

    return reference


ROWS: list[Row] = [
    *(
        row("index", case, _index(key), _torch_index(key), shape)
        for case, (shape, key) in KEYS.items()
    ),
    row("index", "operator", lambda x: x[1:, 0], lambda t, x: x[1:, 0], (3, 2)),
    row(  # NumPy takes the number for an index array: the axis of the arrays comes first
        "index",
        "array-and-number",
        lambda x: x[0, :, [1, 0, 1]],
        lambda t, x: x[0][:, [1, 0, 1]].mT,
        (2, 3, 2),
    ),
    row("take", "1d", lambda x: tg.take(x, [2, 0, 2]), lambda t, x: x[[2, 0, 2]], (3,)),
    row("take", "axis", lambda x: tg.take(x, [1, 0], axis=1), lambda t, x: x[:, [1, 0]], (2, 3, 2)),
    row(
        "take",
        "negative-axis",
        lambda x: tg.take(x, [1], axis=-1),
        lambda t, x: x[..., [1]],
        (2, 3),
    ),
]
