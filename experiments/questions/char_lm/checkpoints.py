"""Check what a checkpoint of char-lm says about itself, before a model is made from it."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import tinygrad182 as tg
from experiments.app.errors import DataError
from experiments.drawing.words import printable

STATES = 2
"""h and c."""

LOSSES = 2
"""Losses whose gradient flow is stored: of every character, and of the last one alone."""


def check(checkpoint: tg.Checkpoint, path: Path) -> None:
    """Raise unless training can go on from a checkpoint: its facts have the types and sizes of its arrays.

    Raises
    ------
    DataError
        A checkpoint of something else.
    CheckpointError
        Facts that cannot be.
    """
    name = printable(path)
    if not {"config", "state", "history"} <= checkpoint.meta.keys():
        raise DataError(f"{name}: not a checkpoint of char-lm; name one that --checkpoint saved")
    if fact := _damaged(checkpoint):
        raise tg.CheckpointError(
            f"{name}: the checkpoint is damaged, its {fact} does not fit the rest; name another one "
            "with --resume, or train anew without it"
        )


def _damaged(checkpoint: tg.Checkpoint) -> str:
    """Name of the first fact that is impossible; empty if there is none."""
    config, state, history = (checkpoint.meta[name] for name in ("config", "state", "history"))
    vocabulary = _vocabulary(checkpoint)
    if vocabulary is None:
        return "config"
    expected = {**sizes(checkpoint.model), "vocabulary": vocabulary, "cell": "lstm"}
    config = {"cell": "lstm", **config}  # older ones do not name the cell
    if config != expected or bool in map(type, config.values()):
        return "config"
    if not _is_history(history):
        return "history"
    return "" if state is None or _is_state(state, config) else "state"


def sizes(arrays: dict[str, tg.Tensor]) -> dict[str, int]:
    """The sizes of the model that has these arrays; 0 where one is missing."""

    def size(name: str, axis: int) -> int:
        return arrays[name].shape[axis] if name in arrays and arrays[name].ndim == 2 else 0

    return {
        "hidden_size": size("lstm.weight_hh_l0", 1),
        "embedding_dim": size("embedding.weight", 1),
        "num_layers": sum(name.startswith("lstm.weight_hh_l") for name in arrays),
    }


def _vocabulary(checkpoint: tg.Checkpoint) -> str | None:
    """The vocabulary, if it has as many characters as there are vectors."""
    config = checkpoint.meta["config"]
    text = config.get("vocabulary") if isinstance(config, dict) else None
    vectors = checkpoint.model.get("embedding.weight")
    if not isinstance(text, str) or vectors is None or vectors.shape[:1] != (len(text),):
        return None
    return text if len(set(text)) == len(text) > 0 else None


def _is_history(found: Any) -> bool:
    """Whether these are the numbers of a History, measured at moments from the first step on."""
    lists = ("losses", "moments", "held_out", "flow")
    if not (isinstance(found, dict) and sorted(found) == sorted(lists)):
        return False
    if not all(isinstance(part, list) for part in found.values()):
        return False
    losses, moments, held_out, flow = (found[name] for name in lists)
    steps = _length(flow, 3)
    return (
        all(map(_is_number, [*losses, *held_out]))
        and all(type(moment) is int for moment in moments)
        and moments[:1] == [0]
        and all(a < b for a, b in pairwise([*moments, len(losses) + 1]))
        and len(held_out) == len(moments) == len(flow)
        and steps > 1
        and all(_has_shape(each, (LOSSES, STATES, steps), gaps=True) for each in flow)
    )


def _is_state(found: Any, config: dict[str, int]) -> bool:
    """Whether these are h and c of every layer, sequence and unit."""
    sequences = _length(found, 2)
    shape = (STATES, config["num_layers"], sequences, config["hidden_size"])
    return sequences > 0 and _has_shape(found, shape)


def _length(found: Any, axis: int) -> int:
    """Elements on an axis of nested lists, by their first entries; 0 where there is none."""
    for _ in range(axis):
        found = found[0] if isinstance(found, list) and found else None
    return len(found) if isinstance(found, list) else 0


def _has_shape(found: Any, shape: tuple[int, ...], gaps: bool = False) -> bool:
    """Whether nested lists of finite numbers have a shape; with ``gaps``, None may stand for one."""
    if not shape:
        return _is_number(found) or (gaps and found is None)
    return (
        isinstance(found, list)
        and len(found) == shape[0]
        and all(_has_shape(part, shape[1:], gaps) for part in found)
    )


def _is_number(found: Any) -> bool:
    return type(found) is float and math.isfinite(found)
