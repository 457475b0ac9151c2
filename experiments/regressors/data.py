"""The running average task: sequences of numbers, each step's label the mean so far.

Sequences are drawn at random or read from the user's own file. Arrays here are NumPy's, time first
as the layers take them: ``(T, B, I)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from experiments.app.errors import DataError
from experiments.regressors.files import read_sequences

Array = NDArray[Any]


class Source(Protocol):
    """A source of batches."""

    @property
    def length(self) -> int:
        """Time steps T."""

    @property
    def features(self) -> int:
        """Numbers per time step I."""

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Inputs and labels, both ``(T, B, I)``."""


def running_mean(x: Array) -> Array:
    """Mean of all values up to and including each step, along the first axis.

    >>> running_mean(np.array([1.0, 3.0, 8.0]))
    array([1., 2., 4.])
    """
    counts = np.arange(1, len(x) + 1, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    means: Array = np.cumsum(x, axis=0, dtype=x.dtype) / counts
    return means


def running_average(
    rng: np.random.Generator, batch: int, length: int, dtype: DTypeLike = np.float64
) -> tuple[Array, Array]:
    """Draw a batch of the running average task from the standard normal distribution.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the numbers come from.
    batch, length : int
        Sequences B and time steps T.
    dtype : dtype
        Of both arrays; the same numbers are drawn for every dtype.

    Returns
    -------
    inputs, labels : arrays (T, B, 1)
    """
    inputs = rng.standard_normal((length, batch, 1)).astype(dtype)
    return inputs, running_mean(inputs)


@dataclass(frozen=True)
class RandomSequences:
    """New random sequences in every batch."""

    batch: int
    length: int
    dtype: DTypeLike = np.float64
    features: int = 1

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw inputs and labels, both ``(T, B, 1)``."""
        return running_average(rng, self.batch, self.length, self.dtype)


@dataclass(frozen=True)
class OwnSequences:
    """Batches of the user's own sequences ``(N, T, I)``, all of them where there are few."""

    sequences: Array
    batch: int

    @property
    def length(self) -> int:
        """Time steps T."""
        return int(self.sequences.shape[1])

    @property
    def features(self) -> int:
        """Numbers per time step I."""
        return int(self.sequences.shape[2])

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw inputs and labels, both ``(T, B, I)``: the mean so far of each feature."""
        count = len(self.sequences)
        chosen = rng.choice(count, size=min(self.batch, count), replace=False)
        inputs = np.ascontiguousarray(self.sequences[np.sort(chosen)].swapaxes(0, 1))
        return inputs, running_mean(inputs)


def load_sequences(
    path: Path,
    *,
    batch: int,
    length: int | None = None,
    standardize: bool = True,
    dtype: DTypeLike = np.float64,
) -> OwnSequences:
    """Read the user's own sequences from a .csv or .npy file.

    Parameters
    ----------
    path : Path
        A .csv file with a sequence in each row, or a .npy file ``(N, T)`` or ``(N, T, I)``.
    batch : int
        Sequences in a batch, at most.
    length : int, optional
        Use the first ``length`` time steps only.
    standardize : bool
        Shift and scale each feature to mean 0 and standard deviation 1 over the whole file, so
        that the data's unit does not decide whether the network saturates. A constant feature
        is only shifted.
    dtype : dtype
        Of the batches.

    Raises
    ------
    DataError
        For a file that cannot be used; it names the file, the place and the remedy.
    """
    sequences = read_sequences(path)
    if length is not None:
        if length > sequences.shape[1]:
            raise DataError(
                f"{path}: its sequences have {sequences.shape[1]} time steps, fewer than "
                f"--length {length}; leave --length out to use them all"
            )
        sequences = sequences[:, :length]
    if standardize:
        sequences = sequences - sequences.mean(axis=(0, 1))
        spread = sequences.std(axis=(0, 1))
        sequences = sequences / np.where(spread > 0, spread, 1.0)
    converted = sequences.astype(dtype)
    if not np.isfinite(converted).all():
        raise DataError(f"{path}: its numbers are too large to compute with; rescale them")
    return OwnSequences(converted, batch)


def batch_of(seed: int, batch: int, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and labels ``(T, B, 1)`` that all networks of a seed are measured on."""
    return running_average(np.random.default_rng((seed, 1)), batch, length)
