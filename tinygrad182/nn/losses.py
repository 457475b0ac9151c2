"""Losses: one number from predictions and targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._suggestions.calls import explains_calls
from ..arrays.backend import is_half
from ..errors import ShapeError
from ..tensors.creation import as_tensor, as_tensor_on
from ..tensors.functions import floating, log_softmax, mean, reshape, square
from ..tensors.indexing import index_checked, place_indices, read_indices
from ..tensors.tensor import Tensor


@explains_calls
def mse_loss(pred: Tensor, target: Any) -> Tensor:
    """Mean of the squared differences; half precision is squared and summed in ``float32``.

    Parameters
    ----------
    pred, target : Tensor
        Their shapes must be equal; they are not broadcast, because that would hide a mistake. A target on
        the host goes to the device of ``pred``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.mse_loss(tg.tensor([1.0, 3.0]), tg.tensor([0.0, 0.0])).item()
    5.0
    """
    pred = floating(pred, "float64")
    target = as_tensor_on(target, pred)
    if pred.shape != target.shape:
        raise ShapeError(
            f"mse_loss: predictions {pred.shape} and targets {target.shape} must have equal shapes; "
            "reshape one of them"
        )
    if is_half(pred.dtype) or is_half(target.dtype):
        loss = mse_loss(_wide(pred), _wide(target))
        return _narrowed(loss, pred) if pred.dtype == target.dtype else loss
    return mean(square(pred - target))


@explains_calls
def cross_entropy(logits: Tensor, targets: Any) -> Tensor:
    """Mean negative log-probability of the target classes; half precision is computed in ``float32``.

    Parameters
    ----------
    logits : Tensor ``(..., M)``
        Unnormalized log-probabilities, classes on the last axis.
    targets : Tensor, array or nested list ``(...)``
        Integer class indices in [0, M). Targets on the host go to the device of ``logits``.

    Raises
    ------
    ShapeError, DTypeError, IndexOutOfRangeError
        Targets have another shape, are not integers, or are not in [0, M).

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> logits = tg.tensor([[0.0, 0.0]])
    >>> round(tg.nn.cross_entropy(logits, tg.tensor([1], dtype="int64")).item(), 4)  # ln 2
    0.6931
    """
    logits = as_tensor(logits)
    targets = read_indices(targets, "cross_entropy", "targets")
    if not logits.ndim or logits.shape[:-1] != tuple(targets.shape):
        raise ShapeError(
            f"cross_entropy: targets {tuple(targets.shape)} must have the shape of logits "
            f"{logits.shape} without its last axis"
        )
    classes = logits.shape[-1]  # an index of -1 would count from the end
    targets = place_indices(targets, logits, classes, "cross_entropy", "targets")
    rows = reshape(log_softmax(_wide(logits)), (targets.size, classes))
    every = as_tensor_on(np.arange(targets.size), logits)
    chosen = index_checked(rows, (every, reshape(targets, (targets.size,))))
    return _narrowed(-mean(chosen), logits)


def _wide(x: Tensor) -> Tensor:
    """Return half precision as ``float32``, so that squares and sums do not overflow."""
    return x.astype("float32") if is_half(x.dtype) else x


def _narrowed(loss: Tensor, like: Tensor) -> Tensor:
    """Return the loss in half precision if ``like`` is in half precision."""
    return loss.astype(like.dtype) if is_half(like.dtype) else loss
