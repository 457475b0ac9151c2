"""A decoder of two words and three steps, every probability written down."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg

WORDS = ("neural", "network")
NEURAL, NETWORK = range(2)
START = 2
LENGTH = 3

TREE: dict[tuple[int, ...], tuple[float, float]] = {
    (): (-0.65, -0.73),
    (NEURAL,): (-0.8, -0.6),
    (NETWORK,): (-0.6, -0.8),
    (NEURAL, NETWORK): (-0.8, -0.6),
    (NETWORK, NEURAL): (-0.8, -0.6),
    (NEURAL, NEURAL): (-0.01, -4.6),
    (NETWORK, NETWORK): (-0.7, -0.7),
}
"""Log-probabilities of neural and network after each prefix. Those after "network network" matter to no
answer."""


def step(tokens: Any, state: Any) -> tuple[Any, Any]:
    """One step of the decoder: its state is the prefix itself, (N, words so far)."""
    xp = tg.backend.namespace(tokens)
    prefixes = xp.concat([state, tokens[:, None]], axis=1)
    rows = [tuple(word for word in prefix if word != START) for prefix in prefixes.tolist()]
    return xp.asarray(np.array([TREE[row] for row in rows])), prefixes


def initial(device: str) -> Any:
    """The state before the start token: no words."""
    return tg.zeros((1, 0), dtype="int64", device=device).data


def in_words(tokens: tuple[int, ...]) -> str:
    """A sequence as text.

    >>> in_words((0, 1))
    'neural network'
    """
    return " ".join(WORDS[token] for token in tokens)
