"""Sequences of different lengths in one padded batch, for :mod:`.recurrent`: where each one ends.

:func:`read_lengths` checks the argument ``lengths``; :class:`PaddedBatch` answers the questions of a layer.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..engine.host import on_host, whole
from ..errors import ArgumentError, DTypeError, ShapeError
from ..tensors.creation import as_tensor_on
from ..tensors.functions import stack, where
from ..tensors.indexing import index_checked
from ..tensors.tensor import Tensor

Index = tuple[Tensor, Tensor]
"""Indices along the axis of time and along the axis of sequences."""


class PaddedBatch:
    """The number of steps of each sequence in ``x``, ``(T, B, I)``, which runs in windows of steps.

    Arrays that layers need on a device are copied there once, for all layers and directions.
    """

    def __init__(self, lengths: np.ndarray[Any, Any], x: Tensor, window: int) -> None:
        self._lengths, self._x, self._window = lengths, x, window
        self._times = np.arange(x.shape[0])
        self._left = np.maximum(lengths - self._times[::window, None], 0)
        self.any_empty = not lengths.all()

    def without_padding(self, x: Tensor) -> Tensor:
        """Return the sequences with 0 in the padding, which may hold NaN."""
        return where(as_tensor_on(self._times[:, None, None] < self._lengths[:, None], x), x, 0.0)

    def left(self, start: int) -> tuple[Tensor, int]:
        """Return the steps that each sequence has left at the start of a window, and the fewest."""
        i = start // self._window
        return self._left_on_device[i], int(self._left[i].min())

    def last(self, every: tuple[Tensor, ...], initial: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the states after the last step of each sequence, ``(1, B, H)``.

        The last state of a sequence without steps is its initial state.
        """
        last = [stack([index_checked(part, self._at_ends)]) for part in every]
        if self.any_empty:
            last = [where(self._has_steps, part, h) for part, h in zip(last, initial, strict=True)]
        return tuple(last)

    def reversed(self, x: Tensor) -> Tensor:
        """Reverse each sequence within its own length; padding stays where it is."""
        return index_checked(x, self._reversing)

    @cached_property
    def _left_on_device(self) -> Tensor:
        return as_tensor_on(self._left, self._x)

    @cached_property
    def _has_steps(self) -> Tensor:
        return as_tensor_on(self._lengths[:, None] > 0, self._x)

    @cached_property
    def _sequences(self) -> Tensor:
        return as_tensor_on(np.arange(len(self._lengths)), self._x)

    @cached_property
    def _at_ends(self) -> Index:
        return as_tensor_on(np.maximum(self._lengths - 1, 0), self._x), self._sequences

    @cached_property
    def _reversing(self) -> Index:
        times = (self._lengths - 1 - self._times[:, None]) % len(self._times)  # keeps the padding
        return as_tensor_on(times, self._x), self._sequences


def read_lengths(layer: object, lengths: Any, x: Tensor, batched: bool) -> np.ndarray[Any, Any]:
    """Return the lengths of the sequences in ``x`` as int64 on the host, each from 0 to T."""
    name, (steps, batch) = type(layer).__name__, x.shape[:2]
    if not batched:
        raise ArgumentError(
            f"{name}: lengths are for a batch; cut a single sequence short: x[:length]"
        )
    try:
        found = on_host(lengths)
    except (TypeError, ValueError) as error:  # ragged
        raise DTypeError(
            f"{name}: lengths cannot be read: {error}; pass one whole number for each sequence"
        ) from error
    if found.shape != (batch,):
        raise ShapeError(
            f"{name}: lengths of shape {found.shape}; one is needed for each of {batch} sequences"
        )
    if found.dtype.kind not in "iu":
        raise DTypeError(
            f"{name}: lengths of dtype {found.dtype}; pass whole numbers, dtype='int64'"
        )
    found = whole(found)
    if found.min() < 0 or found.max() > steps:
        raise ArgumentError(
            f"{name}: lengths from {found.min()} to {found.max()}; they must be from 0 to T = {steps}"
        )
    return found
