"""The options that several benchmarks have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


def sizes(text: str) -> tuple[int, ...]:
    """Sizes from a text.

    >>> sizes("100,64,32,128")
    (100, 64, 32, 128)
    """
    return tuple(map(int, text.split(",")))


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Base of every benchmark's options; tyro makes the command line from the fields."""

    out: Path | None = None
    """Folder for the JSON files."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(OutputOptions):
    """Options of a benchmark that may measure another checkout, such as the last release, too."""

    before: Path | None = None
    """Another checkout to measure beside this one."""


@dataclass(frozen=True, kw_only=True)
class TimingOptions(OutputOptions):
    """Options of a benchmark that takes times in rounds."""

    clock: Literal["wall", "cpu"] = "wall"
    """wall, or cpu: the time that a process works, for one thread on a machine that others use too."""

    repeats: int = 15
    """Rounds that count."""


@dataclass(frozen=True, kw_only=True)
class LayerOptions(TimingOptions):
    """Options of a benchmark of whole layers."""

    threads: int = 1
    """Threads that every library gets."""
