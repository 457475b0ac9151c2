"""The options that every experiment has, and checks on the ones that most have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.common.errors import OptionError


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


def at_least(name: str, value: int, least: int) -> None:
    """Raise OptionError unless ``value >= least``."""
    if value < least:
        raise OptionError(f"--{name} must be {least} or more, not {value}")


def positive(name: str, value: float) -> None:
    """Raise OptionError unless ``value`` is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"--{name} must be a finite number above 0, not {value}")


def one_or_more(name: str, values: Sequence[object]) -> None:
    """Raise OptionError for an option of several values that was given none."""
    if not values:
        raise OptionError(f"--{name} needs at least one value")
