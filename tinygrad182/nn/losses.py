"""Losses: a single number from predictions and targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._tensor import Tensor
from ..creation import arange, as_tensor
from ..errors import DTypeError, IndexOutOfRangeError, ShapeError
from ..functions import index, log_softmax, mean, reshape, square


def mse_loss(pred: Tensor, target: Any) -> Tensor:
    """Mean of the squared differences.

    Parameters
    ----------
    pred, target : Tensor
        Of equal shapes: broadcasting here would hide a mistake, so it is refused.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.mse_loss(tg.tensor([1.0, 3.0]), tg.tensor([0.0, 0.0])).item()
    5.0
    """
    pred, target = as_tensor(pred), as_tensor(target)
    if pred.shape != target.shape:
        raise ShapeError(
            f"mse_loss: predictions {pred.shape} and targets {target.shape} must have equal shapes"
        )
    return mean(square(pred - target))


def cross_entropy(logits: Tensor, targets: Any) -> Tensor:
    """Mean negative log-probability of the target classes.

    Parameters
    ----------
    logits : Tensor ``(..., M)``
        Unnormalized log-probabilities, classes on the last axis.
    targets : Tensor, array or nested list ``(...)``
        Integer class indices in [0, M).

    Raises
    ------
    ShapeError, DTypeError, IndexOutOfRangeError
        Targets of another shape, that are no integers, or that name no class.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> logits = tg.tensor([[0.0, 0.0]])
    >>> round(tg.nn.cross_entropy(logits, tg.tensor([1], dtype="int64")).item(), 4)  # ln 2
    0.6931
    """
    logits = as_tensor(logits)
    if isinstance(targets, (list, tuple, int)):
        targets = np.asarray(targets)  # as_tensor would make floats of them
    targets = as_tensor(targets)
    if not logits.ndim or logits.shape[:-1] != targets.shape:
        raise ShapeError(
            f"cross_entropy: targets {targets.shape} must have the shape of logits {logits.shape} "
            "without its last axis"
        )
    if "int" not in str(targets.dtype):
        raise DTypeError(
            f"cross_entropy: targets of dtype {targets.dtype}; "
            "class indices must be integers (dtype='int64')"
        )
    classes = logits.shape[-1]
    low, high = (targets.min().item(), targets.max().item()) if targets.size else (0, 0)
    if low < 0 or high >= classes:  # an index of -1 would count from the end
        raise IndexOutOfRangeError(
            f"cross_entropy: targets from {low} to {high}; class indices must lie in [0, {classes})"
        )
    rows = reshape(log_softmax(logits), (targets.size, classes))
    every = arange(targets.size, device=logits.device)
    return -mean(index(rows, (every, reshape(targets, (targets.size,)))))
