"""Checks for primitives and models of your own: numerical derivatives, and hypothesis strategies.

``strategies`` needs hypothesis, which is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from .gradients.check_gradients import check_gradients
from .grading.compare_cells import compare_cells
from .grading.comparison import CellComparison
from .handwritten.check_backward import check_backward
from .results import GradientCheck

__all__ = [
    "CellComparison",
    "GradientCheck",
    "check_backward",
    "check_gradients",
    "compare_cells",
    "strategies",
]


def __getattr__(name: str) -> Any:
    if name != "strategies":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(".strategies", __name__)
