"""``tg.optim``: optimizers, schedules of the learning rate, and gradient clipping.

Read :mod:`.algorithms` first (the formulas), then :mod:`.optimizer` (the base class).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._suggestions import calls as _calls
from .._suggestions import torch_names as _torch_names
from . import lr_scheduler
from .algorithms import SGD, Adam, AdamW
from .clipping import clip_grad_norm_, clip_grad_value_
from .optimizer import Optimizer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]

if not TYPE_CHECKING:
    __getattr__ = _calls.names_of(__name__, "tg.optim", _torch_names.OPTIM)
