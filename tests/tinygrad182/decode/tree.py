"""The tree of two words on which beam search misses the most likely sequence of three."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support import array, in_numpy

NEURAL, NETWORK = 0, 1
AFTER: dict[tuple[int, ...], tuple[float, float]] = {
    (): (-0.65, -0.73),
    (NEURAL,): (-0.8, -0.6),
    (NETWORK,): (-0.6, -0.8),
    (NEURAL, NETWORK): (-0.8, -0.6),
    (NETWORK, NEURAL): (-0.8, -0.6),
    (NEURAL, NEURAL): (-0.01, -4.6),
    (NETWORK, NETWORK): (-0.7, -0.7),
}
START = 2  # no word of the tree


@in_numpy
def step(tokens: Any, words: Any) -> tuple[Any, Any]:
    """The state is the words so far, −1 where there is none yet."""
    words = words.copy()
    for row, token in zip(words, tokens, strict=True):
        if token != START:
            row[np.flatnonzero(row < 0)[0]] = token
    after = [AFTER[tuple(w for w in row if w >= 0)] for row in words.tolist()]
    return np.array(after), words


def state(rows: int = 1) -> Any:
    return array(np.full((rows, 3), -1))
