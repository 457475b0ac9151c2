"""Sequences of different lengths in one batch: where each ends, as a recurrent layer needs it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..engine.host import on_host, whole
from ..errors import ArgumentError, DTypeError, ShapeError
from ..tensors.creation import beside
from ..tensors.functions import stack, where
from ..tensors.indexing import index_checked
from ..tensors.tensor import Tensor

Index = tuple[Tensor, Tensor]
"""Indices along the axes of time and of sequences."""


class Lengths:
    """How many steps each sequence has, known on the host.

    What layers and directions need of it on a device is sent there once, for all of them.

    Parameters
    ----------
    ends : ndarray of int64 ``(B,)``
    x : Tensor ``(T, B, I)``
        The padded sequences.
    window : int
        The number of steps in a window.
    """

    def __init__(self, ends: np.ndarray[Any, Any], x: Tensor, window: int) -> None:
        self._ends, self._x, self._window = ends, x, window
        self._times = np.arange(x.shape[0])
        self._left = np.maximum(ends - self._times[::window, None], 0)
        self.any_empty = not ends.all()

    def without_padding(self, x: Tensor) -> Tensor:
        """Put 0 where no sequence is: what stands there may be NaN."""
        return where(beside(self._times[:, None, None] < self._ends[:, None], x), x, 0.0)

    def left(self, start: int) -> tuple[Tensor, int]:
        """How many steps of each sequence are left where a window starts, and the fewest of them."""
        i = start // self._window
        return self._left_there[i], int(self._left[i].min())

    def last(self, every: tuple[Tensor, ...], initial: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """States after the last step of each sequence, ``(1, B, H)``; without steps, the initial ones."""
        last = [stack([index_checked(part, self._at_ends)]) for part in every]
        if self.any_empty:
            last = [where(self._ran, part, h) for part, h in zip(last, initial, strict=True)]
        return tuple(last)

    def turned(self, x: Tensor) -> Tensor:
        """Turn each sequence round, within its own length; done twice, it changes nothing."""
        return index_checked(x, self._turning)

    @cached_property
    def _left_there(self) -> Tensor:
        return beside(self._left, self._x)

    @cached_property
    def _ran(self) -> Tensor:
        return beside(self._ends[:, None] > 0, self._x)

    @cached_property
    def _sequences(self) -> Tensor:
        return beside(np.arange(len(self._ends)), self._x)

    @cached_property
    def _at_ends(self) -> Index:
        return beside(np.maximum(self._ends - 1, 0), self._x), self._sequences

    @cached_property
    def _turning(self) -> Index:
        times = (self._ends - 1 - self._times[:, None]) % len(self._times)  # of padding, its own
        return beside(times, self._x), self._sequences


def checked_lengths(layer: object, lengths: Any, x: Tensor, batched: bool) -> np.ndarray[Any, Any]:
    """The lengths of the sequences in ``x``, of int64, on the host.

    Raises
    ------
    ArgumentError
        Lengths of a single sequence, or outside 0 … T.
    ShapeError, DTypeError
        Not one whole number for each sequence.
    """
    name, (steps, batch) = type(layer).__name__, x.shape[:2]
    if not batched:
        raise ArgumentError(
            f"{name}: lengths are for a batch; cut a single sequence short: x[:length]"
        )
    try:
        ends = on_host(lengths)
    except (TypeError, ValueError) as error:  # ragged
        raise DTypeError(f"{name}: lengths cannot be read: {error}") from error
    if ends.shape != (batch,):
        raise ShapeError(
            f"{name}: lengths of shape {ends.shape}; one is needed for each of {batch} sequences"
        )
    if ends.dtype.kind not in "iu":
        raise DTypeError(
            f"{name}: lengths of dtype {ends.dtype}; pass whole numbers, dtype='int64'"
        )
    ends = whole(ends)
    if ends.min() < 0 or ends.max() > steps:
        raise ArgumentError(
            f"{name}: lengths from {ends.min()} to {ends.max()}; they must be from 0 to T = {steps}"
        )
    return ends
