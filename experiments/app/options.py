"""The options that every experiment has, and checks of options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.app.errors import OptionError

LARGEST = 10**9
"""The largest number of anything: more fits neither into an array nor into the time there is."""

LARGEST_SEED = 2**53 - 1
"""The largest seed: up to here a page's charts can tell each whole number from the next."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every experiment's options; tyro makes the command line from the fields.

    A subclass checks its own fields in ``__post_init__``, so that options which exist are valid.
    """

    device: str = "cpu"
    """Where the arrays live: cpu, cuda, or one card of several, such as cuda:1."""

    out: Path | None = None
    """Folder for the results. By default runs/NAME/TIME, a new one for each run."""

    seed: int = 0
    """Seed of everything random: the same seed gives the same numbers."""

    def __post_init__(self) -> None:
        self.at_least(0, "seed")
        self.at_most(LARGEST_SEED, "seed")
        for name, value in vars(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if name != "seed" and isinstance(number, int):
                    self.at_most(LARGEST, name)

    def at_least(self, least: int, *names: str) -> None:
        """Raise OptionError unless all values of the options are ``least`` or more."""
        for flag, value in self._values(names):
            if value < least:
                raise OptionError(f"{flag} must be {least} or more, not {value}")

    def at_most(self, most: int, *names: str) -> None:
        """Raise OptionError unless all values of the options are ``most`` or less."""
        for flag, value in self._values(names):
            if value > most:
                raise OptionError(f"{flag} must be {most} or less, not {value}")

    def positive(self, *names: str) -> None:
        """Raise OptionError unless all values of the options are finite numbers above zero."""
        for flag, value in self._values(names):
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{flag} must be a finite number above 0, not {value}")

    def finite(self, *names: str) -> None:
        """Raise OptionError unless all values of the options are finite numbers."""
        for flag, value in self._values(names):
            if not math.isfinite(value):
                raise OptionError(f"{flag} must be a finite number, not {value}")

    def one_or_more(self, *names: str) -> None:
        """Raise OptionError for an option of several values that has none."""
        for _ in self._values(names):
            pass

    def _values(self, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Flag and value of every value of the options; None is left open and has no value."""
        for name in names:
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            if value == ():
                raise OptionError(f"{flag} needs at least one value")
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None:
                    yield flag, each

    @property
    def left(self) -> str:
        """A sentence that says what an interrupted run has left."""
        return "Nothing was written."


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """Options of an experiment that draws several networks of each kind, and a batch for each."""

    batch: int = 16
    """Sequences B in a batch."""

    repeats: int = 2
    """Networks drawn of each kind, with seed, seed + 1, …: claims are about all of them, figures
    show the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "batch", "repeats")
        self.at_most(LARGEST_SEED + 1 - self.repeats, "seed")

    @property
    def seeds(self) -> range:
        """The seeds of the networks that are drawn."""
        return range(self.seed, self.seed + self.repeats)

    @property
    def seeds_text(self) -> str:
        """The seeds that a sentence is about."""
        if self.repeats == 1:
            return f"seed {self.seed}"
        return f"seeds {self.seed} {'and' if self.repeats == 2 else 'to'} {self.seeds[-1]}"
