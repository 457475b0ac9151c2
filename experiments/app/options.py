"""The options that every experiment has, and checks on the ones that most have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        at_least("seed", self.seed, 0)
        at_most("seed", self.seed, LARGEST_SEED)
        for name, value in vars(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if name != "seed" and isinstance(number, int):
                    at_most(name.replace("_", "-"), number, LARGEST)

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
        at_least("batch", self.batch, 1)
        at_least("repeats", self.repeats, 1)
        at_most("seed", self.seed, LARGEST_SEED + 1 - self.repeats)

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


def at_least(name: str, value: int, least: int) -> None:
    """Raise OptionError unless ``value >= least``."""
    if value < least:
        raise OptionError(f"--{name} must be {least} or more, not {value}")


def at_most(name: str, value: int, most: int) -> None:
    """Raise OptionError unless ``value <= most``."""
    if value > most:
        raise OptionError(f"--{name} must be {most} or less, not {value}")


def positive(name: str, *values: float) -> None:
    """Raise OptionError unless there are ``values``, and all are finite numbers above zero."""
    one_or_more(name, values)
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise OptionError(f"--{name} must be a finite number above 0, not {value}")


def finite(name: str, *values: float) -> None:
    """Raise OptionError unless there are ``values``, and all are finite numbers."""
    one_or_more(name, values)
    for value in values:
        if not math.isfinite(value):
            raise OptionError(f"--{name} must be a finite number, not {value}")


def one_or_more(name: str, values: Sequence[object]) -> None:
    """Raise OptionError for an option of several values that was given none."""
    if not values:
        raise OptionError(f"--{name} needs at least one value")
