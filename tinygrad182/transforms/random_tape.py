"""Random numbers of a function that is run again: the second run draws what the first one drew."""

from __future__ import annotations

import copy
from contextvars import ContextVar, Token

import numpy as np


class Tape:
    """A context for every run of one function; the first run keeps where its generators stood."""

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
        """The generator itself in the first run; later a copy that begins where it stood then."""
        key = id(generator)
        if self._copies is None:
            outer = self._entered[-1][0]
            drawn = generator if outer is None else outer.of(generator)
            if key not in self._starts:  # the generator is kept too, so that its id stays its own
                self._starts[key] = generator, copy.deepcopy(drawn)
            return drawn
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(self._starts.get(key, (None, generator))[1])
        return self._copies[key]


_TAPE: ContextVar[Tape | None] = ContextVar("tinygrad182.draws", default=None)


def drawing_from(generator: np.random.Generator) -> np.random.Generator:
    """What to draw from: the generator, or where a function is run again, its state of the first run."""
    tape = _TAPE.get()
    return generator if tape is None else tape.of(generator)
