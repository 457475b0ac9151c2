"""Models to decode with: tables with ties, holes and dead ends, and recurrent networks.

Each one can be asked twice: by ``step``, with a state that the search carries about in one of several
layouts, and by ``next_token``, which runs from the start again and carries nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad182 as tg
from tests.support import Array, array, const, host, moved

Prefix = tuple[int, ...]
EXAMPLES = 4  # a model has so many initial states


class Pair(NamedTuple):
    first: Any
    rest: dict[str, Any]


# Layouts of two arrays (N,): how a state is made of them, and read.
Layout = tuple[int, Callable[[Array, Array], Any], Callable[[Any], tuple[Any, Any]]]
LAYOUTS: dict[str, Layout] = {
    "tuple": (0, lambda a, b: (a, b), lambda s: s),
    "list of matrices": (
        0,
        lambda a, b: [a[:, None], b[:, None]],
        lambda s: (s[0][:, 0], s[1][:, 0]),
    ),
    "one array": (0, lambda a, b: np.stack([a, b], axis=1), lambda s: (s[:, 0], s[:, 1])),
    "dict": (
        0,
        lambda a, b: {"b": b, "deep": [None, 3, (a,)]},
        lambda s: (s["deep"][2][0], s["b"]),
    ),
    "namedtuple": (0, lambda a, b: Pair(a, {"b": b}), lambda s: (s.first, s.rest["b"])),
    "tensors": (0, lambda a, b: (const(a), const(b)), lambda s: s),
    "columns": (1, lambda a, b: (a[None], np.stack([b, b])), lambda s: (s[0][0], s[1][1])),
    "tensors in columns": (
        1,
        lambda a, b: Pair(const(a[None]), {"b": const(b[None])}),
        lambda s: (s.first[0], s.rest["b"][0]),
    ),
}

STATES = 61  # of the automaton below: a prime, so that prefixes end up in different ones


def _smooth(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    z = rng.normal(size=shape) * rng.choice([0.5, 3.0])
    return np.minimum(z - np.log(np.exp(z).sum(axis=1, keepdims=True)), 0.0)


def _ties(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.choice([0.0, -0.25, -0.5, -0.5, -1.0], size=shape)


def _holes(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return np.where(rng.random(shape) < 0.4, -np.inf, _ties(rng, shape))


def _dead_ends(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    values = np.where(rng.random(shape) < 0.3, -np.inf, _smooth(rng, shape))
    values[rng.random(shape[0]) < 0.4] = -np.inf
    return values


def _unnormalized(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return -rng.exponential(size=shape) * rng.choice([1e-6, 1.0, 50.0])


VALUES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "smooth": _smooth,
    "ties": _ties,
    "holes": _holes,
    "dead ends": _dead_ends,
    "unnormalized": _unnormalized,
}


class Table:
    """An automaton: the state is a number, and a table's row has the next token's log-probabilities.

    The number is kept in two parts, neither of which says anything without the other.
    """

    exact = True  # no rounding: results are compared bit for bit

    def __init__(self, values: str, layout: str, tokens: int, seed: int) -> None:
        self.M = tokens
        self.axis, self.pack, self.unpack = LAYOUTS[layout]
        self.table = VALUES[values](np.random.default_rng(seed), (STATES, tokens))

    def _after(self, number: Any, token: Any) -> Any:
        return (number * 7 + token * 3 + 5) % STATES

    def _state(self, numbers: Array) -> Any:
        return moved(self.pack(numbers // 8, numbers % 8))

    def number(self, state: Any) -> Array:
        a, b = (host(part) for part in self.unpack(state))
        return a * 8 + b

    def state(self, examples: Sequence[int]) -> Any:
        return self._state(11 * np.asarray(examples))

    def step(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        numbers = self._after(self.number(state), host(tokens))
        values = self.table[numbers]
        tensors = any(isinstance(part, tg.Tensor) for part in self.unpack(state))
        return const(values) if tensors else array(values), self._state(numbers)

    def _number_after(self, example: int, tokens: Prefix) -> int:
        return functools.reduce(self._after, tokens, 11 * example)

    def next_token(self, example: int, start: int, prefix: Prefix) -> list[float]:
        values: list[float] = self.table[self._number_after(example, (start, *prefix))].tolist()
        return values

    def parts_after(self, example: int, tokens: Prefix) -> list[Array]:
        """The state after these tokens, computed from the beginning."""
        return [np.array([self._number_after(example, tokens)])]

    def parts(self, state: Any) -> list[Array]:
        """A search's state in the same form."""
        return [self.number(state)]


class Network:
    """Embedding, recurrent layer, linear layer, log-softmax; float64."""

    exact = False
    axis = 1
    H = 4

    def __init__(self, kind: str, tokens: int, seed: int, dtype: str = "float64") -> None:
        self.M = tokens
        self.kind = kind
        rng = np.random.default_rng(seed)
        layer = tg.nn.RNN if kind == "RNN" else tg.nn.LSTM
        layers = 2 if kind == "LSTM of two layers" else 1
        self.embedding = tg.nn.Embedding(tokens, 3, dtype=dtype, rng=rng)
        self.layer = layer(3, self.H, layers, dtype=dtype, rng=rng)
        for p in self.layer.parameters():
            p.assign(p.detach() * 3)  # states that differ clearly
        self.output = const(rng.normal(size=(self.H, tokens)).astype(dtype) * 3)
        shape = (1 if kind == "RNN" else 2, layers, EXAMPLES, self.H)
        self.initial = rng.normal(size=shape).astype(dtype)
        self.seen: dict[tuple[int, Prefix], list[float]] = {}

    def _tree(self, parts: Sequence[Any]) -> Any:
        """The layer's state: h, or (h, c)."""
        return parts[0] if self.kind == "RNN" else tuple(parts)

    def state(self, examples: Sequence[int]) -> Any:
        return self._tree([const(part[:, list(examples)]) for part in self.initial])

    def _run(self, tokens: Any, state: Any) -> tuple[tg.Tensor, Any]:
        output, state = self.layer(self.embedding(tokens), state)
        return tg.log_softmax(output[-1] @ self.output, axis=-1), state

    def step(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        return self._run(tokens[None], state)

    def next_token(self, example: int, start: int, prefix: Prefix) -> list[float]:
        key = example, (start, *prefix)
        if key not in self.seen:
            self._look_up(example, start, prefix)
        return self.seen[key]

    def _look_up(self, example: int, start: int, prefix: Prefix) -> None:
        """Run over whole sequences from the start: over all sequences of a length, if they are few."""
        prefixes = [prefix]
        if self.M ** len(prefix) <= 300:
            prefixes = list(itertools.product(range(self.M), repeat=len(prefix)))
        tokens = np.array([(start, *p) for p in prefixes]).T
        with tg.no_grad():
            values, _ = self._run(const(tokens), self.state([example] * len(prefixes)))
        for p, row in zip(prefixes, values.numpy().tolist(), strict=True):
            self.seen[example, (start, *p)] = row

    def parts_after(self, example: int, tokens: Prefix) -> list[Array]:
        with tg.no_grad():
            _, state = self._run(const(np.array(tokens)[:, None]), self.state([example]))
        return self.parts(state)

    def parts(self, state: Any) -> list[Array]:
        return [host(part) for part in ([state] if self.kind == "RNN" else state)]


NETWORKS = ("RNN", "LSTM", "LSTM of two layers")
Model = Table | Network


@functools.lru_cache(maxsize=64)
def network(kind: str, tokens: int, seed: int) -> Network:
    return Network(kind, tokens, seed)
