"""Read what a student's step or loop over time returns: the parts of the state, and the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ArgumentError, ShapeError, brief
from ...tensors.creation import tensor
from ...tensors.functions import stack
from ...tensors.tensor import Tensor
from .student_cell import Given

OUTPUT = "output"
"""The name of a sequence's outputs: the first part of the state after every step."""


def returned_by_step(result: Any, state: tuple[str, ...], given: Given) -> dict[str, Tensor]:
    """Return the parts of the next state; a step may return other things beside them."""
    items = list(result) if isinstance(result, (tuple, list)) else [result]
    if items and isinstance(items[0], Tensor) and items[0].ndim > given[state[0]].ndim:
        raise ShapeError(
            f"compare_cells: your step returns an array of shape {items[0].shape}, with one axis too "
            "many; if your function takes whole sequences (T, B, I), pass sequence=True"
        )
    for item in reversed(items[:2]):  # (output, (h, c)) and ((h, c), cache)
        if len(state) > 1 and isinstance(item, (tuple, list)) and len(item) == len(state):
            items = list(item)
    wanted = ", ".join(state)
    if len(items) < len(state):
        raise ArgumentError(
            f"compare_cells: your step returns {brief(result)}; return the next state, {wanted}"
        )
    parts = {}
    for name, item in zip(state, items, strict=False):
        try:
            part = item if isinstance(item, Tensor) else tensor(item)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"compare_cells: your step returns {brief(item)} as {name}; return Tensors, {wanted}"
            ) from error
        if part.shape != given[name].shape:
            raise ShapeError(
                f"compare_cells: your step returns {name} of shape {part.shape}; "
                f"(B, H) is {given[name].shape} here"
            )
        parts[name] = part
    return parts


def returned_by_loop(result: Any, state: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the outputs and the last state, in whatever order a loop over time returns them.

    The result may be ``(output, h)`` or ``(output, (h, c))``, as our layers return them; or for each part
    an array of its states after all steps; or the outputs alone if the state has no other part. ``shape``
    is the shape of the outputs, ``(T, B, H)``.
    """
    items = list(result) if isinstance(result, tuple) else [result]
    items = [_stacked(item, shape) for item in items]
    output, rest = items[0], items[1:]
    if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
        rest = list(rest[0])
    if isinstance(output, Tensor) and output.shape == shape:
        for parts in (rest, [output, *rest]):
            last = [_last(part, shape) for part in parts[: len(state)]]
            if len(last) == len(state) and all(part is not None for part in last):
                return {OUTPUT: output, **dict(zip(state, last, strict=True))}
    wanted = state[0] if len(state) == 1 else f"({', '.join(state)})"
    raise ArgumentError(
        f"compare_cells: your function returns {brief(result)} for a sequence; return (output, {wanted}), "
        f"with output of shape (T, B, H), which is {shape} here, and the last state"
    )


def _stacked(item: Any, shape: tuple[int, ...]) -> Any:
    """Stack a list of the states after all steps."""
    if isinstance(item, np.ndarray):
        return tensor(item)
    if not isinstance(item, list) or len(item) != shape[0]:
        return item
    are_states = all(isinstance(y, Tensor) and y.shape == shape[1:] for y in item)
    return stack(item) if are_states else item


def _last(part: Any, shape: tuple[int, ...]) -> Any:
    """The last state in an array: the array itself, or that of one layer, or of all steps."""
    if not isinstance(part, Tensor):
        return None
    if part.shape == shape[1:]:
        return part
    return part[-1] if part.shape in (shape, (1, *shape[1:])) else None
