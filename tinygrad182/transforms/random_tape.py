"""Random numbers for ``remat``: when a function runs again, it draws the numbers of its first run."""

from __future__ import annotations

import copy
from contextvars import ContextVar, Token

import numpy as np


class Tape:
    """A context for all runs of one function; the first run stores the states of its generators."""

    def __init__(self) -> None:
        self._starts: dict[int, tuple[np.random.Generator, np.random.Generator]] = {}
        self._copies: dict[int, np.random.Generator] | None = None
        self._entered: list[tuple[Tape | None, Token[Tape | None]]] = []

    def __enter__(self) -> None:
        self._entered.append((_TAPE.get(), _TAPE.set(self)))

    def __exit__(self, *_: object) -> None:
        _TAPE.reset(self._entered.pop()[1])
        self._copies = {}

    def of(self, generator: np.random.Generator) -> np.random.Generator:
        """The generator in the first run; in later runs a copy with the state that it had then."""
        key = id(generator)
        if self._copies is None:
            outer = self._entered[-1][0]
            drawn = generator if outer is None else outer.of(generator)
            if key not in self._starts:  # with the generator, so that its id is not reused
                self._starts[key] = generator, copy.deepcopy(drawn)
            return drawn
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(self._starts.get(key, (None, generator))[1])
        return self._copies[key]


_TAPE: ContextVar[Tape | None] = ContextVar("tinygrad182.draws", default=None)


def drawing_from(generator: np.random.Generator) -> np.random.Generator:
    """The generator to draw from: the given one or, if a function runs again, a copy from its first run."""
    tape = _TAPE.get()
    return generator if tape is None else tape.of(generator)
